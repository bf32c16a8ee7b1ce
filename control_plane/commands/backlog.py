"""How much may wait: beyond it no task is accepted, and that is said before anything is recorded.

What waits are executions that have neither ended nor been answered by their host, whatever they wait for: the broker,
an offline host, their turn in a rollout, or the end of a pause. All of them are in the memory of dispatch.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from control_plane.commands.ports import Executions
from control_plane.errors import BacklogFullError, StorageUnavailableError
from control_plane_wire.clock import Clock
from control_plane_wire.lifecycle import wait_for_any

MOST_WAITING: Final = 100_000
LOOK_S: Final = 0.5  # between two counts, where somebody asks all the time
LOOK_PART: Final = 0.2  # of the time, at most, is spent on counting
OLD_S: Final = 5.0  # a count that somebody has to wait for a new one instead
IDLE_S: Final = 60.0


@dataclass(slots=True, eq=False)
class Held:
    """Room for a task's executions; `seq` is the event of its acceptance, None until it is in the log."""

    number: int
    seq: int | None = None


class Backlog:
    """What waits, near enough: as the read table had it a moment ago, and what this process has accepted since.

    As a service it counts ahead, so that hardly anybody has to wait for it.

    Args:
        most: executions that may wait.
    """

    name = "backlog"

    def __init__(self, executions: Executions, clock: Clock, *, most: int = MOST_WAITING) -> None:
        self._executions = executions
        self._clock = clock
        self._most = most
        self._counted = 0
        self._looked_s = -math.inf
        self._took_s = 0.0
        self._held: list[Held] = []
        self._held_number = 0
        self._asked = asyncio.Event()
        self._looking = asyncio.Lock()

    @property
    def waiting(self) -> int:
        return self._counted + self._held_number

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await wait_for_any(stop, self._asked, timeout_s=IDLE_S)
            if self._asked.is_set():
                self._asked.clear()
                with contextlib.suppress(StorageUnavailableError):  # whoever needs it says so
                    await self._look(LOOK_S)
                await wait_for_any(stop, timeout_s=self._pause_s)

    @asynccontextmanager
    async def room(self, number: int) -> AsyncIterator[Held]:
        """Keep room for that many while they are recorded; what is not recorded by the end gives it back.

        Raises:
            BacklogFullError: there is not so much room.
        """
        self._asked.set()
        await self._look(OLD_S)
        if self.waiting + number > self._most:
            await self._look(self._pause_s)  # perhaps there is by now
        if self.waiting + number > self._most:
            raise BacklogFullError(number, waiting=self.waiting, most=self._most)
        held = Held(number)
        self._held.append(held)
        self._held_number += number
        try:
            yield held
        finally:
            if held.seq is None:
                self._keep([other for other in self._held if other is not held])

    @property
    def _pause_s(self) -> float:
        return max(LOOK_S, self._took_s / LOOK_PART)

    def _is_older(self, than_s: float) -> bool:
        return self._clock.monotonic_s() - self._looked_s >= than_s

    async def _look(self, older_s: float) -> None:
        """Count anew where the last count is as old as that."""
        if not self._is_older(older_s):
            return
        async with self._looking:
            if not self._is_older(older_s):  # somebody else has done it meanwhile
                return
            began_s = self._clock.monotonic_s()
            position, self._counted = await self._executions.waiting()
            self._looked_s = self._clock.monotonic_s()
            self._took_s = self._looked_s - began_s
            self._keep([held for held in self._held if held.seq is None or held.seq > position])

    def _keep(self, held: list[Held]) -> None:
        self._held, self._held_number = held, sum(each.number for each in held)
