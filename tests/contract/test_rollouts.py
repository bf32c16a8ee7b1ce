"""What pause, resume, retry and rollouts promise, on every database and broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from control_plane.api.tasks import task_of
from control_plane.commands.retries import RetryTask
from control_plane.commands.rollouts import Rollout
from control_plane.commands.targets import Group
from control_plane.errors import RefusedError
from control_plane.events import rollouts, tasks
from control_plane.events.event import Event
from control_plane.projections.queries.scopes import EVERYTHING
from control_plane.projections.queries.tasks import TaskView
from control_plane_wire.messages import ALLOWED_SKEW_S
from control_plane_wire.transport.base import Message, PublishOutcome, Transport
from tests.support.events import AT, a_task_accepted
from tests.support.fleet import ADMIN, OPERATOR
from tests.support.plane import AgentEnd, Plane, a_plane, until
from tests.support.process_contract import RETURNED, SENT, UNCONFIRMED, OnServers, OnSqlite, done, returned

HOSTS = ("web1", "web2", "web3", "web4")
RELEASED = rollouts.ExecutionReleased.KIND
PAUSED = rollouts.TaskPaused.KIND
STOPPED = rollouts.TaskRolloutStopped.KIND
SKIPPED = tasks.ExecutionSkipped.KIND
EXPIRED = tasks.ExecutionExpired.KIND
CANCELLED = tasks.ExecutionCancelled.KIND


def failed(task_id: str, hostname: str) -> tasks.ExecutionFinished:
    message: dict[str, Any] = {"task_id": task_id, "exit_code": 1, "stdout": "", "stderr": "", "timestamp": AT}
    return tasks.ExecutionFinished(message=message, hostname=hostname)


def names(events: list[Event]) -> list[str]:
    return [event.hostname for event in events if hasattr(event, "hostname")]


class RolloutContract:
    @pytest.fixture
    async def plane(self, url: str, transport: Transport) -> AsyncIterator[Plane]:
        async with a_plane(url, transport) as plane:
            await plane.register(*HOSTS, groups=["web"])
            await plane.register("db1")
            yield plane

    @asynccontextmanager
    async def agents(self, plane: Plane, *hostnames: str) -> AsyncIterator[dict[str, AgentEnd]]:
        async with AsyncExitStack() as stack:
            yield {name: await stack.enter_async_context(plane.agent(name, "web")) for name in hostnames}

    async def barrier(self, plane: Plane, task_id: str) -> None:
        """Return when dispatch has done all that it could have done by now: what comes later is done later."""
        async with plane.agent("db1") as db1:
            await plane.run(task_id, "db1")
            await db1.received()
            await plane.recorded(SENT)

    async def shown(self, plane: Plane, task_id: str) -> TaskView:
        await plane.shown()
        task = await plane.task_queries.one(task_id)
        assert task is not None
        return task

    async def states(self, plane: Plane, task_id: str) -> dict[str, str]:
        await plane.shown()
        return await plane.task_queries.states(task_id)

    # --- rollouts

    async def test_it_goes_host_by_host_and_faster_as_it_succeeds_and_never_by_the_key_of_the_group(
        self, plane: Plane
    ) -> None:
        for name in HOSTS:
            await plane.comes_online(name, groups=["web"])
        async with self.agents(plane, *HOSTS) as agents, plane.dispatching(), plane.serving(plane.rollouts()):
            await plane.run("t1", target=Group("web"), rollout=Rollout(max_concurrency=2))
            await agents["web1"].received()
            await plane.recorded(SENT)
            assert names(await plane.events(RELEASED)) == ["web1"]

            await plane.record(done("t1", "web1"))
            await agents["web2"].received()
            await agents["web3"].received()
            assert names(await plane.events(RELEASED)) == ["web1", "web2", "web3"]
            await plane.record(done("t1", "web2"))
            await agents["web4"].received()
            await plane.record(done("t1", "web3"))
            await plane.record(done("t1", "web4"))

        assert {route for agent in agents.values() for route in agent.routes} == {f"cmd.node.{name}" for name in HOSTS}
        task = await self.shown(plane, "t1")
        assert (task.state, task.outcome, task.released) == ("finished", "succeeded", 4)

    async def test_an_error_stops_it_and_what_was_not_released_is_skipped_by_whoever_dispatches_then(
        self, plane: Plane
    ) -> None:
        process = plane.rollouts()
        async with self.agents(plane, *HOSTS) as agents:
            async with plane.dispatching():
                await plane.run("t1", *HOSTS, rollout=Rollout())
                assert await process.decide() == 1
                await agents["web1"].received()
                await plane.recorded(SENT)
            await plane.record(failed("t1", "web1"))
            assert await process.decide() == 1
            assert await process.decide() == 0
            assert (await self.shown(plane, "t1")).stopped == "rollout stopped: 1 of 4 failed, at most 0 may"
            await plane.comes_online("web2")
            async with plane.beside().dispatching():
                skipped = await plane.recorded(SKIPPED, number=3)

        assert names(skipped) == ["web2", "web3", "web4"]
        assert {event.reason for event in skipped if isinstance(event, tasks.ExecutionSkipped)} == {
            "rollout stopped: 1 of 4 failed, at most 0 may"
        }
        task = await self.shown(plane, "t1")
        assert (task.state, task.outcome, task.counts) == ("finished", "failed", {"failed": 1, "skipped": 3})
        assert [agents[name].messages for name in ("web2", "web3", "web4")] == [[], [], []]
        assert await plane.events(UNCONFIRMED) == []

    async def test_what_is_released_after_it_has_stopped_is_not_sent(self, plane: Plane) -> None:
        """As by a process that has lost its lease and does not know it yet."""
        process = plane.rollouts()
        stale = process._views
        await plane.run("t1", *HOSTS, rollout=Rollout(max_errors=0))
        await plane.shown()
        views = await stale()
        await plane.record(failed("t1", "web1"))
        assert await process.decide() == 1
        await process._say(views)
        await plane.shown()
        async with self.agents(plane, *HOSTS) as agents, plane.dispatching():
            assert names(await plane.recorded(SKIPPED, number=3)) == ["web2", "web3", "web4"]

        assert all(agent.messages == [] for agent in agents.values())

    async def test_two_that_decide_the_same_at_the_same_time_say_it_once(self, plane: Plane) -> None:
        one, two = plane.rollouts(), plane.beside().rollouts()
        await plane.run("t1", *HOSTS, rollout=Rollout(canary=2, wait="approve"))
        await plane.shown()
        for _ in range(2):
            views = [await one._views(), await two._views()]
            await asyncio.gather(one._say(views[0]), two._say(views[1]))
            await plane.shown()
            for name in ("web1", "web2"):
                await plane.record(done("t1", name))
            await plane.shown()

        assert names(await plane.events(RELEASED)) == ["web1", "web2"]
        assert len(await plane.events(PAUSED)) == 1

    async def test_after_the_canary_it_is_paused_once_and_a_resume_is_the_approval(self, plane: Plane) -> None:
        process = plane.rollouts()
        await plane.run("t1", *HOSTS, rollout=Rollout(canary=("web3",), wait="approve"))
        assert await process.decide() == 1
        await plane.turns.pause(ADMIN, "t1", "a look at it")
        await plane.turns.resume(ADMIN, "t1", None)
        await plane.record(done("t1", "web3"))

        assert await process.decide() == 1
        shown = task_of(await self.shown(plane, "t1"), EVERYTHING)
        assert (shown.state, shown.awaits_approval) == ("paused", True)
        assert await process.decide() == 0
        paused = (await plane.events(PAUSED))[-1]
        assert isinstance(paused, rollouts.TaskPaused)
        assert (paused.actor, paused.reason) == ("rollout", "the canary has succeeded on 1 of 1: resume to go on")
        await plane.turns.resume(OPERATOR, "t1", None)
        assert await process.decide() == 2

        assert names(await plane.events(RELEASED)) == ["web3", "web1", "web2"]
        assert (await self.shown(plane, "t1")).state == "running"

    async def test_the_wait_after_the_canary_is_ended_early_by_a_resume_and_by_nothing_before_it_has_succeeded(
        self, plane: Plane
    ) -> None:
        process = plane.rollouts()
        await plane.run("t1", *HOSTS, rollout=Rollout(canary=("web3", "web2"), wait=300))
        assert await process.decide() == 2
        await plane.record(done("t1", "web3"))
        assert not task_of(await self.shown(plane, "t1"), EVERYTHING).waits_after_canary
        with pytest.raises(RefusedError, match="not_paused"):
            await plane.turns.resume(OPERATOR, "t1", None)
        await plane.record(done("t1", "web2"))

        assert await process.decide() == 0
        shown = task_of(await self.shown(plane, "t1"), EVERYTHING)
        assert (shown.state, shown.waits_after_canary, shown.awaits_approval) == ("running", True, False)
        seq = await plane.turns.resume(OPERATOR, "t1", "it looks well")
        assert await plane.turns.resume(ADMIN, "t1", None) == seq
        assert not task_of(await self.shown(plane, "t1"), EVERYTHING).waits_after_canary
        assert await process.decide() == 2

        assert names(await plane.events(RELEASED)) == ["web3", "web2", "web1", "web4"]
        with pytest.raises(RefusedError, match="not_paused"):
            await plane.turns.resume(OPERATOR, "t1", None)

    async def test_a_pause_while_it_waits_after_the_canary_is_a_pause_and_its_resume_no_approval(
        self, plane: Plane
    ) -> None:
        process = plane.rollouts()
        await plane.run("t1", *HOSTS, rollout=Rollout(canary=1, wait=300))
        await process.decide()
        await plane.record(done("t1", "web1"))
        await plane.turns.pause(ADMIN, "t1", None)
        shown = task_of(await self.shown(plane, "t1"), EVERYTHING)
        assert (shown.state, shown.waits_after_canary) == ("paused", False)

        await plane.turns.resume(OPERATOR, "t1", None)
        assert task_of(await self.shown(plane, "t1"), EVERYTHING).waits_after_canary
        assert await process.decide() == 0
        await plane.turns.resume(OPERATOR, "t1", None)
        assert await process.decide() == 2

    async def test_no_host_is_looked_up_for_what_cannot_be_sent(self, plane: Plane) -> None:
        """Of the largest task that is 20,000 rows, twenty times a second, and many may wait for hosts that are away."""
        process = plane.rollouts()
        await plane.run("t1", *HOSTS, rollout=Rollout(canary=3))
        await plane.shown()
        [view] = await process._views()
        assert (len(view.canary), view.waiting) == (3, [])
        await process.decide()
        await plane.shown()
        [view] = await process._views()
        assert (len(view.canary), view.waiting) == (3, [])
        for name in ("web1", "web2", "web3"):
            await plane.record(done("t1", name))
        await plane.shown()
        [view] = await process._views()
        assert (len(view.canary), view.waiting) == (3, ["web4"])

        await plane.turns.pause(ADMIN, "t1", None)
        await plane.shown()
        [view] = await process._views()
        assert (view.canary, view.waiting) == ([], [])

    async def test_the_time_after_the_canary_is_that_of_the_log(self, plane: Plane) -> None:
        process = plane.rollouts()
        await plane.run("t1", *HOSTS, rollout=Rollout(canary=1, wait=60))
        await process.decide()
        await plane.record(done("t1", "web1"))

        plane.clock.advance(59)
        assert await process.decide() == 0
        plane.clock.advance(2)
        assert await process.decide() == 2

    async def test_what_it_has_not_come_to_is_not_sent_to_a_host_that_comes_online_and_expires(
        self, plane: Plane
    ) -> None:
        process, deadlines = plane.rollouts(), plane.deadlines()
        async with self.agents(plane, "web1", "web2") as agents, plane.dispatching():
            await plane.run("t1", "web1", "web2", timeout=30, expires_in=60, rollout=Rollout())
            await process.decide()
            await agents["web1"].received()
            await plane.recorded(SENT)
            await plane.comes_online("web2")
            await self.barrier(plane, "b1")
        plane.clock.advance(60)
        assert await process.decide() == 0
        plane.clock.advance(ALLOWED_SKEW_S + 1)
        async with plane.beside().dispatching():
            assert await deadlines.decide() == 1
            found = await plane.events(EXPIRED, tasks.ExecutionLost.KIND)

        assert agents["web2"].messages == []
        assert names([event for event in found if isinstance(event, tasks.ExecutionExpired)]) == ["web2"]
        assert await plane.events(UNCONFIRMED) == []

    async def test_what_expires_before_its_turn_is_no_error_that_stops_the_rest(
        self, plane: Plane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("control_plane.processes.deadlines.BATCH", 1)
        process, deadlines = plane.rollouts(), plane.deadlines()
        await plane.run("t1", *HOSTS, expires_in=60, rollout=Rollout())
        await plane.turns.pause(ADMIN, "t1", None)
        plane.clock.advance(60 + ALLOWED_SKEW_S + 1)

        for _ in HOSTS:
            assert (await deadlines.decide(), await process.decide()) == (1, 0)

        task = await self.shown(plane, "t1")
        assert (task.counts, task.stopped) == ({"expired": 4}, None)

    async def test_a_cancel_ends_what_it_has_not_come_to_at_once(self, plane: Plane) -> None:
        async with self.agents(plane, *HOSTS) as agents, plane.dispatching():
            await plane.run("t1", *HOSTS, rollout=Rollout())
            await plane.rollouts().decide()
            await agents["web1"].received()
            await plane.recorded(SENT)
            await plane.tasks.cancel(ADMIN, "t1", None)
            assert names(await plane.recorded(CANCELLED, number=3)) == ["web2", "web3", "web4"]
            await agents["web1"].received(2)

        assert await plane.rollouts().decide() == 0

    @pytest.mark.parametrize("what", ["release", "resume", "pause", "stop"])
    async def test_what_nobody_signed_changes_nothing(self, plane: Plane, what: str) -> None:
        async with self.agents(plane, "web1", "web2") as agents, plane.dispatching():
            seq = await plane.run("t1", "web1", "web2", rollout=Rollout())
            if what == "resume":
                seq = await plane.turns.pause(ADMIN, "t1", None)
            await plane.rollouts().decide()
            turn = {"task_id": "t1", "actor": "ada", "based_on": seq}
            forged: dict[str, Event] = {
                "release": rollouts.ExecutionReleased(task_id="t1", hostname="web2"),
                "resume": rollouts.TaskResumed(**turn),  # type: ignore[arg-type]
                "pause": rollouts.TaskPaused(**turn),  # type: ignore[arg-type]
                "stop": rollouts.TaskRolloutStopped(task_id="t1", failed=1, targets=2, max_errors=0),
            }
            await plane.record(forged[what])
            await plane.counted("events_refused")
            await self.barrier(plane, "b1")

            assert agents["web2"].messages == []
            assert await plane.events(SKIPPED) == []
            if what == "resume":
                assert agents["web1"].messages == []
            else:
                await agents["web1"].received()

    @pytest.mark.parametrize("rollout", [{"max_concurrency": "many"}, {"pace": 1}, None, [1]])
    async def test_a_rollout_that_nobody_can_have_accepted_stops_no_other(self, plane: Plane, rollout: Any) -> None:
        await plane.record(a_task_accepted("forged", ("web1",), rollout=rollout))
        await plane.run("t1", "web2", rollout=Rollout())

        assert await plane.rollouts().decide() == 1

        assert names(await plane.events(RELEASED)) == ["web2"]

    # --- pause and resume

    async def test_a_paused_task_is_sent_nothing_and_goes_out_in_order_when_it_is_resumed(self, plane: Plane) -> None:
        async with self.agents(plane, "web1", "web2") as agents:
            for number in range(3):
                await plane.run(f"t{number}", "web1")
                await plane.turns.pause(ADMIN, f"t{number}", None)
            async with plane.dispatching():
                await self.barrier(plane, "b1")
                assert (await self.shown(plane, "t1")).state == "paused"
                assert agents["web1"].messages == []
                for number in range(3):
                    await plane.turns.resume(ADMIN, f"t{number}", None)
                await agents["web1"].received(3)

        assert agents["web1"].task_ids() == ["t0", "t1", "t2"]
        assert (await self.shown(plane, "t1")).state == "running"

    @pytest.mark.parametrize("turn", ["pause", "cancel"])
    async def test_what_comes_while_a_task_is_being_sent_counts_for_the_rest_of_it(
        self, plane: Plane, turn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("control_plane.processes.dispatch.CHUNK", 1)
        publish = plane.tap.publish

        async def turned_meanwhile(message: Message) -> PublishOutcome:
            if message.routing_key == "cmd.node.web1":
                await (plane.turns.pause if turn == "pause" else plane.tasks.cancel)(ADMIN, "t1", None)
            return await publish(message)

        plane.tap.publish = turned_meanwhile  # type: ignore[method-assign]
        async with self.agents(plane, "web1", "web2", "web3") as agents, plane.dispatching():
            await plane.run("t1", "web1", "web2", "web3")
            await agents["web1"].received()
            await self.barrier(plane, "b1")
            assert [agents[name].messages for name in ("web2", "web3")] == [[], []]

            if turn == "pause":
                await plane.turns.resume(ADMIN, "t1", None)
                await agents["web2"].received()
                await agents["web3"].received()
            else:
                assert names(await plane.recorded(CANCELLED, number=2)) == ["web2", "web3"]

    async def test_who_is_revoked_while_a_task_is_being_sent_is_not_sent_it(
        self, plane: Plane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("control_plane.processes.dispatch.CHUNK", 1)
        publish = plane.tap.publish

        async def revoked_meanwhile(message: Message) -> PublishOutcome:
            if message.routing_key == "cmd.node.web1":
                await plane.beside().hosts.revoke(ADMIN, "web2", None)
            return await publish(message)

        plane.tap.publish = revoked_meanwhile  # type: ignore[method-assign]
        async with self.agents(plane, "web1", "web2", "web3") as agents, plane.dispatching():
            await plane.run("t1", "web1", "web2", "web3")
            await agents["web3"].received()

        assert [len(agent.messages) for agent in agents.values()] == [1, 0, 1]

    async def test_whoever_takes_over_knows_what_is_paused(self, plane: Plane) -> None:
        async with self.agents(plane, "web1") as agents:
            async with plane.dispatching():
                await plane.run("t1", "web1")
                await plane.turns.pause(ADMIN, "t1", None)
            await plane.shown()
            sent_before = len(agents["web1"].messages)
            async with plane.beside().dispatching():
                await plane.comes_online("web1")
                await self.barrier(plane, "b1")
                assert len(agents["web1"].messages) == sent_before
                await plane.turns.resume(ADMIN, "t1", None)
                await agents["web1"].received(sent_before + 1)

    async def test_a_paused_task_is_cancelled_at_once(self, plane: Plane) -> None:
        async with plane.dispatching():
            await plane.run("t0", "db1")
            await plane.recorded(RETURNED)
            await plane.run("t1", "web1", rollout=Rollout())
            await plane.turns.pause(ADMIN, "t1", None)
            await plane.tasks.cancel(ADMIN, "t1", None)
            assert names(await plane.recorded(CANCELLED)) == ["web1"]

        task = await self.shown(plane, "t1")
        assert (task.state, task.outcome) == ("finished", "cancelled")

    async def test_what_a_pause_kept_back_until_its_end_has_certainly_not_been_sent(self, plane: Plane) -> None:
        async with self.agents(plane, "web1") as agents, plane.dispatching():
            await plane.comes_online("web2")
            seq = await plane.run("t1", "web2", timeout=30, expires_in=60)
            await plane.recorded(RETURNED)
            await plane.turns.pause(ADMIN, "t1", None)
            online = await plane.comes_online("web2", 2)
            await self.barrier(plane, "b1")
            plane.clock.advance(60)

            async def is_said() -> bool:
                return returned("t1", "web2", online) in await plane.events(RETURNED)

            await until(is_said)
            assert returned("t1", "web2", seq) in await plane.events(RETURNED)
            assert agents["web1"].messages == []

        plane.clock.advance(ALLOWED_SKEW_S + 1)
        await plane.deadlines().decide()
        assert names(await plane.events(EXPIRED)) == ["web2"]

    async def test_two_who_pause_at_the_same_time_pause_once_and_again_is_the_same(self, plane: Plane) -> None:
        await plane.run("t1", "web1")
        first, second = await asyncio.gather(
            plane.turns.pause(ADMIN, "t1", "one"), plane.beside().turns.pause(OPERATOR, "t1", "two")
        )

        assert first == second == await plane.turns.pause(ADMIN, "t1", None)
        resumed = await plane.turns.resume(ADMIN, "t1", None)
        assert await plane.turns.resume(ADMIN, "t1", None) == resumed
        assert await plane.turns.pause(ADMIN, "t1", None) > resumed
        assert len(await plane.events(PAUSED)) == 2

    # --- retry

    async def test_a_retry_is_a_task_of_its_own_for_the_hosts_on_which_the_first_one_failed(self, plane: Plane) -> None:
        first = Rollout(max_concurrency=3, max_errors="50%", canary=1, wait=0)
        await plane.run("t1", *HOSTS, rollout=first, reason="a fix", env={"LANG": "C"})
        for name in HOSTS:
            await plane.record((failed if name in {"web2", "web4"} else done)("t1", name))
        await plane.shown()
        request = RetryTask(task_id="t2", retry_of="t1", states=frozenset({"failed"}))

        accepted = await plane.tasks.retry(OPERATOR, request)

        task = await self.shown(plane, "t2")
        assert (task.retry_of, task.seq, task.actor) == ("t1", accepted.seq, "ada")
        assert await self.states(plane, "t2") == {"web2": "queued", "web4": "queued"}
        assert task.request["rollout"] == {"max_concurrency": 3, "max_errors": "50%"}
        assert task.request["env"] == {"LANG": "C"}
        assert await plane.task_queries.retries("t1") == ["t2"]
        again = await plane.beside().tasks.retry(OPERATOR, request)
        assert (again.seq, again.created) == (accepted.seq, False)

    async def test_nothing_is_retried_where_no_host_is_in_a_chosen_state(self, plane: Plane) -> None:
        await plane.run("t1", *HOSTS)
        await plane.record(done("t1", "web1"))
        await plane.shown()

        with pytest.raises(RefusedError) as refused:
            await plane.tasks.retry(ADMIN, RetryTask(task_id="t2", retry_of="t1", states=frozenset({"failed"})))

        assert refused.value.code == "nothing_to_retry"

    async def test_a_rollout_that_is_served_ends(self, plane: Plane) -> None:
        """All at work: each host answers as soon as it is sent the command."""
        async with (
            self.agents(plane, *HOSTS) as agents,
            plane.dispatching(),
            plane.serving(plane.rollouts()),
            asyncio.TaskGroup() as group,
        ):

            async def answers(agent: AgentEnd) -> None:
                await agent.received()
                await plane.record(done("t1", agent.hostname))

            for agent in agents.values():
                group.create_task(answers(agent))
            await plane.run("t1", *HOSTS, rollout=Rollout(canary=1, wait=0))

            async def is_finished() -> bool:
                return (await self.shown(plane, "t1")).state == "finished"

            await until(is_finished)

        assert await self.states(plane, "t1") == dict.fromkeys(HOSTS, "succeeded")


class TestSqliteInProcess(OnSqlite, RolloutContract):
    pass


@pytest.mark.mysql
@pytest.mark.rabbitmq
class TestMysqlRabbitMQ(OnServers, RolloutContract):
    pass
