"""The transport port: what the product needs of a message broker, and nothing else.

A session is one connection. It does not heal itself: when the connection is lost, everything in it raises
TransportUnavailableError, and whoever owns it opens another one (`keep_session`). So nobody has to guess what survived.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from control_plane_wire.backoff import Backoff
from control_plane_wire.errors import PublishUnconfirmedError, TransportUnavailableError
from control_plane_wire.lifecycle import wait_for_any
from control_plane_wire.topology import Binding, Topology

log = logging.getLogger(__name__)

MAX_BATCH: Final = 500
PUBLISH_TIMEOUT_S: Final = 10.0
HEALTHY_AFTER_S: Final = 10.0  # a session that lived longer was no failed attempt


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
        """Settle it; never waits, and a second time does nothing.

        It is sent together with others: when the consumer asks for its next batch, or a moment later where it does not,
        at the latest when the session ends. Once the session has ended it does nothing: the message comes again.
        """
        ...

    def reject(self) -> None:
        """Settle it unhandled and not again here: it goes where the broker's dead-letter policy says; never waits."""
        ...


class Session(Protocol):
    """One connection. All methods raise TransportUnavailableError once it is lost; after that it never works again."""

    @property
    def is_blocked(self) -> bool:
        """Whether the broker takes no publishes for now: one has been waiting for its confirm for some seconds."""
        ...

    async def declare(self, topology: Topology) -> None:
        """Declare exchanges, queues and bindings, in that order.

        Raises:
            TransportUnavailableError: also where the broker refuses, above all an exclusive queue that still belongs to
                another session. After a lost link that is usually our own last one, so try again.
        """
        ...

    async def bind(self, binding: Binding) -> None: ...

    async def unbind(self, binding: Binding) -> None: ...

    async def queue_exists(self, name: str) -> bool:
        """Whether there is a queue of this name, be it exclusive to another session."""
        ...

    async def publish(self, message: Message, *, timeout_s: float = PUBLISH_TIMEOUT_S) -> PublishOutcome:
        """Publish with `mandatory` and wait for the broker's confirm.

        Raises:
            PublishUnconfirmedError: nothing is known; it may have been delivered.
            TransportUnavailableError: it was certainly not sent; there is no connection, or no room within `timeout_s`.
        """
        ...

    def consume(self, queue: str, *, prefetch: int) -> AsyncIterator[Sequence[Delivery]]:
        """Yield what has arrived meanwhile, 1 to 500 deliveries in their order; at most `prefetch` are unsettled.

        It starts with the first `anext` and lives until the session ends. Cancelling a waiting `anext` loses nothing,
        and another may follow. It never ends by itself: TransportUnavailableError tells that the session is lost.
        """
        ...

    async def wait_lost(self) -> None:
        """Return when the session is lost."""
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
    """Open a session and serve it, again after each loss, until `serve` returns or `stop` is set.

    `serve` watches `stop` itself. The session counts as lost when it raises TransportUnavailableError, or lets a
    PublishUnconfirmedError through (what is unconfirmed is sent again from what is durable); alone or in a group, as a
    TaskGroup raises them. Any other error is raised.
    """
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        healthy_from_s = math.inf
        try:
            async with transport.connect(name) as session:
                healthy_from_s = loop.time() + HEALTHY_AFTER_S
                await serve(session)
        except* (TransportUnavailableError, PublishUnconfirmedError) as lost:
            log.warning("session lost", extra={"session": name, "reason": _reason(lost)})
        else:
            return
        if loop.time() > healthy_from_s:  # being let in and at once out again is no reason to hurry
            backoff.reset()
        await wait_for_any(stop, timeout_s=backoff.next_s())


def _reason(error: BaseException) -> str:
    """The text of the first error in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


async def until_stopped(
    deliveries: AsyncIterator[Sequence[Delivery]], stop: asyncio.Event
) -> AsyncIterator[Sequence[Delivery]]:
    """The batches of a consumer until `stop` is set; the last one is handed over before that ends it."""
    stopped = asyncio.ensure_future(stop.wait())
    upcoming: asyncio.Future[Sequence[Delivery]] | None = None
    try:
        while not stop.is_set():
            upcoming = asyncio.ensure_future(anext(deliveries))
            await asyncio.wait({upcoming, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if upcoming.done():
                yield upcoming.result()
    finally:
        stopped.cancel()
        if upcoming is not None and not upcoming.done():
            upcoming.cancel()
            await asyncio.wait({upcoming})
