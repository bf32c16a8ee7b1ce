"""The audit trail: what happened, all that is recorded of it, and the proof that it was so."""

import base64
import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.support.dev import running
from tests.support.programs import PASSWORD, run
from tests.support.servers import wait_until
from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import downloaded, forgiven, heading, newcomer

pytestmark = pytest.mark.browser


def row_of(page: Page, seq: int) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("button", name=str(seq), exact=True))


def record(page: Page, dev: Dev, command: str) -> tuple[str, dict[str, object]]:
    """A task that has run on one host, and the event of its result."""
    task_id = dev.api.run({"host": "sim-0001"}, command)
    dev.api.finished(task_id)
    [event] = dev.api.get("/events", task_id=task_id, kind="execution.finished")["items"]
    page.goto(f"{dev.url}/audit")
    heading(page, "Audit")
    return task_id, dev.api.get(f"/events/{event['seq']}")


def test_each_filter_is_in_the_address_and_the_list_obeys_it(page: Page, dev: Dev) -> None:
    task_id, event = record(page, dev, "echo filtered")
    rows = page.locator("tbody tr")
    page.get_by_label("Task", exact=True).fill(task_id)
    page.get_by_label("Task", exact=True).press("Enter")
    expect(page).to_have_url(re.compile(f"task_id={task_id}"))
    expect(rows.filter(has_text="host.registered")).to_have_count(0)
    expect(rows.filter(has_text="execution.finished")).to_have_count(1)
    page.get_by_label("Who").fill("admin")
    page.get_by_label("Who").press("Enter")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("task.accepted")
    page.go_back()
    expect(rows.filter(has_text="execution.finished")).to_have_count(1)
    page.reload()
    expect(page.get_by_label("Task", exact=True)).to_have_value(task_id)

    page.goto(f"{dev.url}/audit?to=2020-01-01T00%3A00%3A00Z")
    expect(page.get_by_text("No event matches.")).to_be_visible()
    expect(page.get_by_label("To", exact=True)).to_have_value(re.compile("^20(19-12-31|20-01-01)T"))
    page.get_by_label("To", exact=True).fill("")
    expect(rows.first).to_be_visible()
    page.get_by_label("From", exact=True).fill("2099-01-01T00:00:00")
    expect(page).to_have_url(re.compile("from=20(98-12-31|99-01-01)T"))
    expect(page.get_by_text("No event matches.")).to_be_visible()
    assert event["task_id"] == task_id


def test_an_event_has_an_address_and_all_that_is_recorded_of_it(visitor: Visitor, page: Page, dev: Dev) -> None:
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    task_id, event = record(page, dev, "echo whole")
    button = row_of(page, int(str(event["seq"]))).get_by_role("button", name=str(event["seq"]), exact=True)
    button.click()
    expect(page).to_have_url(re.compile(f"seq={event['seq']}$"))
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(button).to_be_focused()
    detail = page.locator("tr.detail")
    for value in (event["signature"], event["key_id"]):
        expect(detail.get_by_text(str(value), exact=True)).to_be_visible()
        detail.get_by_text(str(value), exact=True).locator("..").get_by_role("button", name="Copy").click()
        assert page.evaluate("() => navigator.clipboard.readText()") == value
    expect(detail.get_by_role("link", name=task_id)).to_have_attribute("href", f"/tasks/{task_id}")
    expect(detail.get_by_role("link", name="sim-0001")).to_have_attribute("href", "/hosts/sim-0001")
    detail.get_by_text("The exact bytes that are signed").click()
    signed = base64.b64decode(str(event["body_base64"])).decode()
    expect(detail.locator("pre.exact")).to_have_text(signed)
    detail.locator("details").get_by_role("button", name="Copy").click()
    assert page.evaluate("() => navigator.clipboard.readText()") == signed
    assert json.loads(signed) == event["body"]

    button.click()
    expect(detail).to_have_count(0)
    expect(page).to_have_url(re.compile(r"/audit$"))
    page.go_back()
    expect(detail).to_be_visible()
    page.reload()
    expect(detail).to_be_in_viewport()
    expect(page.locator("pre")).to_have_count(1)


def test_an_event_that_the_list_does_not_have_stands_above_it(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/audit?kind=task&seq=1")
    panel = page.locator("section").filter(has=page.get_by_role("heading", name="Event 1", exact=True))
    expect(panel.locator("pre").first).to_be_visible()
    panel.get_by_role("link", name="Close").click()
    expect(panel).to_have_count(0)
    expect(page).to_have_url(re.compile(r"/audit\?kind=task$"))


def test_refusals_and_what_is_about_security_are_seen_as_such(visitor: Visitor, page: Page, dev: Dev) -> None:
    dev.api.post("/users", {"username": "walter", "role": "viewer", "password": PASSWORD})
    other = visitor.page()
    other.goto(dev.url)
    other.evaluate(
        """() => fetch("/api/v1/auth/login", { method: "POST", headers: { "Content-Type": "application/json" },
                                                body: JSON.stringify({ username: "walter", password: "wrong" }) })"""
    )
    wait_until(lambda: dev.api.get("/events", kind="login.failed")["items"], timeout_s=20, what="it is recorded")
    for kind, word in (("login.failed", "refused"), ("user.created", "security")):
        page.goto(f"{dev.url}/audit?kind={kind}")
        badge = page.get_by_role("cell", name=kind).first.locator(".badge")
        expect(badge).to_have_text(word)
        expect(badge.locator("svg")).to_be_visible()
    page.goto(f"{dev.url}/audit?kind=task.accepted")
    page.locator("tbody tr").first.wait_for()
    expect(page.get_by_role("table").locator(".badge")).to_have_count(0)
    forgiven(visitor, "401")


def test_a_long_trail_is_shown_a_bounded_number_of_rows_at_a_time(page: Page, dev: Dev) -> None:
    recorded = dev.api.get("/events", limit=1)
    event = recorded["items"][0]

    def a_page(route: Route) -> None:
        top = int(re.findall(r"cursor=(\d+)", route.request.url)[0]) if "cursor=" in route.request.url else 100_000
        items = [{**event, "seq": seq} for seq in range(top, top - 100, -1)]
        route.fulfill(json={"items": items, "next_cursor": str(top - 100), "as_of": recorded["as_of"]})

    page.route(re.compile(r"/api/v1/events\?"), a_page)
    page.goto(f"{dev.url}/audit")
    rows = page.locator("tbody tr")
    for count in (100, 200, 300, 400, 500):
        expect(rows).to_have_count(count)
        page.get_by_role("button", name="Show older").click()
    expect(rows.last).to_contain_text("99401")
    expect(rows).to_have_count(500)
    expect(rows.first).to_contain_text("99900")
    page.get_by_role("button", name="100 new").click()
    expect(rows.first).to_contain_text("100000")
    expect(rows).to_have_count(500)


def test_the_log_is_vouched_for_and_the_proof_of_an_event_holds(page: Page, dev: Dev, tmp_path: Path) -> None:
    seq = 1
    wait_until(lambda: dev.api.http.get(f"/audit/proof/{seq}").is_success, timeout_s=30, what="a checkpoint covers it")
    page.goto(f"{dev.url}/audit?seq={seq}&kind=none.at_all")
    page.get_by_text("Proof that nothing was changed").click()
    checkpoint = dev.api.get("/audit/checkpoint")
    panel = page.locator("details.panel")
    expect(panel.get_by_text(checkpoint["origin"])).to_be_visible()
    expect(panel.get_by_text(re.compile(r"(second|sec\.|min\.|now)"))).to_be_visible()
    verify = panel.get_by_text("control-plane audit verify", exact=True).inner_text()
    assert "hash a log anew" in run([*shlex.split(verify), "--help"], environment={}, cwd=tmp_path)
    saved = downloaded(page, page.get_by_role("button", name="Download its proof"))
    proof = tmp_path / saved.suggested_filename
    saved.save_as(proof)
    keys = tmp_path / "keys.json"
    keys.write_bytes(dev.api.http.get("/keys").content)
    check = panel.get_by_text("control-plane audit check").inner_text()
    argv = [{"KEY": str(keys), "FILE": str(proof)}.get(word, word) for word in shlex.split(check)]
    assert re.search(rf"\b{seq}\b", run(argv, environment={}, cwd=tmp_path))
    expect(page.get_by_role("button", name="Download its proof")).to_be_enabled()


@pytest.mark.parametrize("format_", ["NDJSON", "CSV"])
def test_what_is_filtered_can_be_taken_along(page: Page, dev: Dev, format_: str) -> None:
    task_id, _ = record(page, dev, "echo exported")
    page.goto(f"{dev.url}/audit?task_id={task_id}&kind=execution.finished")
    saved = downloaded(page, page.get_by_role("link", name=f"Export {format_}"))
    assert saved.suggested_filename == f"events.{format_.lower()}"
    text = saved.path().read_text()
    [*_, last] = text.splitlines()
    assert "execution.finished" in last
    assert text.count("execution.finished") == 1


def test_an_export_from_a_page_of_the_past_ends_at_its_moment(page: Page, dev: Dev, tmp_path: Path) -> None:
    record(page, dev, "echo later")
    page.goto(f"{dev.url}/audit?at=3")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Export NDJSON").click()
    saved = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(saved)

    assert [json.loads(line)["seq"] for line in saved.read_text().splitlines()] == [1, 2, 3]


def test_what_vouches_for_a_page_of_the_past_is_of_then_or_says_that_it_is_not(page: Page, dev: Dev) -> None:
    wait_until(lambda: signed_events(dev), timeout_s=30, what="something is signed")
    signed = signed_events(dev)
    task_id = dev.api.run({"host": "sim-0001"}, "echo signed later")
    dev.api.finished(task_id)
    wait_until(lambda: signed_events(dev) > signed, timeout_s=30, what="more is signed")
    page.goto(f"{dev.url}/audit?at={signed}&seq=1")
    page.get_by_text("Proof that nothing was changed").click()

    panel = page.locator("details.panel")
    expect(panel.get_by_role("definition").filter(has_text=re.compile(rf"^{signed:,}$"))).to_be_visible()
    expect(page.get_by_text("by the newest checkpoint there is now")).to_be_visible()
    with page.expect_download():
        page.get_by_role("button", name="Download its proof").click()


def test_who_may_only_read_is_told_what_else_needs_a_permission(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    newcomer(page, dev, "vita", "viewer")
    page.goto(f"{dev.url}/audit?seq=1&kind=none.at_all")
    for role, name, permission in (
        ("link", "Export CSV", "events.export"),
        ("button", "Download its proof", "audit.prove"),
    ):
        control = page.get_by_role(role, name=name)  # type: ignore[arg-type]  # which is one of many literals
        expect(control).to_be_disabled()
        expect(control).to_have_accessible_description(f"Needs the permission {permission}")
    forgiven(visitor, "401")


def signed_events(dev: Dev) -> int:
    answer = dev.api.http.get("/audit/checkpoint")
    return int(answer.json()["size"]) if answer.is_success else 0


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dev, int]]:
    """One whose database has lost an event below the head, and which of them."""
    with running(tmp_path_factory.mktemp("damaged"), agents=1) as dev:
        task_id = dev.api.run({"host": "sim-0001"}, "echo lost")
        dev.api.finished(task_id)
        [event] = dev.api.get("/events", task_id=task_id, kind="execution.finished")["items"]
        lost = event["seq"]
        wait_until(lambda: signed_events(dev) >= lost, timeout_s=30, what="it is signed")
        dev.program.stop()
        with closing(sqlite3.connect(dev.state / "control-plane.db")) as database, database:
            database.execute("DROP TRIGGER event_no_delete")
            database.execute("DELETE FROM event WHERE seq = ?", [lost])
        dev.start_again()
        yield dev, lost


@pytest.mark.parametrize("width", [1280, 360])
def test_a_damaged_log_is_said_with_the_position_on_every_moment_s_page(
    visitor: Visitor, damaged: tuple[Dev, int], width: int
) -> None:
    dev, seq = damaged
    page = visitor.page()
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(dev.login_url)
    heading(page, "Fleet")
    wait_until(lambda: dev.api.get("/audit/damage")["items"], timeout_s=20, what="the damage is found")
    for address in ("/audit", "/audit?at=2"):
        page.goto(f"{dev.url}{address}")
        alarm = page.get_by_role("alert").filter(has_text="The log is damaged")
        expect(alarm).to_contain_text(f"Log event, position {seq}: event {seq} is missing below the head")
        expect(alarm).to_contain_text("control-plane audit verify")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width

    page.goto(f"{dev.url}/system")
    first = page.get_by_role("row").nth(1)
    expect(first).to_contain_text(re.compile(rf"Failing.*checkpoints.*event {seq} is missing below the head"))
    expect(page.get_by_role("status").filter(has_text=re.compile("^Not ready since"))).to_be_visible()
    assert [c for c in visitor.complaints if "401" not in c and "503" not in c] == []
    visitor.complaints.clear()


def test_a_log_that_is_whole_is_not_called_damaged(page: Page, dev: Dev) -> None:
    with page.expect_response("**/api/v1/audit/damage") as told:
        page.goto(f"{dev.url}/audit")
    page.locator("tbody tr").first.wait_for()

    assert told.value.json() == {"items": []}
    expect(page.get_by_text("The log is damaged")).to_have_count(0)
