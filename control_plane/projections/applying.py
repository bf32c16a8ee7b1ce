"""Applying events of the log to rows in memory, and telling which one of them cannot be."""

from collections.abc import Iterator, Sequence

from sqlalchemy import Table

from control_plane.errors import FoldError
from control_plane.events import registry
from control_plane.events.envelope import StoredEvent
from control_plane.events.event import Event, UnknownEvent
from control_plane.projections.projection import Projection
from control_plane.projections.rows import RowKey, Rows


class PoisonError(Exception):
    def __init__(self, stored: StoredEvent, error: FoldError) -> None:
        super().__init__(str(error))
        self.stored = stored
        self.error = error


def decode(projection: Projection, events: Sequence[StoredEvent]) -> list[tuple[StoredEvent, Event]]:
    """The events that a projection folds; without those of unknown kinds, where it does not take them."""
    decoded: list[tuple[StoredEvent, Event]] = []
    unknown = UnknownEvent() if projection.takes_unknown else None
    for stored in events:
        try:
            event = registry.decode(stored) or unknown
        except Exception as error:
            raise _poison(stored, error) from error
        if event is not None:
            decoded.append((stored, event))
    return decoded


def touched(projection: Projection, events: Sequence[tuple[StoredEvent, Event]]) -> Iterator[tuple[Table, RowKey]]:
    """The rows that the events look at; one of them may be there more than once."""
    for stored, event in events:
        try:
            yield from projection.touched(stored, event)
        except Exception as error:
            raise _poison(stored, error) from error


def apply(projection: Projection, rows: Rows, events: Sequence[tuple[StoredEvent, Event]]) -> None:
    """Apply the events in their order to rows that are loaded."""
    for stored, event in events:
        try:
            projection.apply(rows, stored, event)
        except Exception as error:
            raise _poison(stored, error) from error


def _poison(stored: StoredEvent, error: Exception) -> PoisonError:
    return PoisonError(stored, FoldError(stored.seq, f"{type(error).__name__}: {error}"))


def subject_of(stored: StoredEvent) -> str:
    """What an event is about: the later ones about it must not overtake it."""
    return stored.task_id or stored.hostname or f"{stored.kind} {stored.seq}"
