"""Ranges of what a result has kept."""

import base64

from hypothesis import given
from hypothesis import strategies as st

from control_plane.api.executions import Kept
from control_plane_wire.messages import ResultMessage


def a_result(stdout: str, **fields: object) -> ResultMessage:
    given_fields = {"task_id": "t1", "exit_code": 0, "stderr": "", "timestamp": 1, **fields}
    return ResultMessage(stdout=stdout, **given_fields)  # type: ignore[arg-type]


@given(st.text(max_size=200), st.integers(1, 40))
def test_the_ranges_of_a_text_put_together_are_the_text(text: str, limit: int) -> None:
    kept = Kept(a_result(text), "stdout")

    pieces, offset = [], 0
    while offset < len(kept.data):
        start, end = kept.range(offset, limit)
        assert start == offset < end
        pieces.append(kept.text(start, end))
        offset = end

    assert "".join(pieces) == text


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(1, 40))
def test_bytes_are_cut_where_they_were_asked_for(data: bytes, offset: int, limit: int) -> None:
    kept = Kept(a_result(base64.b64encode(data).decode(), encoding="base64"), "stdout")

    start, end = kept.range(offset, limit)

    assert base64.b64decode(kept.text(start, end)) == data[offset : offset + limit]


@given(st.text(min_size=1, max_size=50), st.integers(0, 300), st.integers(1, 10))
def test_any_place_in_a_text_begins_at_the_character_that_it_is_in(text: str, offset: int, limit: int) -> None:
    kept = Kept(a_result(text), "stdout")

    start, end = kept.range(offset, limit)

    assert start <= offset
    assert kept.text(start, end) in text


def test_a_stream_that_is_whole_is_all_head() -> None:
    whole = Kept(a_result("abc"), "stdout")
    cut = Kept(a_result("headtail", stdout_bytes=100, stdout_head_bytes=4), "stdout")
    cut_by_a_basic_agent = Kept(a_result("head", stdout_bytes=100), "stdout")

    assert (whole.truncated, whole.size_bytes, whole.head_bytes) == (False, 3, 3)
    assert (cut.truncated, cut.size_bytes, cut.head_bytes) == (True, 100, 4)
    assert (cut_by_a_basic_agent.truncated, cut_by_a_basic_agent.head_bytes) == (True, 4)
