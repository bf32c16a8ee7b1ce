"""An agent's host, and what the control plane would send it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from control_plane_agent.identity import Identity
from control_plane_agent.journal import Journal
from control_plane_agent.session import Agent
from control_plane_agent.slots import FINISHED_AT, Finished, Started, encode
from control_plane_agent.supervisor import STATE
from control_plane_wire.clock import SystemClock
from control_plane_wire.messages import CommandMessage, ToAgent, decode, seal
from control_plane_wire.output import OutputMessage, parse_output
from control_plane_wire.signing import COMMAND, CONTROL_PLANE, HEARTBEAT, OUTPUT, RESULT, SigningKey, key_id
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.topology import (
    COMMAND_EXCHANGE,
    CONTROL_PLANE_TOPOLOGY,
    HEARTBEAT_QUEUE,
    OUTPUT_QUEUE,
    RESULT_QUEUE,
    command_key,
)
from control_plane_wire.transport.base import Message, PublishOutcome, Session
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.clock import START_US
from tests.support.fleet import CONTROL_PLANE_KEY, host_key

HOSTNAME = "web1.example.com"
ROUTE = command_key(HOSTNAME)
START_S = START_US // 1_000_000
BOOT = "00000000-0000-0000-0000-000000000001"


def an_identity(**changes: object) -> Identity:
    given = {
        "hostname": HOSTNAME,
        "key": host_key(HOSTNAME),
        "keys": {key_id(CONTROL_PLANE_KEY.public_key): CONTROL_PLANE_KEY.public_key},
        "groups": {"web": 10},
        "enrolled_as_of": 5,
        **changes,
    }
    return Identity(**given)  # type: ignore[arg-type]


def a_command(task_id: str = "task-1", **changes: object) -> CommandMessage:
    given = {"task_id": task_id, "command": "true", "timeout": 30, "user": "root", "timestamp": START_S, **changes}
    return CommandMessage(**given)  # type: ignore[arg-type]


def sealed(message: ToAgent, *, route: str = ROUTE, key: SigningKey = CONTROL_PLANE_KEY) -> bytes:
    """The message as it is on the wire, for that routing key."""
    return seal(message.to_json(), key, COMMAND, sender=CONTROL_PLANE, recipient=route)


def accept(journal: Journal, task_id: str = "task-1", finished: Finished | None = None, **changes: object) -> None:
    journal.accept(task_id, sealed(a_command(task_id, **changes)), ROUTE, finished=finished)


def started(nonce: str = "nonce", boot_id: str = BOOT) -> Started:
    return Started(boot_id, nonce, 0, START_S, 4_000_000, 4_000_000, None)


class FakeExecutor:
    """Writes the slots that a test asks for; counts what it ran, woke and killed."""

    def __init__(
        self, journal: Journal, *, outcome: str | None = "completed", after: asyncio.Event | None = None
    ) -> None:
        self._journal = journal
        self._outcome = outcome
        self._after = after
        self.ran: list[str] = []
        self.woken: list[str] = []
        self.killed: list[Started] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    async def run(self, task_id: str, *, start_within_s: float) -> None:
        self.ran.append(task_id)
        disk = self._journal._disk
        disk.write_at(f"journal/{task_id}/{STATE}", 0, encode(started()))
        if self._after is not None:
            await self._after.wait()
        if self._outcome is not None:
            finished = Finished(self._outcome, START_S, exit_code=0, stdout_bytes=0, stderr_bytes=0)
            disk.write_at(f"journal/{task_id}/{STATE}", FINISHED_AT, encode(finished))

    async def wait(self, task_id: str) -> None:
        await asyncio.sleep(0)

    def wake(self, task_id: str, slot: Started) -> None:
        self.woken.append(task_id)

    def kill_left(self, slot: Started) -> int:
        self.killed.append(slot)
        return 2

    def sweep(self) -> None:
        return


class ControlPlaneEnd:
    """The other end of the wire: sends signed messages to the host, and collects what it says."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.results: list[JsonObject] = []
        self.heartbeats: list[JsonObject] = []
        self.pieces: list[OutputMessage] = []
        self.heard = asyncio.Event()

    async def send(
        self, message: ToAgent, *, route: str = ROUTE, key: SigningKey = CONTROL_PLANE_KEY
    ) -> PublishOutcome:
        body = sealed(message, route=route, key=key)
        return await self.send_bytes(body, route=route)

    async def send_bytes(self, body: bytes, *, route: str = ROUTE) -> PublishOutcome:
        return await self._session.publish(Message(exchange=COMMAND_EXCHANGE, routing_key=route, body=body))

    async def collect(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._collect(RESULT_QUEUE, RESULT, self.results))
            tasks.create_task(self._collect(HEARTBEAT_QUEUE, HEARTBEAT, self.heartbeats))
            tasks.create_task(self._collect(OUTPUT_QUEUE, OUTPUT, self.pieces, parse_output))

    async def _collect(
        self, queue: str, tag: str, into: list[Any], read: Callable[[JsonObject], object] = lambda message: message
    ) -> None:
        public_key = host_key(HOSTNAME).public_key
        async for batch in self._session.consume(queue, prefetch=100):
            for delivery in batch:
                signed = decode(delivery.body, max_bytes=8 * 2**20, tag=tag)
                signed.verify(public_key, tag, sender=HOSTNAME, recipient=CONTROL_PLANE)
                into.append(read(signed.message))
                delivery.ack()
            self.heard.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds; it is looked at whenever something has come."""
        async with asyncio.timeout(30):
            while not condition():
                self.heard.clear()
                await self.heard.wait()

    def shown(self, task_id: str = "task-1", stream: str = "stdout") -> bytes:
        """What is known of a stream by its pieces, with "?" for each byte that none of them has."""
        found = bytearray()
        for piece in self.pieces:
            if (piece.task_id, piece.stream) == (task_id, stream):
                found += b"?" * (piece.offset - len(found))
                found[piece.offset : piece.offset + len(piece.raw)] = piece.raw
        return bytes(found)

    def said(self, task_id: str, kind: str = "result") -> list[JsonObject]:
        return [r for r in self.results if r["task_id"] == task_id and r.get("kind", "result") == kind]

    async def result(self, task_id: str) -> JsonObject:
        await self.until(lambda: self.said(task_id))
        return self.said(task_id)[-1]

    async def run(self, command: str, *, task_id: str = "task-1", **changes: object) -> JsonObject:
        now_s = int(SystemClock().now_s())
        await self.send(a_command(task_id, command=command, timestamp=now_s, **changes))
        return await self.result(task_id)


@asynccontextmanager
async def control_plane_end(broker: InProcessBroker) -> AsyncIterator[ControlPlaneEnd]:
    async with broker.transport().connect("control plane") as session:
        await session.declare(CONTROL_PLANE_TOPOLOGY)
        end = ControlPlaneEnd(session)
        async with asyncio.TaskGroup() as tasks:
            collecting = tasks.create_task(end.collect())
            yield end
            collecting.cancel()


@asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[None]:
    """The agent at work, until the block ends and it has stopped as it is told to."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(agent.run(stop))
        try:
            yield
        finally:
            stop.set()
