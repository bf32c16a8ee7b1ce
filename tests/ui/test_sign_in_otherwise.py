"""Passkeys and an identity provider in Debian's Chromium: with its own authenticator, and across two sites.

The pages for it are tried elsewhere; here the page's own functions are called, so that the browser says what it takes,
sends and keeps.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, CDPSession, Page

from tests.support.oidc_provider import CLIENT_ID, CLIENT_SECRET, SUBJECT, Provider, a_provider
from tests.support.programs import PASSWORD, Api, Program
from tests.support.servers import free_port, wait_until

pytestmark = pytest.mark.browser

API = "/api/v1/auth"
ASK = """async ([method, path, body, csrf]) => {
  const headers = {"content-type": "application/json", ...(csrf && {"x-csrf-token": csrf})};
  const answer = await fetch(path, {method, headers, body: body === null ? undefined : JSON.stringify(body)});
  return [answer.status, answer.status === 204 ? null : await answer.json()];
}"""
CREATE = """async (options) => {
  const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options);
  return (await navigator.credentials.create({publicKey})).toJSON();
}"""
GET = """async (options) => {
  const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(options);
  return (await navigator.credentials.get({publicKey})).toJSON();
}"""
AUTHENTICATOR = {
    "protocol": "ctap2",
    "transport": "usb",
    "hasResidentKey": False,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


@dataclass
class Site:
    """A running server. Attributes: `api`: as its administrator."""

    url: str
    api: Api


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """On another site than the server: to a browser 127.0.0.1 and localhost have nothing to do with each other."""
    with a_provider() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Site]:
    """A `control-plane dev` under a name, since passkeys are bound to one; with ann, who is SUBJECT at the provider."""
    directory = tmp_path_factory.mktemp("dev")
    state, listen = directory / "state", f"localhost:{free_port()}"
    argv = ["control-plane", "dev", "--state-dir", str(state), "--listen", listen]
    environment = {
        "CONTROL_PLANE_OIDC_ISSUER": provider.url,
        "CONTROL_PLANE_OIDC_CLIENT_ID": CLIENT_ID,
        "CONTROL_PLANE_OIDC_CLIENT_SECRET": CLIENT_SECRET,
    }
    program = Program(argv, log=directory / "dev.log", environment=environment).start()
    try:
        wait_until((state / "dev.json").exists, timeout_s=60, what=f"dev is up: {program.text()}")
        document = json.loads((state / "dev.json").read_text())
        api = Api(document["url"], document["token"])
        with api.http:
            for username in ("ann", "pat", "sam"):
                api.post("/users", {"username": username, "role": "viewer", "password": PASSWORD})
            linked = api.http.patch("/users/ann", json={"identity": {"subject": SUBJECT}})
            assert linked.status_code == 200, linked.text
            yield Site(document["url"], api)
    finally:
        program.stop()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context()
    made.set_default_timeout(15_000)
    yield made
    made.close()


def ask(page: Page, method: str, path: str, body: object = None, csrf: str | None = None) -> tuple[int, Any]:
    status, answer = page.evaluate(ASK, [method, API + path, body, csrf])
    return status, answer


def sign_in(page: Page, username: str) -> tuple[int, Any]:
    return ask(page, "POST", "/login", {"username": username, "password": PASSWORD})


def an_authenticator(page: Page, **changed: object) -> tuple[CDPSession, str]:
    """Chromium's own, plugged in for this page."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    options = {**AUTHENTICATOR, **changed}
    return session, session.send("WebAuthn.addVirtualAuthenticator", {"options": options})["authenticatorId"]


def add(page: Page, username: str) -> str:
    _, me = sign_in(page, username)
    _, begun = ask(page, "POST", "/passkeys/begin", None, me["csrf_token"])
    body = {"challenge": begun["challenge"], "credential": page.evaluate(CREATE, begun["options"]), "name": "chromium"}
    status, added = ask(page, "POST", "/passkeys", body, me["csrf_token"])
    assert status == 201, added
    return str(me["csrf_token"])


@pytest.mark.parametrize(
    ("username", "changed"), [("pat", {}), ("sam", {"hasResidentKey": True, "transport": "internal"})]
)
def test_a_passkey_of_a_real_browser_is_added_and_needed(
    context: BrowserContext, server: Site, username: str, changed: dict[str, object]
) -> None:
    page = context.new_page()
    page.goto(f"{server.url}/login")
    an_authenticator(page, **changed)
    csrf = add(page, username)

    ask(page, "POST", "/logout", None, csrf)
    status, asked = sign_in(page, username)
    assert (status, asked["code"]) == (401, "passkey_required")
    shown = {"challenge": asked["challenge"], "credential": page.evaluate(GET, asked["options"])}
    status, me = ask(page, "POST", "/passkey", shown)
    assert (status, me["username"]) == (200, username)
    assert ask(page, "GET", "/me")[1]["username"] == username
    assert ask(page, "POST", "/passkey", shown)[0] == 401  # it counted once


def test_the_browser_asks_for_the_person_and_refuses_where_nobody_proves_to_be_there(
    context: BrowserContext, server: Site
) -> None:
    page = context.new_page()
    page.goto(f"{server.url}/login")
    session, authenticator = an_authenticator(page)
    server.api.post("/users", {"username": "una", "role": "viewer", "password": PASSWORD})
    add(page, "una")
    session.send("WebAuthn.setUserVerified", {"authenticatorId": authenticator, "isUserVerified": False})

    _, asked = sign_in(page, "una")
    said = page.evaluate(
        f"async (it) => {{ try {{ await ({GET})(it); }} catch (e) {{ return e.name; }} }}", asked["options"]
    )

    assert said == "NotAllowedError"


def test_a_sign_in_at_another_site_ends_on_our_page_with_a_session(
    context: BrowserContext, server: Site, provider: Provider
) -> None:
    page = context.new_page()
    begin_at(page, provider, server.url)

    page.get_by_role("heading", name="Fleet").wait_for()
    [session] = [cookie for cookie in context.cookies() if cookie["name"] == "control_plane_session"]
    assert (session["sameSite"], session["httpOnly"]) == ("Strict", True)
    assert "control_plane_sign_in" not in {cookie["name"] for cookie in context.cookies()}
    assert ask(page, "GET", "/me")[1]["username"] == "ann"
    assert "code=" not in page.url


def begin_at(page: Page, provider: Provider, url: str) -> None:
    """Come from a page of another site, as a link in a portal does."""
    page.goto(f"{provider.url}/jwks")
    page.evaluate("(url) => { location.href = url; }", f"{url}{API}/oidc/begin")


def test_who_is_linked_to_nobody_comes_back_to_our_page_with_nothing(
    context: BrowserContext, server: Site, provider: Provider
) -> None:
    page = context.new_page()
    provider.subject = "somebody else"
    try:
        begin_at(page, provider, server.url)
        page.wait_for_url(lambda address: "error=oidc_failed" in address)
    finally:
        provider.subject = SUBJECT
    assert {cookie["name"] for cookie in context.cookies()} & {
        "control_plane_session",
        "control_plane_sign_in",
    } == set()


def test_another_site_cannot_slip_its_own_sign_in_into_a_browser(
    context: BrowserContext, server: Site, provider: Provider
) -> None:
    page = context.new_page()
    begun = server.api.http.get("/auth/oidc/begin")  # the attacker's own
    returned = httpx.get(begun.headers["location"]).headers["location"]

    page.goto(f"{provider.url}/jwks")
    page.evaluate("(url) => { location.href = url; }", returned)

    page.wait_for_url(lambda address: "error=oidc_failed" in address)
    assert "control_plane_session" not in {cookie["name"] for cookie in context.cookies()}
