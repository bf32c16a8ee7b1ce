"""MySQL 8 and MariaDB 10.6, by aiomysql: the only file that knows them, with `mysql_text.py`."""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import URL, ColumnElement, Engine, Table, func, literal_column, select, text
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError, DisconnectionError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, PoolProxiedConnection
from sqlalchemy.schema import CreateTable, DropTable

from control_plane.errors import ConfigurationError, DuplicateKeyError, StorageUnavailableError, UnstorableError
from control_plane.storage import mysql_tls
from control_plane.storage.dialect import Account, EventColumns, KeyBytes, Value, possible_renames
from control_plane.storage.mysql_text import LEAF, ROWS_A_VALUE, literals, ready, rows_in, statements
from control_plane.storage.tables import RIGHTS

LEAST_PACKET_BYTES: Final = 64 * 1024 * 1024  # an 8 MiB result, escaped, with room
ALTER_WAITS_S: Final = 2

POOL_OPTIONS: Final = {"pool_recycle": 1800, "pool_pre_ping": True, "pool_use_lifo": True}
SESSION: Final = (
    "SET time_zone='+00:00', innodb_lock_wait_timeout=5, "
    "sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', group_concat_max_len=67108864"
)
VANISHED_S: Final = 20


def lets_go(after_s: int) -> str:
    """The end of `SESSION` by which the server ends a transaction that its client has left idle, and so its locks.

    One whose machine loses its power says nothing, and TCP misses it after two hours: so long nobody could append.
    """
    # The first comment is for MariaDB, the second for MySQL, which can only end whole sessions.
    return f"/*M!100600 , idle_transaction_timeout={after_s} */ /*!80020 , wait_timeout={after_s} */"


_CONNECT: Final = {"connect_timeout": 5, "init_command": SESSION}
WRITING_OPTIONS: Final = {
    "isolation_level": "READ COMMITTED",  # the default freezes what a session sees, and its gap locks deadlock
    "connect_args": {**_CONNECT, "init_command": f"{SESSION} {lets_go(VANISHED_S)}"},
}
SNAPSHOT_OPTIONS: Final = {"isolation_level": "REPEATABLE READ", "connect_args": _CONNECT}  # locks nothing, may idle

# Reads are single statements: without a transaction around each, a read is one round trip instead of four.
READING_OPTIONS: Final = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True, "connect_args": _CONNECT}
READING_POOL_OPTIONS: Final = {
    **POOL_OPTIONS,
    "pool_reset_on_return": None,
    "pool_pre_ping": False,  # see `ping_when_idle`
}
IDLE_S: Final = 5.0
RENAME_S: Final = 2  # to wait for those who read a table, while no projector may work on it

REFUSED_VALUE: Final = frozenset({1048, 1153, 1264, 1265, 1292, 1366, 1406, 1526, 3819, 4025})
DUPLICATE_KEY: Final = 1062
MISSING_RIGHT: Final = frozenset({1044, 1045, 1142, 1143, 1227, 1370, 1410})
TRIGGER_NEEDS_RIGHT: Final = 1419
# Of a cluster's node: it has lost the others, or not joined them yet; it only reads now, another one is the writer.
WRONG_NODE: Final = frozenset({1047, 1290})
OUR_DEFECT: Final = frozenset({1052, 1054, 1136, 1644})  # and what the driver calls a ProgrammingError


def append_only(table: str) -> list[str]:
    """Statements that make the server refuse to change a table's rows, whoever asks. Migrations have run them."""
    # REPLACE deletes, and ON DUPLICATE KEY updates: two triggers stop all four.
    return [
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} FOR EACH ROW "
        f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{table} is append-only'"
        for verb in ("UPDATE", "DELETE")
    ]


def ping_when_idle(engine: Engine) -> None:
    """Look whether a pooled connection still lives, but only one that nobody has used for some seconds."""

    def used(_: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        record.info["used_s"] = time.monotonic()

    def check(connection: DBAPIConnection, record: ConnectionPoolEntry, _: PoolProxiedConnection) -> None:
        if time.monotonic() - record.info.get("used_s", math.inf) > IDLE_S:
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise DisconnectionError from error  # the pool makes another one

    listen(engine, "checkin", used)
    listen(engine, "checkout", check)


def join_cluster(engine: Engine) -> None:
    """Where the server is a node of a cluster: see what any node has committed, and leave one that is no use now."""

    def connected(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute("SHOW VARIABLES LIKE 'wsrep_on'")  # MySQL does not know it, and it says so by no row
        if [tuple(row) for row in cursor.fetchall()] == [("wsrep_on", "ON")]:
            cursor.execute("SET SESSION wsrep_sync_wait = @@wsrep_sync_wait | 1")
        cursor.close()

    def failed(context: ExceptionContext) -> None:
        # Connections that are kept would lead there for ever, new ones to where the load balancer says.
        if not WRONG_NODE.isdisjoint(context.original_exception.args[:1]):
            context.is_disconnect = True

    listen(engine, "connect", connected)
    listen(engine, "handle_error", failed)


def with_defaults(url: URL) -> URL:
    return url.update_query_dict({"charset": "utf8mb4"})


async def recognise(engine: AsyncEngine) -> "MysqlDialect":
    """The dialect of the server that answers, seen to be one that will do.

    Raises:
        ConfigurationError: it will not, or not for this account; the text says what to change there.
        StorageUnavailableError: nobody answers.
    """
    try:
        async with engine.connect() as connection:
            found = await connection.execute(text("SELECT VERSION(), @@max_allowed_packet"))
            version, packet_bytes = found.one()
    except mysql_tls.InClearError as error:
        raise ConfigurationError(str(error)) from error
    except DBAPIError as error:
        raise translate(error) from error.orig
    dialect = MysqlDialect(engine.url.database or "", version)
    dialect.check(packet_bytes)
    return dialect


def translate(error: DBAPIError) -> Exception:
    """See `Dialect`."""
    code, detail = _code(error), f"{error.orig}{mysql_tls.cause_of(error)}"
    if code in OUR_DEFECT or isinstance(error, ProgrammingError):
        return error
    if code == DUPLICATE_KEY:
        return DuplicateKeyError(detail)
    if code in REFUSED_VALUE:
        return UnstorableError(0, detail)
    if code == TRIGGER_NEEDS_RIGHT:
        return ConfigurationError(
            "this account may not create triggers while the binary log is on: give an administrator's URL in "
            "CONTROL_PLANE_ADMIN_DATABASE_URL, or set log_bin_trust_function_creators=1 on the server"
        )
    if code in MISSING_RIGHT:
        return ConfigurationError(
            f"the database refuses: {detail}; what makes and changes tables is for CONTROL_PLANE_ADMIN_DATABASE_URL"
        )
    return StorageUnavailableError(detail)


async def account_of(url: URL) -> Account:
    """Whom the server takes the account of an URL for; it needs no rights to be asked.

    Raises:
        ConfigurationError: the server does not let it in.
        StorageUnavailableError: nobody answers.
    """
    whole, tls = mysql_tls.taken_out(with_defaults(url))
    nowhere = URL.create(whole.drivername, whole.username, whole.password, whole.host, whole.port, query=whole.query)
    options = mysql_tls.with_tls({"connect_args": {"connect_timeout": 5}}, tls)
    engine = create_async_engine(nowhere, poolclass=NullPool, **options)
    if tls is not None:
        mysql_tls.insist(engine.sync_engine)
    try:
        async with engine.connect() as connection:
            user = str((await connection.execute(text("SELECT CURRENT_USER()"))).scalar_one())
            grants = [str(line) for (line,) in await connection.execute(text("SHOW GRANTS"))]
    except mysql_tls.InClearError as error:
        raise ConfigurationError(str(error)) from error
    except DBAPIError as error:
        raise translate(error) from error.orig
    finally:
        await engine.dispose()
    quoted = ["'" + part.replace("\\", "\\\\").replace("'", "''") + "'" for part in user.rsplit("@", 1)]
    return Account("@".join(quoted), grants)


class MysqlDialect:
    """See `Dialect`."""

    has_one_writer = False
    needs_administrator = True

    def __init__(self, database: str, version: str) -> None:
        self.database = database
        self.read_schema = f"{database}_read"
        self.is_mariadb = "mariadb" in version.lower()
        # Old MariaDBs put 5.5.5- before their version, for replicas of their time.
        self.version = tuple(map(int, version.removeprefix("5.5.5-").split("-")[0].split(".")))
        self.most_quiet_s = math.inf if self.is_mariadb else VANISHED_S / 2  # see `lets_go`
        self.name = f"{'MariaDB' if self.is_mariadb else 'MySQL'} {'.'.join(map(str, self.version))}"

    def check(self, packet_bytes: int) -> None:
        """Raise ConfigurationError where the server is too old or takes too little at once."""
        least = (10, 6) if self.is_mariadb else (8, 0, 20)
        if self.version < least:
            raise ConfigurationError(f"{self.name} is too old: {'.'.join(map(str, least))} or later is needed")
        if packet_bytes < LEAST_PACKET_BYTES:
            raise ConfigurationError(f"{self.name} has max_allowed_packet = {packet_bytes}: set it to 64M or more")

    def clock_us(self) -> ColumnElement[int]:
        return literal_column("CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED)")

    async def run(self, connection: AsyncConnection, sql: str) -> Sequence[Any]:
        result = await connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
        return result.all() if result.returns_rows else []

    def ready(self, values: Sequence[Value]) -> Sequence[Value]:
        return ready(values)

    async def bulk_insert(self, connection: AsyncConnection, table: Table, rows: Sequence[Sequence[Value]]) -> None:
        await self._insert(connection, table, [column.name for column in table.columns], rows, "")

    async def bulk_upsert(self, connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Value]]) -> None:
        if not rows:
            return
        names = list(rows[0])
        keys = [column.name for column in table.primary_key]
        # MariaDB does not know the alias; MySQL deprecates VALUES(), and the driver then asks for the warnings.
        new = "VALUES({0})" if self.is_mariadb else "new.{0}"
        changed = [_quoted(name) for name in names if name not in keys] or [_quoted(keys[0])]
        updates = ",".join(f"{name}={new.format(name)}" for name in changed)
        tail = ("" if self.is_mariadb else " AS new") + f" ON DUPLICATE KEY UPDATE {updates}"
        ordered = sorted(([row[name] for name in names] for row in rows), key=_by_key(names, keys))
        await self._insert(connection, table, names, ordered, tail)

    async def _insert(
        self, connection: AsyncConnection, table: Table, names: list[str], rows: Sequence[Sequence[Value]], tail: str
    ) -> None:
        head = f"INSERT INTO {self._name(table)} ({','.join(map(_quoted, names))}) VALUES "  # noqa: S608 - names of ours
        for statement in statements(rows):
            if isinstance(statement, str):
                await self.run(connection, head + statement + tail)
            else:
                marks = ",".join(["%s"] * len(names))
                await connection.exec_driver_sql(f"{head}({marks}){tail}", tuple(statement))

    async def find_keys(
        self, connection: AsyncConnection, table: Table, keys: Sequence[KeyBytes]
    ) -> list[tuple[KeyBytes, bytes, int]]:
        names = [_quoted(column.name) for column in table.primary_key]
        sql = (
            f"SELECT {','.join(names)}, digest, seq FROM {self._name(table)} "  # noqa: S608 - names of ours and hex
            f"WHERE ({','.join(names)}) IN ({','.join(map(literals, keys))})"
        )
        found = await self.run(connection, sql)
        return [((task_id, kind, hostname, part), digest, seq) for task_id, kind, hostname, part, digest, seq in found]

    async def delete_keys(self, connection: AsyncConnection, table: Table, keys: Sequence[KeyBytes], upto: int) -> None:
        if not keys:
            return
        names = ",".join(_quoted(column.name) for column in table.primary_key)
        sql = (
            f"DELETE FROM {self._name(table)} "  # noqa: S608 - names of ours and hex
            f"WHERE ({names}) IN ({','.join(map(literals, keys))}) AND seq <= {upto:d}"
        )
        await self.run(connection, sql)

    async def segments(self, connection: AsyncConnection, table: Table, rows: int) -> list[int]:
        return [last for last, _ in await self._partitions(connection, table)]

    async def _partitions(self, connection: AsyncConnection, table: Table) -> list[tuple[int, str]]:
        """The last seq and the name of each, but for the one that takes what they do not."""
        found = await connection.execute(
            text(
                "SELECT partition_description, partition_name FROM information_schema.partitions WHERE table_schema = "
                "DATABASE() AND table_name = :name AND partition_description <> 'MAXVALUE'"
            ),
            {"name": table.name},
        )
        return sorted((int(bound) - 1, name) for bound, name in found)

    async def add_segments(self, connection: AsyncConnection, table: Table, last_seqs: Sequence[int]) -> None:
        new = [f"PARTITION p{last} VALUES LESS THAN ({last + 1})" for last in sorted(last_seqs)]
        new.append("PARTITION pmax VALUES LESS THAN MAXVALUE")
        # Of the empty last one, so no row is copied; while it is done there is a place for every seq.
        await self._alter(
            connection, f"ALTER TABLE {self._name(table)} REORGANIZE PARTITION pmax INTO ({','.join(new)})"
        )

    async def drop_segment(self, connection: AsyncConnection, table: Table, upto: int) -> bool:
        old = [_quoted(name) for last, name in await self._partitions(connection, table) if last <= upto]
        if old:
            await self._alter(connection, f"ALTER TABLE {self._name(table)} DROP PARTITION {','.join(old)}")
        return True

    @staticmethod
    async def _alter(connection: AsyncConnection, statement: str) -> None:
        """Wait for open reads of the table only shortly: every later read queues behind whoever waits."""
        await connection.exec_driver_sql(f"SET lock_wait_timeout = {ALTER_WAITS_S}")
        try:
            await connection.exec_driver_sql(statement)
        finally:
            await connection.exec_driver_sql("SET lock_wait_timeout = DEFAULT")

    async def leaf_data(
        self, connection: AsyncConnection, table: Table, after: int, upto: int, *, below_bytes: int
    ) -> bytes:
        return await self._leaves(connection, table, f"seq > {after:d} AND seq <= {upto:d}", below_bytes)

    async def _leaves(self, connection: AsyncConnection, table: Table, which: str, below_bytes: int) -> bytes:
        sql = (
            f"SELECT GROUP_CONCAT({LEAF} SEPARATOR '') FROM {self._name(table)} "  # noqa: S608 - names and numbers
            f"WHERE {which} AND LENGTH(body) < {below_bytes:d}"
        )
        data: bytes | None = (await connection.exec_driver_sql(sql)).scalar_one()
        return data or b""

    async def event_rows(
        self, connection: AsyncConnection, table: Table, after: int, upto: int, *, below_bytes: int
    ) -> Sequence[EventColumns]:
        # As one value: the driver takes longer over eleven columns than everything else that is done with an event.
        rows: list[EventColumns] = []
        for start in range(after, upto, ROWS_A_VALUE):
            end = min(start + ROWS_A_VALUE, upto)
            data = await self.leaf_data(connection, table, start, end, below_bytes=below_bytes)
            rows += sorted(rows_in(data), key=itemgetter(0))
        return rows

    async def event_rows_at(
        self, connection: AsyncConnection, table: Table, seqs: Sequence[int], *, below_bytes: int
    ) -> Sequence[EventColumns]:
        rows: list[EventColumns] = []
        for start in range(0, len(seqs), ROWS_A_VALUE):
            some = ",".join(f"{seq:d}" for seq in seqs[start : start + ROWS_A_VALUE])
            rows += rows_in(await self._leaves(connection, table, f"seq IN ({some})", below_bytes))
        return rows

    async def digest_rows(
        self, connection: AsyncConnection, table: Table, condition: ColumnElement[bool]
    ) -> tuple[int, bytes]:
        # A digest a row, since all of them together would be cut off; the length of each value tells apart what meets.
        values = [f"IFNULL(CONCAT(LENGTH({name}),':',{name}),'-')" for name in map(_quoted, table.columns.keys())]
        rows = f"GROUP_CONCAT(UNHEX(SHA2(CONCAT({','.join(values)}),256)) SEPARATOR '')"
        digest_of_all: ColumnElement[bytes] = literal_column(f"UNHEX(SHA2(IFNULL({rows},''),256))")
        # In the order of the primary key, without sorting.
        statement = select(func.count(), digest_of_all).select_from(table).where(condition)
        hinted = statement.with_hint(table, "FORCE INDEX (PRIMARY)")
        count, digest = (await connection.execute(hinted)).one()
        return count, digest

    async def create_read_table(self, connection: AsyncConnection, table: Table, *, indexed: bool = True) -> None:
        try:
            if not await self._has_read_schema(connection):  # on Galera asking for it ends whoever writes in it
                created = f"CREATE DATABASE IF NOT EXISTS {_quoted(self.read_schema)}"
                await connection.execute(text(f"{created} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"))
            await connection.execute(CreateTable(table, if_not_exists=True))
            if indexed:
                await self.create_read_indexes(connection, table)
        except DBAPIError as error:
            if _code(error) not in MISSING_RIGHT:
                raise
            raise ConfigurationError(
                f"the account may not make read tables: GRANT ALL ON {_pattern(self.read_schema)}.* TO the account of "
                "CONTROL_PLANE_DATABASE_URL"
            ) from error.orig

    async def _has_read_schema(self, connection: AsyncConnection) -> bool:
        wanted = text("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = :schema")
        return bool(await connection.scalar(wanted, {"schema": self.read_schema}))

    async def create_read_indexes(self, connection: AsyncConnection, table: Table) -> None:
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            await connection.run_sync(index.create, checkfirst=True)

    async def drop_read_table(self, connection: AsyncConnection, table: Table) -> None:
        await connection.execute(DropTable(table, if_exists=True))

    async def read_table_names(self, connection: AsyncConnection) -> set[str]:
        wanted = text("SELECT table_name FROM information_schema.tables WHERE table_schema = :schema")
        return set((await connection.execute(wanted, {"schema": self.read_schema})).scalars())

    async def rename_read_tables(self, connection: AsyncConnection, names: Sequence[tuple[str, str]]) -> None:
        schema, there = _quoted(self.read_schema), await self.read_table_names(connection)
        renames = [f"{schema}.{_quoted(old)} TO {schema}.{_quoted(new)}" for old, new in possible_renames(names, there)]
        if renames:
            await connection.execute(text(f"SET SESSION lock_wait_timeout = {RENAME_S}"))
            try:
                await connection.execute(text(f"RENAME TABLE {', '.join(renames)}"))
            finally:
                await connection.execute(text("SET SESSION lock_wait_timeout = DEFAULT"))

    def grants(self, account: Account) -> list[str]:
        of_tables = [
            f"GRANT {rights} ON {_quoted(self.database)}.{_quoted(table)} TO {account.name}"
            for table, rights in RIGHTS.items()
        ]
        return [*of_tables, f"GRANT ALL ON {_pattern(self.read_schema)}.* TO {account.name}"]

    def excess(self, account: Account) -> list[str]:
        scopes = [match[1] for line in account.grants if (match := _WIDE_GRANT.match(line))]
        too_wide = {f"{_quoted(self.database)}.*", f"{_pattern(self.database)}.*", "*.*"}
        return [f"REVOKE ALL PRIVILEGES ON {scope} FROM {account.name}" for scope in scopes if scope in too_wide]

    def translate(self, error: DBAPIError) -> Exception:
        return translate(error)

    def _name(self, table: Table) -> str:
        return _quoted(table.name) if table.schema is None else f"{_quoted(self.read_schema)}.{_quoted(table.name)}"


def _quoted(name: str) -> str:
    return f"`{name}`"


def _pattern(name: str) -> str:
    """A schema as GRANT wants it, where an underscore stands for any character."""
    return _quoted(name.replace("_", "\\_"))


# Of a whole schema or of all, anything but the right to connect.
_WIDE_GRANT: Final = re.compile(r"GRANT (?!USAGE ON)[^`]* ON ((?:`[^`]+`|\*)\.\*) TO ")


def _by_key(names: list[str], keys: list[str]) -> Callable[[list[Value]], tuple[Value, ...]]:
    places = [names.index(key) for key in keys]
    return lambda row: tuple(row[place] for place in places)


def _code(error: DBAPIError) -> int:
    arguments = error.orig.args if error.orig is not None else ()
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0
