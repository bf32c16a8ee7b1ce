"""How fast the read tables are made from zero, of a log as a fleet writes it: nine events of ten are heartbeats."""

import time
from collections.abc import Iterable, Iterator
from itertools import chain

from sqlalchemy import insert

from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName, NewEvent
from control_plane.events.hosts import HeartbeatReceived
from control_plane.events.log import EventLog
from control_plane.events.tasks import ExecutionAccepted, ExecutionFinished, ExecutionSent
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.folding import create_tables
from control_plane.projections.rebuild import rebuild
from control_plane.storage.tables import follower
from control_plane_wire.messages import HeartbeatMessage
from tests.support.clock import START_US, ManualClock
from tests.support.database import migrated
from tests.support.events import ACCEPTED, RESULT, a_task_accepted
from tests.support.fleet import a_registration

INTERVAL_S = 10
TARGETS = 200  # of each task
START_S = START_US // 1_000_000


async def run(url: str, *, hosts: int = 10_000, tasks: int = 50, heartbeats: int = 36) -> None:
    """Fold hosts, tasks and audit from zero; print events per second of each, and of all three."""
    clock = ManualClock()
    async with migrated(url) as database, EventLog.open(database, clock=clock) as log:
        names = [f"web{number:05}.example.com" for number in range(hosts)]
        await record(log, EVENT, chain(registrations(names), history(names, tasks, TARGETS)))
        for number in range(heartbeats):
            await record(log, HEARTBEAT_EVENT, (a_heartbeat(name, number) for name in names))
            clock.advance(INTERVAL_S)
        heads = {name: (await log.head(name)).seq for name in (EVENT, HEARTBEAT_EVENT)}
        counts = f"{hosts:,} hosts, {heads[EVENT]:,} events, {heads[HEARTBEAT_EVENT]:,} heartbeats"
        print(f"{database.dialect.name}: {counts}")
        spent_s = 0.0
        for projection in PROJECTIONS:
            live = projection()
            await create_tables(database, live)
            count = sum(heads[name] for name in live.logs)
            position = {"event_seq": heads[EVENT], "heartbeat_seq": heads[HEARTBEAT_EVENT]}
            async with database.write() as connection:
                await connection.execute(
                    insert(follower).values(name=live.name, **position, epoch=1, version=live.version)
                )
            # The first one makes the tables that the second one is compared with.
            await rebuild(projection, database, log, then="switch")
            started = time.perf_counter()
            compared = await rebuild(projection, database, log, then="switch")
            took_s = time.perf_counter() - started
            assert all(table.is_equal for table in compared)
            spent_s += took_s
            print(f"{'rebuilt, ' + live.name:<34} {count / took_s:>9,.0f}/s")
        print(f"{'all events, all three':<34} {sum(heads.values()) / spent_s:>9,.0f}/s")


async def record(log: EventLog, name: LogName, events: Iterable[NewEvent]) -> None:
    batch: list[NewEvent] = []
    for event in events:
        batch.append(event)
        if len(batch) == 500:
            await log.append(batch)
            batch = []
    if batch:
        await log.append(batch)


def registrations(names: list[str]) -> Iterator[NewEvent]:
    return (a_registration(name).to_new_event() for name in names)


def history(names: list[str], tasks: int, targets_each: int) -> Iterator[NewEvent]:
    """So many tasks with all that happens to them."""
    for number in range(tasks):
        task_id = f"task-{number}"
        first = number * targets_each % len(names)
        targets = names[first : first + targets_each]
        yield a_task_accepted(task_id, tuple(targets)).to_new_event()
        for name in targets:
            yield ExecutionSent(task_id=task_id, hostname=name, route=f"cmd.node.{name}").to_new_event()
            yield ExecutionAccepted(hostname=name, message={**ACCEPTED, "task_id": task_id}).to_new_event()
            yield ExecutionFinished(hostname=name, message={**RESULT, "task_id": task_id}).to_new_event()


def a_heartbeat(hostname: str, number: int) -> NewEvent:
    """As an agent says it, with all that it can say."""
    heartbeat = HeartbeatMessage(
        hostname=hostname,
        status="online",
        timestamp=START_S + number * INTERVAL_S,
        cpu_usage=(number * 7 + len(hostname)) % 100 / 101,
        memory_usage=0.4 + number % 10 / 97,
        agent_version="1.0",
        sequence=number + 1,
        boot_id="0190163d-8694-739b-aea5-966c26f8ad91",
        interval=INTERVAL_S,
        groups=("db", "web"),
        running=0,
        load=(0.12, 0.2, 0.31),
        disk_usage=0.42,
        uptime=86_400 + number * INTERVAL_S,
        os="Debian GNU/Linux 12 (bookworm)",
        kernel="6.1.0-18-amd64",
        cpu_count=4,
        memory_bytes=8 * 2**30,
        addresses=("10.0.0.1", "fe80::1"),
        journal_head=12,
    )
    return HeartbeatReceived(message=heartbeat.to_json()).to_new_event()
