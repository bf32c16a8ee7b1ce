"""Bugs of a supervisor that other systems have had: each turns the check red that is named."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from control_plane_agent import cgroups, containment, supervisor
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


def order_for(entry: Path, line: str) -> Order:
    command = {"task_id": entry.name, "command": line, "timeout": 30, "user": psutil.Process().username()}
    (entry / COMMAND).write_text(json.dumps(command))
    return Order(str(entry), "b1", 1_700_000_000_000_000, boottime_ns(), 60.0, 1.0, containment="none")


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


def evidence_of(entry: Path, left: frozenset[str] = frozenset()) -> Evidence:
    state = decode_state((entry / STATE).read_bytes())
    assert state.finished is not None
    said = "succeeded" if state.finished.exit_code == 0 else "failed"
    return Evidence(
        book=Book(attempts={"t1": ""}, acknowledged={"t1"}),
        events=[Event(1, "1", "task.accepted", "t1", hosts=(HOST,)), Event(2, "2", "execution.finished", "t1", HOST)],
        executions={("t1", HOST): Execution(said, state.finished.exit_code)},
        witness=witness.read(entry.parents[2] / "witness"),
        witnessed=frozenset({"t1"}),
        before=Things(),
        after=Things(names=left),
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
