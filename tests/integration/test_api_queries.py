"""Hosts found by a query: in the list, as they were, and as the target of a task that keeps to those it found."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.commands.access import CONSOLE
from control_plane.commands.rules import Rule
from control_plane.events.hosts import HostWentOffline, HostWentOnline
from tests.support.api import ApiUnderTest, an_api
from tests.support.events import HEARTBEAT

TASK = {"command": "uptime", "timeout": 30, "user": "root"}


class HostQueryContract:
    @pytest.fixture
    async def api(self, url: str, tmp_path: Path) -> AsyncIterator[ApiUnderTest]:
        """web1 and web2 are online, web3 has never been heard; db1 is revoked, db2 is online and in maintenance."""
        async with an_api(tmp_path, url=url, as_heard=True) as made:
            await made.register("web1", "web2", "web3", groups=["web"])
            await made.register("db1", "db2", groups=["db"])
            for hostname, os in (("web1", "Debian 12"), ("web2", "Debian 13"), ("db2", "AlmaLinux 9.4")):
                await made.beat(hostname, 1, os=os, agent_version="0.1.0", groups=("web",))
                await self.went(made, HostWentOnline, hostname, 1)
            root = made.client()
            await root.post("/api/v1/hosts/db1/revoke")
            changed = await root.patch("/api/v1/hosts/db2", json={"maintenance": True, "labels": {"env": "prod"}})
            await made.shown(changed.json()["seq"])
            yield made

    async def went(
        self, api: ApiUnderTest, kind: type[HostWentOnline | HostWentOffline], hostname: str, heartbeat_seq: int
    ) -> int:
        heartbeat = {**HEARTBEAT, "hostname": hostname}
        return await api.record(
            kind(hostname=hostname, heartbeat_seq=heartbeat_seq, heartbeat=heartbeat, cause="for this test")
        )

    async def rule(self, api: ApiUnderTest, effect: str, subject: str, action: str, group: str) -> None:
        of_group = {"actions": frozenset({action}), "groups": frozenset({group})}
        await api.services.rules.create(CONSOLE, Rule(rule_id="", effect=effect, subject=subject, **of_group))

    async def listed(self, api: ApiUnderTest, q: str, **more: Any) -> dict[str, Any]:
        answer = await api.client("eve").get("/api/v1/hosts", params={"q": q, **more})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return {**found, "items": [row["hostname"] for row in found["items"]]}

    async def test_a_list_is_of_the_hosts_that_a_query_finds_also_as_they_were(self, api: ApiUnderTest) -> None:
        before = (await self.listed(api, ""))["as_of"]
        await self.went(api, HostWentOffline, "web2", 1)

        for q, names in (
            ("w e", ["web1", "web2", "web3"]),
            ("state:online", ["db2", "web1"]),
            ("os:debian -state:offline", ["web1"]),
            ("label:env=prod is:maintenance,drift", ["db2"]),
            ("-agent:*", ["db1", "web3"]),
        ):
            found = await self.listed(api, q)
            assert (found["items"], found["total"]) == (names, len(names)), q
        assert (await self.listed(api, "state:online", at=before))["items"] == ["db2", "web1", "web2"]
        page = await self.listed(api, "os:*", limit=2)
        rest = await self.listed(api, "os:*", limit=2, cursor=page["next_cursor"])
        assert (page["items"], rest["items"], rest["next_cursor"]) == (["db2", "web1"], ["web2"], None)
        assert page["counts"] == rest["counts"] == {"online": 2, "offline": 1}

    async def test_a_preview_and_its_task_are_for_the_hosts_that_were_found(self, api: ApiUnderTest) -> None:
        ada, target = api.client("ada"), {"query": "Web state:online,pending"}

        preview = (await ada.post("/api/v1/targets/preview", json={"target": target, "command": "uptime"})).json()
        body = {**TASK, "target": target, "preview_id": preview["preview_id"], "task_id": "queried"}
        accepted = await ada.post("/api/v1/tasks", json=body)

        assert (preview["hosts"], preview["by_state"]) == (["web1", "web2", "web3"], {"online": 2, "pending": 1})
        assert (preview["excluded"], preview["guard"]["level"]) == ([], 1)
        assert (accepted.status_code, accepted.json()["task"]["targets"]) == (202, 3)
        await self.went(api, HostWentOffline, "web2", 1)
        again = await ada.post("/api/v1/tasks", json=body)
        assert (again.status_code, again.json()["seq"]) == (200, accepted.json()["seq"])
        event = (await api.client().get(f"/api/v1/events/{accepted.json()['seq']}")).json()["body"]
        assert (event["request"]["target"], event["hosts"]) == (target, ["web1", "web2", "web3"])
        shown = (await ada.get("/api/v1/tasks/queried")).json()
        assert (shown["target"], shown["targets"]) == (target, 3)

    async def test_what_has_changed_since_the_preview_is_named(self, api: ApiUnderTest) -> None:
        ada, target = api.client("ada"), {"query": "web state:online,offline"}
        preview = (await ada.post("/api/v1/targets/preview", json={"target": target})).json()
        body = {**TASK, "target": target, "preview_id": preview["preview_id"]}
        await self.went(api, HostWentOffline, "web1", 1)
        assert (await ada.post("/api/v1/tasks", json=body)).status_code == 202, "the same hosts, whatever their state"
        await api.beat("web3", 1)
        await self.went(api, HostWentOnline, "web3", 4)
        await api.client().post("/api/v1/hosts/web2/revoke")

        changed = (await ada.post("/api/v1/tasks", json=body)).json()

        assert (changed["code"], changed["joined"], changed["left"]) == ("target_changed", ["web3"], ["web2"])

    async def test_whoever_is_gone_or_not_to_be_seen_is_found_by_no_query(self, api: ApiUnderTest) -> None:
        ada = api.client("ada")

        async def found(query: str) -> dict[str, Any]:
            answer = await ada.post("/api/v1/targets/preview", json={"target": {"query": query}})
            assert answer.status_code == 200, answer.text
            preview: dict[str, Any] = answer.json()
            return {name: preview[name] for name in ("hosts", "excluded", "allowed")}

        db1 = {"hostname": "db1", "reason": "revoked"}
        assert await found("db") == {"hosts": ["db2"], "excluded": [db1], "allowed": True}
        await api.client().delete("/api/v1/hosts/db2")
        assert await found("db") == {"hosts": [], "excluded": [db1], "allowed": True}
        nobody = await ada.post("/api/v1/tasks", json={**TASK, "target": {"query": "db2"}})
        assert (nobody.status_code, nobody.json()["code"]) == (422, "no_host_matched")
        await self.rule(api, "deny", "user:ada", "hosts.read", "db")
        assert await found("-nothing") == {"hosts": ["web1", "web2", "web3"], "excluded": [], "allowed": True}

    async def test_the_rules_decide_on_the_hosts_that_were_found(self, api: ApiUnderTest) -> None:
        await self.rule(api, "deny", "user:ada", "tasks.run", "db")
        ada = api.client("ada")

        refused = await ada.post("/api/v1/tasks", json={**TASK, "target": {"query": "state:online"}})
        allowed = await ada.post("/api/v1/tasks", json={**TASK, "target": {"query": "state:online -group:db"}})

        assert (refused.status_code, refused.json()["hosts"]) == (403, ["db2"])
        assert (allowed.status_code, allowed.json()["task"]["targets"]) == (202, 2)

    async def test_an_approval_is_for_the_hosts_that_were_found(self, api: ApiUnderTest) -> None:
        await self.rule(api, "approve", "user:ada", "tasks.run", "web")
        ada, root = api.client("ada"), await api.browser()
        body = {**TASK, "target": {"query": "web -state:offline"}, "task_id": "approved"}

        asked = (await ada.post("/api/v1/approvals", json=body)).json()
        [shown] = (await root.get("/api/v1/approvals")).json()["items"]
        yes = await root.post(f"/api/v1/approvals/{asked['approval_id']}/approve", json={})

        assert (shown["hosts"], shown["request"]["target"]) == (["web1", "web2", "web3"], body["target"])
        assert yes.status_code == 200, yes.text
        use = {**body, "approval_id": asked["approval_id"]}
        await self.went(api, HostWentOffline, "web2", 1)
        other = await ada.post("/api/v1/tasks", json=use)
        assert (other.status_code, other.json()["code"]) == (409, "approval_changed")
        await self.went(api, HostWentOnline, "web2", 9)
        assert (await ada.post("/api/v1/tasks", json=use)).status_code == 202


class TestSqliteHostQueries(HostQueryContract):
    @pytest.fixture
    def url(self) -> None:
        return None


@pytest.mark.mysql
class TestMysqlHostQueries(HostQueryContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url
