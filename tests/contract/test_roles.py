"""Which permission each route takes: asked by every role, by tokens for it alone, and by tokens for all others."""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Final

import httpx
import pytest
import pytest_asyncio

from control_plane.commands.access import ADMINISTRATOR, CONSOLE, ROLES
from tests.contract.test_api import BODIES, PUBLIC, operations
from tests.support.api import PASSWORD, ApiUnderTest, a_stream, an_api

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Beside the public routes and what everybody may: to see who one is, the roles, one's own tokens and the metrics.
OF_EVERYBODY: Final = {
    ("POST", "/auth/logout"),
    ("GET", "/auth/me"),
    ("GET", "/auth/passkeys"),
    ("GET", "/roles"),
    ("GET", "/approvals"),
    ("GET", "/stop"),
    ("GET", "/tokens"),
    ("POST", "/tokens"),
}
OF_SESSIONS: Final = {
    ("POST", "/auth/password"),
    ("POST", "/auth/passkeys/begin"),
    ("POST", "/auth/passkeys"),
    ("DELETE", "/auth/passkeys/{passkey_id}"),
}
NEEDS: Final = {
    ("GET", "/hosts"): "hosts.read",
    ("POST", "/hosts"): "hosts.read hosts.enrol",
    ("GET", "/hosts/{hostname}"): "hosts.read",
    ("PATCH", "/hosts/{hostname}"): "hosts.read hosts.edit",
    ("DELETE", "/hosts/{hostname}"): "hosts.read hosts.revoke",
    ("POST", "/hosts/{hostname}/revoke"): "hosts.read hosts.revoke",
    ("POST", "/hosts/{hostname}/lift-quarantine"): "hosts.read hosts.revoke",
    ("GET", "/hosts/{hostname}/heartbeats"): "hosts.read",
    ("GET", "/groups"): "hosts.read",
    ("GET", "/groups/{group}/hosts/{hostname}"): "hosts.read",
    ("PUT", "/groups/{group}/hosts/{hostname}"): "hosts.read hosts.edit",
    ("DELETE", "/groups/{group}/hosts/{hostname}"): "hosts.read hosts.edit",
    ("GET", "/enrolment-tokens"): "hosts.enrol",
    ("POST", "/enrolment-tokens"): "hosts.enrol",
    ("DELETE", "/enrolment-tokens/{token_id}"): "hosts.enrol",
    ("GET", "/pending-hosts"): "hosts.enrol",
    ("POST", "/pending-hosts/{fingerprint}/accept"): "hosts.enrol",
    ("POST", "/pending-hosts/{fingerprint}/refuse"): "hosts.enrol",
    ("POST", "/targets/preview"): "tasks.run",
    ("GET", "/tasks"): "tasks.read",
    ("POST", "/tasks"): "tasks.read tasks.run",
    ("GET", "/tasks/{task_id}"): "tasks.read",
    ("POST", "/tasks/{task_id}/cancel"): "tasks.read tasks.cancel",
    ("POST", "/tasks/{task_id}/retry"): "tasks.read tasks.run",
    ("POST", "/tasks/{task_id}/retry/approval"): "tasks.read tasks.run",
    ("POST", "/tasks/{task_id}/pause"): "tasks.cancel",
    ("POST", "/tasks/{task_id}/resume"): "tasks.run",
    ("GET", "/tasks/{task_id}/executions"): "tasks.read",
    ("GET", "/tasks/{task_id}/executions/{hostname}"): "tasks.read",
    ("GET", "/tasks/{task_id}/executions/{hostname}/output"): "tasks.output",
    ("GET", "/tasks/{task_id}/outputs"): "tasks.output",
    ("GET", "/tasks/{task_id}/secrets/{name}"): "secrets.read",
    ("GET", "/events"): "events.read",
    ("GET", "/events/export"): "events.export events.read",
    ("GET", "/events/{seq}"): "events.read",
    ("GET", "/audit/checkpoint"): "events.read",
    ("GET", "/audit/damage"): "events.read",
    ("GET", "/audit/proof/{seq}"): "events.read audit.prove",
    ("GET", "/stream"): "hosts.read",
    ("GET", "/projections"): "projections.read",
    ("GET", "/system"): "projections.read",
    ("GET", "/system/packages"): "projections.read",
    ("POST", "/projections/{name}/rebuild"): "projections.read projections.rebuild",
    ("POST", "/approvals"): "tasks.run",
    ("POST", "/approvals/{approval_id}/approve"): "tasks.approve",
    ("POST", "/approvals/{approval_id}/refuse"): "tasks.approve",
    ("POST", "/templates"): "templates.write",
    ("DELETE", "/templates/{name}"): "templates.write",
    ("POST", "/stop"): "stop.set",
    ("DELETE", "/stop"): "stop.lift",
    ("GET", "/users"): "users.read",
    ("POST", "/users"): "users.write",
    ("PATCH", "/users/{username}"): "users.write",
    ("DELETE", "/users/{username}/passkeys"): "users.write",
    ("GET", "/rules"): "rules.read",
    ("POST", "/rules"): "rules.write",
    ("DELETE", "/rules/{rule_id}"): "rules.write",
}
OF_EITHER: Final = {("GET", "/templates"): frozenset({"tasks.run", "templates.write"})}
ASKED: Final = {  # but the stream, which would not end
    route: frozenset(needed.split()) for route, needed in NEEDS.items() if route[1] != "/stream"
}
PERMISSIONS: Final = frozenset[str]().union(*ASKED.values())
# What is not there, so that nothing changes whoever may.
NOBODY = {
    "hostname": "no-host",
    "task_id": "no-task",
    "group": "no-group",
    "seq": "1",
    "token_id": "0",
    "rule_id": "0",
    "fingerprint": "0" * 64,
    "approval_id": "0",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api")) as made:
        await made.register("web1")
        for role in ROLES:
            await made.services.access.create_user(CONSOLE, f"some-{role}", role=role, password=PASSWORD)
        yield made


async def client_of(api: ApiUnderTest, role: str, permissions: Collection[str] | None = None) -> httpx.AsyncClient:
    made = await api.services.tokens.create(CONSOLE, username=f"some-{role}", name="x", days=1, permissions=permissions)
    return api.client(None, authorization=f"Bearer {made.text}")


async def is_let(client: httpx.AsyncClient, method: str, path: str) -> bool:
    body = BODIES.get((method, f"/api/v1{path}"))
    if (method, path) == ("PATCH", "/users/{username}"):
        body = {"enabled": True}
    where = path.format(**NOBODY, username="no-user", name="no-name")
    answer = await client.request(method, f"/api/v1{where}", json=body)
    assert answer.status_code in {200, 201, 202, 204, 403, 404, 409}, (method, path, answer.text)
    return answer.status_code != 403 or answer.json()["code"] != "not_allowed"


async def test_every_route_of_the_api_is_told_here(api: ApiUnderTest) -> None:
    closed = {route for route in operations(api.app) if route not in PUBLIC and route[1].startswith("/api/v1/")}
    theirs = {(method, path.removeprefix("/api/v1")) for method, path in closed}

    assert theirs == NEEDS.keys() | OF_EITHER.keys() | OF_EVERYBODY | OF_SESSIONS | {("DELETE", "/tokens/{token_id}")}
    assert PERMISSIONS <= ADMINISTRATOR


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_what_its_permissions_say_on_every_route(api: ApiUnderTest, role: str) -> None:
    client = await client_of(api, role)

    let = {route: await is_let(client, *route) for route in ASKED}

    assert let == {route: needed <= ROLES[role] for route, needed in ASKED.items()}
    for method, path in OF_EVERYBODY:
        assert await is_let(client, method, path)


@pytest.mark.parametrize("permission", sorted(PERMISSIONS))
async def test_a_token_of_an_administrator_may_what_it_is_for_on_every_route(
    api: ApiUnderTest, permission: str
) -> None:
    scopes = [{permission}, ADMINISTRATOR - {permission}]
    clients = [await client_of(api, "administrator", scope) for scope in scopes]

    let = {route: [await is_let(client, *route) for client in clients] for route in ASKED}

    assert let == {route: [needed <= scope for scope in scopes] for route, needed in ASKED.items()}


@pytest.mark.parametrize("permission", sorted(ADMINISTRATOR))
async def test_a_route_of_either_permission_takes_one_of_them(api: ApiUnderTest, permission: str) -> None:
    client = await client_of(api, "administrator", {permission})

    assert {route: await is_let(client, *route) for route in OF_EITHER} == {
        route: permission in some for route, some in OF_EITHER.items()
    }


TOPICS: Final = {
    "hosts": "hosts.read",
    "usage": "hosts.read",
    "host:web1": "hosts.read tasks.read",
    "tasks": "hosts.read tasks.read",
    "task:t1": "hosts.read tasks.read",
    "events": "hosts.read events.read",
    "output:t1:web1": "hosts.read tasks.output",
    "hosts,events": "hosts.read events.read",
}


async def test_who_may_not_see_the_projections_goes_without_that_topic(api: ApiUnderTest) -> None:
    made = await api.services.tokens.create(
        CONSOLE, username="some-viewer", name="x", days=1, permissions=["hosts.read"]
    )
    async with a_stream(api, "hosts,system", token=made.text) as one, a_stream(api, "hosts,system") as other:
        assert await one.next(skip=())
        assert await other.next(skip=())
        topics = {subscription.topics for subscription in api.live._subscriptions}

    assert topics == {frozenset({"hosts"}), frozenset({"hosts", "system"})}


@pytest.mark.parametrize(("topics", "needed"), TOPICS.items())
async def test_a_stream_shows_no_more_than_its_token_may_ask_for(api: ApiUnderTest, topics: str, needed: str) -> None:
    words = needed.split()
    for scope in ([each for each in words if each != missing] for missing in words):
        client = await client_of(api, "administrator", scope or ["users.read"])
        answer = await client.get("/api/v1/stream", params={"topics": topics})
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    made = await api.services.tokens.create(CONSOLE, username="some-administrator", name="x", days=1, permissions=words)
    async with asyncio.timeout(10), a_stream(api, topics, token=made.text) as reader:
        while not reader.status:
            await asyncio.sleep(0)
    assert reader.status in {200, 404, 422}  # there is no such task, and no broker to hear its output by
