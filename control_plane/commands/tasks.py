"""Whether a task may be, and what exactly it is: state and request in, an event or a refusal out."""

import hashlib
import secrets
import shlex
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from control_plane.commands.grammar import checked_line, checked_number, invalid
from control_plane.commands.guard import Guard, GuardLimits, assess
from control_plane.commands.hosts import FleetState
from control_plane.commands.previews import PreviewId, check_preview
from control_plane.commands.rollouts import Rollout, check_canary
from control_plane.commands.rules import Decision
from control_plane.commands.secrets import FIELD, NO_VAULT, Vault, sealed_in
from control_plane.commands.targets import All, FrozenList, Group, Query, Target, in_words
from control_plane.errors import RefusedError
from control_plane.events import registry
from control_plane.events.envelope import StoredEvent
from control_plane.events.tasks import TaskAccepted
from control_plane_wire import strict_json
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.messages import (
    DEFAULT_EXPIRY_S,
    MAX_COMMAND_BYTES,
    MAX_EXPIRY_S,
    CommandMessage,
    parse_command,
)
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE, verify
from control_plane_wire.strict_json import Json, JsonObject

_SIGNATURE_BYTES: Final = 256  # more than the signature adds to a message
_RUN_FIELDS: Final = ("command", "timeout", "user", "argv", "env", "cwd", "stdin")  # of a request, what hosts are told
# Of a request, what a basic agent cannot do; of a template it would make a line for a shell.
BEYOND_BASIC: Final = ("env", "secrets", "cwd", "stdin", "template")

RequirePreview = Literal["off", "guarded", "always"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTask:
    """A command for a target, as it was asked for; each field has passed its grammar.

    Attributes:
        command: a shell line; with `argv` it is derived from that.
        secrets: sealed environment values, by name.
        expires_in: seconds within which it may be started.
        preview_id: what the preview that the request was decided on answered.
        rollout: None: to all hosts at once.
        template, template_seq, parameters: what it was made from, where that is a template: its name, the event that
            made that, and the values of its parameters.
        retry_of: the task that it repeats.
        asked_sha256: of a retry or a template, the digest of what was asked for; the rest follows from that and from
            its moment.
    """

    task_id: str
    target: Target
    command: str
    timeout: int
    user: str
    argv: tuple[str, ...] | None = None
    env: Mapping[str, str] | None = None
    secrets: Mapping[str, str] | None = None
    cwd: str | None = None
    stdin: str | None = None
    when_offline: Literal["queue", "skip"] = "queue"
    expires_in: int = DEFAULT_EXPIRY_S
    reason: str | None = None
    preview_id: str | None = None
    rollout: Rollout | None = None
    template: str | None = None
    template_seq: int | None = None
    parameters: Mapping[str, Json] | None = None
    retry_of: str | None = None
    asked_sha256: str | None = None

    @property
    def command_line(self) -> str:
        return shlex.join(self.argv) if self.argv else self.command

    @property
    def needs_full_agent(self) -> str | None:
        """What of it a basic agent cannot do, in words."""
        given = [name for name in BEYOND_BASIC if getattr(self, name) is not None]
        return ", ".join(given) or None

    def to_json(self) -> JsonObject:
        """The canonical request: what was asked for, without its id and its preview."""
        request: JsonObject = {
            "target": self.target.to_json(),
            "command": self.command_line,
            "timeout": self.timeout,
            "user": self.user,
            "when_offline": self.when_offline,
            "expires_in": self.expires_in,
        }
        if self.argv:
            request["argv"] = list(self.argv)
        if self.env is not None:
            request["env"] = dict(self.env)
        if self.secrets is not None:
            request[FIELD] = dict(self.secrets)
        if self.rollout is not None:
            request["rollout"] = self.rollout.to_json()
        if self.template is not None and self.parameters is not None:
            made = {"template": self.template, "template_seq": self.template_seq, "parameters": dict(self.parameters)}
            request |= made
        given = {"cwd": self.cwd, "stdin": self.stdin, "reason": self.reason}
        return {**request, **{name: value for name, value in given.items() if value is not None}}

    @property
    def sha256(self) -> str:
        return self.asked_sha256 or request_digest(self.to_json())


def request_digest(request: Mapping[str, Json]) -> str:
    """Hex digest of a canonical request as a whole: whatever changes what is run, where and how, changes it."""
    return hashlib.sha256(strict_json.canonical(dict(request))).hexdigest()


def new_task_id(now_us: int) -> str:
    """A UUIDv7: task ids sort by the time at which they were made."""
    random = secrets.randbits(80)
    number = (now_us // 1000) << 80 | random
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(0b11 << 62) | 0b10 << 62
    return str(uuid.UUID(int=number))


def guard_of(fleet: FleetState, target: Target, command: str, frozen: FrozenList, limits: GuardLimits) -> Guard:
    return assess(
        command, hosts=len(frozen.hosts), fleet=len(fleet.active()), is_all=isinstance(target, All), limits=limits
    )


def decide_create(
    request: CreateTask,
    frozen: FrozenList,
    guard: Guard,
    *,
    actor: str,
    now_s: int,
    require_preview: RequirePreview = "off",
    previewed: FrozenList | None = None,
    permitted: Decision | None = None,
    approval_id: str | None = None,
    vault: Vault = NO_VAULT,
) -> TaskAccepted:
    """The task, with its hosts frozen.

    Args:
        previewed: the hosts as they were at the position of the request's preview, where it has one.
        permitted: by which rules the actor may do this.
        approval_id: of the approval that has to cover it, where it has one: whoever calls this looks at that.
        vault: what its secrets were sealed by.

    Raises:
        RefusedError: `invalid_request`, `no_host_matched`, `preview_required`, `preview_expired`, `target_changed`,
            `reason_required`, `task_too_large`, `secret_unreadable`.
    """
    _check_fields(request)
    _check_some(request.target, frozen)
    if request.rollout is not None:
        check_canary(request.rollout, frozen.hosts)
    if approval_id is not None:
        pass  # it is for these hosts and no others, whatever the preview said that it was asked for after
    elif request.preview_id is not None:
        check_preview(PreviewId.parse(request.preview_id), frozen, previewed, now_s=now_s)
    elif require_preview == "always" or (require_preview == "guarded" and guard.level > 1):
        raise RefusedError("preview_required", "preview the target first, and send its preview_id with the task")
    if require_preview != "off" and guard.level >= 3 and not request.reason:
        raise RefusedError("reason_required", f"say why: {', '.join(guard.rules)}")
    task = TaskAccepted(
        task_id=request.task_id,
        request=request.to_json(),
        request_sha256=request.sha256,
        hosts=frozen.hosts,
        hosts_sha256=frozen.sha256,
        basic=frozen.basic,
        as_of=frozen.as_of,
        actor=actor,
        accepted_at=now_s,
        expires_at=now_s + request.expires_in,
        guard=guard.to_json(),
        retry_of=request.retry_of,
        rules=None if permitted is None else permitted.rules,
        policy_seq=None if permitted is None else permitted.policy_seq,
        approval_id=approval_id,
    )
    _check_message(task, vault)
    _check_event(task)
    return task


def _check_some(target: Target, frozen: FrozenList) -> None:
    if frozen.hosts:
        return
    match target:
        case Group(group):
            where = f"no host is in the group {group}"
        case Query():
            where = "the query finds no host"
        case _:
            where = "no host"
    left_out = in_words([f"{host.hostname} ({host.reason})" for host in frozen.excluded])
    detail = f"the target has no host that takes it; left out: {left_out}" if left_out else where
    raise RefusedError("no_host_matched", detail)


def _check_fields(request: CreateTask) -> None:
    """What the grammar of the command message does not cover."""
    checked_number("expires_in", request.expires_in, least=1, most=MAX_EXPIRY_S)
    if request.reason is not None:
        checked_line("reason", request.reason)
    rollout = request.rollout
    if rollout is not None and isinstance(rollout.wait, int) and rollout.wait >= request.expires_in:
        raise invalid("rollout.wait", f"shorter than expires_in, which is {request.expires_in} s")
    if request.cwd is not None and not request.cwd.startswith("/"):
        raise invalid("cwd", "a path that begins with /")
    if request.argv is not None and not (request.argv and request.argv[0]):
        raise invalid("argv", "a list that begins with a program")


def _check_message(task: TaskAccepted, vault: Vault) -> None:
    """Accept nothing that an agent would refuse to read."""
    try:
        message = message_of(task, vault)
    except MalformedMessageError as error:
        raise RefusedError("invalid_request", error.reason) from error
    if len(strict_json.canonical(message.to_json())) > MAX_COMMAND_BYTES - _SIGNATURE_BYTES:
        raise RefusedError("invalid_request", f"the message to the agent would be over {MAX_COMMAND_BYTES} bytes")


def _check_event(task: TaskAccepted) -> None:
    """Record nothing that nobody could read again."""
    try:
        strict_json.parse(task.body(), max_bytes=registry.MAX_BODY_BYTES)
    except MalformedMessageError as error:
        raise RefusedError("task_too_large", f"hosts and env together are too much: {error.reason}") from error


def verify_authorisation(stored: StoredEvent, public_keys: Mapping[str, bytes]) -> TaskAccepted:
    """The task of a stored `task.accepted`, if the control plane has authorised exactly this.

    Args:
        public_keys: the control plane's own that counted there, by key_id (`Keyring.keys_at`).

    Raises:
        SignatureError: it has not; nothing of it may be published.
        MalformedMessageError: the body is no task.
    """
    public_key = public_keys.get(stored.key_id or "")
    if public_key is None or stored.signature is None:
        raise SignatureError("the task carries no authorisation of the control plane")
    verify(
        public_key,
        stored.signature,
        AUTHORISATION,
        sender=CONTROL_PLANE,
        recipient=CONTROL_PLANE,
        body=stored.body,
    )
    task = registry.decode(stored)
    if not isinstance(task, TaskAccepted):
        raise SignatureError("what was authorised is no task")
    return task


def message_of(task: TaskAccepted, vault: Vault = NO_VAULT) -> CommandMessage:
    """The command message that the authorisation covers, with its secrets in `env`; the same for every host.

    Raises:
        MalformedMessageError: a field is not what the wire allows.
        RefusedError: `no_secrets_key`, `secret_unreadable`.
    """
    asked = {name: task.request[name] for name in _RUN_FIELDS if name in task.request}
    if sealed := sealed_in(task.request):
        env = task.request.get("env")
        asked["env"] = {**(env if isinstance(env, dict) else {}), **vault.open(task.task_id, sealed)}
    message = parse_command(
        {
            **asked,
            "task_id": task.task_id,
            "timestamp": task.accepted_at,
            "as_of": task.as_of,
            "expires_at": task.expires_at,
        }
    )
    if not isinstance(message, CommandMessage):
        raise MalformedMessageError("not a command to run")
    return message
