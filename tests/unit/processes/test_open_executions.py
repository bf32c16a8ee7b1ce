"""What dispatch knows of every execution that is not terminal: what is to be published when, and what may be there."""

from typing import NoReturn

import pytest

from control_plane.events import tasks
from control_plane.events.event import Event
from control_plane.events.tasks import Delivery
from control_plane.processes.open_executions import FIRST_RETRY_S, MOST_RETRY_S, Due, OpenExecutions
from control_plane.projections.queries.tasks import OpenExecution
from control_plane_wire.strict_json import JsonObject
from tests.support.events import AT, a_task_accepted

KEY = ("t1", "web1")
OF = {"task_id": "t1", "hostname": "web1"}
MESSAGE: JsonObject = {"kind": "accepted", "task_id": "t1", "timestamp": AT}
RESULT: JsonObject = {"task_id": "t1", "exit_code": 0, "stdout": "", "stderr": "", "timestamp": AT}

RETURNED = tasks.ExecutionReturned(**OF, trigger_seq=5)
SENT = tasks.ExecutionSent(**OF, route="cmd.node.web1")
UNCONFIRMED = tasks.ExecutionUnconfirmed(**OF)
ACCEPTED = tasks.ExecutionAccepted(hostname="web1", message=MESSAGE)
STARTED = tasks.ExecutionStarted(hostname="web1", message={**MESSAGE, "started_at": AT})
OUTCOMES: list[Event] = [
    tasks.ExecutionFinished(hostname="web1", message=RESULT),
    tasks.ExecutionExpired(**OF, reason="x"),
    tasks.ExecutionLost(**OF, reason="x"),
    tasks.ExecutionSkipped(**OF, reason="x"),
    tasks.ExecutionCancelled(**OF, reason="x"),
]


def an_open(*events: Event, hosts: tuple[str, ...] = ("web1", "web2")) -> OpenExecutions:
    """One task, accepted as event 5; then these events."""
    known = OpenExecutions()
    known.accept(a_task_accepted("t1", hosts), 5)
    for event in events:
        known.note(event)
    return known


def a_row(**changes: object) -> OpenExecution:
    values = {
        **OF,
        "state": "queued",
        "accepted_seq": 5,
        "running_us": None,
        "expires_at": AT + 600,
        "timeout_s": 30,
        "cancel_requested": False,
        "delivery": Delivery(5),
        **changes,
    }
    return OpenExecution(**values)  # type: ignore[arg-type]


def loaded(**changes: object) -> Due:
    known = OpenExecutions()
    known.load([a_row(**changes)], upto=100)
    return known.due[KEY]


def keys(dues: list[Due]) -> list[tuple[str, str]]:
    return [due.key for due in dues]


def test_what_is_accepted_is_ready_at_once_on_each_of_its_hosts() -> None:
    assert keys(an_open().take_ready(0.0)) == [("t1", "web1"), ("t1", "web2")]


def test_accepted_twice_is_accepted_once() -> None:
    known = an_open(SENT)
    known.accept(a_task_accepted("t1", ("web1", "web2")), 6)

    assert known.due[KEY].seq == 5
    assert known.due[KEY].delivery.may_have_arrived


def test_what_is_ready_comes_in_the_order_of_acceptance() -> None:
    known = OpenExecutions()
    for task_id, seq in (("t9", 3), ("t1", 7), ("t5", 5)):
        known.accept(a_task_accepted(task_id, ("web1",)), seq)
    known.plan(known.due["t5", "web1"], 10.0)

    assert keys(known.take_ready(9.9)) == [("t9", "web1"), ("t1", "web1")]

    known.plan(known.due["t9", "web1"], 9.5)
    assert keys(known.take_ready(10.0)) == [("t9", "web1"), ("t5", "web1")]


def test_what_was_taken_is_not_ready_until_it_is_planned_again() -> None:
    known = an_open()
    assert keys(known.take_ready(0.0)) == [("t1", "web1"), ("t1", "web2")]
    assert known.take_ready(1e9) == []

    known.plan(known.due[KEY], 30.0)
    assert (known.take_ready(29.9), keys(known.take_ready(30.0))) == ([], [KEY])


def test_the_next_moment_is_the_earliest_of_all() -> None:
    known = an_open()
    known.plan(known.due["t1", "web1"], 30.0)
    known.plan(known.due["t1", "web2"], 7.5)
    assert known.next_s() == 7.5

    known.plan(known.due["t1", "web2"], 60.0)
    assert known.next_s() == 30.0

    for due in known.due.values():
        known.plan(due, None)
    assert known.next_s() is None


def test_each_pause_is_twice_as_long_up_to_five_minutes_however_often_it_was_tried() -> None:
    known, pauses = an_open(), []
    due = known.due[KEY]
    for attempts in (0, 1, 2, 9, 2000):  # in seven days there are some two thousand
        due.attempts = attempts
        known.again(due, 1000.0, first_s=1.0)
        pauses.append((due.next_s or 0.0) - 1000.0)

    assert pauses == [1.0, 2.0, 4.0, MOST_RETRY_S, MOST_RETRY_S]
    assert due.attempts == 2001


def test_how_often_it_was_not_sent_does_not_lengthen_the_wait_for_an_answer() -> None:
    known = an_open()
    due = known.due[KEY]
    for _ in range(5):
        known.again(due, 1000.0, first_s=1.0)

    known.again(due, 1000.0, first_s=FIRST_RETRY_S)

    assert due.next_s == 1000.0 + FIRST_RETRY_S


def test_no_pause_is_longer_than_what_is_left() -> None:
    known = an_open()
    due = known.due[KEY]
    due.attempts, due.first_s = 9, 1.0

    known.again(due, 1000.0, first_s=1.0, left_s=7.0)

    assert due.next_s == 1007.0


def test_what_has_ended_is_neither_ready_nor_waited_for() -> None:
    known = an_open(*[tasks.ExecutionLost(task_id="t1", hostname=name, reason="x") for name in ("web1", "web2")])

    assert (known.take_ready(1e9), known.next_s()) == ([], None)
    assert (known.by_task, known.by_host) == ({}, {})


class Unscanned(dict[tuple[str, str], Due]):
    """All that is open, which nobody may go through."""

    def __iter__(self) -> NoReturn:
        raise AssertionError

    keys = values = items = __iter__  # type: ignore[assignment]


def test_no_turn_goes_through_all_that_is_open() -> None:
    known = an_open()
    known.due = Unscanned(known.due)

    assert known.next_s() == 0.0
    known.cancel("t1")
    assert len(known.take_ready(0.0)) == 2
    known.online("web1", 9)
    known.note(OUTCOMES[0])
    assert known.next_s() is None


@pytest.mark.parametrize("event", OUTCOMES, ids=lambda event: event.KIND)
def test_any_outcome_closes_it_and_no_other(event: Event) -> None:
    known = an_open(event)

    assert known.due.keys() == {("t1", "web2")}
    assert known.by_host.keys() == {"web2"}
    known.note(event)
    assert known.due.keys() == {("t1", "web2")}


@pytest.mark.parametrize(
    "event",
    [
        tasks.ExecutionLateResult(hostname="web1", message=RESULT),
        tasks.ExecutionConflict(**OF, first_seq=1, result_sha256="a" * 64),
        tasks.ExecutionUnexpected(**OF, reason="x", message_sha256="a" * 64),
        tasks.ExecutionFinished(hostname="web3", message=RESULT),
        tasks.ExecutionFinished(hostname="web1", message={**RESULT, "task_id": "t2"}),
    ],
    ids=lambda event: f"{event.KIND} {event.task_id} {event.hostname}",
)
def test_what_is_no_outcome_of_it_closes_nothing(event: Event) -> None:
    assert an_open(event).due.keys() == {("t1", "web1"), ("t1", "web2")}


def test_what_came_back_was_certainly_not_delivered() -> None:
    delivery = an_open(RETURNED).due[KEY].delivery

    assert delivery.certainly_not


@pytest.mark.parametrize("event", [SENT, UNCONFIRMED, ACCEPTED, STARTED], ids=lambda event: event.KIND)
def test_once_perhaps_delivered_no_return_takes_that_back(event: Event) -> None:
    for events in ([event, RETURNED], [RETURNED, event]):
        due = an_open(*events).due[KEY]
        assert due.delivery.may_have_arrived
        assert not due.delivery.certainly_not
        assert not due.certainly_not_delivered


def test_a_return_speaks_only_of_the_publish_that_its_trigger_called_for() -> None:
    known = an_open()
    known.online("web1", 9)
    known.note(RETURNED)

    assert not known.due[KEY].delivery.certainly_not

    known.note(tasks.ExecutionReturned(**OF, trigger_seq=9))
    assert known.due[KEY].delivery.certainly_not


def test_nothing_is_known_of_what_was_published_and_not_recorded() -> None:
    due = an_open().due[KEY]
    assert due.certainly_not_delivered

    due.in_doubt = True
    assert not due.certainly_not_delivered


def test_that_nothing_has_reached_the_host_is_said_once_for_each_trigger_and_never_where_it_may_have() -> None:
    due = an_open().due[KEY]
    assert due.is_unsaid
    assert not an_open(RETURNED).due[KEY].is_unsaid
    assert not an_open(SENT).due[KEY].is_unsaid

    known = an_open(RETURNED)
    known.online("web1", 9)
    assert known.due[KEY].is_unsaid

    known.due[KEY].in_doubt = True
    assert not known.due[KEY].is_unsaid


def test_what_came_back_is_not_delivered_by_its_hosts_coming_online_until_it_is_published() -> None:
    known = an_open()
    due = known.due[KEY]
    due.in_doubt = True
    known.note(RETURNED)
    known.online("web1", 9)
    assert due.certainly_not_delivered

    due.in_doubt = True
    known.note(RETURNED)  # read again
    assert not due.certainly_not_delivered


@pytest.mark.parametrize("event", [ACCEPTED, STARTED], ids=lambda event: event.KIND)
def test_what_the_agent_has_needs_no_publish_any_more(event: Event) -> None:
    known = an_open(event)

    assert keys(known.take_ready(1e9)) == [("t1", "web2")]
    known.online("web1", 9)
    assert known.take_ready(1e9) == []


def test_a_confirmed_publish_alone_is_no_answer() -> None:
    assert keys(an_open(SENT).take_ready(0.0)) == [("t1", "web1"), ("t1", "web2")]


def test_a_host_that_comes_online_is_sent_what_it_has_not_answered_in_the_order_of_acceptance() -> None:
    known = an_open(SENT)
    known.accept(a_task_accepted("t2", ("web1",)), 6)
    for due in known.take_ready(0.0):
        due.attempts = 4

    known.online("web1", 9)

    ready = known.take_ready(0.0)
    assert keys(ready) == [("t1", "web1"), ("t2", "web1")]
    assert [due.attempts for due in ready] == [0, 0]
    assert known.due["t1", "web2"].next_s is None


def test_the_same_coming_online_read_again_triggers_nothing() -> None:
    known = an_open()
    known.online("web1", 9)
    known.take_ready(0.0)

    known.online("web1", 9)
    known.online("web1", 4)

    assert known.take_ready(1e9) == []


def test_a_cancelled_task_is_ready_again_on_each_of_its_hosts_even_where_it_runs() -> None:
    known = an_open(STARTED)
    known.accept(a_task_accepted("t2", ("web1",)), 6)
    known.take_ready(0.0)

    known.cancel("t1")

    assert keys(known.take_ready(0.0)) == [("t1", "web1"), ("t1", "web2")]


def test_what_is_cancelled_goes_on_being_said_until_there_is_an_outcome() -> None:
    known = an_open()
    known.cancel("t1")
    known.note(ACCEPTED)
    assert ("t1", "web1") in keys(known.take_ready(0.0))

    known.online("web1", 9)
    assert ("t1", "web1") in keys(known.take_ready(0.0))


def test_a_loaded_execution_without_a_record_or_perhaps_delivered_is_published_again() -> None:
    assert loaded().next_s == 0.0
    assert loaded(state="sent", delivery=Delivery(5, 0, True)).next_s == 0.0


def test_a_loaded_execution_that_came_back_waits_for_its_host() -> None:
    assert loaded(delivery=Delivery(5, 5)).next_s is None
    assert loaded(delivery=Delivery(9, 5)).next_s == 0.0


def test_a_loaded_execution_that_came_back_and_is_cancelled_is_dealt_with_at_once() -> None:
    due = loaded(delivery=Delivery(5, 5), cancel_requested=True)

    assert due.next_s == 0.0
    assert due.is_cancelled
    assert due.certainly_not_delivered


@pytest.mark.parametrize(
    ("state", "answered"), [("queued", False), ("sent", False), ("accepted", True), ("running", True)]
)
def test_a_loaded_execution_is_answered_where_its_agent_has_said_so(state: str, answered: bool) -> None:
    due = loaded(state=state, delivery=Delivery(5, 0, state != "queued"))

    assert due.answered is answered
    assert due.was_sent is (state != "queued")


ROLLOUT: JsonObject = {"max_concurrency": 1, "max_errors": 0}


def a_rollout(*hosts: str) -> OpenExecutions:
    known = OpenExecutions()
    known.accept(a_task_accepted("t1", hosts or ("web1", "web2"), rollout=ROLLOUT), 5)
    return known


def test_what_is_not_released_is_not_ready_not_even_when_its_host_comes_online() -> None:
    known = a_rollout()
    known.online("web1", 7)

    assert known.take_ready(0.0) == []
    assert known.due[KEY].delivery == Delivery(0)
    assert known.due[KEY].delivery.certainly_not


def test_what_is_released_is_due_by_its_release() -> None:
    known = a_rollout()
    known.release("t1", "web1", 7)
    known.release("t1", "web1", 9)

    assert keys(known.take_ready(0.0)) == [KEY]
    assert known.due[KEY].delivery == Delivery(7)
    assert known.due[KEY].is_unsaid


def test_what_is_cancelled_or_stopped_before_it_is_released_is_looked_at_and_not_released_any_more() -> None:
    for known in (cancelled := a_rollout(), stopped := a_rollout()):
        known.release("t1", "web2", 6)
        known.take_ready(0.0)
    cancelled.cancel("t1")
    stopped.stop("t1", "enough")

    assert keys(cancelled.take_ready(0.0)) == [("t1", "web1"), ("t1", "web2")]
    assert keys(stopped.take_ready(0.0)) == [("t1", "web1")]
    for known in (cancelled, stopped):
        known.release("t1", "web1", 7)
        assert not known.due[KEY].is_released


def test_what_an_agent_has_answered_unreleased_is_not_published_when_it_is_released() -> None:
    known = a_rollout()
    known.note(ACCEPTED)
    known.release("t1", "web1", 7)

    assert known.take_ready(0.0) == []


def test_what_a_pause_holds_is_ready_when_it_is_resumed_or_when_its_time_is_over() -> None:
    known = an_open()
    known.pause("t1")
    for due in known.take_ready(0.0):
        known.hold(due, 600.0)
    assert known.take_ready(599.0) == []
    assert keys(known.take_ready(600.0)) == [("t1", "web1"), ("t1", "web2")]

    known.hold(known.due[KEY], 900.0)
    known.resume("t1")
    assert keys(known.take_ready(601.0)) == [KEY]
    assert known.paused == set()


def test_a_resume_publishes_nothing_that_the_pause_did_not_keep_back() -> None:
    known = an_open(SENT)
    known.take_ready(0.0)
    known.pause("t1")
    known.resume("t1")

    assert known.take_ready(0.0) == []


def test_nothing_is_remembered_of_a_task_that_has_ended() -> None:
    known = an_open(hosts=("web1",))
    known.pause("t1")
    known.stop("t1", "enough")
    known.note(OUTCOMES[0])
    known.pause("t1")
    known.stop("t1", "enough")

    assert (known.paused, known.stopped) == (set(), {})


def test_what_is_loaded_knows_whether_it_is_released_paused_and_stopped() -> None:
    known = OpenExecutions()
    of_t2 = {"task_id": "t2", "stopped": "enough"}
    known.load(
        [
            a_row(delivery=Delivery(0), is_released=False, is_paused=True),
            a_row(delivery=Delivery(0), is_released=False, **of_t2),
            a_row(hostname="web2", delivery=Delivery(7, returned_seq=7), **of_t2),
        ],
        upto=100,
    )

    assert keys(known.take_ready(0.0)) == [("t2", "web1")]
    assert (known.paused, known.stopped) == ({"t1"}, {"t2": "enough"})
    assert [due.is_released for due in known.due.values()] == [False, False, True]


ARRIVED = Delivery(5, may_have_arrived=True)
BEFORE, SINCE = {"since_seq": 5, "quarantined_seq": 6}, {"since_seq": 7, "quarantined_seq": 6}


def test_what_is_loaded_without_a_record_may_be_there_as_far_as_somebody_can_have_sent_it() -> None:
    def unknown(upto: int, **changes: object) -> list[int | None]:
        return [event.after_seq for event in OpenExecutions().load([a_row(**changes)], upto)]

    assert unknown(5, since_seq=5) == [5]
    assert unknown(4, since_seq=5) == [], "it has become due since"
    assert unknown(5, since_seq=0) == [], "it has certainly not reached it"
    assert unknown(5, since_seq=5, delivery=ARRIVED) == [], "that is in the log already"


@pytest.mark.parametrize("delivery", [ARRIVED, Delivery(5)], ids=["recorded", "unknown"])
def test_what_a_host_may_have_had_before_its_quarantine_is_not_sent_again(delivery: Delivery) -> None:
    assert loaded(delivery=delivery, **BEFORE).answered
    assert not loaded(delivery=delivery, **SINCE).answered


def test_what_nobody_can_have_sent_is_not_forgotten_by_a_quarantine() -> None:
    known = OpenExecutions()
    known.load([a_row(**BEFORE)], upto=4)

    assert not known.due[KEY].answered
