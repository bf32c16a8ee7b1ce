"""The upkeep of the logs as a service: once every few minutes, for as long as the server runs.

Where the server's account may not change the logs' tables, a timer runs `control-plane log maintain` instead.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from control_plane.errors import ControlPlaneError
from control_plane_wire.lifecycle import wait_for_any

INTERVAL_S: Final = 300.0

_logger = logging.getLogger(__name__)


class Upkeep:
    """The service; of any number one at a time works.

    Args:
        maintain: does what there is to do; may be cancelled, and goes on where it stopped.
    """

    name = "upkeep"

    def __init__(self, maintain: Callable[[], Awaitable[object]], *, interval_s: float = INTERVAL_S) -> None:
        self._maintain = maintain
        self._interval_s = interval_s

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            async with asyncio.TaskGroup() as tasks:
                work = tasks.create_task(self._work(), name="upkeep of the logs")
                ends = tasks.create_task(stop.wait(), name="end of the upkeep")
                await asyncio.wait((work, ends), return_when=asyncio.FIRST_COMPLETED)
                work.cancel()
                ends.cancel()
            await wait_for_any(stop, timeout_s=self._interval_s)

    async def _work(self) -> None:
        try:
            await self._maintain()
        except (ControlPlaneError, OSError) as error:  # whatever it is, the server goes on and it is tried again
            _logger.error("upkeep of the logs failed", extra={"cause": str(error)})  # noqa: TRY400 - the cause says it
