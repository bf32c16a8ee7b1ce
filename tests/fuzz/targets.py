"""One target for every decoder: it takes any bytes, and whatever it lets out is a fault.

What a decoder declares to raise is caught here, and nothing else; what it accepts has to come out alike when it is
written and read again. Nothing in here says how inputs are made: see `mutations.py`, and atheris where it is installed.
"""

import asyncio
import contextlib
import gzip
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import cbor2
import orjson
import rfc8785
from pydantic import ValidationError

from control_plane.api import (
    access,
    commands,
    enrolment,
    executions,
    groups,
    hosts,
    projections,
    rollouts,
    rules,
    sessions,
    targets,
    tasks,
)
from control_plane.api.fields import Request
from control_plane.api.frames import parse_topics
from control_plane.api.problems import ProblemError
from control_plane.argon2 import verifies
from control_plane.commands import authenticator_data
from control_plane.commands.access import TOKEN_PREFIX, token_id_of
from control_plane.commands.enrolment import check_nonce
from control_plane.commands.grammar import checked_line, checked_login
from control_plane.commands.previews import PreviewId
from control_plane.commands.rollouts import parse_rollout
from control_plane.commands.secrets import Vault
from control_plane.commands.targets import parse_target
from control_plane.errors import ArchiveDamagedError, RefusedError
from control_plane.events import archive, registry
from control_plane.events.envelope import StoredEvent
from control_plane.events.merkle import CompactRange
from control_plane.events.proofs import Proof
from control_plane.host_query import HostFacts, HostQueryError
from control_plane.host_query import parse as parse_query
from control_plane.projections.moments import micros_of
from control_plane.projections.positions import Positions
from control_plane.projections.queries.pages import cursor_of, parse_cursor
from control_plane.settings import Settings
from control_plane_agent import identity, slots
from control_plane_agent import settings as agent_settings
from control_plane_agent.checks import is_authentic
from control_plane_agent.errors import ConfigurationError as AgentConfigurationError
from control_plane_agent.memory_disk import MemoryDisk
from control_plane_agent.reserve import Reserve
from control_plane_wire import checkpoints, messages, strict_json
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.fields import is_account
from control_plane_wire.output import parse_output
from control_plane_wire.signing import (
    COMMAND,
    CONTROL_PLANE,
    HEARTBEAT,
    OUTPUT,
    RESULT,
    decode_base64,
    decode_public_key,
    decode_signature,
    encode_base64,
    verify,
)
from control_plane_wire.topology import (
    command_key,
    group_key,
    host_of_output_key,
    host_of_result_key,
    is_name,
    is_task_id,
    output_key,
    result_key,
)
from tests.fuzz.mutations import MAX_BYTES
from tests.support.agent import ROUTE, an_identity
from tests.support.fleet import CONTROL_PLANE_KEY, SECRETS_KEY, host_key

BODIES: Final[list[type[Request]]] = []
API: Final = (access, enrolment, executions, groups, hosts, projections, rollouts, rules, sessions, targets, tasks)
TARGETS: Final[dict[str, Callable[[bytes], None]]] = {}


def target(fuzzed: Callable[[bytes], None]) -> Callable[[bytes], None]:
    TARGETS[fuzzed.__name__] = fuzzed
    return fuzzed


def _text(data: bytes) -> str:
    """What a decoder of text is given: it never sees bytes that are no UTF-8, nor half a character."""
    return data.decode("utf-8", "replace")


# --- strict JSON


def _parsed(data: bytes) -> strict_json.JsonObject | None:
    try:
        return strict_json.parse(data, max_bytes=MAX_BYTES)
    except MalformedMessageError:
        return None


@target
def strict_json_parse(data: bytes) -> None:
    value = _parsed(data)
    if value is None:
        return
    written = strict_json.canonical(value)
    assert strict_json.parse(written, max_bytes=10 * MAX_BYTES) == value
    # Two parsers agree on all that is accepted, and two canonicalisers on how it is written.
    assert json.loads(data) == value == orjson.loads(data)
    assert rfc8785.dumps(value) == written


@target
def strict_json_stored(data: bytes) -> None:
    try:
        value = strict_json.parse_stored(data, max_bytes=MAX_BYTES)
    except MalformedMessageError:
        assert _parsed(data) is None
        return
    assert type(value) is dict
    if (strict := _parsed(data)) is not None:
        assert strict == value


@target
def canonicalise(data: bytes) -> None:
    """Of what some laxer parser has read: the canonical form of a value, or a refusal."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        written = strict_json.canonical(value)
    except MalformedMessageError:
        return
    assert strict_json.canonical(json.loads(written)) == written
    assert rfc8785.dumps(value) == written


# --- messages


def _message(data: bytes, parse: Callable[[Any], Any]) -> None:
    value = _parsed(data)
    if value is None:
        return
    try:
        message = parse(value)
    except MalformedMessageError:
        return
    assert parse(_parsed(strict_json.canonical(message.to_json()))) == message


@target
def command_message(data: bytes) -> None:
    _message(data, messages.parse_command)


@target
def result_message(data: bytes) -> None:
    _message(data, messages.parse_result)


@target
def heartbeat_message(data: bytes) -> None:
    _message(data, messages.parse_heartbeat)


@target
def output_message(data: bytes) -> None:
    _message(data, parse_output)
    if (value := _parsed(data)) is not None:
        try:
            piece = parse_output(value)
        except MalformedMessageError:
            return
        assert len(piece.raw) <= len(data)


@target
def signed_message(data: bytes) -> None:
    for tag in (COMMAND, RESULT, HEARTBEAT, OUTPUT):
        try:
            signed = messages.decode(data, max_bytes=MAX_BYTES, tag=tag)
            signed.verify(host_key("web1").public_key, tag, sender="web1", recipient=CONTROL_PLANE)
        except (MalformedMessageError, SignatureError):
            continue
        name = "sign" if tag == COMMAND else "signature"
        assert messages.seal(
            {key: value for key, value in signed.message.items() if key != name},
            host_key("web1"),
            tag,
            sender="web1",
            recipient=CONTROL_PLANE,
        ) == strict_json.canonical(signed.message)


@target
def journalled_command(data: bytes) -> None:
    assert is_authentic(data, ROUTE, an_identity()) in {True, False}


@target
def signature(data: bytes) -> None:
    """Any key, any signature, any body: it holds or SignatureError."""
    key, signed, body = data[:32], data[32:96], data[96:]
    for public_key in (key, CONTROL_PLANE_KEY.public_key):
        try:
            verify(public_key, signed, COMMAND, sender=CONTROL_PLANE, recipient=ROUTE, body=body)
        except SignatureError:
            continue
        try:
            decode_public_key(encode_base64(public_key))
        except SignatureError:
            continue  # of a key that is never registered
        assert CONTROL_PLANE_KEY.sign(COMMAND, sender=CONTROL_PLANE, recipient=ROUTE, body=body) == signed


@target
def base64_text(data: bytes) -> None:
    text = _text(data)
    for decode in (decode_base64, decode_signature, decode_public_key):
        try:
            assert encode_base64(decode(text)) == text
        except SignatureError:
            continue


# --- grammars


@target
def grammars(data: bytes) -> None:
    text = _text(data)
    for name_of in (command_key, group_key, result_key, output_key):
        try:
            assert name_of(text).endswith(text)
            assert is_name(text)
        except MalformedMessageError:
            assert not is_name(text)
    for host_of, key_of in ((host_of_result_key, result_key), (host_of_output_key, output_key)):
        try:
            assert key_of(host_of(text)) == text
        except MalformedMessageError:
            continue
    for check in (checked_login, lambda given: checked_line("reason", given)):
        try:
            assert check(text) == text
        except RefusedError:
            continue
        assert text.isprintable() or "\u00ad" in text or not text.isascii()
    if is_task_id(text) or is_account(text) or is_name(text):
        assert text.isascii()
        assert not {*text} & {*"/\\\0 \n%$`'\"*#"}
        assert text not in {"", ".", ".."}


@target
def tokens(data: bytes) -> None:
    text = _text(data)
    if (token_id := token_id_of(text, TOKEN_PREFIX)) is not None:
        assert text.startswith(f"{TOKEN_PREFIX}_{token_id}_")
    try:
        check_nonce(text, [CONTROL_PLANE_KEY.public_key], 0)
    except RefusedError:
        return
    assert text.partition(".")[0].isdigit()


# --- what a client writes into an address


@target
def host_query(data: bytes) -> None:
    """`?q=` of hosts: what it says is said alike in other letters and with other spaces, and a "-" is the opposite."""
    text = _text(data)
    try:
        query = parse_query(text)
    except HostQueryError:
        return
    words = text.split()
    if text.isascii() and not {*text} & {*map(chr, range(0x1C, 0x20))}:  # what only Python takes for spaces
        assert parse_query("\n".join(words).swapcase()) == query
    web1 = HostFacts(hostname="web1", state="online", groups=["web"], labels={"A": text}, os=text, agent_version=text)
    for term in query.terms:
        assert replace(term, negated=not term.negated).holds(web1) is not term.holds(web1)
    assert query.matches(web1) is all(term.holds(web1) for term in query.terms)


@target
def cursor(data: bytes) -> None:
    text = _text(data)
    for kind in (int, str):
        try:
            key = parse_cursor(text, kind)
        except RefusedError:
            continue
        assert cursor_of(key) == text


@target
def moment(data: bytes) -> None:
    """`?at=`, `from`, `to`, and Last-Event-ID."""
    text = _text(data)
    with contextlib.suppress(RefusedError):
        positions = Positions.parse(text)
        assert Positions.parse(str(positions)) == positions
    try:
        assert isinstance(micros_of(text), int)
    except (ValueError, OverflowError):
        return


@target
def preview_id(data: bytes) -> None:
    try:
        found = PreviewId.parse(_text(data))
    except RefusedError:
        return
    assert PreviewId.parse(str(found)) == found


@target
def topics(data: bytes) -> None:
    try:
        found = parse_topics(_text(data))
    except (RefusedError, ProblemError):
        return
    assert parse_topics(",".join(sorted(found))) == found


# --- what a client writes into a body


def _bodies() -> list[type[Request]]:
    """Every body that the API takes, in the order of their names."""
    if not BODIES:
        new, found = {Request}, set[type[Request]]()
        while new:
            found |= new
            new = {below for cls in new for below in cls.__subclasses__()} - found
        BODIES.extend(sorted(found - {Request}, key=lambda cls: cls.__name__))
    return BODIES


@target
def bodies(data: bytes) -> None:
    """The first byte chooses which one, so that one corpus is for all."""
    value = _parsed(data[1:])
    if not data or value is None:
        return
    model = _bodies()[data[0] % len(_bodies())]
    _body(model, value)


def _body(model: type[Request], value: strict_json.JsonObject) -> None:
    try:
        body = model.model_validate(value)
        if isinstance(body, commands.RunCommand):
            request = body.decided("t1", Vault(SECRETS_KEY))
            strict_json.canonical(request.to_json())
        elif hasattr(body, "decided"):
            body.decided()
    except (ValidationError, RefusedError, ProblemError, MalformedMessageError):
        return
    again = body.model_dump(mode="json", exclude_unset=True, by_alias=True)
    assert model.model_validate(again) == body


@target
def task_body(data: bytes) -> None:
    if (value := _parsed(data)) is not None:
        _body(commands.RunCommand, value)


@target
def rule_body(data: bytes) -> None:
    if (value := _parsed(data)) is not None:
        _body(rules.CreateRule, value)


@target
def enrolment_body(data: bytes) -> None:
    if (value := _parsed(data)) is not None:
        _body(enrolment.BeginEnrolment, value)
        _body(enrolment.FinishEnrolment, value)


@target
def target_and_rollout(data: bytes) -> None:
    value = _parsed(data)
    if value is None:
        return
    for parse in (parse_target, parse_rollout):
        try:
            found: Any = parse(value)
        except RefusedError:
            continue
        assert parse(found.to_json()) == found


# --- what is stored


@target
def event_body(data: bytes) -> None:
    """Any body as every kind of event."""
    for cls in registry.CLASSES:
        stored = StoredEvent(1, 1, cls.KIND, cls.VERSION, None, "web1", None, None, data, None, None)
        try:
            event = registry.decode(stored)
        except MalformedMessageError:
            continue
        assert event is not None
        try:
            written = event.body()
        except MalformedMessageError:
            continue  # a number beyond 2^53, which nobody could have recorded
        again = registry.decode(stored._replace(body=written))
        assert again is not None
        assert again.body() == written


@target
def sealed_secret(data: bytes) -> None:
    try:
        value = Vault(SECRETS_KEY).open("t1", {"A": _text(data)})["A"]
    except RefusedError:
        return
    assert Vault(SECRETS_KEY).seal("t1", {"A": value})["A"] == _text(data)


@target
def checkpoint_note(data: bytes) -> None:
    text = _text(data)
    try:
        found = checkpoints.parse(text)
    except MalformedMessageError:
        return
    assert text.startswith(found.text)
    try:
        checkpoints.verified(text, [CONTROL_PLANE_KEY.public_key])
    except (MalformedMessageError, SignatureError):
        return
    assert checkpoints.sign(found, CONTROL_PLANE_KEY).splitlines()[-1] in text


@target
def proof(data: bytes) -> None:
    text = _text(data)
    try:
        found = Proof.parse(text)
        assert Proof.parse(found.to_text()) == found
        found.check([CONTROL_PLANE_KEY.public_key])
    except (MalformedMessageError, SignatureError):
        return


@target
def tree(data: bytes) -> None:
    if len(data) < 2:
        return
    size = int.from_bytes(data[:2], "big")
    try:
        found = CompactRange.from_bytes(size, data[2:])
    except ValueError:
        return
    assert found.to_bytes() == data[2:]
    found.root()


@target
def archive_file(data: bytes) -> None:
    """As it is, and as what gzip has packed."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as directory:
        path = Path(directory, "archive")
        for raw in (data, gzip.compress(data, 1)):
            path.write_bytes(raw)
            try:
                archive.check(path)
            except ArchiveDamagedError:
                continue


# --- the agent's disk


@target
def slot(data: bytes) -> None:
    """As it is, and as a slot whose digest is right."""
    head = slots._MAGIC + len(data).to_bytes(4, "big") + data
    whole = (head + hashlib.sha256(head).digest()).ljust(slots.SLOT_BYTES, b"\0")
    for raw in (data, data.ljust(slots.STATE_BYTES, b"\0"), whole + whole, bytes(slots.SLOT_BYTES) + whole):
        state = slots.decode_state(raw)
        assert not state.is_new or not any(raw)


@target
def reserve(data: bytes) -> None:
    disk = MemoryDisk()
    disk.create("reserve", data.ljust(64 * 1024, b"\0")[: 64 * 1024])
    found = Reserve(disk)
    assert ("t1" in found) in {True, False}
    if found.add("t1", 1, forget_before_s=0):
        assert "t1" in Reserve(disk)


@target
def identity_file(data: bytes) -> None:
    with contextlib.suppress(MalformedMessageError, SignatureError, ValueError):
        identity.parse(data, host_key("web1"))


# --- settings


def _settings(data: bytes) -> Iterator[tuple[str, str]]:
    """Lines NAME=VALUE as an environment has them: no NUL."""
    for line in _text(data).replace("\0", "").splitlines()[:64]:
        name, _, value = line.partition("=")
        yield name.strip(), value


@target
def agent_environment(data: bytes) -> None:
    given = {f"{agent_settings.PREFIX}{name.upper()}": value for name, value in _settings(data)}
    try:
        agent_settings.load(given)
    except AgentConfigurationError:
        return


@target
def server_environment(data: bytes) -> None:
    given: Mapping[str, Any] = {name.lower(): value for name, value in _settings(data)}
    try:
        settings = Settings(_env_file=None, **given)  # type: ignore[call-arg]
    except (ValidationError, TypeError):
        return
    assert 0 <= settings.listen_port < 65_536
    assert settings.url
    for secret in ("database_url", "amqp_url", "broker_api_url"):
        value = getattr(settings, secret)
        assert value is None or len(value.get_secret_value()) < 4 or value.get_secret_value() not in repr(settings)


@target
def env_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz") as directory:
        path = Path(directory, ".env")
        path.write_bytes(_text(data).encode())
        try:
            Settings(_env_file=path)  # type: ignore[call-arg]
        except (ValidationError, ValueError):
            return


@target
def trusted_proxies(data: bytes) -> None:
    """What uvicorn makes of the setting, and of the header that a stranger sends."""
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    proxies, _, header = data.partition(b"\n")
    seen: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["client"])

    middleware = ProxyHeadersMiddleware(app, trusted_hosts=_text(proxies))
    scope: Any = {"type": "http", "client": ("192.0.2.1", 1), "headers": [(b"x-forwarded-for", header)]}
    asyncio.run(middleware(scope, None, None))  # type: ignore[arg-type]
    if _text(proxies).strip() == "127.0.0.1,::1":
        assert seen == [("192.0.2.1", 1)]


@target
def password_hash(data: bytes) -> None:
    """What somebody has written into the table of hashes; its cost is bounded by what a thread may take."""
    text = _text(data)
    if any(cost in text for cost in ("m=", "t=", "p=")) and len(text) > 255:
        return
    assert verifies("a password of no use", "$argon2id$" + text[:16]) in {True, False}


@target
def authenticator(data: bytes) -> None:
    """What a passkey's device sends: the general reader sees only what the strict one has read alike."""
    for check in (authenticator_data.check_registration, authenticator_data.check_assertion):
        with contextlib.suppress(ValueError):
            check(data)
    try:
        value = authenticator_data.parse(data)
    except ValueError:
        return
    assert cbor2.loads(data, allow_duplicate_keys=False) == value
