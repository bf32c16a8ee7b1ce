import base64
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane_wire import messages, signing, strict_json
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.messages import (
    AcceptedMessage,
    CancelMessage,
    CommandMessage,
    ConfigureMessage,
    HeartbeatMessage,
    KeyState,
    ResultMessage,
    parse_command,
    parse_heartbeat,
    parse_result,
)
from control_plane_wire.signing import COMMAND, CONTROL_PLANE, RESULT, SigningKey

KEY = SigningKey.from_bytes(b"\x01" * 32)
DIGEST = "ab" * 32
COMMAND_JSON = {"task_id": "t-1_A", "command": "ls -l", "timeout": 30, "user": "root", "timestamp": 1_694_582_400}
RESULT_JSON = {"task_id": "t1", "exit_code": 0, "stdout": "hello", "stderr": "", "timestamp": 1_694_582_400}
HEARTBEAT_JSON = {
    "hostname": "web1.example.com",
    "status": "online",
    "timestamp": 1_694_582_400,
    "cpu_usage": 0.35,
    "memory_usage": 0.62,
}

MESSAGES = [
    (parse_command, CommandMessage(task_id="t1", command="ls", timeout=1, user="root", timestamp=1)),
    (
        parse_command,
        CommandMessage(
            task_id="t1",
            command="printf %s é",
            timeout=86_400,
            user="a.b@c-d",
            timestamp=1,
            as_of=7,
            expires_at=9,
            argv=("printf", "%s", "é", ""),
            env={"LANG": "C", "_x1": ""},
            cwd="/tmp",
            stdin="a\0b",
        ),
    ),
    (parse_command, CancelMessage(task_id="t1", timestamp=1)),
    (
        parse_command,
        ConfigureMessage(
            task_id="t1",
            timestamp=1,
            as_of=3,
            groups={"web": 1, "eu.web": 2},
            keys=(KeyState(public_key=KEY.public_key, state="active"),),
            checkpoint="tree",
        ),
    ),
    (parse_command, ConfigureMessage(task_id="t1", timestamp=1, as_of=3, groups={})),
    (parse_result, AcceptedMessage(task_id="t1", timestamp=1)),
    (parse_result, AcceptedMessage(task_id="t1", timestamp=1, started_at=2, command_sha256=DIGEST)),
    (parse_result, ResultMessage(task_id="t1", exit_code=143, stdout="a\0b", stderr="é", timestamp=1)),
    (
        parse_result,
        ResultMessage(
            task_id="t1",
            exit_code=None,
            stdout="/w==",
            stderr="",
            timestamp=1,
            outcome="interrupted",
            reason="power",
            started_at=1,
            finished_at=2,
            command_sha256=DIGEST,
            stdout_bytes=1,
            stderr_bytes=0,
            stdout_sha256=DIGEST,
            stderr_sha256=DIGEST,
            stdout_head_bytes=1,
            stderr_head_bytes=0,
            truncated=False,
            encoding="base64",
            leftovers=2,
        ),
    ),
    (parse_heartbeat, HeartbeatMessage(hostname="web1", status="offline", timestamp=1, cpu_usage=0, memory_usage=1)),
    (
        parse_heartbeat,
        HeartbeatMessage(
            hostname="web1",
            status="online",
            timestamp=1,
            cpu_usage=1e-7,
            memory_usage=0.1,
            agent_version="1",
            sequence=2,
            boot_id="b",
            interval=10,
            groups=("db", "web"),
            running=0,
            load=(0.0, 12.5, 1.0),
            disk_usage=1,
            uptime=5,
            os="Debian „12“",
            kernel="6.1",
            cpu_count=2,
            memory_bytes=2**40,
            addresses=("::1",),
            checkpoint="c",
            journal_head=1,
            session=1,
            runs_as="deploy",
            limits_missing=("pids",),
        ),
    ),
]


@pytest.mark.parametrize(("parse", "message"), MESSAGES, ids=lambda value: type(value).__name__)
def test_a_message_survives_its_way_over_the_wire(parse: Callable[[Any], object], message: Any) -> None:
    sealed = messages.seal(message.to_json(), KEY, COMMAND, sender=CONTROL_PLANE, recipient="cmd.all")

    signed = messages.decode(sealed, max_bytes=len(sealed), tag=COMMAND)
    signed.verify(KEY.public_key, COMMAND, sender=CONTROL_PLANE, recipient="cmd.all")

    assert parse(signed.message) == message


@pytest.mark.parametrize(("parse", "message"), MESSAGES, ids=lambda value: type(value).__name__)
def test_what_is_not_set_is_left_out_and_a_later_version_may_add(parse: Callable[[Any], object], message: Any) -> None:
    written = message.to_json()

    assert [name for name, value in written.items() if value is None] in ([], ["exit_code"])
    assert parse({**written, "field of a later version": {"a": [None]}}) == message


def test_a_basic_agent_is_sent_exactly_the_six_required_fields() -> None:
    full = CommandMessage(
        task_id="t", command="ls", timeout=1, user="root", timestamp=1, as_of=3, expires_at=9, argv=("ls",)
    )

    sealed = messages.seal(full.basic().to_json(), KEY, COMMAND, sender=CONTROL_PLANE, recipient="cmd.all")

    assert set(strict_json.parse(sealed, max_bytes=1000)) == {*COMMAND_JSON, "sign"}


@pytest.mark.parametrize(("expires_at", "last_start_s"), [(None, 1600), (1001, 1001), (0, 0)])
def test_a_command_without_an_expiry_has_ten_minutes(expires_at: int | None, last_start_s: int) -> None:
    command = CommandMessage(task_id="t", command="ls", timeout=1, user="root", timestamp=1000, expires_at=expires_at)

    assert command.last_start_s == last_start_s


@pytest.mark.parametrize(
    ("fields", "is_basic", "interval_s"),
    [
        ({}, True, 30),
        ({"interval": 5}, True, 5),
        ({"agent_version": "1"}, False, 10),
        ({"agent_version": ""}, False, 10),
    ],
)
def test_an_agent_that_does_not_tell_its_version_is_basic(fields: Any, is_basic: bool, interval_s: int) -> None:
    heartbeat = parse_heartbeat({**HEARTBEAT_JSON, **fields})

    assert (heartbeat.is_basic, heartbeat.interval_s) == (is_basic, interval_s)


def test_numbers_mean_the_same_as_integer_and_as_float() -> None:
    assert parse_command({**COMMAND_JSON, "timeout": 30.0}) == parse_command(COMMAND_JSON)
    assert parse_result({**RESULT_JSON, "timestamp": 1_694_582_400.9, "exit_code": 0.0}) == parse_result(RESULT_JSON)
    whole = {"cpu_usage": 1, "memory_usage": 0}
    assert parse_heartbeat({**HEARTBEAT_JSON, **whole}) == parse_heartbeat(
        {**HEARTBEAT_JSON, "cpu_usage": 1.0, "memory_usage": -0.0}
    )


def each(base: dict[str, Any], field: str, *wrong: Any) -> list[dict[str, Any]]:
    """The message once for each wrong value of that field."""
    return [{**base, field: value} for value in wrong]


def without_each(base: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: value for name, value in base.items() if name != left_out} for left_out in base]


CONFIGURE_JSON = {"kind": "configure", "task_id": "t", "timestamp": 1, "as_of": 1, "groups": {}}
OWN_KEY = {"public_key": signing.encode_base64(KEY.public_key), "state": "active"}
WRONG_COMMANDS = [
    *without_each(COMMAND_JSON),
    *each(COMMAND_JSON, "task_id", None, "", 1, True, "a" * 65, "a b", "ä", "a/b", "..", "a\n", "\0", []),
    *each(COMMAND_JSON, "command", None, "", 1, True, "a\0b", "é" * 65_536, ["ls"]),
    *each(COMMAND_JSON, "timeout", None, 0, -1, 86_401, "30", True, 1.5, 2**53),
    *each(COMMAND_JSON, "user", None, "", "0", "1000", "-x", "a b", "a:b", "x" * 65, "rööt", "a\n", "../a", 0),
    *each(COMMAND_JSON, "timestamp", None, "1", True, -1, 253_402_300_800, []),
    *each(COMMAND_JSON, "as_of", "1", True, -1, 1.5),
    *each(COMMAND_JSON, "argv", [], [""], ["a\0"], [1], "ls", {}, ["a"] * 1025, ["a" * 131_072]),
    *each(COMMAND_JSON, "env", [], {"": ""}, {"1": ""}, {"A=B": ""}, {"A": 1}, {"A": "\0"}, {"A" * 129: ""}, {"Ä": ""}),
    *each(COMMAND_JSON, "env", {"A": "x" * 32_769}),
    *each(COMMAND_JSON, "cwd", "", "\0", 1, "x" * 4097),
    *each(COMMAND_JSON, "stdin", 1, [], True),
    *each(COMMAND_JSON, "kind", None, "", "run", 1, [], "Cancel", "result", "cancel", "configure"),
    {**COMMAND_JSON, **CONFIGURE_JSON},
    {"kind": "cancel", "timestamp": 1},
    {"kind": "cancel", "task_id": "t"},
    *each(CONFIGURE_JSON, "as_of", None, "1", True, -1),
    *each(
        CONFIGURE_JSON, "groups", None, [], {"A": 1}, {"a": "1"}, {"a": True}, {"a": -1}, {"": 1}, {"#": 1}, {"*": 1}
    ),
    *each(CONFIGURE_JSON, "groups", {f"g{n}": 1 for n in range(257)}),
    *each(CONFIGURE_JSON, "keys", {}, [1], [{}], [{**OWN_KEY, "state": "new"}], [OWN_KEY] * 17),
    *each(CONFIGURE_JSON, "keys", [{**OWN_KEY, "public_key": "AA=="}], [{**OWN_KEY, "public_key": "A" * 43 + "="}]),
    *each(CONFIGURE_JSON, "checkpoint", 1, "x" * 4097),
]


@pytest.mark.parametrize("message", WRONG_COMMANDS, ids=lambda message: str(message)[-60:])
def test_a_command_with_a_wrong_field_is_malformed(message: Any) -> None:
    with pytest.raises(MalformedMessageError):
        parse_command(message)


WRONG_RESULTS = [
    *without_each(RESULT_JSON),
    *each(RESULT_JSON, "exit_code", None, True, "0", 1.5, 2**32, -(2**31) - 1),
    *each(RESULT_JSON, "stdout", None, 1, [], True),
    *each(RESULT_JSON, "stderr", None, 1, [], True),
    *each(RESULT_JSON, "outcome", "succeeded", "", 1, True, "Completed"),
    {**RESULT_JSON, "exit_code": None, "outcome": "completed"},
    *each(RESULT_JSON, "reason", 1, "\0", "x" * 1025),
    *each(RESULT_JSON, "command_sha256", "ab", "AB" * 32, DIGEST + "\n", 1),
    *each(RESULT_JSON, "stdout_sha256", "ab", 1),
    *each(RESULT_JSON, "stderr_bytes", -1, 1.5, "1"),
    *each(RESULT_JSON, "leftovers", -1, True),
    *each(RESULT_JSON, "truncated", 0, 1, "true"),
    *each(RESULT_JSON, "encoding", "utf8", "latin-1", 1, "base64"),
    *each({**RESULT_JSON, "encoding": "base64"}, "stdout", "QUJ=", "QQ", "Q Q=", "é"),
    *each({**RESULT_JSON, "encoding": "base64", "stdout": ""}, "stderr", "hello", "QUJ="),
    *each(RESULT_JSON, "kind", None, "", 1, "command"),
    {"kind": "accepted", "task_id": "t"},
    {"kind": "accepted", "task_id": "t", "timestamp": 1, "started_at": "1"},
]


@pytest.mark.parametrize("message", WRONG_RESULTS, ids=lambda message: str(message)[-60:])
def test_a_result_with_a_wrong_field_is_malformed(message: Any) -> None:
    with pytest.raises(MalformedMessageError):
        parse_result(message)


WRONG_HEARTBEATS = [
    *without_each(HEARTBEAT_JSON),
    *each(HEARTBEAT_JSON, "cpu_usage", None, True, "0.5", -0.01, 1.01, 35),
    *each(HEARTBEAT_JSON, "memory_usage", None, False, [], 1.01),
    *each(HEARTBEAT_JSON, "hostname", None, "", "Web1", "a..b", "-a", "a" * 201, "a_", "a/b", "a#", 1),
    *each(HEARTBEAT_JSON, "status", None, "", "up", "Online", True),
    *each(HEARTBEAT_JSON, "interval", 0, 3601, True, "10"),
    *each(HEARTBEAT_JSON, "groups", {}, ["A"], [1], "web", ["g"] * 257),
    *each(HEARTBEAT_JSON, "load", {}, [True], ["1"], [1, 2, 3, 4], [-1]),
    *each(HEARTBEAT_JSON, "os", 1, "\0", "x" * 257),
    *each(HEARTBEAT_JSON, "boot_id", 1, "x" * 257),
    *each(HEARTBEAT_JSON, "addresses", [1], ["x" * 65], ["a"] * 65),
]


@pytest.mark.parametrize("message", WRONG_HEARTBEATS, ids=lambda message: str(message)[-60:])
def test_a_heartbeat_with_a_wrong_field_is_malformed(message: Any) -> None:
    with pytest.raises(MalformedMessageError):
        parse_heartbeat(message)


KNOWN_FIELDS = sorted({name for _, message in MESSAGES for name in message.to_json()} | {"kind", "key_id"})
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(
    st.sampled_from([COMMAND_JSON, RESULT_JSON, HEARTBEAT_JSON]),
    st.dictionaries(st.sampled_from(KNOWN_FIELDS), values, max_size=3),
)
def test_whatever_is_in_the_fields_nothing_but_malformed_is_raised(base: Any, changes: Any) -> None:
    for parse in (parse_command, parse_result, parse_heartbeat):
        with contextlib.suppress(MalformedMessageError):
            parse({**base, **changes})


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"sign": 1}',
        b'{"sign": ""}',
        b'{"signature": "' + base64.b64encode(b"x" * 64) + b'"}',
        b'{"sign": "' + base64.b64encode(b"x" * 63) + b'"}',
        b'{"sign": "' + base64.urlsafe_b64encode(b"\xff" * 64) + b'"}',
    ],
)
def test_a_message_without_a_well_formed_signature_in_its_field_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        messages.decode(data, max_bytes=1000, tag=COMMAND)


@given(st.sampled_from(sorted(RESULT_JSON)), st.sampled_from([1, "1", True, 0, "", None, [], 1.5]))
def test_a_change_of_any_field_breaks_the_signature(name: str, value: Any) -> None:
    sealed = strict_json.parse(
        messages.seal(RESULT_JSON, KEY, RESULT, sender="web1", recipient=CONTROL_PLANE), max_bytes=1000
    )
    changed = strict_json.canonical({**sealed, name: value})
    signed = messages.decode(changed, max_bytes=1000, tag=RESULT)

    if signed.body == strict_json.canonical(RESULT_JSON):
        signed.verify(KEY.public_key, RESULT, sender="web1", recipient=CONTROL_PLANE)
    else:
        with pytest.raises(SignatureError):
            signed.verify(KEY.public_key, RESULT, sender="web1", recipient=CONTROL_PLANE)


def test_another_spelling_of_the_same_message_verifies() -> None:
    sealed = messages.seal(HEARTBEAT_JSON, KEY, "heartbeat", sender="web1", recipient=CONTROL_PLANE)
    loose = sealed.replace(b'":', b'" : ').replace(b"1694582400", b"1694582400.0").replace(b"o", b"\\u006f")

    signed = messages.decode(loose, max_bytes=1000, tag="heartbeat")

    signed.verify(KEY.public_key, "heartbeat", sender="web1", recipient=CONTROL_PLANE)


@pytest.mark.parametrize(
    ("hint", "kept"), [(KEY.key_id, KEY.key_id), ("x" * 16, None), ("ab", None), (1, None), (KEY.key_id + "\n", None)]
)
def test_a_key_id_is_kept_only_if_it_can_be_one(hint: Any, kept: str | None) -> None:
    sealed = messages.seal({**RESULT_JSON, "key_id": hint}, KEY, RESULT, sender="web1", recipient=CONTROL_PLANE)

    assert messages.decode(sealed, max_bytes=1000, tag=RESULT).key_id == kept
