"""Tasks as they were. A row that no later event has changed is exact as it stands; only the others are folded again.

Those are the tasks that were under way at the moment: all that was finished by then is read as it is now.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.events import registry
from control_plane.events.envelope import EVENT, Key
from control_plane.events.log import EventLog
from control_plane.events.tasks import TaskCancelRequested
from control_plane.projections.moments import Moment
from control_plane.projections.queries.pages import Page, counts_of, page_of, parse_cursor
from control_plane.projections.queries.tasks import (
    SAME_OUTPUT,
    ExecutionView,
    OutputGroup,
    TaskFilter,
    TaskView,
    by_output,
    execution_view,
    listing,
    listing_of,
    task_view,
    unchanging,
)
from control_plane.projections.rows import MemoryRows, Row
from control_plane.projections.tasks import TasksProjection
from control_plane.storage.engine import Database
from control_plane.storage.tables import event_key


@dataclass(frozen=True, slots=True)
class _Then:
    """A task as it was, and by hostname those of its executions that have changed since."""

    task: Row
    executions: Mapping[str, Row]


class PastTasks:
    """See `TaskReader`; as of a moment that the read table has come to.

    Args:
        turns: whose turn it is to have a snapshot, which is a connection of its own.
    """

    def __init__(self, database: Database, log: EventLog, moment: Moment, turns: asyncio.Semaphore) -> None:
        self._database = database
        self._log = log
        self._turns = turns
        self._moment = moment
        self._upto = moment.positions.event
        self._projection = TasksProjection()
        self._task = self._projection.task
        self._execution = self._projection.execution

    async def page(self, wanted: TaskFilter, *, cursor: str | None, limit: int) -> Page[TaskView]:
        """See `TaskReader`."""
        t = self._task
        before = None if cursor is None else parse_cursor(cursor, int)
        shown, counting = listing(self._projection, wanted, t.c.pos <= self._upto, cursor=cursor, limit=limit)
        changed = select(t.c.task_id).where(t.c.pos > self._upto, t.c.seq <= self._upto)
        async with self._snapshot() as connection:
            counts = await counts_of(connection, counting)
            found = list((await connection.execute(shown)).mappings())
            statement = select(t).where(t.c.task_id.in_(changed), *unchanging(self._projection, wanted))
            for task in (await connection.execute(statement)).mappings().all():
                then = (await self._folded(connection, task)).task
                if wanted.outcome in (None, then["outcome"]):
                    counts[then["state"]] = counts.get(then["state"], 0) + 1
                    if then["state"] in (wanted.state or counts) and (before is None or then["seq"] < before):
                        found.append(then)
        found.sort(key=lambda task: task["seq"], reverse=True)
        views = [task_view(row) for row in found[: limit + 1]]
        as_of = self._moment.positions
        return page_of(views, counts, wanted.state, key=lambda task: task.seq, limit=limit, as_of=as_of)

    async def one(self, task_id: str) -> TaskView | None:
        async with self._snapshot() as connection:
            task = await self._accepted(connection, task_id)
            if task is None:
                return None
            return task_view(task if task["pos"] <= self._upto else (await self._folded(connection, task)).task)

    async def retries(self, task_id: str) -> list[str]:
        """See `TaskReader`."""
        t = self._task
        statement = select(t.c.task_id).where(t.c.retry_of == task_id, t.c.seq <= self._upto).order_by(t.c.seq)
        async with self._database.read() as connection:
            return list(await connection.scalars(statement))

    async def executions(
        self, task_id: str, *, states: Collection[str], cursor: str | None, limit: int
    ) -> Page[ExecutionView]:
        """See `TaskReader`."""
        e = self._execution
        after = "" if cursor is None else parse_cursor(cursor, str)
        unchanged = (e.c.task_id == task_id, e.c.pos <= self._upto)
        shown, counting = listing_of(e, *unchanged, states=states, cursor=cursor, limit=limit)
        async with self._snapshot() as connection:
            task = await self._accepted(connection, task_id)
            folded = {} if task is None else (await self._folded(connection, task)).executions
            counts = await counts_of(connection, counting)
            found = list((await connection.execute(shown)).mappings())
        for row in folded.values():
            counts[row["state"]] = counts.get(row["state"], 0) + 1
        found += [row for row in folded.values() if row["state"] in (states or counts) and row["hostname"] > after]
        found.sort(key=lambda row: row["hostname"].encode())
        views = [execution_view(row) for row in found[: limit + 1]]
        as_of = self._moment.positions
        return page_of(views, counts, states, key=lambda execution: execution.hostname, limit=limit, as_of=as_of)

    async def execution(self, task_id: str, hostname: str) -> ExecutionView | None:
        e = self._execution
        statement = select(e).where(e.c.task_id == task_id, e.c.hostname == hostname)
        async with self._snapshot() as connection:
            task = await self._accepted(connection, task_id)
            row = (await connection.execute(statement)).mappings().one_or_none()
            if task is None or row is None:
                return None
            if row["pos"] <= self._upto:
                return execution_view(row)
            return execution_view((await self._folded(connection, task)).executions[hostname])

    async def outputs(self, task_id: str) -> list[OutputGroup]:
        """See `TaskReader`."""
        e = self._execution
        columns = (e.c.hostname, *(e.c[name] for name in (*SAME_OUTPUT, "result_seq")))
        unchanged = select(*columns).where(e.c.task_id == task_id, e.c.pos <= self._upto)
        async with self._snapshot() as connection:
            task = await self._accepted(connection, task_id)
            if task is None:
                return []
            folded = (await self._folded(connection, task)).executions
            found = (await connection.execute(unchanged)).mappings().all()
        return by_output([*found, *folded.values()])

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[AsyncConnection]:
        """Rows change meanwhile: what is exact, and what is not, has to be seen as of one time."""
        async with self._turns, self._database.snapshot() as connection:
            yield connection

    async def _accepted(self, connection: AsyncConnection, task_id: str) -> Mapping[Any, Any] | None:
        """The row of a task that had been accepted by then, as it is now."""
        t = self._task
        statement = select(t).where(t.c.task_id == task_id, t.c.seq <= self._upto)
        return (await connection.execute(statement)).mappings().one_or_none()

    async def _folded(self, connection: AsyncConnection, task: Mapping[Any, Any]) -> _Then:
        """A task that had been accepted by then: begun anew, with all that is exact, and the rest folded."""
        e = self._execution
        its = e.c.task_id == task["task_id"]
        unchanged = select(e.c.state, func.count(), func.max(e.c.state_seq)).where(its, e.c.pos <= self._upto)
        exact = (await connection.execute(unchanged.group_by(e.c.state))).all()
        changed = list(await connection.scalars(select(e.c.hostname).where(its, e.c.pos > self._upto)))
        rows = MemoryRows()
        self._projection.begin(rows, dict(task), changed)
        counts = {state: count for state, count, _ in exact}
        counts["queued"] = counts.get("queued", 0) + len(changed)
        pos = max((seq for _, _, seq in exact), default=0)
        begun = self._begun(rows, task["task_id"])
        rows.put(self._task, {**begun, "counts": {state: count for state, count in counts.items() if count}})
        async for stored in self._log.read_these(EVENT, await self._seqs(connection, task)):
            try:
                event = registry.decode(stored)
                if event is not None:
                    self._projection.apply(rows, stored, event)
            except Exception:  # noqa: BLE001 - the projector has set this one aside, too, and all later ones of its task
                break
        begun = self._begun(rows, task["task_id"])
        executions = [rows.get(e, task["task_id"], hostname) for hostname in changed]
        return _Then(
            {**begun, "pos": max(pos, begun["pos"])}, {row["hostname"]: row for row in executions if row is not None}
        )

    def _begun(self, rows: MemoryRows, task_id: str) -> Row:
        row = rows.get(self._task, task_id)
        assert row is not None  # noqa: S101 - by `begin`
        return row

    async def _seqs(self, connection: AsyncConnection, task: Mapping[Any, Any]) -> list[int]:
        """The events that a task had by then, of those executions that have changed since, and its cancelling."""
        k, e = event_key, self._execution
        of_execution = and_(e.c.task_id == k.c.task_id, e.c.hostname == k.c.hostname)
        # As one value: a row each would cost more than all the rest.
        wanted = select(func.group_concat(k.c.seq)).select_from(k.join(e, of_execution))
        by_then = (k.c.task_id == task["task_id"], k.c.seq.between(task["seq"], self._upto), e.c.pos > self._upto)
        listed = await connection.scalar(wanted.where(*by_then))
        seqs = [int(seq) for seq in listed.split(",")] if listed else []
        if task["cancel_requested_us"] is not None:
            cancelled = await self._log.find(EVENT, [Key(task["task_id"], TaskCancelRequested.KIND)])
            seqs += [seq for seq in cancelled.values() if task["seq"] < seq <= self._upto]
        return seqs
