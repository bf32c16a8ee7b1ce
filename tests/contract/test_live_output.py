"""What running commands print reaches whoever watches it, over every transport, and nothing else does."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aio_pika
import pytest

from control_plane.commands.authority import Authority, Keyring
from control_plane.messaging import latest, live_output
from control_plane.messaging.live_output import LiveOutput
from control_plane_wire import messages
from control_plane_wire.output import OutputMessage
from control_plane_wire.signing import CONTROL_PLANE, OUTPUT, RESULT, SigningKey
from control_plane_wire.topology import CONTROL_PLANE_TOPOLOGY, MONITOR_EXCHANGE, OUTPUT_QUEUE, Topology, output_key
from control_plane_wire.transport.base import Confirmed, Message, Session, Transport, Unroutable
from control_plane_wire.transport.inprocess import InProcessBroker
from control_plane_wire.transport.rabbitmq import RabbitTransport
from tests.support.fleet import CONTROL_PLANE_KEY, a_registration, host_key
from tests.support.link import Link
from tests.support.memory_log import MemoryLog

BOUND_S = 20.0
WEB1, WEB2 = "web1.example.com", "web2"


def a_piece(hostname: str = WEB1, data: bytes = b"one\n", **changes: Any) -> OutputMessage:
    given = {"task_id": "t1", "hostname": hostname, "stream": "stdout", "offset": 0, "timestamp": 1, **changes}
    return OutputMessage.of(data, **given)


def on_the_wire(piece: OutputMessage, *, key: SigningKey | None = None, tag: str = OUTPUT, route: str = "") -> Message:
    sender = piece.hostname
    body = messages.seal(piece.to_json(), key or host_key(sender), tag, sender=sender, recipient=CONTROL_PLANE)
    return raw(body, route or sender)


def raw(body: bytes, hostname: str, **headers: str) -> Message:
    return Message(
        exchange=MONITOR_EXCHANGE, routing_key=output_key(hostname), body=body, persistent=False, headers=headers
    )


class Watching:
    """A process that shows live output, and what its readers were told."""

    def __init__(self, transport: Transport) -> None:
        authority = Authority(MemoryLog(), Keyring(CONTROL_PLANE_KEY))
        for seq, hostname in enumerate((WEB1, WEB2), start=1):
            assert authority.fleet.apply(a_registration(hostname), seq)
        self.transport = transport
        self.counts: Counter[str] = Counter()
        self.told: list[OutputMessage] = []
        self.probes = 0
        self.live = LiveOutput(transport, authority, count=self._count)
        self.live.listen(self.told.append)

    def _count(self, what: str, number: int) -> None:
        self.counts[what] += number

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Session]:
        """The service at work, and a host's session."""
        stop = asyncio.Event()
        async with self.transport.connect("hosts") as hosts, asyncio.TaskGroup() as group:
            await hosts.declare(Topology(exchanges=(MONITOR_EXCHANGE,)))
            group.create_task(self.live.run(stop))
            try:
                yield hosts
            finally:
                stop.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(BOUND_S):
            while not condition():
                await asyncio.sleep(0.01)

    async def watch(self, session: Session, *executions: tuple[str, str]) -> None:
        """Watch these, and return when it is so at the broker."""
        self.live.watch(executions)
        wanted = {hostname for _, hostname in executions}
        for hostname in (WEB1, WEB2):
            is_bound = None
            async with asyncio.timeout(BOUND_S):
                while is_bound is not (hostname in wanted):
                    await asyncio.sleep(0.01)
                    is_bound = await session.publish(raw(b"", hostname)) == Confirmed()
                    self.probes += is_bound
        await self.until(lambda: self.live._allowances.keys() == wanted)
        await self.until(lambda: self.counts["live_output_refused"] + self.counts["live_output_dropped"] == self.probes)
        self.live._allowances = {name: live_output._Allowance() for name in wanted}


class LiveOutputContract:
    """Inherited for each transport, which gives the fixtures `transport` and `cut`: lose every connection now."""

    @pytest.fixture
    def watching(self, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> Watching:
        monkeypatch.setattr(latest, "LINGER_S", 0.0)
        return Watching(transport)

    async def test_what_is_watched_is_told_as_it_was_sent(self, watching: Watching) -> None:
        sent = [a_piece(offset=n, data=data) for n, data in enumerate((b"one\n", b"\xff\0", "é".encode()))]
        async with watching.serving() as hosts:
            await watching.watch(hosts, ("t1", WEB1))
            for piece in sent:
                await hosts.publish(on_the_wire(piece))
            await watching.until(lambda: len(watching.told) == 3)

        assert watching.told == sent
        assert [piece.raw for piece in watching.told] == [b"one\n", b"\xff\0", "é".encode()]

    async def test_what_nobody_watches_ends_in_the_broker(self, watching: Watching) -> None:
        async with watching.serving() as hosts:
            await watching.watch(hosts)
            assert await hosts.publish(on_the_wire(a_piece())) == Unroutable()
            await watching.watch(hosts, ("t1", WEB1))
            assert await hosts.publish(on_the_wire(a_piece(WEB2))) == Unroutable()
            await watching.watch(hosts, ("t1", WEB2))
            assert await hosts.publish(on_the_wire(a_piece())) == Unroutable()

        assert watching.told == []

    async def test_what_is_expected_is_kept_for_who_comes_a_moment_later(
        self, watching: Watching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(latest, "LINGER_S", 3600.0)
        sent = [a_piece(offset=n, data=data) for n, data in enumerate((b"one\n", b"two\n"))]
        async with watching.serving() as hosts, asyncio.timeout(BOUND_S):
            watching.live.expect("t1", [WEB1])
            while await hosts.publish(raw(b"", WEB1)) == Unroutable():
                await asyncio.sleep(0.01)
            for piece in sent:
                await hosts.publish(on_the_wire(piece))
            await watching.until(lambda: len(watching.live.latest(("t1", WEB1))) == 2)
            assert await hosts.publish(on_the_wire(a_piece(WEB2))) == Unroutable()

        assert list(watching.live.latest(("t1", WEB1))) == sent

    async def test_what_nobody_comes_for_is_not_heard_any_more(
        self, watching: Watching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(latest, "LINGER_S", 0.5)
        monkeypatch.setattr(live_output, "LOOK_S", 0.05)
        async with watching.serving() as hosts, asyncio.timeout(BOUND_S):
            watching.live.expect("t1", [WEB1])
            while await hosts.publish(on_the_wire(a_piece())) == Unroutable():
                await asyncio.sleep(0.01)
            while await hosts.publish(on_the_wire(a_piece())) == Confirmed():
                await asyncio.sleep(0.01)

        assert watching.live.latest(("t1", WEB1)) == ()

    async def test_another_execution_of_a_watched_host_is_not_told(self, watching: Watching) -> None:
        async with watching.serving() as hosts:
            await watching.watch(hosts, ("t1", WEB1))
            await hosts.publish(on_the_wire(a_piece(task_id="t2")))
            await hosts.publish(on_the_wire(a_piece(task_id="unknown")))
            await hosts.publish(on_the_wire(a_piece()))
            await watching.until(lambda: watching.told)

        assert [piece.task_id for piece in watching.told] == ["t1"]

    async def test_what_is_not_what_it_says_is_refused_and_counted(self, watching: Watching) -> None:
        mine = a_piece()
        sealed = on_the_wire(mine).body
        wrong = [
            on_the_wire(mine, key=host_key(WEB2)),
            on_the_wire(mine, key=CONTROL_PLANE_KEY),
            on_the_wire(mine, tag=RESULT),
            on_the_wire(a_piece(WEB2), route=WEB1),
            on_the_wire(mine, route=WEB2),
            raw(sealed.replace(b"one", b"two"), WEB1),
            raw(sealed[:-1], WEB1),
            raw(b"", WEB1),
            raw(b"[" * 1000, WEB1),
            raw(b'{"data":"%s"}' % (b"x" * messages.MAX_OUTPUT_BYTES), WEB1),
            raw(sealed, WEB1, **{"x-death": "forged"}),
        ]
        async with watching.serving() as hosts:
            await watching.watch(hosts, ("t1", WEB1), ("t1", WEB2))
            before = watching.counts["live_output_refused"]
            for message in wrong:
                await hosts.publish(message)
            await hosts.publish(on_the_wire(mine))
            await watching.until(lambda: watching.told)

        assert watching.told == [mine]
        assert watching.counts["live_output_refused"] - before == len(wrong)

    async def test_a_host_that_floods_is_not_looked_at_and_others_are_told(
        self, watching: Watching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: Counter[str] = Counter()
        open_one = LiveOutput._open

        def count(live: LiveOutput, delivery: Any) -> OutputMessage | None:
            opened[delivery.routing_key] += 1
            return open_one(live, delivery)

        async with watching.serving() as hosts:
            await watching.watch(hosts, ("t1", WEB1), ("t1", WEB2))
            # So that no second one begins meanwhile, and nobody is heard again, however slow the machine is.
            for allowance in watching.live._allowances.values():
                allowance.takes(0, 1e9)
            monkeypatch.setattr(live_output, "MUTE_S", 1e9)
            monkeypatch.setattr(LiveOutput, "_open", count)
            flood = on_the_wire(a_piece(WEB1, task_id="t9"))
            huge = raw(b"x" * (16 * 1024 * 1024 - 1024), WEB1)
            for _ in range(20):
                await asyncio.gather(*(hosts.publish(flood) for _ in range(500)))
                await hosts.publish(on_the_wire(a_piece(WEB2)))
            await hosts.publish(huge)
            await hosts.publish(on_the_wire(a_piece(WEB2, b"last\n")))
            await watching.until(lambda: watching.told and watching.told[-1].data == "last\n")

        assert {piece.hostname for piece in watching.told} == {WEB2}
        assert 0 < opened[output_key(WEB1)] < live_output.PIECES_PER_S
        assert watching.counts["live_output_dropped"] > 0

    async def test_a_host_that_floods_is_not_heard_for_a_while_and_then_again(
        self, watching: Watching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(live_output, "PIECES_PER_S", 3)
        monkeypatch.setattr(live_output, "MUTE_S", 0.5)
        flood = on_the_wire(a_piece(task_id="t9"))
        async with watching.serving() as hosts, asyncio.timeout(BOUND_S):
            watching.live.watch([("t1", WEB1), ("t1", WEB2)])
            while await hosts.publish(flood) == Unroutable():
                await asyncio.sleep(0.01)
            while await hosts.publish(flood) == Confirmed():
                await asyncio.sleep(0)
            assert await hosts.publish(on_the_wire(a_piece(WEB2))) == Confirmed()
            await watching.until(lambda: watching.told)
            while not any(piece.hostname == WEB1 for piece in watching.told):
                await hosts.publish(on_the_wire(a_piece()))
                await asyncio.sleep(0.2)

        assert watching.counts["live_output_dropped"] > 0

    async def test_a_lost_session_is_made_anew_and_bound_again(
        self, watching: Watching, cut: Callable[[], None]
    ) -> None:
        async with watching.serving() as hosts:
            await watching.watch(hosts, ("t1", WEB1))
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(watching.live.run(stop))
            await self._heard(watching)
            cut()
            watching.told.clear()
            await self._heard(watching)
            stop.set()

    async def _heard(self, watching: Watching) -> None:
        """Publish until a piece is told: when the service is back is not to be seen from outside."""
        async with asyncio.timeout(BOUND_S), watching.transport.connect("host") as host:
            await host.declare(Topology(exchanges=(MONITOR_EXCHANGE,)))
            while not watching.told:
                await host.publish(on_the_wire(a_piece()))
                await asyncio.sleep(0.05)


class TestInProcess(LiveOutputContract):
    @pytest.fixture
    def broker(self) -> InProcessBroker:
        return InProcessBroker()

    @pytest.fixture
    def transport(self, broker: InProcessBroker) -> Transport:
        return broker.transport()

    @pytest.fixture
    def cut(self, broker: InProcessBroker) -> Callable[[], None]:
        return broker.cut

    async def test_what_nobody_takes_is_forgotten(self, broker: InProcessBroker, transport: Transport) -> None:
        async with transport.connect("control plane") as session:
            await session.declare(CONTROL_PLANE_TOPOLOGY)
            for _ in range(1100):
                await session.publish(on_the_wire(a_piece(data=b"x" * 30_000)))

        waiting = broker._queues[OUTPUT_QUEUE].ready
        assert len(waiting) <= 1000
        assert sum(len(stored.message.body) for stored in waiting) <= 16 * 1024 * 1024


@pytest.mark.rabbitmq
class TestRabbitMQ(LiveOutputContract):
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

    async def test_what_nobody_takes_expires(self, amqp_url: str, transport: Transport) -> None:
        async with transport.connect("control plane") as session:
            await session.declare(CONTROL_PLANE_TOPOLOGY)
            for _ in range(10):
                await session.publish(replace(on_the_wire(a_piece()), expiration_s=0.01))
        async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
            async with asyncio.timeout(BOUND_S):
                while True:
                    queue = await channel.declare_queue(OUTPUT_QUEUE, passive=True)
                    if queue.declaration_result.message_count == 0:
                        break
                    await asyncio.sleep(0.05)
