"""The global stop: while it stands nothing is sent to run; it takes authority and gives it back, and is signed."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.events.envelope import Key
from control_plane.events.event import Event

SUBJECT = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change(Event):
    """Both kinds share one key, so of two decisions on the same state the log takes one."""

    GIVES_AUTHORITY: ClassVar[bool] = True

    actor: str
    based_on: int

    def key(self) -> Key:
        return Key(SUBJECT, "stop.changed", "", str(self.based_on))


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSet(_Change):
    """From now on no command is accepted, and none is sent, also of what was accepted before.

    Attributes:
        actor: the user who stopped it.
        based_on: seq of the event that last lifted it, 0 where there is none.
        stopped_at: Unix seconds by the control plane's clock.
        reason: for people.
    """

    KIND: ClassVar[str] = "stop.set"

    stopped_at: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopLifted(_Change):
    """What was held back goes on, unless its time is over.

    Attributes:
        actor: the user who lifted it.
        based_on: seq of the event that set it.
        reason: for people.
    """

    KIND: ClassVar[str] = "stop.lifted"

    reason: str | None = None
