"""What the embedded mode says when it is there."""

import asyncio
import os
from pathlib import Path

import pytest

from control_plane.dev import _Greeting


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
