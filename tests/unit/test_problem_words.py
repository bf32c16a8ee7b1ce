"""Whatever code the API answers, the dashboard has words for it."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.commands.passwords import LONGEST, SHORTEST

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"[a-z]+(_[a-z]+)*")
# Where the code is among the arguments; of other errors it is the first.
PLACES = {"ProblemError": 1, "problem": 2, "refuse_if": 0, "ForbiddenError": 1}
NO_REFUSAL = {"InvalidFieldError", "IdentityRefusedError", "BacklogFullError"}  # whose arguments are no codes
CONSOLE = {  # only `control-plane …` on the server says these
    *("hosts_behind", "key_announced", "key_in_use", "key_not_here", "key_not_retired", "nothing_announced"),
    *("nothing_lost", "nothing_to_roll_back", "not_folded", "other_version", "unknown_key"),
}
OWN = {"unreachable"}  # the dashboard's, where no answer comes


def said(call: ast.Call, class_name: str) -> Iterator[ast.expr]:
    """What may be a code in the call of an error, of what makes an error of it, or of an error's base."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "__init__" and class_name.endswith("Error"):
        yield from call.args[:2]
    elif name in PLACES:
        yield from call.args[PLACES[name] : PLACES[name] + 1]
    elif name.endswith("Error") and name not in NO_REFUSAL:
        yield from call.args[:1]


def codes() -> set[str]:
    found: list[ast.expr] = []
    for path in (ROOT / "control_plane").rglob("*.py"):
        tree = ast.parse(path.read_text())
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        owner = {call: cls.name for cls in classes for call in ast.walk(cls) if isinstance(call, ast.Call)}
        found += [part for n in ast.walk(tree) if isinstance(n, ast.Call) for part in said(n, owner.get(n, ""))]
    problems = ast.parse((ROOT / "control_plane/api/problems.py").read_text())
    text = (ROOT / "control_plane/api/identity.py").read_text()
    defaults = re.findall(r'code: str = "(\w+)"', (ROOT / "control_plane/errors.py").read_text())
    tables = {*defaults, "method_not_allowed", "bad_request", *re.findall(r'FAILED_PAGE \+ "(\w+)"', text)}
    tables |= {
        key.value
        for node in ast.walk(problems)
        if isinstance(node, ast.Tuple)
        for key in node.elts
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    constants = {part.value for part in found if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return tables | {value for value in constants if CODE.fullmatch(value)}


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_every_code_of_a_problem_has_words_and_no_words_are_left_over(language: str) -> None:
    words = json.loads((ROOT / f"ui/i18n/{language}.json").read_text())
    told = {key.removeprefix("problem.") for key in words if key.startswith("problem.")}

    assert told == (codes() - CONSOLE) | OWN


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_a_password_that_is_refused_is_told_how_long_one_is(language: str) -> None:
    words = json.loads((ROOT / f"ui/i18n/{language}.json").read_text())["problem.weak_password"]

    assert [int(number) for number in re.findall(r"\d+", words)] == [SHORTEST, LONGEST]
