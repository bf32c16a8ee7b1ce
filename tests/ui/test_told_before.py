"""What a page says before anybody has clicked: what would be refused, what waits, what an empty list means."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.support.programs import PASSWORD
from tests.ui import answers
from tests.ui.answers import answer
from tests.ui.conftest import Dev, Visitor
from tests.ui.steps import at_fleet, forgiven, heading, newcomer

pytestmark = pytest.mark.browser


def test_what_a_rule_refuses_is_told_by_the_preview_and_cannot_be_sent(visitor: Visitor, dev: Dev) -> None:
    page = visitor.page()
    rule = {"effect": "deny", "actions": ["tasks.run"], "hosts": {"hostnames": ["sim-0001"]}}
    newcomer(page, dev, "rolf", "operator", rule=rule)
    page.goto(f"{dev.url}/run?host=sim-0001&command=uptime")
    submit = page.get_by_role("button", name="Run on 1 host")
    expect(submit).to_be_disabled()
    expect(submit).to_have_accessible_description(re.compile("^You may not do this: .*sim-0001"))
    expect(page.get_by_role("region", name="Preview").get_by_role("alert")).to_contain_text("You may not do this")
    page.get_by_role("combobox", name="Hostname").fill("sim-0002")

    expect(submit).to_be_enabled()
    forgiven(visitor, "401")


def test_what_waits_for_the_user_is_counted_beside_access(page: Page, dev: Dev) -> None:
    answer(page, "approvals", {"items": [answers.WAITING, answers.OWN]})
    answer(page, "pending-hosts", {"items": [answers.PENDING]})
    page.goto(f"{dev.url}/hosts")

    expect(page.get_by_role("link", name="Access")).to_have_text("Access2")  # the own request is another's to decide


def test_nothing_stands_beside_access_where_nothing_waits(page: Page, dev: Dev) -> None:
    at_fleet(page, dev)
    expect(page.get_by_role("link", name="Access")).to_have_text("Access")


def test_a_token_without_a_scope_says_that_it_may_all(page: Page, dev: Dev) -> None:
    dev.api.post("/tokens", {"name": "whole", "days": 3})
    dev.api.post("/tokens", {"name": "narrow", "days": 3, "permissions": ["hosts.read"], "addresses": ["10.0.0.0/8"]})
    page.goto(f"{dev.url}/access?tab=tokens")

    expect(page.get_by_role("row").filter(has_text="whole")).to_contain_text("all that the owner may")
    expect(page.get_by_role("row").filter(has_text="whole")).to_contain_text("from anywhere")
    expect(page.get_by_role("row").filter(has_text="narrow")).to_contain_text(re.compile("hosts.read.*10.0.0.0/8"))
    expect(page.get_by_role("row").filter(has_text="narrow")).not_to_contain_text("from anywhere")


def test_a_rule_offers_the_actions_and_roles_that_there_are(page: Page, dev: Dev) -> None:
    dev.api.post("/users", {"username": "ruth", "role": "viewer", "password": PASSWORD})
    page.goto(f"{dev.url}/access?tab=rules")
    page.get_by_role("button", name="New rule").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("listbox", name=re.compile("^What"))).to_have_values(["tasks.run"])
    expect(dialog.locator("datalist option[value='role:auditor']")).to_have_count(1)
    dialog.get_by_role("listbox", name=re.compile("^What")).select_option(["tasks.run", "tasks.cancel"])
    dialog.get_by_label("Who").fill("user:ruth")
    dialog.get_by_label("All hosts").check()
    dialog.get_by_role("button", name="New rule").click()

    told = "user:ruth may tasks.cancel, tasks.run on All hosts"
    expect(page.get_by_role("row").filter(has_text=told)).to_be_visible()


def test_the_trail_says_who_on_a_telephone_too(page: Page, dev: Dev) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{dev.url}/audit?actor=admin")
    heading(page, "Audit")

    expect(page.get_by_role("cell", name="admin", exact=True).first).to_be_visible()
