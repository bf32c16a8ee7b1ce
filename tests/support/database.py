"""Databases for tests: a migrated one by its URL, and events to put in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

from control_plane.events.envelope import EVENT, Key, LogName, NewEvent
from control_plane.storage import migrate
from control_plane.storage.engine import Database, open_database


def sqlite_url(directory: Path) -> str:
    return f"sqlite+aiosqlite:///{directory / 'test.db'}"


@asynccontextmanager
async def migrated(url: str, *, pool_size: int = 8) -> AsyncIterator[Database]:
    """The database at the URL with the log's schema in it."""
    async with open_database(url, pool_size=pool_size) as database:
        if not await migrate.is_current(database):
            await migrate.upgrade(database)
        yield database


def an_event(
    subject: str = "t1",
    *,
    log: LogName = EVENT,
    kind: str = "task.accepted",
    hostname: str | None = None,
    part: str = "",
    body: bytes = b"{}",
    digest: bytes | None = None,
    occurred_us: int | None = None,
    signature: bytes | None = None,
) -> NewEvent:
    return NewEvent(
        log=log,
        kind=kind,
        schema_v=1,
        key=Key(subject, kind, hostname or "", part),
        digest=digest if digest is not None else sha256(body).digest(),
        task_id=subject,
        hostname=hostname,
        actor="user:ada",
        occurred_us=occurred_us,
        body=body,
        signature=signature,
        key_id=None if signature is None else "0123456789abcdef",
    )
