"""`scripts/bench`: what this machine does, printed with the machine and the commit beside the figures."""

import argparse
import asyncio
import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from control_plane.bootstrap import collect_seldom
from tests.support.servers import (
    Broker,
    DatabaseServer,
    PrivateBroker,
    PrivateDatabase,
    given_broker,
    given_database,
)

PARTS = ("log", "rebuild", "lag", "past", "verify", "commands", "heartbeats", "live", "ui")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which to run: {', '.join(PARTS)} (default: all)")
    parser.add_argument(
        "--simulated", type=int, default=1000, metavar="N", help="simulated hosts (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=100, metavar="N", help="commands to one host (default: %(default)s)"
    )
    parser.add_argument(
        "--fleet",
        type=int,
        default=10_000,
        metavar="N",
        help="hosts in the logs of rebuild, lag and past, and on the pages of ui (default: %(default)s)",
    )
    parser.add_argument(
        "--events", type=int, default=500_000, metavar="N", help="events in the logs of past (default: %(default)s)"
    )
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the servers end, too
    collect_seldom()  # as the server does
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"commit {git('rev-parse', '--short', 'HEAD')}{' and changes' if git('status', '--porcelain') else ''}\n")
    with tempfile.TemporaryDirectory(prefix="cp-bench-") as directory, contextlib.ExitStack() as stack:
        of_servers = [part for part in parts if part != "ui"]
        database, broker = stack.enter_context(servers()) if of_servers else (None, None)
        for part in parts:
            print(f"--- {part}", flush=True)
            if part == "ui":
                from tests.benchmarks import ui

                ui.run(Path(directory), hosts=arguments.fleet)
            elif database and broker:
                run(part, database, broker, Path(directory), arguments)
            print(flush=True)


def run(part: str, database: DatabaseServer, broker: Broker, directory: Path, arguments: argparse.Namespace) -> None:
    from tests.benchmarks import append, end_to_end, heartbeats, lag, live, past, rebuild, verify

    match part:
        case "log" | "rebuild" | "lag" | "past" | "verify":
            of_fleet = {
                "rebuild": partial(rebuild.run, hosts=arguments.fleet),
                "lag": partial(lag.run, hosts=arguments.fleet),
                "past": partial(past.run, hosts=arguments.fleet, events=arguments.events),
            }
            benchmark = {"log": append.run, "verify": verify.run, **of_fleet}[part]
            with database.database() as url:
                asyncio.run(benchmark(url))
            asyncio.run(benchmark(f"sqlite+aiosqlite:///{directory}/{part}.db"))
        case "commands":
            end_to_end.run(database, broker, directory, simulated=arguments.simulated, rounds=arguments.rounds)
        case "heartbeats":
            heartbeats.run(database, broker, directory)
        case "live":
            live.run(database, broker, directory)


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()


@contextlib.contextmanager
def servers() -> Iterator[tuple[DatabaseServer, Broker]]:
    with contextlib.ExitStack() as stack:
        database, broker = given_database(), given_broker()
        if database is None:
            private_database = PrivateDatabase()
            stack.callback(private_database.close)
            database = private_database.server
        if broker is None:
            private_broker = PrivateBroker()
            stack.callback(private_broker.close)
            broker = private_broker.broker
        yield database, broker


if __name__ == "__main__":
    main()
