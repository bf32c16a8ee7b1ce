"""The installation that the requests are sent to: it is there when it says so, and says so when it ends."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from control_plane.messaging.publisher import Publisher
from control_plane_wire.lifecycle import ServiceEndedEarlyError
from tests.support.embedded import an_installation


def test_it_listens_before_anybody_is_told_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listens: list[bool] = []
    served = asyncio.BaseEventLoop.create_server

    async def late(loop: asyncio.BaseEventLoop, *given: Any, **named: Any) -> asyncio.Server:
        for _ in range(100):  # as on a machine that has much else to do
            await asyncio.sleep(0)
        server = await served(loop, *given, **named)
        listens.append(True)
        return server

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_server", late)
    with an_installation(tmp_path) as embedded:
        assert listens == [True]
        assert httpx.get(f"{embedded.url}/healthz", timeout=60).status_code == 200


def test_what_ended_it_is_told_rather_than_what_then_went_wrong_for_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = asyncio.Event()

    async def ended(_self: Publisher, _stop: asyncio.Event) -> None:
        await ends.wait()

    monkeypatch.setattr(Publisher, "run", ended)
    with pytest.raises(ExceptionGroup) as told, an_installation(tmp_path) as embedded:  # noqa: PT012
        embedded.loop.call_soon_threadsafe(ends.set)
        while True:
            httpx.get(f"{embedded.url}/healthz", timeout=60)  # until nobody answers any more

    assert told.group_contains(ServiceEndedEarlyError, match=re.escape(f"service {Publisher.name} ended"))
    assert isinstance(told.value.__context__, httpx.TransportError)
