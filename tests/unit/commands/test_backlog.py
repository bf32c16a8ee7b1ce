"""How much may wait: counted ahead, and exactly where this process has accepted it."""

import asyncio

import pytest

from control_plane.commands.backlog import LOOK_S, OLD_S, Backlog
from control_plane.errors import BacklogFullError, StorageUnavailableError
from tests.support.clock import ManualClock

MOST = 10


class Shown:
    """A read table that says what a test wants."""

    def __init__(self) -> None:
        self.position, self.number = 0, 0
        self.looks = 0
        self.fails = False

    async def states(self, task_id: str) -> dict[str, str]:
        raise AssertionError(task_id)

    async def succeeded_late(self, task_id: str) -> list[str]:
        raise AssertionError(task_id)

    async def waiting(self) -> tuple[int, int]:
        self.looks += 1
        fails = self.fails
        await asyncio.sleep(0)
        if fails:
            raise StorageUnavailableError("away")
        return self.position, self.number


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def backlog(shown: Shown, clock: ManualClock) -> Backlog:
    return Backlog(shown, clock, most=MOST)


async def accept(backlog: Backlog, number: int, *, seq: int | None) -> None:
    async with backlog.room(number) as room:
        await asyncio.sleep(0)
        room.seq = seq


async def test_what_is_accepted_at_the_same_time_counts_together(backlog: Backlog) -> None:
    asked = (accept(backlog, 4, seq=seq) for seq in range(1, 4))

    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(answer) for answer in answers] == [type(None), type(None), BacklogFullError]
    [refused] = [answer for answer in answers if isinstance(answer, BacklogFullError)]
    assert (refused.code, refused.waiting, refused.most) == ("backlog_full", 8, MOST)
    await accept(backlog, 2, seq=4)


async def test_what_is_not_recorded_gives_its_room_back(backlog: Backlog) -> None:
    await accept(backlog, MOST, seq=None)
    with pytest.raises(StorageUnavailableError):
        async with backlog.room(MOST):
            raise StorageUnavailableError("nobody knows; a count will show it")

    await accept(backlog, MOST, seq=1)


async def test_what_is_recorded_counts_until_the_read_table_has_it(
    backlog: Backlog, shown: Shown, clock: ManualClock
) -> None:
    await accept(backlog, 4, seq=7)
    await accept(backlog, 3, seq=8)
    shown.position, shown.number = 7, 4
    clock.advance(OLD_S)
    with pytest.raises(BacklogFullError):
        await accept(backlog, 4, seq=9)

    assert backlog.waiting == 7
    shown.position, shown.number = 8, 1  # and most of it is answered
    clock.advance(OLD_S)
    await accept(backlog, 9, seq=9)


async def test_nobody_waits_for_a_count_unless_it_is_old_or_there_seems_to_be_no_room(
    backlog: Backlog, shown: Shown, clock: ManualClock
) -> None:
    for seq in range(1, 6):
        await accept(backlog, 2, seq=seq)
    assert shown.looks == 1
    with pytest.raises(BacklogFullError):
        await accept(backlog, 1, seq=6)
    assert shown.looks == 1

    shown.position = 5
    clock.advance(LOOK_S)
    await asyncio.gather(*(accept(backlog, 1, seq=6 + more) for more in range(MOST)))
    assert shown.looks == 2


async def test_as_a_service_it_counts_when_somebody_has_asked(
    backlog: Backlog, shown: Shown, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.commands.backlog.LOOK_S", 0.001)
    stop = asyncio.Event()

    async def until_it_has_looked(times: int) -> None:
        async with asyncio.timeout(10):
            while shown.looks < times:
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(backlog.run(stop))
        await accept(backlog, 1, seq=1)
        shown.fails = True
        clock.advance(1)
        await accept(backlog, 1, seq=2)
        await until_it_has_looked(2)
        shown.fails, shown.position, shown.number = False, 2, 5
        await accept(backlog, 1, seq=3)
        await until_it_has_looked(3)
        stop.set()

    assert backlog.waiting == 6
