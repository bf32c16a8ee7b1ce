"""Asking to be let in without a token: the fingerprint is shown, the wait is seen, and it ends clearly."""

import asyncio
from pathlib import Path

import pytest

from control_plane_agent.enrolment import request
from control_plane_agent.errors import EnrolmentError, NotNowError, TooFastError
from control_plane_agent.identity import load
from control_plane_wire.proofs import fingerprint, in_groups
from tests.support.enrolling import DeskServer
from tests.support.fleet import ADMIN, Desk


def waiting(desk: Desk) -> str:
    """The fingerprint of the one that waits."""
    [row] = asyncio.run(desk.pending.waiting(ADMIN))
    return row.fingerprint


def ask(
    desk: Desk, tmp_path: Path, *, wait_s: float = 600, server: DeskServer | None = None, **given: object
) -> list[str]:
    """Ask; what was told."""
    told: list[str] = []
    waits = {"sleep": desk.clock.advance, **given}
    request(tmp_path, server or DeskServer(desk), "web1", wait_s=wait_s, tell=told.append, **waits)  # type: ignore[arg-type]
    return told


def test_a_host_is_enrolled_once_it_is_accepted_by_the_fingerprint_that_it_shows(tmp_path: Path) -> None:
    desk, naps = Desk(), []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        desk.clock.advance(seconds)
        if len(naps) == 40:
            asyncio.run(desk.pending.accept(ADMIN, waiting(desk), hostname="web1", groups=["web"]))

    told = ask(desk, tmp_path, sleep=sleep)

    who = load(tmp_path)
    assert (who.hostname, set(who.groups), who.amqp_url[:9]) == ("web1", {"web"}, "amqp://h-")
    assert in_groups(fingerprint(who.key.public_key)) in told[1]
    assert (naps[0], naps[-1]) == (5.0, 15.0)
    assert next(line for line in told if "minutes" in line) == "waiting to be accepted, for 10 more minutes"
    assert len(told) >= 5


def test_a_fingerprint_is_read_in_groups_of_four() -> None:
    assert in_groups("0123456789abcdef") == "0123 4567 89ab cdef"


def test_a_refusal_ends_the_wait(tmp_path: Path) -> None:
    desk = Desk()

    def sleep(seconds: float) -> None:
        asyncio.run(desk.pending.refuse(ADMIN, waiting(desk)))

    with pytest.raises(EnrolmentError, match="an administrator has refused"):
        ask(desk, tmp_path, sleep=sleep)


def test_nobody_waits_for_ever_and_the_same_again_goes_on(tmp_path: Path) -> None:
    desk = Desk()
    with pytest.raises(EnrolmentError, match="nobody has accepted web1 within 60 s; the same again goes on waiting"):
        ask(desk, tmp_path, wait_s=60)
    first = waiting(desk)

    with pytest.raises(EnrolmentError, match="nobody has accepted"):
        ask(desk, tmp_path, wait_s=1)

    assert waiting(desk) == first


def test_a_server_that_is_away_while_the_host_waits_is_asked_again_and_at_first_it_is_told(tmp_path: Path) -> None:
    desk, asked = Desk(), []

    def before(path: str) -> None:
        asked.append(path)
        if 2 < len(asked) < 5:
            raise NotNowError("cannot reach it")

    def sleep(seconds: float) -> None:
        if len(asked) >= 5:
            asyncio.run(desk.pending.accept(ADMIN, waiting(desk), hostname="web1", groups=[]))

    assert "cannot reach it" in ask(desk, tmp_path, server=DeskServer(desk, before=before), sleep=sleep)

    asked[:] = ["", ""]
    with pytest.raises(NotNowError):
        ask(desk, tmp_path, server=DeskServer(desk, before=before))


def test_a_host_that_finds_too_many_waiting_says_so_and_waits_longer_each_time(tmp_path: Path) -> None:
    desk, naps = Desk(), []

    def before(path: str) -> None:
        if len(naps) < 3:
            raise TooFastError("refused: too many hosts of this address wait already", 60.0)

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 4:
            asyncio.run(desk.pending.accept(ADMIN, waiting(desk), hostname="web1", groups=[]))

    told = ask(desk, tmp_path, server=DeskServer(desk, before=before), sleep=sleep)

    assert sum("too many hosts of this address" in line for line in told) == 3
    assert all(60 <= nap <= most for nap, most in zip(naps, (65, 70, 80), strict=False))
    assert naps[3] < 60
    assert load(tmp_path).hostname == "web1"
