import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane_wire import heartbeats, strict_json
from control_plane_wire.errors import MalformedMessageError
from control_plane_wire.messages import parse_heartbeat
from control_plane_wire.strict_json import Json, JsonObject

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
}
ODD: list[Json] = [
    *(None, True, "", "x", "web1", "WEB1", "a\0b", "é" * 200, "x" * 300, "x" * 5000),
    *(-1, 0, 1, 1.0, 0.5, 1.5, 10**12, 2**53, 1e300, 253_402_300_800),
    *([], [1], ["a"], ["A"], ["a\0"], [0.5] * 4, [True], [-1], ["x" * 65], {}, {"a": 1}),
]


@given(changes=st.dictionaries(st.sampled_from([*FULL, "more"]), st.sampled_from(ODD), max_size=3), left_out=st.data())
def test_a_glance_takes_and_refuses_what_a_closer_look_does_and_says_the_same(
    changes: JsonObject, left_out: st.DataObject
) -> None:
    names = left_out.draw(st.sets(st.sampled_from(list(FULL)), max_size=2))
    message = {name: value for name, value in (FULL | changes).items() if name not in names}

    try:
        wanted = parse_heartbeat(message).to_json()
    except MalformedMessageError:
        with pytest.raises(MalformedMessageError):
            heartbeats.said(message)
        return

    said = heartbeats.said(message)
    assert {name: said[name] for name in wanted} == wanted
    assert all(type(said[name]) is type(wanted[name]) for name in ("timestamp", "sequence") if name in wanted)


def test_what_an_agent_says_is_not_copied() -> None:
    message = strict_json.parse(strict_json.canonical(FULL), max_bytes=10_000)

    assert heartbeats.said(message) is message
