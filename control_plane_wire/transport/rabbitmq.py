"""RabbitMQ by aio-pika; the only module that knows it.

A plain connection, not a robust one: what a robust connection restores on its own it also hides (lost return callbacks,
endless declare loops, acknowledgements on dead channels). A session that is lost ends, and its owner starts over.
Source: docs/decisions/0004-plain-connections.md
"""

import asyncio
import contextlib
import itertools
import logging
import urllib.parse
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import AuthenticationError, ChannelLockedResource, ProbableAuthenticationError
from pamqp.commands import Basic
from pamqp.common import FieldValue

from control_plane_wire.errors import PublishUnconfirmedError, TransportUnavailableError
from control_plane_wire.topology import Binding, Queue, Topology
from control_plane_wire.transport.base import (
    MAX_BATCH,
    PUBLISH_TIMEOUT_S,
    Confirmed,
    Message,
    PublishOutcome,
    Session,
    Unroutable,
)

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 10.0
OPERATION_TIMEOUT_S: Final = 10.0
MAX_IN_FLIGHT: Final = 500  # larger windows get slower: each multiple confirm walks all that are outstanding
SETTLE_AFTER_S: Final = 0.05  # for which acknowledgements wait for others to go with, while their reader is busy
BLOCKED_AFTER_S: Final = 3.0  # an unconfirmed publish this old means that the broker takes none

# What aio-pika raises when the connection or a channel is gone; ChannelInvalidStateError is a RuntimeError.
_LOST: Final = (AMQPError, OSError, RuntimeError, TimeoutError)


class RabbitTransport:
    """Sessions on one broker.

    Args:
        url: amqp://user:password@host:port/virtual-host
        heartbeat_s: a silent connection is noticed after about three of these, by either side.
    """

    def __init__(self, url: str, *, heartbeat_s: int = 10) -> None:
        self._url = url
        self._heartbeat_s = heartbeat_s

    @asynccontextmanager
    async def connect(self, name: str) -> AsyncIterator[Session]:
        with _lost_means_unavailable("cannot connect"):
            connection = await aio_pika.connect(
                self._url,
                timeout=CONNECT_TIMEOUT_S,
                heartbeat=self._heartbeat_s,
                client_properties={"connection_name": name},
            )
        try:
            session = _Session(connection, user=_user_of(self._url))
            await session.open()
            try:
                yield session
            finally:
                await session.close()
        finally:
            with contextlib.suppress(TransportUnavailableError), _lost_means_unavailable("cannot close"):
                async with asyncio.timeout(OPERATION_TIMEOUT_S):
                    await connection.close()


def _user_of(url: str) -> str | None:
    user = urllib.parse.urlsplit(url).username
    return None if user is None else urllib.parse.unquote(user)


class _lost_means_unavailable(contextlib.AbstractContextManager[None]):  # noqa: N801 - used like a function
    """Turns every way in which aio-pika says "gone" into TransportUnavailableError.

    One of them is a CancelledError although nobody cancelled this task.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, _LOST) or (isinstance(error, asyncio.CancelledError) and not _is_cancelled()):
            raise TransportUnavailableError(f"{self._what}: {_describe(error)}") from error


def _limits(queue: Queue) -> dict[str, FieldValue]:
    limits = {"x-max-length": queue.most_messages, "x-max-length-bytes": queue.most_bytes}
    return {name: limit for name, limit in limits.items() if limit is not None}


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _describe(error: BaseException) -> str:
    if "Connection.OpenOk" in str(error):  # all that the library says of it
        return "the broker does not let this account into this virtual host"
    if isinstance(error, AuthenticationError | ProbableAuthenticationError):
        return "the broker refuses this account or its password: a revoked host has none any more"
    return f"{type(error).__name__} {error}".rstrip()


class _Session:
    def __init__(self, connection: AbstractConnection, *, user: str | None) -> None:
        self._connection = connection
        self._publisher: AbstractChannel  # from `open` on
        self._user = user
        self._lost = asyncio.Event()
        self._lost_because = ""
        self._consumers: list[_Consumer] = []
        self._window = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._in_flight: dict[int, float] = {}  # since when, by number
        self._limits: set[asyncio.Timeout] = set()
        self._counter = itertools.count()
        self._id = uuid4().hex

    async def open(self) -> None:
        """Publishing has a channel to itself, and so has each consumer: a refusal on one leaves the others alone."""
        self._connection.close_callbacks.add(self._on_close)
        self._publisher = await self.open_channel(publisher_confirms=True)

    async def open_channel(self, *, publisher_confirms: bool = False) -> AbstractChannel:
        """A channel whose end is the session's end."""
        self.check_open()
        with _lost_means_unavailable("cannot open a channel"):
            async with self.limit(OPERATION_TIMEOUT_S):
                channel = self._connection.channel(publisher_confirms=publisher_confirms)
                await channel.initialize()
                channel.close_callbacks.add(self._on_close)
                return await channel.get_underlay_channel()

    def _on_close(self, _: object, error: BaseException | None) -> None:
        self.end("the connection is lost" if error is None else f"the connection is lost: {_describe(error)}")

    def end(self, reason: str) -> None:
        self._lost_because = self._lost_because or reason
        self._lost.set()
        for consumer in self._consumers:
            consumer.changed.set()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(0)

    @asynccontextmanager
    async def limit(self, timeout_s: float) -> AsyncIterator[None]:
        """A TimeoutError after that time or at the session's end: the library does not wake up all who wait."""
        async with asyncio.timeout(timeout_s) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    def check_open(self) -> None:
        if self._lost.is_set():
            raise TransportUnavailableError(self._lost_because)

    async def wait_lost(self) -> None:
        await self._lost.wait()

    @property
    def is_blocked(self) -> bool:
        oldest = next(iter(self._in_flight.values()), None)
        return oldest is not None and asyncio.get_running_loop().time() - oldest > BLOCKED_AFTER_S

    async def declare(self, topology: Topology) -> None:
        """Declare shared queues without arguments; one that somebody made with other ones is taken as it is."""
        as_it_is: set[str] = set()
        while (differs := await self._declare(topology, as_it_is)) is not None:
            log.warning("queue has other properties than ours", extra={"queue": differs})
            as_it_is.add(differs)

    async def _declare(self, topology: Topology, as_it_is: set[str]) -> str | None:
        """Declare all of it, or return the name of the shared queue that is there with other properties."""
        name = None
        try:
            async with self._operation("cannot declare") as channel:
                for exchange in topology.exchanges:
                    await channel.exchange_declare(exchange, exchange_type="topic", durable=True)
                for queue in topology.queues:
                    name = None if queue.exclusive or queue.name in as_it_is else queue.name
                    await channel.queue_declare(
                        queue.name,
                        passive=queue.name in as_it_is,
                        durable=queue.durable,
                        exclusive=queue.exclusive,
                        arguments=_limits(queue) if queue.exclusive else None,
                    )
                name = None
                for binding in topology.bindings:
                    await channel.queue_bind(binding.queue, binding.exchange, binding.routing_key)
        except TransportUnavailableError as error:
            if name is None or not isinstance(error.__cause__, ChannelPreconditionFailed):
                raise
        return name

    async def bind(self, binding: Binding) -> None:
        async with self._operation("cannot bind") as channel:
            await channel.queue_bind(binding.queue, binding.exchange, binding.routing_key)

    async def unbind(self, binding: Binding) -> None:
        async with self._operation("cannot unbind") as channel:
            await channel.queue_unbind(binding.queue, binding.exchange, binding.routing_key)

    async def queue_exists(self, name: str) -> bool:
        try:
            async with self._operation("cannot look for a queue") as channel:
                await channel.queue_declare(name, passive=True)
        except TransportUnavailableError as error:
            if isinstance(error.__cause__, ChannelNotFoundEntity):
                return False
            if not isinstance(error.__cause__, ChannelLockedResource):  # somebody's exclusive queue: it exists
                raise
        return True

    @asynccontextmanager
    async def _operation(self, what: str) -> AsyncIterator[AbstractChannel]:
        """A channel to throw away: the broker closes it at each refusal."""
        self.check_open()
        with _lost_means_unavailable(what):
            async with (
                self.limit(OPERATION_TIMEOUT_S),
                self._connection.channel(publisher_confirms=False) as channel,
            ):
                yield await channel.get_underlay_channel()

    async def publish(self, message: Message, *, timeout_s: float = PUBLISH_TIMEOUT_S) -> PublishOutcome:
        number = next(self._counter)
        try:
            async with self.limit(timeout_s), self._window:
                if self._publisher.is_closed:  # a moment before we are told
                    self.end("the connection is lost")
                self.check_open()
                self._in_flight[number] = asyncio.get_running_loop().time()
                return await self._publish(message, self._properties(message, number))
        except _LOST as error:  # a nack too: a queue refused, others may have taken it
            if number in self._in_flight:
                raise PublishUnconfirmedError(self._lost_because or _describe(error)) from error
            raise TransportUnavailableError(self._lost_because or "the broker takes nothing for now") from error
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            raise PublishUnconfirmedError("the connection was lost") from error
        finally:
            self._in_flight.pop(number, None)

    async def _publish(self, message: Message, properties: Basic.Properties) -> PublishOutcome:
        answer = await self._publisher.basic_publish(
            message.body,
            exchange=message.exchange,
            routing_key=message.routing_key,
            mandatory=True,
            wait=False,  # type: ignore[call-arg]  # the confirm is waited for, not the socket's drain
            properties=properties,
        )
        return Unroutable() if isinstance(answer, DeliveredMessage) else Confirmed()

    def _properties(self, message: Message, number: int) -> Basic.Properties:
        return Basic.Properties(
            delivery_mode=2 if message.persistent else 1,
            content_type="application/json",
            # One of its own for each publish: with equal ones in flight, returns are attributed wrongly.
            message_id=f"{self._id}:{number}",
            correlation_id=message.correlation_id,
            expiration=None if message.expiration_s is None else str(max(0, int(message.expiration_s * 1000))),
            headers=dict(message.headers),
            user_id=self._user,  # checked by the broker, so free evidence for whoever receives it
        )

    def consume(self, queue: str, *, prefetch: int) -> AsyncIterator[Sequence["_Delivery"]]:
        consumer = _Consumer(self, queue, prefetch)
        self._consumers.append(consumer)
        return consumer

    async def close(self) -> None:
        """End each consumer's channel: the broker's answer tells that the last acknowledgements have arrived."""
        self.end("the session has ended")
        for consumer in self._consumers:
            await consumer.close()


class _Consumer:
    """One consumer on a channel of its own, so that one acknowledgement can settle many deliveries."""

    def __init__(self, session: _Session, queue: str, prefetch: int) -> None:
        self.changed = asyncio.Event()
        self._session = session
        self._queue = queue
        self._prefetch = prefetch
        self._channel: AbstractChannel | None = None
        self._waiting: deque[_Delivery] = deque()
        self._unsettled: dict[int, None] = {}  # delivery tags in their order
        self._acked: dict[int, None] = {}  # of these, what is still to be told to the broker
        self._rejected: dict[int, None] = {}
        self._flushing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._settling: asyncio.Future[None] | None = None  # kept, or it could be collected while it runs

    def __aiter__(self) -> "_Consumer":
        return self

    async def __anext__(self) -> "Sequence[_Delivery]":
        if self._channel is None:
            self._channel = await self._start()
        while True:
            self.changed.clear()
            self._session.check_open()
            await self.flush()
            if self._waiting:
                return [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            await self.changed.wait()

    async def _start(self) -> AbstractChannel:
        channel = await self._session.open_channel()
        with _lost_means_unavailable(f"cannot consume from {self._queue}"):
            async with self._session.limit(OPERATION_TIMEOUT_S):
                channel.on_consumer_cancel_callbacks.add(self._on_cancel)
                await channel.basic_qos(prefetch_count=self._prefetch)
                await channel.basic_consume(self._queue, self._receive)
        return channel

    def _on_cancel(self, _: Basic.Cancel) -> None:
        self._session.end(f"queue {self._queue} is gone")

    async def _receive(self, message: DeliveredMessage) -> None:
        """Only keep it: callbacks are cancelled when their channel closes."""
        delivery = _Delivery(self, message)
        self._waiting.append(delivery)
        self._unsettled[delivery.tag] = None
        self.changed.set()

    def ack(self, tag: int) -> None:
        if tag in self._unsettled and tag not in self._rejected:
            self._acked[tag] = None
            self._settle_soon()

    def reject(self, tag: int) -> None:
        if tag in self._unsettled and tag not in self._acked:
            self._rejected[tag] = None
            self._settle_soon()

    def _settle_soon(self) -> None:
        """Wake up the reader, who flushes; where it does not wait for more, do it after a moment."""
        self.changed.set()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_AFTER_S, self._settle_alone)

    def _settle_alone(self) -> None:
        self._timer = None
        self._settling = asyncio.ensure_future(self.flush())

    async def flush(self) -> None:
        """Tell the broker what was settled. Where that fails the session is lost, and they come again."""
        async with self._flushing:
            if self._channel is not None and (self._acked or self._rejected):
                with contextlib.suppress(TransportUnavailableError), _lost_means_unavailable("cannot acknowledge"):
                    async with asyncio.timeout(OPERATION_TIMEOUT_S):
                        await self._settle(self._channel)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self.flush()
        if self._channel is not None:
            with contextlib.suppress(TransportUnavailableError), _lost_means_unavailable("cannot close"):
                async with asyncio.timeout(OPERATION_TIMEOUT_S):
                    await self._channel.close()

    async def _settle(self, channel: AbstractChannel) -> None:
        """One acknowledgement for all from the oldest on, and one for each that has an unsettled one before it.

        Acknowledging a tag twice would close the channel, so each is forgotten as soon as it is sent, and not before.
        """
        for tag in list(self._rejected):
            await channel.basic_reject(tag, requeue=False, wait=False)
            del self._unsettled[tag], self._rejected[tag]
        oldest = list(itertools.takewhile(self._acked.__contains__, self._unsettled))
        if oldest:
            await channel.basic_ack(oldest[-1], multiple=True, wait=False)
            for tag in oldest:
                del self._unsettled[tag], self._acked[tag]
        for tag in list(self._acked):
            await channel.basic_ack(tag, wait=False)
            del self._unsettled[tag], self._acked[tag]


class _Delivery:
    __slots__ = ("_consumer", "_message", "tag")

    def __init__(self, consumer: _Consumer, message: DeliveredMessage) -> None:
        self._consumer = consumer
        self._message = message
        self.tag = message.delivery_tag or 0

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def exchange(self) -> str:
        return self._message.exchange or ""

    @property
    def routing_key(self) -> str:
        return self._message.routing_key or ""

    @property
    def headers(self) -> Mapping[str, object]:
        return self._message.header.properties.headers or {}

    @property
    def user_id(self) -> str | None:
        return self._message.header.properties.user_id

    @property
    def redelivered(self) -> bool:
        return bool(self._message.redelivered)

    def ack(self) -> None:
        self._consumer.ack(self.tag)

    def reject(self) -> None:
        self._consumer.reject(self.tag)
