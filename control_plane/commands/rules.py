"""Access rules: who may do what on which hosts, as which account, by which kind of command.

A rule *is about* a request by its subject, its actions, its hosts, its accounts and its patterns; no accounts are any
account, and no patterns any command line. Its *limits* are `command`, `most_hosts` and `longest_timeout`; what is at
none of them too much is *within* it, and without limits everything is. Then

- an **allow** covers what it is about on its hosts, as far as that is within its limits;
- a **deny** refuses what it is about on its hosts; with limits, only what is not within them;
- an **approve** asks for a second person's approval of what a deny would refuse.

All count the hosts of the whole request, not only their own. A request is allowed where an allow covers each of its
hosts, and no deny refuses one of them; then, where an approve asks for it on one of them, it also needs an approval.
What a role may do is an allow on all hosts, without limits, called `role:NAME`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from control_plane.commands.access import CONSOLE, ROLES, AccessState, Principal
from control_plane.commands.hosts import FleetState
from control_plane.commands.patterns import fits
from control_plane.commands.targets import MAX_NAMED, in_words
from control_plane.errors import NotAllowedError
from control_plane.events import access
from control_plane.events.event import Event
from control_plane.events.rules import RuleCreated, RuleDeleted
from control_plane.events.stop import StopSet
from control_plane.events.tasks import TaskAccepted
from control_plane_wire.strict_json import Json

OF_TASKS: Final = frozenset({"tasks.run", "tasks.cancel", "tasks.approve"})
APPROVABLE: Final = frozenset({"tasks.run"})
OF_HOSTS: Final = frozenset({"hosts.edit", "hosts.revoke"})
READING: Final = frozenset({"hosts.read", "tasks.read", "tasks.output", "events.read"})
ACTIONS: Final = OF_TASKS | OF_HOSTS | READING  # all others concern no host, and are by role alone
EFFECTS: Final = ("allow", "deny", "approve")
COMMANDS: Final = ("shell", "argv", "template")

# The events that say who may what, beside those of hosts; of the stop, what takes it.
RIGHTS: Final = (
    access.UserCreated,
    access.UserRoleChanged,
    access.UserDisabled,
    access.UserEnabled,
    access.TokenRevoked,
    RuleCreated,
    RuleDeleted,
    StopSet,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule, as the module says.

    Attributes:
        effect: allow, deny or approve.
        subject: `user:NAME` or `role:NAME`.
        all_hosts: else it is about the hosts of `groups`, and those of `hostnames`.
        command: `argv` is a limit: an argv whose program is an absolute path; `template` is a narrower one: what was
            made from one of `templates`, or from any where those are none; `shell` is none.
        longest_timeout: seconds.
        patterns: of command lines, as `fits` has it; of a shell line they are a reminder, since it has endless
            spellings.
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
    patterns: frozenset[str] = frozenset()
    templates: frozenset[str] = frozenset()
    created_seq: int = 0

    @property
    def has_limits(self) -> bool:
        return self.command != "shell" or self.most_hosts is not None or self.longest_timeout is not None

    def is_for(self, principal: Principal, action: str) -> bool:
        if not principal.is_for(action):
            return False
        return action in self.actions and self.subject in _subjects(principal)

    def applies(self, facts: "Facts") -> bool:
        """Whether it says anything on its hosts: an allow that it is allowed, a deny that it is not, and so on."""
        if self.accounts and facts.account not in self.accounts:
            return False
        if self.patterns and not any(fits(pattern, facts.line) for pattern in self.patterns):
            return False
        if self.effect == "allow":
            return self._is_within(facts)
        return not (self.has_limits and self._is_within(facts))

    def _is_within(self, facts: "Facts") -> bool:
        is_short = facts.timeout is not None and facts.timeout <= (self.longest_timeout or 0)
        return (
            self._is_command(facts)
            and (self.most_hosts is None or facts.number <= self.most_hosts)
            and (self.longest_timeout is None or is_short)
        )

    def _is_command(self, facts: "Facts") -> bool:
        match self.command:
            case "shell":
                return True
            case "argv":
                return facts.is_argv
            case "template":
                return facts.template is not None and (not self.templates or facts.template in self.templates)
        return False  # of a later release

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
            patterns=tuple(sorted(self.patterns)) or None,
            templates=tuple(sorted(self.templates)) or None,
        )


def _subjects(principal: Principal) -> tuple[str, str]:
    """Of the rules about somebody."""
    return f"user:{principal.username}", f"role:{principal.role}"


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
        patterns=frozenset(event.patterns or ()),
        templates=frozenset(event.templates or ()),
        created_seq=seq,
    )


BUILT_IN: Final = tuple(
    Rule(rule_id=f"role:{role}", effect="allow", subject=f"role:{role}", actions=its & ACTIONS, all_hosts=True)
    for role, its in ROLES.items()
    if its & ACTIONS
)


def is_about_oneself(principal: Principal, rule: Rule) -> bool:
    return rule.subject in _subjects(principal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a request comes to.

    Attributes:
        hosts: its hosts, or those that are asked about; each with its groups.
        number: hosts of the whole request.
        account: to run as; None where that is not said, as with all that runs nothing.
        timeout: seconds; None where that is not said.
        is_argv: it has an argv whose program is an absolute path.
        template: the name of the template that it was made from.
        line: what it runs, as one line; empty where that is not said.
    """

    hosts: Mapping[str, Collection[str]]
    number: int
    account: str | None = None
    timeout: int | None = None
    is_argv: bool = False
    template: str | None = None
    line: str = ""


def task_facts(
    fleet: FleetState, hostnames: Collection[str], request: Mapping[str, Json], *, number: int | None = None
) -> Facts:
    """Of a task's request, in its canonical form or a part of it.

    Args:
        number: hosts of the whole task, where these are only some of them.
    """
    argv, account, timeout = request.get("argv"), request.get("user"), request.get("timeout")
    template, line = request.get("template"), request.get("command")
    return Facts(
        hosts=_grouped(fleet, hostnames),
        number=len(hostnames) if number is None else number,
        account=account if isinstance(account, str) else None,
        timeout=timeout if isinstance(timeout, int) else None,
        is_argv=isinstance(argv, list | tuple) and bool(argv) and str(argv[0]).startswith("/"),
        template=template if isinstance(template, str) else None,
        line=line if isinstance(line, str) else "",
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
        asking: the hosts on which it needs an approval, each with the ids of the rules that ask for it; also where it
            is refused.
        refused: the hosts that it is refused on, each with the ids of the rules that do; none where nothing allows it.
        policy_seq: the last event that changed the rules.
    """

    action: str
    allowed: bool
    rules: tuple[str, ...]
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    policy_seq: int = 0

    @property
    def asking_rules(self) -> tuple[str, ...]:
        """The ids of the rules that ask for an approval on some host, sorted."""
        return tuple(sorted(set().union(*self.asking.values())))

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

    def __init__(self, decision: Decision, code: str = "not_allowed", detail: str | None = None) -> None:
        super().__init__(code, detail or decision.refusal or "")
        self.action = decision.action
        self.hosts = list(decision.refused)[:MAX_NAMED]
        self.more_hosts = len(decision.refused) - len(self.hosts)
        self.rules = decision.rules


class ApprovalRequiredError(ForbiddenError):
    """Allowed, but by two: `rules` ask for an approval on `hosts`."""

    def __init__(self, decision: Decision) -> None:
        rules, where = decision.asking_rules, in_words(decision.asking)
        super().__init__(
            replace(decision, allowed=False, rules=rules, refused=decision.asking),
            "approval_required",
            f"{decision.action} needs a second person's approval on {where}: rule {in_words(rules)}",
        )


class Cover:
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
    allowing, denying, requiring = (
        Cover(rule for rule in applying if rule.effect == effect) for effect in ("allow", "deny", "approve")
    )
    used = set() if facts.hosts else {rule.rule_id for rule in allows}
    refused: dict[str, tuple[str, ...]] = {}
    asking: dict[str, tuple[str, ...]] = {}
    for hostname, groups in facts.hosts.items():
        if asks := requiring.of(hostname, groups):
            asking[hostname] = tuple(sorted(asks))
        denied, allowed = denying.of(hostname, groups), allowing.of(hostname, groups)
        if denied or not allowed:
            refused[hostname] = tuple(sorted(denied))
        else:
            used |= allowed
    is_allowed = bool(allows) and not refused
    deciding = used if is_allowed else set().union(*refused.values())
    return Decision(action=action, allowed=is_allowed, rules=tuple(sorted(deciding)), refused=refused, asking=asking)


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
        subjects = _subjects(principal)
        given = (rule.actions for rule in self.rules.values() if rule.effect == "allow" and rule.subject in subjects)
        return principal.permissions.union(filter(principal.is_for, frozenset[str]().union(*given)))

    def check(self, principal: Principal, action: str, facts: Facts, *, approved: bool = True) -> Decision:
        """The decision where it is yes.

        Args:
            approved: False: nobody else has approved it yet. Whether somebody has to is asked when a task is accepted,
                and at no time after that.

        Raises:
            ForbiddenError: also ApprovalRequiredError, where it is allowed but for that.
        """
        decision = self.decide(principal, action, facts)
        if not decision.allowed:
            raise ForbiddenError(decision)
        if decision.asking and not approved:
            raise ApprovalRequiredError(decision)
        return decision

    def naming(self, fleet: FleetState, hostname: str, groups: Collection[str]) -> list[Rule]:
        """The rules that name a group which a host comes into or leaves by having these; retired, it has its last."""
        before = fleet.hosts[hostname].groups if hostname in fleet.hosts else ()
        moved = set(before).symmetric_difference(groups)
        return [rule for rule in self.rules.values() if rule.groups & moved]

    def check_groups(
        self,
        people: AccessState,
        principal: Principal,
        action: str,
        fleet: FleetState,
        hostname: str,
        groups: Collection[str],
    ) -> None:
        """A group that a rule names is given and taken only by somebody who might as well change the rule.

        So nobody's rights change by moving a host, but by those who may change rights.

        Args:
            action: by which the host comes into these groups, or out of them.

        Raises:
            ForbiddenError: a rule names one of them.
        """
        if principal.is_administrator:
            return
        may_write = "rules.write" in principal.permissions
        binding = [
            rule.rule_id
            for rule in self.naming(fleet, hostname, groups)
            if not may_write or is_about_oneself(principal, rule) or people.is_overseer(rule.subject)
        ]
        if naming := tuple(sorted(binding)):
            raise ForbiddenError(Decision(action=action, allowed=False, rules=naming, refused={hostname: naming}))


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
