"""How often somebody may try, so many times within a window; and how often somebody may ask, so many times a second."""

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final

from control_plane.commands.access import Principal
from control_plane.commands.pending_hosts import network_of, site_of
from control_plane.errors import TooManyError

MAX_KEYS: Final = 10_000

LOGINS_OF_ADDRESS: Final = 10  # in a minute
LOGINS_OF_SITE: Final = 30  # of an IPv6 /48, as one customer has it, and 65,536 networks in it
ADDRESS_S: Final = 60.0
FAILURES_OF_ACCOUNT: Final = 5  # in a quarter of an hour
ACCOUNT_S: Final = 15 * 60.0

ENROLMENTS_OF_ADDRESS: Final = 120  # requests without a token in a minute
WRONG_CREDENTIALS: Final = 100  # of an address in a minute; more are not looked up
BURST_S: Final = 2.0  # of the requests that a rate lets through may come at once


def refuse_if(code: str, said: str, wait_s: float) -> None:
    """Raises TooManyError where there is no room yet; it says so many whole seconds that there is some after them."""
    if wait_s > 0:
        raise TooManyError(code, f"{said}; try again in {math.ceil(wait_s)} s", wait_s)


def refuse_login_if(wait_s: float) -> None:
    """The same of signing in, by whatever way."""
    refuse_if("too_many_logins", "too many tries to sign in", wait_s)


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


class Rate:
    """So many a second for each key, two seconds' worth at once; of more than 10,000 keys it forgets the most silent.

    Args:
        per_s: 0 for no limit.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # how many, and when that was

    def take(self, key: Hashable, now_s: float) -> float:
        """Count one; 0, or the seconds until there is room for it, and then it does not count."""
        if not self._per_s:
            return 0.0
        most = max(1.0, self._per_s * BURST_S)
        left, since_s = self._left.get(key, (most, now_s))
        left = min(most, left + (now_s - since_s) * self._per_s)
        is_taken = left >= 1.0
        self._left[key] = (left - is_taken, now_s)
        self._left.move_to_end(key)
        while len(self._left) > MAX_KEYS:
            self._left.popitem(last=False)
        return 0.0 if is_taken else (1.0 - left) / self._per_s


class RequestThrottle:
    """How often a session or a token may ask, and an address show credentials that are none; by monotonic seconds."""

    def __init__(self, *, session_per_s: float, token_per_s: float) -> None:
        self._sessions, self._tokens = Rate(session_per_s), Rate(token_per_s)
        self._wrong = Limit(WRONG_CREDENTIALS, ADDRESS_S)

    def take(self, principal: Principal, now_s: float) -> None:
        """Count a request. Raises TooManyError."""
        by_session = principal.session_sha256 is not None
        rate, key = (self._sessions, principal.session_sha256) if by_session else (self._tokens, principal.token_id)
        refuse_if("too_many_requests", "too many requests", rate.take(key, now_s))

    def wrong(self, address: str | None, now_s: float) -> None:
        """Count credentials that this process does not know, before anybody else is asked. Raises TooManyError."""
        sender = network_of(address)
        refuse_if("too_many_credentials", "too many wrong credentials from there", self._wrong.wait_s(sender, now_s))
        self._wrong.count(sender, now_s)

    def right(self, address: str | None) -> None:
        """They were right after all."""
        self._wrong.take_back(network_of(address))


class EnrolmentThrottle:
    """How often an address may ask without an enrolment token, for a nonce or by one; by monotonic seconds."""

    def __init__(self) -> None:
        self._limit = Limit(ENROLMENTS_OF_ADDRESS, ADDRESS_S)

    def check(self, address: str | None, now_s: float) -> None:
        """Count it. Raises TooManyError."""
        sender = network_of(address)
        refuse_if("too_many_requests", "too many requests of this address", self._limit.wait_s(sender, now_s))
        self._limit.count(sender, now_s)


class LoginThrottle:
    """How often a wrong password may be tried, by address and by account; all times are monotonic seconds.

    An account that does not exist is counted alike, so nothing shows which do. An address from which somebody has
    signed in before has a count of its own for that account, so that others lock out only themselves.
    """

    def __init__(self) -> None:
        self._addresses = Limit(LOGINS_OF_ADDRESS, ADDRESS_S)
        self._sites = Limit(LOGINS_OF_SITE, ADDRESS_S)
        self._accounts = Limit(FAILURES_OF_ACCOUNT, ACCOUNT_S)
        self._known: OrderedDict[tuple[str, str | None], None] = OrderedDict()

    def check(self, username: str, address: str | None, now_s: float) -> None:
        """Count a try, before any work is done for it: many at once are not more. Raises TooManyError."""
        refuse_login_if(max(limit.wait_s(key, now_s) for limit, key in self._counts(username, address)))
        for limit, key in self._counts(username, address):
            limit.count(key, now_s)

    def take_back(self, username: str, address: str | None) -> None:
        """No password was looked at."""
        for limit, key in self._counts(username, address):
            limit.take_back(key)

    def succeeded(self, username: str, address: str | None, *, tries: int = 1) -> None:
        """What the last so many tries brought was right, and they count no more."""
        for _ in range(tries):
            self.take_back(username, address)
        known = (username, network_of(address))
        self._known[known] = None
        self._known.move_to_end(known)
        while len(self._known) > MAX_KEYS:
            self._known.popitem(last=False)
        self._accounts.forget(known)

    def known(self, username: str, address: str | None) -> Hashable | None:
        """What one who has signed in from there before is told apart by; None: it may be anybody."""
        pair = (username, network_of(address))
        return pair if pair in self._known else None

    def _counts(self, username: str, address: str | None) -> list[tuple[Limit, Hashable]]:
        sender = network_of(address)
        if (username, sender) in self._known:  # others from there, as from behind a proxy, do not lock it out either
            return [(self._accounts, (username, sender))]
        counts: list[tuple[Limit, Hashable]] = [(self._addresses, sender), (self._accounts, username)]
        return counts if (site := site_of(address)) is None else [*counts, (self._sites, site)]
