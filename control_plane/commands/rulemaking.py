"""Making and ending access rules: what one may say, and about whom."""

import secrets
from typing import Final

from control_plane.commands.access import ROLES, AccessState
from control_plane.commands.grammar import checked_line, checked_name, checked_number, invalid
from control_plane.commands.rules import (
    ACTIONS,
    APPROVABLE,
    COMMANDS,
    EFFECTS,
    OF_TASKS,
    Rule,
    RuleState,
)
from control_plane.commands.targets import MAX_HOSTS
from control_plane.commands.templates import is_template_name
from control_plane.errors import NotFoundError, RefusedError
from control_plane.events.rules import RuleCreated, RuleDeleted
from control_plane_wire.fields import is_account
from control_plane_wire.messages import MAX_TIMEOUT_S

MAX_RULES: Final = 1000
MAX_LISTED: Final = 1000  # groups, hostnames or accounts of one rule
MAX_PATTERNS: Final = 100  # of one rule
MAX_PATTERNS_IN_ALL: Final = 1000  # each looks at each command line that is asked for


def new_rule_id() -> str:
    return secrets.token_hex(8)


def decide_rule(people: AccessState, state: RuleState, rule: Rule) -> RuleCreated:
    """A new rule. The same once more is another one.

    Raises:
        RefusedError: `invalid_request` with the field, `too_many_rules`.
    """
    if len(state.rules) >= MAX_RULES:
        raise RefusedError("too_many_rules", f"there are {MAX_RULES} rules already")
    if rule.patterns and sum(len(each.patterns) for each in (rule, *state.rules.values())) > MAX_PATTERNS_IN_ALL:
        raise RefusedError("too_many_rules", f"all rules together have at most {MAX_PATTERNS_IN_ALL} patterns")
    if rule.effect not in EFFECTS:
        raise invalid("effect", f"one of {', '.join(EFFECTS)}")
    _check_subject(people, rule.subject)
    if not rule.actions or not rule.actions <= ACTIONS:
        raise invalid("actions", f"one or several of {', '.join(sorted(ACTIONS))}: the others concern no host")
    _check_hosts(rule)
    _check_conditions(rule)
    if rule.reason is not None:
        checked_line("reason", rule.reason)
    return rule.to_event()


def decide_delete_rule(state: RuleState, rule_id: str) -> RuleDeleted:
    """Raises NotFoundError where there is none, or it is what a role may do."""
    if rule_id not in state.rules:
        raise NotFoundError("unknown_rule", "there is no such rule")
    return RuleDeleted(rule_id=rule_id)


def _check_subject(people: AccessState, subject: str) -> None:
    kind, _, name = subject.partition(":")
    if kind == "user" and name in people.users:
        return
    if kind != "role" or name not in ROLES:
        raise invalid("subject", f"user:NAME of a user that there is, or role: and one of {', '.join(ROLES)}")


def _check_hosts(rule: Rule) -> None:
    if rule.all_hosts == bool(rule.groups or rule.hostnames):
        raise invalid("hosts", "either all, or some groups or hostnames")
    for where, names in (("hosts.groups", rule.groups), ("hosts.hostnames", rule.hostnames)):
        checked_number(where, len(names), least=0, most=MAX_LISTED)
        for name in names:
            checked_name(where, name)


def _check_conditions(rule: Rule) -> None:
    checked_number("accounts", len(rule.accounts), least=0, most=MAX_LISTED)
    if not all(map(is_account, rule.accounts)):
        raise invalid("accounts", "names of accounts")
    if rule.command not in COMMANDS:
        raise invalid("command", f"one of {', '.join(COMMANDS)}")
    if rule.most_hosts is not None:
        checked_number("most_hosts", rule.most_hosts, least=1, most=MAX_HOSTS)
    if rule.longest_timeout is not None:
        checked_number("longest_timeout", rule.longest_timeout, least=1, most=MAX_TIMEOUT_S)
    _check_line(rule)
    if rule.effect == "approve" and rule.actions != APPROVABLE:
        raise invalid("actions", "tasks.run alone, which is all that can be approved")
    if rule.actions - OF_TASKS and (rule.accounts or rule.patterns or rule.has_limits):
        raise invalid("actions", f"of tasks alone, as accounts and limits are: {', '.join(sorted(OF_TASKS))}")


def _check_line(rule: Rule) -> None:
    checked_number("patterns", len(rule.patterns), least=0, most=MAX_PATTERNS)
    for pattern in rule.patterns:
        checked_line("patterns", pattern)
    if rule.patterns and rule.effect == "allow":
        raise invalid("patterns", "possible in an allow, since a shell line has endless spellings: use a template")
    checked_number("templates", len(rule.templates), least=0, most=MAX_LISTED)
    if not all(map(is_template_name, rule.templates)):
        raise invalid("templates", "names of templates")
    if rule.templates and rule.command != "template":
        raise invalid("templates", "possible unless command is template")
