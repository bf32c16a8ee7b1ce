"""The audit trail: one line an event, for lists and filters; its body is read from the log by its seq."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from sqlalchemy import Column, Index, Table, select

from control_plane.events import tasks
from control_plane.events.envelope import StoredEvent
from control_plane.events.event import Event
from control_plane.projections.projection import Projection
from control_plane.projections.rows import RowKey, Rows
from control_plane.storage.engine import Database
from control_plane.storage.tables import Identifier, Int64, read_table


class AuditProjection(Projection):
    name: ClassVar[str] = "audit"
    version: ClassVar[int] = 1

    def __init__(self, suffix: str = "") -> None:
        super().__init__(suffix)
        self.audit = read_table(
            f"audit{suffix}",
            self.metadata,
            Column("seq", Int64, primary_key=True, autoincrement=False),
            Column("recorded_us", Int64, nullable=False),
            Column("kind", Identifier(64), nullable=False),
            Column("actor", Identifier()),
            Column("task_id", Identifier()),
            Column("hostname", Identifier()),
            Column("outcome", Identifier(64), comment="the terminal state that it says, if it says one"),
            Index(f"audit{suffix}_task", "task_id", "seq"),
            Index(f"audit{suffix}_host", "hostname", "seq"),
            Index(f"audit{suffix}_kind", "kind", "seq"),
            Index(f"audit{suffix}_actor", "actor", "seq"),
        )

    def touched(self, event: Event) -> Iterable[tuple[Table, RowKey]]:
        return ()

    def apply(self, rows: Rows, stored: StoredEvent, event: Event) -> None:
        row = {
            "seq": stored.seq,
            "recorded_us": stored.recorded_us,
            "kind": stored.kind,
            "actor": stored.actor,
            "task_id": stored.task_id,
            "hostname": stored.hostname,
            "outcome": outcome_of(event),
        }
        rows.put(self.audit, row)


def outcome_of(event: Event) -> str | None:
    if isinstance(event, tasks.ExecutionFinished | tasks.ExecutionLateResult):
        return tasks.state_of(event.result)
    state = tasks.STATE_BY_KIND.get(event.KIND)
    return state if state in tasks.TERMINAL else None


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
    """What to list; `kind` may be a family, as in `host`. Times are UTC microseconds."""

    kind: str | None = None
    task_id: str | None = None
    hostname: str | None = None
    actor: str | None = None
    from_us: int | None = None
    to_us: int | None = None


class AuditQueries:
    def __init__(self, database: Database, projection: AuditProjection | None = None) -> None:
        self._database = database
        self._table = (projection or AuditProjection()).audit

    async def newest(self, wanted: AuditFilter, *, before: int | None, limit: int) -> list[AuditRow]:
        """Events older than the seq `before`, newest first."""
        return await self._select(wanted, limit, before=before)

    async def after(self, wanted: AuditFilter, seq: int, *, limit: int) -> list[AuditRow]:
        """Events after a seq, oldest first."""
        return await self._select(wanted, limit, after=seq)

    async def _select(
        self, wanted: AuditFilter, limit: int, *, before: int | None = None, after: int | None = None
    ) -> list[AuditRow]:
        t = self._table
        statement = select(t).limit(limit).order_by(t.c.seq if after is not None else t.c.seq.desc())
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
        if before is not None:
            statement = statement.where(t.c.seq < before)
        if after is not None:
            statement = statement.where(t.c.seq > after)
        async with self._database.read() as connection:
            return [AuditRow(**row) for row in (await connection.execute(statement)).mappings()]
