"""Tasks: preview, create, retry, cancel."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from control_plane.commands.access import Principal
from control_plane.commands.approvals import check_owner, check_use
from control_plane.commands.backlog import MOST_WAITING, Backlog
from control_plane.commands.grammar import checked_line
from control_plane.commands.guard import GuardLimits
from control_plane.commands.handling import Handling
from control_plane.commands.hosts import FleetState
from control_plane.commands.ports import Executions, Log, Presence, Presences
from control_plane.commands.previews import Preview, PreviewId, preview
from control_plane.commands.reading import owner, seen, within
from control_plane.commands.retries import RetryTask, decide_retry
from control_plane.commands.rules import Decision, task_facts
from control_plane.commands.secrets import NO_VAULT, Vault, sealed_in
from control_plane.commands.targets import FrozenList, Query, Target, candidates, check_named, freeze
from control_plane.commands.tasks import CreateTask, RequirePreview, decide_create, guard_of, verify_authorisation
from control_plane.commands.templates import RunTemplate
from control_plane.errors import KeyConflictError, LogDamagedError, NotFoundError, RefusedError
from control_plane.events import registry
from control_plane.events.envelope import EVENT, Conflict, Key, Recorded, StoredEvent
from control_plane.events.tasks import OUTCOME, TaskAccepted, TaskCancelRequested
from control_plane.observability import Count
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE
from control_plane_wire.strict_json import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A task that is in the log as event `seq`; `created` is False where it was there already."""

    task_id: str
    seq: int
    created: bool


Asked: TypeAlias = CreateTask | RunTemplate | RetryTask


class TaskHandler:
    def __init__(
        self,
        handling: Handling,
        presences: Presences,
        executions: Executions,
        *,
        limits: GuardLimits | None = None,
        require_preview: RequirePreview = "off",
        max_waiting: int = MOST_WAITING,
        count: Count = lambda _what, _number: None,
        vault: Vault = NO_VAULT,
    ) -> None:
        self._handling = handling
        self._presences = presences
        self._executions = executions
        self._limits = limits or GuardLimits()
        self._require_preview = require_preview
        self.backlog = Backlog(executions, handling.clock, most=max_waiting)
        self._count = count
        self.vault = vault

    async def preview(
        self,
        principal: Principal,
        target: Target,
        command: str,
        *,
        needs_full_agent: str | None = None,
        asked: Mapping[str, Json] | None = None,
    ) -> Preview:
        """The exact hosts that a command would go to, how carefully it is to be confirmed, and whether it is allowed.

        Args:
            asked: what is known of the request beside: its `user`, `timeout` and `argv`.
        """
        await self._handling.admit(principal, "tasks.run", "targets")
        return await self._preview(principal, target, command, needs_full_agent, asked or {})

    async def preview_template(self, principal: Principal, request: RunTemplate) -> Preview:
        """The same of a template, with the values of its parameters.

        Raises:
            NotFoundError: there is no such template.
        """
        await self._handling.admit(principal, "tasks.run", "targets")
        whole = await self._whole(principal, request)
        return await self._preview(principal, whole.target, whole.command_line, whole.needs_full_agent, whole.to_json())

    async def _preview(
        self,
        principal: Principal,
        target: Target,
        command: str,
        needs_full_agent: str | None,
        asked: Mapping[str, Json],
    ) -> Preview:
        fleet = self._seen(principal, self._handling.authority.fleet)
        presences = await self._presences.presences(candidates(fleet, target))
        frozen = self._freeze(principal, target, presences, needs_full_agent)
        guard = guard_of(fleet, target, command, frozen, self._limits)
        facts = task_facts(fleet, frozen.hosts, asked)
        decision = self._handling.authority.rules.decide(principal, "tasks.run", facts)
        return preview(frozen, guard, now_s=self._handling.clock.now_s(), decision=decision)

    async def create(
        self,
        principal: Principal,
        request: CreateTask | RunTemplate,
        *,
        approval_id: str | None = None,
        is_new: bool = False,
    ) -> Accepted:
        """Authorise and record a task; the same one again is the same task.

        Args:
            approval_id: of the approval to use, where rules ask for one.
            is_new: its task_id was made just now, so no task can have it yet.

        Raises:
            NotFoundError: there is no such template, or no such approval.
            KeyConflictError: that task_id stands for another request, or for another person's.
            ApprovalRequiredError: it needs a second person.
            RefusedError: `stopped`; and where the approval does not cover it, as `check_use`.
            BacklogFullError: too much waits already.
        """
        await self._handling.admit(principal, "tasks.run", f"tasks/{request.task_id}")
        return await self._accept(principal, request, approval_id, is_new=is_new)

    async def retry(self, principal: Principal, request: RetryTask, *, approval_id: str | None = None) -> Accepted:
        """Authorise and record a task that repeats another one on some of its hosts; the same again is the same task.

        Raises:
            NotFoundError: there is no such task to repeat.
            KeyConflictError: that task_id stands for another request, or for another person's.
            RefusedError: `not_authorised`: what the log has of that task, this control plane has never signed;
                `secret_unreadable`.
            BacklogFullError: too much waits already. All the others of `create`, too: it needs an approval of its own.
        """
        await self._handling.admit(principal, "tasks.run", f"tasks/{request.retry_of}")
        return await self._accept(principal, request, approval_id)

    async def _accept(
        self, principal: Principal, request: Asked, approval_id: str | None, *, is_new: bool = False
    ) -> Accepted:
        existing = None if is_new else await self._existing(principal, request.task_id, request.sha256)
        if existing is not None:
            return existing
        self._handling.authority.stop.check()
        event, _ = await self.draft(principal, request, approval_id=approval_id)
        async with self.backlog.room(len(event.hosts)) as room:
            accepted = await self._append(replace(event, token_id=principal.token_id), principal)
            room.seq = accepted.seq if accepted.created else None
        return accepted

    async def _whole(self, principal: Principal, asked: Asked) -> CreateTask:
        """What a request comes to as things stand."""
        templates = self._handling.authority.templates
        if isinstance(asked, CreateTask):
            return asked
        if isinstance(asked, RunTemplate):
            return asked.filled(templates.template(asked.template))
        first = await self._authorised(asked.retry_of)
        check_seen(self._handling, principal, first)
        states = await self._executions.states(asked.retry_of)
        late = await self._executions.succeeded_late(asked.retry_of)
        whole = decide_retry(asked, first, states, self._handling.authority.fleet, succeeded_late=late)
        if sealed := sealed_in(first.request):
            values = self.vault.open(first.task_id, sealed)
            whole = replace(whole, secrets=self.vault.seal(whole.task_id, values))
        if templates.still_is(whole.template, whole.template_seq):
            return whole
        # Of a template that is gone or another one by now, only the argv is left: whoever may run any may repeat it.
        return replace(whole, template=None, template_seq=None, parameters=None)

    async def draft(
        self, principal: Principal, asked: Asked, *, approval_id: str | None = None, is_proposal: bool = False
    ) -> tuple[TaskAccepted, Decision]:
        """The task as it would be accepted now, and what the rules say of it.

        Args:
            approval_id: of the approval that has to cover it.
            is_proposal: it is to be approved yet.
        """
        request = await self._whole(principal, asked)
        fleet, target = self._seen(principal, self._handling.authority.fleet), request.target
        presences = await self._presences.presences(candidates(fleet, target))
        check_named(fleet, target)
        then = presences if approval_id else await self._presences_then(principal, request, presences)
        frozen = self._freeze(principal, target, presences, request.needs_full_agent)
        is_approved = is_proposal or approval_id is not None
        async with self._handling.recording(principal, f"tasks/{request.task_id}"):
            facts = task_facts(fleet, frozen.hosts, request.to_json())
            permitted = self._handling.authority.rules.check(principal, "tasks.run", facts, approved=is_approved)
            event = decide_create(
                request,
                frozen,
                guard_of(fleet, target, request.command_line, frozen, self._limits),
                actor=principal.username,
                now_s=self._handling.clock.now_s(),
                require_preview=self._require_preview,
                previewed=self._previewed(principal, request, then),
                permitted=permitted,
                approval_id=approval_id,
                vault=self.vault,
            )
            if approval_id is not None:
                approval = self._handling.authority.approvals.approval(approval_id)
                check_owner(approval, principal)
                check_use(approval, event, now_s=self._handling.clock.now_s())
        return event, permitted

    async def cancel(self, principal: Principal, task_id: str, reason: str | None) -> int:
        """Ask for a task to be cancelled; the seq of the request. Asking again changes nothing.

        Raises:
            NotFoundError: there is no such task.
            RefusedError: `task_finished`: every host of it has its outcome.
        """
        await self._handling.admit(principal, "tasks.cancel", f"tasks/{task_id}")
        _, task = await known_task(self._handling.log, task_id)
        check_seen(self._handling, principal, task)
        await check_task(self._handling, principal, "tasks.cancel", task)
        await check_open(self._handling.log, task)
        event = TaskCancelRequested(
            task_id=task_id,
            actor=principal.username,
            reason=None if reason is None else checked_line("reason", reason),
        )
        return (await self._handling.record(event, actor=principal.username)).seq

    def _seen(self, principal: Principal, fleet: FleetState) -> FleetState:
        """What there is to be aimed at: all hosts that somebody may read about, and no others."""
        return seen(fleet, self._handling.authority.readable(owner(principal), "hosts.read"))

    def _freeze(
        self, principal: Principal, target: Target, presences: Mapping[str, Presence], needs_full_agent: str | None
    ) -> FrozenList:
        """Freeze at the position that the fleet is at now: others may have moved it while this one waited."""
        authority = self._handling.authority
        fleet = self._seen(principal, authority.fleet)
        return freeze(fleet, target, presences, as_of=authority.position, needs_full_agent=needs_full_agent)

    async def _presences_then(
        self, principal: Principal, request: CreateTask, presences: Mapping[str, Presence]
    ) -> Mapping[str, Presence] | None:
        """How hosts were when the request's preview was made, None where that cannot be told.

        It matters only where a query finds others by now, and is looked up only then.
        """
        if request.preview_id is None or not isinstance(request.target, Query):
            return presences
        previewed = PreviewId.parse(request.preview_id)
        if (
            self._freeze(principal, request.target, presences, request.needs_full_agent).sha256
            == previewed.hosts_sha256
        ):
            return presences
        fleet = self._seen(principal, self._handling.authority.fleet)
        return await self._presences.presences_at(candidates(fleet, request.target), previewed.as_of)

    def _previewed(
        self, principal: Principal, request: CreateTask, presences: Mapping[str, Presence] | None
    ) -> FrozenList | None:
        """The target as it was when the request's preview was made, None where it has none or that cannot be told.

        Args:
            presences: of then.
        """
        if request.preview_id is None or presences is None:
            return None
        previewed = PreviewId.parse(request.preview_id)
        fleet = self._handling.authority.fleet.at(previewed.as_of)
        if fleet is None:
            return None
        fleet = self._seen(principal, fleet)
        needs = request.needs_full_agent
        frozen = freeze(fleet, request.target, presences, as_of=previewed.as_of, needs_full_agent=needs)
        is_certain = not isinstance(request.target, Query) or frozen.sha256 == previewed.hosts_sha256
        return frozen if is_certain else None

    async def _append(self, event: TaskAccepted, principal: Principal) -> Accepted:
        handling, key = self._handling, self._handling.keyring.active
        signature = key.sign(AUTHORISATION, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=event.body())
        new = event.to_new_event(actor=principal.username, signature=signature, key_id=key.key_id)
        handling.failpoints.hit("accept.before_commit")
        [outcome] = await handling.log.append([new])
        handling.failpoints.hit("accept.after_commit")
        if isinstance(outcome, Conflict):
            raise KeyConflictError(event.task_id, outcome.seq)
        if created := isinstance(outcome, Recorded):
            self._count("tasks_accepted", 1)
        return Accepted(task_id=event.task_id, seq=outcome.seq, created=created)

    async def _authorised(self, task_id: str) -> TaskAccepted:
        """A task whose words are signed anew: whoever can write to the database must not get a signature that way."""
        stored = await _stored_at(self._handling.log, await _known_seq(self._handling.log, task_id))
        try:
            task = verify_authorisation(stored, self._handling.keyring.keys_at(stored.seq))
        except (SignatureError, MalformedMessageError) as error:
            raise RefusedError("not_authorised", f"the task {task_id} is not as it was authorised: {error}") from error
        if task.task_id != task_id:
            raise RefusedError("not_authorised", f"the log has another task in the place of {task_id}")
        return task

    async def _existing(self, principal: Principal, task_id: str, sha256: str) -> Accepted | None:
        """The task of that id, if it is this very request: a repeat must not be decided anew on a changed fleet."""
        seq = await _seq_of(self._handling.log, task_id)
        if seq is None:
            return None
        task = await _task_at(self._handling.log, seq)
        if (task.request_sha256, task.actor) != (sha256, principal.username):
            raise KeyConflictError(task_id, seq)
        return Accepted(task_id=task_id, seq=seq, created=False)


async def known_task(log: Log, task_id: str) -> tuple[int, TaskAccepted]:
    """The seq of a task's acceptance, and the task.

    Raises:
        NotFoundError: there is none.
    """
    seq = await _known_seq(log, task_id)
    return seq, await _task_at(log, seq)


async def check_task(handling: Handling, principal: Principal, action: str, task: TaskAccepted) -> None:
    """Raises ForbiddenError, which is recorded, where the rules do not let somebody do that to all hosts of a task."""
    async with handling.recording(principal, f"tasks/{task.task_id}"):
        facts = task_facts(handling.authority.fleet, task.hosts, task.request)
        handling.authority.rules.check(principal, action, facts)


def check_seen(handling: Handling, principal: Principal, task: TaskAccepted) -> None:
    """Raises NotFoundError where somebody may not see all of a task's hosts, as where there is no such task."""
    if not within(handling.authority.readable(owner(principal), "tasks.read"), task.hosts):
        raise no_task(task.task_id)


def no_task(task_id: str) -> NotFoundError:
    return NotFoundError("unknown_task", f"there is no task {task_id}")


async def check_open(log: Log, task: TaskAccepted) -> None:
    """Raises RefusedError `task_finished` where every host of it has its outcome."""
    outcomes = [Key(task.task_id, OUTCOME, hostname) for hostname in task.hosts]
    if len(await log.find(EVENT, outcomes)) == len(outcomes):
        raise RefusedError("task_finished", f"the task {task.task_id} has finished")


async def _seq_of(log: Log, task_id: str) -> int | None:
    key = Key(task_id, TaskAccepted.KIND)
    return (await log.find(EVENT, [key])).get(key)


async def _known_seq(log: Log, task_id: str) -> int:
    seq = await _seq_of(log, task_id)
    if seq is None:
        raise no_task(task_id)
    return seq


async def _stored_at(log: Log, seq: int) -> StoredEvent:
    stored = await log.read_one(EVENT, seq)
    if stored is None:
        raise LogDamagedError(EVENT, seq)
    return stored


async def _task_at(log: Log, seq: int) -> TaskAccepted:
    event = registry.decode(await _stored_at(log, seq))
    if not isinstance(event, TaskAccepted):
        raise LogDamagedError(EVENT, seq)
    return event
