"""How far each projection has come, and who works on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import and_, func, or_, select

from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName
from control_plane.events.log import EventLog
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.folding import OLD, REBUILT
from control_plane.projections.hub import Hub
from control_plane.projections.moments import Moment
from control_plane.projections.positions import Positions
from control_plane.projections.projection import Projection
from control_plane.storage.engine import Database
from control_plane.storage.tables import follower, lease
from control_plane_wire.clock import Clock

BEHIND_US: Final = 2_000_000  # from here on it is not live but catching up


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionState:
    """How one stands.

    Attributes:
        lag_us: how long ago the first event that is not folded yet was recorded.
        owner: None: nobody.
        rebuilt_events: how many events a rebuild has folded, which is under way or was stopped; None: there is none.
        has_old: whether the tables from before the last rebuild can be put back.
    """

    name: str
    version: int
    position: Positions
    head: Positions
    lag_us: int
    state: str
    parked: int
    owner: str | None
    rebuilt_events: int | None
    has_old: bool

    @property
    def lag_events(self) -> int:
        return self.head.event - self.position.event + self.head.heartbeat - self.position.heartbeat


class ProjectionQueries:
    def __init__(self, database: Database, log: EventLog, hub: Hub, clock: Clock) -> None:
        self._database = database
        self._log = log
        self._hub = hub
        self._clock = clock

    async def states(self) -> list[ProjectionState]:
        return [await self._state(projection()) for projection in PROJECTIONS]

    async def states_at(self, moment: Moment) -> list[ProjectionState]:
        """How they stood in the replay of a moment: each has come to it, but for what it has set aside."""
        return [await self._state_at(projection(), moment) for projection in PROJECTIONS]

    async def _state_at(self, projection: Projection, moment: Moment) -> ProjectionState:
        ends = {EVENT: moment.positions.event, HEARTBEAT_EVENT: moment.positions.heartbeat}
        there = Positions(ends[EVENT], ends[HEARTBEAT_EVENT] if HEARTBEAT_EVENT in projection.logs else 0)
        t = projection.parked
        by_then = or_(*(and_(t.c.log == log, t.c.seq <= end) for log, end in ends.items()))
        async with self._database.read() as connection:
            parked = await connection.scalar(select(func.count()).select_from(t).where(by_then))
        return ProjectionState(
            name=projection.name,
            version=projection.version,
            position=there,
            head=there,
            lag_us=0,
            state="replayed",
            parked=parked or 0,
            owner=None,
            rebuilt_events=None,
            has_old=False,
        )

    async def _state(self, projection: Projection) -> ProjectionState:
        name = projection.name
        owner = select(lease.c.owner).where(
            lease.c.name == f"projection:{name}", lease.c.until_us > self._database.dialect.clock_us()
        )
        async with self._database.read() as connection:
            found = await connection.execute(
                select(follower).where(follower.c.name.in_([name, name + REBUILT, name + OLD]))
            )
            rows = {each["name"]: each for each in found.mappings()}
            row = rows.get(name)
            working = await connection.scalar(owner)
            parked = await connection.scalar(select(func.count()).select_from(projection.parked)) if row else 0
        position = await self._hub.position(name)
        heads = {log: (await self._log.head(log)).seq for log in projection.logs}
        head = Positions(heads[EVENT], heads.get(HEARTBEAT_EVENT, position.heartbeat))
        lag_us = max([await self._lag_us(log, position) for log in projection.logs])
        return ProjectionState(
            name=name,
            version=row["version"] if row else projection.version,
            position=position,
            head=head,
            lag_us=lag_us,
            state=_state(row is not None, working is not None, lag_us),
            parked=parked or 0,
            owner=working,
            rebuilt_events=_events(rows.get(name + REBUILT)),
            has_old=name + OLD in rows,
        )

    async def _lag_us(self, log: LogName, position: Positions) -> int:
        after = position.event if log == EVENT else position.heartbeat
        first = await self._log.read(log, after=after, limit=1)
        return max(0, self._clock.now_us() - first[0].recorded_us) if first else 0


def _events(row: Mapping[Any, Any] | None) -> int | None:
    return None if row is None else row["event_seq"] + row["heartbeat_seq"]


def _state(exists: bool, is_worked_on: bool, lag_us: int) -> str:
    if not exists:
        return "missing"
    if not is_worked_on:
        return "stopped"
    return "catching up" if lag_us > BEHIND_US else "live"
