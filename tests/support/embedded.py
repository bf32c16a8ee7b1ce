"""The whole application in this process: SQLite, the in-process broker, simulated hosts, and a port of the loopback."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from control_plane.administration import initialise
from control_plane.api.openapi import describe
from control_plane.api.server import HttpService, bound
from control_plane.bootstrap import ROLES as SERVICES
from control_plane.bootstrap import services_of
from control_plane.commands.access import CONSOLE, ROLES
from control_plane.commands.handlers.hosts import HostHandler
from control_plane.commands.passwords import PasswordHasher
from control_plane.core import Core, open_core, open_leases, prepare
from control_plane.projections.every import PROJECTIONS
from control_plane.settings import Settings
from control_plane_agent.assembly import simulated_agent
from control_plane_agent.identity import Identity
from control_plane_agent.session import Agent
from control_plane_wire.lifecycle import run_until_stopped
from control_plane_wire.transport.base import Transport
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.api import NO_RATES, PASSWORD
from tests.support.database import sqlite_url
from tests.support.fleet import host_key

HOSTS = ("sim-1", "sim-2", "sim-3")
UP_S = 120.0
CHEAP = partial(PasswordHasher, memory_kib=64, iterations=1, lanes=1)
SHOWN_S = 20.0  # within which a read table has what was recorded, on whatever machine


@dataclass(frozen=True)
class Embedded:
    """One that answers.

    Attributes:
        description: its OpenAPI document.
        tokens, token_ids: API tokens of a person of each role, `some-ROLE`.
        root: one of the administrator who made them. Its id is among `token_ids`, too.
    """

    url: str
    description: dict[str, Any]
    tokens: dict[str, str]
    root: str
    token_ids: frozenset[str]
    settings: Settings
    core: Core
    loop: asyncio.AbstractEventLoop

    def shown(self, seq: int) -> None:
        """Wait until every read table has come to an event."""
        asyncio.run_coroutine_threadsafe(self._shown(seq), self.loop).result()

    async def _shown(self, seq: int) -> None:
        for projection in PROJECTIONS:
            assert await self.core.hub.wait_for(projection.name, seq, timeout_s=SHOWN_S), projection.name


@contextmanager
def an_installation(directory: Path) -> Iterator[Embedded]:
    """It runs in a thread with a loop of its own, so that who asks may block. It runs no command on this machine.

    `control-plane dev` would, by its real agent.
    """
    loop, stop, up = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    made: list[Embedded] = []
    failures: list[BaseException] = []

    def told(embedded: Embedded) -> None:
        made.append(embedded)
        up.set()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(_serve(directory, stop, told))
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            failures.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=run, name="embedded")
    with pytest.MonkeyPatch.context() as patch:
        # Long enough for a busy machine; beyond ANSWER_S of a route, a seq that is years away would be a database away.
        patch.setattr("control_plane.api.fields.MIN_SEQ_WAIT_S", 4.0)
        patch.setattr("control_plane.commands.handlers.access.PasswordHasher", CHEAP)
        thread.start()
        try:
            assert up.wait(UP_S)
            if made:
                yield made[0]
        finally:
            with contextlib.suppress(RuntimeError):  # it has ended by itself, and its loop is closed
                loop.call_soon_threadsafe(stop.set)
            thread.join()
            if failures:  # whatever went wrong for who asked went wrong by this; Python notes that as its context
                raise failures[0]


async def _serve(directory: Path, stop: asyncio.Event, told: Callable[[Embedded], None]) -> None:
    given: dict[str, Any] = {"listen": "127.0.0.1:0", "state_dir": directory, "pending_hosts": 1_000, **NO_RATES}
    with bound(Settings(database_url=sqlite_url(directory), **given)) as (settings, listener):
        await initialise(settings, "root", PASSWORD)
        async with open_core(settings) as core, open_leases(core) as leases, asyncio.TaskGroup() as group:
            await prepare(core)
            transport = InProcessBroker().transport()
            agents = [await _agent(core, transport, number, name) for number, name in enumerate(HOSTS, start=1)]
            services = services_of(core, transport, leases, roles=SERVICES, listener=listener)
            [http] = [service for service in services if isinstance(service, HttpService)]
            # One address may be wrong as often as it likes: all of these requests come from one.
            http.app.state.authenticator._throttle.wrong = lambda _address, _now_s: None
            tokens, ids = {}, set()
            for role in ROLES:
                await core.access.create_user(CONSOLE, f"some-{role}", role=role, password=PASSWORD)
                token = await core.tokens.create(CONSOLE, username=f"some-{role}", name="test", days=1)
                tokens[role] = token.text
                ids.add(token.token_id)
            root = await core.tokens.create(CONSOLE, username="root", name="test", days=1)
            ids.add(root.token_id)
            group.create_task(run_until_stopped([*services, *agents], stop=stop, drain_s=20))
            await _answers(settings)
            loop = asyncio.get_running_loop()
            told(Embedded(settings.url, describe(http.app), tokens, root.text, frozenset(ids), settings, core, loop))
            await stop.wait()


async def _answers(settings: Settings) -> None:
    """Return when somebody listens: until then the socket is bound, and refuses whoever comes."""
    while True:
        try:
            _, writer = await asyncio.open_connection(settings.listen_host, settings.listen_port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


async def _agent(core: Core, transport: Transport, number: int, hostname: str) -> Agent:
    key = host_key(hostname)
    await HostHandler(core.handling, core.access.check_recent).register(
        CONSOLE, hostname=hostname, public_key=key.public_key, groups=("web",)
    )
    host = core.authority.fleet.host(hostname)
    who = Identity(
        hostname=hostname,
        key=key,
        keys={own.key_id: own.public_key for own in core.keyring.trusted},
        announced=core.keyring.announced,
        groups=dict(host.groups),
        enrolled_as_of=host.registered_seq,
    )
    return simulated_agent(number, who, transport, interval_s=1)
