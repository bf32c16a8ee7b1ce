"""What running commands have printed just now, for who begins to watch a moment late: a little, and in memory only.

A page asks for the output of its task a moment after that was accepted, or minutes, and a page that is loaded anew a
moment after it has left. So an execution is heard from its acceptance on, and for a while after its last reader.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, TypeAlias

from control_plane_wire.output import OutputMessage

SAFE_S: Final = 5.0  # that nobody else gets its place: bindings at the broker change no faster
LINGER_S: Final = 300.0  # that it is heard though nobody watches it
MOST_UNREAD: Final = 20  # executions that are heard though nobody watches them: as many as one reader may watch
MOST_KEPT: Final = 64  # executions of which something is kept
KEPT_CHARACTERS: Final = 64 * 1024  # of each; what is before them its result tells
KEPT_PIECES: Final = 256

Execution: TypeAlias = tuple[str, str]  # task_id, hostname


@dataclass(slots=True)
class _Kept:
    """Attributes: `until_s`: when it is forgotten; never while somebody reads it."""

    until_s: float
    pieces: deque[OutputMessage] = field(default_factory=deque)
    size: int = 0

    def keep(self, piece: OutputMessage) -> None:
        self.pieces.append(piece)
        self.size += len(piece.data)
        while self.size > KEPT_CHARACTERS or len(self.pieces) > KEPT_PIECES:
            self.size -= len(self.pieces.popleft().data)


class Latest:
    """The newest pieces of at most MOST_KEPT executions; times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._kept: dict[Execution, _Kept] = {}

    @property
    def executions(self) -> frozenset[Execution]:
        return frozenset(self._kept)

    def expect(self, executions: Sequence[Execution], now_s: float) -> None:
        """Somebody may watch these soon: they are heard, in the place of older ones where there is no room."""
        for execution in executions:
            unread = self._unread()
            if len(unread) == MOST_UNREAD or len(self._kept) == MOST_KEPT:
                old = next((one for one in unread if self._kept[one].until_s <= now_s + LINGER_S - SAFE_S), None)
                if old is None:
                    return
                del self._kept[old]
            self._kept.setdefault(execution, _Kept(now_s + LINGER_S))

    def watch(self, executions: Collection[Execution], now_s: float) -> None:
        """These are all that somebody watches now."""
        for execution, kept in self._kept.items():
            if execution in executions:
                kept.until_s = inf
            elif kept.until_s == inf:
                kept.until_s = now_s + LINGER_S
        for execution in self._unread()[:-MOST_UNREAD]:
            del self._kept[execution]
        for execution in executions:
            if len(self._kept) < MOST_KEPT:
                self._kept.setdefault(execution, _Kept(inf))
        self.forget(now_s)

    def forget(self, now_s: float) -> bool:
        """Let go of what nobody has come for in time; whether there was any."""
        gone = [execution for execution in self._unread() if self._kept[execution].until_s <= now_s]
        for execution in gone:
            del self._kept[execution]
        return bool(gone)

    def keep(self, piece: OutputMessage) -> None:
        if kept := self._kept.get((piece.task_id, piece.hostname)):
            kept.keep(piece)

    def of(self, execution: Execution) -> Sequence[OutputMessage]:
        """Its newest pieces, oldest first."""
        kept = self._kept.get(execution)
        return tuple(kept.pieces) if kept else ()

    def _unread(self) -> list[Execution]:
        return [execution for execution, kept in self._kept.items() if kept.until_s < inf]
