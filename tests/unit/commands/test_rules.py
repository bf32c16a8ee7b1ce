"""Who may do what on which hosts, against an oracle that knows nothing of how it is decided."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane import cli_rules
from control_plane.commands import rules as module
from control_plane.commands.access import CONSOLE, ROLES, AccessState, Principal, User
from control_plane.commands.patterns import fits
from control_plane.commands.rulemaking import MAX_RULES, decide_rule
from control_plane.commands.rules import (
    ACTIONS,
    BUILT_IN,
    OF_TASKS,
    READING,
    ApprovalRequiredError,
    Facts,
    ForbiddenError,
    Rule,
    RuleState,
    decide,
    task_facts,
    withdrawn,
)
from control_plane.errors import InvalidFieldError, RefusedError
from control_plane.events.rules import RuleCreated, RuleDeleted
from tests.support.events import a_task_accepted
from tests.support.fleet import ADMIN, OPERATOR, VIEWER, a_fleet

HOSTS: Final = ("db1", "web1", "web2")
GROUPS: Final = ("db", "web")
ACCOUNTS: Final = ("deploy", "root")
TEMPLATES: Final = ("restart", "sync")
PATTERNS: Final = ("*", "rm *", "*rm*", "id")
LINES: Final = ("", "id", "ID", "rm  -rf /x", "sudo rm x", "confirm")
PRINCIPALS: Final = [Principal(username=name, role=role) for name in ("ann", "bob") for role in ROLES]


def a_rule(rule_id: str = "r1", **given: Any) -> Rule:
    """An allow for ann to run anything anywhere, but for what is given."""
    asked: dict[str, Any] = {
        "effect": "allow",
        "subject": "user:ann",
        "actions": frozenset({"tasks.run"}),
        "all_hosts": not {"groups", "hostnames"} & given.keys(),
        **given,
    }
    return Rule(rule_id=rule_id, **{k: frozenset(v) if isinstance(v, set) else v for k, v in asked.items()})


ANN: Final = Principal(username="ann", role="viewer")


def facts(account: str | None = "root", **given: Any) -> Facts:
    hosts = given.pop("hosts", {"web1": ("web",)})
    return Facts(**{"hosts": hosts, "number": len(hosts), "account": account, "timeout": 60, **given})


def some(names: Sequence[str]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(names))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    return Rule(
        rule_id=draw(st.text("0123456789abcdef", min_size=4, max_size=4)),
        effect=draw(st.sampled_from(["allow", "deny", "approve"])),
        subject=draw(st.sampled_from(["user:ann", "user:bob", "role:viewer", "role:operator"])),
        actions=draw(st.frozensets(st.sampled_from(sorted(ACTIONS)), min_size=1)),
        all_hosts=draw(st.booleans()),
        groups=draw(some(GROUPS)),
        hostnames=draw(some(HOSTS)),
        accounts=draw(some(ACCOUNTS)),
        command=draw(st.sampled_from(["shell", "argv", "template"])),
        patterns=draw(some(PATTERNS)),
        templates=draw(some(TEMPLATES)),
        most_hosts=draw(st.none() | st.integers(1, 3)),
        longest_timeout=draw(st.none() | st.sampled_from([30, 60, 90])),
    )


RULES: Final = st.lists(rules(), max_size=6, unique_by=lambda rule: rule.rule_id)
FACTS: Final = st.builds(
    lambda hosts, more, **given: Facts(hosts=hosts, number=len(hosts) + more, **given),
    hosts=st.dictionaries(st.sampled_from(HOSTS), st.frozensets(st.sampled_from(GROUPS))),
    more=st.integers(0, 2),
    account=st.none() | st.sampled_from([*ACCOUNTS, "nobody"]),
    timeout=st.none() | st.sampled_from([30, 60, 90, 120]),
    is_argv=st.booleans(),
    template=st.none() | st.sampled_from([*TEMPLATES, "other"]),
    line=st.sampled_from(LINES),
)
ASKED: Final = {
    "principal": st.sampled_from(PRINCIPALS),
    "action": st.sampled_from(sorted(ACTIONS)),
    "asked": FACTS,
    "made": RULES,
}
asking: Final[Callable[..., Any]] = given(**ASKED)


# --- the oracle: every host by every rule, and every condition of that as a line


FITTING: Final = {
    "*": set(LINES),
    "rm *": {"rm  -rf /x"},
    "*rm*": {"rm  -rf /x", "sudo rm x", "confirm"},
    "id": {"id", "ID"},
}


def oracle(
    principal: Principal, action: str, asked: Facts, made: Sequence[Rule]
) -> tuple[bool, dict[str, list[str]], dict[str, list[str]]]:
    """Whether it is allowed, by host who refuses it, and by host who wants it approved."""
    refused: dict[str, list[str]] = {}
    asking: dict[str, list[str]] = {}
    something_allows = False
    for host in ["", *asked.hosts]:  # the first stands for the request as such
        allowed_by, denied_by, asked_by = [], [], []
        if action in ROLES[principal.role]:
            allowed_by.append(f"role:{principal.role}")
        for rule in made:
            kind, name = rule.subject.split(":")
            if name != (principal.username if kind == "user" else principal.role):
                continue
            if action not in rule.actions:
                continue
            if len(rule.accounts) > 0 and asked.account not in list(rule.accounts):
                continue
            if len(rule.patterns) > 0 and not any(asked.line in FITTING[pattern] for pattern in rule.patterns):
                continue
            is_there = rule.all_hosts or host in rule.hostnames
            if host and not is_there and not any(group in rule.groups for group in asked.hosts[host]):
                continue
            limits = []
            if rule.command == "argv":
                limits.append(asked.is_argv)
            if rule.command == "template" and rule.templates:
                limits.append(asked.template in list(rule.templates))
            elif rule.command == "template":
                limits.append(asked.template is not None)
            if rule.most_hosts is not None:
                limits.append(asked.number <= rule.most_hosts)
            if rule.longest_timeout is not None:
                limits.append(asked.timeout is not None and asked.timeout <= rule.longest_timeout)
            if rule.effect == "allow" and False not in limits:
                allowed_by.append(rule.rule_id)
            if rule.effect == "deny" and (limits == [] or False in limits):
                denied_by.append(rule.rule_id)
            if rule.effect == "approve" and (limits == [] or False in limits):
                asked_by.append(rule.rule_id)
        if host == "":
            something_allows = allowed_by != []
        elif denied_by != [] or allowed_by == []:
            refused[host] = sorted(denied_by)
        if host != "" and asked_by != []:
            asking[host] = sorted(asked_by)
    return something_allows and refused == {}, refused, asking


@asking
def test_a_decision_agrees_with_the_oracle(principal: Principal, action: str, asked: Facts, made: list[Rule]) -> None:
    decision = decide(principal, action, asked, made)

    allowed, refused, asking = oracle(principal, action, asked, made)
    assert decision.allowed == allowed
    assert {host: list(by) for host, by in decision.refused.items()} == refused
    assert {host: list(by) for host, by in decision.asking.items()} == asking
    assert (decision.refusal is None) == allowed


@asking
def test_the_rules_that_decided_alone_decide_the_same(
    principal: Principal, action: str, asked: Facts, made: list[Rule]
) -> None:
    decision = decide(principal, action, asked, made)

    named = [rule for rule in made if rule.rule_id in decision.rules]
    assert decide(principal, action, asked, named).allowed == decision.allowed
    assert set(decision.rules) <= {rule.rule_id for rule in (*made, *BUILT_IN)}


@given(**ASKED, more=rules())
def test_one_more_deny_or_approve_permits_no_more_and_one_more_allow_no_less(
    principal: Principal, action: str, asked: Facts, made: list[Rule], more: Rule
) -> None:
    before = decide(principal, action, asked, made)
    after = decide(principal, action, asked, [*made, replace(more, rule_id="more")])

    assert after.asking.keys() >= before.asking.keys()
    if more.effect == "deny":
        assert after.refused.keys() >= before.refused.keys()
        assert before.allowed or not after.allowed
    elif more.effect == "approve":
        assert (after.allowed, after.refused) == (before.allowed, before.refused)
    else:
        assert after.asking == before.asking
        assert after.refused.keys() <= before.refused.keys()
        assert after.allowed or not before.allowed


NARROWER: Final[dict[str, Callable[[Rule], Rule]]] = {
    "fewer actions": lambda rule: replace(rule, actions=frozenset(sorted(rule.actions)[:1])),
    "not on all hosts": lambda rule: replace(rule, all_hosts=False),
    "of fewer groups": lambda rule: replace(rule, groups=rule.groups - {"db"}),
    "fewer hosts": lambda rule: replace(rule, hostnames=rule.hostnames - {"web1"}),
    "as one account": lambda rule: replace(rule, accounts=frozenset(sorted(rule.accounts or ACCOUNTS)[:1])),
    "argv alone": lambda rule: replace(rule, command="argv") if rule.command == "shell" else rule,
    "a template alone": lambda rule: replace(rule, command="template", templates=frozenset({"sync"})),
    "lines like this": lambda rule: replace(rule, patterns=rule.patterns & {"id"} or frozenset({"id"})),
    "fewer at once": lambda rule: replace(rule, most_hosts=max(1, (rule.most_hosts or 3) - 1)),
    "for a shorter time": lambda rule: replace(rule, longest_timeout=min(30, rule.longest_timeout or 90)),
}


@given(**ASKED, narrow=st.sampled_from(sorted(NARROWER)))
def test_a_narrower_allow_permits_no_more(
    principal: Principal, action: str, asked: Facts, made: list[Rule], narrow: str
) -> None:
    narrower = [NARROWER[narrow](rule) if rule.effect == "allow" else rule for rule in made]

    before, after = (decide(principal, action, asked, those) for those in (made, narrower))

    assert before.allowed or not after.allowed
    assert before.refused.keys() <= after.refused.keys()


WIDER: Final[dict[str, Callable[[Rule], Rule]]] = {
    "on all hosts": lambda rule: replace(rule, all_hosts=True),
    "as anybody": lambda rule: replace(rule, accounts=frozenset()),
    "whatever the line": lambda rule: replace(rule, patterns=frozenset()),
    "without limits": lambda rule: replace(
        rule, command="shell", templates=frozenset(), most_hosts=None, longest_timeout=None
    ),
    "of every action": lambda rule: replace(rule, actions=ACTIONS),
}


@given(**ASKED, widen=st.sampled_from(sorted(WIDER)), effect=st.sampled_from(["deny", "approve"]))
def test_a_wider_deny_or_approve_permits_no_more(
    principal: Principal, action: str, asked: Facts, made: list[Rule], widen: str, effect: str
) -> None:
    wider = [WIDER[widen](rule) if rule.effect == effect else rule for rule in made]

    before, after = (decide(principal, action, asked, those) for those in (made, wider))

    assert before.allowed or not after.allowed
    assert before.refused.keys() <= after.refused.keys()
    assert before.asking.keys() <= after.asking.keys()


@given(**ASKED, random=st.randoms())
def test_neither_the_order_of_rules_nor_their_ids_matter(
    principal: Principal, action: str, asked: Facts, made: list[Rule], random: Any
) -> None:
    shuffled = [replace(rule, rule_id=f"new-{rule.rule_id}") for rule in made]
    random.shuffle(shuffled)

    before, after = (decide(principal, action, asked, those) for those in (made, shuffled))

    assert after.allowed == before.allowed
    assert after.refused.keys() == before.refused.keys()
    assert {rule.removeprefix("new-") for rule in after.rules} == set(before.rules)
    assert {rule.removeprefix("new-") for rule in after.asking_rules} == set(before.asking_rules)


@asking
def test_without_rules_the_roles_decide_and_the_command_line_is_above_all(
    principal: Principal, action: str, asked: Facts, made: list[Rule]
) -> None:
    assert decide(principal, action, asked, ()).allowed == (action in ROLES[principal.role])
    assert decide(CONSOLE, action, asked, [*made, a_rule(effect="deny", subject="role:administrator")]).allowed


# --- examples, as one would say them


def test_every_host_has_to_be_allowed_and_the_refusal_names_those_that_are_not() -> None:
    hosts = {f"web{n}": ("web",) for n in range(3)} | {f"db{n:02}": ("db",) for n in range(12)}

    decision = decide(ANN, "tasks.run", facts(hosts=hosts), [a_rule(groups={"web"})])
    refused = ForbiddenError(decision)

    assert (decision.allowed, decision.rules) == (False, ())
    assert list(decision.refused) == [f"db{n:02}" for n in range(12)]
    assert refused.detail.startswith("tasks.run is not allowed on db00, db01, ")
    assert refused.detail.endswith("db09 and 2 more: no rule allows it")
    assert (len(refused.hosts), refused.more_hosts) == (10, 2)


def test_a_deny_wins_over_what_a_role_may_and_is_named() -> None:
    deny = a_rule("no-root", effect="deny", subject="role:operator", groups={"db"}, accounts={"root"})

    decision = decide(OPERATOR, "tasks.run", facts(hosts={"db1": ("db",), "web1": ("web",)}), [deny])

    assert decision.refusal == "tasks.run is not allowed on db1: rule no-root"
    assert decide(OPERATOR, "tasks.run", facts("deploy", hosts={"db1": ("db",)}), [deny]).rules == ("role:operator",)
    assert decide(OPERATOR, "tasks.cancel", facts(hosts={"db1": ("db",)}), [deny]).allowed


def test_the_example_of_the_operations_page_is_as_it_says() -> None:
    made = [
        a_rule("ann", actions={"tasks.run", "tasks.cancel"}, groups={"web"}, accounts={"deploy"}),
        *(a_rule(f"no-{r}", effect="deny", subject=f"role:{r}", groups={"db"}, accounts={"root"}) for r in ROLES),
    ]
    web, everywhere = {"web1": ("web",)}, {"db1": ("db",), "mail1": (), "web1": ("web",)}

    def refusal(who: Principal, account: str, hosts: Any) -> str | None:
        return decide(who, "tasks.run", facts(account, hosts=hosts), made).refusal

    assert refusal(ANN, "deploy", web) is None
    assert refusal(ANN, "deploy", everywhere) == "tasks.run is not allowed on db1, mail1: no rule allows it"
    assert refusal(ANN, "root", web) == "tasks.run is not allowed on web1: no rule allows it"
    assert refusal(OPERATOR, "root", everywhere) == "tasks.run is not allowed on db1: rule no-operator"
    assert refusal(OPERATOR, "postgres", everywhere) is None
    assert refusal(ADMIN, "root", everywhere) == "tasks.run is not allowed on db1: rule no-administrator"


@pytest.mark.parametrize(
    ("limit", "within", "beyond"),
    [
        ({"command": "argv"}, {"is_argv": True}, {"is_argv": False}),
        ({"most_hosts": 2}, {"number": 2}, {"number": 3}),
        ({"longest_timeout": 60}, {"timeout": 60}, {"timeout": 61}),
        ({"longest_timeout": 60}, {"timeout": 1}, {"timeout": None}),
        ({"command": "template"}, {"template": "any"}, {"is_argv": True}),
        ({"command": "template", "templates": {"sync"}}, {"template": "sync"}, {"template": "other"}),
    ],
)
def test_a_limit_means_the_same_in_an_allow_and_in_a_deny(
    limit: dict[str, Any], within: dict[str, Any], beyond: dict[str, Any]
) -> None:
    allow, deny, approve = (a_rule(effect, effect=effect, **limit) for effect in ("allow", "deny", "approve"))
    for asked, is_to_be_approved in ((within, False), (beyond, True)):
        assert bool(decide(ANN, "tasks.run", facts(**asked), [a_rule("any"), approve]).asking) == is_to_be_approved

    for those in ([allow], [a_rule("any"), deny]):
        assert decide(ANN, "tasks.run", facts(**within), those).allowed
        assert not decide(ANN, "tasks.run", facts(**beyond), those).allowed


def test_a_request_without_hosts_is_allowed_to_whom_something_allows_it() -> None:
    nothing = facts(hosts={})
    assert decide(OPERATOR, "tasks.run", nothing, ()).allowed
    assert decide(ANN, "tasks.run", nothing, [a_rule(groups={"web"})]).allowed
    refused = decide(VIEWER, "tasks.run", nothing, [a_rule()])
    assert (refused.allowed, refused.refusal) == (False, "tasks.run is not allowed: no rule allows it")


@pytest.mark.parametrize(
    ("argv", "is_argv"),
    [(["/bin/ls", "-l"], True), (("/bin/ls",), True), (["ls"], False), (["./ls"], False), ([], False), (None, False)],
)
def test_only_an_absolute_program_is_an_argv(argv: Any, is_argv: bool) -> None:
    fleet = a_fleet({"web1": ["web"]})
    request = {"user": "deploy", "timeout": 30, "command": "ls"} | ({} if argv is None else {"argv": argv})

    found = task_facts(fleet, ["web1", "web9"], request, number=7)

    assert found == Facts(
        hosts={"web1": fleet.hosts["web1"].groups, "web9": ()},
        number=7,
        account="deploy",
        timeout=30,
        is_argv=is_argv,
        line="ls",
    )


# --- approve: the order of the effects, and patterns


def test_a_deny_wins_then_an_allow_is_needed_and_then_an_approval() -> None:
    approve, allow = a_rule("two", effect="approve", accounts={"root"}), a_rule("ann")
    deny = a_rule("no", effect="deny")
    state = RuleState()

    for made in ([approve, allow, deny], [approve]):
        state.rules = {rule.rule_id: rule for rule in made}
        with pytest.raises(ForbiddenError) as refused:
            state.check(ANN, "tasks.run", facts(), approved=True)
        assert refused.value.code == "not_allowed"

    state.rules = {"two": approve, "ann": allow}
    with pytest.raises(ApprovalRequiredError) as asked:
        state.check(ANN, "tasks.run", facts(), approved=False)
    assert (asked.value.code, asked.value.rules, asked.value.hosts) == ("approval_required", ("two",), ["web1"])
    assert asked.value.detail == "tasks.run needs a second person's approval on web1: rule two"
    assert state.check(ANN, "tasks.run", facts(), approved=True).allowed
    assert state.check(ANN, "tasks.run", facts("deploy"), approved=False).allowed


def test_one_host_that_asks_for_an_approval_makes_the_whole_request_need_one() -> None:
    hosts = {"db1": ("db",), "web1": ("web",)}
    decision = decide(
        OPERATOR,
        "tasks.run",
        facts(hosts=hosts),
        [a_rule("r", subject="role:operator", effect="approve", groups={"db"})],
    )

    assert (decision.allowed, decision.asking, decision.asking_rules) == (True, {"db1": ("r",)}, ("r",))


def test_an_approve_says_nothing_of_what_is_cancelled_or_approved_itself() -> None:
    approve = a_rule("r", subject="role:administrator", effect="approve", actions=ACTIONS)
    for action in sorted(ACTIONS - {"tasks.run"}):
        RuleState(rules={"r": approve}).check(ADMIN, action, facts())


@pytest.mark.parametrize(
    ("pattern", "fitting", "not_fitting"),
    [
        ("rm -rf *", ["rm -rf /", "RM  -rf\t/x", "rm\n-rf y"], ["rm -rf", "sudo rm -rf /", "rm -r /"]),
        ("*shutdown*", ["shutdown", "/sbin/shutdown now", "echo SHUTDOWN"], ["shut down", ""]),
        ("*a*b*c", ["abc", "xaybzc", "aabbcc"], ["acb", "abcd", "ab"]),
        ("ab*ba", ["abba", "ab ba"], ["aba", "ab"]),
        ("reboot", ["reboot", " Reboot "], ["reboot now", "rebootx"]),
        ("[a-z]?", ["[a-z]?"], ["a", "ab"]),
        ("*stra\u00dfe*", ["STRASSE"], ["stras"]),
    ],
)
def test_a_pattern_fits_whole_lines_in_either_case(pattern: str, fitting: list[str], not_fitting: list[str]) -> None:
    assert [line for line in (*fitting, *not_fitting) if fits(pattern, line)] == fitting


@given(st.lists(st.text("ab ", max_size=3), min_size=1, max_size=5), st.text("ab ", max_size=12))
def test_a_pattern_fits_as_a_regular_expression_would(pieces: list[str], line: str) -> None:
    pattern, plain = (" ".join(text.split()) for text in ("*".join(pieces), line))
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), plain) is not None

    assert fits("*".join(pieces), line) == expected


def test_a_pattern_made_to_take_long_does_not() -> None:
    """By a matcher that goes back it would take longer than anybody waits."""
    assert not fits("*a" * 120 + "*b", "a" * 131_071)


# --- making them


PEOPLE: Final = AccessState(users={"ann": User(username="ann", role="viewer", changed_seq=1)})


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"effect": "maybe"}, "effect"),
        ({"subject": "user:bob"}, "subject"),
        ({"subject": "role:king"}, "subject"),
        ({"subject": "ann"}, "subject"),
        ({"actions": set()}, "actions"),
        *(({"actions": {"tasks.run", name}}, "actions") for name in ("users.write", "rules.write", "tokens.others")),
        *(({"actions": {name}}, "actions") for name in ("hosts.enrol", "projections.read", "no.such")),
        ({"actions": {"hosts.edit"}, "accounts": {"root"}}, "actions"),
        ({"actions": {"hosts.edit", "tasks.run"}, "most_hosts": 3}, "actions"),
        ({"actions": {"hosts.edit"}, "patterns": {"*"}, "effect": "deny"}, "actions"),
        *(({"effect": "approve", "actions": {name}}, "actions") for name in sorted(ACTIONS - {"tasks.run"})),
        ({"effect": "approve", "actions": {"tasks.run", "tasks.cancel"}}, "actions"),
        ({"patterns": {"systemctl *"}}, "patterns"),
        ({"effect": "deny", "patterns": {"a\nb"}}, "patterns"),
        ({"effect": "deny", "patterns": {""}}, "patterns"),
        ({"effect": "deny", "patterns": {f"{n}" for n in range(101)}}, "patterns"),
        ({"templates": {"sync"}}, "templates"),
        ({"command": "argv", "templates": {"sync"}}, "templates"),
        ({"command": "template", "templates": {"../sync"}}, "templates"),
        *(({"actions": {name}, "longest_timeout": 5}, "actions") for name in sorted(READING)),
        ({"all_hosts": True, "groups": {"web"}}, "hosts"),
        ({"groups": set()}, "hosts"),
        ({"groups": {"We b"}}, "hosts.groups"),
        ({"hostnames": {"-"}}, "hosts.hostnames"),
        ({"accounts": {"0"}}, "accounts"),
        ({"command": "any"}, "command"),
        ({"most_hosts": 0}, "most_hosts"),
        ({"longest_timeout": 86_401}, "longest_timeout"),
        ({"reason": "two\nlines"}, "reason"),
    ],
)
def test_a_rule_that_is_none_is_refused_with_its_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        decide_rule(PEOPLE, RuleState(), a_rule(**given))

    assert (refused.value.code, refused.value.field) == ("invalid_request", field)


def test_what_is_made_comes_back_as_it_was() -> None:
    rule = a_rule(
        actions={"tasks.run", "tasks.cancel"},
        groups={"web"},
        hostnames={"db1"},
        accounts={"deploy"},
        command="template",
        templates={"sync"},
        patterns={"*rm*"},
        effect="deny",
        most_hosts=3,
        longest_timeout=60,
        reason="so",
    )
    state = RuleState()

    assert state.apply(decide_rule(PEOPLE, state, rule), 7)

    assert state.rules == {"r1": replace(rule, created_seq=7)}
    assert state.changed_seq == 7


def test_there_are_only_so_many() -> None:
    full = RuleState(rules={f"r{n}": a_rule(f"r{n}") for n in range(MAX_RULES)})
    with pytest.raises(RefusedError) as refused:
        decide_rule(PEOPLE, full, a_rule())
    assert refused.value.code == "too_many_rules"

    patterns = {f"{n}" for n in range(100)}
    full = RuleState(rules={f"r{n}": a_rule(f"r{n}", patterns=patterns) for n in range(10)})
    with pytest.raises(RefusedError) as refused:
        decide_rule(PEOPLE, full, a_rule(effect="deny", patterns={"*"}))
    assert refused.value.code == "too_many_rules"
    decide_rule(PEOPLE, full, a_rule())


def test_no_action_on_people_and_rules_is_for_rules() -> None:
    """So a lock-out is impossible, whatever rules there are."""
    assert ACTIONS & {name for its in ROLES.values() for name in its} == ACTIONS
    assert not {name for name in ACTIONS if name.startswith(("users.", "tokens.", "rules."))}


# --- the fold


def test_a_rule_that_has_ended_never_comes_back() -> None:
    state = RuleState()
    created = a_rule().to_event()

    assert state.apply(created, 1)
    assert not state.apply(created, 2)
    assert state.apply(RuleDeleted(rule_id="r1"), 3)
    assert not state.apply(created, 4)
    assert not state.apply(RuleDeleted(rule_id="r1"), 5)
    assert (state.rules, state.changed_seq) == ({}, 3)


def test_a_command_of_a_later_release_covers_nothing_and_denies_all() -> None:
    allow, deny = (a_rule(effect, effect=effect, command="sealed") for effect in ("allow", "deny"))

    assert not decide(ANN, "tasks.run", facts(), [allow]).allowed
    assert not decide(ANN, "tasks.run", facts(is_argv=True, template="sync"), [a_rule("any"), deny]).allowed


def test_an_effect_of_a_later_release_is_not_taken_for_an_allow() -> None:
    event: RuleCreated = replace(a_rule().to_event(), effect="perhaps")
    assert not RuleState().apply(event, 1)


# --- what is sent later


@pytest.mark.parametrize(
    ("user", "made", "said"),
    [
        (None, [], {}),
        ({"role": "operator"}, [], {}),
        ({"role": "operator", "enabled": False}, [], {"web1": "the user is disabled", "db1": "the user is disabled"}),
        ({"role": "viewer"}, [], {"web1": "no rule allows it", "db1": "no rule allows it"}),
        ({"role": "viewer"}, [{"groups": {"web"}}], {"db1": "no rule allows it"}),
        (
            {"role": "viewer"},
            [{"groups": {"web"}, "most_hosts": 1}],
            {"db1": "no rule allows it"} | {"web1": "no rule allows it"},
        ),
        ({"role": "operator"}, [{"effect": "deny", "hostnames": {"db1"}}], {"db1": "rule r0"}),
    ],
)
def test_what_waits_is_judged_by_what_its_actor_may_by_now(
    user: dict[str, Any] | None, made: list[dict[str, Any]], said: dict[str, str]
) -> None:
    people = AccessState()
    if user is not None:
        people.users["ada"] = User(username="ada", changed_seq=1, **user)
    state = RuleState(rules={f"r{n}": a_rule(f"r{n}", subject="user:ada", **each) for n, each in enumerate(made)})
    task = a_task_accepted("t1", ("db1", "web1"))

    found = withdrawn(people, state, a_fleet({"web1": ["web"], "db1": ["db"]}), task, task.hosts)

    assert found == {name: f"ada may not run this any more: {why}" for name, why in said.items()}


def test_a_part_of_a_task_is_judged_by_the_size_of_the_whole() -> None:
    people = AccessState(users={"ada": User(username="ada", role="viewer", changed_seq=1)})
    state = RuleState(rules={"r1": a_rule(subject="user:ada", most_hosts=1)})
    task = a_task_accepted("t1", ("db1", "web1"))

    assert withdrawn(people, state, a_fleet({}), task, ["web1"]).keys() == {"web1"}


def test_every_action_is_of_tasks_or_of_hosts_and_known_to_the_command_line() -> None:
    assert ACTIONS == OF_TASKS | module.OF_HOSTS | READING
    assert tuple(sorted(ACTIONS)) == cli_rules.ACTIONS
