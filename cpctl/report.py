"""What a task has come to, on stdout: grouped for people, a table, or JSON for programs. Nothing else goes there."""

import base64
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TextIO

from cpctl import states
from cpctl.client import Client, quoted
from cpctl.errors import CANCELLED, HOST_FAILED, NO_ANSWER, OK
from cpctl.follow import Task
from cpctl.text import fold, line, plural, printable, table

STREAMS: Final = ("stdout", "stderr")
RANGE: Final = 262_144
RETRIED: Final = ("failed", "timed_out", "lost", "interrupted", "rejected", "expired", "skipped", "cancelled")
SUMMED: Final = {states.WORKED: "succeeded", states.SILENT: "did not answer"}
TABLE: Final = ("HOST", "STATE", "EXIT", "SECONDS", "FIRST LINE")


@dataclass(frozen=True, slots=True)
class Group:
    """Hosts whose state, exit code and output are the same. `data`: by stream, None where nothing has come of it."""

    state: str
    exit_code: int | None
    hosts: Sequence[str]
    data: Mapping[str, bytes | None]
    truncated: bool

    @property
    def answer(self) -> str:
        return states.answer_of(self.state)


def status_of(task: Mapping[str, Any], counts: Mapping[str, int]) -> int:
    """The exit status for what a task has come to; one that is not over has hosts that did not answer."""
    answers = states.answers(counts)
    if task["outcome"] == "cancelled" or (answers[states.CANCELLED] and task["cancel_requested_at"]):
        return CANCELLED
    if answers[states.FAILED]:
        return HOST_FAILED
    if answers[states.WORKED] < sum(counts.values()):
        return NO_ANSWER
    return OK


def summary(task: Mapping[str, Any]) -> str:
    """`93 succeeded, 2 failed, 3 did not answer, 98 targets · task 0198f2… · retry: cpctl tasks retry …`."""
    counts = task["counts"]
    said = [f"{count:,} {SUMMED.get(answer, answer)}" for answer, count in states.answers(counts).items() if count]
    parts = [f"{', '.join(said)}, {plural(task['targets'], 'target')}", f"task {task['task_id']}"]
    again = [state for state in RETRIED if counts.get(state)]
    if again and task["state"] == "finished":
        parts.append(f"retry: cpctl tasks retry {task['task_id']} --state {','.join(again)}")
    return " · ".join(parts)


# --- for programs -----------------------------------------------------------------------------------------------------


def write_json(out: TextIO, value: object) -> None:
    out.write(json.dumps(value, ensure_ascii=False) + "\n")
    out.flush()


class Lines:
    """`jsonl`: a line for each host as it ends, and at the end one for each that has not, and one for the task."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._told: set[str] = set()

    def tell(self, execution: Mapping[str, Any], *, final: bool = True) -> None:
        hostname = execution["hostname"]
        if hostname in self._told or (final and states.is_open(execution["state"])):
            return
        self._told.add(hostname)
        write_json(self._out, {"type": "execution", "final": final, **execution})

    def end(self, task: Task) -> None:
        for execution in task.executions.values():
            self.tell(execution)
        for execution in task.executions.values():
            self.tell(execution, final=False)
        write_json(self._out, {"type": "task", "final": task.is_finished(), **task.row})


def as_json(task: Task) -> dict[str, Any]:
    return {"task": task.row, "executions": [task.executions[name] for name in sorted(task.executions)]}


# --- for people -------------------------------------------------------------------------------------------------------


def as_table(executions: Iterable[Mapping[str, Any]]) -> list[str]:
    """Those who did not answer come last, with what is known of them."""

    def rank(row: Mapping[str, Any]) -> tuple[bool, str]:
        return (states.answer_of(row["state"]) == states.SILENT, row["hostname"])

    return table((_cells(row) for row in sorted(executions, key=rank)), TABLE)


def _cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    is_silent = states.answer_of(row["state"]) == states.SILENT
    said = _why(row) if is_silent or row["state"] == "rejected" else printable(row["first_line"] or "")
    return (row["hostname"], row["state"], "-" if row["exit_code"] is None else row["exit_code"], _seconds(row), said)


def _seconds(row: Mapping[str, Any]) -> str:
    began = row["accepted_at"] or row["sent_at"]
    if not (row["finished_at"] and began):
        return "-"
    took = datetime.fromisoformat(row["finished_at"]) - datetime.fromisoformat(began)
    return f"{max(0.0, took.total_seconds()):.1f}"


async def groups(client: Client, task: Task) -> list[Group]:
    """By outcome and output, the majority first and those who did not answer last."""
    path = f"/tasks/{quoted(task.task_id)}"
    answer = await client.get(f"{path}/outputs", min_seq=task.row["pos"])
    found = [await _group(client, path, group) for group in answer["groups"]]
    return sorted(found, key=lambda group: (group.answer == states.SILENT, -len(group.hosts), group.hosts[0]))


async def _group(client: Client, path: str, group: Mapping[str, Any]) -> Group:
    data: dict[str, bytes | None] = {}
    truncated = group["truncated"]
    for stream in STREAMS:
        text = group[stream]
        if text is None and group["stdout_sha256"] is not None:  # too many groups to be told at once
            where = f"{path}/executions/{quoted(group['hosts'][0])}/output"
            part = await client.get(where, stream=stream, limit=RANGE)
            truncated |= part["truncated"] or part["next_offset"] is not None
            data[stream] = _bytes(part["data"], part["encoding"])
        else:
            data[stream] = None if text is None else _bytes(text, group["encoding"])
    return Group(group["state"], group["exit_code"], group["hosts"], data, truncated)


def _bytes(text: str, encoding: str) -> bytes:
    return base64.b64decode(text) if encoding == "base64" else text.encode()


def write_groups(out: TextIO, found: Sequence[Group], task: Task, *, diff: bool = False, colours: bool = True) -> None:
    """A block for each: who, how it ended, and what it printed; on a terminal that moves nothing and hides nothing."""
    first = reference(found) if diff else None
    for group in found:
        write_block(out, heading(group, task.executions), _texts(task.task_id, group, first), colours=colours)


def reference(found: Sequence[Group]) -> Group | None:
    """What the others are told by the difference to: the lowest exit code, then most hosts, then the first name."""
    ended = [group for group in found if group.exit_code is not None]
    return min(ended, key=lambda group: (group.exit_code, -len(group.hosts), group.hosts[0]), default=None)


def heading(group: Group, executions: Mapping[str, Mapping[str, Any]]) -> str:
    """`web[01-93] (93) · exit 0`."""
    who = fold(group.hosts) + (f" ({len(group.hosts):,})" if len(group.hosts) > 1 else "")
    if group.answer == states.SILENT:
        return f"{who} · DID NOT ANSWER: {group.state} · {_why(executions[group.hosts[0]])}"
    if group.state == "succeeded":
        return f"{who} · exit {group.exit_code}"
    how = group.state if group.exit_code is None else f"{group.state}, exit {group.exit_code}"
    reason = executions[group.hosts[0]]["reason"] if group.hosts[0] in executions else None
    return f"{who} · {how}" + (f": {line(reason)}" if reason else "")


def _why(row: Mapping[str, Any]) -> str:
    """What is known of a host without an outcome of its own."""
    parts = [f"sent at {_clock(row['sent_at'])}" if row["sent_at"] else "never delivered"]
    if row["sent_at"]:
        parts.append(f"accepted at {_clock(row['accepted_at'])}" if row["accepted_at"] else "not accepted")
    if row["reason"]:
        parts.append(line(row["reason"]))
    if row["state"] in ("lost", "expired"):
        parts.append("may have run" if row["state"] == "lost" else "did not run")
    return " · ".join(parts)


def _clock(time: str) -> str:
    return f"{datetime.fromisoformat(time).astimezone():%H:%M:%S}"


def _texts(task_id: str, group: Group, first: Group | None) -> list[bytes | str]:
    if first is not None and group is not first and group.data["stdout"] is not None:
        return _difference(first, group)
    found: list[bytes | str] = []
    for stream in STREAMS:
        data = group.data[stream]
        if not data:
            continue
        if stream == "stderr" and group.data["stdout"]:
            found.append("-- stderr\n")
        found.append(data)
    if group.truncated:
        found.append(f"-- not all of it: cpctl tasks show {task_id} --host {group.hosts[0]}\n")
    return found


def _difference(first: Group, group: Group) -> list[bytes | str]:
    one, other = ((each.data["stdout"] or b"").decode(errors="replace").splitlines() for each in (first, group))
    lines = difflib.unified_diff(one, other, fold(first.hosts), fold(group.hosts), lineterm="")
    return ["".join(f"{printable(text)}\n" for text in lines) or "-- the same on stdout\n"]


def write_block(out: TextIO, head: str, texts: Iterable[bytes | str], *, colours: bool) -> None:
    out.write(f"== {head}\n")
    out.flush()
    for text in texts:
        write_output(out, text, colours=colours)


def write_output(out: TextIO, data: bytes | str, *, colours: bool) -> None:
    """What a host has printed, ended with its line; or a line of ours."""
    if isinstance(data, str):
        out.write(data)
    else:
        write_part(out, data if data.endswith(b"\n") else data + b"\n", colours=colours)
    out.flush()


def write_part(out: TextIO, data: bytes, *, colours: bool) -> None:
    """What a host has printed: as it is into a pipe, harmless on a terminal."""
    if out.isatty():
        out.write(printable(data.decode(errors="replace"), colours=colours))
    else:
        out.flush()
        out.buffer.write(data)
        out.buffer.flush()
