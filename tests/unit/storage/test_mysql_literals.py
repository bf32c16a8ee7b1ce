"""The text that carries rows to MySQL: nothing in it can be anything but a number or hex."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import StorageUnavailableError
from control_plane.events.merkle import leaf_data
from control_plane.storage.dialect import Value
from control_plane.storage.mysql import MysqlDialect
from control_plane.storage.mysql_text import ALONE_CHARS, STATEMENT_CHARS, STATEMENT_ROWS, literals, rows_in, statements

DIALECT = MysqlDialect("test", "8.4.0")
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=40)
    | st.text(max_size=40)
)
SAFE = re.compile(r"NULL|-?[0-9]+|-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?|x'[0-9a-f]*'")


@given(st.lists(VALUES, min_size=1, max_size=8))
def test_a_row_is_made_of_numbers_and_hex_only(row: list[Value]) -> None:
    text = literals(row)

    assert text.startswith("(")
    assert text.endswith(")")
    assert all(SAFE.fullmatch(value) for value in text[1:-1].split(","))


@given(st.lists(VALUES, min_size=1, max_size=8), st.lists(VALUES, min_size=1, max_size=4))
def test_columns_that_were_made_ready_early_are_the_same_text(early: list[Value], late: list[Value]) -> None:
    assert literals([*DIALECT.ready(early), *late]) == literals([*early, *late])


def test_what_will_go_alone_is_left_as_it_is() -> None:
    large = (1, b"x" * STATEMENT_CHARS)

    assert DIALECT.ready(large) == large


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_what_is_no_plain_value_never_becomes_text(value: Value) -> None:
    with pytest.raises((ValueError, KeyError)):
        literals([value])


def test_a_statement_stays_below_a_packet_and_a_huge_row_goes_alone() -> None:
    huge = (1, b"x" * (ALONE_CHARS // 2))
    rows = [(n, b"x" * 100_000) for n in range(12)] + [huge] + [(n, b"") for n in range(STATEMENT_ROWS + 1)]

    given = list(statements(rows))

    texts = [statement for statement in given if isinstance(statement, str)]
    assert [statement for statement in given if not isinstance(statement, str)] == [huge]
    assert all(len(text) <= STATEMENT_CHARS for text in texts)
    assert sum(text.count("(") for text in texts) == len(rows) - 1


def test_rows_that_came_as_one_value_are_read_back_and_a_cut_in_one_of_them_is_noticed() -> None:
    raw = [(seq, 2, b"k", 1, None, "hé".encode(), None, -1, b"{}", None, "é".encode()) for seq in (1, 2)]
    parts = [b"\0" + leaf_data(row) for row in raw]
    whole = b"".join(parts)

    assert rows_in(whole) == [(seq, 2, "k", 1, None, "hé", None, -1, b"{}", None, "é") for seq in (1, 2)]
    for cut in set(range(1, len(whole))) - {len(parts[0])}:  # there one is missing, as a hole would be
        with pytest.raises(StorageUnavailableError):
            rows_in(whole[:cut])
