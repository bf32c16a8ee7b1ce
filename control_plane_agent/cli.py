"""`control-plane-agent`: enrol this host, run its agent, say how it is; or pretend to be many hosts."""

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from control_plane_agent import assembly, enrolment, identity, rotation, settings
from control_plane_agent.disk import RealDisk
from control_plane_agent.errors import AgentError, ConfigurationError
from control_plane_agent.journal import LIVE
from control_plane_agent.session import Agent
from control_plane_agent.settings import Settings
from control_plane_agent.simulated_fleet import MAX_SIMULATED, identities_of
from control_plane_agent.watchdog import Watchdog
from control_plane_wire.errors import WireError
from control_plane_wire.lifecycle import Service, run_until_stopped
from control_plane_wire.transport.rabbitmq import RabbitTransport

DONE, FAILED, USAGE = 0, 1, 2
DRAIN_S: Final = 5.0
LOCK: Final = "lock"
ROTATING: Final = "rotating"
MAX_WAIT_S: Final = 86_400

log = logging.getLogger(__name__)

Run: TypeAlias = Callable[[Settings, argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status: 0 done, 1 failed, 2 wrong usage or settings."""
    arguments = _parser().parse_args(argv)
    if not all(map(_is_text, vars(arguments).values())):
        _say("an argument is not UTF-8")
        return USAGE
    run: Run = arguments.run
    try:
        given = settings.load(os.environ)
        _configure_logging(given.log_level)
        run(given, arguments)
    except AgentError as error:
        for line in str(error).splitlines():
            _say(line)
        return USAGE if isinstance(error, ConfigurationError) else FAILED
    except WireError as error:
        _say(f"the control plane's answer is not as the protocol says: {error}")
        return FAILED
    return DONE


def _is_text(value: object) -> bool:
    try:
        "".join(map(str, value if isinstance(value, list) else [value])).encode()
    except UnicodeEncodeError:
        return False
    return True


def _say(line: str) -> None:
    print(f"control-plane-agent: {line}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="control-plane-agent",
        description="The agent: takes signed commands for this host, runs each once, and reports.",
        epilog="settings, from the environment:\n" + "\n".join(settings.describe()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    enrol = _add(commands, "enrol", _enrol, "make this host known to a control plane, by a token or by its fingerprint")
    enrol.add_argument("--server", required=True, metavar="URL", help="the control plane's address")
    enrol.add_argument(
        "--token",
        metavar="TOKEN",
        help="single use; as -, or where it is left out, the first line of standard input, which no list of processes "
        "shows; where there is none, the host asks to be accepted by its fingerprint",
    )
    enrol.add_argument(
        "--wait", type=_seconds, default=3600, metavar="SECONDS", help="to be accepted (default: %(default)s)"
    )
    enrol.add_argument("--hostname", metavar="NAME", help="default: this machine's full name")

    _add(commands, "run", _run, "take and run commands until it is told to stop; what runs then goes on")
    rotate = _add(commands, "rotate-key", _rotate_key, "give this host a new key, while its agent runs or not")
    rotate.add_argument("--server", required=True, metavar="URL", help="the control plane's address")
    _add(commands, "status", _status, "who this host is, and what its journal holds")

    simulate = _add(commands, "simulate", _simulate, "be N hosts that run nothing and answer as if; for load and tests")
    simulate.add_argument("count", type=_count, metavar="N")
    simulate.add_argument("--server", required=True, metavar="URL", help="the control plane's address")
    simulate.add_argument(
        "--group", action="append", default=[], metavar="GROUP", help="of all of them; may be repeated"
    )
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: Run, meaning: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=meaning, description=meaning[0].upper() + meaning[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MAX_SIMULATED:
        raise argparse.ArgumentTypeError(f"a number from 1 to {MAX_SIMULATED}")
    return int(text)


def _seconds(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MAX_WAIT_S:
        raise argparse.ArgumentTypeError(f"a number of seconds from 1 to {MAX_WAIT_S}")
    return int(text)


def _configure_logging(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they have to say reaches us as exceptions


class _Lines(logging.Formatter):
    """A line for a person: the message, then what belongs to it as key=value."""

    _OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        extra = " ".join(f"{key}={value!r}" for key, value in vars(record).items() if key not in self._OWN)
        return f"{super().formatMessage(record)} {extra}".rstrip()


def _enrol(given: Settings, arguments: argparse.Namespace) -> None:
    token = _token(arguments.token)
    server = _server(arguments.server)
    with _state_directory(given.state_dir):
        if token is None:
            tell = partial(print, flush=True)
            who = enrolment.request(given.state_dir, server, arguments.hostname, wait_s=arguments.wait, tell=tell)
        else:
            who = enrolment.enrol(given.state_dir, server, token, arguments.hostname)
    print(f"{who.hostname} is enrolled, groups: {', '.join(sorted(who.groups)) or 'none'}")
    print("next: control-plane-agent run")


def _token(given: str | None) -> str | None:
    """The token that was given, by argument or on standard input; None where there is none."""
    if given is None and sys.stdin.isatty():
        return None
    if given in {None, "-"}:
        try:
            line = sys.stdin.readline().strip()
            line.encode()
        except UnicodeError as error:
            raise ConfigurationError("the token on standard input is not UTF-8") from error
        return line or given
    return given


def _server(url: str) -> enrolment.Server:
    server = enrolment.Server(url)
    if server.is_exposed:
        _say(f"{url} is not encrypted: who sits between can give this host another key to trust")
    return server


def _run(given: Settings, arguments: argparse.Namespace) -> None:
    with _state_directory(given.state_dir), _disk(given.state_dir) as disk:
        again = partial(_agent, given, disk)
        _serve([rotation.Renewed(disk, again(), again, drain_s=DRAIN_S)])


def _agent(given: Settings, disk: RealDisk) -> Agent:
    """This host's agent, by its new key if there is one to take."""
    try:
        if rotation.take(disk):
            log.info("new key taken")
    except ConfigurationError as error:  # the one before counts as long as the new one was not used
        log.error("new key not taken", extra={"reason": str(error)})  # noqa: TRY400 - said all
    who = identity.load(given.state_dir)
    url = given.amqp_url or who.amqp_url
    if not settings.is_broker(url):
        raise ConfigurationError("enrolment gave no address of the broker: set CONTROL_PLANE_AGENT_AMQP_URL")
    return assembly.real_agent(given, who, RabbitTransport(url))


def _rotate_key(given: Settings, arguments: argparse.Namespace) -> None:
    identity.load(given.state_dir)  # says clearly what is wrong, if anything is
    server = _server(arguments.server)
    with _disk(given.state_dir) as disk, _alone(given.state_dir / ROTATING):
        new = rotation.ask(disk, server, prescribed_url=given.amqp_url)
    try:
        with _state_directory(given.state_dir), _disk(given.state_dir) as disk:
            rotation.take(disk)
    except ConfigurationError:
        print(f"the running agent takes the new key {new.key.key_id} within some seconds")
    else:
        print(f"the new key is {new.key.key_id}")


@contextmanager
def _disk(state_dir: Path) -> Iterator[RealDisk]:
    disk = RealDisk(str(state_dir))
    try:
        yield disk
    finally:
        disk.close()


def _status(given: Settings, arguments: argparse.Namespace) -> None:
    who = identity.load(given.state_dir)
    journal = given.state_dir / LIVE
    unfinished = [path.name for path in journal.iterdir() if "." not in path.name] if journal.is_dir() else []
    print(f"hostname    {who.hostname}")
    print(f"groups      {', '.join(sorted(who.groups)) or 'none'}")
    print(f"key         {who.key.key_id}")
    print(f"trusts      {', '.join(sorted(who.keys))}")
    print(f"agent       {'running' if _is_locked(given.state_dir) else 'not running'}")
    print(f"unfinished  {len(unfinished)}")
    for task_id in sorted(unfinished):
        print(f"  {task_id}")


def _simulate(given: Settings, arguments: argparse.Namespace) -> None:
    if not given.amqp_url or not given.api_token:
        raise ConfigurationError(
            "simulate registers its hosts itself: set CONTROL_PLANE_AGENT_AMQP_URL and CONTROL_PLANE_AGENT_API_TOKEN"
        )
    server = enrolment.Server(arguments.server, token=given.api_token)
    transport = RabbitTransport(given.amqp_url)
    who = identities_of(server, arguments.count, arguments.group, given.api_token)
    _serve(
        assembly.simulated_agent(number, each, transport, interval_s=given.interval_s)
        for number, each in enumerate(who, start=1)
    )


def _serve(services: Iterable[Service]) -> None:
    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await run_until_stopped([*services, Watchdog.of(os.environ)], stop=stop, drain_s=DRAIN_S)

    try:
        asyncio.run(run())
    except TimeoutError:  # of the drain, above all where a broker took the connection and says nothing
        log.warning("stopped without waiting any longer", extra={"seconds": DRAIN_S})


@contextmanager
def _state_directory(path: Path) -> Iterator[None]:
    """Make it, and hold it for this process.

    Raises:
        ConfigurationError: it cannot be made, or another agent works on it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"CONTROL_PLANE_AGENT_STATE_DIR: {error.filename}: {error.strerror}") from error
    with _alone(path / LOCK, f"another agent works on {path}; stop it first"):
        yield


@contextmanager
def _alone(path: Path, otherwise: str = "the key is being rotated just now") -> Iterator[None]:
    """Hold a lock. Raises ConfigurationError where it cannot be made, or another process has it."""
    try:
        lock = path.open("w")
    except OSError as error:
        raise ConfigurationError(f"CONTROL_PLANE_AGENT_STATE_DIR: {error.filename}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(otherwise) from error
        yield


def _is_locked(path: Path) -> bool:
    try:
        with (path / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


if __name__ == "__main__":
    sys.exit(main())
