"""One message to many is only right where it reaches exactly the frozen list; else it goes host by host."""

from collections.abc import Iterable
from typing import Any

import pytest

from control_plane.processes.routes import FanOut, fan_out, members_of
from control_plane.projections.queries.hosts import HostView
from control_plane_wire.errors import MalformedMessageError
from tests.support.clock import START_US
from tests.support.fleet import a_fleet

ALL = {"all": True}
WEB = {"group": "web"}


def a_view(hostname: str, **changes: Any) -> HostView:
    """A host in the group web that is online and says that it has bound it."""
    values = {
        "hostname": hostname,
        "state": "online",
        "state_since_us": START_US,
        "state_cause": None,
        "registered_us": START_US,
        "key_id": None,
        "groups": ["web"],
        "labels": {},
        "maintenance": False,
        "pos": 1,
        "last_heartbeat_us": START_US,
        "interval_s": 10,
        "cpu_usage": 0.1,
        "memory_usage": 0.1,
        "groups_bound": ["web"],
        "facts": {"agent_version": "1.0"},
        "heartbeat_seq": 1,
        "usage_pos": 1,
        **changes,
    }
    return HostView(**values)


def key_for(
    target: dict[str, Any],
    *fleet: HostView,
    hosts: Iterable[str] = ("web1", "web2"),
    members: Iterable[str] = ("web1", "web2"),
) -> str | None:
    found = found_for(target, *fleet, hosts=hosts, members=members)
    assert found is None or found.unless_there == ()
    return found.key if found else None


def found_for(
    target: dict[str, Any],
    *fleet: HostView,
    hosts: Iterable[str] = ("web1", "web2"),
    members: Iterable[str] = ("web1", "web2"),
) -> FanOut | None:
    return fan_out(target, list(hosts), fleet, list(members))


def test_members_are_those_of_the_group_or_everybody_unless_one_has_come_since() -> None:
    fleet = a_fleet({"web1": ["web"], "web2": ["web"], "db1": ["db"]})

    assert members_of(fleet, WEB, as_of=2) == ["web1", "web2"]
    assert members_of(fleet, WEB, as_of=1) is None
    assert members_of(fleet, ALL, as_of=3) == ["db1", "web1", "web2"]
    assert members_of(fleet, ALL, as_of=2) is None
    assert members_of(fleet, {"group": "nobody"}, as_of=0) == []


def test_a_whole_group_that_is_online_gets_one_message() -> None:
    assert key_for(WEB, a_view("web1"), a_view("web2")) == "cmd.group.web"


def test_a_whole_fleet_that_is_online_gets_one_message() -> None:
    assert key_for(ALL, a_view("web1"), a_view("web2", groups=["db"], groups_bound=["db"])) == "cmd.all"


@pytest.mark.parametrize(
    "target", [{"hosts": ["web1", "web2"]}, {"all": False}, {"labels": {"site": "a"}}, {"group": None}, {}], ids=str
)
def test_any_other_target_goes_host_by_host(target: dict[str, Any]) -> None:
    assert key_for(target, a_view("web1"), a_view("web2")) is None


@pytest.mark.parametrize("target", [ALL, WEB], ids=str)
@pytest.mark.parametrize("members", [("web1",), ("web1", "web2", "web3"), ("web1", "web3"), ()], ids=str)
def test_a_list_that_is_not_the_whole_membership_goes_host_by_host(
    target: dict[str, Any], members: tuple[str, ...]
) -> None:
    fleet = [a_view("web1"), a_view("web2"), a_view("web3", state="offline")]

    assert key_for(target, *fleet, members=members) is None


@pytest.mark.parametrize("target", [ALL, WEB], ids=str)
@pytest.mark.parametrize("state", ["pending", "stale", "offline", "revoked", "retired", ""])
def test_one_host_of_the_list_that_is_not_online_means_host_by_host(target: dict[str, Any], state: str) -> None:
    assert key_for(target, a_view("web1"), a_view("web2", state=state)) is None


@pytest.mark.parametrize("target", [ALL, WEB], ids=str)
def test_a_host_of_the_list_that_no_table_knows_means_host_by_host(target: dict[str, Any]) -> None:
    assert key_for(target, a_view("web1")) is None


def test_a_member_that_has_not_bound_the_group_yet_means_host_by_host() -> None:
    assert key_for(WEB, a_view("web1"), a_view("web2", groups_bound=["db"])) is None
    assert key_for(WEB, a_view("web1"), a_view("web2", groups_bound=[])) is None


def test_what_a_member_has_bound_does_not_matter_to_a_message_for_everybody() -> None:
    assert key_for(ALL, a_view("web1"), a_view("web2", groups_bound=[])) == "cmd.all"


def test_a_basic_agent_says_nothing_of_its_groups_and_is_taken_to_have_those_it_was_given() -> None:
    assert key_for(WEB, a_view("web1"), a_view("web2", groups_bound=None)) == "cmd.group.web"
    assert key_for(WEB, a_view("web1"), a_view("web2", groups_bound=None, groups=["db"])) is None


@pytest.mark.parametrize("state", ["online", "stale", "pending"])
def test_somebody_else_who_may_still_have_bound_the_group_means_host_by_host(state: str) -> None:
    left = a_view("web3", groups=["db"], groups_bound=["web"], state=state)
    basic = a_view("web3", groups=["web"], groups_bound=None, state=state)

    assert key_for(WEB, a_view("web1"), a_view("web2"), left) is None
    assert key_for(WEB, a_view("web1"), a_view("web2"), basic) is None
    assert key_for(ALL, a_view("web1"), a_view("web2"), a_view("web3", state=state)) is None


@pytest.mark.parametrize("state", ["revoked", "retired"])
def test_somebody_whose_heartbeats_are_refused_is_in_the_way_only_while_its_queue_is_there(state: str) -> None:
    left = a_view("web3", groups=["db"], groups_bound=["web"], state=state)
    basic = a_view("web3", groups=["web"], groups_bound=None, state=state)
    other_group = a_view("web3", groups_bound=["db"], state=state)
    never_heard = a_view("web3", state=state, last_heartbeat_us=None)
    ours = (a_view("web1"), a_view("web2"))

    assert found_for(WEB, *ours, left) == FanOut("cmd.group.web", ("web3",))
    assert found_for(WEB, *ours, basic) == FanOut("cmd.group.web", ("web3",))
    assert found_for(ALL, *ours, other_group) == FanOut("cmd.all", ("web3",))
    assert found_for(WEB, *ours, other_group) == FanOut("cmd.group.web")
    assert found_for(ALL, *ours, never_heard) == FanOut("cmd.all")
    assert found_for(ALL, *ours, left, a_view("web4")) is None


def test_somebody_in_quarantine_who_is_not_heard_is_in_the_way_only_while_its_queue_is_there() -> None:
    kept = a_view("web3", state="offline", quarantined_us=START_US)
    ours = (a_view("web1"), a_view("web2"))

    assert found_for(WEB, *ours, kept) == FanOut("cmd.group.web", ("web3",))
    assert found_for(WEB, *ours, a_view("web3", quarantined_us=START_US)) is None


@pytest.mark.parametrize(
    "other",
    [
        a_view("db1", groups=["db"], groups_bound=["db"]),
        a_view("db1", groups=["db"], groups_bound=None),
        a_view("db1", state="offline"),
        a_view("db1", state="pending", last_heartbeat_us=None, groups_bound=None),
    ],
    ids=["of another group", "basic, of another group", "offline", "never heard"],
)
def test_somebody_who_cannot_have_bound_the_group_is_in_nobodys_way(other: HostView) -> None:
    assert key_for(WEB, a_view("web1"), a_view("web2"), other) == "cmd.group.web"


@pytest.mark.parametrize("group", ["*", "#", "web.#", "Web", ""])
def test_a_group_that_is_no_name_never_becomes_a_routing_key(group: str) -> None:
    with pytest.raises(MalformedMessageError):
        key_for({"group": group}, a_view("web1"), a_view("web2"))
