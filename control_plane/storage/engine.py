"""A database: its pool of connections, its transactions, and what its errors mean."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from control_plane.errors import ConfigurationError, StorageUnavailableError
from control_plane.storage import mysql, mysql_tls, sqlite
from control_plane.storage.dialect import Account, Dialect
from control_plane.storage.tables import READ_SCHEMA

TRANSACTION_S: Final = 60.0
POOL_OPTIONS: Final = {"max_overflow": 0, "pool_timeout": 5}
SHOWN_CHARS: Final = 60  # of a statement, in an error


class Database:
    """One database for all of a process; `async with open_database(url) as database`."""

    def __init__(
        self,
        reading: AsyncEngine,
        writing: AsyncEngine,
        keeping: AsyncEngine,
        showing: AsyncEngine,
        dialect: Dialect,
    ) -> None:
        self.dialect = dialect
        schemas = {READ_SCHEMA: dialect.read_schema}
        self._reading = reading.execution_options(schema_translate_map=schemas)
        self._writing = writing.execution_options(schema_translate_map=schemas, **{sqlite.WRITES: True})
        self._keeping = keeping.execution_options(schema_translate_map=schemas, **{sqlite.WRITES: True})
        self._showing = showing.execution_options(schema_translate_map=schemas)
        self._written_s: WeakKeyDictionary[AsyncConnection, float] = WeakKeyDictionary()  # when a kept one began last
        # SQLite lets a second writer sleep and look again, for up to 100 ms at a time; here it waits its turn.
        self._turn = asyncio.Lock() if dialect.has_one_writer else None

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Statements that only read.

        On MySQL each of them is by itself and sees what was committed before it; on SQLite all see what the first one
        does. So read a position before the rows that belong to it: they are then at least as new.

        Raises:
            StorageUnavailableError: try again.
        """
        async with self._bounded(TRANSACTION_S), self._reading.connect() as connection:
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """Statements that all see the database as the first of them does, for as long as it takes.

        MariaDB collects what it sees without a lock: a commit may be seen a moment before the one that came first.
        """
        async with self._bounded(None), self._showing.connect() as connection:
            try:
                yield connection
            except BaseException:
                await connection.invalidate()  # rows that stream may be under way still: there is no going on with it
                raise

    @asynccontextmanager
    async def write(
        self, connection: AsyncConnection | None = None, *, timeout_s: float | None = TRANSACTION_S
    ) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed at the end of the block, and rolled back when the block raises.

        Args:
            connection: one of `connect` to do it on, where many follow each other; else the pool lends one.
            timeout_s: how long all of it may take; None for what may take its time.

        Raises:
            StorageUnavailableError: nothing is known about the outcome.
            UnstorableError: a value was refused, and with it all of the transaction.
        """
        async with self._bounded(timeout_s), AsyncExitStack() as stack:
            if connection is not None:
                await self._renew(connection)
            if self._turn is not None:  # first: a connection is lent for seconds, and who waits his turn needs none
                await stack.enter_async_context(self._turn)
            if connection is None:
                connection = await stack.enter_async_context(self._writing.connect())
            await stack.enter_async_context(connection.begin())
            yield connection

    async def _renew(self, connection: AsyncConnection) -> None:
        """Have another one made in its place, where the server may have ended one that was quiet for so long."""
        now_s = time.monotonic()
        if now_s - self._written_s.get(connection, now_s) > self.dialect.most_quiet_s:
            await connection.invalidate()
        self._written_s[connection] = now_s

    async def connect(self) -> AsyncConnection:
        """A connection to keep for many `write`s, which saves three round trips each; whoever asks closes it.

        It is none of the pool's, which is there for what is short.
        """
        async with self._bounded(TRANSACTION_S):
            return await self._keeping.connect()

    @asynccontextmanager
    async def _bounded(self, timeout_s: float | None) -> AsyncIterator[None]:
        """Translate the driver's errors, and end what gets no answer: a peer that vanished says nothing for hours."""
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        try:
            async with asyncio.timeout(timeout_s) as bound:
                yield
        except DBAPIError as error:
            # SQLAlchemy's error shows the statement, and so all that was written: only its beginning may be seen.
            error.statement = (error.statement or "")[:SHOWN_CHARS]
            raise self.dialect.translate(error) from error.orig
        except PoolTimeoutError as error:
            raise StorageUnavailableError("all connections of the pool are in use") from error
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise StorageUnavailableError(f"no answer within {timeout_s} s") from error
        finally:
            # Python 3.11's wait_for, which driver and pool use, loses a cancellation that comes with the answer.
            if task and task.cancelling() > before:
                raise asyncio.CancelledError


@asynccontextmanager
async def open_database(url: str, *, pool_size: int = 8) -> AsyncIterator[Database]:
    """The database at an URL (mysql+aiomysql://… or sqlite+aiosqlite:///…), seen to be one that will do.

    Raises:
        ConfigurationError: it will not do, or is none; the text says what to change.
        StorageUnavailableError: it does not answer.
    """
    parsed = _parsed(url)
    pooled = {"pool_size": pool_size, **POOL_OPTIONS, "hide_parameters": True}
    alone = {"poolclass": NullPool, "hide_parameters": True}
    if parsed.get_backend_name() == "sqlite":
        sqlite.keep_private(Path(parsed.database or ""))
        # Two pools: whoever reads waits for no writer, and no writer who has his turn for a connection.
        reading, writing = create_async_engine(parsed, **pooled), create_async_engine(parsed, **pooled)
        keeping = showing = create_async_engine(parsed, **alone)
        for engine in (reading, writing, keeping):
            sqlite.prepare(engine.sync_engine)
    else:
        parsed, tls = mysql_tls.taken_out(mysql.with_defaults(parsed))
        to_write, to_read, to_show = (
            mysql_tls.with_tls(options, tls)
            for options in (mysql.WRITING_OPTIONS, mysql.READING_OPTIONS, mysql.SNAPSHOT_OPTIONS)
        )
        writing = create_async_engine(parsed, **pooled, **mysql.POOL_OPTIONS, **to_write)
        reading = create_async_engine(parsed, **pooled, **mysql.READING_POOL_OPTIONS, **to_read)
        keeping = create_async_engine(parsed, **alone, **to_write)
        showing = create_async_engine(parsed, **alone, **to_show)
        mysql.ping_when_idle(reading.sync_engine)
        for engine in (writing, reading, keeping, showing):
            mysql.join_cluster(engine.sync_engine)
            if tls is not None:
                mysql_tls.insist(engine.sync_engine)
    try:
        dialect = sqlite.recognise() if keeping is showing else await mysql.recognise(writing)
        yield Database(reading, writing, keeping, showing, dialect)
    finally:
        for engine in (writing, reading, keeping, showing):
            await engine.dispose()


async def account_of(url: str) -> Account | None:
    """The account by which an URL gets in; None where a database has no accounts.

    Raises:
        ConfigurationError, StorageUnavailableError: as `open_database`, but it need not have any rights.
    """
    parsed = _parsed(url)
    return None if parsed.get_backend_name() == "sqlite" else await mysql.account_of(parsed)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("the database URL is none: mysql+aiomysql://… or sqlite+aiosqlite:///…") from error
    if parsed.drivername not in {"mysql+aiomysql", "sqlite+aiosqlite"}:
        raise ConfigurationError("the database URL must begin with mysql+aiomysql:// or sqlite+aiosqlite:///")
    if not parsed.database:
        raise ConfigurationError("the database URL must name a database or a file")
    if parsed.get_backend_name() == "sqlite" and not sqlite.is_file(parsed.database):
        raise ConfigurationError("the database URL must name a file: no directory, no file: URI, nothing in memory")
    return parsed
