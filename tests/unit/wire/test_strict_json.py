import json
import math
import struct
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from control_plane_wire.errors import MalformedMessageError
from control_plane_wire.strict_json import MAX_DEPTH, MAX_INTEGER, MAX_VALUES, canonical, parse

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
floats = st.binary(min_size=8, max_size=8).map(lambda b: struct.unpack(">d", b)[0]).filter(math.isfinite)
scalars = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | floats | text
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4))
objects = st.dictionaries(text, values, max_size=5)


def deep(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@given(objects)
def test_canonical_bytes_agree_with_another_implementation(value: dict[str, Any]) -> None:
    assert canonical(value) == rfc8785.dumps(value)


exact = scalars.filter(lambda value: not isinstance(value, float) or abs(value) <= MAX_INTEGER)
exact_objects = st.dictionaries(
    text, st.recursive(exact, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4))
)


@given(exact_objects)
def test_what_was_canonical_parses_to_something_with_the_same_canonical_form(value: dict[str, Any]) -> None:
    data = canonical(value)

    assert canonical(parse(data, max_bytes=len(data))) == data


@given(exact_objects)
def test_canonical_bytes_and_a_loose_spelling_parse_alike(value: dict[str, Any]) -> None:
    loose = json.dumps(value, indent=1).encode()

    assert canonical(parse(loose, max_bytes=len(loose))) == canonical(value)


@given(exact_objects, st.data())
def test_what_is_accepted_of_damaged_json_means_the_same_to_another_parser(value: dict[str, Any], data: Any) -> None:
    damaged = bytearray(json.dumps(value).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.sampled_from(b'{}[],:"\\ 0129.eE-untf\xff'))
    try:
        parsed = parse(bytes(damaged), max_bytes=len(damaged))
    except MalformedMessageError:
        return

    assert canonical(parsed) == canonical(orjson.loads(damaged))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, b"1"),
        (0.0, b"0"),
        (-0.0, b"0"),
        (0.1, b"0.1"),
        (1e-7, b"1e-7"),
        (1.5e-6, b"0.0000015"),
        (1e21, b"1e+21"),
        (1e-6, b"0.000001"),
        (9.999e-6, b"0.000009999"),
        (1e-5, b"0.00001"),
        (5e-324, b"5e-324"),
        (-5e-324, b"-5e-324"),
        (1.7976931348623157e308, b"1.7976931348623157e+308"),
        (9007199254740992.0, b"9007199254740992"),
        (295147905179352830000.0, b"295147905179352830000"),
        (999999999999999700000.0, b"999999999999999700000"),
        (9.999999999999997e22, b"9.999999999999997e+22"),
        (-0.0000033333333333333333, b"-0.0000033333333333333333"),
        (1424953923781206.2, b"1424953923781206.2"),
        (1e20, b"100000000000000000000"),
        (333333333.33333329, b"333333333.3333333"),
        (4.5, b"4.5"),
        (2e-3, b"0.002"),
        (0.000000000000000000000000001, b"1e-27"),
        ('€$\u000f\nA\'B"\\\\"/', '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'.encode()),
    ],
)
def test_numbers_and_strings_are_written_as_the_standard_shows(value: float | str, expected: bytes) -> None:
    assert canonical([value]) == b"[" + expected + b"]"


def test_keys_are_sorted_by_utf_16_code_units() -> None:
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]

    written = json.loads(canonical(dict.fromkeys(keys, 0)), object_pairs_hook=lambda pairs: [k for k, _ in pairs])

    assert written == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing",
        b"[]",
        b'"text"',
        b"{",
        b'{"a":1}x',
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":9007199254740992}',
        b'{"a":9007199254740992.0}',
        b'{"a":100000000000000000000}',
        b'{"a":1e20}',
        b'{"a":1e300}',
        b'{"a":-9007199254740992}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800"}',
        b'{"\\udfff":1}',
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":01}',
        b"{'a':1}",
        b'{"a":1,}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        deep(17),
        b'{"a":["' + b'\\"' * 100_000,
        b'{"a":' + b'"' * 100_000,
        b'{"a":[' + b"0," * MAX_VALUES + b"0]}",
        b'{"a":[' + b"[]," * MAX_VALUES + b"0]}",
    ],
)
def test_what_is_not_strict_json_is_malformed_and_nothing_else(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        parse(data, max_bytes=10_000_000)


def test_sixteen_levels_are_allowed() -> None:
    assert parse(deep(16), max_bytes=100)


def test_brackets_in_strings_do_not_count_as_depth() -> None:
    assert parse(b'{"a": "' + b"[" * 100 + b'\\"{{"}', max_bytes=1000)


def test_commas_in_strings_do_not_count_as_values() -> None:
    data = b'{"a": ["' + b"," * MAX_VALUES + b'"]}'

    assert parse(data, max_bytes=len(data)) == {"a": ["," * MAX_VALUES]}


@pytest.mark.parametrize("text", ['"', "\\", '\\"', '","', "[", '"]', "\n", "\x00", "\u20ac", "\\\\" * 3])
def test_no_text_hides_structure_from_the_checks(text: str) -> None:
    value = {text * n: [text * n, {text: text}] for n in range(1, 12)}
    data = json.dumps(value).encode()

    assert parse(data, max_bytes=len(data)) == value


def test_the_size_is_checked_before_anything_else() -> None:
    with pytest.raises(MalformedMessageError, match="101 bytes"):
        parse(b"x" * 101, max_bytes=100)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise_anything_else(data: bytes) -> None:
    try:
        value = parse(data, max_bytes=100)
    except MalformedMessageError:
        return
    assert isinstance(value, dict)


def nested(depth: int) -> Any:
    return [] if depth == 1 else [nested(depth - 1)]


def test_what_is_written_nests_as_deep_as_what_is_read() -> None:
    assert canonical(nested(MAX_DEPTH)) == b"[" * MAX_DEPTH + b"]" * MAX_DEPTH


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, 2**53, -(2**53), "\ud800", {"\ud800": 0.0}, {1: 2}, {"a": object()}, (1,), b"x", nested(16)],
)
def test_what_has_no_canonical_form_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedMessageError):
        canonical([value])


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":[' + b"1," * 10 * MAX_VALUES + b"1]}",
        b'{"a":' + b'""' * 10 * MAX_VALUES + b"}" + b"[" * MAX_DEPTH + b",",
        b'{"a":[' + b"{}," * 10 * MAX_VALUES + b"1]}",
    ],
)
def test_a_document_of_too_many_values_is_refused_before_it_is_decoded(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orjson, "loads", None)
    monkeypatch.setattr(json, "loads", None)

    with pytest.raises(MalformedMessageError, match="more than 65536 values"):
        parse(data, max_bytes=len(data))
