"""The Merkle tree of RFC 6962 over a log: what the head row keeps of it, its root, and what one leaf covers.

Leaf = SHA-256(0x00 ‖ header ‖ texts), node = SHA-256(0x01 ‖ left ‖ right). The header has every number in its full
width and the length of every text (0xFFFFFFFF: NULL), so no two different events can give the same bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Final, TypeAlias

HASH_BYTES: Final = 32
ABSENT: Final = 0xFFFF_FFFF

# seq, recorded_us, schema_v, whether there is an occurred_us, occurred_us, the lengths of the seven texts
_HEADER: Final = Struct(">QQH?q7I")

Text: TypeAlias = bytes | None
EventRow: TypeAlias = tuple[int, int, bytes, int, Text, Text, Text, int | None, bytes, Text, Text]


def leaf_hash(row: EventRow) -> bytes:
    """The leaf of an event, given as the columns of its table in their order."""
    seq, recorded_us, kind, schema_v, task_id, hostname, actor, occurred_us, body, signature, key_id = row
    texts = (kind, task_id, hostname, actor, body, signature, key_id)
    header = _HEADER.pack(
        seq,
        recorded_us,
        schema_v,
        occurred_us is not None,
        occurred_us or 0,
        *[ABSENT if text is None else len(text) for text in texts],
    )
    return sha256(b"".join((b"\x00", header, *filter(None, texts)))).digest()


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
        if not self.roots:
            return sha256().digest()
        node = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            node = node_hash(left, node)
        return node
