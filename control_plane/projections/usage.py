"""A host's usages over time, many in one value: a row a heartbeat would be most of what a projector writes.

A block holds what was recorded in five minutes, one entry behind the other in the order of the log:
recorded_us int64, seq int64 (in the heartbeat log), cpu_usage double, memory_usage double; all big-endian.
"""

from bisect import bisect_left, bisect_right
from struct import Struct
from typing import Final, NamedTuple

BLOCK_US: Final = 300_000_000

_ENTRY: Final = Struct(">qqdd")
_TIME: Final = Struct(">q")


class Usage(NamedTuple):
    recorded_us: int
    seq: int
    cpu_usage: float
    memory_usage: float


def block_of(recorded_us: int) -> int:
    """When the block began that an entry of that time belongs to."""
    return recorded_us - recorded_us % BLOCK_US


def packed(recorded_us: int, seq: int, cpu_usage: float, memory_usage: float) -> bytes:
    """One entry."""
    return _ENTRY.pack(recorded_us, seq, cpu_usage, memory_usage)


def last_seq(data: bytes, upto: int) -> int | None:
    """The last heartbeat up to a seq; None where all are later."""
    for place in range(len(data) - _ENTRY.size, -1, -_ENTRY.size):
        seq: int = _ENTRY.unpack_from(data, place)[1]
        if seq <= upto:
            return seq
    return None


def entries(data: bytes) -> list[Usage]:
    return list(map(Usage._make, _ENTRY.iter_unpack(data)))


def thinned(data: bytes, *, from_us: int, to_us: int, points: int) -> list[Usage]:
    """The entries recorded between two times, both included; of more than `points` the newest in each equal part."""

    def time_of(place: int) -> int:
        found: int = _TIME.unpack_from(data, place * _ENTRY.size)[0]
        return found

    places = range(len(data) // _ENTRY.size)
    first, end = bisect_left(places, from_us, key=time_of), bisect_right(places, to_us, key=time_of)
    if end - first <= points:
        return entries(data[first * _ENTRY.size : end * _ENTRY.size])
    first_us = time_of(first)
    part_us = (time_of(end - 1) - first_us) // points + 1
    ends = {bisect_left(places, first_us + n * part_us, first, end, key=time_of) for n in range(1, points + 1)}
    return [Usage._make(_ENTRY.unpack_from(data, (end - 1) * _ENTRY.size)) for end in sorted(ends)]
