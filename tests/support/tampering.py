"""What a malicious administrator of the database does: whatever SQL can, with the triggers out of the way."""

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.events.batch import encode, row_of_stored
from control_plane.events.envelope import EVENT, LogName, NewEvent, StoredEvent
from control_plane.events.merkle import CompactRange, leaf_hash
from control_plane.events.tiles import EMPTY, GrowingTree
from control_plane.storage.engine import Database
from control_plane.storage.tables import EVENT_TABLES, KEY_TABLES, checkpoint, log_head, log_tile

TABLES = ("event", "event_key", "heartbeat_event", "log_tile", "checkpoint")


class Administrator:
    """Somebody with the database's root password and nothing else."""

    def __init__(self, database: Database, log: LogName = EVENT) -> None:
        self._database = database
        self._log = log
        self._table = EVENT_TABLES[log]
        self._keys = KEY_TABLES[log]

    async def disarm(self) -> None:
        """Drop the triggers that refuse changes."""
        async with self._database.write() as connection:
            for table in TABLES:
                for suffix in ("no_update", "no_delete", "no_replace"):
                    await connection.execute(text(f"DROP TRIGGER IF EXISTS {table}_{suffix}"))

    async def edit(self, seq: int, **columns: object) -> None:
        async with self._database.write() as connection:
            await connection.execute(update(self._table).where(self._table.c.seq == seq).values(**columns))

    async def delete(self, *seqs: int, with_keys: bool = False) -> None:
        async with self._database.write() as connection:
            await connection.execute(delete(self._table).where(self._table.c.seq.in_(seqs)))
            if with_keys:
                await connection.execute(delete(self._keys).where(self._keys.c.seq.in_(seqs)))

    async def put_back(self, event: StoredEvent) -> None:
        """Make good for a deletion."""
        async with self._database.write() as connection:
            await connection.execute(insert(self._table).values(**event._asdict()))

    async def swap(self, one: int, other: int) -> None:
        """Exchange two events but for their numbers and times."""
        first, second = await self.row(one), await self.row(other)
        await self._write(second._replace(seq=one, recorded_us=first.recorded_us))
        await self._write(first._replace(seq=other, recorded_us=second.recorded_us))

    async def row(self, seq: int) -> StoredEvent:
        async with self._database.read() as connection:
            found = await connection.execute(select(self._table).where(self._table.c.seq == seq))
            return StoredEvent(*found.one())

    async def forge(self, event: NewEvent) -> int:
        """Append an event as the control plane would, with its key and the head moved; its seq."""
        entry = encode(event, 0)
        async with self._database.write() as connection:
            rows = await self._rows(connection)
            seq = rows[-1].seq + 1 if rows else 1
            row = (seq, (rows[-1].recorded_us if rows else 0) + 1, *entry.columns)
            await self._database.dialect.bulk_insert(connection, self._table, [row])
            await self._database.dialect.bulk_insert(connection, self._keys, [(*entry.key, entry.digest, seq)])
        await self.rehash()
        return seq

    async def rehash(self, *, tiles: bool = False) -> CompactRange:
        """Make the head, and the tiles if asked, fit the events that are there."""
        async with self._database.write() as connection:
            rows = await self._rows(connection)
            leaves = [leaf_hash(row_of_stored(row)) for row in rows]
            tree = EMPTY.extended(leaves)
            head = {"seq": tree.size, "tree": tree.to_bytes(), "recorded_us": rows[-1].recorded_us if rows else 0}
            await connection.execute(update(log_head).where(log_head.c.log == self._log).values(**head))
            if tiles:
                await connection.execute(delete(log_tile).where(log_tile.c.log == self._log))
                for tile in GrowingTree(EMPTY).extend(leaves):
                    values = {"log": self._log, "idx": tile.idx, "leaves": tile.leaves, "nodes": tile.nodes}
                    await connection.execute(insert(log_tile).values(**values))
        return tree

    async def forget_checkpoints(self) -> None:
        async with self._database.write() as connection:
            await connection.execute(delete(checkpoint).where(checkpoint.c.log == self._log))

    async def _rows(self, connection: AsyncConnection) -> Sequence[StoredEvent]:
        found = await connection.execute(select(self._table).order_by(self._table.c.seq))
        return [StoredEvent(*row) for row in found]

    async def _write(self, event: StoredEvent) -> None:
        columns = {name: getattr(event, name) for name in self._table.c.keys() if name != "seq"}  # noqa: SIM118
        await self.edit(event.seq, **columns)
