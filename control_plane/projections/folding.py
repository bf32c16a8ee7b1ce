"""Folding a log into read tables, batch by batch, by whoever holds the projection's lease.

Rows and position move in one transaction, by compare-and-swap on the position and on the fencing epoch: whoever lost
the lease in mid-batch changes nothing, and no event is folded twice.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from sqlalchemy import Delete, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import FoldError, LeaseLostError
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, StoredEvent
from control_plane.events.hosts import HeartbeatReceived
from control_plane.events.log import EventLog
from control_plane.observability import Count
from control_plane.projections.ahead import Ahead
from control_plane.projections.applying import PoisonError, apply, subject_of
from control_plane.projections.positions import Positions
from control_plane.projections.projection import Projection
from control_plane.projections.rows import Changed, Remembered, Row, Rows, write
from control_plane.storage.dialect import Dialect
from control_plane.storage.engine import Database
from control_plane.storage.leases import Lease
from control_plane.storage.tables import follower
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints

PAGE: Final = 1000
POLL_S: Final = 0.25  # how late another process's event may be seen, where there was none before it
SAVE_S: Final = 1.0
BULK_PAGE: Final = 2000
BULK_TURN: Final = 100  # events folded in one go
BULK_EVENTS: Final = 200_000  # folded in memory before the rows are written, or
BULK_BYTES: Final = 128 * 1024 * 1024  # so much of their bodies, or
BULK_ROWS: Final = 50_000  # so many rows changed
REBUILT: Final = "_rebuilt"  # the suffix of tables that are folded from zero beside the live ones
OLD: Final = "_old"  # of those that were live before
_SWAPPED: Final = "_swapped"
UNFINISHED: Final = 0  # the version of tables that are being made anew

_logger = logging.getLogger(__name__)


Progress = Callable[[Positions], None]


class Batch(NamedTuple):
    """What comes next in each log, and where that leads."""

    events: Sequence[StoredEvent]
    upto: Positions

    @property
    def size_bytes(self) -> int:
        return sum([len(stored.body) for stored in self.events])


class Folding:
    """One tenure; made by `folding`.

    Attributes:
        position: what is folded; the follower's row lags where nothing had to be written.
    """

    def __init__(
        self,
        projection: Projection,
        database: Database,
        log: EventLog,
        lease: Lease,
        connection: AsyncConnection,
        position: Positions,
        aside: set[str],
        *,
        sets_aside: bool,
        count: Count,
        failpoints: Failpoints,
    ) -> None:
        self._projection = projection
        self._database = database
        self._log = log
        self._lease = lease
        self._connection = connection
        self._sets_aside = sets_aside
        self._count = count
        self._failpoints = failpoints
        self.position = self._saved = position
        self._aside = aside  # the subjects whose events are set aside
        self._remembered = Remembered()
        self._save_s = 0.0  # when the row may follow next, by the loop's clock

    async def step(self, *, upto: Positions | None = None, limit: int = PAGE, patience_s: float = POLL_S) -> bool:
        """Fold what comes next, no further than `upto`; False where there is nothing.

        Args:
            patience_s: how much later another process's events may be seen.

        Raises:
            FoldError: an event cannot be folded, and nothing may be set aside.
            LeaseLostError: somebody else has taken over; nothing was written.
        """
        batch = await self.next_after(self.position, upto, limit, patience_s)
        if batch is None:
            return False
        poison: dict[StoredEvent, FoldError] = {}
        while True:
            try:
                await self._fold(batch, poison)
            except PoisonError as found:
                if not self._sets_aside:
                    raise found.error from found
                extra = {"projection": self._projection.key, "seq": found.stored.seq, "reason": str(found.error)}
                _logger.exception("event parked", extra=extra)
                poison[found.stored] = found.error
                self._remembered = Remembered()
            else:
                return True

    async def next_after(
        self, position: Positions, upto: Positions | None, limit: int, patience_s: float = POLL_S
    ) -> Batch | None:
        """What comes next in each log after a position; None where there is nothing."""
        events: list[StoredEvent] = []
        reached = {EVENT: position.event, HEARTBEAT_EVENT: position.heartbeat}
        ends = None if upto is None else {EVENT: upto.event, HEARTBEAT_EVENT: upto.heartbeat}
        for name in self._projection.logs:
            if ends is not None and reached[name] >= ends[name]:
                continue
            end = None if ends is None else ends[name]
            if page := await self._log.read(name, after=reached[name], limit=limit, upto=end, patience_s=patience_s):
                events += page
                reached[name] = page[-1].seq
            elif end is not None:  # the rest is dropped, and nothing of it kept
                reached[name] = end
        there = Positions(reached[EVENT], reached[HEARTBEAT_EVENT])
        return Batch(events, there) if there != position else None

    async def _fold(self, batch: Batch, poison: Mapping[StoredEvent, FoldError]) -> None:
        """Fold a batch and move the position; what is set aside is kept beside, with all later ones of its subject."""
        aside = set(self._aside)
        good: list[StoredEvent] = []
        parked: list[Row] = []
        for stored in batch.events:
            if stored in poison or subject_of(stored) in aside:
                aside.add(subject_of(stored))
                reason = str(poison.get(stored) or "waits for an earlier event of the same subject")
                parked.append(_parked_row(stored, reason))
            else:
                good.append(stored)
        rows = Rows(self._connection, self._database.dialect, self._remembered)
        # A batch that touches nothing moves the position in memory alone; it is saved with the next one that does.
        if parked or any(self._projection.concerns(stored.kind) for stored in good):
            async with self._database.write(self._connection) as connection:
                await self._move(connection, batch.upto)  # first: who compares or takes over locks that row first, too
                await rows.load(self._projection.touched(good))
                skipped = apply(self._projection, rows, good)
                for row in parked:
                    rows.put(self._projection.parked, row)
                await rows.flush()
                self._failpoints.hit("projector.before_commit")
            self._failpoints.hit("projector.after_commit")
            rows.taken(batch.size_bytes)
            self._saved = batch.upto
        else:
            skipped = apply(self._projection, rows, good)
        if skipped:
            self._count(f"unknown_kinds_skipped_by_{self._projection.name}", skipped)
        self.position = batch.upto
        self._aside = aside

    async def fold_upto(self, upto: Positions, progress: Progress) -> None:
        """Fold all up to a position, much at a time: the next page is read and the last rows are written meanwhile.

        Args:
            progress: called with how far the rows are that are written.

        Raises:
            FoldError: an event cannot be folded; what was written before stays.
            LeaseLostError: somebody else has taken over.
        """
        if self._sets_aside or self._aside:  # each event by itself may be set aside, with the later ones of its subject
            while await self.step(upto=upto, limit=BULK_PAGE):
                progress(self.position)
            return
        rows = Rows(self._connection, self._database.dialect, self._remembered)
        size_bytes = unsaved = 0
        writing: Ahead[None] = Ahead()
        reading: Ahead[Batch | None] = Ahead()
        async with writing, reading:
            reading.start(self.next_after(self.position, upto, BULK_PAGE))
            while (batch := await reading.result()) is not None:
                reading.start(self.next_after(batch.upto, upto, BULK_PAGE))
                await self._fold_in_memory(rows, batch)
                self.position = batch.upto
                size_bytes += batch.size_bytes
                unsaved += len(batch.events)
                if unsaved >= BULK_EVENTS or size_bytes >= BULK_BYTES or rows.size >= BULK_ROWS:
                    await writing.result()
                    writing.start(self._write(rows.taken(size_bytes), self.position, progress))
                    size_bytes = unsaved = 0
            await writing.result()
            if self._saved != self.position:
                await self._write(rows.taken(size_bytes), self.position, progress)

    async def _fold_in_memory(self, rows: Rows, batch: Batch) -> None:
        if missing := rows.missing(self._projection.touched(batch.events)):
            async with self._database.read() as connection:
                await rows.fetch(connection, missing)
        skipped = 0
        for start in range(0, len(batch.events), BULK_TURN):
            await asyncio.sleep(0)  # what is read and written meanwhile goes on
            try:
                skipped += apply(self._projection, rows, batch.events[start : start + BULK_TURN])
            except PoisonError as found:
                raise found.error from found
        if skipped:
            self._count(f"unknown_kinds_skipped_by_{self._projection.name}", skipped)

    async def _write(self, changed: Changed, upto: Positions, progress: Progress) -> None:
        async with self._database.write(self._connection) as connection:
            await self._move(connection, upto)
            await write(connection, self._database.dialect, changed)
            self._failpoints.hit("projector.before_commit")
        self._failpoints.hit("projector.after_commit")
        self._saved = upto
        progress(upto)

    async def save(self, *, at_once: bool = False) -> None:
        """Save a position that has moved in memory alone; otherwise than `at_once` a second after the last time."""
        loop = asyncio.get_running_loop()
        if self._saved != self.position and (at_once or loop.time() >= self._save_s):
            async with self._database.write(self._connection) as connection:
                await self._move(connection, self.position)
            self._saved = self.position
            self._save_s = loop.time() + SAVE_S

    async def _move(self, connection: AsyncConnection, upto: Positions) -> None:
        """Raises LeaseLostError where somebody else has moved the position or taken it over."""
        moved = await connection.execute(
            update(follower)
            .where(
                follower.c.name == self._projection.key,
                follower.c.epoch == self._lease.epoch,
                follower.c.event_seq == self._saved.event,
                follower.c.heartbeat_seq == self._saved.heartbeat,
            )
            .values(event_seq=upto.event, heartbeat_seq=upto.heartbeat)
        )
        if not moved.rowcount:
            raise LeaseLostError(self._lease.name)

    async def retry(self) -> tuple[int, int]:
        """Fold what was set aside, in its order; how many could be, and how many are set aside still."""
        table = self._projection.parked
        async with self._database.write(self._connection) as connection:
            await self._move(connection, self._saved)  # nobody else may work on these rows meanwhile
            waiting = (
                await connection.execute(select(table.c.log, table.c.seq).order_by(table.c.log, table.c.seq))
            ).all()
        done = 0
        still: set[str] = set()
        for log, seq in waiting:
            stored = await self._log.read_one(HEARTBEAT_EVENT if log == HEARTBEAT_EVENT else EVENT, seq)
            if stored is None or subject_of(stored) in still:
                continue
            try:
                await self._retry_one(stored, delete(table).where(table.c.log == log, table.c.seq == seq))
            except PoisonError as found:
                _logger.warning("event still parked", extra={"seq": seq, "reason": str(found.error)})
                still.add(subject_of(stored))
            else:
                done += 1
        return done, len(waiting) - done

    async def _retry_one(self, stored: StoredEvent, is_done: Delete) -> None:
        rows = Rows(self._connection, self._database.dialect, Remembered())
        async with self._database.write(self._connection) as connection:
            await self._move(connection, self._saved)
            await rows.load(self._projection.touched([stored]))
            apply(self._projection, rows, [stored])
            await rows.flush()
            await connection.execute(is_done)


@asynccontextmanager
async def folding(
    projection: Projection,
    database: Database,
    log: EventLog,
    lease: Lease,
    *,
    sets_aside: bool = True,
    indexed: bool = True,
    count: Count = lambda _what, _number: None,
    failpoints: Failpoints = NO_FAILPOINTS,
) -> AsyncIterator[Folding]:
    """Take the projection over under its lease: tables that are missing are made, those of another version anew.

    Args:
        sets_aside: whether an event that cannot be folded is parked, and not an end of it all.
        indexed: False leaves the indexes of tables that are made now to whoever has filled them.
        count: told of events whose kind this release does not know, where they are skipped.
    """
    position = await _take_over(projection, database, lease, indexed=indexed)
    async with database.read() as connection:
        subjects = set(await connection.scalars(select(projection.parked.c.subject)))
    kept = await database.connect()
    try:
        yield Folding(
            projection,
            database,
            log,
            lease,
            kept,
            position,
            subjects,
            sets_aside=sets_aside,
            count=count,
            failpoints=failpoints,
        )
    finally:
        await kept.close()


async def _take_over(projection: Projection, database: Database, lease: Lease, *, indexed: bool) -> Positions:
    statement = select(follower).where(follower.c.name == projection.key)
    async with database.read() as connection:
        row = (await connection.execute(statement)).mappings().one_or_none()
    if row is not None and row["version"] != projection.version and not await _adopted(projection, database, lease):
        # The position first: nobody, also after a crash, may take the empty tables for full ones.
        await claim(projection, database, lease, event_seq=0, heartbeat_seq=0, version=UNFINISHED)
        await drop_tables(database, projection)
    await create_tables(database, projection, indexed=indexed)
    if row is None:
        async with database.write() as connection:
            for table in projection.metadata.sorted_tables:  # there may be readers, so they are emptied and not dropped
                await connection.execute(delete(table))
            start = {"event_seq": 0, "heartbeat_seq": 0, "version": projection.version}
            await connection.execute(insert(follower).values(name=projection.key, **start, epoch=lease.epoch))
    return await claim(projection, database, lease, version=projection.version)


async def _adopted(projection: Projection, database: Database, lease: Lease) -> bool:
    """Use tables of our version that were made beforehand beside those of another one; whether there were any."""
    prepared = type(projection)(REBUILT)
    statement = select(follower).where(follower.c.name == prepared.key, follower.c.version == projection.version)
    async with database.read() as connection:
        row = (await connection.execute(statement)).one_or_none()
        there = await database.dialect.read_table_names(connection)
    if projection.suffix or row is None or not {table.name for table in prepared.metadata.sorted_tables} <= there:
        return False
    await claim(projection, database, lease)
    await drop_tables(database, type(projection)(OLD))
    async with database.write() as connection:
        await put_in_place(connection, database.dialect, prepared, Positions(row.event_seq, row.heartbeat_seq))
    return True


async def put_in_place(connection: AsyncConnection, dialect: Dialect, copy: Projection, position: Positions) -> None:
    """Make a copy of a projection the live one, and the live one the old one.

    The caller holds the lease of the live one. On MySQL the renaming is committed by itself: where the rest is not, the
    live tables are whole all the same when both stood at `position`, and are made anew when they are of two versions.
    """
    live, old = type(copy)(), type(copy)(OLD)
    names = [table.name for table in live.metadata.sorted_tables]
    renames = [
        *((name, name + _SWAPPED) for name in names),
        *((name + copy.suffix, name) for name in names),
        *((name + _SWAPPED, name + OLD) for name in names),
    ]
    await dialect.rename_read_tables(connection, renames)
    is_live = follower.c.name == live.key
    was = (await connection.execute(select(follower).where(is_live))).one()
    await connection.execute(delete(follower).where(follower.c.name.in_([copy.key, old.key])))
    there = {"event_seq": was.event_seq, "heartbeat_seq": was.heartbeat_seq, "version": was.version}
    await connection.execute(insert(follower).values(name=old.key, epoch=0, **there))
    now = {"event_seq": position.event, "heartbeat_seq": position.heartbeat, "version": live.version}
    await connection.execute(update(follower).where(is_live).values(**now))


async def claim(projection: Projection, database: Database, lease: Lease, **values: int) -> Positions:
    """Put our epoch into the follower's row, and more; LeaseLostError where a later holder's is there already."""
    is_ours = (follower.c.name == projection.key, follower.c.epoch <= lease.epoch)
    async with database.write() as connection:
        moved = await connection.execute(update(follower).where(*is_ours).values(epoch=lease.epoch, **values))
        if not moved.rowcount:
            raise LeaseLostError(lease.name)
        row = (await connection.execute(select(follower).where(*is_ours))).one()
    return Positions(row.event_seq, row.heartbeat_seq)


def _parked_row(stored: StoredEvent, reason: str) -> Row:
    log = HEARTBEAT_EVENT if stored.kind == HeartbeatReceived.KIND else EVENT
    return {"log": log, "seq": stored.seq, "subject": subject_of(stored), "reason": reason}


async def create_tables(database: Database, projection: Projection, *, indexed: bool = True) -> None:
    async with database.write() as connection:
        for table in projection.metadata.sorted_tables:
            await database.dialect.create_read_table(connection, table, indexed=indexed)


async def create_indexes(database: Database, projection: Projection) -> None:
    async with database.write(timeout_s=None) as connection:
        for table in projection.metadata.sorted_tables:
            await database.dialect.create_read_indexes(connection, table)


async def drop_tables(database: Database, projection: Projection) -> None:
    async with database.write() as connection:
        for table in projection.metadata.sorted_tables:
            await database.dialect.drop_read_table(connection, table)
