"""Which hosts are to be put into quarantine: of what their heartbeats give rise to, what is not settled yet."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from control_plane.events import hosts
from control_plane.events.continuity import Doubt, Trace, follow
from control_plane.events.envelope import HEARTBEAT_EVENT, StoredEvent
from control_plane.events.event import Event
from control_plane.events.heartbeats import glance
from control_plane.events.log import EventLog
from control_plane.events.presence import LastHeartbeat, counted
from control_plane.projections.queries.hosts import HeardHost
from control_plane_wire.signing import decode_public_key, key_id

LOOK_BACK: Final = 6  # heartbeats of a host, so those of a minute
PAGE: Final = 1000
KINDS: Final = frozenset(
    cls.KIND
    for cls in (
        hosts.HostRegistered,
        hosts.HostKeySwitched,
        hosts.HostRetired,
        hosts.HostQuarantined,
        hosts.HostQuarantineLifted,
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trust:
    """Attributes: `since_us`: of its registration, or of the end of its last quarantine."""

    key_id: str | None
    since_us: int
    is_quarantined: bool = False


class Doubts:
    """A fold over the event log, and the last doubt about each host; all but `look_back` is pure.

    What a heartbeat contradicts must have been said since the host was registered or trusted again: before that it may
    have been another machine, or one with another journal.
    """

    def __init__(self, heard: Iterable[HeardHost]) -> None:
        self._trusts: dict[str, _Trust] = {}
        self._open: dict[str, Doubt] = {}
        for host in heard:
            if host.state != "retired":
                self._trusts[host.hostname] = _Trust(
                    key_id=host.key_id,
                    since_us=max(host.registered_us, host.lifted_us),
                    is_quarantined=host.quarantined_us is not None,
                )

    def __bool__(self) -> bool:
        """Whether there is one that may have to be recorded."""
        return any(not self._trusts[hostname].is_quarantined for hostname in self._open)

    def found(self, hostname: str, doubt: Doubt | None) -> None:
        if doubt is not None and hostname in self._trusts:
            self._open[hostname] = doubt
            self._settle(hostname)

    async def look_back(self, log: EventLog, upto: int) -> None:
        """Take in what whoever did this before may have died with: the read table, at `upto`, may be past it."""
        after = max(0, upto - LOOK_BACK * len(self._trusts))
        lasts: dict[str, LastHeartbeat | None] = {}
        traces: dict[str, Trace] = {}
        while after < upto and (page := await log.read(HEARTBEAT_EVENT, after=after, limit=PAGE, upto=upto)):
            for stored in page:
                if (beat := glance(stored)) is not None:
                    name, before = beat.hostname, lasts.get(beat.hostname)
                    now = counted(before, beat, stored.recorded_us)
                    traces[name] = follow(traces.get(name, Trace()), before, now, beat, stored)
                    lasts[name] = now or before
                    self.found(name, traces[name].doubt)
            after = page[-1].seq

    def said(self, stored: StoredEvent, event: Event | None) -> None:
        """Take in an event about a host."""
        hostname = stored.hostname or ""
        trust = self._trusts.get(hostname)
        match event:
            case hosts.HostRegistered(public_key=public_key):
                own_key_id = key_id(decode_public_key(public_key))
                self._trusts[hostname] = _Trust(key_id=own_key_id, since_us=stored.recorded_us)
            case hosts.HostKeySwitched() if trust is not None:
                self._trusts[hostname] = replace(trust, key_id=event.key_id)
            case hosts.HostRetired():
                self._trusts.pop(hostname, None)
            case hosts.HostQuarantined() if trust is not None and trust.key_id == event.key_id:
                self._trusts[hostname] = replace(trust, is_quarantined=True)
            case hosts.HostQuarantineLifted() if trust is not None:
                self._trusts[hostname] = replace(trust, is_quarantined=False, since_us=stored.recorded_us)
        self._settle(hostname)

    def _settle(self, hostname: str) -> None:
        doubt, trust = self._open.get(hostname), self._trusts.get(hostname)
        if doubt is None:
            return
        if trust is None or doubt.since_us < trust.since_us or doubt.key_id != trust.key_id:
            del self._open[hostname]

    def due(self) -> list[hosts.HostQuarantined]:
        """What is to be recorded, by name; a repeat has the same key and the same body."""
        return [
            hosts.HostQuarantined(
                hostname=hostname,
                heartbeat_seq=doubt.heartbeat_seq,
                key_id=doubt.key_id,
                reason=doubt.reason,
                before=doubt.before,
                after=doubt.after,
            )
            for hostname, doubt in sorted(self._open.items())
            if not self._trusts[hostname].is_quarantined
        ]
