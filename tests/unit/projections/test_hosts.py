from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.events import hosts
from control_plane.events.event import Event
from control_plane.events.presence import REMEMBERED_BOOTS
from control_plane.projections.hosts import HostsProjection, facts_of, last_of
from control_plane.projections.usage import BLOCK_US, entries
from control_plane_wire.messages import ALLOWED_SKEW_S
from control_plane_wire.strict_json import Json, JsonObject
from tests.support.clock import START_US
from tests.support.events import AT, EXAMPLES, HEARTBEAT, PUBLIC_KEY
from tests.support.fleet import a_registration, host_key
from tests.support.folds import Folded

WEB = "web1"
HEARTBEAT_COLUMNS = {
    "heartbeat_seq",
    "last_heartbeat_us",
    "interval_s",
    "boot_id",
    "sequence",
    "timestamp",
    "superseded",
    "status",
    "cpu_usage",
    "memory_usage",
    "groups_bound",
    "heartbeat",
    "usage_pos",
}


class FoldedHosts(Folded):
    def __init__(self) -> None:
        self.hosts = HostsProjection()
        super().__init__(self.hosts)

    @property
    def host(self) -> dict[str, Any]:
        return self.row(self.hosts.host, WEB)

    def usages(self) -> list[tuple[int, float, float]]:
        found = [usage for row in self.rows(self.hosts.usage) for usage in entries(row["data"])]
        return [(usage.recorded_us, usage.cpu_usage, usage.memory_usage) for usage in found]


@pytest.fixture
def folded() -> FoldedHosts:
    folded = FoldedHosts()
    folded.then(a_registration(WEB, "db", "web"))
    return folded


def a_heartbeat(boot_id: str | None = "b1", sequence: int | None = 1, **fields: Json) -> hosts.HeartbeatReceived:
    """Of an extended agent; with None for both, of a basic one."""
    given: JsonObject = {"hostname": WEB, "status": "online", "timestamp": AT, "cpu_usage": 0.25, "memory_usage": 0.5}
    given |= {"boot_id": boot_id, "sequence": sequence, **fields}
    return hosts.HeartbeatReceived(message={name: value for name, value in given.items() if value is not None})


def basic(timestamp: int, **fields: Json) -> hosts.HeartbeatReceived:
    return a_heartbeat(None, None, timestamp=timestamp, **fields)


def online(heartbeat_seq: int = 1) -> Event:
    return hosts.HostWentOnline(hostname=WEB, heartbeat_seq=heartbeat_seq, heartbeat=HEARTBEAT, cause="heartbeat")


def quarantined(key: str = WEB) -> hosts.HostQuarantined:
    found = {"reason": "its journal went back in time", "before": "200", "after": "100"}
    return hosts.HostQuarantined(hostname=WEB, heartbeat_seq=1, key_id=host_key(key).key_id, **found)


def stale(heartbeat_seq: int = 1) -> Event:
    return hosts.HostWentStale(hostname=WEB, heartbeat_seq=heartbeat_seq, heartbeat=HEARTBEAT, cause="20 s")


def offline(heartbeat_seq: int = 1) -> Event:
    return hosts.HostWentOffline(hostname=WEB, heartbeat_seq=heartbeat_seq, heartbeat=HEARTBEAT, cause="30 s")


# --- what the event log says


def test_a_registered_host_waits_for_its_first_heartbeat(folded: FoldedHosts) -> None:
    host = folded.host

    assert (host["state"], host["state_since_us"], host["pos"]) == ("pending", START_US, 1)
    assert (host["groups"], host["labels"], host["maintenance"]) == (["db", "web"], {}, 0)
    assert host["registered_us"] == START_US
    assert host["key_id"] == host_key(WEB).key_id
    assert (host["last_heartbeat_us"], host["usage_pos"]) == (None, 0)


def test_presence_is_what_the_log_says_last_with_its_cause_and_its_time(folded: FoldedHosts) -> None:
    seen = []
    for second, event in enumerate((online(), stale(), offline(), online()), start=1):
        seq = folded.then(event, at_s=second)
        assert (folded.host["state_since_us"], folded.host["pos"]) == (START_US + second * 1_000_000, seq)
        seen.append((folded.host["state"], folded.host["state_cause"]))

    assert seen == [("online", "heartbeat"), ("stale", "20 s"), ("offline", "30 s"), ("online", "heartbeat")]


@pytest.mark.parametrize(
    ("event", "column", "value"),
    [
        (hosts.HostGroupsChanged(hostname=WEB, based_on=1, groups=("app",)), "groups", ["app"]),
        (hosts.HostLabelsChanged(hostname=WEB, based_on=1, labels={"site": "Zürich"}), "labels", {"site": "Zürich"}),
        (hosts.HostMaintenanceChanged(hostname=WEB, based_on=1, maintenance=True), "maintenance", 1),
    ],
    ids=lambda value: value.KIND if isinstance(value, Event) else "",
)
def test_a_change_of_a_host_changes_its_own_column_and_no_other(
    folded: FoldedHosts, event: Event, column: str, value: object
) -> None:
    before = folded.host

    seq = folded.then(event, at_s=9)

    assert folded.host == {**before, column: value, "pos": seq}


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (hosts.HostRevoked(hostname=WEB, based_on=1, reason="stolen"), "revoked"),
        (hosts.HostRetired(hostname=WEB, based_on=1, reason="stolen"), "retired"),
    ],
)
def test_no_presence_is_shown_of_a_host_that_is_revoked_or_retired(folded: FoldedHosts, end: Event, state: str) -> None:
    folded.then(end, at_s=1)
    before = folded.host
    assert (before["state"], before["state_cause"], before["state_since_us"]) == (state, "stolen", START_US + 1_000_000)

    folded.then(online(), stale(), offline(), at_s=2)

    assert folded.host == before


def test_a_name_that_is_registered_again_begins_anew(folded: FoldedHosts) -> None:
    folded.then(hosts.HostLabelsChanged(hostname=WEB, based_on=1, labels={"site": "x"}))
    folded.then(hosts.HostMaintenanceChanged(hostname=WEB, based_on=2, maintenance=True))
    folded.then(hosts.HostRetired(hostname=WEB, based_on=3))

    seq = folded.then(a_registration(WEB, "app", generation=2), at_s=5)

    host = folded.host
    assert (host["state"], host["groups"], host["labels"], host["maintenance"]) == ("pending", ["app"], {}, 0)
    assert (host["registered_us"], host["pos"]) == (START_US + 5_000_000, seq)
    folded.then(online())
    assert folded.host["state"] == "online"


def test_an_event_about_a_host_that_was_never_registered_makes_no_row() -> None:
    folded = FoldedHosts()

    folded.then(online(), hosts.HostRetired(hostname=WEB, based_on=1))

    assert folded.rows(folded.hosts.host) == []


def test_events_of_other_nouns_change_no_row_of_hosts(folded: FoldedHosts) -> None:
    before = folded.host

    folded.then(*(event for event in EXAMPLES if not event.KIND.startswith(("host.", "heartbeat."))))

    assert folded.rows(folded.hosts.host) == [before]


# --- what the heartbeat log says


def test_a_heartbeat_fills_in_what_the_host_says_of_itself(folded: FoldedHosts) -> None:
    facts: JsonObject = {"agent_version": "1.0", "running": 2, "os": "Debian", "load": [0.5, 0.25, 0.125]}

    seq = folded.then(a_heartbeat(interval_s=10, groups=["web", "app"], **facts), at_s=3)

    host = folded.host
    assert (host["heartbeat_seq"], host["usage_pos"], host["last_heartbeat_us"]) == (seq, seq, START_US + 3_000_000)
    assert (host["boot_id"], host["sequence"], host["timestamp"], host["interval_s"]) == ("b1", 1, AT, 10)
    assert (host["status"], host["cpu_usage"], host["memory_usage"]) == ("online", 0.25, 0.5)
    assert host["groups_bound"] == ["app", "web"]
    assert facts_of(host["heartbeat"]) == {**facts, "boot_id": "b1"}
    assert folded.usages() == [(START_US + 3_000_000, 0.25, 0.5)]


def test_usages_are_kept_in_blocks_of_five_minutes_in_the_order_of_the_log(folded: FoldedHosts) -> None:
    to_next_s = (BLOCK_US - START_US % BLOCK_US) / 1_000_000

    for sequence, at_s in enumerate((0, 1, to_next_s, to_next_s + 1), start=1):
        folded.then(a_heartbeat(sequence=sequence), at_s=at_s)

    began_us = START_US - START_US % BLOCK_US
    rows = folded.rows(folded.hosts.usage)
    blocks = [(row["since_us"], [usage.seq for usage in entries(row["data"])]) for row in rows]
    assert blocks == [(began_us, [1, 2]), (began_us + BLOCK_US, [3, 4])]


def test_an_agent_that_says_no_groups_is_told_from_one_that_has_bound_none(folded: FoldedHosts) -> None:
    folded.then(a_heartbeat(sequence=1))
    assert folded.host["groups_bound"] is None

    folded.then(a_heartbeat(sequence=2, groups=[]))
    assert folded.host["groups_bound"] == []


def test_a_heartbeat_changes_the_heartbeat_columns_alone(folded: FoldedHosts) -> None:
    before = dict(folded.host)

    folded.then(a_heartbeat(groups=[]), at_s=1)

    changed = {name for name, value in folded.host.items() if value != before[name]}
    assert changed <= HEARTBEAT_COLUMNS
    assert {"usage_pos", "cpu_usage"} <= changed
    assert folded.host["state"] == "pending", "that it is online is for the event log to say"


def test_a_quarantine_is_beside_the_state_and_over_when_it_is_lifted_or_the_host_is_another() -> None:
    folded = FoldedHosts()
    folded.then(a_registration(WEB))
    folded.then(online(), at_s=1)
    folded.then(quarantined("other"), at_s=2)
    assert folded.host["quarantined_us"] is None, "the key is not the host's"

    folded.then(quarantined(), at_s=3)
    assert (folded.host["state"], folded.host["quarantined_us"]) == ("online", START_US + 3_000_000)
    folded.then(hosts.HostQuarantineLifted(hostname=WEB, based_on=1, reason="restored"), at_s=4)
    assert (folded.host["quarantined_us"], folded.host["quarantine_reason"]) == (None, None)
    assert folded.host["lifted_us"] == START_US + 4_000_000

    folded.then(replace(quarantined(), heartbeat_seq=2), a_registration(WEB, generation=2), at_s=5)
    assert (folded.host["quarantined_us"], folded.host["lifted_us"]) == (None, 0)


@pytest.mark.parametrize("event", [event for event in EXAMPLES if event.KIND.startswith("host.")], ids=lambda e: e.KIND)
def test_an_event_of_the_event_log_changes_no_heartbeat_column(folded: FoldedHosts, event: Event) -> None:
    folded.then(a_heartbeat(groups=["web"]), at_s=1)
    before = folded.host

    folded.then(replace(event, hostname=WEB), at_s=2)  # type: ignore[type-var] # each of them is a dataclass

    assert {name: folded.host[name] for name in HEARTBEAT_COLUMNS} == {name: before[name] for name in HEARTBEAT_COLUMNS}
    assert len(folded.usages()) == 1


def test_a_host_that_is_heard_before_it_is_registered_is_not_registered_by_that() -> None:
    folded = FoldedHosts()

    folded.then(a_heartbeat())
    assert (folded.host["state"], folded.host["pos"], folded.host["usage_pos"]) == ("", 0, 1)

    folded.then(a_registration(WEB))
    assert (folded.host["state"], folded.host["pos"], folded.host["usage_pos"]) == ("pending", 1, 1)


# --- which heartbeats count


def test_an_event_about_a_host_that_was_only_heard_changes_nothing() -> None:
    folded = FoldedHosts()
    folded.then(a_heartbeat())
    before = folded.host

    folded.then(online(), hosts.HostGroupsChanged(hostname=WEB, based_on=1, groups=("db",)))

    assert folded.host == before, "as where the heartbeat is folded after them"
    assert folded.rows(folded.hosts.history) == []


def test_a_copy_and_a_late_heartbeat_of_the_same_boot_do_not_count(folded: FoldedHosts) -> None:
    folded.then(a_heartbeat(sequence=7))
    before = folded.host

    folded.then(a_heartbeat(sequence=7), a_heartbeat(sequence=6, cpu_usage=1.0), at_s=5)

    assert folded.host == before
    assert len(folded.usages()) == 1


def test_a_sequence_that_grows_counts_whatever_the_hosts_clock_says(folded: FoldedHosts) -> None:
    folded.then(a_heartbeat(sequence=1))

    seq = folded.then(a_heartbeat(sequence=2, timestamp=AT - 86_400))

    assert (folded.host["usage_pos"], folded.host["timestamp"]) == (seq, AT - 86_400)


def test_after_a_new_boot_its_sequence_begins_again_and_the_old_boot_never_counts(folded: FoldedHosts) -> None:
    folded.then(a_heartbeat("b1", 90), a_heartbeat("b2", 1))
    assert (folded.host["boot_id"], folded.host["sequence"], folded.host["superseded"]) == ("b2", 1, ["b1"])
    before = folded.host

    folded.then(a_heartbeat("b1", 91))

    assert folded.host == before


def test_so_many_superseded_boots_are_remembered_and_no_more(folded: FoldedHosts) -> None:
    boots = [f"b{n}" for n in range(REMEMBERED_BOOTS + 3)]
    folded.then(*(a_heartbeat(boot) for boot in boots))

    assert folded.host["superseded"] == boots[2:-1]


def test_of_a_basic_agent_a_newer_timestamp_counts_or_one_that_is_near(folded: FoldedHosts) -> None:
    ahead = AT + ALLOWED_SKEW_S + 50
    behind = AT - ALLOWED_SKEW_S - 1
    for timestamp, counts in ((ahead, True), (ahead, False), (AT, True), (behind, False), (behind + 1, True)):
        before = folded.host["usage_pos"]
        seq = folded.then(basic(timestamp))
        assert folded.host["usage_pos"] == (seq if counts else before), timestamp - AT


def test_an_agent_may_become_an_extended_one(folded: FoldedHosts) -> None:
    folded.then(basic(AT))

    seq = folded.then(a_heartbeat("b1", 1, timestamp=AT - 500))

    assert (folded.host["usage_pos"], folded.host["boot_id"]) == (seq, "b1")


def test_the_last_heartbeat_that_counted_is_read_back_from_its_row(folded: FoldedHosts) -> None:
    assert last_of(folded.host) is None

    folded.then(a_heartbeat("b1", 3), a_heartbeat("b2", 4))

    last = last_of(folded.host)
    assert last is not None
    assert (last.boot_id, last.sequence, last.timestamp, last.superseded) == ("b2", 4, AT, ("b1",))


BEATS = st.builds(a_heartbeat, st.sampled_from(["b1", "b2", "b3"]), st.integers(1, 5)) | st.builds(
    basic, st.integers(AT - 200, AT + 200)
)
CHANGES = st.sampled_from([online(), stale(), offline(), hosts.HostRevoked(hostname=WEB, based_on=1)])


@given(st.lists(BEATS, max_size=12), st.lists(CHANGES, max_size=6), st.randoms(use_true_random=False))
def test_how_the_two_logs_interleave_does_not_matter(beats: list[Event], changes: list[Event], random: Any) -> None:
    mixed, apart = FoldedHosts(), FoldedHosts()
    events: list[Event] = [a_registration(WEB), *changes]
    apart.then(*events, *beats)

    beats, events = list(beats), list(events)
    while beats or events:
        mixed.then((beats if not events or (beats and random.random() < 0.5) else events).pop(0))

    assert mixed.host == apart.host
    assert mixed.usages() == apart.usages()


@given(st.lists(BEATS, min_size=1, max_size=15))
def test_only_a_heartbeat_that_counts_moves_the_usages_and_their_position(beats: list[Event]) -> None:
    folded = FoldedHosts()
    usage_pos = 0
    for number, beat in enumerate(beats):
        seq = folded.then(beat, at_s=number)
        has_counted = folded.host["usage_pos"] == seq
        assert has_counted or folded.host["usage_pos"] == usage_pos
        assert folded.host["heartbeat_seq"] == folded.host["usage_pos"]
        assert folded.host["pos"] == 0
        assert any(at == START_US + number * 1_000_000 for at, _, _ in folded.usages()) == has_counted
        usage_pos = folded.host["usage_pos"]


def test_a_host_is_shown_with_the_key_that_has_come_into_use(folded: FoldedHosts) -> None:
    key_id = host_key("new").key_id
    folded.then(hosts.HostKeyRotated(hostname=WEB, based_on=1, public_key=PUBLIC_KEY, nonce_ends=AT))
    assert folded.host["key_id"] == host_key(WEB).key_id

    folded.then(hosts.HostKeySwitched(hostname=WEB, rotated_seq=2, key_id=key_id))

    assert folded.host["key_id"] == key_id
