"""The commands `control-plane users` and `tokens`, for who has root here; heavy imports stay inside, as in `cli`.

No route of the API makes the first administrator, or lets one in again who is locked out: this does.
"""

import argparse
import getpass
import signal
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from control_plane.cli_log import Add, Commands

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from control_plane.administration import Office

ROLES = ("member", "viewer", "operator", "approver", "auditor", "host-admin", "security-admin", "administrator")


def add_commands(commands: Commands, add: Add) -> None:
    users = commands.add_parser(
        "users", help="people: list, create, disable, enable, password, role, remove-passkeys"
    ).add_subparsers(required=True, metavar="ACTION")
    add(users, "list", _users_list, "everybody, with role and state")
    create = add(users, "create", _users_create, "a new user, the first administrator too")
    create.add_argument("username")
    create.add_argument("--role", required=True, choices=ROLES)
    password_argument(create)
    disable = add(users, "disable", _users_disable, "let nobody in by that name; ends its sessions and tokens")
    disable.add_argument("username")
    enable = add(users, "enable", _users_enable, "let a disabled user in again")
    enable.add_argument("username")
    set_password = add(users, "password", _users_password, "set a user's password; ends the user's sessions")
    set_password.add_argument("username")
    password_argument(set_password)
    role = add(users, "role", _users_role, "change a user's role; ends the user's sessions")
    role.add_argument("username")
    role.add_argument("role", choices=ROLES)
    passkeys = add(
        users, "remove-passkeys", _users_remove_passkeys, "of a user who has lost them: then the password is enough"
    )
    passkeys.add_argument("username")

    tokens = commands.add_parser("tokens", help="API tokens: list, create, revoke").add_subparsers(
        required=True, metavar="ACTION"
    )
    add(
        tokens,
        "list",
        _tokens_list,
        "the tokens that have not ended: whose, until when, last used when and from where, what for",
    )
    token = add(tokens, "create", _tokens_create, "print a new API token; it is shown this once")
    token.add_argument("--user", required=True, metavar="NAME")
    token.add_argument("--name", default="command line", help="what it is for (default: %(default)s)")
    token.add_argument("--days", type=int, default=90, help="until it expires, at most 365 (default: %(default)s)")
    token.add_argument(
        "--permission",
        action="append",
        metavar="NAME",
        help="all that it is for, such as tasks.read; may be repeated (default: all that its user may)",
    )
    token.add_argument(
        "--address", action="append", metavar="NETWORK", help="that it counts from; may be repeated (default: any)"
    )
    revoke = add(tokens, "revoke", _tokens_revoke, "end a token at once")
    revoke.add_argument("token_id", metavar="ID", help="the part of the token between cp_ and the next _")


def password_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--password-stdin",
        action="store_true",
        help="read the password from standard input, a line (at a terminal it is asked for twice, and not shown)",
    )


def password(arguments: argparse.Namespace) -> str:
    """Asked for twice at a terminal, or the first line of standard input.

    Raises:
        ConfigurationError: there is neither, the two differ, it is no text, or was not given at a terminal (Ctrl-D).
    """
    from control_plane.errors import ConfigurationError

    try:
        if sys.stdin.isatty():
            given = _asked("Password: ")
            if given != _asked("Once more: "):
                raise ConfigurationError("the two passwords are not the same")
        elif arguments.password_stdin:
            given = sys.stdin.readline().rstrip("\n")
        else:
            raise ConfigurationError("there is no terminal to ask for the password at: give it with --password-stdin")
        given.encode()
    except UnicodeError as error:
        raise ConfigurationError("the password on standard input is not UTF-8") from error
    except EOFError as error:
        raise ConfigurationError("no password was given; nothing was done") from error
    return given


def _asked(prompt: str) -> str:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else Ctrl-C would wait for the answer
    try:
        return getpass.getpass(prompt)
    finally:
        signal.signal(signal.SIGINT, before)


def _office() -> "AbstractAsyncContextManager[Office]":
    from control_plane.administration import opened
    from control_plane.settings import load

    return opened(load())


async def _users_list(_: argparse.Namespace) -> None:
    async with _office() as office:
        for user in await office.users():
            print(f"{user.username:<32} {user.role:<14} {'enabled' if user.enabled else 'disabled'}")


async def _users_create(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.create_user(arguments.username, arguments.role, password(arguments))


async def _users_disable(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.set_enabled(arguments.username, enabled=False)


async def _users_enable(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.set_enabled(arguments.username, enabled=True)


async def _users_password(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.set_password(arguments.username, password(arguments))


async def _users_role(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.set_role(arguments.username, arguments.role)


async def _users_remove_passkeys(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.remove_passkeys(arguments.username)


async def _tokens_list(_: argparse.Namespace) -> None:
    async with _office() as office:
        uses = await office.core.access.uses.all()
        for token in await office.tokens():
            use = uses.get(token.token_id)
            used = "never used" if use is None else f"used {_time(use.used_us)} from {use.address or 'here'}"
            scope = "everything" if token.permissions is None else ", ".join(sorted(token.permissions))
            where = f" from {', '.join(map(str, token.networks))}" if token.networks else ""
            until = f"until {_time(token.expires_at * 1_000_000)}"
            print(f"{token.token_id}  {token.username:<16} {until}, {used}; for {scope}{where}; {token.name}")


def _time(micros: int) -> str:
    return f"{datetime.fromtimestamp(micros // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"


async def _tokens_create(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        print(
            await office.create_token(
                arguments.user,
                arguments.name,
                arguments.days,
                permissions=arguments.permission,
                addresses=arguments.address,
            )
        )


async def _tokens_revoke(arguments: argparse.Namespace) -> None:
    async with _office() as office:
        await office.revoke_token(arguments.token_id)
