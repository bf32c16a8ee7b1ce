"""How fast the read tables are made from zero, of a log as a busy fleet writes it."""

import time
from collections.abc import Iterator

from sqlalchemy import insert

from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, NewEvent
from control_plane.events.hosts import HeartbeatReceived
from control_plane.events.log import EventLog
from control_plane.events.tasks import ExecutionAccepted, ExecutionFinished, ExecutionSent
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.folding import create_tables
from control_plane.projections.rebuild import rebuild
from control_plane.storage.tables import follower
from tests.support.clock import START_US
from tests.support.database import migrated
from tests.support.events import ACCEPTED, HEARTBEAT, RESULT, a_task_accepted
from tests.support.fleet import a_registration

HOSTS = 200
START_S = START_US // 1_000_000


async def run(url: str, *, tasks: int = 50, heartbeats: int = 100) -> None:
    """Fold hosts, tasks and audit from zero; print events per second of each."""
    async with migrated(url) as database, EventLog.open(database) as log:
        for name in (EVENT, HEARTBEAT_EVENT):
            events = [event for event in history(tasks, heartbeats) if event.log == name]
            for start in range(0, len(events), 500):
                await log.append(events[start : start + 500])
        heads = {name: (await log.head(name)).seq for name in (EVENT, HEARTBEAT_EVENT)}
        print(f"{database.dialect.name}: {heads[EVENT]:,} events, {heads[HEARTBEAT_EVENT]:,} heartbeats")
        for projection in PROJECTIONS:
            live = projection()
            await create_tables(database, live)
            count = sum(heads[name] for name in live.logs)
            position = {"event_seq": heads[EVENT], "heartbeat_seq": heads[HEARTBEAT_EVENT]}
            async with database.write() as connection:
                await connection.execute(
                    insert(follower).values(name=live.name, **position, epoch=1, version=live.version)
                )
            started = time.perf_counter()
            await rebuild(projection, database, log, then="switch")
            print(f"{'rebuilt, ' + live.name:<34} {count / (time.perf_counter() - started):>9,.0f}/s")


def history(tasks: int, heartbeats: int) -> Iterator[NewEvent]:
    """A fleet's registrations, so many tasks with all that happens to them, and so many heartbeats of each host."""
    names = [f"web{number:03}.example.com" for number in range(HOSTS)]
    for name in names:
        yield a_registration(name).to_new_event()
    for number in range(tasks):
        task_id = f"task-{number}"
        yield a_task_accepted(task_id, tuple(names)).to_new_event()
        for name in names:
            yield ExecutionSent(task_id=task_id, hostname=name, route=f"cmd.node.{name}").to_new_event()
            yield ExecutionAccepted(hostname=name, message={**ACCEPTED, "task_id": task_id}).to_new_event()
            yield ExecutionFinished(hostname=name, message={**RESULT, "task_id": task_id}).to_new_event()
    for number in range(heartbeats):
        beat = {"timestamp": START_S + number * 10, "sequence": number + 1}
        for name in names:
            yield HeartbeatReceived(message={**HEARTBEAT, **beat, "hostname": name}).to_new_event()
