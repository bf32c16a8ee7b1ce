"""The agent as the broker sees it: one connection at a time, on which it takes commands, beats, and sends results.

delivery ─▶ verify ─▶ kind ─▶ known? ─▶ Executions: checks, journal ─▶ ack
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import Final

from control_plane_agent.checks import opened_by
from control_plane_agent.disk_thread import DiskThread
from control_plane_agent.errors import JournalError
from control_plane_agent.executions import Executions
from control_plane_agent.executor import Executor
from control_plane_agent.facts import VERSION, Facts
from control_plane_agent.identity import Identities
from control_plane_agent.journal import Journal
from control_plane_agent.live import LiveOutput
from control_plane_agent.outbox import Outbox, publish
from control_plane_agent.policy import Policy
from control_plane_agent.results import refused_unjournalled
from control_plane_wire import messages, signing, topology
from control_plane_wire.backoff import Backoff
from control_plane_wire.clock import Clock
from control_plane_wire.errors import (
    MalformedMessageError,
    PublishUnconfirmedError,
    SignatureError,
    TransportUnavailableError,
)
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.messages import CancelMessage, CommandMessage, ConfigureMessage, HeartbeatMessage
from control_plane_wire.transport.base import Delivery, Message, Session, Transport, keep_session

PREFETCH: Final = 16
QUEUE_CHECK_S: Final = 5.0
LAST_WORDS_S: Final = 3.0
BIND_ATTEMPTS: Final = 5  # within some three seconds
DISK_FULL_RETRY_S: Final = 5.0

log = logging.getLogger(__name__)


class Agent:
    """One host's agent, as a service.

    Args:
        boot_id: of this boot of the machine.
        interval_s: between heartbeats.
        is_live: whether it shows what commands print while they run.
        keeps_journal: whether the journal outlives this process; else it begins anew, and says nothing of the past.
    """

    def __init__(
        self,
        identities: Identities,
        transport: Transport,
        journal: Journal,
        disk: DiskThread,
        executor: Executor,
        policy: Policy,
        facts: Facts,
        clock: Clock,
        *,
        boot_id: str,
        interval_s: int = messages.DEFAULT_INTERVAL_S,
        is_live: bool = False,
        keeps_journal: bool = True,
        failpoints: Failpoints = NO_FAILPOINTS,
    ) -> None:
        self._identities = identities
        self._transport = transport
        self._journal = journal
        self._disk = disk
        self._facts = facts
        self._clock = clock
        self._boot_id = boot_id
        self._interval_s = interval_s
        self._keeps_journal = keeps_journal
        self._failpoints = failpoints
        self._outbox = Outbox(journal, disk, identities, failpoints)
        self._executions = Executions(journal, disk, executor, self._outbox, identities, policy, clock, failpoints)
        self._live = LiveOutput(self._executions, journal, disk, identities, clock) if is_live else None
        self._bound: set[str] = set()  # the groups whose commands reach us in this session
        self._held: set[str] = set()  # of these, what the broker has once refused to unbind
        self._sequence = 0
        self._session_id = 0
        self.counters: Counter[str] = Counter()

    @property
    def name(self) -> str:
        return f"agent {self.hostname}"

    @property
    def hostname(self) -> str:
        return self._identities.current.hostname

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; commands that run go on without the agent, and it finds them again."""
        backoff = Backoff(first_s=1.0, most_s=8.0)
        async with self._executions.going_on():
            await keep_session(
                self._transport, self.name, lambda session: self._serve(session, stop), stop=stop, backoff=backoff
            )

    async def _serve(self, session: Session, stop: asyncio.Event) -> None:
        identity = self._identities.current
        await session.declare(topology.agent_topology(identity.hostname, ()))
        self._session_id = max(self._session_id + 1, _boot_ms())
        self._bound.clear()
        self._held.clear()
        await self._bind(session, identity.groups)
        log.info("connected", extra={"hostname": identity.hostname, "groups": sorted(self._bound)})
        queue = topology.agent_queue(identity.hostname)
        async with asyncio.TaskGroup() as tasks:
            work = [
                tasks.create_task(self._outbox.keep_sending(session), name="results"),
                tasks.create_task(self._beat(session), name="heartbeats"),
                tasks.create_task(self._check_queue(session, queue), name="check the queue"),
                tasks.create_task(self._take_all(session, queue), name="commands"),
            ]
            if self._live is not None:
                work.append(tasks.create_task(self._live.keep_telling(session), name="live output"))
            await stop.wait()
            for task in work:
                task.cancel()  # whatever it waits for; what was not acknowledged comes again
        await self._last_words(session)

    async def _bind(self, session: Session, groups: Iterable[str]) -> None:
        """Bind these groups' keys, as far as the broker lets us; the heartbeat says which are bound.

        Whoever was taken out of a group while it was away has no right to it any more, and must come back all the same
        to be told.
        """
        for group in sorted(groups):
            try:
                await session.bind(_binding(self.hostname, group))
            except TransportUnavailableError as error:
                log.warning("group not bound", extra={"group": group, "reason": str(error)})
            else:
                self._bound.add(group)

    async def _unbind(self, session: Session, group: str) -> None:
        """Unbind a group's key, or let the heartbeat go on saying that it is bound, so that we are told again.

        Who has no right to a group any more cannot unbind it either. Told again, it starts over: the new queue is bound
        to nothing else than it is to be. That takes what is in the old one along, and so it is the last resort.

        Raises:
            TransportUnavailableError: the session is to end.
        """
        try:
            await session.unbind(_binding(self.hostname, group))
        except TransportUnavailableError as error:
            if group in self._held:
                raise
            self._held.add(group)
            log.warning("group not unbound", extra={"group": group, "reason": str(error)})
        else:
            self._bound.discard(group)

    async def _check_queue(self, session: Session, queue: str) -> None:
        """A quick reconnect can lose its new queue to the old connection's clean-up: look whether it is still there."""
        exists = None
        while exists is None:
            await asyncio.sleep(QUEUE_CHECK_S)
            # Where an alarm of the broker holds the answer up, starting over would lose what is in the queue.
            with contextlib.suppress(TransportUnavailableError):
                exists = await session.queue_exists(queue)
        if not exists:
            raise TransportUnavailableError("the broker has lost our queue")

    async def _last_words(self, session: Session) -> None:
        """Send what is finished, then that this agent goes; what does not get out in time waits in the journal."""
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._outbox.send_all(session)
                await session.publish(self._heartbeat("offline"))
        except (TimeoutError, PublishUnconfirmedError, TransportUnavailableError) as error:
            reason = str(error) or "no answer in time"
            log.warning("stopped without last words", extra={"hostname": self.hostname, "reason": reason})

    # --- heartbeats ---------------------------------------------------------------------------------------------

    async def _beat(self, session: Session) -> None:
        is_first = True
        while True:
            await publish(session, self._heartbeat("online", is_witness=is_first))
            is_first = False
            await asyncio.sleep(self._interval_s)

    def _heartbeat(self, status: str, *, is_witness: bool = False) -> Message:
        """A heartbeat; as a witness it brings back the checkpoint, which would double the size of every one."""
        identity = self._identities.current
        self._sequence = max(self._sequence + 1, _boot_ms())
        heartbeat = HeartbeatMessage(
            hostname=identity.hostname,
            status=status,
            timestamp=self._clock.now_s(),
            agent_version=VERSION,
            sequence=self._sequence,
            boot_id=self._boot_id,
            interval=self._interval_s,
            groups=tuple(sorted(self._bound)),
            running=self._executions.running,
            checkpoint=identity.checkpoint if is_witness else None,
            journal_head=self._journal.head_s if self._keeps_journal else None,
            session=self._session_id,
            keys=tuple(identity.keys),
            next_key=None if identity.announced is None else identity.announced[:16],
            **self._facts.read(),
        )
        body = messages.seal(
            heartbeat.to_json(),
            identity.key,
            signing.HEARTBEAT,
            sender=identity.hostname,
            recipient=signing.CONTROL_PLANE,
        )
        # Not persistent: a newer one is on its way by the time that a broker has restarted.
        return Message(
            exchange=topology.MONITOR_EXCHANGE, routing_key=topology.HEARTBEAT_KEY, body=body, persistent=False
        )

    # --- what is received ---------------------------------------------------------------------------------------

    async def _take_all(self, session: Session, queue: str) -> None:
        """Take what comes, until cancelled: what is being journalled then is journalled all the same."""
        async for batch in session.consume(queue, prefetch=PREFETCH):
            for delivery in batch:
                await self._take(delivery, session)

    async def _take(self, delivery: Delivery, session: Session) -> None:
        """Look at one delivery in the order that the protocol prescribes; what nobody vouches for is only counted."""
        self._failpoints.hit("agent.received")
        body, route = delivery.body, delivery.routing_key
        try:
            signer, message = opened_by(body, route, self._identities.current.keys.values())
            wanted = messages.parse_command(message)
        except (MalformedMessageError, SignatureError) as error:
            self.counters[type(error).__name__] += 1
            log.warning("message ignored", extra={"routing_key": route, "reason": error.reason})
            delivery.ack()
            return
        match wanted:
            case CommandMessage():
                await self._command(wanted, body, route, session)
            case _ if route != topology.command_key(self.hostname):
                log.warning("message ignored", extra={"routing_key": route, "reason": "not this host's own key"})
            case CancelMessage():
                await self._cancel(wanted, body, route)
            case ConfigureMessage():
                await self._configure(wanted, signer, session)
        delivery.ack()
        self._failpoints.hit("agent.acked")
        await self._executions.until_room()

    async def _command(self, command: CommandMessage, body: bytes, route: str, session: Session) -> None:
        """Return when it may be acknowledged: it is journalled, or it is refused and the broker has the refusal."""
        while True:
            known = self._journal.find(command.task_id)
            if known == "reserve":
                await self._outbox.send(session, refused_unjournalled(command.task_id, command.timestamp))
                return
            if known is not None:
                await self._executions.say_again(command.task_id)
                return
            try:
                await self._executions.accept(command, body, route)
            except JournalError as error:
                log.error("not journalled", extra={"task_id": command.task_id, "reason": str(error)})  # noqa: TRY400
                if error.is_full and await self._reserved(command.task_id, body):
                    continue
                await asyncio.sleep(DISK_FULL_RETRY_S)  # meanwhile it stays with the broker, and heartbeats go on
            else:
                return

    async def _reserved(self, task_id: str, body: bytes) -> bool:
        try:
            return await self._disk.do(self._journal.reserve, task_id, body)
        except JournalError:
            return False

    async def _cancel(self, cancel: CancelMessage, body: bytes, route: str) -> None:
        try:
            await self._executions.cancel(cancel, body, route)
        except JournalError as error:
            # The control plane sends it again as long as the execution is open.
            log.error("cancel not journalled", extra={"task_id": cancel.task_id, "reason": str(error)})  # noqa: TRY400

    async def _configure(self, message: ConfigureMessage, signer: bytes, session: Session) -> None:
        """Take new groups and keys: durable first, then the bindings, then say so."""
        before = self._identities.current
        if message.as_of < before.as_of:
            log.warning("configure ignored", extra={"reason": "older than the last one taken, or than the enrolment"})
            return
        keys = before.own_keys.told(message, signer)
        if keys.objection is not None:
            self.counters["KeysRefused"] += 1
            log.error("keys refused", extra={"hostname": before.hostname, "reason": keys.objection})
        if (objection := before.objection(message, keys)) is not None:
            self.counters["CheckpointRefused"] += 1
            log.error("checkpoint refused", extra={"hostname": before.hostname, "reason": objection})
        try:
            await self._disk.do(self._identities.replace, before.configured(message, keys))
        except OSError as error:  # the heartbeat goes on saying the old groups, so it is sent again
            log.error("configure not written", extra={"reason": str(error)})  # noqa: TRY400
            return
        self._failpoints.hit("agent.configured")
        backoff = Backoff(first_s=0.5, most_s=2.0)
        for _ in range(BIND_ATTEMPTS):  # the right to a group may come a moment after the word of it
            await self._bind(session, message.groups.keys() - self._bound)
            if message.groups.keys() <= self._bound:
                break
            await asyncio.sleep(backoff.next_s())
        for group in sorted(self._bound - message.groups.keys()):
            await self._unbind(session, group)
        log.info("configured", extra={"hostname": before.hostname, "groups": sorted(message.groups)})
        await publish(session, self._heartbeat("online", is_witness=True))


def _boot_ms() -> int:
    """Milliseconds of the boot clock: what is numbered by them goes on growing when the agent restarts in a boot."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _binding(hostname: str, group: str) -> topology.Binding:
    queue, key = topology.agent_queue(hostname), topology.group_key(group)
    return topology.Binding(queue=queue, exchange=topology.COMMAND_EXCHANGE, routing_key=key)
