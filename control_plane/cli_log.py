"""The commands `control-plane log` and `control-plane events`; heavy imports stay inside them, as in `cli`."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

if TYPE_CHECKING:
    from control_plane.events.envelope import LogName
    from control_plane.events.search import Wanted
    from control_plane.settings import Settings

FAILED = 1

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no other name
Run: TypeAlias = Callable[[argparse.Namespace], Coroutine[None, None, int | None]]
Add: TypeAlias = Callable[[Commands, str, Run, str], argparse.ArgumentParser]
Progress: TypeAlias = Callable[[str, int, int, float], None]


def add_commands(commands: Commands, add: Add, progress: Progress) -> None:
    """Add both to the program's; `progress` shows what is done, of how much, in so many seconds."""
    log = commands.add_parser("log", help="the event logs: maintain, archive-check, accept-loss").add_subparsers(
        required=True, metavar="ACTION"
    )
    maintain = add(log, "maintain", _log_maintain, "plan segments ahead, archive and drop old heartbeats; for a timer")
    maintain.set_defaults(progress=progress)
    archive = add(log, "archive-check", _log_archive_check, "check the archive of a segment, without the database")
    archive.add_argument("file", type=Path, metavar="FILE")
    archive.add_argument("--root", metavar="HEX", help="the Merkle root that it has to have")

    accept = add(log, "accept-loss", _log_accept_loss, "say that what is left of logs that have lost their end stands")
    accept.add_argument("--reason", required=True, metavar="TEXT", help="why; it is recorded")

    events = commands.add_parser("events", help="what happened: tail, show, export").add_subparsers(
        required=True, metavar="ACTION"
    )
    tail = add(events, "tail", _events_tail, "the newest events, a line each")
    _filters(tail)
    tail.add_argument("--lines", type=int, default=10, metavar="N", help="how many (default: %(default)s)")
    tail.add_argument("--follow", action="store_true", help="and then each further one, until it is interrupted")
    show = add(events, "show", _events_show, "one event, whole")
    show.add_argument("seq", type=int, metavar="SEQ")
    show.add_argument("--heartbeats", action="store_true", help="of the log of heartbeats")
    export = add(events, "export", _events_export, "events, whole, oldest first")
    _filters(export)
    export.add_argument("--format", choices=("ndjson", "csv"), default="ndjson", help="default: %(default)s")
    export.add_argument("--out", type=Path, metavar="FILE", help="where to (default: standard output)")
    export.set_defaults(progress=progress)


def not_text(arguments: argparse.Namespace) -> str | None:
    """The first argument that is no text, as it was typed or as near to it as can be shown; a path may be any bytes."""
    for value in vars(arguments).values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and not each.isascii():
                try:
                    each.encode()
                except UnicodeEncodeError:
                    return each.encode("utf-8", "backslashreplace").decode()
    return None


def _filters(parser: argparse.ArgumentParser) -> None:
    """Which events; every given one must hold."""
    parser.add_argument("--kind", help="one kind (task.accepted), or a family of them (task)")
    parser.add_argument("--task-id", metavar="ID")
    parser.add_argument("--host", metavar="NAME")
    parser.add_argument("--actor", metavar="NAME")
    parser.add_argument("--from", dest="from_us", type=_time_us, metavar="TIME", help="2026-01-31T12:00:00Z")
    parser.add_argument("--to", dest="to_us", type=_time_us, metavar="TIME")
    parser.add_argument("--after", type=int, default=0, metavar="SEQ", help="only those behind that one")
    parser.add_argument("--heartbeats", action="store_true", help="of the log of heartbeats")


def _time_us(text: str) -> int:
    """A time of RFC 3339 in UTC microseconds; one without a zone is UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no time such as 2026-01-31T12:00:00Z") from error
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1)


def _settings() -> "Settings":
    from control_plane.settings import load

    return load()


async def _log_maintain(arguments: argparse.Namespace) -> None:
    from control_plane.administration import maintain_logs

    started = monotonic()
    done = await maintain_logs(
        _settings(), lambda what, at, total: arguments.progress(what, at, total, monotonic() - started)
    )
    if done is None:
        print("another process is at it")
        return
    for log, room in done.room.items():
        left = f"room for {room:,} events" if room < 2**62 else "room without end"
        print(f"{log}: {left}, {len(done.planned[log])} segments planned")
    for dropped in done.dropped:
        print(f"{dropped.log}: dropped {dropped.first_seq} to {dropped.last_seq}, root {dropped.root.hex()}")
    if done.waits:
        print(f"not dropped yet: {done.waits}")


async def _log_archive_check(arguments: argparse.Namespace) -> int:
    from control_plane.events.archive import check

    try:
        found = check(arguments.file)
    except OSError as error:
        print(f"control-plane: {error}", file=sys.stderr)
        return FAILED
    print(f"{found.log} {found.first_seq} to {found.last_seq}, root {found.root.hex()}, sha256 {found.sha256.hex()}")
    if arguments.root is not None and arguments.root.lower() != found.root.hex():
        print(f"control-plane: the root is not {arguments.root}", file=sys.stderr)
        return FAILED
    return 0


async def _log_accept_loss(arguments: argparse.Namespace) -> None:
    from control_plane.administration import opened

    async with opened(_settings(), opens_closed=True) as office:
        accepted = await office.accept_loss(arguments.reason)
    for event in accepted:
        lost = "some events" if event.lost_size is None else f"{event.lost_size - event.size} events"
        print(f"{event.log}: {lost} after {event.size} are given up, and it takes events again")
    print("start the servers anew: one that runs on remembers what is lost")


async def _events_tail(arguments: argparse.Namespace) -> None:
    from control_plane.administration import reading
    from control_plane.events.export import line
    from control_plane.events.follow import follow
    from control_plane.events.search import newest

    name, wanted = _wanted(arguments)
    async with reading(_settings()) as (database, log):
        after = (await log.head(name)).seq
        for stored in await newest(database, log, name, wanted, limit=arguments.lines):
            print(line(stored), flush=True)
            after = max(after, stored.seq)
        if arguments.follow:
            async for page in follow(log, name, after=after, stop=asyncio.Event()):
                for stored in filter(wanted.matches, page):
                    print(line(stored), flush=True)


async def _events_show(arguments: argparse.Namespace) -> int:
    from control_plane.administration import reading
    from control_plane.events.export import pretty

    async with reading(_settings()) as (_, log):
        stored = await log.read_one(_log_of(arguments), arguments.seq)
    if stored is None:
        print(f"control-plane: there is no event {arguments.seq}", file=sys.stderr)
        return FAILED
    print(pretty(stored))
    return 0


async def _events_export(arguments: argparse.Namespace) -> None:
    from control_plane.administration import reading
    from control_plane.events.export import csv_head, csv_line, ndjson
    from control_plane.events.search import search

    name, wanted = _wanted(arguments)
    started = monotonic()

    def told(done: int, total: int) -> None:
        arguments.progress("export", done, total, monotonic() - started)

    async with reading(_settings()) as (database, log):
        with written(arguments.out) as file:
            if arguments.format == "csv":
                file.write(csv_head())
            async for events in search(database, log, name, wanted, progress=told):
                file.writelines(map(csv_line if arguments.format == "csv" else ndjson, events))


@contextmanager
def written(path: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that is there under its name once all of it is written.

    Raises:
        ConfigurationError: there can be no file of that name.
    """
    from control_plane.errors import ConfigurationError

    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _wanted(arguments: argparse.Namespace) -> "tuple[LogName, Wanted]":
    from control_plane.errors import ConfigurationError
    from control_plane.events.registry import KINDS
    from control_plane.events.search import Wanted

    kind = arguments.kind
    if kind is not None and not any(kind in (known, known.partition(".")[0]) for known in KINDS):
        raise ConfigurationError(f"--kind: there is no kind or family of events {kind}; docs/events.md has them all")
    names = ("kind", "task_id", "actor", "from_us", "to_us", "after")
    given = {name: getattr(arguments, name) for name in names}
    return _log_of(arguments), Wanted(hostname=arguments.host, **given)


def _log_of(arguments: argparse.Namespace) -> "LogName":
    return "heartbeat_event" if arguments.heartbeats else "event"
