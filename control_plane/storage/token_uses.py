"""When and from where API tokens were used last, in a table of their own."""

from collections.abc import Mapping

from sqlalchemy import insert, select, update

from control_plane.storage.engine import Database
from control_plane.storage.tables import token_use as table


class TokenUseRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> Mapping[str, tuple[int, str | None]]:
        """When each token was used last by its id, in UTC microseconds, and from which address."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(table.c.token_id, table.c.used_us, table.c.address))
            return {token_id: (used_us, address) for token_id, used_us, address in rows}

    async def put(self, uses: Mapping[str, tuple[int, str | None]]) -> None:
        """Keep these, but where a later one is kept already. Two at once may collide; the same again is right."""
        async with self._database.write() as connection:
            known = set(await connection.scalars(select(table.c.token_id).where(table.c.token_id.in_(uses))))
            for token_id, (used_us, address) in uses.items():
                values = {"used_us": used_us, "address": address}
                if token_id in known:
                    is_older = (table.c.token_id == token_id) & (table.c.used_us < used_us)
                    await connection.execute(update(table).where(is_older).values(**values))
                else:
                    await connection.execute(insert(table).values(token_id=token_id, **values))
