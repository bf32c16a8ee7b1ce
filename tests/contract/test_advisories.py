"""The root causes of Salt's published advisories, tried here: the best catalogue of how a system like this one falls.

Each test is named for its advisory. What others show in more detail is said beside it.
"""

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from control_plane.api.authentication import PUBLIC
from control_plane.commands.access import Principal
from control_plane.commands.passwords import digest
from control_plane.commands.targets import Hosts
from control_plane.events import access, tasks
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane_agent.assembly import simulated_agent
from control_plane_agent.checks import opened
from control_plane_agent.disk import RealDisk
from control_plane_wire import strict_json
from control_plane_wire.clock import SystemClock
from control_plane_wire.errors import MalformedMessageError, WireError
from control_plane_wire.messages import decode, parse_command, parse_heartbeat, parse_result, seal
from control_plane_wire.output import parse_output
from control_plane_wire.signing import (
    AUTHORISATION,
    COMMAND,
    CONTROL_PLANE,
    ENROL,
    HEARTBEAT,
    OUTPUT,
    RESULT,
    SigningKey,
    encode_base64,
)
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.topology import (
    HEARTBEAT_KEY,
    HEARTBEAT_QUEUE,
    MONITOR_EXCHANGE,
    RESULT_EXCHANGE,
    RESULT_QUEUE,
    agent_topology,
    command_key,
    group_key,
)
from control_plane_wire.transport.base import Confirmed, Message, Session
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.agent import HOSTNAME, ROUTE, a_command, an_identity, control_plane_end, running, sealed
from tests.support.api import PASSWORD, ApiUnderTest, an_api
from tests.support.database import sqlite_url
from tests.support.events import AT
from tests.support.fleet import ADMIN, CONTROL_PLANE_KEY, a_request, host_key
from tests.support.plane import Plane, a_plane, a_result, of_host
from tests.support.process_contract import RETURNED, OnSqlite
from tests.unit.test_architecture import MODULES, starts_a_shell

FINISHED = tasks.ExecutionFinished.KIND
REJECTED = access.MessageRejected.KIND

# What ids must not be, when they become part of a path, of a key, or of a query.
HOSTILE_IDS = (
    "../../etc/passwd",
    "..",
    ".",
    "/proc/self/environ",
    "a/b",
    "a\\b",
    "web1/../db1",
    "web1\0.example.com",
    "x" * 4096,
    "web1\n",
    "%2e%2e%2f",
    "..%2f",
    "web1;id",
    "$(id)",
    "*",
    "#",
    "'; DROP TABLE event; --",
    "\u202eweb1",
    "",
    "web1 ",
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path, is_patient=True) as made:
        await made.register("web1", groups=["web"])
        yield made


def a_heartbeat(hostname: str, key: SigningKey, **changes: Any) -> Message:
    beat = {"hostname": hostname, "status": "online", "timestamp": AT, "cpu_usage": 0.1, "memory_usage": 1}
    body = seal({**beat, **changes}, key, HEARTBEAT, sender=hostname, recipient=CONTROL_PLANE)
    return Message(exchange=MONITOR_EXCHANGE, routing_key=HEARTBEAT_KEY, body=body)


class TestByTheWire(OnSqlite):
    """What reaches the control plane over the broker, which is in the attacker's hands here."""

    @pytest.fixture
    async def plane(self, url: str, transport: Any) -> AsyncIterator[Plane]:
        async with a_plane(url, transport) as plane:
            await plane.register("web1", "web2", groups=["web"])
            await plane.run("t1", "web1")
            yield plane

    @pytest.fixture
    async def attacker(self, plane: Plane) -> AsyncIterator[Session]:
        async with plane.session() as session:
            yield session

    async def nothing_counts(self, plane: Plane, session: Session, *messages: Message) -> None:
        """None of these is taken for what a host said; a genuine answer after them is, so they were looked at."""
        dead = {"results": 0, "heartbeats": 0}
        async with plane.serving(plane.results(), plane.heartbeats()):
            for message in messages:
                assert await session.publish(message) == Confirmed()
                dead["results" if message.exchange == RESULT_EXCHANGE else "heartbeats"] += 1
            for what, number in dead.items():
                if number:
                    await plane.counted(f"{what}_dead", number)
            assert await plane.events(FINISHED, tasks.ExecutionAccepted.KIND, tasks.ExecutionStarted.KIND) == []
            assert (await plane.log.head(HEARTBEAT_EVENT)).seq == 0
            assert await session.publish(of_host("web1", a_result("t1", "web1"))) == Confirmed()
            [event] = await plane.recorded(FINISHED)
        assert event.hostname == "web1"  # type: ignore[attr-defined]
        assert await plane.left_in(RESULT_QUEUE) == []
        assert await plane.left_in(HEARTBEAT_QUEUE) == []

    async def test_cve_2020_11651_a_message_without_a_signature_is_ignored_whatever_its_kind(
        self, plane: Plane, attacker: Session
    ) -> None:
        result = {"task_id": "t1", "exit_code": 0, "stdout": "", "stderr": "", "timestamp": AT}
        beat = {"hostname": "web1", "status": "online", "timestamp": AT, "cpu_usage": 0.1, "memory_usage": 1}
        plain: list[JsonObject] = [
            result,
            {**result, "signature": None},
            {**result, "signature": ""},
            {**result, "signature": "A" * 88},
            {**result, "signature": encode_base64(bytes(64))},
            {"kind": "accepted", "task_id": "t1", "timestamp": AT},
            {"kind": "_send_pub", "task_id": "t1", "timestamp": AT},
        ]
        beats: list[JsonObject] = [beat, {**beat, "signature": encode_base64(bytes(64))}]

        await self.nothing_counts(
            plane,
            attacker,
            *(of_host("web1", strict_json.canonical(message)) for message in plain),
            *(
                Message(exchange=MONITOR_EXCHANGE, routing_key=HEARTBEAT_KEY, body=strict_json.canonical(message))
                for message in beats
            ),
        )

    async def test_cve_2024_38822_a_host_that_signs_for_another_is_nobody_on_every_kind_of_message(
        self, plane: Plane, attacker: Session
    ) -> None:
        """The sender is the owner of the key, and no field says otherwise. More in test_ingest.py."""
        web2 = host_key("web2")
        accepted: JsonObject = {"kind": "accepted", "task_id": "t1", "timestamp": AT}
        await self.nothing_counts(
            plane,
            attacker,
            of_host("web1", a_result("t1", "web1", key=web2)),
            of_host("web1", a_result("t1", "web2", key=web2)),
            of_host("web1", a_result("t1", "web1", key=web2, key_id=host_key("web1").key_id, sender="web1")),
            of_host("web1", seal(accepted, web2, RESULT, sender="web1", recipient=CONTROL_PLANE)),
            of_host("web1", seal({**accepted, "started_at": AT}, web2, RESULT, sender="web2", recipient=CONTROL_PLANE)),
            a_heartbeat("web1", web2),
            Message(
                exchange=MONITOR_EXCHANGE,
                routing_key=HEARTBEAT_KEY,
                body=seal(
                    {"hostname": "web1", "status": "offline", "timestamp": AT, "cpu_usage": 0, "memory_usage": 0},
                    web2,
                    HEARTBEAT,
                    sender="web2",
                    recipient=CONTROL_PLANE,
                ),
            ),
        )

        assert len(await plane.events(REJECTED)) == 7

    async def test_cve_2024_38822_live_output_in_another_s_name_is_shown_to_nobody(self, plane: Plane) -> None:
        """In its own file: tests/contract/test_live_output.py; here, that such a piece does not verify."""
        piece: JsonObject = {"task_id": "t1", "hostname": "web1", "stream": "stdout", "offset": 0, "data": "x"}
        for key, sender in ((host_key("web2"), "web1"), (host_key("web2"), "web2")):
            body = seal(piece, key, OUTPUT, sender=sender, recipient=CONTROL_PLANE)
            with pytest.raises(WireError):
                _verified(body, host_key("web1"), OUTPUT, sender="web1")

    async def test_cve_2024_38823_every_captured_message_three_times_says_it_once(
        self, plane: Plane, attacker: Session
    ) -> None:
        said = [
            of_host("web1", a_result("t1", "web1")),
            of_host(
                "web1",
                seal(
                    {"kind": "accepted", "task_id": "t1", "timestamp": AT, "started_at": AT},
                    host_key("web1"),
                    RESULT,
                    sender="web1",
                    recipient=CONTROL_PLANE,
                ),
            ),
            a_heartbeat("web1", host_key("web1"), sequence=1, boot_id="b1"),
        ]
        async with plane.serving(plane.results(), plane.heartbeats()):
            for _ in range(3):
                for message in said:
                    assert await attacker.publish(message) == Confirmed()
            await plane.counted("results_received", 6)
            await plane.counted("heartbeats_received", 3)

        assert len(await plane.events(FINISHED)) == 1
        assert len(await plane.events(tasks.ExecutionStarted.KIND)) == 1
        assert (await plane.log.head(HEARTBEAT_EVENT)).seq == 1

    async def test_cve_2025_22236_22239_a_host_says_nothing_that_is_for_others_to_say(
        self, plane: Plane, attacker: Session
    ) -> None:
        """With web1's own key: events, commands and results that are not its own. At the broker its account has no
        right to the rest either: tests/contract/test_broker_accounts.py tries that, 44 ways."""
        web1 = host_key("web1")
        await plane.run("t2", "web2")
        task = await plane.log.read_one(EVENT, (await plane.log.head(EVENT)).seq)
        assert task is not None
        body = strict_json.parse(task.body, max_bytes=2**20)
        event: JsonObject = {"kind": "task.accepted", "task_id": "evil", "timestamp": AT, "hosts": ["web2"]}
        strange = [
            seal(event, web1, RESULT, sender="web1", recipient=CONTROL_PLANE),
            seal({**event, "kind": "user.created"}, web1, RESULT, sender="web1", recipient=CONTROL_PLANE),
            seal(a_command("t9", command="id").to_json(), web1, COMMAND, sender="web1", recipient=command_key("web2")),
            seal(body, web1, AUTHORISATION, sender=CONTROL_PLANE, recipient=CONTROL_PLANE),
            seal({**event, "kind": "cancel"}, web1, RESULT, sender="web1", recipient=CONTROL_PLANE),
        ]
        await self.nothing_counts(plane, attacker, *(of_host("web1", body) for body in strange))
        async with plane.serving(plane.results()):
            assert await attacker.publish(of_host("web1", a_result("t2", "web1"))) == Confirmed()
            [unexpected] = await plane.recorded(tasks.ExecutionUnexpected.KIND)

        assert unexpected.task_id == "t2"  # type: ignore[attr-defined]
        assert await plane.events("user.created") == []
        assert len(await plane.events(tasks.TaskAccepted.KIND)) == 2
        assert await plane.events(tasks.TaskCancelRequested.KIND) == []

    async def test_cve_2025_22239_a_command_that_a_host_sends_to_another_is_not_run_there(self, plane: Plane) -> None:
        for route in (command_key("web2"), group_key("web"), "cmd.all"):
            body = sealed(a_command(), route=route, key=host_key("web1"))
            with pytest.raises(WireError):
                opened(body, route, [CONTROL_PLANE_KEY.public_key])

    async def test_cve_2025_62349_an_older_form_of_a_message_is_refused_by_the_control_plane(
        self, plane: Plane, attacker: Session
    ) -> None:
        await self.nothing_counts(plane, attacker, *(of_host("web1", body) for body in _older_forms("web1")))

    async def test_cve_2016_9639_a_name_that_is_given_again_inherits_nothing(
        self, plane: Plane, attacker: Session
    ) -> None:
        second = SigningKey.generate()
        async with plane.dispatching():
            await plane.run("t3", "web1")
            await plane.recorded(RETURNED, number=2)
            await plane.hosts.retire(ADMIN, "web1", None)
            await plane.hosts.register(ADMIN, hostname="web1", public_key=second.public_key, groups=[])
            await plane.shown()
            async with plane.agent("web1", "web") as web1:
                await plane.comes_online("web1")
                skipped = await plane.recorded(tasks.ExecutionSkipped.KIND)
                assert web1.messages == []

        async with plane.serving(plane.results()):
            for key in (host_key("web1"), second):
                assert await attacker.publish(of_host("web1", a_result("t1", "web1", key=key))) == Confirmed()
            await plane.counted("results_dead")
            [unexpected] = await plane.recorded(tasks.ExecutionUnexpected.KIND)

        assert {event.reason for event in skipped} == {  # type: ignore[attr-defined]
            "the name belongs to another machine by now"
        }
        assert unexpected.reason == "this task was for another machine of that name"  # type: ignore[attr-defined]
        assert await plane.events(FINISHED) == []
        assert plane.authority.fleet.host("web1").groups == {}

    @pytest.mark.parametrize("field", ["task_id", "hostname", "recipient"])
    async def test_cve_2020_11652_an_id_that_is_none_never_leaves_the_message(self, plane: Plane, field: str) -> None:
        """Nor CVE-2024-38824, CVE-2025-22238, -22240 to -22242: what becomes a path has passed its grammar."""
        for hostile in HOSTILE_IDS:
            if field == "task_id":
                good: JsonObject = {"task_id": hostile, "timestamp": AT}
                for parse, more in (
                    (parse_command, {"command": "id", "timeout": 1, "user": "root"}),
                    (parse_command, {"kind": "cancel"}),
                    (parse_command, {"kind": "configure", "as_of": 1, "groups": {}}),
                    (parse_result, {"exit_code": 0, "stdout": "", "stderr": ""}),
                    (parse_result, {"kind": "accepted"}),
                    (parse_output, {"stream": "stdout", "offset": 0, "data": "", "hostname": "web1"}),
                ):
                    with pytest.raises(MalformedMessageError):
                        parse({**good, **more})  # type: ignore[operator]
            elif field == "hostname":
                beat: JsonObject = {"hostname": hostile, "status": "online", "timestamp": AT}
                with pytest.raises(MalformedMessageError):
                    parse_heartbeat({**beat, "cpu_usage": 0, "memory_usage": 0})
            else:
                with pytest.raises(MalformedMessageError):
                    command_key(hostile)
                with pytest.raises(MalformedMessageError):
                    agent_topology(hostile, [])


def _verified(body: bytes, key: SigningKey, tag: str, *, sender: str) -> None:
    decode(body, max_bytes=2**20, tag=tag).verify(key.public_key, tag, sender=sender, recipient=CONTROL_PLANE)


def _older_forms(hostname: str, key: SigningKey | None = None, message: JsonObject | None = None) -> list[bytes]:
    """A message whose signature binds less than ours do, or which says that another rule holds for it."""
    key = key or host_key(hostname)
    result = message or {"task_id": "t1", "exit_code": 0, "stdout": "", "stderr": "", "timestamp": AT}
    name = "signature" if message is None else "sign"
    body = strict_json.canonical(result)
    raw = key._private.sign
    signed_over = [body, b"CPSIG0" + body, b"CPSIG1" + body, hashlib.sha256(body).digest(), b"", b"x" + body]
    forms = [strict_json.canonical({**result, name: encode_base64(raw(over))}) for over in signed_over]
    for more in ({"version": 0}, {"alg": "none"}, {"protocol": 1, "min_version": 0}, {"enc": "clear"}):
        said = {**result, **more}
        forms.append(strict_json.canonical({**said, name: encode_base64(raw(strict_json.canonical(said)))}))
        forms.append(strict_json.canonical(said))
    return forms


# --- at the agent


async def test_cve_2025_62349_an_older_form_of_a_command_is_refused_by_the_agent() -> None:
    forms = _older_forms(HOSTNAME, CONTROL_PLANE_KEY, a_command().to_json())

    for body in forms:
        with pytest.raises(WireError):
            opened(body, ROUTE, [CONTROL_PLANE_KEY.public_key])
    assert len(forms) == 14


async def test_cve_2024_38823_a_captured_command_three_times_runs_once() -> None:
    """Past its expiry it does not run at all: tests/unit/agent/test_checks.py."""
    broker = InProcessBroker()
    agent = simulated_agent(1, an_identity(), broker.transport())
    body = sealed(a_command("captured", command="true", timestamp=int(SystemClock().now_s())))
    async with control_plane_end(broker) as end, running(agent):
        await end.until(lambda: end.heartbeats)
        for _ in range(3):
            await end.send_bytes(body)
        await end.result("captured")
        await end.send(a_command("after", timestamp=int(SystemClock().now_s())))
        await end.result("after")

    assert {result["started_at"] for result in end.said("captured")} == {end.said("captured")[0]["started_at"]}
    assert len({strict_json.canonical(result) for result in end.said("captured")}) == 1


async def test_cve_2024_38823_what_was_captured_for_one_host_is_for_no_other() -> None:
    body = sealed(a_command())

    for route in (command_key("db1"), group_key("web"), "cmd.all"):
        with pytest.raises(WireError):
            opened(body, route, [CONTROL_PLANE_KEY.public_key])


def test_cve_2025_22238_the_agents_directory_opens_no_link_that_leads_out_of_it(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.write_text("not yours")
    inside.mkdir()
    (inside / "journal").mkdir()
    (inside / "journal" / "link").symlink_to(outside)
    disk = RealDisk(str(inside))

    for act in (
        lambda: disk.read("journal/link"),
        lambda: disk.read_at("journal/link", 0, 4),
        lambda: disk.write_at("journal/link", 0, b"x"),
        lambda: disk.create("journal/link", b"x"),
        lambda: disk.try_lock("journal/link"),
        lambda: disk.sync("journal/link"),
    ):
        with pytest.raises(OSError, match=r"symbolic links|File exists"):
            act()
    disk.close()
    assert outside.read_text() == "not yours"


# --- over HTTP


def _operations(api: ApiUnderTest) -> list[tuple[str, str]]:
    routes = [route for route in api.app.routes if isinstance(route, APIRoute)]
    return [(method, route.path) for route in routes for method in sorted(route.methods)]


def _address(path: str, value: str = "web1") -> str:
    """The path with a value in every place."""
    return "/".join(value if part.startswith("{") else part for part in path.split("/"))


async def test_cve_2020_11651_no_route_answers_somebody_without_credentials(api: ApiUnderTest) -> None:
    """Every route with seven kinds of no credentials, whatever its body is. More in test_api.py."""
    wrong: list[dict[str, str]] = [
        {},
        {"authorization": "Bearer null"},
        {"authorization": f"Bearer {api.tokens['root'][:-1]}"},
        {"authorization": "Basic cm9vdDpyb290"},
        {"cookie": f"{api.app.state.cookie.name}={digest('x')}"},
        {"x-forwarded-user": "root", "x-remote-user": "root"},
        {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1"},
    ]
    client, tried = api.client(None), 0
    public = {*api.app.state.public_routes, *PUBLIC}
    for method, path in _operations(api):
        if (method, path) in public:
            continue
        for headers in wrong:
            answer = await client.request(method, _address(path), headers=headers, json={})
            assert answer.status_code == 401, (method, path, headers, answer.text)
            tried += 1
    assert tried > 200


async def test_cve_2020_11652_a_hostile_id_in_a_path_leads_nowhere(api: ApiUnderTest) -> None:
    root = api.client()
    paths = [
        (m, p) for m, p in _operations(api) if "{" in p and m in {"GET", "PUT", "DELETE"} and p.startswith("/api/")
    ]
    assert len(paths) > 15
    for hostile in HOSTILE_IDS:
        encoded = "".join(f"%{byte:02x}" for byte in hostile.encode())
        for method, path in paths:
            answer = await root.request(method, _address(path, encoded))
            is_led = answer.status_code in {400, 404, 405, 422} or answer.json()["code"] == "session_required"
            assert is_led, (method, path, hostile, answer.text)


async def test_cve_2020_11652_no_file_but_the_dashboards_own_is_served(api: ApiUnderTest) -> None:
    client, digest_ = api.client(), api.app.state.ui.digest
    for name in ("../x", "..%2f..%2fetc/passwd", "/etc/passwd", "%2e%2e/%2e%2e/signing.key", "js/../../x", "js%00"):
        answer = await client.get(f"/ui/{digest_}/{name}")
        assert answer.status_code in {404, 401, 400}, (name, answer.text)


async def test_cve_2024_38825_another_hosts_public_key_enrols_nobody(api: ApiUnderTest) -> None:
    """Proof of possession: each proof that somebody without the key can make. More in test_handlers_enrolment.py."""
    mallory, victim = SigningKey.generate(), SigningKey.generate()
    made = await api.client().post("/api/v1/enrolment-tokens", json={"hostname": "web7", "groups": []})
    begin = {"token": made.json()["token"], "hostname": "web7", "public_key": encode_base64(victim.public_key)}
    client = api.client(None)
    nonce = (await client.post("/api/v1/enrol/begin", json=begin)).json()["nonce"]
    said: JsonObject = {
        "hostname": "web7",
        "nonce": nonce,
        "public_key": begin["public_key"],
        "token_sha256": digest(begin["token"]),
    }
    body = strict_json.canonical(said)
    proofs = [
        mallory.sign(ENROL, sender="web7", recipient=CONTROL_PLANE, body=body),
        mallory.sign(RESULT, sender="web7", recipient=CONTROL_PLANE, body=body),
        victim.sign(RESULT, sender="web7", recipient=CONTROL_PLANE, body=body),  # of what it signed for something else
        victim.sign(ENROL, sender="web8", recipient=CONTROL_PLANE, body=body),
        victim.sign(ENROL, sender="web7", recipient=CONTROL_PLANE, body=strict_json.canonical({**said, "nonce": "x"})),
        bytes(64),
    ]
    for proof in proofs:
        answer = await client.post(
            "/api/v1/enrol/finish", json={**begin, "nonce": nonce, "proof": base64.b64encode(proof).decode()}
        )
        assert answer.status_code in {401, 403, 422}, answer.text
    assert "web7" not in api.services.authority.fleet.hosts


async def test_cve_2022_22967_a_locked_account_does_nothing_from_its_next_request_on(api: ApiUnderTest) -> None:
    """What it asked for and was not sent yet is not sent either: tests/contract/test_rules.py."""
    client, browser = api.client("ada"), await api.browser("ada")
    assert (await client.get("/api/v1/auth/me")).status_code == 200

    locked = await api.client().patch("/api/v1/users/ada", json={"enabled": False})
    assert locked.is_success, locked.text
    answers = [
        await client.get("/api/v1/hosts"),
        await client.post("/api/v1/tasks", json={"target": {"all": True}, "command": "id", "timeout": 1, "user": "x"}),
        await browser.get("/api/v1/hosts"),
        await browser.post("/api/v1/tasks/x/cancel"),
        await client.post("/api/v1/tokens", json={"name": "again", "days": 1}),
        await api.client(None).post("/api/v1/auth/login", json={"username": "ada", "password": PASSWORD}),
    ]
    assert [answer.status_code for answer in answers] == [401] * 6


async def test_cve_2022_22967_what_a_locked_account_has_queued_is_not_published(tmp_path: Path) -> None:
    async with a_plane(sqlite_url(tmp_path), InProcessBroker().transport()) as plane:
        await plane.register("web1", "web2")
        await plane.handling.record(
            access.UserCreated(username="ada", based_on=0, role="operator", phc_sha256=digest("x")), actor="root"
        )
        await plane.authority.refresh()
        ada = Principal(username="ada", role="operator")
        seq = plane.authority.access.user("ada").changed_seq
        async with plane.dispatching():
            await plane.tasks.create(ada, a_request("queued", Hosts(("web1",))))
            await plane.recorded(RETURNED)
            await plane.handling.record(access.UserDisabled(username="ada", based_on=seq), actor="root")
            await plane.authority.refresh()
            async with plane.agent("web1") as web1:
                await plane.comes_online("web1")
                [skipped] = await plane.recorded(tasks.ExecutionSkipped.KIND)

    assert web1.messages == []
    assert "ada" in skipped.reason  # type: ignore[attr-defined]


# --- in the source


def test_cve_2020_16846_no_shell_reads_what_the_control_plane_puts_together() -> None:
    """The rule is tried on planted violations in tests/unit/test_architecture.py."""
    assert [f"{module.path}: {what}" for module in MODULES for what in starts_a_shell(module)] == []


@pytest.mark.parametrize("spoken", ["command", "argv"])
async def test_cve_2020_16846_what_is_asked_for_reaches_the_host_as_it_was_asked_for(
    api: ApiUnderTest, spoken: str
) -> None:
    for command in ("id; id", "$(id)", "`id`", "a\nb", "'", '"; rm -rf / #', "|| id", "--help"):
        given: dict[str, Any] = {"command": command} if spoken == "command" else {"argv": ["/bin/echo", command]}
        accepted = await api.run(api.client("ada"), {"host": "web1"}, **given)
        stored = await api.log.read_one(EVENT, accepted["seq"])
        assert stored is not None
        request = strict_json.parse(stored.body, max_bytes=2**20)["request"]
        assert request[spoken] == given[spoken]  # type: ignore[index, call-overload]
