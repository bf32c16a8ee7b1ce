"""Publishes what was accepted: follows the log, verifies each authorisation, and signs only what it covers.

The log is the outbox. What was published is recorded afterwards, so a crash leaves an execution without a record:
whoever takes over counts it as perhaps delivered and publishes again, and the agent knows what it has. Nothing is
published after `expires_at`, and nothing that came back is taken for delivered.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

from control_plane.commands.authority import Authority, Keyring
from control_plane.commands.hosts import Host
from control_plane.commands.tasks import message_of, verify_authorisation
from control_plane.events import hosts, registry, tasks
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, Key, StoredEvent
from control_plane.events.event import Event
from control_plane.events.log import EventLog
from control_plane.events.tasks import TaskAccepted
from control_plane.observability import Count
from control_plane.processes.open_executions import FIRST_RETRY_S, Due, OpenExecutions
from control_plane.processes.ports import Leases, Publisher
from control_plane.processes.routes import fan_out
from control_plane.processes.witnesses import Rounds
from control_plane.projections.hub import Hub
from control_plane.projections.queries.hosts import HostQueries
from control_plane.projections.queries.tasks import TaskQueries
from control_plane.projections.tasks import TasksProjection
from control_plane_wire.clock import Clock
from control_plane_wire.errors import (
    MalformedMessageError,
    PublishUnconfirmedError,
    SignatureError,
    TransportUnavailableError,
)
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.messages import CancelMessage, CommandMessage, ConfigureMessage, seal
from control_plane_wire.signing import COMMAND, CONTROL_PLANE
from control_plane_wire.strict_json import Json
from control_plane_wire.topology import COMMAND_EXCHANGE, command_key
from control_plane_wire.transport.base import Confirmed, Message

PAGE: Final = 500
POLL_S: Final = 0.25
CACHED_TASKS: Final = 2000
RETRY_S: Final = 1.0  # after a publish that was not sent, or whose outcome nobody knows; it doubles
MOST_RETRY_S: Final = 300.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Send:
    """One message to publish: its key, and the executions that it is for.

    Attributes:
        skips: whoever is offline is to be left out.
        configures: the host, and the event for which it is told its groups.
    """

    key: str
    message: CommandMessage | CancelMessage | ConfigureMessage
    dues: tuple[Due, ...] = ()
    expires_at: int | None = None
    skips: bool = False
    configures: tuple[str, int] | None = None


class _Limits(TypedDict):
    """What every message of one task has."""

    expires_at: int
    skips: bool


def _member_since(host: Host, group: Json) -> int:
    """The log position since which a host is in a group, or, without one, in the fleet."""
    return host.groups[group] if isinstance(group, str) else host.registered_seq


class Dispatch:
    """The process, as a service; any number may run, and the one with the lease works."""

    name = "dispatch"

    def __init__(
        self,
        log: EventLog,
        leases: Leases,
        hub: Hub,
        publisher: Publisher,
        authority: Authority,
        keyring: Keyring,
        task_queries: TaskQueries,
        host_queries: HostQueries,
        clock: Clock,
        *,
        count: Count,
        rounds: Rounds | None = None,
        failpoints: Failpoints = NO_FAILPOINTS,
    ) -> None:
        self._log = log
        self._leases = leases
        self._hub = hub
        self._publisher = publisher
        self._authority = authority
        self._keyring = keyring
        self._task_queries = task_queries
        self._host_queries = host_queries
        self._clock = clock
        self._count = count
        self._rounds = rounds or Rounds()
        self._failpoints = failpoints
        self._open = OpenExecutions()
        self._tasks: OrderedDict[str, TaskAccepted] = OrderedDict()
        self._basic: set[str] = set()
        self._to_configure: dict[str, int] = {}
        self._configure_s = 0.0  # not before this, by the monotonic clock

    async def run(self, stop: asyncio.Event) -> None:
        await self._leases.keep("process:dispatch", lambda _lease: self._work(stop), stop=stop)

    async def _work(self, stop: asyncio.Event) -> None:
        after = await self._take_over(stop)
        while not stop.is_set():
            events = await self._log.read(EVENT, after=after, limit=PAGE, patience_s=POLL_S)
            for stored in events:
                self._take_in(stored)
            if events:
                after = events[-1].seq
            await self._configure()
            await self._publish_ready()
            if not events:
                await self._log.wait_beyond(EVENT, after, timeout_s=self._patience_s())

    def _patience_s(self) -> float:
        next_s = self._open.next_s()
        left_s = POLL_S if next_s is None else next_s - self._clock.monotonic_s()
        return min(POLL_S, max(left_s, 0.001))

    # --- what is known ------------------------------------------------------------------------------------------

    async def _take_over(self, stop: asyncio.Event) -> int:
        """Load what is open, and say of each execution without a record that it may have been delivered.

        Whoever had the lease before may have died with groups untold, so who has bound others is told again.
        """
        head = await self._log.head(EVENT)
        while not await self._hub.wait_for(TasksProjection.name, head.seq):
            if stop.is_set():
                return head.seq
        after, rows = await self._task_queries.open_executions()
        self._open = OpenExecutions()
        self._open.load(rows)
        self._tasks.clear()
        registered = await self._host_queries.registered()
        self._basic = {host.hostname for host in registered if host.basic}
        is_there = {"online", "stale"}
        self._to_configure = {host.hostname: after for host in registered if host.drift and host.state in is_there}
        self._rounds.restart((h.hostname for h in registered if h.state in is_there), self._clock.monotonic_s())
        unknown = [  # what has become due since is not among them: whoever had the lease before has never seen it
            d
            for d in self._open.due.values()
            if not d.delivery.may_have_arrived and not d.delivery.certainly_not and d.delivery.trigger_seq <= head.seq
        ]
        await self._record(tasks.ExecutionUnconfirmed(task_id=d.task_id, hostname=d.hostname) for d in unknown)
        return after

    def _take_in(self, stored: StoredEvent) -> None:
        """Fold one event; what is wrong with it is counted, and stops nothing else."""
        try:
            self._fold(stored)
        except (SignatureError, MalformedMessageError, TypeError, KeyError) as error:
            self._count("events_refused", 1)
            _logger.error(  # noqa: TRY400 - what it was is in the fields
                "event refused by dispatch", extra={"seq": stored.seq, "kind": stored.kind, "reason": str(error)}
            )

    def _fold(self, stored: StoredEvent) -> None:
        match registry.decode(stored):
            case TaskAccepted():
                task = verify_authorisation(stored, self._keyring.public_keys)
                self._remember(task)
                self._open.accept(task, stored.seq)
            case tasks.TaskCancelRequested(task_id=task_id):
                self._keyring.verify_event(stored)
                self._open.cancel(task_id)
            case hosts.HostWentOnline() as online:
                self._came_online(online, stored.seq)
            case hosts.HostGroupsChanged(hostname=hostname):
                self._to_configure[hostname] = stored.seq
            case Event() as event:
                self._open.note(event)

    def _came_online(self, event: hosts.HostWentOnline, seq: int) -> None:
        bound = event.heartbeat.get("groups")
        if event.heartbeat.get("agent_version") is None:
            self._basic.add(event.hostname)
        else:
            self._basic.discard(event.hostname)
            host = self._authority.fleet.hosts.get(event.hostname)
            assigned = set(host.groups) if host else set()
            if isinstance(bound, list | tuple) and set(map(str, bound)) != assigned:
                self._to_configure[event.hostname] = seq
            self._rounds.online(event.hostname, self._clock.monotonic_s())
        self._open.online(event.hostname, seq)

    def _remember(self, task: TaskAccepted) -> None:
        self._tasks[task.task_id] = task
        while len(self._tasks) > CACHED_TASKS:
            self._tasks.popitem(last=False)

    async def _task(self, task_id: str) -> TaskAccepted | None:
        """The authorised task, from memory or from the log; None where there is none, and nothing is published."""
        if task_id in self._tasks:
            return self._tasks[task_id]
        key = Key(task_id, TaskAccepted.KIND)
        seq = (await self._log.find(EVENT, [key])).get(key)
        stored = None if seq is None else await self._log.read_one(EVENT, seq)
        try:
            task = None if stored is None else verify_authorisation(stored, self._keyring.public_keys)
        except (SignatureError, MalformedMessageError) as error:
            _logger.error("task refused", extra={"task_id": task_id, "reason": str(error)})  # noqa: TRY400
            return None
        if task is not None:
            self._remember(task)
        return task

    # --- what is to be done -------------------------------------------------------------------------------------

    async def _publish_ready(self) -> None:
        ready = self._open.ready(self._clock.monotonic_s())
        if not ready:
            return
        by_task: dict[str, list[Due]] = {}
        for due in ready:
            due.next_s = None
            by_task.setdefault(due.task_id, []).append(due)
        sends: list[Send] = []
        said: list[Event] = []
        for task_id, dues in by_task.items():
            task = await self._task(task_id)
            if task is not None:
                covered = [d for d in dues if d.hostname in task.hosts]  # a read table authorises nobody
                said += self._refusals(task, covered)
                sends += self._cancels(task, covered)
                open_still = [d for d in covered if not d.is_cancelled and d.key in self._open.due]
                sends += await self._commands(task, open_still)
        await self._record(said)
        await self._publish(sends)

    def _refusals(self, task: TaskAccepted, dues: Iterable[Due]) -> list[Event]:
        """What needs no message to end: cancelled before anything was delivered, or more than a basic agent can do."""
        said: list[Event] = []
        needs = [name for name in ("env", "cwd", "stdin") if name in task.request]
        for due in dues:
            known = {"task_id": due.task_id, "hostname": due.hostname}
            if due.is_cancelled and due.certainly_not_delivered:
                said.append(tasks.ExecutionCancelled(**known, reason="cancelled before it was delivered"))
            elif needs and due.hostname in self._basic and not due.is_cancelled:
                said.append(tasks.ExecutionSkipped(**known, reason=f"basic agent: no {', '.join(needs)}"))
        for event in said:
            self._open.note(event)
        return said

    def _cancels(self, task: TaskAccepted, dues: Iterable[Due]) -> list[Send]:
        now_s = self._clock.now_s()
        return [
            Send(command_key(d.hostname), CancelMessage(task_id=task.task_id, timestamp=now_s), (d,))
            for d in dues
            if d.is_cancelled and d.key in self._open.due and d.hostname not in self._basic
        ]

    async def _commands(self, task: TaskAccepted, dues: Sequence[Due]) -> list[Send]:
        """By one key where that reaches exactly these hosts, else host by host; nothing after `expires_at`."""
        if self._clock.now_s() >= task.expires_at:
            return []
        if any(self._authority.fleet.public_key(d.hostname) is None for d in dues):
            await self._authority.refresh()  # another process may have registered it a moment ago
        allowed = [d for d in dues if not d.answered and self._authority.fleet.public_key(d.hostname) is not None]
        message, basic = message_of(task), self._basic.union(task.basic)
        limits: _Limits = {"expires_at": task.expires_at, "skips": task.request.get("when_offline") == "skip"}
        is_first = len(allowed) == len(task.hosts) and all(d.is_untouched for d in allowed)
        if is_first and (key := await self._fan_out_key(task)) is not None:
            has_basic = any(d.hostname in basic for d in allowed)
            return [Send(key, message.basic() if has_basic else message, tuple(allowed), **limits)]
        return [
            Send(command_key(d.hostname), message.basic() if d.hostname in basic else message, (d,), **limits)
            for d in allowed
        ]

    async def _fan_out_key(self, task: TaskAccepted) -> str | None:
        target = task.request["target"]
        if not isinstance(target, dict) or not target.keys() & {"group", "all"}:
            return None
        await self._authority.refresh()
        fleet, group = self._authority.fleet, target.get("group")
        members = fleet.members(group) if isinstance(group, str) else fleet.active()
        if any(_member_since(fleet.hosts[name], group) > task.as_of for name in members):
            return None  # its agent would refuse a message to many that is older than its membership
        return fan_out(target, task.hosts, await self._host_queries.registered(), members)

    async def _configure(self) -> None:
        """Tell hosts their groups, where those have changed or the agent has bound others, and the checkpoint."""
        now_s = self._clock.monotonic_s()
        note = await self._rounds.go(now_s, self._to_configure, seq=self._authority.position)
        if not self._to_configure or now_s < self._configure_s:
            return
        wanted, self._to_configure = self._to_configure, {}
        as_of = await self._authority.refresh()
        sends = [
            Send(
                command_key(hostname),
                ConfigureMessage(
                    task_id=f"configure-{seq}",
                    timestamp=self._clock.now_s(),
                    as_of=as_of,
                    groups=dict(self._authority.fleet.hosts[hostname].groups),
                    keys=self._keyring.states(),
                    checkpoint=note,
                ),
                configures=(hostname, seq),
            )
            for hostname, seq in wanted.items()
            if hostname not in self._basic and self._authority.fleet.public_key(hostname) is not None
        ]
        await self._publish(sends)

    # --- doing it -----------------------------------------------------------------------------------------------

    async def _publish(self, sends: Sequence[Send]) -> None:
        """Publish all of them at once, and record what became of each."""
        if not sends:
            return
        self._failpoints.hit("dispatch.before_publish")
        for send in sends:
            for due in send.dues:
                due.was_published = True
        results = await asyncio.gather(*(self._send(send) for send in sends))
        self._failpoints.hit("dispatch.after_publish")
        said = [event for events in results for event in events]
        said += await self._unreachable(said)
        if said:
            self._failpoints.hit("dispatch.before_sent")
            await self._record(said)
            self._failpoints.hit("dispatch.after_sent")

    async def _send(self, send: Send) -> list[Event]:
        """Publish one message; what is to be recorded of it."""
        key = self._keyring.active
        body = seal(send.message.to_json(), key, COMMAND, sender=CONTROL_PLANE, recipient=send.key)
        left_s = None if send.expires_at is None else float(max(1, send.expires_at - self._clock.now_s()))
        message = Message(
            exchange=COMMAND_EXCHANGE,
            routing_key=send.key,
            body=body,
            expiration_s=left_s,
            correlation_id=send.message.task_id,
        )
        try:
            outcome = await self._publisher.publish(message)
        except TransportUnavailableError:
            self._failed(send)
            return []
        except PublishUnconfirmedError:
            self._count("publishes_unconfirmed", 1)
            self._failed(send)
            return [
                tasks.ExecutionUnconfirmed(task_id=d.task_id, hostname=d.hostname)
                for d in send.dues
                if not d.delivery.may_have_arrived
            ]
        self._count("publishes", 1)
        if isinstance(outcome, Confirmed):
            self._again(send.dues, FIRST_RETRY_S)
            if send.configures is not None:
                self._rounds.told(send.configures[0], self._clock.monotonic_s())
            return [
                tasks.ExecutionSent(task_id=d.task_id, hostname=d.hostname, route=send.key)
                for d in send.dues
                if not d.was_sent and not d.is_cancelled
            ]
        self._count("publishes_returned", 1)
        return [self._returned(due, skips=send.skips) for due in send.dues]

    def _failed(self, send: Send) -> None:
        """It was not sent, or nobody knows: it is sent again after a while."""
        self._again(send.dues, RETRY_S)
        if send.configures is not None:
            hostname, seq = send.configures
            self._to_configure.setdefault(hostname, seq)
            self._configure_s = self._clock.monotonic_s() + RETRY_S

    def _again(self, dues: Iterable[Due], first_s: float) -> None:
        for due in dues:
            due.next_s = self._clock.monotonic_s() + min(first_s * 2**due.attempts, MOST_RETRY_S)
            due.attempts += 1

    @staticmethod
    def _returned(due: Due, *, skips: bool) -> Event:
        """The host is not there: its command waits for it, or is skipped where that was asked for."""
        if skips and not due.delivery.may_have_arrived:
            return tasks.ExecutionSkipped(task_id=due.task_id, hostname=due.hostname, reason="the host is offline")
        return tasks.ExecutionReturned(task_id=due.task_id, hostname=due.hostname, trigger_seq=due.delivery.trigger_seq)

    async def _unreachable(self, became: Sequence[Event]) -> list[Event]:
        """A host that seems online and whose command came back is not there; its next heartbeat brings it back.

        Without this an agent that reconnects between two heartbeats would never be sent what came back meanwhile.
        """
        came_back = (tasks.ExecutionReturned, tasks.ExecutionSkipped)
        names = {event.hostname for event in became if isinstance(event, came_back)}
        views = await self._host_queries.by_name(names) if names else {}
        said: list[Event] = []
        for host in views.values():
            stored = await self._log.read_one(HEARTBEAT_EVENT, host.heartbeat_seq) if host.heartbeat_seq else None
            heartbeat = registry.decode(stored) if stored else None
            if host.state in {"online", "stale"} and isinstance(heartbeat, hosts.HeartbeatReceived):
                said.append(
                    hosts.HostWentOffline(
                        hostname=host.hostname,
                        heartbeat_seq=host.heartbeat_seq,
                        heartbeat=heartbeat.message,
                        cause="a command came back: its queue is gone",
                    )
                )
        return said

    async def _record(self, said: Iterable[Event]) -> None:
        """Append, and take it in at once: what is read back later changes nothing more."""
        events = list(said)
        for start in range(0, len(events), PAGE):
            part = events[start : start + PAGE]
            await self._log.append([event.to_new_event(actor=self.name) for event in part])
            for event in part:
                self._open.note(event)
