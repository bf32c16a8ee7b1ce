"""What a projection is: read tables, and a pure fold of events into their rows."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import ClassVar

from sqlalchemy import Column, MetaData, Table

from control_plane.events.envelope import EVENT, LogName, StoredEvent
from control_plane.events.event import Event
from control_plane.projections.rows import RowKey, RowStore
from control_plane.storage.tables import Identifier, Int64, LongText, read_table


class Projection:
    """One noun's read tables. `suffix` names a copy of them beside the live ones, for a rebuild.

    Each column is fed by one log only, so it does not matter how the two logs interleave. Beside the read tables there
    is `parked`, where a projector sets aside the events that it cannot fold, and the later ones of the same subject.
    """

    name: ClassVar[str]
    version: ClassVar[int]  # a new shape of a table, or a new meaning of a column, is a new version and a rebuild
    logs: ClassVar[Sequence[LogName]] = (EVENT,)
    # Whether it folds events of kinds that this release does not know, as `UnknownEvent`; others skip them.
    takes_unknown: ClassVar[bool] = False

    def __init__(self, suffix: str = "") -> None:
        self.metadata = MetaData()
        self.suffix = suffix
        self.parked = read_table(
            f"{self.name}_parked{suffix}",
            self.metadata,
            Column("log", Identifier(64), primary_key=True),
            Column("seq", Int64, primary_key=True, autoincrement=False),
            Column("subject", Identifier(), nullable=False, comment="the task or host whose later events wait too"),
            Column("reason", LongText, nullable=False),
        )

    @property
    def key(self) -> str:
        """Under which its position is kept; the live one's is its name."""
        return self.name + self.suffix

    @property
    def lease(self) -> str:
        """The lease of who works on it."""
        return f"projection:{self.key}"

    @property
    def tables(self) -> list[Table]:
        """The read tables: what a fold from zero has to equal."""
        return [table for table in self.metadata.tables.values() if table is not self.parked]

    @property
    def passing(self) -> Collection[Table]:
        """Those with blocks of usages, by `hostname` and `since_us`: they pass away with the segments of the log."""
        return ()

    def concerns(self, kind: str) -> bool:
        """Whether an event of a kind can change a row here; False for most kinds, and never False for one that can."""
        return True

    @property
    def glance(self) -> Callable[[StoredEvent], Event | None]:
        """A quicker reading of an event that `apply` takes as well; None where it takes the usual one."""
        return lambda _stored: None

    def touched(self, events: Iterable[StoredEvent]) -> Mapping[Table, set[RowKey]]:
        """The rows that `apply` will look at: whom an event is about, its envelope says."""
        raise NotImplementedError

    def apply(self, rows: RowStore, stored: StoredEvent, event: Event) -> None:
        """Fold one event into the rows; the same rows and event give the same rows, for ever."""
        raise NotImplementedError
