"""Time that a test moves by hand."""

START_US = 1_700_000_000_000_000


class ManualClock:
    """A clock that stands still until `advance`; `set_back` steps the wall clock alone."""

    def __init__(self, now_us: int = START_US) -> None:
        self._wall_us = now_us
        self._monotonic_us = 0

    def now_us(self) -> int:
        return self._wall_us

    def now_s(self) -> int:
        return self._wall_us // 1_000_000

    def monotonic_s(self) -> float:
        return self._monotonic_us / 1_000_000

    def advance(self, seconds: float) -> None:
        self._wall_us += round(seconds * 1_000_000)
        self._monotonic_us += round(seconds * 1_000_000)

    def set_back(self, seconds: float) -> None:
        self._wall_us -= round(seconds * 1_000_000)
