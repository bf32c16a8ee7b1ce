"""What dispatch knows of the agents: who seems to be there, and whose agent is basic; a fold of the log, in memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from control_plane.commands.hosts import Host
from control_plane.events import hosts, registry, tasks
from control_plane.events.envelope import EVENT
from control_plane.events.event import Event
from control_plane.events.log import EventLog
from control_plane.projections.queries.hosts import HostView
from control_plane_wire.signing import decode_public_key, key_id


@dataclass(slots=True)
class Agents:
    """By hostname.

    Attributes:
        online: those that seem to be there, with the event of their coming online.
        heard: whether an agent is basic by what it said last.
        keys: the key_id of each registered machine.
    """

    online: dict[str, int] = field(default_factory=dict)
    heard: dict[str, bool] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, views: Iterable[HostView], online_since: Mapping[str, int]) -> "Agents":
        """What the read tables say of the hosts in their states, and which event brought each online last."""
        registered = [view for view in views if view.state != "retired"]
        known = {view.hostname: view for view in registered if view.state in {"online", "stale", "offline"}}
        return cls(
            online={
                name: seq for name, seq in online_since.items() if name in known and known[name].state != "offline"
            },
            heard={name: view.basic for name, view in known.items()},
            keys={view.hostname: view.key_id for view in registered if view.key_id is not None},
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
        match event:
            case hosts.HostRegistered(hostname=hostname, public_key=public_key):
                self.keys[hostname] = key_id(decode_public_key(public_key))
            case hosts.HostKeySwitched():
                self.keys[event.hostname] = event.key_id
            case hosts.HostRetired(hostname=hostname):
                self.keys.pop(hostname, None)

    def is_meant(self, event: hosts.HostQuarantined) -> bool:
        """Whether it is about the machine that has the name now."""
        return self.keys.get(event.hostname, event.key_id) == event.key_id

    async def unreachable(self, became: Sequence[Event], log: EventLog) -> list[Event]:
        """A host that seems online and whose command came back is not there; its next heartbeat brings it back.

        Without this an agent that reconnects between two heartbeats would never be sent what came back meanwhile. What
        counts is the coming online that was read here: a read table may not have it yet.
        """
        came_back = (tasks.ExecutionReturned, tasks.ExecutionSkipped)
        names = {event.hostname for event in became if isinstance(event, came_back)} & self.online.keys()
        said: list[Event] = []
        for hostname in sorted(names):
            stored = await log.read_one(EVENT, self.online.pop(hostname))
            online = registry.decode(stored) if stored else None
            if isinstance(online, hosts.HostWentOnline):
                said.append(
                    hosts.HostWentOffline(
                        hostname=hostname,
                        heartbeat_seq=online.heartbeat_seq,
                        heartbeat=online.heartbeat,
                        cause="a command came back: its queue is gone",
                    )
                )
        return said

    def is_basic(self, host: Host | None) -> bool:
        return host is None or host.is_basic(self.heard.get(host.hostname))
