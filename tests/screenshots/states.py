"""What is taken: each page, and the states that a page has beside that of every day."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Page, Route, expect

from tests.support.dev import Dev
from tests.support.large_fleet import LargeFleet
from tests.support.programs import Api
from tests.ui.everywhere import GO, Place, Shown, places, something
from tests.ui.steps import UNAVAILABLE, register

READY_MS = 15_000
STALE_MS = 31_000
MANY = 10_000
LISTS = re.compile(r"/api/v1/(hosts|groups|tasks|events|approvals|templates|rules|users|tokens|enrolment-tokens)(\?|$)")
ANY = re.compile(r"/(api/v1/(?!auth|stream)|readyz)")

Step = Callable[[Page], None]


@dataclass(frozen=True)
class State:
    """A page to be taken.

    Attributes:
        before: what is prepared before it is loaded, such as answers in the place of the server's.
        after: what is done on it then.
        is_stranger: nobody is signed in.
    """

    name: str
    place: Place
    before: Step | None = None
    after: Step | None = None
    is_stranger: bool = False


@dataclass(frozen=True)
class Scene:
    """What the server has to show.

    Attributes:
        mixed: a task that worked on most hosts, failed on one, and was skipped on one.
        position: one of the log, between two tasks.
    """

    shown: Shown
    mixed: str
    position: str
    many: LargeFleet
    task: dict[str, object]
    execution: dict[str, object]


def prepared(dev: Dev) -> Scene:
    api = dev.api
    register(dev, "db-9", "db")  # which nobody ever hears from
    api.finished(api.run({"group": "web"}, "uptime"))
    position = str(api.get("/events", limit=1)["items"][0]["seq"])
    mixed = api.run({"all": True}, "id deploy", when_offline="skip", reason="is the account there?")
    api.finished(mixed)
    shown = something(api, dev.hostname)
    task, execution = finished_rows(api, mixed)
    page = api.get("/hosts", limit=1)
    return Scene(shown, mixed, position, LargeFleet(MANY, page["items"][0], page["as_of"]), task, execution)


def finished_rows(api: Api, task_id: str) -> tuple[dict[str, object], dict[str, object]]:
    return api.get(f"/tasks/{task_id}"), api.every(f"/tasks/{task_id}/executions")[0]


def states_of(scene: Scene) -> list[State]:
    usual = [State(place.name, place) for place in places(scene.shown)]
    main = [
        place
        for place in places(scene.shown)
        if place.name in {"fleet", "host", "run-filled", "tasks", "task", "audit", "access-people", "system"}
    ]
    first = "main h1"
    empty = [place for place in main if place.name not in {"task", "host", "run-filled"}]
    bare = [Place(place.name, place.path, first) for place in main]  # what comes, or does not
    return [
        *usual,
        State("task-mixed", Place("task-mixed", f"/tasks/{scene.mixed}", "main pre")),
        *(State(f"{place.name}-empty", Place(place.name, place.path, first), before=nothing) for place in empty),
        *(State(f"{place.name}-error", place, before=failing) for place in bare if place.name != "run-filled"),
        *(State(f"{place.name}-stale", place, before=silent, after=grow_old) for place in bare),
        *(State(f"{place.name}-past", at(place, scene.position)) for place in bare if place.name != "task"),
        State("task-past", at(Place("task-past", f"/tasks/{scene.mixed}", first), str(scene.shown.seq))),
        State("fleet-one", Place("fleet-one", "/hosts", "main tbody tr"), before=one_host),
        State("fleet-many", Place("fleet-many", "/hosts", "main tbody tr"), before=scene.many.answer),
        State("fleet-grid-many", Place("fleet-grid-many", "/hosts?view=grid"), before=scene.many.answer),
        State("task-many", Place("task-many", "/tasks"), after=lambda page: open_large_task(page, scene)),
        State("run-risky", run_of(scene, "reboot"), after=press("main form button.primary")),
        State("task-cancel", Place("task-cancel", f"/tasks/{scene.shown.running}"), after=press("main .danger")),
        State("system-stop", Place("system-stop", "/system", "main tbody tr"), after=press("main .danger")),
        State("login", Place("login", "/login"), is_stranger=True),
        State("sign-in-again", Place("sign-in-again", "/tasks", "main tbody tr"), after=end_session),
    ]


def run_of(scene: Scene, command: str) -> Place:
    return Place("run", f"/run?host={scene.shown.host}&command={command}", "main form button.primary:enabled")


def at(place: Place, position: str) -> Place:
    join = "&" if "?" in place.path else "?"
    return Place(place.name, f"{place.path}{join}at={position}", place.ready)


def nothing(page: Page) -> None:
    def emptied(route: Route) -> None:
        answer = route.fetch().json()
        more = {"counts": {}, "total": 0} if "counts" in answer else {}
        route.fulfill(json={**answer, "items": [], "next_cursor": None, **more})

    page.route(LISTS, emptied)


def one_host(page: Page) -> None:
    def first(route: Route) -> None:
        answer = route.fetch().json()
        only = answer["items"][:1]
        route.fulfill(json={**answer, "items": only, "total": 1, "counts": {only[0]["state"]: 1}})

    page.route(re.compile(r"/api/v1/hosts\?"), first)


def failing(page: Page) -> None:
    page.route(ANY, lambda route: route.fulfill(status=503, json={**UNAVAILABLE, "request_id": "0198f2a0"}))


def silent(page: Page) -> None:
    """A server whose stream says nothing."""
    page.clock.install()
    page.route("**/stream?*", lambda _: None)


def grow_old(page: Page) -> None:
    page.clock.fast_forward(STALE_MS)
    expect(page.locator("body")).to_have_class(re.compile("stale-data"))


def open_large_task(page: Page, scene: Scene) -> None:
    path = scene.many.answer_task(page, scene.task, scene.execution)
    page.evaluate(GO, path)
    page.locator("main pre").first.wait_for()


def press(selector: str) -> Step:
    def open_dialog(page: Page) -> None:
        page.locator(selector).first.click()
        expect(page.locator("dialog[open]")).to_be_visible()

    return open_dialog


def end_session(page: Page) -> None:
    page.context.clear_cookies()
    page.locator("main a[href^='/tasks/']").first.click()
    expect(page.locator("dialog[open]")).to_be_visible()
