"""The command `control-plane hosts`: who has asked to be let in; heavy imports stay inside, as in `cli`."""

import argparse

from control_plane.cli_log import Add, Commands


def add_commands(commands: Commands, add: Add) -> None:
    hosts = commands.add_parser(
        "hosts", help="hosts that ask to be let in without a token: pending, accept, refuse"
    ).add_subparsers(required=True, metavar="ACTION")
    add(hosts, "pending", _pending, "who waits: compare each fingerprint with the one that is shown on the host")
    accept = add(hosts, "accept", _accept, "register a host that waits")
    accept.add_argument("host", metavar="HOST", help="the name that it has asked for")
    accept.add_argument("--group", action="append", default=[], metavar="GROUP", help="may be repeated")
    refuse = add(hosts, "refuse", _refuse, "say no to a host that waits")
    for parser in (accept, refuse):
        parser.add_argument("fingerprint", metavar="FINGERPRINT", nargs="+", help="with blanks in it or without")


async def _pending(_: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.settings import load
    from control_plane_wire.proofs import in_groups

    async with opened(load()) as office:
        for row, is_taken in await office.pending_hosts():
            taken = "  (a host of this name is registered: retire it first)" if is_taken else ""
            print(f"{row.hostname}  from {row.address or 'nowhere known'}{taken}\n    {in_groups(row.fingerprint)}")


async def _accept(arguments: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.settings import load

    async with opened(load()) as office:
        await office.accept_host(_typed(arguments.fingerprint), arguments.host, arguments.group)


async def _refuse(arguments: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.settings import load

    async with opened(load()) as office:
        await office.refuse_host(_typed(arguments.fingerprint))


def _typed(words: list[str]) -> str:
    return "".join("".join(words).split()).lower()
