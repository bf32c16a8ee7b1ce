"""Silence has an end: `expired` is said only of what certainly never arrived, `lost` of all else."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.events.envelope import LogName, NewEvent, Outcome
from control_plane.events.tasks import LOST_AFTER_S, Delivery, ExecutionExpired, ExecutionLost
from control_plane.processes.deadlines import BATCH, Deadlines, verdict
from control_plane.projections.queries.tasks import OpenExecution
from control_plane_wire.messages import ALLOWED_SKEW_S
from tests.support.clock import ManualClock
from tests.support.memory_log import MemoryLog

EXPIRES_AT = 1_700_000_600
LAST_START = EXPIRES_AT + ALLOWED_SKEW_S
TIMEOUT_S = 30

NEVER_PUBLISHED = Delivery(5)
CAME_BACK = Delivery(5, returned_seq=5)
CAME_BACK_BEFORE_IT_WAS_ONLINE = Delivery(9, returned_seq=5)
PERHAPS = Delivery(5, may_have_arrived=True)
CAME_BACK_AFTER_PERHAPS = Delivery(9, returned_seq=9, may_have_arrived=True)


def an_execution(delivery: Delivery = PERHAPS, **changes: Any) -> OpenExecution:
    values = {
        "task_id": "t1",
        "hostname": "web1",
        "state": "queued",
        "accepted_seq": 5,
        "running_us": None,
        "expires_at": EXPIRES_AT,
        "timeout_s": TIMEOUT_S,
        "cancel_requested": False,
        "delivery": delivery,
        **changes,
    }
    return OpenExecution(**values)


def outcome(execution: OpenExecution, now_s: int) -> str | None:
    event = verdict(execution, now_s)
    return None if event is None else event.KIND


def test_what_came_back_expires_right_after_the_last_moment_at_which_an_agent_would_start_it() -> None:
    assert outcome(an_execution(CAME_BACK), EXPIRES_AT) is None
    assert outcome(an_execution(CAME_BACK), LAST_START) is None
    assert outcome(an_execution(CAME_BACK), LAST_START + 1) == ExecutionExpired.KIND


@pytest.mark.parametrize(
    "delivery",
    [NEVER_PUBLISHED, CAME_BACK_BEFORE_IT_WAS_ONLINE, PERHAPS, CAME_BACK_AFTER_PERHAPS],
    ids=["no record", "came online since", "perhaps delivered", "came back only later"],
)
def test_what_was_perhaps_delivered_is_lost_after_all_the_time_it_may_have_had_and_never_expired(
    delivery: Delivery,
) -> None:
    last = LAST_START + TIMEOUT_S + LOST_AFTER_S

    assert outcome(an_execution(delivery), LAST_START + 1) is None
    assert outcome(an_execution(delivery), last) is None
    assert outcome(an_execution(delivery), last + 1) == ExecutionLost.KIND


def test_what_was_started_has_its_timeout_from_then_on() -> None:
    started = an_execution(state="running", running_us=(EXPIRES_AT - 500) * 1_000_000)
    last = EXPIRES_AT - 500 + TIMEOUT_S + LOST_AFTER_S

    assert outcome(started, last) is None
    assert outcome(started, last + 1) == ExecutionLost.KIND


def test_what_an_agent_has_taken_may_wait_until_its_expiry_before_it_is_started() -> None:
    taken = an_execution(state="accepted")

    assert outcome(taken, LAST_START + TIMEOUT_S + LOST_AFTER_S) is None
    assert outcome(taken, LAST_START + TIMEOUT_S + LOST_AFTER_S + 1) == ExecutionLost.KIND


def test_the_outcome_names_the_execution_and_says_what_is_known() -> None:
    never = verdict(an_execution(CAME_BACK), LAST_START + 1)
    waited = verdict(an_execution(Delivery(0), is_released=False), LAST_START + 1)
    silent = verdict(an_execution(PERHAPS), LAST_START + 10_000)
    started = verdict(an_execution(PERHAPS, running_us=EXPIRES_AT * 1_000_000), LAST_START + 10_000)

    assert never == ExecutionExpired(
        task_id="t1", hostname="web1", reason="never delivered: nothing reached the host in time"
    )
    assert waited == ExecutionExpired(
        task_id="t1", hostname="web1", reason="never sent: the rollout did not come to it in time"
    )
    assert silent == ExecutionLost(task_id="t1", hostname="web1", reason="no word after it was sent; it may have run")
    assert started == ExecutionLost(
        task_id="t1", hostname="web1", reason="no word after it was started; it may have run"
    )


def test_the_outcome_is_the_same_whenever_it_is_said() -> None:
    execution = an_execution(CAME_BACK)

    assert verdict(execution, LAST_START + 1) == verdict(execution, LAST_START + 99_999)


deliveries = st.builds(Delivery, st.integers(1, 20), st.integers(0, 20), st.booleans())


@given(deliveries, st.none() | st.integers(0, 2 * EXPIRES_AT * 1_000_000), st.integers(0, 2 * EXPIRES_AT))
def test_whatever_may_have_arrived_never_expires(delivery: Delivery, running_us: int | None, now_s: int) -> None:
    event = verdict(an_execution(delivery, running_us=running_us), now_s)

    if delivery.may_have_arrived or delivery.returned_seq < delivery.trigger_seq:
        assert not isinstance(event, ExecutionExpired)
    else:
        assert not isinstance(event, ExecutionLost)


@given(deliveries, st.none() | st.integers(0, EXPIRES_AT * 1_000_000), st.integers(0, EXPIRES_AT * 2))
def test_an_outcome_that_is_due_stays_due(delivery: Delivery, running_us: int | None, now_s: int) -> None:
    execution = an_execution(delivery, running_us=running_us)
    event = verdict(execution, now_s)

    assert event is None or verdict(execution, now_s + 1) == event


# --- the process around it -------------------------------------------------------------------------------------------


@dataclass
class SomeExecutions:
    """The read table of open executions; an outcome in the log closes its row, as the projector would."""

    log: MemoryLog
    rows: list[OpenExecution]

    async def overdue(self, now_s: int, *, limit: int) -> list[OpenExecution]:
        closed = {(row.task_id, row.hostname) for row in self.log.rows}
        open_still = [row for row in self.rows if (row.task_id, row.hostname) not in closed]
        return [row for row in open_still if verdict(row, now_s) is not None][:limit]


class BoundedLog(MemoryLog):
    async def append(self, events: Sequence[NewEvent]) -> list[Outcome]:
        assert 1 <= len(events) <= 500
        return await super().append(events)


@dataclass
class SomeHub:
    is_there: bool = True
    asked: list[int] = field(default_factory=list)

    async def wait_for(self, name: str, event_seq: int, *, timeout_s: float = 2.0) -> bool:
        self.asked.append(event_seq)
        return self.is_there


def deadlines(rows: Collection[OpenExecution], clock: ManualClock, hub: SomeHub) -> tuple[Deadlines, MemoryLog]:
    log = BoundedLog()
    queries = SomeExecutions(log, list(rows))
    process = Deadlines(log, None, hub, queries, clock)  # type: ignore[arg-type] # what `decide` asks of them, no more
    return process, log


def kinds(log: MemoryLog, name: LogName = "event") -> list[tuple[str, str | None]]:
    return [(row.kind, row.hostname) for row in log.rows]


async def test_it_decides_only_on_a_table_that_has_everything_that_is_in_the_log() -> None:
    clock, hub = ManualClock((LAST_START + 1) * 1_000_000), SomeHub(is_there=False)
    process, log = deadlines([an_execution(CAME_BACK)], clock, hub)

    assert await process.decide() == 0
    assert log.rows == []

    hub.is_there = True
    assert await process.decide() == 1
    assert kinds(log) == [(ExecutionExpired.KIND, "web1")]
    assert await process.decide() == 0


async def test_more_than_one_batch_is_said_in_several() -> None:
    gone = [an_execution(CAME_BACK, hostname=f"web{n}") for n in range(2 * BATCH + 1)]
    process, log = deadlines(gone, ManualClock((LAST_START + 1) * 1_000_000), SomeHub())

    while await process.decide():
        pass

    assert len(log.rows) == len(gone)


async def test_the_hosts_own_result_stands_where_it_came_first() -> None:
    process, log = deadlines([an_execution(CAME_BACK)], ManualClock((LAST_START + 1) * 1_000_000), SomeHub())
    first = ExecutionLost(task_id="t1", hostname="web1", reason="somebody was quicker")
    queries = process._queries
    await log.append([first.to_new_event()])
    queries.log = BoundedLog()  # type: ignore[attr-defined] # a table that does not have it yet

    await process.decide()

    assert kinds(log) == [(ExecutionLost.KIND, "web1")]
