"""Changes to a host: its groups, its labels, its maintenance, and how it is taken off."""

import argparse
from typing import Any

from cpctl.client import Client, quoted
from cpctl.errors import OK, CpctlError
from cpctl.terminal import ask, is_interactive, say


async def change(client: Client, arguments: argparse.Namespace) -> int:
    """Groups one by one; the labels are written as a whole, as they are read with these changes."""
    hostname, path = arguments.hostname, f"/hosts/{quoted(arguments.hostname)}"
    body: dict[str, Any] = {}
    if arguments.label:
        body["labels"] = _changed_labels((await client.get(path))["labels"], arguments.label)
    if arguments.maintenance is not None:
        body["maintenance"] = arguments.maintenance == "on"
    if not body and not arguments.group:
        raise CpctlError("nothing to change: --group, --label or --maintenance")
    for word in arguments.group or ():
        method, group = ("DELETE", word[1:]) if word.startswith("-") else ("PUT", word.removeprefix("+"))
        await client.send(method, f"/groups/{quoted(group)}/hosts/{quoted(hostname)}")
        say(f"{hostname}: {'no longer' if method == 'DELETE' else 'now'} in {group}")
    if body:
        await client.send("PATCH", path, body=body)
        say(f"{hostname}: {', '.join(f'{name} {_told(value)}' for name, value in body.items())}")
    return OK


def _changed_labels(labels: dict[str, str], wanted: list[str]) -> dict[str, str]:
    changed = dict(labels)
    for word in wanted:
        name, equals, value = word.partition("=")
        if word.startswith("-") and not equals:
            changed.pop(word.removeprefix("-"), None)
        elif equals:
            changed[name] = value
        else:
            raise CpctlError(f"--label {word}: as NAME=VALUE, or -NAME to remove one")
    return changed


def _told(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    assert isinstance(value, dict)  # noqa: S101 - the labels
    return ",".join(f"{name}={one}" for name, one in value.items()) or "none"


async def revoke(client: Client, arguments: argparse.Namespace) -> int:
    """Believe nothing more that it says, and send it nothing more."""
    _confirm(arguments, "its key counts no more, its commands are not sent, and it has to be enrolled anew")
    body = {} if arguments.reason is None else {"reason": arguments.reason}
    await client.post(f"/hosts/{quoted(arguments.hostname)}/revoke", body)
    say(f"{arguments.hostname} is revoked")
    return OK


async def retire(client: Client, arguments: argparse.Namespace) -> int:
    _confirm(arguments, "it is taken off the fleet; its history stays")
    await client.send("DELETE", f"/hosts/{quoted(arguments.hostname)}")
    say(f"{arguments.hostname} is retired")
    return OK


def _confirm(arguments: argparse.Namespace, means: str) -> None:
    """By typing its name, as in the dashboard; a script says --yes."""
    if arguments.yes:
        return
    if not is_interactive():
        raise CpctlError(f"{arguments.hostname}: {means}; --yes says that this is meant")
    say(f"{arguments.hostname}: {means}")
    if ask("type the hostname to go on: ") != arguments.hostname:
        raise CpctlError("that is not its name; nothing was changed")
