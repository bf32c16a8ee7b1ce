"""Tasks and their executions as they are shown.

At every moment the counts of a task add up to its targets, no state goes backwards, and a terminal one never changes.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from sqlalchemy import Column, Index, Table

from control_plane.events import hosts, rollouts, tasks
from control_plane.events.envelope import StoredEvent
from control_plane.events.event import Event
from control_plane.events.tasks import RANK, STATE_BY_KIND, TERMINAL, advanced, last_start_s, last_word_s, state_of
from control_plane.projections.projection import Projection
from control_plane.projections.rows import Json, Row, RowKey, RowStore
from control_plane.storage.tables import Blob, Identifier, Int64, LongText, read_table
from control_plane_wire.messages import ResultMessage
from control_plane_wire.signing import decode_public_key, key_id

FIRST_LINE_CHARACTERS = 200
GOING = ("running", "paused")  # states of a task in which it may be paused, resumed, cancelled and sent
OF_HOSTS = frozenset(
    cls.KIND
    for cls in (
        hosts.HostRegistered,
        hosts.HostKeySwitched,
        hosts.HostWentOnline,
        hosts.HostQuarantined,
        hosts.HostQuarantineLifted,
    )
)


class TasksProjection(Projection):
    name: ClassVar[str] = "tasks"
    version: ClassVar[int] = 7

    def __init__(self, suffix: str = "") -> None:
        super().__init__(suffix)
        self.task = read_table(
            f"task{suffix}",
            self.metadata,
            Column("task_id", Identifier(), primary_key=True),
            Column("seq", Int64, nullable=False, comment="its task.accepted"),
            Column("state", Identifier(16), nullable=False, comment="running, paused, cancelling or finished"),
            Column("outcome", Identifier(16), comment="of a finished one: succeeded, failed or cancelled"),
            Column("request", Json(), nullable=False),
            Column("actor", Identifier(), nullable=False),
            Column("targets", Int64, nullable=False),
            Column("counts", Json(), nullable=False, comment="executions by state; they add up to targets"),
            Column("accepted_us", Int64, nullable=False),
            Column("expires_at", Int64, nullable=False, comment="Unix seconds"),
            Column("timeout_s", Int64, nullable=False),
            Column("finished_us", Int64),
            Column("cancel_requested_us", Int64),
            Column("retry_of", Identifier()),
            Column("released", Int64, nullable=False, comment="hosts that it may be sent to: all, without a rollout"),
            Column("turned_seq", Int64, nullable=False, comment="its last pause or resume, or else its task.accepted"),
            Column("approval_seq", Int64, comment="the pause that asked for an approval, or one without"),
            Column("stopped", LongText, comment="why its rollout has stopped"),
            Column("guard_level", Int64, nullable=False),
            Column("pos", Int64, nullable=False, comment="the last event that changed this row"),
            Index("task_pos", "pos", "seq"),
            Index("task_seq", "seq"),
            Index("task_state", "state", "seq", "pos"),
        )
        self.execution = read_table(
            f"execution{suffix}",
            self.metadata,
            Column("task_id", Identifier(), primary_key=True),
            Column("hostname", Identifier(), primary_key=True),
            Column("state", Identifier(16), nullable=False),
            Column("state_seq", Int64, nullable=False, comment="the event that gave it its state"),
            Column("is_open", Int64, nullable=False, comment="1 until it is terminal"),
            Column("accepted_seq", Int64, nullable=False, comment="its task's task.accepted"),
            Column("released_seq", Int64, nullable=False, comment="from when on it may be sent, or 0"),
            Column("returned_seq", Int64, nullable=False, comment="the last trigger whose publish came back"),
            Column("may_have_arrived", Int64, nullable=False, comment="1: perhaps delivered, for good"),
            Column("arrived_seq", Int64, nullable=False, comment="known when that was published first; or 0"),
            Column("deadline_s", Int64, nullable=False, comment="Unix seconds until which its silence means nothing"),
            Column("queued_us", Int64, nullable=False),
            Column("sent_us", Int64),
            Column("accepted_us", Int64),
            Column("started_us", Int64, comment="by the host's clock, for show"),
            Column("running_us", Int64, comment="when its agent's word that it runs was recorded"),
            Column("finished_us", Int64),
            Column("result_seq", Int64, comment="the event that has the output"),
            Column("exit_code", Int64),
            Column("reason", LongText),
            Column("stdout_bytes", Int64),
            Column("stderr_bytes", Int64),
            Column("stdout_sha256", Identifier(64)),
            Column("stderr_sha256", Identifier(64)),
            Column("truncated", Int64),
            Column("leftovers", Int64, comment="processes that outlived the command"),
            Column("first_line", Blob),
            Column("late", Json(), comment="a result that came after the control plane had said the outcome"),
            Column("pos", Int64, nullable=False),
            Index("execution_pos", "pos"),
            Index("execution_host", "hostname", "accepted_seq"),
            Index("execution_open", "is_open", "accepted_seq"),
            Index("execution_deadline", "is_open", "deadline_s"),
        )
        # When each host last came online, and was last trusted again: what then waited for it was published again. What
        # had reached it before its last quarantine was not.
        self.online = read_table(
            f"task_host{suffix}",
            self.metadata,
            Column("hostname", Identifier(), primary_key=True),
            Column("key_id", Identifier(64), comment="of the machine that has the name now; another one is not meant"),
            Column("online_seq", Int64),
            Column("called_seq", Int64, nullable=False, comment="the later of the two"),
            Column("quarantined_seq", Int64, nullable=False),
            Column("called_before_seq", Int64, nullable=False, comment="called_seq, as that quarantine found it"),
        )

    def concerns(self, kind: str) -> bool:
        return kind.startswith(("task.", "execution.")) or kind in OF_HOSTS

    def touched(self, events: Iterable[StoredEvent]) -> Mapping[Table, set[RowKey]]:
        task_ids: set[RowKey] = set()
        executions: set[RowKey] = set()
        hostnames: set[RowKey] = set()
        for stored in events:
            if stored.kind in OF_HOSTS:
                hostnames.add((stored.hostname or "",))
            if (task_id := stored.task_id) is None or stored.kind == tasks.TaskAccepted.KIND:
                continue  # a new row, whatever stands
            task_ids.add((task_id,))
            if (hostname := stored.hostname) is not None:
                executions.add((task_id, hostname))
        return {self.task: task_ids, self.execution: executions, self.online: hostnames}

    def apply(self, rows: RowStore, stored: StoredEvent, event: Event) -> None:
        match event:
            case tasks.TaskAccepted():
                self._accept(rows, stored, event)
            case tasks.TaskCancelRequested():
                self._request_cancel(rows, stored)
            case (
                rollouts.TaskPaused() | rollouts.TaskResumed() | rollouts.TaskApproved() | rollouts.TaskRolloutStopped()
            ):
                self._turn(rows, stored, event)
            case hosts.HostRegistered():
                self._of_host(rows, event.hostname, key_id=key_id(decode_public_key(event.public_key)))
            case hosts.HostKeySwitched():
                self._of_host(rows, event.hostname, key_id=event.key_id)
            case hosts.HostWentOnline():
                self._of_host(rows, event.hostname, online_seq=stored.seq, called_seq=stored.seq)
            case hosts.HostQuarantined():
                self._quarantine(rows, event, stored.seq)
            case hosts.HostQuarantineLifted():
                self._of_host(rows, event.hostname, called_seq=stored.seq)
            case _ if event.KIND.startswith("execution."):
                self._change(rows, stored, event)

    def _quarantine(self, rows: RowStore, event: hosts.HostQuarantined, seq: int) -> None:
        before = rows.get(self.online, event.hostname)
        if before is None or before["key_id"] in {None, event.key_id}:
            called_seq = 0 if before is None else before["called_seq"]
            self._of_host(rows, event.hostname, quarantined_seq=seq, called_before_seq=called_seq)

    def _of_host(self, rows: RowStore, hostname: str, **changes: int | str) -> None:
        zero = dict.fromkeys(("called_seq", "quarantined_seq", "called_before_seq"), 0)
        none: Row = {"hostname": hostname, "key_id": None, "online_seq": None, **zero}
        rows.put(self.online, {**(rows.get(self.online, hostname) or none), **changes})

    def _accept(self, rows: RowStore, stored: StoredEvent, event: tasks.TaskAccepted) -> None:
        level, timeout = event.guard.get("level"), event.request["timeout"]
        task = {
            "task_id": event.task_id,
            "seq": stored.seq,
            "request": dict(event.request),
            "actor": event.actor,
            "targets": len(event.hosts),
            "accepted_us": stored.recorded_us,
            "expires_at": event.expires_at,
            "timeout_s": timeout if isinstance(timeout, int) else 0,
            "retry_of": event.retry_of,
            "guard_level": level if isinstance(level, int) else 1,
        }
        self.begin(rows, task, event.hosts)

    def begin(self, rows: RowStore, task: Row, hostnames: Sequence[str]) -> None:
        """Put a task as its acceptance leaves it, given what never changes of its row, and these of its executions."""
        as_accepted = {
            **dict.fromkeys(("outcome", "finished_us", "cancel_requested_us", "approval_seq", "stopped")),
            "state": "running",
            "counts": {"queued": task["targets"]},
            "released": 0 if "rollout" in task["request"] else task["targets"],
            "turned_seq": task["seq"],
            "pos": task["seq"],
        }
        rows.put(self.task, {**task, **as_accepted})
        for hostname in hostnames:
            rows.put(self.execution, _queued(task, hostname))

    def _request_cancel(self, rows: RowStore, stored: StoredEvent) -> None:
        task = rows.get(self.task, stored.task_id or "")
        if task is not None and task["state"] in GOING:
            now = {"state": "cancelling", "cancel_requested_us": stored.recorded_us, "pos": stored.seq}
            rows.put(self.task, {**task, **now})

    def _turn(self, rows: RowStore, stored: StoredEvent, event: Event) -> None:
        task = rows.get(self.task, stored.task_id or "")
        if task is None or task["state"] not in GOING:
            return
        match event:
            case rollouts.TaskPaused(awaits=awaits) if task["state"] == "running":
                asked = stored.seq if awaits == rollouts.APPROVAL else task["approval_seq"]
                now: Row = {"state": "paused", "turned_seq": stored.seq, "approval_seq": asked}
            case rollouts.TaskResumed() if task["state"] == "paused":
                now = {"state": "running", "turned_seq": stored.seq}
            case rollouts.TaskApproved() if task["approval_seq"] is None:
                now = {"approval_seq": stored.seq}
            case rollouts.TaskRolloutStopped() if task["stopped"] is None:
                now = {"stopped": event.reason}
            case _:
                return
        rows.put(self.task, {**task, **now, "pos": stored.seq})

    def _change(self, rows: RowStore, stored: StoredEvent, event: Event) -> None:
        task = rows.get(self.task, stored.task_id or "")
        before = rows.get(self.execution, stored.task_id or "", stored.hostname or "")
        if task is None or before is None:
            return  # an unexpected result, of a host that is not on the list
        if isinstance(event, rollouts.ExecutionReleased) and (task["state"] not in GOING or task["stopped"]):
            return  # it came too late
        after = {**before, **_changes(before, stored, event)}
        if after == before:
            return
        if after["may_have_arrived"] and not before["may_have_arrived"]:
            after["arrived_seq"] = getattr(event, "after_seq", None) or stored.seq
        now = task
        is_released = after["released_seq"] or (before["is_open"] and after["may_have_arrived"])
        if is_released and not before["released_seq"]:
            after["released_seq"] = stored.seq
            now = {**now, "released": now["released"] + 1, "pos": stored.seq}
        if after["is_open"]:
            after["deadline_s"] = _deadline_s(after, task)
        after["pos"] = stored.seq
        if after["state"] != before["state"]:
            after["state_seq"] = stored.seq
            now = _counted(now, before["state"], after["state"], stored)
        rows.put(self.execution, after)
        if now is not task:
            rows.put(self.task, now)


def _queued(task: Row, hostname: str) -> Row:
    nothing = dict.fromkeys(
        (
            *("sent_us", "accepted_us", "started_us", "running_us", "finished_us", "result_seq", "exit_code", "reason"),
            *("stdout_bytes", "stderr_bytes", "stdout_sha256", "stderr_sha256", "truncated", "leftovers"),
            *("first_line", "late"),
        )
    )
    row = {
        "task_id": task["task_id"],
        "hostname": hostname,
        "state": "queued",
        "state_seq": task["seq"],
        "is_open": 1,
        "accepted_seq": task["seq"],
        "released_seq": 0 if "rollout" in task["request"] else task["seq"],
        "returned_seq": 0,
        "may_have_arrived": 0,
        "arrived_seq": 0,
        "queued_us": task["accepted_us"],
        **nothing,
        "pos": task["seq"],
    }
    return {**row, "deadline_s": _deadline_s(row, task)}


def _deadline_s(row: Row, task: Row) -> int:
    """What came back may have expired by then, unless its host has come online since; all else may be lost.

    What was never released was never sent either.
    """
    if not row["released_seq"] or (row["returned_seq"] and not row["may_have_arrived"]):
        return last_start_s(task["expires_at"])
    return last_word_s(task["expires_at"], task["timeout_s"], row["running_us"])


def _changes(row: Mapping[str, object], stored: StoredEvent, event: Event) -> Row:
    """What an event changes in an execution's row."""
    match event:
        case tasks.ExecutionReturned(trigger_seq=trigger_seq):
            return {"returned_seq": max(trigger_seq, int(str(row["returned_seq"])))}
        case tasks.ExecutionUnconfirmed():
            return {"may_have_arrived": 1}
        case tasks.ExecutionLateResult():
            result = event.result
            return {"late": {"seq": stored.seq, "outcome": state_of(result), "exit_code": result.exit_code}}
    if row["state"] in TERMINAL:
        return {}
    match event:
        case rollouts.ExecutionReleased():
            return {"released_seq": row["released_seq"] or stored.seq}
        case tasks.ExecutionSent():
            return {"state": advanced(str(row["state"]), "sent"), "may_have_arrived": 1, "sent_us": stored.recorded_us}
        case tasks.ExecutionAccepted():
            changes: Row = {"accepted_us": stored.recorded_us}
        case tasks.ExecutionStarted():
            changes = {"started_us": event.started_at * 1_000_000, "running_us": stored.recorded_us}
        case tasks.ExecutionFinished():
            return {"is_open": 0, "may_have_arrived": 1, "finished_us": stored.recorded_us, **_of_result(event, stored)}
        case tasks.ExecutionExpired() | tasks.ExecutionLost() | tasks.ExecutionSkipped() | tasks.ExecutionCancelled():
            state = STATE_BY_KIND[event.KIND]
            return {"state": state, "is_open": 0, "finished_us": stored.recorded_us, "reason": event.reason}
        case _:
            return {}
    state = advanced(str(row["state"]), STATE_BY_KIND[event.KIND])
    return {"state": state, "may_have_arrived": 1, **changes}


def _of_result(event: tasks.ExecutionFinished, stored: StoredEvent) -> Row:
    result = event.result
    return {
        "state": state_of(result),
        "result_seq": stored.seq,
        "exit_code": result.exit_code,
        "reason": result.reason,
        "stdout_bytes": len(result.stdout.encode()) if result.stdout_bytes is None else result.stdout_bytes,
        "stderr_bytes": len(result.stderr.encode()) if result.stderr_bytes is None else result.stderr_bytes,
        "stdout_sha256": result.stdout_sha256 or digest(result.stdout),
        "stderr_sha256": result.stderr_sha256 or digest(result.stderr),
        "truncated": int(bool(result.truncated)),
        "leftovers": result.leftovers,
        "first_line": _first_line(result),
        **({} if result.started_at is None else {"started_us": result.started_at * 1_000_000}),
    }


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _first_line(result: ResultMessage) -> bytes | None:
    """The start of what it printed, as text; None where that is not text."""
    if result.encoding == "base64":
        return None
    text = result.stdout.strip() or result.stderr.strip()
    return text.partition("\n")[0][:FIRST_LINE_CHARACTERS].encode()


def _counted(task: Row, before: str, after: str, stored: StoredEvent) -> Row:
    """The task's row after one of its executions has changed its state."""
    counts = dict(task["counts"])
    counts[before] -= 1
    counts[after] = counts.get(after, 0) + 1
    counts = {state: count for state in RANK if (count := counts.get(state, 0))}
    row = {**task, "counts": counts, "pos": stored.seq}
    if counts.keys() <= TERMINAL:
        row |= {"state": "finished", "outcome": _outcome(row), "finished_us": stored.recorded_us}
    return row


def _outcome(task: Row) -> str:
    """Succeeded is every host; cancelled is where nothing but the cancelling kept a host from it."""
    states = set(task["counts"])
    if states == {"succeeded"}:
        return "succeeded"
    if task["cancel_requested_us"] is not None and "cancelled" in states and states <= {"succeeded", "cancelled"}:
        return "cancelled"
    return "failed"
