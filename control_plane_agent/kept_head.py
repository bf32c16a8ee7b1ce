"""How far the journal was when an entry left it that people may delete: a file of 12 bytes.

Unix seconds (u64 big-endian) and their CRC-32, written in place. One that does not verify says nothing: it is written
before such an entry leaves, so until then the entry itself says as much.
"""

import contextlib
import zlib
from typing import Final

from control_plane_agent.disk import Disk

PATH: Final = "head"
_BYTES: Final = 8


class KeptHead:
    """Attributes: `at_s`: the highest that was kept, or 0."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        with contextlib.suppress(OSError):  # a disk that is full already: it is made when it is needed
            self._make()
        raw = b""
        with contextlib.suppress(OSError):
            raw = disk.read(PATH)
        self.at_s = int.from_bytes(raw[:_BYTES], "big") if raw[_BYTES : _BYTES + 4] == _check(raw[:_BYTES]) else 0

    def _make(self) -> None:
        if PATH not in self._disk.names("."):
            self._disk.create(PATH, _written(0))
            self._disk.sync(PATH)
            self._disk.sync_dir(".")

    def keep(self, head_s: int) -> None:
        """Make it durable. Raises OSError."""
        if head_s > self.at_s:
            self._make()
            self._disk.write_at(PATH, 0, _written(head_s))
            self._disk.sync(PATH)
            self.at_s = head_s


def _written(head_s: int) -> bytes:
    raw = head_s.to_bytes(_BYTES, "big")
    return raw + _check(raw)


def _check(raw: bytes) -> bytes:
    return zlib.crc32(raw).to_bytes(4, "big")
