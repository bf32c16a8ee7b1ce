"""What is there: hosts, tasks, the audit trail. The commands that only read, and cancel, pause and resume."""

import argparse
import base64
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

from cpctl import report, states
from cpctl.client import Client, quoted
from cpctl.errors import NO_ANSWER, OK, CpctlError
from cpctl.follow import Task
from cpctl.run import show, watch
from cpctl.terminal import say
from cpctl.text import line, printable, table

HOSTS: Final = ("HOST", "STATE", "GROUPS", "CPU", "MEMORY", "RUNNING", "HEARD", "OS")
TASKS: Final = ("TASK", "STATE", "COUNTS", "WHO", "WHEN", "COMMAND")
EVENTS: Final = ("SEQ", "TIME", "KIND", "WHO", "TASK", "HOST", "OUTCOME")
Cells: TypeAlias = Callable[[Mapping[str, Any]], Sequence[object]]


async def hosts(client: Client, arguments: argparse.Namespace) -> int:
    found = client.items("/hosts", q=arguments.query, state=arguments.state, group=arguments.group)
    await _write(arguments.output, found, _host, HOSTS)
    return OK


def _host(row: Mapping[str, Any]) -> Sequence[object]:
    marks = "".join(f" ({mark})" for mark in ("maintenance", "quarantine") if row[mark])
    return (
        row["hostname"],
        row["state"] + marks,
        ",".join(row["groups"]) + (" (drift)" if row["drift"] else ""),
        _percent(row["cpu_usage"]),
        _percent(row["memory_usage"]),
        row["running"],
        _local(row["last_heartbeat_at"]),
        row["os"],
    )


async def host(client: Client, arguments: argparse.Namespace) -> int:
    _write_one(arguments.output, await client.get(f"/hosts/{quoted(arguments.hostname)}"))
    return OK


async def tasks(client: Client, arguments: argparse.Namespace) -> int:
    wanted = {name: getattr(arguments, name) for name in ("state", "outcome", "actor", "hostname", "q")}
    wanted |= {"from": arguments.since, "to": arguments.until}
    await _write(arguments.output, client.items("/tasks", most=arguments.limit, **wanted), _task, TASKS)
    return OK


def _task(row: Mapping[str, Any]) -> Sequence[object]:
    state = row["outcome"] if row["state"] == "finished" else row["state"]
    command = printable(row["command"]).splitlines() or [""]
    more = " …" if len(command) > 1 else ""
    counts = states.phrase(row["counts"])
    return (row["task_id"], state, counts, row["actor"], _local(row["accepted_at"]), command[0] + more)


async def task(client: Client, arguments: argparse.Namespace) -> int:
    """A task as it is, or all that one host has printed; the exit status is what it has come to."""
    if arguments.host is not None:
        return await _output(client, arguments)
    found = Task(client, arguments.task_id)
    await found.read()
    lines = report.Lines(sys.stdout) if arguments.output == "jsonl" else None
    if lines is None and arguments.output == "grouped":
        _say_head(found.row)
    await show(client, found, arguments, lines)
    return report.status_of(found.row, found.row["counts"])


def _say_head(row: Mapping[str, Any]) -> None:
    say(f"{printable(row['command'])}")
    reason = f" · {line(row['reason'])}" if row["reason"] else ""
    state = row["outcome"] if row["state"] == "finished" else row["state"]
    say(f"{state} · as {line(row['user'])} · by {line(row['actor'])} · {_local(row['accepted_at'])}{reason}")


async def _output(client: Client, arguments: argparse.Namespace) -> int:
    """All that is kept of what one host has printed: its stdout and stderr on ours."""
    path = f"/tasks/{quoted(arguments.task_id)}/executions/{quoted(arguments.host)}"
    row = await client.get(path)
    if row["result_seq"] is None:
        raise CpctlError(f"{row['state']}: {line(row['reason'] or 'nothing has come of it yet')}", NO_ANSWER)
    for stream, out in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        offset: int | None = 0
        while offset is not None:
            part = await client.get(f"{path}/output", stream=stream, offset=offset, limit=report.RANGE)
            is_base64 = part["encoding"] == "base64"
            data = base64.b64decode(part["data"]) if is_base64 else part["data"].encode()
            report.write_part(out, data, colours=arguments.colours)
            offset = part["next_offset"]
        out.flush()
        if part["truncated"]:
            missing = part["size_bytes"] - part["kept_bytes"]
            say(f"-- {stream}: {missing:,} bytes after the first {part['head_bytes']:,} were not kept")
    return report.status_of({"outcome": None, "cancel_requested_at": None}, {row["state"]: 1})


async def follow(client: Client, arguments: argparse.Namespace) -> int:
    return await watch(client, arguments.task_id, arguments)


async def change(client: Client, arguments: argparse.Namespace) -> int:
    """Cancel, pause or resume."""
    body = {} if arguments.reason is None else {"reason": arguments.reason}
    await client.post(f"/tasks/{quoted(arguments.task_id)}/{arguments.action}", body)
    say(f"{arguments.action} asked for: cpctl tasks watch {arguments.task_id}")
    return OK


async def events(client: Client, arguments: argparse.Namespace) -> int:
    wanted = {name: getattr(arguments, name) for name in ("kind", "task_id", "hostname", "actor")}
    wanted |= {"from": arguments.since, "to": arguments.until}
    await _write(arguments.output, client.items("/events", most=arguments.limit, **wanted), _event, EVENTS)
    return OK


def _event(row: Mapping[str, Any]) -> Sequence[object]:
    names = ("kind", "actor", "task_id", "hostname", "outcome")
    return (row["seq"], _local(row["recorded_at"]), *(row[name] for name in names))


async def event(client: Client, arguments: argparse.Namespace) -> int:
    _write_one(arguments.output, await client.get(f"/events/{arguments.seq}"))
    return OK


async def export(client: Client, arguments: argparse.Namespace) -> int:
    """The trail as it is, streamed."""
    wanted = {name: getattr(arguments, name) for name in ("kind", "task_id", "hostname", "actor", "format")}
    wanted |= {"from": arguments.since, "to": arguments.until}
    async with client.download("/events/export", **wanted) as parts:
        async for part in parts:
            sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
    return OK


async def _write(output: str, items: AsyncIterator[dict[str, Any]], cells: Cells, header: Sequence[str]) -> None:
    """A list in the form that is asked for; lines of JSON as they come."""
    if output == "jsonl":
        async for item in items:
            report.write_json(sys.stdout, item)
        return
    found = [item async for item in items]
    if output == "json":
        report.write_json(sys.stdout, found)
    else:
        print(*table(map(cells, found), header), sep="\n")


def _write_one(output: str, row: Mapping[str, Any]) -> None:
    if output in ("json", "jsonl"):
        report.write_json(sys.stdout, row)
        return
    for name, value in row.items():
        print(f"{name:<20} {_value(value)}".rstrip())


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{line(name)}={_value(one)}" for name, one in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "-"
    return line(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.0f} %"


def _local(time: str | None) -> str:
    return "-" if time is None else f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M:%S}"
