"""From what was asked for to the exact hosts: resolving, freezing, and the digest of the frozen list."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from control_plane.commands.grammar import checked_name
from control_plane.commands.hosts import FleetState, Host
from control_plane.commands.ports import Presence
from control_plane.errors import InvalidFieldError, RefusedError
from control_plane.host_query import HostFacts, drifts, parse
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


@dataclass(frozen=True, slots=True)
class Query:
    """The hosts that a text finds at that moment; the text stays as it was asked."""

    query: str

    def to_json(self) -> JsonObject:
        return {"query": self.query}


Target: TypeAlias = OneHost | Group | All | Hosts | Query


def parse_target(value: Mapping[str, Json]) -> Target:
    """What a request or a stored task aims at.

    Raises:
        RefusedError: `invalid_request` (of a query with the term that is wrong), `too_many_hosts`.
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
        case {"query": str(query), **rest} if not rest:
            if not parse(query, "target.query").terms:  # all hosts are asked for by that word, which the guard knows
                raise InvalidFieldError("target.query", "is empty; every host is all: true")
            return Query(query)
    raise RefusedError("invalid_request", "target is not one of host, group, all, hosts, query")


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


def candidates(fleet: FleetState, target: Target) -> list[str]:
    """Every hostname that the target may mean, whatever is heard of them, sorted; a retired one only by its name."""
    match target:
        case All() | Query():
            return sorted(name for name, host in fleet.hosts.items() if host.status != "retired")
        case Group(group):
            return sorted(
                name for name, host in fleet.hosts.items() if group in host.groups and host.status != "retired"
            )
        case OneHost(hostname):
            return [hostname]
        case Hosts(hostnames):
            return sorted(set(hostnames))


def named_hosts(fleet: FleetState, target: Target, presences: Mapping[str, Presence]) -> list[str]:
    """Every hostname that the target means, sorted, in whatever state.

    Args:
        presences: of the candidates, by hostname.
    """
    names = candidates(fleet, target)
    if not isinstance(target, Query):
        return names
    matches = parse(target.query, "target.query").matches
    return [name for name in names if matches(_facts_of(fleet.hosts[name], presences.get(name)))]


def _facts_of(host: Host, presence: Presence | None) -> HostFacts:
    """What the log says of a host is newer than its row, which has what its heartbeats say."""
    heard = presence or Presence(state="pending", basic=False)
    return HostFacts(
        hostname=host.hostname,
        state=heard.state if host.is_active else host.status,
        groups=host.groups,
        labels=host.labels,
        os=heard.os,
        agent_version=heard.agent_version,
        maintenance=host.maintenance,
        drift=drifts(host.groups, heard.groups_bound),
        quarantined=host.quarantine is not None,
        basic=heard.basic,
    )


def check_named(fleet: FleetState, target: Target) -> None:
    """Refuse a target that names a host which cannot be commanded: what is named is never silently left out.

    Raises:
        RefusedError: `unknown_host` or `host_not_active`, with the names.
    """
    if not isinstance(target, OneHost | Hosts):
        return
    names = candidates(fleet, target)
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
        presences: of the candidates, by hostname.
        needs_full_agent: the fields (env, cwd, stdin) that a basic agent cannot do; such hosts are left out.

    Raises:
        RefusedError: `too_many_hosts`.
    """
    hosts, basic, excluded = [], [], []
    for name in named_hosts(fleet, target, presences):
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
