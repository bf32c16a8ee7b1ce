"""One suite for every implementation of the transport port."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import aio_pika
import pytest

from control_plane_wire.backoff import Backoff
from control_plane_wire.errors import PublishUnconfirmedError, TransportUnavailableError
from control_plane_wire.topology import (
    COMMAND_ALL,
    COMMAND_EXCHANGE,
    CONTROL_PLANE_TOPOLOGY,
    Binding,
    Queue,
    Topology,
    agent_queue,
    agent_topology,
    command_key,
)
from control_plane_wire.transport import inprocess, rabbitmq
from control_plane_wire.transport.base import (
    MAX_BATCH,
    Confirmed,
    Delivery,
    Message,
    Session,
    Transport,
    Unroutable,
    keep_session,
    until_stopped,
)
from control_plane_wire.transport.inprocess import InProcessBroker
from control_plane_wire.transport.rabbitmq import RabbitTransport
from tests.support.link import Link

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


async def publish_numbers(session: Session, count: int) -> list[bytes]:
    bodies = [str(n).encode() for n in range(count)]
    assert await asyncio.gather(*(session.publish(a_message(body=b)) for b in bodies)) == [Confirmed()] * count
    return bodies


async def bodies_left(transport: Transport, queue: str = "work") -> list[bytes]:
    """What a new session finds in the queue."""
    async with transport.connect("afterwards") as session:
        reader = Reader(session, queue, prefetch=2000)
        await session.publish(Message(exchange="", routing_key=queue, body=b"last"))
        found = []
        while (delivery := await reader.next()).body != b"last":
            assert delivery.redelivered
            found.append(delivery.body)
        return found


class TransportContract:
    """Inherited for each implementation, which gives the fixtures `transport` and `cut`: lose every connection now."""

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

    async def test_a_read_that_is_cancelled_loses_nothing(self, session: Session) -> None:
        await session.declare(a_topology())
        reader = Reader(session, "work")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await anext(reader.batches)

        await session.publish(a_message(body=b"kept"))

        delivery = await reader.next()
        assert (delivery.body, delivery.redelivered) == (b"kept", False)

    async def test_what_arrived_meanwhile_comes_as_one_batch_of_bounded_size(self, session: Session) -> None:
        await session.declare(a_topology())
        bodies = await publish_numbers(session, 1200)
        consumer = session.consume("work", prefetch=2000)
        batches: list[Sequence[Delivery]] = []

        async with asyncio.timeout(WAIT_S):
            while sum(map(len, batches)) < 1200:
                batches.append(await anext(consumer))

        assert [delivery.body for batch in batches for delivery in batch] == bodies
        assert all(1 <= len(batch) <= MAX_BATCH for batch in batches)

    async def test_a_stopped_reader_ends_after_its_batch(self, session: Session) -> None:
        await session.declare(a_topology())
        await session.publish(a_message(body=b"first"))
        stop = asyncio.Event()
        seen = []

        async with asyncio.timeout(WAIT_S):
            async for batch in until_stopped(session.consume("work", prefetch=10), stop):
                stop.set()
                seen += [delivery.body for delivery in batch]

        assert seen == [b"first"]

    async def test_what_was_acknowledged_never_comes_again(self, transport: Transport) -> None:
        async with transport.connect("first") as session:
            await session.declare(a_topology())
            bodies = await publish_numbers(session, 700)
            assert await Reader(session, "work", prefetch=300).bodies(700) == bodies

        assert await bodies_left(transport) == []

    async def test_what_was_not_acknowledged_comes_again_in_order_and_the_rest_does_not(
        self, transport: Transport
    ) -> None:
        async with transport.connect("first") as session:
            await session.declare(a_topology())
            await publish_numbers(session, 8)
            reader = Reader(session, "work")
            held = [await reader.next() for _ in range(8)]
            for n in (6, 0, 3, 5, 2):
                held[n].ack()

        assert await bodies_left(transport) == [b"1", b"4", b"7"]

    async def test_acknowledgements_out_of_order_make_room_at_once(self, session: Session) -> None:
        await session.declare(a_topology())
        await publish_numbers(session, 30)
        reader = Reader(session, "work", prefetch=3)
        oldest = await reader.next()

        assert await reader.bodies(29) == [str(n).encode() for n in range(1, 30)]
        oldest.ack()

    async def test_an_acknowledgement_arrives_though_its_consumer_asks_for_nothing_more(
        self, transport: Transport
    ) -> None:
        async with transport.connect("busy") as busy, transport.connect("other") as other:
            await busy.declare(a_topology())
            await busy.publish(a_message(body=b"held"))
            held = await Reader(busy, "work", prefetch=1).next()
            found: list[int] = []
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(numbers_into(found, Reader(other, "work", prefetch=1)))
                held.ack()
                await eventually_one_is_missing(other, found)
                reading.cancel()

    async def test_a_delivery_is_settled_once_whatever_is_asked_again(self, transport: Transport) -> None:
        async with transport.connect("first") as session:
            await session.declare(a_topology())
            await publish_numbers(session, 4)
            reader = Reader(session, "work")
            held = [await reader.next() for _ in range(4)]
            held[1].reject()
            held[1].ack()
            await session.publish(a_message(body=b"another"))
            another = await reader.next()
            for delivery in (held[1], held[0], held[0], held[1], another):
                delivery.ack()
                delivery.reject()
            await session.publish(a_message(body=b"and one more"))
            assert (await reader.next()).body == b"and one more"

        assert await bodies_left(transport) == [b"2", b"3", b"and one more"]

    async def test_two_bindings_that_match_deliver_once_and_two_queues_get_one_each(self, session: Session) -> None:
        await session.declare(a_topology("one", "a.*", "a.#", "a.b"))
        await session.declare(a_topology("two", "a.b"))

        await session.publish(a_message("a.b", b"x"))
        await session.publish(a_message("a.b", b"y"))

        for queue in ("one", "two"):
            assert await Reader(session, queue).bodies(2) == [b"x", b"y"]

    async def test_a_lost_connection_tells_everybody_who_waits(
        self, transport: Transport, cut: Callable[[], None]
    ) -> None:
        async with transport.connect("cut") as session:
            await session.declare(a_topology())
            lost = asyncio.ensure_future(session.wait_lost())
            waiting = asyncio.ensure_future(Reader(session, "work").next())
            await asyncio.sleep(0.05)
            cut()

            async with asyncio.timeout(WAIT_S):
                with pytest.raises(TransportUnavailableError):
                    await waiting
                await lost
            with pytest.raises(TransportUnavailableError):
                await session.publish(a_message())
            with pytest.raises(TransportUnavailableError):
                await session.declare(a_topology())
            with pytest.raises(TransportUnavailableError):
                await anext(session.consume("work", prefetch=1))

    async def test_what_a_lost_connection_held_comes_again_and_its_late_acknowledgement_does_nothing(
        self, transport: Transport, cut: Callable[[], None]
    ) -> None:
        async with transport.connect("cut") as session:
            await session.declare(a_topology())
            await publish_numbers(session, 3)
            reader = Reader(session, "work")
            held = [await reader.next() for _ in range(3)]
            cut()
            async with asyncio.timeout(WAIT_S):
                await session.wait_lost()
            for delivery in held:
                delivery.ack()

        assert await bodies_left(transport) == [b"0", b"1", b"2"]

    async def test_the_exclusive_queue_of_a_lost_connection_can_be_had_again(
        self, transport: Transport, cut: Callable[[], None]
    ) -> None:
        topology = a_topology("mine", "mine", exclusive=True)
        stop = asyncio.Event()

        async def serve(session: Session) -> None:
            await session.declare(topology)
            assert await session.publish(a_message("mine")) == Confirmed()
            stop.set()

        async with transport.connect("cut") as session:
            await session.declare(topology)
            await session.publish(a_message("mine", b"gone with the queue"))
            cut()
        async with asyncio.timeout(WAIT_S):
            await keep_session(transport, "again", serve, stop=stop, backoff=Backoff(0.02, 0.1))

        assert stop.is_set()

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
        binding = Binding(queue="mine", exchange=EXCHANGE, routing_key="theirs")
        async with transport.connect("owner") as owner, transport.connect("thief") as thief:
            await owner.declare(a_topology("mine", "mine", exclusive=True))

            for attempt in (
                thief.declare(a_topology("mine", "mine", exclusive=True)),
                thief.declare(Topology(queues=(Queue(name="mine"),))),
                thief.bind(binding),
                thief.unbind(Binding(queue="mine", exchange=EXCHANGE, routing_key="mine")),
            ):
                with pytest.raises(TransportUnavailableError):
                    await attempt

            assert await thief.queue_exists("mine")
            assert await owner.publish(a_message("mine")) == Confirmed()
            assert await owner.publish(a_message("theirs")) == Unroutable()
            with pytest.raises(TransportUnavailableError):
                await anext(thief.consume("mine", prefetch=1))

    async def test_a_queue_that_others_can_read_is_refused_as_an_exclusive_one(self, transport: Transport) -> None:
        async with transport.connect("squatter") as squatter, transport.connect("owner") as owner:
            await squatter.declare(
                Topology(exchanges=(EXCHANGE,), queues=(Queue(name="mine", durable=False, exclusive=False),))
            )

            with pytest.raises(TransportUnavailableError):
                await owner.declare(a_topology("mine", "mine", exclusive=True))

    async def test_what_is_not_there_is_unavailable(self, transport: Transport) -> None:
        async with transport.connect("test") as session:
            await session.declare(a_topology())
            assert not await session.queue_exists("nothing")
            for binding in (
                Binding(queue="nothing", exchange=EXCHANGE, routing_key="a"),
                Binding(queue="work", exchange="nothing", routing_key="a"),
            ):
                with pytest.raises(TransportUnavailableError):
                    await session.bind(binding)
            assert await session.publish(a_message()) == Confirmed()  # a refusal leaves the session alone
        async with transport.connect("consumer") as session:
            with pytest.raises(TransportUnavailableError):
                await anext(session.consume("nothing", prefetch=1))
        async with transport.connect("publisher") as session:
            with pytest.raises((TransportUnavailableError, PublishUnconfirmedError)):
                await session.publish(Message(exchange="nothing", routing_key="a", body=b"x"))

    @pytest.mark.parametrize("limits", [{"most_messages": 3}, {"most_bytes": 30}])
    async def test_a_queue_with_limits_keeps_the_newest(self, session: Session, limits: dict[str, int]) -> None:
        queue = Queue(name="mine", durable=False, exclusive=True, **limits)
        await session.declare(
            Topology(
                exchanges=(EXCHANGE,),
                queues=(queue,),
                bindings=(Binding(queue="mine", exchange=EXCHANGE, routing_key="a"),),
            )
        )

        outcomes = [await session.publish(a_message("a", b"%010d" % number)) for number in range(8)]

        assert outcomes == [Confirmed()] * 8
        reader = Reader(session, "mine")
        assert await reader.bodies(3) == [b"%010d" % number for number in (5, 6, 7)]
        await session.publish(a_message("a", b"and on"))
        assert await reader.bodies(1) == [b"and on"]

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

    async def test_hundreds_of_agents_are_reached_one_by_one_and_all_at_once(self, transport: Transport) -> None:
        hosts = [f"web{n}.example.com" for n in range(100)]
        async with AsyncExitStack() as stack:
            plane = await stack.enter_async_context(transport.connect("control plane"))
            await plane.declare(CONTROL_PLANE_TOPOLOGY)
            readers = []
            for host in hosts:
                session = await stack.enter_async_context(transport.connect(host))
                await session.declare(agent_topology(host, ["web"]))
                readers.append(Reader(session, agent_queue(host), prefetch=16))

            def command(key: str) -> Message:
                return Message(exchange=COMMAND_EXCHANGE, routing_key=key, body=key.encode())

            outcomes = await asyncio.gather(*(plane.publish(command(command_key(host))) for host in hosts))
            assert outcomes == [Confirmed()] * len(hosts)
            assert await plane.publish(command("cmd.group.web")) == Confirmed()
            assert await plane.publish(command(COMMAND_ALL)) == Confirmed()
            assert await plane.publish(command("cmd.group.db")) == Unroutable()

            for host, reader in zip(hosts, readers, strict=True):
                assert await reader.bodies(3) == [command_key(host).encode(), b"cmd.group.web", b"cmd.all"]


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


async def numbers_into(found: list[int], reader: Reader) -> None:
    while True:
        delivery = await reader.next()
        found.append(int(delivery.body))
        delivery.ack()


async def eventually_one_is_missing(session: Session, found: Sequence[int]) -> None:
    """Publish numbers until one goes to somebody else: who has room is not to be seen from outside."""
    number = 0
    async with asyncio.timeout(WAIT_S):
        while list(found) == list(range(len(found))):
            await session.publish(a_message(body=str(number).encode()))
            number += 1
            await asyncio.sleep(0.01)


class TestInProcess(TransportContract):
    @pytest.fixture
    def broker(self) -> InProcessBroker:
        return InProcessBroker()

    @pytest.fixture
    def transport(self, broker: InProcessBroker) -> Transport:
        return broker.transport()

    @pytest.fixture
    def cut(self, broker: InProcessBroker) -> Callable[[], None]:
        return broker.cut

    async def test_sessions_are_cut_by_name(self, broker: InProcessBroker, transport: Transport) -> None:
        async with transport.connect("one") as one, transport.connect("two") as two:
            broker.cut("one")

            with pytest.raises(TransportUnavailableError):
                await one.declare(a_topology())
            await two.declare(a_topology())

    async def test_a_full_queue_refuses_and_the_others_take_it(
        self, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(inprocess, "MAX_READY", 2)
        await session.declare(a_topology("full"))
        await publish_numbers(session, 2)
        await session.declare(a_topology("empty"))

        with pytest.raises(PublishUnconfirmedError):
            await session.publish(a_message(body=b"2"))

        assert await Reader(session, "empty").bodies(1) == [b"2"]
        assert await Reader(session, "full").bodies(2) == [b"0", b"1"]


@pytest.mark.rabbitmq
class TestRabbitMQ(TransportContract):
    @pytest.fixture
    async def link(self, amqp_url: str) -> AsyncIterator[Link]:
        async with Link(amqp_url).open() as link:
            yield link

    @pytest.fixture
    def transport(self, link: Link) -> Transport:
        return RabbitTransport(link.url)

    @pytest.fixture
    def cut(self, link: Link) -> Callable[[], None]:
        return link.cut

    async def test_a_broker_that_is_not_there_is_unavailable(self) -> None:
        with pytest.raises(TransportUnavailableError):
            async with RabbitTransport("amqp://127.0.0.1:1/").connect("nobody"):
                pass

    async def test_a_refused_login_is_unavailable_and_does_not_tell_the_password(
        self, amqp_url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        url = amqp_url.replace("//guest:guest@", "//guest:s3cret-word@")

        with pytest.raises(TransportUnavailableError) as refused:
            async with RabbitTransport(url).connect("nobody"):
                pass

        assert "s3cret-word" not in f"{refused.value!r} {refused.value.__cause__!r} {caplog.text}"

    async def test_a_shared_queue_that_somebody_made_otherwise_is_taken_as_it_is(
        self, amqp_url: str, session: Session
    ) -> None:
        async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
            for name in ("work", "more"):
                await channel.declare_queue(name, durable=True, arguments={"x-max-length": 10})
        topology = a_topology("work")

        await session.declare(
            Topology(
                exchanges=topology.exchanges,
                queues=(*topology.queues, Queue(name="more"), Queue(name="last")),
                bindings=topology.bindings,
            )
        )

        assert await session.publish(a_message()) == Confirmed()
        assert await session.queue_exists("last")

    async def test_the_brokers_word_for_who_published_arrives(self, session: Session) -> None:
        await session.declare(a_topology())

        await session.publish(a_message())

        assert (await Reader(session, "work").next()).user_id == "guest"

    async def test_a_consumer_whose_queue_was_deleted_is_told(self, amqp_url: str, session: Session) -> None:
        await session.declare(a_topology())
        waiting = asyncio.ensure_future(Reader(session, "work").next())
        await session.publish(a_message())
        await waiting
        again = asyncio.ensure_future(Reader(session, "work").next())

        async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
            await channel.queue_delete("work")

        with pytest.raises(TransportUnavailableError, match="work"):
            async with asyncio.timeout(WAIT_S):
                await again

    async def test_a_publish_that_timed_out_may_have_been_delivered(self, link: Link, session: Session) -> None:
        await session.declare(a_topology())
        link.freeze()

        with pytest.raises(PublishUnconfirmedError):
            await session.publish(a_message(body=b"perhaps"), timeout_s=0.2)
        link.thaw()

        assert await Reader(session, "work").bodies(1) == [b"perhaps"]

    async def test_what_found_no_room_within_its_time_was_certainly_not_sent(
        self, link: Link, transport: Transport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rabbitmq, "MAX_IN_FLIGHT", 1)
        monkeypatch.setattr(rabbitmq, "BLOCKED_AFTER_S", 0.05)
        async with transport.connect("narrow") as session:
            await session.declare(a_topology())
            link.freeze()
            first = asyncio.ensure_future(session.publish(a_message(body=b"first"), timeout_s=WAIT_S))
            await asyncio.sleep(0)

            with pytest.raises(TransportUnavailableError):
                await session.publish(a_message(body=b"second"), timeout_s=0.1)
            assert session.is_blocked
            link.thaw()

            assert await first == Confirmed()
            assert not session.is_blocked
            await session.publish(a_message(body=b"third"))
            assert await Reader(session, "work").bodies(2) == [b"first", b"third"]

    @pytest.mark.parametrize("how", ["cut", "leave"])
    async def test_publishes_in_flight_at_the_end_of_the_session_are_unconfirmed(
        self, link: Link, transport: Transport, how: str
    ) -> None:
        async with transport.connect("cut") as session:
            await session.declare(a_topology())
            link.freeze()
            in_flight = [asyncio.ensure_future(session.publish(a_message())) for _ in range(600)]
            await asyncio.sleep(0.05)
            if how == "cut":
                link.cut()
                async with asyncio.timeout(WAIT_S):
                    await session.wait_lost()
        outcomes = await asyncio.gather(*in_flight, return_exceptions=True)

        # Behind the five hundred in flight the others were never sent.
        expected = [PublishUnconfirmedError] * 500 + [TransportUnavailableError] * 100
        assert [type(outcome) for outcome in outcomes] == expected

    async def test_a_peer_that_says_nothing_any_more_is_lost_after_some_heartbeats(self, link: Link) -> None:
        async with RabbitTransport(link.url, heartbeat_s=1).connect("frozen") as session:
            await session.declare(a_topology())
            waiting = asyncio.ensure_future(Reader(session, "work").next())
            await asyncio.sleep(0.05)
            link.freeze()

            with pytest.raises(TransportUnavailableError):
                await waiting
            link.thaw()
