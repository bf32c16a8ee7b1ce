"""The names that this server answers to, and the limits of a body."""

import asyncio
from collections.abc import Iterable

import pytest
from starlette.types import Message

from control_plane.api import edge
from control_plane.api.edge import AllowedHosts, LimitedBody
from control_plane.api.problems import ProblemError
from control_plane.settings import Settings


@pytest.mark.parametrize(
    ("listen", "public_url", "host", "is_allowed"),
    [
        ("127.0.0.1:8000", None, "127.0.0.1:8000", True),
        ("127.0.0.1:8000", None, "localhost:8000", True),
        ("127.0.0.1:8000", None, "[::1]:8000", True),
        ("127.0.0.1:8000", None, "evil.example:8000", False),
        ("127.0.0.1:8000", None, "192.0.2.1", False),
        ("127.0.0.1:8000", "https://control.example", "control.example", True),
        ("0.0.0.0:8000", "https://control.example", "control.example", True),
        ("0.0.0.0:8000", None, "192.0.2.1:8000", True),
        ("0.0.0.0:8000", None, "[2001:db8::1]:8000", True),
        ("0.0.0.0:8000", None, "evil.example", False),
        ("[::]:8000", None, "localhost", True),
        ("web9:8000", None, "web9:8000", True),
    ],
)
def test_a_name_that_could_have_been_rebound_to_us_is_not_ours(
    listen: str, public_url: str | None, host: str, is_allowed: bool
) -> None:
    assert (host in AllowedHosts(Settings(listen=listen, public_url=public_url))) == is_allowed


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
    monkeypatch.setattr(edge, "BODY_S", 0.01)
    receive = body([b"{"])

    await receive()
    with pytest.raises(ProblemError) as refused:
        await receive()

    assert (refused.value.status_code, refused.value.code) == (408, "body_too_slow")
