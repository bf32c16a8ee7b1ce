"""One batch of an append, without any I/O: what each event becomes, given what the database said under the lock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from control_plane.errors import UnstorableError
from control_plane.events.envelope import Conflict, Duplicate, Head, Key, NewEvent, Outcome, Recorded, StoredEvent
from control_plane.events.merkle import EventColumns, EventRow, leaf_at, leaf_rest
from control_plane.storage.dialect import KeyBytes, Value, decoded

MOST_EVENTS: Final = 500
MOST_BYTES: Final = 512 * 1024

Shown: TypeAlias = tuple[str, int, str | None, str | None, str | None, int | None, bytes, bytes | None, str | None]


class Entry(NamedTuple):
    """All of an event that does not depend on its place in the log, in each form in which a batch will want it.

    A batch gives its events their places while all other writers wait, so nothing is made there that could be before.

    Attributes:
        columns: of its row, without the place, as `Dialect.ready` gives them.
        key_columns: those of its key and digest.
        leaf: what its leaf covers beside the place.
        shown: the fields of its `StoredEvent`, without the place.
    """

    key: KeyBytes
    digest: bytes
    columns: Sequence[Value]
    key_columns: Sequence[Value]
    leaf: bytes
    shown: Shown
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write, and what to answer and to show once that is committed."""

    head: Head
    rows: list[Sequence[Value]]
    key_rows: list[Sequence[Value]]
    events: list[StoredEvent]
    recorded: dict[KeyBytes, Recorded]
    outcomes: list[Outcome]


def key_bytes(key: Key) -> KeyBytes:
    """The primary key of the key table."""
    return key.subject.encode(), key.kind.encode(), key.hostname.encode(), key.part.encode()


def encode(event: NewEvent, index: int, ready: Callable[[Sequence[Value]], Sequence[Value]] = tuple) -> Entry:
    """The forms of an event, for a database that wants its rows as `ready` makes them.

    Raises:
        UnstorableError: the event at `index` is none that a database could keep.
    """
    if not (0 <= event.schema_v < 2**15 and -(2**63) <= (event.occurred_us or 0) < 2**63 and len(event.digest) == 32):
        raise UnstorableError(index, "a number or the digest of the event is out of range")
    shown = (
        event.kind,
        event.schema_v,
        event.task_id,
        event.hostname,
        event.actor,
        event.occurred_us,
        event.body,
        event.signature,
        event.key_id,
    )
    try:
        key, columns = key_bytes(event.key), _columns(shown)
    except UnicodeEncodeError as error:  # a lone surrogate
        raise UnstorableError(index, str(error)) from error
    size_bytes = len(event.body)
    return Entry(key, event.digest, ready(columns), ready((*key, event.digest)), leaf_rest(columns), shown, size_bytes)


def plan(
    head: Head,
    entries: Sequence[Entry],
    *,
    known: dict[KeyBytes, tuple[bytes, int]],
    claimed: dict[KeyBytes, Recorded],
    now_us: int,
) -> Plan:
    """Give each new event its place after the head.

    Args:
        head: of the locked head row.
        entries: in the order in which they happened; a key may be there more than once.
        known: digest and seq of the keys that are in the log; those of this batch are added.
        claimed: what an earlier attempt on the same entries would have recorded, if its COMMIT went through after all;
            what is found of it is taken out, and is answered as recorded, not as a duplicate of itself.
        now_us: the wall clock, which may have been set back.
    """
    rows: list[Sequence[Value]] = []
    key_rows: list[Sequence[Value]] = []
    leaves: list[bytes] = []
    events: list[StoredEvent] = []
    recorded: dict[KeyBytes, Recorded] = {}
    outcomes: list[Outcome] = []
    seq, recorded_us = head.seq, max(head.recorded_us, now_us - 1)
    for entry in entries:
        if (there := known.get(entry.key)) is not None:
            outcomes.append(_repeated(entry, *there, claimed.pop(entry.key, None)))
            continue
        seq += 1
        recorded_us += 1
        known[entry.key] = (entry.digest, seq)
        rows.append((seq, recorded_us, *entry.columns))
        key_rows.append((*entry.key_columns, seq))
        leaves.append(leaf_at(seq, recorded_us, entry.leaf))
        events.append(StoredEvent._make((seq, recorded_us, *entry.shown)))
        recorded[entry.key] = outcome = Recorded(seq, recorded_us)
        outcomes.append(outcome)
    moved = Head(seq, recorded_us if rows else head.recorded_us, head.tree.extended(leaves))
    return Plan(moved, rows, key_rows, events, recorded, outcomes)


def _repeated(entry: Entry, digest: bytes, seq: int, claim: Recorded | None) -> Outcome:
    if entry.digest != digest:
        return Conflict(seq)
    return claim if claim is not None and claim.seq == seq else Duplicate(seq)


def _text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def row_of_stored(event: StoredEvent) -> EventRow:
    """Undo `stored_event`."""
    seq, recorded_us, kind, schema_v, task_id, hostname, actor, occurred_us, body, signature, key_id = event
    shown = (kind, schema_v, task_id, hostname, actor, occurred_us, body, signature, key_id)
    return seq, recorded_us, *_columns(shown)


def _columns(shown: Shown) -> EventColumns:
    kind, schema_v, task_id, hostname, actor, occurred_us, body, signature, key_id = shown
    return (
        kind.encode(),
        schema_v,
        _text(task_id),
        _text(hostname),
        _text(actor),
        occurred_us,
        body,
        signature,
        _text(key_id),
    )


def stored_event(row: EventRow) -> StoredEvent:
    """An event from the raw columns of its table, as they are written and read."""
    return StoredEvent._make(decoded(row))
