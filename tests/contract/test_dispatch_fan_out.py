"""What dispatch promises of messages for many, of basic agents, and of what hosts are told of their groups."""

from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from control_plane.commands.targets import All, Group
from control_plane.events import hosts, tasks
from control_plane.processes.configures import DRIFT_S
from control_plane.projections.queries.hosts import HostView
from control_plane_wire.errors import PublishUnconfirmedError, TransportUnavailableError
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE
from tests.support.events import a_task_accepted
from tests.support.fleet import ADMIN, CONTROL_PLANE_KEY, a_registration
from tests.support.plane import Plane, until
from tests.support.process_contract import (
    RETURNED,
    SENT,
    OnServers,
    OnSqlite,
    ProcessContract,
)


class DispatchFanOutContract(ProcessContract):
    # --- one message for many

    async def test_a_whole_group_that_is_online_gets_one_message(self, plane: Plane) -> None:
        async with plane.agent("web1", "web") as web1, plane.agent("web2", "web") as web2, plane.dispatching():
            for hostname in ("web1", "web2"):
                await plane.comes_online(hostname, groups=["web"])
            await plane.run("t1", target=Group("web"))
            await web1.received()
            await web2.received()
            events = await plane.recorded(SENT, number=2)

        assert [message.routing_key for message in plane.tap.published] == ["cmd.group.web"]
        assert (web1.routes, web1.bodies) == (["cmd.group.web"], web2.bodies)
        assert {e.hostname for e in events if isinstance(e, tasks.ExecutionSent)} == {"web1", "web2"}

    async def test_everybody_gets_one_message_where_everybody_is_online(self, plane: Plane) -> None:
        async with AsyncExitStack() as stack:
            agents = [await stack.enter_async_context(plane.agent(name)) for name in ("web1", "web2", "db1")]
            await stack.enter_async_context(plane.dispatching())
            for agent in agents:
                await plane.comes_online(agent.hostname)
            await plane.run("t1", target=All())
            for agent in agents:
                await agent.received()

        assert [message.routing_key for message in plane.tap.published] == ["cmd.all"]

    @pytest.mark.parametrize("is_there", [False, True], ids=["gone", "still there"])
    @pytest.mark.parametrize("change", ["retire", "revoke"])
    async def test_who_was_retired_or_revoked_is_in_the_way_of_one_message_only_while_its_queue_is_there(
        self, plane: Plane, change: str, is_there: bool
    ) -> None:
        """Its agent would run what reaches everybody, and its heartbeats are refused: only the broker knows."""
        async with AsyncExitStack() as stack:
            agents = [await stack.enter_async_context(plane.agent(name)) for name in ("web1", "web2")]
            if is_there:
                db1 = await stack.enter_async_context(plane.agent("db1"))
            await stack.enter_async_context(plane.dispatching())
            for hostname in ("web1", "web2", "db1"):
                await plane.comes_online(hostname)
            await getattr(plane.hosts, change)(ADMIN, "db1", None)
            await plane.shown()
            await plane.run("t1", target=All())
            for agent in agents:
                await agent.received()
            if is_there:
                assert db1.messages == []

        routes = {"cmd.node.web1", "cmd.node.web2"} if is_there else {"cmd.all"}
        assert {message.routing_key for message in plane.tap.published} == routes

    async def test_whoever_dispatch_has_read_to_be_gone_is_not_online_because_a_table_says_so(
        self, plane: Plane
    ) -> None:
        async with plane.agent("web1", "web"), plane.agent("web2", "web"), plane.dispatching():
            for hostname in ("web1", "web2"):
                await plane.comes_online(hostname, groups=["web"])
            before = await plane.host_queries.registered()

            async def behind() -> list[HostView]:
                return before

            plane.host_queries.registered = behind  # type: ignore[method-assign]
            gone = hosts.HostWentOffline(hostname="web2", heartbeat_seq=2, heartbeat={}, cause="a test")
            await plane.record(gone)
            await plane.run("t1", target=Group("web"))
            await plane.recorded(SENT, number=2)

        assert {message.routing_key for message in plane.tap.published} == {"cmd.node.web1", "cmd.node.web2"}

    async def test_a_group_of_which_one_is_offline_gets_its_messages_host_by_host(self, plane: Plane) -> None:
        async with plane.agent("web1", "web") as web1, plane.dispatching():
            await plane.comes_online("web1", groups=["web"])
            await plane.run("t1", target=Group("web"))
            await web1.received()
            [event] = await plane.recorded(RETURNED)

        assert web1.routes == ["cmd.node.web1"]
        assert isinstance(event, tasks.ExecutionReturned)
        assert event.hostname == "web2"

    async def test_what_is_delivered_late_goes_host_by_host_though_the_whole_group_is_there(self, plane: Plane) -> None:
        await plane.register("solo1", groups=["solo"])
        async with plane.dispatching():
            await plane.run("t1", target=Group("solo"))
            await plane.recorded(RETURNED)
            async with plane.agent("solo1", "solo") as solo:
                await plane.comes_online("solo1", groups=["solo"])
                await solo.received()

        assert solo.routes == ["cmd.node.solo1"]

    async def test_whoever_takes_over_sends_host_by_host(self, plane: Plane) -> None:
        await plane.register("solo1", groups=["solo"])
        async with plane.agent("solo1", "solo") as solo:
            await plane.comes_online("solo1", groups=["solo"])
            await plane.run("t1", target=Group("solo"))
            async with plane.dispatching():
                await solo.received()

        assert solo.routes == ["cmd.node.solo1"]

    async def test_a_host_that_was_regrouped_since_the_list_was_frozen_means_host_by_host(self, plane: Plane) -> None:
        async with plane.agent("web1", "web") as web1, plane.agent("web2", "web"), plane.dispatching():
            for hostname in ("web1", "web2"):
                await plane.comes_online(hostname, groups=["web"])
            as_of = plane.authority.position
            for groups in ([], ["web"]):
                await plane.hosts.set_groups(ADMIN, "web1", groups)
            task = replace(a_task_accepted("t1", ("web1", "web2"), target={"group": "web"}), as_of=as_of)
            signature = CONTROL_PLANE_KEY.sign(
                AUTHORISATION, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=task.body()
            )
            row = task.to_new_event(actor="ada", signature=signature, key_id=CONTROL_PLANE_KEY.key_id)
            await plane.log.append([row])
            await until(self.has(web1, "t1"))

        assert web1.routes[web1.task_ids().index("t1")] == "cmd.node.web1"

    # --- basic agents

    async def test_a_basic_agent_gets_the_six_fields_and_never_more(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.dispatching():
            await plane.comes_online("web1", agent_version=None, boot_id=None, sequence=None)
            await plane.run("t1", "web1")
            await web1.received()
            await plane.hosts.set_groups(ADMIN, "web1", ["db"])
            await plane.tasks.cancel(ADMIN, "t1", None)
            await self.barrier(plane, "t2", db1)
            await self.barrier(plane, "t3", db1)

        assert [set(message) for message in web1.messages] == [{"task_id", "command", "timeout", "user", "timestamp"}]

    async def test_who_was_registered_by_hand_is_taken_for_basic_until_it_is_heard(self, plane: Plane) -> None:
        await plane.handling.record(a_registration("foreign", by_hand=True), actor="root")
        async with plane.agent("foreign") as foreign, plane.agent("db1") as db1, plane.dispatching():
            await plane.run("t1", "foreign")
            await foreign.received()
            await plane.recorded(SENT)
            await plane.hosts.set_groups(ADMIN, "foreign", ["db"])
            await plane.tasks.cancel(ADMIN, "t1", None)
            await self.barrier(plane, "t2", db1)
            assert [set(message) for message in foreign.messages] == [
                {"task_id", "command", "timeout", "user", "timestamp"}
            ]

            await plane.comes_online("foreign", groups=[])
            await foreign.received(3)

        assert {str(message["kind"]) for message in foreign.messages[1:]} == {"configure", "cancel"}

    async def test_a_new_machine_of_a_name_is_not_what_the_first_one_was(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.dispatching():
            await plane.comes_online("web1")
            await self.replace(plane, "web1")
            await plane.authority.refresh()
            await plane.hosts.set_groups(ADMIN, "web1", ["db"])
            await self.barrier(plane, "t1", db1)
            await self.barrier(plane, "t2", db1)

        assert web1.messages == []

    async def test_what_a_basic_agent_cannot_do_is_skipped_when_it_turns_out_to_be_one(self, plane: Plane) -> None:
        async with plane.dispatching():
            await plane.comes_online("web1", agent_version=None)
            await plane.log.append([self.authorised("t1", "web1", env={"A": "b"})])
            [event] = await plane.recorded(tasks.ExecutionSkipped.KIND)

        assert event == tasks.ExecutionSkipped(task_id="t1", hostname="web1", reason="basic agent: no env")
        assert plane.tap.published == []

    # --- groups

    async def test_a_host_whose_groups_have_changed_is_told(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching():
            await plane.hosts.set_groups(ADMIN, "web1", ["db", "web"])
            await web1.received()

        [message] = web1.messages
        [row] = await plane.rows(hosts.HostGroupsChanged.KIND)
        assert (message["kind"], message["task_id"]) == ("configure", f"configure-{row.seq}")
        assert message["groups"] == {"db": row.seq, "web": 1}
        assert web1.routes == ["cmd.node.web1"]

    async def test_a_host_that_comes_with_other_groups_than_its_own_is_told(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.agent("web2") as web2, plane.dispatching():
            await plane.comes_online("web1", groups=["web"])
            await plane.comes_online("web2", groups=["old"])
            await web2.received()

        assert web2.messages[0]["groups"] == {"web": 2}
        assert web1.messages == []

    async def test_a_host_is_told_the_newest_checkpoint_as_it_comes_online_and_once_an_hour(self, plane: Plane) -> None:
        plane.note = "the newest checkpoint"
        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.dispatching():
            await plane.comes_online("db1", agent_version=None)  # a basic agent is never told anything
            await plane.comes_online("web1", groups=["web"])
            await web1.received()
            plane.clock.advance(3599)
            await plane.run("t1", "web1")
            await web1.received(2)
            plane.clock.advance(1)
            await web1.received(3)
            await plane.run("t2", "db1")
            await db1.received()

        assert [message.get("checkpoint") for message in web1.messages] == [plane.note, None, plane.note]
        assert [message.get("groups") for message in web1.messages] == [{"web": 1}, None, {"web": 1}]
        assert db1.task_ids() == ["t2"]

    @pytest.mark.parametrize(
        "error", [TransportUnavailableError("gone"), PublishUnconfirmedError("unknown")], ids=lambda e: type(e).__name__
    )
    async def test_groups_that_could_not_be_told_are_told_again(self, plane: Plane, error: Exception) -> None:
        plane.tap.answers.append(error)
        async with plane.agent("web1") as web1, plane.dispatching():
            await plane.hosts.set_groups(ADMIN, "web1", [])
            await self.failed(plane, 1)
            plane.clock.advance(1)
            await web1.received()

        assert web1.messages[0]["groups"] == {}

    async def test_a_host_that_goes_on_saying_other_groups_is_told_again_until_it_has_bound_its_own(
        self, plane: Plane
    ) -> None:
        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.dispatching():
            await plane.comes_online("web1", groups=["web"])
            await plane.hosts.set_groups(ADMIN, "web1", ["db"])
            await web1.received()
            await self.beat(plane, "web1", 2, groups=["web"])  # it was lost when the agent started anew
            await plane.shown()
            plane.clock.advance(DRIFT_S - 1)
            await self.barrier(plane, "t1", db1)
            assert len(web1.messages) == 1

            plane.clock.advance(1)
            await web1.received(2)
            await self.beat(plane, "web1", 3, groups=["db"])
            await plane.shown()
            plane.clock.advance(DRIFT_S)
            await self.barrier(plane, "t2", db1)
            await self.barrier(plane, "t3", db1)

        assert [message["groups"] for message in web1.messages] == [web1.messages[0]["groups"]] * 2

    async def test_whoever_takes_over_tells_those_who_have_bound_other_groups(self, plane: Plane) -> None:
        await plane.comes_online("web1", groups=["old"])
        await plane.comes_online("web2", groups=["web"])

        async with plane.agent("web1") as web1, plane.agent("web2") as web2, plane.dispatching():
            await web1.received()

        assert web1.messages[0]["groups"] == {"web": 1}
        assert web2.messages == []


class TestSqliteInProcess(OnSqlite, DispatchFanOutContract):
    pass


@pytest.mark.mysql
@pytest.mark.rabbitmq
class TestMysqlRabbitMQ(OnServers, DispatchFanOutContract):
    pass
