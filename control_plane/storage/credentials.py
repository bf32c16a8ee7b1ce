"""Password hashes, in a table of their own."""

from sqlalchemy import insert, select, update

from control_plane.storage.engine import Database
from control_plane.storage.tables import credential as table


class CredentialTable:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, username: str) -> str | None:
        """The PHC string, None where there is none."""
        async with self._database.read() as connection:
            phc: str | None = await connection.scalar(select(table.c.phc).where(table.c.username == username))
        return phc

    async def put(self, username: str, phc: str) -> None:
        """Set it. Two at once may collide; StorageUnavailableError then, and the same again is right."""
        values = {"phc": phc, "changed_us": self._database.dialect.clock_us()}
        async with self._database.write() as connection:
            changed = await connection.execute(update(table).where(table.c.username == username).values(**values))
            if not changed.rowcount:
                await connection.execute(insert(table).values(username=username, **values))
