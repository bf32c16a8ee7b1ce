import json
import re
from pathlib import Path

import pytest

from control_plane_wire import topology
from control_plane_wire.errors import MalformedMessageError
from control_plane_wire.topology import CONTROL_PLANE_TOPOLOGY, Binding, agent_topology, watching, watching_topology


@pytest.mark.parametrize(
    "name", ["a", "web1", "web1.example.com", "a_b", "a-b.c-d", "1", "a" * 63, ".".join(["ab"] * 67)]
)
def test_lower_case_labels_joined_by_dots_are_names(name: str) -> None:
    assert topology.check_hostname(name) == name
    assert topology.host_of_result_key(topology.result_key(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "A",
        "ä",
        "１",
        "a b",
        "a\n",
        "a*",
        "#",
        "*",
        "a/b",
        "_a",
        "a_",
        "-a",
        "a-",
        "a" * 64,
        "a." * 100 + "a",
    ],
)
def test_nothing_else_reaches_a_routing_key(name: str) -> None:
    for make in (topology.command_key, topology.group_key, topology.result_key, topology.agent_queue):
        with pytest.raises(MalformedMessageError):
            make(name)


@pytest.mark.parametrize(
    "key", ["", "result", "result.node", "result.node.", "result.web1", "cmd.node.web1", "result.node.A"]
)
def test_a_key_that_names_no_host_is_malformed(key: str) -> None:
    with pytest.raises(MalformedMessageError):
        topology.host_of_result_key(key)


def test_the_agents_queue_is_its_own_and_bound_to_all_three_kinds_of_key() -> None:
    declared = agent_topology("web1.example.com", ["web", "eu.web"])

    [queue] = declared.queues
    assert (queue.name, queue.exclusive, queue.durable) == ("cmd.node.web1.example.com", True, False)
    assert declared.exchanges == ()
    assert declared.bindings == tuple(
        Binding(queue=queue.name, exchange="sys_cmd_exchange", routing_key=key)
        for key in ("cmd.node.web1.example.com", "cmd.all", "cmd.group.web", "cmd.group.eu.web")
    )


def test_the_control_plane_declares_what_the_protocol_says() -> None:
    assert CONTROL_PLANE_TOPOLOGY.exchanges == ("sys_cmd_exchange", "sys_result_exchange", "sys_monitor_exchange")
    assert [queue.name for queue in CONTROL_PLANE_TOPOLOGY.queues] == [
        "cmd.result",
        "cmd.result.dead",
        "monitor.heartbeat",
        "monitor.heartbeat.dead",
        "monitor.output",
    ]
    assert all(queue.durable and not queue.exclusive for queue in CONTROL_PLANE_TOPOLOGY.queues)
    assert [(b.queue, b.exchange, b.routing_key) for b in CONTROL_PLANE_TOPOLOGY.bindings] == [
        ("cmd.result", "sys_result_exchange", "result.#"),
        ("monitor.heartbeat", "sys_monitor_exchange", "heartbeat"),
        ("monitor.output", "sys_monitor_exchange", "output.node.#"),
    ]


def test_nobody_who_does_not_read_makes_live_output_pile_up() -> None:
    [output] = [queue for queue in CONTROL_PLANE_TOPOLOGY.queues if queue.name == "monitor.output"]
    definitions = json.loads((Path(__file__).parents[3] / "deploy/rabbitmq/definitions.json").read_text())
    [policy] = [policy for policy in definitions["policies"] if re.fullmatch(policy["pattern"], output.name)]

    assert policy["definition"] == {
        "max-length": output.most_messages,
        "max-length-bytes": output.most_bytes,
        "message-ttl": 10_000,
        "overflow": "drop-head",
    }


def test_who_watches_has_a_queue_of_its_own_that_forgets() -> None:
    [queue] = watching_topology("monitor.output.x").queues

    assert (queue.exclusive, queue.durable) == (True, False)
    assert (queue.most_messages, queue.most_bytes) == (1000, 16 * 1024 * 1024)
    assert watching_topology("monitor.output.x").bindings == ()
    assert watching("monitor.output.x", "web1.example.com") == Binding(
        queue="monitor.output.x", exchange="sys_monitor_exchange", routing_key="output.node.web1.example.com"
    )
