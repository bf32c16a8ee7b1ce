"""What decisions use of a log (`commands.ports.Log`), for the event log and for the one in memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.commands.ports import Log
from control_plane.events.envelope import EVENT, Conflict, Duplicate, Key, Recorded
from control_plane.events.log import EventLog
from tests.support.clock import START_US, ManualClock
from tests.support.database import an_event, migrated, sqlite_url
from tests.support.memory_log import MemoryLog


class DecisionsLogContract:
    async def test_an_event_is_recorded_once_and_another_of_its_key_is_refused(self, log: Log) -> None:
        assert await log.append([an_event("t1"), an_event("t2")]) == [Recorded(1, START_US), Recorded(2, START_US + 1)]

        assert await log.append([an_event("t2"), an_event("t2", body=b'{"other":1}')]) == [Duplicate(2), Conflict(2)]
        assert (await log.head(EVENT)).seq == 2

    async def test_events_are_read_by_kind_page_by_page_up_to_a_position(self, log: Log) -> None:
        await log.append([an_event(f"t{n}", kind="odd" if n % 2 else "even") for n in range(1, 10)])

        first = await log.read(EVENT, after=0, limit=2, kinds=["odd"], upto=8)
        then = await log.read(EVENT, after=first[-1].seq, limit=9, kinds=["odd"], upto=8)

        assert [event.seq for event in first] == [1, 3]
        assert [event.seq for event in then] == [5, 7]

    async def test_an_event_is_found_by_its_key_and_read_by_its_seq(self, log: Log) -> None:
        await log.append([an_event("t1"), an_event("t2", hostname="web1")])
        key = Key("t2", "task.accepted", "web1")

        assert await log.find(EVENT, [key, Key("t3", "task.accepted")]) == {key: 2}
        found = await log.read_one(EVENT, 2)
        assert found is not None
        assert (found.task_id, found.hostname) == ("t2", "web1")
        assert await log.read_one(EVENT, 3) is None

    async def test_of_those_that_are_wanted_the_ones_that_are_there_are_read_in_order(self, log: Log) -> None:
        await log.append([an_event(f"t{n}") for n in range(1, 5)])
        assert [event.seq async for event in log.read_these(EVENT, [4, 9, 2, 4])] == [2, 4]


class TestMemoryLog(DecisionsLogContract):
    @pytest.fixture
    def log(self) -> Log:
        return MemoryLog()


class TestEventLog(DecisionsLogContract):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[Log]:
        async with (
            migrated(sqlite_url(tmp_path)) as database,
            EventLog.open(database, clock=ManualClock()) as log,
        ):
            yield log
