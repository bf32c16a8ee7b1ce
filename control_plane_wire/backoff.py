"""How long to wait before trying again."""

import random
from collections.abc import Callable


class Backoff:
    """Exponential with full jitter, so that a fleet that lost one broker does not come back as one herd.

    Args:
        first_s: the bound of the first wait, in seconds; it doubles from there.
        most_s: the bound that is never passed.
        rng: a number from 0 to 1 at each call.
    """

    def __init__(self, first_s: float, most_s: float, rng: Callable[[], float] = random.random) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._rng = rng
        self._bound_s = first_s

    def next_s(self) -> float:
        bound_s, self._bound_s = self._bound_s, min(self._bound_s * 2, self._most_s)
        return bound_s * self._rng()

    def reset(self) -> None:
        self._bound_s = self._first_s
