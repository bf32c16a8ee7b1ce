"""What is durable, and when: the port to the disk, and the real one.

A write is durable after `sync` of its file, a name after `sync_dir` of its directory, and nothing is before. Paths are
relative to the disk's root. Launcher and supervisor use this too, so it imports the standard library alone.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import Protocol


class Lock(Protocol):
    def release(self) -> None:
        """Give it up; the end of the process does the same."""
        ...


class Disk(Protocol):
    """All methods raise OSError, FileNotFoundError among them."""

    @property
    def is_blocking(self) -> bool:
        """Whether an operation may wait for a device, so that it belongs off the event loop."""
        ...

    def make_dir(self, path: str) -> None: ...

    def create(self, path: str, data: bytes) -> None:
        """Write a new file. Raises FileExistsError."""
        ...

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        """Overwrite part of a file that is there."""
        ...

    def sync(self, path: str) -> None:
        """Make a file's bytes and size durable."""
        ...

    def sync_dir(self, path: str) -> None:
        """Make the names in a directory durable."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Move a file or directory. Raises OSError (ENOTEMPTY) where `new` is a directory that holds something."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file, or a directory with all that is in it; what is not there is no error."""
        ...

    def read(self, path: str) -> bytes: ...

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """Part of a file; less where it ends before."""
        ...

    def names(self, path: str) -> list[str]:
        """What is in a directory, sorted."""
        ...

    def size(self, path: str) -> int: ...

    def try_lock(self, path: str) -> Lock | None:
        """Lock a file exclusively, or None while somebody else has it."""
        ...

    def lock(self, path: str) -> Lock:
        """Wait until nobody else has the lock."""
        ...


class FileLock:
    """A flock: it ends with its holder, however that ends, and is not inherited over exec."""

    def __init__(self, file: int) -> None:
        self._file = file

    def release(self) -> None:
        os.close(self._file)


class RealDisk:
    """A directory of this machine's file system."""

    is_blocking = True

    def __init__(self, root: str) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._root)

    def make_dir(self, path: str) -> None:
        os.mkdir(path, 0o700, dir_fd=self._root)

    def create(self, path: str, data: bytes) -> None:
        with self._open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            write_all(file, data, 0)

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        with self._open(path, os.O_WRONLY) as file:
            write_all(file, data, offset)

    def sync(self, path: str) -> None:
        with self._open(path, os.O_WRONLY) as file:
            os.fdatasync(file)  # the size too, as far as it is needed to read the bytes back

    def sync_dir(self, path: str) -> None:
        with self._open(path, os.O_RDONLY | os.O_DIRECTORY) as directory:
            os.fsync(directory)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._root, dst_dir_fd=self._root)

    def remove(self, path: str) -> None:
        try:
            os.unlink(path, dir_fd=self._root)
        except IsADirectoryError:
            import shutil  # with its compressors 1 MB, which the launcher never needs

            shutil.rmtree(path, dir_fd=self._root)
        except FileNotFoundError:
            pass

    def read(self, path: str) -> bytes:
        with self._open(path, os.O_RDONLY) as file:
            parts = []
            while part := os.read(file, 1 << 20):
                parts.append(part)
        return b"".join(parts)

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        with self._open(path, os.O_RDONLY) as file:
            return os.pread(file, length, offset)

    def names(self, path: str) -> list[str]:
        with self._open(path, os.O_RDONLY | os.O_DIRECTORY) as directory:
            return sorted(os.listdir(directory))

    def size(self, path: str) -> int:
        return os.stat(path, dir_fd=self._root, follow_symlinks=False).st_size

    def try_lock(self, path: str) -> FileLock | None:
        return self._lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def lock(self, path: str) -> FileLock:
        lock = self._lock(path, fcntl.LOCK_EX)
        assert lock is not None, "a blocking flock returns with the lock"  # noqa: S101 - narrows the type
        return lock

    def _lock(self, path: str, how: int) -> FileLock | None:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        return FileLock(file)

    @contextlib.contextmanager
    def _open(self, path: str, flags: int) -> Iterator[int]:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._root)
        try:
            yield file
        finally:
            os.close(file)


def write_all(file: int, data: bytes, offset: int) -> None:
    """Write all of it: a single pwrite may stop short, on a disk that runs full above all."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
