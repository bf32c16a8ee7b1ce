"""Group commit: for each log one task commits what has arrived as one batch, then takes what arrived meanwhile."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import RowMapping, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import (
    ConfigurationError,
    DuplicateKeyError,
    LogClosedError,
    LogDamagedError,
    StorageUnavailableError,
    UnstorableError,
)
from control_plane.events.batch import MOST_BYTES, MOST_EVENTS, Entry, Plan, plan, stored_event
from control_plane.events.envelope import Head, LogName, Outcome, Recorded, StoredEvent
from control_plane.events.merkle import CompactRange
from control_plane.storage.dialect import KeyBytes
from control_plane.storage.engine import Database
from control_plane.storage.tables import EVENT_TABLES, KEY_TABLES, log_head
from control_plane_wire.backoff import Backoff
from control_plane_wire.clock import Clock
from control_plane_wire.failpoints import Failpoints

ATTEMPTS: Final = 5
ATTEMPT_S: Final = 15.0  # then its outcome is unknown; longer than any wait for a lock
WAITING_EVENTS: Final = 4 * MOST_EVENTS
WAITING_BYTES: Final = 64 * MOST_BYTES

SELECT_HEAD: Final = select(log_head).where(log_head.c.log == bindparam("name"))
_LOCK_HEAD: Final = SELECT_HEAD.with_for_update()
_MOVE_HEAD: Final = update(log_head).where(log_head.c.log == bindparam("name"))
_CLOSE: Final = _MOVE_HEAD.where(log_head.c.closed.is_(None))

_logger = logging.getLogger(__name__)


def head_of(row: RowMapping | None) -> Head:
    if row is None:
        raise ConfigurationError("the database has no log yet: run control-plane migrate")
    try:
        tree = CompactRange.from_bytes(row["seq"], row["tree"])
    except ValueError as error:
        raise LogDamagedError(row["log"], row["seq"], f"is a head that cannot be: {error}") from error
    return Head(row["seq"], row["recorded_us"], tree)


async def close(database: Database, log: LogName, why: str) -> None:
    """Let nobody append to a log, any more; the first reason stands."""
    async with database.write() as connection:
        await connection.execute(_CLOSE.values(closed=why), {"name": log})


def cut_off(head: int, known: int) -> str:
    """Why a log is closed that ends at one seq though there was another."""
    return f"ends at {head}, and there were {known} events"


@dataclass(frozen=True, slots=True)
class _Call:
    entries: Sequence[Entry]
    done: asyncio.Future[list[Outcome]]

    def answer(self, outcomes: Sequence[Outcome | UnstorableError]) -> None:
        if self.done.done():  # the caller no longer waits
            return
        recorded: list[Outcome] = []
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, UnstorableError):
                self.done.set_exception(UnstorableError(index, outcome.detail))
                return
            recorded.append(outcome)
        self.done.set_result(recorded)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Appender:
    """The one writer of a log in this process; any number of processes may have one.

    Args:
        known: the highest seq that this process has seen committed.
        committed: is told of what is.
        opens_closed: append all the same where the log is closed.
    """

    def __init__(
        self,
        log: LogName,
        database: Database,
        *,
        clock: Clock,
        failpoints: Failpoints,
        known: Callable[[], int],
        committed: Callable[[int, Sequence[StoredEvent], Mapping[KeyBytes, int]], None],
        opens_closed: bool = False,
    ) -> None:
        self._log: LogName = log
        self._database = database
        self._clock = clock
        self._failpoints = failpoints
        self._known_seq = known
        self._committed = committed
        self._opens_closed = opens_closed
        self._calls: deque[_Call] = deque()
        self._waiting_events = self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_closed = False
        self._connection: AsyncConnection | None = None
        self._looks_first = False  # repeats come in bursts, and looking for their keys costs all others a query

    async def append(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Hand the entries to the next batch and wait for it; with too much waiting already, wait for room first."""
        while self._waiting_events >= WAITING_EVENTS or self._waiting_bytes >= WAITING_BYTES:
            self._has_room.clear()
            await self._has_room.wait()
        if self._is_closed:
            raise StorageUnavailableError("the log is closed")
        call = _Call(entries, asyncio.get_running_loop().create_future())
        self._calls.append(call)
        self._waiting_events += len(entries)
        self._waiting_bytes += sum(entry.size_bytes for entry in entries)
        self._arrived.set()
        return await call.done

    def close(self) -> None:
        """Take nothing more; `run` returns when all that was taken is dealt with."""
        self._is_closed = True
        self._arrived.set()

    async def run(self) -> None:
        try:
            while calls := await self._next_calls():
                await self._deal_with(calls)
        finally:
            for call in self._calls:  # only when cancelled: nobody shall wait for ever
                call.fail(StorageUnavailableError("the log was stopped"))
            if self._connection is not None:
                await self._connection.close()

    async def _next_calls(self) -> list[_Call]:
        while not self._calls:
            if self._is_closed:
                return []
            self._arrived.clear()
            await self._arrived.wait()
        calls: list[_Call] = []
        events = size_bytes = 0
        while self._calls:
            call = self._calls[0]
            events += len(call.entries)
            size_bytes += sum(entry.size_bytes for entry in call.entries)
            if calls and (events > MOST_EVENTS or size_bytes > MOST_BYTES):
                break
            calls.append(self._calls.popleft())
            self._waiting_events -= len(call.entries)
            self._waiting_bytes -= sum(entry.size_bytes for entry in call.entries)
        self._has_room.set()
        return calls

    async def _deal_with(self, calls: Sequence[_Call]) -> None:
        try:
            outcomes = await self._commit([entry for call in calls for entry in call.entries])
        except asyncio.CancelledError:
            for call in calls:
                call.fail(StorageUnavailableError("the log was stopped"))
            raise
        except Exception as error:  # noqa: BLE001 - the boundary of a batch: its callers are told, the next one goes on
            _logger.warning("batch not appended", extra={"log": self._log, "cause": str(error)})
            for call in calls:
                call.fail(error)
            return
        start = 0
        for call in calls:
            end = start + len(call.entries)
            call.answer(outcomes[start:end])
            start = end

    async def _commit(self, entries: Sequence[Entry]) -> list[Outcome | UnstorableError]:
        """Commit the entries as one batch, or where the database refuses one of them, in halves without it."""
        try:
            return [*await self._commit_together(entries)]
        except UnstorableError as error:
            if len(entries) == 1:
                _logger.warning("event refused by the database", extra={"log": self._log, "cause": error.detail})
                return [error]
        middle = len(entries) // 2
        return await self._commit(entries[:middle]) + await self._commit(entries[middle:])

    async def _commit_together(self, entries: Sequence[Entry]) -> list[Outcome]:
        claimed: dict[KeyBytes, Recorded] = {}
        backoff = Backoff(first_s=0.02, most_s=1.0)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    return await self._attempt(entries, claimed, looks_first=self._looks_first or attempt > 1)
            except DuplicateKeyError:
                self._looks_first = True
            except LogClosedError as error:
                await close(self._database, self._log, error.why)
                raise
            except (StorageUnavailableError, TimeoutError) as error:
                await self._drop_connection()
                if attempt == ATTEMPTS:
                    raise StorageUnavailableError(str(error) or "no answer in time") from error
                _logger.info("batch tried again", extra={"log": self._log, "attempt": attempt, "cause": str(error)})
                await asyncio.sleep(backoff.next_s())
        raise StorageUnavailableError("keys appear that were not there a moment ago")

    async def _attempt(
        self, entries: Sequence[Entry], claimed: dict[KeyBytes, Recorded], *, looks_first: bool
    ) -> list[Outcome]:
        """One transaction. Without a look at the keys it counts on none being there; the key table tells if one is."""
        if self._connection is None:
            self._connection = await self._database.connect()
        async with self._database.write(self._connection) as connection:
            # The head's lock is the first thing taken: it makes the order of seq the order of commits.
            found = (await connection.execute(_LOCK_HEAD, {"name": self._log})).mappings().one_or_none()
            head = head_of(found)
            if found is not None and not self._opens_closed:
                self._check_open(found["closed"], head.seq)
            known = await self._known(connection, entries) if looks_first else {}
            self._looks_first = bool(known)
            planned = plan(head, entries, known=known, claimed=claimed, now_us=self._clock.now_us())
            if planned.rows:
                await self._write(connection, planned)
            claimed.update(
                (entry.key, outcome)
                for entry, outcome in zip(entries, planned.outcomes, strict=True)
                if isinstance(outcome, Recorded)
            )
            self._failpoints.hit("log.before_commit")
        self._failpoints.hit("log.after_commit")
        written = {row[:4]: row[5] for row in planned.key_rows}
        self._committed(planned.head.seq, [stored_event(row) for row in planned.rows], written)
        return planned.outcomes

    def _check_open(self, closed: str | None, seq: int) -> None:
        if closed is not None:
            raise LogClosedError(self._log, closed)
        if seq < (known := self._known_seq()):
            raise LogClosedError(self._log, cut_off(seq, known))

    async def _known(self, connection: AsyncConnection, entries: Sequence[Entry]) -> dict[KeyBytes, tuple[bytes, int]]:
        """Digest and seq of those keys of the entries that are in the log."""
        keys = list(dict.fromkeys(entry.key for entry in entries))
        there = await self._database.dialect.find_keys(connection, KEY_TABLES[self._log], keys)
        return {key: (digest, seq) for key, digest, seq in there}

    async def _write(self, connection: AsyncConnection, planned: Plan) -> None:
        dialect, head = self._database.dialect, planned.head
        await dialect.bulk_insert(connection, KEY_TABLES[self._log], planned.key_rows)  # which may say: there already
        await dialect.bulk_insert(connection, EVENT_TABLES[self._log], planned.rows)
        moved = {"name": self._log, "seq": head.seq, "recorded_us": head.recorded_us, "tree": head.tree.to_bytes()}
        await connection.execute(_MOVE_HEAD, moved)

    async def _drop_connection(self) -> None:
        """Let go of a connection of which nothing is known; the pool does not get it back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.invalidate()
            await connection.close()
