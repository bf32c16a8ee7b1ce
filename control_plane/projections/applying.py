"""Applying events of the log to rows in memory, and telling which one of them cannot be."""

from collections.abc import Sequence

from control_plane.errors import FoldError
from control_plane.events import registry
from control_plane.events.envelope import StoredEvent
from control_plane.events.event import UnknownEvent
from control_plane.projections.projection import Projection
from control_plane.projections.rows import RowStore


class PoisonError(Exception):
    def __init__(self, stored: StoredEvent, error: FoldError) -> None:
        super().__init__(str(error))
        self.stored = stored
        self.error = error


def apply(projection: Projection, rows: RowStore, events: Sequence[StoredEvent]) -> int:
    """Decode and apply events in their order, to rows that are loaded.

    Returns:
        How many were skipped, since this release does not know their kind.

    Raises:
        PoisonError: one of them cannot be folded; those before it are.
    """
    unknown = UnknownEvent() if projection.takes_unknown else None
    glance, concerns = projection.glance, projection.concerns
    skipped = 0
    for stored in events:
        try:
            event = glance(stored)
            if event is None:
                if concerns(stored.kind):
                    event = registry.decode(stored) or unknown
                    skipped += event is None
                else:
                    skipped += stored.kind not in registry.KINDS
            if event is not None:
                projection.apply(rows, stored, event)
        except Exception as error:
            raise PoisonError(stored, FoldError(stored.seq, f"{type(error).__name__}: {error}")) from error
    return skipped


def subject_of(stored: StoredEvent) -> str:
    """What an event is about: the later ones about it must not overtake it."""
    return stored.task_id or stored.hostname or f"{stored.kind} {stored.seq}"
