"""What is kept of a stream: its first 256 KiB in `.head`, then a ring of 768 KiB in `.tail`; size and digest of it all.

Written piece by piece, so that it survives the supervisor, who writes it: the standard library and `disk` alone. Behind
the ring, once it has begun again at its start, stand 8 bytes: how long the stream is by now (`recent` reads them).
"""

import binascii
import hashlib
import os
from typing import Final, NamedTuple

from control_plane_agent.disk import Disk, write_all

STREAMS: Final = ("stdout", "stderr")
DAMAGED: Final = "damaged on the disk"
HEAD_BYTES: Final = 256 * 1024
TAIL_BYTES: Final = 768 * 1024
KEPT_BYTES: Final = HEAD_BYTES + TAIL_BYTES
SIZE_BYTES: Final = 8  # behind the ring, big-endian
MOST_BYTES: Final = 2**53 - 1  # of a stream; a size beyond that is damaged, and no message could name a place in it
READ_BYTES: Final = 64 * 1024  # of a pipe at once, so at most this much of the ring is being written at any moment


class Capture:
    """Takes a stream in, below a directory. A file appears with its first byte, so no output costs nothing.

    Attributes:
        size: of the whole stream.
        is_lost: whether the disk was full, so that bytes were counted and hashed but not kept.
    """

    def __init__(self, directory: int, stream: str) -> None:
        self._directory = directory
        self._stream = stream
        self._files: dict[str, int] = {}
        self._digest = hashlib.sha256()
        self.size = 0
        self.is_lost = False

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def has_files(self) -> bool:
        return bool(self._files)

    def feed(self, data: bytes) -> None:
        self._digest.update(data)
        in_head = max(0, HEAD_BYTES - self.size)
        offset, self.size = max(0, self.size - HEAD_BYTES), self.size + len(data)
        if self.is_lost:
            return
        try:
            if in_head:
                self._write("head", HEAD_BYTES - in_head, data[:in_head])
            self._feed_ring(offset, data[in_head:])
        except OSError:
            self.is_lost = True

    def _feed_ring(self, offset: int, data: bytes) -> None:
        while data:
            place = offset % TAIL_BYTES
            part = data[: TAIL_BYTES - place]
            self._write("tail", place, part)
            offset, data = offset + len(part), data[len(part) :]
        if self.size > KEPT_BYTES:
            self._write("tail", TAIL_BYTES, self.size.to_bytes(SIZE_BYTES, "big"))

    def _write(self, part: str, offset: int, data: bytes) -> None:
        if part not in self._files:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._files[part] = os.open(f"{self._stream}.{part}", flags, 0o600, dir_fd=self._directory)
        write_all(self._files[part], data, offset)

    def kept_crc(self) -> int | None:
        """CRC-32 of what the files keep; None where that is the whole stream, whose digest says more."""
        if self.size <= KEPT_BYTES and not self.is_lost:
            return None
        crc = 0
        for part, most in (("head", HEAD_BYTES), ("tail", TAIL_BYTES)):
            if part in self._files:
                crc = binascii.crc32(os.pread(self._files[part], most, 0), crc)
        return crc

    def sync(self) -> None:
        """Make it durable; what cannot be counts as lost."""
        for file in self._files.values():
            try:
                os.fdatasync(file)
            except OSError:
                self.is_lost = True


class Output(NamedTuple):
    """What was kept of a stream.

    Attributes:
        size, sha256: of all of it; None where nobody knows.
        error: why something that was kept cannot be read, or believed.
    """

    head: bytes
    tail: bytes
    size: int | None
    sha256: str | None
    error: str | None = None

    @property
    def is_cut(self) -> bool:
        """Whether something is missing between head and tail."""
        return self.size is None or len(self.head) + len(self.tail) < self.size


def read_output(
    disk: Disk, entry: str, stream: str, size: int | None, sha256: str | None, kept: int | None = None
) -> Output:
    """Head and tail of a stream in their order.

    Args:
        size: of the whole stream; None where its supervisor died. What the files hold is then all that is known, and
            of a ring that is full nobody can tell where it begins.
        kept: CRC-32 of what the files keep; None where that is the whole stream, or not known.
    """
    head, head_error = _read(disk, f"{entry}/{stream}.head")
    ring, ring_error = _read(disk, f"{entry}/{stream}.tail")
    head, ring, error = head[:HEAD_BYTES], ring[:TAIL_BYTES], head_error or ring_error
    if size is None:
        if len(ring) == TAIL_BYTES or error:
            return Output(head, b"", None, None, error)
        return Output(head, ring, len(head) + len(ring), hashlib.sha256(head + ring).hexdigest())
    begins = (size - HEAD_BYTES) % TAIL_BYTES if size > KEPT_BYTES and len(ring) == TAIL_BYTES else 0
    if kept is not None:
        is_damaged = binascii.crc32(head + ring) != kept
    else:
        is_damaged = size <= KEPT_BYTES and sha256 is not None and hashlib.sha256(head + ring).hexdigest() != sha256
    if is_damaged:
        error = error or DAMAGED
    return Output(head, ring[begins:] + ring[:begins], size, sha256, error)


def recent(disk: Disk, entry: str, stream: str, after: int, most: int) -> tuple[int, bytes]:
    """Where the newest bytes behind a place in a stream begin, at most so many, and these; for while it is written.

    What is overwritten while it is read is left out, and a stream whose size cannot be told any more stands still.
    """
    size = _size_by_now(disk, entry, stream)
    if size > MOST_BYTES:
        return after, b""
    start = max(after, size - most)
    data = _range(disk, entry, stream, start, size)
    # One more read of the pipe may be in the ring already than what is told by now.
    overwritten = _size_by_now(disk, entry, stream) + READ_BYTES - TAIL_BYTES
    if size > HEAD_BYTES and max(start, HEAD_BYTES) < overwritten:
        return max(after, size), b""
    return start, data


def _size_by_now(disk: Disk, entry: str, stream: str) -> int:
    head = _size(disk, f"{entry}/{stream}.head")
    if head < HEAD_BYTES:
        return head
    ring = _size(disk, f"{entry}/{stream}.tail")
    if ring < TAIL_BYTES + SIZE_BYTES:
        return HEAD_BYTES + min(ring, TAIL_BYTES)
    return int.from_bytes(disk.read_at(f"{entry}/{stream}.tail", TAIL_BYTES, SIZE_BYTES), "big")


def _size(disk: Disk, path: str) -> int:
    try:
        return disk.size(path)
    except FileNotFoundError:
        return 0


def _range(disk: Disk, entry: str, stream: str, start: int, end: int) -> bytes:
    """The bytes from `start` to `end`, as they stand in the files now."""
    parts = []
    if start < min(end, HEAD_BYTES):
        parts.append(disk.read_at(f"{entry}/{stream}.head", start, min(end, HEAD_BYTES) - start))
    place = max(start, HEAD_BYTES)
    while place < end:
        in_ring = (place - HEAD_BYTES) % TAIL_BYTES
        length = min(end - place, TAIL_BYTES - in_ring)
        parts.append(disk.read_at(f"{entry}/{stream}.tail", in_ring, length))
        place += length
    return b"".join(parts)


def _read(disk: Disk, path: str) -> tuple[bytes, str | None]:
    """What is in a file, and why it cannot be read."""
    try:
        return disk.read(path), None
    except FileNotFoundError:
        return b"", None
    except OSError as error:
        return b"", error.strerror or str(error)
