"""How long after its commit an event is in the read tables, while a fleet goes on: in the same process, and in another.

As a program it is that other process: `python -m tests.benchmarks.lag URL` projects until its input ends.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count, islice

from sqlalchemy import select

from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName, NewEvent
from control_plane.events.log import EventLog
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.hub import Hub
from control_plane.projections.projector import Projector
from control_plane.storage.engine import Database, open_database
from control_plane.storage.leases import Leases
from control_plane.storage.tables import follower
from tests.benchmarks.rebuild import a_heartbeat, history, record, registrations
from tests.support.database import migrated

TICKS = 50  # a second
HEARTBEATS = 18  # a tick
TASK_EVENTS = 2
TARGETS = 24  # of each task
LOOK_S = 0.01
BOUND_S = 60


class Lags:
    """When each event was committed, and how much later each projection showed it."""

    def __init__(self) -> None:
        self._committed: dict[str, deque[tuple[int, float]]] = {projection.name: deque() for projection in PROJECTIONS}
        self.found_s: dict[str, list[float]] = {name: [] for name in self._committed}

    def committed(self, log: LogName, seq: int) -> None:
        now_s = time.perf_counter()
        for projection in PROJECTIONS:
            # By its heartbeats, where it has them: the other log's position may move later, where nothing is changed.
            if log == (HEARTBEAT_EVENT if HEARTBEAT_EVENT in projection.logs else EVENT):
                self._committed[projection.name].append((seq, now_s))

    def shown(self, name: str, seq: int) -> None:
        now_s, waiting = time.perf_counter(), self._committed[name]
        while waiting and waiting[0][0] <= seq:
            self.found_s[name].append(now_s - waiting.popleft()[1])

    @property
    def are_all_shown(self) -> bool:
        return not any(self._committed.values())


async def run(url: str, *, hosts: int = 10_000, seconds: int = 15) -> None:
    """Append a thousand events a second; print how much later each projection shows them."""
    names = [f"web{number:05}.example.com" for number in range(hosts)]
    async with migrated(url) as database, EventLog.open(database) as log:
        print(f"{database.dialect.name}: {HEARTBEATS * TICKS} heartbeats of {hosts:,} hosts and ", end="")
        print(f"{TASK_EVENTS * TICKS} task events a second for {seconds} s")
        beats = (a_heartbeat(name, number) for number in count() for name in names)
        changes = history(names, 1_000_000, TARGETS)
        await record(log, EVENT, registrations(names))
        await record(log, HEARTBEAT_EVENT, islice(beats, hosts))
        for where, projecting in (("this process", _here(database, log)), ("another process", _elsewhere(url))):
            async with projecting:
                await record(log, EVENT, islice(changes, 1))  # whoever shows this is at work
                await record(log, HEARTBEAT_EVENT, islice(beats, 1))
                await _caught_up(database, log)
                lags = await _measure(database, log, beats, changes, seconds)
            for name, found_s in lags.found_s.items():
                at = sorted(found_s)
                p50, p99 = at[len(at) // 2], at[len(at) * 99 // 100]
                figures = f"p50 {p50 * 1000:>4.0f} ms, p99 {p99 * 1000:>4.0f} ms, most {at[-1] * 1000:>4.0f} ms"
                print(f"{f'{name}, projected in {where}':<38} {figures}", flush=True)


async def _measure(
    database: Database, log: EventLog, beats: Iterator[NewEvent], changes: Iterator[NewEvent], seconds: int
) -> Lags:
    lags = Lags()
    async with asyncio.timeout(seconds + BOUND_S), asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(_look(database, lags))
        started = time.perf_counter()
        for tick in range(seconds * TICKS):
            await asyncio.sleep(max(0.0, started + tick / TICKS - time.perf_counter()))
            tasks.create_task(_append(log, HEARTBEAT_EVENT, list(islice(beats, HEARTBEATS)), lags))
            tasks.create_task(_append(log, EVENT, list(islice(changes, TASK_EVENTS)), lags))
        while not lags.are_all_shown:
            await asyncio.sleep(LOOK_S)
        looking.cancel()
    return lags


async def _append(log: EventLog, name: LogName, events: list[NewEvent], lags: Lags) -> None:
    outcomes = await log.append(events)
    lags.committed(name, outcomes[-1].seq)


async def _look(database: Database, lags: Lags) -> None:
    positions = select(follower.c.name, follower.c.event_seq, follower.c.heartbeat_seq)
    while True:
        async with database.read() as connection:
            rows = (await connection.execute(positions)).all()
        for name, event_seq, heartbeat_seq in rows:
            for projection in PROJECTIONS:
                if name == projection.name:
                    lags.shown(name, heartbeat_seq if HEARTBEAT_EVENT in projection.logs else event_seq)
        await asyncio.sleep(LOOK_S)


async def _caught_up(database: Database, log: EventLog) -> None:
    """Return when every projection has come to the end of its logs."""
    heads = {name: (await log.head(name)).seq for name in (EVENT, HEARTBEAT_EVENT)}
    lags = Lags()
    for name, seq in heads.items():
        lags.committed(name, seq)
    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(_look(database, lags))
        while not lags.are_all_shown:
            await asyncio.sleep(LOOK_S)
        looking.cancel()


@asynccontextmanager
async def _here(database: Database, log: EventLog) -> AsyncIterator[None]:
    leases, hub, stop = Leases(database, owner="lag"), Hub(database), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for projection in PROJECTIONS:
            tasks.create_task(Projector(projection(), database, log, leases, hub).run(stop))
        try:
            yield
        finally:
            stop.set()


@asynccontextmanager
async def _elsewhere(url: str) -> AsyncIterator[None]:
    command = (sys.executable, "-m", "tests.benchmarks.lag", url)
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    try:
        yield
    finally:
        await process.communicate(b"")  # which ends its input


async def _project(url: str) -> None:
    async with open_database(url) as database, EventLog.open(database) as log, _here(database, log):
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_project(sys.argv[1]))
