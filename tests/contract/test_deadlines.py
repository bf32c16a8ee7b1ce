"""What deadlines promise: which silence is an outcome, and which."""

import pytest

from control_plane.commands.rollouts import Rollout
from control_plane.events import tasks
from control_plane.events.rollouts import ExecutionReleased
from control_plane.processes.deadlines import verdict
from control_plane_wire.errors import PublishUnconfirmedError, TransportUnavailableError
from control_plane_wire.messages import ALLOWED_SKEW_S
from tests.support.events import AT
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
    heard,
    returned,
    runs,
)


class DeadlinesContract(ProcessContract):
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


class TestSqliteInProcess(OnSqlite, DeadlinesContract):
    pass


@pytest.mark.mysql
@pytest.mark.rabbitmq
class TestMysqlRabbitMQ(OnServers, DeadlinesContract):
    pass
