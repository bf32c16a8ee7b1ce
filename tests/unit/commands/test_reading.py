"""Which hosts somebody may read about, against the decision on each host alone."""

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.commands.access import CONSOLE, ROLES, Principal
from control_plane.commands.authority import KINDS
from control_plane.commands.hosts import FleetState
from control_plane.commands.reading import MOST_KEPT, Readable, owner, readable, seen, within
from control_plane.commands.rules import READING, RuleState, host_facts
from control_plane.errors import NotFoundError
from control_plane.events.rules import RuleCreated, RuleDeleted
from tests.support.fleet import ADMIN, VIEWER, Desk, a_fleet, a_registration
from tests.unit.commands.test_rules import GROUPS, HOSTS, PRINCIPALS, RULES, a_rule

MIA: Final = Principal(username="mia", role="member")
ON_WEB: Final = {"subject": "user:mia", "actions": {"hosts.read"}, "groups": {"web"}}

fleets: Final = st.dictionaries(st.sampled_from(HOSTS), st.frozensets(st.sampled_from(GROUPS))).map(a_fleet)


def state_of(*made: Any) -> RuleState:
    return RuleState(rules={rule.rule_id: rule for rule in made}, changed_seq=len(made))


@given(
    principal=st.sampled_from([*PRINCIPALS, CONSOLE]),
    action=st.sampled_from(sorted(READING)),
    made=RULES,
    fleet=fleets,
)
def test_it_is_the_hosts_on_which_a_decision_allows_it(
    principal: Principal, action: str, made: list[Any], fleet: FleetState
) -> None:
    state = state_of(*made)

    names = readable(principal, action, state, fleet)

    allowed = {name for name in fleet.hosts if state.decide(principal, action, host_facts(fleet, name)).allowed}
    assert (set(fleet.hosts) if names is None else names) == allowed


@given(principal=st.sampled_from(PRINCIPALS), action=st.sampled_from(sorted(READING)), made=RULES, fleet=fleets)
def test_every_host_is_said_only_where_any_that_comes_would_be_allowed_too(
    principal: Principal, action: str, made: list[Any], fleet: FleetState
) -> None:
    state = state_of(*made)

    if readable(principal, action, state, fleet) is None:
        for groups in ([], ["db"], ["web"], ["db", "web"]):
            there = a_fleet({"new1": groups, **{name: host.groups for name, host in fleet.hosts.items()}})
            assert state.decide(principal, action, host_facts(there, "new1")).allowed


@pytest.mark.parametrize(
    ("principal", "made", "names"),
    [
        (VIEWER, [], None),
        (CONSOLE, [a_rule(effect="deny", subject="role:administrator", actions={"hosts.read"})], None),
        (MIA, [], frozenset()),
        (MIA, [a_rule(**ON_WEB)], {"web1", "web2"}),
        (
            MIA,
            [a_rule(**ON_WEB), a_rule("r2", **{**ON_WEB, "effect": "deny", "hostnames": {"web2"}, "groups": set()})],
            {"web1"},
        ),
        (MIA, [a_rule(**{**ON_WEB, "actions": {"tasks.read"}})], frozenset()),
        (VIEWER, [a_rule(effect="deny", subject="user:eve", actions={"hosts.read"}, groups={"db"})], {"web1", "web2"}),
        (VIEWER, [a_rule(effect="deny", subject="user:eve", actions={"hosts.read"})], frozenset()),
        (
            VIEWER,
            [a_rule(effect="deny", subject="user:eve", actions={"hosts.read"}, groups={"none"})],
            {"db1", "web1", "web2"},
        ),
    ],
)
def test_examples(principal: Principal, made: list[Any], names: frozenset[str] | None) -> None:
    fleet = a_fleet({"web1": ["web"], "web2": ["web"], "db1": ["db"]})
    assert readable(principal, "hosts.read", state_of(*made), fleet) == names


def test_a_member_may_nothing_by_role() -> None:
    assert ROLES["member"] == frozenset()


def test_what_was_found_is_kept_until_rules_or_hosts_change() -> None:
    kept, fleet, rules = Readable(), a_fleet({"web1": ["web"], "db1": ["db"]}), RuleState()
    assert rules.apply(a_rule(**ON_WEB).to_event(), 7)

    first = kept.names(MIA, "hosts.read", rules, fleet)
    assert kept.names(MIA, "hosts.read", rules, fleet) is first
    assert fleet.apply(a_registration("web2", "web"), 8)
    second = kept.names(MIA, "hosts.read", rules, fleet)
    assert rules.apply(RuleDeleted(rule_id="r1"), 9)
    third = kept.names(MIA, "hosts.read", rules, fleet)

    assert (first, second, third) == ({"web1"}, {"web1", "web2"}, set())


def test_people_who_may_see_the_same_share_it_and_so_many_are_kept_and_no_more() -> None:
    kept, fleet = Readable(), a_fleet({"web1": ["web"]})
    rules = state_of(a_rule(**{**ON_WEB, "subject": "role:member"}))
    people = [Principal(username="mia", role="member", token_id=str(n)) for n in range(MOST_KEPT + 1)]

    first = kept.names(people[0], "hosts.read", rules, fleet)
    assert kept.names(people[1], "hosts.read", rules, fleet) is first
    for person in people:
        kept.names(person, "hosts.read", rules, fleet)
    assert len(kept._found) <= MOST_KEPT


def test_behind_a_token_stands_its_owner() -> None:
    assert owner(Principal(username="mia", role="member", token_id="1", address="::1")) == MIA
    assert owner(CONSOLE) == CONSOLE


def test_the_authority_hears_of_all_that_changes_it() -> None:
    assert {RuleCreated.KIND, RuleDeleted.KIND, "host.registered", "host.groups_changed"} <= KINDS


def test_a_fleet_is_seen_without_the_hosts_that_one_may_not_read_about() -> None:
    fleet = a_fleet({"web1": ["web"], "db1": ["db"]})

    assert seen(fleet, None) is fleet
    assert seen(fleet, frozenset({"web1", "gone"})).hosts.keys() == {"web1"}
    assert within(None, ["x"])
    assert within(frozenset({"web1"}), ["web1"])
    assert not within(frozenset({"web1"}), ["web1", "db1"])
    assert within(frozenset(), [])


async def test_a_host_out_of_scope_is_no_host_to_whoever_would_change_it() -> None:
    """Where a rule that denies it has an id, an unknown host has none: so neither may come to be told."""
    desk = Desk()
    await desk.register("web1", "web")
    await desk.register("db1", "db")
    for effect, groups in (("allow", {"web"}), ("deny", {"db"})):
        rule = {**ON_WEB, "effect": effect, "groups": groups, "actions": {"hosts.read", "hosts.edit", "hosts.revoke"}}
        await desk.rules.create(ADMIN, a_rule(**{**rule, "subject": "role:member"}))
    await desk.user("mia", "member")

    said = set()
    for name in ("db1", "nothing"):
        for act in (
            desk.hosts.set_maintenance(MIA, name, True),
            desk.hosts.set_groups(MIA, name, ["web"]),
            desk.hosts.assign(MIA, name, "web", member=True),
            desk.hosts.revoke(MIA, name, None),
            desk.hosts.retire(MIA, name, None),
            desk.hosts.lift_quarantine(MIA, name, "so"),
        ):
            with pytest.raises(NotFoundError) as refused:
                await act
            said.add((refused.value.code, refused.value.detail.replace(name, "X")))

    assert said == {("unknown_host", "there is no host X")}
    await desk.hosts.set_maintenance(MIA, "web1", True)
