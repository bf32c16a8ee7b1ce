"""The words of the command line: what a target says, and that each command says what it does."""

import argparse
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import shtab

from cpctl.cli import main, parser
from cpctl.errors import CpctlError
from cpctl.run import target_of


@pytest.mark.parametrize(
    ("words", "target"),
    [
        (["web1"], {"host": "web1"}),
        (["host:web1"], {"host": "web1"}),
        (["web1,web2"], {"hosts": ["web1", "web2"]}),
        (["web1", "host:web2"], {"hosts": ["web1", "web2"]}),
        (["group:web"], {"group": "web"}),
        (["all"], {"all": True}),
        (["q:web state:offline,stale"], {"query": "web state:offline,stale"}),
        (["q:-group:all"], {"query": "-group:all"}),
    ],
)
def test_a_target_is_hosts_a_group_a_query_or_all(words: list[str], target: dict[str, Any]) -> None:
    assert target_of(words) == target


@pytest.mark.parametrize("words", [["q:"], ["group:"], ["color:blue"], ["web1", "q:web"], ["web1", "all"], [","]])
def test_what_is_no_target_is_told_what_there_is(words: list[str]) -> None:
    with pytest.raises(CpctlError, match="one of group:NAME, q:QUERY, all, or hosts"):
        target_of(words)


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"cpctl {version('control-plane')}\n"


def parsers(top: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert {each.dest.split(" ")[0] for each in action._choices_actions} <= action.choices.keys()
            assert all(each.help for each in action._choices_actions)
            for each in {id(below): below for below in action.choices.values()}.values():
                yield from parsers(each)


def test_every_command_says_what_it_does() -> None:
    every = list(parsers(parser()))

    assert len(every) > 20
    assert [each.prog for each in every if not each.description] == []
    assert all(each.format_help() for each in every)


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_every_shell_completes_it(shell: str) -> None:
    script = shtab.complete(parser(), shell)

    assert "version" in script
    assert "canary-wait" in script
