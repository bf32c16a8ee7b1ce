"""What dispatch promises where nobody knows what became of a message, and when another one takes over."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from control_plane.events import tasks
from control_plane.processes.open_executions import FIRST_RETRY_S
from control_plane_wire.errors import PublishUnconfirmedError, TransportUnavailableError
from tests.support.plane import Plane, until
from tests.support.process_contract import (
    RETURNED,
    SENT,
    UNCONFIRMED,
    OnServers,
    OnSqlite,
    ProcessContract,
    heard,
)


def unconfirmed(after_seq: int) -> tasks.ExecutionUnconfirmed:
    return tasks.ExecutionUnconfirmed(task_id="t1", hostname="web1", after_seq=after_seq)


class DispatchTakeoverContract(ProcessContract):
    # --- what nobody knows

    async def test_a_publish_of_which_nobody_knows_is_recorded_and_done_again_with_the_same_bytes(
        self, plane: Plane
    ) -> None:
        plane.tap.answers.append(PublishUnconfirmedError("no confirm"))
        async with plane.agent("web1") as web1, plane.dispatching():
            seq = await plane.run("t1", "web1")
            assert await plane.recorded(UNCONFIRMED) == [unconfirmed(seq)]
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

    # --- another one takes over

    async def test_whoever_takes_over_counts_what_has_no_record_as_perhaps_delivered(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1:
            plane.tap.hangs = True
            async with AsyncExitStack() as stack:
                dying = asyncio.create_task(plane.dispatch().run(asyncio.Event()))
                stack.callback(dying.cancel)
                seq = await plane.run("t1", "web1")
                await until(self.has_published(plane, 1))
            await asyncio.wait([dying])
            await plane.crash()

            other = plane.beside()
            async with other.dispatching():
                assert await plane.recorded(UNCONFIRMED) == [unconfirmed(seq)]
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
        online_seq = await plane.comes_online("web1")

        async with plane.beside().dispatching():
            assert await plane.recorded(UNCONFIRMED) == [unconfirmed(online_seq)]

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


class TestSqliteInProcess(OnSqlite, DispatchTakeoverContract):
    pass


@pytest.mark.mysql
@pytest.mark.rabbitmq
class TestMysqlRabbitMQ(OnServers, DispatchTakeoverContract):
    pass
