"""What a task has come to: exit status, groups, tables and lines, in forms that programs and people hold on to."""

import io
import json
from typing import Any

import pytest

from control_plane.events.tasks import STATES
from cpctl import report, states
from cpctl.client import Client
from cpctl.errors import CANCELLED, HOST_FAILED, NO_ANSWER, OK
from cpctl.follow import Task


def task_row(**counts: int) -> dict[str, Any]:
    return {
        "task_id": "t1",
        "state": "finished",
        "outcome": "failed",
        "cancel_requested_at": None,
        "targets": sum(counts.values()),
        "counts": counts,
    }


def execution(hostname: str, state: str, **more: object) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(
        ("exit_code", "reason", "sent_at", "accepted_at", "started_at", "finished_at", "first_line"), None
    )
    return {**row, "task_id": "t1", "hostname": hostname, "state": state, "pos": 1, **more}


def a_task(*executions: dict[str, Any]) -> Task:
    task = Task(Client("http://127.0.0.1:1", "token"), "t1")
    task.executions = {row["hostname"]: row for row in executions}
    return task


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        ({"succeeded": 3}, OK),
        ({"succeeded": 3, "failed": 1, "lost": 1}, HOST_FAILED),
        ({"succeeded": 3, "lost": 1}, NO_ANSWER),
        ({"succeeded": 3, "expired": 1}, NO_ANSWER),
        ({"succeeded": 3, "skipped": 1}, NO_ANSWER),
        ({"succeeded": 3, "running": 1}, NO_ANSWER),
        ({"rejected": 1}, HOST_FAILED),
        ({"timed_out": 1}, HOST_FAILED),
        ({"interrupted": 1}, HOST_FAILED),
    ],
)
def test_who_did_not_answer_is_never_folded_into_another_outcome(counts: dict[str, int], status: int) -> None:
    assert report.status_of(task_row(**counts), counts) == status


def test_a_cancelled_task_says_so_before_all_else() -> None:
    counts = {"cancelled": 1, "failed": 1}
    row = {**task_row(**counts), "cancel_requested_at": "2026-11-26T10:00:00Z"}

    assert report.status_of(row, counts) == CANCELLED


def test_every_state_of_the_server_has_an_answer_here() -> None:
    assert set(states.ANSWER) == set(STATES)


def test_the_summary_adds_up_and_says_how_to_try_again() -> None:
    said = report.summary(task_row(succeeded=93, failed=2, lost=2, expired=1))

    assert said == (
        "93 succeeded, 2 failed, 3 did not answer, 98 targets · task t1"
        " · retry: cpctl tasks retry t1 --state failed,lost,expired"
    )


def test_the_groups_name_the_majority_first_and_the_silent_ones_last() -> None:
    def group(state: str, exit_code: int | None, *hosts: str, stdout: bytes | None = None) -> report.Group:
        return report.Group(state, exit_code, hosts, {"stdout": stdout, "stderr": None}, truncated=False)

    found = [
        group("succeeded", 0, "web1", "web2", stdout=b"active\n"),
        group("failed", 3, "web3", stdout=b"inactive"),
        group("lost", None, "web4"),
    ]
    task = a_task(
        execution("web3", "failed"),
        execution("web4", "lost", sent_at="2026-11-26T10:42:00Z", reason="no word by 10:54:00"),
    )
    out = io.TextIOWrapper(raw := io.BytesIO(), encoding="utf-8")

    report.write_groups(out, found, task)

    lines = raw.getvalue().decode().splitlines()
    assert lines[:-1] == ["== web[1-2] (2) · exit 0", "active", "== web3 · failed, exit 3", "inactive"]
    assert lines[-1].startswith("== web4 · DID NOT ANSWER: lost · sent at ")
    assert lines[-1].endswith(" · not accepted · no word by 10:54:00 · may have run")


def test_the_difference_is_told_to_the_lowest_exit_code_then_to_most_hosts() -> None:
    def group(exit_code: int, stdout: bytes, *hosts: str) -> report.Group:
        return report.Group("failed", exit_code, hosts, {"stdout": stdout, "stderr": None}, truncated=False)

    few, many, worse = (
        group(0, b"a\nb\n", "db1"),
        group(0, b"a\nc\n", "web1", "web2"),
        group(1, b"a\n", "x1", "x2", "x3"),
    )
    out = io.TextIOWrapper(raw := io.BytesIO(), encoding="utf-8")

    assert report.reference([few, many, worse]) is many
    report.write_groups(out, [worse, many], a_task(), diff=True)

    shown = raw.getvalue().decode()
    assert "--- web[1-2]\n+++ x[1-3]\n@@ -1,2 +1 @@\n a\n-c\n" in shown
    assert "== web[1-2] (2) · failed, exit 0\na\nc\n" in shown


def test_lines_have_one_for_each_target_whatever_became_of_it() -> None:
    running, done = execution("web2", "running"), execution("web1", "succeeded", exit_code=0)
    task = a_task(done, running)
    task.row = {**task_row(succeeded=1, running=1), "state": "running"}
    lines = report.Lines(out := io.StringIO())

    lines.tell(done)
    lines.tell(done)
    lines.tell(running)
    lines.end(task)

    told = [json.loads(text) for text in out.getvalue().splitlines()]
    assert [(one["type"], one.get("hostname"), one["final"]) for one in told] == [
        ("execution", "web1", True),
        ("execution", "web2", False),
        ("task", None, False),
    ]


def test_the_table_has_the_silent_ones_last_with_what_is_known() -> None:
    lines = report.as_table(
        [
            execution("a1", "expired", reason="offline since 09:58"),
            execution(
                "b1",
                "succeeded",
                exit_code=0,
                accepted_at="2026-11-26T10:00:00Z",
                finished_at="2026-11-26T10:00:02.5Z",
                first_line="\x1b[31mhi",
            ),
        ]
    )

    assert lines == [
        "HOST  STATE      EXIT  SECONDS  FIRST LINE",
        "b1    succeeded  0     2.5      hi",
        "a1    expired    -     -        never delivered · offline since 09:58 · did not run",
    ]
