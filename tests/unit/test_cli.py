"""What is typed wrong at the server's command line is one clear line and exit status 2."""

import io
import re
from pathlib import Path
from typing import Final

import pytest

from control_plane import cli
from control_plane.commands.access import OVERSEERS, ROLES
from control_plane.commands.rules import READING
from control_plane.errors import ConfigurationError
from control_plane.settings import load
from tests.support.database import sqlite_url

OPERATIONS: Final = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTROL_PLANE_DATABASE_URL", sqlite_url(tmp_path))
    monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path))


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(argv) == cli.USAGE
    [line] = capsys.readouterr().err.splitlines()
    return line.removeprefix("control-plane: ")


@pytest.mark.parametrize(
    "argv",
    [
        ["users", "enable", "ann\udcff"],
        ["rules", "add", "deny", "user:x", "--action", "hosts.read", "--group", "\udcff"],
    ],
)
def test_an_argument_that_is_no_text_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(argv, capsys).endswith("\\udcff is not UTF-8")


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_password_that_is_no_text_is_refused(
    errors: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(b"long enough \xff\n"), encoding="utf-8", errors=errors)
    )

    said = refused(["init", "--username", "root", "--password-stdin"], capsys)

    assert said == "the password on standard input is not UTF-8"


def test_a_setting_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROL_PLANE_KEY_PASSPHRASE", "correct horse \udcff")

    with pytest.raises(ConfigurationError, match=r"^CONTROL_PLANE_KEY_PASSPHRASE: is not UTF-8$"):
        load()


def test_what_is_wrong_with_a_setting_is_told_in_our_words() -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(pending_hosts="many", drain_s=0, log_format="xml", database_pool_size=-1)

    assert set(str(refused.value).splitlines()) == {
        "CONTROL_PLANE_PENDING_HOSTS: has to be a whole number",
        "CONTROL_PLANE_DRAIN_S: has to be more than 0.0",
        "CONTROL_PLANE_LOG_FORMAT: has to be json or text",
        "CONTROL_PLANE_DATABASE_POOL_SIZE: has to be at least 4",
    }


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["templates", "create", "/nonexistent"], capsys)

    assert said == "/nonexistent cannot be read: No such file or directory"


def test_the_example_of_the_payroll_is_about_every_role_that_reads_and_does_not_oversee() -> None:
    text = OPERATIONS.read_text()
    [example] = re.findall(r"for role in ([\w -]+); do\n([^;]+ --group payroll .+?)\n    done", text, re.DOTALL)

    reading = {role for role, permissions in ROLES.items() if permissions & READING}
    assert set(example[0].split()) == reading - {subject.removeprefix("role:") for subject in OVERSEERS}
    assert set(re.findall(r"--action (\S+)", example[1])) == READING
