import asyncio
from dataclasses import replace

import pytest

from control_plane.commands import handling
from control_plane.commands.denials import MAX_ADDRESSES, SINGLY, UNKNOWN, WINDOW_S, Denials
from control_plane.commands.handling import DenialRecorder
from control_plane.errors import NotAllowedError, StorageUnavailableError
from control_plane.events import registry
from control_plane.events.access import AccessDenied
from tests.support.fleet import VIEWER, Desk

ADA = AccessDenied(denial_id="d", actor="ada", action="users.write", resource="users/root", address="::1")
STRANGER = replace(ADA, actor=UNKNOWN, action="sign in", code="not_signed_in")


def counted(events: list[AccessDenied]) -> list[tuple[str, str | None, int | None]]:
    return [(event.actor, event.address, event.count) for event in events]


def test_the_first_of_somebody_are_recorded_singly_and_the_others_as_one_number() -> None:
    denials = Denials()

    taken = [event for _ in range(SINGLY + 25) for event in denials.take(ADA, 100)]

    assert taken == [ADA] * SINGLY
    assert denials.due(100 + WINDOW_S - 1) == []
    [summary] = denials.due(100 + WINDOW_S)
    assert summary == replace(ADA, denial_id=summary.denial_id, count=25)
    assert summary.denial_id != ADA.denial_id
    assert denials.due(10_000) == []
    assert denials.take(ADA, 10_000) == [ADA]


def test_whoever_is_not_known_is_counted_by_address() -> None:
    denials = Denials()
    here, there = replace(STRANGER, address="192.0.2.1"), replace(STRANGER, address="192.0.2.2")

    taken = [event for stranger in (here, there) for _ in range(5) for event in denials.take(stranger, 100)]

    assert taken == [here, there]
    assert counted(denials.due(160)) == [(UNKNOWN, "192.0.2.1", 4), (UNKNOWN, "192.0.2.2", 4)]


def test_strangers_from_everywhere_cannot_fill_the_log() -> None:
    denials = Denials()

    taken = [
        event
        for number in range(10_000)
        for event in denials.take(replace(STRANGER, address=f"2001:db8::{number:x}"), 100)
    ]
    summaries = denials.due(160)

    assert len(taken) == MAX_ADDRESSES + 1
    assert counted(summaries) == [(UNKNOWN, None, 10_000 - len(taken))]


def test_a_denial_shows_the_summaries_that_wait_for_it() -> None:
    denials = Denials()
    for _ in range(3):
        denials.take(STRANGER, 100)

    assert counted(denials.take(ADA, 200)) == [(UNKNOWN, "::1", 2), ("ada", "::1", None)]


def test_what_could_not_be_recorded_is_due_again() -> None:
    denials = Denials()

    denials.put_back(denials.take(ADA, 100))

    assert denials.due(101) == [ADA]
    assert denials.due(101) == []


def test_at_the_end_everything_is_due() -> None:
    denials = Denials()
    for _ in range(3):
        denials.take(STRANGER, 100)

    assert counted(denials.rest()) == [(UNKNOWN, "::1", 2)]
    assert denials.rest() == []


def test_what_could_not_be_recorded_is_not_forgotten_however_much_it_is() -> None:
    denials = Denials()
    waiting = [
        event
        for number in range(1500)
        for event in denials.take(replace(ADA, actor=f"user{number}", denial_id=str(number)), 100)
    ]
    denials.put_back(waiting)

    assert denials.due(101) == waiting
    denials.put_back(waiting)
    assert denials.rest() == waiting


def test_while_some_wait_to_be_recorded_no_minute_ends_so_that_not_many_more_come_to_wait() -> None:
    denials = Denials()
    denials.put_back([event for _ in range(SINGLY + 2) for event in denials.take(ADA, 100)])

    for now_s in (200, 300):
        waiting = denials.take(ADA, now_s)
        assert waiting == [ADA] * SINGLY
        denials.put_back(waiting)

    assert denials.due(300) == [ADA] * SINGLY
    assert denials.due(300) == [], "they are being recorded"
    denials.recorded([ADA] * SINGLY)
    assert counted(denials.due(300)) == [("ada", "::1", 4)]


def test_an_hour_without_a_database_makes_no_more_wait_than_its_first_minute() -> None:
    """Several requests at a time are denied, each records what is due, and none of them can."""
    denials = Denials()
    for second in range(3600):
        denied = [replace(ADA, actor=f"user{number}", denial_id=f"{second}/{number}") for number in range(5)]
        for in_flight in [denials.take(each, second) for each in denied]:
            denials.put_back(in_flight)

    assert len(denials.rest()) == 5 * SINGLY + 5


# --- in the log


def recorded(desk: Desk) -> list[tuple[str, int | None]]:
    events = [registry.decode(row) for row in desk.log.rows]
    return [(event.actor, event.count) for event in events if isinstance(event, AccessDenied)]


async def test_the_numbers_are_recorded_when_their_minute_is_over_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handling, "DENIALS_S", 0.01)
    desk, stop = Desk(), asyncio.Event()
    for _ in range(SINGLY + 3):
        with pytest.raises(NotAllowedError):
            await desk.hosts.retire(VIEWER, "web1", None)

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(DenialRecorder(desk.handling).run(stop))
        desk.clock.advance(WINDOW_S)
        while len(recorded(desk)) == SINGLY:
            await asyncio.sleep(0)
        for _ in range(2):
            await desk.handling.deny(None, "request", "GET /x", address="::1", code="not_signed_in")
        stop.set()

    assert recorded(desk) == [("eve", None)] * SINGLY + [("eve", 3), (UNKNOWN, None), (UNKNOWN, 1)]


async def test_a_denial_that_the_log_did_not_take_is_recorded_later(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()

    async def away(_: object) -> None:
        raise StorageUnavailableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(desk.log, "append", away)
        with pytest.raises(StorageUnavailableError):
            await desk.handling.deny("eve", "request", "GET /x", address=None, code="csrf_refused")
    await desk.handling.record_denials(desk.handling.denials.due(desk.clock.now_s()))

    assert recorded(desk) == [("eve", None)]
