"""Which heartbeats outlive their segment: the few of each host whose fold is that of all it ever sent.

So whoever reads the log from its beginning needs to know nothing of what was dropped.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from control_plane.errors import FoldError
from control_plane.events import registry
from control_plane.events.envelope import StoredEvent
from control_plane.events.hosts import HeartbeatReceived
from control_plane.events.presence import REMEMBERED_BOOTS, LastHeartbeat, counted, is_near
from control_plane_wire.errors import MalformedMessageError

KEPT_BOOTS: Final = REMEMBERED_BOOTS + 1


@dataclass(slots=True)
class _Host:
    """Attributes: `boots`: the last heartbeat of each boot, newest last; `basic`: those of a basic agent since."""

    last: LastHeartbeat | None = None
    timestamp: int = 0
    boots: list[StoredEvent] = field(default_factory=list)
    basic: list[StoredEvent] = field(default_factory=list)


class Kept:
    """Takes in heartbeats in the order of the log, beginning with those that were kept before."""

    def __init__(self, earlier: Iterable[StoredEvent] = ()) -> None:
        self._hosts: dict[str, _Host] = {}
        for stored in earlier:
            self.add(stored)

    def add(self, stored: StoredEvent) -> None:
        """Raises FoldError for what this release cannot read: nobody knows what depends on it."""
        try:
            event = registry.decode(stored)
            heartbeat = event.heartbeat if isinstance(event, HeartbeatReceived) else None
        except MalformedMessageError as error:
            raise FoldError(stored.seq, str(error)) from error
        if heartbeat is None:
            raise FoldError(stored.seq, f"{stored.kind} is not known here")
        host = self._hosts.setdefault(heartbeat.hostname, _Host())
        last = counted(host.last, heartbeat, stored.recorded_us)
        if last is None:
            return
        if heartbeat.boot_id is not None and heartbeat.sequence is not None:
            is_same_boot = host.last is not None and host.last.boot_id == last.boot_id
            host.boots = [*(host.boots[:-1] if is_same_boot else host.boots), stored][-KEPT_BOOTS:]
            host.basic = []
            host.timestamp = heartbeat.timestamp
        elif not host.boots or heartbeat.timestamp > host.timestamp or is_near(heartbeat, stored.recorded_us):
            host.basic = [stored]
        else:  # it counts only behind the ones before it
            host.basic.append(stored)
        host.last = last

    def events(self) -> list[StoredEvent]:
        """The kept ones of all hosts, in the order of the log."""
        kept = [stored for host in self._hosts.values() for stored in (*host.boots, *host.basic)]
        return sorted(kept, key=lambda stored: stored.seq)
