"""The results of executions, as a stream: whose count, and what becomes of the others."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.commands.authority import Authority
from control_plane.events import registry, tasks
from control_plane.events.envelope import EVENT, Conflict, Key, NewEvent, Outcome, Recorded
from control_plane.events.event import Event
from control_plane.events.log import EventLog
from control_plane.messaging.dead_letters import DeadLetter
from control_plane.messaging.ingest import Received, unsigned, vouched
from control_plane.observability import Count
from control_plane_wire import messages, signing, topology
from control_plane_wire.errors import MalformedMessageError
from control_plane_wire.messages import Signed
from control_plane_wire.transport.base import Delivery

CACHED_TASKS: Final = 2000
CACHED_CONFLICTS: Final = 100_000

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """What a task was accepted for: its hosts, as they were at a log position."""

    hosts: frozenset[str]
    as_of: int


class Results:
    """A result counts if its host is on the task's frozen list, and is that machine yet; the first is the outcome."""

    name = "results"
    queue = topology.RESULT_QUEUE
    dead_queue = topology.RESULT_DEAD_QUEUE
    tag = signing.RESULT
    max_bytes = messages.MAX_RESULT_BYTES
    prefetch = 250  # 2 GiB of the largest ones

    def __init__(self, log: EventLog, authority: Authority, count: Count) -> None:
        self._log = log
        self._authority = authority
        self._count = count
        self._frozen: OrderedDict[str, Frozen] = OrderedDict()
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()  # executions whose conflict is recorded

    def sender(self, delivery: Delivery, signed: Signed) -> str:
        messages.parse_result(signed.message)
        return topology.host_of_result_key(delivery.routing_key)

    async def events(self, received: Sequence[Received]) -> list[NewEvent | DeadLetter | tasks.ExecutionUnexpected]:
        frozen = await self._frozen_of({str(r.signed.message["task_id"]) for r in received})
        return [self._event(r, frozen.get(str(r.signed.message["task_id"]))) for r in received]

    def _event(self, received: Received, frozen: Frozen | None) -> NewEvent | tasks.ExecutionUnexpected:
        task_id = str(received.signed.message["task_id"])
        if (reason := self._unexpected(received.hostname, frozen)) is not None:
            self._count("unexpected_results", 1)
            return tasks.ExecutionUnexpected(
                task_id=task_id,
                hostname=received.hostname,
                reason=reason,
                message_sha256=hashlib.sha256(received.signed.body).hexdigest(),
            )
        message = unsigned(received.signed)
        event: Event
        match messages.parse_result(received.signed.message):
            case messages.AcceptedMessage(started_at=None):
                event = tasks.ExecutionAccepted(message=message, hostname=received.hostname)
            case messages.AcceptedMessage():
                event = tasks.ExecutionStarted(message=message, hostname=received.hostname)
            case messages.ResultMessage():
                event = tasks.ExecutionFinished(message=message, hostname=received.hostname)
        return vouched(event, received)

    def _unexpected(self, hostname: str, frozen: Frozen | None) -> str | None:
        """Why nobody asked this host for it; None where somebody did."""
        if frozen is None:
            return "unknown task"
        if hostname not in frozen.hosts:
            return "not a target of this task"
        if self._authority.fleet.is_replaced(hostname, frozen.as_of):
            return "this task was for another machine of that name"
        return None

    async def _frozen_of(self, task_ids: set[str]) -> dict[str, Frozen]:
        """The frozen lists of these tasks, from the log; a task's list never changes, so it may be remembered."""
        keys = {Key(task_id, tasks.TaskAccepted.KIND): task_id for task_id in task_ids - self._frozen.keys()}
        if keys:
            for key, seq in (await self._log.find(EVENT, list(keys))).items():
                stored = await self._log.read_one(EVENT, seq)
                try:
                    event = registry.decode(stored) if stored else None
                except MalformedMessageError as error:
                    _logger.error("task refused", extra={"seq": seq, "reason": error.reason})  # noqa: TRY400 - said all
                    continue
                if isinstance(event, tasks.TaskAccepted):
                    self._frozen[keys[key]] = Frozen(hosts=frozenset(event.hosts), as_of=event.as_of)
        found = {task_id: self._frozen[task_id] for task_id in task_ids if task_id in self._frozen}
        while len(self._frozen) > CACHED_TASKS:
            self._frozen.popitem(last=False)
        return found

    async def settle(
        self, received: Sequence[Received], events: Sequence[NewEvent], outcomes: Sequence[Outcome]
    ) -> None:
        """A result whose place is taken: late evidence beside our own outcome, or a second, different one.

        Of those one is recorded for each execution, and further ones are counted: a host may sign as many as it likes.
        """
        late: list[Received] = []
        differs: list[tuple[Received, int]] = []
        for r, event, outcome in zip(received, events, outcomes, strict=True):
            if isinstance(outcome, Conflict) and event.kind == tasks.ExecutionFinished.KIND:
                first = await self._log.read_one(EVENT, outcome.seq)
                if first is None or first.kind == tasks.ExecutionFinished.KIND:
                    differs.append((r, outcome.seq))
                else:
                    late.append(r)
        if late:
            evidence = await self._log.append([self._late(r) for r in late])
            differs += [(r, kept.seq) for r, kept in zip(late, evidence, strict=True) if isinstance(kept, Conflict)]
            self._count("late_results", sum(isinstance(kept, Recorded) for kept in evidence))
        if differs:
            self._count("conflicts", len(differs))
            found = {_execution_of(r): _conflict(r, first_seq) for r, first_seq in reversed(differs)}
            if untold := {execution: event for execution, event in found.items() if execution not in self._told}:
                await self._log.append(list(untold.values()))
                self._told.update(dict.fromkeys(untold))
                while len(self._told) > CACHED_CONFLICTS:
                    self._told.popitem(last=False)

    def _late(self, received: Received) -> NewEvent:
        late = tasks.ExecutionLateResult(message=unsigned(received.signed), hostname=received.hostname)
        return vouched(late, received)


def _execution_of(received: Received) -> tuple[str, str]:
    return str(received.signed.message["task_id"]), received.hostname


def _conflict(received: Received, first_seq: int) -> NewEvent:
    task_id, hostname = _execution_of(received)
    return tasks.ExecutionConflict(
        task_id=task_id,
        hostname=hostname,
        first_seq=first_seq,
        result_sha256=hashlib.sha256(received.signed.body).hexdigest(),
    ).to_new_event()
