"""`scripts/screenshots`: every page in its states, to be looked at by a person.

It starts a `control-plane dev` with twenty simulated hosts, and goes from page to page: empty, filled, with an error,
old, of the past, and with 10,000 hosts, each light and dark, wide and narrow, in English and Chinese.
"""

import argparse
import itertools
import re
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.screenshots.sheet import write_sheet
from tests.screenshots.states import READY_MS, Scene, State, prepared, states_of
from tests.support.browser import is_installed, launched
from tests.support.dev import Dev, running
from tests.ui.everywhere import Place, Reader

ROOT = Path(__file__).parents[2]
README = ROOT / "docs" / "screenshots"
AGENTS = 20
MOST_PX = 6_000  # of a page's height: more of it is more of the same
# Two characters that every font for Chinese draws differently, and one without it alike.
DRAWS = """() => {
  const pixels = ["在", "线"].map((character) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 40, height: 40 });
    const context = canvas.getContext("2d");
    context.font = `32px ${getComputedStyle(document.documentElement).fontFamily}`;
    context.fillText(character, 2, 34);
    return String(context.getImageData(0, 0, 40, 40).data);
  });
  return pixels[0] !== pixels[1];
}"""


@dataclass(frozen=True)
class Look:
    theme: str
    width: int
    language: str

    @property
    def name(self) -> str:
        return f"{self.theme}-{self.width}-{self.language}"


LOOKS = [Look(*each) for each in itertools.product(("light", "dark"), (1280, 360), ("en", "zh-CN"))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/screenshots", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", nargs="?", help="where the pictures go")
    parser.add_argument("--only", metavar="PATTERN", default="", help="a part of the names, as in fleet.*dark-360")
    parser.add_argument("--readme", action="store_true", help="take those of docs/screenshots alone")
    arguments = parser.parse_args()
    if not arguments.directory and not arguments.readme:
        parser.error("name a directory, or --readme")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the server ends, too
    if not is_installed():
        sys.exit("scripts/screenshots: Chromium is needed; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="cp-pictures-") as directory, launched() as browser:
        if missing := refusal(browser):
            sys.exit(f"scripts/screenshots: {missing}")
        with running(Path(directory), agents=AGENTS) as dev:
            scene = prepared(dev)
            if arguments.readme:
                take_readme(browser, dev, scene)
            else:
                take_all(browser, dev, scene, arguments.directory, re.compile(arguments.only))


def refusal(browser: Browser) -> str | None:
    """Why pictures would not show what people see."""
    page = browser.new_page()
    draws = page.evaluate(DRAWS)
    page.close()
    return None if draws else "there is no font for Chinese; on Debian: apt-get install fonts-noto-cjk"


def opened(browser: Browser, dev: Dev, look: Look, *, height: int = 800) -> tuple[Page, Reader]:
    context = browser.new_context(
        viewport={"width": look.width, "height": height},
        color_scheme="dark" if look.theme == "dark" else "light",
        locale=look.language,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(READY_MS)
    reader = Reader(page)
    page.goto(dev.login_url)
    page.locator("main tbody tr").first.wait_for()
    return page, reader


def take_all(browser: Browser, dev: Dev, scene: Scene, directory: Path, only: re.Pattern[str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    taken: dict[str, dict[str, str]] = {}
    missed: list[str] = []
    for look in LOOKS:
        page, _ = opened(browser, dev, look)
        storage = page.context.storage_state()
        page.context.close()
        for state in states_of(scene):
            name = f"{state.name}-{look.name}"
            if not only.search(name):
                continue
            try:
                take(browser, dev, look, state, storage, directory / f"{name}.png")
                taken.setdefault(state.name, {})[look.name] = f"{name}.png"
            except Exception as error:  # noqa: BLE001 - one page that does not come must not cost the others
                missed.append(f"{name}: {str(error).splitlines()[0]}")
        print(f"{look.name}: {sum(look.name in row for row in taken.values())} pictures", flush=True)
    write_sheet(directory / "index.html", taken, [look.name for look in LOOKS])
    print(f"{directory / 'index.html'}")
    if missed:
        sys.exit("\n".join(["these did not come:", *missed]))


def take(browser: Browser, dev: Dev, look: Look, state: State, storage: object, path: Path) -> None:
    context = browser.new_context(
        viewport={"width": look.width, "height": 800},
        color_scheme="dark" if look.theme == "dark" else "light",
        locale=look.language,
        reduced_motion="reduce",
        storage_state=None if state.is_stranger else storage,  # type: ignore[arg-type]
    )
    page = context.new_page()
    page.set_default_timeout(READY_MS)
    reader = Reader(page)
    try:
        if state.before:
            state.before(page)
        reader.load(dev.url, state.place)
        if state.after:
            state.after(page)
        height = min(MOST_PX, page.evaluate("() => document.documentElement.scrollHeight"))
        page.set_viewport_size({"width": look.width, "height": max(800, height)})
        reader.settle()
        page.screenshot(path=path)
    finally:
        page.unroute_all(behavior="ignoreErrors")  # what is still held must not outlive its page
        context.close()


def take_readme(browser: Browser, dev: Dev, scene: Scene) -> None:
    """The two that the README has: the fleet, and what a command did."""
    README.mkdir(parents=True, exist_ok=True)
    page, reader = opened(browser, dev, Look("light", 1280, "en"))
    for place in (Place("fleet", "/hosts", "main tbody tr"), Place("task", f"/tasks/{scene.mixed}", "main pre")):
        reader.load(dev.url, place)
        page.screenshot(path=README / f"{place.name}.png")
        print(README / f"{place.name}.png")
    page.context.close()


if __name__ == "__main__":
    main()
