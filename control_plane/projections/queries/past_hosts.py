"""Hosts as they were. What the event log says of a host has a row a change, so one of them is that of the moment.

What its heartbeats say is read from the heartbeat log, for the hosts that are shown; which of them was the last that
counted, the usages tell, or what is kept of dropped segments. Before those, the last change of presence has one.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Final

from sqlalchemy import Select, Subquery, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from control_plane.events import heartbeats, registry
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.heartbeats import Heartbeat
from control_plane.events.hosts import PresenceChanged
from control_plane.events.log import EventLog
from control_plane.projections.hosts import hear
from control_plane.projections.moments import Moment
from control_plane.projections.queries.host_filters import HEARD, HostFilter, listed, rows_of
from control_plane.projections.queries.hosts import (
    GroupView,
    HostQueries,
    HostView,
    Member,
    by_group,
    view,
)
from control_plane.projections.queries.live import HOSTS
from control_plane.projections.queries.pages import Page, page_of
from control_plane.projections.queries.scopes import Names, both, is_in, of_hosts
from control_plane.projections.rows import Row
from control_plane.projections.usage import Usage, block_of, last_seq
from control_plane.storage.engine import Database
from control_plane.storage.tables import heartbeat_kept
from control_plane_wire import strict_json
from control_plane_wire.messages import HeartbeatMessage, parse_heartbeat

HOSTS_A_STATEMENT: Final = 500
_HEARD: Final = ("last_heartbeat_us", "interval_s", "timestamp", "heartbeat")
_SAID: Final = (*_HEARD, "cpu_usage", "memory_usage", "groups_bound")
_NEVER_HEARD: Final[Row] = {**dict.fromkeys(_SAID), "heartbeat_seq": 0, "usage_pos": 0}


class PastHosts:
    """See `HostReader`; as of a moment that the read table has come to, and of these hosts."""

    def __init__(self, database: Database, log: EventLog, moment: Moment, names: Names) -> None:
        self._database = database
        self._log = log
        self._moment = moment
        self._names = names
        self._host = HOSTS.host
        self._history = HOSTS.history
        self._usage = HOSTS.usage

    async def page(self, wanted: HostFilter, *, cursor: str | None, limit: int) -> Page[HostView]:
        """See `HostReader`."""
        found, counts = await listed(self._rows, self._then(), wanted, self._names, cursor=cursor, limit=limit)
        views, as_of = [view(row) for row in found], self._moment.positions
        return page_of(views, counts, wanted.states, key=lambda host: host.hostname, limit=limit, as_of=as_of)

    async def one(self, hostname: str) -> HostView | None:
        if not is_in(hostname, self._names):
            return None
        then = self._then()
        found = await self._rows(select(then).where(then.c.hostname == hostname))
        return view(found[0]) if found else None

    async def by_name(self, hostnames: Collection[str]) -> dict[str, HostView]:
        then, some = self._then(), both(self._names, frozenset(hostnames))
        found = await self._rows(select(then).where(*of_hosts(then.c.hostname, some)))
        return {row["hostname"]: view(row) for row in found}

    async def groups(self) -> list[GroupView]:
        """See `HostReader`."""
        then = self._then()
        columns = (then.c.hostname, then.c.groups, then.c.state, then.c.presence_seq)
        async with self._database.read() as connection:
            seen = of_hosts(then.c.hostname, self._names)
            found = (await connection.execute(select(*columns).where(then.c.state != "retired", *seen))).all()
        said = await self._said({hostname: presence_seq for hostname, _, _, presence_seq in found})
        return by_group(
            Member(groups, state, said.get(hostname, _NEVER_HEARD)["groups_bound"])
            for hostname, groups, state, _ in found
        )

    async def usage(self, hostname: str, *, from_us: int, to_us: int, points: int) -> list[Usage]:
        """See `HostReader`."""
        to_us = min(to_us, self._moment.heartbeat_us)
        queries = HostQueries(self._database, self._names)
        return await queries.usage(hostname, from_us=from_us, to_us=to_us, points=points)

    def _then(self) -> Subquery:
        """What the event log had said of each host, in the columns of `host`."""
        h, then, before = self._host, self._history, self._history.alias()
        last = (
            select(func.max(before.c.pos))
            .where(before.c.hostname == h.c.hostname, before.c.pos <= self._moment.positions.event)
            .scalar_subquery()
        )
        return (
            select(then).select_from(h.join(then, and_(then.c.hostname == h.c.hostname, then.c.pos == last))).subquery()
        )

    async def _rows(self, statement: Select[Any]) -> Sequence[Mapping[Any, Any]]:
        """See `Rows`."""
        async with self._database.read() as connection:
            rows = rows_of(await connection.execute(statement))
        if HEARD not in statement.selected_columns:
            return rows
        said = await self._said({row["hostname"]: row[HEARD] for row in rows})
        return [{**row, **said.get(row["hostname"], _NEVER_HEARD)} for row in rows]

    async def _said(self, presences: Mapping[str, int | None]) -> dict[str, Row]:
        """What these hosts' last heartbeats say, given their last changes of presence; nothing of one never heard."""
        async with self._database.read() as connection:
            said = await self._not_heard_since(connection, presences.keys())
            left = presences.keys() - said.keys()
            if self._moment.has_heartbeats:
                seqs = await self._last_counted(connection, left)
                seqs |= await self._last_kept(connection, left - seqs.keys())
                return said | await self._heard(list(seqs.values()))
        changes = await self._changes(seq for name in left if (seq := presences[name]) is not None)
        still_kept = await self._heard([change.heartbeat_seq for change in changes.values()])
        for hostname, change in changes.items():
            about = still_kept.get(hostname) or _as_told(change)
            said[hostname] = about | {"exact_from_us": self._moment.dropped.recorded_us}
        return said

    async def _heard(self, seqs: Sequence[int]) -> dict[str, Row]:
        """What these heartbeats say, of those that are kept, by hostname."""
        said: dict[str, Row] = {}
        async for stored in self._log.read_these(HEARTBEAT_EVENT, seqs):
            if (beat := heartbeats.read(stored)) is not None:
                said[beat.hostname] = _heard(beat, stored.body, stored.seq, stored.recorded_us)
        return said

    async def _changes(self, seqs: Iterable[int]) -> dict[str, PresenceChanged]:
        """These changes of presence, by hostname."""
        changes: dict[str, PresenceChanged] = {}
        async for stored in self._log.read_these(EVENT, list(seqs)):
            event = registry.decode(stored)
            if isinstance(event, PresenceChanged):
                changes[event.hostname] = event
        return changes

    async def _not_heard_since(self, connection: AsyncConnection, hostnames: Set[str]) -> dict[str, Row]:
        """Of those that were not heard after the moment, what they have said last: it stands in the read table."""
        h, moment = self._host, self._moment
        not_since = (
            h.c.usage_pos <= moment.positions.heartbeat
            if moment.has_heartbeats
            else or_(h.c.usage_pos == 0, h.c.last_heartbeat_us <= moment.heartbeat_us)
        )
        columns = [h.c[name] for name in ("hostname", *_NEVER_HEARD)]
        said: dict[str, Row] = {}
        for some in _parts(hostnames):
            found = await connection.execute(select(*columns).where(h.c.hostname.in_(some), not_since))
            said.update((row["hostname"], dict(row)) for row in found.mappings())
        return said

    async def _last_counted(self, connection: AsyncConnection, hostnames: Set[str]) -> dict[str, int]:
        """The seqs of the last heartbeats that counted by then, of the hosts of which usages are kept."""
        h, u, before = self._host, self._usage, self._usage.alias()
        seqs: dict[str, int] = {}
        since_us = block_of(self._moment.heartbeat_us)
        for upto_us in (since_us, since_us - 1):  # all of the block of the moment may be later
            last = (
                select(func.max(before.c.since_us))
                .where(before.c.hostname == h.c.hostname, before.c.since_us <= upto_us)
                .scalar_subquery()
            )
            blocks = select(u.c.hostname, u.c.data).select_from(
                h.join(u, and_(u.c.hostname == h.c.hostname, u.c.since_us == last))
            )
            for some in _parts(hostnames - seqs.keys()):
                for hostname, data in await connection.execute(blocks.where(h.c.hostname.in_(some))):
                    if (seq := last_seq(data, self._moment.positions.heartbeat)) is not None:
                        seqs[hostname] = seq
        return seqs

    async def _last_kept(self, connection: AsyncConnection, hostnames: Set[str]) -> dict[str, int]:
        """The seqs of the last heartbeats that counted, of what is dropped: those outlive usages and segments."""
        c = heartbeat_kept.c
        last = select(c.hostname, func.max(c.seq)).where(c.seq <= self._moment.dropped.seq).group_by(c.hostname)
        seqs: dict[str, int] = {}
        for some in _parts(hostnames):
            seqs.update((name, seq) for name, seq in await connection.execute(last.where(c.hostname.in_(some))))
        return seqs


def _parts(hostnames: Set[str]) -> Iterator[list[str]]:
    names = sorted(hostnames)
    return (names[at : at + HOSTS_A_STATEMENT] for at in range(0, len(names), HOSTS_A_STATEMENT))


def _as_told(change: PresenceChanged) -> Row:
    """When its heartbeat was recorded nobody knows any more, but when it was sent by the host's clock."""
    if not change.heartbeat:  # presence had none at hand
        return _NEVER_HEARD
    told = dict(change.heartbeat)
    beat = parse_heartbeat(told)
    said = _heard(beat, strict_json.canonical(told), change.heartbeat_seq, beat.timestamp * 1_000_000)
    return {**said, "timestamp": None}


def _heard(beat: Heartbeat | HeartbeatMessage, body: bytes, seq: int, recorded_us: int) -> Row:
    said: Row = {"timestamp": beat.timestamp}
    hear(said, beat, body, seq, recorded_us)
    return said
