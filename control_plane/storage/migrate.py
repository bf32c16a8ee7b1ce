"""The log's schema, brought up to date from code. Read tables have no migrations: their projectors make them."""

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from control_plane.storage.engine import Database


async def upgrade(database: Database) -> None:
    """Bring the schema up to date; does nothing where it is.

    On SQLite all of it happens or none. MySQL commits each step by itself; a failed run goes on where it stopped
    only between migrations, which is why each is small.

    Raises:
        ConfigurationError: the account may not; the text says what it lacks.
        StorageUnavailableError: try again.
    """
    async with database.write(timeout_s=None) as connection:
        await connection.run_sync(_upgrade)


async def is_current(database: Database) -> bool:
    """Whether the schema is the one that this program was written for."""
    async with database.read() as connection:
        revision = await connection.run_sync(lambda c: MigrationContext.configure(c).get_current_revision())
    return revision == ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "control_plane.storage:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(connection: Connection, revision: str = "head") -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
