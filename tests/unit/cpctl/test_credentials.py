"""Whose word cpctl takes for where the server is, and to whom it never sends a token."""

import json
from pathlib import Path

import pytest

from cpctl.credentials import Credentials, checked_url, find, keep, kept_at
from cpctl.errors import NOT_ALLOWED, USAGE, CpctlError

HERE = "http://127.0.0.1:8000"


def test_the_environment_goes_before_what_is_kept_and_that_before_a_dev_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home = {"HOME": str(tmp_path)}
    with pytest.raises(CpctlError, match="cpctl login URL") as none:
        find(home)
    assert none.value.status == NOT_ALLOWED

    (tmp_path / ".control-plane").mkdir()
    (tmp_path / ".control-plane" / "dev.json").write_text(json.dumps({"url": HERE, "token": "dev", "login_url": "…"}))
    assert find(home).token == "dev"
    keep(kept_at(home), Credentials("https://control.example", "kept", token_id="t1"))
    assert find(home) == Credentials("https://control.example", "kept", token_id="t1")
    assert find({**home, "CPCTL_URL": HERE, "CPCTL_TOKEN": "given"}).token == "given"


def test_what_is_kept_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = kept_at({"XDG_CONFIG_HOME": str(tmp_path / "config")})
    for token in ("one", "two"):
        keep(path, Credentials(HERE, token))

    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert json.loads(path.read_bytes())["token"] == "two"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("control.example.com", "https://control.example.com"),
        ("https://control.example.com:8443/", "https://control.example.com:8443"),
        ("https://Control.Example.com:443", "https://control.example.com"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_address_is_https_unless_it_is_this_machine_s(given: str, url: str) -> None:
    assert checked_url(given) == url


@pytest.mark.parametrize(
    "given",
    [
        "http://control.example.com",
        "http://10.0.0.1",
        "http://127.0.0.1.example.com",
        "ftp://localhost",
        "https://me:secret@control.example.com",
        "https://control.example.com/path",
        "https://",
        "http://[::1",
        "https://control.example.com:port",
    ],
)
def test_no_token_goes_in_the_clear_or_to_what_is_no_server(given: str) -> None:
    with pytest.raises(CpctlError) as refused:
        checked_url(given)

    assert refused.value.status == USAGE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        f'{{"url": "{HERE}", "token": "x", "ca_file": 1}}',
        '{"url": 1, "token": "x"}',
        '{"url": "ftp://x", "token": "x"}',
        "\xff",
    ],
)
def test_a_file_that_is_none_of_ours_is_one_clear_line(text: str, tmp_path: Path) -> None:
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    kept_at(home).parent.mkdir()
    kept_at(home).write_bytes(text.encode("latin-1"))

    with pytest.raises(CpctlError):
        find(home)


def test_half_an_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CpctlError, match="go together"):
        find({"HOME": str(tmp_path), "CPCTL_URL": HERE})
