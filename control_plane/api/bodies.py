"""The limits of a request's body: how large it may be, and how slow."""

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.types import Message, Receive

from control_plane.api.problems import ProblemError

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_PUBLIC_BODY_BYTES: Final = 16 * 1024  # where anybody may ask: checking a body costs time that all others wait for
BODY_S: Final = 30.0


def check_length(request: Request, most_bytes: int) -> None:
    """Refuse a body that is said to be too large. Raises ProblemError."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared[:20]) > most_bytes:
        raise _too_large(most_bytes)


def _too_large(most_bytes: int) -> ProblemError:
    return ProblemError(413, "body_too_large", f"a body has at most {most_bytes} bytes here")


class LimitedBody:
    """The body as it arrives, up to its limits: a sender need not say beforehand how much it will be, or how slow."""

    def __init__(self, receive: Receive, most_bytes: int = MAX_BODY_BYTES) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._received = 0
        self._ends_at: float | None = None
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()
        if self._ends_at is None:
            self._ends_at = asyncio.get_running_loop().time() + BODY_S
        try:
            async with asyncio.timeout_at(self._ends_at):
                message = await self._receive()
        except TimeoutError as error:
            raise ProblemError(408, "body_too_slow", f"the body did not come within {BODY_S:g} s") from error
        self._received += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._received > self._most_bytes:
            raise _too_large(self._most_bytes)
        return message
