"""The journal on a disk that has lost any part of what was not made durable."""

import pytest

from control_plane_agent.journal import Journal
from control_plane_agent.slots import FINISHED_AT, Finished, encode
from tests.support.agent import ROUTE, a_command, accept, sealed, started
from tests.support.clock import ManualClock
from tests.support.crash_disk import Choose, CrashDisk, by_seed, everything, nothing
from tests.support.failing import Died, DiesAt

CRASHES = {"nothing": nothing, "everything": everything, **{f"seed {seed}": by_seed(seed) for seed in range(40)}}
crashes = pytest.mark.parametrize("choose", CRASHES.values(), ids=CRASHES.keys())


@crashes
def test_what_is_accepted_is_there_whole_whatever_the_crash_takes(choose: Choose) -> None:
    disk, clock = CrashDisk(), ManualClock()
    accept(Journal(disk, clock))

    found = Journal(disk.crash(choose), clock)

    assert found.live() == ["task-1"]
    assert (found.read("task-1").body, found.read("task-1").route) == (sealed(a_command()), ROUTE)
    assert found.read("task-1").state.is_new


@crashes
@pytest.mark.parametrize("point", ["journal.begun", "journal.written", "journal.named"])
def test_half_an_accept_leaves_all_of_it_or_nothing(choose: Choose, point: str) -> None:
    disk, clock = CrashDisk(), ManualClock()
    journal = Journal(disk, clock, failpoints=DiesAt(point))
    with pytest.raises(Died):
        accept(journal)

    found = Journal(disk.crash(choose), clock)

    assert disk.crash(choose).names("journal") is not None
    if found.live():
        assert found.read("task-1").state.is_new
        assert found.read("task-1").body == sealed(a_command())
    else:
        accept(found)


@crashes
def test_a_slot_that_is_torn_counts_as_started_and_one_that_was_synced_is_read(choose: Choose) -> None:
    disk, clock = CrashDisk(), ManualClock()
    journal = Journal(disk, clock)
    accept(journal)
    disk.write_at("journal/task-1/state", 0, encode(started()))
    disk.sync("journal/task-1/state")
    disk.write_at("journal/task-1/state", FINISHED_AT, encode(Finished("completed", 1, exit_code=0, reason="x" * 300)))

    state = Journal(disk.crash(choose), clock).read("task-1").state

    assert state.started is not None
    assert not state.is_new


@crashes
def test_what_is_retired_is_known_wherever_the_crash_leaves_it(choose: Choose) -> None:
    disk, clock = CrashDisk(), ManualClock()
    journal = Journal(disk, clock)
    accept(journal, finished=Finished("rejected", 1))
    journal.retire("task-1")

    found = Journal(disk.crash(choose), clock)

    assert found.find("task-1") in {"journal", "done"}
    assert found.read("task-1").state.finished is not None
