"""What a host sends that nobody asked for, or nobody has signed: recorded, and no host may fill the log with it.

What is only counted lies in the `.dead` queue before it is acknowledged: a crash loses the number of a minute at most.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from control_plane.events.access import MessageRejected
from control_plane.events.envelope import Key
from control_plane.events.tasks import ExecutionUnexpected

Told: TypeAlias = ExecutionUnexpected | MessageRejected

WINDOW_S: Final = 60.0
SINGLY: Final = 10  # of one host in that time
MAX_HOSTS: Final = 1000  # that send such; more are counted together


@dataclass(slots=True)
class _Window:
    """Attributes: `single`: those recorded singly; `more`: how many were not; `last`: one of them."""

    ends_s: float
    single: set[Key] = field(default_factory=set)
    more: int = 0
    last: Told | None = None


class Rubbish:
    """What came lately. It tells what is to be recorded; it knows no log. All times are monotonic seconds."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._late: list[Told] = []  # that could not be recorded

    def singly(self, told: Sequence[tuple[str, Told]]) -> list[bool]:
        """Which of these, each with its sender, are to be recorded as events of their own; or are, and come again.

        It counts none: that may have to be done again.
        """
        asked: dict[str, set[Key]] = {}
        answers = []
        for sender, event in told:
            place, key = self._place(sender), event.key()
            if place not in asked:
                asked[place] = set(self._windows[place].single) if place in self._windows else set()
            answers.append(key in asked[place] or len(asked[place]) < SINGLY)
            if answers[-1]:
                asked[place].add(key)
        return answers

    def count(self, sender: str, told: Told, now_s: float, *, singly: bool) -> None:
        """This one is recorded, or set aside."""
        window = self._windows.setdefault(self._place(sender), _Window(now_s + WINDOW_S))
        if singly:
            window.single.add(told.key())
        else:
            window.more += 1
            window.last = told

    def due(self, now_s: float) -> list[Told]:
        """Of each minute that is over, the number; and what could not be recorded before."""
        return self._taken([sender for sender, window in self._windows.items() if window.ends_s <= now_s])

    def rest(self) -> list[Told]:
        """Everything that was only counted so far."""
        return self._taken(list(self._windows))

    def put_back(self, events: Sequence[Told]) -> None:
        """Of these it is not known whether they were recorded. Their ids make it right to record them again."""
        self._late.extend(events)

    def _taken(self, senders: Sequence[str]) -> list[Told]:
        late, self._late = self._late, []
        for window in [self._windows.pop(sender) for sender in senders]:
            if window.last is not None:
                late.append(replace(window.last, count=window.more, count_id=secrets.token_hex(16)))
        return late

    def _place(self, sender: str) -> str:
        return sender if sender in self._windows or len(self._windows) < MAX_HOSTS else ""
