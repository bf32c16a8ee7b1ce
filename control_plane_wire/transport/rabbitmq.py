"""RabbitMQ by aio-pika; the only module that knows it.

A plain connection, not a robust one: what a robust connection restores on its own it also hides (lost return callbacks,
endless declare loops, acknowledgements on dead channels). A session that is lost ends, and its owner starts over.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelClosed, ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic

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

CONNECT_TIMEOUT_S: Final = 10.0
OPERATION_TIMEOUT_S: Final = 10.0
MAX_IN_FLIGHT: Final = 500  # larger windows get slower: each multiple confirm walks all that are outstanding
BLOCKED_AFTER_S: Final = 3.0  # an unconfirmed publish this old means that the broker takes none

# What aio-pika raises when the connection or a channel is gone; ChannelInvalidStateError is a RuntimeError.
_LOST = (AMQPError, OSError, RuntimeError, TimeoutError)


class RabbitTransport:
    """Sessions on one broker.

    Args:
        url: amqp://user:password@host:port/virtual-host
        heartbeat_s: a silent connection is noticed after two to three of these, by either side.
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
            with _lost_means_unavailable("cannot open a channel"):
                session = await _Session.open(connection)
            try:
                yield session
            finally:
                await session.flush()
        finally:
            with contextlib.suppress(*_LOST):
                async with asyncio.timeout(OPERATION_TIMEOUT_S):
                    await connection.close()


class _lost_means_unavailable(contextlib.AbstractContextManager[None]):  # noqa: N801 - used like a function
    """Turns every way in which aio-pika says "gone" into TransportUnavailableError.

    One of them is a CancelledError although nobody cancelled this task.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, _LOST) or (isinstance(error, asyncio.CancelledError) and not _is_cancelled()):
            raise TransportUnavailableError(f"{self._what}: {type(error).__name__} {error}".rstrip()) from error


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Session:
    def __init__(self, connection: AbstractConnection, publisher: AbstractChannel) -> None:
        self._connection = connection
        self._publisher = publisher
        self._lost = asyncio.Event()
        self._consumers: list[_Consumer] = []
        self._window = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._in_flight: dict[int, float] = {}
        self._counter = itertools.count()
        self._id = uuid4().hex

    @classmethod
    async def open(cls, connection: AbstractConnection) -> "_Session":
        """Publishing has a channel to itself, and so has each consumer: a refusal on one leaves the others alone."""
        channel = connection.channel(publisher_confirms=True)
        await channel.initialize(timeout=OPERATION_TIMEOUT_S)
        session = cls(connection, await channel.get_underlay_channel())
        connection.close_callbacks.add(session._on_close)
        channel.close_callbacks.add(session._on_close)
        return session

    def _on_close(self, *_: object) -> None:
        self._lost.set()
        for consumer in self._consumers:
            consumer.changed.set()

    def _check_open(self) -> None:
        if self._lost.is_set():
            raise TransportUnavailableError("the connection is lost")

    @property
    def is_blocked(self) -> bool:
        oldest = next(iter(self._in_flight.values()), None)
        return oldest is not None and asyncio.get_running_loop().time() - oldest > BLOCKED_AFTER_S

    async def declare(self, topology: Topology) -> None:
        async with self._operation("cannot declare") as channel:
            for exchange in topology.exchanges:
                await channel.exchange_declare(
                    exchange, exchange_type="topic", durable=True, timeout=OPERATION_TIMEOUT_S
                )
        for queue in topology.queues:
            await self._declare_queue(queue)
        async with self._operation("cannot bind") as channel:
            for binding in topology.bindings:
                await _bind(channel, binding)

    async def _declare_queue(self, queue: Queue) -> None:
        """Declare without arguments; a shared queue that somebody made with other ones is taken as it is."""
        try:
            async with self._operation(f"cannot declare queue {queue.name}") as channel:
                await channel.queue_declare(
                    queue.name, durable=queue.durable, exclusive=queue.exclusive, timeout=OPERATION_TIMEOUT_S
                )
        except TransportUnavailableError as error:
            differs = isinstance(error.__cause__, ChannelPreconditionFailed)
            if not differs or queue.exclusive or not await self.queue_exists(queue.name):
                raise

    async def bind(self, binding: Binding) -> None:
        async with self._operation("cannot bind") as channel:
            await _bind(channel, binding)

    async def unbind(self, binding: Binding) -> None:
        async with self._operation("cannot unbind") as channel, asyncio.timeout(OPERATION_TIMEOUT_S):
            await channel.queue_unbind(binding.queue, binding.exchange, binding.routing_key)

    @asynccontextmanager
    async def _operation(self, what: str) -> AsyncIterator[AbstractChannel]:
        """A channel to throw away: the broker closes it at each refusal."""
        self._check_open()
        with _lost_means_unavailable(what):
            async with self._connection.channel(publisher_confirms=False) as channel:
                yield await channel.get_underlay_channel()

    async def queue_exists(self, name: str) -> bool:
        try:
            async with self._operation("cannot look for a queue") as channel:
                await channel.queue_declare(name, passive=True, timeout=OPERATION_TIMEOUT_S)
        except TransportUnavailableError as error:
            if isinstance(error.__cause__, ChannelNotFoundEntity):
                return False
            if not isinstance(error.__cause__, ChannelClosed):
                raise  # else it is exclusive to somebody: it exists
        return True

    async def publish(self, message: Message, *, timeout_s: float = PUBLISH_TIMEOUT_S) -> PublishOutcome:
        self._check_open()
        number = next(self._counter)
        async with self._window:
            self._check_open()
            self._in_flight[number] = asyncio.get_running_loop().time()
            try:
                answer = await self._publisher.basic_publish(
                    message.body,
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                    mandatory=True,
                    wait=False,  # type: ignore[call-arg]  # the confirm is waited for, not the socket's drain
                    timeout=timeout_s,
                    properties=self._properties(message, number),
                )
            except _LOST as error:  # a nack too: a queue refused, others may have taken it
                raise PublishUnconfirmedError(f"{type(error).__name__} {error}".rstrip()) from error
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise
                raise PublishUnconfirmedError("the connection was lost") from error
            finally:
                del self._in_flight[number]
        return Unroutable() if isinstance(answer, DeliveredMessage) else Confirmed()

    def _properties(self, message: Message, number: int) -> Basic.Properties:
        """A message_id of its own for each publish: with equal ones in flight, returns are attributed wrongly."""
        return Basic.Properties(
            delivery_mode=2 if message.persistent else 1,
            content_type="application/json",
            message_id=f"{self._id}:{number}",
            correlation_id=message.correlation_id,
            expiration=None if message.expiration_s is None else str(max(0, int(message.expiration_s * 1000))),
            headers=dict(message.headers),
        )

    async def consume(self, queue: str, *, prefetch: int) -> AsyncIterator[Sequence["_Delivery"]]:
        self._check_open()
        consumer = _Consumer()
        with _lost_means_unavailable("cannot consume"):
            channel = self._connection.channel(publisher_confirms=False)
            await channel.initialize(timeout=OPERATION_TIMEOUT_S)
            channel.close_callbacks.add(self._on_close)
            await channel.set_qos(prefetch_count=prefetch, timeout=OPERATION_TIMEOUT_S)
            consumer.channel = await channel.get_underlay_channel()
            await consumer.channel.basic_consume(queue, consumer.receive, timeout=OPERATION_TIMEOUT_S)
        self._consumers.append(consumer)
        try:
            while True:
                await consumer.changed.wait()
                self._check_open()
                await consumer.flush()
                if batch := consumer.take():
                    yield batch
        finally:
            self._consumers.remove(consumer)
            await consumer.flush()
            channel.close_callbacks.remove(self._on_close)
            with contextlib.suppress(*_LOST):  # what was not settled goes back to the queue
                await channel.close()

    async def flush(self) -> None:
        """Send the acknowledgements that are still to be sent, before the connection is closed."""
        for consumer in self._consumers:
            await consumer.flush()


class _Consumer:
    """One consumer on a channel of its own, so that one acknowledgement can settle many deliveries."""

    def __init__(self) -> None:
        self.channel: AbstractChannel | None = None
        self.changed = asyncio.Event()
        self._waiting: deque[_Delivery] = deque()
        self._unsettled: deque[int] = deque()
        self._acked: set[int] = set()
        self._rejected: list[int] = []

    async def receive(self, message: DeliveredMessage) -> None:
        """Only keep it: callbacks are cancelled when their channel closes."""
        delivery = _Delivery(self, message)
        self._waiting.append(delivery)
        self._unsettled.append(delivery.tag)
        self.changed.set()

    def take(self) -> "list[_Delivery]":
        taken = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
        if self._waiting:
            self.changed.set()
        return taken

    def ack(self, tag: int) -> None:
        self._acked.add(tag)
        self.changed.set()

    def reject(self, tag: int) -> None:
        self._rejected.append(tag)
        self.ack(tag)

    async def flush(self) -> None:
        """Settle everything up to the first delivery that is not settled yet by one multiple acknowledgement."""
        self.changed.clear()
        if self._waiting:
            self.changed.set()
        if self.channel is None or self.channel.is_closed:
            return
        rejected, self._rejected = self._rejected, []
        highest = None
        while self._unsettled and self._unsettled[0] in self._acked:
            tag = self._unsettled.popleft()
            self._acked.discard(tag)
            highest = highest if tag in rejected else tag
        with contextlib.suppress(*_LOST):  # the broker sends them again
            for tag in rejected:
                await self.channel.basic_reject(tag, requeue=False, wait=False)
            if highest is not None:
                await self.channel.basic_ack(highest, multiple=True, wait=False)


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


async def _bind(channel: AbstractChannel, binding: Binding) -> None:
    await channel.queue_bind(binding.queue, binding.exchange, binding.routing_key, timeout=OPERATION_TIMEOUT_S)
