"""What a host in quarantine is sent, and what not, on every database and broker."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from control_plane.commands.rollouts import Rollout
from control_plane.commands.targets import Group
from control_plane.events import hosts, tasks
from control_plane.events.rollouts import ExecutionReleased
from control_plane.processes.open_executions import FIRST_RETRY_S
from tests.support.fleet import ADMIN
from tests.support.plane import Plane, until
from tests.support.process_contract import (
    RETURNED,
    SENT,
    UNCONFIRMED,
    OnServers,
    OnSqlite,
    ProcessContract,
    done,
)


class QuarantineContract(ProcessContract):
    async def test_a_host_in_quarantine_is_sent_nothing_until_that_is_lifted(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.dispatching():
            await self.quarantined(plane, "web1")
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
            await plane.comes_online("web1")
            await plane.recorded(RETURNED, number=2)
            await self.barrier(plane, "t2", db1)
            assert web1.messages == []

            await plane.hosts.lift_quarantine(ADMIN, "web1", "it was restored")
            await web1.received()
            await plane.recorded(SENT, number=2)

        assert web1.task_ids() == ["t1"]

    async def test_what_waits_for_a_host_in_quarantine_expires_also_after_a_takeover(self, plane: Plane) -> None:
        await self.quarantined(plane, "web1")
        async with plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
        await plane.shown()

        other = plane.beside()
        async with other.dispatching(), plane.agent("web1") as web1, plane.agent("db1") as db1:
            await self.barrier(plane, "t2", db1)
            assert web1.messages == []
            plane.clock.advance(600)

        assert await plane.events(UNCONFIRMED) == []
        await self.expires(plane)

    async def test_whoever_takes_over_after_a_lift_sends_what_has_waited(self, plane: Plane) -> None:
        await self.quarantined(plane, "web1")
        async with plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
        await plane.hosts.lift_quarantine(ADMIN, "web1", "it was restored")
        await plane.shown()

        other = plane.beside()
        async with plane.agent("web1") as web1, other.dispatching():
            await web1.received()

        assert len(await plane.events(UNCONFIRMED)) == 1, "whoever had the lease may have sent it after the lift"

    async def test_what_was_sent_before_a_quarantine_is_never_sent_again_and_not_taken_for_undelivered(
        self, plane: Plane
    ) -> None:
        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.dispatching():
            await plane.run("t1", "web1")
            await web1.received()
            await plane.recorded(SENT)
            await self.quarantined(plane, "web1")
            plane.clock.advance(FIRST_RETRY_S + 1)
            await self.barrier(plane, "t2", db1)

            await plane.hosts.lift_quarantine(ADMIN, "web1", "it was restored")
            await plane.comes_online("web1", boot_id="b2")
            await self.barrier(plane, "t3", db1)
            assert web1.task_ids() == ["t1"]
        await plane.shown()
        other = plane.beside()
        async with plane.agent("web1") as web1, plane.agent("db1") as db1, other.dispatching():
            await plane.comes_online("web1", boot_id="b3")
            await self.barrier(plane, "t4", db1)
            assert web1.messages == []
            await plane.tasks.cancel(ADMIN, "t1", None)
            await web1.received()

        assert [message.get("kind") for message in web1.messages] == ["cancel"]
        assert await plane.events(RETURNED) == []
        plane.clock.advance(100_000)
        await plane.deadlines().decide()
        assert "t1" in {lost.task_id for lost in await plane.events(tasks.ExecutionLost.KIND)}  # type: ignore[attr-defined]

    @pytest.mark.parametrize("is_lifted_before", [False, True], ids=["lifted later", "lifted before"])
    async def test_what_was_published_without_a_record_before_a_quarantine_is_never_sent_again(
        self, plane: Plane, is_lifted_before: bool
    ) -> None:
        async def lift() -> None:
            await plane.authority.refresh()
            await plane.hosts.lift_quarantine(ADMIN, "web1", "it was restored")
            await plane.shown()

        async with plane.agent("web1") as web1, plane.agent("db1") as db1:
            plane.tap.hangs = True
            async with AsyncExitStack() as stack:
                dying = asyncio.create_task(plane.dispatch().run(asyncio.Event()))
                stack.callback(dying.cancel)
                await plane.run("t1", "web1")
                await until(self.has_published(plane, 1))
            await asyncio.wait([dying])
            await plane.crash()
            await self.quarantined(plane, "web1")
            if is_lifted_before:
                await lift()

            other = plane.beside()
            async with other.dispatching():
                await plane.recorded(UNCONFIRMED)
                await self.barrier(plane, "t2", db1)
                if not is_lifted_before:
                    await lift()
                await plane.comes_online("web1", boot_id="b2")
                await self.barrier(plane, "t3", db1)
            await plane.shown()
            async with plane.beside().dispatching():
                await plane.comes_online("web1", boot_id="b3")
                await self.barrier(plane, "t4", db1)

        assert web1.messages == []

    @pytest.mark.parametrize("is_known", [True, False], ids=["sent", "never sent"])
    async def test_what_has_waited_for_the_end_of_a_quarantine_is_sent_until_it_is_answered(
        self, plane: Plane, is_known: bool
    ) -> None:
        """Its queue is lost, or dispatch was not there when the quarantine was lifted."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(plane.dispatching())
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
            await self.quarantined(plane, "web1")
            if not is_known:
                await stack.aclose()
            await plane.authority.refresh()
            await plane.hosts.lift_quarantine(ADMIN, "web1", "it was restored")
            if is_known:
                async with plane.agent("web1") as web1:
                    await plane.comes_online("web1")
                    await web1.received()
                    await plane.recorded(SENT)
        await plane.shown()

        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.beside().dispatching():
            await plane.comes_online("web1", boot_id="b2")
            await self.barrier(plane, "t2", db1)

        assert set(web1.task_ids()) == {"t1"}

    @pytest.mark.parametrize("is_online", [True, False], ids=["online", "offline"])
    @pytest.mark.parametrize("is_there", [True, False], ids=["connected", "gone"])
    async def test_a_host_in_quarantine_is_in_the_way_of_one_message_for_many_as_long_as_it_may_get_it(
        self, plane: Plane, is_there: bool, is_online: bool
    ) -> None:
        """Somebody else's message must not reach it, though it is bound to the group."""
        async with AsyncExitStack() as stack:
            agents = [await stack.enter_async_context(plane.agent(name, "web")) for name in ("web1", "web2")]
            if is_there:
                db1 = await stack.enter_async_context(plane.agent("db1", "web"))
            await stack.enter_async_context(plane.dispatching())
            for hostname in ("web1", "web2", "db1"):
                await plane.comes_online(hostname, groups=["web"])
            if not is_online:
                await plane.record(hosts.HostWentOffline(hostname="db1", heartbeat_seq=3, heartbeat={}, cause="a test"))
            await self.quarantined(plane, "db1")
            await plane.run("t1", target=Group("web"))
            for agent in agents:
                await agent.received()
            if is_there:
                assert "t1" not in db1.task_ids()

        routes = {"cmd.group.web"} if not (is_there or is_online) else {"cmd.node.web1", "cmd.node.web2"}
        sent = [message for message in plane.tap.published if message.correlation_id == "t1"]
        assert {message.routing_key for message in sent} == routes

    async def test_a_group_with_one_in_quarantine_is_reached_host_by_host(self, plane: Plane) -> None:
        async with plane.agent("web1", "web") as web1, plane.agent("web2", "web") as web2, plane.dispatching():
            for hostname in ("web1", "web2"):
                await plane.comes_online(hostname, groups=["web"])
            await self.quarantined(plane, "web2")
            await plane.run("t1", target=Group("web"))
            await web1.received()
            await plane.recorded(RETURNED)
            assert web2.messages == []

            await plane.hosts.lift_quarantine(ADMIN, "web2", "it was restored")
            await web2.received()

        assert [message.routing_key for message in plane.tap.published] == ["cmd.node.web1", "cmd.node.web2"]

    async def test_what_a_rollout_releases_for_a_host_in_quarantine_waits(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.dispatching():
            await self.quarantined(plane, "web1")
            await plane.run("t1", "web1", rollout=Rollout())
            await plane.handling.record(ExecutionReleased(task_id="t1", hostname="web1"), actor="rollout")
            await plane.recorded(RETURNED)
            await self.barrier(plane, "t2", db1)
            assert web1.messages == []

            await plane.hosts.lift_quarantine(ADMIN, "web1", "it was restored")
            await web1.received()

    async def test_a_quarantine_of_the_machine_that_had_the_name_before_holds_nothing_back(self, plane: Plane) -> None:
        other = await self.replace(plane, "web1")
        await plane.authority.refresh()
        async with plane.agent("web1") as first, plane.agent("db1") as db1, plane.dispatching():
            await plane.run("t1", "web1")
            await first.received()
            await plane.recorded(SENT)
            await self.quarantined(plane, "web1")
            await self.barrier(plane, "t2", db1)
            await plane.comes_online("web1", boot_id="b2")
            await first.received(2)
        await plane.shown()
        async with plane.agent("web1") as second, other.dispatching():
            await plane.comes_online("web1", boot_id="b3")
            await second.received()

    async def test_a_forged_end_of_a_quarantine_ends_none(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.dispatching():
            await self.quarantined(plane, "web1")
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
            host = plane.authority.fleet.host("web1")
            await plane.record(
                hosts.HostQuarantineLifted(hostname="web1", based_on=host.changed_seq, reason="trust me")
            )
            await plane.counted("events_refused")
            await self.barrier(plane, "t2", db1)

        assert web1.messages == []

    async def test_a_result_that_came_first_stands(self, plane: Plane) -> None:
        await plane.run("t1", "web1")
        await plane.record(done("t1", "web1"))
        plane.clock.advance(100_000)

        assert await plane.deadlines().decide() == 0

        assert await plane.events(tasks.ExecutionLost.KIND, tasks.ExecutionExpired.KIND) == []

    async def test_deadlines_are_kept_by_the_service(self, plane: Plane) -> None:
        await plane.run("t1", "web1")
        plane.clock.advance(100_000)

        async with plane.serving(plane.deadlines()):
            await plane.recorded(tasks.ExecutionLost.KIND)


class TestSqliteInProcess(OnSqlite, QuarantineContract):
    pass


@pytest.mark.mysql
@pytest.mark.rabbitmq
class TestMysqlRabbitMQ(OnServers, QuarantineContract):
    pass
