"""What the states of an execution come to: it worked, it did not work, it did not answer."""

from collections.abc import Mapping
from typing import Final

WORKED, FAILED, SILENT, CANCELLED, SKIPPED, RUNNING, WAITING = (
    "worked",
    "failed",
    "silent",
    "cancelled",
    "skipped",
    "running",
    "waiting",
)
ANSWER: Final[Mapping[str, str]] = {
    "failed": FAILED,
    "timed_out": FAILED,
    "lost": SILENT,
    "interrupted": FAILED,
    "rejected": FAILED,
    "expired": SILENT,
    "running": RUNNING,
    "accepted": WAITING,
    "sent": WAITING,
    "queued": WAITING,
    "skipped": SKIPPED,
    "cancelled": CANCELLED,
    "succeeded": WORKED,
}
# Each has a word and a fill of its own, so that nothing hangs on colours.
WORDS: Final[Mapping[str, str]] = {
    WORKED: "ok",
    FAILED: "failed",
    SILENT: "no answer",
    CANCELLED: "cancelled",
    SKIPPED: "skipped",
    RUNNING: "running",
    WAITING: "waiting",
}


def answer_of(state: str) -> str:
    return ANSWER.get(state, WAITING)


def is_open(state: str) -> bool:
    return answer_of(state) in (RUNNING, WAITING)


def answers(counts: Mapping[str, int]) -> dict[str, int]:
    """How many hosts gave which answer, in the order of `WORDS`."""
    sums = dict.fromkeys(WORDS, 0)
    for state, count in counts.items():
        sums[answer_of(state)] += count
    return sums


def phrase(counts: Mapping[str, int]) -> str:
    """`93 ok, 2 failed, 1 no answer`."""
    return ", ".join(f"{count:,} {WORDS[answer]}" for answer, count in answers(counts).items() if count)
