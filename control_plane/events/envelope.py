"""What surrounds an event: how it comes to the log, how it is kept there, and what became of it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from control_plane.events.merkle import CompactRange

LogName: TypeAlias = Literal["event", "heartbeat_event"]

EVENT: LogName = "event"
HEARTBEAT_EVENT: LogName = "heartbeat_event"


@dataclass(frozen=True, slots=True)
class Key:
    """The idempotency key of an event: at most one event with the same key is ever recorded.

    `subject` is the task_id, or the id of what the event is about. Together they are the primary key of a narrow
    table, in this order, so the history of one subject is one range.
    """

    subject: str
    kind: str
    hostname: str = ""
    part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event on its way to the log.

    Attributes:
        digest: what tells a repeat (same key, same digest) from a conflict; 32 bytes, declared by the kind.
        occurred_us: UTC microseconds of the sender's clock, stored for display only.
        body: the exact canonical bytes that were hashed and signed.
        signature: 64 raw bytes of whoever vouches for the body, by the key `key_id`.
    """

    log: LogName
    kind: str
    schema_v: int
    key: Key
    digest: bytes
    body: bytes
    task_id: str | None = None
    hostname: str | None = None
    actor: str | None = None
    occurred_us: int | None = None
    signature: bytes | None = None
    key_id: str | None = None


class StoredEvent(NamedTuple):
    """An event as the log has it; its fields are the columns of the log's table, in their order.

    Attributes:
        seq: gapless, in commit order, from 1.
        recorded_us: UTC microseconds, strictly increasing with `seq`.
    """

    seq: int
    recorded_us: int
    kind: str
    schema_v: int
    task_id: str | None
    hostname: str | None
    actor: str | None
    occurred_us: int | None
    body: bytes
    signature: bytes | None
    key_id: str | None


@dataclass(frozen=True, slots=True)
class Head:
    """The last event of a log (seq 0: none yet) and the Merkle tree over all of it."""

    seq: int
    recorded_us: int
    tree: CompactRange


class Recorded(NamedTuple):
    """The event is in the log, for good."""

    seq: int
    recorded_us: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same key and digest is there already, as `seq`."""

    seq: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """The same key is there with another digest, as `seq`, and stands; nothing was written."""

    seq: int


Outcome: TypeAlias = Recorded | Duplicate | Conflict
