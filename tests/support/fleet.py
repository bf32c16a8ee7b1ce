"""Fleets, principals, and a whole desk of handlers over a log in memory."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from control_plane.commands.access import Principal
from control_plane.commands.authority import Authority, Keyring
from control_plane.commands.handlers.access import AccessHandler
from control_plane.commands.handlers.approvals import ApprovalHandler
from control_plane.commands.handlers.enrolment import EnrolmentHandler
from control_plane.commands.handlers.hosts import HostHandler
from control_plane.commands.handlers.passkeys import PasskeyHandler
from control_plane.commands.handlers.pending_hosts import PendingHostHandler
from control_plane.commands.handlers.rollouts import RolloutHandler
from control_plane.commands.handlers.rotations import RotationHandler
from control_plane.commands.handlers.rules import RuleHandler
from control_plane.commands.handlers.stop import StopHandler
from control_plane.commands.handlers.tasks import TaskHandler
from control_plane.commands.handlers.templates import TemplateHandler
from control_plane.commands.handlers.tokens import TokenHandler
from control_plane.commands.handling import Handling
from control_plane.commands.hosts import FleetState
from control_plane.commands.keyring import decide_announce, decide_retire, decide_rotate
from control_plane.commands.passkeys import RelyingParty
from control_plane.commands.passwords import PasswordHasher
from control_plane.commands.ports import PendingRow, Presence
from control_plane.commands.targets import All, Target
from control_plane.commands.tasks import CreateTask, RequirePreview
from control_plane.errors import StorageUnavailableError
from control_plane.events.event import Event
from control_plane.events.hosts import HostRegistered
from control_plane.messaging.broker_accounts import SharedAccount
from control_plane_wire import proofs
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.signing import SigningKey, encode_base64
from tests.support.clock import ManualClock
from tests.support.memory_log import MemoryLog

ADMIN = Principal(username="root", role="administrator", address="127.0.0.1")
OPERATOR = Principal(username="ada", role="operator", address="127.0.0.1")
VIEWER = Principal(username="eve", role="viewer", address="127.0.0.1")
PASSWORD = "correct horse battery"
PARTY = RelyingParty("control.example", "https://control.example")
CONTROL_PLANE_KEY = SigningKey.from_bytes(b"\x01" * 32)
SECRETS_KEY = bytes(range(64))


def host_key(hostname: str) -> SigningKey:
    """The key of a host in tests, the same each time."""
    return SigningKey.from_bytes(hostname.encode().ljust(32, b"\0")[:32])


def a_registration(hostname: str, *groups: str, generation: int = 1, by_hand: bool = False) -> HostRegistered:
    return HostRegistered(
        hostname=hostname,
        generation=generation,
        public_key=encode_base64(host_key(hostname).public_key),
        groups=groups,
        registered_by="root",
        enrolment_token_id=None if by_hand else "0123456789abcdef",
    )


def a_fleet(hosts: Mapping[str, Collection[str]]) -> FleetState:
    """Hosts with their groups, registered in that order from seq 1 on, all by a token."""
    fleet = FleetState()
    for seq, (hostname, groups) in enumerate(hosts.items(), start=1):
        assert fleet.apply(a_registration(hostname, *groups), seq)
    return fleet


def a_request(task_id: str = "t1", target: Target | None = None, **given: object) -> CreateTask:
    asked = {"command": "uptime", "timeout": 30, "user": "root", **given}
    return CreateTask(task_id=task_id, target=target or All(), **asked)  # type: ignore[arg-type]


class MemoryCredentials:
    def __init__(self) -> None:
        self.rows: dict[str, str] = {}

    async def get(self, username: str) -> str | None:
        return self.rows.get(username)

    async def put(self, username: str, phc: str) -> None:
        self.rows[username] = phc


class MemoryPendingHosts:
    """See `commands.ports.PendingHosts`."""

    def __init__(self) -> None:
        self.rows: dict[int, PendingRow] = {}

    async def places(self) -> Mapping[int, PendingRow]:
        return dict(self.rows)

    async def put(self, place: int, row: PendingRow, *, instead: PendingRow | None) -> None:
        self.rows = {at: there for at, there in self.rows.items() if there[1] != row[1]}
        if self.rows.get(place) not in (None, instead):
            raise StorageUnavailableError("somebody else has that place")
        self.rows[place] = row

    async def refuse(self, fingerprint: str) -> None:
        for place, row in self.rows.items():
            if proofs.fingerprint(row[1]) == fingerprint:
                self.rows[place] = (*row[:4], True)

    async def forget(self, fingerprint: str) -> None:
        self.rows = {place: row for place, row in self.rows.items() if proofs.fingerprint(row[1]) != fingerprint}


class MemoryPresences:
    def __init__(self) -> None:
        self.rows: dict[str, Presence] = {}
        self.before: dict[int, dict[str, Presence]] = {}  # by the log position at which it was so

    async def presences(self, hostnames: Collection[str]) -> Mapping[str, Presence]:
        return {name: self.rows[name] for name in hostnames if name in self.rows}

    async def presences_at(self, hostnames: Collection[str], seq: int) -> Mapping[str, Presence] | None:
        rows = self.before.get(seq)
        return None if rows is None else {name: rows[name] for name in hostnames if name in rows}


class MemoryExecutions:
    def __init__(self) -> None:
        self.rows: dict[str, dict[str, str]] = {}
        self.position = 0
        self.late: dict[str, list[str]] = {}

    async def states(self, task_id: str) -> Mapping[str, str]:
        return self.rows.get(task_id, {})

    async def succeeded_late(self, task_id: str) -> list[str]:
        return self.late.get(task_id, [])

    async def waiting(self) -> tuple[int, int]:
        return self.position, sum(state in {"queued", "sent"} for row in self.rows.values() for state in row.values())


@dataclass(kw_only=True)
class Desk:
    """All handlers over one log; `beside()` is another replica's desk over the same log."""

    clock: ManualClock = field(default_factory=ManualClock)
    log: MemoryLog = field(default_factory=MemoryLog)
    keyring: Keyring = field(default_factory=lambda: Keyring(CONTROL_PLANE_KEY))
    credentials: MemoryCredentials = field(default_factory=MemoryCredentials)
    presences: MemoryPresences = field(default_factory=MemoryPresences)
    executions: MemoryExecutions = field(default_factory=MemoryExecutions)
    relying_party: RelyingParty | None = PARTY
    require_preview: RequirePreview = "off"
    failpoints: Failpoints = NO_FAILPOINTS
    requests: MemoryPendingHosts = field(default_factory=MemoryPendingHosts)
    pending_hosts: int = 8
    pending_hosts_of_address: int | None = None

    def __post_init__(self) -> None:
        self.authority = Authority(self.log, self.keyring, self.clock)
        self.handling = Handling(
            log=self.log,
            authority=self.authority,
            keyring=self.keyring,
            clock=self.clock,
            failpoints=self.failpoints,
        )
        self.tasks = TaskHandler(self.handling, self.presences, self.executions, require_preview=self.require_preview)
        self.rollouts = RolloutHandler(self.handling, self.executions)
        self.rules = RuleHandler(self.handling)
        self.stop = StopHandler(self.handling)
        self.templates = TemplateHandler(self.handling)
        self.approvals = ApprovalHandler(self.handling, self.tasks)
        self.enrolment = EnrolmentHandler(self.handling, SharedAccount(None))
        self.pending = PendingHostHandler(
            self.handling,
            self.enrolment,
            self.requests,
            most=self.pending_hosts,
            most_of_address=self.pending_hosts_of_address,
        )
        self.rotations = RotationHandler(self.handling, self.enrolment)
        self.access = AccessHandler(
            self.handling,
            self.credentials,
            PasswordHasher(memory_kib=64, iterations=1, lanes=1),
            login_token="link",
            login_user="root",
            relying_party=self.relying_party,
        )
        self.hosts = HostHandler(self.handling, self.access.check_recent)
        self.tokens = TokenHandler(self.handling)
        self.passkeys = PasskeyHandler(self.handling, self.access)

    def beside(self, keyring: Keyring | None = None) -> "Desk":
        """Args: `keyring`: with a fold of its own, where it is given."""
        return Desk(
            clock=self.clock,
            log=self.log,
            keyring=keyring or self.keyring,
            credentials=self.credentials,
            requests=self.requests,
        )

    async def announce(self, new: SigningKey) -> None:
        await self.handling.record_new(decide_announce(self.keyring, new.public_key), actor="console")

    async def rotate_to(self, new: SigningKey) -> None:
        """Announce a key, and make it the one that signs."""
        await self.announce(new)
        added = decide_rotate(self.keyring, lambda _: new)
        assert added is not None
        await self.handling.record_new(added, actor="console")
        self.keyring.hold(new)

    async def retire_first(self) -> int:
        """End the first key; the seq of that."""
        ended = decide_retire(self.keyring, self.keyring.chain[0].key_id, heartbeats=0, reason=None)
        assert ended is not None
        return await self.handling.record_new(ended, actor="console")

    def kinds(self) -> list[str]:
        """What was recorded, in order."""
        return [row.kind for row in self.log.rows]

    def insert(self, event: Event, key: SigningKey | None = None) -> int:
        """Write an event as the database's owner could: unsigned, or signed by another key. Its seq."""
        signature, key_id = (Keyring(key).sign_event(event), key.key_id) if key else (None, None)
        return self.log.insert(event.to_new_event(actor="root", signature=signature, key_id=key_id)).seq

    async def register(self, hostname: str, *groups: str) -> int:
        key = host_key(hostname).public_key
        return await self.hosts.register(ADMIN, hostname=hostname, public_key=key, groups=groups)

    async def user(self, username: str, role: str) -> Principal:
        """A user with PASSWORD, signed in."""
        await self.access.create_user(ADMIN, username, role=role, password=PASSWORD)
        return (await self.access.login(username, PASSWORD, address=None)).principal
