"""The global stop: while it stands no command is accepted and none is sent; cancels are, and what runs goes on."""

from dataclasses import dataclass
from datetime import UTC, datetime

from control_plane.commands.grammar import checked_line
from control_plane.errors import RefusedError
from control_plane.events.event import Event
from control_plane.events.stop import StopLifted, StopSet


@dataclass(slots=True)
class StopState:
    """Whether all is stopped, as the signed events say; `apply` is the only way in.

    Attributes:
        standing: the event that stopped it; None where it is not stopped.
        changed_seq: of the last event, 0 where there was none.
    """

    standing: StopSet | None = None
    changed_seq: int = 0

    def apply(self, event: Event, seq: int) -> bool:
        """Take one event in; False where it does not follow from what stands (a copy of an old one, say)."""
        match event:
            case StopSet() | StopLifted():
                is_set = isinstance(event, StopSet)
                if event.based_on != self.changed_seq or is_set == (self.standing is not None):
                    return False
                self.standing = event if isinstance(event, StopSet) else None
                self.changed_seq = seq
        return True

    @property
    def in_words(self) -> str | None:
        """Who has stopped it, when and why; None where nobody has."""
        if self.standing is None:
            return None
        since = datetime.fromtimestamp(self.standing.stopped_at, UTC)
        return f"stopped by {self.standing.actor} at {since:%Y-%m-%dT%H:%M:%SZ}: {self.standing.reason}"

    def check(self) -> None:
        """Raises RefusedError `stopped`, which says who has stopped it, when and why."""
        if (said := self.in_words) is not None:
            raise RefusedError("stopped", f"nothing is run: {said}")


def decide_stop(state: StopState, *, actor: str, reason: str, now_s: int) -> StopSet | None:
    """None where it is stopped already: the first reason stands."""
    checked_line("reason", reason)
    if state.standing is not None:
        return None
    return StopSet(actor=actor, based_on=state.changed_seq, stopped_at=now_s, reason=reason)


def decide_lift(state: StopState, *, actor: str, reason: str | None) -> StopLifted | None:
    """None where it is not stopped."""
    if reason is not None:
        checked_line("reason", reason)
    if state.standing is None:
        return None
    return StopLifted(actor=actor, based_on=state.changed_seq, reason=reason)
