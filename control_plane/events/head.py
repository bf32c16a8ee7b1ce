"""The head row of a log: where the log ends, and whose turn it is to append."""

from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import ConfigurationError, LogDamagedError
from control_plane.events.envelope import Head, LogName
from control_plane.events.merkle import CompactRange
from control_plane.storage.dialect import Dialect
from control_plane.storage.engine import Database
from control_plane.storage.tables import log_head

_COLUMNS = "seq, recorded_us, tree"
_READ = select(log_head.c.seq, log_head.c.recorded_us, log_head.c.tree).where(log_head.c.log == bindparam("name"))
_SHARE = _READ.with_for_update(read=True)


async def read_head(connection: AsyncConnection, log: LogName) -> Head:
    return _head(log, (await connection.execute(_READ, {"name": log})).one_or_none())


async def share_head(connection: AsyncConnection, log: LogName) -> Head:
    """The head, which nobody moves until the transaction ends; others may share it."""
    return _head(log, (await connection.execute(_SHARE, {"name": log})).one_or_none())


async def lock_head(dialect: Dialect, connection: AsyncConnection, log: LogName) -> tuple[Head, str | None]:
    """The head, which is ours alone until the transaction ends; and why nothing may be appended, where that is so."""
    lock = "" if dialect.has_one_writer else " FOR UPDATE"  # which is locked since its BEGIN
    sql = f"SELECT {_COLUMNS}, closed FROM log_head WHERE log = x'{log.encode().hex()}'{lock}"  # noqa: S608 - names of ours
    row = next(iter(await dialect.run(connection, sql)), None)
    closed = row[3] if row is not None else None
    return _head(log, row), None if closed is None else closed.decode()


async def move_head(dialect: Dialect, connection: AsyncConnection, log: LogName, head: Head) -> None:
    moved = f"seq = {head.seq:d}, recorded_us = {head.recorded_us:d}, tree = x'{head.tree.to_bytes().hex()}'"
    await dialect.run(
        connection,
        f"UPDATE log_head SET {moved} WHERE log = x'{log.encode().hex()}'",  # noqa: S608 - numbers and hex
    )


async def read_closed(connection: AsyncConnection, log: LogName) -> str | None:
    """Why nothing may be appended; None where it may."""
    return await connection.scalar(select(log_head.c.closed).where(log_head.c.log == log))


async def close(database: Database, log: LogName, why: str) -> None:
    """Let nobody append to a log, any more; the first reason stands."""
    is_open = (log_head.c.log == log, log_head.c.closed.is_(None))
    async with database.write() as connection:
        await connection.execute(update(log_head).where(*is_open).values(closed=why))


async def reopen(database: Database, log: LogName) -> None:
    async with database.write() as connection:
        await connection.execute(update(log_head).where(log_head.c.log == log).values(closed=None))


def cut_off(head: int, known: int) -> str:
    """Why a log is closed that ends at one seq though there was another."""
    return f"ends at {head}, and there were {known} events"


def _head(log: LogName, row: Row[int, int, bytes] | None) -> Head:
    if row is None:
        raise ConfigurationError("the database has no log yet: run control-plane migrate")
    seq, recorded_us, tree = row[:3]
    try:
        return Head(seq, recorded_us, CompactRange.from_bytes(seq, tree))
    except ValueError as error:
        raise LogDamagedError(log, seq, f"is a head that cannot be: {error}") from error
