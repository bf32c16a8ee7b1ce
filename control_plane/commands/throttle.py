"""How often somebody may try: so many times within a window, and then not until the oldest try has left it."""

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final

from control_plane.errors import TooManyError

MAX_KEYS: Final = 10_000

LOGINS_OF_ADDRESS: Final = 10  # in a minute
ADDRESS_S: Final = 60.0
FAILURES_OF_ACCOUNT: Final = 5  # in a quarter of an hour
ACCOUNT_S: Final = 15 * 60.0


class Limit:
    """At most `most` within `window_s` seconds for each key; of more than 10,000 keys it forgets the most silent."""

    def __init__(self, most: int, window_s: float) -> None:
        self._most = most
        self._window_s = window_s
        self._times: OrderedDict[Hashable, deque[float]] = OrderedDict()

    def wait_s(self, key: Hashable, now_s: float) -> float:
        """Seconds until there is room for one more; 0 where there is."""
        times = self._times.get(key)
        if times is None:
            return 0.0
        while times and times[0] <= now_s - self._window_s:
            times.popleft()
        return 0.0 if len(times) < self._most else times[0] + self._window_s - now_s

    def count(self, key: Hashable, now_s: float) -> None:
        times = self._times.setdefault(key, deque(maxlen=self._most))
        self._times.move_to_end(key)
        times.append(now_s)
        while len(self._times) > MAX_KEYS:
            self._times.popitem(last=False)

    def take_back(self, key: Hashable) -> None:
        """The last one did not count."""
        if times := self._times.get(key):
            times.pop()

    def forget(self, key: Hashable) -> None:
        self._times.pop(key, None)


class LoginThrottle:
    """How often a wrong password may be tried, by address and by account; all times are monotonic seconds.

    An account that does not exist is counted alike, so nothing shows which do. An address from which somebody has
    signed in before has a count of its own for that account, so that others lock out only themselves.
    """

    def __init__(self) -> None:
        self._addresses = Limit(LOGINS_OF_ADDRESS, ADDRESS_S)
        self._accounts = Limit(FAILURES_OF_ACCOUNT, ACCOUNT_S)
        self._known: OrderedDict[tuple[str, str | None], None] = OrderedDict()

    def check(self, username: str, address: str | None, now_s: float) -> None:
        """Count a try, before any work is done for it: many at once are not more. Raises TooManyError."""
        waits_s = [limit.wait_s(key, now_s) for limit, key in self._counts(username, address)]
        if max(waits_s) > 0:
            detail = f"too many tries to sign in: try again in {math.ceil(max(waits_s))} s"
            raise TooManyError("too_many_logins", detail, max(waits_s))
        for limit, key in self._counts(username, address):
            limit.count(key, now_s)

    def take_back(self, username: str, address: str | None) -> None:
        """No password was looked at."""
        for limit, key in self._counts(username, address):
            limit.take_back(key)

    def succeeded(self, username: str, address: str | None) -> None:
        """It was the right one, and counts no more."""
        self.take_back(username, address)
        self._known[username, address] = None
        self._known.move_to_end((username, address))
        while len(self._known) > MAX_KEYS:
            self._known.popitem(last=False)
        self._accounts.forget((username, address))

    def _counts(self, username: str, address: str | None) -> list[tuple[Limit, Hashable]]:
        if (username, address) in self._known:  # others from there, as from behind a proxy, do not lock it out either
            return [(self._accounts, (username, address))]
        return [(self._addresses, address), (self._accounts, username)]
