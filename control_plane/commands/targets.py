"""From what was asked for to the exact hosts: resolving, freezing, and the digest of the frozen list."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from control_plane.commands.hosts import FleetState
from control_plane.commands.ports import Presence
from control_plane.errors import RefusedError
from control_plane_wire import strict_json
from control_plane_wire.strict_json import Json, JsonObject


@dataclass(frozen=True, slots=True)
class OneHost:
    hostname: str

    def to_json(self) -> JsonObject:
        return {"host": self.hostname}


@dataclass(frozen=True, slots=True)
class Group:
    group: str

    def to_json(self) -> JsonObject:
        return {"group": self.group}


@dataclass(frozen=True, slots=True)
class All:
    def to_json(self) -> JsonObject:
        return {"all": True}


@dataclass(frozen=True, slots=True)
class Hosts:
    hostnames: tuple[str, ...]

    def to_json(self) -> JsonObject:
        return {"hosts": list[Json](sorted(set(self.hostnames)))}


Target: TypeAlias = OneHost | Group | All | Hosts


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    hostname: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenList:
    """The exact hosts of a task, sorted, and who was left out and why; `as_of` is the log position it was made at."""

    hosts: tuple[str, ...]
    basic: tuple[str, ...]
    excluded: tuple[Excluded, ...]
    as_of: int

    @property
    def sha256(self) -> str:
        return hosts_digest(self.hosts)


def hosts_digest(hosts: tuple[str, ...]) -> str:
    return hashlib.sha256(strict_json.canonical(list(hosts))).hexdigest()


def named_hosts(fleet: FleetState, target: Target) -> list[str]:
    """Every registered host that the target means, sorted, in whatever state.

    Raises:
        RefusedError: a host is named that does not exist; a target is never silently narrowed.
    """
    match target:
        case All():
            return sorted(name for name, host in fleet.hosts.items() if host.status != "retired")
        case Group(group):
            return sorted(
                name for name, host in fleet.hosts.items() if group in host.groups and host.status != "retired"
            )
        case OneHost(hostname):
            names = [hostname]
        case Hosts(hostnames):
            names = sorted(set(hostnames))
    unknown = [name for name in names if name not in fleet.hosts or fleet.hosts[name].status == "retired"]
    if unknown:
        raise RefusedError("unknown_host", f"not registered: {', '.join(unknown[:10])}")
    return names


def freeze(
    fleet: FleetState,
    target: Target,
    presences: Mapping[str, Presence],
    *,
    as_of: int,
    needs_full_agent: str | None = None,
) -> FrozenList:
    """Fix the hosts of a task.

    Args:
        presences: by hostname; a host that is not in it has never been heard from.
        needs_full_agent: the fields (env, cwd, stdin) that a basic agent cannot do; such hosts are left out.
    """
    hosts, basic, excluded = [], [], []
    for name in named_hosts(fleet, target):
        presence = presences.get(name)
        is_basic = presence is not None and presence.basic
        if not fleet.hosts[name].is_active:
            excluded.append(Excluded(hostname=name, reason=fleet.hosts[name].status))
        elif is_basic and needs_full_agent:
            excluded.append(Excluded(hostname=name, reason=f"basic agent: no {needs_full_agent}"))
        else:
            hosts.append(name)
            if is_basic:
                basic.append(name)
    return FrozenList(hosts=tuple(hosts), basic=tuple(basic), excluded=tuple(excluded), as_of=as_of)
