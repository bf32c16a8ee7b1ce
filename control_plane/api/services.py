"""What the API is given: the decisions, the queries, and what both stand on."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, Request

from control_plane.commands.access import Principal
from control_plane.commands.authority import Authority, Keyring
from control_plane.commands.handlers.access import AccessHandler
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
from control_plane.commands.handlers.tokens import TokenHandler
from control_plane.commands.ports import Log
from control_plane.errors import LogDamagedError, NotSignedInError
from control_plane.events.checkpoints import Checkpoints
from control_plane.events.envelope import LogName
from control_plane.observability import Metrics
from control_plane.projections.hub import Hub
from control_plane.projections.queries.audit import AuditQueries
from control_plane.projections.queries.hosts import HostQueries
from control_plane.projections.queries.past import Past
from control_plane.projections.queries.projections import ProjectionQueries
from control_plane.projections.queries.scopes import Scope
from control_plane.projections.queries.tasks import TaskQueries
from control_plane.projections.rebuilder import Verified
from control_plane.settings import Settings
from control_plane_wire.clock import Clock
from control_plane_wire.output import OutputMessage


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that must be well before this process is ready.

    Attributes:
        check: None where it is, else one line on what is wrong.
        warns: what is wrong is for people to know; this process is ready all the same.
    """

    name: str
    check: Callable[[], Awaitable[str | None]]
    warns: bool = False


class LiveOutput(Protocol):
    """What running commands print, as far as somebody wants to see it."""

    def listen(self, tell: Callable[[OutputMessage], None]) -> None:
        """Have each piece that is watched told."""
        ...

    def watch(self, executions: Collection[tuple[str, str]]) -> None:
        """These, each a task_id and a hostname, are all whose output somebody watches from now on."""
        ...

    def expect(self, task_id: str, hostnames: Sequence[str]) -> None:
        """Somebody may watch some of these in a moment."""
        ...

    def latest(self, execution: tuple[str, str]) -> Sequence[OutputMessage]:
        """What is still known of what it has printed, oldest first."""
        ...


async def _nothing() -> Sequence[LogDamagedError]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What this process alone knows: each of several tells its own, and nothing of it outlives the process.

    Attributes:
        since_us: since when it has counted, UTC microseconds.
        takes_messages: whether it takes results and heartbeats from the broker.
        damages: where it has found the logs damaged.
        verified: what the last rebuild of a read table found that was asked of it.
        witnesses: over how many events the newest checkpoint was that a host has brought back, by hostname.
    """

    since_us: int
    takes_messages: bool = False
    damages: Callable[[], Awaitable[Sequence[LogDamagedError]]] = _nothing
    verified: Callable[[str], Verified | None] = lambda _name: None
    witnesses: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the API is given.

    Attributes:
        here: what this process alone knows.
        live_output: None where this process has no broker.
        rooms: of each log, how many events fit into what is planned.
    """

    settings: Settings
    clock: Clock
    log: Log
    authority: Authority
    keyring: Keyring
    checkpoints: Checkpoints
    access: AccessHandler
    tokens: TokenHandler
    passkeys: PasskeyHandler
    identity: IdentityHandler
    enrolment: EnrolmentHandler
    pending: PendingHostHandler
    rotations: RotationHandler
    hosts: HostHandler
    tasks: TaskHandler
    rollouts: RolloutHandler
    rules: RuleHandler
    stop: StopHandler
    templates: TemplateHandler
    approvals: ApprovalHandler
    secrets: SecretHandler
    projections: ProjectionHandler
    host_queries: HostQueries
    task_queries: TaskQueries
    audit_queries: AuditQueries
    projection_queries: ProjectionQueries
    past: Past
    hub: Hub
    here: Here
    metrics: Metrics = field(default_factory=Metrics)
    probes: Sequence[Probe] = ()
    rooms: Callable[[], Awaitable[Mapping[LogName, int]]] | None = None
    live_output: LiveOutput | None = None
    dev: bool = False


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _caller(request: Request) -> Principal:
    """Whom the gate has let in. A public route that asks for a caller is not public after all."""
    principal: Principal | None = getattr(request.state, "principal", None)
    if principal is None:
        raise NotSignedInError
    return principal


def scope_of(services: Services, principal: Principal) -> Scope:
    """What somebody may be shown, as rights and hosts stand now."""
    readable = services.authority.readable
    return Scope(
        hosts=readable(principal, "hosts.read"),
        tasks=readable(principal, "tasks.read"),
        outputs=readable(principal, "tasks.output"),
        events=readable(principal, "events.read"),
    )


Given = Annotated[Services, Depends(_services)]
Caller = Annotated[Principal, Depends(_caller)]


async def _seen(services: Given, caller: Caller) -> Scope:
    return scope_of(services, caller)


Seen = Annotated[Scope, Depends(_seen)]
"""What the caller may be shown. Whatever reads for a caller asks for it: `api.past` and `api.seen` for the readers."""
