"""Whether a host's heartbeats go on from each other: those of one machine, whose journal does not go back in time.

A pure fold over them, beside the one that says which count. What it finds is a doubt: the machine's disk went back to
an earlier state, or two machines have its identity. A heartbeat may come late, twice or out of order, and a clock may
be wrong or set back: nothing of that is a doubt. So what a heartbeat says counts against a host only where the host's
own clock says, too, that it was sent later; and what should be of the past but is not late counts the second time only.
An agent that does not say how far its journal is, or no boot, gives no reason to doubt.
"""

from typing import Final, NamedTuple, Protocol

from control_plane.events.envelope import StoredEvent
from control_plane.events.presence import Beat, LastHeartbeat, is_near

JOURNAL: Final = "its journal went back in time"
BOOTS: Final = "an earlier boot of it goes on beside a later one"
NOT_LATE_US: Final = 300_000_000  # what was sent so long after what it contradicts was not merely late
APART_US: Final = 5_000_000  # between two that should be of the past: what was held up comes all at once


class JournalBeat(Beat, Protocol):
    """What of a heartbeat says whether it goes on from those before it."""

    @property
    def journal_head(self) -> int | None: ...


class Doubt(NamedTuple):
    """Why a host is not to be trusted.

    Attributes:
        heartbeat_seq: of the heartbeat that showed it; `key_id`: of the key that signed it.
        since_us: when what it contradicts was recorded.
        before, after: the journal heads, or the boots.
    """

    heartbeat_seq: int
    since_us: int
    key_id: str
    reason: str
    before: str
    after: str


class Echo(NamedTuple):
    """A heartbeat that should be of the past, and is not late."""

    boot_id: str
    sequence: int
    recorded_us: int


class Trace(NamedTuple):
    """What is remembered of a host's heartbeats.

    Attributes:
        head, head_s, head_us: how far its journal was, by which second of its own clock, and when that was recorded.
        heard_us: when the last heartbeat that counted was recorded.
        boot_us: the same of the first one that showed its boot to be the latest; None where none has yet.
        before_s: the highest that those before it said last by the host's own clock, so what shows that says more.
        doubt: the last one.
    """

    head: int | None = None
    head_s: int = 0
    head_us: int = 0
    heard_us: int = 0
    boot_us: int | None = None
    before_s: int = 0
    echo: Echo | None = None
    doubt: Doubt | None = None


def follow(
    trace: Trace, before: LastHeartbeat | None, now: LastHeartbeat | None, beat: JournalBeat, stored: StoredEvent
) -> Trace:
    """What is remembered after a heartbeat.

    Args:
        before, now: the last one that counted, as it stood and as it stands; `now` is None where this one does not.
    """
    if beat.boot_id is None or beat.sequence is None:
        return trace
    if now is not None:
        return _on(trace, before, beat, stored)
    return trace if before is None or before.boot_id is None else _back(trace, before.boot_id, beat, stored)


def _on(trace: Trace, before: LastHeartbeat | None, beat: JournalBeat, stored: StoredEvent) -> Trace:
    """After one that counts. A journal that has gone back is what the next one goes on from."""
    recorded_us = stored.recorded_us
    trace = trace._replace(heard_us=recorded_us)
    is_same_boot = before is not None and before.boot_id == beat.boot_id
    if not is_same_boot:
        said_s = 0 if before is None or before.boot_id is None else before.timestamp
        before_s = said_s if trace.boot_us is not None else max(said_s, trace.before_s)
        trace = trace._replace(boot_us=None, before_s=before_s, echo=None)
    if trace.boot_us is None and beat.timestamp > trace.before_s:  # else it may be an earlier boot that came late
        trace = trace._replace(boot_us=recorded_us)
    head = beat.journal_head
    if head is None:
        return trace
    gone_on = trace._replace(head=head, head_s=beat.timestamp, head_us=recorded_us)
    if trace.head is None or head >= trace.head:
        return gone_on
    if beat.timestamp <= trace.head_s or not (is_same_boot or is_near(beat, recorded_us)):
        return trace  # perhaps of an earlier boot that was not heard before, and late
    return gone_on._replace(doubt=_doubt(stored, trace.head_us, JOURNAL, trace.head, head))


def _back(trace: Trace, last_boot_id: str, beat: JournalBeat, stored: StoredEvent) -> Trace:
    """After one that does not count: of a boot before the last one, or of an earlier time of the same boot."""
    recorded_us, boot_id, sequence = stored.recorded_us, beat.boot_id or "", beat.sequence or 0
    is_same_boot = boot_id == last_boot_id
    if is_same_boot and (trace.head is None or beat.journal_head is None or beat.journal_head >= trace.head):
        return trace
    since_us = trace.heard_us if is_same_boot else trace.boot_us
    is_late = not since_us or beat.timestamp * 1_000_000 <= since_us + NOT_LATE_US
    if is_late or not is_near(beat, recorded_us):
        return trace
    first = trace.echo
    if first is None or first.boot_id != boot_id:
        return trace._replace(echo=Echo(boot_id, sequence, recorded_us))
    if sequence <= first.sequence or recorded_us < first.recorded_us + APART_US:
        return trace
    what = (JOURNAL, trace.head, beat.journal_head) if is_same_boot else (BOOTS, last_boot_id, boot_id)
    return trace._replace(echo=None, doubt=_doubt(stored, trace.heard_us, *what))


def _doubt(stored: StoredEvent, since_us: int, reason: str, before: object, after: object) -> Doubt:
    return Doubt(stored.seq, since_us, stored.key_id or "", reason, str(before), str(after))
