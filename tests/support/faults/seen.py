"""A control plane in one process, seen from outside: what it was asked for, what has reached hosts, what it shows."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from control_plane.events import access, registry, tasks
from control_plane.events.envelope import EVENT, StoredEvent
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.projection import Projection
from control_plane.projections.rebuild import rebuild
from control_plane.projections.tasks import TasksProjection
from control_plane_wire.transport.base import Confirmed
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.database import sqlite_url
from tests.support.faults.checks import Event, Evidence, Execution
from tests.support.faults.ledger import Book
from tests.support.faults.witness import Expected
from tests.support.plane import AgentEnd, Plane, a_plane, a_result, of_host


class Seen:
    """A control plane, what it was asked for, and what has reached the hosts: each command that does counts as run."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.book = Book()
        self.agents: list[AgentEnd] = []
        self.conflicts = 0
        self.ran: dict[str, list[str]] = {}
        self.projections: list[type[Projection]] = [*PROJECTIONS]

    async def asks(self, task_id: str, *hostnames: str, body: str = "", **given: Any) -> None:
        self.book.attempts[task_id] = body
        await self.plane.run(task_id, *hostnames, **given)
        self.book.acknowledged.add(task_id)

    async def answers(self, task_id: str, hostname: str, **changes: Any) -> None:
        """The host's result is ingested."""
        async with self.plane.session() as session:
            message = of_host(hostname, a_result(task_id, hostname, **changes))
            assert await session.publish(message) == Confirmed()

    async def evidence(self, **more: Any) -> Evidence:
        plane = self.plane
        await plane.shown()
        rows = await plane.log.read(EVENT, after=0, limit=10_000)
        runs = {host: list(ran) for host, ran in self.ran.items()}
        for agent in self.agents:
            commands = [str(message["task_id"]) for message in agent.messages if "kind" not in message]
            runs.setdefault(agent.hostname, []).extend(dict.fromkeys(commands))
        return Evidence(
            book=self.book,
            events=[_event(row, at) for at, row in enumerate(rows, start=1)],
            executions=await self._executions(),
            witness=runs,
            witnessed=frozenset(self.book.attempts),
            expected=lambda _: Expected("done\n", 0),
            outcomes=await self._outcomes(),
            conflicts=self.conflicts + plane.counts["conflicts"],
            differing=await self._differing(),
            **more,
        )

    async def _executions(self) -> Mapping[tuple[str, str], Execution]:
        table = TasksProjection().execution
        wanted = select(table.c.task_id, table.c.hostname, table.c.state, table.c.exit_code, table.c.started_us)
        async with self.plane.database.read() as connection:
            found = await connection.execute(wanted)
            return {(t, h): Execution(s, code, started=us is not None) for t, h, s, code, us in found}

    async def _outcomes(self) -> Mapping[str, str]:
        table = TasksProjection().task
        async with self.plane.database.read() as connection:
            found = await connection.execute(select(table.c.task_id, table.c.outcome))
            return {task_id: outcome for task_id, outcome in found if outcome is not None}

    async def _differing(self) -> list[str]:
        compared = [
            table
            for projection in self.projections
            for table in await rebuild(projection, self.plane.database, self.plane.log, then="drop")
        ]
        return [table.name for table in compared if not table.is_equal]


def _event(row: StoredEvent, at: int) -> Event:
    event = registry.decode(row)
    hosts = event.hosts if isinstance(event, tasks.TaskAccepted) and row.signature is not None else ()
    shown = Event(row.seq, f"{row.recorded_us:020}", row.kind, row.task_id, row.hostname, hosts)
    match event:
        case access.AccessDenied():
            return replace(shown, actor=event.actor, count=event.count or 1)
        case access.MessageRejected():
            return replace(shown, message_sha256=event.message_sha256, count=event.count or 1)
    return shown


@asynccontextmanager
async def a_seen_plane(directory: Path) -> AsyncIterator[Seen]:
    """With hosts web1 and web2 in the group web, and db1."""
    async with a_plane(sqlite_url(directory), InProcessBroker().transport()) as plane:
        await plane.register("web1", "web2", groups=["web"])
        await plane.register("db1")
        yield Seen(plane)
