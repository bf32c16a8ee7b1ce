"""Who is there, by the control plane's clock and by nothing that a host says of its own."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.commands.authority import Keyring
from control_plane.events import hosts, registry
from control_plane.events.continuity import Doubt, Trace
from control_plane.events.envelope import StoredEvent
from control_plane.events.event import Event
from control_plane.events.presence import LastHeartbeat
from control_plane.processes.presence import KINDS, STATES, Fleet, Heard, Hearing, Presence
from control_plane.projections.queries.hosts import HeardHost
from control_plane_wire.strict_json import JsonObject
from tests.support.clock import START_US, ManualClock
from tests.support.events import stored
from tests.support.fleet import CONTROL_PLANE_KEY, a_registration, host_key
from tests.support.memory_log import MemoryLog

HOST = "web1"
KEYRING = Keyring(CONTROL_PLANE_KEY)
LONG_AGO = -math.inf  # everything has been heard for ages


def a_beat(sequence: int = 1, *, clock: ManualClock, **changes: Any) -> hosts.HeartbeatReceived:
    message: JsonObject = {
        "hostname": HOST,
        "status": "online",
        "timestamp": clock.now_s(),
        "cpu_usage": 0.1,
        "memory_usage": 0.2,
        "agent_version": "1.0",
        "boot_id": "b1",
        "sequence": sequence,
        "interval": 10,
        **changes,
    }
    return hosts.HeartbeatReceived(message={name: value for name, value in message.items() if value is not None})


def a_basic_beat(*, clock: ManualClock, **changes: Any) -> hosts.HeartbeatReceived:
    return a_beat(clock=clock, agent_version=None, boot_id=None, sequence=None, interval=None, **changes)  # type: ignore[arg-type]


class Watch:
    """The process's decisions over a log in memory, with a clock that stands still."""

    def __init__(self, heard: Sequence[HeardHost] = ()) -> None:
        self.clock = ManualClock()
        self.heartbeats: list[StoredEvent] = []
        self.said: list[Event] = []
        self.fleet = Fleet(list(heard), self.clock.monotonic_s())
        self.log = MemoryLog(clock=self.clock)
        unused: Any = None
        self.counts: Counter[str] = Counter()
        self.process = Presence(
            self.log, unused, unused, self.clock, keyring=KEYRING, heard_under=unused, count=self.count
        )

    def count(self, what: str, number: float) -> None:
        self.counts[what] += int(number)

    def registered(self, hostname: str = HOST, generation: int = 1) -> "Watch":
        self.event(a_registration(hostname, generation=generation))
        return self

    def event(self, event: Event) -> None:
        self.fleet.said(stored(event.to_new_event()), self.clock.monotonic_s())

    def beat(self, *events: hosts.HeartbeatReceived) -> list[Event]:
        """Heartbeats as ingest records them now; what is news of them."""
        at_us = self.clock.now_us()
        first = len(self.log.rows) + 1
        rows = [stored(e.to_new_event(), seq=seq, recorded_us=at_us) for seq, e in enumerate(events, start=first)]
        self.log.rows += rows
        news = self.process._news(self.fleet, rows)
        self.said += news
        return news

    async def look(self, *, hearing_since_s: float | None = LONG_AGO) -> list[Event]:
        """What the silence means by now."""
        before = len(self.log.rows)
        await self.process._judge(self.fleet, self.clock.monotonic_s(), hearing_since_s)
        return [_decoded(row) for row in self.log.rows[before:]]

    async def follow_up(self) -> list[Event]:
        """Who is said to have come anew by now."""
        before = len(self.log.rows)
        await self.process._follow_up(self.fleet, self.clock.monotonic_s())
        return [_decoded(row) for row in self.log.rows[before:]]

    def counted(self) -> dict[str, Heard]:
        """What is known by the heartbeats that counted."""
        return {name: replace(heard, trace=Trace()) for name, heard in self.fleet.hosts.items()}

    @property
    def state(self) -> str:
        return self.fleet.hosts[HOST].state


def _decoded(row: StoredEvent) -> Event:
    event = registry.decode(row)
    assert event is not None
    return event


def online() -> Watch:
    watch = Watch().registered()
    watch.beat(a_beat(clock=watch.clock))
    assert watch.state == "online"
    return watch


def states(events: Sequence[Event]) -> list[str]:
    return [STATES[event.KIND] for event in events]


# --- coming ----------------------------------------------------------------------------------------------------------


def test_a_registered_host_is_pending_until_it_is_heard() -> None:
    watch = Watch().registered()
    assert watch.state == "pending"

    beat = a_beat(clock=watch.clock)
    [event] = watch.beat(beat)

    assert event == hosts.HostWentOnline(
        hostname=HOST, heartbeat_seq=1, heartbeat=beat.message, cause="a heartbeat came"
    )
    assert watch.state == "online"


async def test_a_host_that_was_never_heard_does_not_go_anywhere() -> None:
    watch = Watch().registered()
    watch.clock.advance(1_000_000)

    assert await watch.look() == []
    assert watch.state == "pending"


def test_a_host_that_is_online_is_no_news() -> None:
    watch = online()
    watch.clock.advance(10)

    assert watch.beat(a_beat(2, clock=watch.clock)) == []


def test_a_heartbeat_of_a_host_that_nobody_registered_is_no_news() -> None:
    watch = Watch()

    assert watch.beat(a_beat(clock=watch.clock)) == []
    assert watch.fleet.hosts == {}


@pytest.mark.parametrize("event", [hosts.HostRevoked, hosts.HostRetired])
async def test_a_revoked_or_retired_host_is_not_heard_and_not_missed(event: type[hosts.HostRevoked]) -> None:
    watch = online()
    watch.event(event(hostname=HOST, based_on=1))

    assert watch.beat(a_beat(2, clock=watch.clock)) == []
    watch.clock.advance(1000)
    assert await watch.look() == []


async def test_a_name_that_is_registered_again_begins_anew() -> None:
    watch = online()
    watch.event(hosts.HostRetired(hostname=HOST, based_on=1))
    watch.registered(generation=2)

    watch.clock.advance(1000)
    assert (watch.state, await watch.look()) == ("pending", [])
    assert states(watch.beat(a_beat(2, clock=watch.clock))) == ["online"]


# --- going -----------------------------------------------------------------------------------------------------------


async def test_silence_for_two_intervals_is_stale_and_for_three_offline_to_the_microsecond() -> None:
    watch = online()

    watch.clock.advance(20 - 1e-6)
    assert await watch.look() == []
    watch.clock.advance(1e-6)
    assert states(await watch.look()) == ["stale"]
    assert await watch.look() == []
    watch.clock.advance(10 - 1e-6)
    assert await watch.look() == []
    watch.clock.advance(1e-6)
    assert states(await watch.look()) == ["offline"]
    watch.clock.advance(1000)
    assert await watch.look() == []


async def test_the_time_in_which_the_broker_may_hold_everybody_up_is_nobodys_silence() -> None:
    watch = online()
    watch.process._untaken_s = lambda: 2.5
    watch.clock.advance(20 + 2.5 - 1e-6)
    assert await watch.look() == []

    watch.clock.advance(1e-6)

    assert states(await watch.look()) == ["stale"]


async def test_a_long_silence_is_offline_at_once() -> None:
    watch = online()
    watch.clock.advance(500)

    assert states(await watch.look()) == ["offline"]


async def test_what_is_said_of_silence_carries_the_last_heartbeat_that_counted() -> None:
    watch = online()
    watch.clock.advance(10)
    last = a_beat(2, clock=watch.clock, cpu_usage=0.75)
    watch.beat(last)
    watch.beat(a_beat(1, clock=watch.clock, cpu_usage=0.25))  # a late one, which does not count

    watch.clock.advance(20)
    [stale] = await watch.look()
    watch.clock.advance(10)
    [offline] = await watch.look()

    known: dict[str, Any] = {"hostname": HOST, "heartbeat_seq": 2, "heartbeat": last.message}
    assert stale == hosts.HostWentStale(**known, cause="no heartbeat for 2 intervals of 10 s")
    assert offline == hosts.HostWentOffline(**known, cause="no heartbeat for 3 intervals of 10 s")


async def test_each_host_is_missed_by_its_own_interval_and_a_basic_one_by_thirty_seconds() -> None:
    watch = online()
    for name in ("slow", "basic"):
        watch.registered(name)
    watch.beat(
        a_beat(clock=watch.clock, hostname="slow", interval=60), a_basic_beat(clock=watch.clock, hostname="basic")
    )

    found = {}
    for seconds in range(0, 200, 5):
        for event in await watch.look():
            found[event.hostname, STATES[event.KIND]] = seconds  # type: ignore[attr-defined]
        watch.clock.advance(5)

    assert found == {
        (HOST, "stale"): 20,
        (HOST, "offline"): 30,
        ("basic", "stale"): 60,
        ("basic", "offline"): 90,
        ("slow", "stale"): 120,
        ("slow", "offline"): 180,
    }


def test_an_orderly_stop_is_believed_at_once() -> None:
    watch = online()
    last_word = a_beat(2, clock=watch.clock, status="offline")

    [event] = watch.beat(last_word)

    assert event == hosts.HostWentOffline(
        hostname=HOST, heartbeat_seq=2, heartbeat=last_word.message, cause="the agent was stopped"
    )
    assert watch.beat(a_beat(3, clock=watch.clock, status="offline")) == []


@pytest.mark.parametrize("state", ["stale", "offline"])
async def test_a_host_that_is_heard_again_is_online_again(state: str) -> None:
    watch = online()
    watch.clock.advance(20 if state == "stale" else 30)
    assert states(await watch.look()) == [state]

    assert states(watch.beat(a_beat(2, clock=watch.clock))) == ["online"]
    assert await watch.look() == []


def test_what_dispatch_or_another_replica_said_counts() -> None:
    watch = online()
    watch.event(hosts.HostWentOffline(hostname=HOST, heartbeat_seq=1, heartbeat={}, cause="a command came back"))

    assert states(watch.beat(a_beat(2, clock=watch.clock))) == ["online"]


# --- which heartbeats count ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", [5, 4, 1])
async def test_a_copy_or_an_older_heartbeat_keeps_nobody_alive(sequence: int) -> None:
    watch = Watch().registered()
    watch.beat(a_beat(5, clock=watch.clock))
    watch.clock.advance(25)

    assert watch.beat(a_beat(sequence, clock=watch.clock)) == []
    assert states(await watch.look()) == ["stale"]


async def test_a_copy_brings_no_host_back() -> None:
    watch = online()
    watch.clock.advance(30)
    await watch.look()

    assert watch.beat(a_beat(1, clock=watch.clock)) == []
    assert watch.state == "offline"


def test_a_restart_of_the_host_is_news_though_it_seemed_online() -> None:
    watch = online()

    assert states(watch.beat(a_beat(1, clock=watch.clock, boot_id="b2"))) == ["online"]
    assert watch.beat(a_beat(2, clock=watch.clock, boot_id="b2")) == []


def test_an_agent_that_connects_anew_between_two_heartbeats_is_there_anew() -> None:
    """Its queue is a new one: what was in the one before has to be sent once more."""
    watch = Watch().registered()
    watch.beat(a_beat(1, clock=watch.clock, session=10))
    assert watch.beat(a_beat(2, clock=watch.clock, session=10)) == []

    anew = a_beat(4, clock=watch.clock, session=11)
    [event] = watch.beat(anew)

    assert event == hosts.HostWentOnline(
        hostname=HOST, heartbeat_seq=3, heartbeat=anew.message, cause="the agent connected anew"
    )
    assert watch.beat(a_beat(3, clock=watch.clock, session=10), a_beat(5, clock=watch.clock, session=11)) == []


@pytest.mark.parametrize("changed", ["session", "boot_id"])
async def test_a_host_comes_anew_once_an_interval_however_often_it_says_so(changed: str) -> None:
    watch = Watch().registered()
    watch.beat(a_beat(1, clock=watch.clock, session=10))

    def anew(number: int) -> list[Event]:
        change = {"session": 10 + number} if changed == "session" else {"boot_id": f"b{number}", "session": 10}
        return watch.beat(a_beat(1 + number, clock=watch.clock, **change))

    assert [len(anew(number)) for number in range(2, 100)] == [1] + [0] * 97
    watch.clock.advance(10 - 1e-6)
    assert await watch.follow_up() == anew(100) == []
    watch.clock.advance(1e-6)

    [event] = await watch.follow_up()
    assert isinstance(event, hosts.HostWentOnline)
    assert event.heartbeat_seq == 100, "the last one"
    assert await watch.follow_up() == []
    watch.clock.advance(10)
    assert await watch.follow_up() == []
    assert len(anew(101)) == 1


async def test_a_host_that_goes_or_comes_back_owes_nothing() -> None:
    watch = Watch().registered()
    for number in range(3):
        watch.beat(a_beat(1 + number, clock=watch.clock, session=number))
    watch.clock.advance(30)
    assert states(await watch.look()) == ["offline"]
    assert await watch.follow_up() == []

    assert states(watch.beat(a_beat(4, clock=watch.clock, session=3))) == ["online"]
    assert watch.beat(a_beat(5, clock=watch.clock, session=3)) == await watch.follow_up() == []


def test_an_agent_that_does_not_say_its_session_is_there_as_long_as_it_is_heard() -> None:
    watch = online()

    assert watch.beat(a_beat(2, clock=watch.clock), a_beat(3, clock=watch.clock, session=10)) == []
    assert watch.beat(a_beat(4, clock=watch.clock), a_beat(5, clock=watch.clock, session=10)) == []
    assert states(watch.beat(a_beat(6, clock=watch.clock, session=11))) == ["online"]


def test_a_session_is_one_of_its_boot() -> None:
    watch = Watch().registered()
    watch.beat(a_beat(9, clock=watch.clock, session=9))
    watch.beat(a_beat(2, clock=watch.clock, boot_id="b2", session=2))

    watch.clock.advance(10)
    assert watch.beat(a_beat(3, clock=watch.clock, boot_id="b2", session=2)) == []
    assert states(watch.beat(a_beat(5, clock=watch.clock, boot_id="b2", session=4))) == ["online"]


async def test_a_superseded_boot_never_returns() -> None:
    watch = online()
    watch.beat(a_beat(1, clock=watch.clock, boot_id="b2"))
    watch.clock.advance(25)

    assert watch.beat(a_beat(99, clock=watch.clock, boot_id="b1")) == []
    assert states(await watch.look()) == ["stale"]


async def test_the_hosts_own_clock_makes_it_neither_older_nor_newer() -> None:
    watch = Watch().registered()
    watch.beat(a_beat(1, clock=watch.clock, timestamp=1))
    watch.clock.advance(19)
    assert await watch.look() == []

    watch.beat(a_beat(2, clock=watch.clock, timestamp=2**37))
    watch.clock.advance(20)
    assert states(await watch.look()) == ["stale"]


async def test_a_basic_agents_old_heartbeats_do_not_count() -> None:
    watch = Watch().registered()
    watch.beat(a_basic_beat(clock=watch.clock))
    watch.clock.advance(60)
    old = watch.clock.now_s() - 121

    assert watch.beat(a_basic_beat(clock=watch.clock, timestamp=old)) == []
    assert states(await watch.look()) == ["stale"]


def test_a_basic_agent_whose_clock_was_set_back_a_little_counts() -> None:
    watch = Watch().registered()
    watch.beat(a_basic_beat(clock=watch.clock))
    watch.clock.advance(30)

    watch.beat(a_basic_beat(clock=watch.clock, timestamp=watch.clock.now_s() - 120))

    assert watch.fleet.hosts[HOST].heard_s == watch.clock.monotonic_s()


# --- nobody is judged who could not be heard -------------------------------------------------------------------------


async def test_nobody_is_missed_within_three_intervals_of_beginning_to_listen() -> None:
    watch = online()
    watch.clock.advance(1000)
    since_s = watch.clock.monotonic_s()

    watch.clock.advance(30 - 1e-6)
    assert await watch.look(hearing_since_s=since_s) == []
    watch.clock.advance(1e-6)
    assert states(await watch.look(hearing_since_s=since_s)) == ["offline"]


async def test_nobody_is_missed_while_nothing_is_heard() -> None:
    watch = online()
    watch.clock.advance(1000)

    assert await watch.look(hearing_since_s=None) == []
    assert watch.state == "online"


def test_heartbeats_are_heard_since_the_last_change_of_who_takes_them_in() -> None:
    hearing = Hearing(7, 100.0)

    assert hearing.look(7, 150.0) == 100.0
    assert hearing.look(None, 160.0) is None
    assert hearing.look(None, 170.0) is None
    assert hearing.look(7, 180.0) == 180.0, "an alarm of the broker is over"
    assert hearing.look(8, 190.0) == 190.0
    assert hearing.look(8, 200.0) == 190.0


@pytest.mark.parametrize("seconds", [3600, -3600], ids=["back", "forward"])
async def test_a_step_of_the_wall_clock_makes_nobody_silent_and_keeps_nobody_alive(seconds: float) -> None:
    watch = online()
    watch.clock.set_back(seconds)
    assert await watch.look() == []

    watch.clock.advance(10)
    assert watch.beat(a_beat(2, clock=watch.clock)) == []
    watch.clock.set_back(seconds)
    watch.clock.advance(20)
    assert states(await watch.look()) == ["stale"]
    watch.clock.advance(10)
    assert states(await watch.look()) == ["offline"]


# --- taking over -----------------------------------------------------------------------------------------------------


def test_it_goes_on_from_what_was_said_and_heard_last() -> None:
    last = LastHeartbeat(boot_id="b1", sequence=7, timestamp=1, superseded=("b0",))
    heard = HeardHost(
        hostname=HOST, state="online", heartbeat_seq=3, last_heartbeat_us=START_US, interval_s=10, last=last
    )
    watch = Watch([heard])

    assert watch.beat(a_beat(7, clock=watch.clock)) == []
    assert watch.beat(a_beat(1, clock=watch.clock, boot_id="b0")) == []
    assert watch.beat(a_beat(8, clock=watch.clock)) == []
    assert watch.fleet.silent(20.0, LONG_AGO) == [(watch.fleet.hosts[HOST], "stale")]


def test_whoever_takes_over_knows_the_last_session() -> None:
    last = LastHeartbeat(boot_id="b1", sequence=7, timestamp=1)
    heard = HeardHost(
        hostname=HOST, state="online", heartbeat_seq=3, last_heartbeat_us=START_US, interval_s=10, last=last, session=6
    )

    assert Watch([heard]).beat(a_beat(8, clock=ManualClock(), session=6)) == []
    assert states(Watch([heard]).beat(a_beat(9, clock=ManualClock(), session=8))) == ["online"]


def test_what_was_heard_before_it_began_counts_as_heard_then() -> None:
    heard = HeardHost(
        hostname=HOST, state="online", heartbeat_seq=3, last_heartbeat_us=START_US, interval_s=10, last=None
    )
    fleet = Fleet([heard], 5000.0)

    assert fleet.silent(5029.9, LONG_AGO) == [(fleet.hosts[HOST], "stale")]
    assert fleet.silent(5030.0, LONG_AGO) == [(fleet.hosts[HOST], "offline")]
    assert fleet.silent(5030.0, 5000.1) == []


def test_it_listens_to_every_event_that_changes_who_is_there() -> None:
    assert STATES.keys() == KINDS


beats = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.integers(0, 40)), max_size=20)


@given(beats)
def test_heartbeats_read_again_after_a_takeover_change_nothing(spoken: list[tuple[str, int, int]]) -> None:
    watch = Watch().registered()
    for boot_id, sequence, seconds in spoken:
        watch.clock.advance(seconds)
        watch.beat(a_beat(sequence, clock=watch.clock, boot_id=boot_id))
    before = watch.counted()

    assert watch.process._news(watch.fleet, list(watch.log.rows)) == []
    assert watch.counted() == before
    assert watch.fleet.doubts.due() == []


def test_a_row_that_nobody_can_read_stops_nobody_else() -> None:
    watch = Watch().registered()
    broken = stored(a_beat(clock=watch.clock).to_new_event(), seq=1)._replace(body=b'{"hostname":"web1"}')
    sound = stored(a_beat(clock=watch.clock).to_new_event(), seq=2)

    assert states(watch.process._news(watch.fleet, [broken, sound])) == ["online"]


def signed(event: Event, seq: int = 1) -> StoredEvent:
    new = event.to_new_event(signature=KEYRING.sign_event(event), key_id=KEYRING.active.key_id)
    return stored(new, seq=seq, recorded_us=START_US + seq)


def test_an_event_that_is_none_stops_nobody_else() -> None:
    watch = Watch()
    registration = signed(a_registration("web1"))
    no_json = registration._replace(body=b"{")
    no_key = signed(replace(a_registration("web1"), public_key="!"))

    for row in (no_json, no_key, signed(a_registration("web2"))):
        watch.process._take_in(watch.fleet, row)

    assert set(watch.fleet.hosts) == {"web2"}
    assert watch.counts == {"events_refused": 2}


def test_what_gives_authority_counts_with_our_signature_only() -> None:
    watch = Watch()
    key_id = host_key(HOST).key_id
    kept = hosts.HostQuarantined(hostname=HOST, heartbeat_seq=1, key_id=key_id, reason="r", before="2", after="1")
    lift = hosts.HostQuarantineLifted(hostname=HOST, based_on=1, reason="trust me")
    unsigned = stored(lift.to_new_event(), seq=3, recorded_us=2**60)
    for row in (signed(a_registration(HOST)), signed(kept, 2), unsigned):
        watch.process._take_in(watch.fleet, row)
    doubt = Doubt(5, START_US + 10, key_id, "its journal went back", "2", "1")

    watch.fleet.doubts.found(HOST, doubt)
    assert (watch.fleet.doubts.due(), watch.counts) == ([], {"events_refused": 1}), "it is in quarantine"

    watch.process._take_in(watch.fleet, signed(lift, 4))
    watch.fleet.doubts.found(HOST, doubt)
    assert [event.hostname for event in watch.fleet.doubts.due()] == [HOST]
