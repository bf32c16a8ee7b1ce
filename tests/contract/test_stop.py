"""While all is stopped no command is published, by whatever way it would be; and it goes on after the lift."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from control_plane import cli
from control_plane.administration import initialise
from control_plane.commands.rollouts import Rollout
from control_plane.events import rollouts, tasks
from control_plane.processes.open_executions import FIRST_RETRY_S
from control_plane.settings import load
from tests.support.database import sqlite_url
from tests.support.fleet import ADMIN, OPERATOR
from tests.support.plane import AgentEnd, Plane
from tests.support.process_contract import RETURNED, SENT, OnServers, OnSqlite, ProcessContract, done, heard


class StopContract(ProcessContract):
    async def stop(self, plane: Plane) -> None:
        """As another replica would: nobody here is told."""
        await plane.beside().stop.set(OPERATOR, "a test")

    async def lift(self, plane: Plane) -> None:
        await plane.beside().stop.lift(ADMIN, None)

    @asynccontextmanager
    async def sentinel(self, plane: Plane) -> AsyncIterator[AgentEnd]:
        """db1, which runs something that `settled` cancels."""
        async with plane.agent("db1") as db1:
            await plane.log.append([self.authorised("sentinel", "db1")])
            yield db1

    async def settled(self, plane: Plane, db1: AgentEnd) -> None:
        """Return when dispatch has looked at all that was there before: the cancel behind it has been sent."""
        await plane.tasks.cancel(ADMIN, "sentinel", None)
        await db1.received(2)
        assert [message.get("kind") for message in db1.messages] == [None, "cancel"]

    async def begun(self, plane: Plane, db1: AgentEnd) -> None:
        await db1.received()
        await plane.recorded(SENT)
        await plane.record(heard("sentinel", "db1"))

    async def test_what_is_accepted_at_the_moment_of_the_stop_is_sent_after_the_lift(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching(), self.sentinel(plane) as db1:
            await self.begun(plane, db1)
            await self.stop(plane)
            await plane.log.append([self.authorised("t1", "web1")])
            await self.settled(plane, db1)
            assert web1.messages == []
            await self.lift(plane)
            await web1.received()

        assert web1.task_ids() == ["t1"]

    async def test_whoever_takes_over_while_it_is_stopped_sends_nothing_until_the_lift(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, self.sentinel(plane) as db1:
            async with plane.dispatching():
                await self.begun(plane, db1)
            await plane.run("t1", "web1")
            await self.stop(plane)
            await plane.log.append([self.authorised("t2", "web1")])
            await plane.shown()
            other = plane.beside()
            async with other.dispatching():
                await self.settled(plane, db1)
                assert web1.messages == []
                await self.lift(plane)
                await web1.received(2)

        assert web1.task_ids() == ["t1", "t2"]

    async def test_what_a_rollout_releases_meanwhile_waits_for_the_lift(self, plane: Plane) -> None:
        async with (
            plane.agent("web1") as web1,
            plane.agent("web2") as web2,
            plane.dispatching(),
            self.sentinel(plane) as db1,
            plane.serving(plane.rollouts()),
        ):
            await self.begun(plane, db1)
            await plane.run("t1", "web1", "web2", rollout=Rollout(max_concurrency=1))
            await web1.received()
            await self.stop(plane)
            await plane.record(done("t1", "web1"))
            await plane.recorded(rollouts.ExecutionReleased.KIND, number=2)
            await self.settled(plane, db1)
            assert web2.messages == []
            await self.lift(plane)
            await web2.received()

        assert web2.task_ids() == ["t1"]

    async def test_a_host_that_comes_back_meanwhile_gets_it_after_the_lift(self, plane: Plane) -> None:
        async with plane.dispatching(), self.sentinel(plane) as db1:
            await self.begun(plane, db1)
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
            await self.stop(plane)
            async with plane.agent("web1") as web1:
                await plane.comes_online("web1")
                await self.settled(plane, db1)
                assert web1.messages == []
                await self.lift(plane)
                await web1.received()


class MoreOfTheStop(StopContract):
    """What does not depend on the database or the broker."""

    async def test_nothing_is_sent_again_meanwhile(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching(), self.sentinel(plane) as db1:
            await self.begun(plane, db1)
            await plane.run("t1", "web1")
            await web1.received()
            await plane.recorded(SENT, number=2)
            await self.stop(plane)
            await plane.authority.refresh()
            plane.clock.advance(int(FIRST_RETRY_S) + 1)
            await self.settled(plane, db1)
            assert web1.task_ids() == ["t1"]
            await self.lift(plane)
            await web1.received(2)

        assert web1.task_ids() == ["t1", "t1"]

    async def test_a_task_that_is_paused_as_well_waits_for_both(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching(), self.sentinel(plane) as db1:
            await self.begun(plane, db1)
            await self.stop(plane)
            await plane.log.append([self.authorised("t1", "web1")])
            await plane.turns.pause(ADMIN, "t1", None)
            await self.lift(plane)
            await self.settled(plane, db1)
            assert web1.messages == []
            await plane.turns.resume(ADMIN, "t1", None)
            await web1.received()

    async def test_what_expires_meanwhile_is_never_sent_and_certainly_never_ran(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching():
            await self.stop(plane)
            await plane.log.append([self.authorised("t1", "web1")])
            await plane.authority.refresh()
            plane.clock.advance(600)
            await plane.recorded(RETURNED)
            await self.lift(plane)
            await self.expires(plane)

        assert web1.messages == []

    async def test_groups_and_cancels_are_sent_all_the_same(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching():
            await plane.run("t1", "web1")
            await web1.received()
            await plane.recorded(SENT)
            await plane.record(heard("t1", "web1"))
            await self.stop(plane)
            await plane.tasks.cancel(ADMIN, "t1", None)
            await plane.comes_online("web1")
            await plane.hosts.set_groups(ADMIN, "web1", ["shop"])
            await self.told(web1)

    @staticmethod
    async def told(web1: AgentEnd) -> None:
        await web1.received(3)
        assert {"cancel", "configure"} <= {message.get("kind") for message in web1.messages}
        assert [message.get("kind") for message in web1.messages].count(None) == 1

    async def test_it_may_be_stopped_and_lifted_again_and_again(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching():
            for number in range(5):
                await self.stop(plane)
                await plane.log.append([self.authorised(f"t{number}", "web1")])
                await self.lift(plane)
                await web1.received(number + 1)

        assert web1.task_ids() == [f"t{number}" for number in range(5)]
        assert await plane.events(tasks.ExecutionSkipped.KIND) == []


class TestSqliteInProcess(OnSqlite, MoreOfTheStop):
    pass


@pytest.mark.mysql
@pytest.mark.rabbitmq
class TestMysqlRabbitMQ(OnServers, StopContract):
    pass


# --- the command line


def test_stop_and_templates_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTROL_PLANE_DATABASE_URL", sqlite_url(tmp_path))
    monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path))
    asyncio.run(initialise(load(), "root", "correct horse battery"))

    def said(*argv: str, status: int = 0) -> str:
        assert cli.main(argv) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    assert said("stop", "show") == "not stopped\n"
    assert said("stop", "set", "--reason", "a test").startswith("stopped by console at ")
    assert said("stop", "show").endswith("Z: a test\n")
    said("stop", "lift", "--reason", "over")
    assert said("stop", "show") == "not stopped\n"

    template = {
        "name": "restart",
        "argv": ["/usr/bin/systemctl", "restart", "{unit}"],
        "parameters": [{"name": "unit", "type": "name"}],
        "user": "root",
        "timeout": 60,
        "description": "restarts a service",
    }
    file = tmp_path / "restart.json"
    file.write_text(json.dumps(template))
    said("templates", "create", str(file))
    assert "there is a template restart" in said("templates", "create", str(file), status=1)
    assert said("templates", "list").split(" ", 1)[1].strip() == (
        "/usr/bin/systemctl restart '{unit}' as root, 60 s; unit: name; restarts a service"
    )
    file.write_text(json.dumps({**template, "argv": ["systemctl"]}))
    assert "argv.0 is not a path" in said("templates", "create", str(file), status=1)
    file.write_text("{")
    assert "restart.json" in said("templates", "create", str(file), status=2)
    said("templates", "delete", "restart")
    assert said("templates", "list") == ""
    assert "there is no such template" in said("templates", "delete", "restart", status=1)

    asked = ["--action", "tasks.run", "--all-hosts", "--pattern", "*rm*", "--command", "template", "--template", "up"]
    said("rules", "add", "approve", "role:operator", *asked)
    assert (
        said("rules", "list")
        .splitlines()[-1]
        .endswith("approve role:operator tasks.run on all hosts; lines like *rm*; unless as template up")
    )
