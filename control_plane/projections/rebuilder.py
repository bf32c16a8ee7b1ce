"""Rebuilds that are asked for over the API: one at a time, in this process, while everything goes on."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from control_plane.errors import ControlPlaneError, RefusedError
from control_plane.events.log import EventLog
from control_plane.projections.every import projection_named
from control_plane.projections.rebuild import rebuild
from control_plane.storage.engine import Database
from control_plane_wire.clock import Clock
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.lifecycle import wait_for_any

IDLE_S = 60.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a rebuild has found: it folds all events anew, and compares that with what was shown.

    Attributes:
        at_us: when it ended.
        rows: in the tables that were folded anew.
        differed: the tables that were not the same.
        failure: why it has come to no end, if it has not.
    """

    at_us: int
    rows: int = 0
    differed: Sequence[str] = ()
    failure: str | None = None


class Rebuilder:
    """As a service it does what was asked for. One that is stopped in between leaves the live tables as they were."""

    name = "rebuilder"

    def __init__(
        self, database: Database, log: EventLog, clock: Clock, *, failpoints: Failpoints = NO_FAILPOINTS
    ) -> None:
        self._database = database
        self._log = log
        self._clock = clock
        self._failpoints = failpoints
        self._asked: dict[str, None] = {}  # in their order, the first one under way
        self._woken = asyncio.Event()
        self._verified: dict[str, Verified] = {}

    def verified(self, name: str) -> Verified | None:
        """What the last rebuild of a projection found that was asked for here; None: there was none."""
        return self._verified.get(name)

    def ask(self, name: str) -> None:
        """Have a projection rebuilt.

        Raises:
            NotFoundError: there is none of that name.
            RefusedError: `rebuild_running`: it has been asked for already.
        """
        projection_named(name)
        if name in self._asked:
            raise RefusedError("rebuild_running", f"{name} is being rebuilt already")
        self._asked[name] = None
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if not self._asked:
                self._woken.clear()
                await wait_for_any(stop, self._woken, timeout_s=IDLE_S)
                continue
            name = next(iter(self._asked))
            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._rebuild(name), name=f"rebuild {name}")
                stopped = group.create_task(stop.wait(), name="until stopped")
                await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
                work.cancel()
                stopped.cancel()
            del self._asked[name]

    async def _rebuild(self, name: str) -> None:
        try:
            compared = await rebuild(
                projection_named(name), self._database, self._log, then="switch", failpoints=self._failpoints
            )
        except ControlPlaneError as error:
            extra = {"projection": name, "cause": str(error)}
            _logger.error("rebuild failed, the live tables go on", extra=extra)  # noqa: TRY400 - the cause says it
            self._verified[name] = Verified(at_us=self._clock.now_us(), failure=str(error))
        else:
            differed = [table.name for table in compared if not table.is_equal]
            rows = sum(table.rebuilt.rows for table in compared)
            self._verified[name] = Verified(at_us=self._clock.now_us(), rows=rows, differed=differed)
            _logger.info("rebuilt", extra={"projection": name, "differed": differed})
