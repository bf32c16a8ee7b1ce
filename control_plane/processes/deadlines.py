"""Silence has an end: what was certainly never delivered is `expired`, what may have run is `lost`.

It looks at the read table, never ahead of it: before it decides, the table has everything that was in the log.
"""

import asyncio
import logging
from typing import Final

from control_plane.events.envelope import EVENT
from control_plane.events.log import EventLog
from control_plane.events.tasks import ExecutionExpired, ExecutionLost, last_start_s, last_word_s
from control_plane.processes.ports import Leases
from control_plane.projections.hub import Hub
from control_plane.projections.queries.tasks import OpenExecution, TaskQueries
from control_plane.projections.tasks import TasksProjection
from control_plane_wire.clock import Clock
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.lifecycle import wait_for_any

INTERVAL_S: Final = 1.0
NEVER_DELIVERED: Final = "never delivered: nothing reached the host in time"
NEVER_ITS_TURN: Final = "never sent: the rollout did not come to it in time"
BATCH: Final = 500

_logger = logging.getLogger(__name__)


def verdict(execution: OpenExecution, now_s: int) -> ExecutionExpired | ExecutionLost | None:
    """The outcome that silence means by now, if it means one.

    `expired` only where every publish is known to have reached nobody. Otherwise it was perhaps delivered, and is
    `lost` when it has had all the time that it may have to start, to run and to answer. That is counted by the control
    plane's clock alone: a host's own may say anything.
    """
    if execution.delivery.certainly_not:
        if now_s <= last_start_s(execution.expires_at):
            return None
        return ExecutionExpired(
            task_id=execution.task_id,
            hostname=execution.hostname,
            reason=NEVER_DELIVERED if execution.is_released else NEVER_ITS_TURN,
        )
    if now_s <= last_word_s(execution.expires_at, execution.timeout_s, execution.running_us):
        return None
    known = "no word after it was sent" if execution.running_us is None else "no word after it was started"
    return ExecutionLost(task_id=execution.task_id, hostname=execution.hostname, reason=f"{known}; it may have run")


class Deadlines:
    """The process, as a service; any number may run, and the one with the lease works."""

    name = "deadlines"

    def __init__(
        self,
        log: EventLog,
        leases: Leases,
        hub: Hub,
        queries: TaskQueries,
        clock: Clock,
        *,
        failpoints: Failpoints = NO_FAILPOINTS,
    ) -> None:
        self._log = log
        self._leases = leases
        self._hub = hub
        self._queries = queries
        self._clock = clock
        self._failpoints = failpoints

    async def run(self, stop: asyncio.Event) -> None:
        await self._leases.keep("process:deadlines", lambda lease: self._work(lease, stop), stop=stop)

    async def _work(self, _lease: object, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if not await self.decide():
                await wait_for_any(stop, timeout_s=INTERVAL_S)

    async def decide(self) -> int:
        """Say what is due; how many outcomes were said.

        The outcomes share one key with the host's result: where that came first, ours is refused, and it stands.
        """
        head = await self._log.head(EVENT)
        if not await self._hub.wait_for(TasksProjection.name, head.seq):
            return 0
        now_s = self._clock.now_s()
        overdue = await self._queries.overdue(now_s, limit=BATCH)
        due = [event for execution in overdue if (event := verdict(execution, now_s)) is not None]
        if due:
            self._failpoints.hit("deadlines.before_append")
            await self._log.append([event.to_new_event(actor=self.name) for event in due])
            self._failpoints.hit("deadlines.after_append")
            _logger.info("silence ended", extra={"executions": len(due)})
        return len(due)
