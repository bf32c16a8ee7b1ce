"""How events are read from their table: as raw rows, in pages that are bounded by number and by size."""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, cast

from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import LogDamagedError
from control_plane.events.batch import stored_event
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName, StoredEvent
from control_plane.events.merkle import CompactRange, EventRow
from control_plane.storage.dialect import Dialect
from control_plane.storage.tables import EVENT_TABLES, KEPT_TABLES, log_segment

PAGE_BYTES: Final = 16 * 1024 * 1024  # a thousand outputs of some MiB would fill the memory of whoever follows
LARGE_BYTES: Final = 16 * 1024  # a body from here on is read by itself, as far as the page has room

_LOGS: Final[tuple[LogName, ...]] = (EVENT, HEARTBEAT_EVENT)
_SIZE: Final = {
    name: select(func.length(table.c.body)).where(table.c.seq == bindparam("at"))
    for name, table in ((name, EVENT_TABLES[name]) for name in _LOGS)
}


class Page(NamedTuple):
    """At most `limit` events after one seq and up to another."""

    after: int
    upto: int
    limit: int


async def read_gapless(connection: AsyncConnection, dialect: Dialect, log: LogName, page: Page) -> list[StoredEvent]:
    """The events of a page up to the first hole, or to where their bodies come to more than `PAGE_BYTES`."""
    end = min(page.upto, page.after + page.limit)
    rows = await dialect.event_rows(connection, EVENT_TABLES[log], page.after, end, below_bytes=LARGE_BYTES)
    events = list(map(StoredEvent._make, rows))
    if len(events) == end - page.after and sum([len(event.body) for event in events]) <= PAGE_BYTES:
        return events  # as nearly always
    found = iter(events)
    at, room, events = page.after + 1, PAGE_BYTES, []
    event = next(found, None)
    while at <= end:
        if event is not None and event.seq == at:
            room -= len(event.body)
            if room < 0 and events:
                break
            events.append(event)
            event = next(found, None)
        else:  # a large one, or a hole
            size = await connection.scalar(_SIZE[log], {"at": at})
            room -= size or 0
            if size is None or (room < 0 and events) or (large := await read_row(connection, log, at)) is None:
                break
            events.append(stored_event(large))
        at += 1
    return events


async def read_small(
    connection: AsyncConnection, dialect: Dialect, log: LogName, seqs: Sequence[int]
) -> dict[int, StoredEvent]:
    """Of the events with these seqs those below `LARGE_BYTES` that are there or have outlived their segment."""
    found: dict[int, StoredEvent] = {}
    for tables in (EVENT_TABLES, KEPT_TABLES):
        if (table := tables.get(log)) is not None and (left := [seq for seq in seqs if seq not in found]):
            rows = await dialect.event_rows_at(connection, table, left, below_bytes=LARGE_BYTES)
            found.update((row[0], StoredEvent._make(row)) for row in rows)
    return found


async def read_kinds(
    connection: AsyncConnection, log: LogName, page: Page, kinds: Collection[str]
) -> list[StoredEvent]:
    """The events of a page that are of these kinds, whatever their size."""
    table = EVENT_TABLES[log]
    wanted = select(table).where(table.c.seq > page.after, table.c.seq <= page.upto, table.c.kind.in_(sorted(kinds)))
    return [StoredEvent(*row) for row in await connection.execute(wanted.order_by(table.c.seq).limit(page.limit))]


async def read_one(connection: AsyncConnection, log: LogName, seq: int) -> StoredEvent | None:
    for tables in (EVENT_TABLES, KEPT_TABLES):
        if (table := tables.get(log)) is not None:
            row = (await connection.execute(select(table).where(table.c.seq == seq))).one_or_none()
            if row is not None:
                return StoredEvent(*row)
    return None


async def read_row(connection: AsyncConnection, log: LogName, seq: int) -> EventRow | None:
    """The raw columns of one event."""
    for tables in (EVENT_TABLES, KEPT_TABLES):
        if (table := tables.get(log)) is not None:
            sql = f"SELECT {', '.join(table.c.keys())} FROM {table.name} WHERE seq = {seq:d}"  # noqa: S608 - ours
            row = (await connection.exec_driver_sql(sql)).one_or_none()
            if row is not None:
                return cast("EventRow", tuple(row))
    return None


async def large_seqs(connection: AsyncConnection, log: LogName, after: int, upto: int) -> list[int]:
    """The events after one seq and up to another whose body has `LARGE_BYTES` or more."""
    c = EVENT_TABLES[log].c
    wanted = select(c.seq).where(c.seq > after, c.seq <= upto, func.length(c.body) >= LARGE_BYTES)
    return list(await connection.scalars(wanted.order_by(c.seq)))


async def next_seq(connection: AsyncConnection, log: LogName, after: int) -> int:
    """The first seq beyond a gap that an event has; one past all that there can be where none has."""
    c = EVENT_TABLES[log].c
    found = await connection.scalar(select(func.min(c.seq)).where(c.seq > after))
    return 2**63 - 1 if found is None else int(found)


class Dropped(NamedTuple):
    """Up to where the segments of a log are dropped: the seq and the time of the last such event, or zeros."""

    seq: int
    recorded_us: int


async def read_dropped(connection: AsyncConnection, log: LogName) -> Dropped:
    """Ask for it after a hole was seen: a segment is written down before its rows go."""
    if log not in KEPT_TABLES:
        return Dropped(0, 0)
    newest = select(func.max(log_segment.c.last_seq), func.max(log_segment.c.last_us)).where(log_segment.c.log == log)
    seq, recorded_us = (await connection.execute(newest)).one()
    return Dropped(seq or 0, recorded_us or 0)


async def read_dropped_tree(connection: AsyncConnection, log: LogName) -> CompactRange:
    """The tree over all that is dropped, as it is written down; see it led to a signed root before it is believed.

    Raises:
        LogDamagedError: it can be none.
    """
    newest = select(log_segment.c.last_seq, log_segment.c.tree).where(log_segment.c.log == log)
    row = (await connection.execute(newest.order_by(log_segment.c.last_seq.desc()).limit(1))).one_or_none()
    if row is None or log not in KEPT_TABLES:
        return CompactRange(0, ())
    try:
        return CompactRange.from_bytes(row.last_seq, row.tree)
    except ValueError as error:
        raise LogDamagedError(
            log, row.last_seq, "is where a segment ended, and what is kept of its tree is none"
        ) from error


async def read_kept(connection: AsyncConnection, log: LogName, page: Page) -> list[StoredEvent]:
    """The events of a page that have outlived their segments, in order and with holes."""
    table = KEPT_TABLES[log]
    kept = select(table).where(table.c.seq > page.after, table.c.seq <= page.upto)
    return [StoredEvent(*row) for row in await connection.execute(kept.order_by(table.c.seq).limit(page.limit))]
