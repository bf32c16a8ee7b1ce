"""The loop that keeps read tables equal to the fold of the log."""

import asyncio
from typing import Final

from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.log import EventLog
from control_plane.observability import Count
from control_plane.projections.folding import POLL_S, Folding, folding
from control_plane.projections.hub import Hub
from control_plane.projections.projection import Projection
from control_plane.storage.engine import Database
from control_plane.storage.leases import Lease, Leases
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints

BUSY_POLL_S: Final = 0.01  # how late the events of another process may be seen while there are some


class Projector:
    """One projection's loop, as a service; any number may run, and the one with the lease works."""

    def __init__(
        self,
        projection: Projection,
        database: Database,
        log: EventLog,
        leases: Leases,
        hub: Hub,
        *,
        count: Count = lambda _what, _number: None,
        failpoints: Failpoints = NO_FAILPOINTS,
    ) -> None:
        self.projection = projection
        self.name = f"projector {projection.name}"
        self._database = database
        self._log = log
        self._leases = leases
        self._hub = hub
        self._count = count
        self._failpoints = failpoints

    async def run(self, stop: asyncio.Event) -> None:
        await self._leases.keep(self.projection.lease, lambda lease: self._work(lease, stop), stop=stop)

    async def _work(self, lease: Lease, stop: asyncio.Event) -> None:
        self._hub.forget(self.projection.name)
        taken_over = folding(
            self.projection, self._database, self._log, lease, count=self._count, failpoints=self._failpoints
        )
        async with taken_over as tenure:
            self._hub.moved(self.projection.name, tenure.position)
            patience_s = POLL_S
            while not stop.is_set():
                if await tenure.step(patience_s=patience_s):
                    patience_s = BUSY_POLL_S
                    self._hub.moved(self.projection.name, tenure.position)
                else:
                    patience_s = min(2 * patience_s, POLL_S)
                    await tenure.save()
                    await self._wait(tenure, patience_s)

    async def _wait(self, tenure: Folding, patience_s: float) -> None:
        """Until this process commits something new, or it is time to look what others have committed."""
        after = {EVENT: tenure.position.event, HEARTBEAT_EVENT: tenure.position.heartbeat}
        waits = [
            asyncio.ensure_future(self._log.wait_beyond(name, after[name], timeout_s=patience_s))
            for name in self.projection.logs
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
