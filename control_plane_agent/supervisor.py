"""The parent of one command. It outlives the agent and the launcher, and writes down what came of it.

It talks to the agent through the entry's files alone: the lock on `state` says that it lives, slot 0 that the command
was started, slot 1 what came of it; the file `cancel` and SIGUSR1 ask it to end the command. It runs under
`python -I -S`, so it imports the standard library and its neighbours of which the same is true.
"""

import contextlib
import json
import math
import os
import select
import signal
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from control_plane_agent import child
from control_plane_agent.cgroups import Limits
from control_plane_agent.containment import Containment, contain
from control_plane_agent.disk import RealDisk
from control_plane_agent.output import READ_BYTES, STREAMS, Capture
from control_plane_agent.slots import FINISHED_AT, Finished, Started, decode_state, encode

COMMAND, STATE, CANCEL = "command.json", "state", "cancel"
DRAIN_S: Final = 2.0
LONGEST_WAIT_S: Final = 30.0  # poll does not count the time that a machine sleeps, the timeout does


class Order(NamedTuple):
    """What the agent asks for.

    Attributes:
        entry: the journal entry's directory.
        boot_id: of this boot.
        now_us: UTC microseconds by the agent's clock when CLOCK_BOOTTIME was `boottime_ns`. All times follow from that,
            so a clock that is set while the command runs changes nothing.
        start_within_s: from then on; later it counts as expired.
        grace_s: from TERM to KILL.
        containment: which kind (`containment.MODES`).
        keeps_leftovers: whether what a command leaves running at its own end may go on.
        limits: `Limits`, as it comes out of JSON.
        failpoint, failpoint_log: for tests, where to die and where to say what was reached.
    """

    entry: str
    boot_id: str
    now_us: int
    boottime_ns: int
    start_within_s: float
    grace_s: float
    containment: str = "auto"
    forbids_sudo: bool = False
    keeps_leftovers: bool = False
    limits: Sequence[int | None] = Limits()
    failpoint: str | None = None
    failpoint_log: str | None = None

    def now_s(self) -> int:
        return (self.now_us + (boottime_ns() - self.boottime_ns) // 1000) // 1_000_000

    def hit(self, name: str) -> None:
        if self.failpoint_log is not None:
            with open(self.failpoint_log, "a", encoding="ascii") as log:
                log.write(f"{name}\n")
        if self.failpoint == name:
            os.kill(os.getpid(), signal.SIGKILL)


def supervise(order: Order) -> None:
    """Run the command of a journal entry; do nothing where somebody has begun it, or is about to."""
    disk = RealDisk(order.entry)
    # The lock comes first and the slots are read under it: else an agent that restarts quickly takes us for dead.
    lock = disk.try_lock(STATE)
    if lock is None or not decode_state(disk.read(STATE)).is_new:
        return
    order.hit("supervisor.locked")
    command = json.loads(disk.read(COMMAND))
    finished = _refusal(order, disk)
    if finished is None:
        try:
            account = child.find_account(command["user"])
        except KeyError:
            finished = Finished("rejected", order.now_s(), reason=f"there is no account {command['user']} on this host")
        else:
            finished = _Execution(order, disk, command, account).run()
    order.hit("supervisor.ended")
    _write(disk, FINISHED_AT, finished)
    order.hit("supervisor.finished")
    lock.release()


def _refusal(order: Order, disk: RealDisk) -> Finished | None:
    if _is_cancelled(disk):
        return Finished("cancelled", order.now_s(), reason="cancelled before it was started")
    late_s = (boottime_ns() - order.boottime_ns) / 1e9 - order.start_within_s
    return Finished("expired", order.now_s(), reason="expired before it could be started") if late_s > 0 else None


def _is_cancelled(disk: RealDisk) -> bool:
    return CANCEL in disk.names(".")


def _write(disk: RealDisk, offset: int, slot: Started | Finished) -> None:
    disk.write_at(STATE, offset, encode(slot))
    disk.sync(STATE)


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boottime_s() -> float:
    return boottime_ns() / 1e9


class _Execution:
    def __init__(self, order: Order, disk: RealDisk, command: dict[str, Any], account: child.Account) -> None:
        self._order = order
        self._disk = disk
        self._command = command
        self._account = account
        self._directory = os.open(order.entry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._captures = {stream: Capture(self._directory, stream) for stream in STREAMS}
        self._pipes: dict[int, Capture] = {}
        self._poll = select.poll()
        self._wake = _wake_on_signals()
        self._poll.register(self._wake, select.POLLIN)
        self._nonce = os.urandom(8).hex()  # `secrets` would cost the launcher half a megabyte
        self._limits = Limits(*order.limits)
        name = f"{command['task_id']}.{self._nonce}"
        self._containment: Containment = contain(name, mode=order.containment, limits=self._limits)
        self._pid = 0
        self._outcome = "completed"
        self._reason: str | None = None
        self._leftovers = 0

    def run(self) -> Finished:
        if missing := sorted(self._limits.of_cgroups - self._containment.limited):
            self._containment.close()
            reason = f"this host's policy limits what a command may use, and cannot: {', '.join(missing)}"
            return Finished("rejected", self._order.now_s(), reason=reason)
        started_s = self._start()
        status = self._watch(started_s + self._command["timeout"])
        if self._order.keeps_leftovers and self._outcome == "completed":
            self._drain()
            self._leftovers = self._containment.alive()
        else:
            self._leftovers += self._containment.kill(keep=0)
            self._drain()
        if self._containment.oom_kills():
            self._reason = "; ".join(filter(None, (self._reason, "the kernel killed some of it: out of memory")))
        self._containment.close()
        return self._finish(status)

    def _start(self) -> float:
        """Write down that it was started, then start it; when that was, by CLOCK_BOOTTIME."""
        order, begun_ns = self._order, boottime_ns()
        cgroup, session = self._containment.cgroup, os.getsid(0)
        started = Started(order.boot_id, self._nonce, begun_ns, order.now_s(), os.getpid(), session, cgroup)
        _write(self._disk, 0, started)
        order.hit("supervisor.started")
        self._fork()
        order.hit("supervisor.running")
        return begun_ns / 1e9

    def _fork(self) -> None:
        stdout, stderr = (self._pipe(capture) for capture in self._captures.values())
        stdin = _standard_input(self._command.get("stdin"))
        program = child.Program(
            argv=child.argv(self._command),
            environment=child.environment(self._command, self._account, self._nonce),
            account=self._account,
            cwd=self._command.get("cwd"),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            forbids_sudo=self._order.forbids_sudo,
            limits=self._limits,
        )
        parent = os.getpid()
        self._pid = self._containment.fork()
        if self._pid == 0:
            child.execute(program, self._containment, parent)
        for descriptor in (stdin, stdout, stderr):
            os.close(descriptor)

    def _pipe(self, capture: Capture) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        self._pipes[reader] = capture
        self._poll.register(reader, select.POLLIN)
        return writer

    def _watch(self, deadline_s: float) -> int:
        """Read what it prints until it ends, which the deadline or a cancel makes it do; its wait status."""
        must_look = True  # until slot 0 was there the agent had nobody to signal
        while True:
            must_look |= self._read_until(0 if must_look else deadline_s)
            # Of any child: orphans are ours, and unreaped they would use up the processes that their user may have.
            # One a round, so that no flood of them holds the deadline up.
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == self._pid:
                return status
            is_ending = self._outcome != "completed"
            if must_look and not is_ending and _is_cancelled(self._disk):
                deadline_s = self._end("cancelled", "cancelled while it ran")
            elif boottime_s() >= deadline_s:
                if is_ending:
                    self._leftovers += self._containment.kill(keep=self._pid)
                    deadline_s = math.inf
                else:
                    deadline_s = self._end("timed_out", f"it ran longer than {self._command['timeout']} s")
            must_look = pid != 0  # there may be more of them

    def _end(self, outcome: str, reason: str) -> float:
        """Ask the process group to end; until when it may take its time."""
        self._outcome, self._reason = outcome, reason
        with contextlib.suppress(ProcessLookupError, PermissionError):
            try:
                os.killpg(self._pid, signal.SIGTERM)
            except ProcessLookupError:  # it has not come to its setsid yet
                os.kill(self._pid, signal.SIGTERM)
        return boottime_s() + self._order.grace_s

    def _read_until(self, deadline_s: float) -> bool:
        """Wait for something, and take in what has come; whether a signal was in it."""
        wait_s = min(LONGEST_WAIT_S, max(0.0, deadline_s - boottime_s()))
        was_signalled = False
        for descriptor, _ in self._poll.poll(math.ceil(wait_s * 1000)):
            if descriptor == self._wake:
                was_signalled = bool(os.read(descriptor, READ_BYTES))
            else:
                self._read(descriptor)
        return was_signalled

    def _read(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._pipes[descriptor].feed(data)
            return
        self._poll.unregister(descriptor)
        del self._pipes[descriptor]
        os.close(descriptor)

    def _drain(self) -> None:
        """Read what is left in the pipes; they stay open only where somebody was not killed."""
        ends_s = boottime_s() + DRAIN_S
        while self._pipes and boottime_s() < ends_s:
            self._read_until(ends_s)

    def _finish(self, status: int) -> Finished:
        """Make the output durable, then say how it ended."""
        out, err = self._captures.values()
        for capture in (out, err):
            capture.sync()
        if out.has_files or err.has_files:
            os.fsync(self._directory)
        if out.is_lost or err.is_lost:
            self._reason = "; ".join(filter(None, (self._reason, "output lost: disk full")))
        code = os.waitstatus_to_exitcode(status)
        return Finished(
            outcome=self._outcome,
            finished_at=self._order.now_s(),
            exit_code=128 - code if code < 0 else code,
            reason=self._reason,
            stdout_bytes=out.size,
            stderr_bytes=err.size,
            stdout_sha256=out.sha256,
            stderr_sha256=err.sha256,
            leftovers=self._leftovers or None,
            stdout_kept=out.kept_crc(),
            stderr_kept=err.kept_crc(),
        )


def _wake_on_signals() -> int:
    """A descriptor that can be read when a child has ended, or when the agent has signalled."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    return reader


def _standard_input(text: str | None) -> int:
    if text is None:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    file = os.memfd_create("stdin")
    os.write(file, text.encode())
    os.lseek(file, 0, os.SEEK_SET)
    return file
