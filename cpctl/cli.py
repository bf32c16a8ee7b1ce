"""`cpctl`, the operator's client: stdout is data, stderr everything else. It knows the HTTP API alone."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from cpctl import hosts, listing, run, signin
from cpctl.client import Client
from cpctl.errors import INTERRUPTED, OK, CpctlError
from cpctl.terminal import say
from cpctl.text import printable

STATUS: Final = """\
exit status (where several hold, the first of these):
  7  the server cannot be reached     2  wrong usage, or what a guard asks for is missing
  3  no host matches                  4  not allowed
130  Ctrl-C: detached, the task goes on
  6  the task was cancelled           1  a host failed
  5  a host did not answer            0  every host succeeded

The server and who asks: CPCTL_URL with CPCTL_TOKEN (and CPCTL_CA_FILE), or what `cpctl login` has kept, or the
dev.json of a `control-plane dev` in this directory.
"""
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no other name
Run: TypeAlias = Callable[[argparse.Namespace], Coroutine[None, None, int]]
Ask: TypeAlias = Callable[[Client, argparse.Namespace], Coroutine[None, None, int]]
LISTS: Final = ("hosts", "tasks", "task", "audit", "events")  # without an action they list
QUERY: Final = """\
A query is terms with spaces between them that must all hold; commas are "or", a - in front is "not":
  web  name:web*        a part of the hostname, or with * the whole of it
  state:offline,stale   online, stale, offline, pending, revoked, retired
  group:web             assigned to it
  label:env  label:env=prod
  os:debian  agent:0.1  the text has it; the version begins with it
  is:drift              maintenance, drift, quarantined, basic
as in: cpctl hosts -q 'web state:offline,stale -group:db'. Where the first has a -: cpctl hosts -q=-group:db
"""
RUN: Final = """\
One word is a shell line; several are quoted, so that they arrive as they are:
  cpctl run -t group:web -- uptime
  cpctl run -t web1,web2 -- 'journalctl -u nginx | tail -5'
  cpctl run -t 'q:web -is:maintenance agent:0.1' -- control-plane-agent status
  cpctl run -t all --batch 10% --max-failures 5% --reason 'new kernel' -- apt-get -y upgrade
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; see `STATUS`."""
    arguments = parser().parse_args(_with_list(sys.argv[1:] if argv is None else argv))
    arguments.environment = os.environ
    arguments.colours = "NO_COLOR" not in os.environ
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        of: Run = arguments.of
        return asyncio.run(of(arguments))
    except CpctlError as error:
        for line in str(error).splitlines():
            say(f"cpctl: {printable(line)}")
        return error.status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _with_list(argv: Sequence[str]) -> list[str]:
    """`cpctl hosts --state offline` as `cpctl hosts list --state offline`."""
    words = list(argv)
    for place, word in enumerate(words):
        after = words[place + 1 : place + 2]
        if word in LISTS and (not after or (after[0].startswith("-") and after[0] not in ("-h", "--help"))):
            return [*words[: place + 1], "list", *words[place + 1 :]]
        if not word.startswith("-") and words[place - 1 : place] != ["--ca-file"]:
            break
    return words


def _asking(of: Ask) -> Run:
    """A command that asks the server, as whoever is signed in."""

    async def run_it(arguments: argparse.Namespace) -> int:
        async with signin.client(arguments) as client:
            return await of(client, arguments)

    return run_it


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="cpctl",
        description="The client of the control plane: the same jobs as in its dashboard, over the same API.",
        epilog=STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="say which version this is, and end")
    top.add_argument("--ca-file", type=Path, metavar="FILE", help="certificates to trust in place of the machine's")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _sign_in(commands)
    _hosts(commands)
    _runs(commands)
    _tasks(commands)
    _audit(commands)
    completion = _add(commands, "completion", _completion, "print the completion for a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return top


class _Version(argparse.Action):
    """What is installed, looked up only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from importlib.metadata import version

        print(f"cpctl {version('control-plane')}")
        parser.exit()


def _add(commands: Commands, name: str, of: Run, about: str, epilog: str | None = None) -> argparse.ArgumentParser:
    made = commands.add_parser(
        name, help=about, description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.set_defaults(of=of)
    return made


def _sign_in(commands: Commands) -> None:
    login = _add(commands, "login", signin.login, "sign in to a server; keeps a token of its own, and no password")
    login.add_argument("url", nargs="?", metavar="URL", help="as https://control.example.com")
    login.add_argument("--username", metavar="NAME", help="asked for where it is left out")
    login.add_argument("--token-stdin", action="store_true", help="keep this API token; none is made")
    login.add_argument("--days", type=int, default=30, help="until the token expires (default: %(default)s)")
    _add(commands, "logout", signin.logout, "end that token, and forget it")


def _hosts(commands: Commands) -> None:
    actions = _noun(commands, "hosts", "hosts: list, show, set, revoke, retire")
    listed = _add(actions, "list", _asking(listing.hosts), "hosts by name (what `cpctl hosts` does)", epilog=QUERY)
    listed.add_argument("-q", "--query", metavar="QUERY", help="part of a hostname, or more: see below")
    listed.add_argument("--state", metavar="STATES", help="as online,stale,offline")
    listed.add_argument("--group", metavar="NAME")
    _output(listed)
    shown = _add(actions, "show", _asking(listing.host), "all that is known of one")
    shown.add_argument("hostname", metavar="HOST")
    _output(shown)
    changed = _add(actions, "set", _asking(hosts.change), "change its groups, labels or maintenance")
    changed.add_argument("--group", action="append", metavar="[-]NAME", help="add a group, or remove it: --group=-web")
    changed.add_argument("--label", action="append", metavar="NAME=VALUE", help="set one, or remove it: --label=-rack")
    changed.add_argument("--maintenance", choices=("on", "off"))
    revoked = _add(actions, "revoke", _asking(hosts.revoke), "a host that was taken over: believe and send it no more")
    revoked.add_argument("--reason", metavar="TEXT")
    retired = _add(actions, "retire", _asking(hosts.retire), "take it off the fleet; its history stays")
    for each in (revoked, retired):
        each.add_argument("-y", "--yes", action="store_true", help="do not ask")
    for each in (changed, revoked, retired):
        each.add_argument("hostname", metavar="HOST")


def _noun(commands: Commands, name: str, about: str, *aliases: str) -> Commands:
    made = commands.add_parser(name, help=about, description=about, aliases=aliases)
    return made.add_subparsers(required=True, metavar="ACTION")


def _runs(commands: Commands) -> None:
    made = _add(
        commands, "run", _asking(run.run), "run a command on hosts, and report what they say", epilog=RUN + QUERY
    )
    made.add_argument(
        "-t",
        "--target",
        action="append",
        required=True,
        metavar="WHERE",
        help="group:NAME, q:QUERY, all, or hosts as web1,web2",
    )
    made.add_argument("command", nargs="*", metavar="COMMAND", help="after --")
    made.add_argument("-u", "--user", default="root", help="the account to run as (default: %(default)s)")
    made.add_argument("--timeout", type=int, default=30, metavar="S", help="it may run so long (default: %(default)s)")
    made.add_argument("--template", metavar="NAME", help="a template of the server, in place of a command")
    made.add_argument("-p", "--parameter", action="append", metavar="NAME=VALUE", help="of the template")
    made.add_argument("--skip-offline", action="store_true", help="skip who is offline; else it waits for them")
    made.add_argument("--expires-in", type=int, metavar="S", help="who has not got it by then never runs it")
    made.add_argument("--batch", metavar="N|N%", help="on at most so many hosts at once")
    made.add_argument("--max-failures", metavar="N|N%", help="go to no more hosts after so many failures")
    made.add_argument("--canary", metavar="N|HOSTS", help="these hosts first")
    made.add_argument("--canary-wait", metavar="S|approve", help="and then wait so long, or for somebody's approval")
    made.add_argument("--dry-run", action="store_true", help="say where it would run, and end")
    _guards(made)
    _following(made)


def _guards(made: argparse.ArgumentParser) -> None:
    made.add_argument("-y", "--yes", action="store_true", help="do not ask before more than 10 hosts")
    made.add_argument("--expect", type=int, metavar="N", help="run only if it is exactly so many hosts")
    made.add_argument("--reason", metavar="TEXT", help="kept with the task; some need one")


def _following(made: argparse.ArgumentParser) -> None:
    made.add_argument("--detach", action="store_true", help="do not wait; print the task's id")
    _waiting(made)


def _waiting(made: argparse.ArgumentParser) -> None:
    made.add_argument("--wait", type=float, metavar="S", help="wait at most so long; the task goes on")
    made.add_argument("--diff", action="store_true", help="other outputs as the difference to the first group's")
    _output(made, "grouped", "table", "json", "jsonl")


def _output(made: argparse.ArgumentParser, *forms: str) -> None:
    forms = forms or ("table", "json", "jsonl")
    made.add_argument("-o", "--output", choices=forms, default=forms[0], help="default: %(default)s")


def _tasks(commands: Commands) -> None:
    about = "what was run: list, show, watch, cancel, pause, resume, retry"
    actions = _noun(commands, "tasks", about, "task")
    _task_filters(_add(actions, "list", _asking(listing.tasks), "newest first (what `cpctl tasks` does)"))
    shown = _add(actions, "show", _asking(listing.task), "a task as it is now; the exit status is what it has come to")
    shown.add_argument("--host", metavar="HOST", help="all that this one has printed")
    watched = _add(actions, "watch", _asking(listing.follow), "follow a task to its end, whoever has started it")
    _waiting(watched)
    shown.add_argument("--diff", action="store_true", help="other outputs as the difference to the first group's")
    _output(shown, "grouped", "table", "json", "jsonl")
    changed = [
        _add(actions, "cancel", _asking(listing.change), "ask for it to be cancelled: what runs gets the signal"),
        _add(actions, "pause", _asking(listing.change), "send it to no more hosts"),
        _add(actions, "resume", _asking(listing.change), "go on, or approve what follows the canary"),
    ]
    for name, each in zip(("cancel", "pause", "resume"), changed, strict=True):
        each.set_defaults(action=name)
        each.add_argument("--reason", metavar="TEXT")
    retried = _add(actions, "retry", _asking(run.retry), "a new task on those hosts that ended so")
    retried.add_argument("--state", required=True, metavar="STATES", help="as failed,lost,expired")
    _guards(retried)
    _following(retried)
    for each in (shown, watched, *changed, retried):
        each.add_argument("task_id", metavar="TASK")


def _task_filters(made: argparse.ArgumentParser) -> None:
    made.add_argument("--state", metavar="STATES", help="running, paused, cancelling, finished")
    made.add_argument("--outcome", choices=("succeeded", "failed", "cancelled"))
    made.add_argument("--actor", metavar="NAME", help="who has asked for it")
    made.add_argument("--host", dest="hostname", metavar="HOST")
    made.add_argument("-q", metavar="TEXT", help="part of the command")
    _times(made)
    _limited(made)


def _audit(commands: Commands) -> None:
    actions = _noun(commands, "audit", "the audit trail: list, show, export", "events")
    listed = _add(actions, "list", _asking(listing.events), "events, newest first (what `cpctl audit` does)")
    _event_filters(listed)
    _limited(listed)
    shown = _add(actions, "show", _asking(listing.event), "one event, with all that it says")
    shown.add_argument("seq", type=int, metavar="SEQ")
    _output(shown)
    exported = _add(actions, "export", _asking(listing.export), "all that match, whole and oldest first")
    _event_filters(exported)
    exported.add_argument("--format", choices=("ndjson", "csv"), default="ndjson", help="default: %(default)s")


def _event_filters(made: argparse.ArgumentParser) -> None:
    made.add_argument("--kind", metavar="KIND", help="as task.accepted, or a family: task")
    made.add_argument("--task", dest="task_id", metavar="TASK")
    made.add_argument("--host", dest="hostname", metavar="HOST")
    made.add_argument("--actor", metavar="NAME")
    _times(made)


def _times(made: argparse.ArgumentParser) -> None:
    made.add_argument("--since", metavar="TIME", help="RFC 3339, as 2026-11-26T10:00:00Z")
    made.add_argument("--until", metavar="TIME")


def _limited(made: argparse.ArgumentParser) -> None:
    made.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many (default: %(default)s)")
    _output(made)


async def _completion(arguments: argparse.Namespace) -> int:
    import shtab  # of this command alone

    print(shtab.complete(parser(), arguments.shell))
    return OK
