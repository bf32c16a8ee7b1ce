"""From what was asked for to the exact hosts: resolving, freezing, and the digest of the frozen list."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from control_plane.commands.grammar import checked_name
from control_plane.commands.hosts import FleetState, Host
from control_plane.commands.ports import Presence
from control_plane.errors import RefusedError
from control_plane_wire import strict_json
from control_plane_wire.strict_json import Json, JsonObject

MAX_HOSTS = 20_000  # of one task: named, and all of them basic, they are 60,000 of the 65,536 values of a document
MAX_NAMED = 10  # hosts that a refusal names; the rest it counts


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


def parse_target(value: Mapping[str, Json]) -> Target:
    """What a request or a stored task aims at.

    Raises:
        RefusedError: `invalid_request`, `too_many_hosts`, or `not_supported` for a query.
    """
    match dict(value):
        case {"host": str(hostname), **rest} if not rest:
            return OneHost(checked_name("target.host", hostname.lower()))
        case {"group": str(group), **rest} if not rest:
            return Group(checked_name("target.group", group.lower()))
        case {"all": True, **rest} if not rest:
            return All()
        case {"hosts": list(names), **rest} if names and not rest:
            _check_number(len(names))
            return Hosts(tuple(checked_name("target.hosts", str(name).lower()) for name in names))
        case {"query": str(), **rest} if not rest:
            raise RefusedError("not_supported", "queries are not supported yet; name hosts, a group, or all")
    raise RefusedError("invalid_request", "target is not one of host, group, all, hosts")


def _check_number(hosts: int) -> None:
    if hosts > MAX_HOSTS:
        raise RefusedError("too_many_hosts", f"{hosts} hosts, of which a task has at most {MAX_HOSTS}")


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
    """Every hostname that the target means, sorted, in whatever state; a retired one only where it is named."""
    match target:
        case All():
            return sorted(name for name, host in fleet.hosts.items() if host.status != "retired")
        case Group(group):
            return sorted(
                name for name, host in fleet.hosts.items() if group in host.groups and host.status != "retired"
            )
        case OneHost(hostname):
            return [hostname]
        case Hosts(hostnames):
            return sorted(set(hostnames))


def check_named(fleet: FleetState, target: Target) -> None:
    """Refuse a target that names a host which cannot be commanded: what is named is never silently left out.

    Raises:
        RefusedError: `unknown_host` or `host_not_active`, with the names.
    """
    if not isinstance(target, OneHost | Hosts):
        return
    names = named_hosts(fleet, target)
    if unknown := [name for name in names if name not in fleet.hosts]:
        raise RefusedError("unknown_host", f"not registered: {in_words(unknown)}")
    if gone := [f"{name} ({fleet.hosts[name].status})" for name in names if not fleet.hosts[name].is_active]:
        raise RefusedError("host_not_active", f"not to be commanded any more: {in_words(gone)}")


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
        presences: by hostname.
        needs_full_agent: the fields (env, cwd, stdin) that a basic agent cannot do; such hosts are left out.

    Raises:
        RefusedError: `too_many_hosts`.
    """
    hosts, basic, excluded = [], [], []
    for name in named_hosts(fleet, target):
        host = fleet.hosts.get(name)
        is_basic = _is_basic(host, presences.get(name))
        if reason := _left_out(host, needs_full_agent if is_basic else None):
            excluded.append(Excluded(hostname=name, reason=reason))
            continue
        hosts.append(name)
        if is_basic:
            basic.append(name)
    _check_number(len(hosts))
    return FrozenList(hosts=tuple(hosts), basic=tuple(basic), excluded=tuple(excluded), as_of=as_of)


def _left_out(host: Host | None, not_possible: str | None) -> str | None:
    """Why a host is left out, None where it is not."""
    if host is None:
        return "not registered"
    if not host.is_active:
        return host.status
    return f"basic agent: no {not_possible}" if not_possible else None


def _is_basic(host: Host | None, presence: Presence | None) -> bool:
    heard = None if presence is None or presence.state == "pending" else presence.basic
    return host is not None and host.is_basic(heard)


def in_words(names: Collection[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(list(names)[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"
