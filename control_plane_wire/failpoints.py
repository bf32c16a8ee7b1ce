"""Named places where a test may kill the process. In production a hit costs one look at a None."""

import os
import signal
from pathlib import Path


class Failpoints:
    """Kills this process by SIGKILL at the n-th hit of one name, and logs hits for a recording run.

    Args:
        spec: "name" or "name:n"; None never kills.
        log: a file that gets the name of each hit as a line, in the order of the hits.
    """

    def __init__(self, spec: str | None = None, log: Path | None = None) -> None:
        name, _, count = (spec or "").partition(":")
        self._name = name
        self._left = int(count or 1)
        self._log = log
        self._is_active = bool(name) or log is not None

    def hit(self, name: str) -> None:
        if self._is_active:
            self._hit(name)

    def _hit(self, name: str) -> None:
        if self._log is not None:
            file = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(file, f"{name}\n".encode())
            os.close(file)
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


NO_FAILPOINTS = Failpoints()
