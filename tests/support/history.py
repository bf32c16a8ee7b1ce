"""A past for projections: hosts that come and go, tasks in many states, heartbeats; and a projection that counts."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import ClassVar

from sqlalchemy import Column, Table

from control_plane.events import hosts, tasks
from control_plane.events.envelope import EVENT, Key, NewEvent, StoredEvent
from control_plane.events.event import Event
from control_plane.projections.projection import Projection
from control_plane.projections.rows import RowKey, Rows
from control_plane.storage.tables import Identifier, Int64, read_table
from tests.support.events import ACCEPTED, AT, HEARTBEAT, RESULT, a_task_accepted
from tests.support.fleet import a_registration

HOSTS = ("db1", "web1", "web2")


def some_history(number: int) -> list[NewEvent]:
    """Registrations for number 0, and for each further number a task's life, a host's comings, and heartbeats."""
    return [event.to_new_event(actor="ada") for event in (_beginning() if number == 0 else _turn(number))]


def _beginning() -> list[Event]:
    return [a_registration(hostname, "web") for hostname in HOSTS]


def _turn(number: int) -> list[Event]:
    task_id, hostname = f"t{number}", HOSTS[number % len(HOSTS)]
    message = {**RESULT, "task_id": task_id, "exit_code": number % 2}
    accepted = {**ACCEPTED, "task_id": task_id}
    was_online = number % 2
    presence = hosts.HostWentOnline if was_online else hosts.HostWentOffline
    return [
        a_task_accepted(task_id, HOSTS),
        a_heartbeat(hostname, number),
        tasks.ExecutionSent(task_id=task_id, hostname=hostname, route="cmd.all"),
        tasks.ExecutionStarted(hostname=hostname, message={**accepted, "started_at": AT}),
        presence(hostname=hostname, heartbeat_seq=number, heartbeat=HEARTBEAT, cause="a turn"),
        tasks.ExecutionAccepted(hostname=hostname, message=accepted),
        tasks.ExecutionFinished(hostname=hostname, message=message),
        tasks.ExecutionLost(task_id=task_id, hostname=HOSTS[(number + 1) % len(HOSTS)], reason="no word"),
    ]


def a_heartbeat(hostname: str, sequence: int, *, cpu_usage: float = 0.5) -> hosts.HeartbeatReceived:
    said = {"hostname": hostname, "sequence": sequence, "cpu_usage": cpu_usage}
    return hosts.HeartbeatReceived(message={**HEARTBEAT, **said})


def a_poisoned_event(task_id: str) -> NewEvent:
    """A task.accepted whose body nobody can read, as only a defect could have written it."""
    return NewEvent(
        log=EVENT,
        kind=tasks.TaskAccepted.KIND,
        schema_v=1,
        key=Key(task_id, tasks.TaskAccepted.KIND),
        digest=bytes(32),
        body=b'{"kind":"task.accepted"}',
        task_id=task_id,
    )


class Counting(Projection):
    """One row a task: how many events it had, and a hash over their seqs. What is folded twice or not at all shows.

    Attributes: `cannot_fold`: kinds that it stumbles over.
    """

    name: ClassVar[str] = "counting"
    version: ClassVar[int] = 1
    cannot_fold: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, suffix: str = "") -> None:
        super().__init__(suffix)
        self.counted = read_table(
            f"counted{suffix}",
            self.metadata,
            Column("task_id", Identifier(), primary_key=True),
            Column("events", Int64, nullable=False),
            Column("seqs", Identifier(64), nullable=False),
        )

    def concerns(self, kind: str) -> bool:
        return kind.startswith(("task.", "execution."))

    def touched(self, events: Iterable[StoredEvent]) -> Mapping[Table, set[RowKey]]:
        return {self.counted: {(stored.task_id,) for stored in events if stored.task_id is not None}}

    def apply(self, rows: Rows, stored: StoredEvent, event: Event) -> None:
        if event.KIND in self.cannot_fold:
            raise ValueError(event.KIND)
        if stored.task_id is None:
            return
        row = rows.get(self.counted, stored.task_id) or {"task_id": stored.task_id, "events": 0, "seqs": ""}
        seqs = hashlib.sha256(f"{row['seqs']} {stored.seq}".encode()).hexdigest()
        rows.put(self.counted, {**row, "events": row["events"] + 1, "seqs": seqs})
