"""Sign-in at an identity provider that is really there: its keys are real, and it lies where a test says so."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi.responses import JSONResponse, RedirectResponse, Response
from joserfc import jws
from joserfc.jwk import RSAKey

from control_plane import identity_provider
from control_plane.api.authentication import CSRF_HEADER
from control_plane.commands.identity import TRANSACTION_S, Proved, Transaction
from control_plane.events.passkeys import PasskeyAdded
from control_plane.identity_provider import OpenIdProvider
from tests.support.api import PASSWORD, URL, ApiUnderTest, an_api
from tests.support.certificates import a_certificate
from tests.support.clock import ManualClock
from tests.support.events import SHA
from tests.support.oidc_provider import (
    ALGORITHMS,
    CLIENT_ID,
    CLIENT_SECRET,
    SUBJECT,
    AnyAlgorithm,
    Claims,
    Provider,
    a_provider,
    keyed_hash,
    unsigned,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

BEGIN = "/api/v1/auth/oidc/begin"
CALLBACK = "/api/v1/auth/oidc/callback"
COOKIE = "control_plane_sign_in"
FAILED, UNAVAILABLE = "/login?error=oidc_failed", "/login?error=oidc_unavailable"


@pytest.fixture(scope="module")
def real_provider() -> Iterator[Provider]:
    with a_provider() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory, real_provider: Provider) -> AsyncIterator[ApiUnderTest]:
    """With ada, who is SUBJECT there."""
    settings = {
        "oidc_issuer": real_provider.url,
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret": CLIENT_SECRET,
        "oidc_name": "Example SSO",
    }
    async with an_api(tmp_path_factory.mktemp("api"), **settings) as made:
        await link(made, "ada", SUBJECT)
        yield made


@pytest.fixture
def provider(real_provider: Provider, api: ApiUnderTest) -> Iterator[Provider]:
    """Honest at the beginning of each test, and known to the API as it is."""
    fresh = Provider(url=real_provider.url, keys=real_provider.keys, kids=real_provider.kids)
    kept = dict(vars(real_provider))
    vars(real_provider).update(vars(fresh))
    forget(api)
    api.services.identity._strangers.forget("127.0.0.1")
    yield real_provider
    vars(real_provider).update(kept)


def forget(api: ApiUnderTest) -> OpenIdProvider:
    """The API's provider, which has never asked anything."""
    mine = api.services.identity._provider
    assert isinstance(mine, OpenIdProvider)
    mine._known = mine._failed_s = None
    api.services.identity._tries._times.clear()
    return mine


async def link(api: ApiUnderTest, username: str, subject: str | None) -> httpx.Response:
    identity = None if subject is None else {"subject": subject}
    return await api.client("root").patch(f"/api/v1/users/{username}", json={"identity": identity})


async def at_provider(client: httpx.AsyncClient) -> dict[str, str]:
    """What the browser brings back from the provider."""
    begun = await client.get(BEGIN)
    assert begun.status_code == 302, begun.text
    async with httpx.AsyncClient() as outside:
        answer = await outside.get(begun.headers["location"])
    assert answer.status_code == 302, answer.text
    assert answer.headers["location"].startswith(f"{URL}{CALLBACK}?")
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


async def sign_in(api: ApiUnderTest, **changed: str | None) -> httpx.Response:
    """From the beginning to the answer of the callback, whose parameters may be changed."""
    client = api.client(None)
    query = {**await at_provider(client), **changed}
    return await client.get(CALLBACK, params={name: value for name, value in query.items() if value is not None})


async def events_of(api: ApiUnderTest, kind: str) -> list[dict[str, Any]]:
    rows = await api.log.read("event", after=0, kinds={kind}, limit=1000)
    return [json.loads(row.body) for row in rows]


async def refused(api: ApiUnderTest, answer: httpx.Response, to: str = FAILED) -> str:
    """That the answer lets nobody in and tells nothing; the reason that the log has for it."""
    assert (answer.status_code, answer.headers["location"]) == (302, to)
    cookies = answer.headers.get_list("set-cookie")
    assert not any(cookie.startswith("control_plane_session=") for cookie in cookies), cookies
    failure = (await events_of(api, "login.failed"))[-1]
    assert failure["method"] == "oidc"
    return str(failure["reason"])


# --- signing in


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_who_is_linked_signs_in(api: ApiUnderTest, provider: Provider, algorithm: str) -> None:
    provider.algorithm = algorithm
    client = api.client(None)
    query = await at_provider(client)

    answer = await client.get(CALLBACK, params=query)

    assert (answer.status_code, answer.headers["location"]) == (302, "/")
    session, transaction = sorted(answer.headers.get_list("set-cookie"))
    assert "samesite=strict" in session.lower()
    assert "httponly" in session.lower()
    assert transaction.startswith(f'{COOKIE}=""')
    me = (await client.get("/api/v1/auth/me")).json()
    assert me["username"] == "ada"
    opened = (await events_of(api, "session.opened"))[-1]
    assert (opened["username"], opened["method"]) == ("ada", "oidc")


async def test_the_provider_is_asked_with_pkce_state_and_nonce_and_sees_no_secret_of_the_browser(
    api: ApiUnderTest, provider: Provider
) -> None:
    client = api.client(None)
    begun = await client.get(BEGIN)

    asked = dict(parse_qsl(urlsplit(begun.headers["location"]).query))
    cookie = begun.headers["set-cookie"].lower()
    kept = Transaction(client.cookies[COOKIE])
    assert asked["code_challenge_method"] == "S256"
    assert (asked["state"], asked["nonce"], asked["code_challenge"]) == (kept.state, kept.nonce, kept.code_challenge)
    assert asked["scope"] == "openid"
    assert {"httponly", "samesite=lax", "path=/"} <= {part.strip() for part in cookie.split(";")}
    for secret in (kept.text, kept.verifier, CLIENT_SECRET):
        assert secret not in begun.headers["location"]


async def test_the_page_learns_which_ways_there_are(api: ApiUnderTest) -> None:
    answer = await api.client(None).get("/api/v1/auth/providers")

    assert answer.json() == {"oidc": {"name": "Example SSO"}, "passkeys": False}


async def test_a_public_client_is_protected_by_pkce_alone(tmp_path_factory: Any, provider: Provider) -> None:
    provider.client_secret = None
    settings = {"oidc_issuer": provider.url, "oidc_client_id": CLIENT_ID}
    async with an_api(tmp_path_factory.mktemp("public"), **settings) as api:
        await link(api, "ada", SUBJECT)
        assert (await sign_in(api)).headers["location"] == "/"


# --- ID tokens that prove nothing


def without(name: str) -> Callable[[Claims], Claims]:
    return lambda claims: {key: value for key, value in claims.items() if key != name}


def but(**changed: Any) -> Callable[[Claims], Claims]:
    return lambda claims: {
        **claims,
        **{key: value(claims) if callable(value) else value for key, value in changed.items()},
    }


CLAIMS: dict[str, tuple[Callable[[Claims], Claims], str]] = {
    "another issuer": (but(iss="https://evil.example"), "iss"),
    "an issuer with a slash more": (but(iss=lambda claims: claims["iss"] + "/"), "iss"),
    "no issuer": (without("iss"), "iss"),
    "another audience": (but(aud="another-client"), "aud"),
    "no audience": (without("aud"), "aud"),
    "an empty audience": (but(aud=[]), "aud"),
    "our audience and a party that is another": (but(aud=[CLIENT_ID, "x"], azp="x"), "another client"),
    "several audiences and no party": (
        lambda claims: without("azp")({**claims, "aud": [CLIENT_ID, "x"]}),
        "another client",
    ),
    "another party": (but(azp="another-client"), "another client"),
    "expired": (but(exp=lambda claims: claims["iat"] - 61), "expired"),
    "no end": (without("exp"), "exp"),
    "an end that is no number": (but(exp="never"), "exp"),
    "an end that is true": (but(exp=True), "exp"),
    "not valid yet": (but(nbf=lambda claims: claims["iat"] + 3600), "not yet valid"),
    "made in the future": (but(iat=lambda claims: claims["iat"] + 3600), "in the future"),
    "no time": (without("iat"), "iat"),
    "another nonce": (but(nonce="another"), "nonce"),
    "no nonce": (without("nonce"), "nonce"),
    "a list with the nonce in it": (but(nonce=lambda claims: [claims["nonce"]]), "nonce"),
    "about another access token": (but(at_hash="AAAAAAAAAAAAAAAAAAAAAA"), "access token"),
    "a hash that is no text": (but(at_hash=7), "access token"),
    "no subject": (without("sub"), "sub"),
    "an empty subject": (but(sub=""), "sub"),
    "a subject that is a number": (but(sub=248289761001), "sub"),
    "a subject that is a list": (but(sub=[SUBJECT]), "sub"),
    "a party that is a list": (but(azp=[CLIENT_ID]), "another client"),
    "a party that is an object": (but(azp={}), "another client"),
    "an audience that is an object": (but(aud={CLIENT_ID: 1}), "aud"),
    "an audience that is a number": (but(aud=1), "aud"),
    "an audience of objects": (but(aud=[{}, {}]), "aud"),
    "an end that is not a number at all": (but(exp=float("nan")), "exp"),
    "an end that never comes": (but(exp=float("inf")), "exp"),
    "an end that is an object": (but(exp={}), "exp"),
    "an issuer that is a list": (lambda claims: {**claims, "iss": [claims["iss"]]}, "iss"),
    "a subject that is too long": (but(sub="x" * 256), "subject"),
    "a subject in another script": (but(sub="２48289761001"), "subject"),
}


@pytest.mark.parametrize(("change", "reason"), CLAIMS.values(), ids=CLAIMS.keys())
async def test_a_token_that_says_something_else_lets_nobody_in(
    api: ApiUnderTest, provider: Provider, change: Callable[[Claims], Claims], reason: str
) -> None:
    provider.change = change

    said = await refused(api, await sign_in(api))

    assert reason in said


def public_pem(provider: Provider) -> bytes:
    key = provider.keys["RS256"].public_key
    return bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def none_at_all(head: Claims, claims: Claims, name: str = "none") -> str:
    return unsigned({**head, "alg": name}, claims) + "."


def with_secret(head: Claims, claims: Claims, secret: bytes) -> str:
    text = unsigned({**head, "alg": "HS256"}, claims)
    return f"{text}.{keyed_hash(secret, text)}"


def by_another_key(head: Claims, claims: Claims, **more: Any) -> str:
    key = RSAKey.generate_key(2048)
    header = {**head, **more}
    if "crit" in more:
        header["exp"] = 1
    if more.get("jwk") == "its own":
        header["jwk"] = key.as_dict(private=False)
    registry = AnyAlgorithm(strict_check_header=False)
    return jws.serialize_compact({**header, "alg": "RS256"}, json.dumps(claims), key, registry=registry)


def tampered(token: str, **changed: Any) -> str:
    head, _, signature = token.split(".")
    claims = json.loads(jws.extract_compact(token.encode()).payload) | changed
    return f"{head}.{unsigned({}, claims).split('.')[1]}.{signature}"


EVIL = "https://evil.example/jwks"
FORGERIES: dict[str, Callable[[Provider, Claims, Claims], str]] = {
    "no signature": lambda _, head, claims: none_at_all(head, claims),
    "no signature, in other letters": lambda _, head, claims: none_at_all(head, claims, "nOnE"),
    "no algorithm": lambda _, head, claims: unsigned({"kid": head["kid"]}, claims) + ".",
    "the public key as a secret": lambda it, head, claims: with_secret(head, claims, public_pem(it)),
    "the modulus as a secret": lambda it, head, claims: with_secret(
        head, claims, it.keys["RS256"].as_dict(private=False)["n"].encode()
    ),
    "the client's secret as a secret": lambda _, head, claims: with_secret(head, claims, CLIENT_SECRET.encode()),
    "an empty secret": lambda _, head, claims: with_secret(head, claims, b""),
    "another provider's key under a known name": lambda _, head, claims: by_another_key(head, claims),
    "a key that the token brings along": lambda _, head, claims: by_another_key(head, claims, jwk="its own"),
    "a key from where the token says": lambda _, head, claims: by_another_key(head, claims, jku=EVIL),
    "a certificate from where the token says": lambda _, head, claims: by_another_key(head, claims, x5u=EVIL),
    "a key of an unknown name": lambda _, head, claims: by_another_key(head, claims, kid="unknown"),
    "a name that is a path": lambda _, head, claims: by_another_key(head, claims, kid="../../../../dev/null"),
    "a name that is a question": lambda _, head, claims: by_another_key(head, claims, kid="x' UNION SELECT 'AA"),
    "a name that is none": lambda _, head, claims: by_another_key(
        {k: v for k, v in head.items() if k != "kid"}, claims
    ),
    "a name that is a list": lambda _, head, claims: unsigned({**head, "kid": ["x"]}, claims) + ".AAAA",
    "what must be understood and is not": lambda _, head, claims: by_another_key(head, claims, crit=["exp"]),
    "another algorithm with the same key": lambda it, _, claims: _honest(it).token(claims, alg="RS512"),
    "an algorithm that is a list": lambda _, head, claims: unsigned({**head, "alg": ["RS256"]}, claims) + ".AAAA",
    "an algorithm that is an object": lambda _, head, claims: unsigned({**head, "alg": {}}, claims) + ".AAAA",
    "claims that are a list": lambda it, head, _: _honest(it).token([], **head),
    "claims that nest": lambda it, head, _: _honest(it).signed(head, "[" * 20_000),
    "two parts": lambda _, head, claims: unsigned(head, claims),
    "five parts": lambda _, head, claims: unsigned(head, claims) + ".AAAA.AAAA.AAAA",
    "no token": lambda _, head, claims: "",
    "no base64": lambda _, head, claims: "!!.!!.!!",
    "deep nesting": lambda _, head, claims: unsigned(head, claims).split(".")[0] + ".AAAA.AAAA",
    "a header that nests": lambda _, head, claims: "W1tb" * 1500 + ".AAAA.AAAA",
    "a large header": lambda _, head, claims: unsigned({**head, "x": "x" * 20_000}, claims) + ".AAAA",
    "a large token": lambda _, head, claims: "x" * 100_000,
}


def _honest(provider: Provider) -> Provider:
    return Provider(url=provider.url, keys=provider.keys, kids=provider.kids)


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_forged_token_lets_nobody_in(
    api: ApiUnderTest, provider: Provider, forge: Callable[[Provider, Claims, Claims], str]
) -> None:
    provider.forge = lambda head, claims: forge(provider, head, claims)

    await refused(api, await sign_in(api))

    assert not any("evil" in path for path in provider.asked)


async def test_a_token_that_was_changed_after_it_was_signed_lets_nobody_in(
    api: ApiUnderTest, provider: Provider
) -> None:
    await link(api, "eve", "of-eve")
    provider.subject = "of-eve"
    provider.forge = lambda _, claims: tampered(_honest(provider).token(claims), sub=SUBJECT)

    assert "BadSignature" in await refused(api, await sign_in(api))


async def test_a_token_of_an_earlier_sign_in_lets_nobody_in(api: ApiUnderTest, provider: Provider) -> None:
    tokens: list[str] = []
    provider.forge = lambda _, claims: tokens.append(_honest(provider).token(claims)) or tokens[0]
    assert (await sign_in(api)).headers["location"] == "/"

    assert "nonce" in await refused(api, await sign_in(api))


# --- what comes back


@pytest.mark.parametrize(
    "changed",
    [
        {"state": "another"},
        {"state": None},
        {"state": ""},
        {"state": "é\udc80".encode("utf-8", "replace").decode()},
        {"code": None},
        {"code": ""},
        {"code": "guessed"},
        {"code": "x" * 5000},
        {"error": "access_denied"},
        {"error": "<script>\n"},
        {"iss": "https://evil.example"},
    ],
)
async def test_what_comes_back_otherwise_lets_nobody_in(
    api: ApiUnderTest, provider: Provider, changed: dict[str, str | None]
) -> None:
    reason = await refused(api, await sign_in(api, **changed))

    assert "\n" not in reason


async def test_the_issuer_in_what_comes_back_may_be_ours(api: ApiUnderTest, provider: Provider) -> None:
    assert (await sign_in(api, iss=provider.url)).headers["location"] == "/"


@pytest.mark.parametrize("cookie", [None, "", "x", "9.x", "99999999999999999999.x", "é"])
async def test_another_browser_than_the_one_it_was_begun_in_gets_nothing(
    api: ApiUnderTest, provider: Provider, cookie: str | None
) -> None:
    query = await at_provider(api.client(None))
    headers = {} if cookie is None else {"cookie": f"{COOKIE}={cookie}".encode()}

    await refused(api, await api.client(None).get(CALLBACK, params=query, headers=headers))

    assert "/token" not in provider.asked


async def test_a_sign_in_that_takes_too_long_is_over(
    api: ApiUnderTest, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = api.client(None)
    query = await at_provider(client)
    begun_s = api.services.clock.now_s()
    monkeypatch.setattr(type(api.services.clock), "now_s", lambda _: begun_s + TRANSACTION_S + 2)

    assert "too long" in await refused(api, await client.get(CALLBACK, params=query))


async def test_a_code_counts_once(api: ApiUnderTest, provider: Provider) -> None:
    client = api.client(None)
    query = await at_provider(client)
    kept = client.cookies[COOKIE]
    assert (await client.get(CALLBACK, params=query)).headers["location"] == "/"

    again = api.client(None)
    again.cookies.set(COOKIE, kept)
    assert await refused(api, await again.get(CALLBACK, params=query)) == "this sign-in was finished already"


async def test_the_provider_is_asked_once_about_what_one_browser_brings_back(
    api: ApiUnderTest, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, asked = api.client(None), 0
    query = await at_provider(client)
    proved = OpenIdProvider.proved

    async def counted(self: OpenIdProvider, *args: Any, **given: Any) -> Proved:
        nonlocal asked
        asked += 1
        return await proved(self, *args, **given)

    monkeypatch.setattr(OpenIdProvider, "proved", counted)
    kept = client.cookies[COOKIE]
    for _ in range(5):
        again = api.client(None)
        again.cookies.set(COOKIE, kept)
        await again.get(CALLBACK, params={**query, "code": "bogus"})

    assert asked == 1


async def test_who_was_never_sent_away_costs_nobody_a_sign_in(api: ApiUnderTest, provider: Provider) -> None:
    answers = [await api.client(None).get(CALLBACK) for _ in range(12)]

    assert {answer.headers["location"] for answer in answers[10:]} == {"/login?error=too_many_logins"}
    assert (await sign_in(api)).headers["location"] == "/"


async def test_a_sign_in_opens_one_session_though_the_provider_takes_its_code_again(
    api: ApiUnderTest, provider: Provider
) -> None:
    client = api.client(None)
    query = await at_provider(client)
    kept, asked = client.cookies[COOKIE], dict(provider.codes[query["code"]])
    await client.get(CALLBACK, params=query)
    provider.codes[query["code"]] = asked
    api.services.identity._redeemed.clear()  # as at another replica

    again = api.client(None)
    again.cookies.set(COOKIE, kept)
    assert await refused(api, await again.get(CALLBACK, params=query)) == "it has opened a session already"


async def test_a_code_that_was_stolen_is_of_no_use_in_another_sign_in(api: ApiUnderTest, provider: Provider) -> None:
    stolen = await at_provider(api.client(None))

    assert "does not take the code" in await refused(api, await sign_in(api, code=stolen["code"]))


# --- whom it lets in


async def asks_to_sign_in_again(client: httpx.AsyncClient) -> bool:
    """What this browser's session is told by a route that takes a sign-in of the last five minutes."""
    client.headers[CSRF_HEADER] = (await client.get("/api/v1/auth/me")).json()["csrf_token"]
    answer = await client.post("/api/v1/tokens", json={"name": "mine"})
    assert answer.status_code in {201, 403}, answer.text
    return answer.status_code == 403 and answer.json()["code"] == "sign_in_again"


@pytest.mark.parametrize("tells_when", [True, False])
async def test_a_provider_that_asks_nothing_makes_no_session_of_a_moment_ago(
    api: ApiUnderTest, provider: Provider, tells_when: bool
) -> None:
    provider.tells_when, provider.signed_in_at = tells_when, int(time.time()) - 8 * 3600
    client = api.client(None, origin=URL)

    assert (await client.get(CALLBACK, params=await at_provider(client))).headers["location"] == "/"
    assert await asks_to_sign_in_again(client)

    # The page sends who is told that to the provider once more, which is now told to ask.
    assert (await client.get(CALLBACK, params=await at_provider(client))).headers["location"] == "/"
    assert not await asks_to_sign_in_again(client)


async def test_who_has_signed_in_there_a_moment_ago_need_not_do_so_again(api: ApiUnderTest, provider: Provider) -> None:
    provider.tells_when, provider.signed_in_at = True, int(time.time()) - 5
    client = api.client(None, origin=URL)

    await client.get(CALLBACK, params=await at_provider(client))

    assert not await asks_to_sign_in_again(client)


@pytest.mark.parametrize(
    "told",
    [
        without("auth_time"),
        lambda claims: {**claims, "auth_time": claims["auth_time"] - 301},
        lambda claims: {**claims, "auth_time": claims["auth_time"] + 3600},
        lambda claims: {**claims, "auth_time": str(claims["auth_time"])},
        lambda claims: {**claims, "auth_time": True},
    ],
    ids=["no time", "an old one", "one to come", "a text", "no number"],
)
async def test_a_provider_that_was_to_ask_again_has_to_say_that_it_has(
    api: ApiUnderTest, provider: Provider, told: Callable[[Claims], Claims]
) -> None:
    client = api.client(None, origin=URL)
    await client.get(CALLBACK, params=await at_provider(client))
    provider.change = told

    reason = await refused(api, await client.get(CALLBACK, params=await at_provider(client)))

    assert "auth_time" in reason or "later than now" in reason


async def test_a_subject_that_is_linked_to_nobody_is_not_let_in_and_the_log_names_it(
    api: ApiUnderTest, provider: Provider
) -> None:
    provider.subject = "ada"  # a user's name, and nothing is matched by that
    provider.change = but(email="root@example.com", preferred_username="root", email_verified=True)

    assert await refused(api, await sign_in(api)) == "no user is linked to the subject ada"
    assert "ada@" not in {user["username"] for user in (await api.client().get("/api/v1/users")).json()["items"]}


async def test_a_disabled_user_stays_out(api: ApiUnderTest, provider: Provider) -> None:
    root = api.client("root")
    await root.post("/api/v1/users", json={"username": "dan", "role": "viewer", "password": PASSWORD})
    await link(api, "dan", "of-dan")
    await root.patch("/api/v1/users/dan", json={"enabled": False})
    provider.subject = "of-dan"

    assert await refused(api, await sign_in(api)) == "the user is disabled"
    assert (await events_of(api, "login.failed"))[-1]["username"] == "dan"


async def test_a_subject_belongs_to_one_user(api: ApiUnderTest) -> None:
    answer = await link(api, "eve", SUBJECT)

    assert (answer.status_code, answer.json()["code"]) == (409, "identity_taken")
    listed = {user["username"]: user for user in (await api.client().get("/api/v1/users")).json()["items"]}
    assert listed["ada"]["identity"]["subject"] == SUBJECT
    assert listed["root"]["identity"] is None


async def test_a_change_of_the_identity_ends_the_sessions(api: ApiUnderTest, provider: Provider) -> None:
    root = api.client("root")
    await root.post("/api/v1/users", json={"username": "fay", "role": "viewer", "password": PASSWORD})
    fay = await api.browser("fay")

    assert (await link(api, "fay", "of-fay")).status_code == 200
    assert (await fay.get("/api/v1/auth/me")).status_code == 401
    assert (await link(api, "fay", None)).status_code == 200
    provider.subject = "of-fay"
    await refused(api, await sign_in(api))


@pytest.mark.parametrize("subject", ["", "x" * 256, "two\nlines", "é", 7])
async def test_a_subject_that_can_be_none_is_refused(api: ApiUnderTest, subject: Any) -> None:
    answer = await link(api, "eve", subject)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("username", ["eve", "ada"])
async def test_nobody_links_without_the_right_to(api: ApiUnderTest, username: str) -> None:
    answer = await api.client(username).patch("/api/v1/users/root", json={"identity": {"subject": "mine"}})

    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")


# --- the provider itself


PUBLISHED: dict[str, dict[str, Callable[[dict[str, Any]], Any]]] = {
    "another issuer": {"document": lambda it: {**it, "issuer": "https://evil.example"}},
    "no issuer": {"document": lambda it: {**it, "issuer": None}},
    "a list for a document": {"document": lambda it: [it]},
    "keys from a file": {"document": lambda it: {**it, "jwks_uri": "file:///etc/passwd"}},
    "no token endpoint": {"document": lambda it: {**it, "token_endpoint": 7}},
    "a broken address": {"document": lambda it: {**it, "token_endpoint": "http://[::1"}},
    "no keys": {"keys": lambda it: {}},
    "keys that are none": {"keys": lambda it: {"keys": "x"}},
    "more keys than anybody has": {"keys": lambda it: {"keys": it["keys"] * 100}},
    "very many bytes of keys": {"keys": lambda it: {**it, "more": "x" * 1_000_000}},
    "a huge document": {"document": lambda it: {**it, "more": "x" * 1_000_000}},
}


@pytest.mark.parametrize("publish", PUBLISHED.values(), ids=PUBLISHED.keys())
async def test_a_provider_that_says_what_cannot_be_is_not_gone_to(
    api: ApiUnderTest, provider: Provider, publish: dict[str, Callable[[dict[str, Any]], Any]]
) -> None:
    provider.publish = publish

    answer = await api.client(None).get(BEGIN)

    assert (answer.status_code, answer.headers["location"]) == (302, UNAVAILABLE)


ANSWERS: dict[str, Callable[[], Response]] = {
    "a redirect": lambda: RedirectResponse("http://127.0.0.1:1/elsewhere", 302),
    "an error": lambda: Response("broken", 500),
    "no JSON": lambda: Response("<html>", 200),
    "deep JSON": lambda: Response("[" * 100_000, 200),
    "compressed": lambda: Response(b"\x1f\x8b\x08" + b"x" * 100, 200, {"content-encoding": "gzip"}),
    "not for us": lambda: JSONResponse({"error": "invalid_client"}, 401),
    "an error that is none": lambda: JSONResponse({"error": {"nested": ["\n"]}}, 400),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/jwks", "/token"])
async def test_a_provider_that_answers_otherwise_is_told_as_unavailable_and_never_as_our_error(
    api: ApiUnderTest, provider: Provider, path: str, answer: Callable[[], Response]
) -> None:
    provider.answer = lambda asked: answer() if asked == path else None
    client = api.client(None)
    if path == "/token":
        said = await refused(api, await client.get(CALLBACK, params=await at_provider(client)), UNAVAILABLE)
        assert "\n" not in said
    else:
        begun = await client.get(BEGIN)
        assert (begun.status_code, begun.headers["location"]) == (302, UNAVAILABLE)
    assert "/elsewhere" not in provider.asked


@pytest.mark.parametrize("answer", [{}, {"id_token": None}, {"id_token": 7}, {"id_token": ""}, {"access_token": "x"}])
async def test_a_provider_that_gives_no_token_lets_nobody_in(
    api: ApiUnderTest, provider: Provider, answer: dict[str, Any]
) -> None:
    provider.answer = lambda path: JSONResponse(answer) if path == "/token" else None

    await refused(api, await sign_in(api))


async def test_a_provider_that_is_down_leaves_the_password(api: ApiUnderTest, provider: Provider) -> None:
    mine, listening = forget(api), provider.url
    client = api.client(None)
    query = await at_provider(client)
    mine._issuer = "http://127.0.0.1:1"
    mine._known = None
    try:
        assert (await api.client(None).get(BEGIN)).headers["location"] == UNAVAILABLE
        await refused(api, await client.get(CALLBACK, params=query), UNAVAILABLE)
        assert (await api.browser("eve")).headers[CSRF_HEADER]
    finally:
        mine._issuer = listening
    metrics = (await api.client().get("/metrics")).text
    assert 'what="identity_provider_failed"' in metrics


async def test_a_provider_that_hangs_is_waited_for_so_long_and_then_not_asked_again_at_once(
    api: ApiUnderTest, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_provider, "WHOLE_S", 0.2)
    mine, clock = forget(api), ManualClock(api.services.clock.now_us())
    asked = 0

    async def hang(*_: object, **__: object) -> None:
        nonlocal asked
        asked += 1
        clock.advance(6)
        await asyncio.Event().wait()

    monkeypatch.setattr(mine, "_clock", clock)
    monkeypatch.setattr(mine, "_ask", hang)
    for _ in range(3):
        assert (await api.client(None).get(BEGIN)).headers["location"] == UNAVAILABLE
    assert asked == 1


async def test_what_failed_is_not_asked_again_at_once_and_is_one_line(
    api: ApiUnderTest, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    provider.answer = lambda _: Response(status_code=500)
    forget(api)._told_s = None

    for _ in range(5):
        assert (await api.client(None).get(BEGIN)).headers["location"] == UNAVAILABLE

    assert len(provider.asked) == 1
    assert [record.message for record in caplog.records].count("the identity provider") == 1


async def test_document_and_keys_are_fetched_once(api: ApiUnderTest, provider: Provider) -> None:
    for _ in range(3):
        assert (await sign_in(api)).headers["location"] == "/"

    assert provider.asked.count("/jwks") == provider.asked.count("/.well-known/openid-configuration") == 1


async def test_new_keys_are_fetched_when_one_is_not_known_and_that_once_a_minute(
    api: ApiUnderTest, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, clock = forget(api), ManualClock(api.services.clock.now_us())
    monkeypatch.setattr(mine, "_clock", clock)
    assert (await sign_in(api)).headers["location"] == "/"
    provider.rotate()

    await refused(api, await sign_in(api))  # within the minute
    assert provider.asked.count("/jwks") == 1
    clock.advance(61)
    assert (await sign_in(api)).headers["location"] == "/"
    assert provider.asked.count("/jwks") == 2
    provider.header = {"kid": "unknown"}
    for _ in range(3):
        await refused(api, await sign_in(api))
    assert provider.asked.count("/jwks") == 2


async def test_keys_of_other_kinds_are_passed_over(api: ApiUnderTest, provider: Provider) -> None:
    others = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": provider.kids["RS256"]},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
        {"kty": "RSA", "n": "AQ", "e": "AQAB", "kid": provider.kids["RS256"]},
        {"kty": "RSA", "n": 7, "e": []},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": None},
        {"kty": ["RSA"]},
        {"kty": {}, "use": []},
        {"kty": "RSA", "kid": {}},
        {"kty": "EC", "crv": [], "x": {}, "y": 1},
        "x",
    ]
    provider.publish = {"keys": lambda it: {"keys": [*others, *it["keys"]]}}

    assert (await sign_in(api)).headers["location"] == "/"


async def test_a_device_of_the_user_is_not_asked_for_besides(api: ApiUnderTest, provider: Provider) -> None:
    added = PasskeyAdded(
        passkey_id=SHA, username="gil", name="x", credential_id="AA", public_key="AA==", sign_count=0, added_at=1
    )
    root = api.client("root")
    await root.post("/api/v1/users", json={"username": "gil", "role": "viewer", "password": PASSWORD})
    await api.services.access._handling.record_new(added, actor="gil")
    await link(api, "gil", "of-gil")
    provider.subject = "of-gil"

    assert (await sign_in(api)).headers["location"] == "/"


async def test_a_provider_behind_tls_is_verified_by_the_authority_that_is_set(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("tls")
    made, other = a_certificate(directory / "made"), a_certificate(directory / "other")
    with a_provider(certificate=made) as provider:
        settings = {"oidc_issuer": provider.url, "oidc_client_id": CLIENT_ID}
        for ca_file, is_trusted in ((made.authority, True), (other.authority, False), (None, False)):
            place = tmp_path_factory.mktemp("api")
            async with an_api(place, oidc_ca_file=ca_file, **settings) as api:
                begun = await api.client(None).get(BEGIN)
                assert begun.headers["location"].startswith(f"{provider.url}/authorize" if is_trusted else UNAVAILABLE)


async def test_behind_tls_the_cookie_of_a_sign_in_is_bound_to_this_host(
    tmp_path_factory: pytest.TempPathFactory, provider: Provider
) -> None:
    settings = {"oidc_issuer": provider.url, "oidc_client_id": CLIENT_ID, "public_url": "https://control.example"}
    async with an_api(tmp_path_factory.mktemp("tls"), **settings) as api:
        begun = await api.client(None, host="control.example").get(BEGIN)

    assert "redirect_uri=https%3A%2F%2Fcontrol.example%2Fapi%2Fv1" in begun.headers["location"]
    cookie = begun.headers["set-cookie"]
    assert cookie.startswith("__Host-control_plane_sign_in=")
    assert "secure" in cookie.lower()


# --- how often


async def test_who_comes_back_too_often_is_refused_before_anybody_is_asked(
    api: ApiUnderTest, provider: Provider
) -> None:
    client = api.client(None, address="203.0.113.7")
    answers = [await client.get(CALLBACK, params={"state": "x", "code": "x"}) for _ in range(12)]

    assert [answer.headers["location"] for answer in answers[:10]] == [FAILED] * 10
    assert [answer.headers["location"] for answer in answers[10:]] == ["/login?error=too_many_logins"] * 2
    assert provider.asked == []


async def test_where_there_is_no_provider_there_is_nothing(tmp_path_factory: Any) -> None:
    async with an_api(tmp_path_factory.mktemp("none"), public_url="http://localhost:8000") as api:
        client = api.client(None)
        assert (await client.get("/api/v1/auth/providers")).json() == {"oidc": None, "passkeys": True}
        assert (await client.get(BEGIN)).status_code == 404
        assert (await client.get(CALLBACK, params={"state": "x"})).json()["code"] == "oidc_off"
        assert (await link(api, "eve", "x")).json()["code"] == "oidc_off"
        assert (await link(api, "eve", None)).status_code == 200
