"""The state file: what was written is read, what was damaged is never taken for new."""

from typing import NamedTuple

import pytest

from control_plane_agent.slots import (
    EMPTY,
    FINISHED_AT,
    MAX_REASON,
    SLOT_BYTES,
    STATE_BYTES,
    Finished,
    Started,
    decode_state,
    encode,
)

STARTED = Started("boot", "nonce", 123, 1_700_000_000, 42, 42, "/sys/fs/cgroup/x")
FINISHED = Finished("completed", 1_700_000_001, exit_code=0, stdout_bytes=5, stdout_sha256="ab" * 32)


def test_nothing_written_is_new() -> None:
    state = decode_state(EMPTY)

    assert state.is_new
    assert (state.started, state.finished, state.is_damaged) == (None, None, False)


def test_what_was_written_is_read() -> None:
    assert decode_state(encode(STARTED) + EMPTY[SLOT_BYTES:]) == (STARTED, None, False)
    assert decode_state(encode(STARTED) + encode(FINISHED)) == (STARTED, FINISHED, False)
    assert decode_state(EMPTY[:FINISHED_AT] + encode(FINISHED)) == (None, FINISHED, False)


def test_a_slot_has_its_size_whatever_it_says() -> None:
    assert len(encode(Finished("rejected", 1, reason="\N{PILE OF POO}" * 10_000))) == SLOT_BYTES
    shortened = decode_state(EMPTY[:FINISHED_AT] + encode(Finished("rejected", 1, reason="é" * 10_000))).finished
    assert shortened is not None
    assert shortened.reason == "é" * MAX_REASON


@pytest.mark.parametrize("place", [0, 8, 11, 12, 40, 150])
def test_a_flipped_bit_anywhere_is_damage_and_not_new(place: int) -> None:
    raw = bytearray(encode(STARTED) + EMPTY[SLOT_BYTES:])
    raw[place] ^= 1

    state = decode_state(bytes(raw))

    assert state.is_damaged
    assert not state.is_new


@pytest.mark.parametrize("size", [0, 1, SLOT_BYTES, STATE_BYTES - 1, STATE_BYTES + 1])
def test_a_file_of_another_size_is_damaged(size: int) -> None:
    assert decode_state(bytes(size)).is_damaged


def test_what_a_newer_agent_has_added_is_passed_over() -> None:
    class Later(NamedTuple):
        outcome: str = "completed"
        finished_at: int = 1
        something_new: int = 2

    raw = EMPTY[:FINISHED_AT] + encode(Later())  # type: ignore[arg-type]

    assert decode_state(raw) == (None, Finished("completed", 1), False)
