"""A host that is not there: it answers as a real one would, and runs nothing."""

import asyncio
import contextlib
import hashlib
import json
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from control_plane_agent.disk import Disk
from control_plane_agent.journal import LIVE
from control_plane_agent.slots import FINISHED_AT, Finished, Started, encode
from control_plane_agent.supervisor import COMMAND, STATE, boottime_ns
from control_plane_wire.clock import Clock
from control_plane_wire.topology import is_name

TERMINATED: Final = 143
NOT_FOUND: Final = 127


class Answer(NamedTuple):
    """What a host would print, its exit code, and how many seconds it would take."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    seconds: float = 0.0


class SimulatedExecutor:
    """Writes what a supervisor would write.

    Args:
        disk: the journal's.
        number: makes hosts differ in what they say.
    """

    def __init__(self, disk: Disk, clock: Clock, *, hostname: str, number: int) -> None:
        self._disk = disk
        self._clock = clock
        self._hostname = hostname if is_name(hostname) else "localhost"
        self._number = number
        self._cancelled: dict[str, asyncio.Event] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    async def run(self, task_id: str, *, start_within_s: float) -> None:
        command = json.loads(self._disk.read(f"{LIVE}/{task_id}/{COMMAND}"))
        started = Started("simulated", task_id, boottime_ns(), self._clock.now_s(), 0, 0, None)
        self._disk.write_at(f"{LIVE}/{task_id}/{STATE}", 0, encode(started))
        answer = pretend(_words(command), hostname=self._hostname, number=self._number)
        outcome, reason = await self._take_time(task_id, answer.seconds, float(command["timeout"]))
        self._finish(task_id, answer, outcome, reason)

    async def _take_time(self, task_id: str, seconds: float, timeout_s: float) -> tuple[str, str | None]:
        if not seconds:
            return "completed", None
        cancelled = self._cancelled[task_id] = asyncio.Event()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(seconds, timeout_s)):
                    await cancelled.wait()
                return "cancelled", "cancelled while it ran"
        finally:
            del self._cancelled[task_id]
        return ("timed_out", f"it ran longer than {timeout_s:g} s") if seconds > timeout_s else ("completed", None)

    def _finish(self, task_id: str, answer: Answer, outcome: str, reason: str | None) -> None:
        is_over = outcome == "completed"
        out, err = (text.encode() if is_over else b"" for text in (answer.stdout, answer.stderr))
        for name, data in (("stdout.head", out), ("stderr.head", err)):
            if data:
                self._disk.create(f"{LIVE}/{task_id}/{name}", data)
        finished = Finished(
            outcome=outcome,
            finished_at=self._clock.now_s(),
            exit_code=answer.exit_code if is_over else TERMINATED,
            reason=reason,
            stdout_bytes=len(out),
            stderr_bytes=len(err),
            stdout_sha256=hashlib.sha256(out).hexdigest(),
            stderr_sha256=hashlib.sha256(err).hexdigest(),
        )
        self._disk.write_at(f"{LIVE}/{task_id}/{STATE}", FINISHED_AT, encode(finished))

    async def wait(self, task_id: str) -> None:
        """Nothing to wait for: what would hold the lock is this very process."""

    def wake(self, task_id: str, started: Started) -> None:
        if cancelled := self._cancelled.get(task_id):
            cancelled.set()

    def kill_left(self, started: Started) -> int:
        return 0

    def sweep(self) -> None:
        """Nothing was left."""


def _words(command: dict[str, Any]) -> list[str]:
    if argv := command.get("argv"):
        return list(argv)
    try:
        return shlex.split(command["command"], comments=True)
    except ValueError:
        return [command["command"]]


def pretend(words: list[str], *, hostname: str, number: int) -> Answer:
    """What a host would answer to a command line."""
    match words:
        case ["hostname", *_]:
            return Answer(f"{hostname}\n")
        case ["uptime", *_]:
            load = (number * 37 % 100) / 100
            return Answer(f" 10:42:07 up {number % 90 + 1} days,  3:04,  0 users,  load average: {load}, 0.05, 0.01\n")
        case ["uname", *_]:
            return Answer(f"Linux {hostname} 6.1.0-18-amd64 #1 SMP Debian x86_64 GNU/Linux\n")
        case ["id" | "whoami", *_]:
            return Answer("uid=0(root) gid=0(root) groups=0(root)\n" if words[0] == "id" else "root\n")
        case ["df", *_]:
            used = number * 13 % 90
            return Answer(f"Filesystem Size Used Use% Mounted on\n/dev/vda1   40G  {used * 4 // 10}G  {used}% /\n")
        case ["echo", *rest]:
            return Answer(" ".join(rest) + "\n")
        case ["true"]:
            return Answer()
        case ["false"]:
            return Answer(exit_code=1)
        case ["exit", code] if code.isdigit():
            return Answer(exit_code=int(code) % 256)
        case ["sleep", seconds] if seconds.replace(".", "", 1).isdigit():
            return Answer(seconds=float(seconds))
        case [program, *_] if program.startswith("no-such"):
            return Answer(stderr=f"/bin/sh: 1: {program}: not found\n", exit_code=NOT_FOUND)
        case _:
            return Answer(f"pretended to run: {' '.join(words)}\n")
