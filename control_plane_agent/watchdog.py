"""Tells systemd that the event loop turns, where a unit asks for that: the few lines of sd_notify that it takes."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

from control_plane_wire.lifecycle import wait_for_any

LOOK_S: Final = 60.0  # where nobody asked to be told


class Watchdog:
    """A service; it does nothing where nobody listens.

    Args:
        address: of the socket, a path or an abstract name that begins with @; None where there is none.
        limit_s: of silence, after which we are taken for stuck and started again; None where nobody watches.
    """

    name = "watchdog"

    def __init__(self, address: str | None, limit_s: float | None) -> None:
        self._address = address
        self._limit_s = limit_s

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Watchdog":
        """What systemd says in the environment of the process that it has started, and of no other."""
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        limit_s = int(microseconds) / 1e6 if is_ours and microseconds.isdigit() and int(microseconds) else None
        return cls(environment.get("NOTIFY_SOCKET") or None, limit_s)

    async def run(self, stop: asyncio.Event) -> None:
        self._say("READY=1")
        while not stop.is_set():
            if self._limit_s is not None:
                self._say("WATCHDOG=1")
            await wait_for_any(stop, timeout_s=LOOK_S if self._limit_s is None else self._limit_s / 3)
        self._say("STOPPING=1")

    def _say(self, state: str) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), address)
