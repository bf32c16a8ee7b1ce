"""Tasks: asked for, listed, cancelled."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import Header, Query, Response

from control_plane.api.commands import RetryHosts, RunCommand
from control_plane.api.fields import (
    Answer,
    Cursor,
    FromTime,
    Limit,
    Listing,
    Name,
    TaskId,
    TaskIdPath,
    Time,
    ToTime,
    Word,
    at,
    at_s,
    one_of,
    time_of,
    wait_for_seq,
)
from control_plane.api.hosts import Reason
from control_plane.api.past import OfTasks, Tasks
from control_plane.api.problems import ProblemError, ReadTableBehindError
from control_plane.api.rollouts import TaskChange
from control_plane.api.routing import noun
from control_plane.api.services import Caller, Given, Seen, Services, scope_of
from control_plane.commands.access import Principal
from control_plane.commands.handlers.tasks import Accepted
from control_plane.commands.secrets import sealed_in
from control_plane.commands.tasks import new_task_id
from control_plane.errors import LogDamagedError, NotFoundError
from control_plane.events import registry
from control_plane.events.envelope import EVENT, Key, StoredEvent
from control_plane.events.tasks import TaskAccepted, hosts_named, last_word_s
from control_plane.projections.moments import Moment, micros_of
from control_plane.projections.queries.scopes import EVERYTHING, Scope
from control_plane.projections.queries.tasks import TaskFilter, TaskView

PROJECTION: Final = "tasks"
STATES: Final = ("running", "paused", "cancelling", "finished")
OUTCOMES: Final = ("succeeded", "failed", "cancelled")

router = noun("/tasks", "tasks", permission="tasks.read")


class Task(Answer):
    """A task. At every moment `counts`, its executions by state, adds up to `targets`.

    Attributes:
        secrets: the names of the environment values that are kept sealed.
        target: as it was asked for; without the names of hosts that the caller may not see.
        template: the name of the template that it was made from, null where it was none.
        rollout: as it was asked for, null where it goes to all hosts at once.
        released: hosts that it may be sent to by now.
        rollout_stopped: why it goes to no more of them, null where nothing has stopped it.
        awaits_approval: it is paused after its canary, and a resume is the approval.
        waits_after_canary: its canary has succeeded, and it waits the seconds of `rollout.wait` before it goes on
            to the others; a resume lets it go on at once.
        answers_until: by when at the latest every host has an outcome, null where all have. What is not over at
            `expires_at` waits for that: a host whose clock is behind may start it 120 s later, and take its time.
        seq: the event of its acceptance; `pos`: the one that last changed this row.
    """

    task_id: str
    state: str
    outcome: str | None
    command: str
    argv: Sequence[str] | None
    template: str | None
    secrets: Sequence[str]
    user: str
    timeout: int
    actor: str
    reason: str | None
    target: Mapping[str, Any]
    when_offline: str
    targets: int
    counts: Mapping[str, int]
    accepted_at: Time
    finished_at: Time | None
    expires_at: Time
    answers_until: Time | None
    retry_of: str | None
    retries: Sequence[str]
    guard_level: int
    rollout: Mapping[str, Any] | None
    released: int
    rollout_stopped: str | None
    awaits_approval: bool
    waits_after_canary: bool
    cancel_requested_at: Time | None
    seq: int
    pos: int


def task_of(row: TaskView, scope: Scope, *, retries: Sequence[str] = ()) -> Task:
    request = row.request
    return Task(
        task_id=row.task_id,
        state=row.state,
        outcome=row.outcome,
        command=request["command"],
        argv=request.get("argv"),
        template=request.get("template"),
        secrets=sorted(sealed_in(request)),
        user=request["user"],
        timeout=request["timeout"],
        actor=row.actor,
        reason=request.get("reason"),
        target=_target_of(request, scope),
        when_offline=request["when_offline"],
        targets=row.targets,
        counts=row.counts,
        accepted_at=at(row.accepted_us),
        finished_at=time_of(row.finished_us),
        expires_at=at_s(row.expires_at),
        answers_until=None if row.state == "finished" else at_s(last_word_s(row.expires_at, request["timeout"])),
        retry_of=row.retry_of,
        retries=retries,
        guard_level=row.guard_level,
        rollout=request.get("rollout"),
        released=row.released,
        rollout_stopped=row.stopped,
        awaits_approval=row.state == "paused" and row.approval_seq == row.turned_seq,
        waits_after_canary=_waits_after_canary(row),
        cancel_requested_at=time_of(row.cancel_requested_us),
        seq=row.seq,
        pos=row.pos,
    )


def _target_of(request: Mapping[str, Any], scope: Scope) -> Mapping[str, Any]:
    """Of hosts that it names, and that could not do what was asked, it did not go to all."""
    target: Mapping[str, Any] = request["target"]
    if scope.tasks is None or not (named := hosts_named(request)):
        return target
    return {"hosts": [name for name in named if name in scope.tasks]}


def _waits_after_canary(row: TaskView) -> bool:
    rollout = row.request.get("rollout") or {}
    canary = rollout.get("canary") or 0
    first = canary if isinstance(canary, int) else len(canary)
    is_held = row.state == "running" and row.stopped is None and row.approval_seq is None
    is_done = 0 < first == row.released == row.counts.get("succeeded")
    return is_held and is_done and first < row.targets and isinstance(rollout.get("wait"), int) and rollout["wait"] > 0


class AcceptedTask(Answer):
    """Attributes: `seq`: the event of its acceptance; reads with `min_seq` of it show the task."""

    task: Task
    seq: int


THERE_ALREADY: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": AcceptedTask, "description": "it was there already"}
}


@router.get("")
async def list_tasks(
    scope: Seen,
    tasks: Tasks,
    state: Annotated[str | None, one_of(STATES), Query(description="one or several, with commas between them")] = None,
    outcome: Annotated[Literal["succeeded", "failed", "cancelled"] | None, Query()] = None,
    actor: Word = None,
    hostname: Annotated[Name | None, Query()] = None,
    q: Word = None,
    from_: FromTime = None,
    to: ToTime = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Listing[Task]:
    """Newest first; those all of whose hosts the caller may see."""
    wanted = TaskFilter(
        state=state.split(",") if state else (),
        outcome=outcome,
        actor=actor,
        hostname=hostname,
        q=q,
        from_us=micros_of(from_) if from_ else None,
        to_us=micros_of(to) if to else None,
    )
    page = await tasks.page(wanted, cursor=cursor, limit=limit)
    return Listing(
        items=[task_of(row, scope) for row in page.items],
        next_cursor=page.next_cursor,
        total=page.total,
        counts=page.counts,
        as_of=str(page.as_of),
    )


@router.post("", status_code=202, responses=THERE_ALREADY)
async def create_task(
    services: Given,
    caller: Caller,
    body: RunCommand,
    response: Response,
    idempotency_key: Annotated[TaskId | None, Header()] = None,
) -> AcceptedTask:
    """Accept a task: when this answers, it is in the log for good."""
    task_id = _chosen_id(services, body.task_id, idempotency_key)
    request = body.decided(task_id, services.tasks.vault)
    is_new = body.task_id is None and idempotency_key is None
    accepted = await services.tasks.create(caller, request, approval_id=body.approval_id, is_new=is_new)
    return await _answer(services, response, accepted, caller)


def _chosen_id(services: Services, task_id: str | None, idempotency_key: str | None) -> str:
    if task_id and idempotency_key and task_id != idempotency_key:
        raise ProblemError(422, "invalid_request", "differs from the Idempotency-Key", field="task_id")
    return task_id or idempotency_key or new_task_id(services.clock.now_us())


async def _answer(services: Services, response: Response, accepted: Accepted, caller: Principal) -> AcceptedTask:
    """The task; to whom may not see it as it was accepted, since that is what they have sent themselves."""
    if not accepted.created:
        response.status_code = 200
        await wait_for_seq(services, PROJECTION, accepted.seq)
        scope = scope_of(services, caller)
        tasks = services.task_queries.seen_by(scope)
        if (row := await tasks.one(accepted.task_id)) is not None:
            task = task_of(row, scope, retries=await tasks.retries(accepted.task_id))
            return AcceptedTask(task=task, seq=accepted.seq)
    stored, event = await _event_of(services, accepted)
    # Whoever sits before a page comes to look; for programs it would cost each of their commands some milliseconds.
    if accepted.created and services.live_output is not None and caller.session_sha256 is not None:
        services.live_output.expect(event.task_id, event.hosts)
    return AcceptedTask(task=task_of(_as_accepted(stored, event), EVERYTHING), seq=accepted.seq)


async def _event_of(services: Services, accepted: Accepted) -> tuple[StoredEvent, TaskAccepted]:
    stored = await services.log.read_one(EVENT, accepted.seq)
    event = registry.decode(stored) if stored else None
    if stored is None or not isinstance(event, TaskAccepted):
        raise LogDamagedError(EVENT, accepted.seq)
    return stored, event


def _as_accepted(stored: StoredEvent, event: TaskAccepted) -> TaskView:
    """The row of a task that was accepted just now, from its event: its read table may be a moment behind."""
    level = event.guard["level"]
    return TaskView(
        task_id=event.task_id,
        seq=stored.seq,
        state="running",
        outcome=None,
        request=event.request,
        actor=event.actor,
        targets=len(event.hosts),
        counts={"queued": len(event.hosts)},
        accepted_us=stored.recorded_us,
        expires_at=event.expires_at,
        finished_us=None,
        cancel_requested_us=None,
        retry_of=event.retry_of,
        guard_level=level if isinstance(level, int) else 1,
        released=0 if "rollout" in event.request else len(event.hosts),
        stopped=None,
        turned_seq=stored.seq,
        approval_seq=None,
        pos=stored.seq,
    )


@router.get("/{task_id}")
async def get_task(services: Given, scope: Seen, tasks: Tasks, then: OfTasks, task_id: TaskIdPath) -> Task:
    """One task, with the count of its executions by state."""
    row = await tasks.one(task_id)
    if row is None:
        await wait_for_task(services, then, task_id)
        row = await tasks.one(task_id)
    if row is None:
        raise ReadTableBehindError if scope.tasks is None else no_task(task_id, then)
    return task_of(row, scope, retries=await tasks.retries(task_id))


def no_task(task_id: str, then: Moment | None) -> NotFoundError:
    detail = f"there is no task {task_id}" if then is None else f"there was no task {task_id} at that moment"
    return NotFoundError("unknown_task", detail)


async def wait_for_task(services: Services, then: Moment | None, task_id: str) -> None:
    """Return when the task is in the read table, which an accepted one may reach a moment later.

    Raises:
        NotFoundError: there is none of that id, or was none then.
        ReadTableBehindError: its projector has not come to it within the time that `min_seq` waits.
    """
    key = Key(task_id, TaskAccepted.KIND)
    found = await services.log.find(EVENT, [key])
    if not found or (then is not None and found[key] > then.positions.event):
        raise no_task(task_id, then)
    await wait_for_seq(services, PROJECTION, found[key])


@router.post("/{task_id}/cancel", status_code=202)
async def cancel_task(services: Given, caller: Caller, task_id: TaskIdPath, body: Reason | None = None) -> TaskChange:
    """Ask for it to be cancelled. What runs already gets the signal; what has finished stays as it is."""
    seq = await services.tasks.cancel(caller, task_id, body.reason if body else None)
    return TaskChange(task_id=task_id, seq=seq)


@router.post("/{task_id}/retry", status_code=202, responses=THERE_ALREADY)
async def retry_task(
    services: Given,
    caller: Caller,
    task_id: TaskIdPath,
    body: RetryHosts,
    response: Response,
    idempotency_key: Annotated[TaskId | None, Header()] = None,
) -> AcceptedTask:
    """Accept a new task that does the same on those hosts of this one; it names this one in `retry_of`.

    A rollout is kept but for its canary. All states that were told before this was asked count.
    """
    request = body.decided(task_id, _chosen_id(services, body.task_id, idempotency_key))
    await wait_for_seq(services, PROJECTION, (await services.log.head(EVENT)).seq)
    accepted = await services.tasks.retry(caller, request, approval_id=body.approval_id)
    return await _answer(services, response, accepted, caller)
