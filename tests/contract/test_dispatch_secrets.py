"""What dispatch does with the secrets of a task: told to its hosts alone, and to nobody where they cannot be opened."""

import pytest

from control_plane.commands.retries import RetryTask
from control_plane.commands.secrets import Vault
from control_plane.commands.targets import Group
from control_plane.errors import RefusedError
from control_plane.events import tasks
from control_plane.events.envelope import EVENT
from tests.support.fleet import ADMIN, SECRETS_KEY
from tests.support.plane import Plane
from tests.support.process_contract import RETURNED, SENT, OnSqlite, ProcessContract, done

SECRET = "canary-of-the-secret"
SEALED = Vault(SECRETS_KEY).seal("t1", {"PASSWORD": SECRET})


class TestSecrets(OnSqlite, ProcessContract):
    async def test_a_host_is_told_the_values_and_the_log_is_not(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching():
            seq = await plane.run("t1", "web1", env={"LANG": "C"}, secrets=SEALED)
            await web1.received()

        stored = await plane.log.read_one(EVENT, seq)
        assert stored is not None
        assert SECRET.encode() not in stored.body
        assert web1.messages[0]["env"] == {"LANG": "C", "PASSWORD": SECRET}

    async def test_a_secret_of_a_whole_group_goes_to_each_host_by_its_own_key(self, plane: Plane) -> None:
        async with plane.agent("web1", "web") as web1, plane.agent("web2", "web") as web2, plane.dispatching():
            for agent in (web1, web2):
                await plane.comes_online(agent.hostname, groups=["web"])
            await plane.run("t1", target=Group("web"), secrets=SEALED)
            await web1.received()
            await web2.received()

        assert (web1.routes, web2.routes) == (["cmd.node.web1"], ["cmd.node.web2"])

    @pytest.mark.parametrize("vault", [Vault(), Vault(bytes(64))], ids=["no key", "another key"])
    async def test_what_cannot_be_opened_ends_with_the_reason_and_stops_nothing_else(
        self, plane: Plane, vault: Vault
    ) -> None:
        plane.vault = vault
        async with plane.agent("web1") as web1, plane.agent("db1") as db1, plane.dispatching():
            await plane.run("t1", "web1", "db1", secrets=SEALED)
            events = await plane.recorded(tasks.ExecutionSkipped.KIND, number=2)
            await self.barrier(plane, "t2", db1)

        assert {event.hostname for event in events} == {"web1", "db1"}
        assert all("secrets.key" in event.reason for event in events)
        assert SECRET not in str(events)
        assert (web1.task_ids(), db1.task_ids()) == ([], ["t2"])

    async def test_what_cannot_be_opened_may_still_be_cancelled(self, plane: Plane) -> None:
        async with plane.dispatching():
            await plane.run("t1", "web1", secrets=SEALED)
            await plane.recorded(RETURNED)
        plane.vault = Vault()
        async with plane.agent("db1") as db1, plane.dispatching():
            await plane.tasks.cancel(ADMIN, "t1", None)
            await self.barrier(plane, "t2", db1)
            [cancelled] = await plane.recorded(tasks.ExecutionCancelled.KIND)

        assert cancelled.task_id == "t1"

    async def test_a_retry_has_the_same_values_sealed_for_itself(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching():
            await plane.run("t1", "web1", secrets=SEALED)
            await web1.received()
            await plane.recorded(SENT)
            await plane.record(done("t1", "web1"))
            await plane.shown()
            again = RetryTask(task_id="t2", retry_of="t1", states=frozenset({"succeeded"}))
            await plane.tasks.retry(ADMIN, again)
            await web1.received(2)

        assert [message["env"] for message in web1.messages] == [{"PASSWORD": SECRET}] * 2
        accepted = await plane.events(tasks.TaskAccepted.KIND)
        sealed = [event.request["secrets"]["PASSWORD"] for event in accepted]
        assert sealed == [SEALED["PASSWORD"], Vault(SECRETS_KEY).seal("t2", {"PASSWORD": SECRET})["PASSWORD"]]

    async def test_a_retry_of_what_cannot_be_opened_is_refused(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.dispatching():
            await plane.run("t1", "web1", secrets=SEALED)
            await web1.received()
            await plane.recorded(SENT)
            await plane.record(done("t1", "web1"))
            await plane.shown()
        plane.tasks.vault = Vault(bytes(64))

        with pytest.raises(RefusedError) as refused:
            await plane.tasks.retry(ADMIN, RetryTask(task_id="t2", retry_of="t1", states=frozenset({"succeeded"})))

        assert refused.value.code == "secret_unreadable"
