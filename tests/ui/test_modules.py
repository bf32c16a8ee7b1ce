"""The dashboard's modules without a page, its words, and its size."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from control_plane.commands.access import ROLES
from control_plane.commands.rules import ACTIONS

ROOT = Path(__file__).parents[2]
UI = ROOT / "ui"
SCRIPTS = sorted((UI / "js").rglob("*.js"))


def node() -> str:
    """The Node that comes with Playwright, or the one on the PATH."""
    import playwright

    bundled = Path(playwright.__file__).parent / "driver" / "node"
    found = str(bundled) if bundled.exists() else shutil.which("node")
    if found is None:
        pytest.skip("there is no Node")
    return found


def test_the_modules_do_what_their_own_tests_say() -> None:
    tests = sorted(str(path) for path in (ROOT / "tests" / "ui" / "unit").glob("*.test.mjs"))
    done = subprocess.run([node(), "--test", *tests], capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


def words(language: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((UI / "i18n" / f"{language}.json").read_text())
    return found


def placeholders(value: object) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", json.dumps(value)))


def test_both_languages_have_the_same_words_with_the_same_placeholders() -> None:
    english, chinese = words("en"), words("zh-CN")

    assert english.keys() == chinese.keys()
    assert {key for key in english if placeholders(english[key]) != placeholders(chinese[key])} == set()


def of_facts(sources: str) -> set[str]:
    """The words of the lists in the pages: `facts(list, "noun", {name: …})`."""
    lists = re.findall(r'facts\([\w.]+, "(\w+)", \{(.*?)\n *\}', sources, re.DOTALL)
    return {f"{noun}.{name}" for noun, body in lists for name in re.findall(r"^ +(\w+):", body, re.MULTILINE)}


def test_every_word_that_is_asked_for_is_there_and_none_is_left_over() -> None:
    sources = "\n".join(path.read_text() for path in [*SCRIPTS, UI / "index.html"])
    asked = set(re.findall(r"""\bt\(\s*["']([\w.]+)["']""", sources)) | set(
        re.findall(r'data-(?:t|label)="([\w.]+)"', sources)
    )
    asked |= of_facts(sources)
    dialogs = re.findall(r'(?:words: |askStop\()"([\w.]+)"', sources)
    asked |= {*dialogs, *(f"{name}_what" for name in dialogs)}
    made = ("state.", "cause.", *re.findall(r"\bt\(\s*`([\w.]+?)\$", sources))

    assert asked - words("en").keys() == set()
    assert {
        key for key in words("en").keys() - asked if f'"{key}"' not in sources and not key.startswith(made)
    } == set()


def test_what_the_access_page_shows_and_asks_for_has_words_and_a_type() -> None:
    page = json.loads((UI / "access.json").read_text())
    sections = [section for tab in page["tabs"].values() for section in tab]
    asked = {f"access.{tab}" for tab in page["tabs"]}
    for section in sections:
        name, create = section["name"], section.get("create")
        actions = [*section.get("actions", []), *([{"name": "create", **create}] if create else [])]
        asked |= {f"access.{name}", f"access.{name}.about"}
        asked |= {f"access.field.{column}" for column in section.get("columns", [])}
        for action in actions:
            asked |= {f"access.{name}.{action['name']}", f"access.{name}.{action['name']}_what"}
            asked |= {f"access.field.{field}" for field in action.get("fields", {})}
            assert set(action.get("fields", {}).values()) <= page["types"].keys()

    assert asked - words("en").keys() == set()
    told = ("access.rule_", "access.limit_")
    said = {"access.field.do", *re.findall(r'"(access\.\w+)"', (UI / "js/views/access.js").read_text())}
    html = set(re.findall(r'data-t="(access\.[\w.]+)"', (UI / "index.html").read_text()))
    left = {key for key in words("en") if key.startswith("access.") and not key.startswith(told)}
    assert left - asked - said - html == set()


def test_a_person_can_be_given_every_role_that_the_server_has() -> None:
    page = json.loads((UI / "access.json").read_text())

    assert page["types"]["role"]["choices"] == list(ROLES)
    assert page["types"]["subject"]["offers"] == [f"role:{role}" for role in ROLES]


def test_a_rule_can_be_about_everything_that_rules_are_about() -> None:
    page = json.loads((UI / "access.json").read_text())

    assert page["types"]["actions"]["choices"] == sorted(ACTIONS)


def test_nothing_makes_markup_of_text() -> None:
    for path in SCRIPTS:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|DOMParser|document\.write|eval\(", path.read_text()
        )


def test_colours_are_named_in_one_file() -> None:
    for path in (UI / "css").glob("*.css"):
        if path.name != "tokens.css":
            assert not re.search(r"#[0-9a-f]{3,8}\b|rgb\(|hsl\(|oklch\(", path.read_text()), path.name


def loaded_with(*modules: Path) -> set[Path]:
    """All that a module imports, and what that imports, but for what is imported when it is needed."""
    found, left = set(), list(modules)
    while left:
        if (module := left.pop()) not in found:
            found.add(module)
            imported = re.findall(r'^import [^;]*?"(\.[^"]+\.js)"', module.read_text(), re.MULTILINE)
            left += [(module.parent / name).resolve() for name in imported]
    return found


FLEET = loaded_with(UI / "js" / "main.js", UI / "js" / "views" / "hosts.js")


def test_the_dashboard_is_small() -> None:
    def size(paths: Iterable[Path]) -> int:
        return sum(path.stat().st_size for path in paths)

    assert size(UI.rglob("*.html")) <= 24 * 1024
    assert size(UI.rglob("*.css")) <= 40 * 1024
    assert size(FLEET) <= 120 * 1024
    assert len(FLEET) <= 24
    assert size(SCRIPTS) <= 350 * 1024
    assert max(path.stat().st_size for path in SCRIPTS) <= 16 * 1024


def test_what_the_first_page_needs_is_loaded_at_once() -> None:
    named = re.findall(r'(?:modulepreload" href|src)="/ui/@build/([\w/]+\.js)"', (UI / "index.html").read_text())

    assert sorted(named) == sorted(path.relative_to(UI).as_posix() for path in FLEET)
