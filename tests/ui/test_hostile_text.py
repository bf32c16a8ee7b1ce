"""What hosts and people write is shown as text: nothing of it runs, moves, hides or leads elsewhere."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.support.dev import running
from tests.support.servers import wait_until
from tests.ui.conftest import Dev, Visitor
from tests.ui.everywhere import DRAWN, Place, Reader, Shown, places, probe, something
from tests.ui.steps import forgiven

pytestmark = pytest.mark.browser

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "hostile.json").read_text())["texts"]
TEXTS = [vector["text"] for vector in VECTORS if "times" not in vector and vector["text"]]
PLAIN = [f"plain {number}" for number in range(len(TEXTS))]  # as different from each other
LONG = [vector["text"] * vector["times"] + vector.get("end", "") for vector in VECTORS if "times" in vector]
ROWS = 120  # of a list that is answered; fields of the next have other texts

# What the server makes up itself, so that a page may go by it; everything else that is a string is somebody's text.
STRUCTURE = frozenset(
    (
        *("as_of", "next_cursor", "state", "kind", "task_id", "retry_of", "retries", "encoding", "stream"),
        *("outcome", "when_offline", "csrf_token", "build", "role", "type", "effect", "actions", "action"),
        *("permission", "permissions", "scope", "subject", "do", "status", "origin", "note", "root"),
        *("algorithm", "table", "wait", "code", "now", "fingerprint", "public_key"),
    )
)
OF_STRUCTURE = re.compile(r"(^at|_at|_until|_id|_sha256|sha256|^since|^until|_seq)$")

LOOK = probe("look")
ELEMENTS = probe("elements")
WATCH = """
  document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
    globalThis.violated = `${violatedDirective} ${blockedURI}`;
  });
"""


class Server:
    """Answers in the place of the server: its own answers, in which every text is another of those given."""

    def __init__(self, texts: Callable[[], str], known: dict[str, Any] | None = None) -> None:
        """Answer with `texts`; with `known` in the same places as before, whatever has happened since."""
        self._next = texts
        self._known = known if known is not None else {}

    def __call__(self, route: Route) -> None:
        if route.request.method != "GET" and "/preview" not in route.request.url:
            return route.fallback()
        if "/stream?" in route.request.url:
            return route.fulfill(content_type="text/event-stream", body="")
        if re.search("/auth/me|/projections", route.request.url):
            return route.fallback()  # with names that the server alone gives
        asked = re.sub(r"\b(from|to)=[^&]*", "", route.request.url)  # which are times
        if asked not in self._known:
            answer = route.fetch(
                url=re.sub(r"&min_seq=\d+", "", route.request.url)
            )  # of rows whose positions are made up
            if "json" not in answer.headers.get("content-type", ""):
                return route.fulfill(response=answer)
            self._known[asked] = (answer.status, answer.json())
        status, body = self._known[asked]
        # In ASCII, so that half of a surrogate pair comes through as a server could send it.
        return route.fulfill(status=status, content_type="application/json", body=json.dumps(self.filled(body)))

    def filled(self, answer: dict[str, Any]) -> dict[str, Any]:
        items = answer.get("items")
        if isinstance(items, list) and items and all(isinstance(row, dict) for row in items) and "at" not in items[0]:
            # A task of one host has no other one, by whose name the page would ask.
            is_only = len(items) == 1 and "exit_code" in items[0]
            rows = items if is_only else itertools.islice(itertools.cycle(items), ROWS)
            return {**answer, "items": [self._row(row, number) for number, row in enumerate(rows)], "next_cursor": None}
        return {name: self._value(name, value, is_one=True) for name, value in answer.items()}

    def _row(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        """One more row: with texts, and with a name and a position of its own."""
        is_first = "exit_code" in row and number == 0  # of the hosts of a task
        made = {name: self._value(name, value, is_one=is_first) for name, value in row.items()}
        if "hostname" in row and "task_id" not in row:
            made["hostname"] = f"{self._next()}{number}"
        for name in ("seq", "pos"):
            if isinstance(row.get(name), int):
                made[name] = row[name] + 1000 + number
        if "kind" not in row and "command" in row and "task_id" in row:
            made["task_id"] = f"{row['task_id']}-{number}"
        return made

    def _value(self, name: str, value: Any, *, is_one: bool = False) -> Any:
        if name in STRUCTURE or OF_STRUCTURE.search(name) or (is_one and name == "hostname"):
            return value
        match value:
            case str():
                return self._next()
            case list():
                return [self._value(name, each) if name != "hosts" else each for each in value]
            case dict():
                return {key: self._value(key, each) for key, each in value.items()}
            case _:
                return value


def texts(found: list[str], *, start: int = 0) -> Callable[[], str]:
    numbers = itertools.count(start)
    return lambda: found[next(numbers) % len(found)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One of its own: what is run here is nothing for the lists of others."""
    with running(tmp_path_factory.mktemp("hostile"), agents=2) as started:
        yield started


@pytest.fixture(scope="module")
def shown(server: Dev) -> Iterator[Shown]:
    made = something(server.api, server.hostname)
    yield made
    made.end(server.api)


class Guest:
    """A signed-in page, and all that is wrong on it."""

    def __init__(self, browser: Browser, server: Dev, width: int) -> None:
        context = browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce")
        context.add_init_script(WATCH)
        self.visitor = Visitor(context)
        self.page: Page = self.visitor.page()
        self.page.on("dialog", lambda dialog: self.visitor.complaints.append(f"dialog: {dialog.message}"))
        self.reader = Reader(self.page)
        self.url = server.url
        self.page.goto(server.login_url)
        self.page.locator("main tbody tr").first.wait_for()

    def show(self, place: Place) -> list[str]:
        """What is wrong with a place, all the way down."""
        self.reader.load(self.url, place)
        found: list[str] = []
        while True:
            found += self.page.evaluate(LOOK)
            if self.page.evaluate("() => { const y = scrollY; scrollBy(0, innerHeight); return scrollY === y; }"):
                return list(dict.fromkeys(found))
            self.page.evaluate(DRAWN)  # of a list that draws what is in view

    def elements(self) -> Counter[str]:
        return Counter(self.page.evaluate(ELEMENTS))

    def close(self) -> None:
        self.visitor.context.close()
        forgiven(self.visitor, "404", "422")  # what a page was led to that there is not


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.everywhere), 360])
def test_no_text_of_an_answer_is_more_than_text(browser: Browser, server: Dev, shown: Shown, width: int) -> None:
    guest = Guest(browser, server, width)
    wrong: list[str] = []
    known: dict[str, Any] = {}
    for number, place in enumerate(places(shown)):
        guest.page.route("**/api/v1/**", Server(texts(PLAIN, start=number * 17), known))
        wrong += [f"{place.name}, plain: {each}" for each in guest.show(place)]
        plain = guest.elements()
        guest.page.unroute_all()

        guest.page.route("**/api/v1/**", Server(texts(TEXTS, start=number * 17), known))
        wrong += [f"{place.name}: {each}" for each in guest.show(place)]
        if (made := guest.elements()) != plain:
            wrong.append(f"{place.name}: elements were made or lost: {made - plain} {plain - made}")
        guest.page.unroute_all()

    assert wrong == []
    guest.close()


@pytest.mark.everywhere
def test_each_text_is_only_text_in_every_field_of_a_host_and_a_task(
    browser: Browser, server: Dev, shown: Shown
) -> None:
    guest = Guest(browser, server, 1280)
    wrong: list[str] = []
    several = [" ".join(TEXTS[start : start + 12]) for start in range(0, len(TEXTS), 12)]
    for start in range(0, len(several), 3):
        guest.page.route("**/api/v1/**", Server(texts(several, start=start)))
        for place in (Place("host", f"/hosts/{shown.host}"), Place("task", f"/tasks/{shown.done}")):
            wrong += [f"{place.name}, from {start * 12}: {each}" for each in guest.show(place)]
        guest.page.unroute_all()

    assert wrong == []
    guest.close()


@pytest.mark.everywhere
def test_a_text_without_end_leaves_the_page_as_wide_as_it_is(browser: Browser, server: Dev, shown: Shown) -> None:
    guest = Guest(browser, server, 360)
    wrong: list[str] = []
    for number, text in enumerate(LONG):
        guest.page.route(re.compile(r"/outputs$|/stream\?"), Server(texts([text])))
        guest.page.route(re.compile(rf"/tasks/{shown.done}$|/executions"), Server(texts([text[:2000]])))
        guest.page.route(re.compile(r"/events\?"), Server(texts([text[:2000]])))  # as of rows of made up positions
        wrong += [f"{number}: {each}" for each in guest.show(Place("task", f"/tasks/{shown.done}"))]
        guest.page.unroute_all()

    assert wrong == []
    guest.close()


def sent(server: Dev, method: str, path: str, body: object) -> int:
    """As bytes of ours, since a client would not send half of a surrogate pair."""
    headers = {"content-type": "application/json"}
    return server.api.http.request(method, path, content=json.dumps(body).encode(), headers=headers).status_code


@pytest.mark.everywhere
def test_the_server_takes_or_refuses_each_text_and_what_it_takes_is_shown_as_text(
    browser: Browser, server: Dev
) -> None:
    simulated = {"target": {"host": "sim-0001"}, "command": "true", "user": "root", "timeout": 30}
    answers: Counter[tuple[str, int]] = Counter()
    for number, text in enumerate([*TEXTS, *LONG]):
        tries: list[tuple[str, str, str, object]] = [("command", "POST", "/tasks", simulated | {"command": text})]
        if number % 3 == 0:  # each is read by the same few rules
            user = {"username": text, "role": "viewer", "password": "correct horse battery"}
            tries += [
                ("reason", "POST", "/tasks", simulated | {"reason": text}),
                ("user", "POST", "/tasks", simulated | {"user": text}),
                ("group", "PATCH", "/hosts/sim-0002", {"groups": [text]}),
                ("label", "PATCH", "/hosts/sim-0002", {"labels": {f"l{number % 20}": text}}),
                ("username", "POST", "/users", user),
                ("hostname", "POST", "/enrolment-tokens", {"hostname": text}),
                ("query", "POST", "/targets/preview", {"target": {"query": text}, "command": "true"}),
            ]
        for field, method, path, body in tries:
            status = sent(server, method, path, body)
            answers[field, status] += 1
            assert status < 500, (field, text[:80], status)
    assert sum(count for (field, status), count in answers.items() if field == "command" and status == 202) >= 300
    wait_until(
        lambda: server.api.get("/tasks", state="running,paused", limit=1)["total"] <= 2,
        timeout_s=60,
        what="all that was taken has run",
    )

    guest = Guest(browser, server, 1280)
    tasks = server.api.every("/tasks")
    wrong: list[str] = []
    for place in (
        Place("fleet", "/hosts", "main tbody tr"),
        Place("host", "/hosts/sim-0002"),
        Place("tasks", "/tasks", "main tbody tr"),
        Place("audit", "/audit", "main tbody tr"),
        Place("people", "/access?tab=people"),
        *(Place(f"task {task['command'][:40]!r}", f"/tasks/{task['task_id']}") for task in tasks[::60]),
    ):
        wrong += [f"{place.name}: {each}" for each in guest.show(place)]
    # A text that somebody puts into a link fills a field, and nothing else.
    for text in TEXTS[::36]:
        query = "&".join(f"{name}={_quoted(text)}" for name in ("command", "user", "reason", "host"))
        wrong += [f"run {text!r}: {each}" for each in guest.show(Place("run", f"/run?{query}"))]

    assert wrong == []
    guest.close()


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode(errors="replace"))


def test_what_a_command_really_prints_is_shown_as_text(browser: Browser, server: Dev, tmp_path: Path) -> None:
    guest = Guest(browser, server, 360)
    wrong: list[str] = []
    printable = [text for text in TEXTS if text.isprintable() or text.encode(errors="replace").decode() == text]
    for number, content in enumerate(["\n".join(printable), *LONG[:4]]):
        (tmp_path / str(number)).write_bytes(content.encode())
        path = tmp_path / str(number)
        task_id = server.api.run({"host": server.hostname}, f"cat {path}; head -c 2000 {path} >&2; exit 3")
        server.api.finished(task_id)
        wrong += [f"{number}: {each}" for each in guest.show(Place("task", f"/tasks/{task_id}", "main pre.output"))]

    assert wrong == []
    guest.close()
