"""Whatever a host may say, a fold can take: an event that no fold can take would stop its task, and every rebuild."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from control_plane.events import hosts, tasks
from control_plane.events.event import Event
from control_plane.projections.audit import AuditProjection
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.tasks import TasksProjection
from control_plane_wire import messages
from control_plane_wire.errors import MalformedMessageError
from control_plane_wire.strict_json import JsonObject
from tests.support.events import ACCEPTED, AT, HEARTBEAT, HOST, RESULT, a_task_accepted
from tests.support.folds import Folded

SHA = "ab" * 32
FULL_RESULT: JsonObject = {
    **RESULT,
    "outcome": "completed",
    "reason": "because",
    "started_at": AT,
    "finished_at": AT,
    "command_sha256": SHA,
    "stdout_bytes": 9,
    "stderr_bytes": 0,
    "stdout_head_bytes": 4,
    "stderr_head_bytes": 0,
    "truncated": True,
    "stdout_sha256": SHA,
    "stderr_sha256": SHA,
    "encoding": "utf-8",
    "leftovers": 1,
}
odd = st.sampled_from([None, 0, 1, 1.0, 1.5, -1, 2**53 - 1, 4e15, True, "", "x", "base64", [], {}, [1.5], {"a": 1}])


def changed(message: JsonObject) -> st.SearchStrategy[JsonObject]:
    """The message with some of its fields replaced by something odd."""
    return st.dictionaries(st.sampled_from(sorted(message)), odd, max_size=3).map(lambda odds: {**message, **odds})


def fold(*events: Event) -> None:
    for projection in (TasksProjection(), HostsProjection(), AuditProjection()):
        Folded(projection).then(a_task_accepted(), *events)


@given(changed({**ACCEPTED, "started_at": AT, "command_sha256": SHA}) | changed(FULL_RESULT))
def test_whatever_passes_for_a_result_can_be_folded(message: dict[str, Any]) -> None:
    try:
        match messages.parse_result(message):
            case messages.AcceptedMessage(started_at=None):
                event: Event = tasks.ExecutionAccepted(message=message, hostname=HOST)
            case messages.AcceptedMessage():
                event = tasks.ExecutionStarted(message=message, hostname=HOST)
            case messages.ResultMessage():
                fold(tasks.ExecutionLateResult(message=message, hostname=HOST))
                event = tasks.ExecutionFinished(message=message, hostname=HOST)
    except MalformedMessageError:
        return

    fold(event)


@given(changed(HEARTBEAT))
def test_whatever_passes_for_a_heartbeat_can_be_folded(message: dict[str, Any]) -> None:
    try:
        messages.parse_heartbeat(message)
    except MalformedMessageError:
        return

    fold(hosts.HeartbeatReceived(message=message))


def test_a_start_with_a_fraction_of_a_second_is_a_start() -> None:
    started = tasks.ExecutionStarted(message={**ACCEPTED, "started_at": AT + 0.5}, hostname=HOST)

    assert started.started_at == AT
    fold(started)
