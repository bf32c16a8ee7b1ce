"""A journal that went back, or two machines with one identity, are found; no history of one sound machine is."""

from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.events.continuity import APART_US, BOOTS, JOURNAL, NOT_LATE_US, Doubt, Trace, follow
from control_plane.events.envelope import StoredEvent
from control_plane.events.presence import LastHeartbeat, counted
from control_plane_wire.messages import ALLOWED_SKEW_S
from tests.support.clock import START_US

START_S = START_US // 1_000_000
LATER_S = NOT_LATE_US // 1_000_000 + 1
APART_S = APART_US // 1_000_000


class Beat(NamedTuple):
    boot_id: str | None
    sequence: int | None
    timestamp: int
    journal_head: int | None


@dataclass
class Heard:
    """One host, as whoever reads the log hears it. All times are seconds from the start."""

    last: LastHeartbeat | None = None
    trace: Trace = field(default_factory=Trace)
    seq: int = 0
    doubts: list[Doubt] = field(default_factory=list)

    def hear(self, at_s: float, boot: str | None, sequence: int, head: int | None, says_s: float | None = None) -> None:
        """A heartbeat that is recorded then; the host's clock said `says_s`, or the same."""
        self.seq += 1
        says = START_S + int(at_s if says_s is None else says_s)
        beat = Beat(boot, None if boot is None else sequence, says, head)
        recorded_us = START_US + round(at_s * 1_000_000)
        stored = StoredEvent(self.seq, recorded_us, "", 1, None, "web1", None, None, b"", None, "key")
        now = counted(self.last, beat, recorded_us)
        trace = follow(self.trace, self.last, now, beat, stored)
        if trace.doubt is not None and trace.doubt != self.trace.doubt:
            self.doubts.append(trace.doubt)
        self.last, self.trace = now or self.last, trace

    def takeover(self) -> None:
        """What a process knows that goes on from the last heartbeat that counted."""
        trace = self.trace
        self.trace = Trace(head=trace.head, head_s=trace.head_s, head_us=trace.head_us, heard_us=trace.heard_us)


# --- the journal


@pytest.mark.parametrize("boot", ["b1", "b2"], ids=["same boot", "another boot"])
def test_a_journal_that_went_back_is_found_by_the_first_heartbeat_that_says_so(boot: str) -> None:
    heard = Heard()
    heard.hear(0, "b1", 1, 100)
    heard.hear(10, "b1", 2, 200)

    heard.hear(20, boot, 3, 150)

    assert heard.doubts == [Doubt(3, START_US + 10_000_000, "key", JOURNAL, "200", "150")]


def test_it_is_found_once_and_what_it_says_then_is_what_it_goes_on_from() -> None:
    heard = Heard()
    for at_s, head in enumerate((200, 150, 150, 160, 170)):
        heard.hear(at_s, "b1", at_s, head)
    assert len(heard.doubts) == 1

    heard.hear(9, "b1", 9, 165)
    assert [doubt.before for doubt in heard.doubts] == ["200", "170"]


def test_it_is_found_after_a_takeover() -> None:
    heard = Heard()
    heard.hear(0, "b1", 1, 200)
    heard.takeover()

    heard.hear(10, "b2", 1, 150)

    assert [doubt.reason for doubt in heard.doubts] == [JOURNAL]


def test_an_agent_that_does_not_say_it_gives_no_reason_to_doubt_and_hides_none() -> None:
    heard = Heard()
    heard.hear(0, "b1", 1, 200)
    heard.hear(10, "b2", 1, None)
    heard.hear(20, None, 0, None)
    assert heard.doubts == []

    heard.hear(30, "b3", 1, 150)
    assert [doubt.reason for doubt in heard.doubts] == [JOURNAL]


def test_an_earlier_boot_that_is_heard_for_the_first_time_after_the_later_one_is_late_and_no_other_machine() -> None:
    heard = Heard()
    heard.hear(0, "b1", 1, 100)
    heard.hear(60, "b3", 1, 300, 55)

    heard.hear(61, "b2", 1, 200, 20)
    heard.hear(62, "b2", 2, 200, 30)
    for at_s in range(65, 1000, 10):
        heard.hear(at_s, "b3", at_s, 300)

    assert heard.doubts == []


def test_a_host_whose_clock_is_wrong_is_found_by_the_second_heartbeat() -> None:
    heard = Heard()
    heard.hear(0, "b1", 1, 200, 5000)
    heard.hear(10, "b2", 1, 150, 5010)
    assert heard.doubts == []

    heard.hear(20, "b2", 2, 150, 5020)
    assert [doubt.reason for doubt in heard.doubts] == [JOURNAL]


def test_a_machine_that_was_put_back_with_its_memory_is_found_by_the_second_heartbeat_that_is_not_late() -> None:
    heard = Heard()
    heard.hear(0, "b1", 9_000, 200)

    heard.hear(LATER_S, "b1", 4_000, 150)
    assert heard.doubts == []

    heard.hear(LATER_S + APART_S, "b1", 9_000, 150)
    assert [doubt.reason for doubt in heard.doubts] == [JOURNAL]


# --- two machines


def two_boots() -> Heard:
    heard = Heard()
    heard.hear(0, "b1", 1, 100)
    heard.hear(10, "b2", 1, 100)
    return heard


def test_an_earlier_boot_that_goes_on_is_another_machine() -> None:
    heard = two_boots()

    heard.hear(10 + LATER_S, "b1", 2, 100)
    assert heard.doubts == [], "one may be a mistake"
    heard.hear(10 + LATER_S + APART_S, "b1", 3, 100)

    assert heard.doubts == [Doubt(4, START_US + 10_000_000, "key", BOOTS, "b2", "b1")]


def test_it_is_found_while_both_go_on_too() -> None:
    heard = two_boots()
    for at_s in range(20, 20 + LATER_S + 20, 10):
        heard.hear(at_s, "b2", at_s, 100)
        heard.hear(at_s + 5, "b1", at_s, 100)

    assert {doubt.reason for doubt in heard.doubts} == {BOOTS}


def test_it_is_found_after_a_takeover_when_both_are_heard_again() -> None:
    heard = two_boots()
    heard.takeover()
    heard.hear(20, "b2", 2, 100)
    for at_s in (LATER_S + 20, LATER_S + 30):
        heard.hear(at_s, "b1", at_s, 100)

    assert [doubt.reason for doubt in heard.doubts] == [BOOTS]


@pytest.mark.parametrize(
    ("at_s", "says_s", "apart_s"),
    [
        pytest.param(10 + LATER_S, 5, 10, id="late"),
        pytest.param(9 + NOT_LATE_US // 1_000_000, None, 1, id="perhaps late"),
        pytest.param(10 + LATER_S, 10 + LATER_S + ALLOWED_SKEW_S + 1, 1, id="by a wrong clock"),
        pytest.param(10 + LATER_S, None, APART_S - 1, id="at once"),
    ],
)
def test_what_was_held_up_is_no_other_machine(at_s: int, says_s: int | None, apart_s: int) -> None:
    heard = two_boots()
    for number in range(2):
        heard.hear(at_s + number * apart_s, "b1", 2 + number, 100, None if says_s is None else says_s + number)

    assert heard.doubts == []


def test_copies_of_one_are_no_other_machine() -> None:
    heard = two_boots()
    for number in range(3):
        heard.hear(10 + LATER_S + number * APART_S, "b1", 2, 100)

    assert heard.doubts == []


@pytest.mark.parametrize("behind_s", [-5, 0, 5, 30, ALLOWED_SKEW_S - 1])
def test_another_machine_is_found_though_the_clock_of_the_one_that_began_later_is_behind(behind_s: int) -> None:
    heard = Heard()
    heard.hear(10, "b1", 1, 100)
    for at_s in range(10, 10 + ALLOWED_SKEW_S + LATER_S + 20, 10):
        heard.hear(at_s, "b2", at_s, 100, at_s - behind_s)
        heard.hear(at_s + 5, "b1", at_s, 100)

    assert {doubt.reason for doubt in heard.doubts} == {BOOTS}


@pytest.mark.parametrize("later", [1, 3], ids=["a boot", "several"])
def test_earlier_boots_that_are_heard_late_do_not_make_another_machine_of_the_last_one(later: int) -> None:
    heard = Heard()
    heard.hear(100, "b9", 1, 100)
    for number in range(later):
        heard.hear(101 + number, f"b{number}", 1, 100, 10 * number)
        heard.hear(101 + number, f"b{number}", 2, 100, 10 * number + 5)

    for at_s in range(110, 110 + LATER_S + 30, 10):
        heard.hear(at_s, "b9", at_s, 100)

    assert heard.doubts == []


# --- no false alarm


class Sent(NamedTuple):
    at_s: int
    boot: str
    head: int | None
    says_s: int
    delay_s: int
    copies: int


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["beat", "beat", "beat", "beat", "command", "reboot", "clock", "agent"]),
        st.integers(1, 60),  # how long it takes
        st.integers(0, 3600),  # how late the heartbeat comes, or by how much the clock is set
        st.sampled_from([1, 1, 1, 2]),
    ),
    max_size=80,
)


def lived(steps: list[tuple[str, int, int, int]], *, clock: str) -> list[Sent]:
    """What one machine sends: its agent starts anew at will, and is one that does not say its journal's head at times.

    Args:
        clock: "forward": it may be set on, at most to as much ahead as is allowed; "any": it may be set to anything.
    """
    now_s, boot, head, ahead_s, speaks = 0, 1, 0, -3600 if clock == "forward" else 0, True
    sent = []
    for what, takes_s, amount, copies in steps:
        now_s += takes_s
        match what:
            case "beat":
                sent.append(Sent(now_s, f"b{boot}", head if speaks else None, now_s + ahead_s, amount, copies))
            case "command":
                head += amount
            case "reboot":
                boot += 1
            case "clock" if clock == "forward":
                ahead_s = min(ahead_s + amount, ALLOWED_SKEW_S)
            case "clock":
                ahead_s = amount - 1800
            case "agent":
                speaks = not speaks
    return sent


@given(STEPS)
def test_no_machine_is_doubted_because_its_heartbeats_come_late_twice_and_out_of_order(
    steps: list[tuple[str, int, int, int]],
) -> None:
    heard = Heard()
    coming = [(one.at_s + one.delay_s + n * 7, one) for one in lived(steps, clock="forward") for n in range(one.copies)]
    for at_s, one in sorted(coming):
        heard.hear(at_s, one.boot, one.at_s * 1000, one.head, one.says_s)

    assert heard.doubts == []


@given(STEPS, st.sets(st.integers(0, 80)))
def test_no_machine_is_doubted_because_of_its_clock_or_a_takeover(
    steps: list[tuple[str, int, int, int]], takeovers: set[int]
) -> None:
    heard = Heard()
    for number, one in enumerate(lived(steps, clock="any")):
        if number in takeovers:
            heard.takeover()
        for copy in range(one.copies):
            heard.hear(one.at_s + copy / 10, one.boot, one.at_s * 1000, one.head, one.says_s)

    assert heard.doubts == []
