"""Hosts, groups, keys and enrolment over the API."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from control_plane.commands.passwords import digest
from control_plane.events.hosts import HostQuarantined
from control_plane_wire import strict_json
from control_plane_wire.signing import CONTROL_PLANE, ENROL, SigningKey, encode_base64, key_id
from tests.support.api import ApiUnderTest, a_public_key, an_api

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path_factory.mktemp("api")) as made:
        yield made


async def test_a_host_is_registered_by_hand_shown_and_changed(api: ApiUnderTest) -> None:
    root = api.client()
    body = {"hostname": "Web1.example.com", "public_key": a_public_key(), "groups": ["web"]}

    made = await root.post("/api/v1/hosts", json=body)
    again = await root.post("/api/v1/hosts", json=body)
    other_key = await root.post("/api/v1/hosts", json={**body, "public_key": a_public_key()})

    assert (made.status_code, made.json()["hostname"]) == (201, "web1.example.com")
    assert again.status_code == 201
    assert (other_key.status_code, other_key.json()["code"]) == (409, "host_exists")
    change = {"groups": ["web", "canary"], "labels": {"rack": "12"}, "maintenance": True}
    changed = await root.patch("/api/v1/hosts/web1.example.com", json=change)
    host = (await root.get("/api/v1/hosts/web1.example.com", params={"min_seq": changed.json()["seq"]})).json()
    assert (host["groups"], host["labels"], host["maintenance"]) == (["canary", "web"], {"rack": "12"}, True)
    assert (host["state"], host["cpu_usage"], host["pos"]) == ("pending", None, changed.json()["seq"])


async def test_a_change_that_is_refused_in_part_changes_nothing(api: ApiUnderTest) -> None:
    await api.register("whole1")
    url, root = "/api/v1/hosts/whole1", api.client()
    before = (await root.get(url)).json()

    refused = await root.patch(url, json={"groups": ["web"], "labels": {str(number): "x" for number in range(65)}})

    assert (refused.status_code, refused.json()["code"]) == (422, "too_many_labels")
    assert (await root.get(url, params={"min_seq": (await api.log.head("event")).seq})).json() == before


@pytest.mark.parametrize(
    ("public_key", "field"),
    [
        ("0" * 44, "public_key"),
        ("", "public_key"),
        (encode_base64(b"\x01" + b"\0" * 31), "public_key"),
        (1, "public_key"),
    ],
)
async def test_a_public_key_that_is_none_is_refused(api: ApiUnderTest, public_key: object, field: str) -> None:
    answer = await api.client().post("/api/v1/hosts", json={"hostname": "bad1", "public_key": public_key})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


async def test_a_heartbeat_shows_and_is_kept_as_history(api: ApiUnderTest) -> None:
    await api.register("beat1", groups=["web"])
    of_agent = {"running": 2, "runs_as": "deploy", "limits_missing": ("pids",)}
    await api.beat("beat1", 1, load=(0.1, 0.2, 0.3), groups=("db",), os="debian 12", **of_agent)
    eve = api.client("eve")

    host = (await eve.get("/api/v1/hosts/beat1")).json()
    history = (await eve.get("/api/v1/hosts/beat1/heartbeats")).json()["items"]

    assert (host["cpu_usage"], host["memory_usage"], host["load"]) == (0.25, 0.5, [0.1, 0.2, 0.3])
    assert (host["groups"], host["groups_bound"], host["drift"]) == (["web"], ["db"], True)
    assert (host["basic"], host["os"], host["running"], host["runs_as"]) == (False, "debian 12", 2, "deploy")
    assert host["limits_missing"] == ["pids"]
    assert [(point["cpu_usage"], point["memory_usage"]) for point in history] == [(0.25, 0.5)]
    assert history[0]["at"] == host["last_heartbeat_at"]


async def test_hosts_list_by_name_with_counts_and_filters(api: ApiUnderTest) -> None:
    await api.register("list-a", "list-b", "list-c", groups=["list"])
    revoked = await api.client().post("/api/v1/hosts/list-c/revoke", json={"reason": "stolen"})
    eve = api.client("eve")

    query = {"group": "list", "limit": 2, "min_seq": revoked.json()["seq"]}
    first = (await eve.get("/api/v1/hosts", params=query)).json()
    second = (await eve.get("/api/v1/hosts", params={**query, "cursor": first["next_cursor"]})).json()
    gone = (await eve.get("/api/v1/hosts", params={"state": "revoked", "q": "list"})).json()

    assert [row["hostname"] for row in first["items"] + second["items"]] == ["list-a", "list-b", "list-c"]
    assert (first["total"], second["next_cursor"]) == (3, None)
    assert first["counts"] == {"pending": 2, "revoked": 1}
    assert [(row["hostname"], row["state_cause"]) for row in gone["items"]] == [("list-c", "stolen")]


async def test_a_retired_host_is_shown_only_where_it_is_asked_for(api: ApiUnderTest) -> None:
    await api.register("old1", groups=["old"])
    seq = (await api.client().delete("/api/v1/hosts/old1")).json()["seq"]
    eve = api.client("eve")

    listed = (await eve.get("/api/v1/hosts", params={"q": "old1", "min_seq": seq})).json()
    asked = (await eve.get("/api/v1/hosts", params={"q": "old1", "state": "retired"})).json()

    assert (listed["items"], [row["hostname"] for row in asked["items"]]) == ([], ["old1"])
    assert (await api.client().delete("/api/v1/hosts/old1")).json()["code"] == "unknown_host"


async def test_a_host_in_quarantine_says_so_until_somebody_who_may_trusts_it_again(api: ApiUnderTest) -> None:
    await api.register("back1", groups=["back"])
    key = api.services.authority.fleet.hosts["back1"].public_key
    found = HostQuarantined(
        hostname="back1",
        heartbeat_seq=7,
        key_id=key_id(key),
        reason="its journal went back in time",
        before="200",
        after="100",
    )
    signature, signer = api.services.keyring.sign_event(found), api.services.keyring.active.key_id
    [recorded] = await api.log.append([found.to_new_event(actor="presence", signature=signature, key_id=signer)])
    root, url = api.client(), "/api/v1/hosts/back1"

    host = (await root.get(url, params={"min_seq": recorded.seq})).json()
    await api.services.authority.refresh()
    preview = (await root.post("/api/v1/targets/preview", json={"target": {"group": "back"}})).json()
    metrics = (await root.get("/metrics")).text
    denied = await api.client("ada").post(f"{url}/lift-quarantine", json={"reason": "mine"})
    unreasoned = await root.post(f"{url}/lift-quarantine", json={})
    lifted = await root.post(f"{url}/lift-quarantine", json={"reason": "restored on purpose"})
    again = await root.post(f"{url}/lift-quarantine", json={"reason": "restored on purpose"})

    assert host["quarantine"]["reason"] == "its journal went back in time"
    assert host["quarantine"]["since"] is not None
    assert (preview["hosts"], preview["quarantined"]) == (["back1"], ["back1"])
    assert "control_plane_hosts_quarantined 1" in metrics
    assert (denied.status_code, unreasoned.status_code, lifted.status_code, again.status_code) == (403, 422, 200, 200)
    seq = lifted.json()["seq"]
    assert (await root.get(url, params={"min_seq": seq})).json()["quarantine"] is None
    event = (await root.get(f"/api/v1/events/{seq}")).json()
    assert (event["kind"], event["actor"]) == ("host.quarantine_lifted", "root")
    then = (await root.get(url, params={"at": str(recorded.seq)})).json()
    assert then["quarantine"] == host["quarantine"]


async def test_hosts_go_into_groups_and_out_of_them(api: ApiUnderTest) -> None:
    await api.register("member1")
    root = api.client()
    url = "/api/v1/groups/canary/hosts/member1"

    assert (await root.get(url)).status_code == 404
    put = (await root.put(url)).json()
    assert (put["member"], (await root.get(url, params={"min_seq": put["seq"]})).status_code) == (True, 200)
    groups = {group["group"]: group for group in (await root.get("/api/v1/groups")).json()["items"]}
    assert groups["canary"]["counts"]["pending"] >= 1
    out = (await root.delete(url)).json()
    assert (await root.get(url, params={"min_seq": out["seq"]})).json()["code"] == "not_a_member"


async def test_the_control_plane_s_keys_are_public(api: ApiUnderTest) -> None:
    [key] = (await api.client(None).get("/api/v1/keys")).json()["items"]

    active = api.services.keyring.active
    assert key == {"key_id": active.key_id, "public_key": encode_base64(active.public_key), "state": "active"}


async def test_an_agent_enrols_with_a_token_once(api: ApiUnderTest) -> None:
    made = (await api.client().post("/api/v1/enrolment-tokens", json={"hostname": "new1", "groups": ["web"]})).json()
    assert made["command"].endswith(f"--token {made['token']} --hostname new1")
    assert "http://127.0.0.1:8000" in made["command"]
    agent, key = api.client(None), SigningKey.generate()
    who = {"token": made["token"], "hostname": "new1", "public_key": encode_base64(key.public_key)}

    nonce = (await agent.post("/api/v1/enrol/begin", json=who)).json()["nonce"]
    claim = {k: v for k, v in who.items() if k != "token"} | {"nonce": nonce, "token_sha256": digest(made["token"])}
    proof = key.sign(ENROL, sender="new1", recipient=CONTROL_PLANE, body=strict_json.canonical(claim))
    finish = {**who, "nonce": nonce, "proof": encode_base64(proof)}
    enrolled = await agent.post("/api/v1/enrol/finish", json=finish)
    repeated = await agent.post("/api/v1/enrol/finish", json=finish)
    thief = await agent.post("/api/v1/enrol/begin", json={**who, "public_key": a_public_key()})

    assert enrolled.status_code == 200, enrolled.text
    assert enrolled.json() == repeated.json()
    assert (enrolled.json()["hostname"], enrolled.json()["amqp_url"]) == ("new1", "amqp://broker")
    assert list(enrolled.json()["groups"]) == ["web"]
    assert enrolled.json()["keys"] == (await agent.get("/api/v1/keys")).json()["items"]
    assert (thief.status_code, thief.json()["code"]) == (401, "enrolment_refused")


async def test_a_wrong_proof_or_token_enrols_nobody(api: ApiUnderTest) -> None:
    made = (await api.client().post("/api/v1/enrolment-tokens", json={})).json()
    agent = api.client(None)
    who = {"token": made["token"], "hostname": "new2", "public_key": a_public_key()}
    nonce = (await agent.post("/api/v1/enrol/begin", json=who)).json()["nonce"]

    proof = encode_base64(b"\x01" * 64)
    wrong_proof = await agent.post("/api/v1/enrol/finish", json={**who, "nonce": nonce, "proof": proof})
    no_proof = await agent.post("/api/v1/enrol/finish", json={**who, "nonce": nonce, "proof": "x"})
    wrong_nonce = await agent.post("/api/v1/enrol/finish", json={**who, "nonce": "1.2.3", "proof": proof})
    wrong_token = await agent.post("/api/v1/enrol/begin", json={**who, "token": made["token"][:-1] + "g"})

    assert (wrong_proof.status_code, wrong_proof.json()["code"]) == (422, "proof_refused")
    assert no_proof.json()["errors"][0]["field"] == "proof"
    assert (wrong_nonce.status_code, wrong_nonce.json()["code"]) == (422, "nonce_expired")
    assert (wrong_token.status_code, wrong_token.json()["code"]) == (401, "enrolment_refused")


async def test_open_enrolment_tokens_are_listed_without_their_text_and_can_be_revoked(api: ApiUnderTest) -> None:
    root = api.client()
    made = (await root.post("/api/v1/enrolment-tokens", json={"expires_in": 60})).json()

    listed = await root.get("/api/v1/enrolment-tokens")
    revoked = await root.delete(f"/api/v1/enrolment-tokens/{made['token_id']}")

    assert made["token_id"] in {token["token_id"] for token in listed.json()["items"]}
    assert made["token"] not in listed.text
    assert revoked.status_code == 204
    left = {token["token_id"] for token in (await root.get("/api/v1/enrolment-tokens")).json()["items"]}
    assert made["token_id"] not in left


async def test_hosts_are_told_as_they_were(api: ApiUnderTest) -> None:
    await api.register("then1", "then2", groups=["then"])
    await api.beat("then1", 1, cpu_usage=0.125)
    eve, query = api.client("eve"), {"group": "then"}
    shown = (await eve.get("/api/v1/hosts", params=query)).json()
    usage = (await eve.get("/api/v1/hosts/then1/heartbeats")).json()
    groups = (await eve.get("/api/v1/groups")).json()
    await api.beat("then1", 2, cpu_usage=0.5)
    seq = (await api.client().patch("/api/v1/hosts/then2", json={"groups": []})).json()["seq"]
    then = {"at": shown["as_of"]}

    told = (await eve.get("/api/v1/hosts", params={**query, **then})).json()
    assert told == shown
    assert (await eve.get("/api/v1/hosts/then1", params=then)).json() == shown["items"][0]
    assert (await eve.get("/api/v1/hosts/then1/heartbeats", params=then)).json() == usage
    assert (await eve.get("/api/v1/groups", params=then)).json() == groups
    assert (await eve.get("/api/v1/groups/then/hosts/then2", params=then)).status_code == 200
    now = {"at": seq, "min_seq": seq}
    assert (await eve.get("/api/v1/groups/then/hosts/then2", params=now)).json()["code"] == "not_a_member"
    assert (await eve.get("/api/v1/hosts/then1", params=now)).json()["cpu_usage"] == 0.5
    gone = await eve.get("/api/v1/hosts/then1", params={"at": 0})
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown_host")
    states = (await eve.get("/api/v1/projections", params=then)).json()["items"]
    assert {state["name"]: state["state"] for state in states} == dict.fromkeys(("hosts", "tasks", "audit"), "replayed")
    assert states[0]["position"] == states[0]["head"] == shown["as_of"]
