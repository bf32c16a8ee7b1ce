"""What is wrong with a value, in our words instead of those of the library that has found it."""

from collections.abc import Mapping
from typing import Final

_TIME: Final = "has to be a time such as 2026-01-31T12:00:00Z"
# By what the library calls a fault, or by what that begins with.
_KINDS: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "extra_forbidden": "unknown field",
    "string_type": "has to be text",
    "string_unicode": "has to be text in UTF-8",
    "string_pattern_mismatch": "has to be of the form {pattern}",
    "string_too_long": "has at most {max_length} characters",
    "string_too_short": "has at least {min_length} characters",
    "too_long": "has at most {max_length} entries",
    "too_short": "has at least {min_length} entries",
    "greater_than_equal": "has to be at least {ge}",
    "greater_than": "has to be more than {gt}",
    "less_than_equal": "has to be at most {le}",
    "less_than": "has to be less than {lt}",
    "literal_error": "has to be {expected}",
    "enum": "has to be {expected}",
    "none_required": "has to be null",
    "int_": "has to be a whole number",
    "float_": "has to be a number",
    "finite_number": "has to be a number",
    "bool_": "has to be true or false",
    "list_": "has to be a list",
    "tuple_": "has to be a list",
    "dict_": "has to be an object",
    "model_": "has to be an object",
    "path_": "has to be the path of a file",
    "date": _TIME,
    "timezone_": _TIME,
}


def in_words(kind: str, said: str, of: Mapping[str, object] | None) -> str:
    """One fault.

    Args:
        kind: what the library calls it.
        said: what it says, which is ours where a check of ours has found it.
        of: what it was compared with.
    """
    if kind in {"value_error", "assertion_error"}:
        return said.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    words = _KINDS.get(kind) or next((each for name, each in _KINDS.items() if kind.startswith(name)), None)
    if words is None:
        return "is not what it has to be"
    return words.format_map({name: str(value).replace("'", "") for name, value in (of or {}).items()})
