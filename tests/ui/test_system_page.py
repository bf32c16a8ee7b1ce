"""How the system is: what is ready, how far the read tables and the logs have come, and a rebuild."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.servers import wait_until
from tests.ui.answers import answer
from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import UNAVAILABLE, at_fleet, forgiven, heading, newcomer, ping, stream_says

pytestmark = pytest.mark.browser

SINCE = "2026-11-26T07:00:00.000000Z"
WIDTHS = pytest.mark.parametrize("width", [1280, 360])


def section(page: Page, name: str) -> Locator:
    return page.locator("section").filter(has=page.get_by_role("heading", name=name, exact=True))


def check(name: str, state: str, detail: str | None = None) -> dict[str, object]:
    return {"name": name, "state": state, "since": SINCE, "detail": detail}


def test_the_system_page_shows_what_is_ready_and_how_far_the_read_tables_are(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    page.keyboard.press("g")
    page.keyboard.press("s")
    heading(page, "System")

    for name in ("database", "broker", "hosts", "tasks", "audit"):
        expect(page.get_by_role("row").filter(has_text=name).first).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="Ready")).to_be_visible()


@WIDTHS
def test_what_fails_is_first_and_says_why(visitor: Visitor, page: Page, dev: Dev, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    found = [
        check("database", "ok"),
        check("logs", "warning", "room for 5 days"),
        check("broker", "failing", "no answer"),
    ]
    page.route("**/readyz", lambda route: route.fulfill(status=503, json={"status": "not_ready", "checks": found}))
    page.goto(f"{dev.url}/system")
    rows = section(page, "Readiness").get_by_role("row")

    expect(rows.nth(1)).to_contain_text(re.compile("Failing.*broker.*no answer"))
    expect(rows.nth(2)).to_contain_text("room for 5 days")
    expect(page.get_by_role("status").filter(has_text=re.compile(r"^Not ready since .*\d:\d\d"))).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    forgiven(visitor, "503")


def test_checks_that_cannot_be_read_are_not_called_ready(visitor: Visitor, page: Page, dev: Dev) -> None:
    page.clock.install()
    page.goto(f"{dev.url}/system")
    state = section(page, "Readiness").get_by_role("status")
    expect(state).to_have_text("Ready")
    page.route("**/readyz", lambda route: route.fulfill(status=502, json=UNAVAILABLE))
    page.clock.run_for(10_000)

    expect(state).to_have_text(re.compile(r"^Not ready: not to be read since .*\d:\d\d"))
    page.unroute_all()
    section(page, "Readiness").get_by_role("button", name="Try again").click()
    expect(state).to_have_text("Ready")
    forgiven(visitor, "502")


def test_a_rebuild_is_confirmed_and_done(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/system")
    page.get_by_role("button", name="Rebuild audit").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("All events are folded again from the first one")
    with page.expect_response("**/projections/audit/rebuild") as answered:
        dialog.get_by_role("button", name="Rebuild").click()

    assert answered.value.status == 202
    expect(dialog).to_have_count(0)
    row = section(page, "Read tables").get_by_role("row").filter(has_text="audit")
    expect(row).to_contain_text(re.compile(r"same, [\d,]+ rows"), timeout=20_000)
    expect(row.locator("time")).to_be_visible()


@WIDTHS
def test_how_far_a_rebuild_is_and_that_it_is_done_is_shown_as_it_comes(page: Page, dev: Dev, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    [audit] = [row for row in dev.api.get("/projections")["items"] if row["name"] == "audit"]
    behind = {"lag_events": 312, "lag_seconds": 9.0, "state": "catching up", "parked": 2}

    def rows(position: int, **told: Any) -> str:
        row = audit | told
        return f"event: rows\ndata: {json.dumps({'table': 'projections', 'rows': [[position, row]]})}\n\n"

    far = rows(1, **behind, head="e4000.h0", rebuilt_events=1000)
    stream_says(page, ping("?", events=0, seconds=0) + far)
    page.goto(f"{dev.url}/system")
    row = section(page, "Read tables").get_by_role("row").filter(has_text="audit")
    expect(row).to_contain_text("1,000 of 4,000")
    expect(row).to_contain_text("25 %")
    expect(row).to_contain_text("312 · 9.0 s")
    expect(row).to_contain_text("Catching up")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.evaluate("() => [...document.querySelectorAll('.scroll')].every((e) => e.scrollWidth <= e.clientWidth)")

    stream_says(page, ping("?", events=0, seconds=0) + far + rows(2, rebuilt_events=None))
    page.goto(f"{dev.url}/system")
    expect(row).not_to_contain_text("of 4,000")


def test_what_the_last_rebuild_found_is_shown_where_it_was_not_the_same(page: Page, dev: Dev) -> None:
    found = dev.api.get("/projections")
    verified = {"at": SINCE, "rows": 7, "differed": [], "failure": None}
    by_name = {
        "hosts": {**verified, "differed": ["host", "host_usage"]},
        "tasks": {**verified, "failure": "event 5 is missing below the head"},
        "audit": None,
    }
    told = {"items": [{**row, "verified": by_name[row["name"]]} for row in found["items"]]}
    stream_says(page, ping("?", events=0, seconds=0))
    answer(page, "projections", told)
    page.goto(f"{dev.url}/system")
    rows = section(page, "Read tables").get_by_role("row")

    expect(rows.filter(has_text="hosts")).to_contain_text(re.compile("not the same.*host, host_usage · "))
    expect(rows.filter(has_text="tasks")).to_contain_text(re.compile("came to no end.*event 5 is missing"))
    expect(rows.filter(has_text="tasks").locator(".role-fail")).to_be_visible()
    expect(rows.filter(has_text="audit")).to_contain_text("not since this process started")


def test_the_program_says_its_version_its_licences_and_who_vouches_for_the_log(page: Page, dev: Dev) -> None:
    system = dev.api.get("/system")
    wait_until(lambda: dev.api.http.get("/audit/checkpoint").is_success, timeout_s=30, what="something is signed")
    checkpoint = dev.api.get("/audit/checkpoint")
    kept = {"hosts": 3, "newest": 1, "size": 1204}
    answer(page, "audit/checkpoint", {**checkpoint, "witnesses": kept})
    page.goto(f"{dev.url}/system")
    log = section(page, "Log and proof")
    expect(log.get_by_text("3 hosts keep one, of up to 1,204 events; 1 have this newest one")).to_be_visible()
    expect(log.get_by_role("definition").filter(has_text=system["version"])).to_be_visible()
    log.get_by_text("Licences: Apache-2.0, and those of others").click()
    expect(log.get_by_role("listitem").filter(has_text=re.compile(r"^fastapi .* · MIT$"))).to_be_visible()

    answer(page, "audit/checkpoint", {**checkpoint, "witnesses": None})
    page.reload()
    expect(log.get_by_text("The process that answers has heard of none.").first).to_be_visible()


def test_both_logs_have_a_head_a_rate_and_a_checkpoint(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/system")
    log = section(page, "Log and proof")

    expect(log.get_by_text("Events", exact=True)).to_be_visible()
    rate = log.get_by_role("definition").filter(has_text=re.compile(r"^[\d,]+ · \d+\.\d a second$"))
    expect(rate).to_have_count(2, timeout=20_000)
    expect(
        log.get_by_role("definition").filter(has_text=re.compile(r"^covers [\d,]+, [\d,]+ not yet · "))
    ).to_have_count(2)
    expect(log.get_by_role("definition").filter(has_text=dev.api.get("/auth/me")["build"])).to_be_visible()
    expect(log.get_by_role("link", name="/api/docs")).to_have_attribute("href", "/api/docs")


def test_a_log_of_which_nothing_is_signed_says_so(visitor: Visitor, page: Page, dev: Dev) -> None:
    none = {"code": "no_checkpoint", "title": "Not found", "detail": "nothing is signed yet", "status": 404}
    answer(page, "audit/checkpoint", none, status=404)
    page.goto(f"{dev.url}/system")

    expect(section(page, "Log and proof").get_by_text("Nothing of the log is signed yet.")).to_have_count(2)
    forgiven(visitor, "404")


def test_what_was_not_as_it_should_be_leads_to_its_events(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/system")
    page.get_by_role("link", name="Conflicting results").click()

    expect(page).to_have_url(re.compile(r"/audit\?kind=execution\.conflict$"))


@WIDTHS
def test_what_was_not_as_it_should_be_is_numbers_that_say_who_has_counted(page: Page, dev: Dev, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    task_id = dev.api.run({"host": "sim-0001"}, "echo counted")
    dev.api.finished(task_id)
    system = dev.api.get("/system")
    many = {"number": 10_000, "is_more": True}
    some = {"number": 3}
    told = [{**row, **({"conflicts": many, "duplicates": some}.get(row["name"], {}))} for row in system["counted"]]
    answer(page, "system", {**system, "counted": told}, times=1)
    page.goto(f"{dev.url}/system")
    ready = section(page, "Readiness")
    expect(ready.get_by_role("link", name="Conflicting results: 10,000+")).to_be_visible()
    expect(ready.get_by_text(re.compile(r"^In the process that answers, since .*:\d\d"))).to_be_visible()
    expect(ready.get_by_text("Duplicates ignored: 3", exact=True)).to_be_visible()
    expect(ready.get_by_role("link", name="Duplicates ignored")).to_have_count(0)
    expect(ready.get_by_role("link", name="Dead letters of results: 0")).to_have_attribute(
        "href", "/audit?kind=message.rejected"
    )
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width

    elsewhere = [{**row, "number": None} if row["since"] else row for row in system["counted"]]
    answer(page, "system", {**system, "counted": elsewhere})
    page.reload()
    expect(ready.get_by_text(re.compile("takes no messages from the broker, so it counts no"))).to_be_visible()
    expect(ready.get_by_text("Duplicates ignored")).to_have_count(0)


def test_whoever_may_not_rebuild_is_told_once_what_it_takes(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    newcomer(page, dev, "otto", "operator")
    page.goto(f"{dev.url}/system")
    button = page.get_by_role("button", name="Rebuild hosts")

    expect(button).to_have_attribute("aria-disabled", "true")
    expect(button).to_have_accessible_description("Needs the permission projections.rebuild")
    expect(page.get_by_text("Needs the permission projections.rebuild")).to_have_count(1)
    forgiven(visitor, "401")


def test_of_the_past_there_are_the_read_tables_and_nothing_is_asked_again(page: Page, dev: Dev) -> None:
    page.clock.install()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{dev.url}/system?at=2")
    row = section(page, "Read tables").get_by_role("row").filter(has_text="audit")
    expect(row).to_contain_text("Replayed")
    expect(row).to_contain_text("e2.")
    expect(page.get_by_role("button", name="Rebuild audit")).to_have_attribute("aria-disabled", "true")
    expect(page.get_by_text(re.compile("^Only the read tables are shown as they were"))).to_be_visible()
    for name in ("Readiness", "Log and proof"):
        expect(page.get_by_role("heading", name=name)).to_be_hidden()
    expect(page.get_by_role("columnheader", name="Last verified")).to_have_count(0)
    asked.clear()
    page.clock.run_for(90_000)

    assert [url for url in asked if "/api/v1/" in url or "readyz" in url] == []


def test_whoever_may_follow_nothing_is_told_of_no_connection(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    newcomer(page, dev, "nina", "member", then="Nothing to show")
    page.clock.install()
    page.clock.run_for(40_000)

    expect(page.locator("#pill")).to_be_hidden()
    expect(page.get_by_text("Not connected")).to_be_hidden()
    forgiven(visitor, "401")
