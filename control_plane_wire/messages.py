"""The messages, checked field by field. A field that is not known is ignored, but it is part of what was signed.

{"task_id": …, "command": …, …, "sign": base64(Ed25519(CPSIG1 ‖ type ‖ sender ‖ recipient ‖ key_id ‖ body))}
body = the canonical form of all that without "sign" (of a result or heartbeat: without "signature")
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Final, TypeAlias

from control_plane_wire import strict_json
from control_plane_wire.errors import MalformedMessageError
from control_plane_wire.fields import Fields
from control_plane_wire.signing import (
    COMMAND,
    SigningKey,
    decode_base64,
    decode_public_key,
    decode_signature,
    encode_base64,
    is_key_id,
    verify,
)
from control_plane_wire.strict_json import Json, JsonObject

MAX_COMMAND_BYTES: Final = 1024 * 1024
MAX_RESULT_BYTES: Final = 8 * 1024 * 1024
MAX_HEARTBEAT_BYTES: Final = 64 * 1024
MAX_OUTPUT_BYTES: Final = 256 * 1024

MAX_TIMEOUT_S: Final = 86_400
ALLOWED_SKEW_S: Final = 120
DEFAULT_EXPIRY_S: Final = 600
MAX_EXPIRY_S: Final = 7 * 86_400
MAX_ARGUMENT_BYTES: Final = 131_071  # of one argument of execve
MAX_ARGUMENTS: Final = 1024
MAX_CHECKPOINT_BYTES: Final = 4096
HEAD_BYTES: Final = 256 * 1024  # of each stream, what a result keeps of its beginning
TAIL_BYTES: Final = 768 * 1024  # and of its end
MAX_REASON_BYTES: Final = 1024
MAX_GROUPS: Final = 256
MAX_KEYS: Final = 16

OUTCOMES: Final = frozenset({"completed", "timed_out", "cancelled", "rejected", "expired", "interrupted"})
ENCODINGS: Final = frozenset({"utf-8", "base64"})
BASIC_INTERVAL_S: Final = 30  # assumed between the heartbeats of an agent that does not say
DEFAULT_INTERVAL_S: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A decoded message whose signature has not been checked yet.

    Attributes:
        message: the whole decoded object; after verification use this one and never parse again.
        body: the canonical bytes that were signed.
        signature: 64 bytes.
        key_id: the sender's hint which of its keys signed, if it gave one that can be a key's.
    """

    message: JsonObject
    body: bytes
    signature: bytes
    key_id: str | None

    def verify(self, public_key: bytes, tag: str, *, sender: str, recipient: str) -> None:
        """Raises SignatureError unless this key signed exactly this, for this recipient."""
        verify(public_key, self.signature, tag, sender=sender, recipient=recipient, body=self.body)


def decode(data: bytes, *, max_bytes: int, tag: str) -> Signed:
    """Decode a wire message and split its signature off.

    Raises:
        MalformedMessageError: it is not strict JSON, or carries no well-formed signature.
    """
    message = strict_json.parse(data, max_bytes=max_bytes)
    name = _signature_field(tag)
    signature = Fields(message).decoded(name, decode_signature)
    key_id = message.get("key_id")
    unsigned = {field: value for field, value in message.items() if field != name}
    return Signed(
        message=message,
        body=strict_json.canonical(unsigned),
        signature=signature,
        key_id=key_id if isinstance(key_id, str) and is_key_id(key_id) else None,
    )


def seal(message: JsonObject, key: SigningKey, tag: str, *, sender: str, recipient: str) -> bytes:
    """The wire bytes of a message: its canonical form with the signature in it. The same input gives the same bytes."""
    signature = key.sign(tag, sender=sender, recipient=recipient, body=strict_json.canonical(message))
    return strict_json.canonical({**message, _signature_field(tag): encode_base64(signature)})


def _signature_field(tag: str) -> str:
    return "sign" if tag == COMMAND else "signature"


class _Message:
    """What all messages share: their JSON form is their fields, without those that are None."""

    __slots__ = ()

    def to_json(self) -> JsonObject:
        names = _names(type(self))  # type: ignore[arg-type] # a class has a hash
        values = {name: getattr(self, name) for name in names}
        return {name: _plain(value) for name, value in values.items() if value is not None}


@cache
def _names(message: type[_Message]) -> tuple[str, ...]:
    # Only the subclasses are dataclasses, which a type cannot say.
    return tuple(field.name for field in fields(message))  # type: ignore[arg-type]


def _plain(value: object) -> Json:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, KeyState):
        return value.to_json()
    if isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandMessage(_Message):
    """Run `command`; with `argv`, without a shell (`command` then holds the same line, quoted, for people)."""

    task_id: str
    command: str
    timeout: int
    user: str
    timestamp: int
    as_of: int | None = None
    expires_at: int | None = None
    argv: tuple[str, ...] | None = None
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    stdin: str | None = None

    @property
    def last_start_s(self) -> int:
        """Unix seconds after which it must not be started, without the allowed skew."""
        return self.timestamp + DEFAULT_EXPIRY_S if self.expires_at is None else self.expires_at

    def basic(self) -> "CommandMessage":
        """The six required fields alone, which is all that a basic agent understands."""
        return CommandMessage(
            task_id=self.task_id, command=self.command, timeout=self.timeout, user=self.user, timestamp=self.timestamp
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelMessage(_Message):
    """End that task, or never start it. It carries no command, so an agent that does not know it has nothing to run."""

    task_id: str
    timestamp: int

    def to_json(self) -> JsonObject:
        return {"kind": "cancel", "task_id": self.task_id, "timestamp": self.timestamp}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyState:
    """One of the control plane's public keys: `active` signs, `retired` only verifies history."""

    public_key: bytes
    state: str

    def to_json(self) -> JsonObject:
        return {"public_key": encode_base64(self.public_key), "state": self.state}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigureMessage(_Message):
    """A host's groups with the log position of each assignment, the control plane's keys, the newest checkpoint.

    `next_key_sha256` is of the public key that will come after these; an agent takes no other.
    """

    task_id: str
    timestamp: int
    as_of: int
    groups: Mapping[str, int]
    keys: tuple[KeyState, ...] | None = None
    checkpoint: str | None = None
    next_key_sha256: str | None = None

    def to_json(self) -> JsonObject:
        return {"kind": "configure", **_Message.to_json(self)}


ToAgent: TypeAlias = CommandMessage | CancelMessage | ConfigureMessage


def parse_command(message: JsonObject) -> ToAgent:
    """What the control plane wants of an agent.

    Raises:
        MalformedMessageError: a field is wrong, or the kind is not known.
    """
    read = Fields(message)
    match message.get("kind", "command"):
        case "command":
            return _parse_run(read)
        case "cancel" | "configure" if "command" in message:
            raise MalformedMessageError("command is there, where an agent that ignores kind would run it")
        case "cancel":
            return CancelMessage(task_id=read.task_id(), timestamp=read.seconds("timestamp"))
        case "configure":
            return _parse_configure(read)
        case _:
            raise MalformedMessageError("kind is not known")


def _parse_run(read: Fields) -> CommandMessage:
    return CommandMessage(
        task_id=read.task_id(),
        command=read.text("command", least_bytes=1, most_bytes=MAX_ARGUMENT_BYTES),
        timeout=read.integer("timeout", least=1, most=MAX_TIMEOUT_S),
        user=read.account("user"),
        timestamp=read.seconds("timestamp"),
        as_of=read.optional("as_of", read.integer),
        expires_at=read.optional("expires_at", read.seconds),
        argv=read.optional("argv", lambda name: _parse_argv(read, name)),
        env=read.optional("env", read.environment),
        cwd=read.optional("cwd", lambda name: read.text(name, least_bytes=1, most_bytes=4096)),
        stdin=read.optional("stdin", lambda name: read.text(name, most_bytes=MAX_COMMAND_BYTES, allow_nul=True)),
    )


def _parse_argv(read: Fields, name: str) -> tuple[str, ...]:
    argv = read.texts(name, most=MAX_ARGUMENTS, most_bytes=MAX_ARGUMENT_BYTES)
    if not argv or not argv[0]:
        raise MalformedMessageError(f"{name} does not begin with a program")
    return argv


def _parse_configure(read: Fields) -> ConfigureMessage:
    groups = read.object("groups")
    if len(groups) > MAX_GROUPS:
        raise MalformedMessageError(f"groups are more than {MAX_GROUPS}")
    names = Fields({"groups": list(groups)}).names("groups", most=MAX_GROUPS)
    positions = Fields(groups)
    return ConfigureMessage(
        task_id=read.task_id(),
        timestamp=read.seconds("timestamp"),
        as_of=read.integer("as_of"),
        groups={name: positions.integer(name) for name in names},
        keys=read.optional("keys", lambda name: tuple(map(_parse_key, read.objects(name, most=MAX_KEYS)))),
        checkpoint=read.optional("checkpoint", lambda name: read.text(name, most_bytes=MAX_CHECKPOINT_BYTES)),
        next_key_sha256=read.optional("next_key_sha256", read.digest),
    )


def _parse_key(read: Fields) -> KeyState:
    return KeyState(
        public_key=read.decoded("public_key", decode_public_key),
        state=read.one_of("state", frozenset({"active", "next", "retired"})),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedMessage(_Message):
    """Journalled; with `started_at`, running. Sent only when no result follows within half a second."""

    task_id: str
    timestamp: int
    started_at: int | None = None
    command_sha256: str | None = None

    def to_json(self) -> JsonObject:
        return {"kind": "accepted", **_Message.to_json(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultMessage(_Message):
    """The outcome of an execution. `exit_code` is 128+n where signal n ended it, None where it never ran.

    `stdout` and `stderr` are text, or base64 where `encoding` says so; where `truncated`, the first
    `…_head_bytes` and then the last bytes of a stream of `…_bytes` with that SHA-256.
    """

    task_id: str
    exit_code: int | None
    stdout: str
    stderr: str
    timestamp: int
    outcome: str | None = None
    reason: str | None = None
    started_at: int | None = None
    finished_at: int | None = None
    command_sha256: str | None = None
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    stdout_sha256: str | None = None
    stderr_sha256: str | None = None
    stdout_head_bytes: int | None = None
    stderr_head_bytes: int | None = None
    truncated: bool | None = None
    encoding: str | None = None
    leftovers: int | None = None

    def to_json(self) -> JsonObject:
        return {**_Message.to_json(self), "exit_code": self.exit_code}


FromAgent: TypeAlias = AcceptedMessage | ResultMessage


def parse_result(message: JsonObject) -> FromAgent:
    """What an agent says of an execution.

    Raises:
        MalformedMessageError: a field is wrong, or the kind is not known.
    """
    read = Fields(message)
    match message.get("kind", "result"):
        case "result":
            return _parse_result(read)
        case "accepted":
            return AcceptedMessage(
                task_id=read.task_id(),
                timestamp=read.seconds("timestamp"),
                started_at=read.optional("started_at", read.seconds),
                command_sha256=read.optional("command_sha256", read.digest),
            )
        case _:
            raise MalformedMessageError("kind is not known")


def _parse_result(read: Fields) -> ResultMessage:
    outcome = read.optional("outcome", lambda name: read.one_of(name, OUTCOMES))
    exit_code = read.optional("exit_code", lambda name: read.integer(name, least=-(2**31), most=2**32 - 1))
    if exit_code is None and outcome in {None, "completed"}:
        raise MalformedMessageError("exit_code is missing")
    encoding = read.optional("encoding", lambda name: read.one_of(name, ENCODINGS))
    for stream in ("stdout", "stderr") if encoding == "base64" else ():
        read.decoded(stream, decode_base64, most_bytes=MAX_RESULT_BYTES)
    return ResultMessage(
        task_id=read.task_id(),
        exit_code=exit_code,
        stdout=read.text("stdout", most_bytes=MAX_RESULT_BYTES, allow_nul=True),
        stderr=read.text("stderr", most_bytes=MAX_RESULT_BYTES, allow_nul=True),
        timestamp=read.seconds("timestamp"),
        outcome=outcome,
        reason=read.optional("reason", lambda name: read.text(name, most_bytes=MAX_REASON_BYTES)),
        started_at=read.optional("started_at", read.seconds),
        finished_at=read.optional("finished_at", read.seconds),
        command_sha256=read.optional("command_sha256", read.digest),
        stdout_bytes=read.optional("stdout_bytes", read.integer),
        stderr_bytes=read.optional("stderr_bytes", read.integer),
        stdout_sha256=read.optional("stdout_sha256", read.digest),
        stderr_sha256=read.optional("stderr_sha256", read.digest),
        stdout_head_bytes=read.optional("stdout_head_bytes", read.integer),
        stderr_head_bytes=read.optional("stderr_head_bytes", read.integer),
        truncated=read.optional("truncated", read.boolean),
        encoding=encoding,
        leftovers=read.optional("leftovers", read.integer),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatMessage(_Message):
    """How a host is. Usages are fractions from 0 to 1; an agent that sends `agent_version` is not basic."""

    hostname: str
    status: str
    timestamp: int
    cpu_usage: float
    memory_usage: float
    agent_version: str | None = None
    sequence: int | None = None
    boot_id: str | None = None
    interval: int | None = None
    groups: tuple[str, ...] | None = None
    running: int | None = None
    load: tuple[float, ...] | None = None
    disk_usage: float | None = None
    uptime: int | None = None
    os: str | None = None
    kernel: str | None = None
    cpu_count: int | None = None
    memory_bytes: int | None = None
    addresses: tuple[str, ...] | None = None
    checkpoint: str | None = None
    journal_head: int | None = None
    session: int | None = None
    runs_as: str | None = None
    limits_missing: tuple[str, ...] | None = None
    keys: tuple[str, ...] | None = None
    next_key: str | None = None

    @property
    def is_basic(self) -> bool:
        return self.agent_version is None

    @property
    def interval_s(self) -> int:
        """Seconds until the next one is due."""
        return self.interval or (BASIC_INTERVAL_S if self.is_basic else DEFAULT_INTERVAL_S)


def parse_heartbeat(message: JsonObject) -> HeartbeatMessage:
    """How a host says it is.

    Raises:
        MalformedMessageError: a field is wrong.
    """
    read = Fields(message)

    def short(name: str) -> str:
        return read.text(name, most_bytes=256)

    return HeartbeatMessage(
        hostname=read.hostname(),
        status=read.one_of("status", frozenset({"online", "offline"})),
        timestamp=read.seconds("timestamp"),
        cpu_usage=read.number("cpu_usage", least=0, most=1),
        memory_usage=read.number("memory_usage", least=0, most=1),
        agent_version=read.optional("agent_version", short),
        sequence=read.optional("sequence", read.integer),
        boot_id=read.optional("boot_id", short),
        interval=read.optional("interval", lambda name: read.integer(name, least=1, most=3600)),
        groups=read.optional("groups", lambda name: read.names(name, most=MAX_GROUPS)),
        running=read.optional("running", read.integer),
        load=read.optional("load", lambda name: read.numbers(name, most=3)),
        disk_usage=read.optional("disk_usage", lambda name: read.number(name, least=0, most=1)),
        uptime=read.optional("uptime", read.seconds),
        os=read.optional("os", short),
        kernel=read.optional("kernel", short),
        cpu_count=read.optional("cpu_count", read.integer),
        memory_bytes=read.optional("memory_bytes", read.integer),
        addresses=read.optional("addresses", lambda name: read.texts(name, most=64, most_bytes=64)),
        checkpoint=read.optional("checkpoint", lambda name: read.text(name, most_bytes=MAX_CHECKPOINT_BYTES)),
        journal_head=read.optional("journal_head", read.integer),
        session=read.optional("session", read.integer),
        runs_as=read.optional("runs_as", short),
        limits_missing=read.optional("limits_missing", lambda name: read.texts(name, most=16, most_bytes=64)),
        keys=read.optional("keys", lambda name: read.texts(name, most=MAX_KEYS, most_bytes=64)),
        next_key=read.optional("next_key", lambda name: read.text(name, most_bytes=64)),
    )
