"""How far a rollout goes: a window that doubles, errors that stop it, a canary that is waited for."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.commands.rollouts import Rollout
from control_plane.events.rollouts import ExecutionReleased, TaskPaused, TaskRolloutStopped
from control_plane.events.tasks import FAILED, TERMINAL
from control_plane.processes.rollout import View, decide
from control_plane.projections.queries.rollouts import CanaryExecution, OpenRollout

NOW = 1_700_000_000
EXPIRES_AT = NOW + 3600


@dataclass
class Fleet:
    """A rollout at work without a log: what is decided takes effect at once, and hosts end as the test says."""

    rollout: Rollout
    hosts: tuple[str, ...]
    now_s: int = NOW
    is_paused: bool = False
    approval_seq: int | None = None
    stopped: TaskRolloutStopped | None = None
    states: dict[str, str] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    finished_s: dict[str, int] = field(default_factory=dict)
    said: list[list[Any]] = field(default_factory=list)

    @property
    def in_hand(self) -> list[str]:
        return [name for name in self.released if name not in self.finished_s]

    @property
    def first(self) -> tuple[str, ...]:
        canary = self.rollout.canary
        return self.hosts[:canary] if isinstance(canary, int) else canary or ()

    def view(self) -> View:
        ended = Counter(self.states.values())
        counts = {**ended, "queued": len(self.hosts) - sum(ended.values())}
        task = OpenRollout(
            task_id="t1",
            rollout={},
            targets=len(self.hosts),
            counts={state: count for state, count in counts.items() if count},
            released=len(self.released),
            is_paused=self.is_paused,
            turned_seq=7,
            approval_seq=self.approval_seq,
            expires_at=EXPIRES_AT,
        )
        canary = [
            CanaryExecution(
                hostname=name,
                state=self.states.get(name, "queued"),
                is_released=name in self.released,
                finished_us=self.finished_s[name] * 1_000_000 if name in self.finished_s else None,
            )
            for name in self.first
        ]
        rest = [name for name in self.hosts if name not in self.first and name not in self.released]
        return View(task=task, rollout=self.rollout, canary=canary, waiting=rest)

    def goes_on(self) -> list[str]:
        """Decide once; what has been released now."""
        events = decide(self.view(), self.now_s)
        self.said.append(list(events))
        new = [event.hostname for event in events if isinstance(event, ExecutionReleased)]
        self.released += new
        for event in events:
            if isinstance(event, TaskPaused):
                self.is_paused, self.approval_seq = True, 99
            if isinstance(event, TaskRolloutStopped):
                self.stopped = event
        return new

    def ends(self, *names: str, state: str = "succeeded") -> None:
        for name in names:
            self.states[name], self.finished_s[name] = state, self.now_s


def hosts(number: int) -> tuple[str, ...]:
    return tuple(f"web{place:02}" for place in range(1, number + 1))


def test_the_window_begins_with_one_and_doubles_with_what_has_succeeded_up_to_its_most() -> None:
    fleet = Fleet(Rollout(max_concurrency=5), hosts(20))
    sizes = []
    while new := fleet.goes_on():
        sizes.append(len(new))
        fleet.ends(*new)

    assert sizes == [1, 2, 4, 5, 5, 3]
    assert fleet.released == list(fleet.hosts)


def test_it_slides_with_each_host_that_ends() -> None:
    fleet = Fleet(Rollout(max_concurrency=2), hosts(5))
    fleet.goes_on()
    fleet.ends("web01")
    assert fleet.goes_on() == ["web02", "web03"]
    assert fleet.goes_on() == []
    fleet.ends("web03")
    assert fleet.goes_on() == ["web04"]


def test_one_error_stops_it_where_none_may_be() -> None:
    fleet = Fleet(Rollout(), hosts(4))
    fleet.goes_on()
    fleet.ends("web01", state="failed")

    assert fleet.goes_on() == []
    assert fleet.stopped == TaskRolloutStopped(task_id="t1", failed=1, targets=4, max_errors=0)
    assert fleet.stopped.reason == "rollout stopped: 1 of 4 failed, at most 0 may"


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_what_did_not_work_is_an_error_and_what_was_never_to_run_is_none(state: str) -> None:
    fleet = Fleet(Rollout(), hosts(4))
    fleet.goes_on()
    fleet.ends("web01", state=state)
    fleet.goes_on()

    is_error = state not in {"succeeded", "skipped", "cancelled"}
    assert (fleet.stopped is not None) == is_error


def test_errors_that_may_be_let_it_go_on_but_no_faster() -> None:
    fleet = Fleet(Rollout(max_errors="50%"), hosts(4))
    fleet.goes_on()
    fleet.ends("web01", state="failed")

    assert fleet.goes_on() == ["web02"]


def test_a_paused_one_releases_nothing_and_still_stops() -> None:
    fleet = Fleet(Rollout(max_concurrency=2), hosts(4), is_paused=True)
    assert fleet.goes_on() == []

    fleet.ends("web01", state="lost")
    fleet.goes_on()
    assert fleet.stopped is not None


def test_nothing_is_released_when_the_task_is_over() -> None:
    fleet = Fleet(Rollout(), hosts(4), now_s=EXPIRES_AT)

    assert fleet.goes_on() == []


def test_the_canary_goes_first_all_at_once_and_the_others_wait_for_all_of_it() -> None:
    fleet = Fleet(Rollout(max_concurrency=1, canary=("web03", "web02")), hosts(5))
    assert fleet.goes_on() == ["web03", "web02"]

    fleet.ends("web03")
    assert fleet.goes_on() == []
    fleet.ends("web02")
    assert fleet.goes_on() == ["web01"]


def test_it_waits_after_the_last_of_the_canary() -> None:
    fleet = Fleet(Rollout(canary=2, wait=60), hosts(5))
    fleet.goes_on()
    fleet.ends("web01")
    fleet.now_s += 30
    fleet.ends("web02")

    fleet.now_s += 59
    assert fleet.goes_on() == []
    fleet.now_s += 1
    assert fleet.goes_on() == ["web03", "web04", "web05"]


def test_an_approval_is_asked_for_once_and_the_resume_gives_it() -> None:
    fleet = Fleet(Rollout(canary=1, wait="approve"), hosts(3))
    fleet.goes_on()
    fleet.ends("web01")

    fleet.goes_on()
    [asked] = fleet.said[-1]
    assert isinstance(asked, TaskPaused)
    assert (asked.actor, asked.awaits, asked.based_on) == ("rollout", "approval", 7)
    assert asked.reason == "the canary has succeeded on 1 of 1: resume to go on"
    assert fleet.goes_on() == []
    fleet.is_paused = False
    assert fleet.goes_on() == ["web02", "web03"]


@pytest.mark.parametrize("state", ["failed", "skipped"])
def test_a_canary_that_has_not_succeeded_everywhere_needs_an_approval_in_any_case(state: str) -> None:
    fleet = Fleet(Rollout(canary=2, wait=0, max_errors=1), hosts(4))
    fleet.goes_on()
    fleet.ends("web01")
    fleet.ends("web02", state=state)

    assert fleet.goes_on() == []
    assert fleet.is_paused
    fleet.is_paused = False
    assert fleet.goes_on() == ["web03", "web04"]


@given(st.data())
def test_it_is_never_on_more_hosts_than_may_be_and_everything_ends(data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 25), "hosts")
    count = st.one_of(st.integers(1, 12), st.integers(1, 100).map("{}%".format))
    canary = data.draw(st.one_of(st.none(), st.integers(1, number)), "canary")
    wait = None if canary is None else data.draw(st.one_of(st.none(), st.integers(0, 5), st.just("approve")), "wait")
    errors = data.draw(st.one_of(st.just(0), count), "max_errors")
    rollout = Rollout(max_concurrency=data.draw(count, "max"), max_errors=errors, canary=canary, wait=wait)
    fleet = Fleet(rollout, hosts(number))
    ends = st.sampled_from(["succeeded"] * 4 + sorted(TERMINAL))
    most, at_first = rollout.window(number), canary or 0

    for _ in range(20 * number):
        failed = sum(state in FAILED for state in fleet.states.values())
        new = fleet.goes_on()
        assert len(fleet.in_hand) <= max(most, at_first if len(fleet.released) <= at_first else 0)
        assert not new or failed <= rollout.errors(number)
        if fleet.stopped or len(fleet.released) == number:
            break
        if fleet.in_hand:
            fleet.ends(data.draw(st.sampled_from(fleet.in_hand)), state=data.draw(ends))
        elif fleet.is_paused:
            fleet.is_paused = False
        else:
            fleet.now_s += 1

    assert len(set(fleet.released)) == len(fleet.released)
    assert fleet.stopped or set(fleet.released) == set(fleet.hosts)
    assert sum(isinstance(event, TaskPaused) for events in fleet.said for event in events) <= 1
