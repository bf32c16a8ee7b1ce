"""`docs/events.md` is what the code says, and says something of every field of every kind."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import pytest

from control_plane.events import registry
from control_plane.events.describe import described, page
from control_plane.events.envelope import Key
from control_plane.events.event import Event
from tests.support.events import EXAMPLES

PAGE = Path(__file__).parents[3] / "docs" / "events.md"


def test_the_page_is_what_the_code_generates() -> None:
    assert PAGE.read_text() == page(), "run: python -m control_plane.events.describe > docs/events.md"


@pytest.mark.parametrize("cls", registry.CLASSES, ids=lambda cls: cls.KIND)
def test_every_field_of_a_kind_has_a_meaning_and_the_kind_a_sentence(cls: type[Event]) -> None:
    assert [name for name, (_, meaning) in described(cls).items() if not meaning.endswith((".", "?"))] == []
    assert f"### `{cls.KIND}`\n\n\n" not in page()


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.KIND)
def test_every_field_that_an_event_has_is_described(event: Event) -> None:
    assert event.to_json().keys() - {"kind"} <= described(type(event)).keys()


def test_a_field_that_nobody_has_described_is_found() -> None:
    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Made(Event):
        """Something was made.

        Attributes:
            known: said over
                two lines.
        """

        KIND: ClassVar[str] = "thing.made"

        known: tuple[str, ...]
        unknown: int | None = None

        def key(self) -> Key:
            return Key(self.KIND, self.KIND)

    assert described(Made) == {
        "known": ("list of texts", "said over two lines."),
        "unknown": ("whole number, optional", ""),
    }
