"""Everything that is shown, as it was at a moment."""

import asyncio
from typing import Final

from control_plane.events.log import EventLog
from control_plane.projections.moments import Moment, moment_of
from control_plane.projections.queries.past_hosts import PastHosts
from control_plane.projections.queries.past_tasks import PastTasks
from control_plane.projections.queries.scopes import Scope
from control_plane.storage.engine import Database
from control_plane_wire.clock import Clock

SNAPSHOTS: Final = 4  # at once in this process


class Past:
    def __init__(self, database: Database, log: EventLog, clock: Clock) -> None:
        self._database = database
        self._log = log
        self._clock = clock
        self._turns = asyncio.Semaphore(SNAPSHOTS)

    async def moment(self, text: str) -> Moment:
        """See `moment_of`."""
        return await moment_of(self._log, text, now_us=self._clock.now_us())

    def hosts(self, moment: Moment, scope: Scope) -> PastHosts:
        """Hosts of then, for whoever may see them now."""
        return PastHosts(self._database, self._log, moment, scope.hosts)

    def tasks(self, moment: Moment, scope: Scope) -> PastTasks:
        return PastTasks(self._database, self._log, moment, scope, self._turns)
