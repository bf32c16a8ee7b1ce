"""Messages that come twice, in another order, late, or to another host, on the real broker: nothing runs twice."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane import settings
from control_plane.bootstrap import open_core
from control_plane_wire.messages import ALLOWED_SKEW_S, CommandMessage, seal
from control_plane_wire.signing import COMMAND, CONTROL_PLANE
from control_plane_wire.topology import COMMAND_EXCHANGE, RESULT_EXCHANGE, agent_queue, command_key, result_key
from control_plane_wire.transport.base import Message
from tests.support.faults import queues, witness
from tests.support.faults.trial import VISITOR, Trial
from tests.support.programs import Installation
from tests.support.servers import wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq]

HOSTS = ("web1", "web2")
TIMES = 5
COMMANDS, RESULTS = "tap.commands", "tap.results"


@pytest.fixture
def trial(tmp_path: Path, mysql_url: str, amqp_url: str) -> Iterator[Trial]:
    installation = Installation(tmp_path / "cp", mysql_url, amqp_url)
    try:
        api = installation.initialise()
        for hostname in HOSTS:
            installation.add_agent(hostname, "web")
        api.online(HOSTS)
        queues.tap(amqp_url, COMMANDS, COMMAND_EXCHANGE, "cmd.#")
        queues.tap(amqp_url, RESULTS, RESULT_EXCHANGE, "result.#")
        made = Trial(tmp_path / "observed", installation)
        yield made
        made.close()
    finally:
        installation.close()


def of_task(messages: list[Message], task_id: str) -> list[Message]:
    return [message for message in messages if json.loads(message.body)["task_id"] == task_id]


def duplicates(trial: Trial) -> int:
    return trial.counted().get("duplicates", 0)


def send_one_by_one(trial: Trial, messages: list[Message]) -> int:
    """Each is a duplicate in the end, which is waited for before the next is sent; how many."""
    for message in messages:
        before = duplicates(trial)
        queues.publish(trial.amqp_url, [message])
        wait_until(lambda before=before: duplicates(trial) > before, timeout_s=20, what="the duplicate is counted")
    return len(messages)


async def seal_for(installation: Installation, hostname: str, message: CommandMessage) -> bytes:
    """What the control plane would sign for a host; for tests that forge nothing but the time."""
    given = settings.load(database_url=installation.database_url, state_dir=installation.directory / "state")
    async with open_core(given) as core:
        key = core.keyring.active
        return seal(message.to_json(), key, COMMAND, sender=CONTROL_PLANE, recipient=command_key(hostname))


def test_every_message_five_times_in_any_order_late_and_to_somebody_else(trial: Trial) -> None:
    url = trial.amqp_url
    trial.submit("t1", {"hosts": ["web1"]})
    trial.submit("slow", {"hosts": ["web1"]}, seconds=3)
    trial.settle()
    before = duplicates(trial)
    commands, results = queues.tapped(url, COMMANDS), queues.tapped(url, RESULTS)
    [command] = of_task(commands, "t1")
    assert {json.loads(message.body).get("kind") for message in of_task(results, "slow")} == {None, "accepted"}

    # Each command and each result five times; what was said while it ran comes again when it is over, the last first.
    trial.injected += send_one_by_one(trial, [command] * TIMES)
    trial.injected += send_one_by_one(trial, of_task(results, "t1") * TIMES)
    trial.injected += send_one_by_one(trial, list(reversed(of_task(results, "slow"))))
    trial.absorbed = duplicates(trial) - before
    trial.poll()

    # web1's command under web2's key, and under everybody's; and something whose time is over.
    now_s = int(json.loads(command.body)["timestamp"])
    late = CommandMessage(
        task_id="late",
        command=witness.command(trial.witness),
        timeout=30,
        user="root",
        timestamp=now_s - 7200,
        expires_at=now_s - ALLOWED_SKEW_S - 1,
    )
    body = asyncio.run(seal_for(trial.installation, "web1", late))
    queues.publish(
        url,
        [
            Message(exchange=COMMAND_EXCHANGE, routing_key=command_key("web2"), body=command.body),
            Message(exchange=COMMAND_EXCHANGE, routing_key="cmd.all", body=command.body),
            Message(exchange=COMMAND_EXCHANGE, routing_key=command_key("web1"), body=body),
            Message(exchange=RESULT_EXCHANGE, routing_key=result_key("web2"), body=of_task(results, "t1")[-1].body),
        ],
    )
    trial.poison.add(queues.digest_of(of_task(results, "t1")[-1].body))  # signed by web1, and said by web2
    trial.forged |= trial.poison
    trial.forge("web1")
    for _ in range(3):
        trial.ask_for_what_is_denied()
    trial.submit("after", {"group": "web"})  # in the same queues, so that what came before it was looked at
    trial.settle()

    assert witness.read(trial.witness).get("web2", []) == ["after"]
    assert "late" not in witness.read(trial.witness)["web1"]
    evidence = trial.assert_sound()
    assert evidence.absorbed is not None
    assert evidence.absorbed >= evidence.injected >= 3 * TIMES - 3
    assert (len(evidence.forged), evidence.denied) == (2, {VISITOR: (3, 3)})


def test_commands_that_come_in_another_order_than_they_were_given_run_once_each(trial: Trial) -> None:
    """Somebody has copies of what waits for a host, and sends them the last first as soon as that is there."""
    installation, url = trial.installation, trial.amqp_url
    installation.agents["web1"].stop()
    task_ids = [f"t{number}" for number in range(6)]
    for task_id in task_ids:
        trial.submit(task_id, {"hosts": ["web1"]})
    copies: dict[str, Message] = {}

    def all_were_published() -> bool:
        copies.update({json.loads(message.body)["task_id"]: message for message in queues.tapped(url, COMMANDS)})
        return copies.keys() >= set(task_ids)

    wait_until(all_were_published, timeout_s=30, what="all were published")
    installation.server.kill()
    installation.agents["web1"].start()
    wait_until(lambda: queues.exists(url, agent_queue("web1")), timeout_s=30, what="the agent is there")
    queues.publish(url, [copies[task_id] for task_id in reversed(task_ids)] * 2)
    installation.start()

    trial.settle()
    assert set(witness.read(trial.witness)["web1"]) == set(task_ids)
    trial.assert_sound()
