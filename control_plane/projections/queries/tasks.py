"""What is asked about tasks and their executions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, not_, select

from control_plane.events.tasks import LOST_AFTER_S, Delivery
from control_plane.projections.queries.pages import Page, contains, counts_of, cursor_of, parse_cursor, position_of
from control_plane.projections.tasks import TasksProjection
from control_plane.storage.engine import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    task_id: str
    seq: int
    state: str
    outcome: str | None
    request: Mapping[str, Any]
    actor: str
    targets: int
    counts: Mapping[str, int]
    accepted_us: int
    expires_at: int
    finished_us: int | None
    cancel_requested_us: int | None
    retry_of: str | None
    guard_level: int
    pos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionView:
    task_id: str
    hostname: str
    state: str
    queued_us: int
    sent_us: int | None
    accepted_us: int | None
    started_us: int | None
    finished_us: int | None
    result_seq: int | None
    exit_code: int | None
    reason: str | None
    stdout_bytes: int | None
    stderr_bytes: int | None
    stdout_sha256: str | None
    stderr_sha256: str | None
    truncated: int | None
    first_line: bytes | None
    late: Mapping[str, Any] | None
    pos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenExecution:
    """One that is not terminal, with what is known of its delivery."""

    task_id: str
    hostname: str
    state: str
    accepted_seq: int
    running_us: int | None
    expires_at: int
    timeout_s: int
    cancel_requested: bool
    delivery: Delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputGroup:
    """Executions with the same state, exit code and output; `result_seq` of one of them has the output."""

    state: str
    exit_code: int | None
    stdout_sha256: str | None
    stderr_sha256: str | None
    hosts: Sequence[str]
    result_seq: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Every given one must hold; `q` is somewhere in the request. Times are UTC microseconds."""

    state: Collection[str] = ()
    outcome: str | None = None
    actor: str | None = None
    hostname: str | None = None
    q: str | None = None
    from_us: int | None = None
    to_us: int | None = None


class TaskQueries:
    def __init__(self, database: Database) -> None:
        self._database = database
        projection = TasksProjection()
        self._task = projection.task
        self._execution = projection.execution
        self._online = projection.online

    async def page(self, wanted: TaskFilter, *, cursor: str | None, limit: int) -> Page[TaskView]:
        """Tasks, newest first; `counts` by state ignores the filter's states."""
        t = self._task
        base = self._conditions(wanted)
        statement = select(t).where(*base).order_by(t.c.seq.desc()).limit(limit + 1)
        if wanted.state:
            statement = statement.where(t.c.state.in_(wanted.state))
        if cursor is not None:
            statement = statement.where(t.c.seq < parse_cursor(cursor, int))
        counting = select(t.c.state, func.count()).where(*base).group_by(t.c.state)
        async with self._database.read() as connection:
            as_of = await position_of(connection, TasksProjection.name)
            found = [_task(row) for row in (await connection.execute(statement)).mappings()]
            counts = await counts_of(connection, counting)
        return Page(
            items=found[:limit],
            next_cursor=cursor_of(found[limit - 1].seq) if len(found) > limit else None,
            as_of=as_of,
            total=sum(counts.get(state, 0) for state in wanted.state or counts),
            counts=counts,
        )

    def _conditions(self, wanted: TaskFilter) -> list[ColumnElement[bool]]:
        t, e = self._task, self._execution
        conditions: list[ColumnElement[bool]] = []
        if wanted.outcome is not None:
            conditions.append(t.c.outcome == wanted.outcome)
        if wanted.actor is not None:
            conditions.append(t.c.actor == wanted.actor)
        if wanted.hostname is not None:
            conditions.append(t.c.task_id.in_(select(e.c.task_id).where(e.c.hostname == wanted.hostname)))
        if wanted.q:
            conditions.append(contains(t.c.request, wanted.q))
        if wanted.from_us is not None:
            conditions.append(t.c.accepted_us >= wanted.from_us)
        if wanted.to_us is not None:
            conditions.append(t.c.accepted_us <= wanted.to_us)
        return conditions

    async def one(self, task_id: str) -> TaskView | None:
        t = self._task
        async with self._database.read() as connection:
            row = (await connection.execute(select(t).where(t.c.task_id == task_id))).mappings().one_or_none()
        return None if row is None else _task(row)

    async def retries(self, task_id: str) -> list[str]:
        """The tasks that retry this one, oldest first."""
        t = self._task
        statement = select(t.c.task_id).where(t.c.retry_of == task_id).order_by(t.c.seq)
        async with self._database.read() as connection:
            return list(await connection.scalars(statement))

    async def executions(
        self, task_id: str, *, states: Collection[str], cursor: str | None, limit: int
    ) -> Page[ExecutionView]:
        """The executions of a task, by hostname; `counts` by state ignores `states`."""
        e = self._execution
        statement = select(e).where(e.c.task_id == task_id).order_by(e.c.hostname).limit(limit + 1)
        if states:
            statement = statement.where(e.c.state.in_(states))
        if cursor is not None:
            statement = statement.where(e.c.hostname > parse_cursor(cursor, str))
        counting = select(e.c.state, func.count()).where(e.c.task_id == task_id).group_by(e.c.state)
        async with self._database.read() as connection:
            as_of = await position_of(connection, TasksProjection.name)
            found = [_execution(row) for row in (await connection.execute(statement)).mappings()]
            counts = await counts_of(connection, counting)
        return Page(
            items=found[:limit],
            next_cursor=cursor_of(found[limit - 1].hostname) if len(found) > limit else None,
            as_of=as_of,
            total=sum(counts.get(state, 0) for state in states or counts),
            counts=counts,
        )

    async def execution(self, task_id: str, hostname: str) -> ExecutionView | None:
        e = self._execution
        statement = select(e).where(e.c.task_id == task_id, e.c.hostname == hostname)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        return None if row is None else _execution(row)

    async def outputs(self, task_id: str) -> list[OutputGroup]:
        """The executions of a task grouped by what came of them; the largest group last."""
        e = self._execution
        columns = (e.c.state, e.c.exit_code, e.c.stdout_sha256, e.c.stderr_sha256, e.c.hostname, e.c.result_seq)
        groups: dict[tuple[Any, ...], list[Any]] = {}
        async with self._database.read() as connection:
            statement = select(*columns).where(e.c.task_id == task_id).order_by(e.c.hostname)
            for row in await connection.execute(statement):
                groups.setdefault(tuple(row[:4]), []).append(row)
        made = [
            OutputGroup(
                state=state,
                exit_code=exit_code,
                stdout_sha256=stdout,
                stderr_sha256=stderr,
                hosts=[row.hostname for row in rows],
                result_seq=rows[0].result_seq,
            )
            for (state, exit_code, stdout, stderr), rows in groups.items()
        ]
        return sorted(made, key=lambda group: (len(group.hosts), group.hosts[0]))

    async def changed(self, after: int, *, limit: int) -> list[TaskView]:
        """Task rows changed after a position, in that order."""
        t = self._task
        statement = select(t).where(t.c.pos > after).order_by(t.c.pos).limit(limit)
        async with self._database.read() as connection:
            return [_task(row) for row in (await connection.execute(statement)).mappings()]

    async def executions_changed(
        self, after: int, *, limit: int, task_id: str | None = None, hostname: str | None = None
    ) -> list[ExecutionView]:
        """Execution rows of a task or of a host changed after a position, in that order."""
        e = self._execution
        statement = select(e).where(e.c.pos > after).order_by(e.c.pos, e.c.hostname).limit(limit)
        if task_id is not None:
            statement = statement.where(e.c.task_id == task_id)
        if hostname is not None:
            statement = statement.where(e.c.hostname == hostname)
        async with self._database.read() as connection:
            return [_execution(row) for row in (await connection.execute(statement)).mappings()]

    async def open_executions(self) -> tuple[int, list[OpenExecution]]:
        """A log position, and every execution that is not terminal, at least as new as that, oldest task first."""
        statement = self._open().order_by(self._execution.c.accepted_seq, self._execution.c.hostname)
        async with self._database.read() as connection:
            as_of = await position_of(connection, TasksProjection.name)
            rows = (await connection.execute(statement)).mappings()
            return as_of.event, [_open(row) for row in rows]

    async def online(self) -> dict[str, int]:
        """The event of each host's last coming online."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(self._online.c.hostname, self._online.c.online_seq))
            return {row.hostname: row.online_seq for row in rows}

    async def overdue(self, now_s: int, *, limit: int) -> list[OpenExecution]:
        """Open executions whose silence is an outcome by now, in the order of their deadlines.

        It is exactly those for which `processes.deadlines.verdict` has one: whatever else stood here would be looked at
        again each second, for as long as its command may run.
        """
        e, o, t = self._execution, self._online, self._task
        came_back = and_(e.c.returned_seq > 0, e.c.may_have_arrived == 0)
        is_there_since = e.c.returned_seq < func.coalesce(o.c.online_seq, 0)
        may_still_answer = e.c.deadline_s + t.c.timeout_s + LOST_AFTER_S >= now_s
        statement = (
            self._open()
            .where(e.c.deadline_s < now_s, not_(and_(came_back, is_there_since, may_still_answer)))
            .order_by(e.c.deadline_s)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return [_open(row) for row in (await connection.execute(statement)).mappings()]

    def _open(self) -> Select[Any]:
        e, o, t = self._execution, self._online, self._task
        return (
            select(e, o.c.online_seq, t.c.expires_at, t.c.timeout_s, t.c.cancel_requested_us)
            .select_from(e.join(t, t.c.task_id == e.c.task_id).outerjoin(o, o.c.hostname == e.c.hostname))
            .where(e.c.is_open == 1)
        )


def _task(row: Mapping[Any, Any]) -> TaskView:
    return TaskView(**{name: row[name] for name in TaskView.__slots__})


def _execution(row: Mapping[Any, Any]) -> ExecutionView:
    return ExecutionView(**{name: row[name] for name in ExecutionView.__slots__})


def _open(row: Mapping[Any, Any]) -> OpenExecution:
    trigger_seq = max(row["accepted_seq"], row["online_seq"] or 0)
    return OpenExecution(
        task_id=row["task_id"],
        hostname=row["hostname"],
        state=row["state"],
        accepted_seq=row["accepted_seq"],
        running_us=row["running_us"],
        expires_at=row["expires_at"],
        timeout_s=row["timeout_s"],
        cancel_requested=row["cancel_requested_us"] is not None,
        delivery=Delivery(trigger_seq, row["returned_seq"], bool(row["may_have_arrived"])),
    )
