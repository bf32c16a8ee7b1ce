"""The migrations make exactly the schema that the code is written for: tables, comments, partitions, triggers."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.storage import migrate, mysql, sqlite
from control_plane.storage.engine import Database, open_database
from control_plane.storage.tables import checkpoint, event, event_key, heartbeat_event, log_tile, metadata
from tests.support.database import sqlite_url
from tests.support.servers import DatabaseServer

APPEND_ONLY = (event, event_key, heartbeat_event, log_tile, checkpoint)


async def from_metadata(database: Database) -> None:
    async with database.write() as connection:
        await connection.run_sync(metadata.create_all)
        for table in APPEND_ONLY:
            if isinstance(database.dialect, mysql.MysqlDialect):
                statements = mysql.append_only(table.name)
            else:
                statements = sqlite.append_only(table.name, [column.name for column in table.primary_key])
            for statement in statements:
                await connection.execute(text(statement))
        if not isinstance(database.dialect, mysql.MysqlDialect):
            for statement in sqlite.droppable(heartbeat_event.name):
                await connection.execute(text(statement))


async def schema_of_sqlite(connection: AsyncConnection) -> dict[str, str]:
    """The statement that made each table, index and trigger."""
    found = await connection.exec_driver_sql(
        "SELECT type || ' ' || name, sql FROM sqlite_master WHERE tbl_name <> 'alembic_version' AND sql IS NOT NULL"
    )
    return {name: " ".join(sql.split()) for name, sql in found}


async def schema_of_mysql(connection: AsyncConnection) -> dict[str, str]:
    """The statement that makes each table, with its indexes and partitions, and each trigger."""
    schema: dict[str, str] = {}
    for name in metadata.tables:
        schema[f"table {name}"] = (await connection.execute(text(f"SHOW CREATE TABLE {name}"))).one()[1]
    for trigger in await connection.execute(text("SHOW TRIGGERS")):
        schema[f"trigger {trigger[0]}"] = f"{trigger[4]} {trigger[1]} ON {trigger[2]}: {trigger[3]}"
    return schema


async def differences(database: Database) -> list[object]:
    """What Alembic would still change to make the database fit the metadata."""
    async with database.read() as connection:
        return await connection.run_sync(lambda c: list(compare_metadata(MigrationContext.configure(c), metadata)))


async def test_on_sqlite_migrations_and_metadata_make_the_same_schema(tmp_path: Path) -> None:
    (tmp_path / "migrated").mkdir()
    async with (
        open_database(sqlite_url(tmp_path)) as made,
        open_database(sqlite_url(tmp_path / "migrated")) as migrated,
    ):
        await from_metadata(made)
        await migrate.upgrade(migrated)

        async with made.read() as one, migrated.read() as other:
            schema = await schema_of_sqlite(other)
            assert schema == await schema_of_sqlite(one)
        assert sum(name.startswith("trigger ") for name in schema) == 15
        assert all("STRICT" in sql for name, sql in schema.items() if name.startswith("table "))
        assert await differences(migrated) == []


@pytest.mark.mysql
async def test_on_mysql_migrations_and_metadata_make_the_same_schema(database_server: DatabaseServer) -> None:
    with database_server.database() as made_url, database_server.database() as migrated_url:
        async with open_database(made_url) as made, open_database(migrated_url) as migrated:
            await from_metadata(made)
            await migrate.upgrade(migrated)

            async with made.read() as one, migrated.read() as other:
                schema = await schema_of_mysql(other)
                assert schema == await schema_of_mysql(one)
            assert sum(name.startswith("trigger ") for name in schema) == 10
            assert "pmax" in schema["table event"]
            assert await differences(migrated) == []


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.mysql)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_url(tmp_path) if request.param == "sqlite" else str(request.getfixturevalue("mysql_url"))


async def test_a_database_is_current_only_once_it_is_migrated_and_migrating_again_changes_nothing(url: str) -> None:
    async with open_database(url) as database:
        assert not await migrate.is_current(database)
        await migrate.upgrade(database)
        assert await migrate.is_current(database)

        async with database.write() as connection:
            await connection.exec_driver_sql("UPDATE log_head SET recorded_us = 7")
        await migrate.upgrade(database)

        async with database.read() as connection:
            heads = await connection.exec_driver_sql("SELECT log, seq, recorded_us, tree FROM log_head ORDER BY log")
            assert [tuple(row) for row in heads] == [(b"event", 0, 7, b""), (b"heartbeat_event", 0, 7, b"")]


@pytest.mark.mysql
async def test_segments_that_have_rows_already_stay_as_they_are(mysql_url: str) -> None:
    async with open_database(mysql_url) as database:
        async with database.write(timeout_s=None) as connection:
            await connection.run_sync(lambda c: migrate._upgrade(c, "0001"))
        async with database.write() as connection:
            await connection.exec_driver_sql("UPDATE log_head SET seq = 10000001 WHERE log = 'heartbeat_event'")

        await migrate.upgrade(database)

        async with database.read() as connection:
            dialect = database.dialect
            assert await dialect.segments(connection, event, 1) == [n * 10_000_000 for n in (1, 2, 3, 4)]
            heartbeats = await dialect.segments(connection, heartbeat_event, 1)
            assert heartbeats == [10_000_000, 20_000_000, *(20_000_000 + n * 1_000_000 for n in (1, 2, 3, 4))]


async def test_on_sqlite_a_migration_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(table: str, keys: list[str]) -> list[str]:
        raise ZeroDivisionError

    monkeypatch.setattr(sqlite, "append_only", fail)
    async with open_database(sqlite_url(tmp_path)) as database:
        with pytest.raises(ZeroDivisionError):
            await migrate.upgrade(database)

        async with database.read() as connection:
            assert await schema_of_sqlite(connection) == {}
