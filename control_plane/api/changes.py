"""Rows that have changed after a position, from the read tables: what the stream is made of."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, Self, TypeVar

from control_plane.api import audit, executions, hosts, tasks
from control_plane.api.fields import at
from control_plane.api.frames import HOST, TASK, Row, row
from control_plane.api.services import Services
from control_plane.projections.hosts import FACTS
from control_plane.projections.positions import Positions
from control_plane.projections.queries.audit import AuditFilter
from control_plane.projections.queries.hosts import HostView
from control_plane.projections.queries.scopes import EVERYTHING

PAGE: Final = 500
SELDOM: Final = frozenset(FACTS) - {"running", "load", "disk_usage", "uptime"}


class _Positioned(Protocol):
    @property
    def pos(self) -> int: ...


_P = TypeVar("_P", bound=_Positioned)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """How far a reader has come in each read table, since none of them waits for another.

    Attributes:
        usage: in the heartbeat log; the others are in the event log.
    """

    hosts: int
    tasks: int
    audit: int
    usage: int

    @classmethod
    def all_at(cls, positions: Positions) -> Self:
        event = positions.event
        return cls(hosts=event, tasks=event, audit=event, usage=positions.heartbeat)

    @property
    def lowest(self) -> Positions:
        """From where on a reader who has come so far misses nothing."""
        return Positions(min(self.hosts, self.tasks, self.audit), self.usage)

    def has_reached(self, other: "Places") -> bool:
        return (
            self.hosts >= other.hosts
            and self.tasks >= other.tasks
            and self.audit >= other.audit
            and self.usage >= other.usage
        )


class Changes:
    """Reads what the readers of some topics have to be told."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def now(self) -> Places:
        """How far the read tables have come. Asked before the rows, which are then at least as new."""
        hub = self._services.hub
        hosts_at = await hub.position(hosts.PROJECTION)
        tasks_at = await hub.position(tasks.PROJECTION)
        audit_at = await hub.position(audit.PROJECTION)
        return Places(hosts=hosts_at.event, tasks=tasks_at.event, audit=audit_at.event, usage=hosts_at.heartbeat)

    async def rows(
        self, after: Places, topics: frozenset[str], *, keeps_to_tasks: bool = False
    ) -> tuple[list[Row], Places]:
        """The next rows of these topics that an event has changed, and how far that has come.

        Args:
            keeps_to_tasks: no event that the read table of tasks has not come to.
        """
        now = replace(await self.now(), usage=after.usage)
        tasks_at = now.tasks
        wants_hosts = any(topic.startswith(HOST) for topic in topics)
        wants_executions = wants_hosts or any(topic.startswith(TASK) for topic in topics)
        found: list[Row] = []
        if wants_hosts or "hosts" in topics:
            views, seq = await _page(self._services.host_queries.changed, after.hosts, now.hosts)
            found += [host_row(view) for view in views]
            now = replace(now, hosts=seq)
        if wants_executions or "tasks" in topics:
            rows, seq = await self._tasks(after.tasks, now.tasks, with_executions=wants_executions)
            found += rows
            now = replace(now, tasks=seq)
        if "events" in topics:
            # Who may see an event of a task, the task's own table tells.
            wanted = AuditFilter(upto=min(now.audit, tasks_at) if keeps_to_tasks else None)
            events = await self._services.audit_queries.after(wanted, after.audit, limit=PAGE)
            found += [row("events", event.seq, audit.event_of(event), "events", view=event) for event in events]
            reached = now.audit if wanted.upto is None else wanted.upto
            now = replace(now, audit=events[-1].seq if len(events) == PAGE else max(after.audit, reached))
        return found, now

    async def _tasks(self, after: int, upto: int, *, with_executions: bool) -> tuple[list[Row], int]:
        queries = self._services.task_queries
        views, seq = await _page(queries.changed, after, upto)
        found = [
            row("tasks", view.pos, tasks.task_of(view, EVERYTHING), "tasks", TASK + view.task_id, view=view)
            for view in views
        ]
        if with_executions:
            changed, executions_seq = await _page(queries.executions_changed, after, upto)
            seq = min(seq, executions_seq)
            for view in changed:
                topics = (TASK + view.task_id, HOST + view.hostname)
                whole = executions.execution_of(view, EVERYTHING)
                found.append(row("executions", view.pos, whole, *topics, view=view))
        return found, seq

    async def usage(self, after: Places) -> tuple[list[HostView], Places]:
        """The hosts whose heartbeats have counted since, and how far that has come."""
        upto = (await self._services.hub.position(hosts.PROJECTION)).heartbeat
        views = await self._services.host_queries.usage_changed(after.usage, limit=PAGE)
        return views, replace(after, usage=views[-1].usage_pos if len(views) == PAGE else max(after.usage, upto))


def host_row(view: HostView, *, only_its_own: bool = False) -> Row:
    topics = (HOST + view.hostname,) if only_its_own else ("hosts", HOST + view.hostname)
    return row("hosts", view.pos, hosts.host_of(view), *topics, view=view)


def usage_of(view: HostView, *, is_other: bool) -> list[object]:
    """What every heartbeat changes; with `is_other` also what few do, such as the first of another agent's version."""
    when = None if view.last_heartbeat_us is None else at(view.last_heartbeat_us)
    often = [view.usage_pos, view.hostname, when, view.cpu_usage, view.memory_usage, view.facts.get("running")]
    return [*often, seldom_of(view)] if is_other else often


def seldom_of(view: HostView) -> dict[str, object]:
    """What a host's heartbeats say of it, by the names of its row, but for what nearly each of them changes."""
    known = {"groups_bound": view.groups_bound, "drift": view.drift, "basic": view.basic}
    return known | {name: view.facts.get(name) for name in SELDOM}


async def _page(changed: Callable[..., Awaitable[Sequence[_P]]], after: int, upto: int) -> tuple[list[_P], int]:
    """Rows changed after a position, and the position up to which they are all that have.

    One event may change many rows, and a page must not end among them.
    """
    limit = PAGE
    while True:
        rows = list(await changed(after, limit=limit))
        if len(rows) < limit:
            return rows, max(after, upto)
        last = rows[-1].pos
        if rows[0].pos < last:
            return [found for found in rows if found.pos < last], last - 1
        limit *= 4
