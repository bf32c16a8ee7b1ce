"""When a task is sent: pause, resume, approve."""

from itertools import cycle

from control_plane.commands.access import Principal
from control_plane.commands.grammar import checked_line
from control_plane.commands.handlers.tasks import check_open, check_seen, check_task, known_task
from control_plane.commands.handling import Handling
from control_plane.commands.ports import Executions
from control_plane.commands.rollouts import parse_rollout
from control_plane.errors import RefusedError
from control_plane.events.envelope import EVENT, Key
from control_plane.events.rollouts import ExecutionReleased, TaskApproved, TaskPaused, TaskResumed
from control_plane.events.tasks import (
    OUTCOME,
    ExecutionAccepted,
    ExecutionStarted,
    TaskAccepted,
    TaskCancelRequested,
)


class RolloutHandler:
    def __init__(self, handling: Handling, executions: Executions) -> None:
        self._handling = handling
        self._executions = executions

    async def pause(self, principal: Principal, task_id: str, reason: str | None) -> int:
        """Send nothing more of a task until it is resumed; the seq of the pause. Pausing a paused one changes nothing.

        Raises:
            NotFoundError: there is no such task.
            RefusedError: `task_finished`, `task_cancelled`, `task_expired`, `nothing_to_pause` where all have it.
        """
        await self._handling.admit(principal, "tasks.cancel", f"tasks/{task_id}")
        task, kind, seq = await self._turned(principal, "tasks.cancel", task_id)
        if kind == TaskPaused.KIND:
            return seq
        await self._check_some_wait(task)
        event = TaskPaused(task_id=task_id, actor=principal.username, based_on=seq, reason=_checked(reason))
        return (await self._handling.record(event, actor=principal.username)).seq

    async def resume(self, principal: Principal, task_id: str, reason: str | None) -> int:
        """Let a task go on that is paused, or that waits after its canary; the seq of that. Once more changes nothing.

        Raises:
            NotFoundError: there is no such task.
            RefusedError: `stopped`, `not_paused`, `task_finished`, `task_cancelled`, `task_expired`.
        """
        await self._handling.admit(principal, "tasks.run", f"tasks/{task_id}")
        self._handling.authority.stop.check()
        task, kind, seq = await self._turned(principal, "tasks.run", task_id)
        who, why = principal.username, _checked(reason)
        if kind == TaskPaused.KIND:
            resumed = TaskResumed(task_id=task_id, actor=who, based_on=seq, reason=why)
            return (await self._handling.record(resumed, actor=who)).seq
        if await self._waits(task):
            approved = TaskApproved(task_id=task_id, actor=who, reason=why)
            return (await self._handling.record(approved, actor=who)).seq
        if kind == TaskResumed.KIND:
            return seq
        raise RefusedError("not_paused", f"the task {task_id} is not paused")

    async def _waits(self, task: TaskAccepted) -> bool:
        """Whether its canary has succeeded, and it waits before it goes on to the others."""
        asked = task.request.get("rollout")
        if not isinstance(asked, dict) or not isinstance(asked.get("wait"), int):
            return False
        first = parse_rollout(asked).first(task.hosts)
        states = await self._executions.states(task.task_id)
        if any(states.get(name) != "succeeded" for name in first):
            return False
        others = [Key(task.task_id, ExecutionReleased.KIND, name) for name in set(task.hosts).difference(first)]
        return not await self._handling.log.find(EVENT, others)

    async def _check_some_wait(self, task: TaskAccepted) -> None:
        """Raises RefusedError `nothing_to_pause` where every host has said that it has it: nothing more is sent to it.

        What was sent and is not answered counts as waiting, since it may be sent again.
        """
        waiting = set(task.hosts)
        for kind in (OUTCOME, ExecutionAccepted.KIND, ExecutionStarted.KIND):
            found = await self._handling.log.find(EVENT, [Key(task.task_id, kind, hostname) for hostname in waiting])
            waiting -= {key.hostname for key in found}
            if not waiting:
                raise RefusedError("nothing_to_pause", f"every host of the task {task.task_id} has it already")

    async def _turned(self, principal: Principal, action: str, task_id: str) -> tuple[TaskAccepted, str, int]:
        """A task that is under way, if the rules let the principal turn it.

        With it the kind and the seq of its last pause or resume, else of its acceptance.
        """
        log = self._handling.log
        seq, task = await known_task(log, task_id)
        check_seen(self._handling, principal, task)
        await check_task(self._handling, principal, action, task)
        await check_open(log, task)
        if await log.find(EVENT, [Key(task_id, TaskCancelRequested.KIND)]):
            raise RefusedError("task_cancelled", f"the task {task_id} is being cancelled")
        if self._handling.clock.now_s() >= task.expires_at:
            raise RefusedError("task_expired", f"the task {task_id} has expired: nothing of it is sent any more")
        turns = cycle((TaskPaused.KIND, TaskResumed.KIND))
        kind, then = TaskAccepted.KIND, next(turns)
        while found := await log.find(EVENT, [Key(task_id, then, part=str(seq))]):
            [seq] = found.values()
            kind, then = then, next(turns)
        return task, kind, seq


def _checked(reason: str | None) -> str | None:
    return None if reason is None else checked_line("reason", reason)
