"""The event log: append with group commit, and read without ever skipping an event."""

import asyncio
import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Self

from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import LogDamagedError
from control_plane.events.appender import Appender
from control_plane.events.batch import MOST_EVENTS, key_bytes
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, Head, Key, LogName, NewEvent, Outcome, StoredEvent
from control_plane.events.head import close, cut_off, read_closed, read_head, reopen, share_head
from control_plane.events.pages import (
    Dropped,
    Page,
    read_dropped,
    read_gapless,
    read_kept,
    read_kinds,
    read_one,
    read_small,
)
from control_plane.events.tail import Tail
from control_plane.storage.dialect import Dialect, KeyBytes
from control_plane.storage.engine import Database
from control_plane.storage.tables import EVENT_TABLES, KEY_TABLES
from control_plane_wire.clock import Clock, SystemClock
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints

_LAST = 2**63 - 1


class _News:
    """What this process knows of a log's end without asking, and who waits for more.

    Attributes:
        seq: the highest that is known to be committed.
        looked_s: when the database was last asked for its head, by the loop's clock.
        hole: the first damage that a reader has met.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.looked_s = -math.inf
        self.changed = asyncio.Event()
        self.tail = Tail()
        self.hole: LogDamagedError | None = None

    def known(self) -> int:
        return self.seq

    def committed(self, seq: int, events: Sequence[StoredEvent], keys: Mapping[KeyBytes, int]) -> None:
        self.tail.extend(events, keys)
        self.looked(seq)

    def looked(self, seq: int) -> None:
        """The database was asked, or its head was ours: up to here another process may have committed."""
        self.looked_s = asyncio.get_running_loop().time()
        self._reached(seq)

    def _reached(self, seq: int) -> None:
        if seq > self.seq:
            self.seq = seq
            changed, self.changed = self.changed, asyncio.Event()
            changed.set()


class EventLog:
    """Both logs of one database; `async with EventLog.open(database) as log`."""

    def __init__(self, database: Database, *, clock: Clock, failpoints: Failpoints, opens_closed: bool = False) -> None:
        self._database = database
        self._news: dict[LogName, _News] = {name: _News() for name in (EVENT, HEARTBEAT_EVENT)}
        # One each, so that heartbeats do not delay commands.
        self._appenders: dict[LogName, Appender] = {
            name: Appender(
                name,
                database,
                clock=clock,
                failpoints=failpoints,
                known=news.known,
                committed=news.committed,
                opens_closed=opens_closed,
            )
            for name, news in self._news.items()
        }

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        database: Database,
        *,
        clock: Clock | None = None,
        failpoints: Failpoints = NO_FAILPOINTS,
        opens_closed: bool = False,
    ) -> AsyncIterator[Self]:
        """A log that takes events until the block ends, and leaves it when all that it took is dealt with.

        Args:
            opens_closed: it also takes them where it is closed, for who opens it again.
        """
        log = cls(database, clock=clock or SystemClock(), failpoints=failpoints, opens_closed=opens_closed)
        failure: BaseException | None = None  # of the block; raised outside the group, which would wrap it
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(appender.run(), name=f"append to {name}") for name, appender in log._appenders.items()
            ]
            try:
                yield log
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised again outside
                failure = error
            for appender in log._appenders.values():
                appender.close()
            await asyncio.wait(running)
        if failure is not None:
            raise failure

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
            LogClosedError: the log has lost its end, and somebody has to decide.

        Cancellation: the caller stops waiting; the batch is committed or rolled back all the same.
        Source: docs/decisions/0003-append-order.md
        """
        if not 1 <= len(events) <= MOST_EVENTS or len({event.log for event in events}) != 1:
            raise ValueError(f"an append is of 1 to {MOST_EVENTS} events of one log")
        return await self._appenders[events[0].log].append(events)

    async def read(
        self,
        log: LogName,
        *,
        after: int,
        limit: int = 1000,
        kinds: Collection[str] | None = None,
        upto: int | None = None,
        patience_s: float = 0.0,
    ) -> list[StoredEvent]:
        """The next events after a position, in order; an empty list where there are none yet.

        Without `kinds` the result is gapless: `after + 1`, `after + 2`, …, and ends early where its bodies come to
        more than `PAGE_BYTES`. Of dropped segments it has the kept events, whose fold is the same, and goes on behind
        them, on a page of its own. With `kinds` it has every event of these kinds up to its last one, or up to `upto`
        where it is shorter than `limit`. `upto` must be a seq that was seen before the call (from `head` or `append`);
        the result is empty before it only where all up to it is dropped, and nothing of it kept. With `patience_s`
        another process's events may be seen that much later, and a follower at the end need not ask the database each
        time.

        Raises:
            LogDamagedError: an event below the head is not there.
            StorageUnavailableError: try again.
        """
        if kinds is not None:
            return await self._read_kinds(log, after, limit, kinds, upto)
        news = self._news[log]
        if tail := news.tail.after(after, limit=limit, upto=upto or _LAST):
            return tail
        if (
            (upto or 0) <= after
            and news.seq <= after
            and asyncio.get_running_loop().time() < news.looked_s + patience_s
        ):
            return []
        async with self._database.read() as connection:
            head = await read_head(connection, log)
            news.looked(head.seq)
            page = Page(after, head.seq if upto is None else min(upto, head.seq), limit)
            events, missing = await _read_over_dropped(connection, self._database.dialect, log, page)
        if missing is None:
            return events
        try:
            async with self._database.write() as connection:
                return await _read_locked(connection, self._database.dialect, log, missing)
        except LogDamagedError as error:
            if news.hole is None or error.seq < news.hole.seq:
                news.hole = error
            raise

    async def _read_kinds(
        self, log: LogName, after: int, limit: int, kinds: Collection[str], upto: int | None
    ) -> list[StoredEvent]:
        if upto is not None and after < upto <= after + MOST_EVENTS:
            tail = self._news[log].tail.after(after, limit=MOST_EVENTS, upto=upto)
            if len(tail) == upto - after:
                return [event for event in tail if event.kind in kinds][:limit]
        async with self._database.read() as connection:
            # Bounded by a head that was seen before: MariaDB may show an event some time before its predecessor.
            upto = (await read_head(connection, log)).seq if upto is None else upto
            return await read_kinds(connection, log, Page(after, upto, limit), kinds)

    async def read_one(self, log: LogName, seq: int) -> StoredEvent | None:
        """The event with that seq, None where there is none."""
        if tail := self._news[log].tail.after(seq - 1, limit=1, upto=seq):
            return tail[0]
        async with self._database.read() as connection:
            return await read_one(connection, log, seq)

    async def read_these(self, log: LogName, seqs: Sequence[int]) -> AsyncIterator[StoredEvent]:
        """Those events that are in the log, or have outlived their segment, in the order of their seqs.

        Large ones are in memory one at a time.
        """
        wanted = sorted(set(seqs))
        for at in range(0, len(wanted), MOST_EVENTS):
            some = wanted[at : at + MOST_EVENTS]
            async with self._database.read() as connection:
                small = await read_small(connection, self._database.dialect, log, some)
            for seq in some:
                if (event := small.get(seq) or await self.read_one(log, seq)) is not None:
                    yield event

    async def dropped(self, log: LogName) -> Dropped:
        """Up to where its old segments are dropped."""
        async with self._database.read() as connection:
            return await read_dropped(connection, log)

    async def holes(self) -> list[LogDamagedError]:
        """Of each log the first event below the head that a reader of this process has missed, while it is missing.

        Nobody looks for any: `control-plane audit verify` looks at all events.
        """
        found = []
        for log, news in self._news.items():
            if (hole := news.hole) is None:
                continue
            async with self._database.read() as connection:
                is_there = await read_one(connection, log, hole.seq) is not None
                if is_there or hole.seq <= (await read_dropped(connection, log)).seq:
                    news.hole = None
                else:
                    found.append(hole)
        return found

    async def find(self, log: LogName, keys: Collection[Key]) -> dict[Key, int]:
        """The seq of each of these keys that is in the log."""
        by_bytes = {key_bytes(key): key for key in keys}
        tail = self._news[log].tail
        found = {key: seq for raw, key in by_bytes.items() if (seq := tail.find(raw)) is not None}
        wanted = [raw for raw, key in by_bytes.items() if key not in found]
        if not wanted:
            return found
        async with self._database.read() as connection:
            for at in range(0, len(wanted), MOST_EVENTS):
                some = wanted[at : at + MOST_EVENTS]
                there = await self._database.dialect.find_keys(connection, KEY_TABLES[log], some)
                found.update((by_bytes[key], seq) for key, _, seq in there)
        return found

    async def head(self, log: LogName) -> Head:
        """Where the log ends now: all up to there is committed, and visible to every later read."""
        async with self._database.read() as connection:
            return await read_head(connection, log)

    async def close(self, log: LogName, known: int) -> None:
        """Let nobody append to a log that ends before `known` events, until somebody has decided what stands."""
        await close(self._database, log, cut_off((await self.head(log)).seq, known))

    async def reopen(self, log: LogName) -> None:
        """Take events again: what is there now stands."""
        await reopen(self._database, log)

    async def closed(self, log: LogName) -> str | None:
        """Why nothing is appended; None where it is."""
        async with self._database.read() as connection:
            return await read_closed(connection, log)

    async def position_at(self, log: LogName, time_us: int) -> int:
        """The seq of the last event recorded at that time (UTC microseconds) or before; 0 where there is none."""
        column = EVENT_TABLES[log].c
        recorded_us = select(column.recorded_us).where(column.seq == bindparam("at"))
        async with self._database.read() as connection:
            after = (await read_head(connection, log)).seq + 1  # the first that is certainly later
            first = await connection.scalar(select(func.min(column.seq)))
            before = after - 1 if first is None else first - 1
            while after - before > 1:
                middle = (before + after) // 2
                if (await connection.scalar(recorded_us, {"at": middle}) or 0) <= time_us:
                    before = middle
                else:
                    after = middle
        return before

    async def wait_beyond(self, log: LogName, seq: int, *, timeout_s: float) -> None:
        """Return as soon as this process knows of an event after `seq`, or at the timeout.

        It knows of its own commits at once, and of another process's when anybody here has looked: whoever follows a
        log reads again after each return.
        """
        news = self._news[log]
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while news.seq <= seq:
                    await news.changed.wait()


async def _read_over_dropped(
    connection: AsyncConnection, dialect: Dialect, log: LogName, page: Page
) -> tuple[list[StoredEvent], Page | None]:
    """The events of a page; or none, and the rest of the page where its next event is not there."""
    while page.after < page.upto:
        if events := await read_gapless(connection, dialect, log, page):
            return events, None
        dropped = (await read_dropped(connection, log)).seq
        if dropped <= page.after:
            return [], page
        if kept := await read_kept(connection, log, page._replace(upto=min(dropped, page.upto))):
            return kept, None
        page = page._replace(after=dropped)
    return [], None


async def _read_locked(connection: AsyncConnection, dialect: Dialect, log: LogName, page: Page) -> list[StoredEvent]:
    """Read a page again while nothing can be appended: what is still missing then, and was not dropped, is gone."""
    await share_head(connection, log)
    events, missing = await _read_over_dropped(connection, dialect, log, page)
    if missing is not None:
        raise LogDamagedError(log, missing.after + 1)
    return events
