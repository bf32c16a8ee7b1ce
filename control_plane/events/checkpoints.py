"""The signed checkpoints of the logs: in the database, and the newest of each in a file outside it.

The file is what protects: a checkpoint commits to every event before it, so whoever rewrites the database cannot make
it fit. It has the note as it was signed, and nothing else.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import func, insert, select

from control_plane.errors import LogDamagedError, NotFoundError, RefusedError
from control_plane.events.envelope import EVENT, LogName
from control_plane.events.log import EventLog
from control_plane.events.merkle import consistency_spans, inclusion_spans, leaf_data
from control_plane.events.pages import read_dropped, read_row
from control_plane.events.proofs import Proof
from control_plane.events.tiles import TILE, StoredTree, Tile
from control_plane.storage.engine import Database
from control_plane.storage.tables import checkpoint as table
from control_plane.storage.tables import log_tile
from control_plane_wire.checkpoints import Checkpoint, parse, verified
from control_plane_wire.errors import SignatureError, WireError

PAGE: Final = 100
_LAST: Final = 2**63 - 1
_ROWS: Final = select(table.c.size, table.c.recorded_us, table.c.note)


def origin_of(installation: str, log: LogName) -> str:
    """What names a log for ever. `installation` is the id of the first key that its control plane signed with."""
    return f"control-plane-{installation}/{log}"


async def signed_upto(database: Database, log: LogName) -> int | None:
    """Up to where checkpoint and tiles say all that is signed of a log, without its events; None: it is not signed."""
    async with database.read() as connection:
        tiles = await connection.scalar(select(func.max(log_tile.c.idx)).where(log_tile.c.log == log))
        size = await connection.scalar(select(func.max(table.c.size)).where(table.c.log == log))
    if tiles is None and size is None:
        return None
    return TILE * min(0 if tiles is None else tiles + 1, (size or 0) // TILE)


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint whose signature was seen to hold.

    Attributes:
        recorded_us: when it was signed; 0 where that is not known.
    """

    checkpoint: Checkpoint
    note: str
    recorded_us: int = 0

    @property
    def size(self) -> int:
        return self.checkpoint.size

    @property
    def root(self) -> bytes:
        return self.checkpoint.root


class Checkpoints:
    """The checkpoints of both logs of one database. Those that are not signed by a key of ours do not count.

    Args:
        public_keys: the control plane's own, by key_id.
        counting: those whose checkpoints count that are of a log and over so many events; all, where it is left out.
    """

    def __init__(
        self,
        database: Database,
        *,
        installation: str,
        public_keys: Mapping[str, bytes],
        counting: Callable[[LogName, int], Collection[bytes]] | None = None,
    ) -> None:
        self._database = database
        self._installation = installation
        self._public_keys = public_keys
        self._counting = counting or (lambda _log, _size: self._public_keys.values())

    def origin(self, log: LogName) -> str:
        return origin_of(self._installation, log)

    def opened(self, log: LogName, note: str, recorded_us: int = 0) -> Signed:
        """The checkpoint of a note of ours on this log.

        Raises:
            MalformedMessageError: it is none.
            SignatureError: it is not signed by us, or is of another log.
        """
        checkpoint = verified(note, self._counting(log, parse(note).size))
        if checkpoint.origin != self.origin(log):
            raise SignatureError(f"the checkpoint is of {checkpoint.origin}, not of {self.origin(log)}")
        return Signed(checkpoint, note, recorded_us)

    async def newest(self, log: LogName, *, upto: int = _LAST) -> Signed | None:
        """The largest one that counts, and covers no event after `upto`."""
        async for signed in self._descending(log, upto):
            if isinstance(signed, Signed):
                return signed
        return None

    async def newest_event_note(self) -> str | None:
        """What agents are told."""
        signed = await self.newest(EVENT)
        return None if signed is None else signed.note

    async def some(self, log: LogName, *, most: int) -> tuple[list[Signed], list[int]]:
        """Those that count, and the sizes of the rows that do not, by size; of many rows a share that is spread evenly.

        The largest is always among them, and says all that the smaller ones do.
        """
        async with self._database.read() as connection:
            wanted = select(table.c.size).where(table.c.log == log).order_by(table.c.size.desc())
            sizes = list(await connection.scalars(wanted))
            sizes = sizes[:: len(sizes) // most + 1]
            rows: list[tuple[int, int, bytes]] = []
            for at in range(0, len(sizes), PAGE):
                part = _ROWS.where(table.c.log == log, table.c.size.in_(sizes[at : at + PAGE]))
                rows += [(row.size, row.recorded_us, row.note) for row in await connection.execute(part)]
        found = [self._checked(log, *row) for row in sorted(rows)]
        good = [signed for signed in found if isinstance(signed, Signed)]
        return good, [size for size in found if isinstance(size, int)]

    async def put(self, log: LogName, signed: Signed | None, tiles: Collection[Tile]) -> None:
        """Keep a checkpoint, where its size is not there yet, and the tiles that have become complete with it.

        Raises:
            StorageUnavailableError: the same again, from what is stored then.
        """
        async with self._database.write() as connection:
            if tiles:
                rows = [(log.encode(), tile.idx, tile.leaves, tile.nodes) for tile in tiles]
                await self._database.dialect.bulk_insert(connection, log_tile, rows)
            if signed is None:
                return
            is_there = select(table.c.size).where(table.c.log == log, table.c.size == signed.size)
            if await connection.scalar(is_there) is None:
                row = {"log": log, "size": signed.size, "recorded_us": signed.recorded_us, "note": signed.note.encode()}
                await connection.execute(insert(table).values(row))

    async def prove(self, log: LogName, seq: int, *, is_patient: bool = False) -> Proof:
        """The proof that an event is in the newest checkpoint.

        Args:
            is_patient: where the tiles do not lead to the signed root, hash every event instead, however long it takes.

        Raises:
            NotFoundError: `unknown_event`; `not_covered`: no checkpoint has it yet.
            RefusedError: `not_provable`: it does not fit the checkpoint.
        """
        signed = await self.newest(log)
        async with self._database.read() as connection:
            row = await read_row(connection, log, seq)
            dropped = (await read_dropped(connection, log)).seq
        if row is None and 0 < seq <= dropped:
            raise NotFoundError(
                "unknown_event", f"event {seq} was dropped with its segment; the archive of that has it"
            )
        if row is None:
            raise NotFoundError("unknown_event", f"there is no event {seq}")
        if signed is None or signed.size < seq:
            raise NotFoundError("not_covered", f"no checkpoint covers event {seq} yet; one is signed every 10 s")
        for use_tiles in (True, False) if is_patient else (True,):
            tree = StoredTree(self._database, log, use_tiles=use_tiles)
            try:
                hashes = await tree.proof(inclusion_spans(seq - 1, signed.size))
                proof = Proof(seq=seq, data=leaf_data(row), hashes=hashes, note=signed.note)
                proof.check(self._public_keys.values())
            except (LogDamagedError, WireError):
                continue
            return proof
        raise RefusedError("not_provable", f"event {seq} does not fit the signed tree: control-plane audit verify")

    async def consistency(self, log: LogName, since: int, signed: Signed) -> list[bytes]:
        """What proves that a checkpoint has grown from the tree over `since` events.

        Raises:
            NotFoundError: `not_covered`: the checkpoint is smaller.
            RefusedError: `not_provable`: an event is gone.
        """
        if since > signed.size:
            raise NotFoundError("not_covered", f"the newest checkpoint is over {signed.size} events")
        try:
            return await StoredTree(self._database, log).proof(consistency_spans(since, signed.size))
        except LogDamagedError as error:
            raise RefusedError("not_provable", f"{error}: control-plane audit verify") from error

    async def _descending(self, log: LogName, upto: int) -> AsyncIterator[Signed | int]:
        """The rows from a size down: the checkpoint, or where it does not count, only its size."""
        while True:
            wanted = _ROWS.where(table.c.log == log, table.c.size <= upto)
            async with self._database.read() as connection:
                rows = (await connection.execute(wanted.order_by(table.c.size.desc()).limit(PAGE))).all()
            for row in rows:
                yield self._checked(log, *row)
            if len(rows) < PAGE:
                return
            upto = rows[-1].size - 1

    def _checked(self, log: LogName, size: int, recorded_us: int, note: bytes) -> Signed | int:
        try:
            signed = self.opened(log, note.decode(errors="replace"), recorded_us)
        except WireError:
            return size
        return signed if signed.size == size else size


async def lost(log: EventLog, checkpoints: Checkpoints, file: "CheckpointFile", name: LogName) -> Signed | None:
    """The checkpoint in a file, where the log ends before it: then it is closed. One of no use is left to the signer.

    Raises:
        StorageUnavailableError: try again.
    """
    try:
        note = await asyncio.to_thread(file.read)
        kept = None if note is None else checkpoints.opened(name, note)
    except (OSError, WireError):
        return None
    if kept is None or kept.size <= (await log.head(name)).seq:
        return None
    await log.close(name, kept.size)
    return kept


class CheckpointFile:
    """The newest checkpoint of a log, outside the database."""

    def __init__(self, state_dir: Path, log: LogName) -> None:
        self.path = state_dir / "checkpoints" / log

    def read(self) -> str | None:
        """The note; None where there is none yet. Raises OSError."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def set_aside(self, size: int) -> None:
        """Keep it under another name, as what was signed once and is lost. Raises OSError."""
        self.path.rename(self.path.with_name(f"{self.path.name}.lost-{size}"))

    def write(self, note: str) -> None:
        """Put it in the place of the one before: whole and durable, or not at all. Raises OSError."""
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.new")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
