"""Settings in, a running application out: the one place that chooses implementations."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from control_plane.api.server import HttpService
from control_plane.api.services import Probe, Services
from control_plane.commands.authority import Authority, Keyring
from control_plane.commands.handlers.access import AccessHandler
from control_plane.commands.handlers.enrolment import EnrolmentHandler
from control_plane.commands.handlers.hosts import HostHandler
from control_plane.commands.handlers.tasks import TaskHandler
from control_plane.commands.handling import Handling
from control_plane.commands.ports import Presence
from control_plane.errors import ConfigurationError
from control_plane.events.envelope import LogName
from control_plane.events.log import EventLog
from control_plane.events.segments import Rooms
from control_plane.messaging.ingest import Heartbeats, Ingest, Results
from control_plane.messaging.publisher import Publisher
from control_plane.observability import Metrics
from control_plane.processes.deadlines import Deadlines
from control_plane.processes.dispatch import Dispatch
from control_plane.processes.presence import Presence as PresenceProcess
from control_plane.processes.upkeep import Upkeep
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.hub import Hub
from control_plane.projections.projector import Projector, create_tables
from control_plane.projections.queries.audit import AuditQueries
from control_plane.projections.queries.hosts import HostQueries
from control_plane.projections.queries.projections import ProjectionQueries
from control_plane.projections.queries.tasks import TaskQueries
from control_plane.projections.upkeep import maintain
from control_plane.settings import Settings
from control_plane.storage import migrate, signing_key
from control_plane.storage.credentials import CredentialTable
from control_plane.storage.engine import Database, open_database
from control_plane.storage.instance import instance
from control_plane.storage.leases import Leases
from control_plane_wire.clock import Clock, SystemClock
from control_plane_wire.failpoints import Failpoints
from control_plane_wire.lifecycle import Service, run_until_stopped
from control_plane_wire.transport.base import Transport
from control_plane_wire.transport.rabbitmq import RabbitTransport

ROLES: Final = ("api", "ingest", "projectors", "processes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What everything stands on: the resources, and the decisions and queries over them."""

    settings: Settings
    database: Database
    log: EventLog
    clock: Clock
    failpoints: Failpoints
    keyring: Keyring
    authority: Authority
    handling: Handling
    access: AccessHandler
    host_queries: HostQueries
    task_queries: TaskQueries
    projection_queries: ProjectionQueries
    hub: Hub


@asynccontextmanager
async def open_core(
    settings: Settings, *, login_token: str | None = None, login_user: str | None = None
) -> AsyncIterator[Core]:
    """Open the database and the log, and bring the authority up to date.

    Raises:
        ConfigurationError: a setting is missing or wrong, or the schema is not up to date.
        StorageUnavailableError: the database does not answer.
    """
    if settings.database_url is None:
        raise ConfigurationError("CONTROL_PLANE_DATABASE_URL is not set")
    clock = SystemClock()
    failpoints = Failpoints(settings.failpoint, settings.failpoint_log)
    keyring = Keyring(signing_key.load(settings.state_dir))
    url = settings.database_url.get_secret_value()
    async with open_database(url, pool_size=settings.database_pool_size) as database:
        if not await migrate.is_current(database):
            raise ConfigurationError("the database's schema is not this program's; run `control-plane migrate`")
        async with EventLog.open(database, clock=clock, failpoints=failpoints) as log:
            authority = Authority(log, keyring)
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
                authority=authority,
                handling=handling,
                access=AccessHandler(
                    handling, CredentialTable(database), login_token=login_token, login_user=login_user
                ),
                host_queries=HostQueries(database),
                task_queries=TaskQueries(database),
                projection_queries=ProjectionQueries(database, log, hub, clock),
                hub=hub,
            )


class _Presences:
    """The read table's view of hosts, in the form that decisions ask for."""

    def __init__(self, queries: HostQueries) -> None:
        self._queries = queries

    async def presences(self, hostnames: Collection[str]) -> Mapping[str, Presence]:
        views = await self._queries.by_name(hostnames)
        return {name: Presence(state=view.state, basic=view.basic) for name, view in views.items()}


@asynccontextmanager
async def open_leases(core: Core) -> AsyncIterator[Leases]:
    """The leases of this process; those of a dead one that it succeeds are free at once."""
    with instance(core.settings.state_dir) as us:
        leases = Leases(core.database, owner=us.owner)
        if us.predecessor is not None:
            await leases.succeed(us.predecessor)
        yield leases


def services_of(
    core: Core, transport: Transport, leases: Leases, *, roles: Collection[str], dev: bool = False
) -> list[Service]:
    """The services of these roles, in the order in which they start."""
    metrics = Metrics()
    happened = metrics.counter("control_plane_happened_total", "how often something has happened", "what")

    def count(what: str, number: int) -> None:
        happened.add(number, what=what)

    publisher = Publisher(transport)
    streams = (Results(core.log, core.authority, count), Heartbeats(core.authority))
    results, heartbeats = (
        Ingest(
            stream,
            transport,
            core.log,
            core.authority,
            count=count,
            now_us=core.clock.now_us,
            failpoints=core.failpoints,
        )
        for stream in streams
    )

    def hearing_since_us() -> int | None:
        """Since when every heartbeat is heard; from here that is known only where this process takes them in."""
        if "ingest" not in roles:
            return 0
        return None if publisher.is_blocked else heartbeats.connected_since_us

    rooms = Rooms(core.database)
    room_probe = Probe("room in the logs", rooms.check, warns=True)
    by_role: dict[str, Sequence[Service]] = {
        "projectors": [
            Projector(projection(), core.database, core.log, leases, core.hub, count=count, failpoints=core.failpoints)
            for projection in PROJECTIONS
        ],
        "ingest": [results, heartbeats],
        "processes": [
            publisher,
            Dispatch(
                core.log,
                leases,
                core.hub,
                publisher,
                core.authority,
                core.keyring,
                core.task_queries,
                core.host_queries,
                core.clock,
                count=count,
                failpoints=core.failpoints,
            ),
            Deadlines(core.log, leases, core.hub, core.task_queries, core.clock, failpoints=core.failpoints),
            PresenceProcess(
                core.log,
                leases,
                core.host_queries,
                core.clock,
                hearing_since_us=hearing_since_us,
                failpoints=core.failpoints,
            ),
            *_upkeep(core),
        ],
        "api": [
            HttpService(
                _api(core, metrics, [*_probes(roles, publisher, results), room_probe], rooms.look, dev=dev),
                host=core.settings.listen_host,
                port=core.settings.listen_port,
            )
        ]
        if "api" in roles
        else [],
    }
    return [core.authority, *(service for role, services in by_role.items() if role in roles for service in services)]


def _upkeep(core: Core) -> list[Service]:
    """Only where this process may do it: by an administrator's account, or on a database that has no accounts."""
    url = core.settings.admin_database_url
    if url is None and core.database.dialect.needs_administrator:
        return []

    async def work() -> None:
        async with AsyncExitStack() as stack:
            database = core.database
            if url is not None and database.dialect.needs_administrator:
                database = await stack.enter_async_context(open_database(url.get_secret_value(), pool_size=2))
            days, directory = core.settings.heartbeat_days, core.settings.archives
            await maintain(database, heartbeat_days=days, archive_dir=directory, clock=core.clock)

    return [Upkeep(work)]


def _api(
    core: Core,
    metrics: Metrics,
    probes: Sequence[Probe],
    rooms: Callable[[], Awaitable[Mapping[LogName, int]]],
    *,
    dev: bool,
) -> Services:
    settings = core.settings
    broker = settings.agents_amqp_url or settings.amqp_url
    return Services(
        settings=settings,
        clock=core.clock,
        log=core.log,
        authority=core.authority,
        keyring=core.keyring,
        access=core.access,
        enrolment=EnrolmentHandler(core.handling),
        hosts=HostHandler(core.handling),
        tasks=TaskHandler(core.handling, _Presences(core.host_queries), require_preview=settings.require_preview),
        host_queries=core.host_queries,
        task_queries=core.task_queries,
        audit_queries=AuditQueries(core.database),
        projection_queries=core.projection_queries,
        hub=core.hub,
        metrics=metrics,
        probes=probes,
        rooms=rooms,
        dev=dev,
        amqp_url_for_agents=broker.get_secret_value() if broker else None,
    )


def _probes(roles: Collection[str], publisher: Publisher, results: Ingest) -> list[Probe]:
    """What `/readyz` looks at, beside the database."""

    async def broker() -> str | None:
        if "processes" in roles and not publisher.is_connected:
            return "no session to publish on"
        if "ingest" in roles and results.connected_since_us is None:
            return "no session to consume on"
        return "the broker takes no publishes (memory or disk alarm?)" if publisher.is_blocked else None

    return [Probe("broker", broker)] if {"processes", "ingest"} & set(roles) else []


async def serve(settings: Settings, roles: Collection[str]) -> None:
    """Run these roles on the database and the broker of the settings until SIGTERM or SIGINT."""
    if settings.amqp_url is None and set(roles) & {"ingest", "processes"}:
        raise ConfigurationError("CONTROL_PLANE_AMQP_URL is not set")
    url = settings.amqp_url.get_secret_value() if settings.amqp_url else ""
    async with open_core(settings) as core, open_leases(core) as leases:
        await prepare(core)
        await run(services_of(core, RabbitTransport(url), leases, roles=roles), drain_s=settings.drain_s)


async def prepare(core: Core) -> None:
    """Make the read tables that are missing, so that whoever reads them first finds them, if empty."""
    for projection in PROJECTIONS:
        await create_tables(core.database, projection())


async def run(services: Sequence[Service], *, drain_s: float) -> None:
    """Run services until a signal asks to stop; a second one ends the program at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run_until_stopped(services, stop=stop, drain_s=drain_s)
