"""The opaque position of both logs: what a page was read as of, and where a stream goes on from."""

import re
from dataclasses import dataclass
from typing import Final

from control_plane.errors import RefusedError

_TEXT: Final = re.compile(r"e([0-9]{1,18})\.h([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Positions:
    """How far somebody has come in each log."""

    event: int
    heartbeat: int

    def __str__(self) -> str:
        return f"e{self.event}.h{self.heartbeat}"

    @classmethod
    def parse(cls, text: str) -> "Positions":
        """Raises RefusedError `bad_position` for anything that `str` did not make."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise RefusedError("bad_position", "this is no position that a list or a stream gave")
        return cls(int(match[1]), int(match[2]))
