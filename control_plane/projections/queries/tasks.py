"""What is asked about tasks and their executions."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sqlalchemy import ColumnElement, Select, Table, and_, func, not_, or_, select

from control_plane.events.tasks import LOST_AFTER_S, Delivery
from control_plane.projections.positions import Positions
from control_plane.projections.queries.live import TASKS
from control_plane.projections.queries.pages import Page, contains, counts_of, page_of, parse_cursor, position_of
from control_plane.projections.queries.scopes import EVERYTHING, Names, Scope, both, is_in, of_hosts, of_whole_tasks
from control_plane.storage.engine import Database

UNANSWERED: Final = ("queued", "sent")  # of the states that are not terminal
TASKS_A_STATEMENT: Final = 200  # SQLite nests no more than 1,000 expressions
IDS_A_STATEMENT: Final = 1000
SAME_OUTPUT: Final = ("state", "exit_code", "stdout_sha256", "stderr_sha256")


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
    released: int
    stopped: str | None
    turned_seq: int
    approval_seq: int | None
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
    leftovers: int | None
    first_line: bytes | None
    late: Mapping[str, Any] | None
    pos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenExecution:
    """One that is not terminal, with what is known of its delivery.

    Attributes:
        is_released: it may be sent, as far as its task's rollout goes.
        is_paused: its task is.
        stopped: why its task's rollout has stopped.
        since_seq: an event after which it may have reached its host first; 0: it has certainly not.
        quarantined_seq: its host's last quarantine, or 0.
    """

    task_id: str
    hostname: str
    state: str
    accepted_seq: int
    running_us: int | None
    expires_at: int
    timeout_s: int
    cancel_requested: bool
    delivery: Delivery
    is_released: bool = True
    is_paused: bool = False
    stopped: str | None = None
    since_seq: int = 0
    quarantined_seq: int = 0

    @property
    def is_forgotten(self) -> bool:
        """Its host may have had it before it was put into quarantine, and must not be sent it again."""
        return 0 < self.since_seq < self.quarantined_seq


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


class TaskReader(Protocol):
    """What is asked about tasks as they are and as they were; what is out of the reader's scope is not there."""

    async def page(self, wanted: TaskFilter, *, cursor: str | None, limit: int) -> Page[TaskView]:
        """Tasks, newest first; `counts` by state ignores the filter's states."""
        ...

    async def one(self, task_id: str) -> TaskView | None: ...

    async def retries(self, task_id: str) -> list[str]:
        """The tasks that retry this one, oldest first."""
        ...

    async def executions(
        self, task_id: str, *, states: Collection[str], cursor: str | None, limit: int
    ) -> Page[ExecutionView]:
        """The executions of a task, by hostname; `counts` by state ignores `states`."""
        ...

    async def execution(self, task_id: str, hostname: str) -> ExecutionView | None: ...

    async def outputs(self, task_id: str) -> list[OutputGroup]:
        """The executions of a task grouped by what came of them; the largest group last."""
        ...


class TaskQueries:
    """Args: `scope`: what `TaskReader`'s questions are about; the others are about all."""

    def __init__(self, database: Database, scope: Scope = EVERYTHING) -> None:
        self._database = database
        self._names = scope.tasks
        self._printed = both(scope.tasks, scope.outputs)
        self._task = TASKS.task
        self._execution = TASKS.execution
        self._online = TASKS.online

    def seen_by(self, scope: Scope) -> TaskReader:
        return TaskQueries(self._database, scope)

    async def as_of(self) -> Positions:
        """How far the tasks have come; ask before their rows, which are then at least as new."""
        async with self._database.read() as connection:
            return await position_of(connection, TASKS.name)

    async def whole(self, task_ids: Collection[str], names: Names) -> set[str]:
        """Those of these tasks all of whose hosts are among these."""
        t, ids, found = self._task, list(task_ids), set[str]()
        seen = list(of_whole_tasks(t.c.task_id, self._execution, names))
        for start in range(0, len(ids), IDS_A_STATEMENT):
            some = select(t.c.task_id).where(t.c.task_id.in_(ids[start : start + IDS_A_STATEMENT]), *seen)
            async with self._database.read() as connection:
                found.update(await connection.scalars(some))
        return found

    async def page(self, wanted: TaskFilter, *, cursor: str | None, limit: int) -> Page[TaskView]:
        """See `TaskReader`."""
        shown, counting = listing(wanted, self._names, cursor=cursor, limit=limit)
        async with self._database.read() as connection:
            as_of = await position_of(connection, TASKS.name)
            found = [task_view(row) for row in (await connection.execute(shown)).mappings()]
            counts = await counts_of(connection, counting)
        return page_of(found, counts, wanted.state, key=lambda task: task.seq, limit=limit, as_of=as_of)

    async def one(self, task_id: str) -> TaskView | None:
        t = self._task
        seen = of_whole_tasks(t.c.task_id, self._execution, self._names)
        async with self._database.read() as connection:
            row = (await connection.execute(select(t).where(t.c.task_id == task_id, *seen))).mappings().one_or_none()
        return None if row is None else task_view(row)

    async def retries(self, task_id: str) -> list[str]:
        """See `TaskReader`."""
        t = self._task
        seen = of_whole_tasks(t.c.task_id, self._execution, self._names)
        statement = select(t.c.task_id).where(t.c.retry_of == task_id, *seen).order_by(t.c.seq)
        async with self._database.read() as connection:
            return list(await connection.scalars(statement))

    async def executions(
        self, task_id: str, *, states: Collection[str], cursor: str | None, limit: int
    ) -> Page[ExecutionView]:
        """See `TaskReader`."""
        e = self._execution
        seen = of_hosts(e.c.hostname, self._names)
        shown, counting = listing_of(e, e.c.task_id == task_id, *seen, states=states, cursor=cursor, limit=limit)
        async with self._database.read() as connection:
            as_of = await position_of(connection, TASKS.name)
            found = [execution_view(row) for row in (await connection.execute(shown)).mappings()]
            counts = await counts_of(connection, counting)
        return page_of(found, counts, states, key=lambda execution: execution.hostname, limit=limit, as_of=as_of)

    async def execution(self, task_id: str, hostname: str) -> ExecutionView | None:
        if not is_in(hostname, self._names):
            return None
        e = self._execution
        statement = select(e).where(e.c.task_id == task_id, e.c.hostname == hostname)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        return None if row is None else execution_view(row)

    async def ended(self, executions: Collection[tuple[str, str]]) -> list[ExecutionView]:
        """Those of these, each a task_id and a hostname, that have ended."""
        e = self._execution
        hosts_of: dict[str, list[str]] = {}
        for task_id, hostname in executions:
            hosts_of.setdefault(task_id, []).append(hostname)
        these = [and_(e.c.task_id == task_id, e.c.hostname.in_(hosts)) for task_id, hosts in hosts_of.items()]
        found: list[ExecutionView] = []
        async with self._database.read() as connection:
            for start in range(0, len(these), TASKS_A_STATEMENT):
                wanted = or_(*these[start : start + TASKS_A_STATEMENT])
                rows = await connection.execute(select(e).where(e.c.is_open == 0, wanted))
                found += [execution_view(row) for row in rows.mappings()]
        return found

    async def states(self, task_id: str) -> dict[str, str]:
        """The state of each execution of a task, by hostname."""
        e = self._execution
        async with self._database.read() as connection:
            rows = await connection.execute(select(e.c.hostname, e.c.state).where(e.c.task_id == task_id))
            return {row.hostname: row.state for row in rows}

    async def succeeded_late(self, task_id: str) -> list[str]:
        """The hosts of a task whose result says that it succeeded, and came after another outcome had been said."""
        e = self._execution
        statement = select(e.c.hostname, e.c.late).where(e.c.task_id == task_id, e.c.late.is_not(None))
        async with self._database.read() as connection:
            return [row.hostname for row in await connection.execute(statement) if row.late["outcome"] == "succeeded"]

    async def outputs(self, task_id: str) -> list[OutputGroup]:
        """See `TaskReader`."""
        e = self._execution
        columns = (e.c.hostname, *(e.c[name] for name in (*SAME_OUTPUT, "result_seq")))
        async with self._database.read() as connection:
            seen = of_hosts(e.c.hostname, self._printed)
            found = await connection.execute(select(*columns).where(e.c.task_id == task_id, *seen))
            return by_output(found.mappings())

    async def changed(self, after: int, *, limit: int) -> list[TaskView]:
        """Task rows changed after a position, in that order."""
        t = self._task
        statement = select(t).where(t.c.pos > after).order_by(t.c.pos).limit(limit)
        async with self._database.read() as connection:
            return [task_view(row) for row in (await connection.execute(statement)).mappings()]

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
            return [execution_view(row) for row in (await connection.execute(statement)).mappings()]

    async def open_executions(self) -> tuple[int, list[OpenExecution]]:
        """A log position, and every execution that is not terminal, at least as new as that, oldest task first."""
        statement = self._open().order_by(self._execution.c.accepted_seq, self._execution.c.hostname)
        async with self._database.read() as connection:
            as_of = await position_of(connection, TASKS.name)
            rows = (await connection.execute(statement)).mappings()
            return as_of.event, [_open(row) for row in rows]

    async def waiting(self) -> tuple[int, int]:
        """A log position, and how many executions no host has answered then or since, and are not over."""
        e = self._execution
        counting = select(func.count()).where(e.c.is_open == 1, e.c.state.in_(UNANSWERED))
        async with self._database.read() as connection:
            as_of = await position_of(connection, TASKS.name)
            return as_of.event, (await connection.execute(counting)).scalar_one()

    async def online(self) -> dict[str, int]:
        """The event of each host's last coming online."""
        async with self._database.read() as connection:
            o = self._online
            rows = await connection.execute(select(o.c.hostname, o.c.online_seq).where(o.c.online_seq.is_not(None)))
            return {row.hostname: row.online_seq for row in rows}

    async def overdue(self, now_s: int, *, limit: int) -> list[OpenExecution]:
        """Open executions whose silence is an outcome by now, in the order of their deadlines.

        It is exactly those for which `processes.deadlines.verdict` has one: whatever else stood here would be looked at
        again each second, for as long as its command may run.
        """
        e, o, t = self._execution, self._online, self._task
        came_back = and_(e.c.returned_seq > 0, e.c.may_have_arrived == 0)
        is_there_since = e.c.returned_seq < func.coalesce(o.c.called_seq, 0)
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
            select(
                e,
                o.c.called_seq,
                o.c.quarantined_seq,
                o.c.called_before_seq,
                t.c.expires_at,
                t.c.timeout_s,
                t.c.cancel_requested_us,
                t.c.stopped,
            )
            .add_columns(t.c.state.label("task_state"))
            .select_from(e.join(t, t.c.task_id == e.c.task_id).outerjoin(o, o.c.hostname == e.c.hostname))
            .where(e.c.is_open == 1)
        )


def unchanging(wanted: TaskFilter, names: Names) -> list[ColumnElement[bool]]:
    """The conditions on what a task was accepted with."""
    t, e = TASKS.task, TASKS.execution
    conditions = list(of_whole_tasks(t.c.task_id, e, names))
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


def listing(
    wanted: TaskFilter,
    names: Names,
    *also: ColumnElement[bool],
    cursor: str | None,
    limit: int,
) -> tuple[Select[Any], Select[str, int]]:
    """A page of tasks with one more behind it, and their numbers by state."""
    t = TASKS.task
    base = [*unchanging(wanted, names), *also]
    if wanted.outcome is not None:
        base.append(t.c.outcome == wanted.outcome)
    shown = select(t).where(*base).order_by(t.c.seq.desc()).limit(limit + 1)
    if wanted.state:
        shown = shown.where(t.c.state.in_(wanted.state))
    if cursor is not None:
        shown = shown.where(t.c.seq < parse_cursor(cursor, int))
    return shown, select(t.c.state, func.count()).where(*base).group_by(t.c.state)


def listing_of(
    e: Table, *conditions: ColumnElement[bool], states: Collection[str], cursor: str | None, limit: int
) -> tuple[Select[Any], Select[str, int]]:
    """A page of executions with one more behind it, and their numbers by state."""
    shown = select(e).where(*conditions).order_by(e.c.hostname).limit(limit + 1)
    if states:
        shown = shown.where(e.c.state.in_(states))
    if cursor is not None:
        shown = shown.where(e.c.hostname > parse_cursor(cursor, str))
    return shown, select(e.c.state, func.count()).where(*conditions).group_by(e.c.state)


def by_output(executions: Iterable[Mapping[Any, Any]]) -> list[OutputGroup]:
    groups: dict[tuple[Any, ...], list[tuple[str, int | None]]] = {}
    for row in executions:
        groups.setdefault(tuple(row[name] for name in SAME_OUTPUT), []).append((row["hostname"], row["result_seq"]))
    made: list[OutputGroup] = []
    for same, rows in groups.items():
        rows.sort()
        hosts, result_seq = [hostname for hostname, _ in rows], rows[0][1]
        made.append(OutputGroup(**dict(zip(SAME_OUTPUT, same, strict=True)), hosts=hosts, result_seq=result_seq))
    return sorted(made, key=lambda group: (len(group.hosts), group.hosts[0]))


def task_view(row: Mapping[Any, Any]) -> TaskView:
    return TaskView(**{name: row[name] for name in TaskView.__slots__})


def execution_view(row: Mapping[Any, Any]) -> ExecutionView:
    return ExecutionView(**{name: row[name] for name in ExecutionView.__slots__})


def _open(row: Mapping[Any, Any]) -> OpenExecution:
    trigger_seq = max(row["released_seq"], row["called_seq"] or 0) if row["released_seq"] else 0
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
        is_released=bool(row["released_seq"]),
        since_seq=row["arrived_seq"] or _unknown_since(row),
        quarantined_seq=row["quarantined_seq"] or 0,
        is_paused=row["task_state"] == "paused",
        stopped=row["stopped"],
    )


def _unknown_since(row: Mapping[Any, Any]) -> int:
    """The first known trigger whose publish is not known to have come back; 0 where there is none."""
    if not row["released_seq"]:
        return 0
    triggers = (row["released_seq"], row["called_before_seq"] or 0, row["called_seq"] or 0)
    return min((seq for seq in triggers if seq >= row["released_seq"] and seq > row["returned_seq"]), default=0)
