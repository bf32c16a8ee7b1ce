"""A host is let in by its fingerprint, takes a new key while it works, and is out within seconds when it is revoked."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.events.access import MessageRejected
from control_plane_agent.identity import read_key
from control_plane_wire.messages import seal
from control_plane_wire.proofs import fingerprint, in_groups
from control_plane_wire.signing import CONTROL_PLANE, HEARTBEAT, RESULT, SigningKey
from control_plane_wire.topology import HEARTBEAT_KEY, MONITOR_EXCHANGE, RESULT_EXCHANGE, result_key
from control_plane_wire.transport.base import Message
from tests.e2e.test_broker_accounts import accounts
from tests.support.faults import queues
from tests.support.programs import Installation, Program
from tests.support.servers import Broker, wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq]

EVERYWHERE_S = 30.0  # for a loaded machine; how long it took is printed


@pytest.fixture
def installation(tmp_path: Path, mysql_url: str, amqp_url: str, broker: Broker) -> Iterator[Installation]:
    if broker.api_url is None:
        pytest.skip("needs CONTROL_PLANE_TEST_BROKER_API_URL")
    extra = {"CONTROL_PLANE_BROKER_API_URL": broker.api_url, "CONTROL_PLANE_PENDING_HOSTS": "4"}
    made = Installation(tmp_path / "cp", mysql_url, amqp_url, extra=extra)
    before = accounts(broker)
    yield made
    made.close()
    for user in accounts(broker) - before:
        broker.call("DELETE", f"/api/users/{user}")


def key_of(installation: Installation, hostname: str) -> SigningKey:
    return read_key((installation.directory / hostname / "state" / "identity" / "key").read_bytes())


def said(key: SigningKey, task_id: str, hostname: str = "web1") -> list[Message]:
    """A result and a heartbeat, as whoever has the key can send them."""
    now_s = int(time.time())
    result = {"task_id": task_id, "exit_code": 0, "stdout": "", "stderr": "", "timestamp": now_s}
    beat = {"hostname": hostname, "status": "online", "timestamp": now_s, "cpu_usage": 0, "memory_usage": 0}
    bodies = [
        seal(message, key, tag, sender=hostname, recipient=CONTROL_PLANE)
        for message, tag in ((result, RESULT), (beat, HEARTBEAT))
    ]
    return [
        Message(exchange=RESULT_EXCHANGE, routing_key=result_key(hostname), body=bodies[0]),
        Message(exchange=MONITOR_EXCHANGE, routing_key=HEARTBEAT_KEY, body=bodies[1]),
    ]


def events(installation: Installation, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = installation.api.get("/events", kind=kind, limit=1000)["items"]
    return found


def is_running(installation: Installation, task_id: str, hostname: str) -> bool:
    return installation.api.executions(task_id)[hostname]["state"] == "running"


def test_a_host_accepted_by_its_fingerprint_takes_a_new_key_without_losing_anything(
    installation: Installation, broker: Broker
) -> None:
    api = installation.initialise()
    directory = installation.directory / "web1"
    directory.mkdir()
    environment = {"CONTROL_PLANE_AGENT_STATE_DIR": str(directory / "state")}
    argv = ["control-plane-agent", "enrol", "--server", installation.url, "--hostname", "web1", "--wait", "120"]
    enrol = Program(argv, log=directory / "enrol.log", environment=environment).start()
    try:
        wait_until(lambda: api.get("/pending-hosts")["items"], timeout_s=30, what="web1 waits")
        old = key_of(installation, "web1")
        shown = in_groups(fingerprint(old.public_key))
        assert shown in enrol.text()
        assert shown in installation.control_plane("hosts", "pending")
        installation.control_plane("hosts", "accept", "web1", *shown.split(), "--group", "web")
        wait_until(enrol.has_ended, timeout_s=30, what=f"it is enrolled: {enrol.text()}")
    finally:
        enrol.kill()
    assert "groups: web" in enrol.text()
    agent = Program(["control-plane-agent", "run"], log=directory / "agent.log", environment=environment).start()
    installation.agents["web1"] = agent
    api.online(["web1"])
    before = accounts(broker)

    counted = directory / "ran"
    tasks = [api.run({"host": "web1"}, f"sleep 2; echo {n} >> {counted}") for n in range(3)]
    wait_until(lambda: is_running(installation, tasks[0], "web1"), timeout_s=20, what="it works")
    rotate = Program(
        ["control-plane-agent", "rotate-key", "--server", installation.url],
        log=directory / "rotate.log",
        environment=environment,
    ).start()
    tasks += [api.run({"host": "web1"}, f"echo {n} >> {counted}") for n in range(3, 8)]

    wait_until(rotate.has_ended, timeout_s=30, what="it is asked for")
    rotate.kill()
    wait_until(lambda: events(installation, "host.key_switched"), timeout_s=30, what=f"taken: {rotate.text()}")
    states = [api.finished(task_id)["web1"]["state"] for task_id in tasks]
    new = key_of(installation, "web1")

    assert states == ["succeeded"] * len(tasks)
    assert sorted(counted.read_text().split()) == [str(n) for n in range(8)]
    assert new.public_key != old.public_key
    assert "the running agent takes the new key" in rotate.text()
    assert api.get("/hosts/web1")["key_id"] == new.key_id
    wait_until(lambda: len(accounts(broker) - before) == 1, timeout_s=30, what="it has the account of its new key")
    wait_until(
        lambda: not any(old.key_id in user for user in accounts(broker)), timeout_s=20, what="the old one is gone"
    )
    refused = len(events(installation, MessageRejected.KIND))
    queues.publish(installation.amqp_url, said(old, tasks[0]))
    wait_until(
        lambda: len(events(installation, MessageRejected.KIND)) == refused + 2, timeout_s=30, what="the old key is out"
    )
    assert api.finished(api.run({"host": "web1"}, "true"))["web1"]["state"] == "succeeded"


def test_a_revoked_host_is_out_everywhere_within_seconds(installation: Installation, broker: Broker) -> None:
    api = installation.initialise()
    token = api.post("/enrolment-tokens", {"hostname": "web1"})["token"]
    agent = installation.enrol("web1", token).start()
    installation.add_agent("db1")
    api.online(["web1", "db1"])
    key, ran = key_of(installation, "web1"), installation.directory / "ran"
    running = api.run({"host": "web1"}, "sleep 45", timeout=600)
    wait_until(lambda: is_running(installation, running, "web1"), timeout_s=20, what="a command runs")
    queued = api.run({"hosts": ["db1", "web1"]}, f"sleep 2; echo ran >> {ran}", rollout={"max_concurrency": 1})
    wait_until(lambda: is_running(installation, queued, "db1"), timeout_s=20, what="web1 is the next")
    began_s = time.monotonic()

    api.post("/hosts/web1/revoke", {"reason": "stolen"})
    wait_until(
        lambda: not any(key.key_id in user for user in accounts(broker)), timeout_s=EVERYWHERE_S, what="no account"
    )
    wait_until(lambda: "session lost" in agent.text(), timeout_s=EVERYWHERE_S, what="its connection is closed")
    queues.publish(installation.amqp_url, said(key, running))  # as if the broker's own account were stolen, too
    wait_until(
        lambda: events(installation, MessageRejected.KIND),
        timeout_s=EVERYWHERE_S,
        what="its result is refused, and evidence",
    )
    wait_until(lambda: "revoked host" in agent.text(), timeout_s=EVERYWHERE_S, what="its agent says why")
    took_s = time.monotonic() - began_s
    print(f"revoked everywhere after {took_s:.2f} s")
    host = api.get("/hosts/web1")

    assert host["state"] == "revoked"
    assert api.executions(running)["web1"]["state"] == "running"
    agent.kill()
    with pytest.raises(AssertionError, match="has ended; ask for a new one"):
        installation.enrol("web1", token)
    wait_until(
        lambda: [row for row in events(installation, "execution.returned") if row["hostname"] == "web1"],
        timeout_s=30,
        what="its turn has come, and nothing was sent",  # and so it will be `expired`
    )
    done = api.executions(queued)
    assert (done["db1"]["state"], done["web1"]["state"]) == ("succeeded", "queued")
    assert ran.read_text().split() == ["ran"]
    assert api.get("/hosts/web1")["last_heartbeat_at"] == host["last_heartbeat_at"]
