"""Group commit: for each log one task commits what has arrived as one batch, then takes what arrived meanwhile."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import DuplicateKeyError, LogClosedError, StorageUnavailableError, UnstorableError
from control_plane.events.batch import MOST_BYTES, MOST_EVENTS, Entry, Plan, encode, plan
from control_plane.events.envelope import LogName, NewEvent, Outcome, Recorded, StoredEvent
from control_plane.events.head import close, cut_off, lock_head, move_head
from control_plane.storage.dialect import KeyBytes
from control_plane.storage.engine import Database
from control_plane.storage.tables import EVENT_TABLES, KEY_TABLES
from control_plane_wire.backoff import Backoff
from control_plane_wire.clock import Clock
from control_plane_wire.failpoints import Failpoints

ATTEMPTS: Final = 5
ATTEMPT_S: Final = 15.0  # then its outcome is unknown; longer than any wait for a lock
WAITING_EVENTS: Final = 4 * MOST_EVENTS
WAITING_BYTES: Final = 64 * MOST_BYTES

_logger = logging.getLogger(__name__)


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
        self._waiting_events = self._waiting_bytes = 0  # with those of the batch, until it is on its way
        self._taken_events = self._taken_bytes = 0  # of these, the batch's
        self._arrived = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_closed = False
        self._connection: AsyncConnection | None = None
        self._looks_first = False  # repeats come in bursts, and looking for their keys costs all others a query

    async def append(self, events: Sequence[NewEvent]) -> list[Outcome]:
        """Hand the events to the next batch and wait for it; with too much waiting already, wait for room first."""
        while not self._is_closed and (self._waiting_events >= WAITING_EVENTS or self._waiting_bytes >= WAITING_BYTES):
            self._has_room.clear()
            await self._has_room.wait()
        if self._is_closed:
            raise StorageUnavailableError("the log is closed")
        # Here, while the batches before it are with the database, and not before there is room for what it takes.
        ready = self._database.dialect.ready
        entries = [encode(event, index, ready) for index, event in enumerate(events)]
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
        self._has_room.set()  # and tell so to those who wait for it

    async def run(self) -> None:
        try:
            while calls := await self._next_calls():
                await self._deal_with(calls)
                self._make_room()
        finally:
            self.close()
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
            self._taken_events, self._taken_bytes = events, size_bytes
        return calls

    def _make_room(self) -> None:
        """Let as much wait as the batch has taken; once for each."""
        if self._taken_events:
            self._waiting_events -= self._taken_events
            self._waiting_bytes -= self._taken_bytes
            self._taken_events = self._taken_bytes = 0
            self._has_room.set()

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
            head, closed = await lock_head(self._database.dialect, connection, self._log)
            if not self._opens_closed:
                self._check_open(closed, head.seq)
            known = await self._known(connection, entries) if looks_first else {}
            await self._keep_ours(connection, claimed)
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
        written = {key: outcome.seq for key, outcome in planned.recorded.items()}
        self._committed(planned.head.seq, planned.events, written)
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

    async def _keep_ours(self, connection: AsyncConnection, claimed: dict[KeyBytes, Recorded]) -> None:
        """Drop the claims of an attempt that was undone: another process may have recorded the same as the same seq."""
        event = EVENT_TABLES[self._log].c
        seqs = [claim.seq for claim in claimed.values()]
        if seqs:
            wanted = select(event.seq, event.recorded_us).where(event.seq.between(min(seqs), max(seqs)))
            there = {tuple(row) for row in await connection.execute(wanted)}
            for key in [key for key, claim in claimed.items() if (claim.seq, claim.recorded_us) not in there]:
                del claimed[key]

    async def _write(self, connection: AsyncConnection, planned: Plan) -> None:
        dialect = self._database.dialect
        await dialect.bulk_insert(connection, KEY_TABLES[self._log], planned.key_rows)  # which may say: there already
        self._make_room()  # now: what callers have to do for their next batch is done while the database works
        await dialect.bulk_insert(connection, EVENT_TABLES[self._log], planned.rows)
        await move_head(dialect, connection, self._log, planned.head)

    async def _drop_connection(self) -> None:
        """Let go of a connection of which nothing is known; the pool does not get it back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.invalidate()
            await connection.close()
