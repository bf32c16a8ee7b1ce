"""How much of what a host sends unasked comes into the log."""

from dataclasses import replace

from control_plane.events.access import MessageRejected
from control_plane.events.tasks import ExecutionUnexpected
from control_plane.messaging import rubbish
from control_plane.messaging.rubbish import SINGLY, WINDOW_S, Rubbish

UNEXPECTED = ExecutionUnexpected(task_id="t1", hostname="web1", reason="unknown task", message_sha256="a" * 64)


def sent(kept: Rubbish, sender: str, number: int, now_s: float = 0.0, *, first: int = 0) -> int:
    """How many of so many were recorded singly."""
    events = [replace(UNEXPECTED, hostname=sender, task_id=f"t{first + each}") for each in range(number)]
    singly = kept.singly([(sender, event) for event in events])
    for event, is_single in zip(events, singly, strict=True):
        kept.count(sender, event, now_s, singly=is_single)
    return sum(singly)


def test_the_first_ten_are_events_and_then_each_minute_is_one() -> None:
    kept = Rubbish()
    assert [sent(kept, "web1", 1, first=each) for each in range(SINGLY + 2)] == [1] * SINGLY + [0, 0]
    assert sent(kept, "web1", 500, first=1000) == 0
    assert sent(kept, "web2", 3) == 3, "another host has a window of its own"
    assert kept.due(WINDOW_S - 1) == []
    [number] = kept.due(WINDOW_S)
    assert (number.count, number.key() == UNEXPECTED.key()) == (502, False)
    assert isinstance(number, ExecutionUnexpected)
    assert number.task_id == "t1499"
    assert kept.rest() == []
    assert sent(kept, "web1", 1, WINDOW_S) == 1


def test_asking_counts_nothing_since_it_may_be_asked_again() -> None:
    kept = Rubbish()
    told = [("web1", replace(UNEXPECTED, task_id=f"t{each}")) for each in range(15)]
    assert [kept.singly(told) for _ in range(3)] == [[True] * SINGLY + [False] * 5] * 3
    assert kept.rest() == []


def test_the_same_again_is_the_same_event_and_no_number() -> None:
    kept = Rubbish()
    assert [sent(kept, "web1", 3) for _ in range(100)] == [3] * 100
    assert kept.rest() == []


def test_what_could_not_be_recorded_is_due_again_as_it_was() -> None:
    kept = Rubbish()
    sent(kept, "web1", 20)
    numbers = kept.rest()
    kept.put_back(numbers)
    assert kept.due(0.0) == numbers


def test_hosts_beyond_so_many_are_counted_together() -> None:
    kept = Rubbish()
    for each in range(rubbish.MAX_HOSTS):
        sent(kept, f"web{each}", 1)
    assert sum(sent(kept, f"more{each}", 1) for each in range(50)) == SINGLY
    [number] = kept.rest()
    assert number.count == 40


def test_two_numbers_of_one_message_are_two_events() -> None:
    event = MessageRejected(message_sha256="a" * 64, queue="q", routing_key="r", reason="x")
    assert len({event.key(), *(replace(event, count=2, count_id=each).key() for each in ("1", "2"))}) == 3
