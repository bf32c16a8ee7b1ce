"""Which heartbeats count, where an agent was basic for a while."""

from dataclasses import replace

from control_plane.events.presence import counted
from control_plane_wire.messages import HeartbeatMessage

FULL = HeartbeatMessage(
    hostname="web1",
    status="online",
    timestamp=1000,
    cpu_usage=0,
    memory_usage=0,
    agent_version="1",
    boot_id="b2",
    sequence=7,
)
BASIC = HeartbeatMessage(hostname="web1", status="online", timestamp=1100, cpu_usage=0, memory_usage=0)
NOW_US = 1_100_000_000


def test_a_basic_heartbeat_in_between_does_not_make_old_copies_count() -> None:
    last = counted(None, replace(FULL, boot_id="b1"), NOW_US)
    last = counted(last, FULL, NOW_US)
    last = counted(last, BASIC, NOW_US)

    assert last is not None
    assert counted(last, replace(FULL, boot_id="b1", sequence=99), NOW_US) is None
    assert counted(last, FULL, NOW_US) is None
    assert counted(last, replace(FULL, sequence=8), NOW_US) is not None
