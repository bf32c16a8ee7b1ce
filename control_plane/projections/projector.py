"""The loop that keeps read tables equal to the fold of the log.

Rows and position move in one transaction, by compare-and-swap on the position and on the fencing epoch: whoever lost
the lease in mid-batch changes nothing, and no event is folded twice.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Table, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import FoldError, LeaseLostError
from control_plane.events import registry
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, StoredEvent
from control_plane.events.event import Event, UnknownEvent
from control_plane.events.hosts import HeartbeatReceived
from control_plane.events.log import EventLog
from control_plane.observability import Count
from control_plane.projections.hub import Hub
from control_plane.projections.positions import Positions
from control_plane.projections.projection import Projection
from control_plane.projections.rows import Remembered, Row, RowKey, Rows
from control_plane.storage.engine import Database
from control_plane.storage.leases import Lease, Leases
from control_plane.storage.tables import follower
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints

PAGE: Final = 1000
POLL_S: Final = 0.25
SAVE_S: Final = 1.0
UNFINISHED: Final = 0  # the version of tables that are being made anew

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """What comes next in each log, and where that leads."""

    events: Sequence[StoredEvent]
    upto: Positions


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
        count: Count = lambda _what, _number: None,
        failpoints: Failpoints = NO_FAILPOINTS,
    ) -> None:
        self.projection = projection
        self.name = f"projector {projection.name}"
        self._database = database
        self._log = log
        self._leases = leases
        self._hub = hub
        self._count = count
        self._failpoints = failpoints

    async def run(self, stop: asyncio.Event) -> None:
        await self._leases.keep(f"projection:{self.projection.name}", lambda lease: self._work(lease, stop), stop=stop)

    async def _work(self, lease: Lease, stop: asyncio.Event) -> None:
        tenure = await self._prepare(lease)
        self._hub.moved(self.projection.name, tenure.position)
        try:
            while not stop.is_set():
                batch = await self._next(tenure.position)
                if batch is None:
                    await self._save(tenure)
                    await self._wait(tenure.position)
                    continue
                await self._fold(batch, tenure)
                self._hub.moved(self.projection.name, tenure.position)
        finally:
            await tenure.connection.close()

    async def _prepare(self, lease: Lease) -> "_Tenure":
        """Make the tables, or make them anew where their version has changed; take the position over."""
        position = await self._take_over(lease)
        async with self._database.read() as connection:
            subjects = set(await connection.scalars(select(self.projection.parked.c.subject)))
        return _Tenure(lease, await self._database.connect(), position, position, subjects)

    async def _take_over(self, lease: Lease) -> Positions:
        name = self.projection.name
        statement = select(follower).where(follower.c.name == name)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        if row is not None and row["version"] != self.projection.version:
            # The position first: nobody, also after a crash, may take the empty tables for full ones.
            await self._claim(lease, event_seq=0, heartbeat_seq=0, version=UNFINISHED)
            await drop_tables(self._database, self.projection)
        await create_tables(self._database, self.projection)
        if row is None:
            async with self._database.write() as connection:
                # There may be readers, so they are emptied and not dropped.
                for table in self.projection.metadata.sorted_tables:
                    await connection.execute(delete(table))
                start = {"event_seq": 0, "heartbeat_seq": 0, "version": self.projection.version}
                await connection.execute(insert(follower).values(name=name, **start, epoch=lease.epoch))
        return await self._claim(lease, version=self.projection.version)

    async def _claim(self, lease: Lease, **values: int) -> Positions:
        """Put our epoch into the follower's row, and more; LeaseLostError where a later holder's is there already."""
        is_ours = (follower.c.name == self.projection.name, follower.c.epoch <= lease.epoch)
        async with self._database.write() as connection:
            moved = await connection.execute(update(follower).where(*is_ours).values(epoch=lease.epoch, **values))
            if not moved.rowcount:
                raise LeaseLostError(lease.name)
            row = (await connection.execute(select(follower).where(*is_ours))).one()
        return Positions(row.event_seq, row.heartbeat_seq)

    async def _next(self, position: Positions) -> Batch | None:
        events: list[StoredEvent] = []
        upto = {EVENT: position.event, HEARTBEAT_EVENT: position.heartbeat}
        for name in self.projection.logs:
            if page := await self._log.read(name, after=upto[name], limit=PAGE, patience_s=POLL_S):
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

    async def _fold(self, batch: Batch, tenure: "_Tenure") -> None:
        """Fold a batch and move the position; an event that cannot be folded is set aside, and the rest goes on."""
        poison: dict[StoredEvent, FoldError] = {}
        while True:
            try:
                await self._fold_without(poison, batch, tenure)
            except _PoisonError as found:
                extra = {"projection": self.projection.name, "seq": found.stored.seq, "reason": str(found.error)}
                _logger.exception("event parked", extra=extra)
                poison[found.stored] = found.error
                tenure.remembered = Remembered()
            else:
                return

    async def _fold_without(self, poison: Mapping[StoredEvent, FoldError], batch: Batch, tenure: "_Tenure") -> None:
        aside = set(tenure.subjects)
        good: list[StoredEvent] = []
        parked: list[Row] = []
        for stored in batch.events:
            if stored in poison or _subject(stored) in aside:
                aside.add(_subject(stored))
                reason = str(poison.get(stored) or "waits for an earlier event of the same subject")
                parked.append(_parked_row(stored, reason))
            else:
                good.append(stored)
        rows = Rows(tenure.connection, self._database.dialect, tenure.remembered)
        events = decode(self.projection, good)
        # A batch that touches nothing moves the position in memory alone; it is saved with the next one that does.
        if parked or any(self.projection.concerns(event) for _, event in events):
            async with self._database.write(tenure.connection) as connection:
                await self._move(connection, tenure, batch.upto)  # first: a rebuild locks that row first, too
                await apply(self.projection, rows, events)
                for row in parked:
                    rows.put(self.projection.parked, row)
                await rows.flush()
                self._failpoints.hit("projector.before_commit")
            self._failpoints.hit("projector.after_commit")
            rows.committed()
            tenure.saved = batch.upto
        if skipped := len(good) - len(events):
            self._count(f"unknown_kinds_skipped_by_{self.projection.name}", skipped)
        tenure.position = batch.upto
        tenure.subjects = aside

    async def _save(self, tenure: "_Tenure") -> None:
        """Save a position that has moved in memory alone, once a second at most."""
        loop = asyncio.get_running_loop()
        if tenure.saved != tenure.position and loop.time() >= tenure.save_s:
            async with self._database.write(tenure.connection) as connection:
                await self._move(connection, tenure, tenure.position)
            tenure.saved = tenure.position
            tenure.save_s = loop.time() + SAVE_S

    async def _move(self, connection: AsyncConnection, tenure: "_Tenure", upto: Positions) -> None:
        """Raises LeaseLostError where somebody else has moved the position or taken it over."""
        moved = await connection.execute(
            update(follower)
            .where(
                follower.c.name == self.projection.name,
                follower.c.epoch == tenure.lease.epoch,
                follower.c.event_seq == tenure.saved.event,
                follower.c.heartbeat_seq == tenure.saved.heartbeat,
            )
            .values(event_seq=upto.event, heartbeat_seq=upto.heartbeat)
        )
        if not moved.rowcount:
            raise LeaseLostError(tenure.lease.name)


@dataclass(slots=True)
class _Tenure:
    """What one holder of the lease works with.

    Attributes:
        position: what is folded; `saved` what is in the follower's row, which lags where nothing had to be written.
        subjects: those whose events are set aside.
        save_s: when `saved` may follow next, by the loop's clock.
    """

    lease: Lease
    connection: AsyncConnection
    position: Positions
    saved: Positions
    subjects: set[str]
    remembered: Remembered = field(default_factory=Remembered)
    save_s: float = 0.0


class _PoisonError(Exception):
    def __init__(self, stored: StoredEvent, error: FoldError) -> None:
        super().__init__(str(error))
        self.stored = stored
        self.error = error


async def fold(projection: Projection, rows: Rows, events: Sequence[StoredEvent]) -> None:
    """Fold events into rows; kinds that this release does not know are skipped by who does not need them.

    Raises:
        FoldError: one of them cannot be folded.
    """
    try:
        await apply(projection, rows, decode(projection, events))
    except _PoisonError as poison:
        raise poison.error from poison.__cause__


def decode(projection: Projection, events: Sequence[StoredEvent]) -> list[tuple[StoredEvent, Event]]:
    """The events that a projection folds; without those of unknown kinds, where it does not take them."""
    decoded: list[tuple[StoredEvent, Event]] = []
    unknown = UnknownEvent() if projection.takes_unknown else None
    for stored in events:
        with _poisoned_by(stored):
            event = registry.decode(stored) or unknown
        if event is not None:
            decoded.append((stored, event))
    return decoded


async def apply(projection: Projection, rows: Rows, events: Sequence[tuple[StoredEvent, Event]]) -> None:
    """Load all rows that the events touch, then apply them in their order."""
    touched: list[tuple[Table, RowKey]] = []
    for stored, event in events:
        with _poisoned_by(stored):
            touched += projection.touched(event)
    await rows.load(touched)
    for stored, event in events:
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
        for table in projection.metadata.sorted_tables:
            await database.dialect.create_read_table(connection, table)


async def drop_tables(database: Database, projection: Projection) -> None:
    async with database.write() as connection:
        for table in projection.metadata.sorted_tables:
            await database.dialect.drop_read_table(connection, table)
