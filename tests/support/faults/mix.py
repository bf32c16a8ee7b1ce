"""Faults of every part, chosen by a seed: each is put in, held for a while, and healed."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import psutil

from tests.support.faults.trial import Trial
from tests.support.link import Link, LinkBeside, Way
from tests.support.servers import PrivateBroker, PrivateDatabase

LinkName = Literal["agents to broker", "server to broker", "server to database"]


@dataclass
class Rig:
    """What can be broken, and the names of what was."""

    trial: Trial
    broker: PrivateBroker
    database: PrivateDatabase
    links: dict[LinkName, LinkBeside]
    done: list[str] = field(default_factory=list)

    @property
    def agents(self) -> list[str]:
        return sorted(self.trial.installation.agents)


Fault = Callable[[Rig, random.Random], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def kill_server(rig: Rig, chance: random.Random) -> Iterator[None]:
    rig.trial.installation.server.kill()
    yield
    rig.trial.installation.server.start()


@contextlib.contextmanager
def kill_agents(rig: Rig, chance: random.Random) -> Iterator[None]:
    agents = [rig.trial.installation.agents[name] for name in chance.sample(rig.agents, chance.randint(1, 5))]
    for agent in agents:
        agent.kill()
    yield
    for agent in agents:
        agent.start()


@contextlib.contextmanager
def kill_launchers(rig: Rig, chance: random.Random) -> Iterator[None]:
    for name in chance.sample(rig.agents, 3):
        for process in _children(rig.trial.installation.agents[name].pid):
            _kill(process.pid)
    yield


@contextlib.contextmanager
def kill_supervisors(rig: Rig, chance: random.Random) -> Iterator[None]:
    """Whoever is the parent of a command and no child of an agent."""
    home = str(rig.trial.installation.directory)
    launchers = {p.pid for name in rig.agents for p in _children(rig.trial.installation.agents[name].pid)}
    found = sorted(p.pid for p in _processes_in(home) if "launcher" in " ".join(_argv(p)) and p.pid not in launchers)
    for pid in chance.sample(found, min(len(found), 2)):
        _kill(pid)
    yield


@contextlib.contextmanager
def freeze_server(rig: Rig, chance: random.Random) -> Iterator[None]:
    with _stopped([rig.trial.installation.server.pid]):
        yield


@contextlib.contextmanager
def freeze_agents(rig: Rig, chance: random.Random) -> Iterator[None]:
    with _stopped([rig.trial.installation.agents[name].pid for name in chance.sample(rig.agents, 4)]):
        yield


@contextlib.contextmanager
def kill_broker(rig: Rig, chance: random.Random) -> Iterator[None]:
    rig.broker.kill()
    yield
    rig.broker.start()


@contextlib.contextmanager
def freeze_broker(rig: Rig, chance: random.Random) -> Iterator[None]:
    group = os.getpgid(rig.broker.process.pid)
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


@contextlib.contextmanager
def close_connections(rig: Rig, chance: random.Random) -> Iterator[None]:
    rig.broker.control("close_all_connections", "a fault")
    yield


@contextlib.contextmanager
def alarm_broker(rig: Rig, chance: random.Random) -> Iterator[None]:
    """It takes no publishes: as if its memory was full."""
    rig.broker.control("set_vm_memory_high_watermark", "0.0000001")
    try:
        yield
    finally:
        rig.broker.control("set_vm_memory_high_watermark", "absolute", "2GB")


@contextlib.contextmanager
def kill_database(rig: Rig, chance: random.Random) -> Iterator[None]:
    rig.database.process.kill()
    rig.database.process.wait()
    yield
    rig.database.start()


@contextlib.contextmanager
def freeze_database(rig: Rig, chance: random.Random) -> Iterator[None]:
    with _stopped([rig.database.process.pid]):
        yield


def on_a_link(name: LinkName) -> Fault:
    """A link that is broken in a way that chance says."""

    @contextlib.contextmanager
    def breaks(rig: Rig, chance: random.Random) -> Iterator[None]:
        link = rig.links[name]
        way: Way = chance.choice(("up", "down"))
        left = chance.randint(1, 20_000)
        how: Callable[[Link], object] = chance.choice(
            (
                Link.reset,
                Link.refuse,
                Link.freeze,
                lambda there: there.freeze(way),
                lambda there: there.slow(0.2, piece=2000),
                lambda there: there.cut_after(left, way),
            )
        )
        link.do(how)
        try:
            yield
        finally:
            link.do(Link.heal)

    breaks.__name__ = f"link {name}"
    return breaks


# Each with the seconds that it lasts at most.
FAULTS: Sequence[tuple[Fault, float]] = (
    (kill_server, 2),
    (kill_agents, 3),
    (kill_agents, 3),
    (kill_launchers, 1),
    (kill_supervisors, 1),
    (freeze_server, 8),
    (freeze_agents, 8),
    (kill_broker, 2),
    (freeze_broker, 8),
    (close_connections, 1),
    (kill_database, 2),
    (freeze_database, 8),
    (on_a_link("agents to broker"), 8),
    (on_a_link("server to broker"), 8),
    (on_a_link("server to database"), 5),
)


def break_something(rig: Rig, chance: random.Random) -> None:
    """One fault, healed on return. A server or an agent that has ended by itself is started, as systemd does."""
    fault, most_s = chance.choice(FAULTS)
    own = random.Random(chance.getrandbits(64))  # how much a fault draws depends on what it finds
    name = getattr(fault, "__name__", "").replace("_", " ")
    lasts_s = chance.uniform(0.2, most_s)
    rig.done.append(name)
    with fault(rig, own):
        time.sleep(lasts_s)
    start_what_has_ended(rig)


def start_what_has_ended(rig: Rig) -> None:
    installation = rig.trial.installation
    for program in [installation.server, *installation.agents.values()]:
        if program.has_ended():
            rig.done.append(f"{program.argv[0].rpartition('/')[2]} had ended by itself")
            program.start()


@contextlib.contextmanager
def _stopped(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children()
    return []


def _processes_in(home: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd().startswith(home):
                yield process


def _argv(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []
