"""Passkeys over the API, as a browser uses them; what a device may answer is tried in the unit tests."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from control_plane.api.authentication import CSRF_HEADER
from tests.support.api import PASSWORD, ApiUnderTest, an_api
from tests.support.authenticator import Device, base64url

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORIGIN = "http://localhost:8000"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api"), public_url=ORIGIN) as made:
        yield made


def a_browser(api: ApiUnderTest) -> httpx.AsyncClient:
    return api.client(None, origin=ORIGIN, host="localhost:8000")


async def first_half(client: httpx.AsyncClient, username: str) -> httpx.Response:
    return await client.post("/api/v1/auth/login", json={"username": username, "password": PASSWORD})


async def a_person(api: ApiUnderTest, username: str) -> httpx.AsyncClient:
    """A new viewer, signed in by password."""
    body = {"username": username, "role": "viewer", "password": PASSWORD}
    assert (await api.client("root").post("/api/v1/users", json=body)).status_code == 201
    client = a_browser(api)
    client.headers[CSRF_HEADER] = (await first_half(client, username)).json()["csrf_token"]
    return client


async def add(client: httpx.AsyncClient, device: Device, name: str = "my key") -> httpx.Response:
    begun = (await client.post("/api/v1/auth/passkeys/begin")).json()
    body = {"challenge": begun["challenge"], "credential": device.create(begun["options"]), "name": name}
    return await client.post("/api/v1/auth/passkeys", json=body)


async def test_a_passkey_is_added_needed_listed_and_removed(api: ApiUnderTest) -> None:
    client, device = await a_person(api, "ann"), Device(ORIGIN)

    added = await add(client, device)
    assert added.status_code == 201, added.text
    passkey_id = added.json()["passkey_id"]
    listed = (await client.get("/api/v1/auth/passkeys", params={"min_seq": added.json()["seq"]})).json()["items"]
    assert [(each["passkey_id"], each["name"]) for each in listed] == [(passkey_id, "my key")]
    users = {user["username"]: user for user in (await api.client("root").get("/api/v1/users")).json()["items"]}
    assert (users["ann"]["passkeys"], users["root"]["passkeys"]) == (1, 0)

    another = a_browser(api)
    asked = await first_half(another, "ann")
    assert (asked.status_code, asked.json()["code"]) == (401, "passkey_required")
    assert "set-cookie" not in asked.headers
    body = {"challenge": asked.json()["challenge"], "credential": device.get(asked.json()["options"])}
    shown = await another.post("/api/v1/auth/passkey", json=body)
    assert (shown.status_code, shown.json()["username"]) == (200, "ann")
    assert (await another.get("/api/v1/auth/me")).json() == shown.json()
    again = await a_browser(api).post("/api/v1/auth/passkey", json=body)
    assert (again.status_code, again.json()["code"]) == (401, "login_failed")

    removed = await client.delete(f"/api/v1/auth/passkeys/{passkey_id}")
    assert (removed.status_code, removed.json()["passkey_id"]) == (200, passkey_id)
    assert (await first_half(a_browser(api), "ann")).status_code == 200


async def test_an_administrator_removes_all_of_somebody_s(api: ApiUnderTest) -> None:
    client = await a_person(api, "bob")
    await add(client, Device(ORIGIN))
    await add(client, Device(ORIGIN))

    assert (await api.client("ada").delete("/api/v1/users/bob/passkeys")).status_code == 403
    assert (await api.client("root").delete("/api/v1/users/bob/passkeys")).json()["username"] == "bob"

    assert (await first_half(a_browser(api), "bob")).status_code == 200
    assert (await api.client("root").delete("/api/v1/users/nobody/passkeys")).status_code == 404


async def test_who_is_not_signed_in_or_has_a_token_alone_has_no_passkeys_to_change(api: ApiUnderTest) -> None:
    client = await a_person(api, "cat")
    passkey_id = (await add(client, Device(ORIGIN))).json()["passkey_id"]
    token = (await client.post("/api/v1/tokens", json={"name": "ci"})).json()["token"]
    with_token = api.client(None, authorization=f"Bearer {token}")
    await a_person(api, "dee")
    stranger = a_browser(api)
    stranger.headers[CSRF_HEADER] = (await first_half(stranger, "dee")).json()["csrf_token"]

    for method, path in (("POST", "/auth/passkeys/begin"), ("DELETE", f"/auth/passkeys/{passkey_id}")):
        refused = await with_token.request(method, f"/api/v1{path}")
        assert (refused.status_code, refused.json()["code"]) == (403, "session_required")
        assert (await api.client(None).request(method, f"/api/v1{path}")).status_code == 401
    missing = await stranger.delete(f"/api/v1/auth/passkeys/{passkey_id}")
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_passkey")


async def test_another_site_s_page_cannot_finish_a_sign_in(api: ApiUnderTest) -> None:
    client = api.client(None, origin="http://evil.example", host="localhost:8000")

    answer = await client.post("/api/v1/auth/passkey", json={"challenge": "x", "credential": a_credential()})

    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")


def a_credential(**response: Any) -> dict[str, Any]:
    text = base64url(b"x")
    whole = {"clientDataJSON": text, "authenticatorData": text, "signature": text, **response}
    return {"id": text, "rawId": text, "type": "public-key", "response": whole}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"challenge": "x"}, 422),
        ({"challenge": 1, "credential": a_credential()}, 422),
        ({"challenge": "x" * 513, "credential": a_credential()}, 422),
        ({"challenge": "x", "credential": a_credential(signature="x" * 9000)}, 422),
        ({"challenge": "x", "credential": a_credential(signature=None)}, 422),
        ({"challenge": "x", "credential": {**a_credential(), "id": "x" * 3000}}, 422),
        ({"challenge": "x", "credential": a_credential(), "username": "root"}, 422),
        ({"challenge": "x", "credential": a_credential()}, 401),
        ({"challenge": "é" * 300, "credential": a_credential()}, 401),
    ],
)
async def test_what_is_no_answer_of_a_device_is_refused_clearly(
    api: ApiUnderTest, body: dict[str, Any], status: int
) -> None:
    assert (await a_browser(api).post("/api/v1/auth/passkey", json=body)).status_code == status


async def test_whatever_a_device_sends_is_no_error_of_ours(api: ApiUnderTest) -> None:
    client = await a_person(api, "fay")
    begun = (await client.post("/api/v1/auth/passkeys/begin")).json()

    for text in ("", "!", "AA", "é", base64url(b"\xa1"), base64url(b"[" * 2000), base64url(b"\x81" * 6000)):
        made = {**a_credential(), "response": {"clientDataJSON": text, "attestationObject": text}}
        body = {"challenge": begun["challenge"], "credential": made, "name": "x"}
        added = await client.post("/api/v1/auth/passkeys", json=body)
        assert (added.status_code, added.json()["code"]) == (422, "passkey_refused"), text
    assert (await client.get("/api/v1/auth/passkeys")).json()["items"] == []
