"""Run a command: preview, guard, send, follow, report. A retry goes the same way."""

import argparse
import asyncio
import contextlib
import shlex
import sys
import uuid
from collections.abc import Collection, Mapping
from typing import Any, Final

from cpctl import report, states
from cpctl.client import Client, quoted
from cpctl.errors import (
    NO_HOST,
    NOT_ALLOWED,
    OK,
    CpctlError,
    ProblemError,
    UnreachableError,
)
from cpctl.follow import Task
from cpctl.progress import Progress
from cpctl.terminal import ask, is_interactive, say
from cpctl.text import fold, line, plural, printable

SHOWN: Final = 20
KINDS: Final = {"group": "group", "q": "query"}
APPROVAL_POLL_S: Final = 1.0
LEVEL_YES, LEVEL_REASON = 2, 3


def target_of(words: list[str]) -> dict[str, Any]:
    """`group:web`, `q:QUERY`, `host:web1` or `web1`, `all`; several hosts are a list. Raises CpctlError."""
    if len(words) == 1:
        kind, colon, name = words[0].partition(":")
        if words[0] == "all":
            return {"all": True}
        if kind in KINDS and colon and name:
            return {KINDS[kind]: name}
    names = [name for word in words for name in word.removeprefix("host:").split(",") if name]
    if not names or any(":" in name or name == "all" for name in names):
        raise CpctlError(f"--target {' '.join(words)}: one of group:NAME, q:QUERY, all, or hosts as web1 or web1,web2")
    return {"host": names[0]} if len(names) == 1 else {"hosts": names}


async def run(client: Client, arguments: argparse.Namespace) -> int:
    """`cpctl run`; its exit status."""
    body = _request(arguments)
    if arguments.template is not None:
        await _fit(client, body)
    preview = await client.post("/targets/preview", _previewed(body))
    _check(preview)
    _show(preview, body)
    if arguments.dry_run:
        return OK
    await _confirm(preview, arguments, body)
    body["preview_id"] = preview["preview_id"]
    if preview["approval_required"]:
        if (approval_id := await _approved(client, "/approvals", body, detach=arguments.detach)) is None:
            return OK
        body |= {"approval_id": approval_id}
        del body["preview_id"]  # the approval is for this very list
    return await send(client, "/tasks", body, arguments)


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    body: dict[str, Any] = {"task_id": str(uuid.uuid4()), "target": target_of(arguments.target)}
    if arguments.template is not None:
        if arguments.command:
            raise CpctlError("--template says what to run: no COMMAND beside it")
        body |= {"template": arguments.template, "parameters": dict(map(_parameter, arguments.parameter or ()))}
    else:
        if not arguments.command:
            raise CpctlError("what to run? cpctl run -t group:web -- uptime")
        words = arguments.command
        command = words[0] if len(words) == 1 else shlex.join(words)
        body |= {"command": command, "user": arguments.user, "timeout": arguments.timeout}
    body["when_offline"] = "skip" if arguments.skip_offline else "queue"
    rollout = {
        name: _number(value)
        for name, value in (
            ("max_concurrency", arguments.batch),
            ("max_errors", arguments.max_failures),
            ("canary", arguments.canary),
            ("wait", arguments.canary_wait),
        )
        if value is not None
    }
    if rollout:
        body["rollout"] = rollout
    for name in ("reason", "expires_in"):
        if (value := getattr(arguments, name)) is not None:
            body[name] = value
    return body


def _parameter(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CpctlError(f"--parameter {text}: as NAME=VALUE")
    return name, value


async def _fit(client: Client, body: dict[str, Any]) -> None:
    """Make numbers of those parameters that the template wants as numbers."""
    templates = {row["name"]: row for row in (await client.get("/templates"))["items"]}
    if (template := templates.get(body["template"])) is None:
        raise CpctlError(f"no template {body['template']}; there are: {', '.join(sorted(templates)) or 'none'}")
    given = body["parameters"]
    for parameter in template["parameters"]:
        value = given.get(parameter["name"])
        if parameter["type"] == "integer" and value is not None:
            with contextlib.suppress(ValueError):  # the server says what it has to be
                given[parameter["name"]] = int(value)


def _number(text: str) -> int | str | list[str]:
    if text.isdecimal():
        return int(text)
    return text if text.endswith("%") or text == "approve" else text.split(",")


def _previewed(body: Mapping[str, Any]) -> dict[str, Any]:
    names = ("target", "command", "user", "timeout", "template", "parameters")
    return {name: body[name] for name in names if name in body}


def _check(preview: Mapping[str, Any]) -> None:
    if not preview["allowed"]:
        rules = f" (by {', '.join(preview['rules'])})" if preview["rules"] else ""
        raise CpctlError(f"not allowed: {line(preview['refusal'])}{rules}; nothing was started", NOT_ALLOWED)
    if not preview["count"]:
        excluded = "; ".join(f"{row['hostname']}: {line(row['reason'])}" for row in preview["excluded"][:SHOWN])
        raise CpctlError(f"no host matches{': ' + excluded if excluded else ''}; nothing was started", NO_HOST)


def _show(preview: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    by_state = ", ".join(f"{count:,} {state}" for state, count in sorted(preview["by_state"].items()))
    hosts = fold(preview["hosts"][:SHOWN]) + (" …" if preview["count"] > SHOWN else "")
    say(f"{plural(preview['count'], 'host')} ({by_state}): {hosts}")
    for row in preview["excluded"][:SHOWN]:
        say(f"left out: {row['hostname']}: {line(row['reason'])}")
    if preview["quarantined"]:
        say(f"in quarantine, nothing is sent to them: {fold(preview['quarantined'][:SHOWN])}")
    away = sum(preview["by_state"].get(state, 0) for state in ("offline", "stale", "pending"))
    if away:
        does = "are skipped" if body.get("when_offline") == "skip" else "get it when they return, until it expires"
        say(f"{away:,} not online: they {does}")
    if preview["guard"]["rules"]:
        say(f"guard level {preview['guard']['level']}: {', '.join(map(line, preview['guard']['rules']))}")


async def _confirm(preview: Mapping[str, Any], arguments: argparse.Namespace, body: dict[str, Any]) -> None:
    """By the guard's level, as the dashboard does. Raises CpctlError: it is not confirmed."""
    level, count = preview["guard"]["level"], preview["count"]
    if arguments.expect is not None and arguments.expect != count:
        raise CpctlError(f"--expect {arguments.expect}: it is {plural(count, 'host')} now; nothing was started")
    if level >= LEVEL_REASON:
        missing = [
            flag
            for flag, value in (("--expect N", arguments.expect), ("--reason TEXT", body.get("reason")))
            if value is None
        ]
        if not missing:
            return
        if not is_interactive():
            raise CpctlError(f"this takes {' and '.join(missing)} ({plural(count, 'host')}); nothing was started")
        if arguments.expect is None and ask("type the number of hosts to go on: ") != str(count):
            raise CpctlError("that is not the number; nothing was started")
        if body.get("reason") is None:
            body["reason"] = ask("reason: ")
    elif level == LEVEL_YES and is_interactive() and not arguments.yes and arguments.expect is None:
        answer = ask(f"run on {plural(count, 'host')}? y/N ")
        if answer.lower() not in ("y", "yes"):
            raise CpctlError("nothing was started")


async def _approved(client: Client, path: str, body: Mapping[str, Any], *, detach: bool) -> str | None:
    """Ask a second person, and wait for the answer; None where nobody waits for it."""
    asked = await client.post(path, body)
    approval_id = str(asked["approval_id"])
    say(f"a second person has to approve it until {asked['expires_at']}: {client.url}/access?tab=approvals")
    if detach:
        print(approval_id)
        return None
    try:
        found = await _decided(client, approval_id, asked["seq"])
    except (UnreachableError, asyncio.CancelledError):
        say(f"nothing was started; {approval_id} waits on, and can be run from that page once it is approved")
        raise
    if found["state"] == "approved":
        say(f"approved by {line(found['decided_by'])}")
        return approval_id
    by = f" by {line(found['decided_by'])}" if found["decided_by"] else ""
    why = f": {line(found['decided_reason'])}" if found["decided_reason"] else ""
    raise CpctlError(f"the approval is {found['state']}{by}{why}; nothing was started", NOT_ALLOWED)


async def _decided(client: Client, approval_id: str, seq: int) -> Any:  # noqa: ANN401 - JSON
    while True:
        found = await client.get(f"/approvals/{quoted(approval_id)}", min_seq=seq)
        if found["state"] != "waiting":
            return found
        await asyncio.sleep(APPROVAL_POLL_S)


async def send(client: Client, path: str, body: Mapping[str, Any], arguments: argparse.Namespace) -> int:
    """Have a task accepted, and follow it to its end."""
    try:
        accepted = await client.post(path, body)
    except UnreachableError as error:
        raise UnreachableError(
            f"{error}\nwhether it was accepted is not known; the same again starts nothing twice:"
            f" cpctl tasks show {body['task_id']}"
        ) from error
    except ProblemError as error:
        if error.code == "target_changed":
            raise CpctlError(_changed(error)) from error
        raise
    task = accepted["task"]
    say(f"task {task['task_id']} · {client.url}/tasks/{quoted(task['task_id'])}")
    if arguments.detach:
        print(task["task_id"])
        return OK
    return await watch(client, task["task_id"], arguments, min_seq=accepted["seq"])


def _changed(error: ProblemError) -> str:
    joined, left = error.body.get("joined") or (), error.body.get("left") or ()
    said = [f"{fold(names)} {verb}" for names, verb in ((joined, "joined"), (left, "left")) if names]
    return f"the hosts have changed meanwhile ({', '.join(said)}); nothing was started, look and run it again"


async def watch(client: Client, task_id: str, arguments: argparse.Namespace, *, min_seq: int | None = None) -> int:
    """Follow a task and report it; the exit status is what it has come to."""
    task = Task(client, task_id)
    lines = report.Lines(sys.stdout) if arguments.output == "jsonl" else None
    await task.read(min_seq=min_seq)
    progress = Progress(task, sys.stderr)
    if lines is not None:

        def tell(execution: Mapping[str, Any]) -> None:
            progress.clear()
            lines.tell(execution)

        for execution in task.executions.values():
            tell(execution)
        task.changed = tell
    try:
        await _followed(task, progress, wait_s=arguments.wait)
    except UnreachableError as error:
        raise UnreachableError(f"{error}\nthe task goes on: cpctl tasks watch {task_id}") from error
    except asyncio.CancelledError:
        if lines is not None:
            lines.end(task)
        say(f"detached, the task goes on: cpctl tasks watch {task_id} · cpctl tasks cancel {task_id}")
        raise
    if not task.is_finished():
        say(f"after {arguments.wait} s it is not over: cpctl tasks watch {task_id}")
    await show(client, task, arguments, lines)
    return report.status_of(task.row, task.row["counts"])


async def _followed(task: Task, progress: Progress, *, wait_s: float | None) -> None:
    failed: Exception | None = None  # raised outside the group, which would wrap it
    async with asyncio.TaskGroup() as group:
        drawing = group.create_task(progress.run(), name="progress")
        try:
            async with asyncio.timeout(wait_s):
                await task.follow()
        except TimeoutError:
            pass  # whoever waits no longer says so
        except Exception as error:  # noqa: BLE001 - raised again outside
            failed = error
        finally:
            drawing.cancel()
    if failed is not None:
        raise failed


async def show(client: Client, task: Task, arguments: argparse.Namespace, lines: report.Lines | None) -> None:
    """A task as it is now, in the form that is asked for."""
    await task.read(min_seq=task.row["pos"])
    if lines is not None:
        lines.end(task)
    elif arguments.output == "json":
        report.write_json(sys.stdout, report.as_json(task))
    elif arguments.output == "table":
        print(*report.as_table(task.executions.values()), sep="\n", flush=True)
    else:
        found = [group for group in await report.groups(client, task) if not states.is_open(group.state)]
        report.write_groups(sys.stdout, found, task, diff=arguments.diff, colours=arguments.colours)
    say(report.summary(task.row))


async def retry(client: Client, arguments: argparse.Namespace) -> int:
    """`cpctl tasks retry`: a new task on those hosts of another one that ended so."""
    body: dict[str, Any] = {"task_id": str(uuid.uuid4()), "states": arguments.state.split(",")}
    first = Task(client, arguments.task_id)
    await first.read()
    names = sorted(name for name, row in first.executions.items() if _is_again(row, body["states"]))
    if not names:
        raise CpctlError(
            f"no host of it is {' or '.join(body['states'])}: {states.phrase(first.row['counts'])}", NO_HOST
        )
    asked = {"target": {"hosts": names}, "user": first.row["user"], "timeout": first.row["timeout"]}
    asked |= {"argv": first.row["argv"]} if first.row["argv"] else {"command": first.row["command"]}
    preview = await client.post("/targets/preview", asked)
    if first.row["template"] is None:  # of a template the server knows better what is allowed
        _check(preview)
    say(f"again: {printable(first.row['command'])}")
    _show(preview, {"when_offline": first.row["when_offline"]})
    if arguments.reason is not None:
        body["reason"] = arguments.reason
    await _confirm(preview, arguments, body)
    body |= {"hosts": names, "preview_id": preview["preview_id"]}
    path = f"/tasks/{quoted(arguments.task_id)}/retry"
    if preview["approval_required"]:
        if (approval_id := await _approved(client, f"{path}/approval", body, detach=arguments.detach)) is None:
            return OK
        body |= {"approval_id": approval_id}
        del body["preview_id"]  # the approval is for this very list
    return await send(client, path, body, arguments)


def _is_again(row: Mapping[str, Any], states_asked: Collection[str]) -> bool:
    """Not one that was given up as lost, and has said since that it succeeded."""
    has_succeeded = row["late"] is not None and row["late"]["outcome"] == "succeeded"
    return row["state"] in states_asked and not has_succeeded
