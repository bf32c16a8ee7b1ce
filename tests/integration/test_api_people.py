"""Credentials over the API: tokens for less, one's own password, a sign-in of a moment ago, and limits of requests."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from control_plane.api import live
from control_plane.api.authentication import CSRF_HEADER
from control_plane.api.server import HttpService, bound
from control_plane.commands import throttle
from control_plane.commands.access import CONSOLE
from control_plane.errors import StorageUnavailableError
from control_plane.settings import Settings
from control_plane_wire.lifecycle import run_until_stopped
from tests.support.api import PASSWORD, URL, ApiUnderTest, a_stream, an_api

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANDLER = "control_plane.commands.handlers.access"
NEW_PASSWORD = "another long one"
A_RULE = {"effect": "deny", "subject": "user:eve", "actions": ["tasks.run"], "hosts": {"all": True}}
SENSITIVE: dict[tuple[str, str], Any] = {
    ("POST", "/users"): {"username": "mallory", "role": "administrator", "password": PASSWORD},
    ("PATCH", "/users/eve"): {"role": "administrator"},
    ("POST", "/tokens"): {"name": "mine"},
    ("POST", "/rules"): A_RULE,
    ("DELETE", "/rules/0"): None,
    ("POST", "/enrolment-tokens"): {},
    ("POST", "/hosts"): {"hostname": "web9", "public_key": "no key"},
    ("POST", "/hosts/web1/lift-quarantine"): {"reason": "restored"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api")) as made:
        for username in ("boss", "bob", "carl"):
            role = "administrator" if username == "boss" else "viewer"
            await made.services.access.create_user(CONSOLE, username, role=role, password=PASSWORD)
        await made.register("web1")
        yield made


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "") if answer.content else ""


def bearer(api: ApiUnderTest, text: str, *, address: str = "127.0.0.1") -> httpx.AsyncClient:
    return api.client(None, address=address, authorization=f"Bearer {text}")


async def a_token(api: ApiUnderTest, **given: Any) -> dict[str, Any]:
    answer = await api.client().post("/api/v1/tokens", json={"name": "x", **given})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


# --- tokens for less


async def test_a_token_does_only_what_it_is_for_and_is_listed_with_it(api: ApiUnderTest) -> None:
    made = await a_token(api, permissions=["hosts.read", "users.read"], addresses=["10.0.0.0/8", "::1"])
    client = bearer(api, made["token"], address="10.9.9.9")

    me = (await client.get("/api/v1/auth/me")).json()
    assert (me["role"], me["permissions"]) == ("administrator", ["hosts.read", "users.read"])
    assert (await client.get("/api/v1/users")).status_code == 200
    run = {"target": {"all": True}, "command": "id", "timeout": 1, "user": "root"}
    for method, path, body in (
        ("POST", "/tasks", run),
        ("POST", "/targets/preview", {"target": {"all": True}}),
        ("PATCH", "/hosts/web1", {"maintenance": True}),
        ("GET", "/events", None),
        ("GET", "/events/export", None),
        ("GET", "/rules", None),
        *((method, path, body) for (method, path), body in SENSITIVE.items() if path not in {"/tokens", "/hosts"}),
    ):
        refused = await client.request(method, f"/api/v1{path}", json=body)
        assert told(refused) == (403, "not_allowed"), path
    listed = {item["token_id"]: item for item in (await api.client().get("/api/v1/tokens")).json()["items"]}
    item = listed[made["token_id"]]
    assert (item["permissions"], item["addresses"]) == (["hosts.read", "users.read"], ["10.0.0.0/8", "::1/128"])
    assert item["last_used_from"] == "10.9.9.9"
    assert item["last_used_at"] > "2026"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"permissions": []}, "permissions"),
        ({"permissions": "hosts.read"}, "permissions"),
        ({"permissions": ["everything"]}, "permissions"),
        ({"permissions": [1]}, "permissions.0"),
        ({"permissions": ["x" * 65]}, "permissions.0"),
        ({"permissions": ["hosts.read"] * 100}, "permissions"),
        ({"addresses": []}, "addresses"),
        ({"addresses": ["10.0.0.1/8"]}, "addresses"),
        ({"addresses": ["evil.example"]}, "addresses"),
        ({"addresses": ["10.0.0.0/8"] * 65}, "addresses"),
        ({"addresses": [10]}, "addresses.0"),
        ({"days": 366}, "days"),
        ({"days": True}, "days"),
    ],
)
async def test_a_token_that_is_not_well_asked_for_is_refused_by_its_field(
    api: ApiUnderTest, given: dict[str, Any], field: str
) -> None:
    answer = await api.client().post("/api/v1/tokens", json={"name": "x", **given})

    assert told(answer) == (422, "invalid_request")
    assert field in {error["field"] for error in answer.json()["errors"]}


async def test_who_has_too_many_tokens_is_told_so(api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.commands.users.MAX_TOKENS", 0)

    assert told(await api.client().post("/api/v1/tokens", json={"name": "x"})) == (409, "too_many_tokens")


async def test_from_elsewhere_a_token_is_nobody_s_and_its_owner_can_see_that(api: ApiUnderTest) -> None:
    made = await a_token(api, username="bob", addresses=["10.0.0.0/8"])
    head = (await api.log.head("event")).seq

    answers = [
        await bearer(api, made["token"], address=each).get("/api/v1/auth/me") for each in ("10.1.1.1", "11.1.1.1")
    ]

    assert [answer.status_code for answer in answers] == [200, 401]
    stranger = await bearer(api, "cp_0_0").get("/api/v1/auth/me")
    assert {**answers[1].json(), "request_id": None} == {**stranger.json(), "request_id": None}
    query = {"after": head, "kind": "access.denied"}
    await api.shown((await api.log.head("event")).seq)
    [denied, *_] = (await api.client().get("/api/v1/events", params=query)).json()["items"]
    body = (await api.client().get(f"/api/v1/events/{denied['seq']}")).json()["body"]
    assert (body["actor"], body["code"], body["address"]) == ("bob", "wrong_address", "11.1.1.1")


@pytest.fixture
def free() -> Iterator[tuple[Settings, socket.socket]]:
    with bound(Settings(listen="127.0.0.1:0")) as made:
        yield made


@pytest.mark.parametrize(
    ("trusted", "forwarded", "status"),
    [
        ("127.0.0.1", "10.1.2.3", 200),
        ("127.0.0.1", "11.1.2.3", 401),
        ("127.0.0.1", "10.1.2.3, 203.0.113.9", 401),  # the client's own header, before what the proxy has seen
        ("192.0.2.1", "10.1.2.3", 401),  # nobody's proxy says so
        ("127.0.0.1", None, 401),
        ("", "10.1.2.3", 401),  # nor does anybody on this machine, unless a setting says that a proxy is there
        ("127.0.0.1", "10.1.2.3" + "A" * 50_000, 401),
    ],
)
async def test_the_address_is_what_a_trusted_proxy_has_seen(
    tmp_path: Path, free: tuple[Settings, socket.socket], trusted: str, forwarded: str | None, status: int
) -> None:
    settings, listener = free
    async with an_api(tmp_path, listen=settings.listen, trusted_proxies=trusted) as api:
        made = await api.services.tokens.create(CONSOLE, username="eve", name="x", days=1, addresses=["10.0.0.0/8"])
        headers = {"authorization": f"Bearer {made.text}", **({"x-forwarded-for": forwarded} if forwarded else {})}
        stop, url = asyncio.Event(), f"http://127.0.0.1:{settings.listen_port}"
        async with asyncio.timeout(20), asyncio.TaskGroup() as group, httpx.AsyncClient(base_url=url) as client:
            group.create_task(run_until_stopped([HttpService(api.services, listener)], stop=stop, drain_s=10))
            while not await _answers(client):
                await asyncio.sleep(0)
            answer = await client.get("/api/v1/auth/me", headers=headers)
            stop.set()
    assert answer.status_code == status


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/healthz")).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("way", ["revoked", "disabled"])
async def test_a_token_and_its_streams_end_at_once(
    api: ApiUnderTest, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PING_S", 0.2)
    made = await a_token(api, username="bob")
    client = bearer(api, made["token"])
    async with a_stream(api, "hosts", token=made["token"]) as stream:
        await stream.next(skip=())
        if way == "revoked":
            ended = await api.client().delete(f"/api/v1/tokens/{made['token_id']}")
        else:
            ended = await api.client().patch("/api/v1/users/bob", json={"enabled": False})
        assert ended.is_success
        assert told(await client.get("/api/v1/auth/me")) == (401, "not_signed_in")
        assert await stream.next(timeout_s=30) is None
    await api.client().patch("/api/v1/users/bob", json={"enabled": True})
    assert told(await client.get("/api/v1/auth/me")) == (401, "not_signed_in")


async def test_last_uses_are_written_later_and_no_request_waits_for_them(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses, made = api.services.access.uses, await a_token(api, username="carl")
    client, written = bearer(api, made["token"]), []

    async def fail(_: Any) -> None:
        written.append("failed")
        raise StorageUnavailableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(uses._table, "put", fail)
        assert (await client.get("/api/v1/auth/me")).status_code == 200
        await uses._write(everything=False)
    assert written == ["failed"]
    put = uses._table.put  # type: ignore[union-attr]

    async def counted(due: Any) -> None:
        written.append(due[made["token_id"]])
        await put(due)

    monkeypatch.setattr(uses._table, "put", counted)
    for _ in range(100):
        assert (await client.get("/api/v1/auth/me")).status_code == 200
        await uses._write(everything=False)
    assert len(written) == 2
    kept = await uses._table.all()  # type: ignore[union-attr]
    assert kept[made["token_id"]] == written[-1]


# --- one's own password


async def test_one_changes_one_s_own_password_and_goes_on_with_a_new_session(api: ApiUnderTest) -> None:
    mine, other = await api.browser("carl"), await api.browser("carl")
    secret = mine.cookies["control_plane_session"]

    wrong = await mine.post("/api/v1/auth/password", json={"current": "wrong password", "new": NEW_PASSWORD})
    weak = await mine.post("/api/v1/auth/password", json={"current": PASSWORD, "new": "short"})
    forged = await mine.post(
        "/api/v1/auth/password", json={"current": PASSWORD, "new": NEW_PASSWORD}, headers={CSRF_HEADER: "0"}
    )
    changed = await mine.post("/api/v1/auth/password", json={"current": PASSWORD, "new": NEW_PASSWORD})

    assert [told(answer) for answer in (wrong, weak, forged)] == [
        (401, "login_failed"),
        (422, "weak_password"),
        (403, "csrf_refused"),
    ]
    assert (changed.status_code, changed.json()["username"]) == (200, "carl")
    assert mine.cookies["control_plane_session"] != secret
    mine.headers[CSRF_HEADER] = changed.json()["csrf_token"]
    assert (await mine.get("/api/v1/auth/me")).status_code == 200
    assert (await other.get("/api/v1/auth/me")).status_code == 401
    old = api.client(None)
    old.cookies.set("control_plane_session", secret)
    assert (await old.get("/api/v1/auth/me")).status_code == 401
    back = await mine.post("/api/v1/auth/password", json={"current": NEW_PASSWORD, "new": PASSWORD})
    assert back.status_code == 200


@pytest.mark.parametrize(
    "body",
    [{}, {"current": PASSWORD}, {"current": 1, "new": NEW_PASSWORD}, {"current": PASSWORD, "new": "x" * 513},
     {"current": PASSWORD, "new": NEW_PASSWORD, "username": "root"}],
)  # fmt: skip
async def test_a_change_of_password_takes_two_of_them_and_nobody_s_name(api: ApiUnderTest, body: Any) -> None:
    assert told(await (await api.browser("carl")).post("/api/v1/auth/password", json=body)) == (422, "invalid_request")


async def test_nobody_changes_a_password_with_a_token_or_by_another_s_name(api: ApiUnderTest) -> None:
    body = {"current": PASSWORD, "new": NEW_PASSWORD}

    assert told(await api.client("eve").post("/api/v1/auth/password", json=body)) == (403, "session_required")
    assert told(await api.client(None).post("/api/v1/auth/password", json=body)) == (401, "not_signed_in")
    for username in ("eve", "root", "nobody"):
        by_ada = await api.client("ada").patch(f"/api/v1/users/{username}", json={"password": NEW_PASSWORD})
        assert told(by_ada) == (403, "not_allowed")
    own = await api.client("root").patch("/api/v1/users/root", json={"password": NEW_PASSWORD})
    assert told(own) == (403, "not_allowed")


# --- a sign-in of a moment ago


async def test_what_gives_rights_takes_a_recent_sign_in(api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    boss = await api.browser("boss")
    head = (await api.log.head("event")).seq

    with monkeypatch.context() as patch:
        patch.setattr(f"{HANDLER}.RECENT_S", -1)
        for (method, path), body in SENSITIVE.items():
            assert told(await boss.request(method, f"/api/v1{path}", json=body)) == (403, "sign_in_again"), path
        denied = await api.log.read("event", after=head)
        assert [row.kind for row in denied] == ["access.denied"] * len(SENSITIVE)
        assert all(b'"code":"sign_in_again"' in row.body for row in denied)
        assert (await boss.get("/api/v1/users")).status_code == 200
        token = await api.client().post("/api/v1/tokens", json={"name": "mine"})
        assert token.status_code == 201

        by_link = api.client(None, origin=URL)
        linked = await by_link.post("/api/v1/auth/login", json={"login_token": "the-login-link-of-this-test"})
        by_link.headers[CSRF_HEADER] = linked.json()["csrf_token"]
        assert (await by_link.post("/api/v1/tokens", json={"name": "mine"})).status_code == 201

    # The page signs in once more and asks again, with the session that it has got.
    again = await boss.post("/api/v1/auth/login", json={"username": "boss", "password": PASSWORD})
    boss.headers[CSRF_HEADER] = again.json()["csrf_token"]
    for (method, path), body in SENSITIVE.items():
        assert (await boss.request(method, f"/api/v1{path}", json=body)).status_code in {200, 201, 404, 422}, path


async def test_to_move_a_host_takes_one_where_a_rule_names_the_group(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    boss, rule = await api.browser("boss"), {**A_RULE, "hosts": {"groups": ["lab"]}}
    rule_id = (await api.client().post("/api/v1/rules", json=rule)).json()["rule_id"]
    into, out = [(method, "/api/v1/groups/lab/hosts/web1", None) for method in ("PUT", "DELETE")]
    patched = ("PATCH", "/api/v1/hosts/web1", {"groups": ["lab"], "maintenance": True})

    async def ask(client: httpx.AsyncClient, asked: tuple[str, str, Any]) -> tuple[int, str]:
        return told(await client.request(asked[0], asked[1], json=asked[2]))

    with monkeypatch.context() as patch:
        patch.setattr(f"{HANDLER}.RECENT_S", -1)
        head = (await api.log.head("event")).seq
        for asked in (into, patched):
            assert await ask(boss, asked) == (403, "sign_in_again")
        assert [row.kind for row in await api.log.read("event", after=head)] == ["access.denied"] * 2
        for method in ("PUT", "DELETE"):
            assert await ask(boss, (method, "/api/v1/groups/plain/hosts/web1", None)) == (200, "")
        assert await ask(api.client(), into) == (200, "")
        assert await ask(boss, out) == (403, "sign_in_again")

    for asked in (out, into, out):
        assert await ask(boss, asked) == (200, "")
    await api.client().delete(f"/api/v1/rules/{rule_id}")


async def test_a_login_takes_the_place_of_the_session_that_the_browser_had(api: ApiUnderTest) -> None:
    browser, other = await api.browser("eve"), await api.browser("eve")
    secret = browser.cookies["control_plane_session"]

    again = await browser.post("/api/v1/auth/login", json={"username": "eve", "password": PASSWORD})

    assert again.status_code == 200
    assert (await browser.get("/api/v1/auth/me")).json()["csrf_token"] == again.json()["csrf_token"]
    old = api.client(None)
    old.cookies.set("control_plane_session", secret)
    assert (await old.get("/api/v1/auth/me")).status_code == 401
    assert (await other.get("/api/v1/auth/me")).status_code == 200
    failed = await browser.post("/api/v1/auth/login", json={"username": "eve", "password": "wrong password"})
    assert failed.status_code == 401
    assert (await browser.get("/api/v1/auth/me")).status_code == 200


# --- how often


async def test_each_session_and_each_token_asks_so_often_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with an_api(tmp_path, session_rate=5, token_rate=10) as api:
        now_s = 0.0
        monkeypatch.setattr(api.services.clock, "monotonic_s", lambda: now_s)
        one, other, program = await api.browser("eve"), await api.browser("eve"), api.client("eve")

        async def burst(client: httpx.AsyncClient) -> list[int]:
            return [(await client.get("/api/v1/auth/me")).status_code for _ in range(30)]

        assert await burst(one) == [200] * 10 + [429] * 20
        assert await burst(program) == [200] * 20 + [429] * 10
        assert await burst(other) == [200] * 10 + [429] * 20
        refused = await one.post("/api/v1/auth/logout", headers={CSRF_HEADER: "guessed"})
        assert (told(refused), refused.headers["retry-after"]) == ((429, "too_many_requests"), "1")
        now_s = 1.0
        assert await burst(one) == [200] * 5 + [429] * 25
        now_s = 1000.0
        assert await burst(one) == [200] * 10 + [429] * 20


async def test_wrong_credentials_of_one_address_are_looked_up_so_often_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with an_api(tmp_path) as api:
        looked, refresh = [], api.services.authority.refresh

        async def counted() -> int:
            looked.append(1)
            return await refresh()

        monkeypatch.setattr(api.services.authority, "refresh", counted)
        statuses = [
            (await bearer(api, f"cp_{number}_0", address="203.0.113.1").get("/api/v1/roles")).status_code
            for number in range(300)
        ]
        assert statuses == [401] * throttle.WRONG_CREDENTIALS + [429] * 200
        assert len(looked) == throttle.WRONG_CREDENTIALS
        cookie = api.client(None, address="203.0.113.1", cookie="control_plane_session=guessed")
        refused = await cookie.get("/api/v1/roles")
        assert told(refused) == (429, "too_many_credentials")
        assert 0 < int(refused.headers["retry-after"]) <= 60
        # Who is known is not kept out by others from there, nor is who shows nothing, nor anybody from elsewhere.
        assert (await api.client("eve", address="203.0.113.1").get("/api/v1/roles")).status_code == 200
        assert (await api.client(None, address="203.0.113.1").get("/api/v1/roles")).status_code == 401
        assert (await bearer(api, "cp_0_0", address="203.0.113.2").get("/api/v1/roles")).status_code == 401
        await api.services.access._handling.record_denials(api.services.access._handling.denials.rest())
        assert len(await api.log.read("event", after=0, kinds={"access.denied"})) <= 4


async def test_credentials_that_another_replica_has_made_a_moment_ago_count_as_no_wrong_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with an_api(tmp_path) as api:
        find, calls = api.services.access.by_token, []

        def late(text: str, *, address: str | None = None) -> Any:
            calls.append(text)
            return find("" if len(calls) % 2 else text, address=address)

        monkeypatch.setattr(api.services.access, "by_token", late)
        client = api.client("eve")
        assert {(await client.get("/api/v1/roles")).status_code for _ in range(200)} == {200}
