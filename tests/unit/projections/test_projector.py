"""How often a projector looks what other processes have written."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from control_plane.projections.folding import POLL_S
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.hub import Hub
from control_plane.projections.positions import Positions
from control_plane.projections.projector import BUSY_POLL_S, Projector


class Tenure:
    """Finds something where the script says so, and stops the projector at its end."""

    def __init__(self, script: list[bool], stop: asyncio.Event) -> None:
        self.position = Positions(0, 0)
        self.patience_s: list[float] = []
        self._script = script
        self._stop = stop

    async def step(self, *, patience_s: float) -> bool:
        self.patience_s.append(patience_s)
        found = self._script.pop(0)
        if not self._script:
            self._stop.set()
        return found

    async def save(self) -> None:
        pass


class Log:
    def __init__(self) -> None:
        self.waited_s: list[float] = []

    async def wait_beyond(self, _log: str, _seq: int, *, timeout_s: float) -> None:
        self.waited_s.append(timeout_s)


class OneLease:
    async def keep(self, _name: str, work: Any, *, stop: asyncio.Event) -> None:
        await work(None)


async def test_a_projector_looks_often_while_there_is_something_and_ever_more_seldom_when_there_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop, log, nothing = asyncio.Event(), Log(), [False] * 10
    tenure = Tenure([*nothing, True, *nothing], stop)

    @asynccontextmanager
    async def folding(*_given: object, **_more: object) -> AsyncIterator[Tenure]:
        yield tenure

    monkeypatch.setattr("control_plane.projections.projector.folding", folding)
    given: Any = (None, log, OneLease(), Hub(None))  # type: ignore[arg-type] # nobody asks it
    await Projector(HostsProjection(), *given).run(stop)

    before, after = tenure.patience_s[:11], tenure.patience_s[11:]
    assert set(before) == {POLL_S}
    assert after == sorted(after)
    assert (after[0], after[-1]) == (BUSY_POLL_S, POLL_S)
    assert (max(log.waited_s), min(log.waited_s)) == (POLL_S, 2 * BUSY_POLL_S)
