"""What is asked about hosts."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson
from sqlalchemy import ColumnElement, Select, select

from control_plane.events.continuity import Trace
from control_plane.events.presence import LastHeartbeat
from control_plane.host_query import drifts
from control_plane.projections.hosts import facts_of, last_of, session_of, trace_of
from control_plane.projections.positions import Positions
from control_plane.projections.queries.host_filters import HostFilter, Row, listed, rows_of
from control_plane.projections.queries.live import HOSTS
from control_plane.projections.queries.pages import Page, page_of, position_of
from control_plane.projections.queries.scopes import Names, Scope, is_in, of_hosts
from control_plane.projections.usage import Usage, block_of, thinned
from control_plane.storage.engine import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """A host's row; `facts` is what else its last heartbeat says.

    Attributes:
        clock_ahead_s: by how much its clock was ahead of ours when its last heartbeat was recorded; negative: behind.
        quarantined_us, quarantine_reason: since when and why no commands go to it; None where they do.
        exact_from_us: of the past: its last heartbeat of then is dropped, and this is of one before; from then on they
            are kept.
    """

    hostname: str
    state: str
    state_since_us: int
    state_cause: str | None
    registered_us: int
    key_id: str | None
    groups: Sequence[str]
    labels: Mapping[str, str]
    maintenance: bool
    pos: int
    last_heartbeat_us: int | None
    interval_s: int | None
    cpu_usage: float | None
    memory_usage: float | None
    groups_bound: Sequence[str] | None
    facts: Mapping[str, Any]
    heartbeat_seq: int
    usage_pos: int
    clock_ahead_s: int | None = None
    exact_from_us: int | None = None
    quarantined_us: int | None = None
    quarantine_reason: str | None = None

    @property
    def basic(self) -> bool:
        """Its agent has been heard and has never said a version: it knows only the required fields."""
        return self.last_heartbeat_us is not None and "agent_version" not in self.facts

    @property
    def drift(self) -> bool:
        """Its agent has bound other groups than it is assigned."""
        return drifts(self.groups, self.groups_bound)


class KeysSaid(NamedTuple):
    """What a host's agent said of the control plane's keys.

    Attributes:
        keys: the ids of those that it trusts, the oldest first; None where it does not say.
        next_key: the id of the one that was announced to it.
    """

    keys: tuple[str, ...] | None = None
    next_key: str | None = None


def said_of(heartbeat: Mapping[str, Any]) -> KeysSaid:
    keys, next_key = heartbeat.get("keys"), heartbeat.get("next_key")
    return KeysSaid(None if keys is None else tuple(map(str, keys)), None if next_key is None else str(next_key))


class Member(NamedTuple):
    """What a host is counted by in each of its groups."""

    groups: Sequence[str]
    state: str
    groups_bound: Sequence[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    group: str
    hosts: int
    counts: Mapping[str, int]
    drift: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardHost:
    """What presence goes on from: the state that was said last, and the last heartbeat that counted."""

    hostname: str
    state: str
    heartbeat_seq: int
    last_heartbeat_us: int | None
    interval_s: int | None
    last: LastHeartbeat | None
    session: int | None = None
    trace: Trace = Trace()  # noqa: RUF009 - it is immutable
    registered_us: int = 0
    quarantined_us: int | None = None
    lifted_us: int = 0
    key_id: str | None = None


class HostReader(Protocol):
    """What is asked about hosts as they are and as they were; what is out of the reader's scope is not there."""

    async def page(self, wanted: HostFilter, *, cursor: str | None, limit: int) -> Page[HostView]:
        """Hosts by name; retired ones only where they are asked for. `counts` ignores the filter's `state`."""
        ...

    async def one(self, hostname: str) -> HostView | None: ...

    async def groups(self) -> list[GroupView]:
        """Every group that a host is in, by name."""
        ...

    async def usage(self, hostname: str, *, from_us: int, to_us: int, points: int) -> list[Usage]:
        """The usages of a host over time, oldest first; of more than `points` the newest in each equal part of it."""
        ...


class HostQueries:
    """Args: `names`: the hosts that `HostReader`'s questions are about; the others are about all."""

    def __init__(self, database: Database, names: Names = None) -> None:
        self._database = database
        self._names = names
        self._host = HOSTS.host
        self._usage = HOSTS.usage

    def seen_by(self, scope: Scope) -> HostReader:
        return HostQueries(self._database, scope.hosts)

    async def page(self, wanted: HostFilter, *, cursor: str | None, limit: int) -> Page[HostView]:
        """See `HostReader`."""
        async with self._database.read() as connection:
            as_of = await position_of(connection, HOSTS.name)

            async def rows(statement: Select[Any]) -> list[Row]:
                return rows_of(await connection.execute(statement))

            found, counts = await listed(rows, self._host, wanted, self._names, cursor=cursor, limit=limit)
        views = [view(row) for row in found]
        return page_of(views, counts, wanted.states, key=lambda host: host.hostname, limit=limit, as_of=as_of)

    async def one(self, hostname: str) -> HostView | None:
        found = await self._select(self._host.c.hostname == hostname) if is_in(hostname, self._names) else []
        return found[0] if found else None

    async def changed(self, after: int, *, limit: int, hostname: str | None = None) -> list[HostView]:
        """Rows that the event log has changed after a position, in that order."""
        t = self._host
        return await self._select(t.c.pos > after, hostname=hostname, order=t.c.pos, limit=limit)

    async def usage_changed(self, after: int, *, limit: int, hostname: str | None = None) -> list[HostView]:
        """Rows that the heartbeat log has changed after a position, in that order."""
        t = self._host
        return await self._select(t.c.usage_pos > after, hostname=hostname, order=t.c.usage_pos, limit=limit)

    async def registered(self) -> list[HostView]:
        """Every host that ever was, in whatever state: for dispatch and presence."""
        return await self._select()

    async def drifted(self) -> list[HostView]:
        """Hosts that are there and have bound other groups than they are assigned."""
        t = self._host
        differs = (t.c.state.in_(["online", "stale"]), t.c.groups_bound.is_not(None), t.c.groups_bound != t.c.groups)
        return [host for host in await self._select(*differs) if host.drift]

    async def said_of_keys(
        self, states: Collection[str], *, at_least: int = 0, hostnames: Names = None
    ) -> tuple[int, dict[str, KeysSaid]]:
        """A position of the event log, and what each of these hosts said last, by hostname; basic agents not.

        Where the position is less than `at_least`, it is told alone.
        """
        t = self._host
        wanted = select(t.c.hostname, t.c.heartbeat).where(
            t.c.pos > 0, t.c.state.in_(list(states)), *of_hosts(t.c.hostname, hostnames)
        )
        async with self._database.read() as connection:
            as_of = await position_of(connection, HOSTS.name)
            if as_of.event < at_least:
                return as_of.event, {}
            rows = [(row.hostname, row.heartbeat) for row in await connection.execute(wanted)]
        said = {hostname: orjson.loads(heartbeat) for hostname, heartbeat in rows if heartbeat is not None}
        full = {name: said_of(each) for name, each in said.items() if each.get("agent_version") is not None}
        return as_of.event, full

    async def heard(self) -> tuple[Positions, list[HeardHost]]:
        """A position of both logs, and every registered host, at least as new as that."""
        t = self._host
        async with self._database.read() as connection:
            as_of = await position_of(connection, HOSTS.name)
            rows = (await connection.execute(select(t).where(t.c.pos > 0))).mappings()
            own = [name for name in HeardHost.__slots__ if name not in {"last", "session", "trace"}]
            return as_of, [
                HeardHost(
                    **{name: row[name] for name in own},
                    last=last_of(row),
                    session=session_of(row["heartbeat"]),
                    trace=trace_of(row),
                )
                for row in rows
            ]

    async def by_name(self, hostnames: Collection[str]) -> dict[str, HostView]:
        return {host.hostname: host for host in await self._select(self._host.c.hostname.in_(list(hostnames)))}

    async def groups(self) -> list[GroupView]:
        """See `HostReader`."""
        t = self._host
        columns = (t.c.groups, t.c.state, t.c.groups_bound)
        async with self._database.read() as connection:
            seen = of_hosts(t.c.hostname, self._names)
            found = await connection.execute(select(*columns).where(t.c.pos > 0, t.c.state != "retired", *seen))
            return by_group(Member(*row) for row in found)

    async def usage(self, hostname: str, *, from_us: int, to_us: int, points: int) -> list[Usage]:
        """See `HostReader`."""
        if not is_in(hostname, self._names):
            return []
        t = self._usage
        blocks = select(t.c.data).where(t.c.hostname == hostname, t.c.since_us.between(block_of(from_us), to_us))
        async with self._database.read() as connection:
            data = b"".join(await connection.scalars(blocks.order_by(t.c.since_us)))
        return thinned(data, from_us=from_us, to_us=to_us, points=points)

    async def _select(
        self,
        *conditions: ColumnElement[bool],
        hostname: str | None = None,
        order: ColumnElement[Any] | None = None,
        limit: int | None = None,
    ) -> list[HostView]:
        t = self._host
        statement = select(t).where(t.c.pos > 0, *conditions).order_by(t.c.hostname if order is None else order)
        if hostname is not None:
            statement = statement.where(t.c.hostname == hostname)
        async with self._database.read() as connection:
            return [view(row) for row in (await connection.execute(statement.limit(limit))).mappings()]


def by_group(hosts: Iterable[Member]) -> list[GroupView]:
    members: dict[str, list[Member]] = {}
    for host in hosts:
        for group in host.groups:
            members.setdefault(group, []).append(host)
    return [
        GroupView(
            group=group,
            hosts=len(hosts),
            counts=dict(Counter(host.state for host in hosts)),
            drift=sum(drifts(host.groups, host.groups_bound) for host in hosts),
        )
        for group, hosts in sorted(members.items())
    ]


def view(row: Mapping[Any, Any]) -> HostView:
    values: dict[str, Any] = {name: row.get(name) for name in HostView.__slots__}
    said_s, heard_us = row.get("timestamp"), row["last_heartbeat_us"]
    ahead_s = None if said_s is None or heard_us is None else said_s - heard_us // 1_000_000
    changed = {"maintenance": bool(row["maintenance"]), "facts": facts_of(row["heartbeat"]), "clock_ahead_s": ahead_s}
    return HostView(**{**values, **changed})
