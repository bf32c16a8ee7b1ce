"""Bugs of keys, tokens, decoders and audits that other systems have had: each turns the check red that is named."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from control_plane.commands.access import Principal, check_may
from control_plane.commands.handlers.enrolment import EnrolmentHandler
from control_plane.commands.handling import Handling
from control_plane.commands.passwords import digest
from control_plane.errors import NotAllowedError, RefusedError, StorageUnavailableError
from control_plane.events import enrolment, tasks
from control_plane.events.access import AccessDenied
from control_plane.events.envelope import Key, NewEvent, Outcome
from control_plane.events.hosts import HostRegistered
from control_plane.messaging import ingest
from control_plane.messaging.broker_accounts import SharedAccount
from control_plane.messaging.dead_letters import DeadLetter
from control_plane_wire import signing, strict_json
from control_plane_wire.clock import SystemClock
from control_plane_wire.signing import CONTROL_PLANE, ENROL, encode_base64
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.transport.base import Confirmed
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.integration.test_agent import ME, an_agent
from tests.support.agent import HOSTNAME, a_command, control_plane_end, running, sealed
from tests.support.events import AT
from tests.support.faults import witness
from tests.support.faults.checks import Evidence, Execution, red
from tests.support.faults.seen import Seen, a_seen_plane
from tests.support.fleet import ADMIN, VIEWER, host_key
from tests.support.plane import Plane, WeakLog, a_result, of_host

Patch = pytest.MonkeyPatch
WEAK_KEY = b"\1".ljust(32, b"\0")  # the neutral point
OF_ANYTHING = b"\1".ljust(64, b"\0")  # one signature that this key "has made" of every message
USES = 50


@pytest.fixture
async def seen(tmp_path: Path) -> AsyncIterator[Seen]:
    async with a_seen_plane(tmp_path) as made:
        yield made


# --- a key of small order ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_there", [False, True], ids=["as it is", "keys of small order are taken"])
async def test_somebody_answers_for_a_host_with_a_signature_of_everything(
    seen: Seen, is_there: bool, monkeypatch: Patch
) -> None:
    if is_there:
        monkeypatch.setattr(signing, "_WEAK", frozenset())
    plane = seen.plane
    async with plane.serving(plane.results()):
        with contextlib.suppress(RefusedError):
            await plane.hosts.register(ADMIN, hostname="weak1", public_key=WEAK_KEY, groups=[])
            await plane.shown()
            await seen.asks("t1", "weak1")
            said: JsonObject = {"task_id": "t1", "exit_code": 0, "stdout": "done\n", "stderr": "", "timestamp": AT}
            body = strict_json.canonical({**said, "signature": encode_base64(OF_ANYTHING)})
            async with plane.session() as session:
                assert await session.publish(of_host("weak1", body)) == Confirmed()
            await plane.recorded(tasks.ExecutionFinished.KIND)

        assert red(await seen.evidence()) & {"I3"} == ({"I3"} if is_there else set())


# --- a key twice in one object ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_there", [False, True], ids=["as it is", "the first of two equal names counts"])
async def test_somebody_adds_a_second_command_to_a_signed_message(
    tmp_path: Path, is_there: bool, monkeypatch: Patch
) -> None:
    """The agent verifies the one, and its supervisor's decoder runs the other."""
    if is_there:
        monkeypatch.setattr(strict_json, "_no_duplicates", lambda pairs: dict(reversed(pairs)))
    (tmp_path / "witness").mkdir()
    line, now_s = witness.command(tmp_path / "witness"), SystemClock().now_s()
    broker = InProcessBroker()
    async with control_plane_end(broker) as end, running(an_agent(tmp_path / HOSTNAME, broker)):
        await end.until(lambda: end.heartbeats)
        signed = sealed(a_command("t1", command=line, user=ME, timestamp=now_s))
        await end.send_bytes(signed[:-1] + b',"command":"echo something else"}')
        await end.send(a_command("t2", command=line, user=ME, timestamp=now_s))
        await end.result("t2")
        if is_there:
            await end.result("t1")

    executions = {
        (str(said["task_id"]), HOSTNAME): Execution(
            "succeeded" if said["exit_code"] == 0 else "failed", int(str(said["exit_code"])), str(said["stdout"])
        )
        for said in end.results
        if said.get("outcome")
    }
    evidence = Evidence(executions=executions, witnessed=frozenset({"t1", "t2"}))
    assert red(evidence) & {"I4"} == ({"I4"} if is_there else set())


# --- an enrolment token that the log does not know by its key ---------------------------------------------------------


def each_use_has_a_key_of_its_own(patch: Patch) -> None:
    patch.setattr(enrolment.EnrolmentTokenUsed, "key", lambda used: Key(used.token_id, used.KIND, used.hostname))


@pytest.mark.parametrize("is_there", [False, True], ids=["as it is", "each use has a key of its own"])
async def test_fifty_hosts_use_one_token_at_once(seen: Seen, is_there: bool, monkeypatch: Patch) -> None:
    if is_there:
        each_use_has_a_key_of_its_own(monkeypatch)
    desk = EnrolmentHandler(seen.plane.handling, SharedAccount(None))
    token = (await desk.create_token(ADMIN, hostname=None, groups=(), expires_in=3600)).text
    append, all_have_looked = seen.plane.log.append, asyncio.Barrier(USES)

    async def at_once(events: Sequence[NewEvent]) -> list[Outcome]:
        if events[0].kind == enrolment.EnrolmentTokenUsed.KIND:
            await all_have_looked.wait()
        return await append(events)

    monkeypatch.setattr(seen.plane.log, "append", at_once)
    await asyncio.gather(
        *(enrol(seen.plane.beside(f"replica {n}"), token, f"new{n}") for n in range(USES)), return_exceptions=True
    )

    registered = [event for event in await seen.plane.events(HostRegistered.KIND) if isinstance(event, HostRegistered)]
    let_in = [event.hostname for event in registered if event.hostname.startswith("new")]
    assert len(let_in) == (USES if is_there else 1)


async def enrol(plane: Plane, token: str, hostname: str) -> None:
    desk, key = EnrolmentHandler(plane.handling, SharedAccount(None)), host_key(hostname)
    nonce = await desk.begin(token=token, hostname=hostname, public_key=key.public_key)
    said: JsonObject = {"hostname": hostname, "nonce": nonce, "public_key": encode_base64(key.public_key)}
    body = strict_json.canonical({**said, "token_sha256": digest(token)})
    proof = key.sign(ENROL, sender=hostname, recipient=CONTROL_PLANE, body=body)
    await desk.finish(token=token, hostname=hostname, public_key=key.public_key, nonce=nonce, proof=proof)


# --- an attempt that leaves nothing -----------------------------------------------------------------------------------


def only_what_is_allowed_is_recorded(patch: Patch) -> None:
    async def checks(handling: Handling, principal: Principal, permission: str, resource: str) -> None:
        check_may(principal, permission)

    patch.setattr(Handling, "check", checks)


def what_cannot_be_recorded_is_ignored(patch: Patch) -> None:
    async def tries(handling: Handling, denials: Sequence[AccessDenied]) -> None:
        for denied in denials:
            with contextlib.suppress(StorageUnavailableError):
                await handling.record(denied, actor=denied.actor)

    patch.setattr(Handling, "record_denials", tries)


def forgeries_are_only_set_aside(patch: Patch) -> None:
    class Unnoticed(DeadLetter):
        def __init__(self, **given: Any) -> None:
            super().__init__(**{**given, "is_forged": False})

    patch.setattr(ingest, "DeadLetter", Unnoticed)


@pytest.mark.parametrize(
    "bug",
    [None, only_what_is_allowed_is_recorded, what_cannot_be_recorded_is_ignored, forgeries_are_only_set_aside],
    ids=lambda bug: getattr(bug, "__name__", "as it is"),
)
async def test_somebody_tries_what_he_may_not_and_somebody_signs_for_another(
    seen: Seen, bug: Callable[[Patch], None] | None, monkeypatch: Patch
) -> None:
    if bug is not None:
        bug(monkeypatch)
    plane, log, told, tried = seen.plane, seen.plane.log, 0, 12
    assert isinstance(log, WeakLog)
    for number in range(tried):
        log.is_away = number in {3, 11}
        with contextlib.suppress(StorageUnavailableError):
            try:
                await plane.handling.check(VIEWER, "tasks.run", f"tasks/no{number}")
            except NotAllowedError:
                told += 1
    log.is_away = False
    await plane.handling.record_denials(plane.handling.denials.rest())
    forged = of_host("web1", a_result("t1", "web1", key=host_key("web2")))
    async with plane.serving(plane.results()), plane.session() as session:
        assert await session.publish(forged) == Confirmed()
        await plane.counted("results_dead")

    evidence = await seen.evidence(
        denied={VIEWER.username: (told, tried)}, forged=frozenset({sha256(forged.body).hexdigest()})
    )
    assert told >= tried - 2
    assert red(evidence) & {"I14"} == (set() if bug is None else {"I14"})
