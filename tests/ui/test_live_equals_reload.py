"""Whatever happened to a page's connection, what it holds in the end is what a page that is loaded then reads."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.dev import running
from tests.support.servers import wait_until
from tests.ui.conftest import Dev, Visitor
from tests.ui.everywhere import Reader, probe

pytestmark = [pytest.mark.browser, pytest.mark.everywhere]

Row = dict[str, Any]

SEED = int(os.environ.get("CONTROL_PLANE_TEST_UI_SEED", random.randrange(2**32)))
AGENTS = 8
STEPS = 14
EQUAL_S = 45  # which a connection that is tried again after 30 s has time for
HOLDS = probe("rows")
# Of a host's row only the next whole row brings these, which every heartbeat changes; usages have the others.
OF_WHOLE_ROWS = ("uptime", "load", "disk_usage", "clock_ahead_s", "exact_from")
OF_A_READ = ("retries",)  # of a task, which its own page reads and no row of the stream has
SET_HIDDEN = """(isHidden) => {
  Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


class Scene:
    """Pages that follow hosts, tasks and one task's executions, and a server with hosts that answer."""

    def __init__(self, visitor: Visitor, server: Dev, chance: random.Random) -> None:
        self.server, self.chance = server, chance
        self.sent: list[str] = []
        self.task_id = server.api.run({"all": True}, "sleep 1")
        paths = ("/hosts", "/tasks", f"/tasks/{self.task_id}")
        self.pages = [self._opened(visitor, path) for path in paths]

    def _opened(self, visitor: Visitor, path: str) -> Page:
        page = visitor.page()
        page.clock.install()
        reader = Reader(page)
        page.goto(self.server.login_url)
        page.locator("main tbody tr").first.wait_for()
        page.goto(self.server.url + path)
        page.locator("main h1").wait_for()
        reader.settle()
        return page

    def run_something(self) -> None:
        hosts = [f"sim-{number:04}" for number in range(1, AGENTS + 1)]
        command = self.chance.choice(["true", "false", "uptime", "sleep 0.3", "exit 3", "echo x"])
        target = {"hosts": self.chance.sample(hosts, self.chance.randint(1, AGENTS))}
        self.sent.append(self.server.api.run(target, command))

    def cancel_something(self) -> None:
        if self.sent:
            self.server.api.http.post(f"/tasks/{self.chance.choice(self.sent)}/cancel")

    def change_groups(self) -> None:
        host, group = f"sim-{self.chance.randint(1, AGENTS):04}", self.chance.choice(["web", "db", "edge"])
        method = self.chance.choice(["PUT", "DELETE"])
        self.server.api.http.request(method, f"/groups/{group}/hosts/{host}")

    def cut(self) -> None:
        """The line of every page, while something happens; the stream ends in the middle."""
        context = self.pages[0].context
        context.set_offline(True)
        self.run_something()
        self._pass(self.chance.choice([1, 13, 40]))
        context.set_offline(False)

    def end_a_stream(self) -> None:
        page = self.chance.choice(self.pages)
        page.route("**/stream?*", lambda route: route.abort(), times=1)
        page.evaluate("() => document.getElementById('pill').click()")
        self._pass(self.chance.choice([1, 3]))

    def hide(self) -> None:
        """One page, as behind another tab, for 20 s, 40 s or an hour of its own time."""
        page = self.chance.choice(self.pages)
        page.evaluate(SET_HIDDEN, arg=True)
        page.clock.run_for(3_500)  # after which it lets its stream go
        for _ in range(self.chance.randint(1, 3)):
            self.run_something()
        page.clock.fast_forward(self.chance.choice([20, 40, 3600]) * 1000)
        page.evaluate(SET_HIDDEN, arg=False)

    def restart(self) -> None:
        self.server.program.kill()
        self.server.start_again()

    def _pass(self, seconds: int) -> None:
        for page in self.pages:
            page.clock.run_for(seconds * 1000)

    def differences(self) -> list[str]:
        """What the pages hold and what is read now, where the two are not the same."""
        api = self.server.api
        self._pass(1)  # a page whose clock stands still would not try again
        tasks = {row["task_id"]: row for row in api.every("/tasks")}
        executions = api.every(f"/tasks/{self.task_id}/executions")
        fleet, list_of_tasks, task = self.pages
        return [
            *different("hosts", held(fleet, "hosts"), api.every("/hosts"), "hostname", OF_WHOLE_ROWS),
            *different("tasks", held(list_of_tasks, "tasks"), list(tasks.values()), "task_id", OF_A_READ),
            *different("executions", held(task, "executions", self.task_id), executions, "hostname"),
            *different("the task", held(task, "tasks", self.task_id), [tasks[self.task_id]], "task_id", OF_A_READ),
        ]


def held(page: Page, table: str, task_id: str | None = None) -> list[Row]:
    rows: list[Row] = page.evaluate(HOLDS, table)
    return [row for row in rows if task_id is None or row["task_id"] == task_id]


def different(what: str, held: list[Row], read: list[Row], key: str, left_out: tuple[str, ...] = ()) -> list[str]:
    def by_key(rows: list[Row]) -> dict[str, Row]:
        return {row[key]: {name: value for name, value in row.items() if name not in left_out} for row in rows}

    one, other = by_key(held), by_key(read)
    found = [f"{what}: {name} is held {'twice' if len(held) > len(one) else 'alone'}" for name in one.keys() - other]
    found += [f"{what}: {name} is missing" for name in other.keys() - one]
    for name in one.keys() & other.keys():
        fields = [field for field in other[name] if one[name].get(field) != other[name][field]]
        found += [f"{what}: {name}: {field}: {one[name].get(field)!r}, not {other[name][field]!r}" for field in fields]
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One of its own, which is killed."""
    with running(tmp_path_factory.mktemp("live"), agents=AGENTS) as started:
        yield started


def test_what_a_page_holds_is_what_a_new_one_would_read(browser: Browser, server: Dev) -> None:
    print(f"CONTROL_PLANE_TEST_UI_SEED={SEED}")
    chance = random.Random(SEED)
    with ExitStack() as stack:
        context = browser.new_context(reduced_motion="reduce")
        stack.callback(context.close)
        scene = Scene(Visitor(context), server, chance)
        usual = [scene.run_something, scene.run_something, scene.cancel_something, scene.change_groups]
        rude = [scene.cut, scene.end_a_stream, scene.hide]
        steps: list[Callable[[], None]] = [*rude, *(chance.choice([*usual, *usual, *rude]) for _ in range(STEPS))]
        chance.shuffle(steps)
        steps.insert(len(steps) // 2, scene.restart)
        for step in steps:
            print(step.__name__)
            step()
        for task_id in scene.sent:
            server.api.finished(task_id)
        left: list[str] = []

        def are_equal() -> bool:
            left[:] = scene.differences()
            return not left

        try:
            wait_until(are_equal, timeout_s=EQUAL_S, what="what is held equals what is read")
        except AssertionError as error:
            raise AssertionError(f"CONTROL_PLANE_TEST_UI_SEED={SEED}: {left[:10]}") from error
        for page in scene.pages:
            expect(page.locator("#pill")).to_have_attribute("data-kind", "live")
