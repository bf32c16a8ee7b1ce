"""Templates, approvals and the stop over the API: what is answered, and how hostile input fares."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from control_plane.commands.approvals import MAX_WAITING_OF_ONE
from tests.support.api import ApiUnderTest, an_api

pytestmark = pytest.mark.asyncio(loop_scope="module")

TASK: dict[str, Any] = {"target": {"group": "web"}, "command": "id", "timeout": 5, "user": "root"}
TEMPLATE: dict[str, Any] = {
    "name": "restart",
    "description": "restarts a service",
    "argv": ["/usr/bin/systemctl", "restart", "{unit}", "-n{lines}"],
    "parameters": [{"name": "unit", "type": "name"}, {"name": "lines", "type": "integer", "min": 1, "max": 9}],
    "user": "deploy",
    "timeout": 60,
    "cwd": "/srv",
    "env": {"LANG": "C.UTF-8"},
}
USE: dict[str, Any] = {
    "target": {"group": "web"},
    "template": "restart",
    "parameters": {"unit": "nginx.service", "lines": 3},
}
RULE: dict[str, Any] = {
    "effect": "approve",
    "subject": "role:operator",
    "actions": ["tasks.run"],
    "hosts": {"all": True},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api")) as made:
        await made.register("web1", "web2", groups=["web"])
        await made.register("db1", groups=["db"])
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def api(module_api: ApiUnderTest) -> AsyncIterator[ApiUnderTest]:
    """Without any rule or template, and not stopped, at first and afterwards."""
    yield module_api
    root = module_api.client()
    for rule_id in list(module_api.services.authority.rules.rules):
        await root.delete(f"/api/v1/rules/{rule_id}")
    for name in list(module_api.services.authority.templates.templates):
        await root.delete(f"/api/v1/templates/{name}")
    await root.delete("/api/v1/stop")


async def post(client: httpx.AsyncClient, path: str, body: Any = None, *, status: int = 200) -> Any:
    answer = await client.post(f"/api/v1{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def read(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(f"/api/v1{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


# --- the stop


async def test_a_stop_is_seen_by_everybody_and_says_in_each_refusal_who_and_why(api: ApiUnderTest) -> None:
    ada, eve, root = api.client("ada"), api.client("eve"), api.client()
    assert (await read(eve, "/stop"))["stopped"] is False

    seq = (await post(ada, "/stop", {"reason": "a wrong command"}))["seq"]
    shown = await read(eve, "/stop", min_seq=seq)
    refused = await post(root, "/tasks", TASK, status=409)

    assert (shown["stopped"], shown["by"], shown["reason"], shown["seq"]) == (True, "ada", "a wrong command", seq)
    assert shown["since"].endswith("Z")
    assert refused["code"] == "stopped"
    assert refused["detail"].startswith("nothing is run: stopped by ada at ")
    assert (await ada.delete("/api/v1/stop")).status_code == 403
    lifted = await root.request("DELETE", "/api/v1/stop", json={"reason": "it was cancelled"})
    assert lifted.status_code == 200
    shown = await read(eve, "/stop", min_seq=lifted.json()["seq"])
    assert shown == {"stopped": False, "by": None, "reason": None, "since": None, "seq": lifted.json()["seq"]}
    await post(root, "/tasks", TASK, status=202)


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "a\nb"}, {"reason": 7}, {"reason": "x", "for": 5}, []])
async def test_a_stop_needs_a_reason(api: ApiUnderTest, body: Any) -> None:
    answer = await api.client().post("/api/v1/stop", json=body)
    assert answer.status_code in {400, 422}
    assert (await read(api.client(), "/stop"))["stopped"] is False


# --- templates


async def test_a_template_is_made_listed_run_and_deleted(api: ApiUnderTest) -> None:
    root, ada = api.client(), api.client("ada")
    made = await post(root, "/templates", TEMPLATE, status=201)
    [shown] = (await read(ada, "/templates", min_seq=made["seq"]))["items"]

    assert {**shown, "parameters": None} == {**TEMPLATE, "parameters": None, "seq": made["seq"]}
    assert [{k: v for k, v in each.items() if v is not None} for each in shown["parameters"]] == TEMPLATE["parameters"]
    preview = await post(ada, "/targets/preview", USE)
    assert (preview["allowed"], preview["approval_required"], preview["count"]) == (True, False, 2)
    accepted = await post(ada, "/tasks", {**USE, "task_id": "t-template"}, status=202)
    task = accepted["task"]
    assert (task["template"], task["user"], task["timeout"]) == ("restart", "deploy", 60)
    assert task["argv"] == ["/usr/bin/systemctl", "restart", "nginx.service", "-n3"]
    body = (await read(root, f"/events/{accepted['seq']}"))["body"]
    assert body["request"]["parameters"] == USE["parameters"]
    assert body["request"]["template_seq"] == made["seq"]

    assert (await root.delete("/api/v1/templates/restart")).status_code == 200
    again = await ada.post("/api/v1/tasks", json={**USE, "task_id": "t-template"})
    assert (again.status_code, again.json()["seq"]) == (200, accepted["seq"])
    assert (await post(ada, "/tasks", USE, status=404))["code"] == "unknown_template"
    assert (await root.delete("/api/v1/templates/restart")).json()["code"] == "unknown_template"


@pytest.mark.parametrize("field", ["command", "argv", "timeout", "user", "env", "cwd", "stdin"])
async def test_what_the_template_says_nobody_else_says(api: ApiUnderTest, field: str) -> None:
    await post(api.client(), "/templates", TEMPLATE, status=201)
    values = {"command": "id", "argv": ["/bin/id"], "timeout": 5, "user": "root", "env": {}, "cwd": "/", "stdin": ""}
    for path in ("/tasks", "/targets/preview", "/approvals"):
        answer = await post(api.client(), path, {**USE, field: values[field]}, status=422)
        assert [error["field"] for error in answer["errors"]] == [field]


async def test_parameters_without_a_template_are_refused(api: ApiUnderTest) -> None:
    for path in ("/tasks", "/targets/preview", "/approvals"):
        answer = await post(api.client(), path, {**TASK, "parameters": {}}, status=422)
        assert [error["field"] for error in answer["errors"]] == ["parameters"]


@pytest.mark.parametrize("field", ["timeout", "user"])
async def test_without_a_template_it_is_needed(api: ApiUnderTest, field: str) -> None:
    answer = await post(api.client(), "/tasks", {k: v for k, v in TASK.items() if k != field}, status=422)
    assert [error["field"] for error in answer["errors"]] == [field]


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        (None, "parameters"),
        ({}, "parameters"),
        ({"unit": "nginx"}, "parameters"),
        ({"unit": "nginx", "lines": 3, "\u202e": 1}, "parameters"),
        ([], "parameters"),
        ("unit=nginx", "parameters"),
        ({f"p{n}": 1 for n in range(17)}, "parameters"),
        ({"unit": {"$ne": 1}, "lines": 3}, "parameters.unit"),
        ({"unit": ["a", "b"], "lines": 3}, "parameters.unit"),
        ({"unit": "nginx; reboot", "lines": 3}, "parameters.unit"),
        ({"unit": "--now", "lines": 3}, "parameters.unit"),
        ({"unit": "x" * 500_000, "lines": 3}, "parameters.unit"),
        ({"unit": "nginx\u0000", "lines": 3}, "parameters.unit"),
        ({"unit": "nginx", "lines": "3"}, "parameters.lines"),
        ({"unit": "nginx", "lines": 3.5}, "parameters.lines"),
        ({"unit": "nginx", "lines": True}, "parameters.lines"),
        ({"unit": "nginx", "lines": 10}, "parameters.lines"),
    ],
    ids=lambda value: ascii(value)[:40],
)
async def test_hostile_parameters_are_refused_by_their_names(api: ApiUnderTest, parameters: Any, field: str) -> None:
    await post(api.client(), "/templates", TEMPLATE, status=201)
    for path in ("/tasks", "/targets/preview", "/approvals"):
        answer = await post(api.client("ada"), path, {**USE, "parameters": parameters}, status=422)
        assert field in {error["field"] for error in answer["errors"]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Restart"}, "name"),
        ({"argv": ["/bin/sh", "-c", "{unit}{lines}"]}, "argv.0"),
        ({"argv": []}, "argv"),
        ({"argv": ["/bin/x\u0000"]}, "argv.0"),
        ({"parameters": [{"name": "unit", "type": "regex"}]}, "parameters.0.type"),
        ({"parameters": [{"name": "unit", "type": "text", "pattern": "(a+)+$"}]}, "parameters.0.pattern"),
        ({"env": {"LD_PRELOAD": "/tmp/x.so"}}, "env"),
        ({"env": {"PATH": "/tmp"}}, "env"),
        ({"timeout": 0}, "timeout"),
        ({"user": "0"}, "user"),
        ({"cwd": "../x"}, "cwd"),
        ({"shell": True}, "shell"),
    ],
    ids=lambda value: ascii(value)[:40],
)
async def test_what_is_no_template_is_refused_and_the_field_named(
    api: ApiUnderTest, change: dict[str, Any], field: str
) -> None:
    answer = await post(api.client(), "/templates", {**TEMPLATE, **change}, status=422)
    assert field in {error["field"] for error in answer["errors"]}


async def test_a_viewer_runs_what_a_rule_says_and_sees_which_templates_there_are(api: ApiUnderTest) -> None:
    eve, root = api.client("eve"), api.client()
    await post(root, "/templates", TEMPLATE, status=201)
    assert (await eve.get("/api/v1/templates")).status_code == 403
    rule = {"effect": "allow", "subject": "user:eve", "actions": ["tasks.run"], "hosts": {"groups": ["web"]}}
    await post(root, "/rules", {**rule, "command": "template", "templates": ["restart"]}, status=201)

    assert len((await read(eve, "/templates"))["items"]) == 1
    await post(eve, "/tasks", USE, status=202)
    for body in ({**USE, "target": {"all": True}}, {**TASK, "argv": ["/usr/bin/id"]}, TASK):
        assert (await post(eve, "/tasks", body, status=403))["code"] == "not_allowed"


# --- approvals


async def test_an_approval_is_asked_for_given_and_used(api: ApiUnderTest) -> None:
    ada, root = api.client("ada"), api.client()
    rule_id = (await post(root, "/rules", RULE, status=201))["rule_id"]
    needed = await post(ada, "/tasks", TASK, status=403)
    assert (needed["code"], needed["rules"], needed["hosts"]) == ("approval_required", [rule_id], ["web1", "web2"])
    preview = await post(ada, "/targets/preview", TASK)
    assert (preview["allowed"], preview["approval_required"], preview["approval_rules"]) == (True, True, [rule_id])

    asked = await post(ada, "/approvals", {**TASK, "reason": "the \u2013 reason"}, status=201)
    [own] = (await read(ada, "/approvals", min_seq=asked["seq"]))["items"]
    [shown] = (await read(root, "/approvals"))["items"]

    assert (own["mine"], own["may_decide"]) == (True, False)
    assert (shown["mine"], shown["may_decide"]) == (False, True)
    said = {"approval_id": asked["approval_id"], "state": "waiting", "task_id": asked["task_id"], "requester": "ada"}
    said |= {"hosts": ["web1", "web2"], "host_count": 2, "rules": [rule_id], "reason": "the \u2013 reason"}
    assert {name: shown[name] for name in said} == said
    assert (shown["request"]["command"], shown["request"]["user"]) == ("id", "root")
    assert (await read(api.client("eve"), "/approvals"))["items"] == []
    path = f"/approvals/{asked['approval_id']}/approve"
    assert (await post(ada, path, status=403))["code"] == "not_allowed"
    await post(root, path, {"reason": "agreed"})
    use = {**TASK, "reason": "the \u2013 reason", "task_id": asked["task_id"], "approval_id": asked["approval_id"]}
    changed = await post(ada, "/tasks", {**use, "command": "id "}, status=409)
    assert changed["code"] == "approval_changed"
    accepted = await post(ada, "/tasks", use, status=202)
    [used] = [
        item
        for item in (await read(ada, "/approvals", state="all"))["items"]
        if item["approval_id"] == asked["approval_id"]
    ]
    assert (used["state"], used["decided_by"], used["decided_reason"]) == ("used", "root", "agreed")
    assert (await read(root, f"/events/{accepted['seq']}"))["body"]["approval_id"] == asked["approval_id"]
    assert (await read(root, "/events", kind="approval.approved", min_seq=accepted["seq"]))["items"]


async def test_of_50_at_once_one_decides_and_one_task_is_made(api: ApiUnderTest) -> None:
    ada, root = api.client("ada"), api.client()
    await post(root, "/rules", RULE, status=201)
    asked = await post(ada, "/approvals", TASK, status=201)
    path = f"/api/v1/approvals/{asked['approval_id']}"

    said = await asyncio.gather(
        *(root.post(f"{path}/{'refuse' if n % 2 else 'approve'}", json={"reason": f"{n}"}) for n in range(50))
    )
    use = {**TASK, "task_id": asked["task_id"], "approval_id": asked["approval_id"]}
    made = await asyncio.gather(*(ada.post("/api/v1/tasks", json=use) for _ in range(50)))

    assert {answer.status_code for answer in said} <= {200, 409}
    decided = await api.log.read("event", after=0, kinds={"approval.approved", "approval.refused"}, limit=1000)
    [one] = [row.kind for row in decided if asked["approval_id"].encode() in row.body]
    if one == "approval.approved":
        assert len({answer.json()["seq"] for answer in made}) == 1
        assert sorted(answer.status_code for answer in made) == [200] * 49 + [202]
    else:
        assert {(answer.status_code, answer.json()["code"]) for answer in made} == {(409, "approval_refused")}


async def test_of_many_that_are_asked_for_at_once_only_so_many_wait(api: ApiUnderTest) -> None:
    ada, root = api.client("ada"), api.client()
    await post(root, "/rules", RULE, status=201)
    before = len((await read(ada, "/approvals"))["items"])

    answers = await asyncio.gather(*(ada.post("/api/v1/approvals", json=TASK) for _ in range(40)))

    assert {answer.status_code for answer in answers} == {201, 409}
    assert [answer.status_code for answer in answers].count(201) == MAX_WAITING_OF_ONE - before
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"too_many_approvals"}
    for item in (await read(ada, "/approvals"))["items"]:
        await post(root, f"/approvals/{item['approval_id']}/refuse")


async def test_an_administrator_does_not_approve_his_own_by_session_or_token(api: ApiUnderTest) -> None:
    browser, root = await api.browser("root"), api.client()
    await post(root, "/rules", {**RULE, "subject": "role:administrator"}, status=201)
    asked = await post(browser, "/approvals", TASK, status=201)

    for client in (browser, root):
        answer = await post(client, f"/approvals/{asked['approval_id']}/approve", status=403)
        assert answer["code"] == "own_request"
    use = {**TASK, "task_id": asked["task_id"], "approval_id": asked["approval_id"]}
    assert (await post(root, "/tasks", use, status=409))["code"] == "approval_waiting"


async def test_a_retry_is_approved_by_itself(api: ApiUnderTest) -> None:
    ada, root = api.client("ada"), api.client()
    await api.run(ada, {"host": "web1"}, task_id="t-first")
    await api.finish("t-first", "web1", exit_code=1)
    await post(root, "/rules", RULE, status=201)
    body = {"states": ["failed"], "task_id": "t-again"}

    assert (await post(ada, "/tasks/t-first/retry", body, status=403))["code"] == "approval_required"
    asked = await post(ada, "/tasks/t-first/retry/approval", body, status=201)
    assert asked["task_id"] == "t-again"
    await post(root, f"/approvals/{asked['approval_id']}/approve")
    use = {**body, "approval_id": asked["approval_id"]}
    assert (await post(ada, "/tasks/t-first/retry", use, status=202))["task"]["retry_of"] == "t-first"


@pytest.mark.parametrize("approval_id", ["0" * 32, "..%2f..", "%00", "x" * 64, "\u202e"])
async def test_an_approval_that_is_not_there_is_404(api: ApiUnderTest, approval_id: str) -> None:
    for verb in ("approve", "refuse"):
        answer = await api.client().post(f"/api/v1/approvals/{approval_id}/{verb}")
        assert answer.status_code == 404, answer.text


async def test_an_approval_id_is_not_given_where_one_is_asked_for(api: ApiUnderTest) -> None:
    answer = await post(api.client(), "/approvals", {**TASK, "approval_id": "x"}, status=422)
    assert [error["field"] for error in answer["errors"]] == ["approval_id"]
    assert (await post(api.client(), "/approvals", TASK, status=409))["code"] == "approval_not_needed"
    assert (await api.client().get("/api/v1/approvals?state=mine")).status_code == 422


async def test_a_rule_with_patterns_asks_for_lines_that_fit(api: ApiUnderTest) -> None:
    ada, root = api.client("ada"), api.client()
    await post(root, "/rules", {**RULE, "patterns": ["*shutdown*"]}, status=201)

    for given in ({"command": "/sbin/SHUTDOWN  -h now"}, {"argv": ["/sbin/shutdown", "-h"]}):
        body = {"target": {"group": "web"}, "timeout": 5, "user": "root", **given}
        assert (await post(ada, "/tasks", body, status=403))["code"] == "approval_required"
        assert (await post(ada, "/targets/preview", body))["approval_required"] is True
    await post(ada, "/tasks", TASK, status=202)
