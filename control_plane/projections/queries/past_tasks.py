"""Tasks as they were. A row that no later event has changed is exact as it stands; only the others are folded again.

Those are the tasks that were under way at the moment: all that was finished by then is read as it is now.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.events.log import EventLog
from control_plane.projections.moments import Moment
from control_plane.projections.queries.live import TASKS
from control_plane.projections.queries.pages import Page, counts_of, page_of, parse_cursor
from control_plane.projections.queries.refolding import Refolding
from control_plane.projections.queries.scopes import Names, Scope, both, is_in, of_hosts, of_whole_tasks
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
from control_plane.storage.engine import Database


class PastTasks:
    """See `TaskReader`; as of a moment that the read table has come to.

    Args:
        scope: of whoever asks.
        turns: whose turn it is to have a snapshot, which is a connection of its own.
    """

    def __init__(
        self, database: Database, log: EventLog, moment: Moment, scope: Scope, turns: asyncio.Semaphore
    ) -> None:
        self._database = database
        self._log = log
        self._turns = turns
        self._moment = moment
        self._names = scope.tasks
        self._printed = both(scope.tasks, scope.outputs)
        self._upto = moment.positions.event
        self._task = TASKS.task
        self._execution = TASKS.execution

    async def page(self, wanted: TaskFilter, *, cursor: str | None, limit: int) -> Page[TaskView]:
        """See `TaskReader`."""
        t = self._task
        before = None if cursor is None else parse_cursor(cursor, int)
        shown, counting = listing(wanted, self._names, t.c.pos <= self._upto, cursor=cursor, limit=limit)
        changed = select(t.c.task_id).where(t.c.pos > self._upto, t.c.seq <= self._upto)
        async with self._snapshot() as connection:
            counts = await counts_of(connection, counting)
            found = list((await connection.execute(shown)).mappings())
            statement = select(t).where(t.c.task_id.in_(changed), *unchanging(wanted, self._names))
            under_way = (await connection.execute(statement)).mappings().all()
            for then in (await self._refolding(connection).then(under_way)).tasks.values():
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
            seen = of_whole_tasks(self._task.c.task_id, self._execution, self._names)
            task = await self._accepted(connection, task_id, *seen)
            if task is None:
                return None
            if task["pos"] > self._upto:
                task = (await self._refolding(connection).then([task])).tasks[task_id]
            return task_view(task)

    async def retries(self, task_id: str) -> list[str]:
        """See `TaskReader`."""
        t = self._task
        seen = of_whole_tasks(t.c.task_id, self._execution, self._names)
        statement = select(t.c.task_id).where(t.c.retry_of == task_id, t.c.seq <= self._upto, *seen).order_by(t.c.seq)
        async with self._database.read() as connection:
            return list(await connection.scalars(statement))

    async def executions(
        self, task_id: str, *, states: Collection[str], cursor: str | None, limit: int
    ) -> Page[ExecutionView]:
        """See `TaskReader`."""
        e = self._execution
        after = "" if cursor is None else parse_cursor(cursor, str)
        unchanged = (e.c.task_id == task_id, e.c.pos <= self._upto, *of_hosts(e.c.hostname, self._names))
        shown, counting = listing_of(e, *unchanged, states=states, cursor=cursor, limit=limit)
        async with self._snapshot() as connection:
            task = await self._accepted(connection, task_id)
            folded = await self._folded(connection, task, self._names)
            counts = await counts_of(connection, counting)
            found = list((await connection.execute(shown)).mappings())
        for row in folded:
            counts[row["state"]] = counts.get(row["state"], 0) + 1
        found += [row for row in folded if row["state"] in (states or counts) and row["hostname"] > after]
        found.sort(key=lambda row: row["hostname"].encode())
        views = [execution_view(row) for row in found[: limit + 1]]
        as_of = self._moment.positions
        return page_of(views, counts, states, key=lambda execution: execution.hostname, limit=limit, as_of=as_of)

    async def execution(self, task_id: str, hostname: str) -> ExecutionView | None:
        if not is_in(hostname, self._names):
            return None
        e = self._execution
        statement = select(e).where(e.c.task_id == task_id, e.c.hostname == hostname)
        async with self._snapshot() as connection:
            task = await self._accepted(connection, task_id)
            row = (await connection.execute(statement)).mappings().one_or_none()
            if task is None or row is None:
                return None
            if row["pos"] <= self._upto:
                return execution_view(row)
            return execution_view((await self._refolding(connection).then([task])).executions[task_id, hostname])

    async def outputs(self, task_id: str) -> list[OutputGroup]:
        """See `TaskReader`."""
        e = self._execution
        columns = (e.c.hostname, *(e.c[name] for name in (*SAME_OUTPUT, "result_seq")))
        seen = of_hosts(e.c.hostname, self._printed)
        unchanged = select(*columns).where(e.c.task_id == task_id, e.c.pos <= self._upto, *seen)
        async with self._snapshot() as connection:
            task = await self._accepted(connection, task_id)
            if task is None:
                return []
            folded = await self._folded(connection, task, self._printed)
            found = (await connection.execute(unchanged)).mappings().all()
        return by_output([*found, *folded])

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[AsyncConnection]:
        """Rows change meanwhile: what is exact, and what is not, has to be seen as of one time."""
        async with self._turns, self._database.snapshot() as connection:
            yield connection

    async def _accepted(
        self, connection: AsyncConnection, task_id: str, *also: ColumnElement[bool]
    ) -> Mapping[Any, Any] | None:
        """The row of a task that had been accepted by then, as it is now."""
        t = self._task
        statement = select(t).where(t.c.task_id == task_id, t.c.seq <= self._upto, *also)
        return (await connection.execute(statement)).mappings().one_or_none()

    async def _folded(
        self, connection: AsyncConnection, task: Mapping[Any, Any] | None, names: Names
    ) -> list[Mapping[Any, Any]]:
        """Of a task the executions on these hosts that have changed since, as they were."""
        folded = (await self._refolding(connection).then([task] if task else [])).executions
        return [row for (_, hostname), row in folded.items() if is_in(hostname, names)]

    def _refolding(self, connection: AsyncConnection) -> Refolding:
        return Refolding(connection, self._log, self._upto)
