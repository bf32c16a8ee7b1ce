"""How long an answer as of a moment takes, of a fleet with a long history."""

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any, Final

from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.event import Event
from control_plane.events.hosts import HeartbeatReceived, HostWentOffline, HostWentOnline
from control_plane.events.log import EventLog
from control_plane.events.tasks import ExecutionAccepted, ExecutionFinished, ExecutionSent
from control_plane.projections.folding import folding
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.positions import Positions
from control_plane.projections.queries.host_filters import HostFilter
from control_plane.projections.queries.past import Past
from control_plane.projections.queries.scopes import EVERYTHING
from control_plane.projections.queries.tasks import TaskFilter
from control_plane.projections.tasks import TasksProjection
from control_plane.storage.engine import Database
from control_plane.storage.leases import Leases
from tests.support.clock import ManualClock
from tests.support.database import migrated
from tests.support.events import ACCEPTED, HEARTBEAT, RESULT, a_task_accepted
from tests.support.fleet import a_registration

LARGE: Final = "large"  # the task that runs on all hosts when half of the time has passed
TARGETS: Final = 20  # of every other task
TICK_S: Final = 10
BATCH: Final = 500


async def run(url: str, *, events: int = 200_000, hosts: int = 1_000, rounds: int = 20) -> None:
    """Write a history of about so many events, nine of ten of them heartbeats, and ask about moments all over it."""
    clock = ManualClock()
    async with migrated(url) as database, EventLog.open(database, clock=clock) as log:
        busiest = await _write(log, clock, events, [f"web{number:05}" for number in range(hosts)])
        heads = [(await log.head(name)).seq for name in (EVENT, HEARTBEAT_EVENT)]
        print(f"{database.dialect.name}: {heads[0]:,} events, {heads[1]:,} heartbeats, {hosts:,} hosts")
        await _fold(database, log, Positions(*heads))
        past = Past(database, log, clock)
        random = Random(0)
        moments = [random.randint(1, heads[0]) for _ in range(rounds)]
        await _ask("moment", moments, lambda at: past.moment(str(at)))
        for what, wanted, limit in (
            ("hosts, a page of 100", HostFilter(), 100),
            ("hosts, a page of 1,000", HostFilter(), 1000),
            ("hosts that were offline", HostFilter(state=("offline",)), 100),
        ):

            async def a_page(at: int, wanted: HostFilter = wanted, limit: int = limit) -> object:
                return await past.hosts(await past.moment(str(at)), EVERYTHING).page(wanted, cursor=None, limit=limit)

            await _ask(what, moments, a_page)

        async def one_host(at: int) -> object:
            return await past.hosts(await past.moment(str(at)), EVERYTHING).one("web00007")

        async def groups(at: int) -> object:
            return await past.hosts(await past.moment(str(at)), EVERYTHING).groups()

        async def some_tasks(at: int) -> object:
            return await past.tasks(await past.moment(str(at)), EVERYTHING).page(TaskFilter(), cursor=None, limit=100)

        async def running_tasks(at: int) -> object:
            wanted = TaskFilter(state=("running",))
            return await past.tasks(await past.moment(str(at)), EVERYTHING).page(wanted, cursor=None, limit=100)

        async def executions(at: int) -> object:
            return await past.tasks(await past.moment(str(at)), EVERYTHING).executions(
                LARGE, states=(), cursor=None, limit=100
            )

        async def outputs(at: int) -> object:
            return await past.tasks(await past.moment(str(at)), EVERYTHING).outputs(LARGE)

        await _ask("one host", moments, one_host)
        await _ask("groups", moments, groups)
        await _ask("tasks, a page of 100", moments, some_tasks)
        await _ask("tasks that were running", moments, running_tasks)
        during = [random.randint(*busiest) for _ in range(rounds)]
        await _ask("tasks, while one runs on all", during, some_tasks)
        await _ask("executions of the one on all", during, executions)
        await _ask("outputs of the one on all", during, outputs)


async def _ask(what: str, moments: list[int], ask: Callable[[int], Awaitable[object]]) -> None:
    took: list[float] = []
    for moment in moments:
        started = time.perf_counter()
        await ask(moment)
        took.append((time.perf_counter() - started) * 1000)
    print(f"{what:<34} {statistics.median(took):>9,.1f} ms   ({min(took):,.1f} to {max(took):,.1f}, n={len(took)})")


async def _fold(database: Database, log: EventLog, upto: Positions) -> None:
    leases = Leases(database, owner="bench")
    for projection in (HostsProjection(), TasksProjection()):
        lease = await leases.acquire(projection.lease)
        assert lease is not None
        async with (
            leases.renewing(lease),
            folding(projection, database, log, lease, sets_aside=False) as tenure,
        ):
            await tenure.fold_upto(upto, lambda _: None)


async def _write(log: EventLog, clock: ManualClock, events: int, names: list[str]) -> tuple[int, int]:
    """Append a history; the first and the last event of the task on all hosts."""
    for name in names:
        await _append(log, [a_registration(name, f"rack{int(name[3:]) % 100}")])
    ticks = max(4, events * 9 // 10 // len(names))
    tasks = max(1, (events // 10 - len(names) * 6) // (ticks * (3 * TARGETS + 1)))
    seen = [0, 0]
    for tick in range(ticks):
        clock.advance(TICK_S)
        await _append(log, _beats(names, tick, clock.now_s()))
        if tick == 0:
            await _append(log, (_came(HostWentOnline, name, number + 1) for number, name in enumerate(names)))
        elif tick % 100 == 50:
            gone = names[tick % 7 :: 50]
            await _append(log, (_came(HostWentOffline, name, tick) for name in gone))
            await _append(log, (_came(HostWentOnline, name, tick + 1) for name in gone))
        for number in range(tasks):
            first = (tick * tasks + number) * TARGETS % len(names)
            await _append(log, _life(f"task-{tick}-{number}", tuple(names[first : first + TARGETS])))
        if tick == ticks // 2:
            seen[0] = (await log.head(EVENT)).seq + 1
            await _append(log, _life(LARGE, tuple(names)))
            seen[1] = (await log.head(EVENT)).seq
    return seen[0], seen[1]


def _beats(names: list[str], tick: int, now_s: int) -> Iterator[Event]:
    said: dict[str, Any] = {**HEARTBEAT, "timestamp": now_s, "sequence": tick + 1, "groups": ["web"]}
    return (HeartbeatReceived(message={**said, "hostname": name, "cpu_usage": tick % 100 / 100}) for name in names)


def _came(kind: type[HostWentOnline | HostWentOffline], name: str, seq: int) -> Event:
    return kind(hostname=name, heartbeat_seq=seq, heartbeat={**HEARTBEAT, "hostname": name}, cause="heartbeat")


def _life(task_id: str, names: tuple[str, ...]) -> Iterator[Event]:
    yield a_task_accepted(task_id, names)
    yield from (ExecutionSent(task_id=task_id, hostname=name, route="cmd.all") for name in names)
    yield from (ExecutionAccepted(hostname=name, message={**ACCEPTED, "task_id": task_id}) for name in names)
    yield from (ExecutionFinished(hostname=name, message={**RESULT, "task_id": task_id}) for name in names)


async def _append(log: EventLog, events: Iterator[Event] | list[Event]) -> None:
    new = [event.to_new_event() for event in events]
    for start in range(0, len(new), BATCH):
        await log.append(new[start : start + BATCH])
