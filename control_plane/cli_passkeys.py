"""The command `control-plane users remove-passkeys`; heavy imports stay inside, as in `cli`."""

import argparse

from control_plane.cli_log import Add, Commands


def add_command(users: Commands, add: Add) -> None:
    removed = add(users, "remove-passkeys", _remove, "of a user who has lost them: then the password alone is enough")
    removed.add_argument("username")


async def _remove(arguments: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.settings import load

    async with opened(load()) as office:
        await office.remove_passkeys(arguments.username)
