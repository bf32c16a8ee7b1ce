"""The command `control-plane keys`: the control plane's own signing keys; heavy imports stay inside, as in `cli`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from control_plane.cli_log import Add, Commands

if TYPE_CHECKING:
    from control_plane.key_office import Heard

SHOWN = 20


def add_commands(commands: Commands, add: Add) -> None:
    keys = commands.add_parser(
        "keys", help="the signing keys: list, announce, rotate, retire, encrypt, decrypt"
    ).add_subparsers(required=True, metavar="ACTION")
    add(keys, "list", _list, "each signing key with its state, and which hosts do not know yet")
    add(keys, "announce", _announce, "make the next key, and tell every host which one it will be")
    add(keys, "rotate", _rotate, "make the announced key the one that signs, while all goes on")
    retire = add(keys, "retire", _retire, "end an earlier key, and delete its private half")
    retire.add_argument("key_id", metavar="KEY")
    retire.add_argument("--reason", metavar="TEXT", help="for people")
    retire.add_argument(
        "--anyway",
        action="store_true",
        help="though some hosts do not trust the new one yet; the private half stays until they have been told",
    )
    retire.add_argument(
        "--forget", action="store_true", help="and delete it all the same: those hosts have to be enrolled again"
    )
    add(keys, "encrypt", _encrypt, "encrypt the files of signing keys in place, with the passphrase of the settings")
    add(keys, "decrypt", _decrypt, "write them without a passphrase, in place")


async def _list(_: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.settings import load

    async with opened(load()) as office:
        for key in office.keys.chain:
            since = "from the first" if key.since == 0 else f"since event {key.since}"
            until = "" if key.until is None else f", until event {key.until}"
            print(f"{key.key_id}  {key.state:<8} {_place(office.keys.is_here(key.key_id)):<8} {since}{until}")
        if (announced := office.keys.announced) is not None:
            print(f"{announced[:16]}  next     {_place(office.keys.is_here(announced[:16])):<8} SHA-256 {announced}")
        _print_heard(await office.keys.heard())


async def _announce(_: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.settings import load

    async with opened(load()) as office:
        key_id = await office.keys.announce()
        path = office.core.keys.path(key_id)
    print(f"{key_id} is announced as the next key")
    if path.exists():
        print(f"its private half is {path}: keep it elsewhere, in two places, until you rotate; nothing replaces it")


async def _rotate(_: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.settings import load

    async with opened(load()) as office:
        key_id = await office.keys.rotate()
        path = office.core.keys.path(key_id)
        before = [key.key_id for key in office.keys.chain if key.until is None and key.key_id != key_id]
    print(f"{key_id} signs; every other server needs its file, too: {path}")
    print(*(f"when all hosts have been told: control-plane keys retire {each}" for each in before), sep="\n")


async def _retire(arguments: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.settings import load

    wanted = arguments.key_id
    async with opened(load()) as office:
        heard = await office.keys.retire(
            wanted, anyway=arguments.anyway, forget=arguments.forget, reason=arguments.reason
        )
        kept = office.keys.is_here(wanted)
    print(f"{wanted} is retired: nothing that it signs from now on counts")
    if kept and heard.late and not arguments.forget:
        print(f"its private half stays, to tell {len(heard.late)} hosts of the new key when they come; repeat it then")
    elif kept:
        print("its private half is in CONTROL_PLANE_SIGNING_KEY: take it out there")
    else:
        print("its private half is deleted here: delete it on every other server, and in backups")
    if heard.late and not kept:
        print(f"to be enrolled again: {', '.join(heard.late)}")
    if heard.basic:
        print(f"to be given the new key by hand (basic agents): {', '.join(heard.basic[:SHOWN])}")


async def _encrypt(_: argparse.Namespace) -> None:
    from control_plane.settings import load
    from control_plane.storage.signing_key import store_of

    _print_written(store_of(load()).encrypt(), "encrypted")


async def _decrypt(_: argparse.Namespace) -> None:
    from control_plane.settings import load
    from control_plane.storage.signing_key import store_of

    _print_written(store_of(load()).decrypt(), "no longer encrypted")


def _print_written(paths: list[Path], what: str) -> None:
    print(*([f"{path} is {what}" for path in paths] or ["nothing to do"]), sep="\n")


def _print_heard(heard: "Heard") -> None:
    print(f"{len(heard.knowing)} hosts know all of that")
    for name, keys in list(heard.behind.items())[:SHOWN]:
        print(f"  {name} does not: it trusts {'what it does not say' if keys is None else ', '.join(keys)}")
    if len(heard.behind) > SHOWN:
        print(f"  and {len(heard.behind) - SHOWN} more do not")
    if heard.basic:
        print(f"{len(heard.basic)} hosts are given keys by hand (basic agents)")


def _place(is_here: bool) -> str:
    return "here" if is_here else "not here"
