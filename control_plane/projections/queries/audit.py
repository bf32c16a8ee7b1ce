"""What is asked about the audit trail."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Select, func, select

from control_plane.projections.positions import Positions
from control_plane.projections.queries.live import AUDIT, TASKS
from control_plane.projections.queries.pages import position_of
from control_plane.projections.queries.scopes import EVERYTHING, Scope, of_events
from control_plane.storage.engine import Database

Statement: TypeAlias = Select[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    seq: int
    recorded_us: int
    kind: str
    actor: str | None
    task_id: str | None
    hostname: str | None
    outcome: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """What to list; `kind` may be a family, as in `host`. Times are UTC microseconds.

    Attributes: `upto`: no event after this seq.
    """

    kind: str | None = None
    task_id: str | None = None
    hostname: str | None = None
    actor: str | None = None
    from_us: int | None = None
    to_us: int | None = None
    upto: int | None = None


class AuditQueries:
    """Args: `scope`: of whoever asks; without one, all are shown."""

    def __init__(self, database: Database, scope: Scope = EVERYTHING) -> None:
        self._database = database
        self._scope = scope
        self._table = AUDIT.audit
        self._execution = TASKS.execution

    def seen_by(self, scope: Scope) -> "AuditQueries":
        """Of the events of a task as such it knows once the read table of tasks has come to its acceptance."""
        return AuditQueries(self._database, scope)

    async def newest(self, wanted: AuditFilter, *, before: int | None, limit: int) -> list[AuditRow]:
        """Events older than the seq `before`, newest first."""
        return await self._select(wanted, limit, before=before)

    async def after(self, wanted: AuditFilter, seq: int, *, limit: int) -> list[AuditRow]:
        """Events after a seq, oldest first."""
        return await self._select(wanted, limit, after=seq)

    async def count(self, wanted: AuditFilter, *, most: int) -> int:
        """How many events there are, of which no more than `most` are looked at."""
        some = self._wanted(select(self._table.c.seq), wanted).limit(most)
        async with self._database.read() as connection:
            return await connection.scalar(select(func.count()).select_from(some.subquery())) or 0

    async def _select(
        self, wanted: AuditFilter, limit: int, *, before: int | None = None, after: int | None = None
    ) -> list[AuditRow]:
        t = self._table
        statement = self._wanted(select(t).limit(limit), wanted)
        statement = statement.order_by(t.c.seq if after is not None else t.c.seq.desc())
        if before is not None:
            statement = statement.where(t.c.seq < before)
        if after is not None:
            statement = statement.where(t.c.seq > after)
        async with self._database.read() as connection:
            return [AuditRow(**row) for row in (await connection.execute(statement)).mappings()]

    def _wanted(self, statement: Statement, wanted: AuditFilter) -> Statement:
        t = self._table
        for column in ("task_id", "hostname", "actor"):
            if (value := getattr(wanted, column)) is not None:
                statement = statement.where(t.c[column] == value)
        if wanted.kind is not None and "." in wanted.kind:
            statement = statement.where(t.c.kind == wanted.kind)
        elif wanted.kind is not None:
            statement = statement.where(t.c.kind >= f"{wanted.kind}.", t.c.kind < f"{wanted.kind}/")
        if wanted.from_us is not None:
            statement = statement.where(t.c.recorded_us >= wanted.from_us)
        if wanted.to_us is not None:
            statement = statement.where(t.c.recorded_us <= wanted.to_us)
        if wanted.upto is not None:
            statement = statement.where(t.c.seq <= wanted.upto)
        return statement.where(*of_events(t, self._execution, self._scope))

    async def as_of(self) -> Positions:
        """How far the trail has come; ask before its rows, which are then at least as new."""
        async with self._database.read() as connection:
            return await position_of(connection, AUDIT.name)
