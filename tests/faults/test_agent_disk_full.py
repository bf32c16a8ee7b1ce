"""A real agent on file systems that are really full: of bytes, and of inodes."""

import hashlib
import os
import pwd
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from control_plane_agent.assembly import real_agent
from control_plane_agent.session import Agent
from control_plane_agent.settings import Settings
from control_plane_wire.clock import SystemClock
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.agent import ControlPlaneEnd, a_command, an_identity, control_plane_end, running

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")

ME = pwd.getpwuid(os.geteuid()).pw_name
MIB = 1 << 20


def mount(*argv: str) -> None:
    done = subprocess.run(["mount", *argv], capture_output=True, check=False, timeout=30)
    if done.returncode != 0:
        pytest.skip(f"mount {' '.join(argv)}: {done.stderr.decode().strip()}")


@pytest.fixture(params=["tmpfs", "ext4"])
def state_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, of 8 MiB and few inodes."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    if request.param == "tmpfs":
        mount("-t", "tmpfs", "-o", "size=8m,nr_inodes=200,mode=700", "tmpfs", str(directory))
    else:
        image = tmp_path / "image"
        image.touch()
        os.truncate(image, 8 * MIB)
        mkfs = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin")
        if mkfs is None:
            pytest.skip("mkfs.ext4 is not installed")
        subprocess.run([mkfs, "-q", "-m", "0", "-N", "200", str(image)], check=True, capture_output=True, timeout=60)
        mount("-o", "loop", str(image), str(directory))
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True, timeout=30)


@pytest.fixture
def broker() -> InProcessBroker:
    return InProcessBroker()


@pytest.fixture
async def end(broker: InProcessBroker) -> AsyncIterator[ControlPlaneEnd]:
    async with control_plane_end(broker) as made:
        yield made


def an_agent(state_dir: Path, broker: InProcessBroker) -> Agent:
    return real_agent(Settings(state_dir=state_dir, interval_s=1), an_identity(), broker.transport())


def fill(directory: Path, what: str) -> None:
    """Until there is no room three times: a big write may fail where a small one still finds some."""
    filler, failures, number = directory / "filler", 0, 0
    filler.mkdir()
    while failures < 3:
        try:
            (filler / str(number)).write_bytes(bytes(4096) if what == "bytes" else b"")
            number += 1
        except OSError:
            failures += 1
            number += 1


def make_room(directory: Path) -> None:
    shutil.rmtree(directory / "filler")


@pytest.mark.parametrize("what", ["bytes", "inodes"])
async def test_what_finds_no_room_is_refused_once_and_for_all_and_the_rest_goes_on(
    state_dir: Path, broker: InProcessBroker, end: ControlPlaneEnd, tmp_path: Path, what: str
) -> None:
    witness = tmp_path / "witness"
    ask = a_command("refused", command=f"echo $CONTROL_PLANE_TASK_ID >> {witness}", user=ME, timestamp=now_s())
    async with running(an_agent(state_dir, broker)):
        await end.until(lambda: end.heartbeats)
        assert (await end.run("echo before", task_id="before", user=ME))["outcome"] == "completed"
        fill(state_dir, what)
        await end.send(ask)
        refused = await end.result("refused")
        assert (refused["outcome"], refused["reason"]) == ("rejected", "disk full")
        heard = len(end.heartbeats)
        await end.until(lambda: len(end.heartbeats) > heard + 1)

    async with running(an_agent(state_dir, broker)):  # an upgrade, on the full disk
        gone = len(end.heartbeats)
        await end.until(lambda: len(end.heartbeats) > gone)
        await end.send(ask)
        await end.until(lambda: len(end.said("refused")) > 1)
        make_room(state_dir)
        assert (await end.run("echo after", task_id="after", user=ME))["stdout"] == "after\n"
        await end.send(ask)
        await end.until(lambda: len(end.said("refused")) > 2)

    assert all(said == refused for said in end.said("refused"))
    assert not witness.exists()


async def test_an_output_that_finds_no_room_is_counted_and_hashed_and_its_loss_is_told(
    state_dir: Path, broker: InProcessBroker, end: ControlPlaneEnd, tmp_path: Path
) -> None:
    """The disk runs full while the command runs; how it ends needs no room."""
    lines = 200_000
    whole = "".join(f"{number}\n" for number in range(1, lines + 1)).encode()
    ready, goes_on = tmp_path / "ready", tmp_path / "goes-on"
    wait = f"touch {ready}; until [ -e {goes_on} ]; do sleep 0.05; done"
    async with running(an_agent(state_dir, broker)):
        await end.until(lambda: end.heartbeats)
        await end.send(a_command(command=f"{wait}; seq 1 {lines}; exit 3", user=ME, timestamp=now_s()))
        await end.until(ready.exists)
        fill(state_dir, "bytes")
        goes_on.touch()
        result = await end.result("task-1")

    assert (result["outcome"], result["exit_code"]) == ("completed", 3)
    assert result["reason"] == "output lost: disk full"
    assert (result["stdout_bytes"], result["stdout_sha256"]) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert result["truncated"]


def now_s() -> int:
    return SystemClock().now_s()
