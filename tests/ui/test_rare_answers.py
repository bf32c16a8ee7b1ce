"""Pages in states that a server comes to seldom, or late: it is answered in its place."""

import json
import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.programs import PASSWORD
from tests.ui import answers
from tests.ui.answers import answer
from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import at_fleet, forgiven, heading, newcomer

pytestmark = pytest.mark.browser


def test_what_waits_for_a_second_person_is_read_and_approved_with_a_reason(page: Page, dev: Dev) -> None:
    answer(page, "approvals", {"items": [answers.WAITING, answers.OWN]})
    answer(page, "approvals/a1/approve", {"approval_id": "a1", "seq": 9}, method="POST")
    page.goto(f"{dev.url}/access")
    card = page.get_by_role("row").filter(has_text="olaf")
    for shown in ("rm -r /var/tmp/dumpU+202E", "the disk of db1 is full", "3 hosts: db[1-3]", "r-db", "in 10 yr"):
        expect(card).to_contain_text(shown.replace("in 10 yr", "in "))
    own = page.get_by_role("row").filter(has_text="admin: waiting for a second person")
    expect(own).to_be_visible()
    expect(own.get_by_role("button")).to_have_count(0)

    card.get_by_role("button", name="Approve").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("pre")).to_have_text("rm -r /var/tmp/dumpU+202E")
    dialog.get_by_label("Reason").fill("looked at it")
    with page.expect_request("**/approvals/a1/approve") as asked:
        dialog.get_by_role("button", name="Approve").click()
    assert asked.value.post_data_json == {"reason": "looked at it"}


def test_what_was_approved_is_run_by_who_asked_just_as_it_was_asked_for(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "echo approved")
    dev.api.finished(task_id)
    task = dev.api.get(f"/tasks/{task_id}")
    answer(page, "approvals", {"items": [{**answers.APPROVED, "task_id": task_id}]})
    answer(page, "tasks", {"task": task}, method="POST", status=202)
    page.goto(f"{dev.url}/access?tab=approvals")
    page.get_by_role("button", name="Run now").click()
    with page.expect_request(lambda r: r.method == "POST" and r.url.endswith("/api/v1/tasks")) as asked:
        page.get_by_role("dialog").get_by_role("button", name="Run now").click()

    heading(page, "echo approved")
    request = answers.APPROVED["request"]
    assert isinstance(request, dict)
    assert asked.value.post_data_json == {**request, "task_id": task_id, "approval_id": "a3"}


def test_a_command_that_needs_approval_is_asked_for_with_a_reason(page: Page, dev: Dev) -> None:
    def needs(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "approval_required": True, "approval_rules": ["r-db"]})

    page.route("**/targets/preview", needs)
    answer(
        page, "approvals", {"approval_id": "a1", "task_id": "t", "expires_at": "", "seq": 1}, method="POST", status=201
    )
    page.goto(f"{dev.url}/run?host=sim-0001&command=uptime")
    expect(page.get_by_text("A rule wants a second person to approve this.")).to_be_visible()
    page.get_by_role("button", name="Ask for approval: 1 host").click()
    dialog = page.get_by_role("dialog")
    yes = dialog.get_by_role("button", name="Ask for approval: 1 host")
    expect(yes).to_be_disabled()
    dialog.get_by_label(re.compile("Why")).fill("to see")
    with page.expect_request(lambda r: r.method == "POST" and r.url.endswith("/approvals")) as asked:
        yes.click()

    heading(page, "Access")
    sent = asked.value.post_data_json
    assert (sent["command"], sent["target"], sent["reason"]) == ("uptime", {"host": "sim-0001"}, "to see")


def test_a_refusal_that_names_approval_turns_the_button_into_the_question(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    needs = False

    def preview(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "approval_required": needs})

    page.route("**/targets/preview", preview)
    refusal = {"code": "approval_required", "detail": "a second person has to approve this", "rules": ["r-db"]}
    answer(page, "tasks", refusal, method="POST", status=403)
    page.goto(f"{dev.url}/run?host=sim-0001&command=uptime")
    submit = page.get_by_role("button", name="Run on 1 host")
    expect(submit).to_be_enabled()
    needs = True
    submit.click()

    expect(page.get_by_role("alert").filter(has_text="A second person has to approve this first")).to_be_visible()
    expect(page.get_by_role("button", name="Ask for approval: 1 host")).to_be_enabled()
    forgiven(visitor, "403")


def test_a_template_asks_for_its_parameters_and_nothing_else(page: Page, dev: Dev) -> None:
    def preview(route: Route) -> None:
        asked = route.request.post_data_json
        asked_before.append({name: asked[name] for name in ("template", "parameters") if name in asked})
        plain = {"target": asked["target"], "user": "root", "command": "true"}
        route.fulfill(json=route.fetch(post_data=json.dumps(plain)).json() | {"guard": {"level": 2, "rules": []}})

    asked_before: list[dict[str, object]] = []
    task_id = dev.api.run({"host": "sim-0001"}, "echo by template")
    dev.api.finished(task_id)
    answer(page, "templates", {"items": [answers.TEMPLATE]})
    answer(page, "tasks", {"task": dev.api.get(f"/tasks/{task_id}")}, method="POST", status=202)
    page.route("**/targets/preview", preview)
    page.goto(f"{dev.url}/run?host=sim-0001&command=uptime")
    page.get_by_label("What").select_option("restart-unit")
    expect(page.get_by_label("Command", exact=True)).to_be_hidden()
    expect(page.get_by_text("restart a service · runs as deploy, at most 60 s")).to_be_visible()
    submit = page.get_by_role("button", name=re.compile("^Run"))
    expect(submit).to_have_accessible_description("Fill in what the template needs.")
    page.get_by_label(re.compile("^unit")).select_option("redis")
    page.get_by_label(re.compile("^lines")).fill("5")
    page.get_by_role("button", name="Run on 1 host").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("pre")).to_have_text("/usr/bin/systemctl restart redis --lines=5")
    expect(dialog).to_contain_text("It runs as deploy.")
    with page.expect_request(lambda r: r.method == "POST" and r.url.endswith("/api/v1/tasks")) as asked:
        dialog.get_by_role("button", name="Run on 1 host").click()

    said = {"template": "restart-unit", "parameters": {"unit": "redis", "lines": 5}}
    sent = asked.value.post_data_json
    assert {name: sent[name] for name in said} == said == asked_before[-1]
    assert not {"command", "user", "timeout"} & sent.keys()


def test_everything_is_stopped_in_two_clicks_with_a_reason_and_every_page_says_so(page: Page, dev: Dev) -> None:
    is_stopped = False

    def stop(route: Route) -> None:
        nonlocal is_stopped
        if route.request.method == "GET":
            return route.fulfill(json=answers.STOPPED if is_stopped else answers.NOT_STOPPED)
        is_stopped = route.request.method == "POST"
        return route.fulfill(json={"seq": 9})

    page.route(re.compile("/api/v1/stop"), stop)
    page.route(re.compile("/auth/me"), lambda r: r.fulfill(json=with_all(r.fetch().json())))
    page.goto(f"{dev.url}/system")
    page.get_by_role("button", name="Stop everything").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(re.compile("Why")).fill("a worm")
    with page.expect_request(lambda r: r.method == "POST" and r.url.endswith("/stop")) as asked:
        dialog.get_by_role("button", name="Stop everything").click()
    assert asked.value.post_data_json == {"reason": "a worm"}
    banner = page.get_by_role("status").filter(has_text="Everything is stopped by sid: a worm.")
    expect(banner).to_be_visible()
    page.get_by_role("link", name="Fleet").click()
    expect(banner).to_be_visible()
    banner.get_by_role("button", name="Lift").click()
    dialog.get_by_label(re.compile("Why")).fill("gone")
    dialog.get_by_role("button", name="Lift").click()
    expect(banner).to_be_hidden()


def with_all(me: dict[str, object]) -> dict[str, object]:
    permissions = me["permissions"]
    assert isinstance(permissions, list)
    more = ["stop.set", "stop.lift", "tasks.approve", "templates.write"]
    return {**me, "permissions": [*permissions, *more]}


def test_who_may_not_lift_the_stop_is_told_so(page: Page, dev: Dev) -> None:
    answer(page, "stop", answers.STOPPED)
    page.route(re.compile("/auth/me"), lambda r: r.fulfill(json={**r.fetch().json(), "permissions": ["hosts.read"]}))
    page.goto(f"{dev.url}/system")
    lift = page.get_by_role("button", name="Lift")
    expect(lift).to_be_disabled()
    expect(lift).to_have_accessible_description("Needs the permission stop.lift")


def test_a_session_that_is_too_old_asks_for_the_password_once_and_goes_on(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    newcomer(page, dev, "sara", "administrator")
    again = {"code": "sign_in_again", "detail": "sign in again", "status": 403}
    answer(page, "tokens", again, method="POST", status=403, times=1)
    page.goto(f"{dev.url}/access?tab=tokens")
    page.get_by_role("button", name="New token").click()
    page.get_by_role("dialog").get_by_label("Name").fill("kept")
    page.get_by_role("dialog").get_by_role("button", name="New token").click()
    form = page.get_by_role("dialog").filter(has_text="sign in once more")
    expect(form.get_by_label("User")).to_have_value("sara")
    expect(form.get_by_label("Password")).to_be_focused()
    page.evaluate("() => window.dispatchEvent(new Event('focus'))")  # the session is there still, and still too old
    expect(form).to_be_visible()
    form.get_by_label("Password").fill(PASSWORD)
    form.get_by_role("button", name="Sign in").click()

    expect(page.get_by_role("row").filter(has_text="kept")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    forgiven(visitor, "401", "403")


def test_who_does_not_sign_in_again_is_told_that_it_was_not_done(visitor: Visitor, page: Page, dev: Dev) -> None:
    again = {"code": "sign_in_again", "detail": "sign in again", "status": 403}
    answer(page, "tokens", again, method="POST", status=403)
    page.goto(f"{dev.url}/access?tab=tokens")
    page.get_by_role("button", name="New token").click()
    page.get_by_role("dialog").get_by_label("Name").fill("never")
    page.get_by_role("dialog").get_by_role("button", name="New token").click()
    page.get_by_role("dialog").filter(has_text="sign in once more").wait_for()
    page.keyboard.press("Escape")

    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text(
        "This needs a session that was opened just now"
    )
    forgiven(visitor, "403")


CHALLENGE = {"challenge": "opaque", "options": {"challenge": "AQID", "rpId": "localhost", "allowCredentials": []}}
# As a browser with a passkey: once it is touched, it says what it was asked with.
PASSKEY = """
  const touched = new Promise((resolve) => { window.touch = resolve; });
  navigator.credentials.get = async ({ publicKey }) => {
    await touched;
    return { toJSON: () => ({ id: "k1", asked: [...new Uint8Array(publicKey.challenge)] }) };
  };
"""


def test_a_passkey_is_asked_for_after_the_password(visitor: Visitor, page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    me = dev.api.get("/auth/me")
    page.get_by_role("button", name="Sign out").click()
    heading(page, "Sign in")
    page.add_init_script(PASSKEY)
    answer(page, "auth/login", {"code": "passkey_required", "status": 401, **CHALLENGE}, method="POST", status=401)
    answer(page, "auth/passkey", {**me, "csrf_token": "x"}, method="POST")
    page.goto(f"{dev.url}/login")
    page.get_by_label("User").fill("ada")
    page.get_by_label("Password").fill("right")
    page.get_by_role("button", name="Sign in").click()
    waits = page.get_by_text("Your browser asks for your passkey")
    expect(waits).to_be_visible()
    with page.expect_request("**/auth/passkey") as asked:
        page.evaluate("() => window.touch()")

    assert asked.value.post_data_json == {"challenge": "opaque", "credential": {"id": "k1", "asked": [1, 2, 3]}}
    page.close()
    visitor.complaints.clear()


def test_a_browser_that_cannot_use_passkeys_says_so(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    page.add_init_script("delete window.PublicKeyCredential")
    answer(page, "auth/login", {"code": "passkey_required", "status": 401, **CHALLENGE}, method="POST", status=401)
    page.goto(f"{dev.url}/login")
    page.get_by_label("User").fill("ada")
    page.get_by_label("Password").fill("right")
    page.get_by_role("button", name="Sign in").click()

    expect(page.get_by_role("alert")).to_contain_text("this browser cannot use one here")
    forgiven(visitor, "401")


def test_an_identity_provider_is_offered_and_what_it_refused_is_said(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    answer(page, "auth/providers", {"oidc": {"name": "Company"}, "passkeys": True})
    page.goto(f"{dev.url}/#/login?error=oidc_failed")
    expect(page.get_by_role("alert")).to_contain_text("The identity provider did not sign you in")
    offer = page.get_by_role("link", name="Sign in with Company")
    expect(offer).to_have_attribute("href", "/api/v1/auth/oidc/begin")
    assert "#" not in page.url
    forgiven(visitor, "401")


def test_a_host_that_asks_to_come_in_is_accepted_by_its_fingerprint(page: Page, dev: Dev) -> None:
    answer(page, "pending-hosts", {"items": [answers.PENDING]})
    answer(
        page, f"pending-hosts/{answers.PENDING['fingerprint']}/accept", {"hostname": "web-9", "seq": 1}, method="POST"
    )
    page.goto(f"{dev.url}/access?tab=enrolment")
    host = page.get_by_role("row").filter(has_text="0123 4567 89ab cdef")
    expect(host).to_contain_text("0123 4567 89ab cdef 0123")
    taken = page.get_by_role("columnheader", name="Name is taken")
    expect(host.get_by_role("cell").nth(taken.evaluate("(head) => head.cellIndex"))).to_have_text("yes")
    page.set_viewport_size({"width": 360, "height": 740})
    host.get_by_role("button", name="Accept").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("0123 4567 89ab cdef 0123")
    assert dialog.evaluate("(e) => e.scrollWidth - e.clientWidth") == 0  # all of the fingerprint is seen
    expect(dialog.get_by_label("Hostname")).to_have_value("web-9")
    dialog.get_by_label(re.compile("Groups")).fill("web")
    with page.expect_request("**/accept") as asked:
        dialog.get_by_role("button", name="Accept").click()
    assert asked.value.post_data_json == {"hostname": "web-9", "groups": ["web"]}


def test_one_changes_the_own_password_and_stays(visitor: Visitor, page: Page, dev: Dev) -> None:
    answer(page, "auth/password", {**dev.api.get("/auth/me"), "csrf_token": "another"}, method="POST")
    wrong = {"code": "login_failed", "detail": "user or password is wrong", "status": 401}
    answer(page, "auth/password", wrong, method="POST", status=401, times=1)
    page.goto(f"{dev.url}/access?tab=account")
    page.get_by_role("button", name="Change").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Present password").fill("old one ")
    dialog.get_by_label("New password").fill(PASSWORD)
    dialog.get_by_role("button", name="Change").click()
    expect(dialog.get_by_role("alert")).to_have_text("User or password is wrong.")
    with page.expect_request("**/auth/password") as asked:
        dialog.get_by_role("button", name="Change").click()
    assert asked.value.post_data_json == {"current": "old one ", "new": PASSWORD}
    expect(dialog).to_have_count(0)
    heading(page, "Access")
    expect(page.get_by_text("Your password is changed.")).to_be_visible()
    forgiven(visitor, "401")


def test_a_passkey_is_added_under_a_name(page: Page, dev: Dev) -> None:
    options = {
        "rp": {"name": "c", "id": "localhost"},
        "user": {"id": "AQ", "name": "admin", "displayName": "admin"},
        "challenge": "AQID",
        "pubKeyCredParams": [{"type": "public-key", "alg": -8}],
    }
    page.add_init_script(
        """const touched = new Promise((resolve) => { window.touch = resolve; });
           navigator.credentials.create = async ({ publicKey }) => {
             await touched;
             return { toJSON: () => ({ id: "k1", asked: [...new Uint8Array(publicKey.challenge)] }) };
           };"""
    )
    answer(page, "auth/passkeys/begin", {"challenge": "opaque", "options": options}, method="POST")
    answer(page, "auth/passkeys", {"passkey_id": "p1", "seq": 3}, method="POST", status=201)
    page.goto(f"{dev.url}/access?tab=account")
    page.get_by_role("button", name="Add a passkey").click()
    page.get_by_role("dialog").get_by_label("Name").fill("key ring")
    page.get_by_role("dialog").get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("dialog").get_by_text("Your browser asks for your passkey")).to_be_visible()
    with page.expect_request(lambda r: r.method == "POST" and r.url.endswith("/passkeys")) as asked:
        page.evaluate("() => window.touch()")

    credential = {"id": "k1", "asked": [1, 2, 3]}
    assert asked.value.post_data_json == {"challenge": "opaque", "credential": credential, "name": "key ring"}
    expect(page.get_by_role("dialog")).to_have_count(0)
