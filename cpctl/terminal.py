"""Questions to whoever sits before the terminal."""

import getpass
import signal
import sys
from collections.abc import Callable

from cpctl.errors import CpctlError


def is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> str:
    """What was typed. Raises CpctlError at the end of input."""

    def read() -> str:
        print(question, end="", file=sys.stderr, flush=True)
        return sys.stdin.readline()

    return _asked(read).strip()


def ask_password(question: str) -> str:
    """The same, and nobody sees it."""
    return _asked(lambda: getpass.getpass(question, stream=sys.stderr) + "\n").removesuffix("\n")


def _asked(read: Callable[[], str]) -> str:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else Ctrl-C would wait for the answer
    try:
        answer = read()
    except EOFError:
        answer = ""
    finally:
        signal.signal(signal.SIGINT, before)
    if not answer:
        raise CpctlError("nothing was answered; nothing was started")
    return answer


def say(text: str) -> None:
    """A line on stderr: everything that is no result."""
    print(text, file=sys.stderr, flush=True)
