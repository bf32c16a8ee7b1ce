"""Where a refusal is remembered when the disk is full: a file that has its size since the first start.

1,024 slots of 64 bytes, written in place: SHA-256 of the task_id, expires_at (u64 big-endian), CRC-32 of both, zeros.
"""

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
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._slots: dict[bytes, tuple[int, int]] = {}  # slot number and expires_at, by SHA-256 of the task_id
        if PATH not in disk.names("."):
            disk.create(PATH, bytes(SLOTS * SLOT_BYTES))
            disk.sync(PATH)
            disk.sync_dir(".")
        raw = disk.read(PATH)
        for number in range(SLOTS):
            slot = raw[number * SLOT_BYTES : (number + 1) * SLOT_BYTES]
            head, check = slot[:_HEAD_BYTES], slot[_HEAD_BYTES : _HEAD_BYTES + 4]
            # a slot that was torn while it was written was never answered for, so it may count as free
            if any(head) and zlib.crc32(head).to_bytes(4, "big") == check:
                self._slots[head[:_KEY_BYTES]] = number, int.from_bytes(head[_KEY_BYTES:], "big")

    def __contains__(self, task_id: str) -> bool:
        return _key(task_id) in self._slots

    def add(self, task_id: str, expires_at: int, *, forget_before_s: int) -> bool:
        """Remember a task; False where no slot is free, those of tasks that expired before then among them."""
        self._slots = {key: slot for key, slot in self._slots.items() if slot[1] >= forget_before_s}
        taken = {number for number, _ in self._slots.values()}
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
