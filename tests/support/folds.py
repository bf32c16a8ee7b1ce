"""Folds in memory, held to what a projection promises of each event: which rows it looks at, and whether it matters."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table

from control_plane.events import registry
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.event import Event
from control_plane.projections.projection import Projection
from control_plane.projections.rows import Row, RowKey
from tests.support.clock import START_US
from tests.support.events import stored


class MemoryRows:
    """What a fold sees of `Rows`: only the rows that were loaded for this event, and those that it has put itself."""

    def __init__(self) -> None:
        self.tables: dict[Table, dict[RowKey, Row]] = {}
        self.has_changed = False
        self._loaded: set[tuple[Table, RowKey]] = set()

    def begin(self, touched: Mapping[Table, set[RowKey]]) -> None:
        self._loaded = {(table, key) for table, keys in touched.items() for key in keys}
        self.has_changed = False

    def get(self, table: Table, *key: str | int) -> Row | None:
        assert (table, key) in self._loaded, f"{table.name} {key} is looked at, and touched() did not say so"
        return self.tables.get(table, {}).get(key)

    def change(self, table: Table, *key: str | int) -> Row | None:
        row = self.get(table, *key)
        if row is not None:
            self.put(table, row.copy())
        return self.get(table, *key)

    def put(self, table: Table, row: Row) -> None:
        assert row.keys() == {column.name for column in table.columns}, "a row is always whole"
        key = tuple(row[column.name] for column in table.primary_key)
        self.tables.setdefault(table, {})[key] = row
        self._loaded.add((table, key))
        self.has_changed = True


class Folded:
    """One projection's rows after the events it has been given, in order."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.heads = {EVENT: 0, HEARTBEAT_EVENT: 0}
        self._rows = MemoryRows()

    def then(self, *events: Event, at_s: float = 0, actor: str | None = None) -> int:
        """Fold events as they come out of the log, recorded so many seconds after START_US; the last one's seq."""
        for event in events:
            new = event.to_new_event(actor=actor)
            self.heads[new.log] += 1
            row = stored(new, seq=self.heads[new.log], recorded_us=START_US + round(at_s * 1_000_000))
            decoded = registry.decode(row)
            assert decoded is not None
            self._rows.begin(self.projection.touched([row]))
            self.projection.apply(self._rows, row, decoded)  # type: ignore[arg-type] # all that a fold uses of Rows
            assert not self._rows.has_changed or self.projection.concerns(row.kind)
        return self.heads[events[-1].LOG]

    def row(self, table: Table, *key: str | int) -> dict[str, Any]:
        return self._rows.tables[table][key]

    def rows(self, table: Table) -> list[dict[str, Any]]:
        return list(self._rows.tables.get(table, {}).values())
