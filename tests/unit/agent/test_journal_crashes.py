"""The journal, the slots, the reserve and the tombstones over a disk that loses what was not synced.

Whatever an agent does, and wherever the power goes: nothing is started twice, what was acknowledged is not forgotten,
and what was said once is never said otherwise.
"""

import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane_agent.disk_thread import DiskThread
from control_plane_agent.errors import JournalError
from control_plane_agent.executions import Executions, _Step
from control_plane_agent.identity import Identities
from control_plane_agent.journal import Journal
from control_plane_agent.outbox import Outbox
from control_plane_agent.policy import AnyPolicy
from control_plane_agent.results import never_run, refused_unjournalled
from control_plane_agent.slots import FINISHED_AT, Finished, Started, encode
from control_plane_agent.supervisor import CANCEL
from control_plane_wire.failpoints import NO_FAILPOINTS
from control_plane_wire.messages import CancelMessage
from tests.support.agent import ROUTE, START_S, FakeExecutor, a_command, an_identity, sealed
from tests.support.clock import ManualClock
from tests.support.crash_disk import CrashDisk, PowerLost, by_chance

TASKS = tuple(f"task-{number}" for number in range(4))
STEPS = ("deliver", "work", "cancel", "prune", "time", "fill", "restart", "lose power")
NEVER_RAN = {"rejected", "expired"}


@dataclass
class Host:
    """The agent's own decisions, one at a time, and a supervisor's steps; with what the world outside has seen."""

    disk: CrashDisk = field(default_factory=CrashDisk)
    clock: ManualClock = field(default_factory=ManualClock)
    ran: Counter[str] = field(default_factory=Counter)
    acked: set[str] = field(default_factory=set)
    said: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    head_s: int = 0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.damaged_before = self.damaged if hasattr(self, "executions") else 0
        disk = DiskThread(is_blocking=False)
        self.journal = Journal(self.disk, self.clock)
        identities = Identities(self.disk, an_identity())
        self.outbox = Outbox(self.journal, disk, identities, NO_FAILPOINTS)
        executor = FakeExecutor(self.journal)
        self.executions = Executions(
            self.journal, disk, executor, self.outbox, identities, AnyPolicy(), self.clock, NO_FAILPOINTS
        )

    def do(self, step: str, task_id: str, random: Random) -> None:
        """One step; with luck, up to the moment in which the power goes."""
        self.disk.steps_left = random.randrange(12) if step == "lose power" else None
        wanted = random.choice(STEPS[:4]) if step == "lose power" else step
        try:
            getattr(self, f"_{wanted}")(task_id)
        except PowerLost:
            pass
        except (JournalError, OSError):
            if not self.disk.is_full:
                raise
        if step == "lose power":
            self.disk = self.disk.after_crash(by_chance(random))
            self.start()

    def _deliver(self, task_id: str) -> None:
        """As the session does with a verified command."""
        command = a_command(task_id, timestamp=START_S + TASKS.index(task_id), expires_at=START_S + 3600)
        body = sealed(command)
        match self.journal.find(task_id):
            case "reserve":
                self._say_refused(task_id, command.timestamp)
            case None:
                try:
                    self.journal.accept(task_id, body, ROUTE)
                except JournalError:
                    if self.journal.reserve(task_id, body):
                        self._say_refused(task_id, command.timestamp)
                    return
                self.acked.add(task_id)
            case _:
                self.acked.add(task_id)
                self._say(task_id)

    def _say_refused(self, task_id: str, timestamp: int) -> None:
        self.said[task_id].add(self.outbox._sealed(refused_unjournalled(task_id, timestamp).to_json()).body)
        self.acked.add(task_id)

    def _cancel(self, task_id: str) -> None:
        if self.journal.find(task_id) is None:
            cancel = CancelMessage(task_id=task_id, timestamp=START_S)
            finished = never_run("cancelled", "cancelled before it arrived", self.clock.now_s())
            self.journal.accept(task_id, sealed(cancel), ROUTE, finished=finished)
            self.acked.add(task_id)
        elif self.journal.find(task_id) == "journal":
            self.journal.request_cancel(task_id)

    def _work(self, task_id: str) -> None:
        """As a worker does, and whoever sends what came of it."""
        if self.journal.find(task_id) != "journal":
            return
        if self.executions._next_step(task_id) is _Step.RUN:
            self._supervise(task_id)
        self.executions._next_step(task_id)
        self._say(task_id)

    def _say(self, task_id: str) -> None:
        """As the outbox does, whose every message is confirmed."""
        if (message := self.outbox._sealed_result(task_id)) is not None:
            self.said[task_id].add(message.body)
            self.journal.retire(task_id, is_damaged=task_id in self.executions._damaged)

    def _supervise(self, task_id: str) -> None:
        """A supervisor's steps 5 to 7, in its order."""
        path = f"journal/{task_id}"
        lock = self.disk.try_lock(f"{path}/state")
        assert lock is not None
        assert self.journal.read(task_id).state.is_new
        assert CANCEL not in self.disk.names(path)
        started = Started("boot", "nonce", 0, self.clock.now_s(), 1, 1, None)
        self.disk.write_at(f"{path}/state", 0, encode(started))
        self.disk.sync(f"{path}/state")
        self.ran[task_id] += 1
        output = task_id.encode() * 200
        is_lost = self.disk.is_full
        if not is_lost:
            self.disk.create(f"{path}/stdout.head", output)
            self.disk.sync(f"{path}/stdout.head")
            self.disk.sync_dir(path)
        digest = hashlib.sha256(output).hexdigest()
        finished = Finished("completed", self.clock.now_s(), 0, None, len(output), 0, digest)
        kept = finished._replace(reason="output lost: disk full", stdout_kept=0) if is_lost else finished
        self.disk.write_at(f"{path}/state", FINISHED_AT, encode(kept))
        self.disk.sync(f"{path}/state")
        lock.release()

    def _prune(self, _task_id: str) -> None:
        self.journal.prune()

    def _time(self, _task_id: str) -> None:
        self.clock.advance(1000)

    def _fill(self, _task_id: str) -> None:
        self.disk.is_full = not self.disk.is_full

    def _restart(self, _task_id: str) -> None:
        self.disk = self.disk.restarted()
        self.start()

    @property
    def damaged(self) -> int:
        return self.damaged_before + self.executions.counters["damaged_entries"]

    def forget_all(self, random: Random) -> None:
        """Long after, with the power gone in the midst of it."""
        last = a_command("last", timestamp=START_S + 30 * 86_400)
        if self.journal.find("last") is None:
            self.journal.accept("last", sealed(last), ROUTE)
        for _ in range(3):
            self.do(random.choice(("prune", "lose power")), "task-0", random)
        self.heal()
        self.journal.prune()

    def heal(self) -> None:
        """All faults are over: a last start, and everything comes to its end."""
        self.disk.is_full, self.disk.steps_left = False, None
        self._restart("")
        for task_id in self.journal.live():
            self._work(task_id)

    def outcomes(self, task_id: str) -> set[str]:
        return {json.loads(body)["outcome"] for body in self.said[task_id]}


@pytest.mark.parametrize("prunes_outputs", [False, True])
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(TASKS)), max_size=40),
    random=st.randoms(use_true_random=False),
)
def test_whatever_is_done_and_wherever_the_power_goes(
    monkeypatch: pytest.MonkeyPatch, prunes_outputs: bool, steps: list[tuple[str, str]], random: Random
) -> None:
    if prunes_outputs:
        monkeypatch.setattr("control_plane_agent.journal.MAX_DONE_OUTPUT_BYTES", 2000)
    host = Host()
    for step, task_id in steps:
        host.do(step, task_id, random)
        assert all(host.ran[each] <= 1 for each in TASKS)
        assert host.journal.head_s >= host.head_s, "what a heartbeat may have said is so after any crash"
        host.head_s = host.journal.head_s
    host.heal()

    for task_id in TASKS:
        if task_id in host.acked:
            assert host.journal.find(task_id) is not None, "what was acknowledged is remembered"
            assert host.said[task_id] or host.journal.find(task_id) == "told", "and brought to an end"
        assert len(host.said[task_id]) <= 1, "what was said is said again as it was"
        outcomes = host.outcomes(task_id)
        assert host.ran[task_id] == 1 or "completed" not in outcomes
        assert host.ran[task_id] == 0 or not outcomes & NEVER_RAN
        assert host.ran[task_id] == 0 or outcomes & {"completed", "interrupted"}
    assert host.damaged == 0, "a crash damages nothing"
    host.forget_all(random)
    assert {*host.disk.names("done"), *host.disk.names("told")} <= {"last"}, "nothing is left that cannot be pruned"


@pytest.mark.parametrize("seed", range(20))
def test_an_entry_that_was_moved_twice_is_found_once_after_a_crash(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane_agent.journal.MAX_DONE_OUTPUT_BYTES", 100)
    host = Host()
    host._deliver("task-0")
    host._work("task-0")
    host.journal.prune()

    disk = host.disk.after_crash(by_chance(Random(seed)))

    assert sum("task-0" in disk.names(place) for place in ("journal", "done", "told")) == 1


@settings(max_examples=100)
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS[:6]), st.sampled_from(TASKS)), min_size=4, max_size=20),
    random=st.randoms(use_true_random=False),
)
def test_a_damaged_byte_anywhere_starts_nothing_again_and_is_never_silent(
    steps: list[tuple[str, str]], random: Random
) -> None:
    host = Host()
    for step, task_id in steps:
        host.do(step, task_id, random)
    files = [path for path in host.disk.files() if host.disk.size(path)]
    before = {task_id: host.outcomes(task_id) for task_id in TASKS}
    path = random.choice(files) if files else None
    if path is not None:
        host.disk.flip(path, random.randrange(host.disk.size(path)), random.randrange(1, 256))
    host.heal()
    for task_id in TASKS:
        host._deliver(task_id)
        host._work(task_id)
        host._deliver(task_id)

    damaged = path.split("/")[1] if path is not None and "/" in path else None
    for task_id in TASKS:
        assert host.ran[task_id] <= 1
        assert len(host.said[task_id]) <= 1, "what was said before is not said otherwise"
        assert before[task_id] <= host.outcomes(task_id)
        if task_id != damaged:
            assert host.outcomes(task_id) <= {"completed", "cancelled", "rejected", "expired"}
            assert host.ran[task_id] == 0 or "completed" in host.outcomes(task_id)


def test_an_output_that_is_not_what_was_written_is_told_and_kept_apart_from_what_may_be_sent_again() -> None:
    host = Host()
    host._deliver("task-1")
    host._supervise("task-1")
    host.disk.flip("journal/task-1/stdout.head", 7, 1)

    host.heal()
    host._deliver("task-1")

    [said] = map(json.loads, host.said["task-1"])
    assert (said["outcome"], said["reason"]) == ("completed", "output lost: damaged on the disk")
    assert host.journal.find("task-1") == "told"


def test_a_damaged_slot_is_told_counted_and_put_aside() -> None:
    host = Host()
    host._deliver("task-1")
    host.disk.steps_left = 4
    with pytest.raises(PowerLost):
        host._supervise("task-1")
    host.disk.flip("journal/task-1/state", 20, 1)

    host.heal()

    [said] = map(json.loads, host.said["task-1"])
    assert (said["outcome"], said["reason"]) == ("interrupted", "journal damaged")
    assert host.journal.find("task-1") == "quarantine"
    assert host.executions.counters["damaged_entries"] == 1


@pytest.mark.parametrize("offset", range(0, 44, 3))
def test_a_refusal_on_a_full_disk_is_remembered_though_its_slot_is_damaged(offset: int) -> None:
    host = Host()
    host.disk.is_full = True
    host._deliver("task-1")
    assert host.outcomes("task-1") == {"rejected"}
    host.disk.flip("reserve", offset, 0xFF)
    host.disk.is_full = False
    host._restart("")

    for _ in range(2):
        host._deliver("task-1")
        host._work("task-1")

    assert host.ran["task-1"] == 0
    assert len(host.said["task-1"]) == 1
    assert host.journal.damaged_refusals == 1
    assert host.journal.find("task-2") is None, "another task is not taken for it"


def test_a_reserve_that_was_not_whole_when_the_power_went_is_made_whole() -> None:
    disk = CrashDisk()
    disk.create("reserve", bytes(1000))
    host = Host(disk)
    assert disk.size("reserve") == 65_536

    host.disk.is_full = True
    host._deliver("task-1")

    assert host.outcomes("task-1") == {"rejected"}


def test_a_full_reserve_takes_no_more_and_the_command_stays_unacknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane_agent.reserve.SLOTS", 2)
    host = Host()
    host.disk.is_full = True
    for task_id in TASKS:
        host._deliver(task_id)

    assert host.acked == {"task-0", "task-1"}
    host.disk.is_full = False
    host._deliver("task-2")
    host._work("task-2")
    assert host.outcomes("task-2") == {"completed"}


def test_a_start_on_a_full_disk_works_with_what_is_there() -> None:
    host = Host()
    host._deliver("task-1")
    host._deliver("task-2")
    host.disk.remove("journal/task-1/state")
    host.disk.is_full = True

    host._restart("")

    assert host.journal.live() == ["task-1", "task-2"]
    with pytest.raises(OSError, match="No space"):
        host._work("task-1")
    host._work("task-2")
    assert host.outcomes("task-2") == {"completed"}
    host.heal()
    assert host.outcomes("task-1") == {"interrupted"}
