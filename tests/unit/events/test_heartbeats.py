"""A glance at a stored heartbeat takes nothing that a closer look would refuse, and says the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.events import heartbeats
from control_plane.events.envelope import StoredEvent
from control_plane.events.hosts import HeartbeatReceived
from control_plane.projections.hosts import HostsProjection
from control_plane_wire import strict_json
from control_plane_wire.errors import MalformedMessageError
from control_plane_wire.messages import parse_heartbeat
from control_plane_wire.strict_json import Json, JsonObject
from tests.support.events import EXAMPLES, stored

FULL: JsonObject = {
    "hostname": "web1.example.com",
    "status": "online",
    "timestamp": 1_700_000_000,
    "cpu_usage": 0.25,
    "memory_usage": 1,
    "agent_version": "1.0",
    "sequence": 17,
    "boot_id": "b1",
    "interval": 10,
    "groups": ["db", "web"],
    "running": 0,
    "load": [0.1, 0, 2.5],
    "disk_usage": 1e-7,
    "uptime": 86_400,
    "os": "Debian GNU/Linux 12 (bookworm)",
    "kernel": "6.1.0",
    "cpu_count": 4,
    "memory_bytes": 2**33,
    "addresses": ["10.0.0.1", "fe80::1"],
    "checkpoint": "o/event\n7\nAA==\n\n— o/event AA==\n",
    "journal_head": 12,
    "session": 5,
    "runs_as": "deploy",
    "limits_missing": ["memory", "pids"],
}
ODD: list[Json] = [
    *(None, True, "", "x", "web1", "WEB1", "a\0b", "é" * 200, "x" * 300, "x" * 5000),
    *(-1, 0, 1, 1.0, 0.5, 1.5, 10**12, 2**53 - 1, 1e300, 253_402_300_800),
    *([], [1], ["a"], ["A"], ["a\0"], [0.5] * 4, [True], [-1], ["x" * 65], {}, {"a": 1}),
]


def kept(message: JsonObject) -> StoredEvent:
    return stored(HeartbeatReceived(message={"hostname": "web1", **message}).to_new_event())


@given(changes=st.dictionaries(st.sampled_from([*FULL, "more"]), st.sampled_from(ODD), max_size=3), left_out=st.data())
def test_a_glance_says_what_a_closer_look_does_or_nothing(changes: JsonObject, left_out: st.DataObject) -> None:
    names = left_out.draw(st.sets(st.sampled_from(list(FULL)), max_size=2))
    message = {name: value for name, value in (FULL | changes).items() if name not in names}
    event = kept(FULL)._replace(body=strict_json.canonical(message))

    beat = heartbeats.glance(event)

    try:
        wanted = parse_heartbeat(message)
    except MalformedMessageError:
        assert beat is None
        with pytest.raises(MalformedMessageError):
            heartbeats.read(event)
        return
    read = heartbeats.read(event)
    assert read is not None
    for name in (*FULL, "interval_s"):
        assert list_of(getattr(read, name)) == list_of(getattr(wanted, name)), name
        assert type(getattr(read, name)) in {type(getattr(wanted, name)), list}, name


def list_of(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_what_agents_send_passes_at_a_glance() -> None:
    beat = heartbeats.glance(kept(FULL))

    assert beat is not None
    assert (beat.hostname, beat.memory_usage, type(beat.memory_usage)) == ("web1.example.com", 1.0, float)
    assert HostsProjection().glance(kept(FULL)) == beat


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"hostname":"web1"}',
        strict_json.canonical({**FULL, "os": "\u00e9" * 200}),
        strict_json.canonical({**FULL, "os": "x" * 257}),
        strict_json.canonical({**FULL, "os": "?"}).replace(b"?", b"\\ud800"),
        strict_json.canonical({**FULL, "kernel": "6\0"}),
        strict_json.canonical({**FULL, "groups": ["WEB"]}),
        strict_json.canonical(FULL).replace(b"0.25", b"1e400"),
        strict_json.canonical(FULL).replace(b"0.25", b"NaN"),
        strict_json.canonical(FULL).replace(b":17,", b":9007199254740992,"),
        strict_json.canonical(FULL).replace(b"0.25", b"true"),
        b"\xff",
    ],
)
def test_what_is_not_plainly_right_takes_a_closer_look(body: bytes) -> None:
    assert heartbeats.glance(kept(FULL)._replace(body=body)) is None


def test_no_other_event_is_a_heartbeat() -> None:
    for event in EXAMPLES:
        if not isinstance(event, HeartbeatReceived):
            assert heartbeats.read(stored(event.to_new_event())) is None
    assert heartbeats.glance(kept(FULL)._replace(schema_v=2)) is None
