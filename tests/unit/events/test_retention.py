"""The kept heartbeats of a host give the row that all of them give, wherever the log is cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import FoldError
from control_plane.events import registry
from control_plane.events.envelope import StoredEvent
from control_plane.events.hosts import HeartbeatReceived, HostRegistered
from control_plane.events.retention import KEPT_BOOTS, Kept
from control_plane.projections.hosts import HostsProjection
from tests.support.clock import START_US
from tests.support.events import EXAMPLES, HEARTBEAT, stored
from tests.support.folds import MemoryRows

START_S = START_US // 1_000_000

# (host, boot or none, sequence, the sender's clock against ours)
SENT = st.lists(
    st.tuples(
        st.sampled_from(["web1", "web2"]),
        st.one_of(st.none(), st.integers(1, 12)),
        st.integers(0, 6),
        st.sampled_from([-100_000, -50_000, -100, 0, 100, 50_000, 100_000]),
    ),
    max_size=60,
)


def a_log(sent: Sequence[tuple[str, int | None, int, int]]) -> list[StoredEvent]:
    events = []
    for seq, (hostname, boot, sequence, skew_s) in enumerate(sent, start=1):
        message = {**HEARTBEAT, "hostname": hostname, "timestamp": START_S + seq + skew_s, "boot_id": f"b{boot}"}
        message["sequence"] = sequence
        if boot is None:
            del message["boot_id"], message["sequence"]
        new = HeartbeatReceived(message=message).to_new_event()
        events.append(stored(new, seq=seq, recorded_us=START_US + seq * 1_000_000))
    return events


def rows_of(events: Sequence[StoredEvent]) -> list[dict[str, object]]:
    projection = HostsProjection()
    rows = MemoryRows()
    for event in events:
        heartbeat = registry.decode(event)
        assert heartbeat is not None
        rows.begin(projection.touched([event]))
        projection.apply(rows, event, heartbeat)  # type: ignore[arg-type] # all that a fold uses of Rows
    return sorted(rows.tables.get(projection.host, {}).values(), key=lambda row: str(row["hostname"]))


@given(sent=SENT, cut=st.integers(0, 60), again=st.integers(0, 60))
def test_kept_heartbeats_and_the_later_ones_give_the_rows_that_all_of_them_give(
    sent: list[tuple[str, int | None, int, int]], cut: int, again: int
) -> None:
    events = a_log(sent)
    first, second = sorted((cut, again))

    kept = Kept(Kept(events[:first]).events())
    for event in events[first:second]:
        kept.add(event)

    assert kept.events() == Kept(events[:second]).events(), "what was kept before is as good as all that was"
    assert rows_of([*kept.events(), *events[second:]]) == rows_of(events)


def test_a_host_keeps_one_heartbeat_for_each_boot_that_is_remembered() -> None:
    events = a_log([("web1", boot, sequence, 0) for boot in range(20) for sequence in range(1, 50)])

    kept = Kept(events).events()

    assert [event.seq for event in kept] == [49 * boot for boot in range(20 - KEPT_BOOTS + 1, 21)]


@pytest.mark.parametrize("body", [b"{}", b"nonsense"])
def test_a_heartbeat_that_cannot_be_read_is_not_taken_for_one_that_nothing_depends_on(body: bytes) -> None:
    [event] = a_log([("web1", 1, 1, 0)])
    broken = event._replace(body=body)

    with pytest.raises(FoldError) as refused:
        Kept([broken])
    assert refused.value.seq == 1


def test_another_kind_is_not_taken_for_one_that_nothing_depends_on() -> None:
    other = next(event for event in EXAMPLES if isinstance(event, HostRegistered))

    with pytest.raises(FoldError):
        Kept([stored(other.to_new_event())])
