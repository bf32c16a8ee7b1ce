"""The control plane's processes and consumers over a real log, real read tables and a transport, without the API."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from control_plane.commands.access import Principal
from control_plane.commands.authority import Authority, Keyring
from control_plane.commands.handlers.hosts import HostHandler
from control_plane.commands.handlers.rollouts import RolloutHandler
from control_plane.commands.handlers.stop import StopHandler
from control_plane.commands.handlers.tasks import TaskHandler
from control_plane.commands.handling import Handling
from control_plane.commands.ports import Presence as HostPresence
from control_plane.commands.secrets import Vault
from control_plane.commands.targets import Hosts, Target
from control_plane.errors import StorageUnavailableError
from control_plane.events import hosts, registry
from control_plane.events.envelope import EVENT, Key, LogName, NewEvent, Outcome, StoredEvent
from control_plane.events.event import Event
from control_plane.events.log import EventLog
from control_plane.messaging.ingest import Heartbeats, Ingest
from control_plane.messaging.publisher import Publisher
from control_plane.messaging.results import Results
from control_plane.processes.deadlines import Deadlines
from control_plane.processes.dispatch import Dispatch
from control_plane.processes.ports import Publisher as PublisherPort
from control_plane.processes.presence import HEARING, Presence
from control_plane.processes.rollout import Rollouts
from control_plane.processes.witnesses import Rounds
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.folding import create_tables
from control_plane.projections.hub import Hub
from control_plane.projections.projector import Projector
from control_plane.projections.queries.hosts import HostQueries
from control_plane.projections.queries.rollouts import RolloutQueries
from control_plane.projections.queries.tasks import TaskQueries
from control_plane.storage.engine import Database
from control_plane.storage.leases import Leases
from control_plane_agent.checks import opened_by
from control_plane_wire.failpoints import Failpoints
from control_plane_wire.lifecycle import Service
from control_plane_wire.messages import seal
from control_plane_wire.signing import CONTROL_PLANE, RESULT, SigningKey, key_id
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.topology import CONTROL_PLANE_TOPOLOGY, RESULT_EXCHANGE, agent_queue, agent_topology, result_key
from control_plane_wire.transport.base import Confirmed, Message, PublishOutcome, Session, Transport
from tests.support.clock import ManualClock
from tests.support.database import migrated
from tests.support.events import AT
from tests.support.fleet import ADMIN, CONTROL_PLANE_KEY, SECRETS_KEY, a_registration, a_request, host_key

BOUND_S = 30


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """What the condition answers as soon as that is true; TimeoutError where it never is."""
    async with asyncio.timeout(BOUND_S):
        while not (answer := await condition()):
            await asyncio.sleep(0.01)
    return answer


class WeakLog(EventLog):
    """A log whose database a test may take away."""

    is_away = False
    refusals = 0

    def _ask(self) -> None:
        if self.is_away:
            self.refusals += 1
            raise StorageUnavailableError("the test took it away")

    async def append(self, events: Sequence[NewEvent]) -> list[Outcome]:
        self._ask()
        return await super().append(events)

    async def find(self, log: LogName, keys: Collection[Key]) -> dict[Key, int]:
        self._ask()
        return await super().find(log, keys)

    async def read_one(self, log: LogName, seq: int) -> StoredEvent | None:
        self._ask()
        return await super().read_one(log, seq)


@dataclass
class Tap:
    """A publisher that answers what a test says, in turn, and then publishes for good; it keeps what it was given.

    Attributes: `most_at_once`: that were in its hands at the same time.
    """

    inner: PublisherPort
    answers: deque[Exception | PublishOutcome] = field(default_factory=deque)
    published: list[Message] = field(default_factory=list)
    hangs: bool = False
    at_once: int = 0
    most_at_once: int = 0

    async def publish(self, message: Message) -> PublishOutcome:
        self.published.append(message)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            return await self._publish(message)
        finally:
            self.at_once -= 1

    async def queue_exists(self, name: str) -> bool:
        return await self.inner.queue_exists(name)

    async def _publish(self, message: Message) -> PublishOutcome:
        if self.hangs:
            await asyncio.Event().wait()
        if not self.answers:
            return await self.inner.publish(message)
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class AgentEnd:
    """An agent's end of the wire: what has reached its queue, verified as it would; and what it says.

    Attributes: `trusted`: the control plane's keys; `signers`: which of them signed each message.
    """

    hostname: str
    session: Session
    routes: list[str] = field(default_factory=list)
    messages: list[JsonObject] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    trusted: tuple[SigningKey, ...] = (CONTROL_PLANE_KEY,)
    signers: list[str] = field(default_factory=list)

    async def collect(self) -> None:
        async for batch in self.session.consume(agent_queue(self.hostname), prefetch=100):
            for delivery in batch:
                route = delivery.routing_key
                signer, message = opened_by(delivery.body, route, [key.public_key for key in self.trusted])
                self.signers.append(key_id(signer))
                self.routes.append(route)
                self.messages.append({name: value for name, value in message.items() if name != "sign"})
                self.bodies.append(delivery.body)
                delivery.ack()

    async def received(self, number: int = 1) -> list[JsonObject]:
        """Wait until so many messages have come; all that have."""

        async def have_come() -> bool:
            return len(self.messages) >= number

        await until(have_come)
        return self.messages

    def task_ids(self) -> list[str]:
        return [str(message["task_id"]) for message in self.messages]


@dataclass
class _Listener:
    """Whoever takes heartbeats in, for all that presence can tell."""

    leases: Leases
    name: str = "listener"

    async def run(self, stop: asyncio.Event) -> None:
        await self.leases.hold(HEARING, stop)


class Passed(Failpoints):
    """Counts how often each failpoint was passed: what comes before it has happened by then."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[str] = Counter()

    def hit(self, name: str) -> None:
        self.times[name] += 1


async def _always_recent(_principal: Principal, _resource: str) -> None:
    """Nobody's sign-in is too old."""


class Plane:
    """Attributes: `counts`: what was counted; `owner`: of its leases, as another process's would differ.

    `note` is the newest checkpoint, where a test says that there is one. `passed` are dispatch's failpoints.
    """

    def __init__(
        self, database: Database, log: EventLog, transport: Transport, clock: ManualClock, owner: str = "one"
    ) -> None:
        self.database = database
        self.log = log
        self.transport = transport
        self.clock = clock
        self.counts: Counter[str] = Counter()
        self.passed = Passed()
        self.note: str | None = None
        self.keyring = Keyring(CONTROL_PLANE_KEY)
        self.vault = Vault(SECRETS_KEY)
        self.authority = Authority(log, self.keyring, clock)
        self.hub = Hub(database)
        self.leases = Leases(database, owner=owner)
        self.task_queries = TaskQueries(database)
        self.host_queries = HostQueries(database)
        self.publisher = Publisher(transport)
        self.tap = Tap(self.publisher)
        self.handling = Handling(log=log, authority=self.authority, keyring=self.keyring, clock=clock)
        self.hosts = HostHandler(self.handling, _always_recent)
        self.turns = RolloutHandler(self.handling, self.task_queries)
        self.stop = StopHandler(self.handling)
        self.tasks = TaskHandler(self.handling, self, self.task_queries, vault=self.vault)

    def beside(self, owner: str = "two") -> "Plane":
        """Another process on the same database and broker, whose authority knows nothing yet."""
        return Plane(self.database, self.log, self.transport, self.clock, owner)

    def count(self, what: str, number: int) -> None:
        self.counts[what] += number

    async def presences(self, hostnames: Collection[str]) -> Mapping[str, HostPresence]:
        views = await self.host_queries.by_name(hostnames)
        return {name: HostPresence(state=view.state, basic=view.basic) for name, view in views.items()}

    async def presences_at(self, hostnames: Collection[str], seq: int) -> None:
        return None

    # --- services

    async def newest_note(self) -> str | None:
        return self.note

    def dispatch(self) -> Dispatch:
        return Dispatch(
            self.log,
            self.leases,
            self.hub,
            self.tap,
            self.authority,
            self.keyring,
            self.task_queries,
            self.host_queries,
            self.clock,
            vault=self.vault,
            count=self.count,
            rounds=Rounds(self.newest_note),
            failpoints=self.passed,
        )

    def deadlines(self) -> Deadlines:
        return Deadlines(self.log, self.leases, self.hub, self.task_queries, self.clock)

    def rollouts(self) -> Rollouts:
        queries = RolloutQueries(self.database)
        return Rollouts(self.log, self.leases, self.hub, queries, self.keyring, self.clock, failpoints=self.passed)

    def presence(self, log: EventLog | None = None) -> Presence:
        heard_under = partial(self.leases.held, HEARING)
        return Presence(
            log or self.log,
            self.leases,
            self.host_queries,
            self.clock,
            keyring=self.keyring,
            heard_under=heard_under,
            count=self.count,
        )

    def results(self) -> Ingest:
        return self._ingest(Results(self.log, self.authority, self.count))

    def heartbeats(self) -> Ingest:
        return self._ingest(Heartbeats(), meanwhile=partial(self.leases.hold, HEARING))

    def _ingest(self, stream: Results | Heartbeats, **given: Any) -> Ingest:
        return Ingest(stream, self.transport, self.log, self.authority, count=self.count, **given)

    def projectors(self) -> list[Projector]:
        return [Projector(projection(), self.database, self.log, self.leases, self.hub) for projection in PROJECTIONS]

    @asynccontextmanager
    async def serving(self, *services: Service) -> AsyncIterator[None]:
        """These services at work during the block, and orderly stopped at its end."""
        stop = asyncio.Event()
        async with asyncio.timeout(2 * BOUND_S), asyncio.TaskGroup() as group:
            for service in services:
                group.create_task(service.run(stop), name=service.name)
            try:
                yield
            finally:
                stop.set()

    @asynccontextmanager
    async def dispatching(self, *, at_once: bool = False) -> AsyncIterator[None]:
        """Dispatch at work, with a session to publish on.

        Args:
            at_once: do not wait until it has taken over; what comes before that counts as perhaps delivered.
        """
        dispatch, has_taken_over = self.dispatch(), asyncio.Event()
        take_over = dispatch._take_over

        async def tell(stop: asyncio.Event) -> int:
            after = await take_over(stop)
            has_taken_over.set()
            return after

        async def is_connected() -> bool:
            return self.publisher.is_connected

        dispatch._take_over = tell  # type: ignore[method-assign]
        async with self.serving(self.publisher):
            await until(is_connected)
            async with self.serving(dispatch), asyncio.timeout(BOUND_S):
                if not at_once:
                    await has_taken_over.wait()
                yield

    @asynccontextmanager
    async def watching(self, log: EventLog | None = None, *, heard: bool = True) -> AsyncIterator[None]:
        """Presence at work, with what was said and heard before in its mind.

        Args:
            log: of presence alone.
            heard: somebody takes heartbeats in all that time.
        """
        presence, has_taken_over = self.presence(log), asyncio.Event()
        listen = presence._listen

        async def tell(*given: Any, **more: Any) -> int:
            has_taken_over.set()
            return await listen(*given, **more)

        presence._listen = tell  # type: ignore[method-assign]
        async with AsyncExitStack() as stack:
            if heard:
                await stack.enter_async_context(self.serving(_Listener(self.leases)))
                await until(partial(self.leases.held, HEARING))
            await stack.enter_async_context(self.serving(presence))
            await stack.enter_async_context(asyncio.timeout(BOUND_S))
            await has_taken_over.wait()
            yield

    async def crash(self) -> None:
        """What a dead process leaves: its leases, until somebody succeeds it."""
        await self.leases.succeed("one")

    # --- what happens

    async def register(self, *hostnames: str, groups: Collection[str] = ()) -> None:
        """Hosts that have come by a token."""
        for hostname in hostnames:
            await self.handling.record(a_registration(hostname, *groups), actor="root")
        await self.authority.refresh()
        await self.shown()

    async def register_quietly(self, hostname: str) -> None:
        """Register a host as another replica would: nobody else here is told."""
        await self.handling.record(a_registration(hostname), actor="root")

    async def run(self, task_id: str, *hostnames: str, target: Target | None = None, **given: object) -> int:
        """Accept a task for these hosts; its seq."""
        request = a_request(task_id, target or Hosts(hostnames), **given)
        return (await self.tasks.create(ADMIN, request)).seq

    async def comes_online(self, hostname: str, sequence: int | None = 1, **said: Any) -> int:
        """What ingest and presence record when a host is heard again; the seq of its coming online."""
        message: JsonObject = {
            "hostname": hostname,
            "status": "online",
            "timestamp": self.clock.now_s(),
            "cpu_usage": 0.1,
            "memory_usage": 0.2,
            "agent_version": "1.0",
            "boot_id": "b1",
            "sequence": sequence,
            **said,
        }
        message = {name: value for name, value in message.items() if value is not None}
        [beat] = await self.log.append([hosts.HeartbeatReceived(message=message).to_new_event()])
        online = hosts.HostWentOnline(hostname=hostname, heartbeat_seq=beat.seq, heartbeat=message, cause="a test")
        seq = await self.record(online)
        await self.shown()
        return seq

    async def record(self, event: Event) -> int:
        """Append an event as a process would; its seq."""
        [outcome] = await self.log.append([event.to_new_event()])
        return outcome.seq

    async def shown(self) -> None:
        """Wait until the read tables have everything that is in both logs."""
        for projection in PROJECTIONS:
            for name in projection.logs:
                head = (await self.log.head(name)).seq

                async def is_there(projection: Any = projection, name: LogName = name, head: int = head) -> bool:
                    position = await self.hub.position(projection.name)
                    return (position.event if name == EVENT else position.heartbeat) >= head

                await until(is_there)

    # --- what became of it

    async def rows(self, *kinds: str, log: LogName = EVENT) -> list[StoredEvent]:
        """Events of these kinds, in order."""
        return await self.log.read(log, after=0, kinds=kinds, limit=10_000)

    async def events(self, *kinds: str, log: LogName = EVENT) -> list[Event]:
        return [event for row in await self.rows(*kinds, log=log) if (event := registry.decode(row)) is not None]

    async def recorded(self, *kinds: str, number: int = 1, log: LogName = EVENT) -> list[Event]:
        """Wait until so many events of these kinds are in the log; all that are."""

        async def are_there() -> bool:
            return len(await self.rows(*kinds, log=log)) >= number

        await until(are_there)
        return await self.events(*kinds, log=log)

    async def counted(self, what: str, number: int = 1) -> None:
        async def is_counted() -> bool:
            return self.counts[what] >= number

        await until(is_counted)

    # --- the other end

    @asynccontextmanager
    async def agent(self, hostname: str, *groups: str) -> AsyncIterator[AgentEnd]:
        """That host's agent, connected and bound, during the block."""
        async with self.transport.connect(f"agent {hostname}") as session:
            await session.declare(CONTROL_PLANE_TOPOLOGY)
            await session.declare(agent_topology(hostname, groups))
            end = AgentEnd(hostname, session)
            async with asyncio.TaskGroup() as tasks:
                collecting = tasks.create_task(end.collect())
                yield end
                collecting.cancel()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Somebody else's connection."""
        async with self.transport.connect("somebody") as session:
            await session.declare(CONTROL_PLANE_TOPOLOGY)
            yield session

    async def left_in(self, queue: str) -> list[tuple[bytes, Mapping[str, object]]]:
        """Every message in a queue, taken out of it: its body and its headers."""
        end = b"the end of this queue"
        found: list[tuple[bytes, Mapping[str, object]]] = []
        async with self.session() as session:
            assert await session.publish(Message(exchange="", routing_key=queue, body=end)) == Confirmed()
            async with asyncio.timeout(BOUND_S):
                async for batch in session.consume(queue, prefetch=500):
                    for delivery in batch:
                        delivery.ack()
                        if delivery.body == end:
                            return found
                        found.append((delivery.body, delivery.headers))
        raise AssertionError


def a_result(task_id: str, hostname: str, *, key: SigningKey | None = None, **changes: Any) -> bytes:
    """A signed result as it is on the wire."""
    message: JsonObject = {"task_id": task_id, "exit_code": 0, "stdout": "done\n", "stderr": "", "timestamp": AT}
    signing_key = key or host_key(hostname)
    return seal({**message, **changes}, signing_key, RESULT, sender=hostname, recipient=CONTROL_PLANE)


def of_host(hostname: str, body: bytes) -> Message:
    """A result under that host's routing key."""
    return Message(exchange=RESULT_EXCHANGE, routing_key=result_key(hostname), body=body)


@asynccontextmanager
async def a_plane(url: str, transport: Transport) -> AsyncIterator[Plane]:
    """A control plane whose projectors are at work; other services are the test's to start."""
    clock = ManualClock()
    async with migrated(url) as database, WeakLog.open(database, clock=clock) as log:
        for projection in PROJECTIONS:
            await create_tables(database, projection())
        plane = Plane(database, log, transport, clock, "projectors")
        async with plane.serving(*plane.projectors()):
            plane.leases = Leases(database, owner="one")
            async with transport.connect("set up") as session:
                await session.declare(CONTROL_PLANE_TOPOLOGY)
            yield plane
