import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.events import tasks
from control_plane.events.tasks import RANK, STATE_BY_KIND, STATES, TERMINAL, Delivery, advanced, state_of
from control_plane_wire.messages import OUTCOMES, ResultMessage
from tests.support.events import EXAMPLES, HOST, RESULT, TASK

STATE = st.sampled_from(STATES)


def a_result(outcome: str | None, exit_code: int | None) -> ResultMessage:
    return ResultMessage(task_id=TASK, exit_code=exit_code, stdout="", stderr="", timestamp=1, outcome=outcome)


@given(STATE, STATE)
def test_no_state_goes_backwards_and_a_terminal_one_never_changes(state: str, to: str) -> None:
    after = advanced(state, to)

    assert RANK[after] >= RANK[state]
    assert after == state if state in TERMINAL else after in {state, to}


@given(st.permutations(["sent", "accepted", "running", "failed"]))
def test_events_in_any_order_lead_to_the_same_end(order: list[str]) -> None:
    state = "queued"
    for to in order:
        state = advanced(state, to)

    assert state == "failed"


@pytest.mark.parametrize(
    ("outcome", "exit_code", "state"),
    [
        ("completed", 0, "succeeded"),
        (None, 0, "succeeded"),
        ("completed", 1, "failed"),
        ("completed", 137, "failed"),
        ("timed_out", 143, "timed_out"),
        ("cancelled", None, "cancelled"),
        ("rejected", None, "rejected"),
        ("expired", None, "expired"),
        ("interrupted", None, "interrupted"),
    ],
)
def test_an_agents_outcome_is_a_terminal_state(outcome: str | None, exit_code: int | None, state: str) -> None:
    assert state_of(a_result(outcome, exit_code)) == state


def test_every_outcome_of_the_wire_and_every_kind_has_its_state() -> None:
    assert {state_of(a_result(outcome, 0)) for outcome in OUTCOMES} <= TERMINAL
    assert set(STATE_BY_KIND.values()) <= set(STATES)


def test_all_outcomes_of_an_execution_share_one_key() -> None:
    ends = (tasks.ExecutionFinished, tasks.ExecutionExpired, tasks.ExecutionLost, tasks.ExecutionSkipped)
    keys = {event.key() for event in EXAMPLES if isinstance(event, (*ends, tasks.ExecutionCancelled))}

    assert len(keys) == 1


def test_late_evidence_does_not_take_the_place_of_an_outcome() -> None:
    late = tasks.ExecutionLateResult(hostname=HOST, message=RESULT)

    assert late.key() != tasks.ExecutionFinished(hostname=HOST, message=RESULT).key()


@pytest.mark.parametrize("route", ["cmd.all", "cmd.group.web"])
def test_sending_twice_by_different_routes_is_one_fact(route: str) -> None:
    sent = tasks.ExecutionSent(task_id=TASK, hostname=HOST, route=f"cmd.node.{HOST}")
    again = tasks.ExecutionSent(task_id=TASK, hostname=HOST, route=route)

    assert (again.key(), again.digest()) == (sent.key(), sent.digest())


def test_asking_twice_to_cancel_is_asking_once() -> None:
    first = tasks.TaskCancelRequested(task_id=TASK, actor="ada", reason="mine")
    second = tasks.TaskCancelRequested(task_id=TASK, actor="bob")

    assert (first.key(), first.digest()) == (second.key(), second.digest())


def test_a_command_that_was_never_published_may_have_been_delivered() -> None:
    """Whoever takes over does not know what the one before it did with a due execution."""
    assert not Delivery(trigger_seq=5).certainly_not


def test_a_return_of_the_last_trigger_is_certain_and_a_new_trigger_opens_it_again() -> None:
    returned = Delivery(trigger_seq=5).returned(5)

    assert returned.certainly_not
    assert not returned.triggered(9).certainly_not
    assert returned.triggered(9).returned(9).certainly_not


def test_what_may_have_arrived_once_stays_so() -> None:
    delivery = Delivery(trigger_seq=5).perhaps()

    assert not delivery.triggered(9).returned(9).certainly_not


@given(st.lists(st.sampled_from(["trigger", "return", "perhaps"]), max_size=8))
def test_expired_is_only_said_where_every_publish_came_back(history: list[str]) -> None:
    """An oracle that keeps the whole history says the same."""
    delivery, triggers, returned = Delivery(trigger_seq=1), [1], set[int]()
    for step, seq in zip(history, itertools.count(2), strict=False):
        if step == "trigger":
            delivery = delivery.triggered(seq)
            triggers.append(seq)
        elif step == "return":
            delivery = delivery.returned(triggers[-1])
            returned.add(triggers[-1])
        else:
            delivery = delivery.perhaps()

    assert delivery.certainly_not == ("perhaps" not in history and triggers[-1] in returned)
