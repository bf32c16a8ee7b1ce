"""Two copies of a read table, row by row in the order of their keys: how many, a digest of each, and what differs."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.projections.rows import json_text

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

    def take(self, row: Key) -> None:
        self.rows += 1
        for value in row:
            data = value if isinstance(value, bytes) else json_text(value).encode()
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
    one: AsyncConnection, live: Table, other: AsyncConnection, rebuilt: Table, *, since_us: int | None = None
) -> TableComparison:
    """Compare two tables of the same columns, each as its connection sees it; if given, the blocks since then."""
    found = TableComparison(live.name)
    keys = [live.columns.keys().index(column.name) for column in live.primary_key.columns]
    lefts, rights = _rows(one, live, found.live, since_us), _rows(other, rebuilt, found.rebuilt, since_us)
    left, right = await anext(lefts, None), await anext(rights, None)
    while left is not None or right is not None:
        left_key, right_key = _key(left, keys), _key(right, keys)
        if right_key is None or (left_key is not None and left_key < right_key):
            _differs(found, left_key, {}, "rebuilt")
            left = await anext(lefts, None)
        elif left_key is None or right_key < left_key:
            _differs(found, right_key, {}, "live")
            right = await anext(rights, None)
        else:
            if left != right:
                pairs = zip(live.columns.keys(), left or (), right or (), strict=True)
                _differs(found, left_key, {name: (a, b) for name, a, b in pairs if a != b}, None)
            left, right = await anext(lefts, None), await anext(rights, None)
    return found


async def _rows(connection: AsyncConnection, table: Table, side: Side, since_us: int | None) -> AsyncIterator[Key]:
    wanted = select(table) if since_us is None else select(table).where(table.c.since_us >= since_us)
    statement = wanted.order_by(*table.primary_key.columns).execution_options(yield_per=ROWS_A_READ)
    async for row in await connection.stream(statement):
        side.take(tuple(row))
        yield tuple(row)


def _key(row: Key | None, places: list[int]) -> Key | None:
    return None if row is None else tuple(row[place] for place in places)


def _differs(
    found: TableComparison, key: Key | None, columns: Mapping[str, tuple[object, object]], missing_in: str | None
) -> None:
    if key is not None and len(found.differences) < MOST_DIFFERENCES:
        found.differences.append(Difference(key, columns, missing_in))
