"""The command `control-plane rules`: who may do what on which hosts; heavy imports stay inside, as in `cli`."""

import argparse
import sys
from typing import TYPE_CHECKING

from control_plane.cli_log import Add, Commands

if TYPE_CHECKING:
    from control_plane.commands.rules import Rule

ACTIONS = (
    *("events.read", "hosts.edit", "hosts.read", "hosts.revoke"),
    *("tasks.approve", "tasks.cancel", "tasks.output", "tasks.read", "tasks.run"),
)


def add_commands(commands: Commands, add: Add) -> None:
    rules = commands.add_parser("rules", help="access rules: list, add, delete").add_subparsers(
        required=True, metavar="ACTION"
    )
    add(rules, "list", _list, "what the roles may do on hosts, and each rule")
    made = add(rules, "add", _add, "a rule on who may do what on which hosts; prints its id")
    made.add_argument("effect", choices=("allow", "deny", "approve"))
    made.add_argument("subject", metavar="SUBJECT", help="user:NAME or role:NAME")
    made.add_argument("--action", action="append", required=True, choices=ACTIONS, help="may be repeated")
    made.add_argument("--all-hosts", action="store_true", help="instead of groups and hosts")
    made.add_argument("--group", action="append", default=[], metavar="GROUP", help="on its hosts; may be repeated")
    made.add_argument("--host", action="append", default=[], metavar="HOST", help="on this one; may be repeated")
    made.add_argument("--account", action="append", default=[], metavar="NAME", help="only as it; may be repeated")
    limits = made.add_argument_group("limits", "an allow reaches as far as them; deny and approve are about the rest")
    limits.add_argument("--command", choices=("shell", "argv", "template"), default="shell", help="shell is no limit")
    limits.add_argument("--template", action="append", default=[], metavar="NAME", help="of --command template")
    made.add_argument(
        "--pattern",
        action="append",
        default=[],
        metavar="TEXT",
        help="of command lines, * is any text; may be repeated",
    )
    limits.add_argument("--most-hosts", type=int, metavar="N", help="of the whole request")
    limits.add_argument("--longest-timeout", type=int, metavar="SECONDS")
    made.add_argument("--reason", metavar="TEXT", help="for people")
    deleted = add(rules, "delete", _delete, "end a rule")
    deleted.add_argument("rule_id", metavar="RULE")


async def _list(_: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.settings import load

    async with opened(load()) as office:
        for rule in await office.rules():
            print(_line(rule))


async def _add(arguments: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.commands.rules import Rule
    from control_plane.settings import load

    rule = Rule(
        rule_id="",
        effect=arguments.effect,
        subject=arguments.subject,
        actions=frozenset(arguments.action),
        all_hosts=arguments.all_hosts,
        groups=frozenset(arguments.group),
        hostnames=frozenset(arguments.host),
        accounts=frozenset(arguments.account),
        command=arguments.command,
        most_hosts=arguments.most_hosts,
        longest_timeout=arguments.longest_timeout,
        reason=arguments.reason,
        patterns=frozenset(arguments.pattern),
        templates=frozenset(arguments.template),
    )
    async with opened(load()) as office:
        rule_id, warnings = await office.create_rule(rule)
    print(*(f"control-plane: {warning}" for warning in warnings), sep="\n", end="\n" * bool(warnings), file=sys.stderr)
    print(rule_id)


async def _delete(arguments: argparse.Namespace) -> None:
    from control_plane.administration import opened
    from control_plane.settings import load

    async with opened(load()) as office:
        await office.delete_rule(arguments.rule_id)


def _line(rule: "Rule") -> str:
    """A rule as one line: what an allow has within its limits is what a deny or an approve leaves alone."""
    hosts = [*(f"group {name}" for name in sorted(rule.groups)), *sorted(rule.hostnames)]
    more = [f"as {', '.join(sorted(rule.accounts))}"] if rule.accounts else []
    more += [f"lines like {', '.join(sorted(rule.patterns))}"] if rule.patterns else []
    limits = [" ".join(["as", rule.command, *sorted(rule.templates)])] if rule.command != "shell" else []
    limits += [f"on at most {rule.most_hosts} hosts"] if rule.most_hosts is not None else []
    limits += [f"within {rule.longest_timeout} s"] if rule.longest_timeout is not None else []
    more += [f"{'only' if rule.effect == 'allow' else 'unless'} {' and '.join(limits)}"] if limits else []
    more += [f'"{rule.reason}"'] if rule.reason is not None else []
    where = "all hosts" if rule.all_hosts else ", ".join(hosts)
    said = f"{rule.rule_id:<18} {rule.effect:<7} {rule.subject} {', '.join(sorted(rule.actions))} on {where}"
    return "; ".join([said, *more])
