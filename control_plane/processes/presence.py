"""Who is there: follows the heartbeats and says, by the control plane's clock, when a host comes and goes.

Silence is measured by the monotonic clock, from when this process heard the host: a step of the wall clock makes nobody
silent, and keeps nobody alive. Nobody is judged who could not be heard: not within three intervals after this process,
the consumer of heartbeats or the broker itself came back.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from control_plane.commands.authority import Keyring
from control_plane.commands.keyring import KINDS as OF_KEYS
from control_plane.events import hosts, registry
from control_plane.events.continuity import Trace, follow
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, NewEvent, StoredEvent
from control_plane.events.event import Event
from control_plane.events.log import EventLog
from control_plane.events.presence import LastHeartbeat, counted
from control_plane.observability import Count
from control_plane.processes import quarantine
from control_plane.processes.ports import Leases
from control_plane.processes.quarantine import Doubts
from control_plane.projections.queries.hosts import HeardHost, HostQueries
from control_plane_wire.clock import Clock
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.messages import BASIC_INTERVAL_S, DEFAULT_INTERVAL_S, HeartbeatMessage, parse_heartbeat

HEARING: Final = "ingest:heartbeats"  # the lease of whoever takes heartbeats in
STALE_AFTER: Final = 2  # missed intervals
OFFLINE_AFTER: Final = 3
ANEW_S: Final = DEFAULT_INTERVAL_S  # between two of one host, which may say it at will: the event log is kept for good
LOOK_S: Final = 1.0
POLL_S: Final = 0.25
PAGE: Final = 1000

KINDS: Final = frozenset(
    cls.KIND
    for cls in (
        hosts.HostRegistered,
        hosts.HostRevoked,
        hosts.HostRetired,
        hosts.HostWentOnline,
        hosts.HostWentStale,
        hosts.HostWentOffline,
    )
)
STATES: Final = {
    hosts.HostRegistered.KIND: "pending",
    hosts.HostRevoked.KIND: "revoked",
    hosts.HostRetired.KIND: "retired",
    hosts.HostWentOnline.KIND: "online",
    hosts.HostWentStale.KIND: "stale",
    hosts.HostWentOffline.KIND: "offline",
}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A host as presence knows it: what was said of it last, and its last heartbeat that counted.

    Attributes:
        heard_s: when that was read here, in monotonic seconds; of one that was heard before, when this process began.
        session: in which its agent spoke last, if it has said that.
        owed: what has brought it anew while it was online, if that is still to be said.
        anew_s: when such a thing was said last.
    """

    hostname: str
    heard_s: float
    state: str = "pending"
    heartbeat_seq: int = 0
    interval_s: int = BASIC_INTERVAL_S
    last: LastHeartbeat | None = None
    session: int | None = None
    owed: str | None = None
    anew_s: float = -math.inf
    trace: Trace = Trace()  # noqa: RUF009 - it is immutable


class Fleet:
    """What presence knows; pure: events and heartbeats in, events to record out. All times are monotonic seconds.

    Attributes:
        doubts: what the heartbeats say against their hosts.
    """

    def __init__(self, heard: list[HeardHost], now_s: float, doubts: Doubts | None = None) -> None:
        self.hosts = {
            host.hostname: Heard(
                hostname=host.hostname,
                heard_s=now_s,
                state=host.state,
                heartbeat_seq=host.heartbeat_seq,
                interval_s=host.interval_s or BASIC_INTERVAL_S,
                last=host.last,
                session=host.session,
                trace=host.trace,
            )
            for host in heard
        }
        self.doubts = Doubts(heard) if doubts is None else doubts

    def said(self, stored: StoredEvent, now_s: float) -> None:
        """Take in an event about a host, whoever recorded it."""
        hostname = stored.hostname or ""
        state = STATES[stored.kind]
        if state == "pending":
            self.hosts[hostname] = Heard(hostname=hostname, heard_s=now_s)
        elif hostname in self.hosts:
            self.hosts[hostname] = replace(self.hosts[hostname], state=state)

    def knows(self, stored: StoredEvent) -> bool:
        """Whether the host of a heartbeat is one that may be heard."""
        host = self.hosts.get(stored.hostname or "")
        return host is not None and host.state not in {"revoked", "retired"}

    def heartbeat(self, stored: StoredEvent, heartbeat: HeartbeatMessage, now_s: float) -> str | None:
        """Take in a heartbeat; where it is news that the host is there, or goes, what has brought it."""
        if not self.knows(stored):
            return None
        before = self.hosts[heartbeat.hostname]
        last = counted(before.last, heartbeat, stored.recorded_us)
        trace = follow(before.trace, before.last, last, heartbeat, stored)
        if trace.doubt is not before.trace.doubt:
            self.doubts.found(heartbeat.hostname, trace.doubt)
        if last is None:
            self.hosts[heartbeat.hostname] = replace(before, trace=trace)
            return None
        now = replace(
            before,
            trace=trace,
            heartbeat_seq=stored.seq,
            heard_s=now_s,
            interval_s=heartbeat.interval_s,
            last=last,
            session=before.session if heartbeat.session is None else heartbeat.session,
        )
        if heartbeat.status == "offline" or before.state != "online":
            self.hosts[heartbeat.hostname] = replace(now, owed=None)
            if heartbeat.status == "online":
                return "a heartbeat came"
            return "the agent was stopped" if before.state in {"online", "stale"} else None
        # Its queue is a new one, and what was in the one before may be lost, though it was never silent.
        if before.last is not None and before.last.boot_id != last.boot_id:
            now = replace(now, owed="a heartbeat came")
        elif before.session is not None and (heartbeat.session or 0) > before.session:
            now = replace(now, owed="the agent connected anew")
        self.hosts[heartbeat.hostname] = now
        return self.anew(heartbeat.hostname, now_s)

    def anew(self, hostname: str, now_s: float) -> str | None:
        """What has brought a host anew, if that is to be said by now."""
        host = self.hosts[hostname]
        if host.owed is None or host.state != "online" or now_s < host.anew_s + ANEW_S:
            return None
        self.hosts[hostname] = replace(host, owed=None, anew_s=now_s)
        return host.owed

    def silent(self, now_s: float, hearing_since_s: float) -> list[tuple[Heard, str]]:
        """Hosts whose silence means another state by now, with that state.

        Args:
            hearing_since_s: since when every heartbeat would have been heard; earlier silence proves nothing.
        """
        found = []
        for host in self.hosts.values():
            if host.state not in {"online", "stale"}:
                continue
            if now_s - hearing_since_s < OFFLINE_AFTER * host.interval_s:
                continue
            missed = (now_s - host.heard_s) // host.interval_s
            if missed >= OFFLINE_AFTER:
                found.append((host, "offline"))
            elif missed >= STALE_AFTER and host.state == "online":
                found.append((host, "stale"))
        return found


@dataclass(slots=True)
class Hearing:
    """Since when heartbeats are heard without a gap.

    Whoever takes them in holds a lease for as long as its session with the broker lasts, in whichever process that is.
    Another epoch is another session, and between two there may have been none. The heartbeats themselves would not do:
    in a fleet of one host its own silence and the consumer's look the same.
    """

    epoch: int | None
    since_s: float

    def look(self, epoch: int | None, now_s: float) -> float | None:
        """Since when, in monotonic seconds; None while nobody takes them in.

        Args:
            epoch: of the lease as it is held now; None: nobody holds it, or the broker lets nothing through.
        """
        if epoch != self.epoch:
            self.epoch, self.since_s = epoch, now_s
        return None if epoch is None else self.since_s


class Presence:
    """The process, as a service; any number may run, and the one with the lease works.

    Args:
        heard_under: the epoch under which somebody takes heartbeats in now; None while nobody can.
        untaken_s: for how long nobody knows whether the broker takes them from agents; that time is nobody's silence.
    """

    name = "presence"

    def __init__(
        self,
        log: EventLog,
        leases: Leases,
        queries: HostQueries,
        clock: Clock,
        *,
        keyring: Keyring,
        heard_under: Callable[[], Awaitable[int | None]],
        count: Count,
        untaken_s: Callable[[], float] = lambda: 0.0,
        failpoints: Failpoints = NO_FAILPOINTS,
    ) -> None:
        self._log = log
        self._leases = leases
        self._queries = queries
        self._clock = clock
        self._keyring = keyring
        self._heard_under = heard_under
        self._count = count
        self._untaken_s = untaken_s
        self._failpoints = failpoints

    async def run(self, stop: asyncio.Event) -> None:
        await self._leases.keep("process:presence", lambda lease: self._work(lease, stop), stop=stop)

    async def _work(self, _lease: object, stop: asyncio.Event) -> None:
        as_of, heard = await self._queries.heard()
        await self._keyring.catch_up(self._log)
        looked_s = self._clock.monotonic_s()
        doubts = Doubts(heard)
        await doubts.look_back(self._log, as_of.heartbeat)
        fleet, hearing = Fleet(heard, looked_s, doubts), Hearing(await self._heard_under(), looked_s)
        event_seq, heartbeat_seq = as_of.event, as_of.heartbeat
        while not stop.is_set():
            event_seq = await self._listen(fleet, event_seq)
            event_seq = await self._doubt(fleet, event_seq)
            if heartbeats := await self._log.read(HEARTBEAT_EVENT, after=heartbeat_seq, limit=PAGE, patience_s=POLL_S):
                if not all(fleet.knows(stored) for stored in heartbeats):  # perhaps registered a moment ago
                    event_seq = await self._listen(fleet, event_seq, patience_s=0)
                news = self._news(fleet, heartbeats)
                event_seq = await self._doubt(fleet, event_seq)  # first: what comes online is sent what waits for it
                await self._record(news)
                heartbeat_seq = heartbeats[-1].seq
                if len(heartbeats) == PAGE:
                    continue  # nobody is judged by what is not read yet
            now_s = self._clock.monotonic_s()
            if now_s - looked_s >= LOOK_S:
                looked_s = now_s
                await self._follow_up(fleet, now_s)
                await self._judge(fleet, now_s, hearing.look(await self._heard_under(), now_s))
            await self._log.wait_beyond(HEARTBEAT_EVENT, heartbeat_seq, timeout_s=POLL_S)

    async def _listen(self, fleet: Fleet, after: int, *, patience_s: float = POLL_S) -> int:
        while page := await self._log.read(EVENT, after=after, limit=PAGE, patience_s=patience_s):
            for stored in page:
                self._take_in(fleet, stored)
            after = page[-1].seq
        return after

    def _take_in(self, fleet: Fleet, stored: StoredEvent) -> None:
        """Fold one event; what is wrong with it is counted, and stops nothing else."""
        if stored.kind in OF_KEYS:
            self._keyring.take_in(stored)
        if stored.kind not in KINDS | quarantine.KINDS:
            return
        try:
            event = registry.decode(stored)
            if event is not None and event.GIVES_AUTHORITY:
                self._keyring.verify_event(stored)
            if stored.kind in quarantine.KINDS:
                fleet.doubts.said(stored, event)
            if stored.kind in KINDS:
                fleet.said(stored, self._clock.monotonic_s())
        except (SignatureError, MalformedMessageError, TypeError, KeyError) as error:
            self._count("events_refused", 1)
            _logger.error(  # noqa: TRY400 - what it was is in the fields
                "event refused by presence", extra={"seq": stored.seq, "kind": stored.kind, "reason": str(error)}
            )

    async def _doubt(self, fleet: Fleet, event_seq: int) -> int:
        """Put into quarantine whoever has to be; the position in the event log that was listened to for that."""
        if fleet.doubts:
            event_seq = await self._listen(fleet, event_seq, patience_s=0)  # it may be another machine by now
        if due := fleet.doubts.due():
            self._failpoints.hit("presence.before_quarantine")
            await self._log.append([self._signed(event) for event in due])
            self._failpoints.hit("presence.after_quarantine")
            for event in due:
                fields = {"hostname": event.hostname, "reason": event.reason}
                _logger.error("host put into quarantine", extra=fields)
            event_seq = await self._listen(fleet, event_seq, patience_s=0)
        return event_seq

    def _signed(self, event: Event) -> NewEvent:
        keyring = self._keyring
        return event.to_new_event(actor=self.name, signature=keyring.sign_event(event), key_id=keyring.active.key_id)

    def _news(self, fleet: Fleet, heartbeats: list[StoredEvent]) -> list[Event]:
        now_s = self._clock.monotonic_s()
        news: list[Event] = []
        for stored in heartbeats:
            try:
                event = registry.decode(stored)
                if not isinstance(event, hosts.HeartbeatReceived):
                    continue
                cause = fleet.heartbeat(stored, event.heartbeat, now_s)
            except MalformedMessageError as error:
                fields = {"seq": stored.seq, "reason": error.reason}
                _logger.error("heartbeat refused by presence", extra=fields)  # noqa: TRY400 - the fields say it all
                continue
            if cause is not None:
                news.append(_news_of(stored, event, cause))
                fleet.hosts[event.hostname] = replace(fleet.hosts[event.hostname], state=STATES[news[-1].KIND])
        return news

    async def _follow_up(self, fleet: Fleet, now_s: float) -> None:
        """Say of whom it is due by now that it has come anew."""
        news: list[Event] = []
        for host in [host for host in fleet.hosts.values() if host.owed is not None]:
            if (cause := fleet.anew(host.hostname, now_s)) is not None:
                stored = await self._log.read_one(HEARTBEAT_EVENT, host.heartbeat_seq)
                event = registry.decode(stored) if stored else None
                if stored is not None and isinstance(event, hosts.HeartbeatReceived):
                    news.append(_news_of(stored, event, cause))
        await self._record(news)

    async def _judge(self, fleet: Fleet, now_s: float, hearing_since_s: float | None) -> None:
        if hearing_since_s is None:
            return
        silent: list[Event] = []
        for host, state in fleet.silent(now_s - self._untaken_s(), hearing_since_s):
            silent.append(await self._silence(host, state))
            fleet.hosts[host.hostname] = replace(host, state=state)
        await self._record(silent)

    async def _silence(self, host: Heard, state: str) -> Event:
        stored = await self._log.read_one(HEARTBEAT_EVENT, host.heartbeat_seq)
        event = registry.decode(stored) if stored else None
        message = event.message if isinstance(event, hosts.HeartbeatReceived) else {}
        kind = hosts.HostWentOffline if state == "offline" else hosts.HostWentStale
        missed = OFFLINE_AFTER if state == "offline" else STALE_AFTER
        return kind(
            hostname=host.hostname,
            heartbeat_seq=host.heartbeat_seq,
            heartbeat=message,
            cause=f"no heartbeat for {missed} intervals of {host.interval_s} s",
        )

    async def _record(self, events: list[Event]) -> None:
        for start in range(0, len(events), 500):
            self._failpoints.hit("presence.before_append")
            await self._log.append([event.to_new_event(actor=self.name) for event in events[start : start + 500]])
            self._failpoints.hit("presence.after_append")


def _news_of(stored: StoredEvent, event: hosts.HeartbeatReceived, cause: str) -> Event:
    heartbeat = parse_heartbeat(event.message)
    kind = hosts.HostWentOffline if heartbeat.status == "offline" else hosts.HostWentOnline
    return kind(hostname=heartbeat.hostname, heartbeat_seq=stored.seq, heartbeat=event.message, cause=cause)
