"""Words of a language that nobody has written yet: 40 % longer than the English ones, and whole all the same."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.ui.conftest import Dev, Visitor
from tests.ui.everywhere import Reader, Shown, places, probe, something

pytestmark = [pytest.mark.browser, pytest.mark.everywhere]

WORDS = Path(__file__).parents[2] / "ui" / "i18n" / "en.json"
LONGER = 0.4
FILLING = "mehr lang wort als sonst "  # words of a usual length, so that lines may break
CUT = probe("cut")


def longer(words: object) -> object:
    if isinstance(words, dict):
        return {name: longer(text) for name, text in words.items()}
    length = math.ceil(len(re.sub(r"\{\w+\}", "", str(words))) * LONGER)
    return f"{words} {(FILLING * (length // len(FILLING) + 1))[: max(0, length - 1)]}".rstrip()


@pytest.fixture(scope="module")
def shown(dev: Dev) -> Iterator[Shown]:
    made = something(dev.api, dev.hostname)
    yield made
    made.end(dev.api)


@pytest.mark.parametrize("width", [1280, 360])
def test_longer_words_are_not_cut_off(browser: Browser, dev: Dev, shown: Shown, width: int) -> None:
    words = {key: longer(text) for key, text in json.loads(WORDS.read_text()).items()}
    context = browser.new_context(viewport={"width": width, "height": 740}, locale="en-US", reduced_motion="reduce")
    context.route("**/i18n/en.json", lambda route: route.fulfill(json=words))
    visitor = Visitor(context)
    page = visitor.page()
    reader = Reader(page)
    page.goto(dev.login_url)
    page.locator("main tbody tr").first.wait_for()
    found: list[str] = []
    for place in places(shown):
        reader.go(place)
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        found += [f"{place.name}: the page is {wide} px wide"] if wide > width else []
        found += [f"{place.name}: {wrong}" for wrong in page.evaluate(CUT)]

    assert found == []
    assert visitor.complaints == []
    context.close()
