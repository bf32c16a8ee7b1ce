"""Rollouts, pause, resume and retry over the API."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio

from control_plane.events.tasks import LOST_AFTER_S, ExecutionLateResult, ExecutionLost
from control_plane_wire.messages import ALLOWED_SKEW_S
from tests.support.api import ApiUnderTest, an_api

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTS = ("web1", "web2", "web3")
TASK = {"target": {"group": "web"}, "command": "id", "timeout": 5, "user": "root"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api")) as made:
        await made.register(*HOSTS, groups=["web"])
        yield made


async def test_a_task_shows_its_rollout_and_how_far_it_has_come(api: ApiUnderTest) -> None:
    ada = api.client("ada")
    rollout = {"max_concurrency": "50%", "canary": ["WEB2"], "wait": "approve"}

    accepted = await api.run(ada, {"group": "web"}, task_id="slow", rollout=rollout)

    task = accepted["task"]
    assert task["rollout"] == {"max_concurrency": "50%", "max_errors": 0, "canary": ["web2"], "wait": "approve"}
    assert (task["released"], task["rollout_stopped"], task["counts"]) == (0, None, {"queued": 3})
    shown = (await ada.get("/api/v1/tasks/slow", params={"min_seq": accepted["seq"]})).json()
    assert shown == task
    plain = await api.run(ada, {"group": "web"}, task_id="fast")
    assert (plain["task"]["rollout"], plain["task"]["released"]) == (None, 3)


@pytest.mark.parametrize(
    ("rollout", "field"),
    [
        ({"max_concurrency": 0}, "rollout.max_concurrency"),
        ({"max_concurrency": "10"}, "rollout.max_concurrency"),
        ({"max_concurrency": 1.0}, "rollout.max_concurrency"),
        ({"max_errors": "0%"}, "rollout.max_errors"),
        ({"canary": []}, "rollout.canary"),
        ({"canary": True}, "rollout.canary"),
        ({"canary": 1, "wait": "later"}, "rollout.wait"),
        ({"batches": 3}, "rollout.batches"),
        ("all", "rollout"),
    ],
)
async def test_what_is_no_rollout_is_refused_and_the_field_named(api: ApiUnderTest, rollout: Any, field: str) -> None:
    answer = await api.client("ada").post("/api/v1/tasks", json={**TASK, "rollout": rollout})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        ({"wait": 10}, "rollout.wait is not possible without a canary"),
        ({"canary": ["web9", "web1"]}, "rollout.canary is not among the hosts of the task: web9"),
        ({"canary": 4}, "rollout.canary is not between 1 and 3"),
        ({"canary": 1, "wait": 86_400}, "rollout.wait is not shorter than expires_in, which is 86400 s"),
    ],
)
async def test_a_rollout_that_does_not_fit_the_task_is_refused(api: ApiUnderTest, rollout: Any, said: str) -> None:
    answer = await api.client("ada").post("/api/v1/tasks", json={**TASK, "rollout": rollout})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["detail"].startswith(said)
    assert [error["field"] for error in answer.json()["errors"]] == [said.partition(" ")[0]]


async def test_a_rollout_has_a_day_unless_it_is_said(api: ApiUnderTest) -> None:
    ada = api.client("ada")
    tasks = [
        (await api.run(ada, {"group": "web"}, task_id=f"until-{number}", **more))["task"]
        for number, more in enumerate(({}, {"rollout": {}}, {"rollout": {"max_errors": None}, "expires_in": 60}))
    ]

    given_s = [
        (datetime.fromisoformat(task["expires_at"]) - datetime.fromisoformat(task["accepted_at"])).total_seconds()
        for task in tasks
    ]
    assert [round(seconds, -1) for seconds in given_s] == [600, 86_400, 60]


async def test_another_rollout_is_another_request(api: ApiUnderTest) -> None:
    ada = api.client("ada")
    body = {**TASK, "task_id": "same", "rollout": {"max_errors": 0}}
    first = await ada.post("/api/v1/tasks", json=body)
    again = await ada.post("/api/v1/tasks", json={**body, "rollout": {"max_concurrency": "100%"}})
    other = await ada.post("/api/v1/tasks", json={**body, "rollout": {"max_concurrency": 2}})

    assert [answer.status_code for answer in (first, again, other)] == [202, 200, 409]


async def test_a_task_is_paused_and_resumed(api: ApiUnderTest) -> None:
    ada = api.client("ada")
    await api.run(ada, {"group": "web"}, task_id="paused")
    task = "/api/v1/tasks/paused"
    not_yet = await ada.post(f"{task}/resume")
    assert (not_yet.status_code, not_yet.json()["code"]) == (409, "not_paused")

    paused = await ada.post(f"{task}/pause", json={"reason": "a look at it"})
    again = await ada.post(f"{task}/pause")

    assert (paused.status_code, paused.json()) == (202, again.json())
    shown = (await ada.get(task, params={"min_seq": paused.json()["seq"]})).json()
    assert (shown["state"], shown["pos"]) == ("paused", paused.json()["seq"])
    listed = (await ada.get("/api/v1/tasks", params={"state": "paused"})).json()
    assert [item["task_id"] for item in listed["items"]] == ["paused"]
    assert listed["counts"]["paused"] == 1

    resumed = await ada.post(f"{task}/resume")
    assert (resumed.status_code, resumed.json()) == (202, (await ada.post(f"{task}/resume")).json())
    shown = (await ada.get(task, params={"min_seq": resumed.json()["seq"]})).json()
    assert shown["state"] == "running"
    then = (await ada.get(task, params={"at": paused.json()["seq"]})).json()
    assert then["state"] == "paused"


async def test_what_is_cancelled_finished_or_unknown_is_not_paused(api: ApiUnderTest) -> None:
    ada = api.client("ada")
    await api.run(ada, {"host": "web1"}, task_id="gone")
    await ada.post("/api/v1/tasks/gone/cancel")
    assert (await ada.post("/api/v1/tasks/gone/pause")).json()["code"] == "task_cancelled"
    await api.finish("gone", "web1")
    finished = await ada.post("/api/v1/tasks/gone/pause")
    assert (finished.status_code, finished.json()["code"]) == (409, "task_finished")
    assert (await ada.post("/api/v1/tasks/never/resume")).status_code == 404


async def test_a_retry_is_a_new_task_for_the_hosts_that_failed(api: ApiUnderTest) -> None:
    ada = api.client("ada")
    await api.run(ada, {"group": "web"}, task_id="first", command="make")
    await api.finish("first", "web1", exit_code=0)
    await api.finish("first", "web3", exit_code=2)
    url, key = "/api/v1/tasks/first/retry", {"Idempotency-Key": "second"}

    accepted = await ada.post(url, json={"states": ["failed", "lost"], "reason": "fixed"}, headers=key)
    again = await ada.post(url, json={"states": ["lost", "failed"], "reason": "fixed", "task_id": "second"})
    other = await ada.post(url, json={"states": ["failed"]}, headers=key)

    assert [answer.status_code for answer in (accepted, again, other)] == [202, 200, 409]
    task = accepted.json()["task"]
    assert (task["task_id"], task["retry_of"], task["command"], task["reason"]) == ("second", "first", "make", "fixed")
    assert (task["target"], task["targets"]) == ({"hosts": ["web3"]}, 1)
    shown = (await ada.get("/api/v1/tasks/first", params={"min_seq": accepted.json()["seq"]})).json()
    assert shown["retries"] == ["second"]


async def test_a_host_that_was_lost_and_has_succeeded_late_is_not_retried_unasked(api: ApiUnderTest) -> None:
    ada = api.client("ada")
    await api.run(ada, {"group": "web"}, task_id="late")
    for name in ("web1", "web2", "web3"):
        await api.record(ExecutionLost(task_id="late", hostname=name, reason="no word"))
    for name, exit_code in (("web1", 0), ("web2", 1)):
        result = {"task_id": "late", "exit_code": exit_code, "stdout": "", "stderr": "", "timestamp": 9}
        await api.record(ExecutionLateResult(message=result, hostname=name))
    url = "/api/v1/tasks/late/retry"

    shown = (await ada.get("/api/v1/tasks/late/executions")).json()["items"]
    unasked = await ada.post(url, json={"states": ["lost"]})
    named = await ada.post(url, json={"states": ["lost"], "hosts": ["web1"]})

    assert [(row["state"], row["late"] and row["late"]["outcome"]) for row in shown] == [
        ("lost", "succeeded"),
        ("lost", "failed"),
        ("lost", None),
    ]
    assert unasked.json()["task"]["target"] == {"hosts": ["web2", "web3"]}
    assert named.json()["task"]["target"] == {"hosts": ["web1"]}


async def test_a_task_says_by_when_it_has_its_answers_until_it_has_them(api: ApiUnderTest) -> None:
    """It waits for them when it has expired: a host whose clock is behind may have started it."""
    ada = api.client("ada")
    accepted = await api.run(ada, {"host": "web1"}, task_id="answered", timeout=30, expires_in=60)

    until, expires = (datetime.fromisoformat(accepted["task"][name]) for name in ("answers_until", "expires_at"))
    assert (until - expires).total_seconds() == ALLOWED_SKEW_S + 30 + LOST_AFTER_S
    await api.finish("answered", "web1")
    assert (await ada.get("/api/v1/tasks/answered")).json()["answers_until"] is None


async def test_what_has_expired_is_not_paused_any_more(api: ApiUnderTest) -> None:
    ada = api.client("ada")
    await api.run(ada, {"host": "web1"}, task_id="short", expires_in=1)
    await ada.post("/api/v1/tasks/short/pause")

    async with asyncio.timeout(10):
        while (answer := await ada.post("/api/v1/tasks/short/pause")).status_code == 202:
            await asyncio.sleep(0.05)
    assert (answer.status_code, answer.json()["code"]) == (409, "task_expired")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"states": ["expired"]}, 409, "nothing_to_retry"),
        ({"states": ["failed"], "hosts": ["web1"]}, 409, "not_to_retry"),
        ({"states": ["running"]}, 422, "invalid_request"),
        ({"states": []}, 422, "invalid_request"),
        ({}, 422, "invalid_request"),
        ({"states": ["failed"], "command": "id"}, 422, "invalid_request"),
    ],
)
async def test_a_retry_that_comes_to_nothing_is_refused(
    api: ApiUnderTest, body: dict[str, Any], status: int, code: str
) -> None:
    answer = await api.client("ada").post("/api/v1/tasks/first/retry", json=body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_retry_of_no_task_is_not_found(api: ApiUnderTest) -> None:
    assert (await api.client("ada").post("/api/v1/tasks/never/retry", json={"states": ["failed"]})).status_code == 404
