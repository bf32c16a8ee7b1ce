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
MAX_VALUES: Final = 65_536  # in one document: 8 MiB of brackets would take seconds and half a gigabyte to decode
MAX_INTEGER: Final = 2**53 - 1  # what a double holds exactly, so every language reads the same number

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# A string (closed or not) or a mark outside of one. Possessive: no way back is remembered, so time is linear.
_MARK: Final = re.compile(rb'[\[\]{},]|"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_MOST_MARKS: Final = 5 * MAX_VALUES  # two strings, a comma and two brackets a value


def parse(data: bytes, *, max_bytes: int) -> JsonObject:
    """Decode one JSON object.

    Raises:
        MalformedMessageError: for everything that is wrong, and it is the only exception.
    """
    if len(data) > max_bytes:
        raise MalformedMessageError(f"{len(data)} bytes, at most {max_bytes} are allowed")
    _check_structure(data)
    if (fast := _parse_canonical(data)) is not None:
        return fast
    try:
        value: Json = json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise MalformedMessageError("not valid UTF-8") from error
    except (ValueError, RecursionError) as error:  # ValueError also for integers of thousands of digits
        raise MalformedMessageError("not valid JSON") from error
    if not isinstance(value, dict):
        raise MalformedMessageError("not a JSON object")
    _check(value)
    return value


def parse_stored(data: bytes, *, max_bytes: int) -> JsonObject:
    """`parse`, of bytes that were parsed strictly before they were kept: what is canonical is taken as it is.

    Nothing hides in them then, but nothing is said of how large a number is, or how deep it nests.

    Raises:
        MalformedMessageError: as `parse`.
    """
    try:
        value: Json = orjson.loads(data)
        if type(value) is dict and orjson.dumps(value, option=orjson.OPT_SORT_KEYS) == data:
            return value
    except (TypeError, ValueError):
        pass
    return parse(data, max_bytes=max_bytes)


def canonical(value: Json) -> bytes:
    """The RFC 8785 form of a value.

    Raises:
        MalformedMessageError: the value has no such form (NaN, a lone surrogate, an integer past 2^53, too deep).
    """
    try:
        if _is_plain(value):
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        return _write(value).encode("utf-8")
    except (TypeError, ValueError) as error:  # orjson's error is a TypeError
        raise MalformedMessageError("cannot be written as canonical JSON") from error


def _check_structure(data: bytes) -> None:
    """Bound what decoding costs before it is done: how deep it nests and how many values there are."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH and data.count(b",") + MAX_DEPTH < MAX_VALUES:
        return
    depth = values = 0
    for place, mark in enumerate(_MARK.finditer(data)):
        kind = data[mark.start()]
        if kind in b"[{":
            depth += 1
        elif kind in b"]}":
            depth -= 1
        values += kind in b",[{"
        if depth > MAX_DEPTH:
            raise MalformedMessageError(f"nested deeper than {MAX_DEPTH}")
        if values > MAX_VALUES or place > _MOST_MARKS:
            raise MalformedMessageError(f"more than {MAX_VALUES} values")


def _parse_canonical(data: bytes) -> JsonObject | None:
    """The object, if the bytes are exactly its canonical form, so that nothing hides in them; else None.

    What orjson would not write as the RFC does is left to the strict way.
    """
    try:
        value: Json = orjson.loads(data)
        is_canonical = _is_plain(value) and orjson.dumps(value, option=orjson.OPT_SORT_KEYS) == data
    except (TypeError, ValueError):
        return None
    return value if is_canonical and isinstance(value, dict) else None


def _no_duplicates(pairs: list[tuple[str, Json]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedMessageError("a key occurs twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedMessageError(f"{name} is not JSON")


def _check(value: Json) -> None:
    """Refuse what decodes and must not pass: lone surrogates, and numbers that a double does not hold exactly.

    A number past 2^53 is whole however it is written, so 1e300 is refused like the integer that it is; and infinity.
    """
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise MalformedMessageError("a lone surrogate")
    elif isinstance(value, int | float):
        if abs(value) > MAX_INTEGER:
            raise MalformedMessageError("a number beyond 2^53")
    elif isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key)
            _check(item)


def _is_plain(value: Json) -> bool:
    """Whether orjson, sorting keys, writes just what the RFC wants; TypeError or ValueError where nothing can.

    It does not for keys beyond ASCII (it sorts them by UTF-8, the RFC by UTF-16), for whole floats (it writes 1.0), and
    for small ones that it gives an exponent where ECMAScript does not.
    """
    is_plain = True
    depth, level = 1, [value]
    while level:
        below: list[Json] = []
        for item in level:
            kind = type(item)
            if kind is str or kind is bool or item is None:
                continue
            if isinstance(item, int | float):
                is_plain &= _is_plain_number(item)
                continue
            if depth > MAX_DEPTH:
                raise ValueError("too deep")
            if isinstance(item, dict):
                is_plain &= all(map(str.isascii, item))  # a TypeError for a key that is no string
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            else:
                raise TypeError(f"{kind.__name__} is not JSON")
        depth, level = depth + 1, below
    return is_plain


def _is_plain_number(value: float) -> bool:
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError("integer beyond 2^53")
        return True
    if not math.isfinite(value):
        raise ValueError("not finite")
    return not (value.is_integer() or 1e-6 <= abs(value) < 1e-5)


def _write(value: Json) -> str:
    """The slow way, for what orjson writes differently."""
    if isinstance(value, float):
        return _ecmascript_number(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_write, value)) + "]"
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{_write(key)}:{_write(value[key])}" for key in keys) + "}"
    return orjson.dumps(value).decode()


def _ecmascript_number(value: float) -> str:
    """A finite number as ECMAScript's ToString writes it: the shortest digits, an exponent from 1e21 and below 1e-6."""
    if value == 0:
        return "0"  # -0.0 too
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)  # where the decimal point stands in the digits
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    return sign + digits[0] + ("." + digits[1:] if count > 1 else "") + f"e{point - 1:+d}"
