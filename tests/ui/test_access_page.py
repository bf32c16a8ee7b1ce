"""Who may do what: rules, people, tokens and enrolment, on the page that shows and changes them."""

import re

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.support.programs import PASSWORD
from tests.ui.answers import answer
from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import at_fleet, forgiven, heading, newcomer, register

pytestmark = pytest.mark.browser


def tab(page: Page, dev: Dev, name: str) -> None:
    page.goto(f"{dev.url}/access?tab={name}")
    heading(page, "Access")


def row(page: Page, text: str | re.Pattern[str]) -> Locator:
    return page.get_by_role("row").filter(has_text=text)


def fill(page: Page, button: str, yes: str | None = None, **fields: str) -> None:
    """Press a button of the page, fill in what its dialog asks, and say yes."""
    page.get_by_role("button", name=button, exact=True).first.click()
    dialog = page.get_by_role("dialog")
    for label, value in fields.items():
        found = dialog.get_by_label(re.compile(label.replace("_", " ")))
        if found.evaluate("(e) => e.tagName") == "SELECT":
            found.select_option(value)
        else:
            found.fill(value)
    dialog.get_by_role("button", name=yes or button, exact=True).click()


def test_a_person_is_added_changed_and_shut_out(page: Page, dev: Dev) -> None:
    tab(page, dev, "people")
    fill(page, "Add a person", User="pat", Role="operator", Password=PASSWORD)
    pat = row(page, "pat")
    expect(pat).to_contain_text("operator")
    expect(page.get_by_role("dialog")).to_have_count(0)

    pat.get_by_role("button", name="Change role").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Role")).to_have_value("operator")
    dialog.get_by_label("Role").select_option("viewer")
    dialog.get_by_role("button", name="Change role").click()
    expect(pat).to_contain_text("viewer")
    pat.get_by_role("button", name="Disable").click()
    expect(dialog).to_contain_text("pat is signed out")
    dialog.get_by_role("button", name="Disable").click()
    expect(pat.get_by_role("button", name="Enable")).to_be_visible()
    assert {u["username"]: u["enabled"] for u in dev.api.get("/users")["items"]}["pat"] is False


def test_what_the_server_has_against_it_stands_in_the_dialog_and_nothing_typed_is_lost(
    visitor: Visitor, page: Page, dev: Dev
) -> None:
    tab(page, dev, "people")
    fill(page, "Add a person", User="sam", Role="viewer", Password="short")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("alert")).to_contain_text("password")
    expect(dialog.get_by_label("User")).to_have_value("sam")
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_role("button", name="Add a person").click()
    expect(row(page, "sam")).to_be_visible()
    forgiven(visitor, "422")


def test_a_token_is_shown_once_and_revoked(page: Page, dev: Dev) -> None:
    tab(page, dev, "tokens")
    with page.expect_request("**/api/v1/tokens") as asked:
        fill(page, "New token", Name="for the test", Days="3")
    assert asked.value.post_data_json == {"name": "for the test", "days": 3}
    shown = page.locator("pre").filter(has_text=re.compile("^cp_"))
    expect(shown).to_be_visible()
    expect(page.get_by_role("button", name="Copy")).to_be_visible()
    token = row(page, "for the test")
    token.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(token).to_have_count(0)


def test_a_rule_is_made_told_in_words_and_deleted(page: Page, dev: Dev) -> None:
    dev.api.post("/users", {"username": "rex", "role": "operator", "password": PASSWORD})
    tab(page, dev, "rules")
    expect(row(page, "role:operator may")).to_be_visible()
    expect(row(page, "role:operator may").get_by_role("button")).to_have_count(0)  # what a role may stays
    fill(page, "New rule", yes="New rule", Effect="deny", Who="user:rex", Groups="db, web", number_of_hosts="2")
    rule = row(page, "user:rex may not tasks.run on group db, group web · unless on at most 2 hosts")
    expect(rule).to_be_visible()
    rule.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(rule).to_have_count(0)


def test_a_rule_about_a_group_that_nobody_is_in_is_made_and_that_is_said(page: Page, dev: Dev) -> None:
    tab(page, dev, "rules")
    fill(
        page, "New rule", yes="New rule", Effect="deny", Who="role:viewer", Groups="no-such-group", number_of_hosts="2"
    )
    expect(page.get_by_text("no host that you may see is in the group no-such-group")).to_be_visible()
    rule = row(page, "role:viewer may not")
    rule.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(rule).to_have_count(0)


def test_an_enrolment_token_is_made_as_a_line_to_run_and_revoked(page: Page, dev: Dev) -> None:
    tab(page, dev, "enrolment")
    fill(page, "Make a token", Hostname="db-77")
    expect(page.locator("pre").filter(visible=True)).to_contain_text(
        re.compile("enrol --server .* --token cpe_.* --hostname db-77")
    )
    token = row(page, "db-77")
    token.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(token).to_have_count(0)


def test_who_may_only_look_has_the_tabs_of_their_own(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    newcomer(page, dev, "wanda", "viewer")
    page.keyboard.press("g")
    page.keyboard.press("c")
    heading(page, "Access")
    tabs = page.get_by_role("navigation", name="Access").get_by_role("link")

    expect(tabs).to_have_text(["API tokens", "Keys", "My account"])
    page.goto(f"{dev.url}/access?tab=people")
    expect(page.get_by_role("heading", name="API tokens")).to_be_visible()
    forgiven(visitor, "401")


def test_the_keyboard_alone_is_enough_and_the_focus_comes_back(page: Page, dev: Dev) -> None:
    tab(page, dev, "tokens")
    make = page.get_by_role("button", name="New token")
    make.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(make).to_be_focused()


def test_a_section_that_a_server_does_not_have_is_not_shown(visitor: Visitor, page: Page, dev: Dev) -> None:
    absent = {"code": "not_found", "detail": "there is no such page", "status": 404}
    page.route(re.compile("/api/v1/pending-hosts"), lambda route: route.fulfill(status=404, json=absent))
    tab(page, dev, "enrolment")
    expect(page.get_by_role("heading", name="Enrolment")).to_be_visible()
    expect(page.get_by_role("heading", name="Hosts that ask to come in")).to_be_hidden()
    forgiven(visitor, "404")


def panel(page: Page, name: str) -> Locator:
    return page.locator("section").filter(has=page.get_by_role("heading", name=name, exact=True))


def test_the_control_plane_s_keys_are_shown_by_their_state(page: Page, dev: Dev) -> None:
    known = dev.api.http.get("/keys").json()
    tab(page, dev, "keys")
    keys = panel(page, "Keys")
    [active] = known["items"]
    expect(keys.get_by_role("row").filter(has_text=active["key_id"])).to_contain_text("Active")
    expect(keys.get_by_role("row").filter(has_text=active["key_id"])).to_contain_text(active["public_key"])

    retired = {"key_id": "0123456789abcdef", "public_key": "AAAA", "state": "retired"}
    answer(page, "keys", {"items": [active, retired], "next_key_sha256": "fedcba9876543210" * 4})
    page.reload()
    expect(keys.get_by_role("row").filter(has_text=retired["key_id"])).to_contain_text("Retired")
    expect(keys.get_by_role("row").filter(has_text="fedcba9876543210")).to_contain_text("Announced")


def test_a_host_s_key_is_found_by_its_id_and_revoked_by_typing_whose_it_is(page: Page, dev: Dev) -> None:
    register(dev, "keyed.example")
    key_id = dev.api.get("/hosts/keyed.example")["key_id"]
    tab(page, dev, "keys")
    host = panel(page, "Hosts’ keys").get_by_role("row").filter(has_text=key_id)
    expect(host).to_contain_text("keyed.example")
    expect(host).to_contain_text("Pending")
    host.get_by_role("button", name="Revoke").click()
    dialog = page.get_by_role("dialog")
    revoke = dialog.get_by_role("button", name="Revoke")
    expect(revoke).to_be_disabled()
    dialog.get_by_label("Type the hostname, keyed.example").fill("keyed-example")
    expect(revoke).to_be_disabled()
    dialog.get_by_label("Type the hostname, keyed.example").fill("keyed.example")
    dialog.get_by_label("Reason").fill("it was stolen")
    with page.expect_request("**/api/v1/hosts/keyed.example/revoke") as asked:
        revoke.click()

    assert asked.value.post_data_json == {"reason": "it was stolen"}
    expect(host).to_contain_text("Revoked")
    expect(host.get_by_role("button")).to_have_count(0)
    assert dev.api.get("/hosts/keyed.example")["state"] == "revoked"
    dev.api.http.delete("/hosts/keyed.example")


def test_the_keys_of_many_hosts_are_shown_a_page_at_a_time(page: Page, dev: Dev) -> None:
    host = dev.api.get("/hosts/sim-0001")

    def some(route: Route) -> None:
        start = 100 if "cursor=next" in route.request.url else 0
        items = [{**host, "hostname": f"many-{n:03}"} for n in range(start, start + 100)]
        route.fulfill(json={"items": items, "next_cursor": None if start else "next", "as_of": "e1.h1"})

    page.route(re.compile(r"/api/v1/hosts(\?|$)"), some)
    tab(page, dev, "keys")
    rows = panel(page, "Hosts’ keys").locator("tbody tr")
    expect(rows).to_have_count(100)
    page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(200)
    expect(rows.last).to_contain_text("many-199")
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", "This page shows now, not the past moment."), ("zh-CN", "本页显示的是现在，而不是过去的那一刻。")],
)
def test_in_the_past_it_says_that_it_shows_now(page: Page, dev: Dev, language: str, words: str) -> None:
    at_fleet(page, dev)
    page.evaluate("(language) => localStorage.setItem('language', language)", language)
    register(dev, f"later-{language.lower()}")
    with page.expect_request(re.compile(r"/api/v1/hosts(\?|$)")) as asked:
        page.goto(f"{dev.url}/access?tab=keys&at=1")

    expect(page.get_by_text(words)).to_be_visible()
    expect(row(page, f"later-{language.lower()}").get_by_role("button")).to_have_attribute("aria-disabled", "true")
    assert "at=" not in asked.value.url
    page.goto(f"{dev.url}/access?tab=tokens&at=1")
    expect(page.get_by_text(words)).to_be_visible()
    expect(page.locator("#main time")).to_have_count(0)  # they would be told from the moment of the past
    page.goto(f"{dev.url}/access?tab=keys")
    expect(page.get_by_text(words)).to_have_count(0)
    dev.api.http.delete(f"/hosts/later-{language.lower()}")
