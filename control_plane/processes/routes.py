"""By which routing keys a command goes to its hosts.

One message to a group or to everybody is an optimisation, and only right where it reaches exactly the frozen list: that
list is the whole confirmed membership, all of it is online, and nobody else has bound the key. Else host by host.

The heartbeats of a revoked or retired host are refused, so its last one tells nothing: its agent may be connected, and
would run what reaches it. What tells is its queue at the broker, which is there exactly as long as its agent is. The
same goes for a host in quarantine, whose heartbeats may be another machine's.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from control_plane.commands.hosts import FleetState
from control_plane.projections.queries.hosts import HostView
from control_plane_wire.topology import COMMAND_ALL, group_key


def members_of(fleet: FleetState, target: Mapping[str, Any], *, as_of: int) -> list[str] | None:
    """The members of the target's group, or everybody, by the signed assignments.

    None where one has come since the log position `as_of`: its agent would refuse a message to many that is older than
    its membership.
    """
    group = target.get("group")
    members = fleet.members(group) if isinstance(group, str) else fleet.active()
    hosts = [fleet.hosts[name] for name in members]
    since = [host.groups[group] if isinstance(group, str) else host.registered_seq for host in hosts]
    return members if max(since, default=0) <= as_of else None


@dataclass(frozen=True, slots=True)
class FanOut:
    """The one key that reaches exactly the frozen list, unless one of these hosts still has its queue."""

    key: str
    unless_there: tuple[str, ...] = ()


def fan_out(
    target: Mapping[str, Any], hosts: Collection[str], fleet: Iterable[HostView], members: Collection[str]
) -> FanOut | None:
    """The one key that reaches exactly these hosts, or None.

    Args:
        target: what was asked for, as the authorised request has it.
        members: of that group, or everybody, by the signed assignments.
    """
    if set(hosts) != set(members):
        return None
    group = target.get("group")
    if isinstance(group, str):
        key = group_key(group)
    elif target.get("all") is True:
        key, group = COMMAND_ALL, None
    else:
        return None
    wanted = set(hosts)
    ready = {host.hostname for host in fleet if host.hostname in wanted and _is_ready(host, group)}
    others = [host for host in fleet if host.hostname not in wanted and _may_have_bound(host, group)]
    gone = tuple(host.hostname for host in others if host.state in {"revoked", "retired", "offline"})
    return FanOut(key, gone) if ready == wanted and len(gone) == len(others) else None


def _is_ready(host: HostView, group: str | None) -> bool:
    """Whether the host is online and, as far as it says what it has bound, bound to the group."""
    has_bound = group is None or (group in host.groups if host.groups_bound is None else group in host.groups_bound)
    return host.state == "online" and has_bound


def _may_have_bound(host: HostView, group: str | None) -> bool:
    """Whether a host that the message is not for could get it all the same."""
    if host.last_heartbeat_us is None or (host.state == "offline" and host.quarantined_us is None):
        return False
    return group is None or group in (host.groups_bound or ()) or (host.groups_bound is None and group in host.groups)
