"""How fast the log appends, next to what the same rows cost without a log: one multi-row INSERT after another."""

import asyncio
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from control_plane.events.envelope import EVENT, NewEvent
from control_plane.events.log import EventLog
from control_plane.storage.engine import Database
from control_plane.storage.tables import heartbeat_event
from tests.support.database import an_event, migrated

BATCH = 500
BODY = b"x" * 430  # a heartbeat's or a short result's
SIGNATURE = bytes(64)


async def run(url: str, *, rounds: int = 5, batches: int = 20, singles: int = 300) -> None:
    """Print appended events per second, in batches and one at a time, with the raw INSERT beside them."""
    numbers = itertools.count()

    def some_events(count: int) -> list[NewEvent]:
        return [
            an_event(f"task-{next(numbers):032}", hostname="web1.example.com", body=BODY, signature=SIGNATURE)
            for _ in range(count)
        ]

    async with migrated(url) as database, EventLog.open(database) as log:
        print(
            f"{database.dialect.name}, {os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
        )

        async def in_batches(count: int) -> None:
            calls = [some_events(BATCH) for _ in range(count)]
            async with asyncio.TaskGroup() as tasks:
                for call in calls:
                    tasks.create_task(log.append(call))

        async def one_by_one(count: int) -> None:
            for event in some_events(count):
                await log.append([event])

        async def concurrently(count: int) -> None:
            async with asyncio.TaskGroup() as tasks:
                for event in some_events(count):
                    tasks.create_task(log.append([event]))

        raw = await _rates("raw INSERT, 500 a statement", lambda: _insert(database, batches), batches * BATCH, rounds)
        full = await _rates("appended, in batches of 500", lambda: in_batches(batches), batches * BATCH, rounds)
        await _rates("appended, 2,000 single callers", lambda: concurrently(2000), 2000, rounds)
        await _rates("appended, one after the other", lambda: one_by_one(singles), singles, rounds)
        print(f"batches reach {full / raw:.0%} of the raw INSERT")
        started = time.perf_counter()
        position = 0
        while events := await log.read(EVENT, after=position):
            position = events[-1].seq
        print(f"{'read back, 1,000 a page':<34} {position / (time.perf_counter() - started):>9,.0f}/s")


async def _insert(database: Database, batches: int) -> None:
    async with database.read() as connection:
        first = (await connection.exec_driver_sql("SELECT COALESCE(MAX(seq), 0) FROM heartbeat_event")).scalar_one()
    for at in range(batches):
        rows = [
            (
                first + 1 + at * BATCH + n,
                1_700_000_000_000_000,
                b"task.accepted",
                1,
                b"task-%032d" % n,
                b"web1.example.com",
                b"user:ada",
                None,
                BODY,
                SIGNATURE,
                b"0123456789abcdef",
            )
            for n in range(BATCH)
        ]
        async with database.write() as connection:
            await database.dialect.bulk_insert(connection, heartbeat_event, rows)


async def _rates(what: str, work: Callable[[], Awaitable[None]], count: int, rounds: int) -> float:
    rates = []
    for _ in range(rounds):
        started = time.perf_counter()
        await work()
        rates.append(count / (time.perf_counter() - started))
    median = statistics.median(rates)
    print(f"{what:<34} {median:>9,.0f}/s   ({min(rates):,.0f} to {max(rates):,.0f}, n={rounds})")
    return median


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
