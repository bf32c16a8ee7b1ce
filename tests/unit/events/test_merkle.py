"""The compact range against the definition of RFC 6962, and what a leaf covers."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.events.merkle import CompactRange, EventRow, leaf_hash

EMPTY = CompactRange(0, ())
HASHES = st.lists(st.binary(min_size=32, max_size=32), max_size=70)

TEXT = st.none() | st.binary(max_size=6)
ROWS = st.tuples(
    st.integers(1, 3),
    st.integers(1, 3),
    st.binary(max_size=6),
    st.integers(0, 2),
    TEXT,
    TEXT,
    TEXT,
    st.none() | st.integers(-1, 1),
    st.binary(max_size=6),
    TEXT,
    TEXT,
)


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, over leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)  # the largest power of two below the number of leaves
    return sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


@given(HASHES)
def test_the_root_is_that_of_the_whole_tree(leaves: list[bytes]) -> None:
    assert EMPTY.extended(leaves).root() == naive_root(leaves)


@given(HASHES, HASHES)
def test_a_tree_grows_alike_in_one_step_and_in_two(first: list[bytes], second: list[bytes]) -> None:
    assert EMPTY.extended(first).extended(second) == EMPTY.extended(first + second)


@given(HASHES)
def test_a_tree_is_kept_as_one_hash_for_each_set_bit_of_its_size(leaves: list[bytes]) -> None:
    tree = EMPTY.extended(leaves)

    data = tree.to_bytes()

    assert len(data) == 32 * len(leaves).bit_count()
    assert CompactRange.from_bytes(len(leaves), data) == tree


def test_bytes_of_another_size_are_no_tree() -> None:
    with pytest.raises(ValueError, match="3 leaves"):
        CompactRange.from_bytes(3, bytes(32))


@given(ROWS, ROWS)
def test_two_different_events_never_have_the_same_leaf(one: EventRow, other: EventRow) -> None:
    assert (leaf_hash(one) == leaf_hash(other)) == (one == other)


def test_nothing_and_an_empty_text_are_different_leaves() -> None:
    row = (1, 2, b"k", 1, None, None, None, None, b"", None, None)

    assert len({leaf_hash((*row[:4], text, *row[5:])) for text in (None, b"", b"\x00")}) == 3


def test_a_leaf_never_changes() -> None:
    """Recorded bytes: whoever changes the encoding breaks every tree that was ever signed."""
    row = (7, 1_700_000_000_000_000, b"task.accepted", 1, b"t1", None, b"user:ada", -5, b'{"a":1}', bytes(64), b"id")

    assert leaf_hash(row).hex() == "96a0bd90fb62c2f210461bd15932b9a86ca022a34cd9f4908aced1d47f21d956"
