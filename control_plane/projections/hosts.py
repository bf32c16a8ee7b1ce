"""Hosts as they are shown: what the event log says of them, and beside it what their heartbeats say."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar

import orjson
from sqlalchemy import Column, Index, Table

from control_plane.events import heartbeats, hosts
from control_plane.events.continuity import Trace
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName, StoredEvent
from control_plane.events.event import Event
from control_plane.events.heartbeats import Heartbeat
from control_plane.events.presence import LastHeartbeat, counted, follows
from control_plane.projections.projection import Projection
from control_plane.projections.rows import Json, Row, RowKey, RowStore
from control_plane.projections.usage import block_of, packed
from control_plane.storage.tables import Blob, Float64, Identifier, Int64, LongText, read_table
from control_plane_wire.messages import HeartbeatMessage
from control_plane_wire.signing import decode_public_key, key_id

PRESENCE: Mapping[str, str] = {
    hosts.HostWentOnline.KIND: "online",
    hosts.HostWentStale.KIND: "stale",
    hosts.HostWentOffline.KIND: "offline",
}
# What the dashboard shows of a heartbeat beside the usages, under the same names.
FACTS = (
    "agent_version",
    "boot_id",
    "running",
    "load",
    "disk_usage",
    "uptime",
    "os",
    "kernel",
    "cpu_count",
    "memory_bytes",
    "addresses",
    "runs_as",
    "limits_missing",
)


class HostsProjection(Projection):
    name: ClassVar[str] = "hosts"
    version: ClassVar[int] = 3
    logs: ClassVar[tuple[LogName, ...]] = (EVENT, HEARTBEAT_EVENT)

    def __init__(self, suffix: str = "") -> None:
        super().__init__(suffix)
        self.host = read_table(
            f"host{suffix}",
            self.metadata,
            Column("hostname", Identifier(), primary_key=True),
            # fed by the event log
            *_of_events(),
            Column("pos", Int64, nullable=False, comment="the last event that changed this row; 0: not registered"),
            # fed by the heartbeat log
            Column("heartbeat_seq", Int64, nullable=False, comment="the last heartbeat that counted"),
            Column("last_heartbeat_us", Int64),
            Column("interval_s", Int64),
            Column("boot_id", LongText),
            Column("sequence", Int64),
            Column("timestamp", Int64, comment="Unix seconds by the host's clock"),
            Column("superseded", Json(), nullable=False),
            Column("status", Identifier(16)),
            Column("cpu_usage", Float64),
            Column("memory_usage", Float64),
            Column("groups_bound", Json()),
            Column("heartbeat", Blob, comment="the body of that heartbeat"),
            Column("usage_pos", Int64, nullable=False, comment="the last heartbeat that changed this row"),
            Index("host_pos", "pos"),
            Index("host_usage_pos", "usage_pos"),
        )
        self.usage = read_table(
            f"host_usage{suffix}",
            self.metadata,
            Column("hostname", Identifier(), primary_key=True),
            Column("since_us", Int64, primary_key=True, autoincrement=False, comment="when the block began"),
            Column("data", Blob, nullable=False, comment="one entry a heartbeat that counted: see usage.py"),
        )

        # What the event log said of each host, for ever: a row an event that changed it.
        self.history = read_table(
            f"host_history{suffix}",
            self.metadata,
            Column("hostname", Identifier(), primary_key=True),
            Column("pos", Int64, primary_key=True, autoincrement=False),
            *_of_events(),
        )

    @property
    def passing(self) -> Collection[Table]:
        return (self.usage,)

    def concerns(self, kind: str) -> bool:
        return kind == hosts.HeartbeatReceived.KIND or kind.startswith("host.")

    @property
    def glance(self) -> Callable[[StoredEvent], Event | None]:
        """See `Projection`."""
        return heartbeats.glance

    def touched(self, events: Iterable[StoredEvent]) -> Mapping[Table, set[RowKey]]:
        hostnames: set[RowKey] = set()
        blocks: set[RowKey] = set()
        for stored in events:
            hostname = stored.hostname or ""
            if stored.kind == hosts.HeartbeatReceived.KIND:
                hostnames.add((hostname,))
                blocks.add((hostname, block_of(stored.recorded_us)))
            elif self.concerns(stored.kind):
                hostnames.add((hostname,))
        return {self.host: hostnames, self.usage: blocks}

    def apply(self, rows: RowStore, stored: StoredEvent, event: Event) -> None:
        if isinstance(event, Heartbeat):
            self._heartbeat(rows, stored, event)
        elif isinstance(event, hosts.HeartbeatReceived):
            self._heartbeat(rows, stored, event.heartbeat)
        elif event.KIND.startswith("host.") and stored.hostname:
            row = rows.get(self.host, stored.hostname)
            is_registered = row is not None and row["pos"] > 0  # the row may be there by a heartbeat alone, or not yet
            if not is_registered and not isinstance(event, hosts.HostRegistered):
                return
            changes = _changes(row or {}, stored, event)
            if changes:
                changed = {**(row or _new_row(stored.hostname)), **changes, "pos": stored.seq}
                rows.put(self.host, changed)
                rows.put(self.history, {column.name: changed[column.name] for column in self.history.columns})

    def _heartbeat(self, rows: RowStore, stored: StoredEvent, beat: Heartbeat | HeartbeatMessage) -> None:
        hostname, seq, recorded_us = stored.hostname or "", stored.seq, stored.recorded_us
        now = rows.change(self.host, hostname)
        if now is not None and follows(now["boot_id"], now["sequence"], beat):  # as nearly all do
            now["sequence"], now["timestamp"] = beat.sequence, beat.timestamp
        else:
            last = counted(None if now is None else last_of(now), beat, recorded_us)
            if last is None:
                return
            if now is None:
                rows.put(self.host, now := _new_row(hostname))
            now["boot_id"], now["sequence"], now["timestamp"], superseded = last
            now["superseded"] = list(superseded)
        now["status"] = beat.status
        hear(now, beat, stored.body, seq, recorded_us)
        since_us = block_of(recorded_us)
        entry = packed(recorded_us, seq, beat.cpu_usage, beat.memory_usage)
        if (block := rows.change(self.usage, hostname, since_us)) is None:
            rows.put(self.usage, {"hostname": hostname, "since_us": since_us, "data": entry})
        else:
            block["data"] += entry


def _of_events() -> list[Column[Any]]:
    """What the event log says of a host."""
    return [
        Column("state", Identifier(16), nullable=False),
        Column("state_since_us", Int64, nullable=False),
        Column("state_cause", LongText),
        Column("registered_us", Int64, nullable=False),
        Column("key_id", Identifier(64)),
        Column("groups", Json(), nullable=False),
        Column("labels", Json(), nullable=False),
        Column("maintenance", Int64, nullable=False),
        Column("presence_seq", Int64, comment="the last event that changed its presence"),
        Column("quarantined_us", Int64),
        Column("quarantine_reason", LongText),
        Column("lifted_us", Int64, nullable=False, comment="until when nothing is held against it any more"),
    ]


def hear(row: Row, beat: Heartbeat | HeartbeatMessage, body: bytes, seq: int, recorded_us: int) -> None:
    """Put into a row what a heartbeat that counts says of its host, for show."""
    row["heartbeat_seq"] = row["usage_pos"] = seq
    row["last_heartbeat_us"] = recorded_us
    row["interval_s"] = beat.interval_s
    row["cpu_usage"] = beat.cpu_usage
    row["memory_usage"] = beat.memory_usage
    row["groups_bound"] = None if beat.groups is None else sorted(beat.groups)
    row["heartbeat"] = body


def facts_of(body: bytes | None) -> Mapping[str, Any]:
    """What else is shown of a heartbeat that has counted."""
    said = {} if body is None else orjson.loads(body)
    return {name: value for name in FACTS if (value := said.get(name)) is not None}


def last_of(row: Mapping[Any, Any]) -> LastHeartbeat | None:
    """The last heartbeat that counted, as the row has it."""
    if not row["heartbeat_seq"]:
        return None
    return LastHeartbeat(row["boot_id"], row["sequence"], row["timestamp"], tuple(row["superseded"]))


def session_of(body: bytes | None) -> int | None:
    """In which session a heartbeat that has counted was sent, if it says so."""
    said = None if body is None else orjson.loads(body).get("session")
    return said if isinstance(said, int) else None  # from before it was a field of ours it may be anything


def trace_of(row: Mapping[Any, Any]) -> Trace:
    """What its last heartbeat leaves behind, where nothing else is known of those before it."""
    if not row["heartbeat_seq"]:
        return Trace()
    heard_us, head = row["last_heartbeat_us"], orjson.loads(row["heartbeat"]).get("journal_head")
    return Trace(head=head, head_s=row["timestamp"], head_us=heard_us, heard_us=heard_us)


def _new_row(hostname: str) -> Row:
    empty = dict.fromkeys(
        (
            *("state_cause", "key_id", "presence_seq", "quarantined_us", "quarantine_reason"),
            *("last_heartbeat_us", "interval_s", "boot_id", "sequence", "timestamp", "status"),
            *("cpu_usage", "memory_usage", "groups_bound", "heartbeat"),
        )
    )
    zeros = ("state_since_us", "registered_us", "maintenance", "lifted_us", "pos", "heartbeat_seq", "usage_pos")
    zero = dict.fromkeys(zeros, 0)
    return {"hostname": hostname, "state": "", "groups": [], "labels": {}, "superseded": [], **empty, **zero}


def _changes(row: Mapping[str, Any], stored: StoredEvent, event: Event) -> Row:
    """What an event of the event log changes in a host's row; nothing where it says what stands already."""
    since = {"state_since_us": stored.recorded_us}
    match event:
        case hosts.HostRegistered():
            return {
                "state": "pending",
                **since,
                "state_cause": "registered, no heartbeat yet",
                "registered_us": stored.recorded_us,
                "key_id": key_id(decode_public_key(event.public_key)),
                "groups": list(event.groups),
                "labels": {},
                "maintenance": 0,
                "quarantined_us": None,
                "quarantine_reason": None,
                "lifted_us": 0,
            }
        case hosts.HostGroupsChanged(groups=groups):
            return {"groups": list(groups)}
        case hosts.HostLabelsChanged(labels=labels):
            return {"labels": dict(labels)}
        case hosts.HostMaintenanceChanged(maintenance=maintenance):
            return {"maintenance": int(maintenance)}
        case hosts.HostKeySwitched(key_id=own_key_id):
            return {"key_id": own_key_id}
        case hosts.HostQuarantined(reason=reason) if event.key_id == row["key_id"]:
            return {"quarantined_us": stored.recorded_us, "quarantine_reason": reason}
        case hosts.HostQuarantineLifted():
            return {"quarantined_us": None, "quarantine_reason": None, "lifted_us": stored.recorded_us}
        case hosts.HostRevoked(reason=reason):
            return {"state": "revoked", **since, "state_cause": reason}
        case hosts.HostRetired(reason=reason):
            return {"state": "retired", **since, "state_cause": reason}
        case hosts.HostWentOnline() | hosts.HostWentStale() | hosts.HostWentOffline():
            if row["state"] in {"revoked", "retired"}:
                return {}
            presence = PRESENCE[event.KIND]
            return {"state": presence, **since, "state_cause": event.cause, "presence_seq": stored.seq}
    return {}
