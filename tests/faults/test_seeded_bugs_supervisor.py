"""Bugs of a supervisor that other systems have had: each turns the check red that is named."""

import contextlib
import json
import os
import pwd
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from control_plane_agent import cgroups, child, containment, supervisor
from control_plane_agent.disk import FileLock, RealDisk
from control_plane_agent.slots import EMPTY, decode_state
from control_plane_agent.supervisor import COMMAND, STATE, Order, boottime_ns, supervise
from tests.support.faults import witness
from tests.support.faults.checks import Event, Evidence, Execution, Things, red
from tests.support.faults.ledger import Book
from tests.support.servers import wait_until

HOST = "web1"


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """A journal entry below the directory of its host; the witness is beside it."""
    made = tmp_path / HOST / "journal" / "t1"
    made.mkdir(parents=True)
    (tmp_path / "witness").mkdir()
    (made / STATE).write_bytes(EMPTY)
    return made


def order_for(entry: Path, line: str, *, user: str = "", **more: Any) -> Order:
    user = user or psutil.Process().username()
    command = {"task_id": entry.name, "command": line, "timeout": 30, "user": user}
    (entry / COMMAND).write_text(json.dumps(command))
    return Order(str(entry), "b1", 1_700_000_000_000_000, boottime_ns(), 60.0, 1.0, containment="none", **more)


def forked(work: Callable[[], None], *, home: Path) -> int:
    """A process that does this and ends, as the launcher has it; its id."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.chdir(home)
            work()
        finally:
            os._exit(0)
    return pid


def evidence_of(entry: Path, left: frozenset[str] = frozenset(), **more: Any) -> Evidence:
    finished = decode_state((entry / STATE).read_bytes()).finished
    if finished is None:
        execution = Execution("running")
    else:
        stdout = (entry / "stdout.head").read_text() if (entry / "stdout.head").exists() else ""
        execution = Execution("succeeded" if finished.exit_code == 0 else "failed", finished.exit_code, stdout)
    return Evidence(
        book=Book(attempts={"t1": ""}, acknowledged={"t1"}),
        events=[Event(1, "1", "task.accepted", "t1", hosts=(HOST,)), Event(2, "2", "execution.finished", "t1", HOST)],
        executions={("t1", HOST): execution},
        witness=witness.read(entry.parents[2] / "witness"),
        witnessed=frozenset({"t1"}),
        before=Things(),
        after=Things(names=left),
        **more,
    )


# --- slot 0 before the lock -------------------------------------------------------------------------------------------


def no_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RealDisk, "try_lock", lambda _disk, _path: FileLock(os.open(os.devnull, os.O_RDONLY)))


@pytest.mark.parametrize("bug", [None, no_lock], ids=["as it is", "slots are read before the lock"])
def test_two_supervisors_of_one_entry(
    entry: Path, bug: Callable[[pytest.MonkeyPatch], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that restarts quickly asks for what an earlier launcher is about to do."""
    if bug is not None:
        bug(monkeypatch)
    order = order_for(entry, witness.command(entry.parents[2] / "witness"))
    has_read, ready = os.pipe()
    waits, go = os.pipe()

    def between(_order: Order, _disk: RealDisk) -> None:
        os.write(ready, b"r")
        os.read(waits, 1)

    monkeypatch.setattr(supervisor, "_refusal", between)
    pids = {forked(lambda: supervise(order), home=entry.parents[1]) for _ in range(2)}
    os.read(has_read, 1)
    os.set_blocking(has_read, False)
    ended: set[int] = set()

    def other_has_read_or_ended() -> bool:
        ended.update(pid for pid in pids - ended if os.waitpid(pid, os.WNOHANG)[0])
        try:
            return bool(os.read(has_read, 1))
        except BlockingIOError:
            return bool(ended)

    wait_until(other_has_read_or_ended, timeout_s=20, what="the other one has read the slots or ended")
    os.write(go, b"gg")
    for pid in pids - ended:
        os.waitpid(pid, 0)
    for descriptor in (has_read, ready, waits, go):
        os.close(descriptor)

    assert red(evidence_of(entry)) & {"I3"} == (set() if bug is None else {"I3"})


# --- only the process group is killed ---------------------------------------------------------------------------------


class ProcessGroup(containment.Descendants):
    """What `killpg` reaches, and no more."""

    def fork(self) -> int:
        self.pid = os.fork()
        return self.pid

    def kill(self, keep: int) -> int:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return 0
        return 1


def only_the_group(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(supervisor, "contain", lambda _name, **_how: ProcessGroup(cgroups.V1Groups({})))


def left_of(task_id: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.environ().get("CONTROL_PLANE_TASK_ID") == task_id and process.pid != os.getpid():
                yield process
        except psutil.Error:
            continue


@pytest.mark.parametrize("bug", [None, only_the_group], ids=["as it is", "only the process group is killed"])
def test_what_has_left_the_process_group(
    entry: Path, bug: Callable[[pytest.MonkeyPatch], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = f"left-{os.getpid()}-{bug is None}"
    entry = entry.rename(entry.with_name(task_id))
    if bug is not None:
        bug(monkeypatch)
    up = entry.parents[2] / "up"
    order = order_for(entry, f"setsid sh -c 'echo > {up}; exec sleep 300' & until [ -s {up} ]; do sleep 0.01; done")

    os.waitpid(forked(lambda: supervise(order), home=entry.parents[1]), 0)

    left = list(left_of(task_id))
    evidence = evidence_of(entry, frozenset(str(process.pid) for process in left))
    for process in left:
        process.kill()
    assert red(evidence) & {"I11"} == (set() if bug is None else {"I11"})


# --- it is read until the pipes are closed ----------------------------------------------------------------------------


def read_until_closed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(supervisor, "DRAIN_S", float("inf"))


@pytest.mark.parametrize("bug", [None, read_until_closed], ids=["as it is", "it is read until the pipes are closed"])
def test_who_is_left_behind_holds_the_pipes(
    entry: Path, bug: Callable[[pytest.MonkeyPatch], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that policy lets stay, in a session of its own: its end is not the command's."""
    monkeypatch.setattr(supervisor, "DRAIN_S", 0.2)
    if bug is not None:
        bug(monkeypatch)
    task_id = entry.rename(entry.with_name(f"pipe-{os.getpid()}-{bug is None}")).name
    entry = entry.with_name(task_id)
    order = order_for(entry, "setsid sleep 300 &", keeps_leftovers=True)

    pid = forked(lambda: supervise(order), home=entry.parents[1])
    with contextlib.suppress(AssertionError):  # where it does not end that is what is to be seen
        wait_until(lambda: any((entry / STATE).read_bytes()[4096:]), timeout_s=10 if bug is None else 3, what="its end")
    evidence = evidence_of(entry)
    for process in left_of(task_id):
        if process.pid != pid:
            process.kill()
    os.waitpid(pid, 0)

    assert red(evidence) & {"I9"} == (set() if bug is None else {"I9"})


# --- it keeps what is the agent's -------------------------------------------------------------------------------------


def only_the_uid_is_set(patch: pytest.MonkeyPatch) -> None:
    """What `subprocess` does when it is told a user alone."""
    patch.setattr(child, "_become", lambda account: os.setresuid(account.uid, account.uid, account.uid))


def the_environment_is_inherited(patch: pytest.MonkeyPatch) -> None:
    make = child.environment
    patch.setattr(child, "environment", lambda *given: {**os.environ, **make(*given)})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    "bug",
    [None, only_the_uid_is_set, the_environment_is_inherited],
    ids=lambda bug: getattr(bug, "__name__", "as it is"),
)
def test_what_a_command_has_that_is_not_its_users(
    entry: Path, bug: Callable[[pytest.MonkeyPatch], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    if bug is not None:
        bug(monkeypatch)
    line = "id -u; id -g; id -G; cat /proc/self/environ | tr '\\0' '\\n' | grep SECRET; exit 0"

    os.waitpid(forked(lambda: supervise(order_for(entry, line, user="nobody")), home=entry.parents[1]), 0)

    wanted = witness.Expected(f"{nobody.pw_uid}\n{nobody.pw_gid}\n{nobody.pw_gid}\n", 0)
    evidence = evidence_of(entry, expected=lambda _: wanted)
    assert red(evidence) & {"I4"} == (set() if bug is None else {"I4"})
