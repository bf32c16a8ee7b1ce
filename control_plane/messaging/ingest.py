"""Results and heartbeats: from the broker, verified, into the log; acknowledged when they are there, and not before.

A crash anywhere leaves a message unacknowledged or an event with its key: it comes again, and is a duplicate.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from control_plane.commands.authority import Authority
from control_plane.errors import StorageUnavailableError, UnstorableError
from control_plane.events import tasks
from control_plane.events.access import MessageRejected
from control_plane.events.envelope import Duplicate, NewEvent, Outcome
from control_plane.events.event import Event
from control_plane.events.hosts import HeartbeatReceived
from control_plane.events.log import EventLog
from control_plane.messaging.broker_accounts import is_account
from control_plane.messaging.dead_letters import DeadLetter
from control_plane.messaging.rubbish import Rubbish, Told
from control_plane.messaging.senders import UNKNOWN_HOST, signer_of, switches
from control_plane.observability import Count
from control_plane_wire import messages, signing, topology
from control_plane_wire.backoff import Backoff
from control_plane_wire.errors import MalformedMessageError, SignatureError, TransportUnavailableError
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.lifecycle import wait_for_any
from control_plane_wire.messages import Signed
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.transport.base import (
    MAX_BATCH,
    Confirmed,
    Delivery,
    Session,
    Transport,
    keep_session,
    until_stopped,
)

MOST_BYTES: Final = 512 * 1024  # recorded and acknowledged together, so that no commit takes long
INLINE: Final = 8  # verifications that are quicker done here than handed to a thread
INLINE_BYTES: Final = 64 * 1024  # of all of them: what is larger would hold up the loop
CHUNK: Final = 64
LATE_S: Final = 5.0  # less than an interval of heartbeats: what waits longer to be recorded is late
LOOK_S: Final = 0.25
RUBBISH_S: Final = 5.0  # how late the number of a minute may be recorded

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A decoded message, whose it is, and by which of its keys."""

    delivery: Delivery
    signed: Signed
    hostname: str
    public_key: bytes


class Stream(Protocol):
    """What differs between results and heartbeats."""

    name: str
    queue: str
    dead_queue: str
    tag: str
    max_bytes: int
    prefetch: int

    def sender(self, delivery: Delivery, signed: Signed) -> str:
        """The host that must have signed it. Raises MalformedMessageError."""
        ...

    async def events(self, received: Sequence[Received]) -> "list[NewEvent | DeadLetter | tasks.ExecutionUnexpected]":
        """What to record for each message, in order."""
        ...

    async def settle(
        self, received: Sequence[Received], events: Sequence[NewEvent], outcomes: Sequence[Outcome]
    ) -> None:
        """Look at what the log made of them."""
        ...


async def _nothing(over: asyncio.Event) -> None:
    return


class Ingest:
    """One stream's consumer, as a service; any number may compete for a queue.

    Args:
        meanwhile: done beside, from when a session consumes until the event is set or the session is lost; not while
            messages are recorded late, because there are too many or the database is slow or away.
    """

    def __init__(
        self,
        stream: Stream,
        transport: Transport,
        log: EventLog,
        authority: Authority,
        *,
        count: Count,
        meanwhile: Callable[[asyncio.Event], Coroutine[Any, Any, None]] = _nothing,
        failpoints: Failpoints = NO_FAILPOINTS,
    ) -> None:
        self.name = f"ingest {stream.name}"
        self._stream = stream
        self._transport = transport
        self._log = log
        self._authority = authority
        self._count = count
        self._meanwhile = meanwhile
        self._failpoints = failpoints
        self._rubbish = Rubbish()
        self._busy_since_s: float | None = None  # since when there was always something to record
        self.is_connected = False

    async def run(self, stop: asyncio.Event) -> None:
        async def serve(session: Session) -> None:
            await session.declare(topology.CONTROL_PLANE_TOPOLOGY)
            self.is_connected, over = True, asyncio.Event()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._while_in_time(over), name=f"meanwhile {self.name}")
                    group.create_task(self._tell_numbers(over), name=f"rubbish of {self.name}")
                    deliveries = session.consume(self._stream.queue, prefetch=self._stream.prefetch)
                    async for batch in until_stopped(deliveries, stop):
                        self._begin()
                        for part in parts_of(batch):
                            await self._take(session, part, stop)
                        self._end(batch)
                    over.set()
            finally:
                self.is_connected, self._busy_since_s = False, None

        backoff = Backoff(first_s=0.2, most_s=5.0)
        await keep_session(self._transport, f"control-plane {self.name}", serve, stop=stop, backoff=backoff)
        await self._tell_number_of(self._rubbish.rest())

    async def _tell_numbers(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await wait_for_any(over, timeout_s=RUBBISH_S)
            await self._tell_number_of(self._rubbish.due(asyncio.get_running_loop().time()))

    async def _tell_number_of(self, rubbish: Sequence[Told]) -> None:
        """Record how many there were. Where that fails it is due again later."""
        if not rubbish:
            return
        try:
            await self._log.append([told.to_new_event() for told in rubbish])
        except StorageUnavailableError:
            numbers = sum(told.count or 0 for told in rubbish)
            _logger.warning("rubbish is not recorded yet", extra={"stream": self._stream.name, "number": numbers})
            self._rubbish.put_back(rubbish)
        except asyncio.CancelledError:
            self._rubbish.put_back(rubbish)
            raise

    def _begin(self) -> None:
        if self._busy_since_s is None:
            self._busy_since_s = asyncio.get_running_loop().time()

    def _end(self, batch: Sequence[Delivery]) -> None:
        if len(batch) < min(MAX_BATCH, self._stream.prefetch):  # that was all there was
            self._busy_since_s = None

    @property
    def _is_late(self) -> bool:
        since_s = self._busy_since_s
        return since_s is not None and asyncio.get_running_loop().time() - since_s > LATE_S

    async def _while_in_time(self, over: asyncio.Event) -> None:
        """Do what is done beside, again and again: it ends while messages are recorded late, and when `over` is set."""
        while not over.is_set():
            ends = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._meanwhile(ends), name=f"meanwhile {self.name}")
                while not over.is_set() and not self._is_late:
                    await wait_for_any(over, timeout_s=LOOK_S)
                ends.set()
            while not over.is_set() and self._is_late:
                await wait_for_any(over, timeout_s=LOOK_S)

    async def _take(self, session: Session, batch: Sequence[Delivery], stop: asyncio.Event) -> None:
        """Record a batch, set aside what cannot be, then acknowledge; the same again while the database is away.

        Told to stop meanwhile, it leaves the batch unacknowledged: it comes again.
        """
        self._failpoints.hit("ingest.received")
        backoff = Backoff(first_s=0.1, most_s=5.0)
        while True:
            try:
                dead = await self._record(batch)
                break
            except StorageUnavailableError as error:
                _logger.warning("batch not recorded", extra={"stream": self._stream.name, "reason": str(error)})
                await wait_for_any(stop, timeout_s=backoff.next_s())
                if stop.is_set():
                    return
        for letter in dead:
            if await session.publish(letter.message(self._stream.dead_queue)) != Confirmed():
                raise TransportUnavailableError(
                    f"there is no queue {self._stream.dead_queue}"
                )  # a new session makes it
        if dead:
            self._failpoints.hit("ingest.dead_lettered")
        self._count(f"{self._stream.name}_received", len(batch))
        self._count(f"{self._stream.name}_dead", len(dead))
        for delivery in batch:
            delivery.ack()
        self._failpoints.hit("ingest.after_ack")

    async def _record(self, batch: Sequence[Delivery]) -> list[DeadLetter]:
        received, dead = await self._verified(batch)
        await self._switch(received)
        wanted = await self._stream.events(received)
        dead += [item for item in wanted if isinstance(item, DeadLetter)]
        forged = [letter for letter in dead if letter.is_forged]
        told: list[tuple[str, Told]] = [(_sender_of(letter.delivery), self._rejected(letter)) for letter in forged]
        unasked = [(r, e) for r, e in zip(received, wanted, strict=True) if isinstance(e, tasks.ExecutionUnexpected)]
        singly = self._rubbish.singly(told := told + [(r.hostname, event) for r, event in unasked])
        is_single = {id(event): single for (_, event), single in zip(told, singly, strict=True)}
        dead += [DeadLetter(delivery=r.delivery, reason=e.reason) for r, e in unasked if not is_single[id(e)]]
        pairs = [(r, e) for r, e in zip(received, wanted, strict=True) if isinstance(e, NewEvent)]
        pairs += [(r, event.to_new_event()) for r, event in unasked if is_single[id(event)]]
        if pairs:
            self._failpoints.hit("ingest.before_commit")
            dead += await self._append(pairs)
            self._failpoints.hit("ingest.after_commit")
        if rejected := [event.to_new_event() for _, event in told[: len(forged)] if is_single[id(event)]]:
            await self._log.append(rejected)
        for sender, event in told:  # only now: without the database all of it is done again
            self._rubbish.count(sender, event, asyncio.get_running_loop().time(), singly=is_single[id(event)])
        return dead

    async def _switch(self, received: Sequence[Received]) -> None:
        """Record which new keys have come into use, before what was signed with them: a repeat finds it done."""
        if due := switches(self._authority.fleet, [(r.hostname, r.public_key) for r in received]):
            await self._log.append([self._authority.signed(event, actor=self.name) for event in due])
            await self._authority.refresh()

    async def _append(self, pairs: list[tuple[Received, NewEvent]]) -> list[DeadLetter]:
        """Append, without the ones that the database will not have; those are dead letters."""
        dead: list[DeadLetter] = []
        while pairs:
            try:
                outcomes = await self._log.append([event for _, event in pairs])
            except UnstorableError as error:
                received, _ = pairs.pop(error.index)
                dead.append(DeadLetter(delivery=received.delivery, reason=error.detail))
                continue
            self._count("duplicates", sum(isinstance(outcome, Duplicate) for outcome in outcomes))
            await self._stream.settle([r for r, _ in pairs], [e for _, e in pairs], outcomes)
            break
        return dead

    async def _verified(self, batch: Sequence[Delivery]) -> tuple[list[Received], list[DeadLetter]]:
        """What is decoded and signed by whom it must be; many are verified on all cores."""
        position = self._authority.position
        found = await self._decoded(batch)
        doubtful = [item.delivery for item in found if _is_doubtful(item)]
        if doubtful and await self._authority.refresh() != position:
            again = iter(await self._decoded(doubtful))
            found = [next(again) if _is_doubtful(item) else item for item in found]
        received = [item for item in found if isinstance(item, Received)]
        return received, [item for item in found if isinstance(item, DeadLetter)]

    async def _decoded(self, batch: Sequence[Delivery]) -> list[Received | DeadLetter]:
        if len(batch) <= INLINE and sum(len(delivery.body) for delivery in batch) <= INLINE_BYTES:
            return self._decode_all(batch)
        chunks = [batch[start : start + CHUNK] for start in range(0, len(batch), CHUNK)]
        parts = await asyncio.gather(*(asyncio.to_thread(self._decode_all, chunk) for chunk in chunks))
        return [item for part in parts for item in part]

    def _decode_all(self, deliveries: Sequence[Delivery]) -> list[Received | DeadLetter]:
        return [self._decode(delivery) for delivery in deliveries]

    def _decode(self, delivery: Delivery) -> Received | DeadLetter:
        """Decode and verify one message; runs in a thread and touches nothing but what it is given."""
        stream = self._stream
        try:
            if "x-death" in delivery.headers:
                return DeadLetter(
                    delivery=delivery, reason="it was dead-lettered into this routing key", is_forged=True
                )
            signed = messages.decode(delivery.body, max_bytes=stream.max_bytes, tag=stream.tag)
            hostname = stream.sender(delivery, signed)
            public_key = signer_of(self._authority.fleet, hostname, delivery, signed, stream.tag)
        except MalformedMessageError as error:
            return DeadLetter(delivery=delivery, reason=error.reason)
        except SignatureError as error:
            return DeadLetter(delivery=delivery, reason=error.reason, is_forged=True)
        return Received(delivery=delivery, signed=signed, hostname=hostname, public_key=public_key)

    def _rejected(self, letter: DeadLetter) -> MessageRejected:
        return MessageRejected(
            message_sha256=hashlib.sha256(letter.delivery.body).hexdigest(),
            queue=self._stream.queue,
            routing_key=letter.delivery.routing_key[:200],
            reason=letter.reason,
        )


def _sender_of(delivery: Delivery) -> str:
    """Who it was that nobody has signed for: by the broker's account if that is one host's own, else all are one.

    A name in the routing key is the forger's choice: each would have a minute's events of its own.
    """
    user = delivery.user_id or ""
    return user if is_account(user) else ""


def parts_of(batch: Sequence[Delivery]) -> Iterator[Sequence[Delivery]]:
    """The batch in its order, in parts of at most `MOST_BYTES`; what is larger goes alone."""
    start = size = 0
    for end, delivery in enumerate(batch):
        size += len(delivery.body)
        if size > MOST_BYTES and end > start:
            yield batch[start:end]
            start, size = end, len(delivery.body)
    if batch:
        yield batch[start:]


def _is_doubtful(item: Received | DeadLetter) -> bool:
    """Whether a later look at who is who may tell otherwise: another process may have registered the host just now."""
    return isinstance(item, DeadLetter) and (item.is_forged or item.reason.startswith(UNKNOWN_HOST))


def unsigned(signed: Signed) -> JsonObject:
    """The message as it was signed: its body decoded."""
    return {name: value for name, value in signed.message.items() if name != "signature"}


def vouched(event: Event, received: Received) -> NewEvent:
    """An event that the host's own signature vouches for."""
    timestamp = received.signed.message.get("timestamp")
    return event.to_new_event(
        actor=received.hostname,
        occurred_us=timestamp * 1_000_000 if isinstance(timestamp, int) else None,
        signature=received.signed.signature,
        key_id=signing.key_id(received.public_key),
    )


class Heartbeats:
    """Every heartbeat is an event; whether it counts is for the fold to say."""

    name = "heartbeats"
    queue = topology.HEARTBEAT_QUEUE
    dead_queue = topology.HEARTBEAT_DEAD_QUEUE
    tag = signing.HEARTBEAT
    max_bytes = messages.MAX_HEARTBEAT_BYTES
    prefetch = 2000

    def sender(self, delivery: Delivery, signed: Signed) -> str:
        return messages.parse_heartbeat(signed.message).hostname

    async def events(self, received: Sequence[Received]) -> list[NewEvent | DeadLetter | tasks.ExecutionUnexpected]:
        return [vouched(HeartbeatReceived(message=unsigned(r.signed)), r) for r in received]

    async def settle(
        self, received: Sequence[Received], events: Sequence[NewEvent], outcomes: Sequence[Outcome]
    ) -> None:
        return
