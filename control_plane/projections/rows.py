"""The rows that one batch of events touches: loaded once, folded in memory, written back at once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import orjson
from sqlalchemy import Dialect as SqlDialect
from sqlalchemy import Table, TypeDecorator, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.storage.dialect import Dialect, Value
from control_plane.storage.tables import LongText

Row: TypeAlias = dict[str, Any]
RowKey: TypeAlias = tuple[str | int, ...]

KEYS_A_STATEMENT: Final = 500
MOST_REMEMBERED: Final = 20_000


class Json(TypeDecorator[Any]):
    """A value as JSON text with sorted keys, so equal values are equal bytes."""

    impl = LongText
    cache_ok = True

    def process_bind_param(self, value: object, dialect: SqlDialect) -> str | None:
        return None if value is None else json_text(value)

    def process_result_value(self, value: str | None, dialect: SqlDialect) -> object:
        return None if value is None else orjson.loads(value)


def json_text(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


class RowStore(Protocol):
    """What a fold sees of the rows."""

    def get(self, table: Table, *key: str | int) -> Row | None:
        """The row as it stands by now; change a copy, and `put` it."""
        ...

    def put(self, table: Table, row: Row) -> None: ...


class MemoryRows:
    """Rows that are folded for an answer, and never written."""

    def __init__(self) -> None:
        self._rows: dict[Table, dict[RowKey, Row]] = {}

    def get(self, table: Table, *key: str | int) -> Row | None:
        return self._rows.get(table, {}).get(key)

    def put(self, table: Table, row: Row) -> None:
        self._rows.setdefault(table, {})[tuple(row[column.name] for column in table.primary_key.columns)] = row


class Remembered:
    """Rows as they were committed last, for whoever is their only writer; they need not be fetched again."""

    def __init__(self) -> None:
        self.rows: dict[Table, dict[RowKey, Row]] = {}
        self._count = 0

    def keep(self, changed: Mapping[Table, Mapping[RowKey, Row]]) -> None:
        self._count += sum(len(rows) for rows in changed.values())
        if self._count > MOST_REMEMBERED:
            self.rows, self._count = {}, 0
        for table, rows in changed.items():
            self.rows.setdefault(table, {}).update(rows)


class Rows:
    """A small unit of work over read tables: `load`, then `get` and `put` in memory, then `flush`.

    Args:
        remembered: of the batches before, where nobody else writes; `committed` adds to it.
    """

    def __init__(self, connection: AsyncConnection, dialect: Dialect, remembered: Remembered | None = None) -> None:
        self._connection = connection
        self._dialect = dialect
        self._remembered = remembered or Remembered()
        self._loaded = self._remembered.rows
        self._changed: dict[Table, dict[RowKey, Row]] = {}

    @property
    def has_changes(self) -> bool:
        return bool(self._changed)

    def committed(self) -> None:
        """What was flushed is in the database now."""
        self._remembered.keep(self._changed)

    async def load(self, wanted: Iterable[tuple[Table, RowKey]]) -> None:
        """Fetch the rows with these primary keys, where they are there."""
        by_table: dict[Table, set[RowKey]] = {}
        for table, key in wanted:
            by_table.setdefault(table, set()).add(key)
        for table, keys in by_table.items():
            missing = sorted(keys - self._loaded.get(table, {}).keys())
            for start in range(0, len(missing), KEYS_A_STATEMENT):
                await self._fetch(table, missing[start : start + KEYS_A_STATEMENT])

    async def _fetch(self, table: Table, keys: Sequence[RowKey]) -> None:
        columns = list(table.primary_key.columns)
        rows = self._loaded.setdefault(table, {})
        if len(columns) == 1:
            condition = columns[0].in_([key[0] for key in keys])
        else:
            condition = tuple_(*columns).in_(keys)
        for found in (await self._connection.execute(select(table).where(condition))).mappings():
            row = dict(found)
            rows[tuple(row[column.name] for column in columns)] = row

    def get(self, table: Table, *key: str | int) -> Row | None:
        """The row as it stands in this batch; change a copy, and `put` it."""
        return self._changed.get(table, {}).get(key) or self._loaded.get(table, {}).get(key)

    def put(self, table: Table, row: Row) -> None:
        key = tuple(row[column.name] for column in table.primary_key.columns)
        self._changed.setdefault(table, {})[key] = row

    async def flush(self) -> None:
        """Write every changed row, one statement a table, in the order of the primary keys."""
        for table, rows in self._changed.items():
            encoded = [_encoded(table, row) for row in rows.values()]
            await self._dialect.bulk_upsert(self._connection, table, encoded)


def _encoded(table: Table, row: Mapping[str, Any]) -> dict[str, Value]:
    return {
        column.name: json_text(row[column.name])
        if isinstance(column.type, Json) and row[column.name] is not None
        else row[column.name]
        for column in table.columns
    }
