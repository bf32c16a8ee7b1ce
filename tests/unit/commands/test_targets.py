from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.commands.hosts import FleetState
from control_plane.commands.ports import Presence
from control_plane.commands.targets import (
    MAX_HOSTS,
    All,
    Excluded,
    Group,
    Hosts,
    OneHost,
    Query,
    Target,
    check_named,
    freeze,
    hosts_digest,
    parse_target,
)
from control_plane.errors import InvalidFieldError, RefusedError
from control_plane.events.hosts import (
    HostLabelsChanged,
    HostMaintenanceChanged,
    HostQuarantined,
    HostRetired,
    HostRevoked,
)
from control_plane_wire import signing
from control_plane_wire.strict_json import Json, JsonObject
from tests.support.fleet import a_fleet, a_registration

NAMES = ["a1", "b1", "c1", "d1", "e1"]
BASIC = Presence(state="online", basic=True)
FULL = Presence(state="online", basic=False)
UNHEARD = Presence(state="pending", basic=False)


def a_mixed_fleet() -> FleetState:
    """web1 and web2 are active, web3 is revoked, old1 retired, by1 was registered by hand."""
    fleet = a_fleet({"web1": ["web"], "web2": ["web", "db"], "web3": ["web"], "old1": ["web"]})
    fleet.apply(HostRevoked(hostname="web3", based_on=3), 5)
    fleet.apply(HostRetired(hostname="old1", based_on=4), 6)
    fleet.apply(a_registration("by1", "db", by_hand=True), 7)
    return fleet


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ({"host": "web1"}, OneHost("web1")),
        ({"host": "WEB1.Example.com"}, OneHost("web1.example.com")),
        ({"group": "web"}, Group("web")),
        ({"all": True}, All()),
        ({"hosts": ["b", "a"]}, Hosts(("b", "a"))),
        ({"query": "Web state:Online"}, Query("Web state:Online")),
    ],
)
def test_a_target_is_one_of_five_forms_and_survives_the_log(value: JsonObject, target: Target) -> None:
    assert parse_target(value) == target
    assert freeze(a_fleet({}), parse_target(target.to_json()), {}, as_of=0) == freeze(a_fleet({}), target, {}, as_of=0)


def test_more_hosts_than_a_task_may_have_are_refused_however_they_are_named() -> None:
    names = [f"h{number}" for number in range(MAX_HOSTS + 1)]
    web1 = a_fleet({"web1": ["web"]}).host("web1")
    most, one_more = (FleetState({name: replace(web1, hostname=name) for name in some}) for some in (names[1:], names))

    for target in (All(), Group("web")):
        assert len(freeze(most, target, {}, as_of=0).hosts) == MAX_HOSTS
        with pytest.raises(RefusedError) as refused:
            freeze(one_more, target, {}, as_of=0)
        assert refused.value.code == "too_many_hosts"
    with pytest.raises(RefusedError) as refused:
        parse_target({"hosts": list[Json](names)})
    assert refused.value.code == "too_many_hosts"


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"all": False},
        {"all": 1},
        {"host": 5},
        {"host": "web1", "all": True},
        {"host": "*"},
        {"host": "web1."},
        {"host": "cmd.all\n"},
        {"group": "#"},
        {"hosts": []},
        {"hosts": [7, "*"]},
        {"hosts": "web1"},
        {"cluster": "web"},
    ],
)
def test_anything_else_is_no_target(value: JsonObject) -> None:
    with pytest.raises(RefusedError) as refused:
        parse_target(value)

    assert refused.value.code == "invalid_request"


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ("web state:up", "is wrong in state:up: unknown value up of state; there are online, "),
        ("web,,db", "is wrong in web,,db: a value is missing"),
        ("", "is empty"),
        (" \t", "is empty"),
    ],
)
def test_a_query_that_finds_nothing_by_its_words_or_all_by_none_is_no_target(query: str, rule: str) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        parse_target({"query": query})

    assert (refused.value.code, refused.value.field) == ("invalid_request", "target.query")
    assert refused.value.rule.startswith(rule)


@pytest.mark.parametrize(
    ("query", "hosts", "excluded"),
    [
        ("web", ("web1", "web2"), {"web3": "revoked"}),
        ("web -group:db", ("web1",), {"web3": "revoked"}),
        ("state:online", ("web1",), {}),
        ("state:pending", ("by1", "web2"), {}),
        ("state:revoked,retired", (), {"web3": "revoked"}),
        ("os:debian", ("web1",), {}),
        ("-os:debian", ("by1", "web2"), {"web3": "revoked"}),
        ("is:drift", ("web1",), {}),
        ("is:maintenance agent:0.1 label:env=prod", ("web1",), {}),
        ("is:quarantined", ("web2",), {}),
        ("is:basic", ("by1",), {}),
        ("old1", (), {}),
    ],
)
def test_a_query_finds_by_what_the_log_says_and_the_rest_by_what_was_heard(
    query: str, hosts: tuple[str, ...], excluded: Mapping[str, str]
) -> None:
    fleet = a_mixed_fleet()
    fleet.apply(HostLabelsChanged(hostname="web1", based_on=1, labels={"env": "prod"}), 8)
    fleet.apply(HostMaintenanceChanged(hostname="web1", based_on=8, maintenance=True), 9)
    key_id = signing.key_id(fleet.hosts["web2"].public_key)
    fleet.apply(
        HostQuarantined(hostname="web2", heartbeat_seq=1, key_id=key_id, reason="a copy", before="1", after="0"), 10
    )
    heard = Presence(state="online", basic=False, os="Debian 12", agent_version="0.1.0", groups_bound=["db"])
    presences = {"web1": heard, "old1": heard, "by1": replace(UNHEARD, basic=True)}

    frozen = freeze(fleet, Query(query), presences, as_of=7)

    assert frozen.hosts == hosts
    assert {host.hostname: host.reason for host in frozen.excluded} == excluded


@pytest.mark.parametrize(
    ("target", "hosts", "excluded"),
    [
        (All(), ("by1", "web1", "web2"), {"web3": "revoked"}),
        (Group("web"), ("web1", "web2"), {"web3": "revoked"}),
        (Group("nobody"), (), {}),
        (OneHost("web1"), ("web1",), {}),
        (Hosts(("web2", "web1", "web2")), ("web1", "web2"), {}),
        (
            Hosts(("web3", "old1", "web9", "web1")),
            ("web1",),
            {"old1": "retired", "web3": "revoked", "web9": "not registered"},
        ),
    ],
)
def test_a_target_is_frozen_to_sorted_hosts_and_says_who_is_left_out(
    target: Target, hosts: tuple[str, ...], excluded: Mapping[str, str]
) -> None:
    frozen = freeze(a_mixed_fleet(), target, {}, as_of=7)

    assert frozen.hosts == hosts
    assert frozen.excluded == tuple(Excluded(hostname=name, reason=reason) for name, reason in excluded.items())
    assert (frozen.as_of, frozen.sha256) == (7, hosts_digest(hosts))


@pytest.mark.parametrize(
    ("presences", "basic"),
    [
        ({}, ("by1",)),
        ({"by1": UNHEARD, "web1": UNHEARD}, ("by1",)),
        ({"by1": FULL}, ()),
        ({"by1": FULL, "web1": BASIC}, ("web1",)),
    ],
)
def test_an_agent_is_what_it_last_said_and_before_that_basic_unless_it_enrolled(
    presences: Mapping[str, Presence], basic: tuple[str, ...]
) -> None:
    assert freeze(a_mixed_fleet(), All(), presences, as_of=7).basic == basic


def test_basic_agents_are_left_out_of_what_they_cannot_do_with_that_reason() -> None:
    frozen = freeze(a_mixed_fleet(), All(), {"by1": BASIC}, as_of=7, needs_full_agent="env, stdin")

    assert frozen.hosts == ("web1", "web2")
    assert Excluded(hostname="by1", reason="basic agent: no env, stdin") in frozen.excluded
    assert frozen.basic == ()


@pytest.mark.parametrize(
    ("target", "code", "named"),
    [
        (OneHost("web9"), "unknown_host", "web9"),
        (OneHost("web3"), "host_not_active", "web3 (revoked)"),
        (Hosts(("web1", "old1")), "host_not_active", "old1 (retired)"),
        (Hosts(tuple(f"x{n}" for n in range(12))), "unknown_host", "and 2 more"),
    ],
)
def test_a_named_host_that_cannot_be_commanded_refuses_the_whole_target(target: Target, code: str, named: str) -> None:
    with pytest.raises(RefusedError) as refused:
        check_named(a_mixed_fleet(), target)

    assert refused.value.code == code
    assert named in refused.value.detail


@pytest.mark.parametrize("target", [All(), Group("web"), Group("nobody"), OneHost("web1")])
def test_a_group_is_no_naming_of_its_members(target: Target) -> None:
    check_named(a_mixed_fleet(), target)


@given(
    groups=st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(["g", "h"]))),
    revoked=st.sets(st.sampled_from(NAMES)),
    basic=st.sets(st.sampled_from(NAMES)),
    target=st.sampled_from(
        [All(), Group("g"), OneHost("a1"), Hosts(("a1", "c1", "e1")), Query("group:g -state:offline")]
    ),
    needs=st.sampled_from([None, "stdin"]),
)
def test_freezing_agrees_with_an_oracle(
    groups: dict[str, set[str]], revoked: set[str], basic: set[str], target: Target, needs: str | None
) -> None:
    fleet = FleetState()
    for seq, (name, of) in enumerate(groups.items(), start=1):
        fleet.apply(a_registration(name, *sorted(of), by_hand=True), seq)
    for name in revoked & groups.keys():
        fleet.apply(HostRevoked(hostname=name, based_on=fleet.hosts[name].changed_seq), 100)
    presences = {name: BASIC if name in basic else FULL for name in groups}

    frozen = freeze(fleet, target, presences, as_of=100, needs_full_agent=needs)

    meant = {
        All: set(groups),
        Group: {name for name, of in groups.items() if "g" in of},
        OneHost: {"a1"},
        Hosts: {"a1", "c1", "e1"},
        Query: {name for name, of in groups.items() if "g" in of},
    }[type(target)]
    able = {name for name in meant & groups.keys() - revoked if not (needs and name in basic)}
    assert frozen.hosts == tuple(sorted(able))
    assert {host.hostname for host in frozen.excluded} == meant - able
    assert frozen.basic == tuple(sorted(able & basic))
