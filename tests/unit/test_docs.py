"""What the documentation names is there: files, settings, scripts; and every setting is told by --help."""

import argparse
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

import pytest

from control_plane import cli, settings
from control_plane_agent import cli as agent_cli
from control_plane_agent import settings as agent_settings

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [
    *(ROOT / name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
DEPLOYED: Final = [path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file()]

SETTINGS: Final = frozenset(f"{settings.PREFIX}{name.upper()}" for name in settings.Settings.model_fields)
AGENT_SETTINGS: Final = frozenset(
    f"{agent_settings.PREFIX}{name.upper()}" for name in agent_settings.Settings.__dataclass_fields__
)
# The tests' own, described at the head of scripts/test.
OF_THE_TESTS: Final = re.compile(r"CONTROL_PLANE_(TEST_|FAULT_SEED$)")


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a Markdown page that lead to no file, or to no heading of it."""
    wanted = re.findall(r"\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)", text)
    wanted += re.findall(r"^\s*\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)
    return [link for link in wanted if "://" not in link and not link.startswith("mailto:") and _is_broken(page, link)]


def _is_broken(page: Path, link: str) -> bool:
    path, _, heading = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or ROOT not in (target, *target.parents):
        return True
    return bool(heading) and heading not in headings(target.read_text())


def headings(text: str) -> set[str]:
    """The fragments by which a page's headings are linked."""
    found = re.findall(r"^#+\s+(.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def unknown_settings(text: str) -> set[str]:
    """Names of settings in a text that no program has; one that ends in `_` stands for a family."""
    named = {name for name in re.findall(r"\bCONTROL_PLANE_[A-Z0-9_]*", text) if not OF_THE_TESTS.match(name)}
    return {name for name in named if not name.endswith("_") and name not in SETTINGS | AGENT_SETTINGS}


def scripts_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w./-])scripts/[\w-]+", text))


def not_executable(root: Path, scripts: Iterable[str]) -> list[str]:
    return [name for name in sorted(scripts) if not os.access(root / name, os.X_OK) or not (root / name).is_file()]


def not_described(text: str, names: Collection[str]) -> list[str]:
    return [name for name in sorted(names) if re.search(rf"(?<!\w){name}(?!\w)", text) is None]


def help_of(main: Callable[..., object], argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0
    return capsys.readouterr().out


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- links


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "[x](nowhere.md)",
        "[x](README.md#no-such-heading)",
        "[x](#no-such-heading)",
        "![x](docs/none.png)",
        '[x](none.md "title")',
        "[x][y]\n\n[y]: none.md",
        "[x](../../../etc/passwd)",
    ],
)
def test_a_broken_link_is_found(text: str) -> None:
    assert broken_links(ROOT / "README.md", text)


def test_links_to_files_headings_and_other_sites_are_fine() -> None:
    text = (
        "[x](CONTRIBUTING.md) [x](CONTRIBUTING.md#where-things-are) [x](https://example.com/none) [x](docs/decisions)"
    )

    assert broken_links(ROOT / "README.md", text) == []


# --- settings


@pytest.mark.parametrize("page", [*PAGES, *DEPLOYED], ids=relative)
def test_every_setting_that_is_named_is_there(page: Path) -> None:
    assert unknown_settings(page.read_text()) == set()


def test_a_setting_that_is_not_there_is_found() -> None:
    text = "CONTROL_PLANE_LISTEN CONTROL_PLANE_LISTENS `CONTROL_PLANE_AGENT_LISTEN` CONTROL_PLANE_AGENTS_AMQP_URL"

    assert unknown_settings(text) == {"CONTROL_PLANE_LISTENS", "CONTROL_PLANE_AGENT_LISTEN"}


def test_every_setting_of_the_server_is_listed_by_a_command_of_its_own_and_no_other_s_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["settings"]) == 0
    text = capsys.readouterr().out

    assert not_described(text, SETTINGS) == []
    for argv in (["--help"], ["serve", "--help"], ["users", "create", "--help"]):
        said = " ".join(help_of(cli.main, argv, capsys).split())
        assert "CONTROL_PLANE_DATABASE_URL" not in said
        assert "`control-plane settings` lists the settings" in said
    assert all(field.description for field in settings.Settings.model_fields.values())


def test_every_setting_of_the_agent_is_described_by_its_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["control-plane-agent", "--help"])

    text = help_of(agent_cli.main, ["--help"], capsys)

    assert not_described(text, AGENT_SETTINGS) == []


def test_a_setting_that_is_not_described_is_found() -> None:
    assert not_described("CONTROL_PLANE_LISTEN_ADDRESS CONTROL_PLANE_A", {"CONTROL_PLANE_LISTEN"}) == [
        "CONTROL_PLANE_LISTEN"
    ]


# --- metrics


def metrics_in(source: str) -> set[str]:
    """The metrics that a program makes, and what it counts as having happened."""
    made = re.findall(r"\.(?:counter|gauge|histogram)\(\s*\"(\w+)\"", source)
    return {*made, *re.findall(r"count\(\s*\"(\w+)\"", source)}


def test_every_metric_is_described_and_none_that_is_not_there() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    made = metrics_in("\n".join(path.read_text() for path in (ROOT / "control_plane").rglob("*.py")))
    [table] = re.findall(r"^## Metrics\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)

    assert len(made) > 15
    assert not_described(table, made) == []
    assert set(re.findall(r"^\| `(control_plane_\w+)", table, re.MULTILINE)) <= made


def test_a_metric_is_found_where_it_is_made() -> None:
    source = 'metrics.counter(\n    "control_plane_x_total", "X.")\nself._count("late", 1)\ncount("early", 2)'

    assert metrics_in(source) == {"control_plane_x_total", "late", "early"}


# --- programs


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_script_that_is_named_can_be_run(page: Path) -> None:
    assert not_executable(ROOT, scripts_in(page.read_text())) == []


def test_a_script_that_is_missing_or_cannot_be_run_is_found(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "dull").write_text("#!/bin/sh\n")

    assert scripts_in("`scripts/dull` and\n    scripts/none --x; not my/scripts/other") == {
        "scripts/dull",
        "scripts/none",
    }
    assert not_executable(tmp_path, ["scripts/dull", "scripts/none"]) == ["scripts/dull", "scripts/none"]


def is_understood(parser: argparse.ArgumentParser, line: str) -> bool:
    """Whether a command line is one that the program takes, as far as its subcommands and options go."""
    arguments = [word for word in shlex.split(line.partition("#")[0])[1:] if word not in {"…", "\\"}]
    while arguments and not arguments[0].startswith("-"):
        subcommands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not subcommands:
            break
        if arguments[0] not in subcommands[0].choices:
            return False
        parser = subcommands[0].choices[arguments.pop(0)]
    options = {option for action in parser._actions for option in action.option_strings}
    return all(word.partition("=")[0] in options for word in arguments if word.startswith("--"))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_command_line_that_is_shown_is_understood(page: Path) -> None:
    shown = re.findall(r"`((?:control-plane|control-plane-agent) [^`]+)`", page.read_text())
    shown += re.findall(r"^    ((?:control-plane|control-plane-agent) .+)$", page.read_text(), re.MULTILINE)
    parsers = {"control-plane": cli._parser(), "control-plane-agent": agent_cli._parser()}

    assert [line for line in shown if not is_understood(parsers[line.split()[0]], " ".join(line.split()))] == []


@pytest.mark.parametrize(
    "line",
    ["control-plane server", "control-plane serve --role api", "control-plane projections mend", "control-plane x"],
)
def test_a_command_line_that_is_not_understood_is_found(line: str) -> None:
    assert not is_understood(cli._parser(), line)
