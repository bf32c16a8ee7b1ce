"""What the journal remembers, on a real disk and in memory."""

import errno
from pathlib import Path

import pytest

from control_plane_agent.disk import Disk, RealDisk
from control_plane_agent.errors import JournalError
from control_plane_agent.journal import LEAST_TOMBSTONE_S, TOMBSTONE_S, Journal
from control_plane_agent.memory_disk import MemoryDisk
from control_plane_agent.slots import Finished
from control_plane_wire.messages import ALLOWED_SKEW_S, CancelMessage
from tests.support.agent import ROUTE, START_S, a_command, accept, sealed
from tests.support.clock import ManualClock


@pytest.fixture(params=["memory", "real"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return MemoryDisk() if request.param == "memory" else RealDisk(str(tmp_path))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def journal(disk: Disk, clock: ManualClock) -> Journal:
    return Journal(disk, clock)


def test_what_is_accepted_is_there_after_a_restart(disk: Disk, journal: Journal, clock: ManualClock) -> None:
    accept(journal, "b", timestamp=START_S + 1)
    accept(journal, "a")

    again = Journal(disk, clock)

    assert again.live() == ["a", "b"]
    entry = again.read("a")
    assert (entry.body, entry.route, entry.is_cancelled) == (sealed(a_command("a")), ROUTE, False)
    assert entry.state.is_new
    assert again.find("c") is None


def test_the_same_task_is_accepted_once(journal: Journal) -> None:
    accept(journal)

    with pytest.raises(JournalError) as failure:
        accept(journal)

    assert not failure.value.is_full


def test_half_an_entry_is_gone_after_a_restart(disk: Disk, journal: Journal, clock: ManualClock) -> None:
    disk.make_dir("journal/.new-1")
    disk.create("journal/.new-1/command.json", b"{")

    assert Journal(disk, clock).live() == []
    assert disk.names("journal") == []


def test_a_state_that_is_lost_is_damaged_and_never_new(disk: Disk, journal: Journal, clock: ManualClock) -> None:
    accept(journal)
    disk.remove("journal/task-1/state")

    state = Journal(disk, clock).read("task-1").state

    assert state.is_damaged
    assert not state.is_new


def test_a_confirmed_entry_is_a_tombstone_until_no_copy_of_it_could_run(
    disk: Disk, journal: Journal, clock: ManualClock
) -> None:
    accept(journal, "old", expires_at=START_S + 60)
    journal.retire("old")

    accept(journal, "next", timestamp=START_S + 60 + TOMBSTONE_S)
    journal.prune()
    assert journal.find("old") == "done"
    accept(journal, "last", timestamp=START_S + 60 + TOMBSTONE_S + 1, expires_at=START_S)
    journal.retire("last")
    journal.prune()

    assert journal.find("old") is None
    assert journal.find("last") == "done", "the entry with the highest timestamp stays"
    found = Journal(disk, clock)
    assert (found.find("last"), found.head_s) == ("done", journal.head_s)


def test_a_clock_that_was_ahead_for_a_while_forgets_nothing(journal: Journal, clock: ManualClock) -> None:
    for number in range(2):
        accept(journal, f"task-{number}", timestamp=START_S + number)
        journal.retire(f"task-{number}")
    assert journal.reserve("task-2", sealed(a_command("task-2")))
    clock.advance(30 * 86_400)
    journal.prune()
    assert journal.reserve("task-3", sealed(a_command("task-3")))
    clock.set_back(30 * 86_400)

    assert [journal.find(f"task-{number}") for number in range(4)] == ["done", "done", "reserve", "reserve"]


def test_the_least_time_for_a_tombstone_is_until_every_clock_has_a_copy_of_it_expired(
    disk: Disk, clock: ManualClock
) -> None:
    def starts_within_s() -> int:
        return START_S + 60 + ALLOWED_SKEW_S - journal.now_s()

    journal = Journal(disk, clock, tombstone_s=LEAST_TOMBSTONE_S)
    clock.set_back(30 * 86_400)
    accept(journal, "old", expires_at=START_S + 60)
    journal.retire("old")

    accept(journal, "next", timestamp=START_S + 60 + LEAST_TOMBSTONE_S)
    journal.prune()
    assert (journal.find("old"), starts_within_s()) == ("done", 0)
    accept(journal, "last", timestamp=START_S + 60 + LEAST_TOMBSTONE_S + 1)
    journal.prune()
    assert (journal.find("old"), starts_within_s()) == (None, -1)


def test_a_reserved_refusal_makes_room_once_no_copy_of_it_could_run(journal: Journal) -> None:
    assert journal.reserve("old", sealed(a_command("old", expires_at=START_S + 60)))
    accept(journal, timestamp=START_S + 60 + TOMBSTONE_S + 1)

    assert journal.reserve("new", sealed(a_command("new")))

    assert journal.find("old") is None
    assert journal.find("new") == "reserve"


def test_a_clock_that_is_set_back_reopens_nothing(journal: Journal, clock: ManualClock) -> None:
    accept(journal, "later", timestamp=START_S + 1000)
    clock.set_back(5000)

    assert journal.now_s() == START_S + 1000 - 120


def test_a_supervisor_s_lock_is_seen(journal: Journal) -> None:
    accept(journal)
    lock = journal.try_lock("task-1")
    assert lock is not None

    assert journal.try_lock("task-1") is None
    lock.release()
    assert journal.try_lock("task-1") is not None


def test_a_full_disk_is_told_and_the_reserve_still_remembers(
    disk: Disk, journal: Journal, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "create", full)
    with pytest.raises(JournalError) as failure:
        accept(journal)
    assert failure.value.is_full
    assert journal.live() == []

    assert journal.reserve("task-1", sealed(a_command()))
    monkeypatch.undo()
    assert Journal(disk, clock).find("task-1") == "reserve"


def test_what_failed_after_it_had_its_name_is_not_found_at_the_next_start(
    disk: Disk, journal: Journal, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: str) -> None:
        if path == "journal":
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk, "sync_dir", fails)
    with pytest.raises(JournalError):
        accept(journal)
    monkeypatch.undo()

    assert Journal(disk, clock).live() == []
    accept(journal)


def test_what_failed_and_could_not_be_removed_is_removed_before_it_is_tried_again(
    disk: Disk, journal: Journal, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = disk.remove

    def fails(path: str) -> None:
        if path == "journal":
            raise OSError(errno.EIO, "Input/output error")

    def stops_half_way(path: str) -> None:
        remove(f"{path}/route")
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(disk, "sync_dir", fails)
        broken.setattr(disk, "remove", stops_half_way)
        for _ in range(2):
            with pytest.raises(JournalError):
                accept(journal)
    assert journal.find("task-1") is None

    accept(journal)

    for found in (journal, Journal(disk, clock)):
        assert found.live() == ["task-1"]
        assert found.read("task-1").route == ROUTE
        assert found.read("task-1").state.is_new


def test_a_cancel_that_came_first_is_remembered_as_long_as_its_command_may_come(
    disk: Disk, journal: Journal, clock: ManualClock
) -> None:
    cancel = CancelMessage(task_id="task-1", timestamp=START_S)
    journal.accept("task-1", sealed(cancel), ROUTE, finished=Finished("cancelled", START_S))
    journal.retire("task-1")
    accept(journal, "later", timestamp=START_S + 7 * 86_400)
    journal.prune()

    assert journal.find("task-1") == "done"


def test_a_tombstone_that_cannot_be_read_is_kept(disk: Disk, journal: Journal, clock: ManualClock) -> None:
    journal.accept("damaged", b"rubbish", ROUTE)
    journal.retire("damaged")
    accept(journal, "later", timestamp=START_S + 30 * 86_400)
    journal.prune()

    assert journal.find("damaged") == "done"


def test_the_oldest_outputs_go_first_and_their_tombstones_stay(
    disk: Disk, journal: Journal, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane_agent.journal.MAX_DONE_OUTPUT_BYTES", 3)
    for number in range(3):
        accept(journal, f"task-{number}", timestamp=START_S + number)
        disk.create(f"journal/task-{number}/stdout.head", b"xx")
        journal.retire(f"task-{number}")
    journal.prune()

    for found in (journal, Journal(disk, clock)):
        assert [found.find(f"task-{number}") for number in range(3)] == ["told", "told", "done"]
        assert found.output("task-1", "stdout").head == b""
        assert found.output("task-2", "stdout").head == b"xx"

    accept(journal, "last", timestamp=START_S + 7 * TOMBSTONE_S)
    journal.prune()
    assert [journal.find(f"task-{number}") for number in range(3)] == [None, None, None]


def test_outputs_that_could_not_be_removed_are_removed_later(
    disk: Disk, journal: Journal, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = disk.remove

    def fails(path: str) -> None:
        if path.endswith(".head"):
            raise OSError(errno.EIO, "Input/output error")
        remove(path)

    monkeypatch.setattr("control_plane_agent.journal.MAX_DONE_OUTPUT_BYTES", 1)
    accept(journal)
    disk.create("journal/task-1/stdout.head", b"xx")
    journal.retire("task-1")
    with monkeypatch.context() as broken:
        broken.setattr(disk, "remove", fails)
        with pytest.raises(JournalError):
            journal.prune()

    for found in (Journal(disk, clock), journal):
        assert found.find("task-1") == "told"
        found.prune()
        assert "stdout.head" not in disk.names("told/task-1")


def test_a_refusal_is_finished_from_the_start(journal: Journal) -> None:
    accept(journal, finished=Finished("rejected", START_S, reason="no"))

    state = journal.read("task-1").state

    assert state.finished is not None
    assert state.finished.outcome == "rejected"
    assert not state.is_new


def test_a_cancel_is_durable_and_asking_again_changes_nothing(disk: Disk, journal: Journal, clock: ManualClock) -> None:
    accept(journal)
    journal.request_cancel("task-1")
    journal.request_cancel("task-1")

    assert Journal(disk, clock).read("task-1").is_cancelled


@pytest.mark.parametrize("is_of_before", [False, True], ids=["as it is retired", "by an older release"])
def test_deleting_damaged_entries_leaves_the_journal_as_far_as_it_was(
    disk: Disk, journal: Journal, clock: ManualClock, is_of_before: bool
) -> None:
    accept(journal, "a")
    accept(journal, "b", timestamp=START_S + 5)
    disk.write_at("journal/b/state", 0, b"damaged")
    journal = Journal(disk, clock)
    journal.retire("b", is_damaged=True)
    if is_of_before:
        disk.remove("head")
        journal = Journal(disk, clock)

    disk.remove("quarantine/b")

    assert journal.head_s == Journal(disk, clock).head_s == START_S + 5


@pytest.mark.parametrize("left", [b"", b"12345678", b"123456789012"], ids=["empty", "half", "damaged"])
def test_a_kept_head_that_does_not_verify_says_nothing_and_is_kept_anew(
    disk: Disk, journal: Journal, clock: ManualClock, left: bytes
) -> None:
    accept(journal, "a")
    disk.remove("head")
    disk.create("head", left)
    journal = Journal(disk, clock)
    assert journal.head_s == START_S

    journal.retire("a", is_damaged=True)
    disk.remove("quarantine/a")

    assert Journal(disk, clock).head_s == START_S
