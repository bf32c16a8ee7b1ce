"""SQLite 3.37 and later, by aiosqlite: the only file that knows it."""

import asyncio
import logging
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import aiosqlite
from sqlalchemy import Column, ColumnElement, Table, delete, func, literal_column, select, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateTable, DropTable

from control_plane.errors import ConfigurationError, DuplicateKeyError, StorageUnavailableError, UnstorableError
from control_plane.storage.dialect import Account, EventColumns, KeyBytes, Value, decoded, possible_renames
from control_plane.storage.tables import Identifier

log = logging.getLogger(__name__)

PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "busy_timeout=5000",
    "recursive_triggers=ON",
    "foreign_keys=ON",
)
WRITES: Final = "sqlite_writes"  # the execution option of a transaction that is going to write
OLDEST: Final = (3, 37, 0)  # STRICT tables
ENDLESS: Final = 2**63 - 1
DELETED_ROWS: Final = 5000  # in one transaction: every other writer waits for it

REFUSED_VALUE: Final = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT_NOTNULL,
        sqlite3.SQLITE_CONSTRAINT_CHECK,
        sqlite3.SQLITE_TOOBIG,
        3091,  # SQLITE_CONSTRAINT_DATATYPE, which Python 3.11 has no name for: a wrong type in a STRICT table
    }
)
DUPLICATE_KEY: Final = frozenset({sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE})
OUR_DEFECT: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_CONSTRAINT_TRIGGER})

_TEXTS: Final = ("kind", "task_id", "hostname", "actor", "body", "signature", "key_id")
_LENGTHS: Final = ", ".join(f"ifnull(length({name}), 4294967295)" for name in _TEXTS)
# In hex: SQLite concatenates text only. %X writes a negative number in two's complement, as it is hashed.
LEAF: Final = (
    f"printf('00%016X%016X%04X%02X%016X{'%08X' * len(_TEXTS)}', "
    f"seq, recorded_us, schema_v, occurred_us IS NOT NULL, ifnull(occurred_us, 0), {_LENGTHS})"
    f" || {' || '.join(f'hex({name})' for name in _TEXTS)}"
)


def append_only(table: str, keys: Sequence[str]) -> list[str]:
    """Statements that make the database refuse to change a table's rows, whoever asks. Migrations have run them."""
    refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    same = " AND ".join(f"{key} = NEW.{key}" for key in keys)
    is_there = f"EXISTS (SELECT 1 FROM {table} WHERE {same})"  # noqa: S608 - names of ours
    return [
        f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {refuse}",
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {refuse}",
        # REPLACE passes the delete trigger silently wherever a connection has not set recursive_triggers.
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {is_there} {refuse}",
    ]


def droppable(table: str) -> list[str]:
    """Statements that make an append-only table let go of dropped segments, and of nothing else."""
    dropped = f"SELECT MAX(last_seq) FROM log_segment WHERE log = x'{table.encode().hex()}'"  # noqa: S608 - hex of ours
    return [
        f"DROP TRIGGER {table}_no_delete",
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} WHEN OLD.seq > COALESCE(({dropped}), 0) "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END",
    ]


def is_file(name: str) -> bool:
    """Whether it names a file, there already or not yet: not one in memory, a directory, or a URI of SQLite's."""
    path = Path(name)
    return not name.startswith((":memory:", "file:")) and path.name != "" and not path.is_dir()


def keep_private(path: Path) -> None:
    """Make a new database's file for its owner alone, which SQLite hands on to those beside it, and close old ones."""
    with suppress(OSError):  # it is there, or cannot be made, which the driver will tell
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        try:
            if each.stat().st_mode & 0o077:
                each.chmod(0o600)
                log.warning(
                    "a file of the database could be read by others, and cannot any more", extra={"path": str(each)}
                )
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning(
                "a file of the database may be read by others", extra={"path": str(each), "reason": error.strerror}
            )


def prepare(engine: Engine) -> None:
    """Make every connection strict and durable, and every transaction begin as what it is.

    The driver's own way runs a first SELECT before the transaction, and lets two writers overwrite each other.
    """
    listen(engine, "connect", _set_pragmas)
    listen(engine, "begin", _begin)


def _set_pragmas(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A reading transaction that turns to writing after another's commit fails at once, without waiting.
    writes = connection.get_execution_options().get(WRITES, False)
    sql = "BEGIN IMMEDIATE" if writes else "BEGIN"
    try:
        with _translated():
            connection.connection.run_async(lambda driver: driver.execute_fetchall(sql))
    except asyncio.CancelledError as error:
        connection.invalidate(error)  # the driver's thread goes on, and nobody would end what it has begun
        raise


async def _driver(connection: AsyncConnection) -> aiosqlite.Connection:
    """The driver's own connection. Each of its calls is one hop to its thread; SQLAlchemy makes four of a statement."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, aiosqlite.Connection)  # noqa: S101 - the engine was made with this driver
    return driver


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _meaning(error) from error


def _meaning(error: sqlite3.Error) -> Exception:
    code = error.sqlite_errorcode
    if code in DUPLICATE_KEY:
        return DuplicateKeyError(str(error))
    if code in REFUSED_VALUE:
        return UnstorableError(0, str(error))
    return error if code in OUR_DEFECT else StorageUnavailableError(str(error))


def recognise() -> "SqliteDialect":
    """The dialect of this SQLite, seen to be one that will do; ConfigurationError says what to change."""
    if sqlite3.sqlite_version_info < OLDEST:
        raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old: 3.37 or later is needed")
    return SqliteDialect()


class SqliteDialect:
    """See `Dialect`."""

    name = f"SQLite {sqlite3.sqlite_version}"
    read_schema = None  # attached files do not commit together
    has_one_writer = True
    most_quiet_s = math.inf
    needs_administrator = False

    def clock_us(self) -> ColumnElement[int]:
        # In milliseconds: unixepoch('subsec') needs 3.42, bookworm has 3.40.
        return literal_column("CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000")

    async def run(self, connection: AsyncConnection, sql: str) -> Sequence[Any]:
        driver = await _driver(connection)
        with _translated():
            return list(await driver.execute_fetchall(sql))

    def ready(self, values: Sequence[Value]) -> Sequence[Value]:
        return values

    async def bulk_insert(self, connection: AsyncConnection, table: Table, rows: Sequence[Sequence[Value]]) -> None:
        if not rows:
            return
        names = [column.name for column in table.columns]
        try:
            await _write_many(connection, _insert(table, names), rows)
        except sqlite3.IntegrityError as error:  # the trigger that stops REPLACE has seen it before the primary key did
            raise DuplicateKeyError(str(error)) from error

    async def bulk_upsert(self, connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Value]]) -> None:
        if not rows:
            return
        names = list(rows[0])
        keys = [column.name for column in table.primary_key]
        updates = ", ".join(f'"{name}" = excluded."{name}"' for name in names if name not in keys)
        action = f"DO UPDATE SET {updates}" if updates else "DO NOTHING"
        sql = f"{_insert(table, names)} ON CONFLICT ({_list(keys)}) {action}"
        columns = [table.columns[name] for name in names]
        stored = [[_stored(column, row[column.name]) for column in columns] for row in rows]
        await _write_many(connection, sql, stored)

    async def find_keys(
        self, connection: AsyncConnection, table: Table, keys: Sequence[KeyBytes]
    ) -> list[tuple[KeyBytes, bytes, int]]:
        names = _list([column.name for column in table.primary_key])
        marks = ", ".join(["(?, ?, ?, ?)"] * len(keys))
        sql = (
            f'SELECT {names}, digest, seq FROM "{table.name}" '  # noqa: S608 - names of ours and marks
            f"WHERE ({names}) IN (VALUES {marks})"
        )
        driver = await _driver(connection)
        with _translated():
            found = await driver.execute_fetchall(sql, [part for key in keys for part in key])
        return [((task_id, kind, hostname, part), digest, seq) for task_id, kind, hostname, part, digest, seq in found]

    async def delete_keys(self, connection: AsyncConnection, table: Table, keys: Sequence[KeyBytes], upto: int) -> None:
        same = " AND ".join(f'"{column.name}" = ?' for column in table.primary_key)
        sql = f'DELETE FROM "{table.name}" WHERE {same} AND seq <= ?'  # noqa: S608 - names of ours and marks
        await _write_many(connection, sql, [(*key, upto) for key in keys])

    async def segments(self, connection: AsyncConnection, table: Table, rows: int) -> list[int]:
        newest: int = (await connection.execute(select(func.max(table.c.seq)))).scalar() or 0
        return [*range(rows, newest + 1, rows), ENDLESS]

    async def add_segments(self, connection: AsyncConnection, table: Table, last_seqs: Sequence[int]) -> None:
        """Nothing to do: a segment here is a range of seq, and no more."""

    async def drop_segment(self, connection: AsyncConnection, table: Table, upto: int) -> bool:
        first: int | None = (await connection.execute(select(func.min(table.c.seq)))).scalar()
        if first is None or first > upto:
            return True
        some = min(upto, first + DELETED_ROWS - 1)
        await connection.execute(delete(table).where(table.c.seq <= some))
        return some == upto

    async def leaf_data(
        self, connection: AsyncConnection, table: Table, after: int, upto: int, *, below_bytes: int
    ) -> bytes:
        sql = (
            f"SELECT group_concat({LEAF}, '') FROM \"{table.name}\" "  # noqa: S608 - names of ours
            "WHERE seq > ? AND seq <= ? AND length(body) < ?"
        )
        driver = await _driver(connection)
        with _translated():
            found = list(await driver.execute_fetchall(sql, (after, upto, below_bytes)))
        return bytes.fromhex(found[0][0] or "")

    async def event_rows(
        self, connection: AsyncConnection, table: Table, after: int, upto: int, *, below_bytes: int
    ) -> Sequence[EventColumns]:
        sql = (
            f'SELECT {_list(list(table.columns.keys()))} FROM "{table.name}" '  # noqa: S608 - names of ours
            "WHERE seq > ? AND seq <= ? AND length(body) < ? ORDER BY seq"
        )
        driver = await _driver(connection)
        with _translated():
            return list(map(decoded, await driver.execute_fetchall(sql, (after, upto, below_bytes))))

    async def event_rows_at(
        self, connection: AsyncConnection, table: Table, seqs: Sequence[int], *, below_bytes: int
    ) -> Sequence[EventColumns]:
        sql = (
            f'SELECT {_list(list(table.columns.keys()))} FROM "{table.name}" '  # noqa: S608 - names of ours and numbers
            f"WHERE seq IN ({','.join(f'{seq:d}' for seq in seqs)}) AND length(body) < ?"
        )
        driver = await _driver(connection)
        with _translated():
            return list(map(decoded, await driver.execute_fetchall(sql, (below_bytes,))))

    async def digest_rows(
        self, connection: AsyncConnection, table: Table, condition: ColumnElement[bool]
    ) -> tuple[int, bytes]:
        names = list(table.columns.keys())
        raw: list[ColumnElement[object]] = [
            literal_column(f'"{name}"') for name in names
        ]  # past the types of SQLAlchemy
        wanted = select(*raw).select_from(table).where(condition).order_by(*table.primary_key.columns)
        rows = [tuple(row) for row in await connection.execute(wanted)]
        return len(rows), sha256(repr(rows).encode()).digest()

    async def create_read_table(self, connection: AsyncConnection, table: Table, *, indexed: bool = True) -> None:
        await connection.execute(CreateTable(table, if_not_exists=True))
        if indexed:
            await self.create_read_indexes(connection, table)

    async def create_read_indexes(self, connection: AsyncConnection, table: Table) -> None:
        found = text("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = :table")
        there = {name.partition("-")[0] for name in (await connection.execute(found, {"table": table.name})).scalars()}
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if index.name not in there:
                # The name has to be the only one in the file, and stays when the table is renamed.
                name, columns = f"{index.name}-{token_hex(4)}", _list([column.name for column in index.columns])
                await connection.execute(text(f'CREATE INDEX "{name}" ON "{table.name}" ({columns})'))

    async def drop_read_table(self, connection: AsyncConnection, table: Table) -> None:
        await connection.execute(DropTable(table, if_exists=True))

    async def read_table_names(self, connection: AsyncConnection) -> set[str]:
        found = await connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))
        return set(found.scalars())

    async def rename_read_tables(self, connection: AsyncConnection, names: Sequence[tuple[str, str]]) -> None:
        for old, new in possible_renames(names, await self.read_table_names(connection)):
            await connection.execute(text(f'ALTER TABLE "{old}" RENAME TO "{new}"'))

    def grants(self, account: Account) -> list[str]:
        return []

    def excess(self, account: Account) -> list[str]:
        return []

    def translate(self, error: DBAPIError) -> Exception:
        meaning = _meaning(error.orig) if isinstance(error.orig, sqlite3.Error) else error
        return error if meaning is error.orig else meaning


async def _write_many(connection: AsyncConnection, sql: str, rows: Sequence[Sequence[Value]]) -> None:
    driver = await _driver(connection)
    with _translated():
        await driver.executemany(sql, rows)


def _list(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _insert(table: Table, names: Sequence[str]) -> str:
    return f'INSERT INTO "{table.name}" ({_list(names)}) VALUES ({", ".join("?" * len(names))})'  # noqa: S608 - names of ours


def _stored(column: Column[object], value: Value) -> Value:
    """The value as the column keeps it; what the driver is told directly passes no type of SQLAlchemy's."""
    if isinstance(value, str) and isinstance(column.type, Identifier):
        return value.encode()
    return int(value) if isinstance(value, bool) else value
