"""What was denied belongs into the log, and nobody may fill the log with it: after the first ones only their number."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from control_plane.events.access import AccessDenied

UNKNOWN: Final = "(unknown)"  # the actor where nobody is known to stand behind a request
WINDOW_S: Final = 60
SINGLY: Final = 10  # of one person in that time
SINGLY_UNKNOWN: Final = 1  # of an address from which nobody has signed in
MAX_ADDRESSES: Final = 20  # of those; more are counted together


@dataclass(slots=True)
class _Window:
    """Attributes: `more`: those that were not recorded singly; `last`: one of them."""

    ends_s: int
    last: AccessDenied
    count: int = 0
    more: int = 0


class Denials:
    """What has been denied lately. It tells what is to be recorded; it knows no log."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str | None], _Window] = {}
        self._late: list[AccessDenied] = []  # that could not be recorded
        self._again: set[str] = set()  # the ids of those that are being recorded once more

    def take(self, denied: AccessDenied, now_s: int) -> list[AccessDenied]:
        """Count a denial; what is to be recorded now: what was due anyway, and this one if it is among the first."""
        due = self.due(now_s)
        denied, key = self._placed(denied)
        window = self._windows.setdefault(key, _Window(now_s + WINDOW_S, denied))
        window.count += 1
        if window.count <= (SINGLY_UNKNOWN if denied.actor == UNKNOWN else SINGLY):
            return [*due, denied]
        window.more += 1
        window.last = denied
        return due

    def _placed(self, denied: AccessDenied) -> tuple[AccessDenied, tuple[str, str | None]]:
        """What it counts with: others of the same person, or of the same address as long as those are few."""
        if denied.actor != UNKNOWN:
            return denied, (denied.actor, None)
        key = (UNKNOWN, denied.address)
        if key in self._windows or sum(actor == UNKNOWN for actor, _ in self._windows) < MAX_ADDRESSES:
            return denied, key
        return replace(denied, address=None), (UNKNOWN, None)

    def due(self, now_s: int) -> list[AccessDenied]:
        """What is to be recorded though nothing more happens: of each minute that is over, the number.

        While some wait to be recorded again, or just are, a minute goes on: so not many can come to wait, and none is
        forgotten.
        """
        late = self._taken_late()
        if self._again:
            return late
        return self._ended([key for key, window in self._windows.items() if window.ends_s <= now_s])

    def rest(self) -> list[AccessDenied]:
        """Everything that was only counted so far."""
        return self._taken_late() + self._ended(list(self._windows))

    def _taken_late(self) -> list[AccessDenied]:
        late, self._late = self._late, []
        self._again.update(denied.denial_id for denied in late)
        return late

    def _ended(self, keys: Sequence[tuple[str, str | None]]) -> list[AccessDenied]:
        ended = [self._windows.pop(key) for key in keys]
        return [
            replace(window.last, denial_id=secrets.token_hex(16), count=window.more) for window in ended if window.more
        ]

    def put_back(self, events: Sequence[AccessDenied]) -> None:
        """Of these it is not known whether they were recorded. Their ids make it right to record them again."""
        self.recorded(events)
        self._late.extend(events)

    def recorded(self, events: Sequence[AccessDenied]) -> None:
        """These are in the log."""
        self._again.difference_update(denied.denial_id for denied in events)
