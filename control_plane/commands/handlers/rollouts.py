"""When a task is sent: pause, resume."""

from itertools import cycle

from control_plane.commands.access import Principal
from control_plane.commands.grammar import checked_line
from control_plane.commands.handlers.tasks import check_open, known_task
from control_plane.commands.handling import Handling
from control_plane.errors import RefusedError
from control_plane.events.envelope import EVENT, Key
from control_plane.events.rollouts import TaskPaused, TaskResumed
from control_plane.events.tasks import (
    OUTCOME,
    ExecutionAccepted,
    ExecutionStarted,
    TaskAccepted,
    TaskCancelRequested,
)


class RolloutHandler:
    def __init__(self, handling: Handling) -> None:
        self._handling = handling

    async def pause(self, principal: Principal, task_id: str, reason: str | None) -> int:
        """Send nothing more of a task until it is resumed; the seq of the pause. Pausing a paused one changes nothing.

        Raises:
            NotFoundError: there is no such task.
            RefusedError: `task_finished`, `task_cancelled`, `nothing_to_pause`: all of its hosts have it.
        """
        await self._handling.admit(principal, "tasks.cancel", f"tasks/{task_id}")
        kind, seq = await self._turned(task_id)
        if kind == TaskPaused.KIND:
            return seq
        await self._check_some_wait(task_id)
        event = TaskPaused(task_id=task_id, actor=principal.username, based_on=seq, reason=_checked(reason))
        return (await self._handling.record(event, actor=principal.username)).seq

    async def resume(self, principal: Principal, task_id: str, reason: str | None) -> int:
        """Let a paused task go on; the seq of that. Resuming one that has been resumed changes nothing.

        Raises:
            NotFoundError: there is no such task.
            RefusedError: `not_paused`, `task_finished`, `task_cancelled`.
        """
        await self._handling.admit(principal, "tasks.run", f"tasks/{task_id}")
        kind, seq = await self._turned(task_id)
        if kind == TaskResumed.KIND:
            return seq
        if kind != TaskPaused.KIND:
            raise RefusedError("not_paused", f"the task {task_id} is not paused")
        event = TaskResumed(task_id=task_id, actor=principal.username, based_on=seq, reason=_checked(reason))
        return (await self._handling.record(event, actor=principal.username)).seq

    async def _check_some_wait(self, task_id: str) -> None:
        """Raises RefusedError `nothing_to_pause` where every host has said that it has it: nothing more is sent to it.

        What was sent and is not answered counts as waiting, since it may be sent again.
        """
        _, task = await known_task(self._handling.log, task_id)
        waiting = set(task.hosts)
        for kind in (OUTCOME, ExecutionAccepted.KIND, ExecutionStarted.KIND):
            found = await self._handling.log.find(EVENT, [Key(task_id, kind, hostname) for hostname in waiting])
            waiting -= {key.hostname for key in found}
            if not waiting:
                raise RefusedError("nothing_to_pause", f"every host of the task {task_id} has it already")

    async def _turned(self, task_id: str) -> tuple[str, int]:
        """Of a task that is under way, the kind and the seq of its last pause or resume, else of its acceptance."""
        log = self._handling.log
        seq, task = await known_task(log, task_id)
        await check_open(log, task)
        if await log.find(EVENT, [Key(task_id, TaskCancelRequested.KIND)]):
            raise RefusedError("task_cancelled", f"the task {task_id} is being cancelled")
        turns = cycle((TaskPaused.KIND, TaskResumed.KIND))
        kind, then = TaskAccepted.KIND, next(turns)
        while found := await log.find(EVENT, [Key(task_id, then, part=str(seq))]):
            [seq] = found.values()
            kind, then = then, next(turns)
        return kind, seq


def _checked(reason: str | None) -> str | None:
    return None if reason is None else checked_line("reason", reason)
