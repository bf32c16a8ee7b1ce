"""Hosts that have asked to be let in, in a table of their own, which grants nothing."""

from collections.abc import Mapping
from typing import TypeAlias

from sqlalchemy import delete, insert, or_, select, update

from control_plane.storage.engine import Database
from control_plane.storage.tables import pending_host as table
from control_plane_wire.proofs import fingerprint

Row: TypeAlias = tuple[str, bytes, str | None, int, bool]  # hostname, public key, address, asked_at, whether refused


class PendingHostTable:
    """See `commands.ports.PendingHosts`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def places(self) -> Mapping[int, Row]:
        columns = (table.c.hostname, table.c.public_key, table.c.address, table.c.asked_at, table.c.refused)
        async with self._database.read() as connection:
            rows = (await connection.execute(select(table.c.place, *columns))).all()
        return {place: (hostname, key, address, at, bool(no)) for place, hostname, key, address, at, no in rows}

    async def put(self, place: int, row: Row, *, instead: Row | None) -> None:
        hostname, public_key, address, asked_at, is_refused = row
        own = fingerprint(public_key)
        over = table.c.fingerprint == own  # of an earlier day
        if instead is not None:
            over = or_(over, (table.c.place == place) & (table.c.fingerprint == fingerprint(instead[1])))
        values = {
            "place": place,
            "fingerprint": own,
            "hostname": hostname,
            "public_key": public_key,
            "address": address,
            "asked_at": asked_at,
            "refused": int(is_refused),
        }
        async with self._database.write() as connection:
            await connection.execute(delete(table).where(over))
            await connection.execute(insert(table).values(values))

    async def refuse(self, fingerprint: str) -> None:
        async with self._database.write() as connection:
            await connection.execute(update(table).where(table.c.fingerprint == fingerprint).values(refused=1))

    async def forget(self, fingerprint: str) -> None:
        async with self._database.write() as connection:
            await connection.execute(delete(table).where(table.c.fingerprint == fingerprint))
