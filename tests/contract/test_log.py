"""The event log's contract, for every database that may keep it."""

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest
from sqlalchemy import Table, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import LogDamagedError, StorageUnavailableError, UnstorableError
from control_plane.events.appender import WAITING_EVENTS
from control_plane.events.envelope import (
    EVENT,
    HEARTBEAT_EVENT,
    Conflict,
    Duplicate,
    Key,
    LogName,
    NewEvent,
    Recorded,
    StoredEvent,
)
from control_plane.events.follow import follow
from control_plane.events.head import lock_head
from control_plane.events.log import EventLog
from control_plane.events.merkle import CompactRange, leaf_hash
from control_plane.events.pages import LARGE_BYTES
from control_plane.storage.dialect import Value
from control_plane.storage.engine import Database, open_database
from control_plane.storage.mysql import SESSION, WRITING_OPTIONS, lets_go
from control_plane.storage.tables import event as event_table
from control_plane.storage.tables import log_head
from control_plane_wire.failpoints import Failpoints
from tests.support.clock import START_US, ManualClock
from tests.support.database import an_event, migrated, sqlite_url
from tests.support.link import Link
from tests.support.log_race import append, race, reserve_then_commit
from tests.support.tampering import Administrator

BOUND_S = 20


class Trap(Failpoints):
    """Does something at each hit of a failpoint, instead of ending the process."""

    def __init__(self) -> None:
        super().__init__()
        self.hits: list[str] = []
        self.at: dict[str, Callable[[], None]] = {}

    def hit(self, name: str) -> None:
        self.hits.append(name)
        if name in self.at:
            self.at[name]()

    def fail(self, name: str, *, times: int) -> None:
        """Lose the connection at this point, so many times."""
        left = itertools.count(times, -1)

        def lose() -> None:
            if next(left) > 0:
                raise StorageUnavailableError("lost connection")

        self.at[name] = lose


class EventLogContract:
    changes: ClassVar[list[str]]  # statements that would change a row of the table {}

    @pytest.fixture
    async def database(self, url: str) -> AsyncIterator[Database]:
        async with migrated(url) as database:
            yield database

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def trap(self) -> Trap:
        return Trap()

    @pytest.fixture
    async def log(self, database: Database, clock: ManualClock, trap: Trap) -> AsyncIterator[EventLog]:
        async with EventLog.open(database, clock=clock, failpoints=trap) as log:
            yield log

    # --- what is recorded

    async def test_events_come_back_as_they_were_given_in_the_order_of_their_seq(self, log: EventLog) -> None:
        full = an_event("t1", hostname="web1", body=bytes(range(256)), occurred_us=-7, signature=b"\x00'\\%" * 16)
        bare = NewEvent(log=EVENT, kind="k", schema_v=3, key=Key("t2", "k"), digest=bytes(32), body=b"")

        assert await log.append([full, bare]) == [Recorded(1, START_US), Recorded(2, START_US + 1)]

        assert await log.read(EVENT, after=0) == [
            StoredEvent(
                1, START_US, "task.accepted", 1, "t1", "web1", "user:ada", -7, full.body, full.signature, full.key_id
            ),
            StoredEvent(2, START_US + 1, "k", 3, None, None, None, None, b"", None, None),
        ]

    async def test_the_two_logs_count_for_themselves(self, log: EventLog) -> None:
        await log.append([an_event("t1")])

        [outcome] = await log.append([an_event("t1", log=HEARTBEAT_EVENT)])

        assert outcome == Recorded(1, START_US)
        assert [event.seq for event in await log.read(HEARTBEAT_EVENT, after=0)] == [1]

    async def test_recorded_us_grows_with_every_event_though_the_clock_steps_back(
        self, log: EventLog, clock: ManualClock
    ) -> None:
        await log.append([an_event("t1"), an_event("t2")])
        clock.set_back(3600)
        await log.append([an_event("t3")])
        clock.advance(7200)
        await log.append([an_event("t4")])

        times = [event.recorded_us for event in await log.read(EVENT, after=0)]
        assert times == [START_US, START_US + 1, START_US + 2, START_US + 3_600_000_000]

    async def test_the_head_has_the_merkle_tree_over_all_rows(self, log: EventLog, database: Database) -> None:
        for count in (1, 4, 6):
            await log.append([an_event(f"t{count}-{n}", hostname="web1" if n % 2 else None) for n in range(count)])

        async with database.read() as connection:
            rows = await connection.exec_driver_sql("SELECT * FROM event ORDER BY seq")
            leaves = [leaf_hash(tuple(row)) for row in rows]
        head = await log.head(EVENT)
        assert head.seq == len(leaves) == 11
        assert head.tree == CompactRange(0, ()).extended(leaves)

    async def test_a_body_of_megabytes_is_kept_beside_small_ones(self, log: EventLog) -> None:
        bodies = [b"small", bytes(range(256)) * 12_288, b"'\\\x00%s" * 1000]

        await log.append([an_event(f"t{n}", body=body) for n, body in enumerate(bodies)])

        assert [event.body for event in await log.read(EVENT, after=0)] == bodies

    async def test_some_events_come_in_their_order_and_large_ones_one_at_a_time(self, database: Database) -> None:
        class Reading(EventLog):
            read_alone = 0

            async def read_one(self, log: LogName, seq: int) -> StoredEvent | None:
                self.read_alone += 1
                return await super().read_one(log, seq)

        sizes = [10, LARGE_BYTES, 10, 3 * LARGE_BYTES, LARGE_BYTES - 1]
        async with Reading.open(database) as log:
            await log.append([an_event(f"t{n}", body=b"x" * size) for n, size in enumerate(sizes)])
            found = [
                (event.seq, len(event.body), log.read_alone)
                async for event in log.read_these(EVENT, [5, 4, 2, 1, 4, 9])
            ]

        assert found == [(1, 10, 0), (2, LARGE_BYTES, 1), (4, 3 * LARGE_BYTES, 2), (5, LARGE_BYTES - 1, 2)]

    async def test_a_page_of_large_bodies_ends_early_and_the_next_one_goes_on(
        self, log: EventLog, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes = [10, LARGE_BYTES, LARGE_BYTES - 1, 3 * LARGE_BYTES, 10, 9 * LARGE_BYTES, 10]
        bodies = [bytes([n]) * size for n, size in enumerate(sizes)]
        await log.append([an_event(f"t{n}", body=body) for n, body in enumerate(bodies)])
        monkeypatch.setattr("control_plane.events.pages.PAGE_BYTES", 4 * LARGE_BYTES)

        async with EventLog.open(database) as reader:  # which remembers nothing of what the other one has committed
            pages = [await reader.read(EVENT, after=0)]
            while page := await reader.read(EVENT, after=pages[-1][-1].seq):
                pages.append(page)

        assert [[event.seq for event in page] for page in pages] == [[1, 2, 3], [4, 5], [6], [7]]
        assert [event.body for page in pages for event in page] == bodies

    # --- keys

    async def test_the_same_key_and_digest_again_answers_the_first_seq(self, log: EventLog) -> None:
        await log.append([an_event("t0"), an_event("t1", body=b"a")])

        assert await log.append([an_event("t1", body=b"a")]) == [Duplicate(2)]
        assert (await log.head(EVENT)).seq == 2

    async def test_the_same_key_with_another_digest_is_a_conflict_and_the_first_stands(self, log: EventLog) -> None:
        await log.append([an_event("t1", body=b"a")])

        assert await log.append([an_event("t1", body=b"b")]) == [Conflict(1)]
        assert [event.body for event in await log.read(EVENT, after=0)] == [b"a"]

    async def test_repeats_within_one_batch_are_told_apart_too(self, log: EventLog) -> None:
        outcomes = await log.append([an_event("t1"), an_event("t1"), an_event("t1", body=b"b"), an_event("t2")])

        assert outcomes == [Recorded(1, START_US), Duplicate(1), Conflict(1), Recorded(2, START_US + 1)]

    async def test_of_many_who_append_the_same_at_once_one_records_it(self, url: str, log: EventLog) -> None:
        async with open_database(url, pool_size=3) as other, EventLog.open(other) as other_log:
            answers = await asyncio.gather(*(some.append([an_event()]) for some in (log, other_log) * 20))

        outcomes = [outcome for [outcome] in answers]
        assert sum(isinstance(outcome, Recorded) for outcome in outcomes) == 1
        assert outcomes.count(Duplicate(1)) == 39

    @pytest.mark.parametrize("name", ["WEB1", "web1 ", "wéb1", "web1\x00", ""])
    async def test_names_that_collations_would_merge_are_different(self, log: EventLog, name: str) -> None:
        first = an_event("web1", hostname="web1", part="web1")
        alike = [an_event(name), an_event("web1", hostname=name), an_event("web1", hostname="web1", part=name)]

        outcomes = await log.append([first, *alike])

        assert [type(outcome) for outcome in outcomes] == [Recorded] * 4
        assert [event.hostname for event in await log.read(EVENT, after=0)] == ["web1", None, name, "web1"]

    async def test_keys_are_found_by_their_exact_value(self, log: EventLog) -> None:
        events = [an_event(f"t{n}") for n in range(3)]
        await log.append(events)

        found = await log.find(EVENT, [events[2].key, events[0].key, Key("T0", "task.accepted"), Key("t9", "x")])

        assert found == {events[0].key: 1, events[2].key: 3}

    # --- batches

    async def test_what_arrives_during_a_commit_is_one_batch(self, log: EventLog, trap: Trap) -> None:
        await asyncio.gather(*(log.append([an_event(f"t{n}")]) for n in range(700)))

        assert [event.seq for event in await log.read(EVENT, after=0)] == list(range(1, 701))
        assert trap.hits.count("log.before_commit") <= 3

    async def test_a_full_queue_makes_callers_wait(self, log: EventLog, database: Database) -> None:
        async with asyncio.TaskGroup() as tasks, database.write() as connection:
            await connection.execute(select(log_head).where(log_head.c.log == EVENT).with_for_update())
            for n in range(2 * WAITING_EVENTS):
                tasks.create_task(log.append([an_event(f"t{n}")]))
            await until(lambda: log._appenders[EVENT]._waiting_events == WAITING_EVENTS)

        assert (await log.head(EVENT)).seq == 2 * WAITING_EVENTS

    async def test_callers_that_wait_make_their_events_ready_while_the_database_works(
        self, log: EventLog, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("control_plane.events.appender.WAITING_EVENTS", 1)
        insert, calls = database.dialect.bulk_insert, log._appenders[EVENT]._calls
        let_in: list[tuple[str, int]] = []

        async def bulk_insert(connection: AsyncConnection, table: Table, rows: Sequence[Sequence[Value]]) -> None:
            await insert(connection, table, rows)
            let_in.append((table.name, len(calls)))

        monkeypatch.setattr(database.dialect, "bulk_insert", bulk_insert)
        await asyncio.gather(*(log.append([an_event(f"t{n}")]) for n in range(2)))

        assert let_in[:2] == [("event_key", 0), ("event", 1)]

    async def test_a_caller_that_is_cancelled_during_the_commit_does_not_stop_it(
        self, log: EventLog, trap: Trap
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            caller = tasks.create_task(log.append([an_event("t1")]))
            trap.at["log.before_commit"] = lambda: void(caller.cancel())

        assert caller.cancelled()
        await log.append([an_event("t2")])
        assert [event.task_id for event in await log.read(EVENT, after=0)] == ["t1", "t2"]

    @pytest.mark.parametrize("times", [1, 2])  # the second time it is the look for what is there that is lost
    async def test_an_unknown_commit_that_happened_answers_recorded_and_writes_once(
        self, log: EventLog, trap: Trap, times: int
    ) -> None:
        trap.fail("log.after_commit", times=times)

        outcomes = await log.append([an_event("t1"), an_event("t1"), an_event("t2")])

        assert outcomes == [Recorded(1, START_US), Duplicate(1), Recorded(2, START_US + 1)]
        assert (await log.head(EVENT)).seq == 2

    async def test_what_another_process_recorded_meanwhile_as_the_same_seq_is_a_duplicate(
        self, log: EventLog, url: str, monkeypatch: pytest.MonkeyPatch, trap: Trap
    ) -> None:
        appender = log._appenders[EVENT]
        drop, event = appender._drop_connection, an_event("t1")
        async with open_database(url, pool_size=3) as other, EventLog.open(other) as other_log:

            async def drop_and_lose_the_turn() -> None:
                await drop()
                assert [outcome.seq for outcome in await other_log.append([event])] == [1]

            monkeypatch.setattr(appender, "_drop_connection", drop_and_lose_the_turn)
            trap.fail("log.before_commit", times=1)

            assert await log.append([event]) == [Duplicate(1)]

    async def test_a_batch_torn_before_its_commit_leaves_nothing_and_is_written_again(
        self, log: EventLog, database: Database, trap: Trap
    ) -> None:
        trap.fail("log.before_commit", times=5)
        with pytest.raises(StorageUnavailableError):
            await log.append([an_event("t1"), an_event("t2")])
        async with database.read() as connection:
            for table in ("event", "event_key"):
                assert (await connection.exec_driver_sql(f"SELECT COUNT(*) FROM {table}")).scalar_one() == 0  # noqa: S608

        trap.fail("log.before_commit", times=2)
        assert len(await log.append([an_event("t1"), an_event("t2")])) == 2
        assert (await log.head(EVENT)).seq == 2

    async def test_an_event_that_the_database_refuses_is_named_and_the_others_go_on(
        self, log: EventLog, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        insert = database.dialect.bulk_insert

        async def bulk_insert(connection: object, table: object, rows: list[tuple[object, ...]]) -> None:
            await insert(connection, table, rows)  # type: ignore[arg-type] # passed on as they come
            if any(b"poison" in row for row in rows):
                raise UnstorableError(0, "poison")

        monkeypatch.setattr(database.dialect, "ready", tuple)  # so that it is seen in the row
        monkeypatch.setattr(database.dialect, "bulk_insert", bulk_insert)
        calls = [[an_event(f"t{n}-{i}") for i in range(5)] for n in range(5)]
        calls[3][2] = an_event("t3-2", body=b"poison")

        answers = await asyncio.gather(*(log.append(call) for call in calls), return_exceptions=True)

        assert isinstance(answers[3], UnstorableError)
        assert answers[3].index == 2
        assert [len(answer) for answer in answers if isinstance(answer, list)] == [5] * 4
        assert (await log.head(EVENT)).seq == 24
        assert await log.append(calls[3][:2] + calls[3][3:]) == [Duplicate(seq) for seq in (16, 17, 18, 19)]

    @pytest.mark.parametrize("change", [{"schema_v": -1}, {"occurred_us": 2**63}, {"actor": "\ud800"}, {"digest": b""}])
    async def test_what_no_database_could_keep_is_refused_at_once(
        self, log: EventLog, change: dict[str, object]
    ) -> None:
        fields: dict[str, object] = {"log": EVENT, "kind": "k", "schema_v": 1, "digest": bytes(32), "body": b""}
        bad = NewEvent(key=Key("t1", "k"), **{**fields, **change})  # type: ignore[arg-type] # wrong on purpose

        with pytest.raises(UnstorableError) as refused:
            await log.append([an_event(), bad])

        assert refused.value.index == 1
        assert (await log.head(EVENT)).seq == 0

    async def test_a_closed_log_has_dealt_with_all_it_took_and_takes_no_more(self, database: Database) -> None:
        async with asyncio.TaskGroup() as tasks, EventLog.open(database) as log:
            calls = [tasks.create_task(log.append([an_event(f"t{n}")])) for n in range(50)]
            while not log._appenders[EVENT]._calls:
                await asyncio.sleep(0)

        assert all(isinstance(outcome, Recorded) for call in calls for outcome in call.result())
        with pytest.raises(StorageUnavailableError):
            await log.append([an_event("late")])

    async def test_callers_of_a_log_that_is_cancelled_do_not_wait_for_ever(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("control_plane.events.appender.WAITING_EVENTS", 2)
        opened: asyncio.Future[EventLog] = asyncio.get_running_loop().create_future()

        async def hold() -> None:
            async with EventLog.open(database) as log:
                opened.set_result(log)
                await asyncio.Event().wait()

        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as tasks, database.write() as connection:
            await connection.execute(select(log_head).where(log_head.c.log == EVENT).with_for_update())
            holder = tasks.create_task(hold())
            log = await opened
            calls = [tasks.create_task(refused(log.append([an_event(f"t{n}")]))) for n in range(4)]  # two wait for room
            await until(lambda: log._appenders[EVENT]._waiting_events == 2)
            while not holder.done():  # the first asks it to finish what it holds, the second to leave it
                await asyncio.sleep(0.01)
                holder.cancel()
            assert [type(await call) for call in calls] == [StorageUnavailableError] * 4

    async def test_an_error_of_the_block_comes_out_of_the_log_as_it_is(self, database: Database) -> None:
        with pytest.raises(ZeroDivisionError):
            async with EventLog.open(database):
                raise ZeroDivisionError

    # --- reading

    async def test_pages_follow_each_other_and_end_where_told(self, log: EventLog) -> None:
        await log.append([an_event(f"t{n}") for n in range(10)])

        assert [event.seq for event in await log.read(EVENT, after=0, limit=4)] == [1, 2, 3, 4]
        assert [event.seq for event in await log.read(EVENT, after=4, upto=6)] == [5, 6]
        assert await log.read(EVENT, after=10) == []
        assert await log.read(EVENT, after=6, upto=6) == []

    async def test_some_kinds_are_read_in_order(self, log: EventLog) -> None:
        await log.append([an_event(f"t{n}", kind="abc"[n % 3]) for n in range(9)])

        assert [event.seq for event in await log.read(EVENT, after=1, kinds={"a", "c"})] == [3, 4, 6, 7, 9]
        assert [event.seq for event in await log.read(EVENT, after=1, kinds={"a", "c"}, upto=6, limit=2)] == [3, 4]
        assert await log.read(EVENT, after=0, kinds=[]) == []

    async def test_one_event_is_read_by_its_seq(self, log: EventLog) -> None:
        await log.append([an_event("t1"), an_event("t2")])

        event = await log.read_one(EVENT, 2)

        assert event is not None
        assert event.task_id == "t2"
        assert await log.read_one(EVENT, 3) is None

    async def test_a_time_becomes_the_position_that_was_reached_then(self, log: EventLog, clock: ManualClock) -> None:
        assert await log.position_at(EVENT, START_US) == 0
        for n in range(20):
            await log.append([an_event(f"t{n}")])
            clock.advance(1)

        assert await log.position_at(EVENT, START_US - 1) == 0
        assert await log.position_at(EVENT, START_US) == 1
        assert await log.position_at(EVENT, START_US + 6_500_000) == 7
        assert await log.position_at(EVENT, START_US + 10**12) == 20

    async def test_a_hole_below_the_head_is_damage_and_never_skipped(self, log: EventLog, database: Database) -> None:
        await log.append([an_event(f"t{n}") for n in range(5)])
        await delete_event(database, 3)

        # Another process's view: the one that has appended an event remembers it.
        async with EventLog.open(database) as other:
            await self.sees_the_hole(other)
            assert [(hole.log, hole.seq) for hole in await other.holes()] == [(EVENT, 3)]
        assert await log.holes() == []

    async def test_a_hole_that_is_mended_is_known_no_more(self, log: EventLog, database: Database) -> None:
        await log.append([an_event(f"t{n}") for n in range(5)])
        gone = await log.read_one(EVENT, 3)
        assert gone is not None
        await delete_event(database, 3)

        async with EventLog.open(database) as other:
            await self.sees_the_hole(other)
            await Administrator(database).put_back(gone)
            assert await other.holes() == []

    @staticmethod
    async def sees_the_hole(log: EventLog) -> None:
        assert [event.seq for event in await log.read(EVENT, after=0)] == [1, 2]
        with pytest.raises(LogDamagedError) as damage:
            await log.read(EVENT, after=2)
        assert damage.value.seq == 3

    async def test_a_missing_tail_is_damage_too(self, log: EventLog, database: Database) -> None:
        await log.append([an_event("t1"), an_event("t2")])
        await delete_event(database, 2)

        async with EventLog.open(database) as other:
            with pytest.raises(LogDamagedError):
                await other.read(EVENT, after=1)

    async def test_a_commit_wakes_who_waits_for_it(self, log: EventLog) -> None:
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(log.wait_beyond(EVENT, 0, timeout_s=10 * BOUND_S))
            await log.append([an_event()])
            await waiting

    async def test_waiting_ends_at_its_timeout(self, log: EventLog) -> None:
        await log.wait_beyond(EVENT, 0, timeout_s=0.01)

    async def test_a_follower_sees_the_events_of_another_process(self, log: EventLog, url: str) -> None:
        stop = asyncio.Event()
        seen: list[int] = []
        async with open_database(url, pool_size=3) as other, EventLog.open(other) as other_log:
            await other_log.append([an_event(f"t{n}") for n in range(3)])
            async with asyncio.timeout(BOUND_S):
                async for events in follow(log, EVENT, after=1, stop=stop):
                    seen += [event.seq for event in events]
                    if seen[-1] == 3:
                        await other_log.append([an_event("t3")])
                    else:
                        stop.set()

        assert seen == [2, 3, 4]

    # --- races

    async def test_no_reader_misses_an_event_of_many_writers(self, url: str, database: Database) -> None:
        await race(url, append)

    async def test_the_race_tells_a_writer_that_reserves_before_it_commits(self, url: str, database: Database) -> None:
        with pytest.raises(AssertionError):
            await race(url, reserve_then_commit)

    # --- append-only

    @pytest.mark.parametrize("table", ["event", "heartbeat_event", "event_key"])
    async def test_a_row_of_the_log_can_be_neither_changed_nor_replaced_nor_deleted(
        self, log: EventLog, database: Database, table: str
    ) -> None:
        await log.append([an_event("t1")])
        await log.append([an_event("t1", log=HEARTBEAT_EVENT)])
        async with database.read() as connection:
            before = (await connection.exec_driver_sql(f"SELECT * FROM {table}")).all()  # noqa: S608

        for statement in self.changes:
            with pytest.raises(DBAPIError, match="append-only"):
                async with database.write() as connection:
                    await connection.exec_driver_sql(statement.format(table))

        async with database.read() as connection:
            assert (await connection.exec_driver_sql(f"SELECT * FROM {table}")).all() == before  # noqa: S608


class TestSqliteLog(EventLogContract):
    changes: ClassVar = [
        "UPDATE {0} SET seq = seq + 10",
        "DELETE FROM {0}",
        "INSERT OR REPLACE INTO {0} SELECT * FROM {0}",
        "INSERT INTO {0} SELECT * FROM {0} WHERE true ON CONFLICT DO UPDATE SET seq = 9",
    ]

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)

    async def test_replace_is_refused_on_a_connection_of_somebody_elses_too(
        self, log: EventLog, tmp_path: Path
    ) -> None:
        await log.append([an_event("t1")])

        with (
            closing(sqlite3.connect(tmp_path / "test.db")) as connection,  # without recursive_triggers
            pytest.raises(sqlite3.IntegrityError, match="append-only"),
        ):
            connection.execute("INSERT OR REPLACE INTO event SELECT * FROM event")


@pytest.mark.mysql
class TestMysqlLog(EventLogContract):
    changes: ClassVar = [
        "UPDATE {0} SET seq = seq + 10",
        "DELETE FROM {0}",
        "REPLACE INTO {0} SELECT * FROM {0}",
        "INSERT INTO {0} SELECT * FROM {0} AS old ON DUPLICATE KEY UPDATE seq = 9",
    ]

    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url

    async def test_a_batch_is_two_inserts_on_the_wire(self, log: EventLog) -> None:
        await log.append([an_event("warm up")])
        connection = log._appenders[EVENT]._connection
        assert connection is not None

        async def inserts() -> int:
            answer = await connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Com_insert'")
            count = int(answer.one()[1])
            await connection.rollback()
            return count

        before = await inserts()
        await log.append([an_event(f"t{n}") for n in range(500)])
        assert await inserts() - before == 2

    async def test_a_value_that_is_too_long_is_refused_not_cut(self, log: EventLog) -> None:
        events = [an_event(f"t{n}") for n in range(8)]
        events[5] = an_event("t5", hostname="x" * 201)

        with pytest.raises(UnstorableError) as refused:
            await log.append(events)

        assert refused.value.index == 5
        assert (await log.head(EVENT)).seq == 7

    async def test_a_connection_killed_by_the_server_is_replaced(self, log: EventLog, database: Database) -> None:
        await log.append([an_event("t1")])
        connection = log._appenders[EVENT]._connection
        assert connection is not None
        number = (await connection.exec_driver_sql("SELECT CONNECTION_ID()")).scalar_one()
        await connection.rollback()
        async with database.write() as other:
            await other.exec_driver_sql(f"KILL {number}")

        [outcome] = await log.append([an_event("t2")])

        assert outcome == Recorded(2, START_US + 1)

    async def test_a_writer_that_vanishes_without_a_word_does_not_hold_the_log_for_long(
        self, log: EventLog, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect = {"init_command": f"{SESSION} {lets_go(1)}"}
        monkeypatch.setattr("control_plane.storage.mysql.WRITING_OPTIONS", {**WRITING_OPTIONS, "connect_args": connect})
        async with Link(url).open() as link, open_database(link.url) as database:
            gone = await database.connect()
            try:
                await lock_head(database.dialect, gone, EVENT)
                link.freeze()

                [outcome] = await log.append([an_event("t1")])

                assert outcome == Recorded(1, START_US)
            finally:
                link.thaw()
                await gone.invalidate()
                await gone.close()

    async def test_heartbeats_do_not_wait_for_commands(self, log: EventLog, database: Database) -> None:
        async with asyncio.TaskGroup() as tasks, database.write() as connection:
            await connection.execute(select(log_head).where(log_head.c.log == EVENT).with_for_update())
            command = tasks.create_task(log.append([an_event("t1")]))
            async with asyncio.timeout(BOUND_S):
                await log.append([an_event("t1", log=HEARTBEAT_EVENT)])
            assert not command.done()

        assert isinstance(command.result()[0], Recorded)


async def refused(call: Awaitable[object]) -> Exception | None:
    try:
        await call
    except StorageUnavailableError as error:
        return error
    return None


def void(_: object) -> None:
    """Take a value where none is wanted."""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():
            await asyncio.sleep(0.005)


async def delete_event(database: Database, seq: int) -> None:
    """What only somebody with an administrator's rights can do."""
    async with database.write() as connection:
        await connection.exec_driver_sql("DROP TRIGGER event_no_delete")
        await connection.execute(event_table.delete().where(event_table.c.seq == seq))
