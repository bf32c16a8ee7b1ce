"""The limits of a body."""

import asyncio
from collections.abc import Iterable

import pytest
from starlette.types import Message

from control_plane.api import bodies
from control_plane.api.bodies import LimitedBody
from control_plane.api.problems import ProblemError


def body(chunks: Iterable[bytes]) -> LimitedBody:
    """A body that arrives in these chunks, and then never ends."""
    messages = iter(chunks)

    async def receive() -> Message:
        chunk = next(messages, None)
        if chunk is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": chunk, "more_body": True}

    return LimitedBody(receive)


async def test_a_body_is_cut_off_where_it_passes_its_limit() -> None:
    receive = body([b"x" * 524_288] * 3)

    await receive()
    await receive()
    with pytest.raises(ProblemError) as refused:
        await receive()

    assert (refused.value.status_code, refused.value.code) == (413, "body_too_large")


async def test_a_body_that_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.01)
    receive = body([b"{"])

    await receive()
    with pytest.raises(ProblemError) as refused:
        await receive()

    assert (refused.value.status_code, refused.value.code) == (408, "body_too_slow")
