"""A disk that may lose what was not made durable: after a crash, any part of that is there and any part is not.

Bytes are durable after `sync` of their file, sector by sector before; a name, a removal or a rename after `sync_dir` of
a directory that it touches. A rename is there as a whole or not at all, as in a file system with a journal.
"""

import os
import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

from control_plane_agent.memory_disk import MemoryDisk

SECTOR = 512

Choose: TypeAlias = Callable[[], bool]  # whether something that was not made durable is there after the crash


def nothing() -> bool:
    return False


def everything() -> bool:
    return True


def by_seed(seed: int) -> Choose:
    chance = random.Random(seed)
    return lambda: chance.random() < 0.5


class _Node:
    """A file or a directory, wherever it is named: what is in it, and what of that is durable."""

    def __init__(self, data: bytearray | None = None) -> None:
        self.data = data
        self.durable = b""
        self.names: dict[str, _Node] = {}  # those that are durable

    def after_crash(self, choose: Choose) -> bytes:
        """Some sectors as they were, some as they should be."""
        assert self.data is not None
        size = len(self.data) if choose() else len(self.durable)
        old, new = (bytes(data).ljust(size, b"\0")[:size] for data in (self.durable, self.data))
        return b"".join((new if choose() else old)[at : at + SECTOR] for at in range(0, size, SECTOR))


_Change: TypeAlias = Sequence[tuple[_Node, str, _Node | None]]  # in which directory a name stands for what from now on


class LossyDisk(MemoryDisk):
    """Memory, and beside it what would be found after a crash."""

    def __init__(self) -> None:
        super().__init__()
        self._nodes = {".": _Node()}
        self._changes: list[_Change] = []  # of names, that are not durable yet, in their order

    def crash(self, choose: Choose = nothing) -> "LossyDisk":
        """The disk as the next start finds it."""
        found = {node: dict(node.names) for node in self._every_node()}
        for change in self._changes:
            if choose():
                _apply(change, found)
        again = LossyDisk()
        _rebuild(again, found, self._nodes["."], "", choose)
        again._settle(lambda _: True)
        return again

    def _every_node(self) -> set[_Node]:
        nodes = set(self._nodes.values())
        for change in self._changes:
            nodes |= {node for where, _, what in change for node in (where, what) if node is not None}
        for node in (waiting := list(nodes)):  # grows while it is walked
            waiting += [inner for inner in node.names.values() if inner not in nodes]
            nodes |= set(node.names.values())
        return nodes

    # --- what is written

    def make_dir(self, path: str) -> None:
        super().make_dir(path)
        self._name(path, _Node())

    def create(self, path: str, data: bytes) -> None:
        super().create(path, data)
        self._name(path, _Node(self._files[path]))

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        for path in [path for path in self._nodes if path == old or path.startswith(f"{old}/")]:
            self._nodes[new + path.removeprefix(old)] = self._nodes.pop(path)
        self._changes.append([(*self._place(old), None), (*self._place(new), self._nodes[new])])

    def remove(self, path: str) -> None:
        if self._exists(path):
            super().remove(path)
            del self._nodes[path]
            self._changes.append([(*self._place(path), None)])

    def sync(self, path: str) -> None:
        super().sync(path)
        self._nodes[path].durable = bytes(self._file(path))

    def sync_dir(self, path: str) -> None:
        super().sync_dir(path)
        directory = self._nodes[path]
        self._settle(lambda change: any(where is directory for where, _, _ in change))

    def _name(self, path: str, node: _Node) -> None:
        self._nodes[path] = node
        self._changes.append([(*self._place(path), node)])

    def _place(self, path: str) -> tuple[_Node, str]:
        return self._nodes[os.path.dirname(path) or "."], os.path.basename(path)

    def _settle(self, is_durable: Callable[[_Change], bool]) -> None:
        durable = {node: node.names for node in self._every_node()}
        waiting = []
        for change in self._changes:
            if is_durable(change):
                _apply(change, durable)
            else:
                waiting.append(change)
        self._changes = waiting


def _apply(change: _Change, names: dict[_Node, dict[str, _Node]]) -> None:
    for where, name, what in change:
        if what is None:
            names[where].pop(name, None)
        else:
            names[where][name] = what


def _rebuild(disk: LossyDisk, found: dict[_Node, dict[str, _Node]], node: _Node, path: str, choose: Choose) -> None:
    for name, inner in found[node].items():
        there = f"{path}/{name}" if path else name
        if inner.data is None:
            disk.make_dir(there)
            _rebuild(disk, found, inner, there, choose)
        else:
            disk.create(there, inner.after_crash(choose))
            disk.sync(there)
