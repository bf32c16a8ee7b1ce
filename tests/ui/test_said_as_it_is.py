"""What a page says is what is: of rules and their limits, of what somebody may not see, and of how a session ended."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.ui import answers
from tests.ui.answers import answer
from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import at_fleet, forgiven, heading, newcomer

pytestmark = pytest.mark.browser

RULE: dict[str, object] = {
    "rule_id": "r-db",
    "built_in": False,
    "effect": "deny",
    "subject": "role:operator",
    "actions": ["tasks.run"],
    "hosts": {"all": False, "groups": ["cache"], "hostnames": []},
    "accounts": ["root"],
    "command": "argv",
    "most_hosts": None,
    "longest_timeout": 300,
    "reason": "the cache is shared",
    "patterns": [],
    "templates": [],
    "seq": 7,
}
TOLD = {
    "en-US": {
        "allow": "role:operator may tasks.run on group cache · as root · only as argv and within 300 s",
        "deny": "role:operator may not tasks.run on group cache · as root · unless as argv and within 300 s",
        "approve": "role:operator needs a second person to tasks.run on group cache · as root"
        " · unless as argv and within 300 s",
    },
    "zh-CN": {
        "allow": "role:operator 可以在 分组 cache 上 tasks.run · 以 root 的身份 · 仅限以 argv 方式和超时不超过 300 秒",
        "deny": "role:operator 不可以在 分组 cache 上 tasks.run · 以 root 的身份 · 除非以 argv 方式和超时不超过 300 秒",
        "approve": "role:operator 在 分组 cache 上 tasks.run 需要第二个人批准 · 以 root 的身份"
        " · 除非以 argv 方式和超时不超过 300 秒",
    },
}


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_limits_are_told_as_what_the_effect_makes_of_them(page: Page, dev: Dev, language: str) -> None:
    at_fleet(page, dev)
    rules = [{**RULE, "effect": effect, "rule_id": f"r-{effect}"} for effect in ("allow", "deny", "approve")]
    answer(page, "rules", {"items": [*rules, {**RULE, "accounts": [], "command": "shell", "longest_timeout": None}]})
    page.evaluate("(language) => localStorage.setItem('language', language)", language)
    page.goto(f"{dev.url}/access?tab=rules")

    for effect, told in TOLD[language].items():
        expect(page.get_by_role("row").filter(has_text=f"r-{effect}").get_by_role("cell").first).to_have_text(told)
    free = page.get_by_role("row").filter(has_text="r-db").get_by_role("cell").first
    expect(free).to_have_text(TOLD[language]["deny"].split(" · ")[0])


def test_what_is_deleted_is_named_before_it_is(page: Page, dev: Dev) -> None:
    answer(page, "rules", {"items": [RULE]})
    page.goto(f"{dev.url}/access?tab=rules")
    page.get_by_role("button", name="Delete").click()

    expect(page.get_by_role("dialog")).to_contain_text(f"“{TOLD['en-US']['deny']}” counts no more")


def test_an_approval_says_why_it_is_needed_to_who_may_see_rules(page: Page, dev: Dev) -> None:
    answer(page, "rules", {"items": [{**RULE, "effect": "approve"}]})
    answer(page, "approvals", {"items": [{**answers.WAITING, "rules": ["r-db", "r-gone"]}]})
    page.goto(f"{dev.url}/access")

    told = f"{TOLD['en-US']['approve']} (the cache is shared); r-gone"
    expect(page.get_by_role("cell", name=told)).to_be_visible()


def test_who_sees_nothing_has_no_ways_there_and_leaves_no_refusals(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    refused: list[str] = []
    page.on("response", lambda answered: refused.append(answered.url) if answered.status == 403 else None)
    newcomer(page, dev, "mia", "member", then="Nothing to show")
    expect(page.get_by_text("Needs the permission hosts.read")).to_be_visible()
    expect(page.get_by_role("navigation", name="Pages").get_by_role("link")).to_have_text(["Access"])
    for path, permission in (("audit", "events"), ("system", "projections"), ("hosts/sim-0001", "hosts")):
        page.goto(f"{dev.url}/{path}")
        expect(page.get_by_text(f"Needs the permission {permission}.read")).to_be_visible()

    assert refused == []
    forgiven(visitor, "401")


def test_an_address_that_is_no_page_says_so(visitor: Visitor, page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/account")
    heading(page, "Nothing to show")
    expect(page.get_by_text("There is no page at this address.")).to_be_visible()
    page.get_by_role("main").get_by_role("link", name="Fleet").click()

    heading(page, "Fleet")
    forgiven(visitor, "404")


def test_who_is_shut_out_is_told_that_the_session_has_ended(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    newcomer(page, dev, "dora", "viewer")
    dev.api.http.patch("/users/dora", json={"enabled": False}).raise_for_status()
    # Perhaps the page has noticed already, by its stream, and asks before it.
    page.locator("a[data-page=tasks]").dispatch_event("click")
    dialog = page.get_by_role("dialog")

    expect(dialog.get_by_text("Your session has ended")).to_be_visible()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_hidden()  # there is nothing to go back to
    page.close()  # which goes on asking
    forgiven(visitor, "401")


def test_a_sign_in_that_only_one_step_needs_can_be_let_be(visitor: Visitor, page: Page, dev: Dev) -> None:
    refusal = {"code": "sign_in_again", "detail": "sign in again", "status": 403}
    answer(page, "tokens", refusal, status=403, method="POST")
    page.goto(f"{dev.url}/access?tab=tokens")
    page.get_by_role("button", name="New token").click()
    asked = page.get_by_role("dialog").filter(has_text="New token")
    asked.get_by_label("Name").fill("kept")
    asked.get_by_role("button", name="New token").click()
    signing_in = page.get_by_role("dialog").filter(has_text="sign in once more")
    signing_in.get_by_role("button", name="Cancel").click()

    expect(signing_in).to_have_count(0)
    expect(asked.get_by_label("Name")).to_have_value("kept")
    forgiven(visitor, "403")


def test_readiness_is_read_again_when_all_is_stopped(page: Page, dev: Dev) -> None:
    answer(page, "stop", answers.NOT_STOPPED, times=1)
    page.clock.install()
    page.goto(f"{dev.url}/system")
    heading(page, "System")
    page.get_by_role("cell", name="database", exact=True).wait_for()
    answer(page, "stop", {"seq": 9}, method="POST")
    page.get_by_role("button", name="Stop everything").click()
    page.get_by_role("dialog").get_by_label(re.compile("Why")).fill("a worm")
    answer(page, "stop", answers.STOPPED)
    page.clock.pause_at(page.evaluate("() => Date.now()") + 1)
    page.get_by_role("dialog").get_by_role("button", name="Stop everything").click()
    expect(page.get_by_role("status").filter(has_text="Everything is stopped")).to_be_visible()
    with page.expect_request("**/readyz"):
        page.clock.run_for(100)  # some frames; far less than until readiness is read anyway


def test_on_a_telephone_values_have_their_names_and_the_head_stays_as_it_is(page: Page, dev: Dev) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{dev.url}/access?tab=people")
    admin = page.get_by_role("row").filter(has_text="administrator").first
    expect(admin).to_be_visible()
    labels = admin.get_by_role("cell").evaluate_all(
        "(cells) => cells.map((c) => getComputedStyle(c, '::before').content)"
    )
    assert '"Role "' in labels
    assert '"Passkeys "' in labels
    who = page.locator("#who")
    expect(who).to_have_text("admin")
    assert who.evaluate("(e) => e.scrollWidth <= e.clientWidth")
    head, pill = page.get_by_role("banner"), page.locator("#pill")
    expect(pill).to_have_text("Live")
    before = head.bounding_box()
    pill.evaluate("(e) => { e.textContent = 'Connecting…'; }")

    assert head.bounding_box() == before


def test_what_adds_a_host_is_closed_where_it_is(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    page.get_by_role("button", name="Add host").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    panel = page.locator("section").filter(has=page.get_by_role("heading", name="Enrolment"))
    panel.get_by_role("button", name="Close").click()

    expect(panel).to_have_count(0)


def test_what_an_address_says_is_marked_where_it_is_said(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"hosts": ["sim-0001", "sim-0002"]}, "true")
    answer(page, "tasks", {**dev.api.get("/tasks"), "items": [], "next_cursor": None, "total": 0})
    page.goto(f"{dev.url}/tasks?q=a%E2%80%AEb")
    expect(page.locator(".empty").filter(has_text="aU+202Eb")).to_be_visible()
    page.goto(f"{dev.url}/tasks/{task_id}?host=a%E2%80%AEb")
    expect(page.get_by_role("dialog")).to_have_attribute("aria-label", "aU+202Eb")


def test_the_hosts_of_an_approval_lead_to_just_them_or_nowhere(page: Page, dev: Dev) -> None:
    one = {"host_count": 1}
    cards: dict[str, tuple[dict[str, object], dict[str, object]]] = {
        "unseen": ({"host": "db1"}, one | {"hosts": []}),
        "seen": ({"host": "db1"}, one | {"hosts": ["db1"]}),
        "query": ({"query": "os:debian"}, {}),
        "named": ({"hosts": ["db1", "db2", "db3"]}, {}),
        "group": ({"group": "db"}, {}),
    }
    request = answers.WAITING["request"]
    assert isinstance(request, dict)
    items = [
        {**answers.WAITING, "approval_id": name, "reason": f"why {name}", "request": {**request, "target": target}}
        | more
        for name, (target, more) in cards.items()
    ]
    answer(page, "approvals", {"items": items})
    page.goto(f"{dev.url}/access")

    led = {"seen": "/hosts/db1", "query": "/hosts?q=os%3Adebian", "group": "/hosts?group=db"}
    for name in cards:
        link = page.get_by_role("row").filter(has_text=f"why {name}").get_by_role("link")
        if name in led:
            expect(link).to_have_attribute("href", led[name])
        else:
            expect(page.get_by_role("row").filter(has_text=f"why {name}")).to_be_visible()
            expect(link).to_have_count(0)


def test_json_that_is_typed_is_marked_until_it_is_whole(page: Page, dev: Dev) -> None:
    page.goto(f"{dev.url}/access?tab=templates")
    page.get_by_role("button", name="New template").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("whole")
    dialog.get_by_label(re.compile("^Command")).fill("/bin/true")
    yes = dialog.get_by_role("button", name="New template")
    parameters = dialog.get_by_label(re.compile("^Parameters"))
    parameters.press_sequentially("[")
    expect(parameters).to_have_attribute("aria-invalid", "true")
    expect(yes).to_be_disabled()
    parameters.press_sequentially("]")
    expect(parameters).not_to_have_attribute("aria-invalid", "true")
    expect(yes).to_be_enabled()
