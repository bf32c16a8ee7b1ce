"""One batch of an append, without any I/O: what each event becomes, given what the database said under the lock."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from control_plane.errors import UnstorableError
from control_plane.events.envelope import Conflict, Duplicate, Head, Key, NewEvent, Outcome, Recorded, StoredEvent
from control_plane.events.merkle import EventRow, Text, leaf_hash
from control_plane.storage.dialect import KeyBytes

MOST_EVENTS: Final = 500
MOST_BYTES: Final = 512 * 1024

KeyRow: TypeAlias = tuple[bytes, bytes, bytes, bytes, bytes, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in the bytes that will be stored; all of it that does not depend on its place in the log."""

    key: KeyBytes
    digest: bytes
    columns: tuple[bytes, int, Text, Text, Text, int | None, bytes, Text, Text]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write, and what to answer once that is committed."""

    head: Head
    rows: list[EventRow]
    key_rows: list[KeyRow]
    outcomes: list[Outcome]


def key_bytes(key: Key) -> KeyBytes:
    """The primary key of the key table."""
    return key.subject.encode(), key.kind.encode(), key.hostname.encode(), key.part.encode()


def encode(event: NewEvent, index: int) -> Entry:
    """The stored form of an event; UnstorableError(index) where no database could keep it."""
    if not (0 <= event.schema_v < 2**15 and -(2**63) <= (event.occurred_us or 0) < 2**63 and len(event.digest) == 32):
        raise UnstorableError(index, "a number or the digest of the event is out of range")
    try:
        return Entry(
            key_bytes(event.key),
            event.digest,
            (
                event.kind.encode(),
                event.schema_v,
                _text(event.task_id),
                _text(event.hostname),
                _text(event.actor),
                event.occurred_us,
                event.body,
                event.signature,
                _text(event.key_id),
            ),
            len(event.body),
        )
    except UnicodeEncodeError as error:  # a lone surrogate
        raise UnstorableError(index, str(error)) from error


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
    rows: list[EventRow] = []
    key_rows: list[KeyRow] = []
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
        key_rows.append((*entry.key, entry.digest, seq))
        outcomes.append(Recorded(seq, recorded_us))
    tree = head.tree.extended(map(leaf_hash, rows))
    return Plan(Head(seq, recorded_us if rows else head.recorded_us, tree), rows, key_rows, outcomes)


def _repeated(entry: Entry, digest: bytes, seq: int, claim: Recorded | None) -> Outcome:
    if entry.digest != digest:
        return Conflict(seq)
    return claim if claim is not None and claim.seq == seq else Duplicate(seq)


def _text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def row_of_stored(event: StoredEvent) -> EventRow:
    """Undo `stored_event`."""
    return (
        event.seq,
        event.recorded_us,
        event.kind.encode(),
        event.schema_v,
        _text(event.task_id),
        _text(event.hostname),
        _text(event.actor),
        event.occurred_us,
        event.body,
        event.signature,
        _text(event.key_id),
    )


def stored_event(row: EventRow) -> StoredEvent:
    """An event from the raw columns of its table, as they are written and read."""
    seq, recorded_us, kind, schema_v, task_id, hostname, actor, occurred_us, body, signature, key_id = row
    return StoredEvent(
        seq,
        recorded_us,
        kind.decode(),
        schema_v,
        None if task_id is None else task_id.decode(),
        None if hostname is None else hostname.decode(),
        None if actor is None else actor.decode(),
        occurred_us,
        body,
        signature,
        None if key_id is None else key_id.decode(),
    )
