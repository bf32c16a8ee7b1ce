"""What dispatch knows of the agents: who seems to be there, and who knows the required fields only."""

from typing import Any

import pytest

from control_plane.commands.hosts import Host
from control_plane.events import hosts
from control_plane.events.event import Event
from control_plane.processes.agents import Agents
from control_plane_wire.strict_json import JsonObject
from tests.support.fleet import a_registration, host_key
from tests.unit.processes.test_routes import a_view

HOST = "web1"
FULL: JsonObject = {"agent_version": "1.0"}


def online(heartbeat: JsonObject) -> hosts.HostWentOnline:
    return hosts.HostWentOnline(hostname=HOST, heartbeat_seq=1, heartbeat=heartbeat, cause="a test")


def a_host(*, is_enrolled: bool) -> Host:
    return Host(
        hostname=HOST,
        public_key=b"",
        generation=1,
        registered_seq=1,
        changed_seq=1,
        groups={},
        is_enrolled=is_enrolled,
    )


@pytest.mark.parametrize("is_enrolled", [True, False], ids=["by a token", "by hand"])
@pytest.mark.parametrize(
    ("said", "is_basic"), [([{}], True), ([FULL], False), ([FULL, {}], True), ([{}, FULL], False)], ids=str
)
def test_an_agent_is_what_it_said_last(said: list[JsonObject], is_basic: bool, is_enrolled: bool) -> None:
    agents = Agents()
    for seq, heartbeat in enumerate(said):
        agents.note(online(heartbeat), seq)

    assert agents.is_basic(a_host(is_enrolled=is_enrolled)) is is_basic


def test_a_quarantine_means_the_machine_that_was_registered_last() -> None:
    def of(key: str) -> hosts.HostQuarantined:
        key_id = host_key(key).key_id
        return hosts.HostQuarantined(hostname=HOST, heartbeat_seq=1, key_id=key_id, reason="r", before="2", after="1")

    agents = Agents.of([a_view(HOST, key_id=host_key("old").key_id)], {})
    assert (agents.is_meant(of("old")), agents.is_meant(of(HOST))) == (True, False)

    agents.note(a_registration(HOST), 9)
    assert (agents.is_meant(of("old")), agents.is_meant(of(HOST))) == (False, True)

    agents.note(hosts.HostKeySwitched(hostname=HOST, rotated_seq=10, key_id=host_key("new").key_id), 11)
    assert (agents.is_meant(of(HOST)), agents.is_meant(of("new"))) == (False, True)


def test_before_it_is_heard_only_who_came_by_a_token_has_shown_that_it_knows_more() -> None:
    assert Agents().is_basic(a_host(is_enrolled=False))
    assert not Agents().is_basic(a_host(is_enrolled=True))
    assert Agents().is_basic(None)


def test_a_host_seems_to_be_there_from_its_last_coming_online_until_it_is_said_to_be_gone() -> None:
    agents = Agents()
    agents.note(online(FULL), 7)
    agents.note(online(FULL), 9)
    agents.note(hosts.HostWentStale(hostname=HOST, heartbeat_seq=1, heartbeat={}, cause="a test"), 10)
    assert agents.online == {HOST: 9}

    agents.note(hosts.HostWentOffline(hostname=HOST, heartbeat_seq=1, heartbeat={}, cause="a test"), 11)
    assert agents.online == {}
    assert not agents.is_basic(a_host(is_enrolled=False)), "what it said is not forgotten"


@pytest.mark.parametrize(
    "event",
    [
        hosts.HostRevoked(hostname=HOST, based_on=1),
        hosts.HostRetired(hostname=HOST, based_on=1),
        a_registration(HOST, generation=2),
    ],
    ids=lambda event: event.KIND,
)
def test_whoever_comes_next_under_a_name_is_another(event: Event) -> None:
    agents = Agents()
    agents.note(online({}), 7)
    agents.note(event, 8)

    assert (agents.online, agents.heard) == ({}, {})


@pytest.mark.parametrize(
    ("state", "is_there", "is_heard"),
    [
        ("online", True, True),
        ("stale", True, True),
        ("offline", False, True),
        ("pending", False, False),
        ("revoked", False, False),
        ("retired", False, False),
    ],
)
def test_it_goes_on_from_what_the_tables_say(state: str, is_there: bool, is_heard: bool) -> None:
    view: dict[str, Any] = {"state": state, "facts": {}}

    agents = Agents.of([a_view(HOST, **view)], {HOST: 7, "unknown": 8})

    assert agents.online == ({HOST: 7} if is_there else {})
    assert agents.heard == ({HOST: True} if is_heard else {})
