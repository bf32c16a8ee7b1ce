"""Time as a parameter. This is the only module that asks the machine for it."""

import time
from typing import Protocol


class Clock(Protocol):
    def now_us(self) -> int:
        """UTC microseconds since 1970 by the wall clock, which may be set back."""
        ...

    def now_s(self) -> int:
        """The same in whole seconds, as the wire protocol counts them."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that only ever grow, from an arbitrary start: for how long something took."""
        ...


class SystemClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000

    def now_s(self) -> int:
        return int(time.time())

    def monotonic_s(self) -> float:
        return time.monotonic()
