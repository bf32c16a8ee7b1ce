"""Hosts that ask without a token, and hosts that bring a new key, over the API; what is not right about a key."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from control_plane_wire import proofs
from control_plane_wire.signing import CONTROL_PLANE, ENROL, SigningKey, encode_base64
from tests.support.api import ApiUnderTest, an_api
from tests.unit.wire.test_signing import WEAK

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOT_CANONICAL = [(2**255 - 19 + n).to_bytes(32, "little").hex() for n in (2, 5, 18)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api"), pending_hosts=40) as made:
        yield made


def signed(key: SigningKey, hostname: str, body: bytes) -> str:
    return encode_base64(key.sign(ENROL, sender=hostname, recipient=CONTROL_PLANE, body=body))


async def a_nonce(agent: httpx.AsyncClient, who: dict[str, Any]) -> str:
    answer = await agent.post("/api/v1/enrol/begin", json=who)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["nonce"])


async def ask(agent: httpx.AsyncClient, hostname: str, key: SigningKey) -> httpx.Response:
    who = {"hostname": hostname, "public_key": encode_base64(key.public_key)}
    nonce = await a_nonce(agent, who)
    proof = signed(key, hostname, proofs.of_request(hostname, key.public_key, nonce))
    return await agent.post("/api/v1/enrol/request", json={**who, "nonce": nonce, "proof": proof})


async def rotate(agent: httpx.AsyncClient, hostname: str, old: SigningKey, new: SigningKey) -> httpx.Response:
    who = {"hostname": hostname, "public_key": encode_base64(new.public_key)}
    nonce = await a_nonce(agent, who)
    body = proofs.of_rotation(hostname, new.public_key, nonce)
    given = {"nonce": nonce, "proof": signed(old, hostname, body), "new_proof": signed(new, hostname, body)}
    return await agent.post("/api/v1/enrol/rotate", json={**who, **given})


async def test_a_host_asks_is_accepted_by_its_fingerprint_and_brings_a_new_key(api: ApiUnderTest) -> None:
    root, agent, key, new = api.client(), api.client(None), SigningKey.generate(), SigningKey.generate()
    first = await ask(agent, "new1", key)
    [shown] = (await root.get("/api/v1/pending-hosts")).json()["items"]

    url = f"/api/v1/pending-hosts/{shown['fingerprint']}/accept"
    other_name = await root.post(url, json={"hostname": "new2"})
    made = await root.post(url, json={"hostname": "new1", "groups": ["web"]})
    gone = await root.post(url, json={"hostname": "new1"})
    enrolled = await ask(agent, "new1", key)
    await api.shown(made.json()["seq"])

    assert (first.status_code, first.json()["fingerprint"]) == (202, proofs.fingerprint(key.public_key))
    assert shown["hostname"] == "new1"
    assert (shown["public_key"], shown["address"]) == (encode_base64(key.public_key), "127.0.0.1")
    assert other_name.json()["errors"][0]["field"] == "hostname"
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown_request")
    assert enrolled.status_code == 200, enrolled.text
    assert (list(enrolled.json()["groups"]), enrolled.json()["amqp_url"]) == (["web"], "amqp://broker")
    assert (await root.get("/api/v1/pending-hosts")).json()["items"] == []

    rotated = await rotate(agent, "new1", key, new)
    known = await rotate(agent, "new1", key, key)

    assert rotated.status_code == 200, rotated.text
    assert rotated.json() == enrolled.json()
    assert (known.status_code, known.json()["code"]) == (409, "key_known")


async def test_one_that_is_refused_hears_it_and_its_name_is_free(api: ApiUnderTest) -> None:
    root, agent, key = api.client(), api.client(None), SigningKey.generate()
    await ask(agent, "new3", key)

    no = await root.post(f"/api/v1/pending-hosts/{proofs.fingerprint(key.public_key)}/refuse")
    told = await ask(agent, "new3", key)
    other = await ask(agent, "new3", SigningKey.generate())

    assert no.status_code == 204
    assert (told.status_code, told.json()["code"]) == (403, "request_refused")
    assert other.status_code == 202


async def test_a_stranger_does_not_learn_which_names_are_taken_and_an_administrator_sees_it(api: ApiUnderTest) -> None:
    await api.register("taken1")
    root = api.client("root")

    key = SigningKey.generate()
    taken, free = (
        await ask(api.client(None), "taken1", key),
        await ask(api.client(None), "free1", SigningKey.generate()),
    )
    shown = {row["hostname"]: row for row in (await root.get("/api/v1/pending-hosts")).json()["items"]}
    url = f"/api/v1/pending-hosts/{proofs.fingerprint(key.public_key)}/accept"
    accepted = await root.post(url, json={"hostname": "taken1"})

    assert (
        (taken.status_code, taken.json().keys()) == (free.status_code, free.json().keys()) == (202, free.json().keys())
    )
    assert (shown["taken1"]["name_taken"], shown["free1"]["name_taken"]) == (True, False)
    assert (accepted.status_code, accepted.json()["code"]) == (409, "host_exists")


async def test_one_address_asks_for_a_part_of_the_places_and_is_then_told_to_wait(api: ApiUnderTest) -> None:
    agent = api.client(None, address="2001:db8::1")
    answers = [await ask(agent, f"many{n}", SigningKey.generate()) for n in range(12)]

    assert [answer.status_code for answer in answers] == [202] * 10 + [429] * 2
    assert int(answers[-1].headers["retry-after"]) > 0


@pytest.mark.parametrize("weak", [*WEAK, *NOT_CANONICAL])
async def test_a_key_that_is_weak_or_has_a_second_spelling_is_refused_wherever_one_is_given(
    api: ApiUnderTest, weak: str
) -> None:
    agent, public_key = api.client(None, address=f"192.0.2.{int(weak[:2], 16)}"), encode_base64(bytes.fromhex(weak))
    given = {"hostname": "weak1", "public_key": public_key, "nonce": "1.2.3", "proof": encode_base64(b"\0" * 64)}
    bodies = {
        "begin": {"hostname": "weak1", "public_key": public_key},
        "finish": {**given, "token": "cpe_0_0"},
        "request": given,
        "rotate": {**given, "new_proof": given["proof"]},
    }
    answers = [await agent.post(f"/api/v1/enrol/{path}", json=body) for path, body in bodies.items()]
    answers.append(await api.client().post("/api/v1/hosts", json={"hostname": "weak1", "public_key": public_key}))

    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert [error["field"] for error in answer.json()["errors"]] == ["public_key"]


@pytest.mark.parametrize(
    "change", [{"proof": "x"}, {"nonce": "n" * 513}, {"hostname": "a/b"}, {"more": 1}, {"nonce": 7}]
)
@pytest.mark.parametrize("path", ["request", "rotate"])
async def test_what_is_no_request_is_told_by_its_field(api: ApiUnderTest, path: str, change: dict[str, Any]) -> None:
    key = encode_base64(SigningKey.generate().public_key)
    proof = encode_base64(b"\0" * 64)
    body = {"hostname": "odd1", "public_key": key, "nonce": "1.2.3", "proof": proof}
    body |= {"new_proof": proof} if path == "rotate" else {}

    answer = await api.client(None).post(f"/api/v1/enrol/{path}", json=body | change)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == list(change)


async def test_without_the_setting_nobody_may_ask(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with an_api(tmp_path_factory.mktemp("closed")) as closed:
        answer = await ask(closed.client(None), "new1", SigningKey.generate())

    assert (answer.status_code, answer.json()["code"]) == (403, "pending_hosts_off")
