"""What is kept of live output for who comes late is little, whatever hosts print and however many tasks there are."""

from control_plane.messaging.latest import (
    KEPT_CHARACTERS,
    KEPT_PIECES,
    LINGER_S,
    MOST_KEPT,
    MOST_UNREAD,
    SAFE_S,
    Latest,
)
from control_plane_wire.output import OutputMessage


def a_piece(data: bytes, offset: int = 0, hostname: str = "web1") -> OutputMessage:
    return OutputMessage.of(data, task_id="t1", hostname=hostname, stream="stdout", offset=offset, timestamp=1)


def of(number: int) -> tuple[str, str]:
    return ("t1", f"web{number}")


def test_of_what_is_printed_the_newest_is_kept() -> None:
    latest = Latest()
    latest.expect([of(1)], 0.0)
    for offset in range(1000):
        latest.keep(a_piece(b"x", offset))
    assert [piece.offset for piece in latest.of(of(1))] == list(range(1000 - KEPT_PIECES, 1000))

    for offset in range(3):
        latest.keep(a_piece(b"x" * (KEPT_CHARACTERS // 2), offset))
    assert [piece.offset for piece in latest.of(of(1))] == [1, 2]
    latest.keep(a_piece(b"x" * (KEPT_CHARACTERS + 1)))
    assert latest.of(of(1)) == ()


def test_what_is_not_heard_is_not_kept() -> None:
    latest = Latest()
    latest.keep(a_piece(b"x"))

    assert (latest.executions, latest.of(of(1))) == (frozenset(), ())


def test_what_is_expected_is_forgotten_unless_somebody_comes_in_time() -> None:
    latest = Latest()
    latest.expect([of(1), of(2)], 0.0)
    latest.watch({of(1)}, 1.0)

    assert not latest.forget(LINGER_S - 0.1)
    assert latest.forget(LINGER_S)
    assert latest.executions == {of(1)}
    latest.keep(a_piece(b"one"))
    latest.watch(set(), 100.0)
    assert [piece.data for piece in latest.of(of(1))] == ["one"]
    assert not latest.forget(100.0 + LINGER_S - 0.1)
    latest.watch(set(), 100.0 + LINGER_S)
    assert latest.executions == frozenset()


def test_many_tasks_are_not_all_expected_and_what_is_kept_has_an_end() -> None:
    latest = Latest()
    latest.expect([of(number) for number in range(15)], 0.0)
    latest.expect([of(number) for number in range(100, 200)], SAFE_S - 0.1)
    assert latest.executions == {of(number) for number in (*range(15), *range(100, 105))}
    latest.expect([of(number) for number in range(200, 300)], SAFE_S)
    assert latest.executions == {of(number) for number in (*range(200, 215), *range(100, 105))}

    latest.watch({of(number) for number in range(1000, 2000)}, 1.0)
    assert len(latest.executions) == MOST_KEPT
    latest.expect([of(3000)], 1.0)
    assert of(3000) not in latest.executions
    latest.watch(set(), 2.0)
    assert len(latest.executions) == MOST_UNREAD
