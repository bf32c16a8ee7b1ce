"""Rows in memory: what is changed, what is remembered, and for how long."""

from typing import Any

import pytest

from control_plane.projections.hosts import HostsProjection
from control_plane.projections.rows import Remembered, Rows, write

TABLE = HostsProjection().usage


def rows_over(remembered: Remembered) -> Rows:
    nothing: Any = None  # no test here loads or flushes
    return Rows(nothing, nothing, remembered)


def a_row(hostname: str, data: bytes = b"") -> dict[str, Any]:
    return {"hostname": hostname, "since_us": 0, "data": data}


def test_what_is_changed_in_place_is_put_and_what_was_taken_before_stays_as_it_was() -> None:
    rows = rows_over(Remembered())
    rows.put(TABLE, a_row("web1"))
    taken = rows.taken(0)

    row = rows.change(TABLE, "web1", 0)
    assert row is not None
    row["data"] = b"new"

    assert rows.change(TABLE, "web1", 0) is row is rows.get(TABLE, "web1", 0)
    assert taken == {TABLE: {("web1", 0): a_row("web1")}}
    assert rows.taken(0) == {TABLE: {("web1", 0): a_row("web1", b"new")}}
    assert rows.taken(0) == {}
    assert rows.change(TABLE, "web2", 0) is None


def test_what_was_taken_is_there_until_the_next_is_taken_however_much_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.projections.rows.MOST_REMEMBERED", 0)
    remembered = Remembered()
    rows = rows_over(remembered)
    rows.put(TABLE, a_row("web1"))
    rows.taken(0)

    rows.put(TABLE, a_row("web2"))

    assert rows.missing({TABLE: {("web1", 0), ("web2", 0), ("web3", 0)}}) == {TABLE: [("web3", 0)]}
    rows.taken(0)
    assert rows.missing({TABLE: {("web1", 0), ("web2", 0)}}) == {TABLE: [("web1", 0)]}


def test_large_rows_are_forgotten_sooner() -> None:
    rows = rows_over(Remembered())
    rows.put(TABLE, a_row("web1"))
    for _ in range(2):
        rows.taken(100 * 1024 * 1024)

    assert rows.get(TABLE, "web1", 0) is None


async def test_many_rows_are_made_ready_a_part_at_a_time_in_the_order_of_their_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("control_plane.projections.rows.ROWS_A_WRITE", 2)
    written: list[list[str]] = []

    class Dialect:
        async def bulk_upsert(self, _connection: object, _table: object, rows: list[dict[str, Any]]) -> None:
            written.append([row["hostname"] for row in rows])

    nothing: Any = None
    dialect: Any = Dialect()
    changed = {TABLE: {(name, 0): a_row(name) for name in ("web3", "web1", "web2")}}

    await write(nothing, dialect, changed)

    assert written == [["web1", "web2"], ["web3"]]
