"""What the embedded mode says when it is there."""

import asyncio
import os
from pathlib import Path

import pytest

from control_plane import dev
from control_plane.bootstrap import accounts_of
from control_plane.dev import _Greeting
from control_plane.messaging.broker_accounts import SharedAccount
from control_plane.settings import Settings


async def test_the_greeting_names_the_uid_where_it_has_no_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answers(_: _Greeting) -> bool:
        return True

    monkeypatch.setattr(_Greeting, "_answers", answers)
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_000)
    monkeypatch.setenv("LOGNAME", "somebody")
    stop = asyncio.Event()
    stop.set()

    async def revoke_token() -> None:
        return

    greeting = _Greeting(
        "http://127.0.0.1:8000",
        ("127.0.0.1", 8000),
        {"login_url": "http://127.0.0.1:8000/login"},
        tmp_path / "dev.json",
        hosts=1,
        revoke_token=revoke_token,
    )
    await greeting.run(stop)

    assert "commands run as uid 4000000000 (no account on this host)\n" in capsys.readouterr().out


class Seen(Exception):  # noqa: N818 - it ends the run once the settings are known
    pass


async def test_another_installations_environment_is_not_worked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AMQP_URL": "amqp://plane:x@production/plane",
        "AGENTS_AMQP_URL": "amqps://agents:x@production/plane",
        "BROKER_API_URL": "http://root:x@production:15672",
        "TLS_CERTIFICATE": str(tmp_path / "none.pem"),
        "TLS_KEY": str(tmp_path / "none.pem"),
        "LISTEN": "127.0.0.1:0",
    }.items():
        monkeypatch.setenv(f"CONTROL_PLANE_{name}", value)
    seen: list[Settings] = []

    async def initialise(settings: Settings, *_: str) -> None:
        seen.append(settings)
        raise Seen

    monkeypatch.setattr(dev, "initialise", initialise)
    monkeypatch.setattr(os, "umask", lambda _mode: 0)  # it would be that of all tests after this one
    with pytest.raises(Seen):
        await dev.run(state_dir=tmp_path, listen=None, simulated=0)

    assert isinstance(accounts_of(seen[0]), SharedAccount)
    assert seen[0].url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("public_url", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("https://control.example", "http://127.0.0.1:"),
        ("http://[x", "http://127.0.0.1:"),
    ],
)
async def test_an_address_on_this_machine_is_taken_and_another_is_said_not_to_be(
    public_url: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Settings] = []

    async def initialise(settings: Settings, *_: str) -> None:
        seen.append(settings)
        raise Seen

    monkeypatch.setenv("CONTROL_PLANE_PUBLIC_URL", public_url)
    monkeypatch.setattr(dev, "initialise", initialise)
    monkeypatch.setattr(os, "umask", lambda _mode: 0)
    with pytest.raises(Seen):
        await dev.run(state_dir=tmp_path, listen="127.0.0.1:0", simulated=0)

    assert seen[0].url.startswith(url)
    assert (f"{public_url} is not on this machine" in capsys.readouterr().out) == (url != public_url)
