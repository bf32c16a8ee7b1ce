"""The compact range and the proofs against the definition of RFC 6962, and what a leaf covers."""

from hashlib import sha256
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.events.merkle import (
    CompactRange,
    EventColumns,
    EventRow,
    Span,
    consistency_spans,
    inclusion_spans,
    joined,
    leaf_at,
    leaf_data,
    leaf_hash,
    leaf_rest,
    leaves_in,
    perfect,
    row_of,
    verify_consistency,
    verify_inclusion,
)

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


@given(ROWS)
def test_a_leaf_is_the_same_where_all_but_its_place_was_there_before(row: EventRow) -> None:
    seq, recorded_us, *columns = row

    assert leaf_at(seq, recorded_us, leaf_rest(cast("EventColumns", tuple(columns)))) == leaf_hash(row)


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


# --- proofs


LEAVES = [sha256(bytes([number])).digest() for number in range(100)]
ROOTS = [naive_root(LEAVES[:size]) for size in range(101)]


def hash_of(span: Span) -> bytes:
    """A span's root, from the perfect subtrees that it consists of."""
    return joined([naive_root(LEAVES[number << height : (number + 1) << height]) for height, number in perfect(span)])


def an_inclusion(index: int, size: int) -> list[bytes]:
    return [hash_of(span) for span in inclusion_spans(index, size)]


def a_consistency(old: int, new: int) -> list[bytes]:
    return [hash_of(span) for span in consistency_spans(old, new)]


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def test_every_span_is_hashed_from_perfect_subtrees() -> None:
    for size in range(1, 101):
        for span in {Span(0, size), *(span for index in range(size) for span in inclusion_spans(index, size))}:
            assert hash_of(span) == naive_root(LEAVES[span.start : span.end])


def test_every_leaf_of_every_tree_is_proved_and_nothing_else() -> None:
    for size in range(1, 101):
        for index in range(size):
            proof = an_inclusion(index, size)
            assert verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])
            assert not verify_inclusion(LEAVES[index], index, size, [*proof, LEAVES[0]], ROOTS[size])
            assert not verify_inclusion(LEAVES[index], index, size, proof[:-1], ROOTS[size]) or not proof
            assert not verify_inclusion(LEAVES[index], (index + 1) % size, size, proof, ROOTS[size]) or size == 1


def test_every_tree_is_proved_to_grow_from_every_smaller_one() -> None:
    for new in range(1, 101):
        for old in range(new + 1):
            proof = a_consistency(old, new)
            assert verify_consistency(old, ROOTS[old], new, ROOTS[new], proof)
            assert not verify_consistency(old, ROOTS[old], new, ROOTS[new], [*proof, LEAVES[0]])
            assert not verify_consistency(new, ROOTS[new], old, ROOTS[old], proof) or old == new
            if proof:
                assert not verify_consistency(old, ROOTS[old], new, ROOTS[new], proof[:-1])


@pytest.mark.parametrize("size", range(1, 101))
def test_every_changed_byte_of_an_inclusion_is_refused(size: int) -> None:
    for index in {0, size // 3, size // 2, size - 1}:
        proof = an_inclusion(index, size)
        given = [LEAVES[index], ROOTS[size], *proof]
        for place, data in enumerate(given):
            for at in range(32):
                leaf, root, *path = [*given[:place], changed(data, at), *given[place + 1 :]]
                assert not verify_inclusion(leaf, index, size, path, root)


@pytest.mark.parametrize("new", range(1, 101))
def test_every_changed_byte_of_a_consistency_is_refused(new: int) -> None:
    for old in {1, new // 3, new // 2, new - 1, new} - {0}:
        given = [ROOTS[old], ROOTS[new], *a_consistency(old, new)]
        for place, data in enumerate(given):
            for at in range(32):
                old_root, new_root, *path = [*given[:place], changed(data, at), *given[place + 1 :]]
                assert not verify_consistency(old, old_root, new, new_root, path)


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_proofs_of_a_large_log_are_short(one: int, other: int) -> None:
    index, size = sorted((one, other))

    assert len(inclusion_spans(index, size + 1)) <= 41
    assert len(consistency_spans(index, size + 1)) <= 42


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0)])
def test_a_leaf_that_is_not_there_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="has none at"):
        inclusion_spans(index, size)
    assert not verify_inclusion(LEAVES[0], index, size, [], LEAVES[0])


# --- the bytes of a leaf


@given(ROWS)
def test_an_event_is_read_back_from_the_bytes_of_its_leaf(row: EventRow) -> None:
    assert row_of(leaf_data(row)) == row


@given(ROWS, st.binary(min_size=1, max_size=4))
def test_other_bytes_are_no_event(row: EventRow, more: bytes) -> None:
    for data in (leaf_data(row) + more, leaf_data(row)[:-1], b""):
        with pytest.raises(ValueError, match="event"):
            row_of(data)


@given(st.lists(ROWS, max_size=5))
def test_events_one_after_the_other_are_told_apart(rows: list[EventRow]) -> None:
    data = b"".join(b"\x00" + leaf_data(row) for row in rows)

    assert list(leaves_in(data)) == [(row[0], leaf_hash(row)) for row in rows]
    if rows:
        with pytest.raises(ValueError, match="cut off"):
            list(leaves_in(data[:-1]))
