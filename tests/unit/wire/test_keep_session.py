import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from control_plane_wire.backoff import Backoff
from control_plane_wire.errors import MalformedMessageError, PublishUnconfirmedError, TransportUnavailableError
from control_plane_wire.transport import base
from control_plane_wire.transport.base import Session, keep_session
from control_plane_wire.transport.inprocess import InProcessBroker

WAIT_S = 5.0


class RecordingBackoff(Backoff):
    """Waits for nearly nothing and remembers for how long it should have."""

    def __init__(self) -> None:
        super().__init__(1.0, 8.0, rng=lambda: 1.0)
        self.waits_s: list[float] = []

    def next_s(self) -> float:
        self.waits_s.append(super().next_s())
        return 0.001


class Absent:
    """A broker that is never there."""

    @asynccontextmanager
    async def connect(self, name: str) -> AsyncIterator[Session]:
        raise TransportUnavailableError("nobody listens")
        yield


LOSSES = [
    TransportUnavailableError("lost"),
    PublishUnconfirmedError("lost"),
    ExceptionGroup("of a TaskGroup", [TransportUnavailableError("lost"), PublishUnconfirmedError("lost")]),
    ExceptionGroup("outer", [ExceptionGroup("inner", [TransportUnavailableError("lost")])]),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
async def test_a_lost_session_is_opened_again_until_serving_ends(
    loss: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    served: list[Session] = []

    async def serve(session: Session) -> None:
        served.append(session)
        if len(served) < 3:
            raise loss

    async with asyncio.timeout(WAIT_S):
        await keep_session(
            InProcessBroker().transport(), "kept", serve, stop=asyncio.Event(), backoff=Backoff(0.001, 0.002)
        )

    assert len(set(served)) == 3
    assert [record.message for record in caplog.records] == ["session lost"] * 2
    assert {(record.__dict__["session"], record.__dict__["reason"]) for record in caplog.records} == {("kept", "lost")}


@pytest.mark.parametrize(
    "failure",
    [MalformedMessageError("a bug"), ExceptionGroup("", [TransportUnavailableError("lost"), ValueError("a bug")])],
    ids=repr,
)
async def test_any_other_failure_is_raised(failure: Exception) -> None:
    async def serve(_: Session) -> None:
        raise failure

    with pytest.raises((MalformedMessageError, ExceptionGroup)) as raised:
        await keep_session(
            InProcessBroker().transport(), "kept", serve, stop=asyncio.Event(), backoff=RecordingBackoff()
        )

    assert "a bug" in repr(raised.value)
    assert "lost" not in repr(raised.value)


async def test_waits_grow_while_sessions_end_at_once_and_start_over_after_a_healthy_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backoff = RecordingBackoff()
    attempts = 0

    async def serve(_: Session) -> None:
        nonlocal attempts
        attempts += 1
        monkeypatch.setattr(base, "HEALTHY_AFTER_S", -1.0 if attempts == 4 else 60.0)
        if attempts < 8:
            raise TransportUnavailableError("still held by another session")

    async with asyncio.timeout(WAIT_S):
        await keep_session(InProcessBroker().transport(), "kept", serve, stop=asyncio.Event(), backoff=backoff)

    # The fifth session counted as healthy: its limit was set when it was opened.
    assert backoff.waits_s == [1.0, 2.0, 4.0, 8.0, 1.0, 2.0, 4.0]


async def test_waiting_ends_when_it_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    stop = asyncio.Event()

    async def never(_: Session) -> None:
        raise AssertionError

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        group.create_task(
            keep_session(Absent(), "kept", never, stop=stop, backoff=Backoff(3600.0, 3600.0, rng=lambda: 1.0))
        )
        await asyncio.sleep(0)
        stop.set()


async def test_nothing_is_opened_when_it_is_stopped_already() -> None:
    stop = asyncio.Event()
    stop.set()

    async with asyncio.timeout(WAIT_S):
        await keep_session(Absent(), "kept", lambda _: asyncio.sleep(0), stop=stop, backoff=RecordingBackoff())
