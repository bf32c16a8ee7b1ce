"""The dashboard in Chromium against its budgets, on `control-plane dev`: what is over its limit is marked with "!".

The 10,000 hosts are answered in the place of the server, so that the browser's part is measured and not a database's.
"""

import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, CDPSession, Page

from tests.benchmarks.end_to_end import percentile
from tests.support.browser import launched
from tests.support.dev import Dev, running
from tests.support.large_fleet import LargeFleet
from tests.support.servers import wait_until
from tests.ui.everywhere import GO, Place, Reader

ROOT = Path(__file__).parents[2]
UI = ROOT / "ui"
PROBE = (Path(__file__).parent / "probes" / "browser.js").read_text()
KIB = 1024
OPENINGS = 5
ROUNDS = 50
ADDED_MS = 40  # to each request, as over a slow line
TASKS = 150
TASKS_A_SECOND = 14  # each of which changes seven rows
PAGES = ("/run", "/tasks", "/audit", "/access", "/system", "/hosts")


def run(directory: Path, *, hosts: int = 10_000, tasks: int = TASKS, rounds: int = ROUNDS) -> None:
    print(f"{'':44} {'measured':>12}   limit")
    sizes()
    with running(directory / "ui", agents=20) as dev, launched() as browser:
        openings(browser, dev)
        fleet(browser, dev, hosts, rounds)
        commits(browser, dev, tasks)
        page_changes(browser, dev, rounds)
        restart(browser, dev)


def tell(what: str, value: float, limit: float, unit: str = "", *, digits: int = 0) -> None:
    mark = "!" if value > limit else " "
    print(f"{mark} {what:<42} {value:>9,.{digits}f} {unit:<4} {limit:,g} {unit}", flush=True)


def sizes() -> None:
    from tests.ui.test_modules import FLEET, SCRIPTS

    def kib(paths: Any) -> float:
        return sum(path.stat().st_size for path in paths) / KIB

    tell("HTML", kib(UI.rglob("*.html")), 24, "KiB", digits=1)
    tell("CSS", kib(UI.rglob("*.css")), 40, "KiB", digits=1)
    tell("JavaScript until the fleet is shown", kib(FLEET), 120, "KiB", digits=1)
    tell("modules until the fleet is shown", len(FLEET), 24)
    tell("all JavaScript", kib(SCRIPTS), 350, "KiB", digits=1)


@contextmanager
def visit(browser: Browser, dev: Dev) -> Iterator[tuple[Page, Reader, CDPSession]]:
    """A page with nothing in its cache, of somebody who is signed in, at no address yet."""
    context = signed_in(browser, dev)
    context.add_init_script(PROBE)
    page = context.new_page()
    page.set_default_timeout(60_000)
    try:
        yield page, Reader(page), context.new_cdp_session(page)
    finally:
        context.close()


def signed_in(browser: Browser, dev: Dev) -> BrowserContext:
    first = browser.new_context()
    page = first.new_page()
    page.goto(dev.login_url)
    page.locator("main tbody tr").first.wait_for()
    storage = first.storage_state()
    first.close()
    return browser.new_context(viewport={"width": 1280, "height": 800}, storage_state=storage)


def openings(browser: Browser, dev: Dev) -> None:
    for added_ms, paint_ms, ready_ms in ((0, 500, 1000), (ADDED_MS, 1000, 1500)):
        opened = [opening(browser, dev, added_ms) for _ in range(OPENINGS)]
        beside = f", {added_ms} ms added to each request" if added_ms else ""
        tell(f"first paint{beside}", statistics.median(paint for paint, _, _ in opened), paint_ms, "ms")
        tell(f"ready{beside}", statistics.median(ready for _, ready, _ in opened), ready_ms, "ms")
    asked = opened[0][2]
    tell("requests until the fleet is shown", len(asked), 40)
    tell("requests to other origins", sum(not url.startswith(dev.url) for url in asked), 0)
    tell("requests for fonts", sum(bool(re.search(r"\.(woff2?|ttf|otf)\b", url)) for url in asked), 0)


def opening(browser: Browser, dev: Dev, added_ms: int) -> tuple[float, float, list[str]]:
    with visit(browser, dev) as (page, _, devtools):
        if added_ms:
            devtools.send("Network.enable")
            line = {"offline": False, "latency": added_ms, "downloadThroughput": -1, "uploadThroughput": -1}
            devtools.send("Network.emulateNetworkConditions", line)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{dev.url}/hosts")
        page.locator("main tbody tr").first.wait_for()
        # A paint that has not been told of yet is told with the next frame.
        page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
        paint, ready = page.evaluate(
            "() => ['first-contentful-paint', 'ready'].map((name) => performance.getEntriesByName(name)[0].startTime)"
        )
        before = page.evaluate(
            "(ready) => performance.getEntriesByType('resource').filter((one) => one.startTime < ready).length", ready
        )
        return paint, ready, asked[: before + 1]  # and the document


def fleet(browser: Browser, dev: Dev, count: int, rounds: int) -> None:
    page_of_one = dev.api.get("/hosts", limit=1)
    large = LargeFleet(count, page_of_one["items"][0], page_of_one["as_of"])
    task_id = dev.api.run({"host": "sim-0001"}, "uptime")
    execution = dev.api.finished(task_id)["sim-0001"]
    task = dev.api.get(f"/tasks/{task_id}")
    with visit(browser, dev) as (page, reader, devtools):
        large.answer(page)
        path = large.answer_task(page, task, execution)
        page.goto(f"{dev.url}/hosts")
        whole = page.evaluate("(count) => bench.whenHas('hosts', count)", count)
        tell(f"{count:,} hosts: first rows", page.evaluate("() => bench.firstRow"), 1000, "ms")
        tell(f"{count:,} hosts: all", whole, 3000, "ms")
        reader.settle()
        tell("filter to paint, 95 in 100", percentile(typed(page, rounds), 0.95), 50, "ms", digits=1)
        page.evaluate("() => (bench.longTasks.length = 0)")
        burst = page.evaluate("() => bench.rounds(1, () => bench.changeHosts(5000, 'offline'))")
        tell("5,000 changed rows to paint", burst[0], 100, "ms", digits=1)
        grid(page, reader, rounds)
        tell("longest task after the load", max(page.evaluate("() => bench.longTasks"), default=0), 100, "ms")
        page.evaluate(GO, path)
        page.evaluate("(count) => bench.whenHas('executions', count)", count)
        reader.settle()
        metrics = collected(devtools)
        tell(f"heap, {count:,} hosts and a task on them", metrics["JSHeapUsedSize"] / 1e6, 150, "MB", digits=1)
        tell("nodes of that task's page", metrics["Nodes"], 5000)


def typed(page: Page, rounds: int) -> list[float]:
    """The times from a letter in the filter to what it leaves."""
    words = ["web", "db-", "0012", "9", "", "cache-0", "edge", "x"]
    found: list[float] = page.evaluate(
        """([rounds, words]) => {
          const field = document.querySelector("main input[type=search]");
          return bench.rounds(rounds, (round) => {
            field.value = words[round % words.length];
            field.dispatchEvent(new Event("input", { bubbles: true }));
          });
        }""",
        [rounds, words],
    )
    page.evaluate(
        "(path) => { history.pushState(null, '', path); dispatchEvent(new PopStateEvent('popstate')); }", "/hosts"
    )
    return found


def grid(page: Page, reader: Reader, rounds: int) -> None:
    reader.go(Place("grid", "/hosts?view=grid"))
    if not page.locator("main canvas").count():
        print("  (there is no view=grid)")
        return
    some = page.evaluate(
        "(rounds) => bench.script(rounds, (round) => bench.changeHosts(200, round % 2 ? 'online' : 'stale'))", rounds
    )
    tell("grid, script of 200 changed tiles, 95 in 100", percentile(some, 0.95), 8, "ms", digits=1)
    whole = page.evaluate(
        """(rounds) => bench.rounds(rounds, async (round) => {
          history.replaceState(null, "", `/hosts?view=grid&group=${round % 2 ? "" : "web"}`);
          dispatchEvent(new PopStateEvent("popstate"));
        })""",
        rounds,
    )
    tell("grid, whole, 95 in 100", percentile(whole, 0.95), 100, "ms", digits=1)
    reader.go(Place("fleet", "/hosts"))


def collected(devtools: CDPSession) -> dict[str, float]:
    devtools.send("Performance.enable")
    devtools.send("HeapProfiler.collectGarbage")
    return {each["name"]: each["value"] for each in devtools.send("Performance.getMetrics")["metrics"]}


def commits(browser: Browser, dev: Dev, tasks: int) -> None:
    with visit(browser, dev) as (page, reader, _):
        reader.load(dev.url, Place("tasks", "/tasks", "main tbody tr"))
        page.evaluate("() => bench.followEnds()")
        started = time.monotonic()
        for number in range(tasks):
            target = {"host": f"sim-{number % 20 + 1:04}"}
            dev.api.post("/tasks", {"target": target, "command": "uptime", "user": "root", "timeout": 30})
            time.sleep(max(0, started + (number + 1) / TASKS_A_SECOND - time.monotonic()))
        ends: Callable[[], list[float]] = lambda: page.evaluate("() => bench.ends")  # noqa: E731 - asked again below
        wait_until(lambda: len(ends()) >= tasks, timeout_s=60, what="all ends are shown")
        tell(f"commit to pixel, 95 in 100 of {tasks}", percentile(ends(), 0.95), 250, "ms")


def page_changes(browser: Browser, dev: Dev, rounds: int) -> None:
    with visit(browser, dev) as (page, reader, devtools):
        reader.load(dev.url, Place("fleet", "/hosts", "main tbody tr"))
        shift = page.evaluate("() => bench.shift")
        for path in PAGES:  # once, so that every module is there
            page.locator(f"#nav a[href='{path}']").click()
            reader.settle()
            shift = max(shift, page.evaluate("() => bench.shift"))
            page.evaluate("() => (bench.shift = 0)")
        before = collected(devtools)
        for number in range(rounds):
            page.locator(f"#nav a[href='{PAGES[number % len(PAGES)]}']").click()
            reader.settle()
        page.locator("#nav a[href='/hosts']").click()
        reader.settle()
        after = collected(devtools)
        tell("layout shift of the worst page", shift, 0.05, digits=3)
        tell("interaction, the slowest page change", page.evaluate("() => bench.slowest"), 200, "ms")
        tell(f"nodes more after {rounds} page changes", after["Nodes"] - before["Nodes"], 0)
        more = after["JSEventListeners"] - before["JSEventListeners"]
        tell(f"listeners more after {rounds} page changes", more, 0)


def restart(browser: Browser, dev: Dev) -> None:
    with visit(browser, dev) as (page, reader, _):
        reader.load(dev.url, Place("fleet", "/hosts", "main tbody tr"))
        is_live = "() => document.getElementById('pill').dataset.kind === 'live' && bench.lost"
        page.evaluate(
            """() => {
              const look = () => {
                if (document.getElementById("pill").dataset.kind !== "live") bench.lost = true;
                else setTimeout(look, 10);
              };
              look();
            }"""
        )
        dev.program.stop()
        page.wait_for_function("() => bench.lost")
        dev.start_again()
        started = time.monotonic()
        page.wait_for_function(is_live)
        tell("live again after a restart of the server", time.monotonic() - started, 3, "s", digits=1)
