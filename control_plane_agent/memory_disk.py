"""A disk that is gone with its process: for simulated agents, and for tests."""

import errno
import os


class MemoryLock:
    def __init__(self, held: set[str], path: str) -> None:
        self._held = held
        self._path = path

    def release(self) -> None:
        self._held.discard(self._path)


class MemoryDisk:
    """Files and directories in dictionaries; every write counts as durable at once."""

    is_blocking = False

    def __init__(self) -> None:
        self._files: dict[str, bytearray] = {}
        root: set[str] = set()
        self._directories: dict[str, set[str]] = {"": root, ".": root}
        self._locked: set[str] = set()

    def make_dir(self, path: str) -> None:
        self._add(path)
        self._directories[path] = set()

    def create(self, path: str, data: bytes) -> None:
        self._add(path)
        self._files[path] = bytearray(data)

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        file = self._file(path)
        if len(file) < offset:
            file.extend(bytes(offset - len(file)))
        file[offset : offset + len(data)] = data

    def sync(self, path: str) -> None:
        self._file(path)

    def sync_dir(self, path: str) -> None:
        self._directory(path)

    def rename(self, old: str, new: str) -> None:
        if self._directories.get(new):
            raise _error(errno.ENOTEMPTY, new)
        if not self._exists(old):
            raise _error(errno.ENOENT, old)
        self.remove(new)
        self._add(new)
        self._forget(old)
        self._move(old, new)

    def remove(self, path: str) -> None:
        if not self._exists(path):
            return
        for name in list(self._directories.get(path, ())):
            self.remove(f"{path}/{name}")
        self._directories.pop(path, None)
        self._files.pop(path, None)
        self._forget(path)

    def read(self, path: str) -> bytes:
        return bytes(self._file(path))

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        return bytes(self._file(path)[offset : offset + length])

    def names(self, path: str) -> list[str]:
        return sorted(self._directory(path))

    def size(self, path: str) -> int:
        return len(self._file(path))

    def try_lock(self, path: str) -> MemoryLock | None:
        self._file(path)
        if path in self._locked:
            return None
        self._locked.add(path)
        return MemoryLock(self._locked, path)

    def lock(self, path: str) -> MemoryLock:
        lock = self.try_lock(path)
        if lock is None:
            raise _error(errno.EDEADLK, path)  # the holder is this very process, so waiting would be for ever
        return lock

    def _add(self, path: str) -> None:
        if self._exists(path):
            raise _error(errno.EEXIST, path)
        parent, name = os.path.split(path)
        self._directory(parent).add(name)

    def _forget(self, path: str) -> None:
        parent, name = os.path.split(path)
        self._directory(parent).discard(name)

    def _move(self, old: str, new: str) -> None:
        if old in self._files:
            self._files[new] = self._files.pop(old)
            return
        names = self._directories.pop(old)
        self._directories[new] = names
        for name in names:
            self._move(f"{old}/{name}", f"{new}/{name}")

    def _exists(self, path: str) -> bool:
        return path in self._files or path in self._directories

    def _file(self, path: str) -> bytearray:
        try:
            return self._files[path]
        except KeyError:
            raise _error(errno.EISDIR if path in self._directories else errno.ENOENT, path) from None

    def _directory(self, path: str) -> set[str]:
        try:
            return self._directories[path]
        except KeyError:
            raise _error(errno.ENOTDIR if path in self._files else errno.ENOENT, path) from None


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
