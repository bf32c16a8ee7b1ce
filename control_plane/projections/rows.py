"""The rows that one batch of events touches: loaded once, folded in memory, written back at once."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, Protocol, TypeAlias

import orjson
from sqlalchemy import Dialect as SqlDialect
from sqlalchemy import Table, TypeDecorator, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.storage.dialect import Dialect
from control_plane.storage.tables import LongText

Row: TypeAlias = dict[str, Any]
RowKey: TypeAlias = tuple[str | int, ...]
Changed: TypeAlias = Mapping[Table, Mapping[RowKey, Row]]

KEYS_A_STATEMENT: Final = 500
ROWS_A_WRITE: Final = 2000  # made ready in one go, while nothing else goes on
TABLES: Final = 64  # more than are folded at a time
MOST_REMEMBERED: Final = 25_000
MOST_REMEMBERED_BYTES: Final = 64 * 1024 * 1024


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

    def change(self, table: Table, *key: str | int) -> Row | None:
        """The row as it stands, put already and to be changed in place: quicker than a copy for each event."""
        ...

    def put(self, table: Table, row: Row) -> None: ...


class MemoryRows:
    """Rows that are folded for an answer, and never written."""

    def __init__(self) -> None:
        self._rows: defaultdict[Table, dict[RowKey, Row]] = defaultdict(dict)

    def get(self, table: Table, *key: str | int) -> Row | None:
        """See `RowStore`."""
        return self._rows[table].get(key)

    def change(self, table: Table, *key: str | int) -> Row | None:
        """See `RowStore`."""
        return self._rows[table].get(key)

    def put(self, table: Table, row: Row) -> None:
        self._rows[table][_key_of(table)(row)] = row


class Remembered:
    """Rows in memory, as they are written or will be, for whoever is their only writer; they need not be fetched again.

    Those that nobody has changed or fetched for long are forgotten: when the newer ones are too many, the older ones
    go, and the newer ones are the older ones from then on. So what was there at one `forget` is there until the next.
    Where a batch is given up, all of them are.
    """

    def __init__(self) -> None:
        self.newer: defaultdict[Table, dict[RowKey, Row]] = defaultdict(dict)
        self.older: defaultdict[Table, dict[RowKey, Row]] = defaultdict(dict)
        self._size_bytes = 0

    def forget(self, size_bytes: int) -> None:
        """Forget what is old, where that is time.

        Args:
            size_bytes: of the events since the last time, and so about that of the rows that follow from them.
        """
        self._size_bytes += size_bytes
        if sum(map(len, self.newer.values())) > MOST_REMEMBERED or self._size_bytes > MOST_REMEMBERED_BYTES:
            self.newer, self.older, self._size_bytes = defaultdict(dict), self.newer, 0


class Rows:
    """A small unit of work over read tables: `load`, then `get` and `put` in memory, then `flush`.

    Args:
        connection: what is loaded by, and flushed to.
        remembered: of the batches before, where nobody else writes.
    """

    def __init__(self, connection: AsyncConnection, dialect: Dialect, remembered: Remembered | None = None) -> None:
        self._connection = connection
        self._dialect = dialect
        self._remembered = remembered or Remembered()
        self._changed: defaultdict[Table, dict[RowKey, Row]] = defaultdict(dict)

    @property
    def size(self) -> int:
        """How many rows are changed."""
        return sum(map(len, self._changed.values()))

    def taken(self, size_bytes: int) -> Changed:
        """The changed rows, for whoever writes them before the next ones are taken; none is changed from here on.

        Args:
            size_bytes: of the events that they follow from.
        """
        changed, self._changed = self._changed, defaultdict(dict)
        self._remembered.forget(size_bytes)
        return changed

    def missing(self, wanted: Mapping[Table, set[RowKey]]) -> dict[Table, list[RowKey]]:
        """Those of these primary keys whose rows are not in memory, in their order."""
        newer, older = self._remembered.newer, self._remembered.older
        # One after the other: only the first argument is not gone through from end to end.
        left = {table: keys.difference(newer[table]).difference(older[table]) for table, keys in wanted.items()}
        return {table: sorted(keys) for table, keys in left.items() if keys}

    async def load(self, wanted: Mapping[Table, set[RowKey]]) -> None:
        """Fetch the rows with these primary keys, where they are there."""
        await self.fetch(self._connection, self.missing(wanted))

    async def fetch(self, connection: AsyncConnection, missing: Mapping[Table, Sequence[RowKey]]) -> None:
        for table, keys in missing.items():
            for start in range(0, len(keys), KEYS_A_STATEMENT):
                await self._fetch(connection, table, keys[start : start + KEYS_A_STATEMENT])

    async def _fetch(self, connection: AsyncConnection, table: Table, keys: Sequence[RowKey]) -> None:
        columns = list(table.primary_key.columns)
        if len(columns) == 1:
            condition = columns[0].in_([key[0] for key in keys])
        else:
            condition = tuple_(*columns).in_(keys)
        rows, key_of = self._remembered.newer[table], _key_of(table)
        for found in (await connection.execute(select(table).where(condition))).mappings():
            row = dict(found)
            rows[key_of(row)] = row

    def get(self, table: Table, *key: str | int) -> Row | None:
        """See `RowStore`."""
        remembered = self._remembered
        return remembered.newer[table].get(key) or remembered.older[table].get(key)

    def change(self, table: Table, *key: str | int) -> Row | None:
        """See `RowStore`."""
        own = self._changed[table].get(key)
        if own is None and (row := self.get(table, *key)) is not None:
            own = self._remembered.newer[table][key] = self._changed[table][key] = row.copy()
        return own

    def put(self, table: Table, row: Row) -> None:
        key = _key_of(table)(row)
        self._remembered.newer[table][key] = self._changed[table][key] = row

    async def flush(self) -> None:
        """Write every changed row, in the order of the primary keys."""
        await write(self._connection, self._dialect, self._changed)


async def write(connection: AsyncConnection, dialect: Dialect, changed: Changed) -> None:
    """Write rows to their tables in the order of the primary keys, as few statements a table as the server takes."""
    for table, rows in changed.items():
        of_json = _json_columns(table)
        keys = sorted(rows)
        for start in range(0, len(keys), ROWS_A_WRITE):
            some = [_encoded(rows[key], of_json) for key in keys[start : start + ROWS_A_WRITE]]
            await dialect.bulk_upsert(connection, table, some)


@lru_cache(TABLES)
def _key_of(table: Table) -> Callable[[Row], RowKey]:
    names = [column.name for column in table.primary_key.columns]
    if len(names) > 1:
        return itemgetter(*names)
    [name] = names
    return lambda row: (row[name],)


@lru_cache(TABLES)
def _json_columns(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if isinstance(column.type, Json))


def _encoded(row: Row, of_json: Iterable[str]) -> Row:
    return row | {name: json_text(row[name]) for name in of_json if row[name] is not None}
