"""Blocks of usages go when the heartbeats go that they are made of: the only other writer of a read table.

It deletes what a rebuild could not make again: blocks that no event stands behind any more. The newest of them stay:
who asks how a host was at a moment wants its last heartbeat before that.
"""

from typing import Final

from sqlalchemy import Table, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.events.envelope import HEARTBEAT_EVENT
from control_plane.events.pages import read_dropped
from control_plane.projections.projection import Projection
from control_plane.projections.usage import BLOCK_US
from control_plane.storage.engine import Database
from control_plane.storage.tables import follower

ROWS_AT_ONCE: Final = 5000
HOSTS_AT_ONCE: Final = 500
LONGER_US: Final = 3_600_000_000  # a block stays so much longer than what it is made of


async def read_floor_us(connection: AsyncConnection) -> int:
    """The time before which there is no heartbeat in the log any more."""
    return (await read_dropped(connection, HEARTBEAT_EVENT)).recorded_us + 1


async def _read_old_us(connection: AsyncConnection) -> int:
    """The last time at which a block can have begun that goes."""
    return await read_floor_us(connection) - LONGER_US - BLOCK_US


async def trim(database: Database, projection: Projection) -> int:
    """Delete the blocks whose events are dropped; how many there were. Wants tables that a projector has made."""
    count = 0
    async with database.read() as connection:
        exists = select(follower.c.name).where(follower.c.name == projection.name)
        if await connection.scalar(exists) is None:
            return 0
        old_us = await _read_old_us(connection)
    for table in projection.passing:
        at: str | None = ""
        while at is not None:
            hosts, at = await _next_hosts(database, table, at, old_us)
            for hostname in hosts:
                deleted = ROWS_AT_ONCE
                while deleted == ROWS_AT_ONCE:
                    deleted = await _delete_some(database, projection, table, hostname)
                    count += deleted
    return count


async def _next_hosts(database: Database, table: Table, after: str, old_us: int) -> tuple[list[str], str | None]:
    """Of the next hosts in the order of the primary key those with an old row, and the last of all; None at the end."""
    oldest = select(table.c.hostname, func.min(table.c.since_us)).where(table.c.hostname > after)
    async with database.read() as connection:
        rows = oldest.group_by(table.c.hostname).order_by(table.c.hostname).limit(HOSTS_AT_ONCE)
        found = (await connection.execute(rows)).all()
    return [name for name, since_us in found if since_us <= old_us], found[-1][0] if found else None


async def _delete_some(database: Database, projection: Projection, table: Table, hostname: str) -> int:
    """Delete the oldest rows of one host; how many."""
    is_its = table.c.hostname == hostname
    async with database.write() as connection:
        # First, as a projector's batch does: two who lock rows in one order do not end in a deadlock.
        name = projection.name
        await connection.execute(update(follower).where(follower.c.name == name).values(name=name))
        old = select(table.c.since_us).where(is_its, table.c.since_us <= await _read_old_us(connection))
        times = list(await connection.scalars(old.order_by(table.c.since_us).limit(ROWS_AT_ONCE)))
        if times:
            await connection.execute(delete(table).where(is_its, table.c.since_us <= times[-1]))
    return len(times)
