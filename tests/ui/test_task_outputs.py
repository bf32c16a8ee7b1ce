"""What the hosts of a task said, on its page."""

import base64
import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.servers import wait_until
from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import UNAVAILABLE, downloaded, finished, forgiven, heading, ping, run, stream_says
from tests.ui.task_answers import AT, NODES, answered_by, row

pytestmark = pytest.mark.browser


def test_a_command_on_this_machine_shows_what_it_said(page: Page, dev: Dev) -> None:
    run(page, dev, f"host={dev.hostname}", "echo $((6*7)); echo oops >&2; exit 3")

    heading(page, re.compile("echo"))
    finished(page, "1 failed")
    expect(page.locator("pre").filter(has_text="42")).to_be_visible()
    expect(page.locator("pre").filter(has_text="oops")).to_be_visible()
    expect(page.get_by_text("Failed, exit 3")).to_be_visible()


def test_what_a_host_says_is_text_and_never_markup(page: Page, dev: Dev) -> None:
    hostile = r"printf '<img src=x onerror=alert(1)>\n\033[31mred\033[0m\033]0;title\007\n\342\200\256evil\000\n'"
    run(page, dev, f"host={dev.hostname}", hostile)
    finished(page, "1 ok")

    said = page.locator("pre").filter(has_text="red")
    expect(said).to_contain_text("<img src=x onerror=alert(1)>")
    expect(said).to_contain_text("U+202Eevil")
    expect(said).not_to_contain_text("title")
    assert page.locator("main img").count() == 0


def test_an_answer_that_comes_while_the_outputs_are_read_is_shown(page: Page, dev: Dev, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    hosts = {"hosts": [dev.hostname, "sim-0001"]}
    task_id = dev.api.run(hosts, f"until test -e {gate}; do sleep 0.1; done; echo said")

    def answer_with_what_was(route: Route) -> None:
        before = route.fetch()
        if not gate.exists():
            gate.touch()
            dev.api.finished(task_id)
        route.fulfill(response=before)

    page.route("**/outputs", answer_with_what_was)
    page.goto(f"{dev.url}/tasks/{task_id}")

    expect(page.locator("pre").filter(has_text=re.compile(r"^said\n$"))).to_be_visible()


def test_what_a_command_prints_is_seen_while_it_runs(page: Page, dev: Dev, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ticks = r"printf 'tick \377<img src=x onerror=alert(1)>\n'"
    run(page, dev, f"host={dev.hostname}", f"until test -e {gate}; do {ticks}; sleep 0.1; done; echo over")

    live = page.locator("section").filter(has=page.get_by_role("heading", name="Live", exact=True))
    expect(live).to_contain_text("A preview: the result carries the whole.")
    expect(live.locator("pre")).to_contain_text("tick \ufffd<img src=x onerror=alert(1)>")
    expect(live).to_contain_text("1 of 1 running host shown live.")
    finished(page, "1 running")
    assert page.locator("main img").count() == 0
    gate.touch()
    finished(page, "1 ok")
    expect(live).to_be_hidden()


def test_who_reads_further_up_is_told_how_much_has_come_since(page: Page, dev: Dev, tmp_path: Path) -> None:
    more, over = tmp_path / "more", tmp_path / "over"
    wait = "until [ -e {} ]; do sleep 0.1; done"
    lines = "i=0; while [ $i -lt 90 ]; do i=$((i+1)); echo line $i; done"
    command = f"{lines}; {wait.format(more)}; seq -f 'new %g' 12; {wait.format(over)}"
    run(page, dev, f"host={dev.hostname}", command)
    live = page.locator("section").filter(has=page.get_by_role("heading", name="Live", exact=True))
    shown = live.locator("pre")
    expect(shown).to_contain_text("line 90")
    below = page.get_by_role("button", name="new lines")
    expect(below).to_have_count(0)
    shown.evaluate("(element) => (element.scrollTop = 0)")
    more.touch()
    expect(page.get_by_role("button", name="↓ 12 new lines")).to_be_visible()
    assert shown.evaluate("(element) => element.scrollTop") == 0

    below.click()
    expect(below).to_have_count(0)
    assert shown.evaluate("(element) => element.scrollHeight - element.scrollTop - element.clientHeight") < 24
    over.touch()
    finished(page, "1 ok")


def test_who_comes_later_is_shown_what_was_printed_before(
    visitor: Visitor, page: Page, dev: Dev, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    run(page, dev, f"host={dev.hostname}", f"echo first; until test -e {gate}; do sleep 0.1; done")
    expect(page.locator("pre").filter(has_text=re.compile("^first\n$"))).to_be_visible()
    other = visitor.page()
    other.goto(page.url)

    expect(other.locator("pre").filter(has_text=re.compile("^first\n$"))).to_be_visible()
    gate.touch()
    finished(other, "1 ok")


def test_what_is_shown_live_is_counted_before_its_row_says_that_it_runs(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0002"}, "echo soon")
    dev.api.finished(task_id)

    def queued(route: Route) -> None:
        found = route.fetch().json()
        for execution in found.get("items", []):
            execution |= {"state": "queued", "finished_at": None}
        if "targets" in found:
            found |= {"state": "running", "counts": {"queued": 1}}
        route.fulfill(json=found)

    piece = {"task_id": task_id, "hostname": "sim-0002", "stream": "stdout", "offset": 0, "encoding": "utf-8"}
    said = f"event: output\ndata: {json.dumps({**piece, 'data': 'soon'})}\n\n"
    stream_says(page, ping("?", events=0, seconds=0) + said)
    page.route(re.compile(rf"/api/v1/tasks/{task_id}(/executions.*)?$"), queued)
    page.goto(f"{dev.url}/tasks/{task_id}")
    live = page.locator("section").filter(has=page.get_by_role("heading", name="Live", exact=True))

    expect(live.locator("pre")).to_have_text("soon")
    expect(live).to_contain_text("1 of 1 running host shown live.")


def test_of_many_hosts_it_is_said_how_many_are_shown_live_and_each_can_be_chosen(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "echo many")
    dev.api.finished(task_id)
    names = [f"many-{number:02}" for number in range(25)]

    def running(route: Route) -> None:
        found = route.fetch().json()
        if "items" in found:
            going = {"state": "running", "finished_at": None}
            found["items"] = [{**found["items"][0], **going, "hostname": name} for name in names]
        elif "groups" in found:
            found["groups"] = [{**found["groups"][0], "state": "running", "hosts": names, "stdout": None}]
        else:
            found |= {"state": "running", "counts": {"running": 25}, "targets": 25}
        route.fulfill(json=found)

    def say(route: Route) -> None:
        topics = parse_qs(urlsplit(route.request.url).query)["topics"][0].split(",")
        watched = [topic.rpartition(":")[2] for topic in topics if topic.startswith("output:")]
        piece = {"task_id": task_id, "stream": "stdout", "offset": 0, "encoding": "utf-8"}
        said = [{**piece, "hostname": name, "data": f"of {name}\n"} for name in watched]
        pieces = "".join(f"event: output\ndata: {json.dumps(one)}\n\n" for one in said)
        route.fulfill(content_type="text/event-stream", body=ping("?", events=0, seconds=0) + pieces)

    page.route(re.compile(rf"/api/v1/tasks/{task_id}(/executions.*|/outputs)?$"), running)
    page.route("**/stream?*", say)
    page.goto(f"{dev.url}/tasks/{task_id}?tab=live")
    live = page.locator("section").filter(has=page.get_by_role("heading", name="Live", exact=True))
    expect(live).to_contain_text("20 of 25 running hosts shown live.")
    expect(live.locator("pre")).to_have_count(20)
    live.get_by_label("Host").select_option("many-24")

    expect(live.locator("pre")).to_have_text("of many-24\n")
    expect(live).to_contain_text("1 of 25 running hosts shown live.")
    live.get_by_label("Host").select_option("the first 20")
    expect(live.locator("pre")).to_have_count(20)


def test_who_did_not_answer_stands_first_then_the_rarest_answer(page: Page, dev: Dev) -> None:
    states = {"sim-0001": "skipped", "sim-0002": "succeeded", "sim-0003": "failed", "sim-0004": "lost"}
    task_id = answered_by(page, dev, [row(name, state) for name, state in states.items()])
    page.goto(f"{dev.url}/tasks/{task_id}")
    outputs = page.locator("section").filter(has=page.get_by_role("heading", name="Outputs"))
    ordered = [re.compile(word) for word in ("No answer", "Failed", "Skipped", "Succeeded")]
    expect(outputs.locator(".badge")).to_have_text(ordered)

    page.get_by_role("link", name="Hosts", exact=True).click()
    looked_at_first = [re.compile(word) for word in ("Failed", "No answer", "Skipped", "Succeeded")]
    expect(page.get_by_role("table").locator(".badge").filter(visible=True)).to_have_text(looked_at_first)


def test_outputs_that_cannot_be_read_can_be_asked_for_again(visitor: Visitor, page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "echo again")
    dev.api.finished(task_id)
    page.route("**/outputs", lambda route: route.fulfill(status=503, json=UNAVAILABLE), times=1)
    page.goto(f"{dev.url}/tasks/{task_id}")
    expect(page.get_by_role("alert").filter(has_text="not now")).to_be_visible()
    page.get_by_role("button", name="Try again").click()

    expect(page.locator("pre").filter(has_text="again")).to_be_visible()
    forgiven(visitor, "503")


def test_a_long_output_can_be_read_as_far_as_it_is_kept(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": [dev.hostname, "sim-0001"]}, "seq 1 400000")
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}")
    said = page.locator("pre").filter(has_text=re.compile(r"^1\n2\n"))
    expect(said).to_be_visible()
    expect(said.locator("+ p")).to_contain_text("Only 64.0 KiB of 2.6 MiB are shown.")
    page.get_by_role("link", name="Show all that is kept").click()
    pane = page.get_by_role("dialog", name=dev.hostname)

    expect(pane.get_by_text(re.compile(r"not kept · whole 2\.6 MiB, SHA-256 [0-9a-f]{64}")).first).to_be_visible()
    expect(pane.get_by_role("link", name="Line 1", exact=True)).to_be_visible()
    expect(pane.locator("pre").locator("a")).to_have_count(300)
    more = pane.get_by_role("button", name=re.compile(r"Show more: 256 KiB of 1\.\d MiB are here"))
    more.click()
    expect(more).to_have_count(0)
    expect(pane.get_by_role("button", name=re.compile("Show more: 512 KiB"))).to_be_visible()
    pane.get_by_role("searchbox").fill("400000")
    expect(pane.get_by_text("1 of 1", exact=True)).to_be_visible()
    expect(pane.locator("mark")).to_have_text("400000")
    expect(pane.get_by_role("button", name=re.compile("Show more"))).to_have_count(0)


def test_an_answer_that_was_not_sent_along_is_never_called_empty(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "echo said")
    dev.api.finished(task_id)

    def without_text(route: Route) -> None:
        outputs = route.fetch().json()
        without = [{**group, "stdout": None, "stderr": None} for group in outputs["groups"]]
        route.fulfill(json={**outputs, "groups": without})

    page.route("**/outputs", without_text)
    page.goto(f"{dev.url}/tasks/{task_id}")
    show = page.get_by_role("link", name="Show all that is kept")
    expect(show).to_be_visible()
    expect(page.get_by_text("No output.")).to_have_count(0)
    show.click()

    expect(page.get_by_role("dialog").locator("pre").filter(has_text="said")).to_be_visible()


def test_why_a_host_did_not_run_it_stands_in_its_card_on_a_telephone_too(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": dev.hostname}, "id", user="nobody-of-this-name")
    dev.api.finished(task_id)
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{dev.url}/tasks/{task_id}")

    expect(page.get_by_text("there is no account nobody-of-this-name on this host").first).to_be_visible()
    expect(page.get_by_text("No output.")).to_have_count(0)


def test_of_hosts_that_did_not_answer_it_is_said_what_is_known_of_each(page: Page, dev: Dev) -> None:
    never = "never delivered: nothing reached the host in time"
    silent = "no word after it was sent; it may have run"
    sent = {"sent_at": AT, "accepted_at": AT, "reason": silent}
    rows = [row("gone-1", "expired", reason=never), row("sim-0001", "lost", **sent), row("sim-0002", "succeeded")]
    task_id = answered_by(page, dev, rows)
    page.goto(f"{dev.url}/tasks/{task_id}")

    card = page.locator("section.panel").filter(has=page.get_by_text("Did not answer: 2 hosts"))
    known = card.get_by_role("listitem")
    expect(known).to_have_count(2)
    expect(known.filter(has_text="gone-1")).to_contain_text(never)
    expect(known.filter(has_text="gone-1")).not_to_contain_text("sent ")
    lost = known.filter(has_text="sim-0001")
    expect(lost).to_contain_text(re.compile(f"{silent}.*sent .*ago.*accepted .*ago.*last heartbeat"))
    expect(card.get_by_text("No output.")).to_have_count(0)
    lost.get_by_role("link", name="sim-0001").click()
    expect(page.get_by_role("dialog", name="sim-0001")).to_contain_text(silent)


def test_of_very_many_hosts_that_did_not_answer_the_first_are_named_and_the_others_a_click_away(
    page: Page, dev: Dev
) -> None:
    task_id = answered_by(page, dev, [row(f"gone-{number:03}", "lost") for number in range(120)])
    page.goto(f"{dev.url}/tasks/{task_id}")
    card = page.locator("section.panel").filter(has=page.get_by_text("Did not answer: 120 hosts"))
    expect(card.get_by_role("listitem")).to_have_count(50)
    card.get_by_role("link", name="70 more").click()

    expect(page.get_by_text("1–100 of 120")).to_be_visible()
    assert "state=lost%2Cexpired" in page.url


def test_a_command_can_be_run_on_the_hosts_of_a_card(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "echo these")
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}")
    page.get_by_role("link", name="Run on these…").click()

    expect(page.get_by_label("Hostnames, separated by spaces or commas")).to_have_value("sim-0001,sim-0002")


def test_a_card_that_has_grown_runs_on_all_its_hosts(page: Page, dev: Dev) -> None:
    rollout = {"canary": ["sim-0001"], "wait": "approve"}
    task_id = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "echo grown", rollout=rollout)
    page.goto(f"{dev.url}/tasks/{task_id}")
    link = page.locator("section.panel").filter(has=page.locator("pre")).get_by_role("link", name="Run on these…")
    expect(link).to_have_attribute("href", "/run?hosts=sim-0001")
    wait_until(
        lambda: dev.api.get(f"/tasks/{task_id}")["awaits_approval"], timeout_s=20, what="the canary waits for a word"
    )
    dev.api.post(f"/tasks/{task_id}/resume")

    expect(link).to_have_attribute("href", "/run?hosts=sim-0001%2Csim-0002")


def test_more_hosts_than_an_address_can_name_are_not_offered_to_be_run_on(page: Page, dev: Dev) -> None:
    rows = [row(f"web-{number:03}", "succeeded") for number in range(201)]
    task_id = answered_by(page, dev, [*rows, row("db-1", "failed")])
    page.goto(f"{dev.url}/tasks/{task_id}")
    expect(page.get_by_text("web-[000-200]")).to_be_visible()

    expect(page.get_by_role("link", name="Run on these…")).to_have_count(1)


def test_very_many_different_outputs_are_a_list_of_first_lines_that_open(page: Page, dev: Dev) -> None:
    long = " and so on" * 20
    rows = [row(f"web-{number:04}", "succeeded", said=f"up {number} days{long}\nmore") for number in range(1200)]
    task_id = answered_by(page, dev, rows)
    page.goto(f"{dev.url}/tasks/{task_id}")
    one = page.get_by_role("button", name=re.compile(r"web-0007 \(1\).*up 7 days"))
    expect(one).to_have_attribute("aria-expanded", "false")
    expect(page.get_by_text("1–100 of 1200")).to_be_visible()
    one.click()
    expect(page.locator("pre")).to_have_text(f"up 7 days{long}\nmore")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("() => document.querySelector('main').scrollWidth") <= 360
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("button", name=re.compile("web-0100"))).to_be_visible()
    expect(page.locator("pre")).to_have_count(0)

    assert page.evaluate(NODES) < 5_000


def test_while_nobody_has_answered_it_is_said_who_is_waited_for_and_who_is_away(page: Page, dev: Dev) -> None:
    hosts = [{"hostname": "web-2", "state": "offline"}]
    page.route(re.compile(r"/api/v1/hosts\?"), lambda route: route.fulfill(json={"items": hosts, "next_cursor": None}))
    task_id = answered_by(page, dev, [row("web-1", "queued"), row("web-2", "queued")])
    page.goto(f"{dev.url}/tasks/{task_id}")

    expect(page.get_by_text("Waiting for 2 hosts. 1 of them is offline: web-2")).to_be_visible()


def test_an_answer_unlike_the_others_shows_what_differs(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"all": True}, "echo same; echo only here")  # a simulated host takes all of it as one line
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}")
    toggle = page.get_by_role("button", name="Diff against the majority")
    expect(toggle).to_have_count(1)
    toggle.click()

    expect(page.locator("pre").filter(has_text="+ only here")).to_contain_text("- same; echo only here")
    toggle.click()
    expect(page.locator("pre").filter(has_text="+ only here")).to_have_count(0)


def test_what_is_no_text_hides_nothing_of_the_other_stream(page: Page, dev: Dev) -> None:
    command = r"printf '\377\376\000\001'; echo readable >&2"
    task_id = dev.api.run({"host": dev.hostname}, command)
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}")

    expect(page.get_by_text("Not text: it can be downloaded.").filter(visible=True)).to_have_count(1)
    expect(page.locator("pre").filter(has_text="readable")).to_be_visible()
    saved = downloaded(page, page.locator("section.reader").first.get_by_role("button", name="Download"))
    assert saved.suggested_filename == f"{dev.hostname}-{task_id}.stdout"
    assert saved.path().read_bytes() == b"\xff\xfe\x00\x01"


def test_text_that_comes_as_bytes_is_text_as_a_whole_and_in_part(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "echo said")
    dev.api.finished(task_id)
    long = "\x1b[31mred\x1b[0m " + "\u554a" * 60_000
    data = long.encode()

    def as_bytes(route: Route) -> None:
        found = route.fetch().json()
        if "groups" in found:
            text = base64.b64encode(data[:65_536]).decode()  # which ends within a character
            changed = {"stdout": text, "stderr": "", "encoding": "base64", "truncated": True}
            found["groups"] = [{**group, **changed} for group in found["groups"]]
        elif "items" in found:
            found["items"] = [{**row, "stdout_bytes": len(data)} for row in found["items"]]
        elif found["stream"] == "stdout":
            sizes = {"size_bytes": len(data), "kept_bytes": len(data), "head_bytes": len(data)}
            found |= {"data": base64.b64encode(data).decode(), "encoding": "base64", **sizes}
        route.fulfill(json=found)

    page.route(re.compile(rf"/tasks/{task_id}/(outputs|executions)"), as_bytes)
    stream_says(page, ping("?", events=0, seconds=0))
    page.goto(f"{dev.url}/tasks/{task_id}")
    said = page.locator("pre")
    expect(said).to_contain_text(re.compile("^red \u554a+$"))
    expect(page.get_by_text("Only 64.0 KiB of 176 KiB are shown.")).to_be_visible()
    page.get_by_role("link", name="Show all that is kept").click()

    whole = page.get_by_role("dialog").locator("pre").first
    expect(whole).to_have_text(re.compile("^red \u554a{19996}… \\+40004\n$"))  # as much of a line as is drawn


def test_what_a_command_left_running_is_said_to_have_been_ended(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "echo left")
    dev.api.finished(task_id)

    def left_over(route: Route) -> None:
        found = route.fetch().json()
        route.fulfill(json={**found, "items": [{**row, "leftovers": 2} for row in found["items"]]})

    page.route(re.compile(rf"/tasks/{task_id}/executions\?"), left_over)
    stream_says(page, ping("?", events=0, seconds=0))
    page.goto(f"{dev.url}/tasks/{task_id}")

    said = page.get_by_text("2 processes that it left running were ended").filter(visible=True)
    expect(said).to_have_count(1)  # in the card of both
    page.get_by_role("link", name="Hosts", exact=True).click()
    expect(said).to_have_count(2)
    page.get_by_role("link", name="sim-0001").click()
    expect(said).to_have_count(3)
