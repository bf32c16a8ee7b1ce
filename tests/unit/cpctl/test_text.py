"""What hosts write cannot harm a terminal, and names, times and tables read well."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpctl.text import fold, line, printable, table, width

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "hostlist.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["folded"] or "none")
def test_hostnames_are_folded_as_the_dashboard_folds_them(vector: dict[str, object]) -> None:
    assert fold(vector["hosts"]) == vector["folded"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]52;c;ZWNobw==\x1b\\after", "after"),  # the clipboard
        ("\x1b[2J\x1b[H\x1b[1Aover", "over"),
        ("\x1bcreset", "reset"),
        ("50%\r100%\n", "100%\n"),
        ("dos\r\nlines\r\n", "dos\nlines\n"),
        ("user\u202egnp.exe", "user<U+202E>gnp.exe"),
        ("a\x00b\x08c\x7f", "a<U+0000>b<U+0008>c<U+007F>"),
        ("\x9b31mc1", "<U+009B>31mc1"),
        ("\u4f60\u597d \U0001f469\u200d\U0001f4bb", "\u4f60\u597d \U0001f469\u200d\U0001f4bb"),
        ("\x1b", "<U+001B>"),
    ],
)
def test_what_would_move_or_deceive_is_dropped_or_marked(written: str, shown: str) -> None:
    assert printable(written) == shown


def test_colours_are_kept_where_they_are_asked_for_and_end_with_the_text() -> None:
    assert printable("\x1b[1;31mred\x1b[5n", colours=True) == "\x1b[1;31mred\x1b[0m"
    assert printable("\x1b[38;5;9mred", colours=True) == "\x1b[38;5;9mred\x1b[0m"
    assert printable("\x1b[38;2;1;2;3mred", colours=True) == "\x1b[38;2;1;2;3mred\x1b[0m"


@pytest.mark.parametrize("codes", ["8", "7", "40", "48;5;1", "48;2;1;2;3", "107", "38"])
def test_what_hides_text_is_no_colour(codes: str) -> None:
    assert printable(f"\x1b[{codes}mhidden", colours=True) == "hidden\x1b[0m"


@given(st.text())
def test_nothing_that_acts_on_a_terminal_is_left(text: str) -> None:
    shown = printable(text)

    assert all(one in "\t\n" or (ord(one) >= 0x20 and not 0x7F <= ord(one) < 0xA0) for one in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
    assert "\n" not in line(text)


def test_a_table_is_aligned_by_what_a_terminal_shows() -> None:
    lines = table([("\u4f60\u597d", 1, "x"), ("ab", None, "y\nz")], ("A", "B", "C"))

    assert lines == ["A     B  C", "\u4f60\u597d  1  x", "ab       y<U+000A>z"]
    assert width("\u4f60e\u0301") == 3
