"""Questions to whoever sits before the terminal."""

import signal
import sys

from cpctl.errors import CpctlError


def is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> str:
    """What was typed, without the line's end. Raises CpctlError at the end of input."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else Ctrl-C would wait for the answer
    try:
        print(question, end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
    finally:
        signal.signal(signal.SIGINT, before)
    if not answer:
        raise CpctlError("nothing was answered; nothing was started")
    return answer.strip()


def say(text: str) -> None:
    """A line on stderr: everything that is no result."""
    print(text, file=sys.stderr, flush=True)
