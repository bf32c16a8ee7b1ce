"""Access rules over the API."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from control_plane.commands.access import ROLES
from tests.support.api import ApiUnderTest, an_api

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULE = {"effect": "allow", "subject": "user:eve", "actions": ["tasks.run"], "hosts": {"groups": ["web"]}}
TASK = {"target": {"all": True}, "command": "id", "timeout": 5, "user": "deploy"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api")) as made:
        await made.register("web1", "web2", groups=["web"])
        await made.register(*(f"db{n:02}" for n in range(12)), groups=["db"])
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def api(module_api: ApiUnderTest) -> AsyncIterator[ApiUnderTest]:
    """Without any rule, at first and afterwards."""
    yield module_api
    for rule_id in list(module_api.services.authority.rules.rules):
        await module_api.client().delete(f"/api/v1/rules/{rule_id}")


async def make(api: ApiUnderTest, **given: Any) -> str:
    answer = await api.client().post("/api/v1/rules", json={**RULE, **given})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["rule_id"])


async def read(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_rule_about_a_group_that_nobody_has_is_made_with_a_warning(api: ApiUnderTest) -> None:
    hosts = {"groups": ["web", "payrol"], "hostnames": ["web1", "web9"]}

    made = await api.client().post("/api/v1/rules", json={**RULE, "hosts": hosts})

    assert made.status_code == 201
    assert made.json()["warnings"] == [
        "no host that you may see is in the group payrol",
        "there is no host web9 that you may see",
    ]


async def test_a_rule_is_made_listed_and_deleted(api: ApiUnderTest) -> None:
    root = api.client()
    asked = {
        "effect": "deny",
        "subject": "role:operator",
        "actions": ["tasks.run", "tasks.cancel"],
        "hosts": {"groups": ["DB", "db"], "hostnames": ["web1"]},
        "accounts": ["root"],
        "command": "argv",
        "most_hosts": 3,
        "longest_timeout": 60,
        "reason": "nobody does that",
        "patterns": ["*rm*"],
    }

    made = (await root.post("/api/v1/rules", json=asked)).json()
    assert made["warnings"] == []
    items = (await read(root, "/api/v1/rules", min_seq=made["seq"]))["items"]

    roles = [f"role:{role}" for role, its in ROLES.items() if its]
    assert [item["rule_id"] for item in items] == [*roles, made["rule_id"]]
    assert [item["built_in"] for item in items] == [*(True for _ in roles), False]
    assert items[-1] == {
        **asked,
        "rule_id": made["rule_id"],
        "built_in": False,
        "actions": ["tasks.cancel", "tasks.run"],
        "hosts": {"all": False, "groups": ["db"], "hostnames": ["web1"]},
        "templates": [],
        "seq": made["seq"],
    }

    gone = await root.delete(f"/api/v1/rules/{made['rule_id']}")
    assert (gone.status_code, gone.json()["rule_id"]) == (200, made["rule_id"])
    assert len((await read(root, "/api/v1/rules", min_seq=gone.json()["seq"]))["items"]) == len(roles)
    again = await root.delete(f"/api/v1/rules/{made['rule_id']}")
    assert (again.status_code, again.json()["code"]) == (404, "unknown_rule")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"effect": "maybe"}, "effect"),
        ({"subject": "user:nobody"}, "subject"),
        ({"actions": ["users.write"]}, "actions"),
        ({"actions": []}, "actions"),
        ({"hosts": {}}, "hosts"),
        ({"hosts": {"all": False}}, "hosts"),
        ({"hosts": {"all": True, "groups": ["web"]}}, "hosts"),
        ({"hosts": {"groups": []}}, "hosts.groups"),
        ({"hosts": {"hostnames": ["We b"]}}, "hosts.hostnames.0"),
        ({"hosts": {"labels": ["prod"]}}, "hosts.labels"),
        ({"accounts": ["0"]}, "accounts"),
        ({"accounts": []}, "accounts"),
        ({"actions": ["hosts.edit"], "accounts": ["root"]}, "actions"),
        ({"most_hosts": "3"}, "most_hosts"),
        ({"most_hosts": True}, "most_hosts"),
        ({"longest_timeout": 0}, "longest_timeout"),
        ({"reason": "a\nb"}, "reason"),
        ({"until": 5}, "until"),
    ],
)
async def test_what_is_no_rule_is_refused_and_the_field_named(
    api: ApiUnderTest, given: dict[str, Any], field: str
) -> None:
    answer = await api.client().post("/api/v1/rules", json={**RULE, **given})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert field in [error["field"] for error in answer.json()["errors"]]


async def test_a_viewer_runs_on_the_hosts_of_a_rule_and_is_told_where_not(api: ApiUnderTest) -> None:
    eve = api.client("eve")
    assert "tasks.run" not in (await read(eve, "/api/v1/auth/me"))["permissions"]
    rule_id = await make(api, accounts=["deploy"])
    assert "tasks.run" in (await read(eve, "/api/v1/auth/me"))["permissions"]

    accepted = await api.run(eve, {"group": "web"}, user="deploy")
    refused = await eve.post("/api/v1/tasks", json=TASK)

    body = refused.json()
    assert (refused.status_code, body["code"], body["action"]) == (403, "not_allowed", "tasks.run")
    assert (body["hosts"], body["more_hosts"], body["rules"]) == ([f"db{n:02}" for n in range(10)], 2, [])
    [event] = (await read(eve, "/api/v1/events", kind="task.accepted", min_seq=accepted["seq"]))["items"]
    whole = await read(eve, f"/api/v1/events/{event['seq']}")
    assert whole["body"]["rules"] == [rule_id]
    assert whole["body"]["policy_seq"] < event["seq"]


async def test_a_denial_is_answered_and_recorded_with_the_rule(api: ApiUnderTest) -> None:
    rule_id = await make(api, effect="deny", subject="role:operator", accounts=["deploy"], hosts={"groups": ["db"]})
    before = (await api.log.head("event")).seq

    refused = await api.client("ada").post("/api/v1/tasks", json={**TASK, "target": {"host": "db03"}})
    head = (await api.log.head("event")).seq

    assert (refused.status_code, refused.json()["hosts"], refused.json()["rules"]) == (403, ["db03"], [rule_id])
    assert refused.json()["detail"] == f"tasks.run is not allowed on db03: rule {rule_id}"
    root = api.client()
    items = (await read(root, "/api/v1/events", kind="access.denied", actor="ada", min_seq=head))["items"]
    [seq] = [item["seq"] for item in items if item["seq"] > before]
    assert (await read(root, f"/api/v1/events/{seq}"))["body"]["rules"] == [rule_id]


async def test_a_preview_tells_whether_it_is_allowed_and_is_no_denial(api: ApiUnderTest) -> None:
    rule_id = await make(api, accounts=["deploy"], longest_timeout=60, command="argv")
    eve, head = api.client("eve"), (await api.log.head("event")).seq
    asked = {"target": {"group": "web"}, "user": "deploy", "timeout": 60, "argv": ["/bin/true"]}

    yes = (await eve.post("/api/v1/targets/preview", json=asked)).json()
    no = [
        (await eve.post("/api/v1/targets/preview", json={**asked, **other})).json()
        for other in ({"target": {"all": True}}, {"user": "root"}, {"timeout": 61}, {"argv": ["true"]})
    ]

    assert (yes["allowed"], yes["refusal"], yes["rules"], yes["count"]) == (True, None, [rule_id], 2)
    assert [(each["allowed"], each["rules"]) for each in no] == [(False, [])] * 4
    assert no[0]["refusal"].endswith("db09 and 2 more: no rule allows it")
    assert no[0]["count"] == 14
    assert (await api.log.head("event")).seq == head


async def test_rules_are_closed_to_all_but_administrators(api: ApiUnderTest) -> None:
    for who in ("ada", "eve"):
        client = api.client(who)
        for answer in (
            await client.get("/api/v1/rules"),
            await client.post("/api/v1/rules", json=RULE),
            await client.delete("/api/v1/rules/0"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")


async def test_changes_of_a_host_ask_the_rules_too(api: ApiUnderTest) -> None:
    await make(api, actions=["hosts.edit"])
    eve = api.client("eve")

    labels = {"labels": {"rack": "7"}}
    assert (await eve.patch("/api/v1/hosts/web1", json=labels)).status_code == 200
    assert (await eve.patch("/api/v1/hosts/web1", json={"groups": ["web", "db"]})).status_code == 200
    for answer in (
        await eve.patch("/api/v1/hosts/db01", json=labels),
        await eve.patch("/api/v1/hosts/web1", json={"groups": ["db"]}),
        await eve.post("/api/v1/hosts/web1/revoke"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    await api.client().patch("/api/v1/hosts/web1", json={"groups": ["web"]})
