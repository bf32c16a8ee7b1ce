"""What a client knows of its own requests: a line before and after each, on the disk before the next step.

It is an observer: nothing of the system under test writes it, and nothing that is killed holds it.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from tests.support.programs import Api
from tests.support.servers import wait_until

Answer = Literal["ok", "fail", "info"]  # it is in the log; it never will be; nobody knows
UNAVAILABLE = 500


def body_sha256(body: Mapping[str, Any]) -> str:
    """Of a request without its task_id, so that a repeat has the same one."""
    bare = {name: value for name, value in body.items() if name != "task_id"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()


@dataclass
class Book:
    """The requests by task_id.

    Attributes:
        attempts: every task_id that was ever asked for, with the digest of its body.
        acknowledged, refused: those that were answered `ok` or `fail`.
        repeats: (what was repeated: "same", "body" or "actor", status of the answer), by task_id.
    """

    attempts: dict[str, str] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    repeats: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    @property
    def unanswered(self) -> set[str]:
        return self.attempts.keys() - self.acknowledged - self.refused


class Ledger:
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._path = path

    def write(self, what: str, task_id: str, **more: object) -> None:
        """One line, durable on return."""
        os.write(self._file, json.dumps({"what": what, "task_id": task_id, **more}).encode() + b"\n")
        os.fsync(self._file)

    def read(self) -> Book:
        return read(self._path)

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> Book:
    """The book that a ledger's lines make; its last line may be cut off."""
    book = Book()
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        entry = json.loads(line)
        task_id = entry["task_id"]
        match entry["what"]:
            case "ask":
                book.attempts[task_id] = entry["sha256"]
            case "ok":
                book.acknowledged.add(task_id)
            case "fail":
                book.refused.add(task_id)
            case "repeat":
                book.repeats.setdefault(task_id, []).append((entry["differs"], entry["status"]))
    return book


class Client:
    """Asks for tasks as a careful client does, and writes each step down.

    Args:
        other: the same API with another user's token, who may run commands too.
    """

    def __init__(self, api: Api, ledger: Ledger, other: Api | None = None) -> None:
        self._api = api
        self._ledger = ledger
        self._other = other

    def ask(self, task_id: str, body: Mapping[str, Any]) -> Answer:
        """One request."""
        self._ledger.write("ask", task_id, sha256=body_sha256(body))
        try:
            answer = self._api.http.post("/tasks", json={"task_id": task_id, **body})
        except httpx.HTTPError as error:
            self._ledger.write("info", task_id, detail=type(error).__name__)
            return "info"
        if answer.status_code >= UNAVAILABLE:
            said: Answer = "info"
        else:
            said = "ok" if answer.is_success else "fail"
        self._ledger.write(said, task_id, status=answer.status_code)
        return said

    def submit(
        self,
        task_id: str,
        body: Mapping[str, Any],
        *,
        timeout_s: float = 60,
        meanwhile: Callable[[], None] | None = None,
    ) -> Answer:
        """Ask until the answer is known; `meanwhile` is called before each request."""
        said: Answer = "info"

        def known() -> bool:
            nonlocal said
            if meanwhile is not None:
                meanwhile()
            said = self.ask(task_id, body)
            return said != "info"

        wait_until(known, timeout_s=timeout_s, what=f"{task_id} is answered")
        return said

    def repeat(self, task_id: str, body: Mapping[str, Any]) -> None:
        """Ask for a task again: the same, with another body, and as somebody else."""
        others: list[tuple[str, Api, Mapping[str, Any]]] = [
            ("same", self._api, body),
            ("body", self._api, {**body, "timeout": body["timeout"] + 1}),
        ]
        if self._other is not None:
            others.append(("actor", self._other, body))
        for differs, api, asked in others:
            try:
                status = api.http.post("/tasks", json={"task_id": task_id, **asked}).status_code
            except httpx.HTTPError:
                continue
            if status < UNAVAILABLE:
                self._ledger.write("repeat", task_id, differs=differs, status=status)


@dataclass
class Beside:
    """A thread with a loop of its own body, until the block ends; what it raises is raised at the end of the block."""

    step: Callable[[], object]
    pause_s: float = 0.05
    _failure: BaseException | None = None

    def __post_init__(self) -> None:
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Beside":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._thread.join(timeout=60)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self.ended.wait(self.pause_s):
                self.step()
        except BaseException as failure:  # noqa: BLE001 - raised again where the block ends
            self._failure = failure
