"""Which hosts a query means: the vectors that the dashboard is held to as well, and a slower reading of the grammar."""

import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane import globs
from control_plane.host_query import (
    FIELDS,
    MAX_CHARACTERS,
    MAX_TERMS,
    STATES,
    WORDS,
    HostFacts,
    HostQueryError,
    parse,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "query.json").read_text())


def facts_of(row: dict[str, Any]) -> HostFacts:
    same = {name: value for name, value in row.items() if name != "quarantine"}
    return HostFacts(**same, quarantined=row["quarantine"] is not None)


@pytest.mark.parametrize("vector", VECTORS["queries"], ids=lambda vector: vector["q"][:60])
def test_a_query_means_what_the_vectors_say(vector: dict[str, Any]) -> None:
    if "error" in vector:
        with pytest.raises(HostQueryError) as error:
            parse(vector["q"])
        assert {"term": error.value.term, "reason": error.value.reason} == vector["error"]
        return
    matches = parse(vector["q"]).matches

    assert [row["hostname"] for row in VECTORS["hosts"] if matches(facts_of(row))] == vector["matches"]


def test_the_vectors_have_every_field_state_and_word() -> None:
    asked = " ".join(vector["q"] for vector in VECTORS["queries"] if "matches" in vector).lower()

    assert [field for field in FIELDS if f"{field}:" not in asked] == []
    assert {row["state"] for row in VECTORS["hosts"]} == set(STATES)
    assert [word for word in WORDS if word not in asked] == []


def test_an_error_names_the_field_the_term_and_what_there_is() -> None:
    with pytest.raises(HostQueryError) as error:
        parse("web foo:bar", "target.query")

    assert (error.value.code, error.value.field) == ("invalid_request", "target.query")
    assert error.value.detail.startswith("target.query is wrong in foo:bar: unknown field foo; there are name, ")


def test_many_stars_take_no_more_time_than_few() -> None:
    """A matcher that goes back for each of them would not end."""
    text = "a" * 200

    assert not globs.fits(globs.pieces_of("*a" * 150 + "b"), text)
    assert globs.fits(globs.pieces_of("*a" * 200), text)
    assert not parse("name:" + "*a" * 500 + "*b").matches(HostFacts(hostname=text, state="online"))


LETTERS = st.sampled_from("abAB1.-")
NAMES = st.text(LETTERS, min_size=1, max_size=6)
TEXTS = st.none() | st.text(st.sampled_from("abAB1. éÉ*"), min_size=1, max_size=6)
HOSTS = st.builds(
    HostFacts,
    hostname=NAMES.map(str.lower),
    state=st.sampled_from(STATES),
    groups=st.lists(NAMES.map(str.lower), max_size=3),
    labels=st.dictionaries(NAMES, st.text(st.sampled_from("abAB=é"), min_size=1, max_size=4), max_size=2),
    os=TEXTS,
    agent_version=TEXTS,
    **{word: st.booleans() for word in WORDS},
)
VALUES = st.text(st.sampled_from("abAB1.-*é"), min_size=1, max_size=6)
LABELS = NAMES | st.tuples(NAMES, VALUES).map("=".join)
OF_FIELD = {
    "state": st.sampled_from((*STATES, "Online", "STALE")),
    "is": st.sampled_from((*WORDS, "Drift")),
    "label": LABELS,
}


@st.composite
def terms(draw: st.DrawFn) -> tuple[bool, str, list[str]]:
    field = draw(st.sampled_from(FIELDS))
    values = draw(st.lists(OF_FIELD.get(field, VALUES), min_size=1, max_size=3))
    return draw(st.booleans()), field, values


def fits_slowly(pattern: str, text: str) -> bool:
    """By trying every place of the first star."""
    first, star, rest = pattern.partition("*")
    if not star:
        return text == first
    return text.startswith(first) and any(fits_slowly(rest, text[at:]) for at in range(len(first), len(text) + 1))


def lowered(text: str) -> str:
    return re.sub("[A-Z]", lambda match: match[0].lower(), text)


def holds_slowly(host: HostFacts, field: str, value: str) -> bool:
    """The table of the grammar, line by line."""

    def is_said(text: str | None, plain: str) -> bool:
        if text is None:
            return False
        return fits_slowly({"contains": f"*{value}*", "whole": value, "begins": f"{value}*"}[plain], lowered(text))

    value = lowered(value)
    match field:
        case "name":
            return is_said(host.hostname, "whole" if "*" in value else "contains")
        case "os":
            return is_said(host.os, "whole" if "*" in value else "contains")
        case "agent":
            return is_said(host.agent_version, "whole" if "*" in value else "begins")
        case "group":
            return any(is_said(group, "whole") for group in host.groups)
        case "state":
            return host.state == value
        case "is":
            return getattr(host, value) is True
    name, equals, value = value.partition("=")
    labels = (host.labels or {}).items()
    return any(lowered(key) == name and (not equals or is_said(text, "whole")) for key, text in labels)


@given(HOSTS, st.lists(terms(), max_size=4))
def test_a_query_means_the_same_as_a_slower_reading_of_it(
    host: HostFacts, said: list[tuple[bool, str, list[str]]]
) -> None:
    text = " ".join(f"{'-' * negated}{field}:{','.join(values)}" for negated, field, values in said)
    holding = (
        any(holds_slowly(host, field, value) for value in values) is not negated for negated, field, values in said
    )

    assert parse(text).matches(host) is all(holding)


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("-:,* =" + string.ascii_letters), max_size=1100))
def test_whatever_is_typed_is_a_query_or_an_error_that_names_a_term_of_it(text: str) -> None:
    error: HostQueryError | None = None
    try:
        query = parse(text)
    except HostQueryError as raised:
        error = raised
    if error is not None:
        assert error.reason
        assert error.term in text
        assert bool(error.term) is (len(text) <= MAX_CHARACTERS)
        return
    assert len(query.terms) <= MAX_TERMS
    assert query.matches(HostFacts(hostname="web1", state="online")) in {True, False}
