"""Messages that come twice, in another order, late, or to another host, on the real broker: nothing runs twice."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane import settings
from control_plane.core import open_core
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

# The agent with a clock that stands at what is in a file, as long as there is one: not that of the machine.
STANDS = """
import pathlib, sys
from control_plane_agent.cli import main
from control_plane_wire.clock import SystemClock
real, stands_at = SystemClock.now_us, pathlib.Path(sys.argv.pop(1))
SystemClock.now_us = lambda clock: int(stands_at.read_text()) * 1_000_000 if stands_at.exists() else real(clock)
SystemClock.now_s = lambda clock: clock.now_us() // 1_000_000
sys.exit(main(["run"]))
"""
LATE_S = {"in-time": -1, "within-skew": ALLOWED_SKEW_S - 1, "beyond-skew": ALLOWED_SKEW_S + 1, "hours-late": 7200}
TRIES = 3  # of what has a second to be started in: this machine may take longer


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


def test_what_comes_late_runs_within_the_skew_that_is_allowed_and_never_later_nor_on_another_host(
    trial: Trial, tmp_path: Path
) -> None:
    """By the host's clock, which stands: a command that waited for it is looked at so long after it has expired."""
    api, url, stands_at = trial.api, trial.amqp_url, tmp_path / "clock"
    web1, web2 = (trial.installation.agents[hostname] for hostname in HOSTS)
    web1.stop()
    web1.argv = [web1.argv[0].replace("control-plane-agent", "python"), "-c", STANDS, str(stands_at)]
    web1.start()
    trial.until_connected("web1")
    copies: dict[str, Message] = {}

    def is_in_its_queue(task_id: str) -> bool:
        copies.update({json.loads(message.body)["task_id"]: message for message in queues.tapped(url, COMMANDS)})
        return task_id in copies

    def outcome(task_id: str, late_s: int) -> tuple[str, str | None]:
        web1.signal(signal.SIGSTOP)
        trial.submit(task_id, {"hosts": ["web1"]})
        wait_until(lambda: is_in_its_queue(task_id), timeout_s=30, what=f"{task_id} waits for its host")
        stands_at.write_text(str(json.loads(copies[task_id].body)["expires_at"] + late_s))
        web1.signal(signal.SIGCONT)
        row = api.finished(task_id)["web1"]
        return row["state"], row["reason"]

    ended: dict[str, tuple[str, str | None]] = {}
    for name, late_s in LATE_S.items():
        for task_id in (f"{name}-{number}" for number in range(TRIES)):
            ended[task_id] = outcome(task_id, late_s)
            if ended[task_id] != ("expired", "expired before it could be started"):
                break
    ran = {task_id for task_id, (state, _) in ended.items() if state in {"succeeded", "failed"}}

    # Where the time is right again, what was refused as late is the same as before; and no copy is for another host.
    web1.signal(signal.SIGSTOP)
    stands_at.unlink()
    web1.signal(signal.SIGCONT)
    before = duplicates(trial)
    trial.injected += send_one_by_one(trial, [copies[task_id] for task_id in ended])
    trial.absorbed = duplicates(trial) - before
    others = [
        Message(exchange=COMMAND_EXCHANGE, routing_key=command_key("web2"), body=copies[task_id].body)
        for task_id in ended
    ]
    queues.publish(url, others)
    wait_until(lambda: web2.text().count("not signed by") == len(others), timeout_s=30, what="web2 has refused all")

    trial.settle()
    assert {task_id.rpartition("-")[0] for task_id in ran} == {"in-time", "within-skew"}, ended
    assert ended["beyond-skew-0"] == ("expired", f"expired {ALLOWED_SKEW_S + 1} s ago")
    assert ended["hours-late-0"] == ("expired", "expired 7200 s ago")
    runs = witness.read(trial.witness)
    assert (set(runs["web1"]), runs.get("web2", [])) == (ran, [])
    trial.assert_sound()


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
