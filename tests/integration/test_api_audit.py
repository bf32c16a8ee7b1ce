"""The audit trail, health, projections and metrics over the API."""

import asyncio
import base64
import csv
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio
from sqlalchemy import update

from control_plane.api import exports, system
from control_plane.api.services import Probe
from control_plane.commands.access import CONSOLE
from control_plane.errors import StorageUnavailableError
from control_plane.events.access import AccessDenied
from control_plane.events.checkpoints import Signed
from control_plane.events.envelope import EVENT, StoredEvent
from control_plane.events.merkle import verify_consistency
from control_plane.events.proofs import Proof
from control_plane.events.tail import Tail
from control_plane.events.tasks import ExecutionConflict
from control_plane.projections.queries.live import AUDIT
from control_plane_wire.checkpoints import Checkpoint, sign, verified
from control_plane_wire.signing import SigningKey, decode_base64
from tests.support.api import PASSWORD, ApiUnderTest, an_api
from tests.support.database import an_event
from tests.support.tampering import Administrator

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


async def test_an_event_is_proved_by_the_newest_checkpoint_and_that_by_an_older_one(api: ApiUnderTest) -> None:
    aud, services = api.client("aud"), api.services
    key = services.keyring.active
    before = await aud.get("/api/v1/audit/checkpoint", params={"log": "heartbeat_event"})
    tree = (await api.log.head(EVENT)).tree
    checkpoint = Checkpoint(services.checkpoints.origin(EVENT), tree.size, tree.root())
    await services.checkpoints.put(EVENT, Signed(checkpoint, sign(checkpoint, key), 1_700_000_000_000_000), [])
    later = await api.record(AccessDenied(denial_id="d9", actor="eve", action="tasks.run", resource="tasks/t9"))

    newest = (await aud.get("/api/v1/audit/checkpoint", params={"since": 1})).json()
    proof = (await aud.get("/api/v1/audit/proof/3")).json()
    uncovered = await aud.get(f"/api/v1/audit/proof/{later}")
    beyond = await aud.get("/api/v1/audit/checkpoint", params={"since": tree.size + 1})

    assert (before.status_code, before.json()["code"]) == (404, "no_checkpoint")
    assert verified(newest["note"], [key.public_key]) == checkpoint
    assert (newest["size"], newest["recorded_at"]) == (tree.size, "2023-11-14T22:13:20.000000Z")
    first = decode_base64((await aud.get("/api/v1/audit/proof/1")).json()["leaf"])
    hashes = [decode_base64(text) for text in newest["consistency"]]
    assert verify_consistency(1, first, tree.size, tree.root(), hashes)
    assert Proof.parse(proof["proof"]).check([key.public_key])[1] == await api.log.read_one(EVENT, 3)
    assert proof["note"] == newest["note"]
    assert (uncovered.status_code, uncovered.json()["code"]) == (404, "not_covered")
    assert (beyond.status_code, beyond.json()["code"]) == (404, "not_covered")
    metrics = (await aud.get("/metrics")).text
    assert f'control_plane_checkpoint_size{{log="event"}} {tree.size}' in metrics


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


async def test_the_checkpoint_of_a_moment_covers_nothing_later(api: ApiUnderTest) -> None:
    aud, checkpoints = api.client("aud"), api.services.checkpoints
    trees = {}
    for n in range(2):
        await api.record(AccessDenied(denial_id=f"c{n}", actor="eve", action="tasks.run", resource="tasks/t9"))
        tree = trees[n] = (await api.log.head(EVENT)).tree
        signed = Checkpoint(checkpoints.origin(EVENT), tree.size, tree.root())
        await checkpoints.put(EVENT, Signed(signed, sign(signed, api.services.keyring.active), 1), [])
        await checkpoints.put(EVENT, Signed(signed, sign(signed, SigningKey.generate()), 1), [])

    async def size_at(at: int) -> int:
        answer = (await aud.get("/api/v1/audit/checkpoint", params={"at": at})).json()
        return int(answer["size"])

    assert [await size_at(trees[1].size), await size_at(trees[1].size - 1)] == [trees[1].size, trees[0].size]
    none = await aud.get("/api/v1/audit/checkpoint", params={"at": 1})
    assert (none.status_code, none.json()["code"]) == (404, "no_checkpoint")


async def test_a_hole_is_told_where_and_only_while_it_is_there(tmp_path: Path) -> None:
    """By whoever met it: here the log of another process, which remembers nothing of what this one appended."""
    async with an_api(tmp_path) as api:
        await api.shown((await api.log.head(EVENT)).seq)
        gone = await api.log.read_one(EVENT, 2)
        assert gone is not None
        database = api.services.audit_queries._database
        await Administrator(database).disarm()
        await Administrator(database).delete(2)
        aud = api.client("aud")
        before = (await aud.get("/api/v1/audit/damage")).json()["items"]
        api.log._news[EVENT].tail = Tail()
        with pytest.raises(RuntimeError, match="already started"):
            await aud.get("/api/v1/events/export")

        found = (await aud.get("/api/v1/audit/damage")).json()["items"]
        await Administrator(database).put_back(gone)
        mended = (await aud.get("/api/v1/audit/damage")).json()["items"]

    assert before == []
    assert found == [{"log": "event", "seq": 2, "detail": "event 2 is missing below the head"}]
    assert mended == []


async def test_hosts_that_brought_a_checkpoint_back_are_numbers_beside_it(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    aud = api.client("aud")
    newest = (await aud.get("/api/v1/audit/checkpoint")).json()
    kept = {"web1": newest["size"], "web2": newest["size"] - 1, "web3": 1}
    knows(api, monkeypatch, witnesses=kept)

    told = (await aud.get("/api/v1/audit/checkpoint")).json()
    then = (await aud.get("/api/v1/audit/checkpoint", params={"at": newest["size"]})).json()

    assert newest["witnesses"] is None
    assert told["witnesses"] == {"hosts": 3, "newest": 1, "size": newest["size"]}
    assert then["witnesses"] is None


def knows(api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """Let the process know something else for the length of a test."""
    services = replace(api.services, here=replace(api.services.here, **more))
    monkeypatch.setitem(api.app.state._state, "services", services)


# --- as a file


async def exported(api: ApiUnderTest, **query: Any) -> list[dict[str, Any]]:
    answer = await api.client("aud").get("/api/v1/events/export", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.text
    return [orjson.loads(line) for line in answer.text.splitlines()]


async def test_an_export_has_every_event_whole_and_oldest_first(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PAGE", 5)
    monkeypatch.setattr(exports, "RUN", 2)

    events = await exported(api)

    assert [event["seq"] for event in events] == list(range(1, (await api.log.head("event")).seq + 1))
    for event in events:
        assert event == (await api.client("eve").get(f"/api/v1/events/{event['seq']}")).json()


@pytest.mark.parametrize(
    "query",
    [
        {"task_id": "t1"},
        {"kind": "host", "hostname": "web2"},
        {"actor": "ada"},
        {"after": 4},
        {"from": "2020-01-01T00:00:00Z", "to": "2020-01-02T00:00:00Z"},
    ],
)
async def test_an_export_is_filtered_as_the_list_is(api: ApiUnderTest, query: dict[str, Any]) -> None:
    listed = (await api.client("eve").get("/api/v1/events", params={"after": 0, **query})).json()["items"]

    events = await exported(api, **query)

    assert [event["seq"] for event in events] == [event["seq"] for event in listed]


async def test_an_export_of_a_moment_ends_there(api: ApiUnderTest) -> None:
    upto = (await api.log.head(EVENT)).seq - 1
    listed = (await api.client("aud").get("/api/v1/events", params={"after": 0, "at": upto, "limit": 1000})).json()
    [last] = (await api.client("aud").get("/api/v1/events", params={"at": upto, "limit": 1})).json()["items"]

    for moment in (upto, listed["as_of"]):
        assert [event["seq"] for event in await exported(api, at=moment)] == list(range(1, upto + 1))
    assert [event["seq"] for event in await exported(api, at=upto, after=upto - 1)] == [upto]
    assert (await exported(api, at=last["recorded_at"]))[-1]["seq"] == upto
    assert len(await exported(api)) == upto + 1


async def test_an_export_as_csv_holds_no_formula(api: ApiUnderTest) -> None:
    denied = AccessDenied(denial_id="csv", actor="=1+1", action="+x", resource='a "b", c')
    [outcome] = await api.log.append([denied.to_new_event(actor="=1+1")])
    await api.shown(outcome.seq)
    query, aud = {"after": outcome.seq - 1}, api.client("aud")

    by_format = await aud.get("/api/v1/events/export", params={**query, "format": "csv"})
    by_accept = await aud.get("/api/v1/events/export", params=query, headers={"accept": "text/csv"})
    by_both = await aud.get(
        "/api/v1/events/export", params={**query, "format": "ndjson"}, headers={"accept": "text/csv"}
    )

    assert by_format.headers["content-type"] == "text/csv; charset=utf-8"
    assert by_format.headers["content-disposition"] == 'attachment; filename="events.csv"'
    assert by_format.text == by_accept.text
    assert by_both.headers["content-disposition"] == 'attachment; filename="events.ndjson"'
    [row] = csv.DictReader(by_format.text.splitlines())
    assert (row["seq"], row["kind"], row["actor"]) == (str(outcome.seq), "access.denied", "'=1+1")
    assert orjson.loads(row["body"]) == denied.to_json()
    assert base64.b64decode(row["body_base64"]) == denied.body()
    assert row["hostname"] == ""


async def test_an_export_that_breaks_off_does_not_end_as_if_it_were_whole(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, calls = api.log.read, []

    async def fail_later(*given: Any, **more: Any) -> list[StoredEvent]:
        calls.append(given)
        if len(calls) > 1:
            raise StorageUnavailableError("gone")
        return await read(*given, **more)

    monkeypatch.setattr(exports, "RUN", 1)
    monkeypatch.setattr(api.log, "read", fail_later)
    with pytest.raises(RuntimeError, match="already started"):
        await exported(api)


async def test_an_export_breaks_off_when_its_reader_is_disabled(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.services.access.create_user(CONSOLE, "aud2", role="auditor", password=PASSWORD)
    made = await api.services.tokens.create(CONSOLE, username="aud2", name="x", days=1)
    read, runs = api.log.read, list[int]()

    async def disabled_meanwhile(*asked: Any, after: int, limit: int, **more: Any) -> list[StoredEvent]:
        if limit == 1:  # of the export, and of nobody else
            runs.append(after)
            await api.services.access.set_enabled(CONSOLE, "aud2", False)
        return await read(*asked, after=after, limit=limit, **more)

    monkeypatch.setattr(exports, "RUN", 1)
    monkeypatch.setattr(api.log, "read", disabled_meanwhile)
    headers = {"authorization": f"Bearer {made.text}"}
    with pytest.raises(RuntimeError, match="already started"):
        await api.client(None).get("/api/v1/events/export", headers=headers)
    assert len(runs) == 1


async def test_an_event_whose_body_is_no_json_is_shown_by_its_bytes(api: ApiUnderTest) -> None:
    [outcome] = await api.log.append([an_event("odd", kind="odd.event", body=b"\xff")])
    await api.shown(outcome.seq)

    event = (await api.client("eve").get(f"/api/v1/events/{outcome.seq}")).json()

    assert (event["body"], event["body_base64"]) == (None, "/w==")


# --- the system


async def test_projections_tell_how_far_they_are(api: ApiUnderTest) -> None:
    items = (await api.client("eve").get("/api/v1/projections")).json()["items"]

    assert {item["name"] for item in items} == {"hosts", "tasks", "audit"}
    assert all((item["lag_events"], item["parked"]) == (0, 0) for item in items)


async def test_metrics_are_prometheus_text_and_no_label_grows_with_the_hosts(api: ApiUnderTest) -> None:
    await api.client("eve").get("/api/v1/hosts/web1")

    answer = await api.client("eve").get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    values = await metrics(api)
    assert values['control_plane_http_requests_total{method="GET",route="/api/v1/hosts/{hostname}",status="200"}'] >= 1
    assert values['control_plane_log_head{log="event"}'] > 0
    assert values['control_plane_projection_lag_events{projection="tasks"}'] == 0
    assert any(name.startswith("control_plane_http_request_seconds_bucket") for name in values)
    assert all(line.startswith(("control_plane_", "# HELP control_plane_", "# TYPE control_plane_")) for line in lines)
    assert "web1" not in answer.text


async def metrics(api: ApiUnderTest) -> dict[str, float]:
    answer = await api.client("eve").get("/metrics")
    assert answer.status_code == 200, answer.text
    lines = [line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def test_tasks_are_counted_when_they_are_accepted_and_refusals_by_their_code(api: ApiUnderTest) -> None:
    before = await metrics(api)
    ada, body = api.client("ada"), {"target": {"host": "web1"}, "command": "id", "timeout": 5, "user": "root"}

    for task_id, command in (("c1", "id"), ("c1", "id"), ("c2", "id"), ("c2", "whoami"), ("c.3", "id")):
        await ada.post("/api/v1/tasks", json={**body, "task_id": task_id, "command": command})
    await api.client(None).get("/api/v1/hosts", headers={"host": "evil.example"})

    after = await metrics(api)
    assert {
        name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)
    }.items() >= {
        'control_plane_happened_total{what="tasks_accepted"}': 2,
        'control_plane_http_problems_total{code="key_conflict"}': 1,
        'control_plane_http_problems_total{code="invalid_request"}': 1,
        'control_plane_http_problems_total{code="host_refused"}': 1,
    }.items()


@pytest.mark.parametrize("fault", ["an error", "no answer"])
async def test_what_was_counted_is_told_while_the_database_is_away(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    async def away(*_: object) -> None:
        if fault == "no answer":
            await asyncio.Event().wait()
        raise StorageUnavailableError("gone")

    before = await metrics(api)
    with monkeypatch.context() as patch:
        patch.setattr(api.log, "head", away)
        patch.setattr("control_plane.api.health.PROBE_S", 0.05)
        meanwhile = await metrics(api)
    after = await metrics(api)

    name = 'control_plane_http_requests_total{method="GET",route="/metrics",status="200"}'
    assert before[name] < meanwhile[name] < after[name]
    ups = [told["control_plane_database_up"] for told in (before, meanwhile, after)]
    assert ups == [1, 0, 1]


async def test_what_is_alive_says_so_and_what_is_not_ready_says_why(tmp_path: Path) -> None:
    wrong: list[str] = []

    async def broker() -> str | None:
        return wrong[0] if wrong else None

    async def lease() -> str | None:
        if wrong:
            raise OSError("no route to host")
        return None

    async with an_api(tmp_path, probes=(Probe("broker", broker), Probe("lease", lease))) as api:
        client = api.client()
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        ready = await client.get("/readyz")
        wrong.append("connection refused")
        unready = await client.get("/readyz")
        strangers = [await each.get("/readyz") for each in (api.client(None), _unknown(api), await _member(api))]
        browser = await (await api.browser()).get("/readyz")

    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert [check["name"] for check in ready.json()["checks"]] == ["database", "broker", "lease"]
    assert (unready.status_code, unready.json()["status"]) == (503, "not_ready")
    checks = {check["name"]: check for check in unready.json()["checks"]}
    assert (checks["broker"]["state"], checks["broker"]["detail"]) == ("failing", "connection refused")
    assert checks["lease"]["detail"] == "no route to host"
    assert checks["database"]["since"] == ready.json()["checks"][0]["since"]
    assert browser.json() == unready.json()
    for answer in strangers:
        assert answer.status_code == 503
        assert [check["state"] for check in answer.json()["checks"]] == ["ok", "failing", "failing"]
        assert {check["detail"] for check in answer.json()["checks"]} == {None}


async def _member(api: ApiUnderTest) -> httpx.AsyncClient:
    await api.services.access.create_user(CONSOLE, "mem", role="member", password=PASSWORD)
    api.tokens["mem"] = (await api.services.tokens.create(CONSOLE, username="mem", name="test", days=1)).text
    return api.client("mem")


def _unknown(api: ApiUnderTest) -> httpx.AsyncClient:
    client = api.client(None)
    client.headers["authorization"] = "Bearer cp_of_nobody"
    return client


async def test_a_warning_is_told_and_does_not_make_it_unready(tmp_path: Path) -> None:
    async def room() -> str | None:
        return "event has room for 9 events"

    async with an_api(tmp_path, probes=(Probe("room", room, warns=True),)) as api:
        ready = await api.client().get("/readyz")

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


async def test_a_read_table_is_rebuilt_while_it_goes_on_and_the_list_tells_how_it_stands(api: ApiUnderTest) -> None:
    client = api.client()

    async def hosts() -> dict[str, Any]:
        answer = (await client.get("/api/v1/projections")).json()["items"]
        return next(item for item in answer if item["name"] == "hosts")

    assert (await hosts())["has_old"] is False

    answer = await client.post("/api/v1/projections/hosts/rebuild")
    assert (answer.status_code, answer.json()) == (202, {"name": "hosts"})
    async with asyncio.timeout(20):
        while not (found := await hosts())["has_old"] or found["state"] != "live":
            await asyncio.sleep(0.02)

    assert (found["rebuilt_events"], found["parked"]) == (None, 0)
    async with asyncio.timeout(20):
        while (verified := (await hosts())["verified"]) is None:
            await asyncio.sleep(0.02)
    assert verified.pop("at")
    assert verified.pop("rows") >= 2
    assert verified == {"differed": [], "failure": None}
    then = (await client.get("/api/v1/projections", params={"at": "2"})).json()["items"]
    assert {item["verified"] for item in then} == {None}
    shown = await client.get("/api/v1/hosts")
    assert [host["hostname"] for host in shown.json()["items"]] == ["web1", "web2"]


async def test_who_may_not_rebuild_is_denied_and_a_table_that_is_not_there_is_unknown(api: ApiUnderTest) -> None:
    denied = await api.client("ada").post("/api/v1/projections/hosts/rebuild")
    unknown = await api.client().post("/api/v1/projections/nothing/rebuild")

    assert (denied.status_code, denied.json()["code"]) == (403, "not_allowed")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_projection")


async def test_a_rebuild_that_came_to_no_end_or_found_other_rows_says_so(api: ApiUnderTest) -> None:
    client, database = api.client(), api.services.audit_queries._database

    async def verified_by_a_rebuild() -> dict[str, Any]:
        async def audit() -> dict[str, Any]:
            items = (await client.get("/api/v1/projections")).json()["items"]
            return next(item for item in items if item["name"] == "audit")

        before = (await audit())["verified"]
        assert (await client.post("/api/v1/projections/audit/rebuild")).status_code == 202
        async with asyncio.timeout(20):
            while (found := await audit())["verified"] == before:
                await asyncio.sleep(0.02)
        return dict(found["verified"])

    async with database.write() as connection:
        await connection.execute(update(AUDIT.audit).where(AUDIT.audit.c.seq == 3).values(actor="somebody else"))
    differed = await verified_by_a_rebuild()
    gone = await api.log.read_one(EVENT, 2)
    assert gone is not None
    await Administrator(database).disarm()
    await Administrator(database).delete(2)
    api.log._news[EVENT].tail = Tail()
    failed = await verified_by_a_rebuild()
    await Administrator(database).put_back(gone)

    assert (differed["differed"], differed["failure"]) == (["audit"], None)
    assert (failed["differed"], failed["failure"]) == ([], "event 2 is missing below the head")


async def test_the_system_is_told_by_version_licences_and_what_was_not_as_it_should_be(api: ApiUnderTest) -> None:
    count = api.services.metrics.happenings()
    count("duplicates", 3)
    before = await the_system(api, "eve")
    await api.record(ExecutionConflict(task_id="t1", hostname="web1", first_seq=1, result_sha256="0" * 64))
    count("results_dead", 2)

    after = await the_system(api, "eve")
    packages = (await api.client("eve").get("/api/v1/system/packages")).json()["items"]

    assert (after["version"], after["licence"]) == (version("control-plane"), "Apache-2.0")
    assert {"name": "fastapi", "version": version("fastapi"), "licence": "MIT"} in packages
    conflicts, duplicates, dead = [counted(after, name) for name in ("conflicts", "duplicates", "results_dead")]
    assert conflicts == {**counted(before, "conflicts"), "number": counted(before, "conflicts")["number"] + 1}
    assert (conflicts["kind"], conflicts["since"], conflicts["is_more"]) == ("execution.conflict", None, False)
    assert (duplicates["number"], duplicates["kind"]) == (3, None)
    assert dead["number"] == 2
    assert dead["since"] == duplicates["since"] is not None


async def test_what_this_process_does_not_count_and_what_is_too_much_to_count_is_said(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    knows(api, monkeypatch, takes_messages=False)
    monkeypatch.setattr(system, "MOST", 1)
    monkeypatch.setitem(system.OF_THE_LOG, "denied", "user.created")

    told = await the_system(api, "eve")

    assert {counted(told, name)["number"] for name in system.OF_THIS_PROCESS} == {None}
    assert (counted(told, "denied")["number"], counted(told, "denied")["is_more"]) == (1, True)


async def the_system(api: ApiUnderTest, username: str) -> dict[str, Any]:
    answer = await api.client(username).get("/api/v1/system")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def counted(told: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [each for each in told["counted"] if each["name"] == name]
    return dict(found)
