from control_plane.events.envelope import StoredEvent
from control_plane.events.tail import MOST_BYTES, MOST_EVENTS, Tail


def events(*seqs: int, body: bytes = b"{}") -> list[StoredEvent]:
    nothing = dict.fromkeys(("task_id", "hostname", "actor", "occurred_us", "signature", "key_id"))
    return [StoredEvent(seq=seq, recorded_us=seq, kind="a.b", schema_v=1, body=body, **nothing) for seq in seqs]


def seqs(found: list[StoredEvent]) -> list[int]:
    return [event.seq for event in found]


def test_it_answers_only_where_the_next_event_is_here() -> None:
    tail = Tail()
    tail.extend(events(5, 6, 7), {})

    assert seqs(tail.after(4, limit=10, upto=100)) == [5, 6, 7]
    assert seqs(tail.after(5, limit=1, upto=100)) == [6]
    assert seqs(tail.after(4, limit=10, upto=6)) == [5, 6]
    assert tail.after(3, limit=10, upto=100) == []
    assert tail.after(7, limit=10, upto=100) == []


def test_another_process_s_commit_in_between_starts_it_anew() -> None:
    tail = Tail()
    tail.extend(events(1, 2), {})
    tail.extend(events(4, 5), {})

    assert tail.after(0, limit=10, upto=100) == []
    assert tail.after(2, limit=10, upto=100) == []
    assert seqs(tail.after(3, limit=10, upto=100)) == [4, 5]


def test_it_is_bounded_in_events_and_in_bytes() -> None:
    tail = Tail()
    tail.extend(events(*range(1, MOST_EVENTS + 11)), {})
    assert tail.after(9, limit=1, upto=10**9) == []
    assert seqs(tail.after(10, limit=1, upto=10**9)) == [11]

    tail.extend(events(MOST_EVENTS + 11, body=b"x" * (MOST_BYTES + 1)), {})
    assert tail.after(MOST_EVENTS + 10, limit=1, upto=10**9) == []


def test_it_finds_the_keys_that_were_committed_here() -> None:
    tail = Tail()
    key = (b"task-1", b"task.accepted", b"", b"")
    tail.extend(events(1), {key: 1})
    tail.extend(events(7), {})

    assert tail.find(key) == 1
    assert tail.find((b"task-2", b"task.accepted", b"", b"")) is None
