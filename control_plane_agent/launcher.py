"""Forks the supervisors. The agent starts it once, under `python -I -S`, and writes it one order a line.

Only a process without threads may fork, and a fresh interpreter for each command would cost 22 ms. Each supervisor gets
a session of its own and no parent to die with (double fork), so it outlives both of us; a pipe that only it can write
to tells by its end that it is gone. The launcher itself ends when the agent's pipe closes.
"""

import gc
import json
import os
import select
import sys

from control_plane_agent.child import find_account
from control_plane_agent.supervisor import Order, supervise

READ_BYTES = 64 * 1024


def main() -> None:
    find_account("root")  # loads the libraries of the name service once, and not in every supervisor
    "".encode("ascii")
    gc.freeze()  # what is there now is shared with every supervisor; a collection would copy it
    poll = select.poll()
    poll.register(0, select.POLLIN)
    alive: dict[int, str] = {}  # the entry of each supervisor, by the descriptor that tells its end
    rest = b""
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in alive:
                poll.unregister(descriptor)
                os.close(descriptor)
                _tell_end(alive.pop(descriptor))
                continue
            data = os.read(0, READ_BYTES)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                order = Order(**json.loads(line))
                reader = _start(order, alive)
                alive[reader] = order.entry
                poll.register(reader, select.POLLIN)


def _tell_end(entry: str) -> None:
    os.write(1, json.dumps({"ended": entry}).encode() + b"\n")


def _start(order: Order, others: dict[int, str]) -> int:
    """Fork a supervisor; a descriptor that becomes readable when it has ended."""
    order.hit("launcher.before_fork")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(writer)
        os.waitpid(pid, 0)
        order.hit("launcher.forked")
        return reader
    try:
        if os.fork() == 0:
            _supervise(order, (reader, *others))
    finally:
        os._exit(0)


def _supervise(order: Order, not_ours: tuple[int, ...]) -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    for descriptor in (null, *not_ours):
        os.close(descriptor)
    try:
        supervise(order)
    except BaseException:  # noqa: BLE001 - the process ends here; the slots tell the agent how far it came
        sys.excepthook(*sys.exc_info())
