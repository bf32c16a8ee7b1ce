"""Publishes what was accepted: follows the log, verifies each authorisation, and signs only what it covers.

The log is the outbox. What was published is recorded afterwards, so a crash leaves an execution without a record:
whoever takes over counts it as perhaps delivered and publishes again, and the agent knows what it has. Nothing is
published after `expires_at`, and nothing that came back or was never sent is taken for delivered.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypedDict

from control_plane.commands.authority import Authority, Keyring
from control_plane.commands.keyring import KINDS as OF_KEYS
from control_plane.commands.rules import RIGHTS
from control_plane.commands.secrets import NO_VAULT, Vault
from control_plane.commands.tasks import BEYOND_BASIC, message_of
from control_plane.events import hosts, registry, rollouts, stop, tasks
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, StoredEvent
from control_plane.events.event import Event
from control_plane.events.log import EventLog
from control_plane.events.tasks import TaskAccepted
from control_plane.observability import Count
from control_plane.processes.agents import Agents
from control_plane.processes.authorised import AuthorisedTasks
from control_plane.processes.configures import Configures
from control_plane.processes.open_executions import FIRST_RETRY_S, Due, OpenExecutions
from control_plane.processes.ports import Leases, Publisher
from control_plane.processes.post import Fate, Post, Send
from control_plane.processes.routes import fan_out, members_of
from control_plane.processes.witnesses import Rounds
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.hub import Hub
from control_plane.projections.queries.hosts import HostQueries
from control_plane.projections.queries.tasks import TaskQueries
from control_plane.projections.tasks import TasksProjection
from control_plane_wire.clock import Clock
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.messages import CancelMessage, CommandMessage
from control_plane_wire.topology import command_key

PAGE: Final = 500
CHUNK: Final = 64  # messages that are signed, published and recorded at once
POLL_S: Final = 0.25
RETRY_S: Final = 1.0  # after a publish that was not sent, or whose outcome nobody knows; it doubles

_logger = logging.getLogger(__name__)


class _Limits(TypedDict):
    """What every message of one task has."""

    expires_at: int
    skips: bool


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
        vault: Vault = NO_VAULT,
        count: Count,
        rounds: Rounds | None = None,
        failpoints: Failpoints = NO_FAILPOINTS,
    ) -> None:
        self._log = log
        self._leases = leases
        self._hub = hub
        self._post = Post(publisher, keyring, clock, is_stopped=self._is_stopped)
        self._authority = authority
        self._keyring = keyring
        self._vault = vault
        self._task_queries = task_queries
        self._host_queries = host_queries
        self._clock = clock
        self._count = count
        self._failpoints = failpoints
        self._open = OpenExecutions()
        self._tasks = AuthorisedTasks(log, keyring)
        self._agents = Agents()
        self._fleet_seq = 0  # the last event that says who is who or may what: the authority must not be behind it
        self._after = 0  # the last event that was taken in
        self._configures = Configures(
            authority, keyring, host_queries, clock, rounds or Rounds(), is_basic=self._is_basic
        )

    async def run(self, stop: asyncio.Event) -> None:
        await self._leases.keep("process:dispatch", lambda _lease: self._work(stop), stop=stop)

    async def _work(self, stop: asyncio.Event) -> None:
        await self._keyring.catch_up(self._log)
        self._after = await self._take_over(stop)
        self._failpoints.hit("dispatch.took_over")
        while not stop.is_set():
            _ = self._keyring.messenger  # without it nothing may be sent, and another process goes on
            has_news = await self._listen()
            await self._publish(await self._configures.sends())
            await self._publish_ready()
            if not has_news:
                await self._log.wait_beyond(EVENT, self._after, timeout_s=self._patience_s())

    async def _listen(self) -> bool:
        """Take in the next events; whether there were any."""
        events = await self._log.read(EVENT, after=self._after, limit=PAGE, patience_s=POLL_S)
        for stored in events:
            self._take_in(stored)
        if events:
            self._after = events[-1].seq
        return bool(events)

    def _patience_s(self) -> float:
        next_s = self._open.next_s()
        left_s = POLL_S if next_s is None else next_s - self._clock.monotonic_s()
        return min(POLL_S, max(left_s, 0.001))

    # --- what is known ------------------------------------------------------------------------------------------

    async def _take_over(self, stop: asyncio.Event) -> int:
        """Load what is open, and say of each execution without a record that it may have been delivered."""
        head = await self._log.head(EVENT)
        await self._shown(TasksProjection.name, head.seq, stop=stop)
        after, rows = await self._task_queries.open_executions()
        # What follows `after` is read here; up to there, who is there and what is bound must be in the table.
        heard = await self._log.head(HEARTBEAT_EVENT)
        await self._shown(HostsProjection.name, after, heard.seq, stop=stop)
        if stop.is_set():
            return after
        self._open = OpenExecutions()
        # What has become due since is not among the unknown: whoever had the lease before has never seen it.
        unknown = self._open.load(rows, head.seq)
        self._tasks.clear()
        self._agents = Agents.of(await self._host_queries.registered(), await self._task_queries.online())
        self._fleet_seq = after
        await self._configures.restart(self._agents.online, after)
        await self._record(unknown)
        return after

    async def _shown(self, name: str, event_seq: int, heartbeat_seq: int = 0, *, stop: asyncio.Event) -> None:
        """Wait until a read table has come so far, or `stop` is set."""
        while not stop.is_set() and not await self._hub.wait_for(name, event_seq, heartbeat_seq=heartbeat_seq):
            continue

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
        if stored.kind in OF_KEYS and self._keyring.take_in(stored):
            self._configures.keys_changed(stored.seq)
        event = registry.decode(stored)
        match event:
            case TaskAccepted():
                self._open.accept(self._tasks.verified(stored), stored.seq)
            case tasks.TaskCancelRequested(task_id=task_id):
                self._keyring.verify_event(stored)
                self._open.cancel(task_id)
            case rollouts.TaskPaused() | rollouts.TaskResumed() | rollouts.TaskRolloutStopped():
                self._keyring.verify_event(stored)
                self._turn(event)
            case rollouts.ExecutionReleased(task_id=task_id, hostname=hostname):
                self._keyring.verify_event(stored)
                self._open.release(task_id, hostname, stored.seq)
            case hosts.HostWentOnline():
                self._configures.came_online(event, stored.seq)
                self._open.online(event.hostname, stored.seq)
            case hosts.HostRegistered() | hosts.HostRevoked() | hosts.HostRetired() | hosts.HostKeySwitched():
                self._keyring.verify_event(stored)
                self._fleet_seq = stored.seq
            case hosts.HostQuarantined():
                self._keyring.verify_event(stored)
                self._fleet_seq = stored.seq
                if self._agents.is_meant(event):
                    self._open.quarantine(event.hostname)
            case hosts.HostQuarantineLifted():
                self._keyring.verify_event(stored)
                self._fleet_seq = stored.seq
                self._open.online(event.hostname, stored.seq)
            case hosts.HostGroupsChanged(hostname=hostname):
                self._fleet_seq = stored.seq
                self._configures.changed(hostname, stored.seq)
            case stop.StopLifted():
                self._keyring.verify_event(stored)
                self._fleet_seq = stored.seq
                self._open.look_again()
            case _ if isinstance(event, RIGHTS):
                self._fleet_seq = stored.seq
        if event is not None:
            self._agents.note(event, stored.seq)
            self._open.note(event)

    def _turn(self, event: rollouts.TaskPaused | rollouts.TaskResumed | rollouts.TaskRolloutStopped) -> None:
        match event:
            case rollouts.TaskPaused():
                self._open.pause(event.task_id)
            case rollouts.TaskResumed():
                self._open.resume(event.task_id)
            case rollouts.TaskRolloutStopped():
                self._open.stop(event.task_id, event.reason)

    def _is_basic(self, hostname: str) -> bool:
        return self._agents.is_basic(self._authority.fleet.hosts.get(hostname))

    # --- what is to be done -------------------------------------------------------------------------------------

    async def _publish_ready(self) -> None:
        ready = self._open.take_ready(self._clock.monotonic_s())
        if not ready:
            return
        if self._authority.position < self._fleet_seq:
            await self._authority.refresh()  # another process may have said it a moment ago
        by_task: dict[str, list[Due]] = {}
        for due in ready:
            by_task.setdefault(due.task_id, []).append(due)
        sends: list[Send] = []
        said: list[Event] = []
        for task_id, dues in by_task.items():
            task = await self._tasks.find(task_id)
            if task is not None:
                is_over = self._clock.now_s() >= task.expires_at
                targets = frozenset(task.hosts)  # a read table authorises nobody
                covered = [d for d in dues if d.hostname in targets]
                asked = [d.hostname for d in covered if not d.is_cancelled and not is_over]
                # never sent, or never again
                no_more = self._vault.withheld(task, asked) or self._authority.withdrawn(task, asked)
                said += self._refusals(task, covered, no_more, is_over=is_over)
                same = [d for d in covered if d.key in self._open.due and not self._is_replaced(task, d.hostname)]
                sends += self._cancels(task, same)
                if not is_over:
                    wanted = self._not_held(task, [d for d in same if d.hostname not in no_more])
                    sends += await self._commands(task, wanted) if wanted else []
        await self._record(said)
        await self._publish(sends)

    def _not_held(self, task: TaskAccepted, dues: Iterable[Due]) -> list[Due]:
        """Those whose command may be sent now.

        A paused task keeps them all until it is resumed or over; and so do all tasks, while everything is stopped.
        """
        wanted = [due for due in dues if due.is_released and not due.is_cancelled]
        if task.task_id not in self._open.paused and not self._is_stopped():
            return wanted
        until_s = self._clock.monotonic_s() + task.expires_at - self._clock.now_s()
        for due in wanted:
            self._open.hold(due, until_s)
        return []

    def _is_stopped(self) -> bool:
        """As far as the authority knows, which is at most a moment behind the log, and never behind what was read."""
        return self._authority.stop.standing is not None

    def _is_replaced(self, task: TaskAccepted, hostname: str) -> bool:
        return self._authority.fleet.is_replaced(hostname, task.as_of)

    def _is_trusted(self, hostname: str) -> bool:
        """Whether a command may go to it now; what waits for one in quarantine is sent when that is lifted."""
        fleet = self._authority.fleet
        return fleet.public_key(hostname) is not None and not fleet.is_quarantined(hostname)

    def _refusals(
        self, task: TaskAccepted, dues: Iterable[Due], no_more: Mapping[str, str], *, is_over: bool
    ) -> list[Event]:
        """What is to be said of those that are sent nothing: how they end, or that nothing has reached their host.

        The last is known only here, and only because every publish of this tenure was waited for. It is said when there
        will be none for this trigger any more; before that, one might follow and die with us unrecorded.
        """
        said: list[Event] = []
        needs = [name for name in BEYOND_BASIC if name in task.request]
        for due in dues:
            known = {"task_id": due.task_id, "hostname": due.hostname}
            if due.is_cancelled and due.certainly_not_delivered:
                said.append(tasks.ExecutionCancelled(**known, reason="cancelled before it was delivered"))
            elif not due.is_released and due.certainly_not_delivered and due.task_id in self._open.stopped:
                said.append(tasks.ExecutionSkipped(**known, reason=self._open.stopped[due.task_id]))
            elif due.certainly_not_delivered and self._is_replaced(task, due.hostname):
                said.append(tasks.ExecutionSkipped(**known, reason="the name belongs to another machine by now"))
            elif due.is_released and due.certainly_not_delivered and due.hostname in no_more:
                said.append(tasks.ExecutionSkipped(**known, reason=no_more[due.hostname]))
            elif needs and self._is_basic(due.hostname) and not due.is_cancelled:
                said.append(tasks.ExecutionSkipped(**known, reason=f"basic agent: no {', '.join(needs)}"))
            elif due.is_unsaid and (is_over or not self._is_trusted(due.hostname)):
                said.append(tasks.ExecutionReturned(**known, trigger_seq=due.delivery.trigger_seq))
        for event in said:
            self._open.note(event)
        return said

    def _cancels(self, task: TaskAccepted, dues: Iterable[Due]) -> list[Send]:
        now_s = self._clock.now_s()
        return [
            Send(command_key(d.hostname), CancelMessage(task_id=task.task_id, timestamp=now_s), (d,))
            for d in dues
            if d.is_cancelled and not self._is_basic(d.hostname)
        ]

    async def _commands(self, task: TaskAccepted, dues: Sequence[Due]) -> list[Send]:
        """By one key where that reaches exactly these hosts, else host by host."""
        dues = [d for d in dues if not d.answered and self._is_trusted(d.hostname)]
        message = message_of(task, self._vault)
        basic = {d.hostname for d in dues if self._is_basic(d.hostname)}.union(task.basic)
        limits: _Limits = {"expires_at": task.expires_at, "skips": task.request.get("when_offline") == "skip"}
        is_first = len(dues) == len(task.hosts) and all(d.is_untouched for d in dues)
        if is_first and (key := await self._fan_out_key(task)) is not None:
            has_basic = any(d.hostname in basic for d in dues)
            return [Send(key, message.basic() if has_basic else message, tuple(dues), **limits)]
        return [
            Send(command_key(d.hostname), message.basic() if d.hostname in basic else message, (d,), **limits)
            for d in dues
        ]

    async def _fan_out_key(self, task: TaskAccepted) -> str | None:
        target = task.request["target"]
        one_by_one = task.request.keys() & {"rollout", "secrets"}  # a secret goes to no queue but those of its hosts
        if one_by_one or not isinstance(target, dict) or not target.keys() & {"group", "all"}:
            return None
        if not self._agents.online.keys() >= set(task.hosts):
            return None
        await self._authority.refresh()
        members = members_of(self._authority.fleet, target, as_of=task.as_of)
        if members is None:
            return None
        found = fan_out(target, task.hosts, await self._host_queries.registered(), members)
        return found.key if found is not None and await self._post.are_gone(found.unless_there) else None

    # --- doing it -----------------------------------------------------------------------------------------------

    async def _publish(self, sends: Sequence[Send]) -> None:
        """Publish all of them, some at a time in their order, and record what became of each.

        That may take minutes where there are many or the broker is slow, and what is said meanwhile counts.
        """
        fleet_seq = self._fleet_seq
        for start in range(0, len(sends), CHUNK):
            if start:
                await self._listen()
            if some := self._still_wanted(sends[start : start + CHUNK], fleet_seq):
                await self._publish_some(some)

    def _still_wanted(self, sends: Sequence[Send], fleet_seq: int) -> list[Send]:
        """Those that may be published yet: what stood before them took its time. The others are looked at once more."""
        now_s = self._clock.now_s()
        wanted: list[Send] = []
        for send in sends:
            is_in_time = send.expires_at is None or now_s < send.expires_at
            is_same = self._fleet_seq == fleet_seq and all(map(self._open.may_be_sent, send.dues))
            if is_in_time and (is_same or not isinstance(send.message, CommandMessage)):
                wanted.append(send)
            else:
                for due in send.dues:
                    self._open.plan(due, 0.0)
        return wanted

    async def _publish_some(self, sends: Sequence[Send]) -> None:
        self._failpoints.hit("dispatch.before_publish")
        for send in sends:
            for due in send.dues:
                due.in_doubt = True
        fates = await self._post.publish(sends)
        self._failpoints.hit("dispatch.after_publish")
        said = [event for send, fate in zip(sends, fates, strict=True) for event in self._became(send, fate)]
        said += await self._agents.unreachable(said, self._log)
        if said:
            self._failpoints.hit("dispatch.before_sent")
            await self._record(said)
            self._failpoints.hit("dispatch.after_sent")

    def _became(self, send: Send, fate: Fate) -> list[Event]:
        """What is to be recorded of a message; and when it is sent again."""
        match fate:
            case "confirmed":
                self._count("publishes", 1)
                self._again(send, FIRST_RETRY_S)
                self._configures.told(send)
                return [
                    tasks.ExecutionSent(task_id=d.task_id, hostname=d.hostname, route=send.key, after_seq=self._after)
                    for d in send.dues
                    if not d.was_sent and not d.is_cancelled
                ]
            case "returned":
                self._count("publishes", 1)
                self._count("publishes_returned", 1)
                return [self._returned(due, skips=send.skips) for due in send.dues]
            case "unconfirmed":
                self._count("publishes_unconfirmed", 1)
                self._failed(send)
                return [
                    tasks.ExecutionUnconfirmed(task_id=d.task_id, hostname=d.hostname, after_seq=self._after)
                    for d in send.dues
                    if not d.delivery.may_have_arrived
                ]
            case "unsent":
                for due in send.dues:
                    due.in_doubt = False
                self._failed(send)
                return []

    def _failed(self, send: Send) -> None:
        """It was not sent, or nobody knows: it is sent again after a while."""
        self._again(send, RETRY_S)
        self._configures.failed(send)

    def _again(self, send: Send, first_s: float) -> None:
        now_s, left_s = self._clock.monotonic_s(), send.left_s(self._clock.now_s())
        for due in send.dues:
            self._open.again(due, now_s, first_s=first_s, left_s=left_s)

    @staticmethod
    def _returned(due: Due, *, skips: bool) -> Event:
        """The host is not there: its command waits for it, or is skipped where that was asked for."""
        if skips and not due.delivery.may_have_arrived:
            return tasks.ExecutionSkipped(task_id=due.task_id, hostname=due.hostname, reason="the host is offline")
        return tasks.ExecutionReturned(task_id=due.task_id, hostname=due.hostname, trigger_seq=due.delivery.trigger_seq)

    async def _record(self, said: Iterable[Event]) -> None:
        """Append, and take it in at once: what is read back later changes nothing more."""
        events = list(said)
        for start in range(0, len(events), PAGE):
            part = events[start : start + PAGE]
            await self._log.append([event.to_new_event(actor=self.name) for event in part])
            for event in part:
                self._open.note(event)
