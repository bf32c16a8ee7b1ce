"""Processes that are found, by their parents or by what is in their environment, and killed. Standard library alone."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Final

KILL_S: Final = 5.0  # what is in an uninterruptible sleep does not go any sooner
ROUND_S: Final = 0.002


def until_none(find: Callable[[], list[int]]) -> set[int]:
    """Find and kill until none is found alive; what was killed."""
    killed: set[int] = set()
    ends_s = time.monotonic() + KILL_S
    while time.monotonic() < ends_s and (alive := [pid for pid in find() if not has_ended(pid)]):
        killed.update(alive)
        kill_each(alive)
        time.sleep(ROUND_S)
    return killed


def kill_each(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def reap(keep: int) -> None:
    """Take the statuses of all dead children but one."""
    for pid in _children(os.getpid()):
        if pid != keep:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def descendants() -> list[int]:
    """All processes below this one."""
    found = _children(os.getpid())
    for child in found:  # grows while it is walked
        found += _children(child)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in read(f"/proc/{pid}/task/{thread}/children").split()]
    return found


def has_ended(pid: int) -> bool:
    """Whether only its status is left."""
    try:
        return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def with_environment(variable: bytes) -> list[int]:
    """All that were started with this variable, as NAME=value."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if variable in file.read().split(b"\0"):
                    found.append(int(name))
    return found


def read(path: str) -> str:
    """A file of the kernel's."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
