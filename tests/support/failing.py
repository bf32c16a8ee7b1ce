"""Failpoints that raise instead of killing, for programs that share a process with their test."""

from control_plane_wire.failpoints import Failpoints


class Died(BaseException):
    """Where the process would have ended."""


class DiesAt(Failpoints):
    def __init__(self, point: str) -> None:
        super().__init__()
        self._point = point

    def hit(self, name: str) -> None:
        if name == self._point:
            raise Died(name)
