"""Rollouts: a task goes to its hosts little by little, as long as it succeeds there.

Like deadlines it looks at the read table, never ahead of it: before it decides, the table has everything that was in
the log. What it decides follows from that alone, so whoever takes over after a crash decides the same once more, and
the keys of the log make it one. It sends nothing: dispatch sends what is released.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from control_plane.commands.authority import Keyring
from control_plane.commands.rollouts import Rollout, parse_rollout
from control_plane.errors import RefusedError
from control_plane.events.envelope import EVENT, NewEvent
from control_plane.events.event import Event
from control_plane.events.log import EventLog
from control_plane.events.rollouts import APPROVAL, ExecutionReleased, TaskPaused, TaskRolloutStopped
from control_plane.events.tasks import FAILED, TERMINAL
from control_plane.processes.ports import Leases
from control_plane.projections.hub import Hub
from control_plane.projections.queries.rollouts import CanaryExecution, OpenRollout, RolloutQueries
from control_plane.projections.tasks import TasksProjection
from control_plane_wire.clock import Clock
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.lifecycle import wait_for_any

POLL_S: Final = 0.25  # how late a new one may begin, and a wait may end
PAUSE_S: Final = 0.05  # between two looks, however much happens
BATCH: Final = 500

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Where a rollout stands.

    Attributes:
        canary: the executions that go first; none are looked up of a paused task, which comes to nothing by them.
        waiting: the next of the others that are not released, at most BATCH; none where none of them may be by now.
    """

    task: OpenRollout
    rollout: Rollout
    canary: Sequence[CanaryExecution]
    waiting: Sequence[str]

    def number(self, states: Iterable[str]) -> int:
        """Of all the executions, how many are in these states."""
        return sum(self.task.counts.get(state, 0) for state in states)

    @property
    def in_hand(self) -> int:
        """Executions that are released and have not ended."""
        return self.task.released - self.number(TERMINAL)

    @property
    def room(self) -> int:
        """How many more hosts it may be on, beside its canary."""
        return max(0, min(self.rollout.window(self.task.targets), self.number(["succeeded"]) + 1) - self.in_hand)


def decide(view: View, now_s: int) -> list[Event]:
    """What follows from how things stand: hosts to release, an approval to ask for, or the end of it."""
    task = view.task
    if now_s >= task.expires_at:  # what has not come to its turn expires by itself, and that is no error of a host
        return []
    failed, most = view.number(FAILED), view.rollout.errors(task.targets)
    if failed > most:
        return [TaskRolloutStopped(task_id=task.task_id, failed=failed, targets=task.targets, max_errors=most)]
    if task.is_paused:
        return []
    if first := [execution.hostname for execution in view.canary if not execution.is_released]:
        return _released(task, first[:BATCH])
    if any(execution.state not in TERMINAL for execution in view.canary):
        return []
    if view.canary and task.approval_seq is None and (held_up := _after_canary(view, now_s)) is not None:
        return held_up
    return _released(task, view.waiting[: view.room])


def _after_canary(view: View, now_s: int) -> list[Event] | None:
    """An approval to ask for, or nothing as long as it waits; None where it may go on.

    A canary that has not succeeded everywhere, though within the errors that may be, needs somebody's approval, too.
    """
    succeeded = sum(execution.state == "succeeded" for execution in view.canary)
    if view.rollout.wait == "approve" or succeeded < len(view.canary):
        asked = TaskPaused(
            task_id=view.task.task_id,
            actor=Rollouts.name,
            based_on=view.task.turned_seq,
            reason=f"the canary has succeeded on {succeeded} of {len(view.canary)}: resume to go on",
            awaits=APPROVAL,
        )
        return [asked]
    wait_s = view.rollout.wait or 0
    ended_us = max(execution.finished_us or 0 for execution in view.canary)
    return [] if wait_s and now_s * 1_000_000 < ended_us + wait_s * 1_000_000 else None


def _released(task: OpenRollout, hostnames: Iterable[str]) -> list[Event]:
    return [ExecutionReleased(task_id=task.task_id, hostname=hostname) for hostname in hostnames]


class Rollouts:
    """The process, as a service; any number may run, and the one with the lease works."""

    name = "rollout"

    def __init__(
        self,
        log: EventLog,
        leases: Leases,
        hub: Hub,
        queries: RolloutQueries,
        keyring: Keyring,
        clock: Clock,
        *,
        failpoints: Failpoints = NO_FAILPOINTS,
    ) -> None:
        self._log = log
        self._leases = leases
        self._hub = hub
        self._queries = queries
        self._keyring = keyring
        self._clock = clock
        self._failpoints = failpoints
        self._refused: set[str] = set()  # tasks of which it has been said

    async def run(self, stop: asyncio.Event) -> None:
        await self._leases.keep("process:rollout", lambda _lease: self._work(stop), stop=stop)

    async def _work(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            head = await self._log.head(EVENT)
            if not await self._hub.wait_for(TasksProjection.name, head.seq):
                continue
            views = await self._views()
            await self._say(views)
            await wait_for_any(stop, timeout_s=PAUSE_S if views else POLL_S)
            if views:
                await self._log.wait_beyond(EVENT, head.seq, timeout_s=POLL_S)

    async def decide(self) -> int:
        """Say what follows now; how many events that were."""
        head = await self._log.head(EVENT)
        if not await self._hub.wait_for(TasksProjection.name, head.seq):
            return 0
        return await self._say(await self._views())

    async def _views(self) -> list[View]:
        tasks = await self._queries.open()
        self._refused &= {task.task_id for task in tasks}
        return [await self._view(task, rollout) for task in tasks if (rollout := self._parsed(task)) is not None]

    def _parsed(self, task: OpenRollout) -> Rollout | None:
        """None where it says what no accepted task can say, so that somebody else has written it."""
        try:
            return parse_rollout(task.rollout)
        except RefusedError as error:
            if task.task_id not in self._refused:
                self._refused.add(task.task_id)
                _logger.error(  # noqa: TRY400 - what it was is in the fields
                    "rollout refused", extra={"task_id": task.task_id, "reason": error.detail}
                )
            return None

    async def _view(self, task: OpenRollout, rollout: Rollout) -> View:
        if task.is_paused:
            return View(task=task, rollout=rollout, canary=[], waiting=[])
        canary = [] if rollout.canary is None else await self._queries.canary(task.task_id, rollout.canary)
        view = View(task=task, rollout=rollout, canary=canary, waiting=[])
        if view.room == 0 or not all(execution.is_released for execution in canary):
            return view
        return replace(view, waiting=await self._queries.waiting(task.task_id, limit=BATCH))

    async def _say(self, views: Iterable[View]) -> int:
        now_s = self._clock.now_s()
        said = [event for view in views for event in decide(view, now_s)]
        for start in range(0, len(said), BATCH):
            self._failpoints.hit("rollout.before_append")
            await self._log.append([self._signed(event) for event in said[start : start + BATCH]])
            self._failpoints.hit("rollout.after_append")
        if said:
            _logger.info("rollouts went on", extra={"events": len(said)})
        return len(said)

    def _signed(self, event: Event) -> NewEvent:
        keyring = self._keyring
        return event.to_new_event(actor=self.name, signature=keyring.sign_event(event), key_id=keyring.active.key_id)
