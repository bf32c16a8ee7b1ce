"""What an administrator does on the server's own command line, where whoever can read the signing key may do it."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from control_plane.bootstrap import Core, open_core
from control_plane.commands.access import CONSOLE, User
from control_plane.errors import ConfigurationError, RefusedError
from control_plane.events.access import KeyAdded
from control_plane.events.log import EventLog
from control_plane.events.segments import Progress
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.queries.projections import ProjectionState
from control_plane.projections.rebuild import TableComparison, rebuild
from control_plane.projections.upkeep import Done, maintain
from control_plane.settings import Settings
from control_plane.storage import migrate as migrations
from control_plane.storage import signing_key
from control_plane.storage.engine import Database, account_of, open_database
from control_plane_wire.clock import SystemClock
from control_plane_wire.signing import encode_base64


async def migrate(settings: Settings) -> list[str]:
    """Bring the log's schema up to date, by the administrator's account where one is set.

    That one then also gives the application's account its rights, where it may; what it may not is told, in lines.
    """
    async with _administered(settings) as database:
        await migrations.upgrade(database)
        return await _grant(settings, database)


async def _grant(settings: Settings, database: Database) -> list[str]:
    if settings.admin_database_url is None or settings.database_url is None:
        return []
    account = await account_of(settings.database_url.get_secret_value())
    administrator = await account_of(settings.admin_database_url.get_secret_value())
    if account is None or administrator is None or account.name == administrator.name:
        return []
    statements = database.dialect.grants(account)
    try:
        async with database.write() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    except ConfigurationError:
        told = f"this administrator may not grant {account.name} what it needs; somebody who may should run:"
        return [told, *(f"{statement};" for statement in statements)]
    excess = [f"{statement};" for statement in database.dialect.excess(account)]
    return [f"{account.name} may do more than it needs, and so change the log; run:", *excess] if excess else []


async def maintain_logs(settings: Settings, progress: Progress) -> Done | None:
    """See `projections.upkeep`; by the administrator's account where one is set."""
    async with _administered(settings) as database:
        if not await migrations.is_current(database):
            raise ConfigurationError("the database's schema is not this program's; run `control-plane migrate`")
        days, directory = settings.heartbeat_days, settings.archives
        clock = SystemClock()
        return await maintain(database, heartbeat_days=days, archive_dir=directory, clock=clock, progress=progress)


@asynccontextmanager
async def _administered(settings: Settings) -> AsyncIterator[Database]:
    url = settings.admin_database_url or settings.database_url
    if url is None:
        raise ConfigurationError("CONTROL_PLANE_DATABASE_URL is not set")
    async with open_database(url.get_secret_value(), pool_size=2) as database:
        yield database


async def initialise(settings: Settings, username: str, password: str) -> str:
    """Schema, signing key and the first administrator; what was done, in lines. May be repeated."""
    told = await migrate(settings)
    key = signing_key.create(settings.state_dir)
    async with opened(settings) as office:
        event = KeyAdded(key_id=key.key_id, public_key=encode_base64(key.public_key))
        await office.core.handling.record(event, actor=CONSOLE.username)
        if username in office.core.authority.access.users:
            return "\n".join([*told, f"ready; the user {username} was there already"])
        await office.create_user(username, "administrator", password)
    return "\n".join([*told, f"ready; {username} is an administrator"])


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[tuple[Database, EventLog]]:
    """The log for who only reads it, and needs no signing key.

    Raises:
        ConfigurationError, StorageUnavailableError: as `open_database`, or the schema is not up to date.
    """
    if settings.database_url is None:
        raise ConfigurationError("CONTROL_PLANE_DATABASE_URL is not set")
    async with open_database(settings.database_url.get_secret_value(), pool_size=2) as database:
        if not await migrations.is_current(database):
            raise ConfigurationError("the database's schema is not this program's; run `control-plane migrate`")
        async with EventLog.open(database) as log:
            yield database, log


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator["Office"]:
    async with open_core(settings) as core:
        yield Office(core)


class Office:
    """The commands of the command line; all of them raise RefusedError where a rule says no."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def users(self) -> list[User]:
        return await self.core.access.users(CONSOLE)

    async def create_user(self, username: str, role: str, password: str) -> None:
        await self.core.access.create_user(CONSOLE, username, role=role, password=password)

    async def set_enabled(self, username: str, *, enabled: bool) -> None:
        await self.core.access.set_enabled(CONSOLE, username, enabled)

    async def set_password(self, username: str, password: str) -> None:
        await self.core.access.set_password(CONSOLE, username, password)

    async def set_role(self, username: str, role: str) -> None:
        await self.core.access.set_role(CONSOLE, username, role)

    async def create_token(self, username: str, name: str, days: int) -> str:
        """The token's text, which is shown this once."""
        return (await self.core.access.create_token(CONSOLE, username=username, name=name, days=days)).text

    async def projections(self) -> Sequence[ProjectionState]:
        return await self.core.projection_queries.states()

    async def rebuild(
        self, name: str | None, *, switch: bool, progress: Callable[[str, int, int, float], None]
    ) -> AsyncIterator[tuple[str, list[TableComparison]]]:
        """Fold one projection or all of them from zero, and compare with the live tables; then use the new ones."""
        wanted = [projection for projection in PROJECTIONS if name in {None, projection.name}]
        if not wanted:
            names = ", ".join(projection.name for projection in PROJECTIONS)
            raise RefusedError("unknown_projection", f"there is no projection {name}; there are {names}")
        for projection in wanted:
            started = time.monotonic()

            def told(done: int, total: int, name: str = projection.name, since: float = started) -> None:
                progress(name, done, total, time.monotonic() - since)

            yield (
                projection.name,
                await rebuild(projection, self.core.database, self.core.log, switch=switch, progress=told),
            )
