"""What `Dialect` promises, for both databases, and what each must never let through."""

import asyncio
import math
import sqlite3
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from itertools import product
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Index, MetaData, delete, func, make_url, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import (
    ConfigurationError,
    DuplicateKeyError,
    KeyMissingError,
    LeaseLostError,
    LogDamagedError,
    StorageUnavailableError,
    UnstorableError,
)
from control_plane.events.merkle import EventRow, leaf_hash, leaves_in
from control_plane.storage.dialect import Value
from control_plane.storage.engine import POOL_OPTIONS, Database, open_database
from control_plane.storage.leases import Lease, Leases
from control_plane.storage.mysql_text import literals
from control_plane.storage.tables import (
    Blob,
    Float64,
    Identifier,
    Int64,
    LongText,
    credential,
    event_key,
    follower,
    heartbeat_event,
    heartbeat_key,
    lease,
    log_segment,
    read_table,
)
from tests.support.database import migrated, sqlite_url
from tests.support.servers import DatabaseServer

BOUND_S = 20

host = read_table(
    "host_status",
    MetaData(),
    Column("hostname", Identifier(), primary_key=True),
    Column("part", Int64, primary_key=True),
    Column("state", Identifier(16)),
    Column("cpu", Float64),
    Column("labels", LongText),
    Column("raw", Blob),
    Column("pos", Int64, nullable=False, server_default="0"),
    Index("host_status_pos", "pos"),
)


class DialectContract:
    @pytest.fixture
    async def database(self, url: str) -> AsyncIterator[Database]:
        async with migrated(url) as database:
            yield database

    @pytest.fixture
    async def read_tables(self, database: Database) -> None:
        async with database.write() as connection:
            await database.dialect.create_read_table(connection, host)

    # --- bulk statements

    async def test_rows_come_back_as_they_went_in(self, database: Database) -> None:
        """The fast way against the parameters of the driver, over whatever bytes and numbers there are."""
        bodies = [b"", b"'", b'"', b"\\", b"%s", b"\x00\xff", "wéb1 ✓".encode(), bytes(range(256)) * 5000]
        rows = [
            (n + 1, 2**63 - 1, b"k", 2**15 - 1, None, body[:200], b"", -(2**63), body, None, b" pad ")
            for n, body in enumerate(bodies)
        ]

        async with database.write() as connection:
            await database.dialect.bulk_insert(connection, heartbeat_event, rows)

        async with database.read() as connection:
            found = await connection.exec_driver_sql("SELECT * FROM heartbeat_event ORDER BY seq")
            assert [tuple(row) for row in found] == rows

    async def test_the_database_gives_the_bytes_that_the_tree_hashes(self, database: Database) -> None:
        """As Python makes them of the columns, with every text missing, empty and full, and numbers at their ends."""
        texts: list[bytes | None] = [None, b"", b"\x00", bytes(range(200)), b"\xff" * 64]
        rows: list[EventRow] = [
            (n, 2**63 - n, b"k" * n, n, text, text, text, occurred, b"b" * n, text and text[:64], text and text[:64])
            for n, (text, occurred) in enumerate(product(texts, (None, 0, -1, -(2**63), 2**63 - 1)), start=1)
        ]
        large = (len(rows) + 1, 1, b"k", 1, None, None, None, None, b"b" * 1000, None, None)
        async with database.write() as connection:
            await database.dialect.bulk_insert(connection, heartbeat_event, [*rows, large])

        async with database.read() as connection:
            for after, upto in ((0, len(rows)), (3, 4), (7, 7), (3, 2**62)):
                data = await database.dialect.leaf_data(connection, heartbeat_event, after, upto, below_bytes=1000)
                assert dict(leaves_in(data)) == {row[0]: leaf_hash(row) for row in rows if after < row[0] <= upto}

    async def test_the_events_of_a_log_are_read_as_they_were_written_but_for_the_large_ones(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("control_plane.storage.mysql.ROWS_A_VALUE", 7)
        texts = [None, "", "\0", "".join(map(chr, range(64))), "é" * 32]
        rows = [
            (n, 2**63 - n, "k" * n, n, text, text, text, occurred, b"\xff" * n, None if text is None else b"\xff", text)
            for n, (text, occurred) in enumerate(product(texts, (None, 0, -1, -(2**63), 2**63 - 1)), start=1)
        ]
        large = (len(rows) + 1, 1, b"k", 1, None, None, None, None, b"b" * 1000, None, None)
        raw = [[value.encode() if isinstance(value, str) else value for value in row] for row in rows]
        async with database.write() as connection:
            await database.dialect.bulk_insert(connection, heartbeat_event, [*raw, large])

        async with database.read() as connection:
            for after, upto in ((0, len(rows) + 1), (3, 4), (7, 7), (3, 20)):
                found = await database.dialect.event_rows(connection, heartbeat_event, after, upto, below_bytes=1000)
                assert list(found) == rows[after:upto]

    async def test_a_digest_tells_the_slightest_difference_and_nothing_else(
        self, database: Database, read_tables: None
    ) -> None:
        async def digest_of(*rows: dict[str, Value]) -> tuple[int, bytes]:
            async with database.write() as connection:
                await connection.execute(delete(host))
                await database.dialect.bulk_upsert(connection, host, rows)
                return await database.dialect.digest_rows(connection, host, host.c.hostname > "a")

        first: dict[str, Value] = {
            "hostname": "b",
            "part": 1,
            "state": "up",
            "cpu": 0.1,
            "labels": "",
            "raw": b"",
            "pos": 1,
        }
        second = {**first, "part": 2}

        same = await digest_of(first, second)

        assert same[0] == 2
        assert same == await digest_of(second, first) == await digest_of(first, second, {**first, "hostname": "A"})
        changes: list[dict[str, Value]] = [
            *({"cpu": 0.1 + 2**-56}, {"cpu": None}, {"pos": 2}, {"state": None}, {"state": ""}, {"state": "-"}),
            *({"hostname": "b "}, {"labels": "é"}, {"raw": b"\x00"}, {"state": "1:x", "labels": "y"}),
            {"state": "1", "labels": "x:y"},
        ]
        others = [await digest_of(first), *[await digest_of(first, {**second, **change}) for change in changes]]
        assert len({same, *others}) == 1 + len(others)

    async def test_an_upsert_writes_new_rows_and_changes_the_given_columns_of_old_ones(
        self, database: Database, read_tables: None
    ) -> None:
        rows: list[dict[str, Value]] = [
            {"hostname": name, "part": 1, "state": "online", "cpu": 0.25, "labels": '{"a": "é"}', "raw": b"\xff"}
            for name in ("web2", "web1", "WEB1", "web1 ")
        ]
        async with database.write() as connection:
            await database.dialect.bulk_upsert(connection, host, rows)
            changes = [{"part": 1, "hostname": "web1", "state": "stale", "cpu": None, "pos": 7}]
            await database.dialect.bulk_upsert(connection, host, changes)
            await database.dialect.bulk_upsert(connection, host, [])

        async with database.read() as connection:
            found = [tuple(row) for row in await connection.execute(select(host).order_by(host.c.hostname))]
        same = ("online", 0.25, '{"a": "é"}', b"\xff", 0)
        assert found == [
            ("WEB1", 1, *same),
            ("web1", 1, "stale", None, '{"a": "é"}', b"\xff", 7),
            ("web1 ", 1, *same),
            ("web2", 1, *same),
        ]

    async def test_an_upsert_of_keys_alone_leaves_old_rows_as_they_are(
        self, database: Database, read_tables: None
    ) -> None:
        async with database.write() as connection:
            await database.dialect.bulk_upsert(connection, host, [{"hostname": "web1", "part": 1, "state": "online"}])
            await database.dialect.bulk_upsert(connection, host, [{"hostname": "web1", "part": 1}])

        async with database.read() as connection:
            assert await connection.scalar(select(host.c.state)) == "online"

    async def test_keys_are_found_by_all_their_parts(self, database: Database) -> None:
        keys = [(f"t{n}".encode(), b"k", b"", b"p") for n in range(600)]
        async with database.write() as connection:
            rows = [(*key, bytes(32), seq) for seq, key in enumerate(keys, start=1)]
            await database.dialect.bulk_insert(connection, heartbeat_key, rows)

            wanted = [keys[9], (b"t9", b"k", b"", b"P"), (b"t9 ", b"k", b"", b"p"), keys[599]]
            found = await database.dialect.find_keys(connection, heartbeat_key, wanted)
            assert sorted(found) == [(keys[599], bytes(32), 600), (keys[9], bytes(32), 10)]
            assert len(await database.dialect.find_keys(connection, heartbeat_key, keys)) == 600

    async def test_keys_are_deleted_up_to_a_seq_and_no_others(self, database: Database) -> None:
        keys = [(f"t{n}".encode(), b"k", b"", b"p") for n in range(4)]
        async with database.write() as connection:
            rows = [(*key, bytes(32), seq) for seq, key in enumerate(keys, start=1)]
            await database.dialect.bulk_insert(connection, heartbeat_key, rows)

            await database.dialect.delete_keys(connection, heartbeat_key, [keys[0], keys[1], keys[3], (b"t2",) * 4], 2)
            await database.dialect.delete_keys(connection, heartbeat_key, [], 2)

            left = await database.dialect.find_keys(connection, heartbeat_key, keys)
            assert sorted(seq for _, _, seq in left) == [3, 4]

    # --- segments

    async def test_a_segment_is_dropped_whole_once_it_is_written_down_and_nothing_else_is(
        self, database: Database, small_segments: None
    ) -> None:
        dialect = database.dialect
        rows = [(n, n, b"k", 1, None, b"web1", None, None, b"{}", None, None) for n in range(1, 26)]
        async with database.write() as connection:
            await dialect.bulk_insert(connection, heartbeat_event, rows)
            assert (await dialect.segments(connection, heartbeat_event, 10))[:2] == [10, 20]
            await write_down(connection, last_seq=10)

        while not await self.drop(database, 10):
            pass

        async with database.read() as connection:
            left = list(await connection.scalars(select(heartbeat_event.c.seq).order_by(heartbeat_event.c.seq)))
        assert left == list(range(11, 26))
        assert await self.drop(database, 10)
        async with database.read() as connection:
            assert await connection.scalar(select(func.count()).select_from(heartbeat_event)) == 15

    @staticmethod
    async def drop(database: Database, upto: int) -> bool:
        async with database.write() as connection:
            return await database.dialect.drop_segment(connection, heartbeat_event, upto)

    async def test_segments_are_planned_ahead_and_rows_find_their_place_before_and_after(
        self, database: Database, small_segments: None
    ) -> None:
        dialect = database.dialect

        async def insert(seq: int) -> None:
            row = (seq, seq, b"k", 1, None, b"web1", None, None, b"{}", None, None)
            async with database.write() as connection:
                await dialect.bulk_insert(connection, heartbeat_event, [row])

        for seq in (1, 45, 46):  # the last two are beyond what was planned
            await insert(seq)
        async with database.write() as connection:
            planned = (await dialect.segments(connection, heartbeat_event, 10))[-1]
            await dialect.add_segments(connection, heartbeat_event, [50, 60])
            assert (await dialect.segments(connection, heartbeat_event, 10))[-1] in {60, planned}
        for seq in (47, 55, 1000):
            await insert(seq)

        async with database.read() as connection:
            found = list(await connection.scalars(select(heartbeat_event.c.seq).order_by(heartbeat_event.c.seq)))
        assert found == [1, 45, 46, 47, 55, 1000]

    # --- types

    @pytest.mark.parametrize("row", [(b"f", b"no number", 1, 1, 1), (b"f", None, 1, 1, 1)])
    async def test_a_value_of_the_wrong_type_is_refused(self, database: Database, row: tuple[Value, ...]) -> None:
        with pytest.raises(UnstorableError):
            async with database.write() as connection:
                await database.dialect.bulk_insert(connection, follower, [row])

    async def test_a_credential_keeps_its_exact_text(self, database: Database) -> None:
        async with database.write() as connection:
            for name in ("ada", "Ada", "ada "):
                await connection.execute(credential.insert().values(username=name, phc=name, changed_us=1))

        async with database.read() as connection:
            found = await connection.execute(select(credential.c.phc).where(credential.c.username == "ada"))
            assert found.scalars().all() == ["ada"]

    # --- read tables

    async def test_a_read_table_is_made_and_dropped_again_and_again(self, database: Database) -> None:
        for _ in range(2):
            async with database.write() as connection:
                await database.dialect.create_read_table(connection, host)
                await database.dialect.create_read_table(connection, host)
            async with database.read() as connection:
                assert (await connection.execute(select(host))).all() == []
            async with database.write() as connection:
                await database.dialect.drop_read_table(connection, host)
                await database.dialect.drop_read_table(connection, host)

    # --- transactions

    async def test_writers_lose_no_update(self, url: str, database: Database) -> None:
        async with database.write() as connection:
            await connection.execute(
                follower.insert().values(name="f", event_seq=0, heartbeat_seq=0, epoch=0, version=1)
            )

        async def increment(some: Database) -> None:
            for _ in range(20):
                async with some.write() as connection:
                    found = await connection.scalar(select(follower.c.event_seq).with_for_update())
                    await connection.execute(follower.update().values(event_seq=(found or 0) + 1))

        async with open_database(url) as other:
            await asyncio.gather(*(increment(some) for some in (database, other) * 2))

        async with database.read() as connection:
            assert await connection.scalar(select(follower.c.event_seq)) == 80

    async def test_a_block_that_raises_writes_nothing(self, database: Database) -> None:
        async def fail() -> None:
            async with database.write() as connection:
                await connection.execute(credential.insert().values(username="ada", phc="x", changed_us=1))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

        async with database.read() as connection:
            assert (await connection.execute(select(credential))).all() == []

    @pytest.mark.parametrize("error", [None, StorageUnavailableError("lost"), ValueError("x")])
    async def test_a_cancellation_that_the_driver_loses_is_not_lost(
        self, database: Database, error: Exception | None
    ) -> None:
        has_begun = asyncio.Event()

        async def lose_it() -> None:
            async with database.write():
                has_begun.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if error is not None:
                        raise error from None

        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(lose_it())
            await has_begun.wait()
            task.cancel()

        assert task.cancelled()

    async def test_a_duplicate_key_means_look_and_try_again(self, database: Database) -> None:
        ada = credential.insert().values(username="ada", phc="x", changed_us=1)
        async with database.write() as connection:
            await connection.execute(ada)

        with pytest.raises(DuplicateKeyError):
            async with database.write() as connection:
                await connection.execute(ada)

    async def test_a_key_that_is_in_the_log_already_is_a_duplicate_and_the_rest_is_not_written(
        self, database: Database
    ) -> None:
        first, second = ((b"t1", b"task.accepted", b"", part, bytes(32), 1) for part in (b"", b"2"))
        async with database.write() as connection:
            await database.dialect.bulk_insert(connection, event_key, [first])

        with pytest.raises(DuplicateKeyError):
            async with database.write() as connection:
                await database.dialect.bulk_insert(connection, event_key, [second, first])

        async with database.read() as connection:
            assert await connection.scalar(select(func.count()).select_from(event_key)) == 1

    async def test_a_defect_of_ours_is_not_called_unavailable(self, database: Database) -> None:
        with pytest.raises(DBAPIError):
            async with database.read() as connection:
                await connection.execute(text("SELECT nothing FROM nowhere"))

    @pytest.mark.parametrize("prepare", ["SELECT 1", "DROP TABLE heartbeat_key"])
    async def test_no_error_shows_what_was_written(self, database: Database, prepare: str) -> None:
        rows = [(b"secret", b"k", b"", b"", bytes(32), None)]
        async with database.write() as connection:
            await connection.exec_driver_sql(prepare)

        with pytest.raises((UnstorableError, DBAPIError, sqlite3.Error)) as refused:
            async with database.write() as connection:
                await database.dialect.bulk_insert(connection, heartbeat_key, rows)

        shown = "".join(traceback.format_exception(refused.value))
        assert "secret" not in shown.replace(__file__, "")
        assert b"secret".hex() not in shown

    # --- clock and leases

    async def test_the_clock_of_the_database_goes_on_in_microseconds(self, database: Database) -> None:
        async with database.read() as connection:
            times = [await connection.scalar(select(database.dialect.clock_us())) for _ in range(3)]

        assert times == sorted(times, key=lambda time: time or 0)
        assert all(1_700_000_000_000_000 < (time or 0) < 4_000_000_000_000_000 for time in times)

    async def test_one_process_holds_a_lease_until_it_lets_go(self, database: Database) -> None:
        one, two = Leases(database, owner="one"), Leases(database, owner="two")
        first = await one.acquire("dispatch")
        assert first == Lease("dispatch", 1)
        assert await two.acquire("dispatch") is None
        assert await two.acquire("deadlines") == Lease("deadlines", 1)

        await one.renew(first)
        await one.release(first)

        assert await two.acquire("dispatch") == Lease("dispatch", 2)
        with pytest.raises(LeaseLostError):
            await one.renew(first)
        await one.release(first)
        assert await one.acquire("dispatch") is None

    async def test_anybody_may_see_under_which_epoch_a_lease_is_held(self, database: Database) -> None:
        one, two = Leases(database, owner="one"), Leases(database, owner="two")
        assert await two.held("dispatch") is None
        first = await one.acquire("dispatch")
        assert first is not None
        assert (await one.held("dispatch"), await two.held("dispatch")) == (1, 1)
        assert await two.held("deadlines") is None

        await one.release(first)
        assert await two.held("dispatch") is None
        await two.acquire("dispatch")
        assert await one.held("dispatch") == 2
        await expire(database)
        assert await one.held("dispatch") is None

    async def test_a_lease_is_held_until_it_is_over(self, database: Database) -> None:
        leases, over = Leases(database, owner="one"), asyncio.Event()
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(leases.hold("hearing", over))
            while await leases.held("hearing") is None:
                continue
            over.set()

        assert await leases.held("hearing") is None

    async def test_a_lease_that_is_not_renewed_is_taken_over_under_a_new_epoch(self, database: Database) -> None:
        one, two = Leases(database, owner="one"), Leases(database, owner="two")
        await one.acquire("dispatch")
        await expire(database)

        assert await two.acquire("dispatch") == Lease("dispatch", 2)

    async def test_a_lease_of_before_the_clock_was_set_back_is_nobodys(self, database: Database) -> None:
        """A dead process would hold it for as long as the clock takes to be there again."""
        one, two = Leases(database, owner="one"), Leases(database, owner="two")
        await one.acquire("dispatch")
        async with database.write() as connection:
            await connection.execute(update(lease).values(until_us=lease.c.until_us + 3_600_000_000))

        assert await two.held("dispatch") is None
        assert await two.acquire("dispatch") == Lease("dispatch", 2)

    async def test_the_leases_of_a_dead_process_are_free_at_once(self, database: Database) -> None:
        one, two, three = (Leases(database, owner=owner) for owner in ("one", "two", "three"))
        await one.acquire("dispatch")
        await three.acquire("deadlines")

        await two.succeed("one")

        assert await two.acquire("dispatch") == Lease("dispatch", 2)
        assert await two.acquire("deadlines") is None

    async def test_work_is_done_under_the_lease_and_cancelled_when_it_is_lost(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("control_plane.storage.leases.RENEWAL_S", 0.02)
        one, two = Leases(database, owner="one"), Leases(database, owner="two")
        epochs: list[int] = []
        stop = asyncio.Event()

        async def work(lease: Lease) -> None:
            epochs.append(lease.epoch)
            await stop.wait()

        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(one.keep("dispatch", work, stop=stop))
            await until(lambda: epochs == [1])
            thief = await two.take("dispatch")
            await two.release(thief)
            await until(lambda: len(epochs) == 2)
            stop.set()

        assert epochs[1] > thief.epoch
        assert await two.acquire("dispatch") is not None

    async def test_who_waits_for_a_lease_has_it_when_it_ends_and_not_at_the_next_look(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("control_plane.storage.leases.RENEWAL_S", 10 * BOUND_S)
        monkeypatch.setattr("control_plane.storage.leases.LEASE_S", 0.2)
        await Leases(database, owner="dead").acquire("dispatch")
        stop = asyncio.Event()
        epochs: list[int] = []

        async def work(lease: Lease) -> None:
            epochs.append(lease.epoch)
            stop.set()

        async with asyncio.timeout(BOUND_S):
            await Leases(database, owner="one").keep("dispatch", work, stop=stop)

        assert epochs == [2]

    async def test_work_on_a_damaged_log_halts_alone_and_goes_on_when_the_log_is_mended(
        self, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("control_plane.storage.leases.HALTED_S", 0.01)
        stop = asyncio.Event()
        looks = 0

        async def work(lease: Lease) -> None:
            nonlocal looks
            looks += 1
            if looks < 3:
                raise LogDamagedError("event", 7)
            stop.set()

        async with asyncio.timeout(BOUND_S):
            await Leases(database, owner="one").keep("projection:hosts", work, stop=stop)

        alarms = [record for record in caplog.records if record.levelname == "ERROR"]
        assert [alarm.__dict__["cause"] for alarm in alarms] == ["event 7 is missing below the head"] * 2

    async def test_work_that_lacks_a_key_lets_its_lease_go_to_whoever_has_it(self, database: Database) -> None:
        stop = asyncio.Event()

        async def lacks(_lease: Lease) -> None:
            raise KeyMissingError("the key is not here")

        async def has(_lease: Lease) -> None:
            stop.set()

        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            group.create_task(Leases(database, owner="one").keep("dispatch", lacks, stop=stop))
            group.create_task(Leases(database, owner="two").keep("dispatch", has, stop=stop))

        assert stop.is_set()

    async def test_work_that_fails_ends_the_keeping_of_its_lease(self, database: Database) -> None:
        async def work(lease: Lease) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await Leases(database, owner="one").keep("dispatch", work, stop=asyncio.Event())


class TestSqliteDialect(DialectContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)

    async def test_a_file_is_needed(self) -> None:
        for url in ("sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:", "sqlite:///x.db", "nonsense"):
            with pytest.raises(ConfigurationError):
                async with open_database(url):
                    pass

    @pytest.fixture
    def small_segments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("control_plane.storage.sqlite.DELETED_ROWS", 3)

    async def test_a_row_of_a_segment_that_is_not_written_down_cannot_be_deleted(self, database: Database) -> None:
        rows = [(n, n, b"k", 1, None, None, None, None, b"{}", None, None) for n in range(1, 12)]
        async with database.write() as connection:
            await database.dialect.bulk_insert(connection, heartbeat_event, rows)
            await write_down(connection, last_seq=10)

        with pytest.raises(DBAPIError, match="append-only"):
            async with database.write() as connection:
                await connection.execute(heartbeat_event.delete().where(heartbeat_event.c.seq == 11))
        async with database.write() as connection:
            await connection.execute(heartbeat_event.delete().where(heartbeat_event.c.seq == 4))

    async def test_a_text_among_the_bytes_is_refused(self, database: Database) -> None:
        """It would never equal the same name in bytes."""
        with pytest.raises(UnstorableError):
            async with database.write() as connection:
                await database.dialect.bulk_insert(connection, follower, [("f", 1, 1, 1, 1)])

    async def test_a_transaction_that_is_cancelled_as_it_begins_is_not_left_open(
        self, database: Database, tmp_path: Path
    ) -> None:
        kept = await database.connect()
        await kept.exec_driver_sql("PRAGMA busy_timeout=500")  # for so long the one that is cancelled goes on waiting
        await kept.commit()

        async def nothing() -> None:
            async with database.write(kept):
                pass

        with closing(sqlite3.connect(tmp_path / "test.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await nothing()
            other.execute("ROLLBACK")

        await nothing()
        await kept.close()

    async def test_however_many_wait_to_write_nobody_is_refused_and_who_reads_waits_for_none(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a slow disk each commit takes its time, and all that a process does is in one file."""
        monkeypatch.setitem(POOL_OPTIONS, "pool_timeout", 0)
        written: list[int] = []

        async def write(number: int) -> None:
            async with small.write():
                written.append(number)

        async with (
            asyncio.timeout(BOUND_S),
            open_database(sqlite_url(tmp_path), pool_size=2) as small,
            asyncio.TaskGroup() as writers,
            small.write(),
        ):
            for number in range(5):
                writers.create_task(write(number))
            async with small.read() as reading:
                await reading.execute(select(lease.c.epoch))
            assert written == []

        assert written == [0, 1, 2, 3, 4]

    async def test_commits_are_synced_and_seen_by_readers_meanwhile(self, database: Database) -> None:
        async with database.read() as connection:
            assert (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one() == "wal"
            assert (await connection.exec_driver_sql("PRAGMA synchronous")).scalar_one() == 2


@pytest.mark.mysql
class TestMysqlDialect(DialectContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url

    @pytest.fixture
    async def small_segments(self, database: Database) -> None:
        async with database.write() as connection:
            await connection.exec_driver_sql(
                "ALTER TABLE heartbeat_event REORGANIZE PARTITION p1, p2, p3, p4, pmax INTO (PARTITION p1 VALUES LESS "
                "THAN (11), PARTITION p2 VALUES LESS THAN (21), PARTITION pmax VALUES LESS THAN MAXVALUE)"
            )

    async def test_a_kept_connection_that_was_quiet_for_too_long_is_made_anew(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """MySQL ends it then: whoever writes next would be told that nothing is known, and start over."""
        mine = text("SELECT CONNECTION_ID()")
        kept = await database.connect()
        ids = []
        for most_quiet_s in (math.inf, math.inf, -1.0, math.inf):
            monkeypatch.setattr(database.dialect, "most_quiet_s", most_quiet_s)
            async with database.write(kept) as connection:
                ids.append((await connection.execute(mine)).scalar_one())
        await kept.close()

        assert ids[0] == ids[1] != ids[2] == ids[3]

    @pytest.mark.parametrize("code", [1047, 1290])
    async def test_a_node_that_is_no_use_now_is_left_for_where_new_connections_lead(
        self, database: Database, code: int
    ) -> None:
        async def number() -> int | None:
            async with database.write() as connection:
                return await connection.scalar(text("SELECT CONNECTION_ID()"))

        before = await number()
        assert await number() == before
        with pytest.raises(StorageUnavailableError):
            async with database.write() as connection:
                await connection.exec_driver_sql(f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}")

        assert await number() != before

    async def test_a_reader_in_the_way_of_a_drop_is_waited_for_shortly_and_then_it_is_to_be_tried_again(
        self, database: Database, small_segments: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("control_plane.storage.mysql.ALTER_WAITS_S", 1)
        async with database.write() as reader:
            await reader.execute(select(heartbeat_event))
            with pytest.raises(StorageUnavailableError):
                await self.drop(database, 10)

        assert await self.drop(database, 10)
        async with database.write() as connection:
            assert await database.dialect.segments(connection, heartbeat_event, 10) == [20]
            default = await connection.exec_driver_sql("SELECT @@lock_wait_timeout > 1000")
            assert default.scalar_one() == 1

    async def test_a_bytes_parameter_goes_through_the_driver(self, database: Database) -> None:
        """Later releases of the driver below raise TypeError here: the pin in pyproject.toml is for this."""
        async with database.read() as connection:
            assert (await connection.exec_driver_sql("SELECT %s", (b"x",))).scalar_one() == b"x"

    async def test_a_missing_right_is_told_with_the_grant_that_gives_it(self, database: Database, url: str) -> None:
        name = f"u{uuid4().hex[:12]}"
        async with database.write() as connection:
            await connection.execute(text(f"CREATE USER {name} IDENTIFIED BY 'x'"))
            await connection.execute(text(f"GRANT SELECT ON {make_url(url).database}.* TO {name}"))
        try:
            limited = make_url(url).set(username=name, password="x").render_as_string(hide_password=False)
            async with open_database(limited) as poor:
                with pytest.raises(ConfigurationError, match="GRANT ALL ON"):
                    async with poor.write() as connection:
                        await poor.dialect.create_read_table(connection, host)
        finally:
            async with database.write() as connection:
                await connection.execute(text(f"DROP USER {name}"))


ROWS = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
    st.binary(max_size=60),
)


@pytest.mark.mysql
@settings(max_examples=25)  # how long a server takes is not what is tested
@given(rows=st.lists(ROWS, min_size=1, max_size=20))
def test_a_literal_means_what_the_parameter_of_the_driver_means(
    database_server: DatabaseServer, rows: list[tuple[Value, ...]]
) -> None:
    with database_server.database() as url, database_server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"USE {make_url(url).database}")
        cursor.execute("CREATE TEMPORARY TABLE v (i BIGINT, f DOUBLE, b BLOB)")
        for row in rows:
            cursor.execute(f"INSERT INTO v VALUES {literals(row)}")  # noqa: S608 - that this is safe is what is tested
            cursor.execute("INSERT INTO v VALUES (%s, %s, _binary %s)", row)
        cursor.execute("SELECT * FROM v")

        assert list(cursor.fetchall()) == [row for row in rows for _ in range(2)]


async def write_down(connection: AsyncConnection, *, last_seq: int) -> None:
    """Say that a segment of heartbeats is in an archive."""
    known = {"first_seq": 1, "last_seq": last_seq, "last_us": last_seq, "root": bytes(32), "tree": b"", "dropped_us": 1}
    await connection.execute(
        log_segment.insert().values(log="heartbeat_event", archive="x", archive_sha256=bytes(32), **known)
    )


async def expire(database: Database) -> None:
    """Let four seconds pass for every lease."""
    async with database.write() as connection:
        await connection.exec_driver_sql("UPDATE lease SET until_us = 1")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():
            await asyncio.sleep(0.005)
