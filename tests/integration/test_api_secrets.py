"""Secrets of tasks over the API: told by name, read one at a time by permission, and never without an event."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from control_plane.commands.secrets import Vault
from control_plane.errors import StorageUnavailableError
from control_plane.events.envelope import EVENT
from tests.support.api import ApiUnderTest, a_stream, an_api
from tests.support.fleet import SECRETS_KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "c4n4ry-0f-4-s3cr3t"
SECRETS = {"DB_PASSWORD": CANARY, "A_TOKEN": "another-c4n4ry"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api")) as made:
        await made.register("web1", "web2", groups=["web"])
        yield made


def body(**more: Any) -> dict[str, Any]:
    return {"target": {"host": "web1"}, "command": "deploy", "timeout": 30, "user": "root", **more}


async def readings(api: ApiUnderTest, task_id: str) -> list[dict[str, Any]]:
    listed = await api.client().get("/api/v1/events", params={"kind": "secret.read", "task_id": task_id, "after": 0})
    return [(await api.client().get(f"/api/v1/events/{event['seq']}")).json() for event in listed.json()["items"]]


async def test_answers_and_events_tell_the_names_and_nothing_else(api: ApiUnderTest) -> None:
    accepted = await api.run(api.client("ada"), {"host": "web1"}, task_id="told", env={"LANG": "C"}, secrets=SECRETS)
    sealed = Vault(SECRETS_KEY).seal("told", SECRETS)
    seq, client = accepted["seq"], api.client("eve")
    answers = [
        await client.get(f"/api/v1/{path}")
        for path in (
            "tasks/told",
            "tasks",
            f"events/{seq}",
            "events",
            "tasks/told/executions",
            f"tasks/told?at={seq}",
        )
    ]

    assert accepted["task"]["secrets"] == ["A_TOKEN", "DB_PASSWORD"]
    assert [answer.status_code for answer in answers] == [200] * 6, [answer.text for answer in answers]
    assert answers[5].json()["secrets"] == ["A_TOKEN", "DB_PASSWORD"]
    event = answers[2].json()
    assert event["body"]["request"]["secrets"] == ["A_TOKEN", "DB_PASSWORD"]
    assert event["body"]["request"]["env"] == {"LANG": "C"}
    assert event["body_base64"] is None
    said = json.dumps(accepted) + "".join(answer.text for answer in answers)
    for hidden in (*SECRETS.values(), *sealed.values()):
        assert hidden not in said


async def test_the_log_and_its_exports_hold_sealed_values_alone(api: ApiUnderTest) -> None:
    accepted = await api.run(api.client("ada"), {"host": "web1"}, task_id="exported", secrets=SECRETS)
    stored = await api.log.read_one(EVENT, accepted["seq"])
    assert stored is not None
    exported = await api.client().get("/api/v1/events/export", params={"task_id": "exported"})

    assert json.loads(stored.body)["request"]["secrets"] == Vault(SECRETS_KEY).seal("exported", SECRETS)
    assert json.loads(exported.text.splitlines()[0])["body"] == json.loads(stored.body)
    assert not [value for value in SECRETS.values() if value.encode() in stored.body or value in exported.text]


async def test_the_same_request_again_is_the_same_task_and_another_value_is_a_conflict(api: ApiUnderTest) -> None:
    ada = api.client("ada")
    answers = [
        await ada.post("/api/v1/tasks", json=body(task_id="twice", secrets={"A": value}))
        for value in (CANARY, CANARY, "another")
    ]

    assert [answer.status_code for answer in answers] == [202, 200, 409]
    assert answers[2].json()["code"] == "key_conflict"


async def test_who_may_reads_a_value_and_the_log_knows_it(api: ApiUnderTest) -> None:
    await api.run(api.client("ada"), {"host": "web1"}, task_id="read", secrets=SECRETS)

    answer = await api.client("root", address="192.0.2.7").get("/api/v1/tasks/read/secrets/DB_PASSWORD")
    head = await api.log.head(EVENT)
    await api.shown(head.seq)

    assert (answer.status_code, answer.json()) == (200, {"value": CANARY})
    assert answer.headers["cache-control"] == "no-store"
    [event] = await readings(api, "read")
    told = {name: event["body"][name] for name in ("task_id", "name", "actor", "address")}
    assert told == {"task_id": "read", "name": "DB_PASSWORD", "actor": "root", "address": "192.0.2.7"}
    assert (event["actor"], event["task_id"]) == ("root", "read")
    assert CANARY not in json.dumps(event)


@pytest.mark.parametrize("username", ["ada", "eve"])
async def test_who_may_not_read_it_is_denied_and_the_denial_is_an_event(api: ApiUnderTest, username: str) -> None:
    task_id = f"denied-{username}"
    await api.run(api.client("ada"), {"host": "web1"}, task_id=task_id, secrets=SECRETS)

    answer = await api.client(username).get(f"/api/v1/tasks/{task_id}/secrets/DB_PASSWORD")

    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert CANARY not in answer.text
    await api.shown((await api.log.head(EVENT)).seq)
    assert await readings(api, task_id) == []
    denied = await api.client().get("/api/v1/events", params={"kind": "access.denied", "actor": username})
    assert denied.json()["items"]


async def test_who_is_not_signed_in_is_told_nothing(api: ApiUnderTest) -> None:
    assert (await api.client(None).get("/api/v1/tasks/read/secrets/DB_PASSWORD")).status_code == 401


@pytest.mark.parametrize("name", ["OTHER", "A" * 129, "%2e%2e", "db_password", "\u2028", "%00", "A_TOKEN%00"])
async def test_a_secret_that_is_not_there_is_not_found(api: ApiUnderTest, name: str) -> None:
    await api.client("ada").post("/api/v1/tasks", json=body(task_id="absent", secrets=SECRETS))

    answer = await api.client().get(f"/api/v1/tasks/absent/secrets/{name}")

    assert answer.status_code in {404, 422}, answer.text


async def test_a_task_that_is_not_there_has_no_secrets(api: ApiUnderTest) -> None:
    answer = await api.client().get("/api/v1/tasks/never/secrets/A")

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_task")


async def test_nothing_is_shown_where_the_reading_cannot_be_recorded(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.client("ada").post("/api/v1/tasks", json=body(task_id="unrecorded", secrets=SECRETS))

    async def fails(*_given: object, **_more: object) -> None:
        raise StorageUnavailableError("no database")

    monkeypatch.setattr(type(api.services.access._handling), "record", fails)
    answer = await api.client().get("/api/v1/tasks/unrecorded/secrets/A_TOKEN")

    assert answer.status_code == 503
    assert "another-c4n4ry" not in answer.text


@pytest.mark.parametrize(
    ("secrets", "field"),
    [
        ({}, "secrets"),
        ([CANARY], "secrets"),
        (CANARY, "secrets"),
        ({"A": 1}, "secrets.A"),
        ({"A": None}, "secrets.A"),
        ({"A": [CANARY]}, "secrets.A"),
        ({"1A": CANARY}, "secrets"),
        ({"A=B": CANARY}, "secrets"),
        ({"A": CANARY + "\0"}, "secrets.A"),
        ({"A": CANARY * 2000}, "secrets.A"),
        ({"LANG": CANARY}, "secrets.LANG"),
    ],
)
async def test_a_wrong_secret_is_refused_by_its_field_and_never_repeated(
    api: ApiUnderTest, secrets: object, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        answer = await api.client("ada").post("/api/v1/tasks", json=body(env={"LANG": "C"}, secrets=secrets))

    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == field
    assert CANARY not in answer.text
    assert CANARY not in caplog.text


async def test_basic_agents_are_given_no_secrets(api: ApiUnderTest) -> None:
    api.presences.basic.add("web2")
    try:
        preview = await api.client("ada").post(
            "/api/v1/targets/preview", json={"target": {"host": "web2"}, "secrets": {"A": CANARY}}
        )
        answer = await api.client("ada").post("/api/v1/tasks", json=body(target={"host": "web2"}, secrets=SECRETS))
    finally:
        api.presences.basic.clear()

    assert preview.json()["excluded"] == [{"hostname": "web2", "reason": "basic agent: no secrets"}]
    assert (answer.status_code, answer.json()["code"]) == (422, "no_host_matched")


async def test_without_a_key_tasks_with_secrets_are_refused_and_others_go_on(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.services.tasks, "vault", Vault())

    refused = await api.client("ada").post("/api/v1/tasks", json=body(secrets=SECRETS))
    accepted = await api.client("ada").post("/api/v1/tasks", json=body())

    assert (refused.status_code, refused.json()["code"]) == (409, "no_secrets_key")
    assert "control-plane init" in refused.json()["detail"]
    assert accepted.status_code == 202


async def test_what_another_key_has_sealed_is_refused_by_its_name(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.client("ada").post("/api/v1/tasks", json=body(task_id="foreign", secrets=SECRETS))
    monkeypatch.setattr(api.services.secrets, "_vault", Vault(bytes(64)))

    answer = await api.client().get("/api/v1/tasks/foreign/secrets/A_TOKEN")

    assert (answer.status_code, answer.json()["code"]) == (409, "secret_unreadable")


async def test_a_stream_tells_no_secret(api: ApiUnderTest) -> None:
    async with a_stream(api, "tasks,events") as reader:
        await reader.next(skip=())
        accepted = await api.run(api.client("ada"), {"host": "web1"}, task_id="streamed", secrets=SECRETS)
        sealed = Vault(SECRETS_KEY).seal("streamed", SECRETS)
        said = ""
        async with asyncio.timeout(5):
            while "streamed" not in said:
                said += json.dumps(await reader.next())

    assert accepted["task"]["task_id"] == "streamed"
    assert not [text for text in (*SECRETS.values(), *sealed.values()) if text in said]
