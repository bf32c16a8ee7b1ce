"""A real agent shows what its commands print while they run, and nothing else waits for that."""

import base64
import hashlib
import os
import pwd
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from control_plane_agent.assembly import real_agent
from control_plane_agent.output import HEAD_BYTES, KEPT_BYTES
from control_plane_agent.settings import Settings
from control_plane_wire.clock import SystemClock
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.agent import ControlPlaneEnd, a_command, an_identity, control_plane_end, running

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def broker() -> InProcessBroker:
    return InProcessBroker()


@pytest.fixture
async def end(broker: InProcessBroker) -> AsyncIterator[ControlPlaneEnd]:
    async with control_plane_end(broker) as made:
        yield made


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    made = tmp_path / "state"
    made.mkdir(mode=0o700)
    return made


@asynccontextmanager
async def an_agent(directory: Path, broker: InProcessBroker, end: ControlPlaneEnd) -> AsyncIterator[None]:
    """An agent that hears, during the block."""
    beats = len(end.heartbeats)
    async with running(real_agent(Settings(state_dir=directory, interval_s=1), an_identity(), broker.transport())):
        await end.until(lambda: len(end.heartbeats) > beats)
        yield


async def start(end: ControlPlaneEnd, command: str, task_id: str = "task-1") -> None:
    await end.send(a_command(task_id, command=command, user=ME, timestamp=SystemClock().now_s()))


def waiting_for(path: Path) -> str:
    """A shell's words for: until the test says go on."""
    return f"while [ ! -e {path} ]; do sleep 0.02; done"


async def test_each_line_is_seen_before_the_command_goes_on_to_the_next(
    state_dir: Path, broker: InProcessBroker, end: ControlPlaneEnd, tmp_path: Path
) -> None:
    go = [tmp_path / f"go{number}" for number in range(4)]
    lines = "; ".join(rf"printf '{n}\377\n'; printf 'e{n}' >&2; {waiting_for(go[n])}" for n in range(4))
    async with an_agent(state_dir, broker, end):
        await start(end, lines)
        for number in range(4):
            out = b"".join(b"%d\xff\n" % n for n in range(number + 1))
            err = b"".join(b"e%d" % n for n in range(number + 1))
            await end.until(lambda out=out: end.shown() == out)
            await end.until(lambda err=err: end.shown(stream="stderr") == err)
            assert end.said("task-1") == []
            go[number].touch()
        result = await end.result("task-1")

    assert base64.b64decode(str(result["stdout"])) == end.shown()
    assert (result["outcome"], result["encoding"]) == ("completed", "base64")


async def test_a_flood_is_shown_in_parts_and_its_result_is_whole_while_heartbeats_and_others_go_on(
    state_dir: Path, broker: InProcessBroker, end: ControlPlaneEnd, tmp_path: Path
) -> None:
    line, count = b"0123456789abcde\n", 10 * 2**20  # 160 MiB
    go = tmp_path / "go"
    async with an_agent(state_dir, broker, end):
        await start(end, f"yes 0123456789abcde | head -n {count}; {waiting_for(go)}; echo end")
        await end.until(lambda: len(end.pieces) > 3)
        beats = len(end.heartbeats)
        await end.until(lambda: len(end.heartbeats) > beats + 1)
        other = await end.run("echo other", task_id="task-2", user=ME)
        await end.until(lambda: end.shown().endswith(line) and len(end.shown()) == len(line) * count)
        go.touch()
        result = await end.result("task-1")

    digest = hashlib.sha256(line * count + b"end\n").hexdigest()
    assert (result["stdout_bytes"], result["stdout_sha256"]) == (len(line) * count + 4, digest)
    assert len(str(result["stdout"])) == KEPT_BYTES
    assert result["stdout_head_bytes"] == HEAD_BYTES
    assert other["stdout"] == "other\n"
    sent = sum(len(piece.raw) for piece in end.pieces)
    assert 0 < sent < len(line) * count / 4
    for piece in end.pieces:
        assert piece.raw in line * (len(piece.raw) // len(line) + 2)
        assert piece.raw.startswith(line[piece.offset % len(line) :][: len(piece.raw)])


async def test_a_restarted_agent_goes_on_showing_what_still_runs(
    state_dir: Path, broker: InProcessBroker, end: ControlPlaneEnd, tmp_path: Path
) -> None:
    first, second, last = (tmp_path / name for name in ("first", "second", "last"))
    command = f"echo one; {waiting_for(first)}; echo two; {waiting_for(second)}; echo three; {waiting_for(last)}"
    async with an_agent(state_dir, broker, end):
        await start(end, command)
        await end.until(lambda: end.shown() == b"one\n")
    first.touch()
    async with an_agent(state_dir, broker, end):
        await end.until(lambda: end.shown() == b"one\ntwo\n")
        second.touch()
        await end.until(lambda: end.shown() == b"one\ntwo\nthree\n")
        last.touch()
        result = await end.result("task-1")

    assert result["stdout"] == "one\ntwo\nthree\n"


async def test_five_commands_at_once_are_all_shown(
    state_dir: Path, broker: InProcessBroker, end: ControlPlaneEnd, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    async with an_agent(state_dir, broker, end):
        for number in range(5):
            await start(end, f"echo {number}; {waiting_for(go)}", f"task-{number}")
        await end.until(lambda: all(end.shown(f"task-{n}") == b"%d\n" % n for n in range(5)))
        go.touch()
        for number in range(5):
            await end.result(f"task-{number}")


async def test_what_is_over_at_once_says_its_result_alone(
    state_dir: Path, broker: InProcessBroker, end: ControlPlaneEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane_agent.live.AFTER_S", 3600.0)
    async with an_agent(state_dir, broker, end):
        result = await end.run("echo quick", user=ME)

    assert (result["stdout"], end.pieces) == ("quick\n", [])
