"""A second person's yes or no to one exact command on one exact list of hosts; they give authority and are signed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from control_plane.events.envelope import Key
from control_plane.events.event import Event
from control_plane_wire.strict_json import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequested(Event):
    """Somebody asks for a task that rules want a second person to approve.

    Attributes:
        approval_id: what it is called by.
        task_id: of the one task that it is for.
        request: the canonical request, as its task.accepted would have it.
        request_sha256: hex digest of that.
        hosts: the frozen list, sorted.
        hosts_sha256: hex digest of that.
        requester: the user who asks, and no other may use it.
        requested_at: Unix seconds by the control plane's clock.
        expires_at: Unix seconds; it can neither be given nor used any more.
        rules: those that ask for it.
    """

    KIND: ClassVar[str] = "approval.requested"
    GIVES_AUTHORITY: ClassVar[bool] = True

    approval_id: str
    task_id: str
    request: Mapping[str, Json]
    request_sha256: str
    hosts: tuple[str, ...]
    hosts_sha256: str
    requester: str
    requested_at: int
    expires_at: int
    rules: tuple[str, ...]

    def key(self) -> Key:
        return Key(self.approval_id, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decided(Event):
    """Yes and no share one key, so only one of them counts, and of one person."""

    GIVES_AUTHORITY: ClassVar[bool] = True

    approval_id: str
    task_id: str
    actor: str
    reason: str | None = None

    def key(self) -> Key:
        return Key(self.approval_id, "approval.decided")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalApproved(_Decided):
    """The requester may have exactly this accepted, once, until it expires.

    Attributes:
        approval_id: what it is called by.
        task_id: of the task that it is for.
        actor: the user who approved, never the requester.
        reason: for people.
    """

    KIND: ClassVar[str] = "approval.approved"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRefused(_Decided):
    """It is not to be; the requester may ask anew.

    Attributes:
        approval_id: what it is called by.
        task_id: of the task that it was for.
        actor: the user who refused.
        reason: for people.
    """

    KIND: ClassVar[str] = "approval.refused"
