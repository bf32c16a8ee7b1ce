"""Silence has an end: what was certainly never delivered is `expired`, what may have run is `lost`.

It looks at the read table, never ahead of it: before it decides, the table has everything that was in the log.
"""

import asyncio
import logging
from typing import Final

from control_plane.events.envelope import EVENT
from control_plane.events.log import EventLog
from control_plane.events.tasks import ExecutionExpired, ExecutionLost
from control_plane.processes.ports import Leases
from control_plane.projections.hub import Hub
from control_plane.projections.queries.tasks import OpenExecution, TaskQueries
from control_plane.projections.tasks import TasksProjection
from control_plane_wire.clock import Clock
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.lifecycle import wait_for_any
from control_plane_wire.messages import ALLOWED_SKEW_S

INTERVAL_S: Final = 1.0
LOST_AFTER_S: Final = 180  # an agent's own timeout, kill and last retries fit in
BATCH: Final = 500

_logger = logging.getLogger(__name__)


def verdict(execution: OpenExecution, now_s: int) -> ExecutionExpired | ExecutionLost | None:
    """The outcome that silence means by now, if it means one.

    `expired` only where every publish is known to have come back. Otherwise it was perhaps delivered, and is `lost`
    when it has had all the time that it may have to start, to run and to answer. That is counted by the control
    plane's clock alone: a host's own may say anything.
    """
    last_start_s = execution.expires_at + ALLOWED_SKEW_S
    if execution.delivery.certainly_not:
        if now_s <= last_start_s:
            return None
        return ExecutionExpired(
            task_id=execution.task_id, hostname=execution.hostname, reason="never delivered: the host was offline"
        )
    started_s = last_start_s if execution.running_us is None else execution.running_us // 1_000_000
    if now_s <= started_s + execution.timeout_s + LOST_AFTER_S:
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
        due = await self._due(now_s)
        if due:
            self._failpoints.hit("deadlines.before_append")
            await self._log.append([event.to_new_event(actor=self.name) for event in due])
            self._failpoints.hit("deadlines.after_append")
            _logger.info("silence ended", extra={"executions": len(due)})
        return len(due)

    async def _due(self, now_s: int) -> list[ExecutionExpired | ExecutionLost]:
        """The next outcomes to say. Those that may run for hours yet stand before them, so it looks ever further."""
        limit = BATCH
        while True:
            overdue = await self._queries.overdue(now_s, limit=limit)
            due = [event for execution in overdue if (event := verdict(execution, now_s)) is not None]
            if due or len(overdue) < limit:
                return due[:BATCH]
            limit *= 4
