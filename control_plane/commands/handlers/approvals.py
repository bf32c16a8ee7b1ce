"""Approvals: asked for, listed, given and refused. What may be approved, the rules say host by host."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from control_plane.commands.access import Principal
from control_plane.commands.approvals import (
    Approval,
    State,
    decide_request,
    decide_verdict,
    no_approval,
    waiting_like,
)
from control_plane.commands.authority import Authority
from control_plane.commands.handlers.tasks import Asked, TaskHandler
from control_plane.commands.handling import Handling
from control_plane.commands.keyring import Keyring
from control_plane.commands.ports import Log
from control_plane.commands.reading import Names, owner, within
from control_plane.commands.rules import task_facts
from control_plane.commands.tasks import verify_authorisation
from control_plane.errors import KeyConflictError, RefusedError
from control_plane.events import registry
from control_plane.events.approvals import ApprovalRequested
from control_plane.events.envelope import EVENT, Key, StoredEvent
from control_plane.events.tasks import TaskAccepted, hosts_named
from control_plane_wire.errors import MalformedMessageError, SignatureError

MOST_SHOWN: Final = 100
MOST_KEPT_BYTES: Final = 8 * 1024 * 1024  # decoded it is about five times as much
MOST_KNOWN: Final = 32_768  # answers; one for each session or token of somebody who looks, and each approval

log = logging.getLogger(__name__)

Shown: TypeAlias = State | Literal["used"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalView:
    """An approval for somebody who may see it.

    Attributes:
        asked: what it is about.
        state: `used` where its task was accepted.
        names: of the hosts in `asked`, those that this person may be told of.
        mine: this person has asked for it. may_decide: this person may say yes or no to it now.
    """

    approval: Approval
    asked: ApprovalRequested
    state: Shown
    may_decide: bool
    names: Names = None
    mine: bool = False


class ApprovalHandler:
    def __init__(self, handling: Handling, tasks: TaskHandler) -> None:
        self._handling = handling
        self._tasks = tasks
        self._one = asyncio.Lock()  # many at once would each find few that wait
        self._requests = Requests(handling.log, handling.keyring)
        self._deciders = Deciders()
        self._used_by: dict[int, str | None] = {}  # by the seq of a task

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
            NotFoundError: there is no such approval, or none that this person may see.
            ForbiddenError: not by this person, or not on all of its hosts.
            RefusedError: `approval_decided`, `approval_expired`.
        """
        handling, authority = self._handling, self._handling.authority
        await handling.admit(principal, "tasks.approve", "approvals")
        approval = authority.approvals.approval(approval_id)
        asked = await self._requests.one(approval)
        if approval.requester != principal.username and not sees(authority, principal, asked):
            raise no_approval()
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
        """The newest, of those that one has asked for, or may decide on and read about.

        Args:
            waiting: none but those that nobody has decided on yet.
        """
        now_s = self._handling.clock.now_s()
        newest = sorted(
            self._handling.authority.approvals.approvals.values(), key=lambda each: each.requested_seq, reverse=True
        )
        wanted = [each for each in newest if not waiting or each.state(now_s) == "waiting"]
        decides = "tasks.approve" in self._handling.authority.rules.permissions(principal)
        some = [each for each in wanted if self._may_concern(principal, each, decides=decides)]
        shown: list[ApprovalView] = []
        for at in range(0, len(some), MOST_SHOWN):
            page = some[at : at + MOST_SHOWN]
            used, requests = await self._used(page), await self._requests.of(page)
            for approval in page:
                state: Shown = "used" if approval.approval_id in used else approval.state(now_s)
                asked = requests.get(approval.requested_seq)
                view = self._view(principal, approval, asked, state) if asked is not None else None
                if view is not None:
                    shown.append(view)
            if len(shown) >= MOST_SHOWN:
                break
        return shown[:MOST_SHOWN]

    def _may_concern(self, principal: Principal, approval: Approval, *, decides: bool) -> bool:
        """False where it is certainly none of this person's business, by what is known without reading it."""
        if approval.requester == principal.username:
            return _is_for_own(principal)
        return decides and self._deciders.known(self._handling.authority, principal, approval) is not False

    def _view(
        self, principal: Principal, approval: Approval, asked: ApprovalRequested, state: Shown
    ) -> ApprovalView | None:
        """None where it is none of this person's business."""
        authority = self._handling.authority
        if approval.requester == principal.username:
            if not _is_for_own(principal):
                return None
            names = _aimable(authority, principal)
            return ApprovalView(approval=approval, asked=asked, state=state, names=names, mine=True, may_decide=False)
        if not self._deciders.may(authority, principal, approval, asked):
            return None
        return ApprovalView(approval=approval, asked=asked, state=state, may_decide=state == "waiting")

    async def _used(self, approvals: Sequence[Approval]) -> set[str]:
        """The ids of those by which a task was accepted; by another, or without one, is no use of them."""
        keys = {Key(each.task_id, TaskAccepted.KIND) for each in approvals if each.verdict == "approved"}
        found = (await self._handling.log.find(EVENT, list(keys))).values() if keys else ()
        if len(self._used_by) >= MOST_KNOWN:
            self._used_by = {}
        if missing := [seq for seq in found if seq not in self._used_by]:
            async for stored in self._handling.log.read_these(EVENT, missing):
                self._used_by[stored.seq] = self._use(stored)
        return {approval_id for seq in found if (approval_id := self._used_by.get(seq)) is not None}

    def _use(self, stored: StoredEvent) -> str | None:
        """The approval by which a task was accepted, if by one."""
        try:
            return verify_authorisation(stored, self._handling.keyring.keys_at(stored.seq)).approval_id
        except (SignatureError, MalformedMessageError):
            return None


class Deciders:
    """Who may decide on which, as long as neither the rules nor the hosts have changed; for lists of them."""

    def __init__(self) -> None:
        self._as_of = (0, 0)
        self._found: dict[tuple[Principal, int], bool] = {}

    def known(self, authority: Authority, principal: Principal, approval: Approval) -> bool | None:
        """None where it was not asked since."""
        as_of = (authority.rules.changed_seq, authority.fleet.changed_seq)
        if as_of != self._as_of or len(self._found) >= MOST_KNOWN:
            self._as_of, self._found = as_of, {}
        return self._found.get((principal, approval.requested_seq))

    def may(self, authority: Authority, principal: Principal, approval: Approval, asked: ApprovalRequested) -> bool:
        known = self.known(authority, principal, approval)
        if known is None:
            known = sees(authority, principal, asked) and (
                authority.rules.decide(
                    principal, "tasks.approve", task_facts(authority.fleet, asked.hosts, asked.request)
                ).allowed
            )
            self._found[principal, approval.requested_seq] = known
        return known


class Requests:
    """What approvals are about, as it was signed: nobody decides on what was written into the database since.

    Events never change, so the newest that were read are kept, up to MOST_KEPT_BYTES of their bodies.
    """

    def __init__(self, log: Log, keyring: Keyring) -> None:
        self._log = log
        self._keyring = keyring
        self._kept: dict[int, tuple[ApprovalRequested, int]] = {}  # by seq, each with the length of its body
        self._bytes = 0
        self._told: set[int] = set()

    async def of(self, approvals: Sequence[Approval]) -> Mapping[int, ApprovalRequested]:
        """Each by the seq of its event. One that is not as it was asked for is left out, and the log tells of it."""
        wanted = {each.requested_seq: each for each in approvals}
        found = {seq: self._kept[seq][0] for seq in wanted if seq in self._kept}
        if missing := [seq for seq in wanted if seq not in found]:
            async for stored in self._log.read_these(EVENT, missing):
                try:
                    found[stored.seq] = self._verified(stored, wanted[stored.seq])
                except RefusedError as error:
                    self._tell(wanted[stored.seq], error)
                    continue
                self._keep(stored.seq, found[stored.seq], len(stored.body))
            for seq in missing:
                if seq not in found:  # if it was read, it is told already, with what was wrong
                    self._tell(wanted[seq], RefusedError("not_authorised", "its event is not in the log"))
        return found

    def _tell(self, approval: Approval, error: RefusedError) -> None:
        """Once, though lists are asked for again and again."""
        if approval.requested_seq not in self._told:
            self._told.add(approval.requested_seq)
            which = {"approval_id": approval.approval_id, "seq": approval.requested_seq, "reason": str(error)}
            log.error("an approval is not as it was asked for", extra=which)

    async def one(self, approval: Approval) -> ApprovalRequested:
        """Raises RefusedError `not_authorised` where it is not as it was asked for."""
        asked = (await self.of([approval])).get(approval.requested_seq)
        if asked is None:
            raise _not_it()
        return asked

    def _verified(self, stored: StoredEvent, approval: Approval) -> ApprovalRequested:
        try:
            self._keyring.verify_event(stored)
            event = registry.decode(stored)
        except (SignatureError, MalformedMessageError) as error:
            raise RefusedError("not_authorised", f"the approval is not as it was asked for: {error}") from error
        if not isinstance(event, ApprovalRequested) or event.approval_id != approval.approval_id:
            raise _not_it()
        return event

    def _keep(self, seq: int, event: ApprovalRequested, length: int) -> None:
        if seq not in self._kept:  # who asked at the same time may have read it, too
            self._kept[seq] = (event, length)
            self._bytes += length
        while self._bytes > MOST_KEPT_BYTES:
            self._bytes -= self._kept.pop(min(self._kept))[1]


def _is_for_own(principal: Principal) -> bool:
    """Whether somebody comes by what may tell of the tasks that he asks for."""
    return principal.is_for("tasks.read") or principal.is_for("tasks.run")


def _not_it() -> RefusedError:
    return RefusedError("not_authorised", "the approval in the log is not as it was asked for")


def sees(authority: Authority, principal: Principal, asked: ApprovalRequested) -> bool:
    """Whether somebody may see what another person asks for: all the hosts that it is for, and that it names."""
    return within(authority.readable(owner(principal), "tasks.read"), (*asked.hosts, *hosts_named(asked.request)))


def _aimable(authority: Authority, principal: Principal) -> Names:
    """The hosts that somebody may be told of in what they asked for themselves: seen as hosts, or in tasks."""
    hosts, tasks = (authority.readable(owner(principal), action) for action in ("hosts.read", "tasks.read"))
    return None if hosts is None or tasks is None else hosts | tasks
