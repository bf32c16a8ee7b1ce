"""Every route with hostile addresses, queries, headers and bodies: a refusal that says why, never a failure."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote_from_bytes

import httpx
import pytest
from fastapi.routing import APIRoute

from tests.fuzz.mutations import corpus_of, mutated
from tests.support.api import ApiUnderTest, an_api

EACH = 40  # requests of a route
SEED = 20261126
NAMES = (
    "state",
    "outcome",
    "actor",
    "hostname",
    "q",
    "from",
    "to",
    "cursor",
    "limit",
    "at",
    "kind",
    "task_id",
    "after",
)
VALUES = ("cursor", "moment", "grammars", "preview_id", "topics", "tokens")
BODIES = ("task_body", "rule_body", "enrolment_body", "strict_json_parse", "bodies", "target_and_rollout")
# The log is not there yet, or nothing answers for a moment: what a client is told to try again, is no failure.
AGAIN = {"read_table_behind", "broker_unavailable"}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path, is_patient=True) as made:
        await made.register("web1", groups=["web"])
        await made.run(made.client("ada"), {"host": "web1"}, task_id="t1", secrets={"A": "x"})
        yield made


def _routes(api: ApiUnderTest, *methods: str) -> list[tuple[str, str]]:
    routes = [route for route in api.app.routes if isinstance(route, APIRoute) and route.path.startswith("/api/v1")]
    return [(m, r.path) for r in routes for m in sorted(r.methods) if m in methods and not r.path.endswith("/stream")]


def _inputs(names: tuple[str, ...], number: int, seed: int, most_bytes: int) -> list[bytes]:
    corpus = [each for name in names for each in corpus_of(name)]
    return list(mutated(corpus, number=number, seed=seed, most_bytes=most_bytes))


def _is_told(answer: httpx.Response) -> bool:
    return answer.status_code < 500 or answer.json()["code"] in AGAIN


def _address(path: str, values: list[bytes]) -> str:
    """The path with one of the values, or something that is there, in each place."""
    known = {"{hostname}": "web1", "{task_id}": "t1", "{group}": "web", "{username}": "eve"}
    parts = [
        (quote_from_bytes(values.pop(), safe="") if values else known.get(part, "1")) if part.startswith("{") else part
        for part in path.split("/")
    ]
    return "/".join(parts)


async def test_no_read_fails_whatever_its_address_says(api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.api.fields.MIN_SEQ_WAIT_S", 0.01)
    root, chance, tried = api.client(), random.Random(SEED), 0
    for number, (_, path) in enumerate(_routes(api, "GET")):
        for place, value in enumerate(_inputs(VALUES, EACH, SEED + number, 512)):
            query = f"{chance.choice(NAMES)}={quote_from_bytes(value)}"
            for address in (f"{_address(path, [])}?{query}", _address(path, [value] * (place % 3))):
                answer = await root.get(address)
                tried += 1
                assert _is_told(answer), (address, answer.text)
    assert tried >= 2000


async def test_no_change_fails_whatever_its_body_says(api: ApiUnderTest) -> None:
    root, tried = api.client(**{"content-type": "application/json"}), 0
    for number, (method, path) in enumerate(_routes(api, "POST", "PUT", "PATCH", "DELETE")):
        for body in _inputs(BODIES, EACH, SEED + number, 4096):
            answer = await root.request(method, _address(path, []), content=body)
            tried += 1
            assert _is_told(answer), (method, path, body, answer.text)
    assert tried >= 1000


async def test_no_header_makes_a_request_fail(api: ApiUnderTest) -> None:
    nobody = api.client(None)
    for value in _inputs((*VALUES, "trusted_proxies", "signed_message"), 300, SEED, 512):
        clean = value.replace(b"\r", b"").replace(b"\n", b"")
        for name in (b"authorization", b"cookie", b"x-forwarded-for", b"origin", b"content-length", b"last-event-id"):
            answer = await nobody.get("/api/v1/hosts", headers=[(name, clean)])
            assert answer.status_code in {400, 401, 403, 413, 429}, (name, clean, answer.text)
