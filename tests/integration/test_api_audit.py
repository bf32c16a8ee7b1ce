"""The audit trail, health, projections and metrics over the API."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from control_plane.api.services import Probe
from control_plane.errors import StorageUnavailableError
from tests.support.api import ApiUnderTest, an_api

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api")) as made:
        await made.register("web1", "web2", groups=["web"])
        await made.run(made.client("ada"), {"host": "web1"}, task_id="t1")
        await made.finish("t1", "web1", exit_code=1)
        yield made


async def test_events_are_listed_newest_first_or_after_a_seq(api: ApiUnderTest) -> None:
    eve = api.client("eve")

    newest = (await eve.get("/api/v1/events", params={"limit": 2})).json()
    older = (await eve.get("/api/v1/events", params={"limit": 2, "cursor": newest["next_cursor"]})).json()
    first = (await eve.get("/api/v1/events", params={"after": 0, "limit": 3})).json()
    rest = (await eve.get("/api/v1/events", params={"after": 0, "limit": 3, "cursor": first["next_cursor"]})).json()

    seqs = [event["seq"] for event in newest["items"] + older["items"]]
    assert seqs == list(range(seqs[0], seqs[0] - 4, -1))
    assert [event["seq"] for event in first["items"] + rest["items"]] == [1, 2, 3, 4, 5, 6]
    assert newest["items"][0]["kind"] == "execution.finished"
    assert newest["items"][0]["outcome"] == "failed"


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ({"task_id": "t1"}, ["execution.finished", "task.accepted"]),
        ({"kind": "host.registered"}, ["host.registered", "host.registered"]),
        ({"kind": "host", "hostname": "web2"}, ["host.registered"]),
        ({"actor": "ada"}, ["task.accepted"]),
        ({"to": "2020-01-01T00:00:00Z"}, []),
        ({"from": "2020-01-01T00:00:00+02:00", "kind": "task"}, ["task.accepted"]),
    ],
)
async def test_events_are_filtered(api: ApiUnderTest, query: dict[str, str], kinds: list[str]) -> None:
    found = (await api.client("eve").get("/api/v1/events", params=query)).json()["items"]

    assert [event["kind"] for event in found] == kinds


async def test_an_event_is_shown_with_the_exact_bytes_that_were_signed(api: ApiUnderTest) -> None:
    eve = api.client("eve")
    [listed] = (await eve.get("/api/v1/events", params={"kind": "task.accepted"})).json()["items"]

    event = (await eve.get(f"/api/v1/events/{listed['seq']}")).json()

    stored = await api.log.read_one("event", listed["seq"])
    assert stored is not None
    assert base64.b64decode(event["body_base64"]) == stored.body
    assert event["body"] == orjson.loads(stored.body)
    assert event["key_id"] == api.services.keyring.active.key_id
    assert base64.b64decode(event["signature"]) == stored.signature
    assert {name: event[name] for name in listed} == listed


async def test_projections_tell_how_far_they_are(api: ApiUnderTest) -> None:
    items = (await api.client("eve").get("/api/v1/projections")).json()["items"]

    assert {item["name"] for item in items} == {"hosts", "tasks", "audit"}
    assert all((item["lag_events"], item["parked"]) == (0, 0) for item in items)


async def test_metrics_are_prometheus_text_and_no_label_grows_with_the_hosts(api: ApiUnderTest) -> None:
    await api.client("eve").get("/api/v1/hosts/web1")

    answer = await api.client("eve").get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    assert values['control_plane_http_requests_total{method="GET",route="/api/v1/hosts/{hostname}",status="200"}'] >= 1
    assert values['control_plane_log_head{log="event"}'] > 0
    assert values['control_plane_projection_lag_events{projection="tasks"}'] == 0
    assert any(name.startswith("control_plane_http_request_seconds_bucket") for name in values)
    assert all(line.startswith(("control_plane_", "# HELP control_plane_", "# TYPE control_plane_")) for line in lines)
    assert "web1" not in answer.text


async def test_what_is_alive_says_so_and_what_is_not_ready_says_why(tmp_path: Path) -> None:
    wrong: list[str] = []

    async def broker() -> str | None:
        return wrong[0] if wrong else None

    async def lease() -> str | None:
        if wrong:
            raise OSError("no route to host")
        return None

    async with an_api(tmp_path, probes=(Probe("broker", broker), Probe("lease", lease))) as api:
        client = api.client(None)
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        ready = await client.get("/readyz")
        wrong.append("connection refused")
        unready = await client.get("/readyz")

    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert [check["name"] for check in ready.json()["checks"]] == ["database", "broker", "lease"]
    assert (unready.status_code, unready.json()["status"]) == (503, "not_ready")
    checks = {check["name"]: check for check in unready.json()["checks"]}
    assert (checks["broker"]["state"], checks["broker"]["detail"]) == ("failing", "connection refused")
    assert checks["lease"]["detail"] == "no route to host"
    assert checks["database"]["since"] == ready.json()["checks"][0]["since"]


async def test_a_warning_is_told_and_does_not_make_it_unready(tmp_path: Path) -> None:
    async def room() -> str | None:
        return "event has room for 9 events"

    async with an_api(tmp_path, probes=(Probe("room", room, warns=True),)) as api:
        ready = await api.client(None).get("/readyz")

    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    checks = {check["name"]: check for check in ready.json()["checks"]}
    assert (checks["room"]["state"], checks["room"]["detail"]) == ("warning", "event has room for 9 events")


async def test_a_database_that_does_not_answer_is_a_503_to_try_again(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StorageUnavailableError("mysql://secret is gone")

    monkeypatch.setattr(type(api.services.host_queries), "one", fail)
    answer = await api.client("eve").get("/api/v1/hosts/web1")

    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert "secret" not in answer.text
