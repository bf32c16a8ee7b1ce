"""What every route of the API keeps: closed without credentials, problems for all that is wrong, strict about input."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.routing import APIRoute

from control_plane.api.authentication import CSRF_HEADER
from control_plane.api.openapi import describe
from control_plane.api.routing import INLINE_BYTES, MAX_NAMES
from control_plane.api.ui import FILES, PAGES
from control_plane.commands.access import CONSOLE
from control_plane.commands.denials import SINGLY
from control_plane_wire import strict_json
from control_plane_wire.topology import is_name
from tests.support.api import PASSWORD, ApiUnderTest, a_public_key, an_api

# One API for all of them: what they send is refused, or changes nothing that another one looks at.
pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC = {
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/auth/passkey"),
    ("GET", "/api/v1/auth/providers"),
    ("GET", "/api/v1/auth/oidc/begin"),
    ("GET", "/api/v1/auth/oidc/callback"),
    ("POST", "/api/v1/enrol/begin"),
    ("POST", "/api/v1/enrol/finish"),
    ("POST", "/api/v1/enrol/request"),
    ("POST", "/api/v1/enrol/rotate"),
    ("GET", "/api/v1/keys"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", FILES),
    *(("GET", page) for page in PAGES),
}
# What a viewer may do that is not reading: look after oneself.
OF_EVERYBODY = {
    ("POST", "/api/v1/auth/logout"),
    ("POST", "/api/v1/auth/password"),
    ("POST", "/api/v1/auth/passkeys/begin"),
    ("POST", "/api/v1/auth/passkeys"),
    ("DELETE", "/api/v1/auth/passkeys/{passkey_id}"),
    ("POST", "/api/v1/tokens"),
    ("DELETE", "/api/v1/tokens/{token_id}"),
}
NOT_FOR_VIEWERS = {
    "/api/v1/users",
    "/api/v1/enrolment-tokens",
    "/api/v1/pending-hosts",
    "/api/v1/rules",
    "/api/v1/templates",
    "/api/v1/tasks/{task_id}/secrets/{name}",
    "/api/v1/events/export",
    "/api/v1/audit/proof/{seq}",
}
# The ways in, which show nothing of the log.
WAYS_IN = {"/api/v1/auth/providers", "/api/v1/auth/oidc/begin", "/api/v1/auth/oidc/callback"}
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/api/v1/hosts"): {"hostname": "web9", "public_key": a_public_key()},
    ("PATCH", "/api/v1/hosts/{hostname}"): {"maintenance": True},
    ("POST", "/api/v1/hosts/{hostname}/lift-quarantine"): {"reason": "it was restored"},
    ("POST", "/api/v1/enrolment-tokens"): {},
    ("POST", "/api/v1/pending-hosts/{fingerprint}/accept"): {"hostname": "web9"},
    ("POST", "/api/v1/targets/preview"): {"target": {"all": True}},
    ("POST", "/api/v1/tasks"): {"target": {"all": True}, "command": "id", "timeout": 1, "user": "root"},
    ("POST", "/api/v1/tasks/{task_id}/retry"): {"states": ["failed"]},
    ("POST", "/api/v1/tasks/{task_id}/retry/approval"): {"states": ["failed"]},
    ("POST", "/api/v1/approvals"): {"target": {"all": True}, "command": "id", "timeout": 1, "user": "root"},
    ("POST", "/api/v1/stop"): {"reason": "so"},
    ("POST", "/api/v1/templates"): {"name": "up", "argv": ["/usr/bin/uptime"], "user": "root", "timeout": 1},
    ("POST", "/api/v1/users"): {"username": "bob", "role": "viewer", "password": PASSWORD},
    ("PATCH", "/api/v1/users/{username}"): {"role": "administrator"},
    ("POST", "/api/v1/tokens"): {"name": "mine"},
    ("POST", "/api/v1/rules"): {
        "effect": "allow",
        "subject": "user:eve",
        "actions": ["tasks.run"],
        "hosts": {"all": True},
    },
}
A_TASK = BODIES["POST", "/api/v1/tasks"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api")) as made:
        await made.register("web1", groups=["web"])
        yield made


def operations(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every method and path template that the application has."""
    for route in app.routes:
        assert isinstance(route, APIRoute)
        for method in sorted(route.methods):
            yield method, route.path


def address(path: str) -> str:
    """A path template with something in each place."""
    values = {
        "hostname": "web1",
        "task_id": "t1",
        "group": "web",
        "seq": "1",
        "passkey_id": "0",
        "token_id": "0",
        "username": "eve",
        "name": "none",
        "rule_id": "0",
        "fingerprint": "0" * 64,
        "approval_id": "0",
    }
    return path.replace("{path:path}", "js/main.js").format(**values, digest="0")


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that was answered, which must be a whole one."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    assert {"type", "title", "detail", "request_id"} <= body.keys()
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


# --- who may ----------------------------------------------------------------------------------------------------------


async def test_no_route_but_the_public_ones_answers_without_credentials(api: ApiUnderTest) -> None:
    client = api.client(None)

    seen = set()
    for method, path in operations(api.app):
        answer = await client.request(method, address(path), json=BODIES.get((method, path)))
        if answer.status_code != 401:
            seen.add((method, path))
        elif (method, path) not in PUBLIC:
            problem(answer, 401, "not_signed_in")

    # Login and enrolment answer 401 or 422 to what was sent here, by themselves.
    assert seen | {operation for operation in PUBLIC if operation[0] == "POST"} == PUBLIC


@pytest.mark.parametrize("header", ["Basic cm9vdDpyb290", "Bearer", "Bearer cp_0_0", "Bearer \xff", "bearer  ", ""])
async def test_a_wrong_authorization_header_is_nobody(api: ApiUnderTest, header: str) -> None:
    answer = await api.client(None).get("/api/v1/hosts", headers=[(b"authorization", header.encode("latin-1"))])

    problem(answer, 401, "not_signed_in")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_viewer_may_change_nothing(api: ApiUnderTest) -> None:
    client = api.client("eve")

    for method, path in operations(api.app):
        if method != "GET" and (method, path) not in PUBLIC | OF_EVERYBODY:
            answer = await client.request(method, address(path), json=BODIES.get((method, path)))
            problem(answer, 403, "not_allowed")

    query = {"kind": "access.denied", "actor": "eve", "limit": 1000, "min_seq": (await api.log.head("event")).seq}
    denied = (await api.client().get("/api/v1/events", params=query)).json()["items"]
    assert len(denied) == SINGLY  # the others are counted


async def test_a_viewer_may_read_everything_but_people_rules_exports_and_proofs(api: ApiUnderTest) -> None:
    await api.run(api.client(), {"host": "web1"}, task_id="t1")
    client = api.client("eve")

    for method, path in operations(api.app):
        if method == "GET" and path not in {"/api/v1/stream", FILES}:
            answer = await client.get(address(path))
            allowed = {403} if path in NOT_FOR_VIEWERS else {200, 404}
            assert answer.status_code in allowed, (path, answer.text)


async def test_an_unsafe_request_with_a_cookie_needs_our_origin_and_the_session_s_token(api: ApiUnderTest) -> None:
    browser = await api.browser("ada")
    assert (await browser.post("/api/v1/tasks", json=A_TASK)).status_code == 202

    for headers, code in (
        ({CSRF_HEADER: "0" * 64}, "csrf_refused"),
        ({CSRF_HEADER: ""}, "csrf_refused"),
        ({CSRF_HEADER: "\xe9"}, "csrf_refused"),
        ({"origin": "http://evil.example"}, "origin_refused"),
        ({"origin": "null"}, "origin_refused"),
        ({"origin": "http://["}, "origin_refused"),
        ({"origin": "http://127.0.0.1:8001"}, "origin_refused"),
    ):
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        problem(await browser.post("/api/v1/tasks", json=A_TASK, headers=encoded), 403, code)
    assert (await browser.get("/api/v1/hosts", headers={"origin": "http://evil.example"})).status_code == 200


async def test_a_request_with_a_token_ignores_the_cookie(api: ApiUnderTest) -> None:
    browser = await api.browser("ada")

    answer = await browser.get("/api/v1/auth/me", headers={"authorization": f"Bearer {api.tokens['eve']}"})

    assert (answer.json()["username"], answer.json()["csrf_token"]) == ("eve", None)
    problem(await browser.get("/api/v1/auth/me", headers={"authorization": "Bearer no"}), 401, "not_signed_in")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "", "[::1", "web1:8000"])
async def test_a_host_header_that_is_not_ours_is_refused(api: ApiUnderTest, host: str) -> None:
    problem(await api.client().get("/api/v1/hosts", headers={"host": host}), 421, "host_refused")


# --- what is sent -----------------------------------------------------------------------------------------------------

NOT_JSON = {
    "no JSON": b"not json",
    "half": b'{"command": ',
    "a list": b"[]",
    "a number": b"1",
    "NaN": b'{"timeout": NaN}',
    "infinity": b'{"timeout": 1e999}',
    "a key twice": b'{"command": "a", "command": "b"}',
    "a lone surrogate": b'{"command": "\\ud800"}',
    "not UTF-8": b'{"command": "\xff"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "too deep": b'{"env": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a huge integer": b'{"timeout": ' + b"9" * 5000 + b"}",
    "beyond 2^53": b'{"timeout": 9007199254740993}',
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_a_body_that_is_not_strict_json_is_malformed(api: ApiUnderTest, body: bytes) -> None:
    answer = await api.client().post("/api/v1/tasks", content=body, headers={"content-type": "application/json"})

    problem(answer, 400, "malformed_json")


WRONG_TASKS = {
    "timeout as text": ({"timeout": "30"}, "timeout"),
    "timeout as float": ({"timeout": 30.5}, "timeout"),
    "timeout as bool": ({"timeout": True}, "timeout"),
    "timeout zero": ({"timeout": 0}, "timeout"),
    "timeout too long": ({"timeout": 86_401}, "timeout"),
    "timeout huge": ({"timeout": 2**53 - 1}, "timeout"),
    "command a number": ({"command": 1}, "command"),
    "command empty": ({"command": ""}, "command"),
    "command blank": ({"command": " \n\t"}, "command"),
    "command with NUL": ({"command": "a\0b"}, "command"),
    "command too long": ({"command": "x" * 131_072}, "command"),
    "an unknown field": ({"sudo": True}, "sudo"),
    "a target without host": ({"target": {}}, "target"),
    "two targets": ({"target": {"host": "web1", "all": True}}, "target"),
    "all: false": ({"target": {"all": False}}, "target"),
    "all: 1": ({"target": {"all": 1}}, "target.all"),
    "an unknown target field": ({"target": {"host": "web1", "force": True}}, "target.force"),
    "a target as text": ({"target": "web1"}, "target"),
    "a hostname with a space": ({"target": {"host": "web 1"}}, "target.host"),
    "a hostname with a wildcard": ({"target": {"host": "web.#"}}, "target.host"),
    "a hostname with a path": ({"target": {"host": "../etc"}}, "target.host"),
    "a hostname too long": ({"target": {"host": "a" * 201}}, "target.host"),
    "a hostname as number": ({"target": {"hosts": ["web1", 2]}}, "target.hosts.1"),
    "no hosts": ({"target": {"hosts": []}}, "target.hosts"),
    "a task id with a dot": ({"task_id": "a.b"}, "task_id"),
    "a task id too long": ({"task_id": "a" * 65}, "task_id"),
    "when_offline unknown": ({"when_offline": "later"}, "when_offline"),
    "env as list": ({"env": ["A=1"]}, "env"),
    "env value a number": ({"env": {"A": 1}}, "env.A"),
    "argv empty": ({"argv": []}, "argv"),
    "argv of numbers": ({"argv": [1]}, "argv.0"),
    "expires_in zero": ({"expires_in": 0}, "expires_in"),
    "a reason of two lines": ({"reason": "a\nb"}, "reason"),
    "a reason that turns around": ({"reason": "a\u202eb"}, "reason"),
    "user missing": ({"user": None}, "user"),
}


@pytest.mark.parametrize(("change", "field"), WRONG_TASKS.values(), ids=WRONG_TASKS.keys())
async def test_a_wrong_field_of_a_task_is_named(api: ApiUnderTest, change: dict[str, Any], field: str) -> None:
    answer = await api.client().post("/api/v1/tasks", json={**A_TASK, **change})

    told = problem(answer, 422, "invalid_request")["errors"]
    assert field in {error["field"] for error in told}
    for error in told:  # and no word of the library that has found it
        assert not re.search(r"\b(Input|String|List|Dict|Field|Value)\b", error["message"])


@pytest.mark.parametrize(
    "change",
    [
        {"user": "0"},
        {"user": "root; id"},
        {"env": {"1A": "x"}},
        {"cwd": ""},
        {"stdin": "x" * 1_000_000, "env": {"A": "y" * 32_769}},
    ],
)
async def test_what_an_agent_would_not_take_is_not_accepted(api: ApiUnderTest, change: dict[str, Any]) -> None:
    answer = await api.client().post("/api/v1/tasks", json={**A_TASK, **change})

    problem(answer, 422, "invalid_request")


WRONG_QUERIES = {
    "/api/v1/hosts?limit=0": "limit",
    "/api/v1/hosts?limit=1001": "limit",
    "/api/v1/hosts?limit=ten": "limit",
    "/api/v1/hosts?limit=" + "9" * 5000: "limit",
    "/api/v1/hosts?state=asleep": "state",
    "/api/v1/hosts?group=a%20b": "group",
    "/api/v1/hosts?q=%00": "q",
    "/api/v1/hosts?sort=name": "sort",
    "/api/v1/hosts?min_seq=-1": "min_seq",
    "/api/v1/hosts/web%201": "hostname",
    "/api/v1/hosts/web1/heartbeats?from=yesterday": "from",
    "/api/v1/hosts/web1/heartbeats?from=2026-01-31T10:00:00": "from",
    "/api/v1/hosts/web1/heartbeats?points=0": "points",
    "/api/v1/tasks?state=done": "state",
    "/api/v1/tasks?outcome=fine": "outcome",
    "/api/v1/tasks/a.b": "task_id",
    "/api/v1/tasks/t1/executions?state=done": "state",
    "/api/v1/tasks/t1/executions/web1/output?stream=both": "stream",
    "/api/v1/tasks/t1/executions/web1/output?offset=-1": "offset",
    "/api/v1/events?kind=task.accepted.now": "kind",
    "/api/v1/events?after=x": "after",
    "/api/v1/events/0": "seq",
    "/api/v1/events/" + "9" * 30: "seq",
    "/api/v1/stream": "topics",
}


@pytest.mark.parametrize(("path", "field"), WRONG_QUERIES.items(), ids=[path[:60] for path in WRONG_QUERIES])
async def test_a_wrong_parameter_is_named(api: ApiUnderTest, path: str, field: str) -> None:
    answer = await api.client().get(path)

    assert field in {error["field"] for error in problem(answer, 422, "invalid_request")["errors"]}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/v1/hosts?cursor=nonsense", "bad_cursor"),
        ("/api/v1/hosts?cursor=MQ", "bad_cursor"),
        ("/api/v1/hosts?cursor=%ff", "bad_cursor"),
        ("/api/v1/tasks?cursor=IngiCg", "bad_cursor"),
        ("/api/v1/events?cursor=LTE", "bad_cursor"),
        ("/api/v1/stream?topics=hosts&after=e1", "bad_position"),
    ],
)
async def test_a_cursor_or_position_that_we_did_not_give_is_bad(api: ApiUnderTest, path: str, code: str) -> None:
    problem(await api.client().get(path), 400, code)


async def test_a_stranger_is_told_the_keys_and_does_not_make_the_server_wait(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def wait_moved(*, timeout_s: float) -> None:
        waits.append(timeout_s)

    monkeypatch.setattr(api.services.hub, "wait_moved", wait_moved)
    monkeypatch.setattr("control_plane.api.fields.MIN_SEQ_WAIT_S", 0.01)
    query = {"min_seq": (await api.log.head("event")).seq + 100}

    assert (await api.client(None).get("/api/v1/keys", params={"min_seq": 1})).status_code == 200
    problem(await api.client(None).get("/api/v1/keys", params=query), 503, "read_table_behind")
    assert waits == []
    problem(await api.client().get("/api/v1/keys", params=query), 503, "read_table_behind")
    assert waits


async def test_every_read_waits_for_min_seq_and_says_when_it_is_not_there(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.fields.MIN_SEQ_WAIT_S", 0.01)
    seq = await api.register("web3")
    client = api.client()

    for method, path in operations(api.app):
        if method == "GET" and path.startswith("/api/v1/") and path not in {"/api/v1/stream", *WAYS_IN}:
            there = await client.get(address(path), params={"min_seq": seq})
            assert there.status_code in {200, 404}, (path, there.text)
            problem(await client.get(address(path), params={"min_seq": seq + 1}), 503, "read_table_behind")


AS_OF = {
    "/api/v1/audit/checkpoint",
    "/api/v1/events",
    "/api/v1/events/export",
    "/api/v1/groups",
    "/api/v1/groups/{group}/hosts/{hostname}",
    "/api/v1/hosts",
    "/api/v1/hosts/{hostname}",
    "/api/v1/hosts/{hostname}/heartbeats",
    "/api/v1/projections",
    "/api/v1/tasks",
    "/api/v1/tasks/{task_id}",
    "/api/v1/tasks/{task_id}/executions",
    "/api/v1/tasks/{task_id}/executions/{hostname}",
    "/api/v1/tasks/{task_id}/executions/{hostname}/output",
    "/api/v1/tasks/{task_id}/outputs",
}


async def test_a_read_as_of_a_moment_is_answered_or_refused_and_never_as_of_now(api: ApiUnderTest) -> None:
    client = api.client()
    for method, path in operations(api.app):
        if not path.startswith("/api/v1/"):
            continue
        if method == "GET" and path in AS_OF:
            there = await client.get(address(path), params={"at": "0"})
            is_absent = ("{" in path and "heartbeats" not in path) or path == "/api/v1/audit/checkpoint"
            assert there.status_code == (404 if is_absent else 200), (path, there.text)
            told = there.json() if there.content else {}  # an export of nothing is an empty file
            assert told.get("items", []) == [] or path == "/api/v1/projections", path
            for text, status, code in (("x", 400, "bad_at"), ("2999-01-01T00:00:00Z", 422, "not_yet")):
                refused = problem(await client.get(address(path), params={"at": text}), status, code)
                assert refused["errors"][0]["field"] == "at"
        elif (method, path) not in PUBLIC:
            answer = await client.request(method, address(path), params={"at": "1"})
            assert problem(answer, 422, "not_supported")["errors"][0]["field"] == "at", (method, path)


async def test_a_wrong_query_names_its_field_and_its_term(api: ApiUnderTest) -> None:
    client, wrong = api.client(), "web foo:bar"
    query = {**A_TASK, "target": {"query": wrong}}
    listed = await client.get("/api/v1/hosts", params={"q": wrong})

    for field, answer in (
        ("q", listed),
        ("target.query", await client.post("/api/v1/tasks", json=query)),
        ("target.query", await client.post("/api/v1/approvals", json=query)),
        ("target.query", await client.post("/api/v1/targets/preview", json={"target": query["target"]})),
    ):
        [error] = problem(answer, 422, "invalid_request")["errors"]
        assert error["field"] == field
        assert error["message"].startswith("is wrong in foo:bar: unknown field foo; there are name, state, ")


async def test_a_body_over_the_limit_is_refused_whether_it_says_so_or_not(api: ApiUnderTest) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    headers = {"content-type": "application/json"}
    said = await api.client().post("/api/v1/tasks", content=b" " * 1_048_577, headers=headers)
    unsaid = await api.client().post("/api/v1/tasks", content=chunks(), headers=headers)

    problem(said, 413, "body_too_large")
    problem(unsaid, 413, "body_too_large")


async def test_a_body_that_anybody_may_send_is_small(api: ApiUnderTest) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 1000

    headers = {"content-type": "application/json"}
    for path in ("auth/login", "enrol/begin", "enrol/finish", "enrol/request", "enrol/rotate"):
        path = f"/api/v1/{path}"
        said = await api.client(None).post(path, content=b" " * 16_385, headers=headers)
        unsaid = await api.client(None).post(path, content=chunks(), headers=headers)
        largest = await api.client(None).post(path, content=b"{}".ljust(16_384), headers=headers)

        problem(said, 413, "body_too_large")
        problem(unsaid, 413, "body_too_large")
        problem(largest, 422, "invalid_request")


async def test_an_answer_lists_twenty_errors_and_counts_the_others(api: ApiUnderTest) -> None:
    body = {**A_TASK, **{f"{'x' * 1000}{n}": 1 for n in range(50)}}

    answer = await api.client().post("/api/v1/tasks", json=body)

    told = problem(answer, 422, "invalid_request")
    assert (len(told["errors"]), told["more_errors"]) == (20, 30)
    assert "50 errors" in told["detail"]
    assert len(answer.content) < 10_000
    assert "more_errors" not in problem(await api.client().get("/api/v1/hosts/web9"), 404, "unknown_host")


async def test_a_body_of_another_type_is_refused(api: ApiUnderTest) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""):
        answer = await api.client().post(
            "/api/v1/tasks", content=orjson.dumps(A_TASK), headers={"content-type": content_type}
        )
        problem(answer, 415, "unsupported_media_type")
    problem(await api.client().post("/api/v1/tasks"), 422, "invalid_request")


async def test_what_is_not_there_is_a_problem_too(api: ApiUnderTest) -> None:
    client = api.client()

    for path in (
        "/api/v1/nothing",
        "/api/v2/hosts",
        "/api",
        "/nothing",
        "/ui/0/js/main.js",
        "/hosts/a/b",
        "/api/v1/hosts/",
    ):
        problem(await client.get(path), 404, "not_found")
    for path, code in (
        ("/api/v1/hosts/web9", "unknown_host"),
        ("/api/v1/tasks/t9", "unknown_task"),
        ("/api/v1/tasks/t9/executions", "unknown_task"),
        ("/api/v1/tasks/t9/outputs", "unknown_task"),
        ("/api/v1/tasks/t9/executions/web1", "unknown_task"),
        ("/api/v1/events/999999", "unknown_event"),
    ):
        problem(await client.get(path), 404, code)
    answer = await client.put("/api/v1/hosts")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"


async def test_a_failure_that_nobody_foresaw_is_a_problem_without_its_trace(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a secret in a trace")

    monkeypatch.setattr(type(api.services.host_queries), "one", fail)
    answer = await api.client().get("/api/v1/hosts/web1")

    problem(answer, 500, "internal_error")
    assert "secret" not in answer.text
    assert "a secret in a trace" in caplog.text


async def test_an_answer_that_the_database_holds_up_is_a_503_in_time(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("control_plane.api.routing.ANSWER_S", 0.1)
    monkeypatch.setattr(type(api.services.host_queries), "page", hang)
    reading = await api.client().get("/api/v1/hosts")
    monkeypatch.setattr(api.log, "append", hang)
    writing = await api.client().post("/api/v1/tasks", json=A_TASK)
    monkeypatch.setattr(api.log, "head", hang)
    entering = await api.client(None, authorization="Bearer cp_0_0").get("/api/v1/hosts")

    for answer in (reading, writing, entering):
        problem(answer, 503, "storage_unavailable")
        assert answer.headers["retry-after"] == "1"


async def test_a_body_that_does_not_come_is_its_sender_s_fault_and_not_the_database_s(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    monkeypatch.setattr("control_plane.api.routing.ANSWER_S", 0.05)
    monkeypatch.setattr("control_plane.api.bodies.BODY_S", 0.2)
    headers = {"content-type": "application/json"}

    problem(await api.client().post("/api/v1/tasks", content=chunks(), headers=headers), 408, "body_too_slow")


async def test_every_answer_has_the_headers_that_protect_a_browser(api: ApiUnderTest) -> None:
    for path in ("/", "/api/v1/hosts", "/api/v1/nothing", "/healthz"):
        headers = (await api.client().get(path)).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert policy.endswith("require-trusted-types-for 'script'; trusted-types 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert (await api.client().get("/api/v1/hosts")).headers["cache-control"] == "no-store"


# --- what is described ------------------------------------------------------------------------------------------------


async def test_a_browser_that_goes_where_no_page_is_gets_the_page_that_says_so(api: ApiUnderTest) -> None:
    client = api.client(None)
    navigation = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}

    shell = await client.get("/hosts", headers=navigation)
    for path in ("/account", "/hosts/a/b"):
        answered = await client.get(path, headers=navigation)
        assert (answered.status_code, answered.text) == (404, shell.text)
        assert answered.headers["content-type"] == "text/html; charset=utf-8"
    for path in ("/api/v1/nothing", "/api", "/ui/0/js/main.js"):
        problem(await client.get(path, headers=navigation), 404, "not_found")
    problem(await client.post("/account", headers=navigation), 404, "not_found")


async def test_the_description_names_every_route_of_the_api_and_which_are_public(api: ApiUnderTest) -> None:
    problem(await api.client(None).get("/api/openapi.json"), 401, "not_signed_in")
    described = (await api.client("eve").get("/api/openapi.json")).json()

    paths = described["paths"]
    for method, path in operations(api.app):
        if path.startswith("/api/v1"):
            operation = paths[path][method.lower()]
            assert ("security" in operation) == ((method, path) in PUBLIC), path
            assert "422" not in operation["responses"]


async def test_the_description_says_what_every_operation_does(api: ApiUnderTest) -> None:
    paths = describe(api.app)["paths"]

    said = {(method, path): one.get("description") for path, its in paths.items() for method, one in its.items()}
    assert [operation for operation, text in said.items() if not text] == []


async def test_the_page_of_the_api_shows_every_route_with_nothing_but_our_own_files(api: ApiUnderTest) -> None:
    problem(await api.client(None).get("/api/docs"), 401, "not_signed_in")

    page = await api.client("eve").get("/api/docs")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for path, methods in describe(api.app)["paths"].items():
        for method in methods:
            assert f"{method.upper()} <code>{path}</code>" in page.text
    assert not re.search(r"<script|<style|style=| on\w+=", page.text)  # the policy lets nothing of that run
    links = set(re.findall(r'(?:href|src)="([^"]+)"', page.text))
    anchors = {f"#{name}" for name in re.findall(r' id="([^"]+)"', page.text)}
    assert {link for link in links if link.startswith("#")} <= anchors
    digest = (await api.client("eve").get("/api/v1/auth/me")).json()["build"]
    names = ("reset", "tokens", "base", "layout")
    ours = {"/api/openapi.json", "/", *(f"/ui/{digest}/css/{name}.css" for name in names)}
    assert {link for link in links if not link.startswith("#")} == ours


async def test_the_description_may_be_public_by_setting(tmp_path: Path) -> None:
    async with an_api(tmp_path, docs_public=True, metrics_public=True) as api:
        for path in ("/api/openapi.json", "/api/docs", "/metrics"):
            assert (await api.client(None).get(path)).status_code == 200


async def test_no_answer_of_the_api_is_without_a_described_form(api: ApiUnderTest) -> None:
    for path, methods in describe(api.app)["paths"].items():
        for method, operation in methods.items():
            done = {code: answer for code, answer in operation["responses"].items() if code.startswith(("2", "3"))}
            assert len(done) >= 1, path
            for status, answer in done.items():
                assert status in {"204", "302"} or "content" in answer, (method, path)


async def test_the_description_has_no_form_that_a_client_s_reader_would_take_for_another(api: ApiUnderTest) -> None:
    text = orjson.dumps(describe(api.app)).decode()

    assert r"\\A" not in text  # of patterns: ECMA-262 has no such anchors
    assert r"\\z" not in text
    for path, methods in describe(api.app)["paths"].items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                if status.startswith("4"):
                    assert list(answer["content"]) == ["application/problem+json"], (method, path)
            body = operation.get("requestBody", {"content": {}})["content"]
            assert all("anyOf" not in form["schema"] for form in body.values()), (method, path)
    [hostname, *_] = describe(api.app)["paths"]["/api/v1/hosts/{hostname}"]["get"]["parameters"]
    for name, is_one in (("web1", True), ("a.b-c", True), ("", False), ("a..b", False), ("-a", False), ("a b", False)):
        assert bool(re.search(hostname["schema"]["pattern"], name)) == is_one == is_name(name)


async def test_fifty_at_once_with_one_task_id_make_one_task(api: ApiUnderTest) -> None:
    client = api.client("ada")

    answers = await asyncio.gather(
        *(client.post("/api/v1/tasks", json={**A_TASK, "task_id": "once"}) for _ in range(50))
    )

    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] * 49 + [202]
    assert len({answer.json()["seq"] for answer in answers}) == 1


async def test_a_large_body_is_decoded_in_a_thread_and_one_of_endless_names_is_not_judged_name_by_name(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    parse = strict_json.parse

    def watched(data: bytes, *, max_bytes: int) -> strict_json.JsonObject:
        threads.add(threading.current_thread() is threading.main_thread())
        return parse(data, max_bytes=max_bytes)

    monkeypatch.setattr(strict_json, "parse", watched)
    names = {f"k{each}": 1 for each in range(MAX_NAMES + 1)}
    for body in (names, {"target": names}, {"target": [names]}):
        problem(await api.client().post("/api/v1/tasks", json=body), 400, "malformed_json")
    assert threads == {True}
    answer = await api.client().post("/api/v1/tasks", json={"command": "x" * INLINE_BYTES})
    problem(answer, 422, "invalid_request")
    assert threads == {True, False}


async def test_nobody_has_a_body_read_for_what_they_may_not_do(api: ApiUnderTest) -> None:
    async def never_ends() -> AsyncIterator[bytes]:
        yield b"{"
        raise AssertionError("it was read on")

    made = await api.services.tokens.create(CONSOLE, username="eve", name="x", days=1, permissions=["hosts.read"])
    headers = {"content-type": "application/json", "authorization": f"Bearer {made.text}"}
    answer = await api.client().post("/api/v1/tasks", content=never_ends(), headers=headers)
    problem(answer, 403, "not_allowed")
