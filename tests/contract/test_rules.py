"""What was accepted is asked about again before it is sent later, on every database and broker."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane import cli
from control_plane.administration import initialise
from control_plane.commands.access import ROLES, Principal
from control_plane.commands.handlers.rules import RuleHandler
from control_plane.commands.rollouts import Rollout
from control_plane.commands.targets import Group, Hosts
from control_plane.events import access, rollouts, tasks
from control_plane.settings import load
from control_plane_wire.transport.base import Transport
from tests.support.database import sqlite_url
from tests.support.fleet import ADMIN, a_request
from tests.support.plane import Plane, a_plane
from tests.support.process_contract import RETURNED, SENT, OnServers, OnSqlite, done, heard
from tests.unit.commands.test_rules import a_rule

SKIPPED = tasks.ExecutionSkipped.KIND
ANN = Principal(username="ann", role="operator")


def skipped(hostname: str, why: str, task_id: str = "t1") -> tasks.ExecutionSkipped:
    return tasks.ExecutionSkipped(task_id=task_id, hostname=hostname, reason=f"ann may not run this any more: {why}")


class RecheckContract:
    @pytest.fixture
    async def plane(self, url: str, transport: Transport) -> AsyncIterator[Plane]:
        async with a_plane(url, transport) as plane:
            await plane.register("web1", "web2", groups=["web"])
            await plane.register("db1")
            created = access.UserCreated(username="ann", based_on=0, role="operator")
            await plane.handling.record_new(created, actor="root")
            yield plane

    async def user(self, plane: Plane, change: type[access.UserDisabled | access.UserEnabled]) -> None:
        """As another replica would change it: nobody here is told."""
        based_on = plane.authority.access.users["ann"].changed_seq
        await plane.handling.record(change(username="ann", based_on=based_on), actor="root")

    async def viewer(self, plane: Plane) -> None:
        based_on = plane.authority.access.users["ann"].changed_seq
        changed = access.UserRoleChanged(username="ann", based_on=based_on, role="viewer")
        await plane.handling.record_new(changed, actor="root")

    async def rule(self, plane: Plane, **given: Any) -> str:
        """A rule that another replica makes."""
        rule_id, _ = await RuleHandler(plane.beside().handling).create(ADMIN, a_rule(**given))
        return rule_id

    async def run(self, plane: Plane, *hostnames: str, **given: Any) -> None:
        await plane.tasks.create(ANN, a_request("t1", Hosts(hostnames), **given))

    async def barrier(self, plane: Plane) -> None:
        """Return when dispatch has done all that it could have done by now."""
        async with plane.agent("db1") as db1:
            await plane.run("barrier", "db1")
            await db1.received()
            await plane.recorded(SENT)

    async def test_what_waits_for_its_host_is_skipped_when_its_user_has_been_disabled(self, plane: Plane) -> None:
        async with plane.dispatching():
            await self.run(plane, "web1")
            await plane.recorded(RETURNED)
            await self.user(plane, access.UserDisabled)
            async with plane.agent("web1") as web1:
                await plane.comes_online("web1")
                events = await plane.recorded(SKIPPED)
                await self.barrier(plane)

        assert events == [skipped("web1", "the user is disabled")]
        assert web1.messages == []

    async def test_what_waits_for_its_host_is_skipped_when_its_token_has_been_revoked(self, plane: Plane) -> None:
        async with plane.dispatching():
            await plane.tasks.create(replace(ANN, token_id="stolen"), a_request("t1", Hosts(["web1"])))
            await plane.tasks.create(replace(ANN, token_id="another"), a_request("t2", Hosts(["web2"])))
            await plane.recorded(RETURNED, number=2)
            revoked = access.TokenRevoked(token_id="stolen", username="ann")
            await plane.handling.record(revoked, actor="root")
            async with plane.agent("web1") as web1, plane.agent("web2") as web2:
                await plane.comes_online("web1")
                events = await plane.recorded(SKIPPED)
                await plane.comes_online("web2")
                await web2.received()

        assert events == [skipped("web1", "the API token that it was asked for with is revoked")]
        assert web1.messages == []

    async def test_who_was_disabled_and_is_enabled_again_loses_nothing(self, plane: Plane) -> None:
        async with plane.dispatching():
            await self.run(plane, "web1")
            await plane.recorded(RETURNED)
            await self.user(plane, access.UserDisabled)
            await plane.authority.refresh()
            await self.user(plane, access.UserEnabled)
            async with plane.agent("web1") as web1:
                await plane.comes_online("web1")
                await web1.received()

        assert await plane.events(SKIPPED) == []

    async def test_a_rule_made_meanwhile_counts_for_its_hosts_and_is_named(self, plane: Plane) -> None:
        async with plane.dispatching():
            await self.run(plane, "web1", "web2")
            await plane.recorded(RETURNED, number=2)
            rule_id = await self.rule(plane, effect="deny", hostnames={"web1"}, accounts={"root"})
            async with plane.agent("web1") as web1, plane.agent("web2") as web2:
                await plane.comes_online("web1")
                await plane.comes_online("web2")
                await web2.received()
                events = await plane.recorded(SKIPPED)

        assert events == [skipped("web1", f"rule {rule_id}")]
        assert web1.messages == []

    async def test_who_lost_a_role_is_judged_by_the_rules_that_are_left(self, plane: Plane) -> None:
        async with plane.dispatching():
            await self.run(plane, "web1", "db1")
            await plane.recorded(RETURNED, number=2)
            await self.rule(plane, groups={"web"})
            await self.viewer(plane)
            async with plane.agent("web1") as web1, plane.agent("db1") as db1:
                await plane.comes_online("db1")
                await plane.comes_online("web1")
                await web1.received()
                events = await plane.recorded(SKIPPED)

        assert events == [skipped("db1", "no rule allows it")]
        assert db1.messages == []

    async def test_a_host_that_has_left_the_group_of_the_rule_is_not_sent_it(self, plane: Plane) -> None:
        await self.rule(plane, groups={"web"})
        await self.viewer(plane)
        async with plane.dispatching():
            viewer = Principal(username="ann", role="viewer")
            await plane.tasks.create(viewer, a_request("t1", Group("web")))
            await plane.recorded(RETURNED, number=2)
            await plane.hosts.set_groups(ADMIN, "web1", [])
            async with plane.agent("web1"), plane.agent("web2") as web2:
                await plane.comes_online("web1")
                await plane.comes_online("web2")
                await web2.received()
                events = await plane.recorded(SKIPPED)

        assert events == [skipped("web1", "no rule allows it")]

    async def test_what_a_rollout_releases_after_the_rule_has_gone_is_skipped(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching():
            await self.run(plane, "web1", "web2", rollout=Rollout(canary=("web1",), max_concurrency=1))
            released = rollouts.ExecutionReleased(task_id="t1", hostname="web1")
            await plane.handling.record(released, actor="rollout")
            await web1.received()
            await plane.recorded(SENT)
            await plane.record(done("t1", "web1"))
            rule_id = await self.rule(plane, effect="deny", groups={"web"})
            await plane.handling.record(rollouts.ExecutionReleased(task_id="t1", hostname="web2"), actor="rollout")
            events = await plane.recorded(SKIPPED)

        assert events == [skipped("web2", f"rule {rule_id}")]

    async def test_what_is_resumed_by_somebody_else_is_still_its_actors(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching():
            await self.run(plane, "web1", rollout=Rollout())
            await plane.turns.pause(ADMIN, "t1", None)
            await plane.handling.record(rollouts.ExecutionReleased(task_id="t1", hostname="web1"), actor="rollout")
            await self.barrier(plane)
            await self.user(plane, access.UserDisabled)
            await plane.turns.resume(ADMIN, "t1", None)
            events = await plane.recorded(SKIPPED)

        assert events == [skipped("web1", "the user is disabled")]
        assert web1.messages == []

    async def test_what_may_have_been_delivered_is_not_sent_again_and_not_said_to_be_skipped(
        self, plane: Plane
    ) -> None:
        async with plane.dispatching():
            async with plane.agent("web1") as first:
                await self.run(plane, "web1")
                await first.received()
                await plane.recorded(SENT)
            await self.user(plane, access.UserDisabled)
            async with plane.agent("web1") as second:
                await plane.comes_online("web1")
                await self.barrier(plane)

        assert second.messages == []
        assert await plane.events(SKIPPED) == []

    async def test_a_cancel_is_sent_whatever_its_actor_may_by_now(self, plane: Plane) -> None:
        async with plane.dispatching(), plane.agent("web1") as web1:
            await self.run(plane, "web1")
            await web1.received()
            await plane.recorded(SENT)
            await plane.record(heard("t1", "web1"))
            await self.user(plane, access.UserDisabled)
            await plane.tasks.cancel(ADMIN, "t1", None)
            await web1.received(2)

        assert [message.get("kind") for message in web1.messages] == [None, "cancel"]

    async def test_whoever_takes_over_asks_as_well(self, plane: Plane) -> None:
        async with plane.dispatching():
            await self.run(plane, "web1")
            await plane.recorded(RETURNED)
        await plane.shown()
        rule_id = await self.rule(plane, effect="deny")

        other = plane.beside()
        async with other.dispatching(), plane.agent("web1") as web1:
            await plane.comes_online("web1")
            events = await plane.recorded(SKIPPED)

        assert events == [skipped("web1", f"rule {rule_id}")]
        assert web1.messages == []


class TestSqliteInProcess(OnSqlite, RecheckContract):
    pass


@pytest.mark.mysql
@pytest.mark.rabbitmq
class TestMysqlRabbitMQ(OnServers, RecheckContract):
    pass


# --- the command line


def test_rules_are_made_listed_and_deleted_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTROL_PLANE_DATABASE_URL", sqlite_url(tmp_path))
    monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path))
    asyncio.run(initialise(load(), "root", "correct horse battery"))

    whole = ["--action", "tasks.run", "--group", "web", "--host", "db1", "--account", "deploy", "--command", "argv"]
    whole += ["--most-hosts", "3", "--longest-timeout", "60", "--reason", "so"]
    assert cli.main(["rules", "add", "deny", "user:root", *whole]) == 0
    rule_id = capsys.readouterr().out.strip()
    assert cli.main(["rules", "list"]) == 0
    *_, last = listed = capsys.readouterr().out.splitlines()
    built_in = [f"role:{role}" for role, its in ROLES.items() if its]
    assert [line.split()[0] for line in listed] == [*built_in, rule_id]
    assert last.endswith(
        "deny    user:root tasks.run on group web, db1; as deploy; "
        'unless as argv and on at most 3 hosts and within 60 s; "so"'
    )

    assert cli.main(["rules", "add", "allow", "user:root", *whole]) == 0
    assert cli.main(["rules", "list"]) == 0
    assert "; only as argv and on at most 3 hosts and within 60 s; " in capsys.readouterr().out.splitlines()[-1]

    assert cli.main(["rules", "delete", rule_id]) == 0
    assert cli.main(["rules", "delete", rule_id]) == 1
    assert cli.main(["rules", "add", "allow", "user:nobody", "--action", "tasks.run", "--all-hosts"]) == 1
    assert "subject is not" in capsys.readouterr().err
