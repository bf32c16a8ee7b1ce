"""The grammars of what people write, beside those of the wire; a refusal names the field."""

import re
import unicodedata
from typing import Final

from control_plane.errors import InvalidFieldError
from control_plane_wire.topology import is_name

MAX_LINE: Final = 256
MAX_SHOWN: Final = 200
_LOGIN: Final = re.compile(r"[a-z][a-z0-9._-]{0,63}", re.ASCII)
_RESERVED: Final = frozenset({"console", "control-plane"})  # the names under which the system itself acts
_BIDIRECTIONAL: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def checked_login(username: str) -> str:
    """A name to sign in with."""
    if not _LOGIN.fullmatch(username) or username in _RESERVED:
        raise invalid("username", "a lower-case letter, then at most 63 of a-z 0-9 . _ -")
    return username


def checked_name(field: str, name: str) -> str:
    """A hostname or group."""
    if not is_name(name):
        raise invalid(field, "lower-case labels joined by dots, at most 200 characters")
    return name


def checked_line(field: str, text: str) -> str:
    """A reason, a label: one line that shows as what it is."""
    has_control = any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text)
    if not 1 <= len(text) <= MAX_LINE or has_control or _BIDIRECTIONAL.search(text):
        raise invalid(field, f"1 to {MAX_LINE} characters without control characters")
    return text


def checked_number(field: str, number: int, *, least: int, most: int) -> int:
    if not least <= number <= most:
        raise invalid(field, f"between {least} and {most}")
    return number


def shown(text: str) -> str:
    """What others have sent, or may have a part in, as one short line for the record."""
    return "".join(character if character.isprintable() else "?" for character in text)[:MAX_SHOWN]


def invalid(field: str, rule: str) -> InvalidFieldError:
    """The refusal of a field that is not what it must be."""
    return InvalidFieldError(field, f"is not {rule}")
