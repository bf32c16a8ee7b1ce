"""Failpoints that raise instead of killing, for programs that share a process with their test."""

from control_plane_wire.failpoints import Failpoints


class Died(BaseException):
    """Where the process would have ended."""


class DiesAt(Failpoints):
    def __init__(self, point: str, how: type[BaseException] = Died) -> None:
        super().__init__()
        self._point = point
        self._how = how

    def hit(self, name: str) -> None:
        if name == self._point:
            raise self._how(name)
