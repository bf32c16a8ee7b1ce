import os
import signal
from pathlib import Path

import pytest

from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The calls of os.kill, which does nothing."""
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: calls.append((pid, number)))
    return calls


def test_production_is_never_killed(killed: list[tuple[int, int]]) -> None:
    NO_FAILPOINTS.hit("log.before_commit")

    assert killed == []


@pytest.mark.parametrize(("spec", "hit_that_kills"), [("a", 1), ("a:1", 1), ("a:3", 3)])
def test_the_process_is_killed_at_the_nth_hit_of_the_name(
    spec: str, hit_that_kills: int, killed: list[tuple[int, int]]
) -> None:
    failpoints = Failpoints(spec)
    failpoints.hit("b")
    for _ in range(hit_that_kills - 1):
        failpoints.hit("a")
    assert killed == []

    failpoints.hit("a")
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_a_recording_run_lists_every_hit_in_order(tmp_path: Path, killed: list[tuple[int, int]]) -> None:
    log = tmp_path / "hits"

    for failpoints in (Failpoints(None, log), Failpoints("b", log)):
        for name in ("a", "b", "a"):
            failpoints.hit(name)

    assert log.read_text().split() == ["a", "b", "a"] * 2
    assert len(killed) == 1
