"""Everything that a command starts, found and killed, wherever it has put itself: `setsid` leaves a process group.

A cgroup v2 leaf where one can be made (also the v2 part of a v1 hybrid), else a group of the v1 freezer. Else the
supervisor is the subreaper of all orphans below it, so that none can leave its tree. The standard library alone: the
supervisor uses it.
"""

import ctypes
import os
from typing import Final, Protocol

from control_plane_agent.cgroups import MOST_PIDS, Frozen, Leaf, Limits, V1Groups, leaf_at
from control_plane_agent.processes import descendants, has_ended, reap, until_none, with_environment

PR_SET_CHILD_SUBREAPER: Final = 36
EXECUTION: Final = "CONTROL_PLANE_EXECUTION"  # the variable with the execution's nonce, in all that a command starts
MODES: Final[dict[str, tuple[type[Leaf], ...]]] = {"auto": (Leaf, Frozen), "freezer": (Frozen,), "none": ()}

libc: Final = ctypes.CDLL(None, use_errno=True)


class Containment(Protocol):
    @property
    def cgroup(self) -> str | None:
        """The leaf's directory, to be written down before anything is started in it."""
        ...

    @property
    def limited(self) -> set[str]:
        """What it is limited in, of "pids" and "memory"."""
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

    def alive(self) -> int:
        """How many processes are inside."""
        ...

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed because they used more memory than they may."""
        ...

    def close(self) -> None:
        """Remove it, unless somebody is left inside."""
        ...


class Descendants:
    """Where no cgroup can be made: all processes below this one, which has to be their subreaper."""

    cgroup: str | None = None

    def __init__(self, groups: V1Groups) -> None:
        self.limited = groups.limited
        self._groups = groups

    def fork(self) -> int:
        return os.fork()

    def join(self) -> None:
        self._groups.join()

    def oom_kills(self) -> int:
        return self._groups.oom_kills()

    def alive(self) -> int:
        return sum(not has_ended(pid) for pid in descendants())

    def kill(self, keep: int) -> int:
        killed = until_none(descendants)
        reap(keep)
        return len(killed - {keep})

    def close(self) -> None:
        self._groups.close()


def contain(name: str, *, mode: str, limits: Limits) -> Containment:
    """A place for one execution: the first kind of its mode that can be had here, else its descendants.

    Args:
        name: of the leaf; unique on this machine.
        mode: "auto" for the best, "freezer" for v1 also where there is v2, "none" for descendants alone.
    """
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return _contained(name, mode, limits)


def _contained(name: str, mode: str, limits: Limits) -> Containment:
    groups = V1Groups.made(name, Limits() if mode == "none" else limits)
    for kind in MODES[mode]:
        if (leaf := kind.made(name, limits, groups)) is not None:
            return leaf
    return Descendants(groups)


def cannot_limit(mode: str, limits: Limits) -> list[str]:
    """In what this process could not limit an execution though it should, of "pids" and "memory"."""
    wanted = limits._replace(pids=limits.pids or MOST_PIDS)
    trial = _contained(f"trial.{os.getpid()}.{os.urandom(8).hex()}", mode, wanted)
    trial.close()
    return sorted(wanted.of_cgroups - trial.limited)


def kill_left(cgroup: str | None, nonce: str) -> int:
    """Kill what a dead supervisor has left behind, and say how many that were.

    Without a cgroup it is known by its environment alone, which a process may have changed: best effort.
    """
    groups = V1Groups.left(nonce)
    if cgroup is not None:
        leaf = leaf_at(cgroup, groups)
        killed = leaf.empty()
        leaf.close()
        return len(killed)
    variable = f"{EXECUTION}={nonce}".encode()
    found = until_none(lambda: with_environment(variable))
    groups.close()
    return len(found)
