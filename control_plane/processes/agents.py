"""What dispatch knows of the agents: who seems to be there, and whose agent is basic; a fold of the log, in memory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from control_plane.commands.hosts import Host
from control_plane.events import hosts
from control_plane.events.event import Event
from control_plane.projections.queries.hosts import HostView


@dataclass(slots=True)
class Agents:
    """By hostname.

    Attributes:
        online: those that seem to be there, with the event of their coming online.
        heard: whether an agent is basic by what it said last.
    """

    online: dict[str, int] = field(default_factory=dict)
    heard: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, views: Iterable[HostView], online_since: Mapping[str, int]) -> "Agents":
        """What the read tables say of the hosts in their states, and which event brought each online last."""
        known = {view.hostname: view for view in views if view.state in {"online", "stale", "offline"}}
        return cls(
            online={
                name: seq for name, seq in online_since.items() if name in known and known[name].state != "offline"
            },
            heard={name: view.basic for name, view in known.items()},
        )

    def note(self, event: Event, seq: int) -> None:
        match event:
            case hosts.HostWentOnline(hostname=hostname):
                self.online[hostname] = seq
                self.heard[hostname] = event.heartbeat.get("agent_version") is None
            case hosts.HostWentOffline(hostname=hostname):
                self.online.pop(hostname, None)
            case hosts.HostRegistered() | hosts.HostRevoked() | hosts.HostRetired():
                self.online.pop(event.hostname, None)
                self.heard.pop(event.hostname, None)  # whoever comes next under this name is another

    def is_basic(self, host: Host | None) -> bool:
        return host is None or host.is_basic(self.heard.get(host.hostname))
