"""What a rollout stands at: which hosts of a task have been released, and what became of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from control_plane.projections.queries.live import TASKS
from control_plane.projections.tasks import GOING
from control_plane.storage.engine import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRollout:
    """A task with hosts that its rollout has yet to release.

    Attributes:
        rollout: as it was accepted; what is no object is in one that has no meaning.
        counts: executions by state.
        released: how many hosts it may be sent to.
        turned_seq: its last pause or resume, or else its acceptance.
        approval_seq: the pause in which its rollout has asked for an approval, which was given if the task runs; or an
            approval that it did not ask for.
    """

    task_id: str
    rollout: Mapping[str, Any]
    targets: int
    counts: Mapping[str, int]
    released: int
    is_paused: bool
    turned_seq: int
    approval_seq: int | None
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryExecution:
    hostname: str
    state: str
    is_released: bool
    finished_us: int | None


class RolloutQueries:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._task = TASKS.task
        self._execution = TASKS.execution

    async def open(self) -> list[OpenRollout]:
        """All that are not done, stopped, cancelled or at their end, oldest first."""
        t = self._task
        statement = (
            select(t).where(t.c.state.in_(GOING), t.c.released < t.c.targets, t.c.stopped.is_(None)).order_by(t.c.seq)
        )
        async with self._database.read() as connection:
            return [_open(row) for row in (await connection.execute(statement)).mappings()]

    async def canary(self, task_id: str, canary: Sequence[str] | int) -> list[CanaryExecution]:
        """The executions that go first: those of these hosts in their order, or so many of the frozen list."""
        e = self._execution
        columns = (e.c.hostname, e.c.state, e.c.released_seq, e.c.finished_us)
        statement = select(*columns).where(e.c.task_id == task_id).order_by(e.c.hostname)
        if isinstance(canary, int):
            statement = statement.limit(canary)
        else:
            statement = statement.where(e.c.hostname.in_(canary))
        async with self._database.read() as connection:
            found = [_canary(row) for row in (await connection.execute(statement)).mappings()]
        if isinstance(canary, int):
            return found
        places = {name: place for place, name in enumerate(canary)}
        return sorted(found, key=lambda execution: places[execution.hostname])

    async def waiting(self, task_id: str, *, limit: int) -> list[str]:
        """The next hosts that are not released, in the order of the frozen list."""
        e = self._execution
        statement = (
            select(e.c.hostname)
            .where(e.c.task_id == task_id, e.c.is_open == 1, e.c.released_seq == 0)
            .order_by(e.c.hostname)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return list(await connection.scalars(statement))


def _open(row: Mapping[Any, Any]) -> OpenRollout:
    same = ("task_id", "targets", "counts", "released", "turned_seq", "approval_seq", "expires_at")
    rollout = row["request"].get("rollout")
    return OpenRollout(
        **{name: row[name] for name in same},
        rollout=rollout if isinstance(rollout, dict) else {"rollout": rollout},
        is_paused=row["state"] == "paused",
    )


def _canary(row: Mapping[Any, Any]) -> CanaryExecution:
    return CanaryExecution(
        hostname=row["hostname"],
        state=row["state"],
        is_released=bool(row["released_seq"]),
        finished_us=row["finished_us"],
    )
