"""Which hosts somebody means: `web state:offline,stale -group:db`. The dashboard reads the same text in JavaScript.

    query := term (whitespace term)*                    all terms must hold; without any, every host is meant
    term  := ["-"] [field ":"] value ("," value)*       one of the values must; "-": none of them

The vectors in `tests/vectors/query.json` say what each means, for both. In a value of text `*` is any text, and then it
is the whole of it; the case of ASCII letters does not matter.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from control_plane import globs
from control_plane.errors import InvalidFieldError

MAX_CHARACTERS: Final = 1024
MAX_TERMS: Final = 32
STATES: Final = ("online", "stale", "offline", "pending", "revoked", "retired")
WORDS: Final = ("maintenance", "drift", "quarantined", "basic")

Field: TypeAlias = Literal["name", "state", "group", "label", "os", "agent", "is"]
FIELDS: Final[tuple[Field, ...]] = get_args(Field)
_WORDS_OF: Final[Mapping[str, Collection[str]]] = {"state": STATES, "is": WORDS}

# What separates words for JavaScript, so that both cut a text alike: str.split() knows some characters more.
_SPACE: Final = re.compile(r"[\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]+")
_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class HostQueryError(InvalidFieldError):
    """A text says nothing that hosts could be found by.

    Attributes:
        term: what of it is wrong; empty where all of it is.
        reason: why, for people.
    """

    def __init__(self, field: str, term: str, reason: str) -> None:
        super().__init__(field, f"is wrong in {term}: {reason}" if term else f"is wrong: {reason}")
        self.term = term
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What hosts are found by. Attributes: `os`, `agent_version`: None where it has never said."""

    hostname: str
    state: str
    groups: Collection[str] = ()
    labels: Mapping[str, str] | None = None
    os: str | None = None
    agent_version: str | None = None
    maintenance: bool = False
    drift: bool = False
    quarantined: bool = False
    basic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Attributes: `values`: in lower case; one of them must hold, or none where it is negated."""

    field: Field
    values: tuple[str, ...]
    negated: bool = False

    @property
    def has_pattern(self) -> bool:
        return any("*" in value for value in self.values)

    @property
    def holds(self) -> Callable[[HostFacts], bool]:
        """Made once for all the hosts that are looked at."""
        tests = [_TESTS[self.field](value) for value in self.values]
        negated = self.negated
        return lambda host: any(test(host) for test in tests) is not negated


@dataclass(frozen=True, slots=True)
class HostQuery:
    terms: tuple[Term, ...] = ()

    @property
    def matches(self) -> Callable[[HostFacts], bool]:
        """Made once for all the hosts that are looked at."""
        holding = [term.holds for term in self.terms]
        return lambda host: all(holds(host) for holds in holding)

    @property
    def states(self) -> Collection[str]:
        """The states that it asks for by name."""
        return {state for term in self.terms if term.field == "state" and not term.negated for state in term.values}


def drifts(groups: Collection[str], groups_bound: Collection[str] | None) -> bool:
    """Whether an agent has bound other groups than its host is assigned; not where it has never said."""
    return groups_bound is not None and set(groups_bound) != set(groups)


def parse(text: str, field: str = "q") -> HostQuery:
    """What a text asks for.

    Args:
        field: of the request, that it stands in.

    Raises:
        HostQueryError: the first term that is wrong.
    """
    if len(text) > MAX_CHARACTERS:
        raise HostQueryError(field, "", f"at most {MAX_CHARACTERS} characters")
    terms: list[Term] = []
    for written in filter(None, _SPACE.split(text)):
        if len(terms) == MAX_TERMS:
            raise HostQueryError(field, written, f"at most {MAX_TERMS} terms")
        try:
            terms.append(_term(written))
        except ValueError as error:
            raise HostQueryError(field, written, str(error)) from error
    return HostQuery(tuple(terms))


def _term(written: str) -> Term:
    """Raises ValueError, with the reason."""
    body = written.removeprefix("-")
    name, colon, said = body.partition(":")
    if not colon:
        name, said = "name", body
    field = _lower(name)
    if field not in FIELDS:
        what = f"unknown field {name}" if name else "no field before the colon"
        raise ValueError(f"{what}; there are {', '.join(FIELDS)}")
    if not all(_is_whole(field, value) for value in said.split(",")):
        raise ValueError("a value is missing")
    values = tuple(_lower(value) for value in said.split(","))
    if (words := _WORDS_OF.get(field)) is not None:
        for value, as_written in zip(values, said.split(","), strict=True):
            if value not in words:
                raise ValueError(f"unknown value {as_written} of {field}; there are {', '.join(words)}")
    return Term(field=field, values=values, negated=written.startswith("-"))


def _is_whole(field: str, value: str) -> bool:
    """Whether it says something: of a label the name, and what it is where there is a `=`."""
    name, equals, said = value.partition("=")
    return bool(name and (said or not equals)) if field == "label" else bool(value)


def _lower(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_LOWER)


_Test: TypeAlias = Callable[[HostFacts], bool]
_TextTest: TypeAlias = Callable[[str], bool]


def _text_test(value: str, plain: Callable[[str, str], bool]) -> _TextTest:
    """The test of a text that is in lower case already. Args: `plain`: what a value without a pattern has to be."""
    if "*" not in value:
        return lambda text: plain(text, value)
    pieces = globs.pieces_of(value)
    return lambda text: globs.fits(pieces, text)


def _contains(text: str, value: str) -> bool:
    return value in text


def _name(value: str) -> _Test:
    test = _text_test(value, _contains)
    return lambda host: test(host.hostname)


def _state(value: str) -> _Test:
    return lambda host: host.state == value


def _group(value: str) -> _Test:
    if "*" not in value:
        return lambda host: value in host.groups
    pieces = globs.pieces_of(value)
    return lambda host: any(globs.fits(pieces, group) for group in host.groups)


def _label(value: str) -> _Test:
    name, equals, said = value.partition("=")
    test: _TextTest = _text_test(said, str.__eq__) if equals else lambda _: True
    return lambda host: any(_lower(key) == name and test(_lower(text)) for key, text in (host.labels or {}).items())


def _os(value: str) -> _Test:
    test = _text_test(value, _contains)
    return lambda host: host.os is not None and test(_lower(host.os))


def _agent(value: str) -> _Test:
    test = _text_test(value, str.startswith)
    return lambda host: host.agent_version is not None and test(_lower(host.agent_version))


def _is(value: str) -> _Test:
    return lambda host: bool(getattr(host, value))


_TESTS: Final[Mapping[Field, Callable[[str], _Test]]] = {
    "name": _name,
    "state": _state,
    "group": _group,
    "label": _label,
    "os": _os,
    "agent": _agent,
    "is": _is,
}
