"""From zero: fold the whole log into tables beside the live ones, compare the two, and if asked use the new ones."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from sqlalchemy import Table, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import LeaseLostError, RefusedError, StorageUnavailableError
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName
from control_plane.events.log import EventLog
from control_plane.projections.positions import Positions
from control_plane.projections.projection import Projection
from control_plane.projections.projector import create_tables, drop_tables, fold
from control_plane.projections.rows import Rows, json_text
from control_plane.projections.trimming import read_floor_us
from control_plane.storage.engine import Database
from control_plane.storage.leases import Leases
from control_plane.storage.tables import follower

SUFFIX: Final = "_rebuilt"
PAGE: Final = 1000
ROWS_A_READ: Final = 1000


@dataclass(frozen=True, slots=True)
class TableComparison:
    """One table, live and rebuilt: number of rows and SHA-256 over them in the order of their keys."""

    name: str
    live: tuple[int, str]
    rebuilt: tuple[int, str]

    @property
    def is_equal(self) -> bool:
        return self.live == self.rebuilt


async def rebuild(
    projection: type[Projection],
    database: Database,
    log: EventLog,
    *,
    switch: bool,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[TableComparison]:
    """Fold a projection from zero while the live one goes on, and compare both at one position.

    Args:
        switch: put the rebuilt rows in place of the live ones, in the transaction that compares them.
        progress: called with the number of events folded and of all.

    Raises:
        FoldError: an event cannot be folded; a rebuild sets nothing aside.
        RefusedError: `rebuild_running`: two at once would fold into the same tables.
        LeaseLostError: this one stood still for so long that another has begun.
    """
    live, rebuilt = projection(), projection(SUFFIX)
    async with _alone(database, projection.name) as renew:
        await drop_tables(database, rebuilt)
        await create_tables(database, rebuilt)
        try:
            position = await _fold_most(rebuilt, database, log, renew, progress)
            async with database.write() as connection:
                upto = await _locked_position(connection, projection.name)
                for name, at, end in (
                    (EVENT, position.event, upto.event),
                    (HEARTBEAT_EVENT, position.heartbeat, upto.heartbeat),
                ):
                    while name in rebuilt.logs and at < end:
                        at = await _fold_page(rebuilt, connection, database, log, name, at, end)
                floor_us = await read_floor_us(connection)
                pairs = list(zip(live.tables, rebuilt.tables, strict=True))
                compared = [
                    await _compare(connection, old, new, floor_us if old in live.passing else None)
                    for old, new in pairs
                ]
                if switch:
                    for old, new in pairs:
                        await connection.execute(delete(old))
                        await connection.execute(insert(old).from_select(list(old.c.keys()), select(new)))
                    await _start_over(connection, projection())
            return compared
        finally:
            with suppress(LeaseLostError):  # then they are another one's tables by now
                await renew()
                await drop_tables(database, rebuilt)


@asynccontextmanager
async def _alone(database: Database, name: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """The right to use the tables beside the live ones; what this gives is to be called every few seconds."""
    leases = Leases(database, owner=f"rebuild {uuid4()}")
    lease = await leases.acquire(f"rebuild:{name}")
    if lease is None:
        raise RefusedError("rebuild_running", f"{name} is being folded from zero already; wait until that has ended")
    try:
        yield lambda: leases.renew(lease)
    finally:
        with suppress(StorageUnavailableError):  # it ends by itself in four seconds
            await leases.release(lease)


async def _start_over(connection: AsyncConnection, live: Projection) -> None:
    """Nothing is set aside any more, and whoever is projecting takes over anew: it remembers rows of before."""
    await connection.execute(delete(live.parked))
    await connection.execute(update(follower).where(follower.c.name == live.name).values(epoch=0))


async def _fold_most(
    rebuilt: Projection,
    database: Database,
    log: EventLog,
    renew: Callable[[], Awaitable[None]],
    progress: Callable[[int, int], None],
) -> Positions:
    """Fold up to where the live projection stands at the start, page by page; it may have gone on by the end."""
    async with database.read() as connection:
        upto = await _position(connection, rebuilt.name)
    before, total = 0, upto.event + (upto.heartbeat if HEARTBEAT_EVENT in rebuilt.logs else 0)
    for name, end in ((EVENT, upto.event), (HEARTBEAT_EVENT, upto.heartbeat)):
        at = 0
        while name in rebuilt.logs and at < end:
            async with database.write() as connection:
                at = await _fold_page(rebuilt, connection, database, log, name, at, end)
            await renew()
            progress(before + at, total)
        before += at
    return upto


async def _fold_page(
    rebuilt: Projection,
    connection: AsyncConnection,
    database: Database,
    log: EventLog,
    name: LogName,
    after: int,
    end: int,
) -> int:
    """Fold the next events up to `end`; how far that has come."""
    events = await log.read(name, after=after, limit=PAGE, upto=end)
    rows = Rows(connection, database.dialect)
    await fold(rebuilt, rows, events)
    await rows.flush()
    return events[-1].seq if events else end  # none are there where the rest is dropped, and nothing of it kept


async def _position(connection: AsyncConnection, name: str) -> Positions:
    statement = select(follower.c.event_seq, follower.c.heartbeat_seq).where(follower.c.name == name)
    row = (await connection.execute(statement)).one_or_none()
    return Positions(row.event_seq, row.heartbeat_seq) if row else Positions(0, 0)


async def _locked_position(connection: AsyncConnection, name: str) -> Positions:
    """The live position, which stands still until this transaction ends: an update of its row locks it everywhere."""
    await connection.execute(update(follower).where(follower.c.name == name).values(name=name))
    return await _position(connection, name)


async def _compare(connection: AsyncConnection, live: Table, rebuilt: Table, floor_us: int | None) -> TableComparison:
    digests = [await digest(connection, table, floor_us) for table in (live, rebuilt)]
    return TableComparison(live.name, digests[0], digests[1])


async def digest(connection: AsyncConnection, table: Table, floor_us: int | None = None) -> tuple[int, str]:
    """The number of rows, and SHA-256 over them in the order of their keys; of those from a time on, if it is given."""
    count, whole = 0, hashlib.sha256()
    keys = list(table.primary_key.columns)
    wanted = select(table) if floor_us is None else select(table).where(table.c.recorded_us >= floor_us)
    result = await connection.stream(wanted.order_by(*keys).execution_options(yield_per=ROWS_A_READ))
    async for row in result:
        count += 1
        for value in row:
            data = value if isinstance(value, bytes) else json_text(value).encode()
            whole.update(len(data).to_bytes(4, "big") + data)
    return count, whole.hexdigest()
