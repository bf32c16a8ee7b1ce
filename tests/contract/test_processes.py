"""What dispatch, deadlines and presence promise, on every database and broker."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from control_plane.commands.rollouts import Rollout
from control_plane.commands.targets import All, Group
from control_plane.commands.tasks import message_of
from control_plane.events import hosts, registry, tasks
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName, StoredEvent
from control_plane.events.rollouts import ExecutionReleased
from control_plane.processes import dispatch, post
from control_plane.processes.configures import DRIFT_S
from control_plane.processes.deadlines import verdict
from control_plane.processes.open_executions import FIRST_RETRY_S
from control_plane.processes.presence import HEARING
from control_plane.projections.queries.hosts import HostView
from control_plane.projections.tasks import TasksProjection
from control_plane_wire.errors import PublishUnconfirmedError, TransportUnavailableError
from control_plane_wire.messages import ALLOWED_SKEW_S, seal
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE, SigningKey
from control_plane_wire.signing import EVENT as EVENT_TAG
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.transport.base import Message, PublishOutcome, Transport
from control_plane_wire.transport.inprocess import InProcessBroker
from control_plane_wire.transport.rabbitmq import RabbitTransport
from tests.support.database import sqlite_url
from tests.support.events import AT, a_task_accepted
from tests.support.fleet import ADMIN, CONTROL_PLANE_KEY, a_registration, host_key
from tests.support.plane import Plane, a_plane, until

SOMEBODY = SigningKey.from_bytes(b"\x66" * 32)
SENT = tasks.ExecutionSent.KIND
RETURNED = tasks.ExecutionReturned.KIND
UNCONFIRMED = tasks.ExecutionUnconfirmed.KIND


def heard(task_id: str, hostname: str, **changes: Any) -> tasks.ExecutionAccepted:
    """What ingest records when the agent says that it has journalled a task."""
    message: JsonObject = {"kind": "accepted", "task_id": task_id, "timestamp": AT, **changes}
    return tasks.ExecutionAccepted(message=message, hostname=hostname)


def runs(task_id: str, hostname: str, *, started_at: int) -> tasks.ExecutionStarted:
    """What ingest records when the agent says that it has started it."""
    message: JsonObject = {"kind": "accepted", "task_id": task_id, "timestamp": AT, "started_at": started_at}
    return tasks.ExecutionStarted(message=message, hostname=hostname)


def returned(task_id: str, hostname: str, trigger_seq: int) -> tasks.ExecutionReturned:
    return tasks.ExecutionReturned(task_id=task_id, hostname=hostname, trigger_seq=trigger_seq)


def done(task_id: str, hostname: str) -> tasks.ExecutionFinished:
    message: JsonObject = {"task_id": task_id, "exit_code": 0, "stdout": "", "stderr": "", "timestamp": AT}
    return tasks.ExecutionFinished(message=message, hostname=hostname)


class ProcessContract:
    @pytest.fixture
    async def plane(self, url: str, transport: Transport) -> AsyncIterator[Plane]:
        async with a_plane(url, transport) as plane:
            await plane.register("web1", "web2", groups=["web"])
            await plane.register("db1")
            yield plane

    # --- dispatch: what is published

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
        assert events == [tasks.ExecutionSent(task_id="t1", hostname="web1", route="cmd.node.web1")]
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

    async def replace(self, plane: Plane, hostname: str) -> Plane:
        """Another process, which has given the name to another machine."""
        other = plane.beside()
        await other.authority.refresh()
        await other.hosts.retire(ADMIN, hostname, None)
        await other.hosts.register(ADMIN, hostname=hostname, public_key=host_key("another").public_key, groups=[])
        return other

    def authorised(self, task_id: str, *hostnames: str, **request: Any) -> Any:
        """A task that was authorised for these hosts, whatever has become of them since."""
        task = a_task_accepted(task_id, hostnames, **request)
        signature = CONTROL_PLANE_KEY.sign(
            AUTHORISATION, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=task.body()
        )
        return task.to_new_event(actor="ada", signature=signature, key_id=CONTROL_PLANE_KEY.key_id)

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

    # --- dispatch: what comes back

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

    # --- dispatch: what nobody knows

    async def test_a_publish_of_which_nobody_knows_is_recorded_and_done_again_with_the_same_bytes(
        self, plane: Plane
    ) -> None:
        plane.tap.answers.append(PublishUnconfirmedError("no confirm"))
        async with plane.agent("web1") as web1, plane.dispatching():
            await plane.run("t1", "web1")
            assert await plane.recorded(UNCONFIRMED) == [tasks.ExecutionUnconfirmed(task_id="t1", hostname="web1")]
            plane.clock.advance(1)
            await web1.received()
            await plane.recorded(SENT)

        first, second = plane.tap.published
        assert (first.body, first.routing_key) == (second.body, second.routing_key)

    async def test_a_publish_that_was_not_sent_says_nothing_of_delivery_and_is_done_again(self, plane: Plane) -> None:
        plane.tap.answers.append(TransportUnavailableError("no session"))
        async with plane.agent("web1") as web1, plane.dispatching():
            await plane.run("t1", "web1")
            await self.failed(plane, 1)
            plane.clock.advance(1)
            await web1.received()
            await plane.recorded(SENT)

        assert await plane.events(UNCONFIRMED, RETURNED) == []

    @staticmethod
    async def failed(plane: Plane, attempts: int) -> None:
        """Wait until so many publishes have failed and the next one is planned: only then may the clock go on."""

        async def have() -> bool:
            return plane.passed.times["dispatch.after_publish"] >= attempts

        await until(have)

    @staticmethod
    def has_published(plane: Plane, number: int) -> Any:
        async def has() -> bool:
            return len(plane.tap.published) >= number

        return has

    async def test_a_confirm_without_an_answer_is_no_delivery_and_an_answer_ends_it(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(SENT)
            plane.clock.advance(FIRST_RETRY_S)
            await web1.received(2)
            plane.clock.advance(2 * FIRST_RETRY_S)
            await web1.received(3)

            await plane.record(heard("t1", "web1"))
            await self.barrier(plane, "t2", db1)
            plane.clock.advance(200)
            await self.barrier(plane, "t3", db1)

        assert web1.task_ids() == ["t1"] * 3
        assert len(set(web1.bodies)) == 1
        assert len(await plane.events(SENT)) == 3  # one for each task

    async def barrier(self, plane: Plane, task_id: str, agent: Any) -> None:
        """Wait until dispatch has dealt with all that was there before: it takes events in their order."""
        await plane.run(task_id, agent.hostname)
        await until(self.has(agent, task_id))
        await plane.record(done(task_id, agent.hostname))

    @staticmethod
    def has(agent: Any, task_id: str) -> Any:
        async def has() -> bool:
            return task_id in agent.task_ids()

        return has

    async def test_a_host_that_comes_back_is_sent_again_what_it_has_not_answered(self, plane: Plane) -> None:
        async with plane.dispatching():
            async with plane.agent("web1") as first:
                await plane.run("t1", "web1")
                await plane.run("t2", "web1")
                await first.received(2)
                await plane.recorded(SENT, number=2)
                await plane.record(heard("t2", "web1"))
            async with plane.agent("web1") as second, plane.agent("db1") as db1:
                await plane.comes_online("web1")
                await second.received(1)
                await self.barrier(plane, "t3", db1)

        assert second.task_ids() == ["t1"]
        assert second.bodies[0] == first.bodies[0]

    # --- dispatch: another one takes over

    async def test_whoever_takes_over_counts_what_has_no_record_as_perhaps_delivered(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1:
            plane.tap.hangs = True
            async with AsyncExitStack() as stack:
                dying = asyncio.create_task(plane.dispatch().run(asyncio.Event()))
                stack.callback(dying.cancel)
                await plane.run("t1", "web1")
                await until(self.has_published(plane, 1))
            await asyncio.wait([dying])
            await plane.crash()

            other = plane.beside()
            async with other.dispatching():
                assert await plane.recorded(UNCONFIRMED) == [tasks.ExecutionUnconfirmed(task_id="t1", hostname="web1")]
                await web1.received()

        assert web1.task_ids() == ["t1"]

    async def test_whoever_takes_over_believes_a_return_and_publishes_only_when_the_host_comes(
        self, plane: Plane
    ) -> None:
        async with plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
        await plane.shown()

        other = plane.beside()
        async with other.dispatching(), plane.agent("web1") as web1, plane.agent("db1") as db1:
            await self.barrier(plane, "t2", db1)
            assert web1.messages == []
            await plane.comes_online("web1")
            await web1.received()

        assert web1.task_ids() == ["t1"]
        assert await plane.events(UNCONFIRMED) == []

    async def test_what_is_accepted_while_somebody_takes_over_was_certainly_not_published_before(
        self, plane: Plane
    ) -> None:
        wait_for = plane.hub.wait_for

        async def wait_meanwhile(name: str, event_seq: int, **given: Any) -> bool:
            await plane.run("t1", "web1", when_offline="skip")
            await plane.shown()
            plane.hub.wait_for = wait_for  # type: ignore[method-assign]
            return await wait_for(name, event_seq, **given)

        plane.hub.wait_for = wait_meanwhile  # type: ignore[method-assign]
        async with plane.dispatching():
            await plane.recorded(tasks.ExecutionSkipped.KIND)

        assert await plane.events(UNCONFIRMED) == []

    async def test_a_return_from_before_the_host_came_online_is_no_record_of_what_was_published_then(
        self, plane: Plane
    ) -> None:
        async with plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
        await plane.comes_online("web1")

        async with plane.beside().dispatching():
            assert await plane.recorded(UNCONFIRMED) == [tasks.ExecutionUnconfirmed(task_id="t1", hostname="web1")]

    async def test_of_two_that_would_dispatch_one_does(self, plane: Plane) -> None:
        other = plane.beside()
        async with plane.agent("web1") as web1, plane.dispatching(), other.dispatching(at_once=True):
            for number in range(5):
                await plane.run(f"t{number}", "web1")
            await web1.received(5)
            await plane.recorded(SENT, number=5)

        assert web1.task_ids() == ["t0", "t1", "t2", "t3", "t4"]
        assert not (plane.tap.published and other.tap.published)

    async def test_one_that_is_stopped_before_it_knows_what_is_open_says_nothing_of_it(self, plane: Plane) -> None:
        async with plane.dispatching():
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
        await plane.shown()
        stop = asyncio.Event()
        stop.set()
        blind = plane.beside()
        blind.hub.wait_for = self.never  # type: ignore[method-assign]

        await blind.dispatch()._work(stop)

        assert await plane.events(UNCONFIRMED) == []

    @staticmethod
    async def never(name: str, event_seq: int, **_given: Any) -> bool:
        return False

    async def test_whoever_takes_over_knows_of_hosts_all_that_it_will_not_read_itself(self, plane: Plane) -> None:
        waited: list[tuple[str, int, int]] = []
        wait_for = plane.hub.wait_for

        async def note(name: str, event_seq: int, *, heartbeat_seq: int = 0) -> bool:
            waited.append((name, event_seq, heartbeat_seq))
            return await wait_for(name, event_seq, heartbeat_seq=heartbeat_seq)

        plane.hub.wait_for = note  # type: ignore[method-assign, assignment]
        online = await plane.comes_online("web1")
        async with plane.dispatching():
            pass

        assert waited == [("tasks", online, 0), ("hosts", online, 1)]

    # --- dispatch: one message for many

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

    # --- dispatch: basic agents

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

    # --- dispatch: cancelling

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

    # --- dispatch: groups

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

    # --- deadlines

    async def test_what_never_reached_its_host_expires_and_what_was_sent_is_lost(self, plane: Plane) -> None:
        deadlines = plane.deadlines()
        async with plane.agent("web1"), plane.dispatching():
            await plane.run("t1", "web1", "web2", timeout=30, expires_in=60)
            await plane.recorded(SENT)
            await plane.recorded(RETURNED)

        plane.clock.advance(60 + ALLOWED_SKEW_S)
        assert await deadlines.decide() == 0
        plane.clock.advance(1)
        assert await deadlines.decide() == 1
        plane.clock.advance(30 + 180 - 1)
        assert await deadlines.decide() == 0
        plane.clock.advance(1)
        assert await deadlines.decide() == 1
        assert await deadlines.decide() == 0

        found = await plane.events(tasks.ExecutionExpired.KIND, tasks.ExecutionLost.KIND)
        assert [(e.KIND, e.hostname) for e in found if hasattr(e, "hostname")] == [
            ("execution.expired", "web2"),
            ("execution.lost", "web1"),
        ]

    async def test_what_was_never_dispatched_is_lost_and_not_expired(self, plane: Plane) -> None:
        """Nobody has said that it came back: perhaps a dispatch that died has published it."""
        await plane.run("t1", "web1", timeout=30, expires_in=60)
        plane.clock.advance(100_000)

        assert await plane.deadlines().decide() == 1

        assert len(await plane.events(tasks.ExecutionLost.KIND)) == 1

    async def test_the_table_gives_exactly_those_whose_silence_is_an_outcome(self, plane: Plane) -> None:
        """What may run for a day yet is not read again each second, and stands before nobody."""
        names = {"unknown": "db1", "taken": "db1", "runs": "db1", "over": "db1"}
        came_back = {"returned": "web2", "back": "web1", "twice": "web1"}
        for timeout in (60, 86_400):
            for name, hostname in (names | came_back).items():
                seq = await plane.run(f"{name}-{timeout}", hostname, timeout=timeout, expires_in=30)
                if name in came_back:
                    await plane.record(returned(f"{name}-{timeout}", hostname, seq))
            await plane.record(heard(f"taken-{timeout}", "db1"))
            await plane.record(runs(f"runs-{timeout}", "db1", started_at=AT))
            await plane.record(done(f"over-{timeout}", "db1"))
            for name in ("unreleased", "released", "released and back"):
                task_id = f"{name.replace(' ', '_')}-{timeout}"
                await plane.run(task_id, "web1", timeout=timeout, expires_in=30, rollout=Rollout())
                if name != "unreleased":
                    seq = await plane.record(ExecutionReleased(task_id=task_id, hostname="web1"))
                if name == "released and back":
                    await plane.record(returned(task_id, "web1", seq))
        online = await plane.comes_online("web1")
        for timeout in (60, 86_400):
            await plane.record(returned(f"twice-{timeout}", "web1", online))
        await plane.shown()

        _, known = await plane.task_queries.open_executions()
        for seconds in (30, 150, 151, 240, 241, 390, 391, 86_580, 86_581, 86_730, 86_731):
            due = {e.task_id for e in known if verdict(e, AT + seconds) is not None}
            found = await plane.task_queries.overdue(AT + seconds, limit=100)
            assert {e.task_id for e in found} == due, seconds
        assert len(due) == len(known) == 18

    @pytest.mark.parametrize("started_at", [AT - 600, AT, 253_402_300_799], ids=["slow", "right", "year 9999"])
    async def test_the_hosts_own_clock_neither_ends_what_runs_nor_keeps_it_open(
        self, plane: Plane, started_at: int
    ) -> None:
        deadlines = plane.deadlines()
        await plane.run("t1", "web1", timeout=60)
        await plane.record(runs("t1", "web1", started_at=started_at))

        plane.clock.advance(60 + 180)
        assert await deadlines.decide() == 0
        plane.clock.advance(1)
        assert await deadlines.decide() == 1

        assert len(await plane.events(tasks.ExecutionLost.KIND)) == 1

    async def test_a_host_that_comes_after_the_expiry_has_certainly_not_been_sent_it(self, plane: Plane) -> None:
        async with plane.dispatching(), plane.agent("web1"):
            await plane.comes_online("web2")
            seq = await plane.run("t1", "web2", timeout=30, expires_in=60)
            await plane.recorded(RETURNED)
            plane.clock.advance(60)
            online = await plane.comes_online("web2", 2)
            events = await plane.recorded(RETURNED, number=2)

        assert events == [returned("t1", "web2", seq), returned("t1", "web2", online)]
        assert len(plane.tap.published) == 1
        await self.expires(plane)

    async def test_what_no_broker_ever_took_has_certainly_not_been_sent(self, plane: Plane) -> None:
        plane.tap.answers.extend([TransportUnavailableError("no session")] * 100)
        async with plane.dispatching():
            seq = await plane.run("t1", "web1", timeout=30, expires_in=600)
            for attempts in range(1, 10):  # the last pause but one would be longer than what is left
                await self.failed(plane, attempts)
                plane.clock.advance(2 ** (attempts - 1))
            plane.clock.advance(600 - 511)
            assert await plane.recorded(RETURNED) == [returned("t1", "web1", seq)]

        await self.expires(plane)

    async def test_what_no_broker_ever_took_is_lost_when_nobody_is_left_to_say_so(self, plane: Plane) -> None:
        """Between two attempts dispatch dies: whoever takes over cannot tell it from one that died while publishing."""
        plane.tap.answers.append(TransportUnavailableError("no session"))
        async with plane.dispatching():
            await plane.run("t1", "web1", timeout=30, expires_in=60)
            await until(self.has_published(plane, 1))
        plane.clock.advance(60)
        async with plane.beside().dispatching():
            await plane.recorded(UNCONFIRMED)

        assert await plane.events(RETURNED) == []
        plane.clock.advance(100_000)
        assert await plane.deadlines().decide() == 1
        assert len(await plane.events(tasks.ExecutionLost.KIND)) == 1

    async def test_what_was_never_published_to_a_revoked_host_expires(self, plane: Plane) -> None:
        async with plane.dispatching():
            await plane.hosts.revoke(ADMIN, "web1", None)
            await plane.log.append([self.authorised("t1", "web1")])
            await plane.recorded(RETURNED)

        assert plane.tap.published == []
        plane.clock.advance(600)
        await self.expires(plane)

    async def test_what_may_have_reached_a_host_before_it_was_revoked_is_lost(self, plane: Plane) -> None:
        plane.tap.answers.append(PublishUnconfirmedError("no confirm"))
        async with plane.dispatching(), plane.agent("db1") as db1:
            await plane.run("t1", "web1")
            await plane.recorded(UNCONFIRMED)
            await plane.hosts.revoke(ADMIN, "web1", None)
            plane.clock.advance(1)
            await self.barrier(plane, "t2", db1)

        assert await plane.events(RETURNED) == []
        plane.clock.advance(100_000)
        assert await plane.deadlines().decide() == 1
        assert len(await plane.events(tasks.ExecutionLost.KIND)) == 1

    # --- quarantine

    async def quarantined(self, plane: Plane, hostname: str) -> int:
        event = hosts.HostQuarantined(
            hostname=hostname,
            heartbeat_seq=1,
            key_id=host_key(hostname).key_id,
            reason="its journal went back in time",
            before="200",
            after="100",
        )
        outcome = await plane.handling.record(event, actor="presence")
        await plane.shown()
        return outcome.seq

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

    async def expires(self, plane: Plane) -> None:
        """What is open ends as expired, when no agent would start it any more."""
        plane.clock.advance(ALLOWED_SKEW_S + 1)
        assert await plane.deadlines().decide() == 1
        assert len(await plane.events(tasks.ExecutionExpired.KIND)) == 1

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

    # --- presence

    async def test_a_host_is_online_when_it_is_heard_and_offline_after_three_intervals(self, plane: Plane) -> None:
        async with plane.watching():
            beat = await self.beat(plane, "web1", 1)
            [online] = await plane.recorded(hosts.HostWentOnline.KIND)
            plane.clock.advance(29)
            await self.beat(plane, "web2", 1)
            await plane.recorded(hosts.HostWentOnline.KIND, number=2)
            plane.clock.advance(1)
            [offline] = await plane.recorded(hosts.HostWentOffline.KIND)

        assert isinstance(online, hosts.HostWentOnline)
        assert (online.hostname, online.heartbeat_seq, online.heartbeat) == ("web1", 1, beat)
        assert isinstance(offline, hosts.HostWentOffline)
        assert (offline.hostname, offline.heartbeat_seq, offline.heartbeat) == ("web1", 1, beat)

    async def beat(self, plane: Plane, hostname: str, sequence: int, **changes: Any) -> JsonObject:
        message: JsonObject = {
            "hostname": hostname,
            "status": "online",
            "timestamp": plane.clock.now_s(),
            "cpu_usage": 0.1,
            "memory_usage": 0.2,
            "agent_version": "1.0",
            "boot_id": "b1",
            "sequence": sequence,
            **changes,
        }
        await plane.record(hosts.HeartbeatReceived(message=message))
        return message

    async def test_whoever_takes_over_says_nothing_twice_and_misses_nobody_before_its_time(self, plane: Plane) -> None:
        async with plane.watching():
            await self.beat(plane, "web1", 1)
            await plane.recorded(hosts.HostWentOnline.KIND)
        await plane.shown()
        plane.clock.advance(1000)

        async with plane.beside().watching():
            await self.beat(plane, "web2", 1)
            await plane.recorded(hosts.HostWentOnline.KIND, number=2)
            plane.clock.advance(29)
            await self.beat(plane, "db1", 1)
            await plane.recorded(hosts.HostWentOnline.KIND, number=3)
            assert await plane.events(hosts.HostWentOffline.KIND) == []
            plane.clock.advance(1)
            await plane.recorded(hosts.HostWentOffline.KIND)

        assert len(await plane.events(hosts.HostWentOnline.KIND)) == 3

    async def test_whoever_takes_over_notices_that_an_agent_has_connected_anew_meanwhile(self, plane: Plane) -> None:
        async with plane.watching():
            await self.beat(plane, "web1", 1, session=1)
            await plane.recorded(hosts.HostWentOnline.KIND)
        await plane.shown()

        async with plane.beside().watching():
            await self.beat(plane, "web1", 2, session=2)
            [_, anew] = await plane.recorded(hosts.HostWentOnline.KIND, number=2)

        assert isinstance(anew, hosts.HostWentOnline)
        assert (anew.heartbeat_seq, anew.cause) == (2, "the agent connected anew")

    async def journal(self, plane: Plane, sequence: int, head: int, **changes: Any) -> None:
        """A heartbeat as ingest records it, with the key that signed it."""
        message: JsonObject = {
            "hostname": "web1",
            "status": "online",
            "timestamp": plane.clock.now_s(),
            "cpu_usage": 0.1,
            "memory_usage": 0.2,
            "agent_version": "1.0",
            "boot_id": "b1",
            "sequence": sequence,
            "journal_head": head,
            **changes,
        }
        heartbeat = hosts.HeartbeatReceived(message=message)
        await plane.log.append([heartbeat.to_new_event(key_id=host_key("web1").key_id)])
        await plane.shown()
        plane.clock.advance(10)

    async def test_a_journal_that_went_back_is_recorded_once_and_again_after_it_was_trusted_again(
        self, plane: Plane
    ) -> None:
        async with plane.watching():
            await self.journal(plane, 1, 200)
            await self.journal(plane, 2, 100)
            [first] = await plane.recorded(hosts.HostQuarantined.KIND)
            await self.journal(plane, 3, 50)
            await plane.authority.refresh()
            await plane.hosts.lift_quarantine(ADMIN, "web1", "it was restored")
            await self.journal(plane, 4, 50)
            await self.journal(plane, 5, 40)
            await plane.recorded(hosts.HostQuarantined.KIND, number=2)

        assert first == hosts.HostQuarantined(
            hostname="web1",
            heartbeat_seq=2,
            key_id=host_key("web1").key_id,
            reason="its journal went back in time",
            before="200",
            after="100",
        )
        again = (await plane.events(hosts.HostQuarantined.KIND))[1]
        assert isinstance(again, hosts.HostQuarantined)
        assert (again.before, again.after) == ("50", "40")
        await plane.authority.refresh()
        assert plane.authority.fleet.quarantined() == ["web1"]

    async def test_what_was_read_by_the_table_alone_is_found_by_whoever_takes_over(self, plane: Plane) -> None:
        """Whoever watched before has died between a heartbeat and its quarantine."""
        async with plane.watching():
            await self.journal(plane, 1, 200)
            await plane.recorded(hosts.HostWentOnline.KIND)
        await self.journal(plane, 2, 100)
        await self.journal(plane, 3, 110)

        for number in ("two", "three"):
            async with plane.beside(number).watching():
                [event] = await plane.recorded(hosts.HostQuarantined.KIND)
                await plane.shown()

        assert isinstance(event, hosts.HostQuarantined)
        assert event.heartbeat_seq == 2

    async def test_another_machine_of_that_name_is_not_compared_with_the_first(self, plane: Plane) -> None:
        async with plane.watching():
            await self.journal(plane, 1, 200)
            await plane.hosts.retire(ADMIN, "web1", None)
            await plane.handling.record(a_registration("web1", generation=2), actor="root")
            await self.journal(plane, 1, 0, boot_id="b2")
            await self.journal(plane, 2, 0, boot_id="b2")
            await plane.recorded(hosts.HostWentOnline.KIND, number=2)
        await plane.shown()
        async with plane.beside().watching():
            await self.journal(plane, 3, 0, boot_id="b2")
            await self.beat(plane, "web2", 1)
            await plane.recorded(hosts.HostWentOnline.KIND, number=3)

        assert await plane.events(hosts.HostQuarantined.KIND) == []

    async def test_nobody_is_missed_while_nobody_takes_heartbeats_in_nor_right_after(self, plane: Plane) -> None:
        """Whoever does may be another process, and only its lease tells that it is at work."""
        other, looks = plane.beside(), 0
        held = plane.leases.held

        async def look(name: str) -> int | None:
            nonlocal looks
            looks += 1
            return await held(name)

        async def has_looked() -> bool:
            return looks > 0

        async def look_after(seconds: float) -> None:
            """The second of two looks comes when all that follows from the first is recorded."""
            nonlocal looks
            for part in (seconds - 1, 1):
                looks = 0
                plane.clock.advance(part)
                await until(has_looked)

        plane.leases.held = look  # type: ignore[method-assign]
        async with plane.watching(heard=False):
            await self.beat(plane, "web1", 1)
            await plane.recorded(hosts.HostWentOnline.KIND)
            await look_after(1000)

            async with other.serving(other.heartbeats()):
                await until(partial(held, HEARING))
                await look_after(2)
                await look_after(28)
                assert await plane.events(hosts.HostWentOffline.KIND) == []
                await look_after(2)
                await plane.recorded(hosts.HostWentOffline.KIND)

    async def test_a_stream_of_heartbeats_that_never_ends_keeps_no_silent_host_online(self, plane: Plane) -> None:
        read, sequences = plane.log.read, itertools.count(1)

        async def read_meanwhile(name: LogName, **given: Any) -> list[StoredEvent]:
            if name == HEARTBEAT_EVENT:
                await self.beat(plane, "web2", next(sequences))
            return await read(name, **given)

        async with plane.watching():
            await self.beat(plane, "web1", 1)
            await plane.recorded(hosts.HostWentOnline.KIND)
            plane.log.read = read_meanwhile  # type: ignore[method-assign, assignment]
            await plane.recorded(hosts.HostWentOnline.KIND, number=2)
            plane.clock.advance(30)
            [event] = await plane.recorded(hosts.HostWentOffline.KIND)

        assert isinstance(event, hosts.HostWentOffline)
        assert event.hostname == "web1"

    async def test_the_first_heartbeat_of_a_host_that_has_just_been_registered_brings_it_online(
        self, plane: Plane
    ) -> None:
        log, is_registered = copy(plane.log), False  # that of presence alone: projectors read the same one

        async def read_meanwhile(name: LogName, **given: Any) -> list[StoredEvent]:
            """Events are read, then a host is registered and heard, then heartbeats are read."""
            nonlocal is_registered
            if name == HEARTBEAT_EVENT and not is_registered:
                is_registered = True
                await plane.register_quietly("new1")
                await self.beat(plane, "new1", 1)
            return await plane.log.read(name, **given)

        log.read = read_meanwhile  # type: ignore[method-assign, assignment]
        async with plane.watching(log):
            [event] = await plane.recorded(hosts.HostWentOnline.KIND)

        assert isinstance(event, hosts.HostWentOnline)
        assert (event.hostname, event.heartbeat_seq) == ("new1", 1)


class TestSqliteInProcess(ProcessContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)

    @pytest.fixture
    def transport(self) -> Transport:
        return InProcessBroker().transport()


@pytest.mark.mysql
@pytest.mark.rabbitmq
class TestMysqlRabbitMQ(ProcessContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url

    @pytest.fixture
    def transport(self, amqp_url: str) -> Transport:
        return RabbitTransport(amqp_url)
