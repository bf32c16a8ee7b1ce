"""The operator's jobs in the browser: what is wrong, run this there, what happened."""

import base64
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.programs import PASSWORD
from tests.support.servers import wait_until
from tests.ui.conftest import SIMULATED, Dev, Visitor

pytestmark = pytest.mark.browser

UNAVAILABLE = {"code": "not_now", "title": "Unavailable", "detail": "not now", "status": 503}
PARTS = r"/readyz$|/api/v1/(hosts/[\w-]+$|events\?|tasks/|projections)"
PAGES = ("/hosts", "/run", "/tasks", "/audit", "/system")


# How many tables are wider than the place that they have.
CUT_OFF = "() => [...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth).length"


def heading(page: Page, name: str | re.Pattern[str]) -> None:
    page.get_by_role("heading", name=name, level=1).wait_for()


def register(dev: Dev, hostname: str, *groups: str) -> None:
    """A host that nobody ever hears from, as soon as pages show it."""
    key = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    dev.api.post("/hosts", {"hostname": hostname, "public_key": key, "groups": list(groups)})
    wait_until(lambda: dev.api.http.get(f"/hosts/{hostname}").is_success, timeout_s=20, what=f"{hostname} is shown")


def sign_in(page: Page, username: str) -> None:
    """Fill in the form that the page shows, and wait for the start page."""
    heading(page, "Sign in")
    page.get_by_label("User").fill(username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    heading(page, "Fleet")


def run(page: Page, dev: Dev, query: str, command: str) -> None:
    """Run a command on what the query prefills, and wait for its page."""
    page.goto(f"{dev.url}/run?{query}")
    page.get_by_label("Command").fill(command)
    page.get_by_role("button", name=re.compile(r"Run on \d+ host")).click()


def finished(page: Page, answers: str) -> None:
    expect(page.get_by_role("status").filter(has_text=answers)).to_be_visible()


def ping(build: str, **lag: float) -> str:
    """A frame of the stream, as a server sends it every five seconds."""
    now = datetime.now(UTC).isoformat()
    return f"event: ping\ndata: {json.dumps({'now': now, 'heads': {'event': 7}, 'lag': lag, 'build': build})}\n\n"


def stream_says(page: Page, frames: str) -> None:
    """Every stream of pages that are loaded from now on says this, and stays open."""
    page.add_init_script(
        """{
          const ask = fetch;
          const open = (signal) => new ReadableStream({
            start(controller) {
              controller.enqueue(new TextEncoder().encode(FRAMES));
              signal.addEventListener("abort", () => controller.error(signal.reason));
            },
          });
          const isStream = (url) => String(url).includes("/stream?");
          window.fetch = async (url, options) => isStream(url) ? new Response(open(options.signal)) : ask(url, options);
        }""".replace("FRAMES", json.dumps(frames))
    )


def hide(page: Page) -> None:
    """As if another tab came to the front."""
    page.evaluate(
        """() => {
          Object.defineProperty(document, "hidden", { value: true, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )


def test_a_stranger_signs_in_first_and_then_sees_what_was_asked_for(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    page.goto(f"{dev.url}/audit")
    heading(page, "Sign in")
    page.get_by_label("User").fill("admin")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("User or password is wrong.")
    assert "next=" in page.url

    page.goto(dev.login_url)
    heading(page, "Fleet")
    assert "token" not in page.url
    page.get_by_role("button", name="Sign out").click()
    heading(page, "Sign in")
    assert [c for c in visitor.complaints if "401" not in c] == []
    visitor.complaints.clear()


def test_a_sign_out_that_does_not_work_is_said(visitor: Visitor, page: Page) -> None:
    page.route("**/auth/logout", lambda route: route.abort())
    page.get_by_role("button", name="Sign out").click()

    expect(page.get_by_role("status").filter(has_text="The server cannot be reached.")).to_be_visible()
    heading(page, "Fleet")
    assert [c for c in visitor.complaints if "ERR_FAILED" not in c] == []
    visitor.complaints.clear()


def test_a_sign_out_of_a_session_that_has_ended_is_one(visitor: Visitor, page: Page) -> None:
    expect(page.locator("#pill")).to_have_text("Live")
    visitor.context.clear_cookies()
    page.get_by_role("button", name="Sign out").click()

    heading(page, "Sign in")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert [c for c in visitor.complaints if "401" not in c] == []
    visitor.complaints.clear()


def test_this_machine_is_online_with_all_the_others(page: Page, dev: Dev) -> None:
    row = page.get_by_role("row").filter(has_text=dev.hostname)

    expect(row).to_contain_text("Online")
    expect(page.get_by_role("button", name=re.compile(f"^{SIMULATED + 1} hosts"))).to_be_visible()
    page.get_by_label("Filter by name").fill("sim-0002")
    expect(page.get_by_role("row")).to_have_count(2)
    page.get_by_role("link", name="sim-0002").click()
    heading(page, "sim-0002")
    expect(page.get_by_text("Simulated GNU/Linux")).to_be_visible()
    expect(page.get_by_role("table").last.get_by_role("row").nth(1)).to_contain_text("%")


def test_a_command_on_this_machine_shows_what_it_said(page: Page, dev: Dev) -> None:
    run(page, dev, f"host={dev.hostname}", "echo $((6*7)); echo oops >&2; exit 3")

    heading(page, re.compile("echo"))
    finished(page, "1 failed")
    expect(page.locator("pre").filter(has_text="42")).to_be_visible()
    expect(page.locator("pre").filter(has_text="oops")).to_be_visible()
    expect(page.get_by_text("Failed, exit 3")).to_be_visible()


def test_a_group_is_run_in_two_clicks_and_equal_answers_are_one_card(page: Page, dev: Dev) -> None:
    page.get_by_label("Groups").select_option("db")
    page.get_by_role("link", name="Run a command").click()
    expect(page.get_by_text("exactly 2 hosts")).to_be_visible()
    page.get_by_label("Command").fill("echo same")
    page.get_by_role("button", name="Run on 2 hosts").click()

    finished(page, "2 ok")
    expect(page.get_by_text("sim-[0001,0004]")).to_be_visible()
    expect(page.locator("pre").filter(has_text="same")).to_have_count(1)


def test_more_than_half_of_the_fleet_is_asked_for_again(page: Page, dev: Dev) -> None:
    guard = {"level": 3, "rules": ["all hosts"]}
    page.route(
        "**/targets/preview",
        lambda route: route.fulfill(json={**route.fetch().json(), "guard": guard}),
    )
    run(page, dev, "all=1", "uptime")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    confirm = dialog.get_by_role("button", name=f"Run on {SIMULATED + 1} hosts")
    expect(confirm).to_be_disabled()
    dialog.get_by_label(re.compile("Type the number")).fill(str(SIMULATED + 1))
    expect(confirm).to_be_disabled()
    dialog.get_by_label(re.compile("Why")).fill("test")
    confirm.click()

    finished(page, f"{SIMULATED + 1} ok")
    expect(page.get_by_text("test", exact=True)).to_be_visible()


def test_what_asks_again_says_as_whom_and_what_becomes_of_hosts_that_are_away(
    request: pytest.FixtureRequest, page: Page, dev: Dev
) -> None:
    register(dev, "quiet-2")
    request.addfinalizer(lambda: dev.api.http.delete("/hosts/quiet-2"))
    run(page, dev, "host=quiet-2&user=nobody", "reboot")
    dialog = page.get_by_role("dialog")

    expect(dialog).to_contain_text("It runs as nobody.")
    expect(dialog).to_contain_text("1 host may be away (1 Pending): if it is, this is delivered when it returns.")
    dialog.get_by_role("button", name="Cancel").click()
    page.get_by_label("Hosts that are offline").select_option("skip")
    page.get_by_role("button", name="Run on 1 host").click()
    expect(dialog).to_contain_text("if it is, it is skipped.")


def test_a_button_that_is_off_says_what_it_waits_for(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/run")
    submit = page.get_by_role("button", name=re.compile("^Run"))
    expect(submit).to_have_accessible_description("Choose where it shall run.")
    page.get_by_label("One host").check()
    page.get_by_role("combobox", name="Hostname").fill("nosuch")
    expect(submit).to_have_accessible_description("Say what shall run: the command is empty.")
    page.get_by_label("Command").fill("uptime")
    expect(page.get_by_role("alert").filter(has_text="Left out: nosuch: not registered")).to_be_visible()
    expect(submit).to_have_accessible_description("There is no host to run it on.")
    page.get_by_role("combobox", name="Hostname").fill("sim-0001")

    expect(submit).to_be_enabled()
    expect(submit).to_have_accessible_description("")


def test_executions_arrive_while_one_looks(page: Page, dev: Dev) -> None:
    run(page, dev, "host=sim-0003", "sleep 3")
    expect(page.get_by_role("row").filter(has_text="sim-0003").filter(has_text="Running")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="1 running")).to_be_visible()
    expect(page.get_by_text("Not started after")).to_be_visible()

    finished(page, "1 ok")
    expect(page.get_by_text("Not started after")).to_have_count(0)


def test_cancel_says_what_it_does_and_the_task_ends_as_cancelled(page: Page, dev: Dev) -> None:
    run(page, dev, f"host={dev.hostname}", "sleep 60")
    page.get_by_role("row").filter(has_text="Running").first.wait_for()
    page.get_by_role("button", name="Cancel task").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel task").click()

    finished(page, "1 cancelled")
    expect(page.get_by_text("Cancelled").first).to_be_visible()


def test_who_may_only_look_is_told_which_permission_each_control_needs(visitor: Visitor, dev: Dev) -> None:
    dev.api.post("/users", {"username": "vera", "role": "viewer", "password": PASSWORD})
    task_id = dev.api.run({"host": "sim-0003"}, "sleep 20")
    page = visitor.page()
    page.goto(dev.url)
    sign_in(page, "vera")
    add = page.get_by_role("button", name="Add host")
    expect(add).to_be_disabled()
    expect(add).to_have_accessible_description("Needs the permission hosts.enrol")
    page.goto(f"{dev.url}/tasks/{task_id}")
    expect(page.get_by_role("button", name="Cancel task")).to_be_disabled()
    expect(page.get_by_text("Needs the permission tasks.cancel")).to_be_visible()
    page.goto(f"{dev.url}/run?host=sim-0003&command=uptime")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    expect(page.get_by_text("Needs the permission tasks.run")).to_have_count(2)  # the preview says so, too

    dev.api.post(f"/tasks/{task_id}/cancel")
    page.goto(f"{dev.url}/tasks/{task_id}")
    finished(page, "1 cancelled")
    expect(page.get_by_text("Needs the permission tasks.cancel")).to_be_hidden()
    assert [c for c in visitor.complaints if "401" not in c and "403" not in c] == []
    visitor.complaints.clear()


def test_what_a_host_says_is_text_and_never_markup(page: Page, dev: Dev) -> None:
    hostile = r"printf '<img src=x onerror=alert(1)>\n\033[31mred\033[0m\033]0;title\007\n\342\200\256evil\000\n'"
    run(page, dev, f"host={dev.hostname}", hostile)
    finished(page, "1 ok")

    said = page.locator("pre").filter(has_text="red")
    expect(said).to_contain_text("<img src=x onerror=alert(1)>")
    expect(said).to_contain_text("U+202Eevil")
    expect(said).not_to_contain_text("title")
    assert page.locator("main img").count() == 0


def test_what_a_host_says_of_itself_is_marked_everywhere(page: Page, dev: Dev) -> None:
    said = {"os": "Linux\u202e6", "kernel": "k\u200bl", "agent_version": "1.0\u2066", "addresses": ["10.0.0.1\u202d"]}
    said |= {"runs_as": "dep\u202eloy", "limits_missing": ["memory", "pids\u202e"]}

    def deceitful(route: Route) -> None:
        answer = route.fetch().json()
        hosts = [row | said for row in answer["items"]] if "items" in answer else None
        route.fulfill(json=answer | said if hosts is None else {**answer, "items": hosts})

    page.route(re.compile(r"/api/v1/hosts(\?|/sim-0001$)"), deceitful)
    page.route("**/stream?*", lambda route: route.fulfill(content_type="text/event-stream", body=""))
    page.goto(f"{dev.url}/hosts")
    expect(page.get_by_role("row").filter(has_text="sim-0001")).to_contain_text("1.0U+2066")
    page.goto(f"{dev.url}/hosts/sim-0001")
    for shown in ("LinuxU+202E6 · kU+200Bl", "1.0U+2066", "10.0.0.1U+202D", "depU+202Eloy only", "memory, pidsU+202E"):
        expect(page.get_by_text(shown)).to_be_visible()

    assert not re.search("[\u200b-\u200f\u202a-\u202e\u2066-\u2069]", page.locator("main").inner_text())


def test_a_command_is_asked_for_again_with_marks_for_what_would_not_be_seen(page: Page, dev: Dev) -> None:
    guard = {"level": 2, "rules": []}
    page.route("**/targets/preview", lambda route: route.fulfill(json={**route.fetch().json(), "guard": guard}))
    run(page, dev, "host=sim-0001", "echo \u202eevil")

    expect(page.get_by_role("dialog").locator("pre")).to_have_text("echo U+202Eevil")


def test_an_answer_that_comes_while_the_outputs_are_read_is_shown(page: Page, dev: Dev, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = dev.api.run({"host": dev.hostname}, f"until test -e {gate}; do sleep 0.1; done; echo said")

    def answer_with_what_was(route: Route) -> None:
        before = route.fetch()
        if not gate.exists():
            gate.touch()
            dev.api.finished(task_id)
        route.fulfill(response=before)

    page.route("**/outputs", answer_with_what_was)
    page.goto(f"{dev.url}/tasks/{task_id}")

    expect(page.locator("pre").filter(has_text="said")).to_be_visible()


def test_what_a_command_prints_is_seen_while_it_runs(page: Page, dev: Dev, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ticks = r"printf 'tick \377<img src=x onerror=alert(1)>\n'"
    run(page, dev, f"host={dev.hostname}", f"until test -e {gate}; do {ticks}; sleep 0.1; done; echo over")

    live = page.locator("section").filter(has=page.get_by_role("heading", name="Live", exact=True))
    expect(live).to_contain_text("A preview: the result carries the whole.")
    expect(live.locator("pre")).to_contain_text("tick \ufffd<img src=x onerror=alert(1)>")
    expect(page.get_by_role("row").filter(has_text="Running")).to_be_visible()
    assert page.locator("main img").count() == 0
    gate.touch()
    finished(page, "1 ok")
    expect(live).to_be_hidden()


def test_outputs_that_cannot_be_read_can_be_asked_for_again(visitor: Visitor, page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "echo again")
    dev.api.finished(task_id)
    page.route("**/outputs", lambda route: route.fulfill(status=503, json=UNAVAILABLE), times=1)
    page.goto(f"{dev.url}/tasks/{task_id}")
    expect(page.get_by_role("alert").filter(has_text="not now")).to_be_visible()
    page.get_by_role("button", name="Try again").click()

    expect(page.locator("pre").filter(has_text="again")).to_be_visible()
    assert [c for c in visitor.complaints if "503" not in c] == []
    visitor.complaints.clear()


@pytest.mark.parametrize(
    ("path", "request_of", "filtered", "wanted", "kept", "gone"),
    [
        ("/hosts", r"/api/v1/hosts\?", "Filter by name", "sim-0002", "sim-0002", "sim-0001"),
        ("/tasks", r"/api/v1/tasks\?(?!.*state=running)", "Filter by command", "echo this", "echo this", "echo that"),
        ("/audit", r"/api/v1/events\?", "Hostname", "sim-0002", "sim-0002", "sim-0001"),
    ],
)
def test_a_list_that_could_not_be_read_is_whole_after_trying_again(
    visitor: Visitor,
    page: Page,
    dev: Dev,
    path: str,
    request_of: str,
    filtered: str,
    wanted: str,
    kept: str,
    gone: str,
) -> None:
    for hostname, command in (("sim-0001", "echo that"), ("sim-0002", "echo this")):
        dev.api.finished(dev.api.run({"host": hostname}, command))
    page.route(re.compile(request_of), lambda route: route.fulfill(status=503, json=UNAVAILABLE), times=2)
    page.goto(dev.url + path)
    problem = page.get_by_role("alert").filter(has_text="not now")
    expect(problem).to_be_visible()
    expect(page.get_by_role("table")).to_have_count(0)
    page.get_by_role("button", name="Try again").click()
    expect(problem).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    rows = page.get_by_role("table").first.get_by_role("row")
    expect(rows.filter(has_text=gone).first).to_be_visible()
    expect(problem).to_have_count(0)

    page.get_by_label(filtered).fill(wanted)
    page.get_by_label(filtered).press("Enter")
    expect(rows.filter(has_text=gone)).to_have_count(0)
    expect(rows.filter(has_text=kept).first).to_be_visible()
    assert [c for c in visitor.complaints if "503" not in c] == []
    visitor.complaints.clear()


def test_a_page_whose_parts_could_not_be_read_is_whole_after_trying_again(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "echo whole")
    dev.api.finished(task_id)
    page.route(re.compile(PARTS), lambda route: route.fulfill(status=503, json=UNAVAILABLE))
    page.goto(f"{dev.url}/tasks/{task_id}")
    expect(page.get_by_role("alert")).to_have_count(1)
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("pre").filter(has_text="whole")).to_be_visible()
    page.get_by_role("button", name="Try again").click()  # the events'
    expect(page.get_by_role("row").filter(has_text="execution.finished")).to_be_visible()

    for path, parts in (("/hosts/sim-0001", 1), ("/system", 2)):
        page.route(re.compile(PARTS), lambda route: route.fulfill(status=503, json=UNAVAILABLE))
        page.goto(dev.url + path)
        expect(page.get_by_role("alert")).to_have_count(parts)
        page.unroute_all()
        for left in reversed(range(parts)):
            page.get_by_role("button", name="Try again").first.click()
            expect(page.get_by_role("alert").filter(visible=True)).to_have_count(left)
    expect(page.get_by_role("row").filter(has_text="database")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="audit")).to_be_visible()
    assert [c for c in visitor.complaints if "503" not in c] == []
    visitor.complaints.clear()


def test_a_long_output_can_be_read_as_far_as_it_is_kept(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": dev.hostname}, "seq 1 400000")
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}")
    said = page.locator("pre").filter(has_text=re.compile(r"^1\n2\n"))
    expect(said).to_be_visible()
    expect(page.locator("pre").filter(has_text="400000")).to_have_count(0)
    page.get_by_role("button", name="Show all that is kept").click()

    expect(page.locator("pre").filter(has_text=re.compile(r"\n400000\n$"))).to_be_visible()
    expect(page.get_by_text(re.compile(r"of 2\.6 MiB were not kept"))).to_be_visible()
    expect(said).to_be_visible()


def test_an_answer_that_was_not_sent_along_is_never_called_empty(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "echo said")
    dev.api.finished(task_id)

    def without_text(route: Route) -> None:
        outputs = route.fetch().json()
        without = [{**group, "stdout": None, "stderr": None} for group in outputs["groups"]]
        route.fulfill(json={**outputs, "groups": without})

    page.route("**/outputs", without_text)
    page.goto(f"{dev.url}/tasks/{task_id}")
    show = page.get_by_role("button", name="Show all that is kept")
    expect(show).to_be_visible()
    expect(page.get_by_text("No output.")).to_have_count(0)
    show.click()

    expect(page.locator("pre").filter(has_text="said")).to_be_visible()


def test_why_a_host_did_not_run_it_stands_in_its_card_on_a_telephone_too(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": dev.hostname}, "id", user="nobody-of-this-name")
    dev.api.finished(task_id)
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{dev.url}/tasks/{task_id}")

    expect(page.get_by_text("there is no account nobody-of-this-name on this host").first).to_be_visible()
    expect(page.get_by_text("No output.")).to_have_count(0)


def test_hosts_that_did_not_answer_say_why_each_reason_once_and_nothing_of_output(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"group": "db"}, "echo lost")
    dev.api.finished(task_id)
    never = "never delivered: the host was offline"
    silent = "no word after it was sent; it may have run"

    def without_answers(route: Route) -> None:
        found = route.fetch().json()
        gone = {"state": "lost", "exit_code": None, "stdout_sha256": None, "stderr_sha256": None}
        if "groups" in found:
            [group] = found["groups"]
            found["groups"] = [{**group, **gone, "stdout": None, "stderr": None}]
        else:
            reasons = (never, silent)
            found["items"] = [{**row, **gone, "reason": r} for row, r in zip(found["items"], reasons, strict=True)]
        route.fulfill(json=found)

    page.route(re.compile(rf"/tasks/{task_id}/(outputs|executions)"), without_answers)
    stream_says(page, ping("?", events=0, seconds=0))
    page.goto(f"{dev.url}/tasks/{task_id}")

    card = page.locator("section.panel").filter(has=page.get_by_text("sim-[0001,0004]"))
    expect(card).to_contain_text(f"sim-0001: {never}")
    expect(card).to_contain_text(f"sim-0004: {silent}")
    expect(page.get_by_text("No output.")).to_have_count(0)


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


def test_the_trail_shows_every_step_and_all_of_each(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "true")
    dev.api.finished(task_id)
    page.get_by_role("link", name="Audit").click()
    heading(page, "Audit")
    row = page.get_by_role("row").filter(has_text="execution.finished").filter(has_text="sim-0001").first
    row.get_by_role("button").click()

    expect(page.locator("pre").filter(has_text=task_id)).to_contain_text('"outcome": "completed"')
    page.get_by_label(re.compile("^Kind")).fill("host")
    page.get_by_label(re.compile("^Kind")).press("Enter")
    expect(page.get_by_role("row").filter(has_text="execution.")).to_have_count(0)
    expect(page.get_by_role("row").filter(has_text="host.registered").first).to_be_visible()


def test_tasks_are_listed_newest_first_and_come_live(page: Page, dev: Dev) -> None:
    page.get_by_role("link", name="Tasks").click()
    heading(page, "Tasks")
    dev.api.finished(dev.api.run({"host": "sim-0004"}, "echo newest"))

    first = page.get_by_role("row").nth(1)
    expect(first).to_contain_text("echo newest")
    expect(first).to_contain_text("1 ok")


def test_what_is_run_on_a_host_comes_to_its_page_and_nothing_else_does(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/hosts/sim-0002")
    expect(page.get_by_role("row").filter(has_text="%").first).to_be_visible()
    dev.api.finished(dev.api.run({"host": "sim-0003"}, "echo elsewhere"))
    dev.api.finished(dev.api.run({"hosts": ["sim-0002", "sim-0003"]}, "echo on this host, too"))

    row = page.get_by_role("row").filter(has_text="echo on this host, too")
    expect(row).to_contain_text("2 ok")
    expect(page.get_by_role("row").filter(has_text="echo elsewhere")).to_have_count(0)


def test_a_host_is_added_by_a_token_that_is_shown_once(page: Page) -> None:
    page.get_by_role("button", name="Add host").click()

    expect(page.locator("pre")).to_contain_text(re.compile("control-plane-agent enrol --server .* --token cpe_"))


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_a_telephone_and_speaks_chinese(browser: Browser, dev: Dev, path: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, locale="zh-CN", color_scheme="dark")
    visitor = Visitor(context)
    page = visitor.page()
    page.goto(dev.login_url)
    page.get_by_role("heading", name="主机").wait_for()
    page.goto(dev.url + path)
    page.get_by_role("heading", level=1, name=re.compile(r"[\u4e00-\u9fff]")).wait_for()

    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert page.evaluate(CUT_OFF) == 0
    assert visitor.complaints == []
    context.close()


def test_a_host_and_a_task_fit_a_telephone_as_a_whole(page: Page, dev: Dev) -> None:
    name = "a-server-with-quite-a-long-name.eu-central-1.example.com"
    register(dev, name, "long")
    task_id = dev.api.run({"all": True}, "echo " + "a-long-line-without-a-gap" * 8, when_offline="skip")
    dev.api.finished(task_id)
    dev.api.http.delete(f"/hosts/{name}")
    page.set_viewport_size({"width": 360, "height": 740})
    for path in (f"/tasks/{task_id}", "/hosts/sim-0001", "/tasks", f"/hosts?state=retired&q={name}"):
        page.goto(dev.url + path)
        page.locator("tbody tr").first.wait_for()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        assert page.evaluate(CUT_OFF) == 0


def test_the_dialog_that_asks_whether_to_cancel_has_two_different_answers(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0002"}, "sleep 20")
    page.goto(f"{dev.url}/tasks/{task_id}")
    page.get_by_role("button", name="Cancel task").click()
    page.get_by_role("dialog").get_by_role("button", name="Let it run").click()
    expect(page.get_by_role("dialog")).to_have_count(0)

    assert dev.api.get(f"/tasks/{task_id}")["cancel_requested_at"] is None
    dev.api.post(f"/tasks/{task_id}/cancel")


def test_an_old_page_still_has_its_whole_menu(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    page.clock.install()
    page.route("**/stream?*", lambda route: None)
    page.goto(dev.login_url)
    page.get_by_role("row").filter(has_text=dev.hostname).wait_for()
    page.clock.fast_forward(31_000)
    expect(page.get_by_role("status").filter(has_text="Not connected")).to_be_visible()

    expect(page.get_by_role("button", name="Sign out")).to_be_in_viewport(ratio=1)


def test_a_preview_counts_the_states_of_its_hosts_as_they_are_and_says_how_long_it_holds(
    request: pytest.FixtureRequest, page: Page, dev: Dev
) -> None:
    register(dev, "quiet-1", "quiet")
    request.addfinalizer(lambda: dev.api.http.delete("/hosts/quiet-1"))
    page.goto(f"{dev.url}/run?group=quiet&command=uptime")
    preview = page.get_by_role("region", name="Preview")
    expect(preview).to_contain_text("1 Pending")
    expect(preview.get_by_role("timer")).to_have_text(re.compile(r"in \d min"))
    dev.api.post("/hosts/quiet-1/revoke", {"reason": "for this test"})

    expect(preview).to_contain_text("1 Revoked")


def test_a_preview_is_made_again_when_it_has_ended_and_when_what_was_sent_is_refused(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    page.clock.install()
    with page.expect_response("**/targets/preview"):
        page.goto(f"{dev.url}/run?host=sim-0001&command=uptime")
    submit = page.get_by_role("button", name="Run on 1 host")
    expect(submit).to_be_enabled()
    with page.expect_response("**/targets/preview"):
        page.clock.fast_forward(301_000)
    expect(submit).to_be_enabled()

    refusal = {"code": "changed_meanwhile", "detail": "look again"}
    page.route("**/api/v1/tasks", lambda route: route.fulfill(status=409, json=refusal), times=1)
    with page.expect_response("**/targets/preview"):
        submit.click()
    expect(page.get_by_role("alert").filter(has_text="look again")).to_be_visible()
    submit.click()
    finished(page, "1 ok")
    assert [c for c in visitor.complaints if "409" not in c] == []
    visitor.complaints.clear()


def test_the_keyboard_alone_is_enough_to_run_a_command(page: Page, dev: Dev) -> None:
    page.keyboard.press("g")
    page.keyboard.press("r")
    heading(page, "Run a command")
    page.get_by_label("One host").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.type("sim-0005")
    page.get_by_label("Command").focus()
    page.keyboard.type("hostname")
    expect(page.get_by_role("button", name="Run on 1 host")).to_be_enabled()
    page.keyboard.press("Control+Enter")

    finished(page, "1 ok")


def test_a_chinese_page_says_in_chinese_what_went_wrong_and_why(browser: Browser, dev: Dev) -> None:
    refused = dev.api.run({"host": dev.hostname}, "id", user="nobody-of-this-name")
    dev.api.finished(refused)
    context = browser.new_context(locale="zh-CN")
    page = Visitor(context).page()
    page.goto(dev.login_url)
    page.get_by_role("heading", name="主机").wait_for()

    page.goto(f"{dev.url}/hosts/nosuch")
    expect(page.get_by_role("alert")).to_contain_text("没有这台主机。")
    page.goto(f"{dev.url}/hosts/sim-0001")
    expect(page.get_by_text("收到心跳").first).to_be_visible()
    page.goto(f"{dev.url}/tasks/{refused}")
    expect(page.get_by_text("这台主机上没有账号 nobody-of-this-name").first).to_be_visible()
    expect(page.get_by_role("status").filter(has_text=re.compile(r"\d 秒"))).to_be_visible()
    page.goto(f"{dev.url}/run?hosts=nosuch&command=reboot")
    expect(page.get_by_text("nosuch: 未注册")).to_be_visible()
    page.goto(f"{dev.url}/run?host=sim-0001&command=reboot")
    expect(page.get_by_text("3: 重启或关闭机器")).to_be_visible()
    context.close()


def test_the_policy_is_strict_and_files_are_immutable(dev: Dev) -> None:
    index = dev.api.http.get(f"{dev.url}/hosts")
    policy = index.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "trusted-types 'none'" in policy
    assert "unsafe" not in policy
    [script] = re.findall(r'src="(/ui/[^"]+main\.js)"', index.text)
    assert "immutable" in dev.api.http.get(dev.url + script).headers["cache-control"]


def test_a_session_that_ends_asks_for_a_name_over_the_page_and_loses_nothing(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    dev.api.post("/users", {"username": "ada", "role": "operator", "password": PASSWORD})
    page.get_by_role("button", name="Sign out").click()
    sign_in(page, "ada")
    page.goto(f"{dev.url}/run?host=sim-0001")
    page.get_by_label("Command").fill("echo kept")
    expect(page.get_by_role("button", name="Run on 1 host")).to_be_enabled()
    visitor.context.clear_cookies()
    page.get_by_role("button", name="Run on 1 host").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("User").fill("ada")
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_role("button", name="Sign in").click()

    finished(page, "1 ok")
    heading(page, "echo kept")
    assert [c for c in visitor.complaints if "401" not in c] == []
    visitor.complaints.clear()


def test_a_session_of_the_embedded_mode_that_ends_goes_on_by_the_link_and_loses_nothing(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    page.goto(f"{dev.url}/run?host=sim-0001")
    page.get_by_label("Command").fill("echo kept by the link")
    expect(page.get_by_role("button", name="Run on 1 host")).to_be_enabled()
    visitor.context.clear_cookies()
    page.get_by_role("button", name="Run on 1 host").click()
    expect(page.get_by_role("dialog")).to_contain_text("the link that it printed")
    other = visitor.page()
    other.goto(dev.login_url)
    heading(other, "Fleet")
    page.evaluate("() => window.dispatchEvent(new Event('focus'))")

    finished(page, "1 ok")
    heading(page, "echo kept by the link")
    assert [c for c in visitor.complaints if "401" not in c] == []
    visitor.complaints.clear()


def test_a_link_of_an_earlier_run_says_that_it_has_ended(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    page.goto(f"{dev.url}/login#token=of-an-earlier-run")
    expect(page.get_by_role("alert")).to_contain_text("This link has ended")
    expect(page.get_by_text("open the link that it printed")).to_be_visible()
    assert [c for c in visitor.complaints if "401" not in c] == []
    visitor.complaints.clear()


def test_the_system_page_shows_what_is_ready_and_how_far_the_read_tables_are(page: Page, dev: Dev) -> None:
    page.keyboard.press("g")
    page.keyboard.press("s")
    heading(page, "System")

    for name in ("database", "broker", "hosts", "tasks", "audit"):
        expect(page.get_by_role("row").filter(has_text=name).first).to_be_visible()


def test_the_number_of_running_tasks_outlives_a_stream_that_starts_anew(page: Page, dev: Dev) -> None:
    running = dev.api.run({"host": "sim-0002"}, "sleep 20")
    reset = f'event: reset\ndata: {{"topic":"tasks"}}\nid: {dev.api.get("/tasks")["as_of"]}\n\n'
    frames = ping("?", events=0, seconds=0) + reset
    page.goto(f"{dev.url}/system")
    number = page.get_by_role("link", name="Tasks").locator("#running")
    expect(number).to_have_text("1")
    page.route("**/stream?*", lambda route: route.fulfill(content_type="text/event-stream", body=frames), times=1)
    with page.expect_response(re.compile(r"/tasks\?state=running")):
        page.get_by_role("link", name="Fleet").click()

    expect(number).to_have_text("1")
    dev.api.post(f"/tasks/{running}/cancel")
    expect(number).to_have_text("")


def test_a_page_whose_stream_never_came_looks_old_all_the_same(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    page.clock.install()
    page.route("**/stream?*", lambda route: route.fulfill(status=429, json={"code": "too_many_streams"}))
    late: list[Route] = []
    page.route(re.compile("state=running"), lambda route: late.append(route))
    page.goto(dev.login_url)
    page.get_by_role("row").filter(has_text=dev.hostname).wait_for()
    banner = page.get_by_role("status").filter(has_text="Not connected. Data as of")
    expect(banner).to_have_count(0)
    page.clock.fast_forward(31_000)
    expect(banner).to_be_visible()
    with page.expect_response("**/stream?*"):  # which is tried again for what has come late
        late[0].continue_()
    page.clock.run_for(1000)

    expect(banner).to_be_visible()
    page.close()
    assert [c for c in visitor.complaints if "429" not in c] == []
    visitor.complaints.clear()


def test_it_is_said_that_nothing_comes_and_since_when(visitor: Visitor, page: Page) -> None:
    pill = page.locator("#pill")
    expect(pill).to_have_text("Live")
    page.clock.install()
    page.route("**/stream?*", lambda route: None)  # a server that takes the request and says no more
    page.reload()
    page.get_by_role("row").first.wait_for()
    expect(pill).to_have_text("Connecting…")
    page.clock.fast_forward(31_000)

    expect(pill).to_have_text(re.compile(r"Offline since \d"))
    page.unroute_all()
    pill.click()
    expect(pill).to_have_text("Live")


def test_read_tables_that_are_behind_are_not_called_live(page: Page) -> None:
    stream_says(page, ping("?", events=312, seconds=9))
    page.reload()

    expect(page.get_by_role("button", name="Catching up 312")).to_be_visible()


def test_a_page_of_another_build_is_loaded_when_nobody_looks_and_nothing_would_be_lost(page: Page, dev: Dev) -> None:
    stream_says(page, ping("another", events=0, seconds=0))
    page.goto(f"{dev.url}/run?host=sim-0001")
    expect(page.get_by_role("status").filter(has_text="a newer page")).to_have_count(1)
    page.get_by_label("Command").fill("echo kept")
    page.evaluate("() => (document.body.dataset.old = '')")
    hide(page)
    expect(page.get_by_label("Command")).to_have_value("echo kept")
    assert page.locator("body").get_attribute("data-old") == ""

    page.get_by_role("link", name="Fleet").click()
    heading(page, "Fleet")
    with page.expect_navigation():
        hide(page)
    expect(page.locator("body")).not_to_have_attribute("data-old", "")


def test_a_stream_that_is_cut_is_said_and_comes_back(page: Page) -> None:
    pill = page.locator("#pill")
    expect(pill).to_have_text("Live")
    page.context.set_offline(True)
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    page.context.set_offline(False)

    expect(pill).to_have_text("Live")
