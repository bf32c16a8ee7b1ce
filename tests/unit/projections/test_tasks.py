from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.events import hosts, rollouts, tasks
from control_plane.events.event import Event
from control_plane.events.tasks import RANK, TERMINAL
from control_plane.projections.tasks import FIRST_LINE_CHARACTERS, OF_HOSTS, TasksProjection, digest
from control_plane_wire.messages import OUTCOMES
from control_plane_wire.strict_json import Json
from tests.support.clock import START_US
from tests.support.events import ACCEPTED, AT, EXAMPLES, HEARTBEAT, RESULT, TASK, a_task_accepted
from tests.support.fleet import a_registration, host_key
from tests.support.folds import Folded

WEB, DB = "web1", "db1"
TARGETS = (DB, WEB)


class FoldedTasks(Folded):
    """The tasks projection, with one task for db1 and web1 already accepted."""

    def __init__(self) -> None:
        self.tasks = TasksProjection()
        super().__init__(self.tasks)
        self.accepted_seq = self.then(a_task_accepted(hosts=TARGETS))

    @property
    def task(self) -> dict[str, Any]:
        return self.row(self.tasks.task, TASK)

    def execution(self, hostname: str = WEB) -> dict[str, Any]:
        return self.row(self.tasks.execution, TASK, hostname)


@pytest.fixture
def folded() -> FoldedTasks:
    return FoldedTasks()


def sent(hostname: str = WEB) -> Event:
    return tasks.ExecutionSent(task_id=TASK, hostname=hostname, route="cmd.node")


def accepted(hostname: str = WEB) -> Event:
    return tasks.ExecutionAccepted(hostname=hostname, message=ACCEPTED)


def started(hostname: str = WEB, at: int = AT) -> Event:
    return tasks.ExecutionStarted(hostname=hostname, message={**ACCEPTED, "started_at": at})


def finished(hostname: str = WEB, **result: Json) -> Event:
    return tasks.ExecutionFinished(hostname=hostname, message={**RESULT, **result})


def late(hostname: str = WEB, **result: Json) -> Event:
    return tasks.ExecutionLateResult(hostname=hostname, message={**RESULT, **result})


def lost(hostname: str = WEB) -> Event:
    return tasks.ExecutionLost(task_id=TASK, hostname=hostname, reason="no word from the agent")


def came_back(hostname: str = WEB, trigger_seq: int = 1) -> Event:
    return tasks.ExecutionReturned(task_id=TASK, hostname=hostname, trigger_seq=trigger_seq)


def cancelled(hostname: str = WEB) -> Event:
    return tasks.ExecutionCancelled(task_id=TASK, hostname=hostname, reason="cancelled before it was sent")


def cancel() -> Event:
    return tasks.TaskCancelRequested(task_id=TASK, actor="ada")


# --- a task, from its acceptance to its end


def test_an_accepted_task_runs_and_all_its_hosts_are_queued(folded: FoldedTasks) -> None:
    assert folded.task["state"] == "running"
    assert folded.task["outcome"] is None
    assert folded.task["targets"] == 2
    assert folded.task["counts"] == {"queued": 2}
    assert [(row["hostname"], row["state"], row["is_open"]) for row in folded.rows(folded.tasks.execution)] == [
        (DB, "queued", 1),
        (WEB, "queued", 1),
    ]


def test_a_task_keeps_what_was_asked_who_asked_and_what_the_guard_said(folded: FoldedTasks) -> None:
    task = folded.task

    assert task["request"]["command"] == "uptime -p"
    assert (task["actor"], task["timeout_s"], task["guard_level"]) == ("ada", 30, 3)
    assert (task["accepted_us"], task["expires_at"]) == (START_US, AT + 600)


def test_an_execution_goes_through_its_states_in_order_and_says_when(folded: FoldedTasks) -> None:
    seen = []
    for second, event in enumerate((sent(), accepted(), started(at=AT + 7), finished()), start=1):
        folded.then(event, at_s=second)
        seen.append(folded.execution()["state"])

    assert seen == ["sent", "accepted", "running", "succeeded"]
    execution = folded.execution()
    assert execution["queued_us"] == START_US
    assert execution["sent_us"] == START_US + 1_000_000
    assert execution["accepted_us"] == START_US + 2_000_000
    assert execution["started_us"] == (AT + 7) * 1_000_000, "by the host's clock"
    assert execution["running_us"] == START_US + 3_000_000, "by the control plane's"
    assert execution["finished_us"] == START_US + 4_000_000
    assert execution["is_open"] == 0
    assert folded.execution(DB)["state"] == "queued"


@pytest.mark.parametrize(
    ("event", "state", "reason"),
    [
        (finished(exit_code=3), "failed", None),
        (finished(exit_code=None, outcome="timed_out", reason="after 30 s"), "timed_out", "after 30 s"),
        (finished(exit_code=None, outcome="cancelled"), "cancelled", None),
        (finished(exit_code=None, outcome="rejected", reason="policy"), "rejected", "policy"),
        (finished(exit_code=None, outcome="interrupted"), "interrupted", None),
        (lost(), "lost", "no word from the agent"),
        (cancelled(), "cancelled", "cancelled before it was sent"),
        (tasks.ExecutionExpired(task_id=TASK, hostname=WEB, reason="not reachable"), "expired", "not reachable"),
        (tasks.ExecutionSkipped(task_id=TASK, hostname=WEB, reason="offline"), "skipped", "offline"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_end_has_its_state_and_its_reason(
    folded: FoldedTasks, event: Event, state: str, reason: str | None
) -> None:
    folded.then(event, at_s=5)

    execution = folded.execution()
    assert (execution["state"], execution["reason"]) == (state, reason)
    assert (execution["is_open"], execution["finished_us"]) == (0, START_US + 5_000_000)
    assert folded.task["counts"] == {"queued": 1, state: 1}


def test_a_task_is_finished_with_its_last_host_and_not_before(folded: FoldedTasks) -> None:
    folded.then(sent(), finished(WEB), at_s=1)
    assert (folded.task["state"], folded.task["finished_us"]) == ("running", None)

    folded.then(finished(DB), at_s=2)
    assert (folded.task["state"], folded.task["outcome"]) == ("finished", "succeeded")
    assert folded.task["finished_us"] == START_US + 2_000_000
    assert folded.task["counts"] == {"succeeded": 2}


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([finished(WEB), finished(DB)], "succeeded"),
        ([finished(WEB), finished(DB, exit_code=1)], "failed"),
        ([finished(WEB), lost(DB)], "failed"),
        ([finished(WEB), cancelled(DB)], "failed"),  # nobody asked for that
        ([cancel(), cancelled(WEB), cancelled(DB)], "cancelled"),
        ([cancel(), finished(WEB), cancelled(DB)], "cancelled"),
        ([cancel(), finished(WEB), finished(DB)], "succeeded"),  # it came too late
        ([cancel(), cancelled(WEB), finished(DB, exit_code=1)], "failed"),
        ([cancel(), cancelled(WEB), lost(DB)], "failed"),
    ],
)
def test_the_outcome_of_a_task_is_told_from_those_of_its_hosts(
    folded: FoldedTasks, events: list[Event], outcome: str
) -> None:
    folded.then(*events)

    assert (folded.task["state"], folded.task["outcome"]) == ("finished", outcome)


def test_a_task_that_is_to_be_cancelled_says_so_until_its_hosts_have_ended(folded: FoldedTasks) -> None:
    folded.then(cancel(), at_s=1)
    assert (folded.task["state"], folded.task["cancel_requested_us"]) == ("cancelling", START_US + 1_000_000)

    folded.then(sent())
    assert folded.task["state"] == "cancelling"


def test_cancelling_a_finished_task_changes_nothing(folded: FoldedTasks) -> None:
    folded.then(finished(WEB), finished(DB))
    before = folded.task

    folded.then(cancel())

    assert folded.task == before


# --- what comes late, twice, or in the wrong order


@pytest.mark.parametrize("early", [accepted(), started(), finished()], ids=lambda event: event.KIND)
def test_sent_after_a_word_from_the_host_moves_nothing_back(folded: FoldedTasks, early: Event) -> None:
    folded.then(early)
    state = folded.execution()["state"]

    folded.then(sent())

    assert folded.execution()["state"] == state


def test_accepted_after_started_fills_its_time_in_and_moves_nothing_back(folded: FoldedTasks) -> None:
    folded.then(started())
    seq = folded.then(accepted(), at_s=3)

    execution = folded.execution()
    assert (execution["state"], execution["accepted_us"], execution["pos"]) == ("running", START_US + 3_000_000, seq)
    assert folded.task["counts"] == {"queued": 1, "running": 1}


@pytest.mark.parametrize(
    "after",
    [sent(), accepted(), started(), finished(exit_code=1), lost(), cancelled()],
    ids=lambda event: event.KIND,
)
def test_nothing_but_evidence_is_written_to_a_terminal_execution(folded: FoldedTasks, after: Event) -> None:
    folded.then(finished())
    before, task = folded.execution(), folded.task

    folded.then(after, at_s=9)

    assert (folded.execution(), folded.task) == (before, task)


def test_a_late_result_stands_beside_the_outcome_and_does_not_change_it(folded: FoldedTasks) -> None:
    folded.then(sent(), lost())
    task = folded.task

    seq = folded.then(late(exit_code=3))

    execution = folded.execution()
    assert execution["late"] == {"seq": seq, "outcome": "failed", "exit_code": 3}
    assert (execution["state"], execution["exit_code"], execution["result_seq"]) == ("lost", None, None)
    assert execution["pos"] == seq
    assert folded.task == task


def test_a_word_from_a_host_that_was_not_asked_changes_nothing(folded: FoldedTasks) -> None:
    before = folded.rows(folded.tasks.execution)

    folded.then(finished("stranger"))
    folded.then(tasks.ExecutionFinished(hostname=WEB, message={**RESULT, "task_id": "no-such-task"}))
    folded.then(tasks.TaskCancelRequested(task_id="no-such-task", actor="ada"))

    assert folded.rows(folded.tasks.execution) == before
    assert len(folded.rows(folded.tasks.task)) == 1


# --- what is known of a result


def test_a_result_is_kept_as_sizes_digests_and_a_first_line(folded: FoldedTasks) -> None:
    seq = folded.then(finished(stdout="\n  erste Zeile ü \nzweite", stderr="oops", exit_code=4))

    execution = folded.execution()
    assert (execution["result_seq"], execution["exit_code"]) == (seq, 4)
    assert execution["stdout_bytes"] == len("\n  erste Zeile ü \nzweite".encode())
    assert execution["stderr_bytes"] == 4
    assert execution["stdout_sha256"] == digest("\n  erste Zeile ü \nzweite")
    assert execution["first_line"] == "erste Zeile ü ".encode()
    assert execution["truncated"] == 0


def test_what_the_agent_says_of_cut_output_is_believed(folded: FoldedTasks) -> None:
    sha = "ab" * 32
    folded.then(finished(stdout="head", stdout_bytes=9_000_000, stdout_sha256=sha, truncated=True))

    execution = folded.execution()
    assert (execution["stdout_bytes"], execution["stdout_sha256"], execution["truncated"]) == (9_000_000, sha, 1)


def test_the_first_line_is_that_of_stderr_where_nothing_else_was_printed_and_short(folded: FoldedTasks) -> None:
    folded.then(finished(stdout=" \n", stderr="x" * 1000))

    assert folded.execution()["first_line"] == b"x" * FIRST_LINE_CHARACTERS


def test_output_that_is_no_text_has_no_first_line(folded: FoldedTasks) -> None:
    folded.then(finished(stdout="AAEC/w==", encoding="base64"))

    assert folded.execution()["first_line"] is None


def test_a_result_alone_tells_when_it_was_started(folded: FoldedTasks) -> None:
    folded.then(finished(started_at=AT + 2))

    assert folded.execution()["started_us"] == (AT + 2) * 1_000_000


# --- what is known of a delivery


@pytest.mark.parametrize(
    ("event", "may_have_arrived"),
    [
        (sent(), 1),
        (accepted(), 1),
        (started(), 1),
        (finished(), 1),
        (tasks.ExecutionUnconfirmed(task_id=TASK, hostname=WEB), 1),
        (tasks.ExecutionReturned(task_id=TASK, hostname=WEB, trigger_seq=1), 0),
        (tasks.ExecutionExpired(task_id=TASK, hostname=WEB, reason="late"), 0),
    ],
)
def test_a_command_may_have_arrived_once_a_publish_was_not_returned(
    folded: FoldedTasks, event: Event, may_have_arrived: int
) -> None:
    folded.then(event)
    assert folded.execution()["may_have_arrived"] == may_have_arrived

    folded.then(tasks.ExecutionReturned(task_id=TASK, hostname=WEB, trigger_seq=7))
    assert folded.execution()["may_have_arrived"] == may_have_arrived, "it stays"


@pytest.mark.parametrize(("after_seq", "arrived_seq"), [(None, 4), (3, 3)], ids=["as recorded", "as known"])
def test_a_command_has_arrived_first_when_that_was_published_which_may_have(
    folded: FoldedTasks, after_seq: int | None, arrived_seq: int
) -> None:
    folded.then(came_back(), came_back(trigger_seq=2))
    assert folded.execution()["arrived_seq"] == 0

    folded.then(tasks.ExecutionUnconfirmed(task_id=TASK, hostname=WEB, after_seq=after_seq))
    assert folded.execution()["arrived_seq"] == arrived_seq
    folded.then(tasks.ExecutionSent(task_id=TASK, hostname=WEB, route="cmd.node", after_seq=4))
    assert folded.execution()["arrived_seq"] == arrived_seq, "it stays"


def test_the_newest_trigger_whose_publish_came_back_is_kept_whatever_the_order(folded: FoldedTasks) -> None:
    for trigger_seq in (5, 9, 7):
        folded.then(tasks.ExecutionReturned(task_id=TASK, hostname=WEB, trigger_seq=trigger_seq))

    assert folded.execution()["returned_seq"] == 9
    assert folded.execution()["state"] == "queued"


def test_silence_means_nothing_until_the_deadline_that_what_is_known_gives(folded: FoldedTasks) -> None:
    last_start = AT + 600 + 120
    assert folded.execution()["deadline_s"] == last_start + 30 + 180, "perhaps published, and nobody has said so"

    seen = []
    for second, event in enumerate((came_back(), sent(), started(at=AT - 9999), came_back(), lost()), start=10):
        folded.then(event, at_s=second)
        seen.append(folded.execution()["deadline_s"])

    running = AT + 12 + 30 + 180
    assert seen == [last_start, last_start + 30 + 180, running, running, running]


def test_the_last_time_that_a_host_came_online_is_kept_for_those_that_wait_for_it(folded: FoldedTasks) -> None:
    for heartbeat_seq in (11, 12):
        online = hosts.HostWentOnline(hostname=WEB, heartbeat_seq=heartbeat_seq, heartbeat=HEARTBEAT, cause="heard")
        seq = folded.then(online)

    assert folded.row(folded.tasks.online, WEB)["online_seq"] == seq


# --- positions


def test_a_rows_pos_is_the_last_event_that_changed_it(folded: FoldedTasks) -> None:
    seq = folded.then(sent())
    assert (folded.task["pos"], folded.execution()["pos"]) == (seq, seq)
    assert folded.execution(DB)["pos"] == folded.accepted_seq

    unconfirmed = tasks.ExecutionUnconfirmed(task_id=TASK, hostname=DB)
    assert folded.then(unconfirmed) == folded.execution(DB)["pos"]
    assert folded.task["pos"] == seq, "no count has changed"

    folded.then(unconfirmed)
    assert folded.execution(DB)["pos"] == seq + 1, "it said nothing new"


# --- laws


RESULTS = st.builds(
    lambda outcome, exit_code: finished(outcome=outcome, exit_code=exit_code).message,  # type: ignore[attr-defined]
    st.sampled_from(sorted(OUTCOMES - {"completed"})) | st.none(),
    st.sampled_from([0, 1, 143]),
)
HOSTS = st.sampled_from([*TARGETS, "stranger"])
OF_HOST = (
    st.builds(sent, HOSTS)
    | st.builds(accepted, HOSTS)
    | st.builds(started, HOSTS)
    | st.builds(lambda hostname, message: tasks.ExecutionFinished(hostname=hostname, message=message), HOSTS, RESULTS)
    | st.builds(lambda hostname, message: tasks.ExecutionLateResult(hostname=hostname, message=message), HOSTS, RESULTS)
    | st.builds(lost, HOSTS)
    | st.builds(cancelled, HOSTS)
    | st.builds(lambda name: tasks.ExecutionSkipped(task_id=TASK, hostname=name, reason="offline"), HOSTS)
    | st.builds(lambda name: tasks.ExecutionExpired(task_id=TASK, hostname=name, reason="late"), HOSTS)
    | st.builds(lambda name, n: tasks.ExecutionReturned(task_id=TASK, hostname=name, trigger_seq=n), HOSTS, st.just(4))
    | st.builds(lambda name: tasks.ExecutionUnconfirmed(task_id=TASK, hostname=name), HOSTS)
)


@given(st.lists(OF_HOST | st.just(cancel()), max_size=25))
def test_whatever_comes_in_whatever_order_the_laws_of_tasks_hold(events: list[Event]) -> None:
    folded = FoldedTasks()
    for event in events:
        before = {row["hostname"]: row for row in folded.rows(folded.tasks.execution)}
        task = folded.task

        folded.then(event)

        after = {row["hostname"]: row for row in folded.rows(folded.tasks.execution)}
        assert after.keys() == before.keys() == set(TARGETS)
        states = Counter(row["state"] for row in after.values())
        assert folded.task["counts"] == states, "the counts are those of the executions"
        assert sum(folded.task["counts"].values()) == folded.task["targets"] == 2
        for name, row in after.items():
            assert_is_legal(before[name], row)
        all_ended = all(row["state"] in TERMINAL for row in after.values())
        assert (folded.task["state"] == "finished") == all_ended == (folded.task["outcome"] is not None)
        if task["state"] == "finished":
            assert folded.task == task


def assert_is_legal(before: dict[str, Any], after: dict[str, Any]) -> None:
    """No state goes backwards, a terminal one stays with all that was said of it, and no position goes back."""
    assert RANK[after["state"]] >= RANK[before["state"]]
    assert after["is_open"] == (after["state"] not in TERMINAL)
    assert after["may_have_arrived"] >= before["may_have_arrived"]
    assert after["pos"] >= before["pos"]
    assert (after == before) == (after["pos"] == before["pos"])
    if before["state"] in TERMINAL:
        beside = {"late", "may_have_arrived", "arrived_seq", "returned_seq", "pos"}
        assert {**after, **dict.fromkeys(beside)} == {**before, **dict.fromkeys(beside)}


@given(st.lists(OF_HOST, max_size=15), st.integers(0, 15))
def test_an_event_that_comes_twice_counts_once(events: list[Event], at: int) -> None:
    once, twice = FoldedTasks(), FoldedTasks()
    for number, event in enumerate(events):
        once.then(event)
        twice.then(*[event] * (2 if number == at else 1))

    def states(folded: FoldedTasks) -> list[str]:
        return [row["state"] for row in folded.rows(folded.tasks.execution)]

    assert states(once) == states(twice)
    assert once.task["counts"] == twice.task["counts"]


def test_what_a_host_was_called_for_last_is_its_coming_online_or_the_end_of_its_quarantine() -> None:
    folded = FoldedTasks()

    def of_host() -> tuple[int | None, int, int]:
        row = folded.row(folded.tasks.online, WEB)
        return row["online_seq"], row["called_seq"], row["quarantined_seq"]

    folded.then(hosts.HostQuarantineLifted(hostname=WEB, based_on=1, reason="restored"))
    assert of_host() == (None, 2, 0)
    folded.then(hosts.HostWentOnline(hostname=WEB, heartbeat_seq=1, heartbeat={}, cause="a test"))
    assert of_host() == (3, 3, 0)
    folded.then(hosts.HostQuarantineLifted(hostname=WEB, based_on=2, reason="restored"))
    assert of_host() == (3, 4, 0)
    kept = next(event for event in EXAMPLES if isinstance(event, hosts.HostQuarantined))
    folded.then(replace(kept, hostname=WEB))
    assert of_host() == (3, 4, 5)
    folded.then(hosts.HostQuarantineLifted(hostname=WEB, based_on=3, reason="restored"))
    assert of_host() == (3, 6, 5)
    assert folded.row(folded.tasks.online, WEB)["called_before_seq"] == 4


def test_a_quarantine_of_the_machine_that_had_the_name_before_is_none_of_the_next_one() -> None:
    folded = FoldedTasks()
    kept = next(event for event in EXAMPLES if isinstance(event, hosts.HostQuarantined))
    folded.then(a_registration(WEB), replace(kept, hostname=WEB, key_id="another"))
    assert folded.row(folded.tasks.online, WEB)["quarantined_seq"] == 0

    folded.then(replace(kept, hostname=WEB, key_id=host_key(WEB).key_id))
    assert folded.row(folded.tasks.online, WEB)["quarantined_seq"] == 4


def test_events_of_other_nouns_change_no_row_of_tasks() -> None:
    folded = FoldedTasks()
    before = [folded.rows(table) for table in folded.tasks.tables]

    folded.then(
        *(
            event
            for event in EXAMPLES
            if not event.KIND.startswith(("task.", "execution.")) and event.KIND not in OF_HOSTS
        )
    )

    assert [folded.rows(table) for table in folded.tasks.tables] == before


# --- pause, resume, rollouts

TURN = {"task_id": TASK, "actor": "ada", "based_on": 1}
PAUSED = rollouts.TaskPaused(**TURN)  # type: ignore[arg-type]
RESUMED = rollouts.TaskResumed(**TURN)  # type: ignore[arg-type]
STOPPED = rollouts.TaskRolloutStopped(task_id=TASK, failed=1, targets=2, max_errors=0)
CANCEL = tasks.TaskCancelRequested(task_id=TASK, actor="ada")


def released(hostname: str = WEB) -> Event:
    return rollouts.ExecutionReleased(task_id=TASK, hostname=hostname)


@pytest.fixture
def rollout() -> FoldedTasks:
    """The same task, with a rollout."""
    made = FoldedTasks()
    made.accepted_seq = made.then(a_task_accepted(hosts=TARGETS, rollout={"max_concurrency": 1, "max_errors": 0}))
    return made


def test_a_task_is_paused_and_resumed(folded: FoldedTasks) -> None:
    seq = folded.then(PAUSED)
    assert (folded.task["state"], folded.task["turned_seq"], folded.task["pos"]) == ("paused", seq, seq)
    seq = folded.then(RESUMED)
    assert (folded.task["state"], folded.task["turned_seq"], folded.task["pos"]) == ("running", seq, seq)
    assert folded.task["approval_seq"] is None


def test_a_paused_task_is_cancelled_and_finishes(folded: FoldedTasks) -> None:
    folded.then(PAUSED, finished(), CANCEL)
    assert folded.task["state"] == "cancelling"
    folded.then(PAUSED, RESUMED)
    assert folded.task["state"] == "cancelling"
    folded.then(finished(DB))
    assert folded.task["state"] == "finished"
    folded.then(PAUSED, RESUMED, STOPPED)
    assert (folded.task["state"], folded.task["stopped"]) == ("finished", None)


def test_the_last_pause_for_an_approval_is_remembered(rollout: FoldedTasks) -> None:
    seq = rollout.then(rollouts.TaskPaused(**TURN, awaits="approval"))  # type: ignore[arg-type]
    rollout.then(RESUMED, PAUSED, RESUMED)
    assert rollout.task["approval_seq"] == seq


def test_an_approval_that_nobody_asked_for_is_remembered_and_pauses_nothing(rollout: FoldedTasks) -> None:
    seq = rollout.then(rollouts.TaskApproved(task_id=TASK, actor="ada"))
    assert (rollout.task["approval_seq"], rollout.task["pos"], rollout.task["state"]) == (seq, seq, "running")
    rollout.then(rollouts.TaskApproved(task_id=TASK, actor="eve"), PAUSED, RESUMED)
    assert rollout.task["approval_seq"] == seq


def test_without_a_rollout_everything_is_released_by_the_acceptance(folded: FoldedTasks) -> None:
    assert folded.task["released"] == 2
    assert folded.execution()["released_seq"] == folded.accepted_seq
    folded.then(sent())
    assert folded.task["released"] == 2


def test_a_rollout_releases_one_after_another_and_until_then_silence_means_that_it_was_not_sent(
    rollout: FoldedTasks,
) -> None:
    assert (rollout.task["released"], rollout.execution()["released_seq"]) == (0, 0)
    assert rollout.execution()["deadline_s"] == AT + 600 + 120

    seq = rollout.then(released())
    assert (rollout.task["released"], rollout.task["pos"]) == (1, seq)
    assert (rollout.execution()["released_seq"], rollout.execution(DB)["released_seq"]) == (seq, 0)
    assert rollout.execution()["deadline_s"] == AT + 600 + 120 + 30 + 180
    rollout.then(released())
    assert (rollout.task["released"], rollout.execution()["released_seq"]) == (1, seq)


def test_what_its_agent_has_is_released_whatever_the_log_has_lost(rollout: FoldedTasks) -> None:
    seq = rollout.then(accepted())
    assert (rollout.task["released"], rollout.execution()["released_seq"]) == (1, seq)


@pytest.mark.parametrize("turn", [STOPPED, CANCEL], ids=["stopped", "cancelled"])
def test_nothing_is_released_once_it_has_stopped_or_is_cancelled(rollout: FoldedTasks, turn: Event) -> None:
    rollout.then(turn, released())
    assert (rollout.task["released"], rollout.execution()["released_seq"]) == (0, 0)


def test_why_it_has_stopped_is_told_and_stays(rollout: FoldedTasks) -> None:
    rollout.then(STOPPED, rollouts.TaskRolloutStopped(task_id=TASK, failed=2, targets=2, max_errors=0))
    assert rollout.task["stopped"] == "rollout stopped: 1 of 2 failed, at most 0 may"
    rollout.then(tasks.ExecutionSkipped(task_id=TASK, hostname=WEB, reason="x"), released())
    assert rollout.task["released"] == 0
