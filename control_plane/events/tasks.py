"""What happens to tasks and their executions, and which state follows from which."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self, cast

from control_plane.events.envelope import Key, StoredEvent
from control_plane.events.event import Event, WireBorn
from control_plane_wire import messages
from control_plane_wire.strict_json import Json, JsonObject

# An execution only ever moves to a state of higher rank, and a terminal one moves no more.
RANK: Final[Mapping[str, int]] = {
    "queued": 0,
    "sent": 1,
    "accepted": 2,
    "running": 3,
    "succeeded": 4,
    "failed": 4,
    "timed_out": 4,
    "cancelled": 4,
    "rejected": 4,
    "expired": 4,
    "interrupted": 4,
    "lost": 4,
    "skipped": 4,
}
STATES: Final = tuple(RANK)
TERMINAL: Final = frozenset(state for state, rank in RANK.items() if rank == 4)
FAILED: Final = TERMINAL - {"succeeded", "skipped", "cancelled"}  # what counts against the errors of a rollout
OUTCOME: Final = "outcome"
LOST_AFTER_S: Final = 180  # an agent's own timeout, kill and last retries fit in


def hosts_named(request: Mapping[str, Json]) -> Sequence[str]:
    """The hosts that a task's target names: one whose agent cannot do what was asked is not in the frozen list."""
    target = cast("Mapping[str, Sequence[str]]", request["target"])
    return target.get("hosts", ())


def advanced(state: str, to: str) -> str:
    """The state after an event that says `to`: what comes late or twice never moves it back."""
    return to if RANK[to] > RANK[state] else state


def state_of(result: messages.ResultMessage) -> str:
    """The terminal state that an agent's result means."""
    outcome = result.outcome or "completed"
    if outcome == "completed":
        return "succeeded" if result.exit_code == 0 else "failed"
    return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAccepted(Event):
    """A command for a frozen list of hosts, authorised: the envelope's signature covers this whole body.

    Attributes:
        task_id: what it is called by, in this log and on the wire.
        request: the canonical request: target, command, timeout, user, when_offline, and what else was given.
        request_sha256: hex digest of what the client sent, without its task_id; tells a repeat from another request.
        hosts: the frozen list, sorted.
        hosts_sha256: hex digest of the frozen list.
        basic: those of the hosts whose agents know only the required fields.
        as_of: seq of the last event that the list was frozen on.
        actor: the user who asked.
        accepted_at: Unix seconds by the control plane's clock.
        expires_at: Unix seconds by the control plane's clock; nothing is published after it.
        guard: {"level": 1 to 3, "rules": [names]}, what the guard said of it.
        retry_of: the task that this one repeats, if it repeats one.
        rules: those that allowed it, a role's own as role:NAME; null in events of before it was kept.
        policy_seq: seq of the last event that had changed the rules, 0 where none had.
        token_id: the API token that it was asked for with, if by one; null in events of before it was kept.
        approval_id: the approval that it used, where it needed one.
    """

    KIND: ClassVar[str] = "task.accepted"
    GIVES_AUTHORITY: ClassVar[bool] = True

    task_id: str
    request: Mapping[str, Json]
    request_sha256: str
    hosts: tuple[str, ...]
    hosts_sha256: str
    basic: tuple[str, ...]
    as_of: int
    actor: str
    accepted_at: int
    expires_at: int
    guard: Mapping[str, Json]
    retry_of: str | None = None
    rules: tuple[str, ...] | None = None
    policy_seq: int | None = None
    token_id: str | None = None
    approval_id: str | None = None

    def key(self) -> Key:
        return Key(self.task_id, self.KIND)

    def digest(self) -> bytes:
        return hashlib.sha256(f"{self.request_sha256}\n{self.actor}".encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedOnce(Event):
    """What somebody asks of a task, and nobody can ask again.

    Attributes:
        task_id: the task.
        actor: the user who asked.
        reason: for people.
    """

    GIVES_AUTHORITY: ClassVar[bool] = True

    task_id: str
    actor: str
    reason: str | None = None

    def key(self) -> Key:
        return Key(self.task_id, self.KIND)

    def digest(self) -> bytes:
        """Asking twice is asking once, whoever asks."""
        return hashlib.sha256(self.KIND.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCancelRequested(AskedOnce):
    """Whatever of the task has not ended is to be ended."""

    KIND: ClassVar[str] = "task.cancel_requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfExecution(Event):
    """One execution, known by (task_id, hostname).

    Attributes:
        task_id: the task.
        hostname: the host that it is the part of.
    """

    task_id: str
    hostname: str

    def key(self) -> Key:
        return Key(self.task_id, self.KIND, self.hostname)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSent(_OfExecution):
    """A publish was confirmed: the agent's queue has it. Not more: the queue dies with the agent's connection.

    Attributes:
        route: the routing key that it went by first.
        after_seq: the last event of which was known when it was published.
    """

    KIND: ClassVar[str] = "execution.sent"

    route: str
    after_seq: int | None = None

    def digest(self) -> bytes:
        """By whichever route it went first."""
        return hashlib.sha256(self.KIND.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionReturned(_OfExecution):
    """What `trigger_seq` called for was certainly delivered to nobody.

    Its publish came back unroutable; or it was over, or its host may be told nothing any more, before one was sent.

    Attributes:
        trigger_seq: seq of the acceptance, or of the host's coming online, or of the end of its quarantine, that made
            the publish due.
    """

    KIND: ClassVar[str] = "execution.returned"

    trigger_seq: int

    def key(self) -> Key:
        return Key(self.task_id, self.KIND, self.hostname, str(self.trigger_seq))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionUnconfirmed(_OfExecution):
    """A publish whose outcome nobody knows, so from here on it may have been delivered.

    Attributes:
        after_seq: the last event of which was certainly known when it was published.
    """

    KIND: ClassVar[str] = "execution.unconfirmed"

    after_seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reported(WireBorn):
    """What an agent said of an execution. The hostname is the signer's; it is not part of the body."""

    hostname: str

    @property
    def task_id(self) -> str:
        return str(self.message["task_id"])

    @classmethod
    def from_stored(cls, stored: StoredEvent, body: JsonObject) -> Self:
        return cls(message=body, hostname=stored.hostname or "", canonical=stored.body)

    def key(self) -> Key:
        return Key(self.task_id, self.KIND, self.hostname)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionAccepted(_Reported):
    """The agent has journalled it."""

    KIND: ClassVar[str] = "execution.accepted"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionStarted(_Reported):
    """The agent has started it."""

    KIND: ClassVar[str] = "execution.started"

    @property
    def started_at(self) -> int:
        """Unix seconds by the agent's clock."""
        parsed = messages.parse_result(self.message)
        if not isinstance(parsed, messages.AcceptedMessage) or parsed.started_at is None:
            raise TypeError("not said to be started")
        return parsed.started_at


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFinished(_Reported):
    """The agent's result: the first one is the outcome, for good."""

    KIND: ClassVar[str] = "execution.finished"

    @property
    def result(self) -> messages.ResultMessage:
        return result_of(self.message)

    def key(self) -> Key:
        return Key(self.task_id, OUTCOME, self.hostname)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionLateResult(_Reported):
    """A result that came after the control plane had said the outcome itself: evidence that changes no state."""

    KIND: ClassVar[str] = "execution.late_result"

    @property
    def result(self) -> messages.ResultMessage:
        return result_of(self.message)


def result_of(message: JsonObject) -> messages.ResultMessage:
    parsed = messages.parse_result(message)
    if not isinstance(parsed, messages.ResultMessage):
        raise TypeError("not a result")
    return parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class _OutcomeByControlPlane(_OfExecution):
    """A terminal state that the control plane says. All outcomes share one key: the first stands, whoever writes it.

    Attributes:
        reason: for people.
    """

    reason: str

    def key(self) -> Key:
        return Key(self.task_id, OUTCOME, self.hostname)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionExpired(_OutcomeByControlPlane):
    """No publish has reached anybody and its time is over: it certainly never ran."""

    KIND: ClassVar[str] = "execution.expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionLost(_OutcomeByControlPlane):
    """It was perhaps delivered and no word came: it may have run."""

    KIND: ClassVar[str] = "execution.lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSkipped(_OutcomeByControlPlane):
    """It is not run: the host was offline and the task only for those that are there, or its rollout has stopped."""

    KIND: ClassVar[str] = "execution.skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionCancelled(_OutcomeByControlPlane):
    """It was cancelled before anything was delivered."""

    KIND: ClassVar[str] = "execution.cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionConflict(_OfExecution):
    """A second, different signed result of the same host; the first one stands.

    Attributes:
        first_seq: seq of the outcome that stands.
        result_sha256: hex SHA-256 of the second result.
    """

    KIND: ClassVar[str] = "execution.conflict"

    first_seq: int
    result_sha256: str

    def key(self) -> Key:
        return Key(self.task_id, self.KIND, self.hostname, self.result_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionUnexpected(_OfExecution):
    """A signed result for a task that is not known, or of a host that is not on its list.

    Attributes:
        reason: which of the two, for people.
        message_sha256: hex SHA-256 of the result.
        count: so many more of the same host within a minute, of which this was the last; each is in the dead queue.
        count_id: tells one such number from the next, in the key in place of message_sha256.
    """

    KIND: ClassVar[str] = "execution.unexpected"

    reason: str
    message_sha256: str
    count: int | None = None
    count_id: str | None = None

    def key(self) -> Key:
        return Key(self.task_id, self.KIND, self.hostname, self.count_id or self.message_sha256)


STATE_BY_KIND: Final[Mapping[str, str]] = {
    ExecutionSent.KIND: "sent",
    ExecutionAccepted.KIND: "accepted",
    ExecutionStarted.KIND: "running",
    ExecutionExpired.KIND: "expired",
    ExecutionLost.KIND: "lost",
    ExecutionSkipped.KIND: "skipped",
    ExecutionCancelled.KIND: "cancelled",
}


def last_start_s(expires_at: int) -> int:
    """Until when an agent may start it, whatever its clock says."""
    return expires_at + messages.ALLOWED_SKEW_S


def last_word_s(expires_at: int, timeout_s: int, running_us: int | None = None) -> int:
    """Until when what was perhaps delivered may start, run and answer, by the control plane's clock."""
    started_s = last_start_s(expires_at) if running_us is None else running_us // 1_000_000
    return started_s + timeout_s + LOST_AFTER_S


@dataclass(frozen=True, slots=True)
class Delivery:
    """Whether a command may have reached its host, as far as the log tells.

    Attributes:
        trigger_seq: the last event that called for a publish: the task's acceptance, or its release where the task has
            a rollout, or the host's coming online, or the end of its quarantine; 0 as long as it is not released.
        returned_seq: the last trigger whose publish is known to have come back, or to have never been sent.
        may_have_arrived: a publish was confirmed, or nobody knows what became of one, or the host answered. It stays.
    """

    trigger_seq: int
    returned_seq: int = 0
    may_have_arrived: bool = False

    @property
    def certainly_not(self) -> bool:
        """Every publish is known to have reached nobody: then, and only then, `expired` is the truth."""
        return not self.may_have_arrived and self.returned_seq >= self.trigger_seq

    def triggered(self, seq: int) -> "Delivery":
        return Delivery(max(seq, self.trigger_seq), self.returned_seq, self.may_have_arrived)

    def returned(self, trigger_seq: int) -> "Delivery":
        return Delivery(self.trigger_seq, max(trigger_seq, self.returned_seq), self.may_have_arrived)

    def perhaps(self) -> "Delivery":
        return Delivery(self.trigger_seq, self.returned_seq, True)
