"""Events by what they are about, straight from the log: for the command line, and for whoever wants them whole."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, func, select

from control_plane.events.envelope import LogName, StoredEvent
from control_plane.events.log import EventLog
from control_plane.events.pages import PAGE_BYTES
from control_plane.storage.engine import Database
from control_plane.storage.tables import EVENT_TABLES

WINDOW: Final = 20_000  # seqs of one look at what matches: between two of them progress is told
EVENTS_A_READ: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events; every given condition must hold.

    Attributes:
        kind: one kind, or a family of them, as in `host`.
        from_us: UTC microseconds of the first one; `to_us` of the last.
        after: the seq that they come after.
    """

    kind: str | None = None
    task_id: str | None = None
    hostname: str | None = None
    actor: str | None = None
    from_us: int | None = None
    to_us: int | None = None
    after: int = 0

    def matches(self, stored: StoredEvent) -> bool:
        """Whether it is one; what `conditions` says, of an event that is here already."""
        kind = self.kind is None or stored.kind == self.kind or stored.kind.startswith(f"{self.kind}.")
        same = all(getattr(self, name) in (None, getattr(stored, name)) for name in ("task_id", "hostname", "actor"))
        is_in_time = (self.from_us or 0) <= stored.recorded_us and (
            self.to_us is None or stored.recorded_us <= self.to_us
        )
        return kind and same and is_in_time and stored.seq > self.after

    def conditions(self, log: LogName) -> Iterator[ColumnElement[bool]]:
        table = EVENT_TABLES[log]
        for name in ("task_id", "hostname", "actor"):
            if (value := getattr(self, name)) is not None:
                yield table.c[name] == value
        if self.kind is not None and "." in self.kind:
            yield table.c.kind == self.kind
        elif self.kind is not None:
            yield table.c.kind >= f"{self.kind}."
            yield table.c.kind < f"{self.kind}/"


async def search(
    database: Database,
    log: EventLog,
    name: LogName,
    wanted: Wanted,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> AsyncIterator[list[StoredEvent]]:
    """Those that are there now, in their order, some at a time: as many as `PAGE_BYTES` of bodies, or one.

    Args:
        progress: told how many seqs were looked at, and of how many.
    """
    table = EVENT_TABLES[name]
    first, last = await _range(log, name, wanted)
    at = first
    while at < last:
        end = min(at + WINDOW, last)
        sizes = select(table.c.seq, func.length(table.c.body)).where(
            table.c.seq > at, table.c.seq <= end, *wanted.conditions(name)
        )
        async with database.read() as connection:
            found = [(seq, size) for seq, size in await connection.execute(sizes.order_by(table.c.seq))]
        for seqs in _readable(found):
            yield await _read(database, name, seqs)
        at = end
        progress(at - first, last - first)


async def newest(database: Database, log: EventLog, name: LogName, wanted: Wanted, *, limit: int) -> list[StoredEvent]:
    """The last ones, in their order."""
    table = EVENT_TABLES[name]
    first, last = await _range(log, name, wanted)
    seqs = select(table.c.seq).where(table.c.seq > first, table.c.seq <= last, *wanted.conditions(name))
    async with database.read() as connection:
        found = sorted(await connection.scalars(seqs.order_by(table.c.seq.desc()).limit(limit)))
    return [event for seq in found for event in await _read(database, name, [seq])]


async def _range(log: EventLog, name: LogName, wanted: Wanted) -> tuple[int, int]:
    """After which seq and up to which one they can be."""
    first, last = wanted.after, (await log.head(name)).seq
    if wanted.from_us is not None:
        first = max(first, await log.position_at(name, wanted.from_us - 1))
    if wanted.to_us is not None:
        last = min(last, await log.position_at(name, wanted.to_us))
    return first, last


def _readable(found: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """The seqs in groups whose bodies come to no more than `PAGE_BYTES`, or of one."""
    seqs: list[int] = []
    room = PAGE_BYTES
    for seq, size in found:
        if seqs and (size > room or len(seqs) == EVENTS_A_READ):
            yield seqs
            seqs, room = [], PAGE_BYTES
        seqs.append(seq)
        room -= size
    if seqs:
        yield seqs


async def _read(database: Database, name: LogName, seqs: Sequence[int]) -> list[StoredEvent]:
    table = EVENT_TABLES[name]
    async with database.read() as connection:
        rows = await connection.execute(select(table).where(table.c.seq.in_(seqs)).order_by(table.c.seq))
        return [StoredEvent(*row) for row in rows]
