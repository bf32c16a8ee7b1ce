"""What is held against a host is held against the machine with its key, whichever that is by then."""

from control_plane.events.continuity import Doubt
from control_plane.events.hosts import HostKeySwitched
from control_plane.processes.quarantine import Doubts
from tests.support.clock import START_US
from tests.support.events import stored
from tests.support.fleet import a_registration, host_key


def a_doubt(key: str) -> Doubt:
    return Doubt(
        heartbeat_seq=1, key_id=host_key(key).key_id, since_us=START_US, reason="two machines", before="b", after="a"
    )


def test_a_host_with_a_new_key_is_doubted_by_what_that_one_has_signed() -> None:
    doubts, registered = Doubts([]), a_registration("web1")
    switched = HostKeySwitched(hostname="web1", rotated_seq=2, key_id=host_key("web1-new").key_id)
    doubts.said(stored(registered.to_new_event()), registered)
    doubts.said(stored(switched.to_new_event()), switched)

    doubts.found("web1", a_doubt("web1"))
    assert doubts.due() == []
    doubts.found("web1", a_doubt("web1-new"))
    assert [event.key_id for event in doubts.due()] == [host_key("web1-new").key_id]
