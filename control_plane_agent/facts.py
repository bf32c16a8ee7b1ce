"""How this machine is, from /proc: cheap enough to look every few seconds."""

import contextlib
import os
import platform
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, TypedDict

from control_plane_agent.policy import own_account

VERSION: Final = "0.1.0"


class Reading(TypedDict):
    """What a heartbeat says of a machine; usages are fractions from 0 to 1, `runs_as` is not said of root.

    `limits_missing`: what this host cannot limit a command in, though it should; None where it can.
    """

    cpu_usage: float
    memory_usage: float
    disk_usage: float
    load: tuple[float, ...]
    uptime: int
    os: str
    kernel: str
    cpu_count: int
    memory_bytes: int
    addresses: tuple[str, ...]
    runs_as: str | None
    limits_missing: tuple[str, ...] | None


class Facts(Protocol):
    def read(self) -> Reading: ...


class MachineFacts:
    """This machine; the processor's usage is that since the last reading.

    Args:
        limits_missing: what it cannot limit a command in, though it should.
    """

    def __init__(self, *, limits_missing: Sequence[str] = ()) -> None:
        self._last = _cpu_times()
        self._os = _os_name()
        self._runs_as = None if os.geteuid() == 0 else own_account()
        self._limits_missing = tuple(limits_missing) or None

    def read(self) -> Reading:
        memory = _memory()
        total, available = memory.get("MemTotal", 1), memory.get("MemAvailable", 0)
        disk = shutil.disk_usage("/")
        return Reading(
            cpu_usage=self._cpu_usage(),
            memory_usage=_fraction(total - available, total),
            disk_usage=_fraction(disk.used, disk.total),
            load=tuple(round(value, 2) for value in os.getloadavg()),
            uptime=int(float(Path("/proc/uptime").read_text().split()[0])),
            os=self._os,
            kernel=platform.release(),
            cpu_count=os.cpu_count() or 1,
            memory_bytes=total * 1024,
            addresses=_addresses(),
            runs_as=self._runs_as,
            limits_missing=self._limits_missing,
        )

    def _cpu_usage(self) -> float:
        (idle_before, total_before), (idle, total) = self._last, _cpu_times()
        self._last = idle, total
        return _fraction((total - total_before) - (idle - idle_before), total - total_before)


class SimulatedFacts:
    """A machine that is not there; its numbers wander a little, each host's its own way."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._step = 0

    def read(self) -> Reading:
        self._step += 1
        wave = ((self._number * 37 + self._step * 11) % 100) / 100
        return Reading(
            cpu_usage=round(wave, 2),
            memory_usage=round(0.3 + wave / 3, 2),
            disk_usage=round(((self._number * 13) % 90) / 100, 2),
            load=(round(wave * 4, 2), round(wave * 3, 2), round(wave * 2, 2)),
            uptime=86_400 + self._step * 10,
            os="Simulated GNU/Linux 12",
            kernel="6.1.0",
            cpu_count=4,
            memory_bytes=8 * 2**30,
            addresses=(f"10.{self._number // 65536 % 256}.{self._number // 256 % 256}.{self._number % 256}",),
            runs_as=None,
            limits_missing=None,
        )


def _fraction(part: float, whole: float) -> float:
    return round(min(1.0, max(0.0, part / whole)), 4) if whole > 0 else 0.0


def _cpu_times() -> tuple[float, float]:
    """Idle and total time since boot, in ticks."""
    numbers = [float(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return numbers[3] + numbers[4], sum(numbers)


def _memory() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) for line in lines if len(line) > 1}


def _os_name() -> str:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return platform.system()
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return values.get("PRETTY_NAME", platform.system()).strip('"')[:128]


def _addresses() -> tuple[str, ...]:
    """The address that this host is reached by, as far as the routing table tells; nothing is sent."""
    found = []
    for family, probe in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # No route to there, or a kernel without that family.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as connection:
            connection.connect((probe, 9))
            found.append(str(connection.getsockname()[0]))
    return tuple(found)
