"""`control-plane dev`: the whole system in one process, on this machine only, with nothing to install but Python.

The real application over SQLite and the in-process broker, a real agent for this machine, and simulated hosts if asked.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import orjson

from control_plane.administration import initialise
from control_plane.api.server import bound
from control_plane.bootstrap import ROLES, services_of
from control_plane.bootstrap import run as run_services
from control_plane.commands.access import CONSOLE
from control_plane.commands.handlers.hosts import HostHandler
from control_plane.commands.handlers.tokens import NewToken, TokenHandler
from control_plane.commands.users import MAX_TOKEN_DAYS
from control_plane.core import Core, open_core, open_leases, prepare
from control_plane.errors import ConfigurationError, NotFoundError, RefusedError
from control_plane.observability import configure_logging
from control_plane.settings import LOOPBACK, Settings, load
from control_plane_agent.assembly import real_agent, simulated_agent
from control_plane_agent.identity import Identity, create_key
from control_plane_agent.policy import own_account
from control_plane_agent.settings import Settings as AgentSettings
from control_plane_wire.lifecycle import Service, wait_for_any
from control_plane_wire.signing import SigningKey
from control_plane_wire.topology import is_name
from control_plane_wire.transport.base import Transport
from control_plane_wire.transport.inprocess import InProcessBroker

DATABASE: Final = "control-plane.db"
USERNAME: Final = "admin"
TOKEN_NAME: Final = "control-plane dev"  # noqa: S105 - what the token in dev.json is called
GROUPS: Final = ("web", "db", "cache")  # of the simulated hosts, in turn
MAX_SIMULATED: Final = 10_000
# Of an environment that is another installation's, whose broker keeps its accounts.
NOT_OURS: Final = dict.fromkeys(
    (
        *("amqp_url", "agents_amqp_url", "broker_api_url", "tls_certificate", "tls_key"),
        *("signing_key", "key_passphrase", "key_passphrase_file"),
    )
)


async def run(*, state_dir: Path, listen: str | None, simulated: int) -> None:
    """Run until a signal asks to stop; state stays in `state_dir`, an absolute path.

    Args:
        listen: None: as the settings have it.

    Raises:
        ConfigurationError: not a loopback address or a taken one, or another one runs on that state already.
    """
    configure_logging(format="text", level="warning")
    if not 0 <= simulated <= MAX_SIMULATED:
        raise ConfigurationError(f"--agents: a number from 0 to {MAX_SIMULATED}")
    settings = load(
        database_url=f"sqlite+aiosqlite:///{state_dir / DATABASE}",
        state_dir=state_dir,
        log_format="text",
        **NOT_OURS,
        **({} if listen is None else {"listen": listen}),
    )
    if settings.public_url is not None and not _is_local(settings.public_url):
        print(f"CONTROL_PLANE_PUBLIC_URL is not taken: {settings.public_url} is not on this machine", flush=True)
        settings = settings.model_copy(update={"public_url": None})
    if settings.listen_host not in LOOPBACK:
        said = "CONTROL_PLANE_LISTEN" if listen is None else "--listen"
        raise ConfigurationError(
            f"{said}: {settings.listen} is not on this machine alone; `control-plane serve` is for others"
        )
    with _alone(state_dir), bound(settings) as (settings, listener):
        print("starting …", flush=True)
        await initialise(settings, USERNAME, secrets.token_urlsafe(32))
        login_token = secrets.token_urlsafe(32)
        async with (
            open_core(settings, login_token=login_token, login_user=USERNAME) as core,
            open_leases(core) as leases,
        ):
            await prepare(core)
            transport = InProcessBroker().transport()
            agents = await _agents(core, transport, state_dir / "agent", simulated)
            services = services_of(core, transport, leases, roles=ROLES, listener=listener, dev=True)
            greeting = await _greeting(core, settings, login_token, len(agents))
            with contextlib.closing(greeting):
                await run_services([*services, *agents, greeting], drain_s=settings.drain_s)


def _is_local(url: str) -> bool:
    try:
        return urlsplit(url).hostname in LOOPBACK
    except ValueError:
        return False


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """Make the state directory, and hold it for this process."""
    try:
        _make_private(state_dir)
    except OSError as error:
        raise ConfigurationError(f"cannot use {state_dir}: {error.strerror}; give another --state-dir") from error
    with (state_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"another `control-plane dev` runs on {state_dir}; stop it, or give another --state-dir"
            ) from error
        yield


def _make_private(state_dir: Path) -> None:
    """Keep others out of the directory and of the database in it, if it is ours: new, empty, or with our database."""
    os.umask(0o077)  # for all that is made from here on
    state_dir.mkdir(parents=True, exist_ok=True)
    databases = list(state_dir.glob(f"{DATABASE}*"))
    if state_dir.stat().st_mode & 0o077:
        if not databases and any(state_dir.iterdir()):
            raise ConfigurationError(
                f"{state_dir} may be read by others and has other files in it: chmod 700 it or give another --state-dir"
            )
        state_dir.chmod(0o700)
    for database in databases:
        database.chmod(0o600)


async def _agents(core: Core, transport: Transport, state_dir: Path, simulated: int) -> list[Service]:
    """This machine's agent, and the simulated ones, each registered with its key."""
    local = await _identity(core, _hostname(), create_key(state_dir), ("local",))
    agents: list[Service] = [real_agent(AgentSettings(state_dir=state_dir), local, transport)]
    seed = core.settings.state_dir.joinpath("simulated.seed")
    if simulated and not seed.exists():
        seed.touch(mode=0o600)
        seed.write_bytes(secrets.token_bytes(32))
    for number in range(1, simulated + 1):
        digest = hashlib.sha256(seed.read_bytes() + number.to_bytes(8, "big")).digest()
        group = GROUPS[number % len(GROUPS)]
        who = await _identity(core, f"sim-{number:04}", SigningKey.from_bytes(digest), (group,))
        agents.append(simulated_agent(number, who, transport))
    return agents


def _hostname() -> str:
    name = socket.gethostname().lower()
    return name if is_name(name) else "this-machine"


async def _identity(core: Core, hostname: str, key: SigningKey, groups: tuple[str, ...]) -> Identity:
    """Register a host of this process, or find it registered with that key."""
    handler = HostHandler(core.handling, core.access.check_recent)
    if core.authority.fleet.public_key(hostname) != key.public_key:
        with contextlib.suppress(RefusedError):  # not registered yet
            await handler.retire(CONSOLE, hostname, "another key in a new state directory")
        await handler.register(CONSOLE, hostname=hostname, public_key=key.public_key, groups=groups)
    host = core.authority.fleet.host(hostname)
    return Identity(
        hostname=hostname,
        key=key,
        keys={own.key_id: own.public_key for own in core.keyring.trusted},
        announced=core.keyring.announced,
        groups=dict(host.groups),
        enrolled_as_of=host.registered_seq,
    )


@dataclass(slots=True)
class _Greeting:
    """Says where it is, once it answers: on the terminal, and for programs in `dev.json`."""

    url: str
    address: tuple[str, int]
    document: dict[str, str]
    path: Path
    hosts: int
    revoke_token: Callable[[], Awaitable[None]]
    name: str = "greeting"

    async def run(self, stop: asyncio.Event) -> None:
        while not await self._answers():
            await wait_for_any(stop, timeout_s=0.05)
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(file, orjson.dumps(self.document, option=orjson.OPT_INDENT_2))
        os.close(file)
        hosts = "1 host" if self.hosts == 1 else f"{self.hosts} hosts"
        print(
            f"\ncontrol plane: {self.url}   {hosts}, commands run as {own_account()}\n"
            f"log in:        {self.document['login_url']}\n"
            f"for programs:  {self.path}\n\nCtrl-C stops it; its state stays in {self.path.parent}\n",
            flush=True,
        )
        await stop.wait()
        with contextlib.suppress(NotFoundError):  # somebody has ended it before
            await self.revoke_token()

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(*self.address)
        except OSError:
            return False
        writer.close()
        return True

    def close(self) -> None:
        self.path.unlink(missing_ok=True)


async def _greeting(core: Core, settings: Settings, login_token: str, hosts: int) -> _Greeting:
    token = await _new_token(core.tokens)
    return _Greeting(
        url=settings.url,
        address=(settings.listen_host, settings.listen_port),
        document={"url": settings.url, "login_url": f"{settings.url}/login#token={login_token}", "token": token.text},
        path=settings.state_dir / "dev.json",
        hosts=hosts,
        revoke_token=partial(core.tokens.revoke, CONSOLE, token.token_id),
    )


async def _new_token(tokens: TokenHandler) -> NewToken:
    """A token that is good until this process ends; one that a killed process has left ends now."""
    for token in await tokens.tokens(CONSOLE):
        if (token.username, token.name) == (USERNAME, TOKEN_NAME):
            await tokens.revoke(CONSOLE, token.token_id)
    return await tokens.create(CONSOLE, username=USERNAME, name=TOKEN_NAME, days=MAX_TOKEN_DAYS)
