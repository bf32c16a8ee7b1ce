"""The transport of the embedded mode: a broker in this process, with the semantics that the product relies on.

Topic matching, acknowledgements, prefetch, redelivery, exclusive queues that die with their owner, returned messages.
Everything runs on one event loop, so there are no locks. Nothing outlives the process: what is unsettled when it ends
is sent again by whoever still has it (an agent's journal, the dispatch process), as with a real broker.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from control_plane_wire.errors import PublishUnconfirmedError, TransportUnavailableError
from control_plane_wire.topology import DEFAULT_EXCHANGE, Binding, Queue, Topology
from control_plane_wire.transport.base import (
    MAX_BATCH,
    PUBLISH_TIMEOUT_S,
    Confirmed,
    Message,
    PublishOutcome,
    Session,
    Unroutable,
)

MAX_READY: Final = 100_000  # in one queue; a full one refuses, and the publisher sends again


def matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Whether a topic pattern matches: `*` is one word, `#` any number of them."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(matches(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in {"*", words[0]} and matches(pattern[1:], words[1:])


class _Exchange:
    """Which queues a key goes to. Thousands of agents bind plain keys: these are looked up, only patterns are tried."""

    def __init__(self) -> None:
        self._plain: dict[str, dict[str, None]] = {}  # queues by key, in the order of binding
        self._patterns: dict[tuple[str, str], Sequence[str]] = {}

    def bind(self, queue: str, key: str) -> None:
        words = key.split(".")
        if {"*", "#"}.isdisjoint(words):
            self._plain.setdefault(key, {})[queue] = None
        else:
            self._patterns[queue, key] = words

    def unbind(self, queue: str, key: str) -> None:
        self._patterns.pop((queue, key), None)
        if queues := self._plain.get(key):
            queues.pop(queue, None)
            if not queues:
                del self._plain[key]

    def route(self, key: str) -> Iterable[str]:
        queues = dict(self._plain.get(key, {}))
        if self._patterns:
            words = key.split(".")
            queues |= dict.fromkeys(queue for (queue, _), pattern in self._patterns.items() if matches(pattern, words))
        return queues


@dataclass(slots=True, eq=False)
class _Stored:
    message: Message
    redelivered: bool = False


@dataclass(slots=True, eq=False)
class _Queue:
    name: str
    owner: "_Session | None"
    ready: deque[_Stored] = field(default_factory=deque)
    consumers: deque["_Consumer"] = field(default_factory=deque)
    bindings: set[Binding] = field(default_factory=set)
    most_messages: int | None = None
    most_bytes: int | None = None

    def put(self, stored: _Stored) -> None:
        self.ready.append(stored)
        self.pump()
        self._forget()

    def _forget(self) -> None:
        """Let go of the oldest of what waits, where a limit is passed."""
        while self.most_messages is not None and len(self.ready) > self.most_messages:
            self.ready.popleft()
        if self.most_bytes is not None:
            waiting_bytes = sum(len(stored.message.body) for stored in self.ready)
            while waiting_bytes > self.most_bytes:
                waiting_bytes -= len(self.ready.popleft().message.body)

    def put_back(self, unsettled: Iterable[_Stored]) -> None:
        """Return what a consumer did not settle to the front, in its order."""
        unsettled = list(unsettled)
        for stored in unsettled:
            stored.redelivered = True
        self.ready.extendleft(reversed(unsettled))
        self.pump()

    def pump(self) -> None:
        """Give what is ready to the consumers that have room, in turn."""
        while self.ready:
            consumer = next((c for c in self.consumers if c.has_room), None)
            if consumer is None:
                return
            self.consumers.remove(consumer)
            self.consumers.append(consumer)
            consumer.give(self.ready.popleft())


class InProcessBroker:
    """The state that all sessions of one process share."""

    def __init__(self) -> None:
        self._exchanges: dict[str, _Exchange] = {}
        self._queues: dict[str, _Queue] = {}
        self._sessions: dict[_Session, None] = {}

    def transport(self) -> "InProcessTransport":
        return InProcessTransport(self)

    def cut(self, name: str | None = None) -> None:
        """Lose the connections of this name, or all of them, as a broken network does."""
        for session in [s for s in self._sessions if name in {None, s.name}]:
            self.close(session)

    def open(self, name: str) -> "_Session":
        session = _Session(self, name)
        self._sessions[session] = None
        return session

    def close(self, session: "_Session") -> None:
        if session in self._sessions:
            del self._sessions[session]
            session.end()
            for queue in session.exclusive:
                self._delete(queue)

    def declare(self, session: "_Session", topology: Topology) -> None:
        for exchange in topology.exchanges:
            self._exchanges.setdefault(exchange, _Exchange())
        for declared in topology.queues:
            self._declare_queue(session, declared)
        for binding in topology.bindings:
            self.bind(session, binding)

    def _declare_queue(self, session: "_Session", declared: Queue) -> None:
        owner = session if declared.exclusive else None
        existing = self._queues.get(declared.name)
        if existing is None:
            created = self._queues[declared.name] = _Queue(
                declared.name, owner, most_messages=declared.most_messages, most_bytes=declared.most_bytes
            )
            if owner:
                owner.exclusive.append(created)
        elif existing.owner is not owner:
            raise TransportUnavailableError(f"queue {declared.name} is held by another session, or shared")

    def bind(self, session: "_Session", binding: Binding) -> None:
        queue, exchange = self._queue_of(session, binding.queue), self._exchange(binding.exchange)
        exchange.bind(queue.name, binding.routing_key)
        queue.bindings.add(binding)

    def unbind(self, session: "_Session", binding: Binding) -> None:
        queue, exchange = self._queue_of(session, binding.queue), self._exchange(binding.exchange)
        exchange.unbind(queue.name, binding.routing_key)
        queue.bindings.discard(binding)

    def has_queue(self, name: str) -> bool:
        return name in self._queues

    def publish(self, message: Message) -> PublishOutcome:
        queues = self._route(message)
        takers = [queue for queue in queues if len(queue.ready) < MAX_READY]
        for queue in takers:
            queue.put(_Stored(message))
        if len(takers) < len(queues):
            raise PublishUnconfirmedError("a queue is full")
        return Confirmed() if queues else Unroutable()

    def _route(self, message: Message) -> list[_Queue]:
        if message.exchange == DEFAULT_EXCHANGE:
            queue = self._queues.get(message.routing_key)
            return [queue] if queue else []
        return [self._queues[name] for name in self._exchange(message.exchange).route(message.routing_key)]

    def _exchange(self, name: str) -> _Exchange:
        exchange = self._exchanges.get(name)
        if exchange is None:
            raise TransportUnavailableError(f"no exchange {name}")
        return exchange

    def _queue_of(self, session: "_Session", name: str) -> _Queue:
        queue = self._queues.get(name)
        if queue is None or queue.owner not in {None, session}:
            raise TransportUnavailableError(f"no queue {name} for this session")
        return queue

    def subscribe(self, session: "_Session", name: str, consumer: "_Consumer") -> _Queue:
        queue = self._queue_of(session, name)
        queue.consumers.append(consumer)
        return queue

    def _delete(self, queue: _Queue) -> None:
        del self._queues[queue.name]
        for binding in queue.bindings:
            self._exchanges[binding.exchange].unbind(queue.name, binding.routing_key)


class _Consumer:
    """What one consumer was given: waiting to be yielded, and unsettled."""

    def __init__(self, session: "_Session", queue: str, prefetch: int) -> None:
        self._session = session
        self._name = queue
        self._prefetch = prefetch
        self._queue: _Queue | None = None
        self._unsettled: dict[int, _Stored] = {}
        self._waiting: deque[InProcessDelivery] = deque()
        self._tags = count()
        self._changed = asyncio.Event()

    def __aiter__(self) -> "_Consumer":
        return self

    async def __anext__(self) -> "Sequence[InProcessDelivery]":
        if self._queue is None:
            self._queue = self._session.subscribe(self._name, self)
            self._queue.pump()
        await self._changed.wait()
        self._session.check_open()
        batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
        if not self._waiting:
            self._changed.clear()
        return batch

    @property
    def has_room(self) -> bool:
        return len(self._unsettled) < self._prefetch

    def give(self, stored: _Stored) -> None:
        tag = next(self._tags)
        self._unsettled[tag] = stored
        self._waiting.append(InProcessDelivery(self, tag, stored))
        self._changed.set()

    def settle(self, tag: int) -> None:
        if self._unsettled.pop(tag, None) is not None and self._queue is not None:
            self._queue.pump()

    def close(self) -> None:
        unsettled, self._unsettled = self._unsettled, {}
        if self._queue is not None:
            self._queue.consumers.remove(self)
            self._queue.put_back(unsettled.values())
        self._changed.set()


class InProcessDelivery:
    __slots__ = ("_consumer", "_message", "_tag", "redelivered")

    def __init__(self, consumer: _Consumer, tag: int, stored: _Stored) -> None:
        self._consumer = consumer
        self._tag = tag
        self._message = stored.message
        self.redelivered = stored.redelivered

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def exchange(self) -> str:
        return self._message.exchange

    @property
    def routing_key(self) -> str:
        return self._message.routing_key

    @property
    def headers(self) -> Mapping[str, object]:
        return self._message.headers

    @property
    def user_id(self) -> str | None:
        return None

    def ack(self) -> None:
        self._consumer.settle(self._tag)

    def reject(self) -> None:
        self._consumer.settle(self._tag)


class _Session:
    def __init__(self, broker: InProcessBroker, name: str) -> None:
        self.name = name
        self.exclusive: list[_Queue] = []
        self._broker = broker
        self._ended = asyncio.Event()
        self._consumers: list[_Consumer] = []

    @property
    def is_blocked(self) -> bool:
        return False

    async def wait_lost(self) -> None:
        await self._ended.wait()

    def end(self) -> None:
        self._ended.set()
        for consumer in self._consumers:
            consumer.close()

    def check_open(self) -> None:
        if self._ended.is_set():
            raise TransportUnavailableError("the session has ended")

    async def declare(self, topology: Topology) -> None:
        self.check_open()
        self._broker.declare(self, topology)

    async def bind(self, binding: Binding) -> None:
        self.check_open()
        self._broker.bind(self, binding)

    async def unbind(self, binding: Binding) -> None:
        self.check_open()
        self._broker.unbind(self, binding)

    async def queue_exists(self, name: str) -> bool:
        self.check_open()
        return self._broker.has_queue(name)

    async def publish(self, message: Message, *, timeout_s: float = PUBLISH_TIMEOUT_S) -> PublishOutcome:
        self.check_open()
        await asyncio.sleep(0)  # as with a real broker, publishing lets the others run
        self.check_open()
        return self._broker.publish(message)

    def consume(self, queue: str, *, prefetch: int) -> AsyncIterator[Sequence[InProcessDelivery]]:
        return _Consumer(self, queue, prefetch)

    def subscribe(self, name: str, consumer: _Consumer) -> _Queue:
        self.check_open()
        self._consumers.append(consumer)
        return self._broker.subscribe(self, name, consumer)


class InProcessTransport:
    def __init__(self, broker: InProcessBroker) -> None:
        self._broker = broker

    @asynccontextmanager
    async def connect(self, name: str) -> AsyncIterator[Session]:
        session = self._broker.open(name)
        try:
            yield session
        finally:
            self._broker.close(session)
