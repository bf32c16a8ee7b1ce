"""A log in memory for tests of decisions; `tests/contract/test_decisions_log.py` holds it to what they use of a log."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field

from control_plane.events.envelope import Conflict, Duplicate, Key, LogName, NewEvent, Outcome, Recorded, StoredEvent
from control_plane_wire.clock import Clock
from tests.support.clock import ManualClock
from tests.support.events import stored


@dataclass(frozen=True)
class MemoryHead:
    seq: int


@dataclass
class MemoryLog:
    """Attributes: `rows`: what a database's administrator could write to, too."""

    clock: Clock = field(default_factory=ManualClock)
    rows: list[StoredEvent] = field(default_factory=list)
    keys: dict[Key, tuple[bytes, int]] = field(default_factory=dict)

    async def append(self, events: Sequence[NewEvent]) -> list[Outcome]:
        return [self._append(event) for event in events]

    def _append(self, event: NewEvent) -> Outcome:
        if event.key in self.keys:
            digest, seq = self.keys[event.key]
            return Duplicate(seq) if digest == event.digest else Conflict(seq)
        row = self.insert(event)
        self.keys[event.key] = (event.digest, row.seq)
        return Recorded(row.seq, row.recorded_us)

    def insert(self, event: NewEvent) -> StoredEvent:
        """Write a row past all keys, as somebody could who owns the database."""
        at = self.clock.now_us()
        row = stored(
            event, seq=len(self.rows) + 1, recorded_us=max(at, self.rows[-1].recorded_us + 1 if self.rows else at)
        )
        self.rows.append(row)
        return row

    async def head(self, log: LogName) -> MemoryHead:
        return MemoryHead(len(self.rows))

    async def find(self, log: LogName, keys: Collection[Key]) -> dict[Key, int]:
        return {key: self.keys[key][1] for key in keys if key in self.keys}

    async def read_one(self, log: LogName, seq: int) -> StoredEvent | None:
        return self.rows[seq - 1] if 0 < seq <= len(self.rows) else None

    async def read_these(self, log: LogName, seqs: Sequence[int]) -> AsyncIterator[StoredEvent]:
        for seq in sorted(set(seqs)):
            if (row := await self.read_one(log, seq)) is not None:
                yield row

    async def read(
        self,
        log: LogName,
        *,
        after: int,
        limit: int = 1000,
        kinds: Collection[str] | None = None,
        upto: int | None = None,
    ) -> list[StoredEvent]:
        wanted = [row for row in self.rows[after:upto] if kinds is None or row.kind in kinds]
        return wanted[:limit]
