"""How a password is asked for at a terminal."""

import argparse
import asyncio
import io
import signal

import pytest

from control_plane.cli_people import password
from control_plane.errors import ConfigurationError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())


async def asked() -> str:
    return password(argparse.Namespace(password_stdin=False))


def test_the_first_ctrl_c_ends_the_question_and_what_it_does_after_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    went_on = []

    def interrupted(prompt: str) -> str:
        signal.raise_signal(signal.SIGINT)
        went_on.append(prompt)
        return "x"

    async def command() -> None:
        before = signal.getsignal(signal.SIGINT)
        assert before is not signal.default_int_handler  # asyncio.run only cancels the task
        try:
            await asked()
        finally:
            assert signal.getsignal(signal.SIGINT) is before

    monkeypatch.setattr("getpass.getpass", interrupted)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(command())
    assert went_on == []


def test_ctrl_d_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("getpass.getpass", ended)

    with pytest.raises(ConfigurationError, match="no password was given"):
        asyncio.run(asked())
