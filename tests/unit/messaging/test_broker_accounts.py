"""What an agent's account may do at the broker: its own agent's work, and nothing of anybody else."""

import re
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.commands.hosts import Host
from control_plane.messaging.broker_accounts import (
    account_of,
    commands_for,
    groups_of,
    is_account,
    is_account_of,
    rights_of,
    virtual_host_of,
)
from control_plane_wire.topology import (
    COMMAND_EXCHANGE,
    MONITOR_EXCHANGE,
    RESULT_EXCHANGE,
    agent_topology,
    command_key,
    group_key,
    output_key,
    result_key,
)
from tests.support.fleet import host_key


def a_host(hostname: str, *groups: str) -> Host:
    return Host(
        hostname=hostname,
        public_key=host_key(hostname).public_key,
        generation=1,
        registered_seq=1,
        changed_seq=1,
        groups=dict.fromkeys(groups, 1),
    )


RIGHTS = rights_of("web1.example.com", ("db", "web"))
LABEL = st.from_regex(r"[a-z0-9](?:[a-z0-9_-]{0,8}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=3).map(".".join)


def may(pattern: str, text: str) -> bool:
    """As the broker decides: the pattern may match anywhere."""
    return re.search(pattern, text) is not None


@given(hostname=NAME, groups=st.sets(NAME, max_size=3))
def test_its_own_agent_may_do_all_that_it_does(hostname: str, groups: set[str]) -> None:
    rights, topology = rights_of(hostname, groups), agent_topology(hostname, groups)
    for queue in topology.queues:
        assert may(rights.configure, queue.name)
        assert may(rights.write, queue.name)
        assert may(rights.read, queue.name)
    for binding in topology.bindings:
        assert may(rights.read, binding.exchange)
        assert may(rights.topics[binding.exchange][1], binding.routing_key)
    for exchange, key in (
        (RESULT_EXCHANGE, result_key(hostname)),
        (MONITOR_EXCHANGE, output_key(hostname)),
        (MONITOR_EXCHANGE, "heartbeat"),
    ):
        assert may(rights.write, exchange)
        assert may(rights.topics[exchange][0], key)


@given(hostname=NAME, groups=st.sets(NAME, max_size=3))
def test_rights_tell_the_groups_that_they_are_for(hostname: str, groups: set[str]) -> None:
    rights = rights_of(hostname, groups)
    wider = {**rights.topics, COMMAND_EXCHANGE: ("^$", "^(cmd.all|.*)$")}

    assert groups_of(rights, hostname) == groups
    assert groups_of(replace(rights, write=".*"), hostname) == frozenset()
    assert groups_of(replace(rights, topics=wider), hostname) == frozenset()
    assert groups_of(replace(rights, topics={}), hostname) == frozenset()


@given(mine=NAME, other=NAME, groups=st.sets(NAME, max_size=2), strange=NAME)
def test_and_nothing_of_anybody_else(mine: str, other: str, groups: set[str], strange: str) -> None:
    rights = rights_of(mine, groups)
    if other != mine:
        queue = command_key(other)
        assert not any(may(pattern, queue) for pattern in (rights.configure, rights.write, rights.read))
        assert not may(rights.topics[COMMAND_EXCHANGE][1], queue)
        assert not may(rights.topics[RESULT_EXCHANGE][0], result_key(other))
        assert not may(rights.topics[MONITOR_EXCHANGE][0], output_key(other))
    if strange not in groups:
        assert not may(rights.topics[COMMAND_EXCHANGE][1], group_key(strange))
    assert not may(rights.topics[COMMAND_EXCHANGE][0], command_key(mine))


@pytest.mark.parametrize("key", ["#", "cmd.#", "cmd.*.*", "cmd.node.*", "cmd.node.web1.example.com.#", "cmd.group.#"])
def test_no_wildcard_may_be_bound(key: str) -> None:
    assert not may(RIGHTS.topics[COMMAND_EXCHANGE][1], key)


@pytest.mark.parametrize(
    "name",
    [
        "cmd.node.web1xexample.com",  # a dot is a dot
        "xcmd.node.web1.example.com",
        "cmd.node.web1.example.com.x",
        "cmd.node.web1.example.com\nx",
        "cmd.result",
        "monitor.heartbeat",
        "",
        "amq.topic",
    ],
)
def test_no_other_name_fits(name: str) -> None:
    assert not any(may(pattern, name) for pattern in (RIGHTS.configure, RIGHTS.write, RIGHTS.read))


def test_an_account_tells_nothing_of_the_name_and_is_another_one_for_another_key() -> None:
    one, two = a_host("web1"), a_host("web2")
    assert is_account(account_of(one))
    assert len({account_of(one), account_of(two), account_of(replace(one, registered_seq=9))}) == 3
    strange = ("guest", "h-", "h-web1", "h-web1-1", f"x{account_of(one)}", f"{account_of(one)}x", "h-0123456789abcdef")
    assert not any(is_account(name) for name in strange)
    assert is_account_of(account_of(one), one.public_key)
    assert not is_account_of(account_of(one), two.public_key)


@pytest.mark.parametrize(
    ("url", "name"),
    [("amqp://broker", "/"), ("amqp://broker/", "/"), ("amqp://u:p@broker:1/fleet", "fleet"), ("amqp://b/%2Fx", "/x")],
)
def test_the_virtual_host_of_an_address(url: str, name: str) -> None:
    assert virtual_host_of(url) == name


def test_what_is_to_be_typed_has_every_right() -> None:
    host = a_host("web1", "web", "db")
    lines = list(commands_for(host, "/"))

    assert lines[0].endswith(f"|| rabbitmqctl add_user {account_of(host)}")
    assert f"{account_of(host)} sys_cmd_exchange '^$' '^(cmd\\.node\\.web1|cmd\\.all|cmd\\.group\\.db|" in lines[2]
    assert len([line for line in lines if "set_topic_permissions" in line]) == 3


def test_what_is_to_be_typed_is_taken_by_a_shell_for_what_it_is() -> None:
    host, virtual_host = a_host("web1", "web"), "a fleet's; touch hacked"
    rights = rights_of("web1", ("web",))
    exists, *given = [shlex.split(line) for line in commands_for(host, virtual_host)]

    assert exists[-4:] == ["||", "rabbitmqctl", "add_user", account_of(host)]  # so it may be typed again
    assert given[0][2:] == ["-p", virtual_host, account_of(host), rights.configure, rights.write, rights.read]
    assert given[1][2:] == ["-p", virtual_host, account_of(host), COMMAND_EXCHANGE, *rights.topics[COMMAND_EXCHANGE]]
    assert given[-1][2:] == [account_of(host), '{"max-connections": 2, "max-channels": 16}']
