"""Settings in, a running application out: the one place that chooses implementations."""

import asyncio
import gc
import signal
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from typing import Final

from control_plane.api.identity import CALLBACK_PATH
from control_plane.api.server import HttpService, bound
from control_plane.api.services import Here, Probe, Services
from control_plane.commands.guard import GuardLimits
from control_plane.commands.handlers.approvals import ApprovalHandler
from control_plane.commands.handlers.enrolment import EnrolmentHandler
from control_plane.commands.handlers.hosts import HostHandler
from control_plane.commands.handlers.identity import IdentityHandler
from control_plane.commands.handlers.passkeys import PasskeyHandler
from control_plane.commands.handlers.pending_hosts import PendingHostHandler
from control_plane.commands.handlers.projections import ProjectionHandler
from control_plane.commands.handlers.rollouts import RolloutHandler
from control_plane.commands.handlers.rotations import RotationHandler
from control_plane.commands.handlers.rules import RuleHandler
from control_plane.commands.handlers.secrets import SecretHandler
from control_plane.commands.handlers.stop import StopHandler
from control_plane.commands.handlers.tasks import TaskHandler
from control_plane.commands.handlers.templates import TemplateHandler
from control_plane.commands.handling import DenialRecorder
from control_plane.commands.ports import Presence
from control_plane.core import LOGS, Core, open_core, open_leases, prepare
from control_plane.errors import ConfigurationError, KeyMissingError, LogClosedError, RefusedError
from control_plane.events.checkpoints import CheckpointFile
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName
from control_plane.events.segments import Rooms
from control_plane.events.tiles import StoredTree
from control_plane.identity_provider import OpenIdProvider
from control_plane.messaging.broker_accounts import ManagedAccounts, SharedAccount
from control_plane.messaging.ingest import Heartbeats, Ingest
from control_plane.messaging.live_output import LiveOutput
from control_plane.messaging.publisher import Publisher
from control_plane.messaging.results import Results
from control_plane.observability import Count, Metrics, to_syslog
from control_plane.processes.broker_accounts import BrokerAccounts
from control_plane.processes.checkpoints import CheckpointProcess, Signer
from control_plane.processes.deadlines import Deadlines
from control_plane.processes.dispatch import Dispatch
from control_plane.processes.presence import HEARING
from control_plane.processes.presence import Presence as PresenceProcess
from control_plane.processes.rollout import Rollouts
from control_plane.processes.upkeep import Upkeep
from control_plane.processes.witnesses import Rounds, Witnesses
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.projector import Projector
from control_plane.projections.queries.audit import AuditQueries
from control_plane.projections.queries.hosts import HostQueries, HostView
from control_plane.projections.queries.past import Past
from control_plane.projections.queries.rollouts import RolloutQueries
from control_plane.projections.queries.scopes import EVERYTHING
from control_plane.projections.rebuilder import Rebuilder
from control_plane.projections.upkeep import maintain
from control_plane.settings import Settings
from control_plane.storage.engine import open_database
from control_plane.storage.leases import Leases
from control_plane.storage.pending_hosts import PendingHostTable
from control_plane_wire.clock import Clock
from control_plane_wire.lifecycle import Service, run_until_stopped
from control_plane_wire.transport.base import Transport
from control_plane_wire.transport.rabbitmq import RabbitTransport

ROLES: Final = ("api", "ingest", "projectors", "processes")
YOUNG_OBJECTS: Final = 10_000  # when the collector looks through them; a batch of an append makes half as many


class TablePresences:
    """The read table's view of hosts, in the form that decisions ask for. See `Presences`."""

    def __init__(self, queries: HostQueries, past: Past) -> None:
        self._queries = queries
        self._past = past

    async def presences(self, hostnames: Collection[str]) -> Mapping[str, Presence]:
        return {name: _presence(view) for name, view in (await self._queries.by_name(hostnames)).items()}

    async def presences_at(self, hostnames: Collection[str], seq: int) -> Mapping[str, Presence] | None:
        """See `Presences`."""
        try:
            moment = await self._past.moment(str(seq))
        except RefusedError:
            return None
        found = await self._past.hosts(moment, EVERYTHING).by_name(hostnames)
        return {name: _presence(view) for name, view in found.items()}


def _presence(view: HostView) -> Presence:
    os, agent_version = view.facts.get("os"), view.facts.get("agent_version")
    return Presence(
        state=view.state, basic=view.basic, os=os, agent_version=agent_version, groups_bound=view.groups_bound
    )


def services_of(
    core: Core,
    transport: Transport,
    leases: Leases,
    *,
    roles: Collection[str],
    listener: socket.socket | None = None,
    has_broker: bool = True,
    dev: bool = False,
) -> list[Service]:
    """The services of these roles, in the order in which they start; the API's on the socket `listener`."""
    metrics = Metrics()
    count = metrics.happenings()
    publisher = Publisher(transport)
    rebuilder = Rebuilder(core.database, core.log, core.clock, failpoints=core.failpoints)
    live_output = LiveOutput(transport, core.authority, count=count) if has_broker else None

    ingest = partial(
        Ingest, transport=transport, log=core.log, authority=core.authority, count=count, failpoints=core.failpoints
    )
    results = ingest(Results(core.log, core.authority, count))
    heartbeats = ingest(Heartbeats(), meanwhile=partial(leases.hold, HEARING))

    rooms = Rooms(core.database)
    signing = _signing(core, leases, count)
    accounts = _accounts(core, leases, count)
    probes = [
        *_probes(core, roles, publisher, results, signing),
        *(Probe("accounts at the broker", each.check, warns=True) for each in accounts),
        Probe("room in the logs", rooms.check, warns=True),
    ]
    here = Here(
        since_us=core.clock.now_us(),
        takes_messages="ingest" in roles,
        damages=partial(signing.damages, core.log),
        verified=rebuilder.verified,
        witnesses=signing.kept,
    )
    services = services_of_api(core, metrics, rebuilder, probes, rooms.look, live_output, here=here, dev=dev)
    by_role: dict[str, Sequence[Service]] = {
        "projectors": [
            Projector(projection(), core.database, core.log, leases, core.hub, count=count, failpoints=core.failpoints)
            for projection in PROJECTIONS
        ],
        "ingest": [results, heartbeats],
        "processes": [
            *_processes(core, leases, publisher, count),
            signing,
            *accounts,
            *_upkeep(core),
        ],
        "api": [
            rebuilder,
            DenialRecorder(core.handling),
            core.access.uses,
            *([live_output] if live_output is not None else []),
            services.tasks.backlog,
            HttpService(services, listener),
        ]
        if listener is not None
        else [],
    }
    return [core.authority, *(service for role, its in by_role.items() if role in roles for service in its)]


def _processes(core: Core, leases: Leases, publisher: Publisher, count: Count) -> list[Service]:
    """What follows from what happened, and who publishes it."""

    async def heard_under() -> int | None:
        return None if publisher.is_blocked else await leases.held(HEARING)

    return [
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
            vault=core.vault,
            count=count,
            rounds=Rounds(core.checkpoints.newest_event_note),
            failpoints=core.failpoints,
        ),
        Deadlines(core.log, leases, core.hub, core.task_queries, core.clock, failpoints=core.failpoints),
        Rollouts(
            core.log,
            leases,
            core.hub,
            RolloutQueries(core.database),
            core.keyring,
            core.clock,
            failpoints=core.failpoints,
        ),
        PresenceProcess(
            core.log,
            leases,
            core.host_queries,
            core.clock,
            keyring=core.keyring,
            heard_under=heard_under,
            count=count,
            untaken_s=lambda: publisher.untaken_s,
            failpoints=core.failpoints,
        ),
    ]


def accounts_of(settings: Settings) -> ManagedAccounts | SharedAccount:
    """How agents come by an account at the broker."""
    secret = settings.agents_amqp_url or settings.amqp_url
    url = secret.get_secret_value() if secret else None
    if settings.broker_api_url is None or url is None:
        return SharedAccount(url)
    return ManagedAccounts(settings.broker_api_url.get_secret_value(), url)


def provider_of(settings: Settings, clock: Clock, count: Count) -> OpenIdProvider | None:
    """The identity provider, where one is set. Raises ConfigurationError where its authority's file is of no use."""
    if settings.oidc_issuer is None or settings.oidc_client_id is None:
        return None
    secret = settings.oidc_client_secret
    try:
        return OpenIdProvider(
            issuer=settings.oidc_issuer,
            client_id=settings.oidc_client_id,
            client_secret=secret.get_secret_value() if secret else None,
            scopes=settings.oidc_scopes,
            redirect_uri=settings.url + CALLBACK_PATH,
            ca_file=settings.oidc_ca_file,
            clock=clock,
            count=count,
        )
    except OSError as error:
        raise ConfigurationError(f"CONTROL_PLANE_OIDC_CA_FILE: {settings.oidc_ca_file}: {error.strerror}") from error


def _accounts(core: Core, leases: Leases, count: Count) -> list[BrokerAccounts]:
    """Only where the broker's management API is given, and the broker is this control plane's own."""
    accounts = accounts_of(core.settings)
    if core.settings.amqp_url is None or not isinstance(accounts, ManagedAccounts):
        return []
    return [BrokerAccounts(leases, core.authority, accounts, core.clock, count=count)]


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


def services_of_api(
    core: Core,
    metrics: Metrics,
    rebuilder: Rebuilder,
    probes: Sequence[Probe] = (),
    rooms: Callable[[], Awaitable[Mapping[LogName, int]]] | None = None,
    live_output: LiveOutput | None = None,
    *,
    here: Here | None = None,
    dev: bool = False,
) -> Services:
    settings = core.settings
    past = Past(core.database, core.log, core.clock)
    enrolment = EnrolmentHandler(core.handling, accounts_of(settings))
    limits = GuardLimits(many_hosts=settings.guard_many_hosts, fleet_fraction=settings.guard_fleet_fraction)
    tasks = TaskHandler(
        core.handling,
        TablePresences(core.host_queries, past),
        core.task_queries,
        limits=limits,
        require_preview=settings.require_preview,
        max_waiting=settings.max_waiting,
        count=metrics.happenings(),
        vault=core.vault,
    )
    return Services(
        settings=settings,
        clock=core.clock,
        log=core.log,
        authority=core.authority,
        keyring=core.keyring,
        checkpoints=core.checkpoints,
        access=core.access,
        tokens=core.tokens,
        passkeys=PasskeyHandler(core.handling, core.access),
        identity=IdentityHandler(
            core.handling, core.access, provider_of(settings, core.clock, metrics.happenings()), settings.oidc_name
        ),
        enrolment=enrolment,
        pending=pending_hosts_of(core, enrolment),
        rotations=RotationHandler(core.handling, enrolment),
        hosts=HostHandler(core.handling, core.access.check_recent),
        tasks=tasks,
        rollouts=RolloutHandler(core.handling, core.task_queries),
        rules=RuleHandler(core.handling),
        stop=StopHandler(core.handling),
        templates=TemplateHandler(core.handling),
        approvals=ApprovalHandler(core.handling, tasks),
        secrets=SecretHandler(core.handling, core.vault),
        projections=ProjectionHandler(core.handling, rebuilder),
        host_queries=core.host_queries,
        task_queries=core.task_queries,
        audit_queries=AuditQueries(core.database),
        projection_queries=core.projection_queries,
        past=past,
        hub=core.hub,
        here=here or Here(since_us=core.clock.now_us()),
        metrics=metrics,
        probes=probes,
        rooms=rooms,
        live_output=live_output,
        dev=dev,
    )


def pending_hosts_of(core: Core, enrolment: EnrolmentHandler) -> PendingHostHandler:
    table = PendingHostTable(core.database)
    most, of_address = core.settings.pending_hosts, core.settings.pending_hosts_of_address
    return PendingHostHandler(core.handling, enrolment, table, most=most, most_of_address=of_address)


def _signing(core: Core, leases: Leases, count: Count) -> CheckpointProcess:
    """A signer for each log; the one of the heartbeats also hears what hosts bring back."""
    witnesses = Witnesses(core.log, StoredTree(core.database, EVENT), core.checkpoints, count=count)
    syslog = core.settings.checkpoint_syslog

    signers = [
        Signer(
            name,
            core.log,
            StoredTree(core.database, name),
            core.checkpoints,
            CheckpointFile(core.settings.state_dir, name),
            core.keyring,
            core.clock,
            count=count,
            heard=witnesses.hear if name == HEARTBEAT_EVENT else None,
            tell=to_syslog(syslog, "control-plane-checkpoint") if syslog else None,
            failpoints=core.failpoints,
        )
        for name in LOGS
    ]
    return CheckpointProcess(leases, signers, kept=witnesses.kept)


def _probes(
    core: Core, roles: Collection[str], publisher: Publisher, results: Ingest, signing: CheckpointProcess
) -> list[Probe]:
    """What `/readyz` looks at, beside the database."""

    async def broker() -> str | None:
        if "processes" in roles and not publisher.is_connected:
            return "no session to publish on"
        if "ingest" in roles and not results.is_connected:
            return "no session to consume on"
        return "the broker takes no publishes (memory or disk alarm?)" if publisher.is_blocked else None

    async def checkpoints() -> str | None:
        return "; ".join(map(str, signing.alarms)) or None

    async def logs() -> str | None:
        closed = [str(LogClosedError(name, why)) for name in LOGS if (why := await core.log.closed(name)) is not None]
        return "; ".join(closed) or None

    async def quarantine() -> str | None:
        """What no command goes to waits for an administrator."""
        number = len(core.authority.fleet.quarantined())  # without names: not all may see all hosts
        return f"no commands go to {number} host{'s' * (number > 1)}" if number else None

    async def signing_key() -> str | None:
        try:
            core.keyring.active, core.keyring.messenger  # noqa: B018 - they say what they lack
        except KeyMissingError as error:
            return str(error)
        return None

    async def all_keys() -> str | None:
        missing = core.keyring.missing
        return f"not here, though hosts are to trust it: {', '.join(missing)}" if missing else None

    async def stopped() -> str | None:
        stands = core.authority.stop.standing is not None  # by whom and why, not all may know
        return "nothing is accepted or sent until the stop is lifted" if stands else None

    probes = [
        Probe("logs", logs),
        Probe("events", partial(signing.untold, core.log), warns=True),
        Probe("quarantine", quarantine, warns=True),
        Probe("signing key", signing_key),
        Probe("all signing keys", all_keys, warns=True),
        Probe("stop", stopped, warns=True),
    ]
    if {"processes", "ingest"} & set(roles):
        probes.append(Probe("broker", broker))
    return [*probes, Probe("checkpoints", checkpoints)] if "processes" in roles else probes


async def serve(settings: Settings, roles: Collection[str]) -> None:
    """Run these roles on the database and the broker of the settings until SIGTERM or SIGINT."""
    if settings.amqp_url is None and set(roles) & {"ingest", "processes"}:
        raise ConfigurationError("CONTROL_PLANE_AMQP_URL is not set")
    url = settings.amqp_url.get_secret_value() if settings.amqp_url else ""
    with bound(settings) if "api" in roles else nullcontext((settings, None)) as (settings, listener):
        async with open_core(settings) as core, open_leases(core) as leases:
            await prepare(core)
            transport = RabbitTransport(url)
            services = services_of(core, transport, leases, roles=roles, listener=listener, has_broker=bool(url))
            await run(services, drain_s=settings.drain_s)


async def run(services: Sequence[Service], *, drain_s: float) -> None:
    """Run services until a signal asks to stop; a second one ends the program at once."""
    stop = asyncio.Event()
    collect_seldom()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run_until_stopped(services, stop=stop, drain_s=drain_s)


def collect_seldom() -> None:
    """Keep the collector of reference cycles from what there is now, which stays, and let it come less often.

    All loaded modules are a hundred thousand objects and more. Looking through them took a seventh of an append's time,
    in pauses of tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
