"""The event log: append with group commit, and read without ever skipping an event."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from control_plane.events.envelope import Key, LogName, NewEvent, Outcome, StoredEvent
from control_plane.events.merkle import CompactRange
from control_plane.storage.engine import Database
from control_plane_wire.clock import Clock
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints


@dataclass(frozen=True, slots=True)
class Head:
    """The last event of a log (seq 0: none yet) and the Merkle tree over all of it."""

    seq: int
    recorded_us: int
    tree: CompactRange


class EventLog:
    """Both logs of one database; `async with EventLog.open(database) as log`."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database: Database, *, clock: Clock | None = None, failpoints: Failpoints = NO_FAILPOINTS
    ) -> AsyncIterator[Self]:
        """A log that takes events until the block ends, and leaves it when all that it took is dealt with."""
        yield cls()

    async def append(self, events: Sequence[NewEvent]) -> list[Outcome]:
        """Record events and tell where each one stands.

        Args:
            events: 1 to 500 of one log, in the order in which they happened; all go into one batch.

        Returns:
            One outcome per event, in the same order: `Recorded(seq)`, `Duplicate(seq)` (same key and digest: the
            first seq) or `Conflict(seq)` (same key, other digest: not written, the first stands).

        Raises:
            StorageUnavailableError: nothing is known about the outcome. Call again with the same events; their keys
                make it exact.
            UnstorableError: the database refuses the event at its `index`; the others are recorded. Call again
                without that one.

        Cancellation: the caller stops waiting; the batch is committed or rolled back all the same.
        Source: docs/decisions/0003-append-order.md
        """
        raise NotImplementedError

    async def read(
        self,
        log: LogName,
        *,
        after: int,
        limit: int = 1000,
        kinds: Collection[str] | None = None,
        upto: int | None = None,
    ) -> list[StoredEvent]:
        """The next events after a position, in order; an empty list where there are none yet.

        Without `kinds` the result is gapless: `after + 1`, `after + 2`, …. With `kinds` it has every event of these
        kinds up to its last one, or up to `upto` where it is shorter than `limit`. `upto` must be a seq that was
        seen before the call (from `head` or `append`).

        Raises:
            LogDamagedError: an event below the head is not there.
            StorageUnavailableError: try again.
        """
        raise NotImplementedError

    async def read_one(self, log: LogName, seq: int) -> StoredEvent | None:
        """The event with that seq, None where there is none."""
        raise NotImplementedError

    async def find(self, log: LogName, keys: Collection[Key]) -> dict[Key, int]:
        """The seq of each of these keys that is in the log."""
        raise NotImplementedError

    async def head(self, log: LogName) -> Head:
        """Where the log ends now: all up to there is committed, and visible to every later read."""
        raise NotImplementedError

    async def position_at(self, log: LogName, time_us: int) -> int:
        """The seq of the last event recorded at that time (UTC microseconds) or before; 0 where there is none."""
        raise NotImplementedError

    async def wait_beyond(self, log: LogName, seq: int, *, timeout_s: float) -> None:
        """Return as soon as this process has committed an event after `seq`, or at the timeout.

        Other processes' commits wake nobody here: whoever follows a log reads again after each return.
        """
        raise NotImplementedError
