"""What dispatch knows of every execution that is not terminal: a fold of the log, in memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from control_plane.events import tasks
from control_plane.events.event import Event
from control_plane.events.tasks import TERMINAL, Delivery, TaskAccepted
from control_plane.projections.queries.tasks import OpenExecution

FIRST_RETRY_S: Final = 30.0  # after a confirm without an answer; it doubles
MOST_RETRY_S: Final = 300.0
MOST_DOUBLINGS: Final = 16  # enough for any first pause; a float has no more than 1023


@dataclass(slots=True)
class Due:
    """One execution: what may have reached its host, and when to publish next.

    Attributes:
        answered: its agent has said that it has it, so it needs no further publish; or it may have forgotten it.
        attempts: publishes since the last trigger that came out alike; they space the next one.
        first_s: the pause after the first of them.
        next_s: monotonic seconds of the next attempt; None waits for the host to come online.
        in_doubt: it was published in this tenure, and what became of that is not recorded yet.
        was_sent: `execution.sent` is in the log.
        is_cancelled: its task is to be cancelled.
        is_released: it may be sent, as far as its task's rollout goes.
        is_held: it would have been published, had its task not been paused, or everything been stopped.
    """

    task_id: str
    hostname: str
    seq: int
    delivery: Delivery
    answered: bool = False
    attempts: int = 0
    first_s: float = 0.0
    next_s: float | None = 0.0
    in_doubt: bool = False
    was_sent: bool = False
    is_cancelled: bool = False
    is_released: bool = True
    is_held: bool = False

    @property
    def certainly_not_delivered(self) -> bool:
        """Nothing of it has reached the host, and nothing will unless it is published."""
        return not self.delivery.may_have_arrived and not self.in_doubt

    @property
    def is_unsaid(self) -> bool:
        """Nothing of it has reached the host, and nobody has recorded that for its last trigger."""
        return self.certainly_not_delivered and not self.delivery.certainly_not

    @property
    def is_untouched(self) -> bool:
        """It is as it was accepted: nothing has been published, and nothing has happened since."""
        return not self.in_doubt and self.delivery == Delivery(self.seq)

    @property
    def key(self) -> tuple[str, str]:
        return self.task_id, self.hostname


@dataclass(slots=True)
class OpenExecutions:
    """All of them, by (task_id, hostname), by task, and by host in the order of acceptance.

    Attributes:
        paused: the tasks of which nothing is sent.
        stopped: by task, why its rollout has stopped.
    """

    due: dict[tuple[str, str], Due] = field(default_factory=dict)
    by_task: dict[str, dict[str, Due]] = field(default_factory=dict)
    by_host: dict[str, dict[str, Due]] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    stopped: dict[str, str] = field(default_factory=dict)
    # A heap of (next_s, seq, key). What was planned anew or has ended stays in it until its time, and is passed over.
    _plan: list[tuple[float, int, tuple[str, str]]] = field(default_factory=list)

    def load(self, rows: Iterable[OpenExecution], upto: int) -> list[tasks.ExecutionUnconfirmed]:
        """Begin with the rows of a read table; what is to be recorded of those that may be delivered without a record.

        Args:
            upto: the last event that whoever published before can have known.
        """
        unknown: list[tasks.ExecutionUnconfirmed] = []
        for row in rows:
            may_have_arrived = row.delivery.may_have_arrived
            if not may_have_arrived and 0 < row.since_seq <= upto:
                may_have_arrived, known = True, {"task_id": row.task_id, "hostname": row.hostname}
                unknown.append(tasks.ExecutionUnconfirmed(**known, after_seq=row.since_seq))
            if row.is_paused:
                self.paused.add(row.task_id)
            if row.stopped is not None:
                self.stopped[row.task_id] = row.stopped
            is_skipped = not row.is_released and row.stopped is not None
            is_idle = row.delivery.certainly_not and not row.cancel_requested and not is_skipped
            self._add(
                Due(
                    row.task_id,
                    row.hostname,
                    row.accepted_seq,
                    row.delivery,
                    answered=row.state in {"accepted", "running"} or (may_have_arrived and row.is_forgotten),
                    next_s=None if is_idle else 0.0,
                    was_sent=row.state != "queued",
                    is_cancelled=row.cancel_requested,
                    is_released=row.is_released,
                )
            )
        return unknown

    def _add(self, due: Due) -> None:
        self.due[due.key] = due
        self.by_task.setdefault(due.task_id, {})[due.hostname] = due
        self.by_host.setdefault(due.hostname, {})[due.task_id] = due
        self.plan(due, due.next_s)

    def accept(self, task: TaskAccepted, seq: int) -> None:
        is_released = "rollout" not in task.request
        delivery, next_s = (Delivery(seq), 0.0) if is_released else (Delivery(0), None)
        for hostname in task.hosts:
            if (task.task_id, hostname) not in self.due:
                self._add(Due(task.task_id, hostname, seq, delivery, next_s=next_s, is_released=is_released))

    def release(self, task_id: str, hostname: str, seq: int) -> None:
        """Its task's rollout has come to it; what is cancelled or stopped by then is not sent any more."""
        due = self.due.get((task_id, hostname))
        if due is None or due.is_released or due.is_cancelled or task_id in self.stopped:
            return
        due.is_released = True
        due.delivery = due.delivery.triggered(seq)
        self.plan(due, None if due.answered else 0.0)

    def stop(self, task_id: str, reason: str) -> None:
        """What its rollout has not released is to be skipped."""
        if task_id in self.by_task:
            self.stopped.setdefault(task_id, reason)
            for due in self.by_task[task_id].values():
                if not due.is_released:
                    self.plan(due, 0.0)

    def pause(self, task_id: str) -> None:
        if task_id in self.by_task:
            self.paused.add(task_id)

    def may_be_sent(self, due: Due) -> bool:
        """Whether its command still may: it is not over, and its task neither cancelled nor paused."""
        return due.key in self.due and not due.is_cancelled and due.task_id not in self.paused

    def hold(self, due: Due, until_s: float) -> None:
        """Keep back what is ready, of a paused task or while all is stopped; it is looked at when its time is over."""
        due.is_held = True
        self.plan(due, until_s)

    def resume(self, task_id: str) -> None:
        self.paused.discard(task_id)
        for due in self.by_task.get(task_id, {}).values():
            if due.is_held:
                due.attempts = 0
                self.plan(due, 0.0)

    def look_again(self) -> None:
        """At all that is kept back: it may be sent by now."""
        for due in self.due.values():
            if due.is_held:
                due.attempts = 0
                self.plan(due, 0.0)

    def online(self, hostname: str, seq: int) -> None:
        """The host is there, or trusted, again: whatever it has not answered is published once more, in its order."""
        for due in self.by_host.get(hostname, {}).values():
            may_be_sent = due.is_released and not due.answered
            if due.delivery.trigger_seq < seq and (may_be_sent or due.is_cancelled):
                due.delivery = due.delivery.triggered(seq)
                due.attempts = 0
                self.plan(due, 0.0)

    def quarantine(self, hostname: str) -> None:
        """The host may have forgotten what has reached it: that is never published again, so it is lost at worst."""
        for due in self.by_host.get(hostname, {}).values():
            if not due.certainly_not_delivered and not due.answered:
                due.answered = True
                due.next_s = due.next_s if due.is_cancelled else None

    def cancel(self, task_id: str) -> None:
        for due in self.by_task.get(task_id, {}).values():
            due.is_cancelled, due.attempts = True, 0
            self.plan(due, 0.0)

    def note(self, event: Event) -> None:
        """Take in an event about one execution, whoever recorded it."""
        due = self.due.get((getattr(event, "task_id", ""), getattr(event, "hostname", "")))
        if due is None:
            return
        match event:
            case tasks.ExecutionReturned(trigger_seq=trigger_seq):
                due.delivery = due.delivery.returned(trigger_seq)
                due.in_doubt = due.in_doubt and not due.delivery.certainly_not
            case tasks.ExecutionSent() | tasks.ExecutionUnconfirmed():
                due.delivery = due.delivery.perhaps()
                due.was_sent = due.was_sent or isinstance(event, tasks.ExecutionSent)
            case tasks.ExecutionAccepted() | tasks.ExecutionStarted():
                due.delivery = due.delivery.perhaps()
                due.answered = True
                due.next_s = due.next_s if due.is_cancelled else None
            case _ if event.KIND == tasks.ExecutionFinished.KIND or tasks.STATE_BY_KIND.get(event.KIND) in TERMINAL:
                self.close(due)

    def close(self, due: Due) -> None:
        del self.due[due.key]
        for index, name, other in (
            (self.by_task, due.task_id, due.hostname),
            (self.by_host, due.hostname, due.task_id),
        ):
            del index[name][other]
            if not index[name]:
                del index[name]
        if due.task_id not in self.by_task:
            self.paused.discard(due.task_id)
            self.stopped.pop(due.task_id, None)

    def plan(self, due: Due, next_s: float | None) -> None:
        """Publish it at that time, whatever was planned before; None: when its host comes online."""
        due.next_s = next_s
        if next_s is not None:
            heappush(self._plan, (next_s, due.seq, due.key))

    def again(self, due: Due, now_s: float, *, first_s: float, left_s: float | None = None) -> None:
        """Publish it once more, after a pause that is longer each time.

        Args:
            left_s: until it is over; then it is looked at in any case.
        """
        if due.first_s != first_s:  # how often it was not sent says nothing of how long an answer may take
            due.first_s, due.attempts = first_s, 0
        most_s = MOST_RETRY_S if left_s is None else min(left_s, MOST_RETRY_S)
        self.plan(due, now_s + min(first_s * 2 ** min(due.attempts, MOST_DOUBLINGS), most_s))
        due.attempts += 1

    def take_ready(self, now_s: float) -> list[Due]:
        """What is to be published now, first in, first out; from here on nothing is planned for it."""
        ready: list[Due] = []
        while (next_s := self.next_s()) is not None and next_s <= now_s:
            due = self.due[heappop(self._plan)[-1]]
            due.next_s, due.is_held = None, False
            ready.append(due)
        return sorted(ready, key=lambda due: (due.seq, due.hostname))

    def next_s(self) -> float | None:
        """When something is ready next; None where everything waits for its host or its answer."""
        while self._plan:
            next_s, _, key = self._plan[0]
            due = self.due.get(key)
            if due is not None and due.next_s == next_s:
                return next_s
            heappop(self._plan)
        return None
