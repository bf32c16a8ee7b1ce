"""The commands `control-plane stop` and `control-plane templates`; heavy imports stay inside, as in `cli`."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from control_plane.cli_log import Add, Commands

if TYPE_CHECKING:
    from control_plane.commands.templates import Template

MAX_FILE_BYTES = 64 * 1024


def add_commands(commands: Commands, add: Add) -> None:
    stop = commands.add_parser("stop", help="let nothing be run any more: set, lift, show").add_subparsers(
        required=True, metavar="ACTION"
    )
    stopped = add(stop, "set", _set, "accept no command and send none, everywhere and at once; what runs goes on")
    stopped.add_argument("--reason", required=True, metavar="TEXT", help="for people")
    lifted = add(stop, "lift", _lift, "let all go on: what was held back is sent, unless it has expired")
    lifted.add_argument("--reason", metavar="TEXT", help="for people")
    add(stop, "show", _show, "whether it is stopped, by whom, since when and why")

    templates = commands.add_parser("templates", help="command templates: list, create, delete").add_subparsers(
        required=True, metavar="ACTION"
    )
    add(templates, "list", _list, "each template with its parameters")
    created = add(templates, "create", _create, "a template, from a file of JSON as POST /api/v1/templates takes it")
    created.add_argument("file", type=Path, metavar="FILE")
    deleted = add(templates, "delete", _delete, "end a template; what was accepted stays as it was")
    deleted.add_argument("name", metavar="NAME")


async def _set(arguments: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.commands.access import CONSOLE
    from control_plane.settings import load

    async with opened(load()) as office:
        await office.stop.set(CONSOLE, arguments.reason)
        print(office.stop.state.in_words)


async def _lift(arguments: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.commands.access import CONSOLE
    from control_plane.settings import load

    async with opened(load()) as office:
        await office.stop.lift(CONSOLE, arguments.reason)


async def _show(_: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.settings import load

    async with opened(load()) as office:
        print(office.stop.state.in_words or "not stopped")


async def _list(_: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.commands.access import CONSOLE
    from control_plane.settings import load

    async with opened(load()) as office:
        for template in await office.templates.templates(CONSOLE):
            print(_line(template))


async def _create(arguments: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.commands.access import CONSOLE
    from control_plane.commands.templates import parse_template
    from control_plane.errors import ConfigurationError
    from control_plane.settings import load
    from control_plane_wire import strict_json
    from control_plane_wire.errors import MalformedMessageError

    try:
        value = strict_json.parse(arguments.file.read_bytes(), max_bytes=MAX_FILE_BYTES)
    except OSError as error:
        raise ConfigurationError(f"{arguments.file} cannot be read: {error.strerror}") from error
    except MalformedMessageError as error:
        raise ConfigurationError(f"{arguments.file}: {error}") from error
    async with opened(load()) as office:
        await office.templates.create(CONSOLE, parse_template(value))


async def _delete(arguments: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.commands.access import CONSOLE
    from control_plane.settings import load

    async with opened(load()) as office:
        await office.templates.delete(CONSOLE, arguments.name)


def _line(template: "Template") -> str:
    """A template as one line."""
    parameters = ", ".join(f"{parameter.name}: {parameter.type}" for parameter in template.parameters)
    said = f"{template.name:<18} {shlex.join(template.argv)} as {template.user}, {template.timeout} s"
    return "; ".join([said, *([parameters] if parameters else []), *filter(None, [template.description])])
