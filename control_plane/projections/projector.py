"""The loop that keeps read tables equal to the fold of the log.

Rows and position move in one transaction, by compare-and-swap on the position and on the fencing epoch: whoever lost
the lease in mid-batch changes nothing, and no event is folded twice.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Column, Table, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import FoldError, LeaseLostError
from control_plane.events import registry
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, StoredEvent
from control_plane.events.event import Event
from control_plane.events.hosts import HeartbeatReceived
from control_plane.events.log import EventLog
from control_plane.projections.hub import Hub
from control_plane.projections.positions import Positions
from control_plane.projections.projection import Projection
from control_plane.projections.rows import Row, Rows
from control_plane.storage.engine import Database
from control_plane.storage.leases import Lease, Leases
from control_plane.storage.tables import Identifier, Int64, LongText, follower, read_table
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints

PAGE: Final = 1000
POLL_S: Final = 0.25

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """What comes next in each log, and where that leads."""

    events: Sequence[StoredEvent]
    upto: Positions


def parked_table(projection: Projection) -> Table:
    """Where a projection sets aside the events that it cannot fold, and the later ones of the same subject."""
    return read_table(
        f"{projection.name}_parked{projection.suffix}",
        projection.metadata,
        Column("log", Identifier(64), primary_key=True),
        Column("seq", Int64, primary_key=True, autoincrement=False),
        Column("subject", Identifier(), nullable=False, comment="the task or host whose later events wait too"),
        Column("reason", LongText, nullable=False),
    )


class Projector:
    """One projection's loop, as a service; any number may run, and the one with the lease works."""

    def __init__(
        self,
        projection: Projection,
        database: Database,
        log: EventLog,
        leases: Leases,
        hub: Hub,
        *,
        failpoints: Failpoints = NO_FAILPOINTS,
    ) -> None:
        self.projection = projection
        self.name = f"projector {projection.name}"
        self._database = database
        self._log = log
        self._leases = leases
        self._hub = hub
        self._failpoints = failpoints
        self.parked = parked_table(projection)

    async def run(self, stop: asyncio.Event) -> None:
        await self._leases.keep(f"projection:{self.projection.name}", lambda lease: self._work(lease, stop), stop=stop)

    async def _work(self, lease: Lease, stop: asyncio.Event) -> None:
        position = await self._prepare(lease)
        self._hub.moved(self.projection.name, position)
        subjects = await self._parked_subjects()
        while not stop.is_set():
            batch = await self._next(position)
            if batch is None:
                await self._wait(position)
                continue
            position = await self._fold(batch, position, lease, subjects)
            self._hub.moved(self.projection.name, position)

    async def _prepare(self, lease: Lease) -> Positions:
        """Make the tables, or make them anew where their version has changed; take the position over."""
        name = self.projection.name
        statement = select(follower).where(follower.c.name == name)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        if row is not None and row["version"] == self.projection.version:
            await create_tables(self._database, self.projection)
        else:
            await drop_tables(self._database, self.projection)
            await create_tables(self._database, self.projection)
        start = {"name": name, "event_seq": 0, "heartbeat_seq": 0, "version": self.projection.version}
        async with self._database.write() as connection:
            if row is None:
                await connection.execute(insert(follower).values(**start, epoch=lease.epoch))
                return Positions(0, 0)
            is_same = row["version"] == self.projection.version
            moved = await connection.execute(
                update(follower)
                .where(follower.c.name == name, follower.c.epoch < lease.epoch)
                .values(epoch=lease.epoch, **({} if is_same else start))
            )
            if not moved.rowcount:
                raise LeaseLostError(lease.name)
            now = (await connection.execute(statement)).mappings().one()
        return Positions(now["event_seq"], now["heartbeat_seq"])

    async def _next(self, position: Positions) -> Batch | None:
        events: list[StoredEvent] = []
        upto = {EVENT: position.event, HEARTBEAT_EVENT: position.heartbeat}
        for name in self.projection.logs:
            if page := await self._log.read(name, after=upto[name], limit=PAGE):
                events += page
                upto[name] = page[-1].seq
        return Batch(events, Positions(upto[EVENT], upto[HEARTBEAT_EVENT])) if events else None

    async def _wait(self, position: Positions) -> None:
        """Until this process commits something new, or it is time to look what others have committed."""
        after = {EVENT: position.event, HEARTBEAT_EVENT: position.heartbeat}
        waits = [
            asyncio.ensure_future(self._log.wait_beyond(name, after[name], timeout_s=POLL_S))
            for name in self.projection.logs
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _fold(self, batch: Batch, position: Positions, lease: Lease, subjects: set[str]) -> Positions:
        """Fold a batch and move the position; an event that cannot be folded is set aside, and the rest goes on."""
        poison: dict[StoredEvent, FoldError] = {}
        while True:
            try:
                async with self._database.write() as connection:
                    aside = await self._write(connection, batch, subjects, poison)
                    await self._move(connection, position, batch.upto, lease)
                    self._failpoints.hit("projector.before_commit")
            except _PoisonError as found:
                extra = {"projection": self.projection.name, "seq": found.stored.seq, "reason": str(found.error)}
                _logger.exception("event parked", extra=extra)
                poison[found.stored] = found.error
                continue
            self._failpoints.hit("projector.after_commit")
            subjects |= aside
            return batch.upto

    async def _write(
        self,
        connection: AsyncConnection,
        batch: Batch,
        subjects: set[str],
        poison: Mapping[StoredEvent, FoldError],
    ) -> set[str]:
        """Fold what can be folded, park the rest; the subjects whose later events have to wait too."""
        rows = Rows(connection, self._database.dialect)
        aside = set(subjects)
        good: list[StoredEvent] = []
        for stored in batch.events:
            if stored in poison or _subject(stored) in aside:
                aside.add(_subject(stored))
                reason = str(poison.get(stored) or "waits for an earlier event of the same subject")
                rows.put(self.parked, _parked_row(stored, reason))
            else:
                good.append(stored)
        await fold(self.projection, rows, good)
        await rows.flush()
        return aside

    async def _move(self, connection: AsyncConnection, old: Positions, new: Positions, lease: Lease) -> None:
        """Raises LeaseLostError where somebody else has moved the position or taken it over."""
        moved = await connection.execute(
            update(follower)
            .where(
                follower.c.name == self.projection.name,
                follower.c.epoch == lease.epoch,
                follower.c.event_seq == old.event,
                follower.c.heartbeat_seq == old.heartbeat,
            )
            .values(event_seq=new.event, heartbeat_seq=new.heartbeat)
        )
        if not moved.rowcount:
            raise LeaseLostError(lease.name)

    async def _parked_subjects(self) -> set[str]:
        async with self._database.read() as connection:
            return set(await connection.scalars(select(self.parked.c.subject)))


class _PoisonError(Exception):
    def __init__(self, stored: StoredEvent, error: FoldError) -> None:
        super().__init__(str(error))
        self.stored = stored
        self.error = error


async def fold(projection: Projection, rows: Rows, events: Sequence[StoredEvent]) -> None:
    """Fold events into rows: load all that they touch, then apply them in their order.

    Kinds that this release does not know are skipped.
    """
    decoded: list[tuple[StoredEvent, Event]] = []
    for stored in events:
        with _poisoned_by(stored):
            event = registry.decode(stored)
        if event is not None:
            decoded.append((stored, event))
    await rows.load(touched for _, event in decoded for touched in projection.touched(event))
    for stored, event in decoded:
        with _poisoned_by(stored):
            projection.apply(rows, stored, event)


@contextmanager
def _poisoned_by(stored: StoredEvent) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _PoisonError(stored, FoldError(stored.seq, f"{type(error).__name__}: {error}")) from error


def _subject(stored: StoredEvent) -> str:
    """What an event is about: the later ones about it must not overtake it."""
    return stored.task_id or stored.hostname or f"{stored.kind} {stored.seq}"


def _parked_row(stored: StoredEvent, reason: str) -> Row:
    log = HEARTBEAT_EVENT if stored.kind == HeartbeatReceived.KIND else EVENT
    return {"log": log, "seq": stored.seq, "subject": _subject(stored), "reason": reason}


async def create_tables(database: Database, projection: Projection) -> None:
    async with database.write() as connection:
        for table in projection.tables:
            await database.dialect.create_read_table(connection, table)


async def drop_tables(database: Database, projection: Projection) -> None:
    async with database.write() as connection:
        for table in projection.tables:
            await database.dialect.drop_read_table(connection, table)
