"""Follow a log: every event after a position, in order, as soon as it is there."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from control_plane.events.envelope import LogName, StoredEvent
from control_plane.events.log import EventLog

POLL_S: Final = 0.25  # how late another process's event may be seen; this one's own are seen at once
PAGE: Final = 1000


async def follow(
    log: EventLog, name: LogName, *, after: int, stop: asyncio.Event, limit: int = PAGE
) -> AsyncIterator[list[StoredEvent]]:
    """Batches of 1 to `limit` events after a position, without a hole, until `stop` is set.

    The position is the follower's to keep: it is moved in the same transaction as what the events led to.

    Raises:
        LogDamagedError: an event below the head is gone; halt and alarm.
        StorageUnavailableError: follow again from the position, after a while.
    """
    position = after
    while not stop.is_set():
        if events := await log.read(name, after=position, limit=limit, patience_s=POLL_S):
            position = events[-1].seq
            yield events
        else:
            await log.wait_beyond(name, position, timeout_s=POLL_S)
