"""The line that says how far a task is: each answer with a fill and a word of its own."""

import io
from typing import Any

from cpctl.client import Client
from cpctl.follow import Task
from cpctl.progress import Progress


class Stream(io.StringIO):
    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


def text_of(counts: dict[str, int], *, encoding: str = "utf-8", elapsed_s: float = 3.0, **more: Any) -> str:
    task = Task(Client("http://127.0.0.1:1", None), "t1")
    task.row = {
        "counts": counts,
        "targets": sum(counts.values()),
        "state": "running",
        "awaits_approval": False,
        "accepted_at": "2026-11-26T10:00:00Z",
        "expires_at": "2999-01-01T00:00:00Z",
        **more,
    }
    number = 0
    for state, count in counts.items():
        for _ in range(count):
            number += 1
            task.executions[f"web{number:02}"] = {"hostname": f"web{number:02}", "state": state}
    return Progress(task, Stream(encoding)).text(elapsed_s)


def test_every_answer_has_its_place_however_few_gave_it() -> None:
    shown = text_of({"succeeded": 93, "failed": 2, "lost": 1, "sent": 1, "running": 1})

    assert shown == "[████████████████x?▒·]  96/98  93 ok  2 failed  1 no answer  1 running  1 waiting  0:03  0 s left"


def test_without_utf_8_it_is_ascii() -> None:
    assert text_of({"succeeded": 1, "sent": 1}, encoding="ascii").isascii()


def test_who_is_offline_is_named_and_until_when_it_waits() -> None:
    shown = text_of({"succeeded": 2, "queued": 7})

    assert shown.endswith("web[03-07] … offline, waiting until 2999-01-01 00:00 · Ctrl-C detaches")


def test_a_pause_and_an_approval_are_said_in_place_of_a_guess() -> None:
    assert text_of({"succeeded": 1, "queued": 9}, state="paused").endswith("  paused")
    assert text_of({"succeeded": 1, "queued": 9}, state="paused", awaits_approval=True).endswith("after its canary")
