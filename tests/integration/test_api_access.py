"""Signing in and out, people and tokens over the API."""

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from control_plane.api.authentication import CSRF_HEADER, UNATTENDED_HEADER
from control_plane.commands.access import IDLE_S, ROLES
from tests.support.api import LOGIN_TOKEN, PASSWORD, UI, URL, ApiUnderTest, a_public_key, an_api

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api")) as made:
        yield made


async def test_login_sets_a_cookie_that_no_script_reads_and_tells_who_one_is(api: ApiUnderTest) -> None:
    client = api.client(None, origin=URL)

    answer = await client.post("/api/v1/auth/login", json={"username": "eve", "password": PASSWORD})

    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("control_plane_session=")
    assert {"httponly", "path=/", "samesite=strict"} <= {part.strip().lower() for part in cookie.split(";")}
    assert "secure" not in cookie.lower()
    me = (await client.get("/api/v1/auth/me")).json()
    assert me == answer.json()
    assert (me["username"], me["role"], me["dev"]) == ("eve", "viewer", False)
    assert "hosts.read" in me["permissions"]
    assert "tasks.run" not in me["permissions"]
    assert len(me["csrf_token"]) == 64


async def test_behind_tls_the_cookie_is_bound_to_this_host(tmp_path: Path) -> None:
    async with an_api(tmp_path, public_url="https://control.example") as api:
        client = api.client(None, origin="https://control.example", host="control.example")
        answer = await client.post("/api/v1/auth/login", json={"login_token": LOGIN_TOKEN})

    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-control_plane_session=")
    assert "secure" in cookie.lower()


async def test_a_failed_login_tells_nothing_about_who_there_is(api: ApiUnderTest) -> None:
    client = api.client(None)

    answers = [
        await client.post("/api/v1/auth/login", json={"username": username, "password": password})
        for username, password in (("eve", "wrong password"), ("nobody", PASSWORD), ("", ""), ("eve\n", PASSWORD))
    ]

    bodies = [{**answer.json(), "request_id": None} for answer in answers]
    assert bodies == [bodies[0]] * len(bodies)
    assert (answers[0].status_code, bodies[0]["code"]) == (401, "login_failed")
    assert all("set-cookie" not in answer.headers for answer in answers)


async def test_who_tries_too_often_is_told_when_to_try_again(api: ApiUnderTest) -> None:
    client = api.client(None, address="203.0.113.1")
    answers = [
        await client.post("/api/v1/auth/login", json={"username": "mallory", "password": f"wrong {number}"})
        for number in range(7)
    ]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 2
    assert answers[-1].json()["code"] == "too_many_logins"
    assert 800 < int(answers[-1].headers["retry-after"]) <= 900


@pytest.mark.parametrize(
    "body",
    [{}, {"username": "eve"}, {"username": "eve", "password": PASSWORD, "login_token": "x"}, {"password": 1}, {"x": 1}],
)
async def test_login_takes_one_way_in(api: ApiUnderTest, body: dict[str, object]) -> None:
    answer = await api.client(None).post("/api/v1/auth/login", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_a_login_that_another_site_s_page_sends_is_refused(api: ApiUnderTest) -> None:
    client = api.client(None, origin="http://evil.example")

    answer = await client.post("/api/v1/auth/login", json={"username": "eve", "password": PASSWORD})

    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "127.0.0.1:8000"),
        ("", "127.0.0.1:8000"),
        ("null", "127.0.0.1:8000"),
        ("//127.0.0.1:8000", "127.0.0.1:8000"),
        ("https://127.0.0.1:8000", "127.0.0.1:8000"),
        ("ftp://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "127.0.0.1:8000"),
        ("http://127.0.0.1:8001", "127.0.0.1:8000"),
        ("http://evil:80@127.0.0.1", "evil:80@127.0.0.1"),
    ],
)
async def test_a_page_is_ours_by_its_whole_origin(api: ApiUnderTest, origin: str | None, host: str) -> None:
    browser = await api.browser("eve")
    del browser.headers["origin"]
    headers = {"host": host, **({} if origin is None else {"origin": origin})}

    answer = await browser.post("/api/v1/auth/logout", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")


async def test_behind_a_proxy_that_ends_tls_the_origin_is_that_of_the_public_address(tmp_path: Path) -> None:
    async with an_api(tmp_path, public_url="https://control.example") as api:
        for scheme, status in (("https", 200), ("ftp", 403)):
            client = api.client(None, origin=f"{scheme}://control.example", host="control.example")
            answer = await client.post("/api/v1/auth/login", json={"login_token": LOGIN_TOKEN})
            assert answer.status_code == status


async def test_the_login_link_signs_in_again_and_again(api: ApiUnderTest) -> None:
    for _ in range(2):
        answer = await api.client(None).post("/api/v1/auth/login", json={"login_token": LOGIN_TOKEN})
        assert answer.json()["username"] == "root"
    wrong = await api.client(None).post("/api/v1/auth/login", json={"login_token": "guessed"})
    assert (wrong.status_code, wrong.json()["code"]) == (401, "login_failed")


async def test_after_logout_the_cookie_is_worth_nothing(api: ApiUnderTest) -> None:
    browser = await api.browser("eve")
    secret = browser.cookies["control_plane_session"]

    answer = await browser.post("/api/v1/auth/logout")

    assert answer.status_code == 204
    browser.cookies.set("control_plane_session", secret)
    assert (await browser.get("/api/v1/auth/me")).status_code == 401


async def test_a_page_that_only_looks_by_itself_keeps_no_session_from_being_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {UNATTENDED_HEADER: "1"}
    async with an_api(tmp_path) as api:
        browser = await api.browser("eve")
        now_s, later_s = api.services.clock.now_s, 0
        monkeypatch.setattr(api.services.clock, "now_s", lambda: now_s() + later_s)

        async def ask_after_a_while(method: str, headers: dict[str, str]) -> int:
            nonlocal later_s
            later_s += IDLE_S - 60
            return (await browser.request(method, "/api/v1/stop", headers=headers)).status_code

        attended = [await ask_after_a_while("GET", {}) for _ in range(3)]
        written = [await ask_after_a_while("POST", alone) for _ in range(3)]
        looked = [await ask_after_a_while("GET", alone) for _ in range(2)]
        await api.client("eve", address="203.0.113.9", **alone).get("/api/v1/stop")
        used = await api.services.access.uses.all()

    assert attended == [200, 200, 200]
    assert 401 not in written
    assert looked == [200, 401]
    assert "203.0.113.9" in {use.address for use in used.values()}, "of a token it is a use, whatever it says of itself"


async def test_a_second_login_is_a_session_of_its_own(api: ApiUnderTest) -> None:
    one, two = await api.browser("eve"), await api.browser("eve")

    assert one.headers[CSRF_HEADER] != two.headers[CSRF_HEADER]
    await one.post("/api/v1/auth/logout")
    assert (await two.get("/api/v1/auth/me")).status_code == 200


async def test_people_are_made_changed_and_shut_out(api: ApiUnderTest) -> None:
    root = await api.browser("root")
    body = {"username": "bob", "role": "viewer", "password": PASSWORD}

    assert (await root.post("/api/v1/users", json=body)).status_code == 201
    again = await root.post("/api/v1/users", json=body)
    assert (again.status_code, again.json()["code"]) == (409, "user_exists")
    bob = await api.browser("bob")
    assert (await root.patch("/api/v1/users/bob", json={"role": "operator"})).status_code == 200
    assert (await bob.get("/api/v1/auth/me")).status_code == 401  # another role is another session
    bob = await api.browser("bob")
    assert (await bob.get("/api/v1/auth/me")).json()["role"] == "operator"
    assert (await root.patch("/api/v1/users/bob", json={"enabled": False})).status_code == 200
    assert (await bob.get("/api/v1/auth/me")).status_code == 401
    listed = {user["username"]: user for user in (await root.get("/api/v1/users")).json()["items"]}
    more = {"identity": None, "passkeys": 0}
    assert listed["bob"] == {"username": "bob", "role": "operator", "enabled": False, **more}
    assert (await root.patch("/api/v1/users/nobody", json={"enabled": True})).json()["code"] == "unknown_user"


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"password": "short"}, 422, "weak_password"),
        ({"role": "emperor"}, 422, "invalid_request"),
        ({"username": "Bob"}, 422, "invalid_request"),
        ({"username": "console"}, 422, "invalid_request"),
        ({"password": 123456789012}, 422, "invalid_request"),
    ],
)
async def test_a_user_that_may_not_be_is_refused(
    api: ApiUnderTest, change: dict[str, object], status: int, code: str
) -> None:
    body = {"username": "mallory", "role": "viewer", "password": PASSWORD, **change}

    answer = await api.client().post("/api/v1/users", json=body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_the_last_administrator_stays(api: ApiUnderTest) -> None:
    answer = await api.client().patch("/api/v1/users/root", json={"enabled": False})

    assert (answer.status_code, answer.json()["code"]) == (409, "last_administrator")


async def test_a_token_is_shown_once_works_and_ends_when_revoked(api: ApiUnderTest) -> None:
    eve = await api.browser("eve")

    made = (await eve.post("/api/v1/tokens", json={"name": "a script", "days": 7})).json()
    listed = await eve.get("/api/v1/tokens")

    bearer = {"authorization": f"Bearer {made['token']}"}
    assert (await api.client(None).get("/api/v1/auth/me", headers=bearer)).json()["username"] == "eve"
    assert made["token"] not in listed.text
    assert {token["username"] for token in listed.json()["items"]} == {"eve"}
    assert (await eve.delete(f"/api/v1/tokens/{made['token_id']}")).status_code == 204
    assert (await api.client(None).get("/api/v1/auth/me", headers=bearer)).status_code == 401
    assert (await eve.delete(f"/api/v1/tokens/{made['token_id']}")).json()["code"] == "unknown_token"


async def test_nobody_makes_or_ends_a_token_of_somebody_else(api: ApiUnderTest) -> None:
    ada = api.client("ada")
    of_root = (await api.client().get("/api/v1/tokens")).json()["items"]
    token_id = next(token["token_id"] for token in of_root if token["username"] == "root")

    made = await ada.post("/api/v1/tokens", json={"name": "mine", "username": "root"})
    ended = await ada.delete(f"/api/v1/tokens/{token_id}")

    assert [(answer.status_code, answer.json()["code"]) for answer in (made, ended)] == [(403, "not_allowed")] * 2


async def test_roles_say_what_they_may(api: ApiUnderTest) -> None:
    roles = {
        role["role"]: role["permissions"] for role in (await api.client("eve").get("/api/v1/roles")).json()["items"]
    }

    assert {role: set(permissions) for role, permissions in roles.items()} == ROLES


async def test_the_page_is_served_for_every_address_of_ours_and_its_files_for_ever(api: ApiUnderTest) -> None:
    client = api.client(None)
    build = (await api.client("eve").get("/api/v1/auth/me")).json()["build"]

    for path in ("/", "/hosts?q=web&at=1", "/hosts/web1", "/run?host=web1", "/tasks/t1?tab=hosts", "/audit", "/login"):
        page = await client.get(path)
        assert page.status_code == 200
        assert page.headers["cache-control"] == "no-cache"
        assert page.text == UI["index.html"].decode().replace("@build", build)
    script = await client.get(f"/ui/{build}/js/main.js")
    assert (script.content, script.headers["content-type"]) == (UI["js/main.js"], "text/javascript; charset=utf-8")
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    style = await client.get(f"/ui/{build}/css/base.css")
    assert style.headers["content-type"].startswith("text/css")
    for path in (
        f"/ui/{build}/../app.py",
        f"/ui/{build}/%2e%2e/app.py",
        f"/ui/{build}/js/none.js",
        "/ui/old/js/main.js",
    ):
        assert (await client.get(path)).status_code == 404


# --- what is denied


async def test_every_denial_is_an_event_or_counted_in_one(tmp_path: Path) -> None:
    async with an_api(tmp_path) as api:
        browser, stranger = await api.browser("eve"), api.client(None)
        enrol = {"token": "cpe_0_0", "hostname": "web1", "public_key": a_public_key()}
        of_nobody = [
            await stranger.get("/api/v1/hosts", headers={"authorization": "Bearer cp_0_0"}),
            await stranger.get("/metrics", headers={"authorization": "Basic cm9vdDpyb290"}),
            await stranger.get("/api/v1/hosts", headers={"cookie": "control_plane_session=guessed"}),
            await stranger.post("/api/v1/auth/login", json={"login_token": "guessed"}),
            await stranger.post("/api/v1/enrol/begin", json=enrol),
        ]
        of_eve = [
            await browser.post("/api/v1/auth/logout", headers={CSRF_HEADER: "guessed"}),
            await browser.post("/api/v1/auth/logout", headers={"origin": "http://evil.example"}),
            await browser.get("/api/v1/users"),
        ]
        assert (await stranger.get("/api/v1/hosts")).status_code == 401  # who shows nothing is denied nothing
        handling = api.services.access._handling
        await handling.record_denials(handling.denials.rest())
        head = (await api.log.head("event")).seq
        query = {"kind": "access.denied", "min_seq": head}
        lines = (await api.client().get("/api/v1/events/export", params=query)).text.splitlines()

    assert [answer.status_code for answer in of_nobody + of_eve] == [401] * 5 + [403] * 3
    told = [(event["actor"], event["body"]) for event in map(orjson.loads, lines)]
    assert [(actor, body["code"], body["resource"], body.get("count")) for actor, body in told] == [
        (None, "not_signed_in", "GET /api/v1/hosts", None),
        ("eve", "csrf_refused", "POST /api/v1/auth/logout", None),
        ("eve", "origin_refused", "POST /api/v1/auth/logout", None),
        ("eve", "not_allowed", "users", None),
        (None, "enrolment_refused", "hosts/web1", 4),
    ]
    assert {body["address"] for _, body in told} == {"127.0.0.1"}
