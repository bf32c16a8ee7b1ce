"""JSON as this protocol takes it: one strict decoder, and the canonical bytes (RFC 8785) that are signed.

orjson alone is neither: it keeps the last of duplicate keys, allows depth 1,024, and writes 12.0 for 12.
"""

import json
import math
import re
from typing import Final, NoReturn, TypeAlias

import orjson

from control_plane_wire.errors import MalformedMessageError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]

MAX_DEPTH: Final = 16
MAX_INTEGER: Final = 2**53 - 1  # what a double holds exactly, so every language reads the same number

_SURROGATE = re.compile("[\ud800-\udfff]")
_BRACKETS_OUTSIDE_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def parse(data: bytes, *, max_bytes: int) -> JsonObject:
    """Decode one JSON object.

    Raises:
        MalformedMessageError: for everything that is wrong, and it is the only exception.
    """
    if len(data) > max_bytes:
        raise MalformedMessageError(f"{len(data)} bytes, at most {max_bytes} are allowed")
    if (fast := _parse_canonical(data)) is not None:
        return fast
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedMessageError("not valid UTF-8") from error
    _check_depth(text)
    try:
        value: Json = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant)
    except MalformedMessageError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError also for integers of thousands of digits
        raise MalformedMessageError("not valid JSON") from error
    if not isinstance(value, dict):
        raise MalformedMessageError("not a JSON object")
    _check(value)
    return value


def canonical(value: Json) -> bytes:
    """The RFC 8785 form of a value.

    Raises:
        MalformedMessageError: the value has no such form (NaN, a lone surrogate, an integer past 2^53, too deep).
    """
    try:
        return _canonical_bytes(value)
    except (TypeError, ValueError, RecursionError) as error:  # orjson's error is a TypeError
        raise MalformedMessageError("cannot be written as canonical JSON") from error


def _parse_canonical(data: bytes) -> JsonObject | None:
    """The object, if the bytes are exactly its canonical form, so that nothing hides in them; else None."""
    try:
        value: Json = orjson.loads(data)
        if not isinstance(value, dict) or canonical(value) != data:
            return None
        _check(value)
    except (orjson.JSONDecodeError, MalformedMessageError):
        return None
    return value


def _no_duplicates(pairs: list[tuple[str, Json]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedMessageError("a key occurs twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedMessageError(f"{name} is not JSON")


def _check_depth(text: str) -> None:
    depth = 0
    for mark in _BRACKETS_OUTSIDE_STRINGS.findall(text):
        if mark in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise MalformedMessageError(f"nested deeper than {MAX_DEPTH}")
        elif mark in "]}":
            depth -= 1


def _check(value: Json, depth: int = 1) -> None:
    """Refuse what decodes and must not pass: lone surrogates, infinite numbers, integers past 2^53."""
    match value:
        case str():
            if _SURROGATE.search(value):
                raise MalformedMessageError("a lone surrogate")
        case bool() | None:
            pass
        case int():
            if abs(value) > MAX_INTEGER:
                raise MalformedMessageError("an integer beyond 2^53")
        case float():
            if not math.isfinite(value):
                raise MalformedMessageError("a number that is not finite")
        case list():
            _check_children(value, depth)
        case dict():
            _check_children([*value.keys(), *value.values()], depth)


def _check_children(children: "list[Json] | list[str]", depth: int) -> None:
    if depth > MAX_DEPTH:
        raise MalformedMessageError(f"nested deeper than {MAX_DEPTH}")
    for child in children:
        _check(child, depth + 1)


def _canonical_bytes(value: Json) -> bytes:
    prepared, is_plain = _prepare(value, 1)
    if is_plain:
        return orjson.dumps(prepared, option=orjson.OPT_SORT_KEYS)
    return _write(prepared).encode("utf-8")


def _prepare(value: Json, depth: int) -> tuple[Json, bool]:
    """Whole floats become integers; and whether orjson then writes just what the RFC wants.

    It does not for keys beyond ASCII (it sorts them by UTF-8, the RFC by UTF-16), nor for floats that it writes with
    another exponent than ECMAScript does.
    """
    if depth > MAX_DEPTH + 1:
        raise ValueError("too deep")
    if type(value) is str or value is None or value is True or value is False:
        return value, True
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError("integer beyond 2^53")
        return value, True
    if isinstance(value, float):
        return _prepare_float(value)
    if isinstance(value, list):
        items = [_prepare(item, depth + 1) for item in value]
        return [item for item, _ in items], all(plain for _, plain in items)
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        pairs = {key: _prepare(item, depth + 1) for key, item in value.items()}
        is_plain = all(plain and key.isascii() for key, (_, plain) in pairs.items())
        return {key: item for key, (item, _) in pairs.items()}, is_plain
    raise TypeError(f"{type(value).__name__} is not JSON")


def _prepare_float(value: float) -> tuple[Json, bool]:
    if not math.isfinite(value):
        raise ValueError("not finite")
    if value.is_integer() and abs(value) <= MAX_INTEGER:
        return int(value), True
    magnitude = abs(value)
    return value, not (1e-6 <= magnitude < 1e-5 or value.is_integer())


def _write(value: Json) -> str:
    """The slow way, for what orjson writes differently."""
    if isinstance(value, float):
        return _ecmascript_number(value)
    if isinstance(value, list):
        return "[" + ",".join(_write(item) for item in value) + "]"
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{_write(key)}:{_write(value[key])}" for key in keys) + "}"
    return orjson.dumps(value).decode()


def _ecmascript_number(value: float) -> str:
    """A finite number as ECMAScript's ToString writes it: the shortest digits, an exponent from 1e21 and below 1e-6."""
    sign = "-" if value < 0 else ""
    digits, _, exponent_text = f"{abs(value)!r}".partition("e")
    whole, _, fraction = digits.partition(".")
    fraction = "" if fraction == "0" else fraction
    point = len(whole) + int(exponent_text or 0)
    stripped = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(stripped)
    significant = stripped.rstrip("0") or "0"
    count = len(significant)
    if count <= point <= 21:
        return sign + significant + "0" * (point - count)
    if 0 < point <= 21:
        return sign + significant[:point] + "." + significant[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + significant
    exponent = f"e{point - 1:+d}"
    return sign + significant[0] + ("." + significant[1:] if count > 1 else "") + exponent
