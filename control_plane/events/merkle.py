"""The Merkle tree of RFC 6962 over a log: what the head row keeps of it, its root, its proofs, and what a leaf covers.

Leaf = SHA-256(0x00 ‖ header ‖ texts), node = SHA-256(0x01 ‖ left ‖ right). The header has every number in its full
width and the length of every text (0xFFFFFFFF: NULL), so no two different events can give the same bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

HASH_BYTES: Final = 32
ABSENT: Final = 0xFFFF_FFFF

# seq, recorded_us; then schema_v, whether there is an occurred_us, occurred_us, the lengths of the seven texts
_PLACE: Final = Struct(">QQ")
_LEAF_PLACE: Final = Struct(">xQQ")  # behind the 0x00 of a leaf
_REST: Final = Struct(">H?q7I")
_HEADER: Final = Struct(">QQH?q7I")

Text: TypeAlias = bytes | None
EventColumns: TypeAlias = tuple[bytes, int, Text, Text, Text, int | None, bytes, Text, Text]
EventRow: TypeAlias = tuple[int, int, bytes, int, Text, Text, Text, int | None, bytes, Text, Text]


def leaf_data(row: EventRow) -> bytes:
    """What the leaf of an event is the hash of: all of it, given as the columns of its table in their order."""
    seq, recorded_us, kind, schema_v, task_id, hostname, actor, occurred_us, body, signature, key_id = row
    columns = (kind, schema_v, task_id, hostname, actor, occurred_us, body, signature, key_id)
    return _PLACE.pack(seq, recorded_us) + leaf_rest(columns)


def leaf_rest(columns: EventColumns) -> bytes:
    """The part of `leaf_data` that is there before an event has its place."""
    kind, schema_v, task_id, hostname, actor, occurred_us, body, signature, key_id = columns
    texts = (kind, task_id, hostname, actor, body, signature, key_id)
    lengths = [ABSENT if text is None else len(text) for text in texts]
    header = _REST.pack(schema_v, occurred_us is not None, occurred_us or 0, *lengths)
    return b"".join((header, *filter(None, texts)))


def leaf_hash(row: EventRow) -> bytes:
    """The leaf of an event, given as the columns of its table in their order."""
    return sha256(b"\x00" + leaf_data(row)).digest()


def leaf_at(seq: int, recorded_us: int, rest: bytes) -> bytes:
    """The leaf of an event, given as its place and its `leaf_rest`."""
    return sha256(_LEAF_PLACE.pack(seq, recorded_us) + rest).digest()


def row_of(data: bytes) -> EventRow:
    """Undo `leaf_data`; ValueError where no event gives these bytes."""
    if len(data) < _HEADER.size:
        raise ValueError("too short for an event")
    seq, recorded_us, schema_v, has_occurred, occurred_us, *lengths = _HEADER.unpack_from(data)
    texts: list[Text] = []
    at = _HEADER.size
    for length in lengths:
        texts.append(None if length == ABSENT else data[at : at + length])
        at += 0 if length == ABSENT else length
    kind, task_id, hostname, actor, body, signature, key_id = texts
    if kind is None or body is None or at != len(data) or (occurred_us and not has_occurred):
        raise ValueError("not the bytes of one event")
    occurred = occurred_us if has_occurred else None
    return seq, recorded_us, kind, schema_v, task_id, hostname, actor, occurred, body, signature, key_id


def leaves_in(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (seq, leaf hash) of events whose leaf data come one after the other, each behind a 0x00.

    Raises:
        ValueError: they end within an event.
    """
    view, at, size = memoryview(data), 0, len(data)
    unpack, header_bytes = _HEADER.unpack_from, _HEADER.size + 1
    while at < size:
        if size - at < header_bytes:
            raise ValueError("the last event is cut off")
        seq, _, _, _, _, *lengths = unpack(data, at + 1)
        end = at + header_bytes + sum(lengths) - ABSENT * lengths.count(ABSENT)
        if end > size:
            raise ValueError("the last event is cut off")
        yield seq, sha256(view[at:end]).digest()
        at = end


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class CompactRange:
    """The tree over the first `size` leaves, as the roots of its perfect subtrees, the largest first.

    There is one for each set bit of `size`; that is all an append needs to know of the leaves before it.
    """

    size: int
    roots: tuple[bytes, ...]

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> "CompactRange":
        """Undo `to_bytes`; ValueError when the bytes cannot belong to a tree of that size."""
        if len(data) != size.bit_count() * HASH_BYTES:
            raise ValueError(f"a tree of {size} leaves does not have {len(data)} bytes")
        return cls(size, tuple(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)))

    def to_bytes(self) -> bytes:
        return b"".join(self.roots)

    def extended(self, leaves: Iterable[bytes]) -> "CompactRange":
        """The tree with these leaf hashes after those it has."""
        size, roots = self.size, list(self.roots)
        for leaf in leaves:
            node, merges = leaf, size
            while merges & 1:  # each trailing 1 is a perfect subtree as large as the node: they become one
                node = node_hash(roots.pop(), node)
                merges >>= 1
            roots.append(node)
            size += 1
        return CompactRange(size, tuple(roots))

    def root(self) -> bytes:
        """The hash that stands for all leaves in their order; that of nothing for an empty tree."""
        return joined(self.roots)


def joined(roots: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees that lie side by side, the largest first; that of nothing where there is none."""
    if not roots:
        return sha256().digest()
    node = roots[-1]
    for left in reversed(roots[:-1]):
        node = node_hash(left, node)
    return node


# --- proofs: which parts of the tree they consist of, and whether they hold -------------------------------------------


class Span(NamedTuple):
    """The leaves from index `start` (0 is the event 1) to before `end`, which have a common node."""

    start: int
    end: int


class Node(NamedTuple):
    """The perfect subtree over the leaves from `number << height` to before `(number + 1) << height`."""

    height: int
    number: int


def perfect(span: Span) -> list[Node]:
    """The perfect subtrees that a span consists of, from left to right, which for a part of a tree is largest first."""
    nodes = []
    start = span.start
    while start < span.end:
        height = (span.end - start).bit_length() - 1
        if start:
            height = min(height, (start & -start).bit_length() - 1)
        nodes.append(Node(height, start >> height))
        start += 1 << height
    return nodes


def inclusion_spans(index: int, size: int) -> list[Span]:
    """What proves that a leaf is in the tree over `size` leaves: PATH of RFC 6962, 2.1.1, nearest first."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has none at {index}")
    spans = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start = middle
    return spans[::-1]


def consistency_spans(old: int, new: int) -> list[Span]:
    """What proves that the tree over `new` leaves begins with that over `old`: PROOF of RFC 6962, 2.1.2."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves does not grow from one of {old}")
    spans = []
    start, end, is_whole = 0, new, True
    while start < old < end:
        middle = start + _split(end - start)
        if old <= middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start, is_whole = middle, False
    return [*([] if is_whole else [Span(start, end)]), *spans[::-1]]


def _split(count: int) -> int:
    """The largest power of two below a number of leaves."""
    return 1 << ((count - 1).bit_length() - 1)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the tree over `size` leaves that has this root has this leaf at `index` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            node = node_hash(sibling, node)
            place, last = _without_zeros(place, last)
        else:
            node = node_hash(node, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and node == root


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the tree over `new` leaves begins with the one over `old`, by their roots (RFC 9162, 2.1.4.2)."""
    if old == new or old == 0:
        return not proof and 0 <= old <= new and old_root == (new_root if old == new else joined(()))
    if not 0 < old < new:
        return False
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old_node = new_node = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old_node, new_node = node_hash(sibling, old_node), node_hash(sibling, new_node)
            place, last = _without_zeros(place, last)
        else:
            new_node = node_hash(new_node, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and old_node == old_root and new_node == new_root


def _without_zeros(place: int, last: int) -> tuple[int, int]:
    """Go up while the node is a left child without a right one: such levels add nothing."""
    while place and not place & 1:
        place, last = place >> 1, last >> 1
    return place, last
