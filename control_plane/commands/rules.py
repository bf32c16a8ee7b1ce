"""Access rules: who may do what on which hosts, as which account, by which kind of command.

A rule *is about* a request by its subject, its actions, its hosts and its accounts; no accounts are any account. Its
*limits* are `command`, `most_hosts` and `longest_timeout`; what is at none of them too much is *within* it, and without
limits everything is. Then

- an **allow** covers what it is about on its hosts, as far as that is within its limits;
- a **deny** refuses what it is about on its hosts; with limits, only what is not within them.

Both count the hosts of the whole request, not only their own. A request is allowed where an allow covers each of its
hosts, and no deny refuses one of them. What a role may do is an allow on all hosts, without limits, called `role:NAME`.
"""

import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from control_plane.commands.access import CONSOLE, ROLES, AccessState, Principal
from control_plane.commands.grammar import checked_line, checked_name, checked_number, invalid
from control_plane.commands.hosts import FleetState
from control_plane.commands.targets import MAX_HOSTS, MAX_NAMED, in_words
from control_plane.errors import NotAllowedError, NotFoundError, RefusedError
from control_plane.events import access
from control_plane.events.event import Event
from control_plane.events.hosts import HostGroupsChanged
from control_plane.events.rules import RuleCreated, RuleDeleted
from control_plane.events.tasks import TaskAccepted
from control_plane_wire.fields import is_account
from control_plane_wire.strict_json import Json

OF_TASKS: Final = frozenset({"tasks.run", "tasks.cancel"})
OF_HOSTS: Final = frozenset({"hosts.edit", "hosts.revoke"})
ACTIONS: Final = OF_TASKS | OF_HOSTS  # all others concern no host, and are by role alone
EFFECTS: Final = ("allow", "deny")
COMMANDS: Final = ("shell", "argv")

# The events that say who may what, beside those of hosts.
RIGHTS: Final = (
    access.UserCreated,
    access.UserRoleChanged,
    access.UserDisabled,
    access.UserEnabled,
    access.TokenRevoked,
    RuleCreated,
    RuleDeleted,
)

MAX_RULES: Final = 1000
MAX_LISTED: Final = 1000  # groups, hostnames or accounts of one rule
MAX_TIMEOUT_S: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule, as the module says.

    Attributes:
        effect: allow or deny.
        subject: `user:NAME` or `role:NAME`.
        all_hosts: else it is about the hosts of `groups`, and those of `hostnames`.
        command: `argv` is a limit: an argv whose program is an absolute path; `shell` is none.
        longest_timeout: seconds.
        created_seq: its event; 0 where it is what a role may do.
    """

    rule_id: str
    effect: str
    subject: str
    actions: frozenset[str]
    all_hosts: bool = False
    groups: frozenset[str] = frozenset()
    hostnames: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()
    command: str = "shell"
    most_hosts: int | None = None
    longest_timeout: int | None = None
    reason: str | None = None
    created_seq: int = 0

    @property
    def has_limits(self) -> bool:
        return self.command != "shell" or self.most_hosts is not None or self.longest_timeout is not None

    def is_for(self, principal: Principal, action: str) -> bool:
        if not principal.is_for(action):
            return False
        return action in self.actions and self.subject in (f"user:{principal.username}", f"role:{principal.role}")

    def applies(self, facts: "Facts") -> bool:
        """Whether it says anything on its hosts: an allow that it is allowed, a deny that it is not."""
        if self.accounts and facts.account not in self.accounts:
            return False
        if self.effect == "allow":
            return self._is_within(facts)
        return not (self.has_limits and self._is_within(facts))

    def _is_within(self, facts: "Facts") -> bool:
        is_short = facts.timeout is not None and facts.timeout <= (self.longest_timeout or 0)
        return (
            (self.command == "shell" or facts.is_argv)
            and (self.most_hosts is None or facts.number <= self.most_hosts)
            and (self.longest_timeout is None or is_short)
        )

    def to_event(self) -> RuleCreated:
        return RuleCreated(
            rule_id=self.rule_id,
            effect=self.effect,
            subject=self.subject,
            actions=tuple(sorted(self.actions)),
            all_hosts=self.all_hosts,
            groups=tuple(sorted(self.groups)),
            hostnames=tuple(sorted(self.hostnames)),
            accounts=tuple(sorted(self.accounts)),
            command=self.command,
            most_hosts=self.most_hosts,
            longest_timeout=self.longest_timeout,
            reason=self.reason,
        )


def _rule_of(event: RuleCreated, seq: int) -> Rule:
    return Rule(
        rule_id=event.rule_id,
        effect=event.effect,
        subject=event.subject,
        actions=frozenset(event.actions),
        all_hosts=event.all_hosts,
        groups=frozenset(event.groups),
        hostnames=frozenset(event.hostnames),
        accounts=frozenset(event.accounts),
        command=event.command,
        most_hosts=event.most_hosts,
        longest_timeout=event.longest_timeout,
        reason=event.reason,
        created_seq=seq,
    )


BUILT_IN: Final = tuple(
    Rule(rule_id=f"role:{role}", effect="allow", subject=f"role:{role}", actions=its & ACTIONS, all_hosts=True)
    for role, its in ROLES.items()
    if its & ACTIONS
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a request comes to.

    Attributes:
        hosts: its hosts, or those that are asked about; each with its groups.
        number: hosts of the whole request.
        account: to run as; None where that is not said, as with all that runs nothing.
        timeout: seconds; None where that is not said.
        is_argv: it has an argv whose program is an absolute path.
    """

    hosts: Mapping[str, Collection[str]]
    number: int
    account: str | None = None
    timeout: int | None = None
    is_argv: bool = False


def task_facts(
    fleet: FleetState, hostnames: Collection[str], request: Mapping[str, Json], *, number: int | None = None
) -> Facts:
    """Of a task's request, in its canonical form or a part of it.

    Args:
        number: hosts of the whole task, where these are only some of them.
    """
    argv, account, timeout = request.get("argv"), request.get("user"), request.get("timeout")
    return Facts(
        hosts=_grouped(fleet, hostnames),
        number=len(hostnames) if number is None else number,
        account=account if isinstance(account, str) else None,
        timeout=timeout if isinstance(timeout, int) else None,
        is_argv=isinstance(argv, list | tuple) and bool(argv) and str(argv[0]).startswith("/"),
    )


def host_facts(fleet: FleetState, hostname: str) -> Facts:
    """Of a change to one host."""
    return Facts(hosts=_grouped(fleet, [hostname]), number=1)


def _grouped(fleet: FleetState, hostnames: Iterable[str]) -> dict[str, Collection[str]]:
    hosts = fleet.hosts
    return {name: hosts[name].groups if name in hosts else () for name in hostnames}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether somebody may.

    Attributes:
        rules: the ids of the rules that decided, sorted: where it is allowed those that allow it, else those that
            refuse it; none where nothing allows it.
        refused: the hosts that it is refused on, each with the ids of the rules that do; none where nothing allows it.
        policy_seq: the last event that changed the rules.
    """

    action: str
    allowed: bool
    rules: tuple[str, ...]
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    policy_seq: int = 0

    @property
    def refusal(self) -> str | None:
        """Why not, for people."""
        if self.allowed:
            return None
        where = f" on {in_words(self.refused)}" if self.refused else ""
        return f"{self.action} is not allowed{where}: {refused_by(self.rules)}"


def refused_by(rules: Collection[str]) -> str:
    return f"rule {in_words(rules)}" if rules else "no rule allows it"


class ForbiddenError(NotAllowedError):
    """The rules say no; `hosts` are the first that it is refused on, and `more_hosts` how many more there are."""

    def __init__(self, decision: Decision) -> None:
        super().__init__("not_allowed", decision.refusal or "")
        self.action = decision.action
        self.hosts = list(decision.refused)[:MAX_NAMED]
        self.more_hosts = len(decision.refused) - len(self.hosts)
        self.rules = decision.rules


class _Cover:
    """Which rules cover a host."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._everywhere: set[str] = set()
        self._by_group: dict[str, set[str]] = {}
        self._by_hostname: dict[str, set[str]] = {}
        for rule in rules:
            if rule.all_hosts:
                self._everywhere.add(rule.rule_id)
            for index, names in ((self._by_group, rule.groups), (self._by_hostname, rule.hostnames)):
                for name in names:
                    index.setdefault(name, set()).add(rule.rule_id)

    def of(self, hostname: str, groups: Collection[str]) -> set[str]:
        found = self._everywhere | self._by_hostname.get(hostname, set())
        if self._by_group:
            found = found.union(*(self._by_group.get(group, ()) for group in groups))
        return found


def decide(principal: Principal, action: str, facts: Facts, rules: Collection[Rule]) -> Decision:
    """Whether somebody may do one of ACTIONS. The server's own command line is above the rules that were made.

    Args:
        rules: those that were made; what the roles may do comes on top.
    """
    made = () if principal.username == CONSOLE.username else rules
    applying = [rule for rule in (*BUILT_IN, *made) if rule.is_for(principal, action) and rule.applies(facts)]
    allows = [rule for rule in applying if rule.effect == "allow"]
    denies = [rule for rule in applying if rule.effect == "deny"]
    allowing, denying = _Cover(allows), _Cover(denies)
    used = set() if facts.hosts else {rule.rule_id for rule in allows}
    refused: dict[str, tuple[str, ...]] = {}
    for hostname, groups in facts.hosts.items():
        denied, allowed = denying.of(hostname, groups), allowing.of(hostname, groups)
        if denied or not allowed:
            refused[hostname] = tuple(sorted(denied))
        else:
            used |= allowed
    is_allowed = bool(allows) and not refused
    deciding = used if is_allowed else set().union(*refused.values())
    return Decision(action=action, allowed=is_allowed, rules=tuple(sorted(deciding)), refused=refused)


@dataclass(slots=True)
class RuleState:
    """All rules, as the signed events say; `apply` is the only way in. Attributes: `changed_seq`: the last of those."""

    rules: dict[str, Rule] = field(default_factory=dict)
    changed_seq: int = 0
    _ended: set[str] = field(default_factory=set)  # so that a copy of the event that began one begins nothing

    def apply(self, event: Event, seq: int) -> bool:
        """Take one event in; False where it does not follow from what stands (a copy of an old one, say)."""
        match event:
            case RuleCreated(rule_id=rule_id):
                if rule_id in self.rules or rule_id in self._ended or event.effect not in EFFECTS:
                    return False
                self.rules[rule_id] = _rule_of(event, seq)
                self.changed_seq = seq
            case RuleDeleted(rule_id=rule_id):
                if rule_id in self._ended:
                    return False
                self._ended.add(rule_id)
                self.rules.pop(rule_id, None)
                self.changed_seq = seq
        return True

    def decide(self, principal: Principal, action: str, facts: Facts) -> Decision:
        return replace(decide(principal, action, facts, self.rules.values()), policy_seq=self.changed_seq)

    def permissions(self, principal: Principal) -> frozenset[str]:
        """What somebody may do on some host at least, or without one."""
        allows = (rule for rule in self.rules.values() if rule.effect == "allow")
        given = (action for rule in allows for action in rule.actions if rule.is_for(principal, action))
        return principal.permissions.union(given)

    def check(self, principal: Principal, action: str, facts: Facts) -> Decision:
        """The decision where it is yes. Raises ForbiddenError."""
        decision = self.decide(principal, action, facts)
        if not decision.allowed:
            raise ForbiddenError(decision)
        return decision

    def check_groups(self, principal: Principal, fleet: FleetState, change: HostGroupsChanged) -> None:
        """A group that a rule names is given and taken only by somebody who might as well change the rule.

        So nobody's rights change by moving a host, but by those who may change rights. Raises ForbiddenError.
        """
        if "rules.write" in principal.permissions:
            return
        moved = set(fleet.host(change.hostname).groups).symmetric_difference(change.groups)
        naming = tuple(sorted(rule.rule_id for rule in self.rules.values() if rule.groups & moved))
        if naming:
            raise ForbiddenError(
                Decision(action="hosts.edit", allowed=False, rules=naming, refused={change.hostname: naming})
            )


def withdrawn(
    people: AccessState, rules: RuleState, fleet: FleetState, task: TaskAccepted, hostnames: Sequence[str]
) -> Mapping[str, str]:
    """Of these hosts of an accepted task those on which its actor may not run it any more, each with the reason.

    An actor whom no event has made is no user, such as the server's own command line: from such nothing was withdrawn.
    """
    user = people.users.get(task.actor)
    if user is None or not hostnames:
        return {}
    said = f"{task.actor} may not run this any more: "
    if not user.enabled:
        return dict.fromkeys(hostnames, f"{said}the user is disabled")
    # What the token was for needs no second look: that never changes, and running was among it.
    if people.is_revoked(task.token_id):
        return dict.fromkeys(hostnames, f"{said}the API token that it was asked for with is revoked")
    facts = task_facts(fleet, hostnames, task.request, number=len(task.hosts))
    decision = rules.decide(Principal(username=user.username, role=user.role), "tasks.run", facts)
    return {name: said + refused_by(by) for name, by in decision.refused.items()}


def new_rule_id() -> str:
    return secrets.token_hex(8)


def decide_rule(people: AccessState, state: RuleState, rule: Rule) -> RuleCreated:
    """A new rule. The same once more is another one.

    Raises:
        RefusedError: `invalid_request` with the field, `too_many_rules`.
    """
    if len(state.rules) >= MAX_RULES:
        raise RefusedError("too_many_rules", f"there are {MAX_RULES} rules already")
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
    if rule.actions & OF_HOSTS and (rule.accounts or rule.has_limits):
        raise invalid("actions", f"of tasks alone, as accounts and limits are: {', '.join(sorted(OF_TASKS))}")
