"""Where a refusal is remembered when the disk is full: a file that has its size since the first start.

1,024 slots of 64 bytes, written in place: SHA-256 of the task_id, expires_at (u64 big-endian), CRC-32 of both, zeros.
A slot is within one sector, so it is written or not. One that does not verify has been damaged since, and goes on
standing for the task that it is most like: that one was refused.
"""

import contextlib
import hashlib
import zlib
from typing import Final

from control_plane_agent.disk import Disk

PATH: Final = "reserve"
SLOTS: Final = 1024
SLOT_BYTES: Final = 64
_KEY_BYTES: Final = 32
_HEAD_BYTES: Final = _KEY_BYTES + 8


class Reserve:
    """Attributes: `damaged`: what is left of the keys that do not verify any more, by slot number."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._slots: dict[bytes, tuple[int, int]] = {}  # slot number and expires_at, by SHA-256 of the task_id
        self.damaged: dict[int, bytes] = {}
        self._make()
        raw = disk.read(PATH)
        for number in range(SLOTS):
            slot = raw[number * SLOT_BYTES : (number + 1) * SLOT_BYTES]
            head, check = slot[:_HEAD_BYTES], slot[_HEAD_BYTES : _HEAD_BYTES + 4]
            if any(head) and zlib.crc32(head).to_bytes(4, "big") == check:
                self._slots[head[:_KEY_BYTES]] = number, int.from_bytes(head[_KEY_BYTES:], "big")
            elif any(slot):
                self.damaged[number] = head[:_KEY_BYTES]

    def _make(self) -> None:
        if PATH not in self._disk.names("."):
            self._disk.create(PATH, b"")
        if lacks := SLOTS * SLOT_BYTES - self._disk.size(PATH):  # also where a crash came before it was whole
            with contextlib.suppress(OSError):  # a disk that is full already; then nothing can be remembered
                self._disk.write_at(PATH, SLOTS * SLOT_BYTES - lacks, bytes(lacks))
        self._disk.sync(PATH)
        self._disk.sync_dir(".")

    def __contains__(self, task_id: str) -> bool:
        key = _key(task_id)
        return key in self._slots or any(_is_like(key, left) for left in self.damaged.values())

    def add(self, task_id: str, expires_at: int, *, forget_before_s: int) -> bool:
        """Remember a task; False where no slot is free, those of tasks that expired before then among them."""
        self._slots = {key: slot for key, slot in self._slots.items() if slot[1] >= forget_before_s}
        taken = {number for number, _ in self._slots.values()} | self.damaged.keys()
        number = next((number for number in range(SLOTS) if number not in taken), None)
        if number is None:
            return False
        key = _key(task_id)
        head = key + max(0, expires_at).to_bytes(8, "big")
        slot = (head + zlib.crc32(head).to_bytes(4, "big")).ljust(SLOT_BYTES, b"\0")
        self._disk.write_at(PATH, number * SLOT_BYTES, slot)
        self._disk.sync(PATH)
        self._slots[key] = number, expires_at
        return True


def _key(task_id: str) -> bytes:
    return hashlib.sha256(task_id.encode()).digest()


def _is_like(key: bytes, left: bytes) -> bool:
    """Whether half of the bytes agree: those of two tasks never do."""
    return sum(mine == theirs for mine, theirs in zip(key, left, strict=False)) >= _KEY_BYTES // 2
