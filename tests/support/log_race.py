"""Several writers and readers of one log at once, each with its own connections; and a writer that does it wrong."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from sqlalchemy import insert, select, update

from control_plane.errors import LogDamagedError
from control_plane.events.envelope import EVENT, NewEvent, Recorded
from control_plane.events.follow import follow
from control_plane.events.log import EventLog
from control_plane.storage.engine import Database, open_database
from control_plane.storage.tables import event, log_head
from tests.support.database import an_event

APPENDS = 25
MOST_EVENTS = 12
READERS = 3
TIMEOUT_S = 60

Write = Callable[[EventLog, Database, list[NewEvent]], Awaitable[list[int]]]


@dataclass
class Observed:
    """What one reader saw, in its order, and whether it was told of a damage."""

    seqs: list[int] = field(default_factory=list)
    subjects: list[str | None] = field(default_factory=list)
    damage: LogDamagedError | None = None


async def append(log: EventLog, _: Database, events: list[NewEvent]) -> list[int]:
    return [outcome.seq for outcome in await log.append(events) if isinstance(outcome, Recorded)]


async def reserve_then_commit(_: EventLog, database: Database, events: list[NewEvent]) -> list[int]:
    """As AUTO_INCREMENT does it: a number is given out in one moment, and its row is committed in another."""
    async with database.write() as connection:
        head = select(log_head.c.seq).where(log_head.c.log == EVENT).with_for_update()
        first = (await connection.execute(head)).scalar_one() + 1
        last = first + len(events) - 1
        await connection.execute(
            update(log_head).where(log_head.c.log == EVENT).values(seq=last, tree=bytes(32 * last.bit_count()))
        )
    await asyncio.sleep(random.uniform(0.01, 0.05))
    async with database.write() as connection:
        for seq, new in enumerate(events, start=first):
            row = {"seq": seq, "recorded_us": seq, "kind": new.kind, "schema_v": 1, "body": b"", "task_id": new.task_id}
            await connection.execute(insert(event).values(row))
    return list(range(first, last + 1))


async def race(url: str, write: Write, *, writers: int = 4) -> None:
    """Let them all run; AssertionError when a reader missed, repeated or reordered an event, or a number is missing."""
    async with AsyncExitStack() as stack:
        ends = [await _open(stack, url) for _ in range(writers + READERS)]
        stop = asyncio.Event()
        everything: list[int] = []
        observed = [Observed() for _ in range(READERS)]
        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as tasks:
            for seen, (_, log) in zip(observed, ends[:READERS], strict=True):
                tasks.create_task(_watch(log, seen, stop))
            writing = [
                tasks.create_task(_write(number, log, database, write))
                for number, (database, log) in enumerate(ends[READERS:])
            ]
            for task in writing:
                everything += await task
            while any(seen.damage is None and len(seen.seqs) < len(everything) for seen in observed):
                await asyncio.sleep(0.01)
            stop.set()

    assert sorted(everything) == list(range(1, len(everything) + 1))
    for seen in observed:
        assert seen.damage is None
        assert seen.seqs == sorted(everything)
        assert len(set(seen.subjects)) == len(everything)


async def _open(stack: AsyncExitStack, url: str) -> tuple[Database, EventLog]:
    database = await stack.enter_async_context(open_database(url, pool_size=3))
    return database, await stack.enter_async_context(EventLog.open(database))


async def _write(number: int, log: EventLog, database: Database, write: Write) -> list[int]:
    seqs: list[int] = []
    for turn in range(APPENDS):
        count = random.randint(1, MOST_EVENTS)
        seqs += await write(log, database, [an_event(f"w{number}-{turn}-{n}") for n in range(count)])
    return seqs


async def _watch(log: EventLog, seen: Observed, stop: asyncio.Event) -> None:
    try:
        async for events in follow(log, EVENT, after=0, stop=stop, limit=7):
            seen.seqs += [event.seq for event in events]
            seen.subjects += [event.task_id for event in events]
    except LogDamagedError as damage:
        seen.damage = damage
