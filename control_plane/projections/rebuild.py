"""From zero: fold the whole log into tables beside the live ones, compare the two, and if asked use the new ones.

The live tables go on meanwhile. Two copies are compared at one position, each in a snapshot, so nobody waits for that.
The new ones are put in place in one statement, when both stand at the same position and nobody else may move it; the
old ones stay, and can be brought up to date and put back the same way.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal
from uuid import uuid4

from sqlalchemy import delete, select

from control_plane.errors import RefusedError
from control_plane.events.envelope import HEARTBEAT_EVENT
from control_plane.events.log import EventLog
from control_plane.projections.ahead import seldom_collecting
from control_plane.projections.compare import TableComparison, compare
from control_plane.projections.folding import (
    OLD,
    REBUILT,
    Folding,
    claim,
    create_indexes,
    drop_tables,
    folding,
    put_in_place,
)
from control_plane.projections.positions import Positions
from control_plane.projections.projection import Projection
from control_plane.projections.trimming import read_floor_us, trim
from control_plane.storage.engine import Database
from control_plane.storage.leases import Lease, Leases
from control_plane.storage.tables import follower
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints

PAGE: Final = 5000
ATTEMPTS: Final = 2  # at a comparison that differs: MariaDB may show a commit a moment before the one before it

Progress = Callable[[int, int], None]


async def rebuild(
    projection: type[Projection],
    database: Database,
    log: EventLog,
    *,
    then: Literal["drop", "switch", "keep"],
    resume: bool = False,
    progress: Progress = lambda _done, _total: None,
    failpoints: Failpoints = NO_FAILPOINTS,
) -> list[TableComparison]:
    """Fold a projection from zero while the live one goes on, and compare both at one position.

    Args:
        then: what becomes of the rebuilt tables. "drop": they were made to compare. "switch": they are put in place of
            the live ones, which are kept for `roll_back`. "keep": they wait for the start of a release that knows their
            version.
        resume: go on where an earlier rebuild was stopped; else what that has left is dropped.
        progress: called with the number of events folded and of all.

    Returns:
        One comparison a table; none where the live tables are of another version.

    Raises:
        FoldError: an event cannot be folded; a rebuild sets nothing aside.
        RefusedError: `rebuild_running`: two at once would fold into the same tables. `not_folded`: there is nothing
            yet to rebuild. `other_version`: a release that knows other tables is running, so they cannot be switched.
        LeaseLostError: this one stood still for so long that another has begun.
    """
    live, fresh = projection(), projection(REBUILT)
    _, version = await _row_of(database, live)
    if then == "switch" and version != projection.version:
        raise RefusedError(
            "other_version", f"{live.name} is shown in version {version}: keep the new one for the start"
        )
    leases = Leases(database, owner=f"rebuild {uuid4()}")
    async with _alone(leases, fresh) as lease:
        if not resume:
            await _forget(database, fresh)
        async with folding(fresh, database, log, lease, sets_aside=False, indexed=False) as tenure:
            upto, version = await _row_of(database, live)
            await _fold_upto(tenure, upto, fresh, progress)
            failpoints.hit("rebuild.folded")
            await create_indexes(database, fresh)
            same_shape = version == projection.version
            compared = await _compared(database, live, fresh, tenure) if same_shape else []
            if then == "switch":
                await _forget(database, projection(OLD))
                failpoints.hit("rebuild.before_switch")
                await _switch(database, leases, live, fresh, tenure)
                failpoints.hit("rebuild.after_switch")
        if then == "drop":
            await _forget(database, fresh)
    return compared


async def roll_back(projection: type[Projection], database: Database, log: EventLog) -> None:
    """Bring the tables from before the last switch up to date, and put them back.

    Raises:
        RefusedError: `nothing_to_roll_back`, or as `rebuild` does.
    """
    live, old = projection(), projection(OLD)
    async with database.read() as connection:
        version = await connection.scalar(select(follower.c.version).where(follower.c.name == old.key))
    if version != projection.version:
        raise RefusedError(
            "nothing_to_roll_back", f"there are no earlier tables of {live.name} that this release knows"
        )
    leases = Leases(database, owner=f"rebuild {uuid4()}")
    async with (
        _alone(leases, projection(REBUILT)) as lease,
        folding(old, database, log, lease, sets_aside=False) as tenure,
    ):
        upto, _ = await _row_of(database, live)
        await _fold_upto(tenure, upto, old, lambda _done, _total: None)
        await _switch(database, leases, live, old, tenure)


async def retry_parked(projection: type[Projection], database: Database, log: EventLog) -> tuple[int, int]:
    """Fold what the live projection has set aside, in its order; how many could be, and how many still cannot.

    Whoever projects starts over afterwards.
    """
    live = projection()
    await _row_of(database, live)
    leases = Leases(database, owner=f"retry {uuid4()}")
    lease = await leases.take(live.lease)
    async with leases.renewing(lease), folding(live, database, log, lease) as tenure:
        return await tenure.retry()


@asynccontextmanager
async def _alone(leases: Leases, copy: Projection) -> AsyncIterator[Lease]:
    """The right to fold beside the live tables, and to switch: one at a time, whichever copy it is of."""
    lease = await leases.acquire(copy.lease)
    if lease is None:
        raise RefusedError("rebuild_running", f"{copy.name} is being folded already; wait until that has ended")
    async with leases.renewing(lease):
        yield lease


async def _row_of(database: Database, live: Projection) -> tuple[Positions, int]:
    """Where the live projection stands, and the version of its tables."""
    async with database.read() as connection:
        row = (await connection.execute(select(follower).where(follower.c.name == live.key))).one_or_none()
    if row is None:
        raise RefusedError(
            "not_folded", f"{live.name} has not been folded yet: run the server with the role projectors"
        )
    return Positions(row.event_seq, row.heartbeat_seq), row.version


async def _forget(database: Database, copy: Projection) -> None:
    """Drop a copy; its position first, so that nobody takes what is left for whole."""
    async with database.write() as connection:
        await connection.execute(delete(follower).where(follower.c.name == copy.key))
    await drop_tables(database, copy)


async def _fold_upto(tenure: Folding, upto: Positions, copy: Projection, progress: Progress) -> None:
    def count(position: Positions) -> int:
        return position.event + (position.heartbeat if HEARTBEAT_EVENT in copy.logs else 0)

    with seldom_collecting():
        await tenure.fold_upto(upto, lambda position: progress(count(position), count(upto)))


async def _compared(database: Database, live: Projection, fresh: Projection, tenure: Folding) -> list[TableComparison]:
    compared: list[TableComparison] = []
    for _ in range(ATTEMPTS):
        async with database.snapshot() as shown, database.snapshot() as rebuilt:
            position = (await shown.execute(select(follower).where(follower.c.name == live.key))).one()
            upto = Positions(position.event_seq, position.heartbeat_seq)
            while await tenure.step(upto=upto, limit=PAGE):
                pass
            # Read last: what could not be folded any more was dropped before, and what is trimmed is older.
            floor_us = await read_floor_us(rebuilt)
            pairs = zip(live.tables, fresh.tables, strict=True)
            compared = [
                await compare(
                    database.dialect, shown, one, rebuilt, other, since_us=floor_us if one in live.passing else None
                )
                for one, other in pairs
            ]
        if all(table.is_equal for table in compared):
            break
    return compared


async def _switch(database: Database, leases: Leases, live: Projection, copy: Projection, tenure: Folding) -> None:
    """Put a copy in place of the live tables. After a crash anywhere either are live, whole, at the same position."""
    taken = await leases.take(live.lease)
    async with leases.renewing(taken):
        upto = await claim(live, database, taken)  # from here on nobody but us moves it
        while await tenure.step(upto=upto, limit=PAGE):
            pass
        await tenure.save(at_once=True)
        async with database.write() as connection:
            await put_in_place(connection, database.dialect, copy, upto)
    await trim(database, live)  # the copy may have rows that the live tables had lost
