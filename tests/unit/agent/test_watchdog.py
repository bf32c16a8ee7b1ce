"""What systemd is told, by a socket that stands for it; and what its unit says."""

import asyncio
import configparser
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane_agent import cgroups
from control_plane_agent.watchdog import Watchdog

UNIT = Path(__file__).parents[3] / "deploy/systemd/control-plane-agent.service"


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@control-plane-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1))
        listener.setblocking(False)
        yield listener, name


async def test_it_is_told_that_the_loop_turns_until_it_is_stopped(systemd: tuple[socket.socket, str]) -> None:
    listener, name = systemd
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(Watchdog.of({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000"}).run(stop))
        said = [await loop.sock_recv(listener, 100) for _ in range(4)]
        stop.set()
        while said[-1] == b"WATCHDOG=1":
            said.append(await loop.sock_recv(listener, 100))

    assert said[:4] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    assert said[-1] == b"STOPPING=1"


async def test_a_loop_that_stands_still_tells_nothing(systemd: tuple[socket.socket, str]) -> None:
    listener, name = systemd
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(Watchdog.of({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000"}).run(stop))
        for _ in range(2):
            await loop.sock_recv(listener, 100)
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.recv(100)  # blocks this loop, and the watchdog with it
        stop.set()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": "/no/such/socket", "WATCHDOG_USEC": "30000000"},
        {"WATCHDOG_USEC": "rubbish"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
    ],
)
async def test_where_nobody_listens_nothing_fails(environment: dict[str, str]) -> None:
    stop = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(Watchdog.of(environment).run(stop))
        await asyncio.sleep(0)
        stop.set()


def test_the_unit_lets_commands_outlive_the_agent_and_watches_its_loop() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)

    wanted = {
        "KillMode": "process",
        "Delegate": "yes",
        "DelegateSubgroup": cgroups.SELF,
        "OOMPolicy": "continue",
        "TasksMax": "infinity",
        "Restart": "always",
        "OOMScoreAdjust": "-900",
        "WatchdogSec": "30",
        "Type": "notify",
        "NotifyAccess": "main",
        "StateDirectoryMode": "0700",
    }
    assert {name: unit["Service"].get(name) for name in wanted} == wanted
    assert float(unit["Service"]["TimeoutStopSec"]) > 5, "a stop may take five seconds"
