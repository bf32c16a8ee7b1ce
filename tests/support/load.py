"""Clients that never give up, and what must be true of log and read tables whatever was done to the database."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from sqlalchemy import func, select

from control_plane.errors import StorageUnavailableError
from control_plane.events.batch import row_of_stored
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName, StoredEvent
from control_plane.events.merkle import CompactRange, leaf_hash
from control_plane.events.tasks import TaskAccepted
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.rebuild import rebuild
from control_plane.storage.engine import Database, open_database
from control_plane.storage.tables import EVENT_TABLES, KEY_TABLES
from tests.support.history import HOSTS, a_heartbeat
from tests.support.plane import Plane

GOES_ON_S = 40
PATIENCE_S = 0.02


@dataclass
class Load:
    """Clients that send tasks, and repeat each under its id until it is accepted; and heartbeats beside.

    Attributes:
        accepted: the seq of each task that was.
        answered_s: when each was, by the loop's clock.
        failures: what they were told meanwhile.
    """

    plane: Plane
    accepted: dict[str, int] = field(default_factory=dict)
    answered_s: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def running(self, clients: int = 3) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for client in range(clients):
                tasks.create_task(self._send(client, stop))
            tasks.create_task(self._beat(stop))
            try:
                await self.goes_on()
                yield
            finally:
                stop.set()

    async def _send(self, client: int, stop: asyncio.Event) -> None:
        for number in itertools.count():
            task_id = f"client{client}-{number}"
            while task_id not in self.accepted:
                if stop.is_set():
                    return
                try:
                    self.accepted[task_id] = await self.plane.run(task_id, *HOSTS)
                except StorageUnavailableError as error:
                    self.failures[str(error)] += 1
                    await asyncio.sleep(PATIENCE_S)
            self.answered_s.append(asyncio.get_running_loop().time())

    async def _beat(self, stop: asyncio.Event) -> None:
        for number in itertools.count(1):
            beats = [a_heartbeat(hostname, number).to_new_event() for hostname in HOSTS]
            while not stop.is_set():
                try:
                    await self.plane.log.append(beats)
                    break
                except StorageUnavailableError:
                    await asyncio.sleep(PATIENCE_S)
            if stop.is_set():
                return

    async def goes_on(self, number: int = 30) -> None:
        """Wait until so many more are accepted."""
        wanted = len(self.answered_s) + number
        async with asyncio.timeout(GOES_ON_S):
            while len(self.answered_s) < wanted:
                await asyncio.sleep(PATIENCE_S)

    def told(self) -> str:
        """For who reads the test's output: the figures of it."""
        pause_s = max(after - before for before, after in pairwise(self.answered_s))
        return f"{len(self.accepted)} accepted, the longest pause {pause_s:.1f} s; told: {dict(self.failures)}"


async def assert_sound(plane: Plane, accepted: Mapping[str, int], replicas: Sequence[str] = ()) -> None:
    """Each accepted task is there once, every replica has the same gapless log, and read tables equal a rebuild.

    Args:
        replicas: URLs of the database.
    """
    await plane.shown()
    tasks = [row for row in await rows_of(plane.database, EVENT) if row.kind == TaskAccepted.KIND]
    there = {row.task_id: row.seq for row in tasks}
    assert len(there) == len(tasks)
    assert {task_id: there.get(task_id) for task_id in accepted} == accepted
    for name in (EVENT, HEARTBEAT_EVENT):
        head = await plane.log.head(name)
        rows = await rows_of(plane.database, name)
        assert [row.seq for row in rows] == list(range(1, head.seq + 1))
        assert CompactRange(0, ()).extended([leaf_hash(row_of_stored(row)) for row in rows]) == head.tree
        for url in replicas:
            async with open_database(url, pool_size=2) as database:
                assert await rows_of(database, name) == rows
                async with database.read() as connection:
                    keys = await connection.scalar(select(func.count()).select_from(KEY_TABLES[name]))
                assert keys == len(rows)
    for projection in PROJECTIONS:
        for compared in await rebuild(projection, plane.database, plane.log, then="drop"):
            assert compared.is_equal, compared


async def rows_of(database: Database, name: LogName) -> list[StoredEvent]:
    """All events as the table has them, whatever the head says."""
    table = EVENT_TABLES[name]
    async with database.read() as connection:
        return [StoredEvent(*row) for row in await connection.execute(select(table).order_by(table.c.seq))]
