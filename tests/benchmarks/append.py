"""How fast the log appends, next to what the same rows cost without a log: one multi-row INSERT after another."""

import asyncio
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Sequence

from control_plane.events.envelope import EVENT, NewEvent
from control_plane.events.log import EventLog
from control_plane.storage.dialect import Value
from control_plane.storage.engine import Database
from control_plane.storage.tables import heartbeat_event
from tests.support.database import an_event, migrated

BATCH = 500
CALLERS = 2000
BODY = b"x" * 430  # a heartbeat's or a short result's
SIGNATURE = bytes(64)


async def run(url: str, *, rounds: int = 5, batches: int = 20, singles: int = 300) -> None:
    """Print appended events per second, in batches and one at a time, with the raw INSERT beside them.

    What callers do to make their events is not measured, nor how the rows of the raw INSERT come to be. All take turns,
    so that what else this machine does falls on each of them.
    """
    numbers = itertools.count()

    def calls(count: int, size: int) -> list[list[NewEvent]]:
        return [
            [
                an_event(f"task-{next(numbers):032}", hostname="web1.example.com", body=BODY, signature=SIGNATURE)
                for _ in range(size)
            ]
            for _ in range(count)
        ]

    async with migrated(url) as database, EventLog.open(database) as log:
        print(
            f"{database.dialect.name}, {os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
        )
        raw, full, concurrent, alone = (list[float]() for _ in range(4))  # events/s of each round
        took_s: list[float] = []
        for at in range(rounds):
            rows = [_rows((at * batches + n) * BATCH) for n in range(batches)]
            raw.append(await _rate(_insert(database, rows), batches * BATCH))
            full.append(await _rate(_at_once(log, calls(batches, BATCH)), batches * BATCH))
            concurrent.append(await _rate(_at_once(log, calls(CALLERS, 1)), CALLERS))
            alone.append(await _rate(_in_turn(log, calls(singles, 1), took_s), singles))
        _show("raw INSERT, 500 a statement", raw)
        _show("appended, in batches of 500", full)
        _show("appended, 2,000 single callers", concurrent)
        _show("appended, one after the other", alone)
        p50_ms, p99_ms = (statistics.quantiles(took_s, n=100)[part - 1] * 1000 for part in (50, 99))
        print(f"one append takes {p50_ms:.2f} ms, 99 in 100 at most {p99_ms:.2f} ms (n={len(took_s)})")
        ratio = statistics.median(ours / theirs for ours, theirs in zip(full, raw, strict=True))
        print(f"batches reach {ratio:.0%} of the raw INSERT")
        started = time.perf_counter()
        position = 0
        while events := await log.read(EVENT, after=position):
            position = events[-1].seq
        print(f"{'read back, 1,000 a page':<34} {position / (time.perf_counter() - started):>9,.0f}/s")


async def _at_once(log: EventLog, calls: Sequence[Sequence[NewEvent]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for call in calls:
            tasks.create_task(log.append(call))


async def _in_turn(log: EventLog, calls: Sequence[Sequence[NewEvent]], took_s: list[float]) -> None:
    for call in calls:
        started = time.perf_counter()
        await log.append(call)
        took_s.append(time.perf_counter() - started)


def _rows(after: int) -> list[Sequence[Value]]:
    return [
        (
            after + 1 + n,
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


async def _insert(database: Database, statements: Sequence[Sequence[Sequence[Value]]]) -> None:
    for rows in statements:
        async with database.write() as connection:
            await database.dialect.bulk_insert(connection, heartbeat_event, rows)


async def _rate(work: Awaitable[None], count: int) -> float:
    started = time.perf_counter()
    await work
    return count / (time.perf_counter() - started)


def _show(what: str, rates: Sequence[float]) -> None:
    median = statistics.median(rates)
    print(f"{what:<34} {median:>9,.0f}/s   ({min(rates):,.0f} to {max(rates):,.0f}, n={len(rates)})")


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
