"""Every page and each of its states, for what has to hold everywhere: a page that is added is added here."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, Request

from tests.support.programs import Api
from tests.support.servers import wait_until

ACCESS = json.loads((Path(__file__).parents[2] / "ui" / "access.json").read_text())
LOADED_S = 20
# Two frames: what was answered has been drawn then.
DRAWN = "() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))"
PROBES = Path(__file__).parent / "probes"
GO = "(path) => { history.pushState(null, '', path); dispatchEvent(new PopStateEvent('popstate')); }"


def probe(name: str) -> str:
    """A function that looks at a page from inside, for `page.evaluate`."""
    return (PROBES / f"{name}.js").read_text().rstrip().rstrip(";")


@dataclass(frozen=True)
class Shown:
    """What there is to be seen: hosts, a task with every kind of answer, one that runs, an event."""

    host: str
    done: str
    running: str
    seq: int

    def end(self, api: Api) -> None:
        """Leave nothing that runs to whoever comes next."""
        api.post(f"/tasks/{self.running}/cancel")
        api.finished(self.running)


@dataclass(frozen=True)
class Place:
    """A page in one of its states.

    Attributes:
        ready: a selector of what is there once the page has all that it shows.
        also: what else is done there, such as opening something.
    """

    name: str
    path: str
    ready: str = "main h1"
    also: Callable[[Page], None] | None = None


def something(api: Api, hostname: str) -> Shown:
    """Run something that succeeds, fails, prints and goes on, so that no page is empty."""
    done = api.run({"all": True}, "echo the same everywhere; exit 3", when_offline="skip", reason="to see it")
    api.finished(done)
    failed = api.run({"host": hostname}, r"printf 'one\ntwo\n'; printf '\033[31mred\033[0m' >&2; exit 3")
    api.finished(failed)
    running = api.run({"hosts": ["sim-0001", "sim-0002"]}, "sleep 3000", timeout=3600)
    wait_until(
        lambda: all(row["state"] == "running" for row in api.executions(running).values()), timeout_s=20, what="it runs"
    )
    return Shown(hostname, failed, running, int(api.get(f"/tasks/{failed}")["seq"]))


def open_event(page: Page) -> None:
    """Open the first event of a list, where its address has not opened one already."""
    if page.locator("main .detail").count() == 0:
        page.locator("main tbody button").first.click()


def places(shown: Shown) -> list[Place]:
    """All that somebody who may do everything can be shown."""
    filled = f"/run?host={shown.host}&command=uptime&reason=to+see"
    return [
        Place("fleet", "/hosts", "main tbody tr"),
        Place("fleet-grid", "/hosts?view=grid"),
        Place("fleet-nothing", "/hosts?q=no-such-host"),
        Place("host", f"/hosts/{shown.host}"),
        Place("host-simulated", "/hosts/sim-0001"),
        Place("run", "/run"),
        Place("run-filled", filled, "main form button.primary:enabled"),
        Place("tasks", "/tasks", "main tbody tr"),
        Place("task", f"/tasks/{shown.done}"),
        Place("task-hosts", f"/tasks/{shown.done}?tab=hosts"),
        Place("task-events", f"/tasks/{shown.done}?tab=events"),
        Place("task-of-host", f"/tasks/{shown.done}?host={shown.host}"),
        Place("task-running", f"/tasks/{shown.running}"),
        Place("task-live", f"/tasks/{shown.running}?tab=live"),
        Place("audit", "/audit", "main tbody tr"),
        Place("audit-event", f"/audit?seq={shown.seq}", "main tbody tr", open_event),
        *(Place(f"access-{tab}", f"/access?tab={tab}") for tab in ACCESS["tabs"]),
        Place("system", "/system", "main tbody tr"),
        Place("unknown", "/no-such-page"),
    ]


class Reader:
    """Leads a page from place to place, and knows when it has read what it asked for, but for its stream."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._open = 0
        page.on("request", lambda request: self._count(request, 1))
        page.on("requestfinished", lambda request: self._count(request, -1))
        page.on("requestfailed", lambda request: self._count(request, -1))

    def _count(self, request: Request, step: int) -> None:
        if re.search(r"/(api/v1/(?!stream\?)|readyz|ui/.*\.js)", request.url):
            self._open += step

    def settle(self) -> None:
        """Wait until nothing is asked for, and what was answered is drawn."""

        def is_quiet() -> bool:
            for _ in range(3):
                self._page.evaluate(DRAWN)
                if self._open > 0:
                    return False
            return True

        wait_until(is_quiet, timeout_s=LOADED_S, what=f"{self._page.url} has read what it shows")

    def go(self, place: Place) -> None:
        """Show a place in the document that is there."""
        self._page.evaluate(GO, place.path)
        self._arrive(place)

    def load(self, url: str, place: Place) -> None:
        """Show a place in a new document."""
        self._page.goto(url + place.path)
        self._arrive(place)

    def _arrive(self, place: Place) -> None:
        self._page.locator(place.ready).first.wait_for()
        self.settle()
        if place.also:
            place.also(self._page)
            self.settle()
