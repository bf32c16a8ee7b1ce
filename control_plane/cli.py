"""`control-plane`: the server's command line. Heavy imports stay inside the subcommands, so --help is quick."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from control_plane import cli_broker, cli_hosts, cli_keys, cli_log, cli_people, cli_policy, cli_rules

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from control_plane.administration import Office
    from control_plane.projections.compare import Difference
    from control_plane.settings import Settings


USAGE, FAILED = 2, 1
FAULTS = {"gap": "gaps", "missing": "missing", "hash": "invalid hashes", "signature": "invalid signatures"}
SETTINGS = "`control-plane settings` lists the settings, which come from the environment or an .env file."
SHOWN = 20  # places of each fault
MOST_KEYS, MOST_KEYS_BYTES = 100, 64 * 1024

Then: TypeAlias = Literal["drop", "switch", "keep"]
Run: TypeAlias = Callable[[argparse.Namespace], Coroutine[None, None, int | None]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status: 0 done, 1 failed, 2 wrong usage or settings."""
    arguments = _parser().parse_args(argv)
    if (wrong := cli_log.not_text(arguments)) is not None:
        print(f"control-plane: {wrong} is not UTF-8", file=sys.stderr)
        return USAGE
    try:
        from control_plane.errors import ConfigurationError, ControlPlaneError
        from control_plane.storage import engine  # noqa: F401 - the server extra is there or it is not
    except ImportError as error:
        print(f"control-plane: {error.name} is missing: install control-plane[server]", file=sys.stderr)
        return FAILED
    try:
        return int(asyncio.run(arguments.run(arguments)) or 0)
    except ConfigurationError as error:
        print(*(f"control-plane: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr)
        return USAGE
    except ControlPlaneError as error:
        print(f"control-plane: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # whoever read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="control-plane", description="The control plane: server and administration.", epilog=SETTINGS
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    dev = _add(commands, "dev", _dev, "the whole system in one process, on this machine only; nothing else to install")
    dev.add_argument(
        "--agents", type=int, default=0, metavar="N", help="simulated hosts beside this machine (default: 0)"
    )
    dev.add_argument(
        "--listen",
        metavar="ADDRESS:PORT",
        help="of this machine only; port 0: any free one (default: CONTROL_PLANE_LISTEN, or else 127.0.0.1:8000)",
    )
    dev.add_argument(
        "--state-dir", type=Path, default=Path(".control-plane"), metavar="DIR", help="default: %(default)s"
    )

    serve = _add(commands, "serve", _serve, "the server, on the database and the broker of its settings")
    serve.add_argument(
        "--roles",
        default="api,ingest,projectors,processes",
        metavar="LIST",
        help="which parts to run (default: all of %(default)s)",
    )

    _add(commands, "migrate", _migrate, "bring the log's schema up to date; a new release asks for it")
    init = _add(commands, "init", _init, "schema, keys and the first administrator; may be repeated")
    init.add_argument("--username", required=True, metavar="NAME")
    cli_people.password_argument(init)

    cli_people.add_commands(commands, _add)
    cli_rules.add_commands(commands, _add)
    cli_policy.add_commands(commands, _add)
    cli_keys.add_commands(commands, _add)
    cli_log.add_commands(commands, _add, _progress)
    cli_broker.add_commands(commands, _add)
    cli_hosts.add_commands(commands, _add)
    _projections_parser(commands)
    _audit_parser(commands)
    _add(commands, "settings", _list_settings, "every setting, with its default and what it is for")
    return parser


def _projections_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    projections = commands.add_parser(
        "projections", help="read tables: list, verify, rebuild, rollback, retry"
    ).add_subparsers(required=True, metavar="ACTION")
    _add(projections, "list", _projections_list, "each projection's position, lag, parked events and rebuild")
    verify = _add(
        projections, "verify", _projections_verify, "fold the log from zero beside the live tables and compare them"
    )
    rebuild = _add(
        projections, "rebuild", _projections_rebuild, "the same while all goes on, and then use the new tables"
    )
    rebuild.add_argument("--resume", action="store_true", help="go on where a rebuild was stopped, not from zero")
    rebuild.add_argument(
        "--prepare", action="store_true", help="before an upgrade: leave the new tables for the start of this release"
    )
    for each in (verify, rebuild):
        each.add_argument("name", nargs="?", metavar="NAME", help="default: all of them")
    back = _add(projections, "rollback", _projections_rollback, "put the tables from before the last rebuild back")
    retry = _add(projections, "retry", _projections_retry, "fold the events again that were set aside")
    for each in (back, retry):
        each.add_argument("name", metavar="NAME")


def _audit_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    audit = commands.add_parser("audit", help="the log's proof: verify, prove, check, checkpoint").add_subparsers(
        required=True, metavar="ACTION"
    )
    verify = _add(audit, "verify", _audit_verify, "hash a log anew; check gaps, keys, checkpoints, signatures")
    verify.add_argument(
        "--from", dest="first", type=int, default=1, metavar="SEQ", help="and back to a checkpoint (default: 1)"
    )
    verify.add_argument("--to", dest="last", type=int, metavar="SEQ", help="and on to a checkpoint (default: the end)")
    verify.add_argument("--no-signatures", action="store_true", help="hashes and keys alone, which is much quicker")
    prove = _add(audit, "prove", _audit_prove, "write a proof that an event is in the log, with all of the event in it")
    prove.add_argument("seq", type=int, metavar="SEQ")
    prove.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    newest = _add(audit, "checkpoint", _audit_checkpoint, "print the newest signed checkpoint")
    for parser in (verify, prove, newest):
        parser.add_argument("--log", choices=("event", "heartbeat_event"), default="event", help="default: %(default)s")
    check = _add(audit, "check", _audit_check, "verify a proof, without the database and without settings")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument(
        "--key",
        required=True,
        metavar="BASE64|FILE",
        help="the control plane's public key, or what GET /api/v1/keys answered",
    )


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: Run, meaning: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=meaning, description=meaning, epilog=SETTINGS)
    parser.set_defaults(run=run)
    return parser


async def _list_settings(_: argparse.Namespace) -> None:
    from control_plane.settings import describe

    print("settings, from the environment or an .env file:", *describe(), sep="\n")


def _settings() -> "Settings":
    from control_plane.settings import load

    return load()


def _office() -> "AbstractAsyncContextManager[Office]":
    from control_plane.administration import opened

    return opened(_settings())


async def _dev(arguments: argparse.Namespace) -> None:
    from control_plane.dev import run

    await run(state_dir=arguments.state_dir.absolute(), listen=arguments.listen, simulated=arguments.agents)


async def _serve(arguments: argparse.Namespace) -> None:
    from control_plane.bootstrap import ROLES as KNOWN
    from control_plane.bootstrap import serve
    from control_plane.errors import ConfigurationError
    from control_plane.observability import configure_logging

    roles = arguments.roles.split(",")
    if unknown := set(roles) - set(KNOWN):
        raise ConfigurationError(f"--roles: no such role: {', '.join(sorted(unknown))}; there are {', '.join(KNOWN)}")
    settings = _settings()
    configure_logging(format=settings.log_format, level=settings.log_level)
    await serve(settings, roles)


async def _migrate(_: argparse.Namespace) -> None:
    from control_plane.administration import migrate

    print(*await migrate(_settings()), "the schema is up to date", sep="\n")


async def _init(arguments: argparse.Namespace) -> None:
    from control_plane.administration import initialise

    print(await initialise(_settings(), arguments.username, cli_people.password(arguments)))


async def _projections_list(_: argparse.Namespace) -> None:
    async with _office() as office:
        print(
            f"{'NAME':<10} {'VERSION':>7} {'STATE':<12} {'POSITION':>20} {'LAG':>8} {'SECONDS':>8} {'PARKED':>6}"
            "  REBUILD"
        )
        for state in await office.projections():
            rebuilt = f"{state.rebuilt_events} events folded" if state.rebuilt_events is not None else "-"
            print(
                f"{state.name:<10} {state.version:>7} {state.state:<12} {state.position!s:>20} {state.lag_events:>8} "
                f"{state.lag_us / 1e6:>8.1f} {state.parked:>6}  {rebuilt}"
            )


async def _projections_verify(arguments: argparse.Namespace) -> int:
    return await _compare(arguments.name, then="drop", resume=False)


async def _projections_rebuild(arguments: argparse.Namespace) -> int:
    then: Then = "keep" if arguments.prepare else "switch"
    return await _compare(arguments.name, then=then, resume=arguments.resume)


async def _compare(name: str | None, *, then: Then, resume: bool) -> int:
    """Fold from zero and compare, with progress on a terminal; 1 where something differs and is not replaced."""
    differs = False
    async with _office() as office:
        async for projection, tables in office.rebuild(name, then=then, resume=resume, progress=_progress):
            for table in tables:
                verdict = "equal" if table.is_equal else "differs"
                differs = differs or not table.is_equal
                rows = f"{table.live.rows:>10} rows"
                print(f"{projection:<10} {table.name:<16} {rows}  {verdict:<7}  {table.rebuilt.digest[:16]}")
                for difference in table.differences:
                    print(f"    {_difference(difference)}")
            if not tables:
                print(f"{projection:<10} ready for the start of this release: the live tables are of another version")
    if then == "switch" and differs:
        print("what differed is replaced; `control-plane projections rollback NAME` puts it back")
    return FAILED if differs and then == "drop" else 0


def _difference(difference: "Difference") -> str:
    """One row that is not the same, in one line."""
    key = ", ".join(map(str, difference.key))
    if difference.missing_in is not None:
        return f"{key}: only in the {'rebuilt' if difference.missing_in == 'live' else 'live'} table"
    columns = "; ".join(f"{name} is {live!r}, rebuilt {new!r}" for name, (live, new) in difference.columns.items())
    return f"{key}: {columns}"


async def _projections_rollback(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.roll_back(arguments.name)
    print(f"{arguments.name}: the tables from before the last rebuild are in place again, up to date")


async def _projections_retry(arguments: argparse.Namespace) -> int:
    async with _office() as office:
        done, left = await office.retry(arguments.name)
    print(f"{arguments.name}: {done} events folded, {left} still set aside")
    return FAILED if left else 0


def _progress(name: str, done: int, total: int, seconds: float) -> None:
    if sys.stderr.isatty():
        rate = done / seconds if seconds else 0.0
        left_s = (total - done) / rate if rate else 0.0
        end = "\n" if done >= total else ""
        text = f"\r{name}: {done}/{total} events  {rate:,.0f}/s  {left_s:.0f} s left "
        print(text, end=end, file=sys.stderr, flush=True)


async def _audit_verify(arguments: argparse.Namespace) -> int:
    async with _office() as office:
        report = await office.verify(
            arguments.log,
            first=arguments.first,
            last=arguments.last,
            signatures=not arguments.no_signatures,
            progress=_progress,
        )
    span = f"{report.first} to {report.last}" if report.first <= report.last else "none so far"
    signed = f"{report.checkpoints} checkpoints, the newest over {report.signed} events"
    if report.dropped:
        signed += f"; the first {report.dropped} are in archives: control-plane log archive-check"
    print(f"{report.log}: events {span}; {signed}")
    for fault, meaning in FAULTS.items():
        found = [finding for finding in report.findings if finding.fault == fault]
        print(f"{meaning:<20} {sum(finding.last - finding.first + 1 for finding in found):>10}")
        for finding in found[:SHOWN]:
            place = str(finding.first) if finding.first == finding.last else f"{finding.first} to {finding.last}"
            print(f"  {place}: {finding.detail}")
        if len(found) > SHOWN:
            print(f"  … and {len(found) - SHOWN} more places")
    return FAILED if report.findings else 0


async def _audit_prove(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        proof = await office.core.checkpoints.prove(arguments.log, arguments.seq, is_patient=True)
    with cli_log.written(arguments.out) as file:
        file.write(proof.to_text().encode())


async def _audit_checkpoint(arguments: argparse.Namespace) -> int:
    async with _office() as office:
        newest = await office.newest_checkpoint(arguments.log)
    if newest is None:
        print("control-plane: nothing is signed yet", file=sys.stderr)
        return FAILED
    print(newest.note, end="")
    return 0


def _public_keys(given: str) -> list[bytes]:
    """The keys that are given: one as base64, or a file with one, or with the answer of GET /api/v1/keys.

    Raises:
        ConfigurationError: it is nothing of that.
    """
    from control_plane.errors import ConfigurationError
    from control_plane_wire import strict_json
    from control_plane_wire.errors import WireError
    from control_plane_wire.fields import Fields
    from control_plane_wire.signing import decode_public_key

    path = Path(given)
    try:
        text = (path.read_bytes() if path.is_file() else given.encode()).strip()
        if not text.startswith(b"{"):
            return [decode_public_key(text.decode("ascii"))]
        items = Fields(strict_json.parse(text, max_bytes=MOST_KEYS_BYTES)).objects("items", most=MOST_KEYS)
        return [item.decoded("public_key", decode_public_key) for item in items]
    except (OSError, UnicodeDecodeError, WireError) as error:
        raise ConfigurationError(f"--key: {given} is no file with a public key, and no public key: {error}") from error


async def _audit_check(arguments: argparse.Namespace) -> int:
    from control_plane.errors import ConfigurationError
    from control_plane.events.export import printable
    from control_plane.events.proofs import Proof
    from control_plane_wire.errors import WireError

    keys = _public_keys(arguments.key)
    try:
        text = arguments.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{arguments.file} cannot be read: {error}") from error
    try:
        checkpoint, event = Proof.parse(text).check(keys)
    except WireError as error:
        print(f"not proved: {printable(str(error))}")
        return FAILED
    print(
        f"proved: event {event.seq} is in {printable(checkpoint.origin)}, "
        f"whose first {checkpoint.size} events are signed"
    )
    for name in ("recorded_us", "kind", "actor", "task_id", "hostname", "key_id"):
        if (value := getattr(event, name)) is not None:
            print(f"  {name:<12} {printable(str(value))}")
    print(f"  {'body':<12} {printable(event.body.decode(errors='backslashreplace'))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
