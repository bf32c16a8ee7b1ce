"""What everything stands on: the database, the log, the keys, and the decisions and queries over them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from control_plane.commands.authority import Authority, Keyring
from control_plane.commands.handlers.access import AccessHandler
from control_plane.commands.handlers.tokens import TokenHandler
from control_plane.commands.handling import Handling
from control_plane.commands.keyring import first_key
from control_plane.commands.passkeys import relying_party_of
from control_plane.commands.secrets import Vault
from control_plane.commands.token_uses import TokenUses
from control_plane.errors import ConfigurationError
from control_plane.events.access import KeyAdded
from control_plane.events.checkpoints import CheckpointFile, Checkpoints, lost
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName
from control_plane.events.log import EventLog
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.folding import create_tables
from control_plane.projections.hub import Hub
from control_plane.projections.queries.hosts import HostQueries
from control_plane.projections.queries.projections import ProjectionQueries
from control_plane.projections.queries.tasks import TaskQueries
from control_plane.settings import Settings
from control_plane.storage import migrate, secrets_key, signing_key
from control_plane.storage.credentials import CredentialTable
from control_plane.storage.engine import Database, open_database
from control_plane.storage.instance import instance
from control_plane.storage.leases import Leases
from control_plane.storage.token_uses import TokenUseRows
from control_plane_wire.clock import Clock, SystemClock
from control_plane_wire.failpoints import Failpoints

LOGS: Final[tuple[LogName, ...]] = (EVENT, HEARTBEAT_EVENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What everything stands on: the resources, and the decisions and queries over them."""

    settings: Settings
    database: Database
    log: EventLog
    clock: Clock
    failpoints: Failpoints
    keyring: Keyring
    keys: signing_key.KeyStore
    vault: Vault
    checkpoints: Checkpoints
    authority: Authority
    handling: Handling
    access: AccessHandler
    tokens: TokenHandler
    host_queries: HostQueries
    task_queries: TaskQueries
    projection_queries: ProjectionQueries
    hub: Hub


@asynccontextmanager
async def open_core(
    settings: Settings,
    *,
    login_token: str | None = None,
    login_user: str | None = None,
    opens_closed: bool = False,
) -> AsyncIterator[Core]:
    """Open the database and the log, and bring the authority up to date.

    Args:
        opens_closed: as for `EventLog.open`.

    Raises:
        ConfigurationError: a setting is missing or wrong, or the schema is not up to date.
        StorageUnavailableError: the database does not answer.
    """
    if settings.database_url is None:
        raise ConfigurationError("CONTROL_PLANE_DATABASE_URL is not set")
    clock = SystemClock()
    failpoints = Failpoints(settings.failpoint, settings.failpoint_log)
    keys = signing_key.store_of(settings)
    held = keys.load()
    vault = Vault(secrets_key.load(settings.state_dir))
    url = settings.database_url.get_secret_value()
    async with open_database(url, pool_size=settings.database_pool_size) as database:
        if not await migrate.is_current(database):
            raise ConfigurationError("the database's schema is not this program's; run `control-plane migrate`")
        async with EventLog.open(database, clock=clock, failpoints=failpoints, opens_closed=opens_closed) as log:
            added = await log.read(EVENT, after=0, kinds={KeyAdded.KIND})
            keyring = Keyring(*held, first=first_key(added, held))
            authority = Authority(log, keyring, clock, find=keys.find)
            await authority.refresh()
            handling = Handling(log=log, authority=authority, keyring=keyring, clock=clock, failpoints=failpoints)
            hub = Hub(database)
            yield Core(
                settings=settings,
                database=database,
                log=log,
                clock=clock,
                failpoints=failpoints,
                keyring=keyring,
                keys=keys,
                vault=vault,
                checkpoints=Checkpoints(
                    database,
                    installation=await installation_of(log, keyring),
                    public_keys=keyring.public_keys,
                    counting=keyring.keys_for,
                ),
                authority=authority,
                handling=handling,
                access=AccessHandler(
                    handling,
                    CredentialTable(database),
                    uses=TokenUses(TokenUseRows(database), clock),
                    login_token=login_token,
                    login_user=login_user,
                    relying_party=relying_party_of(settings.url),
                ),
                tokens=TokenHandler(handling),
                host_queries=HostQueries(database),
                task_queries=TaskQueries(database),
                projection_queries=ProjectionQueries(database, log, hub, clock),
                hub=hub,
            )


async def installation_of(log: EventLog, keyring: Keyring) -> str:
    """What names this installation in its checkpoints, for ever: the id of the first key that it signed with."""
    first = await log.read(EVENT, after=0, kinds={KeyAdded.KIND}, limit=1)
    return (first[0].key_id if first else None) or keyring.chain[0].key_id


@asynccontextmanager
async def open_leases(core: Core) -> AsyncIterator[Leases]:
    """The leases of this process; those of a dead one that it succeeds are free at once."""
    with instance(core.settings.state_dir) as us:
        leases = Leases(core.database, owner=us.owner, failpoints=core.failpoints)
        if us.predecessor is not None:
            await leases.succeed(us.predecessor)
        yield leases


async def prepare(core: Core) -> None:
    """Close a log that has lost its end, before anything is appended; and make the read tables that are missing.

    So whoever reads them first finds them, if empty.
    """
    for name in LOGS:
        await lost(core.log, core.checkpoints, CheckpointFile(core.settings.state_dir, name), name)
    for projection in PROJECTIONS:
        await create_tables(core.database, projection())
