import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import RefusedError
from control_plane.projections.positions import Positions
from control_plane.projections.queries.pages import cursor_of, parse_cursor


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_cursor_gives_back_the_name_it_was_made_of(name: str) -> None:
    assert parse_cursor(cursor_of(name), str) == name


@given(st.integers(0, 2**63 - 1))
def test_a_cursor_gives_back_the_seq_it_was_made_of(seq: int) -> None:
    assert parse_cursor(cursor_of(seq), int) == seq


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_cursor_goes_into_an_url_as_it_is(name: str) -> None:
    assert cursor_of(name).replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    "text", ["", "%", "abc!", "bm9qc29u", "ü", "W10", "e30", "bnVsbA", "MS41", "Nx", "N!w", "a", "\x00"]
)
def test_what_no_list_gave_is_no_cursor(text: str) -> None:
    for kind in (int, str):
        with pytest.raises(RefusedError) as refused:
            parse_cursor(text, kind)
        assert refused.value.code == "bad_cursor"


@pytest.mark.parametrize(
    ("json", "kind"), [(b'"web1"', int), (b"7", str), (b"true", int), (b"-1", int), (b"9223372036854775808", int)]
)
def test_a_cursor_of_another_list_is_refused(json: bytes, kind: type[object]) -> None:
    with pytest.raises(RefusedError):
        parse_cursor(base64.urlsafe_b64encode(json).decode().rstrip("="), kind)


@given(st.text(), st.sampled_from([int, str]))
def test_whatever_somebody_sends_as_a_cursor_is_a_key_or_refused(text: str, kind: type[object]) -> None:
    try:
        key = parse_cursor(text, kind)
    except RefusedError:
        return
    assert type(key) is kind


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))
def test_a_position_is_read_back_as_it_was_written(event: int, heartbeat: int) -> None:
    assert Positions.parse(str(Positions(event, heartbeat))) == Positions(event, heartbeat)


@pytest.mark.parametrize("text", ["", "e1", "e1.h", "e-1.h2", "e1.h2 ", " e1.h2", "e1.h2\n", "e١.h2", f"e{10**18}.h0"])
def test_what_no_list_and_no_stream_gave_is_no_position(text: str) -> None:
    with pytest.raises(RefusedError) as refused:
        Positions.parse(text)
    assert refused.value.code == "bad_position"
