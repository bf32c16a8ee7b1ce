"""What somebody is to approve or confirm is shown to the last character: nothing of it is interpreted."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.ui import answers
from tests.ui.answers import answer
from tests.ui.commands import HOSTILE
from tests.ui.conftest import Dev

pytestmark = pytest.mark.browser


def request(**more: object) -> dict[str, object]:
    asked = answers.WAITING["request"]
    assert isinstance(asked, dict)
    return {**asked, **more}


def texts(place: Locator) -> str:
    """Its text with its line ends."""
    found: str = place.evaluate("(element) => element.textContent")
    return found


def test_who_approves_sees_every_character_that_runs_on_the_card_and_in_the_dialog(page: Page, dev: Dev) -> None:
    items = [
        {
            **answers.WAITING,
            "approval_id": f"h{place}",
            "requester": f"olaf{place}.",
            "request": request(command=command),
        }
        for place, command in enumerate(HOSTILE)
    ]
    answer(page, "approvals", {"items": items})
    page.goto(f"{dev.url}/access")

    dialog = page.get_by_role("dialog")
    for place, shown in enumerate(HOSTILE.values()):
        card = page.get_by_role("row").filter(has_text=f"olaf{place}.")
        assert texts(card.locator("pre")) == shown
        card.get_by_role("button", name="Approve").click()
        assert texts(dialog.locator("pre")) == shown
        box = dialog.locator("pre").evaluate("(e) => [e.scrollHeight - e.clientHeight, e.scrollWidth - e.clientWidth]")
        assert box == [0, 0]
        assert dialog.evaluate("(element) => element.scrollTop") == 0
        dialog.get_by_role("button", name="Cancel").click()


def test_who_runs_a_command_confirms_every_character_of_it(page: Page, dev: Dev) -> None:
    guard = {"level": 2, "rules": []}
    page.route("**/targets/preview", lambda route: route.fulfill(json={**route.fetch().json(), "guard": guard}))
    page.clock.install()
    page.goto(f"{dev.url}/run?host=sim-0001")
    dialog = page.get_by_role("dialog")
    typed = {command: shown for command, shown in HOSTILE.items() if "\r" not in command}  # which no field takes
    for command, shown in {**typed, "echo evil #\ruptime": "echo evil #U+000A\nuptime"}.items():
        page.get_by_label("Command").fill(command)
        page.clock.run_for(400)  # nobody types any more: a preview is asked for
        page.get_by_role("button", name="Run on 1 host").click()
        assert texts(dialog.locator("pre")) == shown
        dialog.get_by_role("button", name="Cancel").click()


def test_a_template_is_confirmed_with_its_words_as_one_each(page: Page, dev: Dev) -> None:
    template = {**answers.TEMPLATE, "argv": ["/bin/sh", "-c", "echo 'evil' #\ruptime {unit}", ""]}
    guard = {"level": 2, "rules": []}
    found = dev.api.post("/targets/preview", {"target": {"host": "sim-0001"}, "command": "true"})
    answer(page, "templates", {"items": [{**template, "parameters": answers.TEMPLATE["parameters"]}]})
    answer(page, "targets/preview", {**found, "guard": guard}, method="POST")
    page.goto(f"{dev.url}/run?host=sim-0001&template=restart-unit")
    page.get_by_label(re.compile("^lines")).fill("5")
    page.get_by_role("button", name="Run on 1 host").click()

    said = "/bin/sh -c 'echo '\"'\"'evil'\"'\"' #U+000Duptime nginx' ''"
    assert texts(page.get_by_role("dialog").locator("pre")) == said


def test_the_dialog_of_an_approval_lists_every_field_of_its_request(page: Page, dev: Dev) -> None:
    more = {
        "argv": ["/bin/sh", "-c", "echo evil #\ruptime"],
        "command": "/bin/sh -c 'echo evil #\ruptime'",
        "env": {"LD_PRELOAD": "/tmp/x\u202e.so"},
        "cwd": "/srv/\u200bwww",
        "stdin": "y\n\u009b8m",
        "secrets": ["TOKEN"],
        "rollout": {"canary": 1, "wait": "approve"},
        "template": "say",
        "parameters": {"word": "\u2066hi"},
        "of_tomorrow": False,
    }
    answer(page, "approvals", {"items": [{**answers.WAITING, "request": request(**more)}]})
    page.goto(f"{dev.url}/access")
    card = page.get_by_role("row").filter(has_text="olaf")
    for shown in ("'echo evil #U+000Duptime'", 'cwd: "/srv/U+200Bwww"', "LD_PRELOAD", "U+202E", "stdin: ", '["TOKEN"]'):
        expect(card).to_contain_text(shown)
    card.get_by_role("button", name="Approve").click()

    dialog = page.get_by_role("dialog")
    assert dialog.locator("dt").all_text_contents() == list(request(**more))
    said = dict(zip(dialog.locator("dt").all_text_contents(), dialog.locator("dd").all_text_contents(), strict=True))
    assert said["argv"] == r'["/bin/sh","-c","echo evil #\ruptime"]'
    assert said["env"] == '{"LD_PRELOAD":"/tmp/xU+202E.so"}'
    assert said["stdin"] == r'"y\nU+009B8m"'
    assert said["secrets"] == '["TOKEN"]'
    assert (said["timeout"], said["when_offline"], said["expires_in"]) == ("30", '"queue"', "600")
    assert (said["rollout"], said["of_tomorrow"]) == ('{"canary":1,"wait":"approve"}', "false")


def test_what_has_secrets_is_left_to_the_program_that_asked_for_it(page: Page, dev: Dev) -> None:
    plain, sealed = (
        {**answers.APPROVED, "approval_id": name, "request": request(**more)}
        for name, more in (("a1", {}), ("a2", {"command": "deploy", "secrets": ["TOKEN"]}))
    )
    answer(page, "approvals", {"items": [plain, sealed]})
    page.goto(f"{dev.url}/access")
    card = page.get_by_role("row").filter(has_text="deploy")

    expect(card).to_contain_text("The program that asked for it: this page does not know its secrets.")
    expect(card.get_by_role("button", name="Run now")).to_have_count(0)
    expect(page.get_by_role("button", name="Run now")).to_have_count(1)


def test_a_task_and_its_rows_show_every_character_of_its_command(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "true #\techo\u00a0evil\u202e")
    dev.api.finished(task_id)
    shown = "true #U+0009echoU+00A0evilU+202E"
    page.goto(f"{dev.url}/tasks")
    expect(page.get_by_role("link", name=shown)).to_have_count(1)
    page.goto(f"{dev.url}/hosts/sim-0001")
    expect(page.get_by_role("link", name=shown)).to_have_count(1)
    page.goto(f"{dev.url}/tasks/{task_id}")
    expect(page.get_by_role("heading", level=1)).to_have_text(shown)


def test_a_task_names_its_secrets_and_no_value(page: Page, dev: Dev) -> None:
    task_id = dev.api.run({"host": "sim-0001"}, "true", secrets={"TOKEN": "s3cret", "KEY": "s3cret"})
    dev.api.finished(task_id)
    page.goto(f"{dev.url}/tasks/{task_id}")

    expect(page.get_by_role("definition").filter(has_text="KEY, TOKEN")).to_be_visible()
    expect(page.locator("main")).not_to_contain_text("s3cret")
