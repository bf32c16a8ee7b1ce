"""`docs/events.md`, made from the event classes: `python -m control_plane.events.describe > docs/events.md`."""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from types import UnionType
from typing import Final, get_args, get_origin, get_type_hints

from control_plane.events import hosts, registry, tasks
from control_plane.events.event import Event, WireBorn
from control_plane_wire.messages import AcceptedMessage, HeartbeatMessage, ResultMessage

# What a host's word is, of the kinds whose body is its message.
MESSAGES: Final[Mapping[type[Event], type]] = {
    tasks.ExecutionAccepted: AcceptedMessage,
    tasks.ExecutionStarted: AcceptedMessage,
    tasks.ExecutionFinished: ResultMessage,
    tasks.ExecutionLateResult: ResultMessage,
    hosts.HeartbeatReceived: HeartbeatMessage,
}
# What their fields mean; they are the wire's, which has no need to say so.
OF_MESSAGES: Final[Mapping[str, str]] = {
    "task_id": "the task.",
    "hostname": "the host's name.",
    "kind": "accepted.",
    "timestamp": "Unix seconds by the host's clock, when it was said.",
    "started_at": "Unix seconds by the host's clock.",
    "finished_at": "Unix seconds by the host's clock.",
    "command_sha256": "hex SHA-256 of the command message that it answers.",
    "exit_code": "128+n where signal n ended it, null where it never ran.",
    "stdout": "text, or base64 where `encoding` says so.",
    "stderr": "text, or base64 where `encoding` says so.",
    "outcome": "completed where it is left out, or else what it is instead.",
    "reason": "why it is not completed, for people.",
    "stdout_bytes": "size of the whole stream.",
    "stderr_bytes": "size of the whole stream.",
    "stdout_sha256": "hex SHA-256 of the whole stream.",
    "stderr_sha256": "hex SHA-256 of the whole stream.",
    "stdout_head_bytes": "how much of it is the stream's beginning, where it is truncated; the rest is its end.",
    "stderr_head_bytes": "how much of it is the stream's beginning, where it is truncated; the rest is its end.",
    "truncated": "whether an output is not whole.",
    "encoding": "base64 where the outputs are no UTF-8.",
    "leftovers": "processes that outlived the command.",
    "status": "online, or offline as the agent's last word.",
    "cpu_usage": "a fraction from 0 to 1.",
    "memory_usage": "a fraction from 0 to 1.",
    "agent_version": "of the agent; one that does not say it is a basic agent.",
    "sequence": "grows with each heartbeat of a boot.",
    "boot_id": "a new one after each boot of the host.",
    "interval": "seconds until the next heartbeat is due.",
    "groups": "those that the agent has bound.",
    "running": "how many executions run.",
    "load": "averages over 1, 5 and 15 minutes.",
    "disk_usage": "a fraction from 0 to 1.",
    "uptime": "seconds since the boot.",
    "os": "name and version of the operating system.",
    "kernel": "its version.",
    "cpu_count": "how many processors there are.",
    "memory_bytes": "how much memory there is.",
    "addresses": "of the host.",
    "checkpoint": "the newest checkpoint of the log that the agent has seen.",
    "journal_head": "the highest timestamp of a command in the agent's journal.",
    "session": "grows with each queue that the agent declares in a boot: what was in the one before may be lost.",
    "runs_as": "the account of an agent that is not root, which runs nothing as any other.",
    "keys": "ids of the control plane's keys that it trusts, the oldest first.",
    "next_key": "id of the one that was announced to it.",
    "limits_missing": "in what the host cannot limit a command though it should: pids, memory.",
}
TYPES: Final[Mapping[object, str]] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    object: "anything",
}
HEAD: Final = """\
# Events

Every kind of event, as the log keeps it. This page is made from the code by `python -m control_plane.events.describe`.

What surrounds every event: `seq` (gapless, in the order of commits), `recorded_us` (UTC microseconds of the control
plane, growing with `seq`), `kind`, `schema_v` (the version of the body), `task_id`, `hostname` and `actor` where it has
them, `occurred_us` (the sender's clock, for display only), `signature` with `key_id`, and the body: canonical JSON
(RFC 8785), with the fields below. Fields that have no value are left out.

*Key*: there is at most one event of a key (subject, word, host, part). The same again is a duplicate, another with that
key a conflict, and the first one stands. *Gives authority*: it counts only with the control plane's signature over its
body, which then has its `kind` as one more field. *From a host*: the body is the host's signed message without its
signature; `signature` is the host's.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    module = ""
    for cls in registry.CLASSES:
        if cls.__module__ != module:
            module = cls.__module__
            parts.append(f"## {module.rpartition('.')[2].capitalize()}\n")
        parts.append("\n".join(_section(cls)) + "\n")
    return "\n".join(parts)


def described(cls: type[Event]) -> dict[str, tuple[str, str]]:
    """The fields of a kind's body: of each its type and what it means; the latter is empty where nobody has said it."""
    body = MESSAGES.get(cls, cls)
    meanings = _meanings(cls) if body is cls else OF_MESSAGES
    types = get_type_hints(body)
    found = {"kind": ("text", meanings["kind"])} if body is AcceptedMessage else {}
    for own in fields(body):
        needed = own.default is MISSING and own.default_factory is MISSING
        found[own.name] = (_type(types[own.name], is_needed=needed), meanings.get(own.name, ""))
    return found


def _section(cls: type[Event]) -> Iterator[str]:
    yield f"### `{cls.KIND}`\n"
    yield f"{_summary(cls)}\n"
    facts = [f"Version {cls.VERSION}", f"log `{cls.LOG}`", f"key {_key(cls)}"]
    facts += ["gives authority"] if cls.GIVES_AUTHORITY else []
    facts += ["from a host"] if issubclass(cls, WireBorn) else []
    yield f"{', '.join(facts)}.\n"
    yield "| Field | Type | Meaning |"
    yield "| --- | --- | --- |"
    for name, (type_, meaning) in described(cls).items():
        yield f"| `{name}` | {type_} | {meaning} |"


def _summary(cls: type) -> str:
    """What a class says before its attributes, as one paragraph."""
    text = inspect.getdoc(cls) or ""
    return " ".join(text.partition("Attributes:")[0].split())


def _meanings(cls: type) -> dict[str, str]:
    """What the attributes mean, in the words of the class or of one that it is made from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:")[2]
        for match in re.finditer(r"^    (\w+): (.+(?:\n {5,}.+)*)", section, re.MULTILINE):
            found[match[1]] = " ".join(match[2].split()).replace("|", "\\|")
    return found


def _type(annotation: object, *, is_needed: bool) -> str:
    options = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    text = " or ".join(_one_type(option) for option in options if option is not type(None))
    is_null = is_needed and type(None) in options
    return text + ("" if is_needed else ", optional") + (", or null" if is_null else "")


def _one_type(annotation: object) -> str:
    if get_origin(annotation) is tuple:
        return f"list of {_one_type(get_args(annotation)[0])}s"
    if get_origin(annotation) is Mapping:
        return "texts by name" if get_args(annotation)[1] is str else "object"
    return TYPES[annotation]


def _key(cls: type[Event]) -> str:
    """The key of a kind, in the names of its fields: those of an event whose every field is its own name."""
    message = {name: name for name in ("task_id", "hostname")}
    event = object.__new__(cls)
    said = {name: f"*{name}*" for name in message} | {"": "–"}
    for own in fields(cls):  # type: ignore[arg-type]
        values: dict[str, object] = {"message": message, "canonical": None, "count_id": None}
        object.__setattr__(event, own.name, values.get(own.name, own.name))
        said[own.name] = f"*{own.name}*"
    if issubclass(cls, WireBorn):
        said[event.digest().hex()] = "*SHA-256 of the body*"
    key = event.key()
    shown = [said.get(part, f"`{part}`") for part in (key.subject, key.kind, key.hostname, key.part)]
    while shown[-1] == "–":
        shown.pop()
    return f"({', '.join(shown)})"


if __name__ == "__main__":
    sys.stdout.write(page())
