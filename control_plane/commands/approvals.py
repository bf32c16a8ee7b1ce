"""Approvals: a second person's yes to one exact command on one exact list of hosts, for one task of one person.

An approval is bound to its task_id, and a task_id stands for one task: so it is used once. What is remembered of one is
little, whatever it is about; the rest is in its event.
"""

import secrets
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from control_plane.commands.access import Principal
from control_plane.commands.grammar import checked_line
from control_plane.commands.rules import Decision, ForbiddenError
from control_plane.commands.tasks import request_digest
from control_plane.errors import NotFoundError, RefusedError
from control_plane.events.approvals import ApprovalApproved, ApprovalRefused, ApprovalRequested
from control_plane.events.event import Event
from control_plane.events.tasks import TaskAccepted
from control_plane_wire import strict_json

APPROVAL_S: Final = 15 * 60
KEPT_S: Final = 3600  # beyond its end, to be shown
MAX_WAITING_OF_ONE: Final = 20
MAX_WAITING: Final = 1000
MAX_REQUEST_BYTES: Final = 64 * 1024  # more than that nobody reads before saying yes

State: TypeAlias = Literal["waiting", "approved", "refused", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What is known of an approval without its event.

    Attributes:
        requested_seq: the event that has the rest of it.
        expires_at: Unix seconds.
        verdict: approved or refused; None where nobody has decided.
    """

    approval_id: str
    task_id: str
    requester: str
    request_sha256: str
    hosts_sha256: str
    requested_seq: int
    expires_at: int
    verdict: Literal["approved", "refused"] | None = None
    decided_by: str | None = None
    decided_reason: str | None = None
    decided_seq: int = 0

    def state(self, now_s: int) -> State:
        if self.verdict == "refused":
            return "refused"
        return "expired" if now_s >= self.expires_at else self.verdict or "waiting"

    def is_for(self, task: TaskAccepted) -> bool:
        """Whether it is for this very task: the same command, hosts and all that says how it is run."""
        return (
            self.task_id == task.task_id
            and self.request_sha256 == request_digest(task.request)
            and self.hosts_sha256 == task.hosts_sha256
        )


@dataclass(slots=True)
class ApprovalState:
    """All of them that are not long over, as the signed events say; `apply` is the only way in."""

    approvals: dict[str, Approval] = field(default_factory=dict)

    def apply(self, event: Event, seq: int) -> bool:
        """Take one event in; False where it does not follow from what stands (a copy of an old one, say)."""
        match event:
            case ApprovalRequested(approval_id=approval_id):
                if approval_id in self.approvals:
                    return False
                self.approvals[approval_id] = Approval(
                    approval_id=approval_id,
                    task_id=event.task_id,
                    requester=event.requester,
                    request_sha256=event.request_sha256,
                    hosts_sha256=event.hosts_sha256,
                    requested_seq=seq,
                    expires_at=event.expires_at,
                )
            case ApprovalApproved(approval_id=approval_id) | ApprovalRefused(approval_id=approval_id):
                approval = self.approvals.get(approval_id)
                if approval is None:  # forgotten
                    return True
                if approval.verdict is not None or event.actor == approval.requester:
                    return False
                self.approvals[approval_id] = replace(
                    approval,
                    verdict="approved" if isinstance(event, ApprovalApproved) else "refused",
                    decided_by=event.actor,
                    decided_reason=event.reason,
                    decided_seq=seq,
                )
        return True

    def forget(self, now_s: int) -> None:
        """Drop those that ended long ago. A copy of one's event would be one that has ended."""
        self.approvals = {key: each for key, each in self.approvals.items() if each.expires_at > now_s - KEPT_S}

    def approval(self, approval_id: str) -> Approval:
        """Raises NotFoundError where there is none, or it is forgotten."""
        approval = self.approvals.get(approval_id)
        if approval is None:
            raise no_approval()
        return approval


def no_approval() -> NotFoundError:
    return NotFoundError("unknown_approval", "there is no such approval; ask for a new one")


def decide_request(
    state: ApprovalState, task: TaskAccepted, rules: tuple[str, ...], *, now_s: int
) -> ApprovalRequested:
    """An approval to ask for.

    Args:
        task: as it would be accepted.
        rules: those that ask for an approval.

    Raises:
        RefusedError: `approval_not_needed`, `task_too_large`, `too_many_approvals`.
    """
    if not rules:
        raise RefusedError("approval_not_needed", "no rule asks for an approval of this: run it")
    if len(strict_json.canonical(dict(task.request))) > MAX_REQUEST_BYTES:
        detail = f"nobody can read that before approving it: the request is over {MAX_REQUEST_BYTES} bytes"
        raise RefusedError("task_too_large", detail)
    waiting = [each.requester for each in state.approvals.values() if each.state(now_s) == "waiting"]
    if waiting.count(task.actor) >= MAX_WAITING_OF_ONE or len(waiting) >= MAX_WAITING:
        most = f"{MAX_WAITING_OF_ONE} of one person, {MAX_WAITING} in all"
        raise RefusedError("too_many_approvals", f"too many wait to be decided already, at most {most}")
    return ApprovalRequested(
        approval_id=secrets.token_hex(16),
        task_id=task.task_id,
        request=task.request,
        request_sha256=request_digest(task.request),
        hosts=task.hosts,
        hosts_sha256=task.hosts_sha256,
        requester=task.actor,
        requested_at=now_s,
        expires_at=now_s + APPROVAL_S,
        rules=rules,
    )


def waiting_like(state: ApprovalState, task: TaskAccepted, now_s: int) -> Approval | None:
    """What the same person waits for already, for this very task: asking twice is asking once."""
    for approval in state.approvals.values():
        if approval.requester == task.actor and approval.is_for(task) and approval.state(now_s) == "waiting":
            return approval
    return None


def decide_verdict(
    approval: Approval, *, approve: bool, actor: str, reason: str | None, now_s: int
) -> ApprovalApproved | ApprovalRefused | None:
    """Yes or no; None where this person has said the same before.

    Raises:
        ForbiddenError: `own_request`: nobody decides on what he asks for himself.
        RefusedError: `approval_decided`, `approval_expired`.
    """
    if reason is not None:
        checked_line("reason", reason)
    if actor == approval.requester:
        no = Decision(action="tasks.approve", allowed=False, rules=())
        raise ForbiddenError(no, "own_request", "a second person has to decide: this is your own request")
    if approval.verdict is not None:
        if approval.decided_by == actor and (approval.verdict == "approved") == approve:
            return None
        raise RefusedError("approval_decided", f"it was {approval.verdict} by {approval.decided_by} already")
    if approval.state(now_s) == "expired":
        raise RefusedError("approval_expired", "the approval has expired: whoever wants it asks for a new one")
    kind = ApprovalApproved if approve else ApprovalRefused
    return kind(approval_id=approval.approval_id, task_id=approval.task_id, actor=actor, reason=reason)


def check_owner(approval: Approval, principal: Principal) -> None:
    """Raises ForbiddenError `not_requester` unless it is the principal's own."""
    if approval.requester != principal.username:
        no = Decision(action="tasks.run", allowed=False, rules=())
        raise ForbiddenError(no, "not_requester", "this approval is another person's")


def check_use(approval: Approval, task: TaskAccepted, *, now_s: int) -> None:
    """Raises RefusedError unless it covers this task now.

    `approval_refused`, `approval_expired`, `approval_waiting`, and `approval_changed` where anything is not as it was
    approved.
    """
    match approval.state(now_s):
        case "refused":
            raise RefusedError("approval_refused", f"it was refused by {approval.decided_by}")
        case "expired":
            raise RefusedError("approval_expired", "the approval has expired; ask for a new one")
        case "waiting":
            raise RefusedError("approval_waiting", "nobody has approved it yet")
    if not approval.is_for(task):
        raise RefusedError("approval_changed", "the task, its command or its hosts are not what was approved; ask anew")
