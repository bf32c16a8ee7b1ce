"""The audit trail: one line an event, for lists and filters; its body is read from the log by its seq."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

from sqlalchemy import Column, Index, Table

from control_plane.events import tasks
from control_plane.events.envelope import StoredEvent
from control_plane.events.event import Event
from control_plane.projections.projection import Projection
from control_plane.projections.rows import RowKey, RowStore
from control_plane.storage.tables import Identifier, Int64, read_table


class AuditProjection(Projection):
    name: ClassVar[str] = "audit"
    version: ClassVar[int] = 1
    takes_unknown: ClassVar[bool] = True

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
            Index("audit_task", "task_id", "seq"),
            Index("audit_host", "hostname", "seq"),
            Index("audit_kind", "kind", "seq"),
            Index("audit_actor", "actor", "seq"),
        )

    def touched(self, events: Iterable[StoredEvent]) -> Mapping[Table, set[RowKey]]:
        return {}  # a new row each, whatever stands

    def apply(self, rows: RowStore, stored: StoredEvent, event: Event) -> None:
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
