"""Runs journal entries: by the launcher and its supervisors on a real host, by pretending on a simulated one."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

from control_plane_agent import cgroups
from control_plane_agent.cgroups import Limits
from control_plane_agent.containment import kill_left
from control_plane_agent.disk import RealDisk
from control_plane_agent.journal import LIVE
from control_plane_agent.slots import Started
from control_plane_agent.supervisor import STATE, Order, boottime_ns
from control_plane_wire.clock import Clock

GRACE_S: Final = 10.0
RESTART_S: Final = 0.1  # before a launcher that died is replaced
STOP_S: Final = 2.0

# `_hashlib` is OpenSSL: 3.5 MB in a process that has to be small, and the interpreter's own SHA-256 does 350 MB/s.
_PACKAGES: Final = str(Path(__file__).resolve().parent.parent)
_BOOT: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); sys.modules['_hashlib'] = None; "
    "from control_plane_agent.launcher import main; main()"
)


class Executor(Protocol):
    """Whatever happens to the executor, the slots of an entry say how far it came."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """What is needed to run commands is there inside this block; commands outlive it."""
        ...

    async def run(self, task_id: str, *, start_within_s: float) -> None:
        """Have an entry run that nobody has begun; return when its supervisor has ended, in whatever way."""
        ...

    async def wait(self, task_id: str) -> None:
        """Return when nobody holds the entry's lock: its supervisor is of an earlier life of this agent."""
        ...

    def wake(self, task_id: str, started: Started) -> None:
        """Tell the supervisor that something was asked of it; nothing happens where it has ended."""
        ...

    def kill_left(self, started: Started) -> int:
        """Kill what a supervisor that is dead has left; how many processes."""
        ...

    def sweep(self) -> None:
        """Remove what executions that have ended had to leave behind, where nobody needs it any more."""
        ...


class LauncherExecutor:
    """Runs commands on this host.

    Args:
        state_dir: the root of the journal's disk.
        boot_id: of this boot; nothing of an earlier one is left.
        grace_s: from TERM to KILL.
        containment: which kind (`containment.MODES`).
        forbids_sudo, keeps_leftovers: see `Order`.
        limits: of each execution.
        failpoint, failpoint_log: for tests, handed to the supervisors.
    """

    def __init__(
        self,
        state_dir: Path,
        clock: Clock,
        *,
        boot_id: str,
        grace_s: float = GRACE_S,
        containment: str = "auto",
        forbids_sudo: bool = False,
        keeps_leftovers: bool = False,
        limits: Limits = Limits(),  # noqa: B008 - it cannot be changed
        failpoint: str | None = None,
        failpoint_log: str | None = None,
    ) -> None:
        self._journal = state_dir.resolve() / LIVE
        self._clock = clock
        self._boot_id = boot_id
        self._grace_s = grace_s
        self._containment = containment
        self._forbids_sudo = forbids_sudo
        self._keeps_leftovers = keeps_leftovers
        self._limits = limits
        self._failpoint = failpoint
        self._failpoint_log = failpoint_log
        self._orders: asyncio.StreamWriter | None = None
        self._pid: int | None = None
        self._is_up = asyncio.Event()
        self._ended: dict[str, asyncio.Event] = {}

    @property
    def launcher_pid(self) -> int | None:
        """The launcher's process."""
        return self._pid

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(self._keep_launcher(), name="launcher")
            try:
                yield
            finally:
                keeper.cancel()

    async def _keep_launcher(self) -> None:
        """Have a launcher, and another one when it dies; supervisors live on without it."""
        while True:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _BOOT, _PACKAGES),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
                env={},
            )
            assert process.stdin is not None  # noqa: S101 - it is a pipe
            assert process.stdout is not None  # noqa: S101
            self._orders, self._pid = process.stdin, process.pid
            self._is_up.set()
            try:
                while line := await process.stdout.readline():
                    self._has_ended(json.loads(line)["ended"])
            finally:
                self._is_up.clear()
                process.stdin.close()  # which ends it
                for ended in self._ended.values():
                    ended.set()  # or not: whoever waits looks at the slots and the lock
                await _until_ended(process)
            await asyncio.sleep(RESTART_S)

    def _has_ended(self, entry: str) -> None:
        if ended := self._ended.get(entry):
            ended.set()

    async def run(self, task_id: str, *, start_within_s: float) -> None:
        entry = str(self._journal / task_id)
        order = Order(
            entry=entry,
            boot_id=self._boot_id,
            now_us=self._clock.now_us(),
            boottime_ns=boottime_ns(),
            start_within_s=start_within_s,
            grace_s=self._grace_s,
            containment=self._containment,
            forbids_sudo=self._forbids_sudo,
            keeps_leftovers=self._keeps_leftovers,
            limits=self._limits,
            failpoint=self._failpoint,
            failpoint_log=self._failpoint_log,
        )
        await self._is_up.wait()
        assert self._orders is not None  # noqa: S101 - set before it is up
        ended = self._ended[entry] = asyncio.Event()
        try:
            self._orders.write(json.dumps(order._asdict()).encode() + b"\n")
            await ended.wait()
        finally:
            del self._ended[entry]

    async def wait(self, task_id: str) -> None:
        # A thread that a stop need not wait for: this lasts as long as the command.
        loop = asyncio.get_running_loop()
        free = asyncio.Event()

        def wait_for_lock() -> None:
            with contextlib.suppress(OSError):
                disk = RealDisk(str(self._journal / task_id))
                disk.lock(STATE).release()
                disk.close()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(free.set)

        threading.Thread(target=wait_for_lock, name=f"wait for {task_id}", daemon=True).start()
        await free.wait()

    def wake(self, task_id: str, started: Started) -> None:
        try:
            process = os.pidfd_open(started.pid)
        except OSError:  # it has ended, or its number is a thread's by now
            return
        try:
            # Only while it holds the lock is the process of that number, which is open now, our supervisor.
            if not self._is_free(task_id):
                signal.pidfd_send_signal(process, signal.SIGUSR1)
        except (ProcessLookupError, FileNotFoundError):
            return
        finally:
            os.close(process)

    def _is_free(self, task_id: str) -> bool:
        disk = RealDisk(str(self._journal / task_id))
        try:
            lock = disk.try_lock(STATE)
        finally:
            disk.close()
        if lock is None:
            return False
        lock.release()
        return True

    def kill_left(self, started: Started) -> int:
        return kill_left(started.cgroup, started.nonce) if started.boot_id == self._boot_id else 0

    def sweep(self) -> None:
        cgroups.sweep()


async def _until_ended(process: asyncio.subprocess.Process) -> None:
    """Wait for a launcher that has nothing more to do, and kill one that is frozen; supervisors live on without it."""
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
