"""One suite for every implementation of the transport port."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from control_plane_wire.backoff import Backoff
from control_plane_wire.errors import PublishUnconfirmedError, TransportUnavailableError
from control_plane_wire.topology import Binding, Queue, Topology
from control_plane_wire.transport.base import Confirmed, Delivery, Message, Session, Transport, Unroutable, keep_session
from control_plane_wire.transport.inprocess import InProcessBroker
from control_plane_wire.transport.rabbitmq import RabbitTransport

WAIT_S = 10.0
EXCHANGE = "test_exchange"


def a_message(routing_key: str = "a.b", body: bytes = b"{}") -> Message:
    return Message(exchange=EXCHANGE, routing_key=routing_key, body=body)


def a_topology(queue: str = "work", *patterns: str, exclusive: bool = False) -> Topology:
    return Topology(
        exchanges=(EXCHANGE,),
        queues=(Queue(name=queue, durable=not exclusive, exclusive=exclusive),),
        bindings=tuple(Binding(queue=queue, exchange=EXCHANGE, routing_key=p) for p in patterns or ("a.#",)),
    )


class Reader:
    """Reads deliveries one by one from a consumer of batches; nothing is settled by reading."""

    def __init__(self, session: Session, queue: str, prefetch: int = 100) -> None:
        self.batches = session.consume(queue, prefetch=prefetch)
        self.waiting: list[Delivery] = []

    async def next(self) -> Delivery:
        async with asyncio.timeout(WAIT_S):
            while not self.waiting:
                self.waiting = list(await anext(self.batches))
        return self.waiting.pop(0)

    async def bodies(self, count: int) -> list[bytes]:
        found = []
        for _ in range(count):
            delivery = await self.next()
            delivery.ack()
            found.append(delivery.body)
        return found


class TransportContract:
    """Inherited for each implementation, which gives the fixture `transport`."""

    @pytest.fixture
    async def session(self, transport: Transport) -> AsyncIterator[Session]:
        async with transport.connect("test") as session:
            yield session

    async def test_a_routed_message_is_confirmed_and_arrives(self, session: Session) -> None:
        await session.declare(a_topology())

        outcome = await session.publish(a_message(body=b'{"n":1}'))

        assert outcome == Confirmed()
        delivery = await Reader(session, "work").next()
        assert (delivery.body, delivery.exchange, delivery.routing_key) == (b'{"n":1}', EXCHANGE, "a.b")
        assert not delivery.redelivered

    async def test_a_message_that_nobody_is_bound_for_comes_back(self, session: Session) -> None:
        await session.declare(a_topology())

        outcomes = await asyncio.gather(*(session.publish(a_message(key)) for key in ("a.b", "b.a", "a", "none")))

        assert outcomes == [Confirmed(), Unroutable(), Confirmed(), Unroutable()]

    @pytest.mark.parametrize(
        ("pattern", "key", "is_match"),
        [
            ("result.#", "result.node.web1.example.com", True),
            ("result.#", "result", True),
            ("result.*", "result.node", True),
            ("result.*", "result.node.web1", False),
            ("cmd.node.web1", "cmd.node.web1", True),
            ("cmd.node.web1", "cmd.node.web12", False),
            ("#.end", "a.b.end", True),
            ("a.*.c", "a.b.c", True),
            ("a.*.c", "a.c", False),
        ],
    )
    async def test_topic_patterns_match_words(self, session: Session, pattern: str, key: str, is_match: bool) -> None:
        await session.declare(a_topology("topic", pattern))

        assert await session.publish(a_message(key)) == (Confirmed() if is_match else Unroutable())

    async def test_the_default_exchange_routes_to_the_queue_of_that_name(self, session: Session) -> None:
        await session.declare(a_topology())

        assert await session.publish(Message(exchange="", routing_key="work", body=b"x")) == Confirmed()
        assert await session.publish(Message(exchange="", routing_key="nowhere", body=b"x")) == Unroutable()

    async def test_order_is_kept(self, session: Session) -> None:
        await session.declare(a_topology())
        bodies = [str(n).encode() for n in range(300)]

        for body in bodies:
            await session.publish(a_message(body=body))

        assert await Reader(session, "work").bodies(300) == bodies

    async def test_headers_arrive(self, session: Session) -> None:
        await session.declare(a_topology())

        await session.publish(Message(exchange=EXCHANGE, routing_key="a", body=b"x", headers={"reason": "why"}))

        assert (await Reader(session, "work").next()).headers["reason"] == "why"

    async def test_at_most_prefetch_messages_are_unsettled(self, session: Session) -> None:
        await session.declare(a_topology())
        for n in range(10):
            await session.publish(a_message(body=str(n).encode()))
        reader = Reader(session, "work", prefetch=3)
        held = [await reader.next() for _ in range(3)]

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await anext(reader.batches)

        assert [d.body for d in held] == [b"0", b"1", b"2"]
        for delivery in held:
            delivery.ack()
        assert await reader.bodies(7) == [str(n).encode() for n in range(3, 10)]

    async def test_acknowledging_makes_room_for_more(self, session: Session) -> None:
        await session.declare(a_topology())
        for n in range(50):
            await session.publish(a_message(body=str(n).encode()))

        assert len(await Reader(session, "work", prefetch=4).bodies(50)) == 50

    async def test_what_was_not_acknowledged_comes_again_and_the_rest_does_not(self, transport: Transport) -> None:
        async with transport.connect("first") as session:
            await session.declare(a_topology())
            for n in range(6):
                await session.publish(a_message(body=str(n).encode()))
            reader = Reader(session, "work")
            for n in range(6):
                delivery = await reader.next()
                if n not in {1, 4}:
                    delivery.ack()
        async with transport.connect("second") as session:
            reader = Reader(session, "work")
            first = await reader.next()
            assert first.redelivered
            bodies = {first.body}
            first.ack()
            await session.publish(a_message(body=b"last"))
            while b"last" not in bodies:
                delivery = await reader.next()
                bodies.add(delivery.body)
                delivery.ack()

        # An acknowledgement may be held back behind an unsettled one, never sent for one.
        assert {b"1", b"4"} <= bodies
        assert b"0" not in bodies

    async def test_an_exclusive_queue_dies_with_its_session_and_all_that_is_in_it(self, transport: Transport) -> None:
        async with transport.connect("watcher") as watcher:
            await watcher.declare(Topology(exchanges=(EXCHANGE,)))
            async with transport.connect("owner") as owner:
                await owner.declare(a_topology("mine", "mine", exclusive=True))
                assert await watcher.publish(a_message("mine")) == Confirmed()
                assert await watcher.queue_exists("mine")
            await eventually_not(lambda: watcher.queue_exists("mine"))
            assert await watcher.publish(a_message("mine")) == Unroutable()

    async def test_an_exclusive_queue_of_a_living_session_is_refused_to_others(self, transport: Transport) -> None:
        async with transport.connect("owner") as owner:
            await owner.declare(a_topology("mine", "mine", exclusive=True))
            async with transport.connect("thief") as thief:
                with pytest.raises(TransportUnavailableError):
                    await thief.declare(a_topology("mine", "mine", exclusive=True))
            assert await owner.publish(a_message("mine")) == Confirmed()

    async def test_a_binding_can_be_added_and_removed(self, session: Session) -> None:
        await session.declare(a_topology())
        binding = Binding(queue="work", exchange=EXCHANGE, routing_key="late")

        await session.bind(binding)
        assert await session.publish(a_message("late")) == Confirmed()
        await session.unbind(binding)
        assert await session.publish(a_message("late")) == Unroutable()

    async def test_declaring_again_changes_nothing(self, session: Session) -> None:
        await session.declare(a_topology())
        await session.publish(a_message(body=b"kept"))

        await session.declare(a_topology())

        assert await Reader(session, "work").bodies(1) == [b"kept"]

    async def test_a_session_that_has_ended_does_nothing_more(self, transport: Transport) -> None:
        async with transport.connect("short") as session:
            await session.declare(a_topology())
            await session.publish(a_message())
            delivery = await Reader(session, "work").next()

        delivery.ack()
        with pytest.raises((TransportUnavailableError, PublishUnconfirmedError)):
            await session.publish(a_message())
        with pytest.raises(TransportUnavailableError):
            await session.declare(a_topology())

    async def test_many_publishes_in_flight_are_each_answered_with_their_own_outcome(self, session: Session) -> None:
        await session.declare(a_topology())
        keys = ["a.b" if n % 3 else "nobody" for n in range(600)]

        outcomes = await asyncio.gather(*(session.publish(a_message(key)) for key in keys))

        assert outcomes == [Confirmed() if key == "a.b" else Unroutable() for key in keys]

    async def test_two_consumers_share_a_queue(self, transport: Transport) -> None:
        async with AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(transport.connect(f"c{n}")) for n in range(2)]
            await sessions[0].declare(a_topology())
            readers = [Reader(session, "work", prefetch=1) for session in sessions]
            pending = [asyncio.ensure_future(reader.next()) for reader in readers]
            await asyncio.sleep(0)
            await eventually_consuming(sessions[0], pending)
            bodies = {(await p).body for p in pending}

        assert len(bodies) == 2

    async def test_a_lost_session_is_opened_again_until_stopped(self, transport: Transport) -> None:
        stop = asyncio.Event()
        served = 0

        async def serve(session: Session) -> None:
            nonlocal served
            served += 1
            await session.declare(a_topology())
            if served < 3:
                raise TransportUnavailableError("lost")
            stop.set()

        async with asyncio.timeout(WAIT_S):
            await keep_session(transport, "kept", serve, stop=stop, backoff=Backoff(0.01, 0.05))

        assert served == 3


async def eventually_not(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while await check():
            await asyncio.sleep(0.02)


async def eventually_consuming(session: Session, pending: Sequence["asyncio.Future[Delivery]"]) -> None:
    """Publish until each reader has got one: when a consumer is registered is not to be seen from outside."""
    number = 0
    async with asyncio.timeout(WAIT_S):
        while not all(future.done() for future in pending):
            await session.publish(a_message(body=str(number).encode()))
            number += 1
            await asyncio.sleep(0.01)


class TestInProcess(TransportContract):
    @pytest.fixture
    def transport(self) -> Transport:
        return InProcessBroker().transport()

    async def test_a_cut_session_raises_in_its_consumer(self) -> None:
        broker = InProcessBroker()
        async with broker.transport().connect("cut") as session:
            await session.declare(a_topology())
            reader = Reader(session, "work")
            waiting = asyncio.ensure_future(reader.next())
            await asyncio.sleep(0)
            broker.cut("cut")
            with pytest.raises(TransportUnavailableError):
                await waiting


@pytest.mark.rabbitmq
class TestRabbitMQ(TransportContract):
    @pytest.fixture
    def transport(self, amqp_url: str) -> Transport:
        return RabbitTransport(amqp_url)

    async def test_a_broker_that_is_not_there_is_unavailable(self) -> None:
        with pytest.raises(TransportUnavailableError):
            async with RabbitTransport("amqp://127.0.0.1:1/").connect("nobody"):
                pass

    async def test_a_shared_queue_that_somebody_made_otherwise_is_taken_as_it_is(self, amqp_url: str) -> None:
        import aio_pika

        async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
            await channel.declare_queue("work", durable=True, arguments={"x-max-length": 10})
        async with RabbitTransport(amqp_url).connect("test") as session:
            await session.declare(a_topology())
            assert await session.publish(a_message()) == Confirmed()
