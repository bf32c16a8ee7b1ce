"""Every entry is brought to its end, and no step that may be done once is done twice."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from control_plane_agent.disk_thread import DiskThread
from control_plane_agent.errors import JournalError
from control_plane_agent.executions import WORKERS, Executions
from control_plane_agent.identity import Identities
from control_plane_agent.journal import Journal
from control_plane_agent.memory_disk import MemoryDisk
from control_plane_agent.outbox import Outbox
from control_plane_agent.policy import AnyPolicy, Policy
from control_plane_agent.slots import FINISHED_AT, Finished, encode
from control_plane_wire.failpoints import NO_FAILPOINTS
from control_plane_wire.messages import ALLOWED_SKEW_S, CancelMessage, CommandMessage
from control_plane_wire.signing import SigningKey
from tests.support.agent import ROUTE, START_S, FakeExecutor, a_command, accept, an_identity, sealed, started
from tests.support.clock import ManualClock


@dataclass
class Host:
    disk: MemoryDisk = field(default_factory=MemoryDisk)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.journal = Journal(self.disk, self.clock)
        self.executor = FakeExecutor(self.journal)

    def executions(self, policy: Policy | None = None, *, is_blocking: bool = False) -> Executions:
        disk, identities = DiskThread(is_blocking=is_blocking), Identities(self.disk, an_identity())
        self.outbox = Outbox(self.journal, disk, identities, NO_FAILPOINTS)
        return Executions(
            self.journal, disk, self.executor, self.outbox, identities, policy or AnyPolicy(), self.clock, NO_FAILPOINTS
        )

    def outcome(self, task_id: str = "task-1") -> tuple[str, str | None]:
        finished = self.journal.read(task_id).state.finished
        assert finished is not None
        return finished.outcome, finished.reason

    async def settled(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    async def recover(self) -> None:
        """Start as an agent does, and wait until everything that was found has a result to send."""
        wanted = set(self.journal.live())
        async with self.executions().going_on():
            await self.settled(lambda: wanted <= self.outbox._results.keys())


@pytest.fixture
def host() -> Host:
    return Host()


async def test_what_was_accepted_and_not_started_runs_once(host: Host) -> None:
    accept(host.journal)
    await host.recover()

    assert host.executor.ran == ["task-1"]
    assert host.outcome() == ("completed", None)


async def test_what_has_expired_meanwhile_is_not_started(host: Host) -> None:
    accept(host.journal, expires_at=START_S + 60)
    host.clock.advance(181)
    await host.recover()

    assert host.executor.ran == []
    assert host.outcome()[0] == "expired"


async def test_what_was_started_and_has_no_supervisor_is_interrupted_and_never_run(host: Host) -> None:
    accept(host.journal)
    host.disk.write_at("journal/task-1/state", 0, encode(started()))
    await host.recover()

    assert host.executor.ran == []
    assert [slot.nonce for slot in host.executor.killed] == ["nonce"]
    assert host.outcome()[0] == "interrupted"


async def test_what_is_finished_is_sent_as_it_is(host: Host) -> None:
    accept(host.journal)
    host.disk.write_at("journal/task-1/state", FINISHED_AT, encode(Finished("timed_out", START_S, exit_code=143)))
    await host.recover()

    assert host.executor.ran == []
    assert host.outcome()[0] == "timed_out"


@pytest.mark.parametrize("place", [0, FINISHED_AT])
async def test_a_damaged_slot_counts_as_started(host: Host, place: int) -> None:
    accept(host.journal)
    host.disk.write_at("journal/task-1/state", place, b"CPSLOT1\nrubbish")
    await host.recover()

    assert host.executor.ran == []
    assert host.outcome() == ("interrupted", "journal damaged")


async def test_a_command_that_does_not_verify_any_more_is_not_run(host: Host) -> None:
    host.journal.accept("task-1", sealed(a_command(), key=SigningKey.generate()), ROUTE)
    await host.recover()

    assert host.executor.ran == []
    assert host.outcome() == ("interrupted", "journal damaged")
    assert host.outbox._results == {"task-1": True}, "it is put aside once it is reported"


async def test_what_is_finished_and_does_not_verify_any_more_is_reported_and_kept_apart(host: Host) -> None:
    finished = Finished("completed", START_S, exit_code=3)
    host.journal.accept("task-1", sealed(a_command(), key=SigningKey.generate()), ROUTE, finished=finished)
    await host.recover()

    assert host.outcome() == ("completed", None)
    assert host.outbox._results == {"task-1": True}


async def test_what_had_begun_and_is_damaged_is_ended_first_and_then_called_damaged(host: Host) -> None:
    accept(host.journal)
    host.disk.write_at("journal/task-1/state", 0, encode(started()))
    host.disk.write_at("journal/task-1/state", FINISHED_AT, b"CPSLOT1\nrubbish")
    await host.recover()

    assert [slot.nonce for slot in host.executor.killed] == ["nonce"]
    assert host.outcome() == ("interrupted", "journal damaged")


async def test_an_entry_whose_supervisor_lives_is_waited_for(host: Host) -> None:
    accept(host.journal)
    host.disk.write_at("journal/task-1/state", 0, encode(started()))
    supervisor = host.journal.try_lock("task-1")
    assert supervisor is not None
    async with host.executions().going_on():
        for _ in range(20):
            await asyncio.sleep(0)
        assert host.outbox._results == {}
        host.disk.write_at("journal/task-1/state", FINISHED_AT, encode(Finished("completed", START_S, exit_code=0)))
        supervisor.release()
        await host.settled(lambda: host.outbox._results)

    assert host.executor.ran == host.executor.killed == []
    assert host.outcome() == ("completed", None)


async def test_a_refusal_is_journalled_and_answered(host: Host) -> None:
    executions = host.executions()
    async with executions.going_on():
        await executions.accept(a_command(), sealed(a_command()), "cmd.group.db")
        await host.settled(lambda: host.outbox._results)

    assert host.executor.ran == []
    assert host.outcome() == ("rejected", "cmd.group.db is no key of this host")


async def test_looking_for_an_account_does_not_hold_up_the_loop(host: Host) -> None:
    class FarAway:
        def __init__(self) -> None:
            self.is_asked, self.answers = threading.Event(), threading.Event()

        def refusal(self, command: CommandMessage) -> str | None:
            self.is_asked.set()
            return None if self.answers.wait(timeout=10) else "the loop stood still"

    policy = FarAway()
    executions = host.executions(policy, is_blocking=True)
    async with executions.going_on():
        taking = asyncio.ensure_future(executions.accept(a_command(), sealed(a_command()), ROUTE))
        await host.settled(policy.is_asked.is_set)
        policy.answers.set()
        await taking
        await host.settled(lambda: host.outbox._results)

    assert host.outcome() == ("completed", None)


async def test_a_cancel_that_comes_first_keeps_the_command_from_running(host: Host) -> None:
    executions = host.executions()
    cancel = CancelMessage(task_id="task-1", timestamp=START_S)
    async with executions.going_on():
        await executions.cancel(cancel, sealed(cancel), ROUTE)

    assert host.journal.find("task-1") == "journal"
    assert host.outcome()[0] == "cancelled"


async def test_a_cancel_before_the_start_means_that_it_never_starts(host: Host) -> None:
    accept(host.journal)
    host.journal.request_cancel("task-1")
    await host.recover()

    assert host.executor.ran == []
    assert host.outcome() == ("cancelled", "cancelled before it was started")


async def test_a_cancel_while_it_runs_wakes_its_supervisor(host: Host) -> None:
    ends = asyncio.Event()
    host.executor = FakeExecutor(host.journal, outcome="cancelled", after=ends)
    executions = host.executions()
    cancel = CancelMessage(task_id="task-1", timestamp=START_S)
    async with executions.going_on():
        await executions.accept(a_command(), sealed(a_command()), ROUTE)
        await host.settled(lambda: host.executor.ran)
        await executions.cancel(cancel, sealed(cancel), ROUTE)
        assert host.executor.woken == ["task-1"]
        assert host.journal.read("task-1").is_cancelled
        ends.set()
        await host.settled(lambda: host.outbox._results)

    assert host.outcome()[0] == "cancelled"


async def test_a_copy_is_answered_and_not_run_again(host: Host) -> None:
    executions = host.executions()
    async with executions.going_on():
        await executions.accept(a_command(), sealed(a_command()), ROUTE)
        await host.settled(lambda: host.outbox._results)
        host.outbox._results.clear()
        await executions.say_again("task-1")

    assert host.executor.ran == ["task-1"]
    assert host.outbox._results == {"task-1": False}


async def test_a_copy_of_what_is_over_is_never_answered_as_if_it_were_to_run(host: Host) -> None:
    accept(host.journal, finished=Finished("completed", START_S, exit_code=0))
    host.journal.retire("task-1")
    host.disk.write_at("done/task-1/state", FINISHED_AT, b"CPSLOT1\nrubbish")
    executions = host.executions()
    async with executions.going_on():
        await executions.say_again("task-1")

    assert not host.outbox._notices


async def test_five_run_at_a_time_and_the_others_wait(host: Host) -> None:
    ends = asyncio.Event()
    host.executor = FakeExecutor(host.journal, after=ends)
    executions = host.executions()
    async with executions.going_on():
        for number in range(8):
            command = a_command(f"task-{number}")
            await executions.accept(command, sealed(command), ROUTE)
        await host.settled(lambda: executions.running == 5)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(host.executor.ran) == 5
        ends.set()
        await host.settled(lambda: len(host.outbox._results) == 8)

    assert sorted(host.executor.ran) == [f"task-{number}" for number in range(8)]


async def all_workers_taken(host: Host, executions: Executions) -> None:
    for number in range(WORKERS):
        command = a_command(f"busy-{number}")
        await executions.accept(command, sealed(command), ROUTE)
    await host.settled(lambda: executions.running == WORKERS)


async def test_a_refusal_is_answered_though_no_worker_is_free(host: Host) -> None:
    host.executor = FakeExecutor(host.journal, after=asyncio.Event())
    executions = host.executions()
    async with executions.going_on():
        await all_workers_taken(host, executions)
        await executions.accept(a_command(), sealed(a_command()), "cmd.group.db")
        await host.settled(lambda: host.outbox._results)

    assert host.outcome()[0] == "rejected"


async def test_a_cancel_ends_what_waits_though_no_worker_is_free(host: Host) -> None:
    ends = asyncio.Event()
    host.executor = FakeExecutor(host.journal, after=ends)
    executions = host.executions()
    cancel = CancelMessage(task_id="task-1", timestamp=START_S)
    async with executions.going_on():
        await all_workers_taken(host, executions)
        for task_id in ("task-1", "task-2"):
            await executions.accept(a_command(task_id), sealed(a_command(task_id)), ROUTE)
        await executions.cancel(cancel, sealed(cancel), ROUTE)
        await executions.cancel(cancel, sealed(cancel), ROUTE)
        await host.settled(lambda: host.outbox._results)
        assert host.outbox._results == {"task-1": False}
        ends.set()
        await host.settled(lambda: len(host.outbox._results) == WORKERS + 2)

    assert host.outcome() == ("cancelled", "cancelled before it was started")
    assert "task-1" not in host.executor.ran
    assert host.executor.ran[-1] == "task-2", "the others keep their turn"


async def test_what_expires_while_it_waits_is_ended_though_no_worker_is_free(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane_agent.executions.EXPIRY_LOOK_S", 0.001)
    host.executor = FakeExecutor(host.journal, after=asyncio.Event())
    executions = host.executions()
    async with executions.going_on():
        await all_workers_taken(host, executions)
        command = a_command(expires_at=START_S + 60)
        await executions.accept(command, sealed(command), ROUTE)
        host.clock.advance(60 + ALLOWED_SKEW_S + 1)
        await host.settled(lambda: host.outbox._results)

    assert host.outcome() == ("expired", "expired before it could be started")


async def test_what_was_found_at_start_and_expires_while_it_waits_is_ended_too(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane_agent.executions.EXPIRY_LOOK_S", 0.001)
    host.executor = FakeExecutor(host.journal, after=asyncio.Event())
    for number in range(WORKERS):
        accept(host.journal, f"busy-{number}")
    accept(host.journal, timestamp=START_S + 1, expires_at=START_S + 60)
    executions = host.executions()
    async with executions.going_on():
        await host.settled(lambda: executions.running == WORKERS)
        host.clock.advance(60 + ALLOWED_SKEW_S + 1)
        await host.settled(lambda: host.outbox._results)

    assert host.outcome() == ("expired", "expired before it could be started")


async def test_what_was_finished_by_an_earlier_agent_is_sent_though_no_worker_is_free(host: Host) -> None:
    host.executor = FakeExecutor(host.journal, after=asyncio.Event())
    for number in range(WORKERS):
        accept(host.journal, f"busy-{number}")
    accept(host.journal, "finished", timestamp=START_S + 1, finished=Finished("completed", START_S, exit_code=0))
    async with host.executions().going_on():
        await host.settled(lambda: host.outbox._results)

    assert host.outbox._results == {"finished": False}


@dataclass
class SlowJournal:
    """Holds up who journals a command, once that is done, until `goes_on`."""

    entered: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    def under(self, executions: Executions, monkeypatch: pytest.MonkeyPatch) -> None:
        do = executions._disk.do

        async def slow(work: Callable[..., object], *args: object, **kwargs: object) -> object:
            found = await do(work, *args, **kwargs)
            if work == executions._journal.accept:
                self.entered.set()
                await self.goes_on.wait()
            return found

        monkeypatch.setattr(executions._disk, "do", slow)


async def test_what_is_journalled_runs_though_the_session_that_brought_it_is_lost_meanwhile(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    executions, journal = host.executions(), SlowJournal()
    async with executions.going_on():
        journal.under(executions, monkeypatch)
        taking = asyncio.ensure_future(executions.accept(a_command(), sealed(a_command()), ROUTE))
        await journal.entered.wait()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        journal.goes_on.set()
        await host.settled(lambda: host.outbox._results)

    assert host.executor.ran == ["task-1"]


async def test_what_is_being_journalled_at_a_stop_is_left_to_the_next_start(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.executor = FakeExecutor(host.journal, after=asyncio.Event())
    executions, journal = host.executions(), SlowJournal()
    async with asyncio.timeout(10), executions.going_on():
        journal.under(executions, monkeypatch)
        taking = asyncio.ensure_future(executions.accept(a_command(), sealed(a_command()), ROUTE))
        await journal.entered.wait()
        asyncio.get_running_loop().call_later(0.01, journal.goes_on.set)
    await taking

    assert host.executor.ran == []
    assert host.journal.live() == ["task-1"]


async def test_what_cannot_be_journalled_is_told_and_ends_nothing_else(host: Host) -> None:
    executions = host.executions()
    async with executions.going_on():
        await executions.accept(a_command(), sealed(a_command()), ROUTE)
        with pytest.raises(JournalError):
            await executions.accept(a_command(), sealed(a_command()), ROUTE)
        await host.settled(lambda: host.outbox._results)

    assert host.outcome() == ("completed", None)


async def test_what_was_refused_on_a_full_disk_never_runs_though_its_entry_is_found(host: Host) -> None:
    accept(host.journal)
    assert host.journal.reserve("task-1", sealed(a_command()))
    await host.recover()

    assert host.executor.ran == []
    assert host.outcome() == ("rejected", "disk full")


async def test_a_disk_that_fails_for_a_while_delays_an_end_and_stops_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane_agent.executions.FIRST_RETRY_S", 0.001)
    failures = [JournalError("full", is_full=True), OSError("broken")]
    finish = host.journal.finish

    def fails(task_id: str, finished: Finished) -> None:
        if failures:
            raise failures.pop()
        finish(task_id, finished)

    accept(host.journal)
    host.disk.write_at("journal/task-1/state", 0, encode(started()))
    monkeypatch.setattr(host.journal, "finish", fails)
    await host.recover()

    assert host.outcome()[0] == "interrupted"


async def test_a_copy_does_not_make_a_damaged_entry_look_whole(host: Host) -> None:
    host.journal.accept("task-1", sealed(a_command(), key=SigningKey.generate()), ROUTE)
    executions = host.executions()
    async with executions.going_on():
        await host.settled(lambda: host.outbox._results)
        await executions.say_again("task-1")

    assert host.outbox._results == {"task-1": True}
