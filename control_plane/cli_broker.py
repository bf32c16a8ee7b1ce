"""The command `control-plane broker`: the agents' accounts there, by hand; heavy imports stay inside, as in `cli`."""

import argparse
import sys

from control_plane.cli_log import Add, Commands

FAILED = 1


def add_commands(commands: Commands, add: Add) -> None:
    broker = commands.add_parser("broker", help="the agents' accounts at the broker: admit, commands").add_subparsers(
        required=True, metavar="ACTION"
    )
    admit = add(
        broker,
        "admit",
        _admit,
        "give a host's agent an account, or a new password; prints the broker's address with both, this once",
    )
    admit.add_argument("host", metavar="HOST")
    typed = add(
        broker,
        "commands",
        _commands,
        "print what to type at the broker where the control plane may not use its management API",
    )
    typed.add_argument("hosts", nargs="*", metavar="HOST", help="default: all of them")


async def _admit(arguments: argparse.Namespace) -> int | None:
    from control_plane.administration import opened
    from control_plane.settings import load

    async with opened(load()) as office:
        url = await office.admit(arguments.host)
    if url is None:
        print("control-plane: CONTROL_PLANE_AMQP_URL is not set: there is no broker to admit to", file=sys.stderr)
        return FAILED
    print(url)
    return None


async def _commands(arguments: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.settings import load

    async with opened(load()) as office:
        for line in office.broker_commands(arguments.hosts):
            print(line)
