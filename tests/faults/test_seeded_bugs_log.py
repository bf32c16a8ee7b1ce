"""Bugs of a log and its upkeep that other systems have had: each turns the check red that is named."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy import select

from control_plane.events.appender import Appender
from control_plane.events.batch import Entry, plan
from control_plane.events.envelope import EVENT, Outcome, Recorded
from control_plane.events.head import lock_head, move_head
from control_plane.events.hosts import HeartbeatReceived
from control_plane.events.log import EventLog
from control_plane.events.retention import Kept
from control_plane.projections.upkeep import maintain
from control_plane.storage import tables
from control_plane.storage.dialect import KeyBytes
from control_plane.storage.engine import Database, open_database
from tests.support.database import an_event, sqlite_url
from tests.support.faults.checks import Event, Evidence, red
from tests.support.faults.seen import a_seen_plane
from tests.support.plane import Plane, until

Patch = pytest.MonkeyPatch
DAYS_S = 8 * 86_400


# --- the lock of an append is let go before its COMMIT ----------------------------------------------------------------


def the_lock_is_let_go_before_the_commit(patch: Patch, go_on: asyncio.Event) -> None:
    """As AUTO_INCREMENT has it: a number is given out in one moment, and its row is there in another."""
    is_slow = iter([True])

    async def attempt(
        appender: Appender, entries: list[Entry], claimed: dict[KeyBytes, Recorded], *, looks_first: bool
    ) -> list[Outcome]:
        database = appender._database
        async with database.write() as connection:
            head, _ = await lock_head(database.dialect, connection, appender._log)
            known = await appender._known(connection, entries)
            planned = plan(head, entries, known=known, claimed=claimed, now_us=appender._clock.now_us())
            await database.dialect.bulk_insert(connection, tables.KEY_TABLES[appender._log], planned.key_rows)
            await move_head(database.dialect, connection, appender._log, planned.head)
        if next(is_slow, False):
            await go_on.wait()
        async with database.write() as connection:
            await database.dialect.bulk_insert(connection, tables.EVENT_TABLES[appender._log], planned.rows)
        return planned.outcomes

    patch.setattr(Appender, "_attempt", attempt)


async def shown_by(database: Database) -> list[Event]:
    """What somebody sees who reads the log now."""
    columns = tables.event.c
    async with database.read() as connection:
        rows = await connection.execute(select(columns.seq, columns.recorded_us, columns.kind).order_by(columns.seq))
        return [Event(seq, f"{recorded_us:020}", str(kind)) for seq, recorded_us, kind in rows]


@pytest.mark.parametrize("is_there", [False, True], ids=["as it is", "the lock is let go before the COMMIT"])
async def test_a_second_writer_and_somebody_who_reads(tmp_path: Path, is_there: bool, monkeypatch: Patch) -> None:
    has_read = asyncio.Event()
    async with (
        a_seen_plane(tmp_path) as seen,
        open_database(sqlite_url(tmp_path), pool_size=3) as database,
        EventLog.open(database, clock=seen.plane.clock) as other,
    ):
        before = (await seen.plane.log.head(EVENT)).seq
        if is_there:
            the_lock_is_let_go_before_the_commit(monkeypatch, has_read)

        async def has_its_number() -> bool:
            return (await other.head(EVENT)).seq > before

        async with asyncio.TaskGroup() as group:
            group.create_task(seen.plane.log.append([an_event("first")]))
            await until(has_its_number)
            await other.append([an_event("second")])
            evidence = Evidence(events=await shown_by(database))
            has_read.set()

    assert red(evidence) & {"I5"} == ({"I5"} if is_there else set())


# --- heartbeats are dropped that a row follows from -------------------------------------------------------------------


def nothing_is_kept(patch: Patch) -> None:
    patch.setattr(Kept, "events", lambda _kept: [])


@pytest.mark.parametrize("is_there", [False, True], ids=["as it is", "a segment goes that a row follows from"])
async def test_a_host_that_is_silent_for_longer_than_heartbeats_are_kept(
    tmp_path: Path, is_there: bool, monkeypatch: Patch
) -> None:
    monkeypatch.setitem(tables.SEGMENT_ROWS, "heartbeat_event", 10)  # type: ignore[arg-type] # a dict all the same
    if is_there:
        nothing_is_kept(monkeypatch)
    async with a_seen_plane(tmp_path) as seen:
        plane = seen.plane
        await beats(plane, {"db1": 1, "web1": 11})
        plane.clock.advance(DAYS_S)
        await beats(plane, {"web1": 2}, boot_id="b2")
        await plane.shown()

        done = await maintain(plane.database, heartbeat_days=7, archive_dir=tmp_path / "archive", clock=plane.clock)

        assert done is not None
        assert [dropped.last_seq for dropped in done.dropped] == [10]
        async with EventLog.open(plane.database, clock=plane.clock) as plane.log:  # which remembers nothing of before
            assert red(await seen.evidence()) & {"I6"} == ({"I6"} if is_there else set())


async def beats(plane: Plane, of: Mapping[str, int], *, boot_id: str = "b1") -> None:
    """So many heartbeats of each host."""
    for hostname, number in of.items():
        for sequence in range(1, number + 1):
            said = {"hostname": hostname, "status": "online", "timestamp": plane.clock.now_s(), "sequence": sequence}
            usage = {"cpu_usage": 0.1, "memory_usage": 0.2, "agent_version": "1.0", "boot_id": boot_id}
            plane.clock.advance(1)
            await plane.log.append([HeartbeatReceived(message={**said, **usage}).to_new_event()])
