"""Control groups: who is inside one, how it is emptied, by what it limits a command. The standard library alone.

What a command may use is limited by its leaf where the leaf's parent may hand on the controllers, which needs the agent
in a leaf of its own, `SELF`: systemd puts it there. Where the controllers are v1, it is limited by a group of each of
them, and only where a limit was set: every move into one waits for all CPUs of the kernel, 10 to 20 ms.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from control_plane_agent.processes import (
    KILL_S,
    ROUND_S,
    descendants,
    has_ended,
    kill_each,
    read,
    reap,
    until_none,
)

SELF: Final = "control-plane-agent"  # the last part of the agent's own cgroup, where its parent may be divided
LEAVES: Final = "control-plane-executions"
MOST_PIDS: Final = 4096  # where a cgroup v2 can say so
FREEZE_S: Final = 0.5  # who cannot be frozen, in an uninterruptible sleep, is not waited for any longer

_V1: Final = "/sys/fs/cgroup"
_MOUNTS: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
_FREEZER: Final = "freezer.state"

_SYS_CLONE3: Final = 435  # on every architecture
_CLONE_INTO_CGROUP: Final = 1 << 33
_SYSCALL: Final = ctypes.PyDLL(None, use_errno=True).syscall  # keeps the interpreter's lock, also over a fork
_SYSCALL.restype = ctypes.c_long


class Limits(NamedTuple):
    """What one execution may use; None as much as there is. `file_mib` and `cpu_s` are of each of its processes."""

    pids: int | None = None
    memory_mib: int | None = None
    file_mib: int | None = None
    cpu_s: int | None = None

    @property
    def of_cgroups(self) -> set[str]:
        """Those that are set and that only a cgroup holds a command to."""
        return {name for name, most in (("pids", self.pids), ("memory", self.memory_mib)) if most is not None}


class V1Groups:
    """Groups of the v1 controllers by which an execution is limited, by controller."""

    def __init__(self, groups: dict[str, str], held: Iterable[int] = ()) -> None:
        self._groups = groups
        self._held = held

    @classmethod
    def made(cls, name: str, limits: Limits) -> "V1Groups":
        memory = None if limits.memory_mib is None else limits.memory_mib << 20
        groups, held = {}, []
        wanted = (("pids", "pids.max", limits.pids), ("memory", "memory.limit_in_bytes", memory))
        for controller, file, most in wanted:
            if most is not None and (base := v1_base(controller)) is not None:
                with contextlib.suppress(OSError):
                    held.append(_hold(f"{base}/{name}"))
                    _write(f"{base}/{name}/{file}", str(most))
                    groups[controller] = f"{base}/{name}"
        return cls(groups, held)

    @classmethod
    def left(cls, nonce: str) -> "V1Groups":
        """Those of a dead supervisor."""
        groups = {}
        for controller in ("pids", "memory"):
            with contextlib.suppress(OSError, TypeError):
                base = v1_base(controller)
                names = [name for name in os.listdir(base) if name.endswith(f".{nonce}")]
                groups.update({f"{controller} {name}": f"{base}/{name}" for name in names})
        return cls(groups)

    @property
    def limited(self) -> set[str]:
        return set(self._groups)

    def join(self) -> None:
        for group in self._groups.values():
            _write(f"{group}/cgroup.procs", "0")

    def oom_kills(self) -> int:
        group = self._groups.get("memory")
        return 0 if group is None else _counted(f"{group}/memory.oom_control", "oom_kill")

    def close(self) -> None:
        for group in self._groups.values():
            _remove(group)
        _let_go(self._held)


class Leaf:
    """A cgroup v2 of its own for one execution."""

    def __init__(self, cgroup: str, groups: V1Groups, held: Iterable[int] = (), limited: Iterable[str] = ()) -> None:
        self.cgroup = cgroup
        self.limited = groups.limited | set(limited)
        self._groups = groups
        self._held = held
        self._is_joined = False

    @classmethod
    def made(cls, name: str, limits: Limits, groups: V1Groups) -> "Leaf | None":
        """None where none can be made."""
        base = v2_base()
        if base is None or (held := _held(f"{base}/{name}")) is None:
            return None
        limited = set()
        if may_be_limited():
            hand_on(os.path.dirname(base), base)
            limited = limit(f"{base}/{name}", limits)
        return cls(f"{base}/{name}", groups, (held,), limited)

    def fork(self) -> int:
        # A child that is born inside: moving one in later waits for all CPUs of the kernel, 10 to 30 ms.
        directory = os.open(self.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._is_joined = True
            pid = _fork_into(directory)
        finally:
            os.close(directory)
        if pid >= 0:
            return pid
        self._is_joined = False  # before Linux 5.7, or forbidden in this container
        return os.fork()

    def join(self) -> None:
        if not self._is_joined:
            _write(f"{self.cgroup}/cgroup.procs", "0")
        self._groups.join()

    def oom_kills(self) -> int:
        return _counted(f"{self.cgroup}/memory.events", "oom_kill") + self._groups.oom_kills()

    def kill(self, keep: int) -> int:
        killed = self.empty() | until_none(descendants)  # root's may have gone to another cgroup
        reap(keep)
        return len(killed - {keep})

    def alive(self) -> int:
        return sum(not has_ended(pid) for pid in {*_inside(self.cgroup), *descendants()})

    def empty(self) -> set[int]:
        """Kill until nobody is left inside, nor in a cgroup that was made below; who it was."""
        killed: set[int] = set()
        ends_s = time.monotonic() + KILL_S
        while _is_populated(self.cgroup) and time.monotonic() < ends_s:
            inside = _inside(self.cgroup)
            killed.update(inside)
            self._kill(inside)
            time.sleep(ROUND_S)
        return killed

    def _kill(self, inside: list[int]) -> None:
        try:
            _write(f"{self.cgroup}/cgroup.kill", "1")
        except OSError:  # before Linux 5.14: frozen, so that nothing forks away meanwhile
            with contextlib.suppress(OSError):
                _write(f"{self.cgroup}/cgroup.freeze", "1")
            kill_each(inside)

    def close(self) -> None:
        _remove(self.cgroup)
        self._groups.close()
        _let_go(self._held)


class Frozen(Leaf):
    """The same by the freezer of v1, where there is no v2: who is frozen cannot fork away, and dies when thawed."""

    @classmethod
    def made(cls, name: str, limits: Limits, groups: V1Groups) -> "Frozen | None":
        base = v1_base("freezer")
        if base is None or (held := _held(f"{base}/{name}")) is None:
            return None
        return cls(f"{base}/{name}", groups, (held,))

    def fork(self) -> int:
        return os.fork()

    def _kill(self, inside: list[int]) -> None:
        self._set("FROZEN")
        self._wait(lambda: read(f"{self.cgroup}/{_FREEZER}").strip() == "FROZEN")
        frozen = _inside(self.cgroup)
        kill_each(frozen)
        self._set("THAWED")
        # Frozen again before it has died, it would be there for ever on a busy machine.
        self._wait(lambda: all(map(has_ended, frozen)))

    def _set(self, state: str) -> None:
        for cgroup in _nested(self.cgroup):  # of those below root may have frozen one by itself
            with contextlib.suppress(OSError):
                _write(f"{cgroup}/{_FREEZER}", state)

    def _wait(self, is_so: Callable[[], bool]) -> None:
        ends_s = time.monotonic() + FREEZE_S
        with contextlib.suppress(OSError):
            while not is_so() and time.monotonic() < ends_s:
                time.sleep(ROUND_S)


def leaf_at(cgroup: str, groups: V1Groups) -> Leaf:
    """A leaf that an earlier supervisor has made."""
    kind = Frozen if os.path.exists(f"{cgroup}/{_FREEZER}") else Leaf
    return kind(cgroup, groups)


def sweep() -> None:
    """Remove the groups of executions that have ended, where now the last of the processes has too that stayed."""
    for base in filter(None, (v2_base(), *map(v1_base, ("freezer", "pids", "memory")))):
        with contextlib.suppress(OSError), os.scandir(base) as entries:
            for cgroup in [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]:
                with contextlib.suppress(OSError):
                    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    try:
                        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else its supervisor is about to fork
                        _remove(cgroup)
                    finally:
                        os.close(directory)


def _held(leaf: str) -> int | None:
    """Make a leaf and hold it, if we may put somebody into it."""
    with contextlib.suppress(OSError):
        held = _hold(leaf)
        if os.access(f"{leaf}/cgroup.procs", os.W_OK):
            return held
        os.close(held)
        os.rmdir(leaf)
    return None


def _hold(cgroup: str) -> int:
    """Make a cgroup, and keep `sweep` from it until the descriptor is closed. Raises OSError where that may not be."""
    while True:
        os.makedirs(cgroup, exist_ok=True)
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(directory, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(cgroup).st_ino == os.fstat(directory).st_ino:
                return directory
        os.close(directory)  # it was swept before we held it


def _let_go(held: Iterable[int]) -> None:
    for directory in held:
        os.close(directory)


def _is_populated(cgroup: str) -> bool:
    """Whether somebody is in it or below; v2 says so also where the processes cannot be listed."""
    try:
        return "populated 1" in read(f"{cgroup}/cgroup.events").splitlines()
    except OSError:
        return bool(_inside(cgroup))


def _inside(cgroup: str) -> list[int]:
    found: list[int] = []
    for each in _nested(cgroup):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in read(f"{each}/cgroup.procs").split()]
    return found


def _nested(cgroup: str) -> list[str]:
    """A cgroup, and every one that root has made below it, the deepest last."""
    found = [cgroup]
    for each in found:  # grows while it is walked
        with contextlib.suppress(OSError), os.scandir(each) as entries:
            found += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return found


def _remove(cgroup: str) -> None:
    """Remove a cgroup with those below; where somebody is inside, all of it stays for `sweep`."""
    if not _is_populated(cgroup):
        for each in reversed(_nested(cgroup)):
            with contextlib.suppress(OSError):
                os.rmdir(each)


def hand_on(*cgroups: str) -> None:
    """Let the cgroups below these be limited, as far as these may be themselves; none may have processes of its own."""
    for cgroup in cgroups:
        with contextlib.suppress(OSError):
            there = set(read(f"{cgroup}/cgroup.controllers").split()) & {"pids", "memory"}
            wanted = there - set(read(f"{cgroup}/cgroup.subtree_control").split())
            if wanted:
                _write(f"{cgroup}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(wanted)))


def limit(leaf: str, limits: Limits) -> set[str]:
    """Limit a leaf by the controllers that it has; which did."""
    memory = "max" if limits.memory_mib is None else str(limits.memory_mib << 20)
    limited = set()
    for controller, most in (("pids", str(limits.pids or MOST_PIDS)), ("memory", memory)):
        if os.path.exists(file := f"{leaf}/{controller}.max"):
            with contextlib.suppress(OSError):
                _write(file, most)
                limited.add(controller)
    return limited


class _CloneArguments(ctypes.Structure):
    """`struct clone_args` of clone3(2)."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal"),
            *("stack", "stack_size", "tls", "set_tid", "set_tid_size", "cgroup"),
        )
    )


def _fork_into(directory: int) -> int:
    """Fork a child that is in that cgroup from its first moment on; -1 where the kernel does not do that."""
    arguments = _CloneArguments(flags=_CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup=directory)
    return int(_SYSCALL(_SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)))


def own_cgroup() -> str | None:
    """The directory of the v2 cgroup that this process is in."""
    with contextlib.suppress(OSError):
        path = next((line[3:] for line in read("/proc/self/cgroup").splitlines() if line.startswith("0::")), None)
        mount = next((mount for mount in _MOUNTS if os.path.exists(f"{mount}/cgroup.controllers")), None)
        if path is not None and mount is not None:
            # an execution that starts an agent, as a test may, must not be contained in itself
            return (mount + path).partition(f"/{LEAVES}/")[0].rstrip("/")
    return None


def v2_base() -> str | None:
    """The directory for the leaves of executions; None where there is no v2."""
    own = own_cgroup()
    return None if own is None else f"{os.path.dirname(own) if may_be_limited() else own}/{LEAVES}"


def may_be_limited() -> bool:
    """Whether what is beside our own v2 cgroup may be limited: the agent has one to itself."""
    return os.path.basename(own_cgroup() or "") == SELF


def v1_base(controller: str) -> str | None:
    """The directory for the executions' groups of a v1 controller; None where it is not v1."""
    with contextlib.suppress(OSError):
        lines = (line.split(":", 2) for line in read("/proc/self/cgroup").splitlines())
        path = next((path for _, names, path in lines if controller in names.split(",")), None)
        if path is not None and os.path.isdir(f"{_V1}/{controller}"):
            own = (f"{_V1}/{controller}" + path).partition(f"/{LEAVES}/")[0].rstrip("/")
            return f"{own}/{LEAVES}"
    return None


def _counted(path: str, name: str) -> int:
    """A number in a file of names and numbers; 0 where there is none."""
    with contextlib.suppress(OSError):
        for line in read(path).splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
