"""Everything that a command starts, found and killed, wherever it has put itself: `setsid` leaves a process group.

A cgroup v2 leaf where one can be made (also the v2 part of a v1 hybrid). Else the supervisor is the subreaper of all
orphans below it, so that none can leave its tree. The standard library alone: the supervisor uses it.

What it may use is limited by that leaf where its parent may hand on the controllers, which needs the agent in a leaf of
its own, `SELF`: systemd puts it there. Where the controllers are v1, it is limited by a group of each of them, and only
where a limit was set: every move into one waits for all CPUs of the kernel, 10 to 20 ms.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

KILL_S: Final = 5.0  # what is in an uninterruptible sleep does not go any sooner
ROUND_S: Final = 0.002
PR_SET_CHILD_SUBREAPER: Final = 36
EXECUTION: Final = "CONTROL_PLANE_EXECUTION"  # the variable with the execution's nonce, in all that a command starts

SELF: Final = "control-plane-agent"  # the last part of the agent's own cgroup, where its parent may be divided
MOST_PIDS: Final = 4096  # where a cgroup v2 can say so

_LEAVES: Final = "control-plane-executions"
_V1: Final = "/sys/fs/cgroup"
_MOUNTS: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")

_SYS_CLONE3: Final = 435  # on every architecture
_CLONE_INTO_CGROUP: Final = 1 << 33

libc: Final = ctypes.CDLL(None, use_errno=True)
_SYSCALL: Final = ctypes.PyDLL(None, use_errno=True).syscall  # keeps the interpreter's lock, also over a fork
_SYSCALL.restype = ctypes.c_long


class Limits(NamedTuple):
    """What one execution may use; None as much as there is. `file_mib` and `cpu_s` are of each of its processes."""

    pids: int | None = None
    memory_mib: int | None = None
    file_mib: int | None = None
    cpu_s: int | None = None


class Containment(Protocol):
    @property
    def cgroup(self) -> str | None:
        """The leaf's directory, to be written down before anything is started in it."""
        ...

    def fork(self) -> int:
        """Fork: 0 in the child, which then has to `join`, its pid in the parent. Only for a process without threads."""
        ...

    def join(self) -> None:
        """Put this process, and all that it will start, inside, unless it is inside already."""
        ...

    def kill(self, keep: int) -> int:
        """Kill all that is inside, until nothing is; how many there were beside `keep`, whose status is left."""
        ...

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed because they used more memory than they may."""
        ...

    def close(self) -> None: ...


class V1Groups:
    """Groups of the v1 controllers by which an execution is limited, by controller."""

    def __init__(self, groups: dict[str, str]) -> None:
        self._groups = groups

    @classmethod
    def made(cls, name: str, limits: Limits) -> "V1Groups":
        memory = None if limits.memory_mib is None else limits.memory_mib << 20
        groups = {}
        wanted = (("pids", "pids.max", limits.pids), ("memory", "memory.limit_in_bytes", memory))
        for controller, file, most in wanted:
            if most is not None and (base := _v1_base(controller)) is not None:
                with contextlib.suppress(OSError):
                    os.makedirs(f"{base}/{name}")
                    _write(f"{base}/{name}/{file}", str(most))
                    groups[controller] = f"{base}/{name}"
        return cls(groups)

    @classmethod
    def left(cls, nonce: str) -> "V1Groups":
        """Those of a dead supervisor."""
        groups = {}
        for controller in ("pids", "memory"):
            with contextlib.suppress(OSError, TypeError):
                base = _v1_base(controller)
                names = [name for name in os.listdir(base) if name.endswith(f".{nonce}")]
                groups.update({f"{controller} {name}": f"{base}/{name}" for name in names})
        return cls(groups)

    def join(self) -> None:
        for group in self._groups.values():
            _write(f"{group}/cgroup.procs", "0")

    def oom_kills(self) -> int:
        group = self._groups.get("memory")
        return 0 if group is None else _counted(f"{group}/memory.oom_control", "oom_kill")

    def close(self) -> None:
        for group in self._groups.values():
            with contextlib.suppress(OSError):
                os.rmdir(group)


class Leaf:
    """A cgroup v2 of its own for one execution."""

    def __init__(self, cgroup: str, groups: V1Groups) -> None:
        self.cgroup = cgroup
        self._groups = groups
        self._is_joined = False

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
        killed = self.empty() | _until_none(_descendants, _kill_each)  # root's may have gone to another cgroup
        _reap(keep)
        return len(killed - {keep})

    def empty(self) -> set[int]:
        """Kill until nobody is left inside, nor in a cgroup that was made below; who it was."""
        killed: set[int] = set()
        ends_s = time.monotonic() + KILL_S
        while self._is_populated() and time.monotonic() < ends_s:
            inside = self._inside()
            killed.update(inside)
            self._kill(inside)
            time.sleep(ROUND_S)
        return killed

    def _is_populated(self) -> bool:
        """What the kernel says of it and all below, also where the processes cannot be listed."""
        try:
            return "populated 1" in _read(f"{self.cgroup}/cgroup.events").splitlines()
        except OSError:
            return False

    def _inside(self) -> list[int]:
        found: list[int] = []
        for cgroup in self._nested():
            with contextlib.suppress(OSError):
                found += [int(pid) for pid in _read(f"{cgroup}/cgroup.procs").split()]
        return found

    def _nested(self) -> list[str]:
        """The leaf, and every cgroup that root has made below it, the deepest last."""
        found = [self.cgroup]
        for cgroup in found:  # grows while it is walked
            with contextlib.suppress(OSError), os.scandir(cgroup) as entries:
                found += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        return found

    def _kill(self, inside: list[int]) -> None:
        try:
            _write(f"{self.cgroup}/cgroup.kill", "1")
        except OSError:  # before Linux 5.14: frozen, so that nothing forks away meanwhile
            with contextlib.suppress(OSError):
                _write(f"{self.cgroup}/cgroup.freeze", "1")
            _kill_each(inside)

    def close(self) -> None:
        for cgroup in reversed(self._nested()):
            # Where somebody unkillable is still inside, the next start of the machine removes it.
            with contextlib.suppress(OSError):
                os.rmdir(cgroup)
        self._groups.close()


class Descendants:
    """Where no cgroup can be made: all processes below this one, which has to be their subreaper."""

    cgroup: str | None = None

    def __init__(self, groups: V1Groups) -> None:
        self._groups = groups

    def fork(self) -> int:
        return os.fork()

    def join(self) -> None:
        self._groups.join()

    def oom_kills(self) -> int:
        return self._groups.oom_kills()

    def kill(self, keep: int) -> int:
        killed = _until_none(_descendants, _kill_each)
        _reap(keep)
        return len(killed - {keep})

    def close(self) -> None:
        self._groups.close()


def contain(name: str, *, mode: str, limits: Limits) -> Containment:
    """A place for one execution.

    Args:
        name: of the leaf; unique on this machine.
        mode: "auto", or "none" for descendants alone.
    """
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    groups = V1Groups.made(name, Limits() if mode == "none" else limits)
    own = None if mode == "none" else _own_cgroup()
    if own is not None:
        base, may_divide = (os.path.dirname(own), True) if os.path.basename(own) == SELF else (own, False)
        leaf = f"{base}/{_LEAVES}/{name}"
        with contextlib.suppress(OSError):
            os.makedirs(leaf)
            if os.access(f"{leaf}/cgroup.procs", os.W_OK):
                if may_divide:
                    hand_on(base, f"{base}/{_LEAVES}")
                    limit(leaf, limits)
                return Leaf(leaf, groups)
            os.rmdir(leaf)
    return Descendants(groups)


def hand_on(*cgroups: str) -> None:
    """Let the cgroups below these be limited, as far as these may be themselves; none may have processes of its own."""
    for cgroup in cgroups:
        with contextlib.suppress(OSError):
            there = set(_read(f"{cgroup}/cgroup.controllers").split()) & {"pids", "memory"}
            wanted = there - set(_read(f"{cgroup}/cgroup.subtree_control").split())
            if wanted:
                _write(f"{cgroup}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(wanted)))


def limit(leaf: str, limits: Limits) -> None:
    """Limit a leaf by the controllers that it has."""
    memory = "max" if limits.memory_mib is None else str(limits.memory_mib << 20)
    for file, most in (("pids.max", str(limits.pids or MOST_PIDS)), ("memory.max", memory)):
        if os.path.exists(f"{leaf}/{file}"):
            _write(f"{leaf}/{file}", most)


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


def kill_left(cgroup: str | None, nonce: str) -> int:
    """Kill what a dead supervisor has left behind, and say how many that were.

    Without a cgroup it is known by its environment alone, which a process may have changed: best effort.
    """
    groups = V1Groups.left(nonce)
    if cgroup is not None:
        leaf = Leaf(cgroup, groups)
        killed = leaf.empty()
        leaf.close()
        return len(killed)
    variable = f"{EXECUTION}={nonce}".encode()
    found = _until_none(lambda: _with_environment(variable), _kill_each)
    groups.close()
    return len(found)


def _until_none(find: Callable[[], list[int]], kill: Callable[[list[int]], None]) -> set[int]:
    """Find and kill until none is found alive; what was killed."""
    killed: set[int] = set()
    ends_s = time.monotonic() + KILL_S
    while time.monotonic() < ends_s and (alive := [pid for pid in find() if not _has_ended(pid)]):
        killed.update(alive)
        kill(alive)
        time.sleep(ROUND_S)
    return killed


def _kill_each(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _reap(keep: int) -> None:
    """Take the statuses of all dead children but one."""
    for pid in _children(os.getpid()):
        if pid != keep:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _own_cgroup() -> str | None:
    """The directory of the v2 cgroup that this process is in."""
    with contextlib.suppress(OSError):
        path = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), None)
        mount = next((mount for mount in _MOUNTS if os.path.exists(f"{mount}/cgroup.controllers")), None)
        if path is not None and mount is not None:
            # an execution that starts an agent, as a test may, must not be contained in itself
            return (mount + path).partition(f"/{_LEAVES}/")[0].rstrip("/")
    return None


def _v1_base(controller: str) -> str | None:
    """The directory for the executions' groups of a v1 controller; None where it is not v1."""
    with contextlib.suppress(OSError):
        lines = (line.split(":", 2) for line in _read("/proc/self/cgroup").splitlines())
        path = next((path for _, names, path in lines if controller in names.split(",")), None)
        if path is not None and os.path.isdir(f"{_V1}/{controller}"):
            own = (f"{_V1}/{controller}" + path).partition(f"/{_LEAVES}/")[0].rstrip("/")
            return f"{own}/{_LEAVES}"
    return None


def _counted(path: str, name: str) -> int:
    """A number in a file of names and numbers; 0 where there is none."""
    with contextlib.suppress(OSError):
        for line in _read(path).splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


def _descendants() -> list[int]:
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
                found += [int(child) for child in _read(f"/proc/{pid}/task/{thread}/children").split()]
    return found


def _has_ended(pid: int) -> bool:
    """Whether only its status is left."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _with_environment(variable: bytes) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if variable in file.read().split(b"\0"):
                    found.append(int(name))
    return found


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
