"""Approvals: a second person's yes to one exact command on one exact list of hosts."""

from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, Final, Literal

from fastapi import Path, Query
from pydantic import StrictBool, StrictInt

from control_plane.api.commands import RetryHosts, RunCommand
from control_plane.api.fields import Answer, Items, Seq, TaskIdPath, Time, at_s, wait_for_authority, wait_for_seq
from control_plane.api.hosts import Reason
from control_plane.api.routing import SENSITIVE, noun
from control_plane.api.services import Caller, Given
from control_plane.api.tasks import PROJECTION
from control_plane.commands.approvals import Approval as ApprovalDecision
from control_plane.commands.grammar import invalid
from control_plane.commands.handlers.approvals import ApprovalView
from control_plane.commands.reading import within
from control_plane.commands.secrets import masked
from control_plane.commands.tasks import new_task_id
from control_plane.events.envelope import EVENT
from control_plane.events.tasks import hosts_named

MAX_SHOWN: Final = 100  # of the hosts of one

router = noun("/approvals", "access")
retries = noun("/tasks/{task_id}/retry/approval", "tasks", permission="tasks.read")

ABSENT: Final[dict[int | str, dict[str, Any]]] = {404: {"description": "there is no such approval"}}
ApprovalId = Annotated[str, Path(max_length=64)]


class Approval(Answer):
    """An approval, with all that it is about.

    Attributes:
        state: `waiting`, `approved`, `refused`, `expired`, or `used` where its task was accepted.
        request: the canonical request; nothing else may be run by it.
        hosts: the first of them, that the caller may see. `hosts_sha256` is of them all.
        rules: those that ask for it.
        mine: the caller asked for it. may_decide: the caller may approve or refuse it now.
    """

    approval_id: str
    state: str
    task_id: str
    requester: str
    reason: str | None
    request: Mapping[str, Any]
    hosts: list[str]
    host_count: StrictInt
    hosts_sha256: str
    request_sha256: str
    rules: list[str]
    requested_at: Time
    expires_at: Time
    decided_by: str | None
    decided_reason: str | None
    mine: StrictBool
    may_decide: StrictBool


class NewApproval(Answer):
    """Attributes: `task_id`: of the one task that it is for. `seq`: its event; read with `min_seq` to see it."""

    approval_id: str
    task_id: str
    expires_at: Time
    seq: int


class ApprovalChange(Answer):
    approval_id: str
    seq: int


def new_approval_of(approval: ApprovalDecision) -> NewApproval:
    return NewApproval(
        approval_id=approval.approval_id,
        task_id=approval.task_id,
        expires_at=at_s(approval.expires_at),
        seq=approval.requested_seq,
    )


def approval_of(view: ApprovalView) -> Approval:
    approval, asked = view.approval, view.asked
    reason = asked.request.get("reason")
    return Approval(
        approval_id=approval.approval_id,
        state=view.state,
        task_id=approval.task_id,
        requester=approval.requester,
        reason=reason if isinstance(reason, str) else None,
        request=masked(_request_of(view)),
        hosts=list(islice((name for name in asked.hosts if within(view.names, (name,))), MAX_SHOWN)),
        host_count=len(asked.hosts),
        hosts_sha256=approval.hosts_sha256,
        request_sha256=approval.request_sha256,
        rules=list(asked.rules),
        requested_at=at_s(asked.requested_at),
        expires_at=at_s(approval.expires_at),
        decided_by=approval.decided_by,
        decided_reason=approval.decided_reason,
        mine=view.mine,
        may_decide=view.may_decide,
    )


def _request_of(view: ApprovalView) -> Mapping[str, Any]:
    """Of hosts that it names, it may be that the person who asked may not see all any more."""
    request = view.asked.request
    if view.names is None or not (named := hosts_named(request)):
        return request
    return {**request, "target": {"hosts": [name for name in named if name in view.names]}}


@router.get("")
async def list_approvals(
    services: Given,
    caller: Caller,
    state: Annotated[Literal["waiting", "all"], Query()] = "waiting",
    min_seq: Seq | None = None,
) -> Items[Approval]:
    """The newest 100, of what the caller asked for, or sees all hosts of and may decide on; ended ones for an hour."""
    await wait_for_authority(services, min_seq)
    views = await services.approvals.approvals(caller, waiting=state == "waiting")
    return Items(items=[approval_of(view) for view in views])


@router.post("", status_code=201)
async def request_approval(services: Given, caller: Caller, body: RunCommand) -> NewApproval:
    """Ask for an approval of what `POST /tasks` with the same body would run.

    It is for this task_id, this command and exactly these hosts, for 15 minutes. When it is approved, send the same
    body with the task_id and `approval_id` to `POST /tasks`. Who waits for the same already gets that one.
    """
    _check_without(body)
    task_id = body.task_id or new_task_id(services.clock.now_us())
    return new_approval_of(await services.approvals.request(caller, body.decided(task_id, services.tasks.vault)))


@retries.post("", status_code=201)
async def request_approval_of_retry(
    services: Given, caller: Caller, task_id: TaskIdPath, body: RetryHosts
) -> NewApproval:
    """The same for what `POST /tasks/{task_id}/retry` with the same body would run."""
    _check_without(body)
    request = body.decided(task_id, body.task_id or new_task_id(services.clock.now_us()))
    await wait_for_seq(services, PROJECTION, (await services.log.head(EVENT)).seq)
    return new_approval_of(await services.approvals.request(caller, request))


def _check_without(body: RunCommand | RetryHosts) -> None:
    if body.approval_id is not None:
        raise invalid("approval_id", "possible where one is asked for")


@router.post("/{approval_id}/approve", responses=ABSENT, dependencies=SENSITIVE)
async def approve(
    services: Given, caller: Caller, approval_id: ApprovalId, body: Reason | None = None
) -> ApprovalChange:
    """Let the requester have exactly this accepted, once. Not by who asked, and only with rights on all its hosts."""
    reason = body.reason if body else None
    seq = await services.approvals.decide(caller, approval_id, approve=True, reason=reason)
    return ApprovalChange(approval_id=approval_id, seq=seq)


@router.post("/{approval_id}/refuse", responses=ABSENT, dependencies=SENSITIVE)
async def refuse(
    services: Given, caller: Caller, approval_id: ApprovalId, body: Reason | None = None
) -> ApprovalChange:
    """Say no to it, for good."""
    reason = body.reason if body else None
    seq = await services.approvals.decide(caller, approval_id, approve=False, reason=reason)
    return ApprovalChange(approval_id=approval_id, seq=seq)
