"""A disk of which a test takes away the power: what was not synced may be there then, or not, or in part.

Legal after a crash is any subset of the unsynced sectors of a file, a file size from before or after, and any subset of
the unsynced names of a directory. A rename is one step: both of its names change, or none. It is durable once both of
its directories are synced.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias, TypeVar

from control_plane_agent.memory_disk import MemoryLock

SECTOR = 512
ROOT = "."

T = TypeVar("T")

Choose: TypeAlias = Callable[[], bool]  # whether something that was not made durable is there after the crash


def nothing() -> bool:
    return False


def by_chance(random: Random) -> Choose:
    return lambda: random.random() < 0.5


class PowerLost(BaseException):
    """Not an error that a program could handle."""


@dataclass(eq=False)
class _File:
    durable: bytes = b""
    live: bytearray = field(default_factory=bytearray)

    def sync(self) -> None:
        self.durable = bytes(self.live)

    def after_crash(self, choose: Choose) -> "_File":
        size = len(self.live) if len(self.durable) == len(self.live) or choose() else len(self.durable)
        parts = []
        for start in range(0, size, SECTOR):
            old, new = (bytes(data[start : start + SECTOR]).ljust(SECTOR, b"\0") for data in (self.durable, self.live))
            parts.append(new if old != new and choose() else old)
        left = b"".join(parts)[:size]
        return _File(left, bytearray(left))


@dataclass(eq=False)
class _Directory:
    durable: "dict[str, _Node]" = field(default_factory=dict)
    live: "dict[str, _Node]" = field(default_factory=dict)


_Node = _File | _Directory


@dataclass(eq=False)
class _Change:
    """Names that change together; each until its directory is synced."""

    names: list[tuple[_Directory, str, _Node | None]]
    unsynced: list[_Directory]

    def apply(self) -> None:
        for directory, name, node in self.names:
            if node is None:
                directory.durable.pop(name, None)
            else:
                directory.durable[name] = node


class CrashDisk:
    """Implements the agent's port to the disk.

    Attributes:
        steps_left: changes until the power goes, in the midst of whatever is done then; None: it stays.
        is_full: whether nothing can be made or grow.
    """

    is_blocking = False

    def __init__(self) -> None:
        self._root = _Directory()
        self._changes: list[_Change] = []
        self._locked: set[str] = set()
        self.steps_left: int | None = None
        self.is_full = False

    # --- the faults ---------------------------------------------------------------------------------------------

    def after_crash(self, choose: Choose = nothing) -> "CrashDisk":
        """What the next start finds."""
        for change in self._changes:
            if choose():
                change.apply()
        found = CrashDisk()
        found._root = self._copied(self._root, choose, {})
        found.is_full = self.is_full
        return found

    def _copied(self, directory: _Directory, choose: Choose, seen: dict[int, _Node]) -> _Directory:
        copy = _Directory()
        for name, node in directory.durable.items():
            if id(node) not in seen:
                is_file = isinstance(node, _File)
                seen[id(node)] = node.after_crash(choose) if is_file else self._copied(node, choose, seen)
            copy.durable[name] = copy.live[name] = seen[id(node)]
        return copy

    def restarted(self) -> "CrashDisk":
        """The same disk for another process on the same machine: all is there, and what was locked is free."""
        self._locked.clear()
        self.steps_left = None
        return self

    def flip(self, path: str, offset: int, bits: int) -> None:
        """Damage a byte, behind everybody's back."""
        file = self._file(path)
        file.live[offset] ^= bits
        file.sync()

    def files(self, path: str = ROOT) -> list[str]:
        """Every file below a directory."""
        found = []
        for name, node in sorted(self._directory(path).live.items()):
            below = name if path == ROOT else f"{path}/{name}"
            found += [below] if isinstance(node, _File) else self.files(below)
        return found

    def _step(self, work: Callable[[], T]) -> T:
        if self.steps_left is not None:
            if self.steps_left == 0:
                raise PowerLost
            self.steps_left -= 1
        return work()

    # --- the port -----------------------------------------------------------------------------------------------

    def make_dir(self, path: str) -> None:
        self._step(lambda: self._add(path, _Directory()))

    def create(self, path: str, data: bytes) -> None:
        file = _File()
        self._step(lambda: self._add(path, file))
        if data:
            self.write_at(path, 0, data)

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        file = self._file(path)
        if self.is_full and offset + len(data) > len(file.live):
            raise _error(errno.ENOSPC, path)

        def write() -> None:
            file.live.extend(bytes(max(0, offset - len(file.live))))
            file.live[offset : offset + len(data)] = data

        self._step(write)

    def sync(self, path: str) -> None:
        file = self._file(path)
        self._step(file.sync)

    def sync_dir(self, path: str) -> None:
        directory = self._directory(path)

        def sync() -> None:
            for change in list(self._changes):
                change.unsynced = [other for other in change.unsynced if other is not directory]
                if not change.unsynced:
                    self._settle(change)

        self._step(sync)

    def _settle(self, change: _Change) -> None:
        """Durable, and with it what was done to the same names before."""
        names = {(id(directory), name) for directory, name, _ in change.names}
        index = self._changes.index(change)
        for earlier in [*self._changes[:index], change]:
            if earlier is change or names & {(id(directory), name) for directory, name, _ in earlier.names}:
                earlier.apply()
                self._changes.remove(earlier)

    def rename(self, old: str, new: str) -> None:
        node = self._node(old)
        there = self._found(new)
        if isinstance(there, _Directory) and there.live:
            raise _error(errno.ENOTEMPTY, new)
        (from_dir, from_name), (to_dir, to_name) = self._place(old), self._place(new)
        self._step(lambda: self._change([(from_dir, from_name, None), (to_dir, to_name, node)]))

    def remove(self, path: str) -> None:
        node = self._found(path)
        if node is None:
            return
        if isinstance(node, _Directory):
            for name in list(node.live):
                self.remove(f"{path}/{name}")
        directory, name = self._place(path)
        self._step(lambda: self._change([(directory, name, None)]))

    def read(self, path: str) -> bytes:
        return bytes(self._file(path).live)

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        return bytes(self._file(path).live[offset : offset + length])

    def names(self, path: str) -> list[str]:
        return sorted(self._directory(path).live)

    def size(self, path: str) -> int:
        return len(self._file(path).live)

    def try_lock(self, path: str) -> MemoryLock | None:
        self._file(path)
        if path in self._locked:
            return None
        self._locked.add(path)
        return MemoryLock(self._locked, path)

    def lock(self, path: str) -> MemoryLock:
        lock = self.try_lock(path)
        assert lock is not None
        return lock

    # --- how it is kept -----------------------------------------------------------------------------------------

    def _change(self, names: list[tuple[_Directory, str, _Node | None]]) -> None:
        for directory, name, node in names:
            if node is None:
                del directory.live[name]
            else:
                directory.live[name] = node
        self._changes.append(_Change(names, [directory for directory, _, _ in names]))

    def _add(self, path: str, node: _Node) -> None:
        if self.is_full:
            raise _error(errno.ENOSPC, path)
        if self._found(path) is not None:
            raise _error(errno.EEXIST, path)
        directory, name = self._place(path)
        self._change([(directory, name, node)])

    def _place(self, path: str) -> tuple[_Directory, str]:
        parent, name = os.path.split(path)
        return self._directory(parent or ROOT), name

    def _found(self, path: str) -> _Node | None:
        node: _Node = self._root
        for name in [] if path == ROOT else path.split("/"):
            if not isinstance(node, _Directory) or name not in node.live:
                return None
            node = node.live[name]
        return node

    def _node(self, path: str) -> _Node:
        node = self._found(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        return node

    def _file(self, path: str) -> _File:
        node = self._node(path)
        if isinstance(node, _Directory):
            raise _error(errno.EISDIR, path)
        return node

    def _directory(self, path: str) -> _Directory:
        node = self._node(path)
        if isinstance(node, _File):
            raise _error(errno.ENOTDIR, path)
        return node


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
