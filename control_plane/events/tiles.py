"""The hashes of a log's tree as they are kept: tiles of 256 leaves, and whatever is not in one yet from the events.

Nothing that is read here is trusted by itself. Whoever uses it compares the root that it leads to with a signed one.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.errors import LogDamagedError
from control_plane.events.envelope import LogName
from control_plane.events.merkle import (
    HASH_BYTES,
    CompactRange,
    Node,
    Span,
    joined,
    leaf_hash,
    leaves_in,
    node_hash,
    perfect,
)
from control_plane.events.pages import LARGE_BYTES, large_seqs, read_dropped_tree, read_row
from control_plane.storage.engine import Database
from control_plane.storage.tables import EVENT_TABLES, log_tile

HEIGHT: Final = 8
TILE: Final = 1 << HEIGHT
CHUNK: Final = 2000  # events of one statement; their bodies below LARGE_BYTES stay within a packet
EMPTY: Final = CompactRange(0, ())


@dataclass(frozen=True, slots=True)
class Tile:
    """The hashes of 256 events, and of every subtree that ends with them: their own first, then ever larger ones.

    Attributes:
        leaves: empty where the first ones were dropped before there was anybody who kept tiles.
    """

    idx: int
    leaves: bytes
    nodes: bytes


class GrowingTree:
    """A tree that follows its log, from the end of a tile or of what is dropped on."""

    def __init__(self, start: CompactRange) -> None:
        self._tiles = start.size >> HEIGHT
        whole = self._tiles.bit_count()
        self._roots = list(start.roots[:whole])
        self._begun = CompactRange(start.size % TILE, start.roots[whole:])  # of a tile whose first leaves are unknown
        self._rest: list[bytes] = []

    @property
    def size(self) -> int:
        return self._tiles * TILE + self._begun.size + len(self._rest)

    def tree(self) -> CompactRange:
        return CompactRange(self.size, (*self._roots, *self._begun.extended(self._rest).roots))

    def extend(self, leaves: Iterable[bytes]) -> list[Tile]:
        """Take in the next leaf hashes; the tiles that are complete by them."""
        self._rest += leaves
        tiles = []
        while self._begun.size + len(self._rest) >= TILE:
            count = TILE - self._begun.size
            leaves, self._rest = self._rest[:count], self._rest[count:]
            known = b"" if self._begun.size else b"".join(leaves)
            tiles.append(Tile(self._tiles, known, b"".join(self._completed(leaves))))
            self._begun = EMPTY
            self._tiles += 1
        return tiles

    def _completed(self, leaves: Sequence[bytes]) -> list[bytes]:
        nodes = [self._begun.extended(leaves).root()]
        merges = self._tiles
        while merges & 1:
            nodes.append(node_hash(self._roots.pop(), nodes[-1]))
            merges >>= 1
        self._roots.append(nodes[-1])
        return nodes


class StoredTree:
    """The tree of a log as the database has it.

    Args:
        use_tiles: False hashes every event instead, for when a tile does not fit.
    """

    def __init__(self, database: Database, log: LogName, *, use_tiles: bool = True) -> None:
        self._database = database
        self._log = log
        self._use_tiles = use_tiles

    async def tiles(self) -> int:
        """How many tiles there are."""
        async with self._database.read() as connection:
            last = await connection.scalar(select(func.max(log_tile.c.idx)).where(log_tile.c.log == self._log))
        return 0 if last is None else int(last) + 1

    async def dropped(self) -> CompactRange:
        """The tree over the events whose segments are dropped; an empty one where none is.

        Raises:
            LogDamagedError: what is kept of it is none.
        """
        async with self._database.read() as connection:
            return await read_dropped_tree(connection, self._log)

    async def compact_range(self, size: int) -> CompactRange:
        """The tree over the first `size` events.

        Raises:
            LogDamagedError: an event that it needs is not there.
        """
        nodes = perfect(Span(0, size))
        hashes = await self._hashes(nodes)
        return CompactRange(size, tuple(hashes[node] for node in nodes))

    async def proof(self, spans: Sequence[Span]) -> list[bytes]:
        """The hash of each span, which `merkle.inclusion_spans` and `merkle.consistency_spans` ask for.

        Raises:
            LogDamagedError: an event that it needs is not there.
        """
        nodes = {span: perfect(span) for span in spans}
        hashes = await self._hashes({node for found in nodes.values() for node in found})
        return [joined([hashes[node] for node in nodes[span]]) for span in spans]

    async def leaves(self, idx: int) -> list[bytes] | None:
        """The leaf hashes of a tile, None where it is not there."""
        async with self._database.read() as connection:
            return (await self._leaves(connection, {idx})).get(idx)

    async def _hashes(self, nodes: Collection[Node]) -> dict[Node, bytes]:
        async with self._database.read() as connection:
            hashes: dict[Node, bytes] = await self._in_tiles(connection, nodes) if self._use_tiles else {}
            if len(hashes) < len(nodes):
                dropped = await read_dropped_tree(connection, self._log)
                hashes = dict(zip(perfect(Span(0, dropped.size)), dropped.roots, strict=True)) | hashes
            for node in nodes:
                if node not in hashes:
                    start, end = node.number << node.height, (node.number + 1) << node.height
                    hashes[node] = await self._of_events(connection, start, end)
            return hashes

    async def _in_tiles(self, connection: AsyncConnection, nodes: Collection[Node]) -> dict[Node, bytes]:
        """Those that a tile has. A node from 256 events upwards is in the tile that it ends with."""
        hashes: dict[Node, bytes] = {}
        large = {node: ((node.number + 1) << (node.height - HEIGHT)) - 1 for node in nodes if node.height >= HEIGHT}
        small = {node: (node.number << node.height) >> HEIGHT for node in nodes if node.height < HEIGHT}
        ends = await self._nodes(connection, set(large.values()))
        for node, idx in large.items():
            at = (node.height - HEIGHT) * HASH_BYTES
            if len(hash_ := ends.get(idx, b"")[at : at + HASH_BYTES]) == HASH_BYTES:
                hashes[node] = hash_
        tiles = await self._leaves(connection, set(small.values()))
        for node, idx in small.items():
            if idx in tiles:
                start = (node.number << node.height) % TILE
                hashes[node] = EMPTY.extended(tiles[idx][start : start + (1 << node.height)]).root()
        return hashes

    async def _nodes(self, connection: AsyncConnection, wanted: Collection[int]) -> dict[int, bytes]:
        c = log_tile.c
        rows = select(c.idx, c.nodes).where(c.log == self._log, c.idx.in_(sorted(wanted)))
        return {row.idx: row.nodes for row in await connection.execute(rows)} if wanted else {}

    async def _leaves(self, connection: AsyncConnection, wanted: Collection[int]) -> dict[int, list[bytes]]:
        c = log_tile.c
        rows = select(c.idx, c.leaves).where(c.log == self._log, c.idx.in_(sorted(wanted)))
        found = await connection.execute(rows) if wanted else ()
        return {
            idx: [leaves[at : at + HASH_BYTES] for at in range(0, len(leaves), HASH_BYTES)]
            for idx, leaves in found
            if len(leaves) == TILE * HASH_BYTES
        }

    async def _of_events(self, connection: AsyncConnection, start: int, end: int) -> bytes:
        tree = EMPTY
        for after in range(start, end, CHUNK):
            upto = min(after + CHUNK, end)
            hashes = await hashes_of_events(connection, self._database, self._log, after, upto)
            for seq in range(after + 1, upto + 1):
                if seq not in hashes:
                    raise LogDamagedError(self._log, seq)
            tree = tree.extended(hashes[seq] for seq in range(after + 1, upto + 1))
        return tree.root()


async def hashes_of_events(
    connection: AsyncConnection, database: Database, log: LogName, after: int, upto: int
) -> dict[int, bytes]:
    """The leaf hash of each event after one seq and up to another that is there, by its seq; at most `CHUNK`."""
    table = EVENT_TABLES[log]
    data = await database.dialect.leaf_data(connection, table, after, upto, below_bytes=LARGE_BYTES)
    hashes = dict(leaves_in(data))
    if len(hashes) < upto - after:
        for seq in await large_seqs(connection, log, after, upto):
            row = await read_row(connection, log, seq)
            if row is not None:
                hashes[seq] = leaf_hash(row)
    return hashes
