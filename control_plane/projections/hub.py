"""Tells this process's readers how far each projection has come, as soon as it has."""

import asyncio
from typing import Final

from sqlalchemy import select

from control_plane.projections.positions import Positions
from control_plane.storage.engine import Database
from control_plane.storage.tables import follower

POLL_S: Final = 0.1  # for projectors that run in another process


class Hub:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._positions: dict[str, Positions] = {}
        self._moved = asyncio.Event()
        self.moves = 0

    def moved(self, name: str, positions: Positions) -> None:
        """A projection has committed up to here."""
        self._positions[name] = positions
        self.moves += 1
        self._moved.set()
        self._moved = asyncio.Event()

    def forget(self, name: str) -> None:
        """Its tables may be made anew: what was told of them counts no more, and its row says where it stands."""
        self._positions.pop(name, None)

    async def wait_moved(self, *, after: int | None = None, timeout_s: float) -> None:
        """Return when a projection of this process has moved, or at the timeout.

        Args:
            after: `moves` as it was before the caller looked: what has moved since then counts.
        """
        if after is not None and self.moves > after:
            return
        moved = self._moved
        try:
            async with asyncio.timeout(timeout_s):
                await moved.wait()
        except TimeoutError:
            return

    async def wait_for(self, name: str, event_seq: int, *, heartbeat_seq: int = 0, timeout_s: float = 2.0) -> bool:
        """Wait until a projection has come to a position, wherever it runs; whether it has."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        while not self._is_told(name, event_seq, heartbeat_seq):
            if loop.time() >= ends:
                return False
            before = self.moves
            await self.wait_moved(after=before, timeout_s=min(POLL_S, ends - loop.time()))
            if self.moves == before:  # perhaps its projector runs in another process
                self._positions[name] = await self.position(name)
        return True

    def _is_told(self, name: str, event_seq: int, heartbeat_seq: int) -> bool:
        told = self._positions.get(name, Positions(0, 0))
        return told.event >= event_seq and told.heartbeat >= heartbeat_seq

    async def position(self, name: str) -> Positions:
        """How far a projection has come: what its row says, or more where its projector has told us."""
        statement = select(follower.c.event_seq, follower.c.heartbeat_seq).where(follower.c.name == name)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).one_or_none()
        told = self._positions.get(name, Positions(0, 0))
        if row is None:
            return told
        return Positions(max(row.event_seq, told.event), max(row.heartbeat_seq, told.heartbeat))
