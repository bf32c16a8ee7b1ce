"""Changes to a host: its groups, its labels, its maintenance, and how it is taken off."""

import argparse
from typing import Any

from cpctl.client import Client
from cpctl.errors import OK, CpctlError
from cpctl.terminal import ask, is_interactive, say


async def change(client: Client, arguments: argparse.Namespace) -> int:
    """Groups and labels are added and removed one by one; the rest of them stays."""
    path = f"/hosts/{arguments.hostname}"
    body: dict[str, Any] = {}
    if arguments.group or arguments.label:
        now = await client.get(path)
        if arguments.group:
            body["groups"] = _changed_groups(now["groups"], arguments.group)
        if arguments.label:
            body["labels"] = _changed_labels(now["labels"], arguments.label)
    if arguments.maintenance is not None:
        body["maintenance"] = arguments.maintenance == "on"
    if not body:
        raise CpctlError("nothing to change: --group, --label or --maintenance")
    await client.send("PATCH", path, body=body)
    say(f"{arguments.hostname}: {', '.join(f'{name} {_told(value)}' for name, value in body.items())}")
    return OK


def _changed_groups(groups: list[str], wanted: list[str]) -> list[str]:
    changed = dict.fromkeys(groups)
    for word in wanted:
        if word.startswith("-"):
            changed.pop(word.removeprefix("-"), None)
        else:
            changed[word.removeprefix("+")] = None
    return list(changed)


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
    if isinstance(value, dict):
        return ",".join(f"{name}={one}" for name, one in value.items()) or "none"
    return ",".join(value) or "none" if isinstance(value, list) else str(value)


async def revoke(client: Client, arguments: argparse.Namespace) -> int:
    """Believe nothing more that it says, and send it nothing more."""
    _confirm(arguments, "its key counts no more, its commands are not sent, and it has to be enrolled anew")
    body = {} if arguments.reason is None else {"reason": arguments.reason}
    await client.post(f"/hosts/{arguments.hostname}/revoke", body)
    say(f"{arguments.hostname} is revoked")
    return OK


async def retire(client: Client, arguments: argparse.Namespace) -> int:
    _confirm(arguments, "it is taken off the fleet; its history stays")
    await client.send("DELETE", f"/hosts/{arguments.hostname}")
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
