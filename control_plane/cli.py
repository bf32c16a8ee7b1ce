"""`control-plane`: the server's command line. Heavy imports stay inside the subcommands, so --help is quick."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from control_plane import cli_log

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from control_plane.administration import Office
    from control_plane.settings import Settings


USAGE, FAILED = 2, 1
ROLES = ("viewer", "operator", "administrator")

Run: TypeAlias = Callable[[argparse.Namespace], Coroutine[None, None, int | None]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status: 0 done, 1 failed, 2 wrong usage or settings."""
    arguments = _parser().parse_args(argv)
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
    parser = argparse.ArgumentParser(prog="control-plane", description="The control plane: server and administration.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    dev = _add(commands, "dev", _dev, "the whole system in one process, on this machine only; nothing else to install")
    dev.add_argument(
        "--agents", type=int, default=0, metavar="N", help="simulated hosts beside this machine (default: 0)"
    )
    dev.add_argument("--listen", default="127.0.0.1:8000", metavar="ADDRESS:PORT", help="default: %(default)s")
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
    init = _add(commands, "init", _init, "schema, signing key and the first administrator; may be repeated")
    init.add_argument("--username", required=True, metavar="NAME")
    _password_argument(init)

    users = commands.add_parser("users", help="people: list, create, disable, enable, password, role").add_subparsers(
        required=True, metavar="ACTION"
    )
    _add(users, "list", _users_list, "everybody, with role and state")
    create = _add(users, "create", _users_create, "a new user")
    create.add_argument("username")
    create.add_argument("--role", required=True, choices=ROLES)
    _password_argument(create)
    disable = _add(users, "disable", _users_disable, "let nobody in by that name; ends its sessions and tokens")
    disable.add_argument("username")
    enable = _add(users, "enable", _users_enable, "let a disabled user in again")
    enable.add_argument("username")
    password = _add(users, "password", _users_password, "set a user's password; ends the user's sessions")
    password.add_argument("username")
    _password_argument(password)
    role = _add(users, "role", _users_role, "change a user's role")
    role.add_argument("username")
    role.add_argument("role", choices=ROLES)

    tokens = commands.add_parser("tokens", help="API tokens: create").add_subparsers(required=True, metavar="ACTION")
    token = _add(tokens, "create", _tokens_create, "print a new API token; it is shown this once")
    token.add_argument("--user", required=True, metavar="NAME")
    token.add_argument("--name", default="command line", help="what it is for (default: %(default)s)")
    token.add_argument("--days", type=int, default=90, help="until it expires, at most 365 (default: %(default)s)")

    cli_log.add_commands(commands, _add, _progress)

    projections = commands.add_parser("projections", help="read tables: list, verify, rebuild").add_subparsers(
        required=True, metavar="ACTION"
    )
    _add(projections, "list", _projections_list, "each projection's position, lag and parked events")
    for name, run, meaning in (
        ("verify", _projections_verify, "fold the log from zero beside the live tables and compare them"),
        ("rebuild", _projections_rebuild, "the same, and then use the new tables"),
    ):
        _add(projections, name, run, meaning).add_argument(
            "name", nargs="?", metavar="NAME", help="default: all of them"
        )
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: Run, meaning: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=meaning, description=meaning, epilog=_epilog(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def _epilog() -> str | None:
    """Every setting with its default; only where somebody asks for help, since it needs the heavy imports."""
    if not {"-h", "--help"} & set(sys.argv):
        return None
    try:
        from control_plane.settings import describe
    except ImportError:
        return None
    return "\n".join(["settings, from the environment or an .env file:", *describe()]).replace("%", "%%")


def _password_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--password-stdin", action="store_true", required=True, help="read the password from standard input"
    )


def _password() -> str:
    return sys.stdin.readline().rstrip("\n")


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

    print(await initialise(_settings(), arguments.username, _password()))


async def _users_list(_: argparse.Namespace) -> None:
    async with _office() as office:
        for user in await office.users():
            print(f"{user.username:<32} {user.role:<14} {'enabled' if user.enabled else 'disabled'}")


async def _users_create(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.create_user(arguments.username, arguments.role, _password())


async def _users_disable(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.set_enabled(arguments.username, enabled=False)


async def _users_enable(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.set_enabled(arguments.username, enabled=True)


async def _users_password(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.set_password(arguments.username, _password())


async def _users_role(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.set_role(arguments.username, arguments.role)


async def _tokens_create(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        print(await office.create_token(arguments.user, arguments.name, arguments.days))


async def _projections_list(_: argparse.Namespace) -> None:
    async with _office() as office:
        print(f"{'NAME':<12} {'STATE':<12} {'POSITION':>20} {'LAG':>8} {'PARKED':>7}")
        for state in await office.projections():
            position, lag = str(state.position), state.lag_events
            print(f"{state.name:<12} {state.state:<12} {position:>20} {lag:>8} {state.parked:>7}")


async def _projections_verify(arguments: argparse.Namespace) -> int:
    return await _compare(arguments.name, switch=False)


async def _projections_rebuild(arguments: argparse.Namespace) -> int:
    return await _compare(arguments.name, switch=True)


async def _compare(name: str | None, *, switch: bool) -> int:
    """Fold from zero and compare, with progress on a terminal; 1 where something differs and is not replaced."""
    differs = False
    async with _office() as office:
        async for projection, tables in office.rebuild(name, switch=switch, progress=_progress):
            for table in tables:
                verdict = "equal" if table.is_equal else "differs"
                differs = differs or not table.is_equal
                print(f"{projection:<12} {table.name:<16} {table.live[0]:>10} rows  {verdict}  {table.rebuilt[1][:16]}")
    return FAILED if differs and not switch else 0


def _progress(name: str, done: int, total: int, seconds: float) -> None:
    if sys.stderr.isatty():
        rate = done / seconds if seconds else 0.0
        left_s = (total - done) / rate if rate else 0.0
        end = "\n" if done >= total else ""
        text = f"\r{name}: {done}/{total} events  {rate:,.0f}/s  {left_s:.0f} s left "
        print(text, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
