"""The transport of the embedded mode: a broker in this process, with the semantics that the product relies on.

Topic matching, acknowledgements, prefetch, redelivery, exclusive queues that die with their owner, returned messages.
Everything runs on one event loop, so there are no locks. Nothing outlives the process: what is unsettled when it ends
is sent again by whoever still has it (an agent's journal, the dispatch process), as with a real broker.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from control_plane_wire.errors import TransportUnavailableError
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


def matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Whether a topic pattern matches: `*` is one word, `#` any number of them."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(matches(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in {"*", words[0]} and matches(pattern[1:], words[1:])


@dataclass(slots=True)
class _Stored:
    message: Message
    redelivered: bool = False


@dataclass(slots=True)
class _Queue:
    name: str
    owner: "_Session | None"
    ready: deque[_Stored] = field(default_factory=deque)
    consumers: list["_Consumer"] = field(default_factory=list)

    def put(self, stored: _Stored) -> None:
        self.ready.append(stored)
        self.pump()

    def put_back(self, unsettled: Sequence[_Stored]) -> None:
        """Return what a consumer did not settle to the front, in its order."""
        for stored in reversed(unsettled):
            stored.redelivered = True
            self.ready.appendleft(stored)
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
        self._exchanges: set[str] = set()
        self._queues: dict[str, _Queue] = {}
        self._bindings: dict[str, dict[tuple[str, str], tuple[str, ...]]] = {}
        self._sessions: list[_Session] = []

    def transport(self) -> "InProcessTransport":
        return InProcessTransport(self)

    def cut(self, name: str | None = None) -> None:
        """Lose the connections of this name, or all of them, as a broken network does."""
        for session in [s for s in self._sessions if name in {None, s.name}]:
            self.close(session)

    def open(self, name: str) -> "_Session":
        session = _Session(self, name)
        self._sessions.append(session)
        return session

    def close(self, session: "_Session") -> None:
        if session not in self._sessions:
            return
        self._sessions.remove(session)
        session.end()
        for queue in [q for q in self._queues.values() if q.owner is session]:
            self._delete(queue)

    def declare(self, session: "_Session", topology: Topology) -> None:
        for exchange in topology.exchanges:
            self._exchanges.add(exchange)
            self._bindings.setdefault(exchange, {})
        for declared in topology.queues:
            self._declare_queue(session, declared)
        for binding in topology.bindings:
            self.bind(binding)

    def _declare_queue(self, session: "_Session", declared: Queue) -> None:
        existing = self._queues.get(declared.name)
        if existing is None:
            owner = session if declared.exclusive else None
            self._queues[declared.name] = _Queue(declared.name, owner)
        elif existing.owner not in {None, session}:
            raise TransportUnavailableError(f"queue {declared.name} is held by another session")

    def bind(self, binding: Binding) -> None:
        if binding.exchange not in self._exchanges or binding.queue not in self._queues:
            raise TransportUnavailableError(f"no exchange {binding.exchange} or no queue {binding.queue}")
        pattern = tuple(binding.routing_key.split("."))
        self._bindings[binding.exchange][binding.queue, binding.routing_key] = pattern

    def unbind(self, binding: Binding) -> None:
        self._bindings.get(binding.exchange, {}).pop((binding.queue, binding.routing_key), None)

    def has_queue(self, name: str) -> bool:
        return name in self._queues

    def publish(self, message: Message) -> PublishOutcome:
        queues = self._route(message)
        for queue in queues:
            queue.put(_Stored(message))
        return Confirmed() if queues else Unroutable()

    def _route(self, message: Message) -> list[_Queue]:
        if message.exchange == DEFAULT_EXCHANGE:
            queue = self._queues.get(message.routing_key)
            return [queue] if queue else []
        if message.exchange not in self._exchanges:
            raise TransportUnavailableError(f"no exchange {message.exchange}")
        words = message.routing_key.split(".")
        bindings = self._bindings[message.exchange].items()
        names = dict.fromkeys(queue for (queue, _), pattern in bindings if matches(pattern, words))
        return [self._queues[name] for name in names]

    def subscribe(self, session: "_Session", name: str, prefetch: int) -> "_Consumer":
        queue = self._queues.get(name)
        if queue is None or queue.owner not in {None, session}:
            raise TransportUnavailableError(f"no queue {name} for this session")
        consumer = _Consumer(queue, prefetch)
        queue.consumers.append(consumer)
        queue.pump()
        return consumer

    def _delete(self, queue: _Queue) -> None:
        del self._queues[queue.name]
        for bindings in self._bindings.values():
            for key in [key for key in bindings if key[0] == queue.name]:
                del bindings[key]


class _Consumer:
    """What one consumer was given: waiting to be yielded, and unsettled."""

    def __init__(self, queue: _Queue, prefetch: int) -> None:
        self._queue = queue
        self._prefetch = prefetch
        self._unsettled: dict[int, _Stored] = {}
        self._waiting: list[InProcessDelivery] = []
        self._next_tag = 0
        self._is_open = True
        self.changed = asyncio.Event()

    @property
    def has_room(self) -> bool:
        return len(self._unsettled) < self._prefetch

    def give(self, stored: _Stored) -> None:
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        self._unsettled[tag] = stored
        self._waiting.append(InProcessDelivery(stored, lambda: self.settle(tag)))
        self.changed.set()

    def settle(self, tag: int) -> None:
        if self._is_open and self._unsettled.pop(tag, None) is not None:
            self._queue.pump()

    def take(self) -> "list[InProcessDelivery]":
        taken, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        if not self._waiting:
            self.changed.clear()
        return taken

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._queue.consumers.remove(self)
            self._queue.put_back(list(self._unsettled.values()))
            self.changed.set()


class InProcessDelivery:
    __slots__ = ("_settle", "_stored")

    def __init__(self, stored: _Stored, settle: Callable[[], None]) -> None:
        self._stored = stored
        self._settle = settle

    @property
    def body(self) -> bytes:
        return self._stored.message.body

    @property
    def exchange(self) -> str:
        return self._stored.message.exchange

    @property
    def routing_key(self) -> str:
        return self._stored.message.routing_key

    @property
    def headers(self) -> Mapping[str, object]:
        return self._stored.message.headers

    @property
    def user_id(self) -> str | None:
        return None

    @property
    def redelivered(self) -> bool:
        return self._stored.redelivered

    def ack(self) -> None:
        self._settle()

    def reject(self) -> None:
        self._settle()


class _Session:
    def __init__(self, broker: InProcessBroker, name: str) -> None:
        self._broker = broker
        self.name = name
        self._is_open = True
        self._consumers: list[_Consumer] = []

    @property
    def is_blocked(self) -> bool:
        return False

    def end(self) -> None:
        self._is_open = False
        for consumer in self._consumers:
            consumer.close()

    def _check_open(self) -> None:
        if not self._is_open:
            raise TransportUnavailableError("the session has ended")

    async def declare(self, topology: Topology) -> None:
        self._check_open()
        self._broker.declare(self, topology)

    async def bind(self, binding: Binding) -> None:
        self._check_open()
        self._broker.bind(binding)

    async def unbind(self, binding: Binding) -> None:
        self._check_open()
        self._broker.unbind(binding)

    async def queue_exists(self, name: str) -> bool:
        self._check_open()
        return self._broker.has_queue(name)

    async def publish(self, message: Message, *, timeout_s: float = PUBLISH_TIMEOUT_S) -> PublishOutcome:
        self._check_open()
        await asyncio.sleep(0)  # as with a real broker, publishing lets the others run
        self._check_open()
        return self._broker.publish(message)

    async def consume(self, queue: str, *, prefetch: int) -> AsyncIterator[Sequence[InProcessDelivery]]:
        self._check_open()
        consumer = self._broker.subscribe(self, queue, prefetch)
        self._consumers.append(consumer)
        try:
            while True:
                await consumer.changed.wait()
                self._check_open()
                yield consumer.take()
        finally:
            consumer.close()
            self._consumers.remove(consumer)


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
