"""Approvals: asked for, listed, given and refused. What may be approved, the rules say host by host."""

import asyncio
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from control_plane.commands.access import Principal
from control_plane.commands.approvals import Approval, State, decide_request, decide_verdict, waiting_like
from control_plane.commands.handlers.tasks import Asked, TaskHandler
from control_plane.commands.handling import Handling
from control_plane.commands.rules import task_facts
from control_plane.errors import KeyConflictError, RefusedError
from control_plane.events import registry
from control_plane.events.approvals import ApprovalRequested
from control_plane.events.envelope import EVENT, Key
from control_plane.events.tasks import TaskAccepted
from control_plane_wire.errors import MalformedMessageError, SignatureError

MOST_SHOWN: Final = 100

Shown: TypeAlias = State | Literal["used"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalView:
    """An approval for somebody who may see it.

    Attributes:
        asked: what it is about.
        state: `used` where its task was accepted.
        mine: this person has asked for it. may_decide: this person may say yes or no to it now.
    """

    approval: Approval
    asked: ApprovalRequested
    state: Shown
    mine: bool
    may_decide: bool


class ApprovalHandler:
    def __init__(self, handling: Handling, tasks: TaskHandler) -> None:
        self._handling = handling
        self._tasks = tasks
        self._one = asyncio.Lock()  # many at once would each find few that wait

    async def request(self, principal: Principal, asked: Asked) -> Approval:
        """Ask for an approval of what would otherwise be accepted. Who waits for the same already gets that one.

        Raises:
            KeyConflictError: there is a task of that task_id.
            ForbiddenError: a second person's yes would not be enough.
            RefusedError: as of `TaskHandler.create`, and of `decide_request`.
        """
        async with self._one:
            return await self._request(principal, asked)

    async def _request(self, principal: Principal, asked: Asked) -> Approval:
        handling, key = self._handling, Key(asked.task_id, TaskAccepted.KIND)
        await handling.admit(principal, "tasks.run", f"tasks/{asked.task_id}")
        if (seq := (await handling.log.find(EVENT, [key])).get(key)) is not None:
            raise KeyConflictError(asked.task_id, seq)
        task, decision = await self._tasks.draft(principal, asked, is_proposal=True)
        state, now_s = handling.authority.approvals, handling.clock.now_s()
        if (same := waiting_like(state, task, now_s)) is not None:
            return same
        event = decide_request(state, task, decision.asking_rules, now_s=now_s)
        await handling.record_new(event, actor=principal.username)
        return state.approval(event.approval_id)

    async def decide(self, principal: Principal, approval_id: str, *, approve: bool, reason: str | None) -> int:
        """Say yes or no; the log position after it. Whoever says the same once more changes nothing.

        Raises:
            NotFoundError: there is no such approval.
            ForbiddenError: not by this person, or not on all of its hosts.
            RefusedError: `approval_decided`, `approval_expired`.
        """
        handling, authority = self._handling, self._handling.authority
        await handling.admit(principal, "tasks.approve", "approvals")
        asked = await self._asked(authority.approvals.approval(approval_id))
        async with handling.recording(principal, f"approvals/{approval_id}"):
            authority.rules.check(principal, "tasks.approve", task_facts(authority.fleet, asked.hosts, asked.request))
            return await handling.decide_and_record(
                lambda: decide_verdict(
                    authority.approvals.approval(approval_id),
                    approve=approve,
                    actor=principal.username,
                    reason=reason,
                    now_s=handling.clock.now_s(),
                ),
                actor=principal.username,
            )

    async def approvals(self, principal: Principal, *, waiting: bool) -> list[ApprovalView]:
        """The newest, of those that one has asked for or may decide on.

        Args:
            waiting: none but those that nobody has decided on yet.
        """
        now_s = self._handling.clock.now_s()
        newest = sorted(
            self._handling.authority.approvals.approvals.values(), key=lambda each: each.requested_seq, reverse=True
        )
        wanted = [each for each in newest if not waiting or each.state(now_s) == "waiting"]
        used = await self._used(wanted)
        shown: list[ApprovalView] = []
        for approval in wanted:
            state: Shown = "used" if approval.approval_id in used else approval.state(now_s)
            view = await self._view(principal, approval, state)
            if view is not None:
                shown.append(view)
            if len(shown) == MOST_SHOWN:
                break
        return shown

    async def _view(self, principal: Principal, approval: Approval, state: Shown) -> ApprovalView | None:
        """None where it is none of this person's business."""
        authority, mine = self._handling.authority, approval.requester == principal.username
        if not mine and "tasks.approve" not in authority.rules.permissions(principal):
            return None
        asked = await self._asked(approval)
        facts = task_facts(authority.fleet, asked.hosts, asked.request)
        may = authority.rules.decide(principal, "tasks.approve", facts).allowed
        if not mine and not may:
            return None
        may_decide = may and not mine and state == "waiting"
        return ApprovalView(approval=approval, asked=asked, state=state, mine=mine, may_decide=may_decide)

    async def _used(self, approvals: list[Approval]) -> set[str]:
        """The ids of those whose task was accepted."""
        given = [each for each in approvals if each.verdict == "approved"]
        keys = {each.approval_id: Key(each.task_id, TaskAccepted.KIND) for each in given}
        found = await self._handling.log.find(EVENT, list(keys.values())) if keys else {}
        return {approval_id for approval_id, key in keys.items() if key in found}

    async def _asked(self, approval: Approval) -> ApprovalRequested:
        """What it is about, as it was signed: nobody decides on what somebody has written into the database since."""
        stored = await self._handling.log.read_one(EVENT, approval.requested_seq)
        try:
            if stored is not None:
                self._handling.keyring.verify_event(stored)
                event = registry.decode(stored)
                if isinstance(event, ApprovalRequested) and event.approval_id == approval.approval_id:
                    return event
        except (SignatureError, MalformedMessageError) as error:
            raise RefusedError("not_authorised", f"the approval is not as it was asked for: {error}") from error
        raise RefusedError("not_authorised", "the log has something else in the place of the approval")
