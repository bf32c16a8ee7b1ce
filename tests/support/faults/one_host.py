"""One host's agent on a disk that may crash, with all that can be seen of it from outside."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from control_plane_agent import supervisor
from control_plane_agent.disk import Disk
from control_plane_agent.disk_thread import DiskThread
from control_plane_agent.facts import SimulatedFacts
from control_plane_agent.identity import Identities
from control_plane_agent.journal import LIVE, Journal
from control_plane_agent.policy import AnyPolicy, Policy
from control_plane_agent.session import Agent
from control_plane_agent.slots import FINISHED_AT, Finished, Started
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.strict_json import canonical
from control_plane_wire.transport.base import Confirmed
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.agent import HOSTNAME, ControlPlaneEnd, a_command, an_identity, control_plane_end, sealed, started
from tests.support.clock import ManualClock
from tests.support.crash_disk import Choose, CrashDisk, nothing
from tests.support.failing import Died
from tests.support.faults.checks import Event, Evidence, Execution, Poll
from tests.support.faults.ledger import Book
from tests.support.faults.witness import Expected

BOUND_S = 20


class Below:
    """A disk as a supervisor sees it: from its entry's directory."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._directory = directory

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        self._disk.write_at(f"{self._directory}/{path}", offset, data)

    def sync(self, path: str) -> None:
        self._disk.sync(f"{self._directory}/{path}")


class Runner:
    """Runs a command by writing down that it did, between the slots that a supervisor writes."""

    def __init__(self, host: "OneHost") -> None:
        self._host = host

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    async def run(self, task_id: str, *, start_within_s: float) -> None:
        below = Below(self._host.disk, f"{LIVE}/{task_id}")
        supervisor._write(below, 0, started())  # type: ignore[arg-type]
        self._host.ran.append(task_id)
        if self._host.dies_in_run:
            raise Died(task_id)
        await self._host.goes_on.wait()
        finished = Finished("completed", self._host.clock.now_s(), exit_code=0, stdout_bytes=0, stderr_bytes=0)
        supervisor._write(below, FINISHED_AT, finished)  # type: ignore[arg-type]

    async def wait(self, task_id: str) -> None:
        await asyncio.sleep(0)

    def wake(self, task_id: str, slot: Started) -> None:
        return

    def kill_left(self, slot: Started) -> int:
        return 0

    def sweep(self) -> None:
        return


class OneHost:
    """Attributes: `ran`: the witness; `taken`: tasks that the broker has taken for this host; `goes_on`: runs end."""

    def __init__(self) -> None:
        self.disk = CrashDisk()
        self.clock = ManualClock()
        self.broker = InProcessBroker()
        self.ran: list[str] = []
        self.taken: list[str] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.dies_in_run = False
        self.end: ControlPlaneEnd

    @asynccontextmanager
    async def seen(self) -> AsyncIterator["OneHost"]:
        async with control_plane_end(self.broker) as self.end:
            yield self

    def agent(self, failpoints: Failpoints = NO_FAILPOINTS, policy: Policy | None = None) -> Agent:
        return Agent(
            Identities(self.disk, an_identity()),
            self.broker.transport(),
            Journal(self.disk, self.clock, failpoints=failpoints),
            DiskThread(is_blocking=False),
            Runner(self),
            policy or AnyPolicy(),
            SimulatedFacts(1),
            self.clock,
            boot_id="b1",
            failpoints=failpoints,
        )

    @asynccontextmanager
    async def up(self, policy: Policy | None = None) -> AsyncIterator[None]:
        """The agent at work, until it is stopped orderly."""
        stop = asyncio.Event()
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(self.agent(policy=policy).run(stop))
            try:
                yield
            finally:
                stop.set()

    async def until_it_dies(self, *task_ids: str, at: Failpoints = NO_FAILPOINTS, choose: Choose = nothing) -> None:
        """Send these to an agent that dies of it, with its machine: what is not durable is lost as `choose` says."""
        dying = asyncio.ensure_future(self.agent(at).run(asyncio.Event()))
        async with asyncio.timeout(BOUND_S):
            for task_id in task_ids:
                await self.send(task_id)
            with _expected_death():
                await dying
        self.disk = self.disk.after_crash(choose)

    async def send(self, task_id: str, **changes: object) -> None:
        """Send a command until the agent's queue has it; each copy has the same bytes."""
        body = sealed(a_command(task_id, **changes))
        async with asyncio.timeout(BOUND_S):
            while await self.end.send_bytes(body) != Confirmed():
                await asyncio.sleep(0.01)
        if task_id not in self.taken:
            self.taken.append(task_id)

    async def answered(self, task_id: str, number: int = 1) -> None:
        await self.end.until(lambda: len(self.end.said(task_id)) >= number)

    def evidence(self) -> Evidence:
        """What a control plane would have recorded of what this host has said, and what the witness has seen."""
        events = [Event(n, f"{n:06}", "task.accepted", t, hosts=(HOSTNAME,)) for n, t in enumerate(self.taken, start=1)]
        executions, polls, conflicts, repeated = {}, [], 0, 0
        for task_id in self.taken:
            said = self.end.said(task_id)
            executions[task_id, HOSTNAME] = Execution("queued")
            for number, result in enumerate(said):
                state = _state_of(result)
                polls.append(Poll(task_id, 1, {state: 1}, {HOSTNAME: state}))
                if number == 0:
                    at = len(events) + 1
                    events.append(Event(at, f"{at:06}", "execution.finished", task_id, HOSTNAME))
                    executions[task_id, HOSTNAME] = Execution(state, 0, started=result.get("started_at") is not None)
                elif canonical(result) == canonical(said[0]):
                    repeated += 1
                else:
                    conflicts += 1
        return Evidence(
            book=Book(attempts=dict.fromkeys(self.taken, ""), acknowledged=set(self.taken)),
            events=events,
            polls=polls,
            executions=executions,
            witness={HOSTNAME: self.ran},
            witnessed=frozenset(self.taken),
            expected=lambda _: Expected("", 0),
            conflicts=conflicts,
            absorbed=repeated,
        )


def _state_of(result: object) -> str:
    assert isinstance(result, dict)
    outcome = str(result.get("outcome") or "completed")
    if outcome != "completed":
        return outcome
    return "succeeded" if result["exit_code"] == 0 else "failed"


class _expected_death:  # noqa: N801 - used like a function
    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        assert error is not None, "it has not died"
        return _is_death(error)


def _is_death(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_death, error.exceptions))
    return isinstance(error, Died)
