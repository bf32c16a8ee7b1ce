"""Two copies of a read table, in the order of their keys: how many rows, a digest of each, and what differs."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias, cast

from sqlalchemy import Column, ColumnElement, Table, and_, not_, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.projections.rows import json_text
from control_plane.storage.dialect import Dialect

ROWS_A_DIGEST: Final = 5000
ROWS_A_READ: Final = 1000
MOST_DIFFERENCES: Final = 3

Key: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not the same: (live, rebuilt) of each column that differs; None for both where one has no row."""

    key: Key
    columns: Mapping[str, tuple[object, object]]
    missing_in: str | None = None


@dataclass(slots=True)
class Side:
    """One copy: how many rows, and SHA-256 over them."""

    rows: int = 0
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def take_many(self, rows: int, digest: bytes) -> None:
        self.rows += rows
        self._digest.update(digest)

    def take(self, row: Key) -> None:
        self.rows += 1
        for data in map(_as_bytes, row):
            self._digest.update(len(data).to_bytes(4, "big") + data)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


@dataclass(slots=True)
class TableComparison:
    """Attributes: `differences`: the first of them, in the order of the keys."""

    name: str
    live: Side = field(default_factory=Side)
    rebuilt: Side = field(default_factory=Side)
    differences: list[Difference] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        return (self.live.rows, self.live.digest) == (self.rebuilt.rows, self.rebuilt.digest)


async def compare(
    dialect: Dialect,
    one: AsyncConnection,
    live: Table,
    other: AsyncConnection,
    rebuilt: Table,
    *,
    since_us: int | None = None,
) -> TableComparison:
    """Compare two tables of the same columns, each as its connection sees it; if given, the blocks since then.

    The database digests many rows at once; only where two digests differ are the rows of both looked at.
    """
    found = TableComparison(live.name)
    after: Key | None = None
    while True:
        upto = await _key_at(one, live, after, ROWS_A_DIGEST)
        left, right = _Span(live, after, upto, since_us), _Span(rebuilt, after, upto, since_us)
        of_live = await dialect.digest_rows(one, live, left.condition)
        of_rebuilt = await dialect.digest_rows(other, rebuilt, right.condition)
        if of_live == of_rebuilt:
            found.live.take_many(*of_live)
            found.rebuilt.take_many(*of_rebuilt)
        else:
            await _compare_rows(found, one, left, other, right)
        if upto is None:
            return found
        after = upto


class _Span(NamedTuple):
    """The rows of a table after one key and up to another."""

    table: Table
    after: Key | None
    upto: Key | None
    since_us: int | None

    @property
    def condition(self) -> ColumnElement[bool]:
        keys = list(self.table.primary_key.columns)
        conditions: list[ColumnElement[bool]] = [true()]
        if self.after is not None:
            conditions.append(_beyond(keys, self.after))
        if self.upto is not None:
            conditions.append(not_(_beyond(keys, self.upto)))
        if self.since_us is not None:
            conditions.append(self.table.c.since_us >= self.since_us)
        return and_(*conditions)


def _beyond(columns: list[Column[Any]], key: Key) -> ColumnElement[bool]:
    """Whether a row comes after a key; said so that every database begins at it in the index."""
    first, *rest = columns
    if not rest:
        return cast("ColumnElement[bool]", first > key[0])
    return and_(first >= key[0], or_(first > key[0], _beyond(rest, key[1:])))


async def _key_at(connection: AsyncConnection, table: Table, after: Key | None, count: int) -> Key | None:
    """The key of the row that is so many rows after another; None where there are not so many."""
    keys = list(table.primary_key.columns)
    rows = select(*keys).order_by(*keys).offset(count - 1).limit(1)
    found = (await connection.execute(rows if after is None else rows.where(_beyond(keys, after)))).one_or_none()
    return None if found is None else tuple(found)


async def _compare_rows(
    found: TableComparison, one: AsyncConnection, live: _Span, other: AsyncConnection, rebuilt: _Span
) -> None:
    places = [live.table.columns.keys().index(column.name) for column in live.table.primary_key.columns]
    lefts, rights = _rows(one, live, found.live), _rows(other, rebuilt, found.rebuilt)
    left, right = await anext(lefts, None), await anext(rights, None)
    while left is not None or right is not None:
        left_key, right_key = _key(left, places), _key(right, places)
        if right_key is None or (left_key is not None and left_key < right_key):
            _differs(found, left_key, {}, "rebuilt")
            left = await anext(lefts, None)
        elif left_key is None or right_key < left_key:
            _differs(found, right_key, {}, "live")
            right = await anext(rights, None)
        else:
            columns = zip(live.table.columns.keys(), left or (), right or (), strict=True)
            # In bytes, as the digests are made: 1 equals 1.0, and is another row all the same.
            if differing := {name: (a, b) for name, a, b in columns if _as_bytes(a) != _as_bytes(b)}:
                _differs(found, left_key, differing, None)
            left, right = await anext(lefts, None), await anext(rights, None)


async def _rows(connection: AsyncConnection, span: _Span, side: Side) -> AsyncIterator[Key]:
    wanted = select(span.table).where(span.condition).order_by(*span.table.primary_key.columns)
    async for row in await connection.stream(wanted.execution_options(yield_per=ROWS_A_READ)):
        side.take(tuple(row))
        yield tuple(row)


def _as_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else json_text(value).encode()


def _key(row: Key | None, places: list[int]) -> Key | None:
    return None if row is None else tuple(row[place] for place in places)


def _differs(
    found: TableComparison, key: Key | None, columns: Mapping[str, tuple[object, object]], missing_in: str | None
) -> None:
    if key is not None and len(found.differences) < MOST_DIFFERENCES:
        found.differences.append(Difference(key, columns, missing_in))
