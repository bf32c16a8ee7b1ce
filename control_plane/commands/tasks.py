"""Whether a task may be, and what exactly it is: state and request in, an event or a refusal out."""

import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from control_plane.commands.guard import Guard, GuardLimits, assess
from control_plane.commands.hosts import FleetState
from control_plane.commands.targets import All, FrozenList, Target
from control_plane.errors import RefusedError
from control_plane.events.tasks import TaskAccepted
from control_plane_wire import strict_json
from control_plane_wire.errors import SignatureError
from control_plane_wire.messages import DEFAULT_EXPIRY_S, CommandMessage
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE, verify
from control_plane_wire.strict_json import JsonObject

PREVIEW_S: Final = 300
_PREVIEW_ID: Final = re.compile(r"([0-9]{1,12})\.([0-9a-f]{64})", re.ASCII)

RequirePreview = Literal["off", "guarded", "always"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTask:
    """A command for a target, as it was asked for; each field has passed its grammar.

    Attributes:
        command: a shell line; with `argv` it is derived from that.
        expires_in: seconds within which it may be started.
        preview_id: what the preview that the request was decided on answered.
    """

    task_id: str
    target: Target
    command: str
    timeout: int
    user: str
    argv: tuple[str, ...] | None = None
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    stdin: str | None = None
    when_offline: Literal["queue", "skip"] = "queue"
    expires_in: int = DEFAULT_EXPIRY_S
    reason: str | None = None
    preview_id: str | None = None

    @property
    def command_line(self) -> str:
        return shlex.join(self.argv) if self.argv else self.command

    @property
    def needs_full_agent(self) -> str | None:
        """What of it a basic agent cannot do, in words."""
        given = [name for name in ("env", "cwd", "stdin") if getattr(self, name) is not None]
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
        given = {"cwd": self.cwd, "stdin": self.stdin, "reason": self.reason}
        return {**request, **{name: value for name, value in given.items() if value is not None}}

    @property
    def sha256(self) -> str:
        return hashlib.sha256(strict_json.canonical(self.to_json())).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a request would come to: the exact hosts, and how carefully it is to be confirmed."""

    preview_id: str
    frozen: FrozenList
    guard: Guard
    expires_at: int


def guard_of(fleet: FleetState, target: Target, command: str, frozen: FrozenList, limits: GuardLimits) -> Guard:
    return assess(
        command, hosts=len(frozen.hosts), fleet=len(fleet.active()), is_all=isinstance(target, All), limits=limits
    )


def preview(frozen: FrozenList, guard: Guard, *, now_s: int) -> Preview:
    expires_at = now_s + PREVIEW_S
    return Preview(preview_id=f"{expires_at}.{frozen.sha256}", frozen=frozen, guard=guard, expires_at=expires_at)


def decide_create(
    request: CreateTask,
    frozen: FrozenList,
    guard: Guard,
    *,
    actor: str,
    now_s: int,
    require_preview: RequirePreview = "off",
) -> TaskAccepted:
    """The task, with its hosts frozen.

    Raises:
        RefusedError: `no_host_matched`, `preview_required`, `preview_expired`, `target_changed`, `reason_required`.
    """
    if not frozen.hosts:
        left_out = ", ".join(f"{e.hostname} ({e.reason})" for e in frozen.excluded[:10])
        raise RefusedError(
            "no_host_matched", "the target has no host" + (f"; left out: {left_out}" if left_out else "")
        )
    if request.preview_id is not None:
        _check_preview(request.preview_id, frozen, now_s)
    elif require_preview == "always" or (require_preview == "guarded" and guard.level > 1):
        raise RefusedError("preview_required", "preview the target first, and send its preview_id with the task")
    if require_preview != "off" and guard.level >= 3 and not request.reason:
        raise RefusedError("reason_required", f"say why: {', '.join(guard.rules)}")
    return TaskAccepted(
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
    )


def _check_preview(preview_id: str, frozen: FrozenList, now_s: int) -> None:
    match = _PREVIEW_ID.fullmatch(preview_id)
    if match is None:
        raise RefusedError("preview_expired", "this is no preview_id; preview the target again")
    if int(match[1]) < now_s:
        raise RefusedError("preview_expired", "the preview is too old; preview the target again")
    if match[2] != frozen.sha256:
        raise RefusedError(
            "target_changed", f"the target has changed since the preview: it is {len(frozen.hosts)} hosts now"
        )


def verify_authorisation(task: TaskAccepted, body: bytes, signature: bytes | None, public_key: bytes | None) -> None:
    """Return if this task was authorised by that key of the control plane, and is what was authorised.

    Args:
        body: the stored bytes, which the signature covers.
        public_key: of the key that the envelope names; None where the control plane never had such a key.

    Raises:
        SignatureError: it was not; nothing of it may be published.
    """
    if signature is None or public_key is None:
        raise SignatureError("the task carries no authorisation of the control plane")
    verify(public_key, signature, AUTHORISATION, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=body)


def message_of(task: TaskAccepted) -> CommandMessage:
    """The command message that the authorisation covers; the same for every host."""
    request = task.request

    def text(name: str) -> str | None:
        value = request.get(name)
        return value if isinstance(value, str) else None

    argv, env, timeout = request.get("argv"), request.get("env"), request["timeout"]
    return CommandMessage(
        task_id=task.task_id,
        command=text("command") or "",
        timeout=timeout if isinstance(timeout, int) else 0,
        user=text("user") or "",
        timestamp=task.accepted_at,
        as_of=task.as_of,
        expires_at=task.expires_at,
        argv=tuple(str(item) for item in argv) if isinstance(argv, list | tuple) else None,
        env={name: str(value) for name, value in env.items()} if isinstance(env, dict) else None,
        cwd=text("cwd"),
        stdin=text("stdin"),
    )
