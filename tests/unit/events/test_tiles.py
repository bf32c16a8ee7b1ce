"""A tree that grows by tiles is the tree that grows by leaves, and its tiles have every hash that is complete."""

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from control_plane.events.merkle import CompactRange
from control_plane.events.tiles import EMPTY, HEIGHT, TILE, GrowingTree

LEAVES = [sha256(number.to_bytes(4, "big")).digest() for number in range(9 * TILE + 77)]


def subtree(height: int, number: int) -> bytes:
    return EMPTY.extended(LEAVES[number << height : (number + 1) << height]).root()


@given(st.lists(st.integers(0, len(LEAVES)), max_size=5))
def test_it_is_the_same_tree_in_whatever_steps_it_grows(steps: list[int]) -> None:
    growing = GrowingTree(EMPTY)
    at = 0
    for end in [*sorted(steps), len(LEAVES)]:
        growing.extend(LEAVES[at:end])
        at = end

        assert growing.size == at
        assert growing.tree() == EMPTY.extended(LEAVES[:at])


def test_a_tile_has_its_leaves_and_every_subtree_that_ends_with_it() -> None:
    tiles = GrowingTree(EMPTY).extend(LEAVES)

    assert [tile.idx for tile in tiles] == list(range(9))
    for tile in tiles:
        end = (tile.idx + 1) * TILE
        assert tile.leaves == b"".join(LEAVES[end - TILE : end])
        heights = [height for height in range(HEIGHT, 13) if end % (1 << height) == 0]
        assert tile.nodes == b"".join(subtree(height, (end >> height) - 1) for height in heights)


def test_it_goes_on_from_where_the_tiles_end() -> None:
    whole = GrowingTree(EMPTY).extend(LEAVES)

    for tiles in range(10):
        growing = GrowingTree(CompactRange(tiles * TILE, EMPTY.extended(LEAVES[: tiles * TILE]).roots))
        assert growing.extend(LEAVES[tiles * TILE :]) == whole[tiles:]
        assert growing.tree() == EMPTY.extended(LEAVES)
