import pytest

from control_plane.events import tasks
from control_plane.events.envelope import EVENT
from control_plane.events.event import Event
from control_plane.projections.audit import AuditProjection
from tests.support.clock import START_US
from tests.support.events import EXAMPLES, HOST, RESULT, TASK
from tests.support.folds import Folded

OUTCOMES = {
    "execution.finished": "succeeded",
    "execution.late_result": "rejected",
    "execution.expired": "expired",
    "execution.lost": "lost",
    "execution.skipped": "skipped",
    "execution.cancelled": "cancelled",
}
OF_THE_EVENT_LOG = [event for event in EXAMPLES if event.LOG == EVENT]


@pytest.fixture
def folded() -> Folded:
    return Folded(AuditProjection())


def test_every_event_is_one_line_with_its_time_its_actor_and_what_it_is_about(folded: Folded) -> None:
    [table] = folded.projection.tables

    folded.then(tasks.TaskCancelRequested(task_id=TASK, actor="ada"), at_s=1, actor="ada")
    folded.then(tasks.ExecutionSent(task_id=TASK, hostname=HOST, route="cmd.all"), at_s=2)

    assert folded.rows(table) == [
        {
            "seq": 1,
            "recorded_us": START_US + 1_000_000,
            "kind": "task.cancel_requested",
            "actor": "ada",
            "task_id": TASK,
            "hostname": None,
            "outcome": None,
        },
        {
            "seq": 2,
            "recorded_us": START_US + 2_000_000,
            "kind": "execution.sent",
            "actor": None,
            "task_id": TASK,
            "hostname": HOST,
            "outcome": None,
        },
    ]


def test_no_event_of_any_kind_is_left_out(folded: Folded) -> None:
    [table] = folded.projection.tables

    folded.then(*OF_THE_EVENT_LOG)

    assert [row["kind"] for row in folded.rows(table)] == [event.KIND for event in OF_THE_EVENT_LOG]


@pytest.mark.parametrize("event", OF_THE_EVENT_LOG, ids=lambda event: event.KIND)
def test_the_outcome_is_told_of_the_kinds_that_say_one(folded: Folded, event: Event) -> None:
    [table] = folded.projection.tables

    seq = folded.then(event)

    assert folded.row(table, seq)["outcome"] == OUTCOMES.get(event.KIND)


def test_the_outcome_of_a_result_is_the_state_that_it_means(folded: Folded) -> None:
    [table] = folded.projection.tables

    seq = folded.then(tasks.ExecutionFinished(hostname=HOST, message={**RESULT, "exit_code": 2}))

    assert folded.row(table, seq)["outcome"] == "failed"
