"""What dispatch promises of what it publishes, what comes back, and what is cancelled, on every database and broker."""

import threading
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import insert, select

from control_plane.commands.tasks import message_of
from control_plane.events import hosts, registry, tasks
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.processes import dispatch, post
from control_plane.processes.open_executions import FIRST_RETRY_S
from control_plane.projections.queries.hosts import HostView
from control_plane.projections.tasks import TasksProjection
from control_plane_wire.messages import seal
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE
from control_plane_wire.signing import EVENT as EVENT_TAG
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.transport.base import Message, PublishOutcome
from tests.support.events import a_task_accepted
from tests.support.fleet import ADMIN, CONTROL_PLANE_KEY
from tests.support.plane import Plane, until
from tests.support.process_contract import (
    RETURNED,
    SENT,
    SOMEBODY,
    OnServers,
    OnSqlite,
    ProcessContract,
    returned,
)


class DispatchContract(ProcessContract):
    # --- what is published

    async def test_an_accepted_task_reaches_its_host_signed_and_is_recorded_as_sent(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.agent("web2") as web2, plane.dispatching():
            seq = await plane.run("t1", "web1", env={"LANG": "C"})
            await web1.received()
            events = await plane.recorded(SENT)

        stored = await plane.log.read_one(EVENT, seq)
        assert stored is not None
        task = registry.decode(stored)
        assert isinstance(task, tasks.TaskAccepted)
        assert web1.messages == [message_of(task).to_json()]
        assert web1.routes == ["cmd.node.web1"]
        assert events == [tasks.ExecutionSent(task_id="t1", hostname="web1", route="cmd.node.web1", after_seq=seq)]
        assert web2.messages == []

    async def test_what_was_accepted_while_nobody_dispatched_is_published_in_its_order(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1:
            for number in range(5):
                await plane.run(f"t{number}", "web1")
            async with plane.dispatching():
                await web1.received(5)

        assert web1.task_ids() == ["t0", "t1", "t2", "t3", "t4"]

    @pytest.mark.parametrize("forgery", ["unsigned", "by somebody", "edited", "for another kind"])
    async def test_what_nobody_authorised_is_counted_and_never_published(self, plane: Plane, forgery: str) -> None:
        forged = a_task_accepted("forged", ("web1",), command="rm -rf /")
        signers = {
            "unsigned": None,
            "by somebody": SOMEBODY.sign(
                AUTHORISATION, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=forged.body()
            ),
            "edited": CONTROL_PLANE_KEY.sign(
                AUTHORISATION,
                sender=CONTROL_PLANE,
                recipient=CONTROL_PLANE,
                body=replace(forged, hosts=("db1",)).body(),
            ),
            "for another kind": CONTROL_PLANE_KEY.sign(
                EVENT_TAG, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=forged.body()
            ),
        }
        row = forged.to_new_event(actor="ada", signature=signers[forgery], key_id=CONTROL_PLANE_KEY.key_id)

        async with plane.agent("web1") as web1, plane.dispatching():
            await plane.log.append([row])
            await plane.run("honest", "web1")
            await web1.received()
            await plane.recorded(SENT)

        assert web1.task_ids() == ["honest"]
        assert [message.correlation_id for message in plane.tap.published] == ["honest"]
        assert plane.counts["events_refused"] == 1

    async def test_a_forged_task_that_was_there_before_is_not_published_either(self, plane: Plane) -> None:
        forged = a_task_accepted("forged", ("web1",)).to_new_event(actor="ada")

        async with plane.agent("web1") as web1:
            await plane.log.append([forged])
            await plane.run("honest", "web1")
            await plane.shown()
            async with plane.dispatching():
                await web1.received()
                await plane.recorded(SENT)

        assert web1.task_ids() == ["honest"]
        assert [message.correlation_id for message in plane.tap.published] == ["honest"]

    async def test_a_read_table_that_names_a_host_which_is_not_on_the_list_sends_it_nothing(self, plane: Plane) -> None:
        await plane.run("t1", "web1")
        await plane.shown()
        table = TasksProjection().execution
        async with plane.database.write() as connection:
            row = (await connection.execute(select(table).where(table.c.hostname == "web1"))).mappings().one()
            await connection.execute(insert(table).values({**row, "hostname": "db1"}))

        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.dispatching():
            await web1.received()
            await plane.run("t2", "db1")
            await db1.received()
            await plane.recorded(SENT, number=2)

        assert db1.task_ids() == ["t2"]
        assert web1.task_ids() == ["t1"]

    async def test_a_revoked_host_is_sent_nothing(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.agent("web2") as web2, plane.dispatching():
            await plane.comes_online("web2")
            await plane.hosts.revoke(ADMIN, "web1", None)
            await plane.log.append([self.authorised("t1", "web1", "web2")])
            await web2.received()
            await plane.recorded(SENT)

        assert web1.messages == []

    async def test_a_name_that_belongs_to_another_machine_by_now_is_not_sent_what_was_for_the_first(
        self, plane: Plane
    ) -> None:
        async with plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
            other = await self.replace(plane, "web1")
            await other.run("t2", "web1")
            async with plane.agent("web1") as another:
                await plane.comes_online("web1", boot_id="b2")
                [event] = await plane.recorded(tasks.ExecutionSkipped.KIND)
                await until(self.has(another, "t2"))

        assert set(another.task_ids()) == {"t2"}
        assert event == tasks.ExecutionSkipped(
            task_id="t1", hostname="web1", reason="the name belongs to another machine by now"
        )

    async def test_what_the_first_machine_may_have_run_is_not_skipped_and_not_cancelled_on_the_second(
        self, plane: Plane
    ) -> None:
        async with plane.agent("web1") as first, plane.agent("db1") as db1, plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(SENT)
            await self.replace(plane, "web1")
            await plane.comes_online("web1", boot_id="b2")
            await plane.tasks.cancel(ADMIN, "t1", None)
            plane.clock.advance(FIRST_RETRY_S)
            await self.barrier(plane, "t2", db1)

        assert [message.get("kind", "command") for message in first.messages] == ["command"]
        assert await plane.events(tasks.ExecutionSkipped.KIND, tasks.ExecutionCancelled.KIND) == []

    async def test_a_host_that_another_process_has_just_registered_is_sent_its_first_task(self, plane: Plane) -> None:
        other = plane.beside()
        async with plane.agent("new1") as new1, plane.dispatching():
            await other.register_quietly("new1")
            await other.run("t1", "new1")

            await new1.received()

        assert new1.task_ids() == ["t1"]

    async def test_many_are_published_some_at_a_time_and_each_host_has_its_tasks_in_their_order(
        self, plane: Plane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dispatch, "CHUNK", 4)
        for number in range(5):
            await plane.run(f"t{number}", "web1", "web2", "db1")
        async with AsyncExitStack() as stack:
            agents = [await stack.enter_async_context(plane.agent(name)) for name in ("web1", "web2", "db1")]
            await stack.enter_async_context(plane.dispatching())
            for agent in agents:
                await agent.received(5)
            await plane.recorded(SENT, number=15)

        assert [agent.task_ids() for agent in agents] == [["t0", "t1", "t2", "t3", "t4"]] * 3
        assert plane.tap.most_at_once == 4

    async def test_few_are_signed_at_once_and_many_by_a_thread(
        self, plane: Plane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        threads: dict[str, set[int]] = {}

        def seal_and_tell(message: JsonObject, *given: Any, **more: Any) -> bytes:
            threads.setdefault(str(message["task_id"]), set()).add(threading.get_ident())
            return seal(message, *given, **more)

        monkeypatch.setattr(post, "INLINE", 2)
        monkeypatch.setattr(post, "seal", seal_and_tell)
        async with plane.dispatching():
            await plane.run("few", "web1", "web2")
            await plane.recorded(RETURNED, number=2)
            await plane.run("many", "web1", "web2", "db1")
            await plane.recorded(RETURNED, number=5)

        assert threads["few"] == {threading.get_ident()}
        assert threads["many"].isdisjoint({threading.get_ident()})

    async def test_what_expires_while_others_are_published_before_it_is_not_published(
        self, plane: Plane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dispatch, "CHUNK", 1)
        publish = plane.tap.publish

        async def take_a_minute(message: Message) -> PublishOutcome:
            plane.clock.advance(60)
            return await publish(message)

        plane.tap.publish = take_a_minute  # type: ignore[method-assign]
        async with plane.agent("web1"), plane.dispatching():
            seq = await plane.run("t1", "web1", "web2", expires_in=60)
            assert await plane.recorded(RETURNED) == [returned("t1", "web2", seq)]

        assert [message.routing_key for message in plane.tap.published] == ["cmd.node.web1"]

    # --- what comes back

    async def test_what_nobody_is_bound_for_is_recorded_as_returned_and_sent_when_the_host_comes(
        self, plane: Plane
    ) -> None:
        async with plane.dispatching():
            seq = await plane.run("t1", "web1")
            assert await plane.recorded(RETURNED) == [
                tasks.ExecutionReturned(task_id="t1", hostname="web1", trigger_seq=seq)
            ]

            async with plane.agent("web1") as web1:
                await plane.comes_online("web1")
                await web1.received()
                await plane.recorded(SENT)

        assert web1.task_ids() == ["t1"]

    async def test_a_host_that_comes_and_is_gone_again_is_recorded_as_returned_for_that_coming(
        self, plane: Plane
    ) -> None:
        async with plane.dispatching():
            seq = await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
            online = await plane.comes_online("web1")
            events = await plane.recorded(RETURNED, number=2)

        assert [e.trigger_seq for e in events if isinstance(e, tasks.ExecutionReturned)] == [seq, online]

    async def test_a_host_that_seems_online_and_whose_command_came_back_is_said_to_be_offline(
        self, plane: Plane
    ) -> None:
        await plane.comes_online("web1", cpu_usage=0.5)
        [beat] = await plane.events(hosts.HeartbeatReceived.KIND, log=HEARTBEAT_EVENT)
        assert isinstance(beat, hosts.HeartbeatReceived)

        async with plane.dispatching():
            await plane.run("t1", "web1")
            [event] = await plane.recorded(hosts.HostWentOffline.KIND)

        assert event == hosts.HostWentOffline(
            hostname="web1", heartbeat_seq=1, heartbeat=beat.message, cause="a command came back: its queue is gone"
        )

    async def test_it_is_said_to_be_offline_though_the_table_has_not_seen_it_come(self, plane: Plane) -> None:
        async with plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
            before = await plane.host_queries.by_name(["web1"])

            async def behind(_names: Collection[str]) -> dict[str, HostView]:
                return before

            plane.host_queries.by_name = behind  # type: ignore[method-assign]
            await plane.comes_online("web1", cpu_usage=0.5)
            [event] = await plane.recorded(hosts.HostWentOffline.KIND)

            async with plane.agent("web1") as web1:
                await plane.comes_online("web1", 2)
                await web1.received()

        assert isinstance(event, hosts.HostWentOffline)
        assert (event.hostname, event.heartbeat_seq, event.heartbeat["cpu_usage"]) == ("web1", 1, 0.5)
        assert web1.task_ids() == ["t1"]

    async def test_whoever_was_said_to_be_offline_is_not_said_to_be_so_again(self, plane: Plane) -> None:
        async with plane.dispatching(), plane.agent("db1") as db1:
            await plane.comes_online("web1")
            await plane.run("t1", "web1")
            await plane.recorded(hosts.HostWentOffline.KIND)
            await plane.run("t2", "web1")
            await self.barrier(plane, "t3", db1)

        assert len(await plane.events(hosts.HostWentOffline.KIND)) == 1

    async def test_a_task_that_skips_whoever_is_offline_is_over_for_them_when_it_comes_back(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching():
            await plane.run("t1", "web1", "web2", when_offline="skip")
            await web1.received()
            events = await plane.recorded(tasks.ExecutionSkipped.KIND)

        assert events == [tasks.ExecutionSkipped(task_id="t1", hostname="web2", reason="the host is offline")]
        assert await plane.events(RETURNED) == []

    async def test_nothing_is_published_at_its_expiry_or_after(self, plane: Plane) -> None:
        async with plane.dispatching(), plane.agent("web2") as web2:
            await plane.run("t1", "web1", expires_in=60)
            await plane.recorded(RETURNED)
            plane.clock.advance(60)

            async with plane.agent("web1") as web1:
                await plane.comes_online("web1")
                await plane.run("t2", "web2")
                await web2.received()
                await plane.recorded(SENT)
                assert web1.messages == []

        assert [message.correlation_id for message in plane.tap.published] == ["t1", "t2"]

    async def test_a_moment_before_its_expiry_it_is_published_and_lives_no_longer_in_the_queue(
        self, plane: Plane
    ) -> None:
        async with plane.dispatching():
            await plane.run("t1", "web1", expires_in=60)
            await plane.recorded(RETURNED)
            plane.clock.advance(57)
            async with plane.agent("web1") as web1:
                await plane.comes_online("web1")
                await web1.received()

        assert [message.expiration_s for message in plane.tap.published] == [60, 3]

    # --- cancelling

    async def test_what_was_certainly_not_delivered_is_cancelled_without_a_word(self, plane: Plane) -> None:
        async with plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
            await plane.tasks.cancel(ADMIN, "t1", "wrong host")
            events = await plane.recorded(tasks.ExecutionCancelled.KIND)

            async with plane.agent("web1") as web1, plane.agent("db1") as db1:
                await plane.comes_online("web1")
                await self.barrier(plane, "t2", db1)
                assert web1.messages == []

        assert events == [
            tasks.ExecutionCancelled(task_id="t1", hostname="web1", reason="cancelled before it was delivered")
        ]

    async def test_what_was_perhaps_delivered_is_told_to_be_cancelled_and_is_not_published_again(
        self, plane: Plane
    ) -> None:
        async with plane.agent("web1") as web1, plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(SENT)
            await plane.tasks.cancel(ADMIN, "t1", None)
            await web1.received(2)
            plane.clock.advance(FIRST_RETRY_S)
            await web1.received(3)

        assert [message.get("kind", "command") for message in web1.messages] == ["command", "cancel", "cancel"]
        assert await plane.events(tasks.ExecutionCancelled.KIND) == []

    async def test_what_runs_on_a_host_that_was_revoked_may_still_be_cancelled(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(SENT)
            await plane.hosts.revoke(ADMIN, "web1", None)
            await plane.tasks.cancel(ADMIN, "t1", None)
            await web1.received(2)

        assert [message.get("kind", "command") for message in web1.messages] == ["command", "cancel"]

    async def test_a_forged_wish_to_cancel_cancels_nothing_and_is_counted(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(SENT)
            await plane.record(tasks.TaskCancelRequested(task_id="t1", actor="root"))
            await self.barrier(plane, "t2", db1)

        assert web1.task_ids() == ["t1"]
        assert plane.counts["events_refused"] == 1


class TestSqliteInProcess(OnSqlite, DispatchContract):
    pass


@pytest.mark.mysql
@pytest.mark.rabbitmq
class TestMysqlRabbitMQ(OnServers, DispatchContract):
    pass
