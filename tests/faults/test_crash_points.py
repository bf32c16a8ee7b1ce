"""kill -9 at every failpoint of the source: nothing is lost and nothing runs twice.

Each program is killed at the point in question while it does what leads there, and started again. All points are tried
on one installation, whose whole history is checked at the end. `scripts/test` tries the ones in `QUICK`.
"""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import httpx
import pytest

from control_plane import settings
from control_plane.core import open_core
from control_plane.events.tasks import TaskAccepted
from control_plane_wire.messages import HeartbeatMessage, seal
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE, HEARTBEAT, SigningKey, encode_base64
from control_plane_wire.topology import HEARTBEAT_KEY, MONITOR_EXCHANGE, RESULT_EXCHANGE, result_key
from control_plane_wire.transport.base import Message
from tests.support.faults import queues
from tests.support.faults.points import every_point
from tests.support.faults.report import SESSION
from tests.support.faults.trial import Trial
from tests.support.programs import Installation, run
from tests.support.servers import Broker, DatabaseServer, wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq]

HOSTS = ("web1", "web2")
WEB = {"group": "web"}
QUICK = {
    "accept.after_commit",
    "agent.before_publish",
    "agent.confirmed",
    "agent.done",
    "agent.journalled",
    "dispatch.after_publish",
    "dispatch.before_sent",
    "ingest.after_commit",
    "ingest.before_commit",
    "journal.named",
    "log.after_commit",
    "projector.before_commit",
    "supervisor.finished",
    "supervisor.running",
}
# A second kill, within what the first one has left to be done.
PAIRS = (
    ("log.after_commit", "dispatch.took_over"),
    ("dispatch.after_publish", "dispatch.after_publish"),
    ("dispatch.took_over", "dispatch.before_sent"),
    ("ingest.before_commit", "ingest.after_commit"),
    ("ingest.after_commit", "ingest.received"),
    ("projector.before_commit", "projector.after_commit"),
    ("agent.journalled", "agent.before_start"),
    ("journal.named", "agent.before_publish"),
    ("agent.before_publish", "agent.confirmed"),
)
# A supervisor that dies with its command in hand can only say so: at most once, and an honest outcome.
INTERRUPTED = {"supervisor.started", "supervisor.running", "supervisor.ended"}
AGENTS = ("agent.", "journal.", "supervisor.", "launcher.")


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, database_server: DatabaseServer, broker: Broker) -> Iterator[Trial]:
    directory = tmp_path_factory.mktemp("crash-points")
    with database_server.database() as mysql_url, broker.virtual_host() as amqp_url:
        installation = Installation(directory / "cp", mysql_url, amqp_url)
        try:
            api = installation.initialise()
            for hostname in HOSTS:
                installation.add_agent(hostname, "web")
            installation.add_agent("gone1", start=False)
            api.online(HOSTS)
            made = Trial(directory / "observed", installation)
            yield made
            made.close()
        finally:
            installation.close()


# --- what leads to a point of the server ------------------------------------------------------------------------------


def asks_for_a_task(trial: Trial, point: str) -> None:
    trial.submit(task_at(point), WEB)


def asks_for_a_rollout(trial: Trial, point: str) -> None:
    trial.submit(task_at(point), WEB, rollout={"max_concurrency": 1, "max_errors": "100%"})


def stops_an_agent(trial: Trial, point: str) -> None:
    trial.installation.agents["web2"].stop()


def goes_back_in_time(trial: Trial, point: str) -> None:
    """A machine of its own, whose journal says less than it has said before."""
    hostname, key = f"back-{point.partition('.')[2].replace('_', '-')}", SigningKey.generate()
    trial.installation.wait_ready()
    trial.api.post("/hosts", {"hostname": hostname, "public_key": encode_base64(key.public_key)})
    now_s = int(time.time())
    for number, head in enumerate((now_s - 100, now_s - 200)):
        heartbeat = HeartbeatMessage(
            hostname=hostname,
            status="online",
            timestamp=now_s + number,
            cpu_usage=0.1,
            memory_usage=0.2,
            agent_version="1.0",
            boot_id="one",
            sequence=1 + number,
            journal_head=head,
        )
        body = seal(heartbeat.to_json(), key, HEARTBEAT, sender=hostname, recipient=CONTROL_PLANE)
        message = Message(exchange=MONITOR_EXCHANGE, routing_key=HEARTBEAT_KEY, body=body)
        queues.publish(trial.amqp_url, [message])


def asks_for_what_nobody_ever_gets(trial: Trial, point: str) -> None:
    """A task whose time was over long ago, as the log has it where nobody dispatched for hours."""
    task_id = task_at(point)
    trial.sent[task_id] = trial.body({"hosts": ["gone1"]})
    trial.ledger.write("ask", task_id, sha256="")
    asyncio.run(accept_an_overdue_task(trial.installation, task_id, "gone1"))
    trial.ledger.write("ok", task_id)


async def accept_an_overdue_task(installation: Installation, task_id: str, hostname: str) -> None:
    given = settings.load(database_url=installation.database_url, state_dir=installation.directory / "state")
    async with open_core(given) as core:
        now_s, key = core.clock.now_s(), core.keyring.active
        task = TaskAccepted(
            task_id=task_id,
            request={
                "target": {"hosts": [hostname]},
                "command": "true",
                "timeout": 30,
                "user": "root",
                "when_offline": "queue",
                "expires_in": 600,
            },
            request_sha256=bytes(32).hex(),
            hosts=(hostname,),
            hosts_sha256=bytes(32).hex(),
            basic=(),
            as_of=core.authority.position,
            actor="admin",
            accepted_at=now_s - 7200,
            expires_at=now_s - 6600,
            guard={"level": 1, "rules": []},
        )
        signature = key.sign(AUTHORISATION, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=task.body())
        await core.log.append([task.to_new_event(actor="admin", signature=signature, key_id=key.key_id)])


def sends_what_nobody_can_read(trial: Trial, point: str) -> None:
    message = Message(exchange=RESULT_EXCHANGE, routing_key=result_key("web1"), body=b"no result at all")
    queues.publish(trial.amqp_url, [message])
    trial.poison.add(queues.digest_of(message.body))


def enrols_a_host(trial: Trial, point: str) -> None:
    """The agent's own program asks twice with the same token, as a person does where the first answer was lost."""
    installation, hostname = trial.installation, f"new-{point.partition('.')[2].replace('_', '-')}"
    directory = installation.directory / hostname
    directory.mkdir()
    installation.wait_ready()
    token = trial.api.post("/enrolment-tokens", {"hostname": hostname, "groups": []})["token"]
    argv = ["control-plane-agent", "enrol", "--server", installation.url, "--token", token, "--hostname", hostname]
    environment = {"CONTROL_PLANE_AGENT_STATE_DIR": str(directory / "state")}
    with pytest.raises(AssertionError, match=r"cannot reach|no HTTP"):
        run(argv, environment=environment, cwd=directory)
    trial.revive()
    assert f"{hostname} is enrolled" in run(argv, environment=environment, cwd=directory)


def rebuilds_a_projection(trial: Trial, point: str) -> None:
    trial.installation.wait_ready()

    def asked_until_it_dies() -> bool:
        with contextlib.suppress(httpx.HTTPError):  # refused while the lease of one that died before lasts
            trial.api.http.post("/projections/tasks/rebuild")
        return trial.installation.server.has_ended()

    wait_until(asked_until_it_dies, timeout_s=60, what=f"{point} was hit")


SERVER: dict[str, Callable[[Trial, str], None]] = {
    "presence.": stops_an_agent,
    **dict.fromkeys(("presence.before_quarantine", "presence.after_quarantine"), goes_back_in_time),
    "deadlines.": asks_for_what_nobody_ever_gets,
    "ingest.dead_lettered": sends_what_nobody_can_read,
    "enrolment.": enrols_a_host,
    "rebuild.": rebuilds_a_projection,
    "rollout.": asks_for_a_rollout,
    **dict.fromkeys(
        ("accept.", "checkpoints.", "dispatch.", "ingest.", "lease.", "log.", "projector."), asks_for_a_task
    ),
}


def what_leads_to(point: str) -> Callable[[Trial, str], None]:
    return SERVER[line_of(point, SERVER)]


def line_of(point: str, table: Iterable[str]) -> str:
    """Of the table's lines that fit, the longest."""
    fitting = [name for name in table if point.startswith(name)]
    assert fitting, f"nothing here leads to the failpoint {point}: give it a line in SERVER or AGENT"
    return max(fitting, key=len)


# --- what leads to a point of the agent -------------------------------------------------------------------------------


def gives_it_a_command(trial: Trial, task_id: str, hits: Path) -> None:
    trial.submit(task_id, WEB)


def cancels_what_runs(trial: Trial, task_id: str, hits: Path) -> None:
    trial.submit(task_id, {"hosts": ["web1"]}, seconds=50)
    trial.supervisor_of(task_id, "web1")
    trial.api.post(f"/tasks/{task_id}/cancel")


def kills_its_supervisor(trial: Trial, task_id: str, hits: Path) -> None:
    trial.submit(task_id, {"hosts": ["web1"]}, seconds=50)
    os.kill(trial.supervisor_of(task_id, "web1"), signal.SIGKILL)


def changes_its_groups(trial: Trial, task_id: str, hits: Path) -> None:
    trial.api.put(f"/groups/{task_id}/hosts/web1")
    trial.submit(task_id, {"group": task_id})


AGENT: dict[str, tuple[Callable[[Trial, str, Path], None], str]] = {
    "agent.": (gives_it_a_command, "ran"),
    "agent.cancel_journalled": (cancels_what_runs, "cancelled"),
    "agent.before_finish": (kills_its_supervisor, "interrupted"),
    "agent.after_finish": (kills_its_supervisor, "interrupted"),
    "agent.configured": (changes_its_groups, "ran"),
    "journal.": (gives_it_a_command, "ran"),
    "launcher.": (gives_it_a_command, "ran"),
    "supervisor.": (gives_it_a_command, "ran"),
    **dict.fromkeys(INTERRUPTED, (gives_it_a_command, "interrupted")),
}


# --- the runs ---------------------------------------------------------------------------------------------------------


def task_at(*points: str) -> str:
    return "-".join(point.replace(".", "-").replace("_", "-") for point in points)


def marked(points: list[str]) -> list[object]:
    return [point if point in QUICK else pytest.param(point, marks=pytest.mark.campaign) for point in points]


POINTS = list(every_point())


def test_something_leads_to_every_failpoint_of_the_source() -> None:
    assert POINTS
    for point in POINTS:
        line_of(point, AGENT if point.startswith(AGENTS) else SERVER)


@pytest.mark.parametrize("point", marked([p for p in POINTS if not p.startswith(AGENTS)]))
def test_a_server_killed_at_a_point_loses_nothing_and_runs_nothing_twice(trial: Trial, point: str) -> None:
    leads_there = what_leads_to(point)
    trial.server_dies_at(point)

    leads_there(trial, point)
    trial.until_dead()
    if trial.installation.agents["web2"].has_ended():
        trial.installation.agents["web2"].start()
    trial.api.online(HOSTS)
    trial.healed(trial.revived_s)


@pytest.mark.parametrize("point", marked([p for p in POINTS if p.startswith(AGENTS)]))
def test_an_agent_killed_at_a_point_loses_nothing_and_runs_nothing_twice(
    trial: Trial, tmp_path: Path, point: str
) -> None:
    leads_there, wanted = AGENT[line_of(point, AGENT)]
    task_id, hits = task_at(point), tmp_path / "hits"
    agent = trial.agent_dies_at("web1", point, hits)
    trial.api.online(HOSTS)

    leads_there(trial, task_id, hits)
    wait_until(lambda: point in hits.read_text().split(), timeout_s=60, what=f"{point} was hit")
    if not point.startswith(("supervisor.", "launcher.")):
        wait_until(agent.has_ended, timeout_s=30, what="the agent is killed")
    since = time.monotonic()
    trial.renew_agent("web1")
    SESSION.killed.add(point)

    trial.healed(since)
    state = trial.api.executions(task_id)["web1"]["state"]
    assert state in ({"succeeded", "failed"} if wanted == "ran" else {wanted})


@pytest.mark.campaign
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_second_kill_within_the_recovery_loses_nothing_either(
    trial: Trial, tmp_path: Path, first: str, second: str
) -> None:
    """Whatever the first one has left to be done is where the second one hits."""
    task_id, hits = task_at("pair", first, second), tmp_path / "hits"
    if first.startswith(AGENTS):
        trial.agent_dies_at("web1", first, hits)
        trial.api.online(HOSTS)
        trial.submit(task_id, WEB)
        wait_until(lambda: first in hits.read_text().split(), timeout_s=60, what=f"{first} was hit")
        wait_until(trial.installation.agents["web1"].has_ended, timeout_s=30, what="the agent is killed")
        again = tmp_path / "again"
        trial.agent_dies_at("web1", second, again)
        wait_until(lambda: second in again.read_text().split(), timeout_s=60, what=f"{second} was hit")
        since = time.monotonic()
        trial.renew_agent("web1")
    else:
        trial.server_dies_at(first, second)
        trial.submit(task_id, WEB)
        trial.until_dead()
        since = trial.revived_s
    trial.healed(since)


def test_the_whole_history_breaks_no_guarantee(trial: Trial) -> None:
    for task_id in list(trial.sent)[:3]:
        if not task_id.startswith("deadlines"):
            trial.client.repeat(task_id, trial.sent[task_id])
    evidence = trial.assert_sound()

    assert len(evidence.executions) >= len(trial.sent)
    said = trial.installation.control_plane("events", "export", "--kind", "task.accepted").splitlines()
    assert sorted(json.loads(line)["task_id"] for line in said) == sorted(trial.sent)
