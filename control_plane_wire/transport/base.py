"""The transport port: what the product needs of a message broker, and nothing else.

A session is one connection. It does not heal itself: when the connection is lost, everything in it raises
TransportUnavailableError, and whoever owns it opens another one (`keep_session`). So nobody has to guess what survived.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from control_plane_wire.backoff import Backoff
from control_plane_wire.errors import TransportUnavailableError
from control_plane_wire.topology import Binding, Topology

log = logging.getLogger(__name__)

MAX_BATCH: Final = 500
PUBLISH_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to publish; the transport gives it a message_id of its own at each publish."""

    exchange: str
    routing_key: str
    body: bytes
    persistent: bool = True
    expiration_s: float | None = None
    correlation_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Every queue that it was routed to has it; for an agent's queue that means its memory, no more."""


@dataclass(frozen=True, slots=True)
class Unroutable:
    """Nobody is bound: it was certainly delivered to nobody."""


PublishOutcome: TypeAlias = Confirmed | Unroutable


class Delivery(Protocol):
    """One received message."""

    @property
    def body(self) -> bytes: ...
    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, object]: ...
    @property
    def user_id(self) -> str | None:
        """The broker's user that published it, where the publisher set it; the broker has checked it."""
        ...

    @property
    def redelivered(self) -> bool: ...

    def ack(self) -> None:
        """Settle it; never waits. After the session's end it does nothing: the message comes again."""
        ...

    def reject(self) -> None:
        """Settle it unhandled and not again here: it goes where the broker's dead-letter policy says; never waits."""
        ...


class Session(Protocol):
    """One connection. All methods raise TransportUnavailableError once it is lost."""

    @property
    def is_blocked(self) -> bool:
        """Whether the broker has an alarm and takes no publish for now."""
        ...

    async def declare(self, topology: Topology) -> None:
        """Declare exchanges, queues and bindings, in that order.

        Raises:
            TransportUnavailableError: also where an exclusive queue still belongs to another session.
        """
        ...

    async def bind(self, binding: Binding) -> None: ...

    async def unbind(self, binding: Binding) -> None: ...

    async def queue_exists(self, name: str) -> bool: ...

    async def publish(self, message: Message, *, timeout_s: float = PUBLISH_TIMEOUT_S) -> PublishOutcome:
        """Publish with `mandatory` and wait for the broker's confirm.

        Raises:
            PublishUnconfirmedError: nothing is known; it may have been delivered.
            TransportUnavailableError: there is no connection, and it was not sent.
        """
        ...

    def consume(self, queue: str, *, prefetch: int) -> AsyncIterator[Sequence[Delivery]]:
        """Yield what has arrived meanwhile, 1 to 500 deliveries in their order; at most `prefetch` are unsettled."""
        ...


class Transport(Protocol):
    def connect(self, name: str) -> AbstractAsyncContextManager[Session]:
        """Open a session; `name` is what the broker's operator sees.

        Raises:
            TransportUnavailableError: on entering, when the broker cannot be reached.
        """
        ...


async def keep_session(
    transport: Transport,
    name: str,
    serve: Callable[[Session], Awaitable[None]],
    *,
    stop: asyncio.Event,
    backoff: Backoff,
) -> None:
    """Open a session and serve it, again after each loss, until `serve` returns or `stop` is set."""
    while not stop.is_set():
        try:
            async with transport.connect(name) as session:
                backoff.reset()
                await serve(session)
                return
        except TransportUnavailableError as error:
            log.warning("session lost", extra={"session": name, "reason": str(error)})
        try:
            async with asyncio.timeout(backoff.next_s()):
                await stop.wait()
        except TimeoutError:
            continue
