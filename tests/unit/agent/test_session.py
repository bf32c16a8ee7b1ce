"""What an agent does with its session, whatever it is waiting for."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from control_plane_agent.assembly import simulated_agent
from control_plane_agent.cli import DRAIN_S
from control_plane_agent.errors import JournalError
from control_plane_agent.session import Agent
from control_plane_wire.clock import SystemClock
from control_plane_wire.errors import TransportUnavailableError
from control_plane_wire.messages import ConfigureMessage
from control_plane_wire.transport.inprocess import InProcessBroker, InProcessTransport
from tests.support.agent import START_S, ControlPlaneEnd, a_command, accept, an_identity, control_plane_end, running


@pytest.fixture
def broker() -> InProcessBroker:
    return InProcessBroker()


@pytest.fixture
async def end(broker: InProcessBroker) -> AsyncIterator[ControlPlaneEnd]:
    async with control_plane_end(broker) as made:
        yield made


@pytest.fixture
def agent(broker: InProcessBroker) -> Agent:
    return simulated_agent(1, an_identity(), broker.transport())


def waits_for_room(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    monkeypatch.setattr("control_plane_agent.executions.MOST_WAITING", 1)
    return lambda: agent._executions.running


def cannot_journal(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    tried = []

    def fails(*_: object, **__: object) -> None:
        tried.append(True)
        raise JournalError("read-only", is_full=False)

    monkeypatch.setattr(agent._journal, "accept", fails)
    return lambda: tried


@pytest.mark.parametrize("hinders", [waits_for_room, cannot_journal])
async def test_a_stop_is_heeded_and_said_whatever_holds_a_command_up(
    agent: Agent,
    end: ControlPlaneEnd,
    monkeypatch: pytest.MonkeyPatch,
    hinders: Callable[[Agent, pytest.MonkeyPatch], Callable[[], object]],
) -> None:
    is_held_up = hinders(agent, monkeypatch)
    async with asyncio.timeout(DRAIN_S), running(agent):
        await end.until(lambda: end.heartbeats)
        for number in range(2):
            await end.send(a_command(f"task-{number}", command="sleep 3600", timestamp=SystemClock().now_s()))
        while not is_held_up():
            await asyncio.sleep(0)

    assert end.heartbeats[-1]["status"] == "offline"


async def test_a_configure_from_before_the_enrolment_changes_nothing(
    broker: InProcessBroker, end: ControlPlaneEnd
) -> None:
    enrolled = an_identity(groups={"web": 50}, enrolled_as_of=50)
    now_s = SystemClock().now_s()
    async with running(simulated_agent(1, enrolled, broker.transport())):
        await end.until(lambda: end.heartbeats)
        await end.send(ConfigureMessage(task_id="configure-1", timestamp=now_s, as_of=49, groups={"old": 49}))
        await end.send(
            ConfigureMessage(task_id="configure-2", timestamp=now_s, as_of=51, groups={"web": 50, "new": 51})
        )
        await end.until(lambda: end.heartbeats[-1]["groups"] != ["web"])

    assert end.heartbeats[-1]["groups"] == ["new", "web"]
    assert ["old"] not in [heartbeat["groups"] for heartbeat in end.heartbeats]


async def test_a_simulated_host_whose_journal_begins_anew_does_not_say_how_far_it_is(
    broker: InProcessBroker, end: ControlPlaneEnd, agent: Agent
) -> None:
    async with running(agent):
        await end.until(lambda: end.heartbeats)

    assert "journal_head" not in end.heartbeats[0]


async def test_a_simulated_host_keeps_no_tombstone_longer_than_it_must(agent: Agent) -> None:
    for number in range(3):
        accept(agent._journal, f"task-{number}", timestamp=START_S + number * 3600)
        agent._journal.retire(f"task-{number}")
        agent._journal.prune()

    assert [agent._journal.find(f"task-{number}") for number in range(3)] == [None, None, "done"]


@pytest.mark.parametrize("is_there", [True, False])
async def test_only_a_queue_that_is_known_to_be_gone_is_a_reason_to_start_over(
    broker: InProcessBroker, end: ControlPlaneEnd, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """An alarm of the broker holds the answer up, and what is in the queue would be lost with it."""
    looks: list[str] = []
    connects = 0
    connect = InProcessTransport.connect

    async def look(_session: object, name: str) -> bool:
        looks.append(name)
        if len(looks) < 3:
            raise TransportUnavailableError("cannot look for a queue: TimeoutError")
        return is_there or len(looks) > 3

    def count(transport: InProcessTransport, name: str) -> object:
        nonlocal connects
        connects += name.startswith("agent")
        return connect(transport, name)

    monkeypatch.setattr("control_plane_agent.session.QUEUE_CHECK_S", 0.001)
    monkeypatch.setattr("control_plane_wire.transport.inprocess._Session.queue_exists", look)
    monkeypatch.setattr(InProcessTransport, "connect", count)
    async with running(simulated_agent(1, an_identity(), broker.transport())):
        async with asyncio.timeout(20):
            while len(looks) < (3 if is_there else 4):
                await asyncio.sleep(0.01)

    assert connects == (1 if is_there else 2)


async def test_each_session_has_a_greater_number_than_the_one_before(
    agent: Agent, end: ControlPlaneEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it shows that what was in the queue may be lost, though the agent was never silent."""
    looks: list[str] = []

    async def look(_session: object, name: str) -> bool:
        looks.append(name)
        return len(looks) > 1

    monkeypatch.setattr("control_plane_agent.session.QUEUE_CHECK_S", 0.001)
    monkeypatch.setattr("control_plane_wire.transport.inprocess._Session.queue_exists", look)
    async with running(agent):
        await end.until(lambda: len({beat["session"] for beat in end.heartbeats}) == 2)
    await end.until(lambda: end.heartbeats[-1]["status"] == "offline")

    [*sessions, last, offline] = [int(str(beat["session"])) for beat in end.heartbeats]
    assert sessions == sorted(sessions)
    assert sessions[-1] < last == offline
