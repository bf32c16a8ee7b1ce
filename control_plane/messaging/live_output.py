"""What running commands print, from the broker to this process's readers: nothing of it is recorded.

Who watches pays: a process has a queue of its own that is bound for exactly the hosts that its readers watch, so that
what nobody watches ends in the broker. It hears a few executions for a while before and after somebody watches them,
so that who has run a command misses none of its first words. A piece counts for nothing, so one that is wrong,
late or too much is let go.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final
from uuid import uuid4

from control_plane.commands.authority import Authority
from control_plane.messaging.latest import MOST_UNREAD, Execution, Latest
from control_plane.messaging.senders import signer_of
from control_plane.observability import Count
from control_plane_wire import messages, signing, topology
from control_plane_wire.backoff import Backoff
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.lifecycle import wait_for_any
from control_plane_wire.output import OutputMessage, parse_output
from control_plane_wire.topology import OUTPUT_QUEUE, Topology
from control_plane_wire.transport.base import Delivery, Session, Transport, keep_session, until_stopped

PREFETCH: Final = 16  # what a hostile host may put into our memory: so many of the largest messages of a broker
INLINE_BYTES: Final = 64 * 1024  # that are verified sooner here than in a thread
PIECES_PER_S: Final = 200  # of one host; ours sends at most half of that
BYTES_PER_S: Final = 8 * 1024 * 1024
LOOK_S: Final = 1.0  # how often it is looked whom nobody has come to watch
MUTE_S: Final = 10.0  # a host that sends more is not heard: in the queue it would push out what others print

_logger = logging.getLogger(__name__)


class _Allowance:
    """What one host may still send: so much at once, and again after a second."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self._pieces = self._bytes = 0

    def takes(self, size_bytes: int, now_s: float) -> bool:
        if now_s >= self._until_s:
            self._until_s, self._pieces, self._bytes = now_s + 1, PIECES_PER_S, BYTES_PER_S
        self._pieces -= 1
        self._bytes -= size_bytes
        return self._pieces >= 0 and self._bytes >= 0


class LiveOutput:
    """One process's end of the live output, as a service.

    Args:
        authority: knows whose key is whose.
    """

    name = "live output"

    def __init__(self, transport: Transport, authority: Authority, *, count: Count) -> None:
        self._transport = transport
        self._authority = authority
        self._count = count
        self._tell: Callable[[OutputMessage], None] = lambda _: None
        self._watched: frozenset[Execution] = frozenset()
        self._latest = Latest()
        self._heard: frozenset[Execution] = frozenset()  # what is watched, and what may be in a moment
        self._has_changed = asyncio.Event()
        self._allowances: dict[str, _Allowance] = {}  # of the hosts that are bound
        self._muted: dict[str, float] = {}  # hosts, and until when

    def listen(self, tell: Callable[[OutputMessage], None]) -> None:
        """Who is told of each piece that is watched."""
        self._tell = tell

    def watch(self, executions: Collection[Execution]) -> None:
        """Take in what these executions print, all that somebody watches."""
        self._watched = frozenset(executions)
        self._latest.watch(self._watched, asyncio.get_running_loop().time())
        self._hear()

    def expect(self, task_id: str, hostnames: Sequence[str]) -> None:
        """Take in what these print for a while, and keep the end of it, for who has run it and may come to look."""
        executions = [(task_id, hostname) for hostname in hostnames[:MOST_UNREAD]]
        self._latest.expect(executions, asyncio.get_running_loop().time())
        self._hear()

    def latest(self, execution: Execution) -> Sequence[OutputMessage]:
        """The last pieces of what it has printed, if it was heard already; oldest first."""
        return self._latest.of(execution)

    def _hear(self) -> None:
        if self._heard != (heard := self._watched | self._latest.executions):
            self._heard = heard
            self._has_changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        async def serve(session: Session) -> None:
            queue = f"{OUTPUT_QUEUE}.{uuid4().hex}"
            await session.declare(topology.watching_topology(queue))
            self._has_changed.set()
            async with asyncio.TaskGroup() as group:
                binding = group.create_task(self._keep_bound(session, queue), name="bind live output")
                async for batch in until_stopped(session.consume(queue, prefetch=PREFETCH), stop):
                    await self._take(batch)
                binding.cancel()

        backoff = Backoff(first_s=0.2, most_s=5.0)
        await keep_session(self._transport, f"control-plane {self.name}", serve, stop=stop, backoff=backoff)

    async def _keep_bound(self, session: Session, queue: str) -> None:
        """Have the queue bound for the hosts that are heard and not muted, until cancelled."""
        loop = asyncio.get_running_loop()
        bound: set[str] = set()
        while True:
            await wait_for_any(self._has_changed, timeout_s=LOOK_S)
            if self._latest.forget(loop.time()):
                self._hear()
            self._has_changed.clear()
            self._muted = {name: until_s for name, until_s in self._muted.items() if until_s > loop.time()}
            wanted = {hostname for _, hostname in self._heard} - self._muted.keys()
            self._allowances = {name: self._allowances.get(name) or _Allowance() for name in wanted}
            if more := sorted(wanted - bound):
                await session.declare(Topology(bindings=tuple(topology.watching(queue, name) for name in more)))
            for hostname in sorted(bound - wanted):
                await session.unbind(topology.watching(queue, hostname))
            bound = wanted

    async def _take(self, batch: Sequence[Delivery]) -> None:
        now_s = asyncio.get_running_loop().time()
        allowed = [delivery for delivery in batch if self._is_allowed(delivery, now_s)]
        self._count("live_output_received", len(batch))
        self._count("live_output_dropped", len(batch) - len(allowed))
        if sum(len(delivery.body) for delivery in allowed) <= INLINE_BYTES:
            pieces, refused = self._opened(allowed)
        else:
            pieces, refused = await asyncio.to_thread(self._opened, allowed)
        self._count("live_output_refused", refused)
        for piece in pieces:
            self._latest.keep(piece)
            self._tell(piece)
        for delivery in batch:
            delivery.ack()

    def _is_allowed(self, delivery: Delivery, now_s: float) -> bool:
        """Whether it is worth a look, by what the broker says of it."""
        try:
            hostname = topology.host_of_output_key(delivery.routing_key)
        except MalformedMessageError:
            return False
        allowance = self._allowances.get(hostname)
        if allowance is None:
            return False
        if not (is_allowed := allowance.takes(len(delivery.body), now_s)):
            self._mute(hostname, now_s + MUTE_S)
        return is_allowed

    def _mute(self, hostname: str, until_s: float) -> None:
        if hostname not in self._muted:
            _logger.warning("a host prints too much, and is not heard for a while", extra={"hostname": hostname})
            self._muted[hostname] = until_s
            self._has_changed.set()

    def _opened(self, deliveries: Sequence[Delivery]) -> tuple[list[OutputMessage], int]:
        """The pieces that are heard and come from whom they say, and how many others are wrong; runs in a thread."""
        pieces, refused = [], 0
        for delivery in deliveries:
            try:
                piece = self._open(delivery)
            except (MalformedMessageError, SignatureError):
                refused += 1
            else:
                pieces += [piece] if piece is not None else []
        return pieces, refused

    def _open(self, delivery: Delivery) -> OutputMessage | None:
        """A verified piece; None of an execution that is not heard."""
        if "x-death" in delivery.headers:
            raise MalformedMessageError("it was dead-lettered into this routing key")
        hostname = topology.host_of_output_key(delivery.routing_key)
        signed = messages.decode(delivery.body, max_bytes=messages.MAX_OUTPUT_BYTES, tag=signing.OUTPUT)
        piece = parse_output(signed.message)
        if piece.hostname != hostname:
            raise MalformedMessageError("it names another host than its routing key")
        if (piece.task_id, hostname) not in self._heard:
            return None
        signer_of(self._authority.fleet, hostname, delivery, signed, signing.OUTPUT)
        return piece
