"""The typed parameters of command templates: what each may be, and the one text that a value becomes.

A value becomes text within one argument of an argv. It never makes two arguments of one, no shell looks at it, and but
for what the template itself offers as a choice it begins with nothing that makes it an option or the name of a file.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from control_plane.commands.grammar import checked_number, invalid
from control_plane_wire.strict_json import MAX_INTEGER, Json, JsonObject

TYPES: Final = ("choice", "integer", "name", "path", "text")
MAX_CHOICES: Final = 100
MAX_CHARACTERS: Final = 4096  # of a path or a text
DEFAULT_CHARACTERS: Final = 256

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]{0,127}", re.ASCII)
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # turns, hides or breaks what is shown
_LEADING: Final = frozenset("-+@\u2212")  # beside all that Unicode calls dashes: of options, and of files to read
_OF_TYPE: Final[Mapping[str, frozenset[str]]] = {
    "choice": frozenset({"choices"}),
    "integer": frozenset({"min", "max"}),
    "name": frozenset(),
    "path": frozenset({"prefix"}),
    "text": frozenset({"max_length"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a template.

    Attributes:
        choices: of a choice, all that it may be.
        least, most: of an integer, which is never below 0.
        prefix: of a path, the directory that it is in or below, by its text: what is a link is the host's matter.
        max_length: of a text, in characters.
    """

    name: str
    type: str
    choices: tuple[str, ...] = ()
    least: int = 0
    most: int = MAX_INTEGER
    prefix: str | None = None
    max_length: int = DEFAULT_CHARACTERS

    def to_json(self) -> JsonObject:
        said: JsonObject = {"name": self.name, "type": self.type}
        match self.type:
            case "choice":
                said["choices"] = list(self.choices)
            case "integer":
                said |= {"min": self.least, "max": self.most}
            case "path" if self.prefix is not None:
                said["prefix"] = self.prefix
            case "text":
                said["max_length"] = self.max_length
        return said

    def text(self, value: Json) -> str:
        """What stands for it in the argv. Raises InvalidFieldError that names it."""
        field = f"parameters.{self.name}"
        if self.type == "integer":
            if not isinstance(value, int) or isinstance(value, bool):
                raise invalid(field, "a whole number")
            return str(checked_number(field, value, least=self.least, most=self.most))
        if not isinstance(value, str):
            raise invalid(field, "a text")
        match self.type:
            case "choice" if value in self.choices:
                return value
            case "choice":
                raise invalid(field, f"one of {', '.join(self.choices)}")
            case "name":
                return _checked_word(field, value)
            case "path":
                return _checked_below(field, value, self.prefix)
        return checked_text(field, value, most=self.max_length)


def parse_parameter(field: str, value: Json) -> Parameter:
    """What a template says of one, whoever wrote it.

    Raises:
        InvalidFieldError: naming the field, which is below `field`.
    """
    if not isinstance(value, dict):
        raise invalid(field, "an object")
    name, type_ = value.get("name"), value.get("type")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise invalid(f"{field}.name", "a lower-case letter, then at most 31 of a-z 0-9 _")
    if type_ not in TYPES:
        raise invalid(f"{field}.type", f"one of {', '.join(TYPES)}")
    if unknown := sorted(value.keys() - {"name", "type"} - _OF_TYPE[type_]):
        raise invalid(f"{field}.{unknown[0][:64]}", f"a field of the type {type_}")
    least = _number(f"{field}.min", value.get("min", 0), least=0, most=MAX_INTEGER)
    prefix = value.get("prefix")
    return Parameter(
        name=name,
        type=type_,
        choices=_choices(f"{field}.choices", value.get("choices")) if type_ == "choice" else (),
        least=least,
        most=_number(f"{field}.max", value.get("max", MAX_INTEGER), least=least, most=MAX_INTEGER),
        prefix=None if prefix is None else checked_path(f"{field}.prefix", prefix).rstrip("/"),
        max_length=_number(
            f"{field}.max_length", value.get("max_length", DEFAULT_CHARACTERS), least=1, most=MAX_CHARACTERS
        ),
    )


def checked_path(field: str, value: Json) -> str:
    """An absolute path that goes nowhere but down."""
    if not isinstance(value, str) or not value.startswith("/") or ".." in value.split("/"):
        raise invalid(field, "a path that begins with / and has no .. in it")
    return checked_text(field, value, most=MAX_CHARACTERS)


def checked_text(field: str, value: str, *, most: int) -> str:
    """Text that shows as what it is, and is no option."""
    if value[:1] in _LEADING or unicodedata.category(value[:1] or "x") == "Pd":
        raise invalid(field, "without a dash, + or @ at its beginning, which could make it an option or a file to read")
    return _checked_seen(field, value, most)


def _checked_seen(field: str, value: str, most: int) -> str:
    if not 1 <= len(value) <= most or value != value.strip():
        raise invalid(field, f"1 to {most} characters, without space around them")
    if any(unicodedata.category(character) in _UNSEEN for character in value):
        raise invalid(field, "free of control characters and of such as are not seen")
    return value


def _checked_word(field: str, value: str) -> str:
    if not _WORD.fullmatch(value):
        raise invalid(field, "a letter, digit or _, then at most 127 of these and . @ : + -")
    return value


def _checked_below(field: str, value: str, prefix: str | None) -> str:
    path = checked_path(field, value)
    if prefix is not None and path.rstrip("/") != prefix and not path.startswith(f"{prefix}/"):
        raise invalid(field, f"{prefix} or below it")
    return path


def _choices(field: str, value: Json) -> tuple[str, ...]:
    match value:
        case [*choices] if 1 <= len(choices) <= MAX_CHOICES and all(isinstance(choice, str) for choice in choices):
            for choice in choices:  # a dash may be: whoever makes the template offers an option by it
                _checked_seen(field, str(choice), DEFAULT_CHARACTERS)
            if len(set(choices)) == len(choices):
                return tuple(map(str, choices))
    raise invalid(field, f"1 to {MAX_CHOICES} different texts")


def _number(field: str, value: Json, *, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(field, "a whole number")
    return checked_number(field, value, least=least, most=most)
