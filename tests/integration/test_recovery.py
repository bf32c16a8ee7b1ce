"""Administrators are made, and let in again, on the server's own command line, and nowhere else."""

import asyncio
import io
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from control_plane import cli, cli_people
from control_plane.administration import initialise
from control_plane.commands.access import ROLES, Token
from control_plane.core import open_core
from control_plane.errors import ControlPlaneError
from control_plane.settings import load
from tests.contract.test_api import BODIES, PUBLIC, address, operations
from tests.support import api as support
from tests.support.api import LOGIN_TOKEN, PASSWORD, a_public_key, an_api
from tests.support.database import sqlite_url

OTHER = "another long one"
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line on an installation with the administrator root; its exit status and all that it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTROL_PLANE_DATABASE_URL", sqlite_url(tmp_path))
    monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path))

    def run(*argv: str, stdin: str = PASSWORD) -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{stdin}\n"))
        status, said = cli.main(argv), capsys.readouterr()
        return status, said.out + said.err

    asyncio.run(initialise(load(), "root", PASSWORD))
    return run


def signs_in(username: str, password: str = PASSWORD) -> str | None:
    """The role of who signs in with that; None where nobody does."""

    async def login() -> str | None:
        async with open_core(load()) as core:
            try:
                return (await core.access.login(username, password, address=None)).principal.role
            except ControlPlaneError:
                return None

    return asyncio.run(login())


def tokens() -> list[Token]:
    async def read() -> list[Token]:
        async with open_core(load()) as core:
            return list(core.authority.access.tokens.values())

    return asyncio.run(read())


def test_the_database_is_its_owner_s_alone_and_an_open_one_is_closed(run: Run, tmp_path: Path) -> None:
    files = [path for path in tmp_path.glob("*.db*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}

    for path in files:
        path.chmod(0o644)
    run("users", "list")

    assert {path.stat().st_mode & 0o777 for path in files if path.exists()} == {0o600}


def test_a_rule_about_a_group_or_a_host_that_nobody_has_is_made_with_a_warning(run: Run) -> None:
    status, said = run(
        "rules", "add", "deny", "user:root", "--group", "payrol", "--host", "db9", "--action", "hosts.read"
    )

    rule_id, *warnings = said.splitlines()  # what goes to standard output comes first here
    assert (status, len(rule_id)) == (0, 16)
    assert warnings == [
        "control-plane: no host that you may see is in the group payrol",
        "control-plane: there is no host db9 that you may see",
    ]


def test_a_reason_is_one_line(run: Run) -> None:
    status, said = run("keys", "retire", "0" * 16, "--reason", "two\nlines")

    assert (status, said.startswith("control-plane: invalid_request: reason")) == (1, True)


def test_an_administrator_who_is_locked_out_is_let_in_again(run: Run) -> None:
    assert run("users", "create", "ann", "--role", "administrator", "--password-stdin") == (0, "")
    assert run("users", "disable", "ann") == (0, "")
    assert signs_in("ann") is None

    assert run("users", "enable", "ann") == (0, "")
    assert run("users", "role", "ann", "viewer") == (0, "")
    assert signs_in("ann") == "viewer"
    assert run("users", "role", "ann", "administrator") == (0, "")
    assert run("users", "password", "ann", "--password-stdin", stdin=OTHER) == (0, "")
    assert (signs_in("ann", OTHER), signs_in("ann")) == ("administrator", None)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("flag", [(), ("--password-stdin",)])
def test_at_a_terminal_a_password_is_asked_for_twice_and_not_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch, flag: tuple[str, ...]
) -> None:
    answers = iter([PASSWORD, PASSWORD, PASSWORD, OTHER])
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
    monkeypatch.setattr("io.StringIO", Terminal)  # what `run` gives for the standard input

    assert run("users", "create", "ann", "--role", "viewer", *flag) == (0, "")
    status, said = run("users", "password", "ann", *flag)

    assert status != 0
    assert "not the same" in said
    assert signs_in("ann") == "viewer"


def test_without_a_terminal_one_is_told_how_to_give_a_password(run: Run) -> None:
    status, said = run("users", "create", "ann", "--role", "viewer")

    assert status != 0
    assert "--password-stdin" in said
    assert signs_in("ann") is None


def test_the_last_administrator_stays_one(run: Run) -> None:
    for argv in (("disable", "root"), *(("role", "root", role) for role in ROLES if role != "administrator")):
        status, said = run("users", *argv)
        assert (status, "root is the last administrator" in said) == (1, True)
    assert run("users", "create", "ann", "--role", "administrator", "--password-stdin")[0] == 0
    assert run("users", "disable", "root")[0] == 0
    assert run("users", "disable", "ann")[0] == 1
    assert signs_in("ann") == "administrator"


def test_a_log_that_says_that_there_is_no_administrator_any_more_has_its_last_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an older release has left it, or two servers that decide at the same moment."""
    with monkeypatch.context() as patch:
        patch.setattr("control_plane.commands.users._keep_one_administrator", lambda *_: None)
        status, said = run("users", "disable", "root")
    assert (status, "root is the last administrator" in said) == (1, True)
    assert signs_in("root") == "administrator"

    assert run("users", "create", "ann", "--role", "administrator", "--password-stdin")[0] == 0
    assert run("users", "disable", "root")[0] == 0
    assert (signs_in("ann"), signs_in("root")) == ("administrator", None)


@pytest.mark.parametrize(
    "argv",
    [
        ("users", "create", "root", "--role", "viewer", "--password-stdin"),
        ("users", "create", "Ann", "--role", "viewer", "--password-stdin"),
        ("users", "create", "console", "--role", "administrator", "--password-stdin"),
        ("users", "enable", "nobody"),
        ("users", "password", "nobody", "--password-stdin"),
        ("users", "role", "nobody", "administrator"),
        ("tokens", "create", "--user", "nobody"),
        ("tokens", "create", "--user", "root", "--days", "366"),
        ("tokens", "create", "--user", "root", "--permission", "everything"),
        ("tokens", "create", "--user", "root", "--address", "10.0.0.1/8"),
        ("tokens", "revoke", "0123456789abcdef"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(run: Run, argv: tuple[str, ...]) -> None:
    before = run("users", "list")

    status, said = run(*argv)

    assert status == 1
    assert said.startswith("control-plane: ")
    assert run("users", "list") == before


def test_a_token_is_made_for_less_listed_and_revoked(run: Run) -> None:
    options = ["--permission", "hosts.read", "--permission", "tasks.read", "--address", "10.0.0.0/8", "--name", "ci"]
    status, text = run("tokens", "create", "--user", "root", *options)
    token_id = text.split("_")[1]

    status_of_list, listed = run("tokens", "list")
    assert (status, status_of_list) == (0, 0)
    shown = re.fullmatch(
        rf"{token_id}  root {{13}}until ([0-9TZ:-]+), never used; for hosts.read, tasks.read from 10.0.0.0/8; ci\n",
        listed,
    )
    assert shown
    [token] = tokens()
    assert datetime.fromisoformat(shown[1]).timestamp() == token.expires_at
    assert run("tokens", "revoke", token_id) == (0, "")
    assert run("tokens", "list") == (0, "")


def test_help_names_every_way_back_in(capsys: pytest.CaptureFixture[str]) -> None:
    for noun, actions in (
        ("users", ("list", "create", "disable", "enable", "password", "role", "remove-passkeys")),
        ("tokens", ("list", "create", "revoke")),
    ):
        with pytest.raises(SystemExit):
            cli.main([noun, "--help"])
        told = capsys.readouterr().out
        assert all(action in told for action in actions)
        with pytest.raises(SystemExit):
            cli.main(["--help"])
        every = "".join(capsys.readouterr().out.split())  # also what is cut at the end of a line
        assert f":{','.join(actions)}" in every
    assert set(cli_people.ROLES) == ROLES.keys()


async def test_no_route_makes_the_first_administrator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is sent to an installation without people, with no credentials, forged ones or the login link."""
    monkeypatch.setattr(support, "PEOPLE", {})
    async with an_api(tmp_path) as made:
        credentials: list[dict[str, str]] = [
            {},
            {"authorization": "Bearer cp_0_0"},
            {"authorization": f"Bearer {LOGIN_TOKEN}"},
            {"cookie": f"control_plane_session={LOGIN_TOKEN}"},
        ]
        bodies: dict[tuple[str, str], Any] = {
            **BODIES,
            ("POST", "/api/v1/users"): {"username": "root", "role": "administrator", "password": PASSWORD},
            ("POST", "/api/v1/auth/password"): {"current": "", "new": PASSWORD},
            ("POST", "/api/v1/enrol/begin"): {"token": "cpe_0_0", "hostname": "web1", "public_key": a_public_key()},
        }
        asked = 0
        for headers in credentials:
            client = made.client(None, **headers)
            for route in operations(made.app):
                answer = await client.request(route[0], address(route[1]), json=bodies.get(route))
                asked += 1
                assert route in PUBLIC or answer.status_code in {401, 429}, route
        for login in ({"login_token": LOGIN_TOKEN}, {"username": "root", "password": PASSWORD}):
            assert (await made.client(None).post("/api/v1/auth/login", json=login)).status_code in {401, 404}

        assert asked > 200
        assert made.services.authority.access.users == {}
        assert not made.services.authority.access.sessions
