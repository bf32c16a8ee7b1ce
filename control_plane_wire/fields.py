"""Reading the fields of a decoded object: each of the right type, or one error that names it."""

import re
from collections.abc import Callable
from typing import Final, TypeVar

from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.strict_json import Json, JsonObject
from control_plane_wire.topology import is_name, is_task_id

T = TypeVar("T")

_ACCOUNT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9._@-]{0,63}", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
LAST_SECOND: Final = 253_402_300_799  # of the year 9999; as microseconds it still fits 64 bits


def is_account(text: str) -> bool:
    """Whether this may name an account to run as: never a number."""
    return _ACCOUNT.fullmatch(text) is not None


class Fields:
    """The fields of one object. Every method raises MalformedMessageError with the field's name in it."""

    __slots__ = ("_object",)

    def __init__(self, value: JsonObject) -> None:
        self._object = value

    def text(self, name: str, *, most_bytes: int, least_bytes: int = 0, allow_nul: bool = False) -> str:
        value = self._object.get(name)
        if not isinstance(value, str):
            raise MalformedMessageError(f"{name} is not a string")
        return checked_text(name, value, most_bytes=most_bytes, least_bytes=least_bytes, allow_nul=allow_nul)

    def integer(self, name: str, *, least: int = 0, most: int = 2**53 - 1) -> int:
        """A whole number; 1.0 is 1, true is neither."""
        value = self._object.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise MalformedMessageError(f"{name} is not an integer")
        if not least <= value <= most:
            raise MalformedMessageError(f"{name} is not between {least} and {most}")
        return value

    def seconds(self, name: str) -> int:
        """A point in time or a duration; others may say it with a fraction, which is dropped."""
        return int(self.number(name, least=0, most=LAST_SECOND))

    def number(self, name: str, *, least: float, most: float) -> float:
        value = self._object.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise MalformedMessageError(f"{name} is not a number")
        if not least <= value <= most:
            raise MalformedMessageError(f"{name} is not between {least:g} and {most:g}")
        return float(value)

    def boolean(self, name: str) -> bool:
        value = self._object.get(name)
        if not isinstance(value, bool):
            raise MalformedMessageError(f"{name} is not true or false")
        return value

    def one_of(self, name: str, allowed: frozenset[str]) -> str:
        value = self._object.get(name)
        if not isinstance(value, str) or value not in allowed:
            raise MalformedMessageError(f"{name} is not one of {', '.join(sorted(allowed))}")
        return value

    def task_id(self, name: str = "task_id") -> str:
        return self._matching(name, is_task_id, "1 to 64 of A-Z a-z 0-9 _ -")

    def hostname(self, name: str = "hostname") -> str:
        return self._matching(name, is_name, "a hostname: lower-case labels joined by dots")

    def account(self, name: str) -> str:
        return self._matching(name, is_account, "the name of an account")

    def digest(self, name: str) -> str:
        return self._matching(name, lambda text: _HEX_DIGEST.fullmatch(text) is not None, "a SHA-256 in hex")

    def texts(self, name: str, *, most: int, most_bytes: int) -> tuple[str, ...]:
        items = self._list(name, most)
        return tuple(checked_text(f"{name}[{n}]", item, most_bytes=most_bytes) for n, item in enumerate(items))

    def names(self, name: str, *, most: int) -> tuple[str, ...]:
        """A list of hostnames or groups."""
        items = tuple(self._list(name, most))
        for item in items:
            if not is_name(item):
                raise MalformedMessageError(f"{name} holds what is not lower-case labels joined by dots")
        return items

    def numbers(self, name: str, *, most: int) -> tuple[float, ...]:
        value = self._object.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise MalformedMessageError(f"{name} is not a list of at most {most} numbers")
        return tuple(Fields({name: item}).number(name, least=0, most=1e12) for item in value)

    def environment(self, name: str) -> dict[str, str]:
        value = self.object(name)
        for variable, text in value.items():
            if not _VARIABLE.fullmatch(variable):
                raise MalformedMessageError(f"{name} holds a name that is not a variable's")
            if not isinstance(text, str):
                raise MalformedMessageError(f"{name}.{variable} is not a string")
            checked_text(f"{name}.{variable}", text, most_bytes=32 * 1024)
        return {variable: str(text) for variable, text in value.items()}

    def object(self, name: str) -> JsonObject:
        value = self._object.get(name)
        if not isinstance(value, dict):
            raise MalformedMessageError(f"{name} is not an object")
        return value

    def objects(self, name: str, *, most: int) -> "tuple[Fields, ...]":
        value = self._object.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise MalformedMessageError(f"{name} is not a list of at most {most} objects")
        return tuple(Fields(self._as_object(name, item)) for item in value)

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        """What `read` makes of the field, or None where it is not there or null."""
        return None if self._object.get(name) is None else read(name)

    def decoded(self, name: str, decode: Callable[[str], T], *, most_bytes: int = 128) -> T:
        """What `decode` makes of the field's text; its SignatureError becomes the field's."""
        try:
            return decode(self.text(name, most_bytes=most_bytes))
        except SignatureError as error:
            raise MalformedMessageError(f"{name}: {error.reason}") from error

    @staticmethod
    def _as_object(name: str, item: Json) -> JsonObject:
        if not isinstance(item, dict):
            raise MalformedMessageError(f"{name} holds what is not an object")
        return item

    def _list(self, name: str, most: int) -> list[str]:
        value = self._object.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise MalformedMessageError(f"{name} is not a list of at most {most}")
        if not all(isinstance(item, str) for item in value):
            raise MalformedMessageError(f"{name} holds what is not a string")
        return [str(item) for item in value]

    def _matching(self, name: str, matches: Callable[[str], bool], what: str) -> str:
        value = self._object.get(name)
        if not isinstance(value, str) or not matches(value):
            raise MalformedMessageError(f"{name} is not {what}")
        return value


def checked_text(name: str, value: str, *, most_bytes: int, least_bytes: int = 0, allow_nul: bool = False) -> str:
    """The text, if its UTF-8 is within bounds and holds no NUL."""
    size = len(value.encode())
    if not least_bytes <= size <= most_bytes:
        raise MalformedMessageError(f"{name} is not {least_bytes} to {most_bytes} bytes")
    if not allow_nul and "\0" in value:
        raise MalformedMessageError(f"{name} holds a NUL")
    return value
