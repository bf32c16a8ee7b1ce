"""kill -9 at every step between a request and its projected result: nothing is lost and nothing runs twice.

The witness is a file outside the system: each run of the command appends its task id to it with one write.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.programs import Api, Installation
from tests.support.servers import wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq]

HOSTS = ("web1", "web2")
SERVER = (
    "log.before_commit",
    "log.after_commit",
    "accept.before_commit",
    "accept.after_commit",
    "dispatch.before_publish",
    "dispatch.after_publish",
    "dispatch.before_sent",
    "dispatch.after_sent",
    "ingest.received",
    "ingest.before_commit",
    "ingest.after_commit",
    "ingest.after_ack",
    "projector.before_commit",
    "projector.after_commit",
)
AGENT = (
    "agent.received",
    "agent.journalled",
    "agent.acked",
    "agent.before_start",
    "supervisor.started",
    "supervisor.running",
    "supervisor.finished",
    "agent.before_publish",
    "agent.confirmed",
    "agent.done",
)


@pytest.fixture
def installation(tmp_path: Path, mysql_url: str, amqp_url: str) -> Iterator[Installation]:
    made = Installation(tmp_path / "cp", mysql_url, amqp_url)
    api = made.initialise()
    for hostname in HOSTS:
        made.add_agent(hostname, "web")
    api.online(HOSTS)
    yield made
    made.close()


def submit_until_answered(installation: Installation, task_id: str, command: str) -> int:
    """As a careful client does: repeat a request whose outcome is unknown, with the same task_id.

    The server is started again where it has died; returns how often.
    """
    body = {"task_id": task_id, "target": {"group": "web"}, "command": command, "timeout": 30, "user": "root"}
    restarts = 0

    def answered() -> bool:
        nonlocal restarts
        if installation.server.has_ended():
            installation.start()
            restarts += 1
        try:
            answer = installation.api.http.post("/tasks", json=body)
        except httpx.HTTPError:
            return False
        assert answer.status_code in {200, 202, 503}, answer.text
        return answer.is_success

    wait_until(answered, timeout_s=60, what=f"{task_id} is answered")
    return restarts


def assert_ran_once_everywhere(api: Api, task_id: str, witness: Path) -> None:
    expected = hashlib.sha256(task_id.encode()).hexdigest()
    for hostname, row in api.finished(task_id, timeout_s=90).items():
        assert row["state"] == "succeeded", row
        output = api.get(f"/tasks/{task_id}/executions/{hostname}/output", stream="stdout")
        assert output["data"].split()[0] == expected
    assert witness.read_text().split().count(task_id) == len(HOSTS)


def a_witnessed_command(witness: Path) -> str:
    return f"echo $CONTROL_PLANE_TASK_ID >> {witness}; printf %s $CONTROL_PLANE_TASK_ID | sha256sum"


@pytest.mark.parametrize("point", SERVER)
def test_a_server_killed_at_a_step_loses_nothing_and_runs_nothing_twice(
    installation: Installation, tmp_path: Path, point: str
) -> None:
    witness = tmp_path / "witness"
    witness.touch()
    installation.server.stop()
    installation.server.start(CONTROL_PLANE_FAILPOINT=point)
    task_id = f"killed-at-{point.replace('.', '-')}"

    if not submit_until_answered(installation, task_id, a_witnessed_command(witness)):
        wait_until(installation.server.has_ended, timeout_s=60, what=f"{point} was hit")
        installation.start()

    assert_ran_once_everywhere(installation.api, task_id, witness)
    assert "differs" not in installation.control_plane("projections", "verify")


@pytest.mark.parametrize("point", AGENT)
def test_an_agent_killed_at_a_step_loses_nothing_and_runs_nothing_twice(
    installation: Installation, tmp_path: Path, point: str
) -> None:
    witness = tmp_path / "witness"
    witness.touch()
    agent = installation.agents["web1"]
    agent.stop()
    hits = tmp_path / "hits"
    hits.touch()
    agent.start(CONTROL_PLANE_AGENT_FAILPOINT=point, CONTROL_PLANE_AGENT_FAILPOINT_LOG=str(hits))
    task_id = f"killed-at-{point.replace('.', '-')}"

    submit_until_answered(installation, task_id, a_witnessed_command(witness))
    wait_until(lambda: point in hits.read_text().split(), timeout_s=60, what=f"{point} was hit")
    if not point.startswith("supervisor."):
        wait_until(agent.has_ended, timeout_s=30, what="the agent is killed")
        agent.start()

    rows = installation.api.finished(task_id, timeout_s=90)
    runs = witness.read_text().split().count(task_id)
    # A supervisor that dies with its command in hand can only say so: at most once, and an honest outcome.
    interrupted = point in {"supervisor.started", "supervisor.running"}
    assert rows["web2"]["state"] == "succeeded"
    assert rows["web1"]["state"] == ("interrupted" if interrupted else "succeeded"), rows["web1"]
    assert runs in ({1, 2} if interrupted else {2})
