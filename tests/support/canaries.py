"""Secrets that were planted, and where they turn up: as they are, and in the forms that programs give to bytes."""

import base64
import json
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from sqlalchemy import text

from control_plane.storage.engine import Database


def forms(secret: str | bytes) -> set[bytes]:
    """How a secret may be written down."""
    data = secret.encode() if isinstance(secret, str) else secret
    found = {data, data.hex().encode(), data.hex().upper().encode(), base64.b64encode(data).rstrip(b"=")}
    found.add(base64.urlsafe_b64encode(data).rstrip(b"="))
    if isinstance(secret, str):
        found |= {quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode()}
    return found


def found(planted: Mapping[str, str | bytes], places: Mapping[str, bytes]) -> list[str]:
    """`canary in place` of each that is somewhere, in whatever form."""
    return [
        f"{name} in {place}"
        for name, secret in planted.items()
        for place, data in places.items()
        if any(form in data for form in forms(secret))
    ]


async def dump(database: Database, schemas: Iterable[str]) -> bytes:
    """Every row of every table, as text and as bytes."""
    parts: list[bytes] = []
    async with database.read() as connection:
        for name in schemas:
            rows = await connection.execute(text(f"SELECT * FROM {name}"))  # noqa: S608 - names of tables
            parts += [value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row]
    return b"\n".join(parts)
