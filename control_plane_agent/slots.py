r"""The state file of an execution: slot 0 says that it was started, slot 1 how it ended.

    slot (4,096 bytes) = "CPSLOT1\n" ‖ u32 big-endian length of JSON ‖ JSON ‖ SHA-256 of all that ‖ zeros

The file is written in full, with zeros, before the command is acknowledged, so that writing a slot needs no room on the
disk. All zero is "not written". Anything else that does not verify was written and is damaged: it counts as started,
never as new. The supervisor writes here too, so this imports the standard library alone.
"""

import hashlib
import json
from typing import Any, Final, NamedTuple

SLOT_BYTES: Final = 4096
STATE_BYTES: Final = 2 * SLOT_BYTES
FINISHED_AT: Final = SLOT_BYTES  # where slot 1 begins; slot 0 begins at 0
EMPTY: Final = bytes(STATE_BYTES)

_MAGIC: Final = b"CPSLOT1\n"
_HEAD_BYTES: Final = len(_MAGIC) + 4
_DIGEST_BYTES: Final = 32
MAX_REASON: Final = 300  # characters; at up to twelve bytes each in JSON they still fit


class DamagedSlotError(Exception):
    """It was written, and it is not what was written."""


class Started(NamedTuple):
    """Slot 0, written before the command is forked.

    Attributes:
        boot_id: the boot in which that was; in another one nothing of it can be left.
        nonce: in the environment of all that the command starts, and in its cgroup's name.
        boottime_ns: CLOCK_BOOTTIME, from which the timeout counts.
        started_at: Unix seconds.
        pid: the supervisor's; it means something only while the supervisor holds the lock.
        session: the supervisor's session.
        cgroup: the directory of the leaf that the command is in; None where there is none.
    """

    boot_id: str
    nonce: str
    boottime_ns: int
    started_at: int
    pid: int
    session: int
    cgroup: str | None


class Finished(NamedTuple):
    """Slot 1. Sizes and digests are of the whole streams, of which the files keep head and tail; None is not known.

    Attributes:
        stdout_kept, stderr_kept: CRC-32 of what the files keep, head first, where that is not the whole stream.
    """

    outcome: str
    finished_at: int
    exit_code: int | None = None
    reason: str | None = None
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    stdout_sha256: str | None = None
    stderr_sha256: str | None = None
    leftovers: int | None = None
    stdout_kept: int | None = None
    stderr_kept: int | None = None


class State(NamedTuple):
    """Both slots; `is_damaged` where one of them was written and cannot be read."""

    started: Started | None
    finished: Finished | None
    is_damaged: bool

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever written: only then may the command be started."""
        return self.started is None and self.finished is None and not self.is_damaged


def encode(slot: Started | Finished) -> bytes:
    values = {name: value for name, value in slot._asdict().items() if value is not None}
    if isinstance(reason := values.get("reason"), str):
        values["reason"] = reason[:MAX_REASON]
    body = json.dumps(values, separators=(",", ":")).encode()
    head = _MAGIC + len(body).to_bytes(4, "big") + body
    return (head + hashlib.sha256(head).digest()).ljust(SLOT_BYTES, b"\0")


def decode_state(raw: bytes) -> State:
    """What a state file says."""
    is_damaged = len(raw) != STATE_BYTES
    started, finished = None, None
    try:
        values = _decode(raw[:SLOT_BYTES], Started)
        started = None if values is None else Started(**{"cgroup": None, **values})
    except (DamagedSlotError, TypeError):
        is_damaged = True
    try:
        values = _decode(raw[SLOT_BYTES:STATE_BYTES], Finished)
        finished = None if values is None else Finished(**values)
    except (DamagedSlotError, TypeError):
        is_damaged = True
    return State(started, finished, is_damaged)


def _decode(raw: bytes, slot: type[Started] | type[Finished]) -> dict[str, Any] | None:
    """The slot's values, None where it was not written; without those that a newer agent has added."""
    if not any(raw):
        return None
    length = int.from_bytes(raw[len(_MAGIC) : _HEAD_BYTES], "big")
    end = _HEAD_BYTES + length
    is_whole = raw.startswith(_MAGIC) and end + _DIGEST_BYTES <= len(raw)
    if not is_whole or hashlib.sha256(raw[:end]).digest() != raw[end : end + _DIGEST_BYTES]:
        raise DamagedSlotError
    try:
        values: Any = json.loads(raw[_HEAD_BYTES:end])
    except (ValueError, RecursionError) as error:
        raise DamagedSlotError from error
    if not isinstance(values, dict):
        raise DamagedSlotError
    return {name: value for name, value in values.items() if name in slot._fields}
