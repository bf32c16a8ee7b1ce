"""The segments of a log: planned ahead of need, and dropped when they are old, each with an archive and its root.

The order makes every step safe to be interrupted and done again: the archive, checked by reading it back; in one
transaction the segment's row with its roots, and the events that outlive it; its keys; its rows. Whoever finds rows of
a segment that is written down goes on from there.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import ArchiveDamagedError, LogDamagedError, StorageUnavailableError
from control_plane.events import registry
from control_plane.events.archive import Archive, Archived, check
from control_plane.events.batch import key_bytes, row_of_stored
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName, StoredEvent
from control_plane.events.head import read_head
from control_plane.events.merkle import CompactRange
from control_plane.events.pages import Page, read_dropped, read_gapless, read_kept
from control_plane.events.retention import Kept
from control_plane.storage.dialect import KeyBytes
from control_plane.storage.engine import Database
from control_plane.storage.tables import (
    EVENT_TABLES,
    KEPT_TABLES,
    KEY_TABLES,
    PLANNED_SEGMENTS,
    SEGMENT_ROWS,
    log_segment,
)
from control_plane_wire.backoff import Backoff

LOGS: Final[tuple[LogName, ...]] = (EVENT, HEARTBEAT_EVENT)
LOOK_S: Final = 30.0
PAGE: Final = 1000
ATTEMPTS: Final = 10  # at what waits for readers, some seconds each
DELETED_AT_ONCE: Final = 500

_logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of events of a log, closed: nothing is appended to it any more."""

    log: LogName
    first_seq: int
    last_seq: int
    last_us: int


async def room(database: Database, log: LogName) -> int:
    """How many events fit into what is planned; where it is 0 they go where nothing can be dropped."""
    async with database.read() as connection:
        head = await read_head(connection, log)
        planned = await database.dialect.segments(connection, EVENT_TABLES[log], SEGMENT_ROWS[log])
    return max(0, planned[-1] - head.seq) if planned else 0


class Rooms:
    """How much room each log has, for whoever asks often: the database is asked now and then."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looked_s = -math.inf
        self._rooms: dict[LogName, int] = {}

    async def look(self) -> Mapping[LogName, int]:
        """The number of events until the last planned segment of each log is full."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._looked_s + LOOK_S:
            self._rooms = {log: await room(self._database, log) for log in LOGS}
            self._looked_s = now_s
            if (wrong := self._low()) is not None:
                _logger.warning("the upkeep of the logs is behind", extra={"cause": wrong})
        return self._rooms

    async def check(self) -> str | None:
        """What is wrong where a log has room for less than a segment."""
        await self.look()
        return self._low()

    def _low(self) -> str | None:
        low = [f"{log} has room for {left} events" for log, left in self._rooms.items() if left < SEGMENT_ROWS[log]]
        return f"{', '.join(low)}: does `control-plane log maintain` run?" if low else None


async def plan_ahead(database: Database, log: LogName) -> list[int]:
    """Plan so many segments that the newest event has some empty ones before it; the last seqs of the new ones.

    Raises:
        StorageUnavailableError: readers were in the way all the time.
    """
    rows, new = SEGMENT_ROWS[log], []
    async with database.read() as connection:
        head = await read_head(connection, log)
        planned = await database.dialect.segments(connection, EVENT_TABLES[log], rows)
        last = planned[-1] if planned else (await read_dropped(connection, log)).seq
    while last < head.seq + PLANNED_SEGMENTS * rows:
        last += rows
        new.append(last)
    if new:
        await _insist(database, lambda it: database.dialect.add_segments(it, EVENT_TABLES[log], new))
    return new


async def oldest(database: Database, log: LogName) -> Segment | None:
    """The oldest segment that is closed and not dropped; None while there is none.

    Raises:
        LogDamagedError: its end is not there.
    """
    table = EVENT_TABLES[log]
    async with database.read() as connection:
        head = await read_head(connection, log)
        dropped = await read_dropped(connection, log)
        planned = await database.dialect.segments(connection, table, SEGMENT_ROWS[log])
        last = next((seq for seq in planned if seq > dropped.seq), head.seq + 1)
        if last > head.seq:
            return None
        last_us = await connection.scalar(select(table.c.recorded_us).where(table.c.seq == last))
    if last_us is None:
        raise LogDamagedError(log, last)
    return Segment(log, dropped.seq + 1, last, last_us)


async def drop(
    database: Database,
    segment: Segment,
    *,
    archive_dir: Path,
    now_us: int,
    progress: Progress = lambda _what, _done, _total: None,
) -> Archived:
    """Archive the oldest segment and drop it; what the archive has.

    Raises:
        LogDamagedError: an event of it is gone. Nothing is dropped.
        FoldError: one cannot be read, so nobody knows what depends on it. Nothing is dropped.
        ArchiveDamagedError: what was written does not read back. Nothing is dropped.
        StorageUnavailableError: try again.
    """
    path = archive_dir / f"{segment.log}-{segment.first_seq:012}-{segment.last_seq:012}.ndjson.gz"
    archived, kept = await _archive(database, segment, path, progress)
    async with database.write() as connection:
        known = {"log": segment.log, "first_seq": segment.first_seq, "last_seq": segment.last_seq}
        said = {"root": archived.root, "tree": archived.tree.to_bytes(), "archive_sha256": archived.sha256}
        row = {**known, **said, "last_us": segment.last_us, "archive": path.name, "dropped_us": now_us}
        await connection.execute(insert(log_segment).values(row))
        await _keep(database, connection, segment.log, kept)
    await finish(database, segment.log, progress=progress)
    return archived


async def finish(database: Database, log: LogName, *, progress: Progress = lambda _what, _done, _total: None) -> bool:
    """Remove the rows and keys of segments that are written down; whether there were any.

    Raises:
        StorageUnavailableError: try again.
    """
    table = EVENT_TABLES[log]
    async with database.read() as connection:
        dropped = (await read_dropped(connection, log)).seq
        first: int | None = await connection.scalar(select(func.min(table.c.seq)))
    if first is None or first > dropped:
        return False
    at = first - 1
    while at < dropped:
        async with database.read() as connection:
            events = await read_gapless(connection, database.dialect, log, Page(at, dropped, PAGE))
        if not events:
            raise LogDamagedError(log, at + 1)
        at = events[-1].seq
        keys = await asyncio.to_thread(_keys_of, events)
        async with database.write() as connection:
            for start in range(0, len(keys), DELETED_AT_ONCE):
                some = keys[start : start + DELETED_AT_ONCE]
                await database.dialect.delete_keys(connection, KEY_TABLES[log], some, dropped)
        progress(f"{log} keys", at - first + 1, dropped - first + 1)
    while not await _insist(database, lambda it: database.dialect.drop_segment(it, table, dropped)):
        pass
    return True


async def _archive(
    database: Database, segment: Segment, path: Path, progress: Progress
) -> tuple[Archived, list[StoredEvent]]:
    """A checked archive of the segment, and the events that have to outlive it, those of earlier ones included."""
    before, earlier = await _before(database, segment)
    kept = Kept(earlier)
    archive = await asyncio.to_thread(Archive, path, segment.log, segment.last_seq, before)
    rows = segment.last_seq - segment.first_seq + 1

    def take(events: Sequence[StoredEvent]) -> None:
        archive.add(events)
        for stored in events:
            kept.add(stored)

    try:
        at = before.size
        while at < segment.last_seq:
            async with database.read() as connection:
                events = await read_gapless(connection, database.dialect, segment.log, Page(at, segment.last_seq, PAGE))
            if not events:
                raise LogDamagedError(segment.log, at + 1)
            await asyncio.to_thread(take, events)
            at = events[-1].seq
            progress(f"{segment.log} archive", at - before.size, rows)
        await asyncio.to_thread(archive.finish)
    finally:
        archive.abandon()
    archived = await asyncio.to_thread(check, path)
    if (archived.tree, archived.last_us) != (archive.tree, segment.last_us):
        raise ArchiveDamagedError(rows + 2, "it does not read back as it was written")
    return archived, kept.events()


async def _before(database: Database, segment: Segment) -> tuple[CompactRange, list[StoredEvent]]:
    """The log's tree in front of the segment, and what was kept of all that is older."""
    earlier: list[StoredEvent] = []
    size = segment.first_seq - 1
    ends_there = (log_segment.c.log == segment.log, log_segment.c.last_seq == size)
    async with database.read() as connection:
        tree = await connection.scalar(select(log_segment.c.tree).where(*ends_there))
        while page := await read_kept(connection, segment.log, Page(earlier[-1].seq if earlier else 0, size, PAGE)):
            earlier += page
    return CompactRange.from_bytes(size, tree or b""), earlier


async def _keep(database: Database, connection: AsyncConnection, log: LogName, kept: Sequence[StoredEvent]) -> None:
    table = KEPT_TABLES[log]
    there = set(await connection.scalars(select(table.c.seq)))
    wanted = {stored.seq for stored in kept}
    gone = sorted(there - wanted)
    for start in range(0, len(gone), DELETED_AT_ONCE):
        await connection.execute(table.delete().where(table.c.seq.in_(gone[start : start + DELETED_AT_ONCE])))
    new = [row_of_stored(stored) for stored in kept if stored.seq not in there]
    await database.dialect.bulk_insert(connection, table, new)


def _keys_of(events: Sequence[StoredEvent]) -> list[KeyBytes]:
    decoded = [registry.decode(stored) for stored in events]
    return [key_bytes(event.key()) for event in decoded if event is not None]


async def _insist(database: Database, change: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
    """Try again for some time what has to wait until nobody reads the table."""
    backoff = Backoff(first_s=0.1, most_s=5.0)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with database.write() as connection:
                return await change(connection)
        except StorageUnavailableError:
            if attempt == ATTEMPTS:
                raise
            await asyncio.sleep(backoff.next_s())
    raise AssertionError("the last attempt returns or raises")
