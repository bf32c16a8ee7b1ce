"""Tasks as they were at a moment, of those that have changed since: what is exact is counted, and the rest folded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import and_, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.events import registry
from control_plane.events.envelope import EVENT
from control_plane.events.log import EventLog
from control_plane.events.rollouts import TaskApproved, TaskPaused, TaskResumed, TaskRolloutStopped
from control_plane.events.tasks import TaskCancelRequested
from control_plane.projections.queries.live import TASKS
from control_plane.projections.rows import MemoryRows, Row
from control_plane.storage.tables import event_key

TASKS_AT_ONCE: Final = 200
TURNS: Final = tuple(
    cls.KIND for cls in (TaskCancelRequested, TaskPaused, TaskResumed, TaskApproved, TaskRolloutStopped)
)


@dataclass(frozen=True, slots=True)
class Then:
    """Tasks as they were, by id; and those of their executions that have changed since, by id and hostname."""

    tasks: dict[str, Row] = field(default_factory=dict)
    executions: dict[tuple[str, str], Row] = field(default_factory=dict)


class Refolding:
    """Folds again, up to the event `upto`, which the read tables have come to."""

    def __init__(self, connection: AsyncConnection, log: EventLog, upto: int) -> None:
        self._connection = connection
        self._log = log
        self._upto = upto

    async def then(self, tasks: Sequence[Mapping[Any, Any]]) -> Then:
        """How tasks were that had been accepted by then, given their rows of now."""
        then = Then()
        for start in range(0, len(tasks), TASKS_AT_ONCE):
            await self._some(then, {task["task_id"]: dict(task) for task in tasks[start : start + TASKS_AT_ONCE]})
        return then

    async def _some(self, then: Then, tasks: Mapping[str, Row]) -> None:
        rows = MemoryRows()
        changed = await self._changed(tasks)
        for task_id, task in tasks.items():
            TASKS.begin(rows, task, changed.get(task_id, ()))
        pos = await self._count_exact(tasks, rows)
        await self._fold(await self._seqs(tasks), tasks, rows)
        for task_id in tasks:
            if (folded := rows.get(TASKS.task, task_id)) is not None:
                then.tasks[task_id] = {**folded, "pos": max(folded["pos"], pos.get(task_id, 0))}
            for hostname in changed.get(task_id, ()):
                if (execution := rows.get(TASKS.execution, task_id, hostname)) is not None:
                    then.executions[task_id, hostname] = execution

    async def _changed(self, tasks: Mapping[str, Row]) -> dict[str, list[str]]:
        """The hosts whose executions have changed since, by task; as one value, a row each would cost more."""
        e = TASKS.execution
        names = select(e.c.task_id, func.group_concat(e.c.hostname))
        later = names.where(e.c.task_id.in_(list(tasks)), e.c.pos > self._upto).group_by(e.c.task_id)
        return {task_id: _listed(some) for task_id, some in await self._connection.execute(later)}

    async def _count_exact(self, tasks: Mapping[str, Row], rows: MemoryRows) -> dict[str, int]:
        """Count those that have not changed since; by task, the last event that gave one of them its state."""
        t, e = TASKS.task, TASKS.execution
        of_released = (func.count(case((e.c.released_seq > 0, 1))), func.max(e.c.released_seq))
        numbers = select(e.c.task_id, e.c.state, func.count(), func.max(e.c.state_seq), *of_released)
        exact = numbers.where(e.c.task_id.in_(list(tasks)), e.c.pos <= self._upto).group_by(e.c.task_id, e.c.state)
        pos: dict[str, int] = {}
        for task_id, state, count, seq, released, released_seq in await self._connection.execute(exact):
            task = rows.get(t, task_id) or tasks[task_id]
            counts = {**task["counts"], "queued": task["counts"]["queued"] - count}
            task = {**task, "counts": {**counts, state: counts.get(state, 0) + count}}
            if "rollout" in task["request"]:
                task["released"] += released
            rows.put(t, task)
            pos[task_id] = max(seq, released_seq, pos.get(task_id, 0))
        for task_id in pos:
            task = rows.get(t, task_id) or tasks[task_id]
            rows.put(t, {**task, "counts": {state: count for state, count in task["counts"].items() if count}})
        return pos

    async def _seqs(self, tasks: Mapping[str, Row]) -> list[int]:
        """The events by then of those executions that have changed since, and of what the tasks were told."""
        k, e = event_key, TASKS.execution
        of_execution = and_(e.c.task_id == k.c.task_id, e.c.hostname == k.c.hostname)
        events = select(func.group_concat(k.c.seq)).select_from(k.join(e, of_execution)).group_by(k.c.task_id)
        by_then = (k.c.task_id.in_(list(tasks)), k.c.seq <= self._upto, e.c.pos > self._upto)
        by_task = await self._connection.scalars(events.where(*by_then))
        seqs = [int(seq) for listed in by_task for seq in _listed(listed)]
        turned = [task_id for task_id, task in tasks.items() if _is_turned(task)]
        if turned:
            of_tasks = select(k.c.seq).where(k.c.task_id.in_(turned), k.c.kind.in_(TURNS), k.c.seq <= self._upto)
            seqs += await self._connection.scalars(of_tasks)
        return seqs

    async def _fold(self, seqs: Sequence[int], tasks: Mapping[str, Row], rows: MemoryRows) -> None:
        aside: set[str] = set()
        async for stored in self._log.read_these(EVENT, seqs):
            task_id = stored.task_id or ""
            if task_id in aside or stored.seq <= tasks[task_id]["seq"]:
                continue
            try:
                event = registry.decode(stored)
                if event is not None:
                    TASKS.apply(rows, stored, event)
            except Exception:  # noqa: BLE001 - the projector has set this one aside, too, and all later ones of its task
                aside.add(task_id)


def _is_turned(task: Row) -> bool:
    """Whether it was paused or cancelled, or its rollout has stopped, up to now."""
    was_turned = task["turned_seq"] != task["seq"]
    return was_turned or task["cancel_requested_us"] is not None or task["stopped"] is not None


def _listed(value: str | bytes | None) -> list[str]:
    text = value.decode() if isinstance(value, bytes) else value
    return text.split(",") if text else []
