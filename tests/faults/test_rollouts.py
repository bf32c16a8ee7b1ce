"""Rollouts with real processes: the server dies at each of their steps, and they go on as if it had not.

The witness is a file outside the system: a command writes to it when it begins and when it ends, with one write each.
"""

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from tests.support.programs import Installation
from tests.support.servers import wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq, pytest.mark.campaign]

HOSTS = ("web1", "web2", "web3", "web4", "web5")
POINTS = [f"rollout.{when}_append:{number}" for when in ("before", "after") for number in (1, 2, 3)]


@pytest.fixture
def installation(tmp_path: Path, mysql_url: str, amqp_url: str) -> Iterator[Installation]:
    made = Installation(tmp_path / "cp", mysql_url, amqp_url)
    api = made.initialise()
    for hostname in HOSTS:
        made.add_agent(hostname, "web")
    api.online(HOSTS)
    yield made
    made.close()


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    (tmp_path / "witness").touch()
    return tmp_path / "witness"


def witnessed(witness: Path, *, fails: bool = False) -> str:
    return f"echo + >> {witness}; sleep 0.3; echo - >> {witness}{'; exit 3' if fails else ''}"


def starts(witness: Path) -> int:
    return witness.read_text().split().count("+")


def most_at_once(witness: Path) -> int:
    return max(accumulate(1 if word == "+" else -1 for word in witness.read_text().split()))


def state(installation: Installation, task_id: str) -> str:
    return str(installation.api.get(f"/tasks/{task_id}")["state"])


def crash(installation: Installation) -> None:
    installation.server.kill()
    installation.start()


@pytest.mark.parametrize("point", POINTS)
def test_a_rollout_whose_server_is_killed_at_a_step_goes_on_and_runs_once_on_each_host(
    installation: Installation, witness: Path, point: str
) -> None:
    installation.server.stop()
    installation.start(CONTROL_PLANE_FAILPOINT=point)
    rollout = {"max_concurrency": 2, "max_errors": 0, "canary": ["web3"], "wait": 1}
    body = {"target": {"group": "web"}, "command": witnessed(witness), "timeout": 30, "user": "root"}
    installation.api.post("/tasks", {**body, "task_id": "slow", "rollout": rollout})
    wait_until(installation.server.has_ended, timeout_s=60, what=f"{point} was hit")
    installation.start()

    rows = installation.api.finished("slow", timeout_s=90)

    assert {row["state"] for row in rows.values()} == {"succeeded"}, rows
    assert starts(witness) == len(HOSTS)
    assert most_at_once(witness) <= 2
    first, *_, last = sorted(HOSTS, key=lambda name: rows[name]["started_at"])
    assert (first, last) == ("web3", "web5")
    assert "differs" not in installation.control_plane("projections", "verify")
    installation.control_plane("audit", "verify")


def test_an_approval_outlives_the_server_and_errors_end_a_rollout(installation: Installation, witness: Path) -> None:
    api = installation.api
    api.run({"group": "web"}, witnessed(witness), task_id="asks", rollout={"canary": 2, "wait": "approve"})
    wait_until(lambda: state(installation, "asks") == "paused", timeout_s=60, what="an approval is asked for")
    crash(installation)
    assert state(installation, "asks") == "paused"
    assert starts(witness) == 2

    api.post("/tasks/asks/resume")
    rows = api.finished("asks")
    assert {row["state"] for row in rows.values()} == {"succeeded"}
    assert starts(witness) == len(HOSTS)

    witness.write_text("")
    api.run({"group": "web"}, witnessed(witness, fails=True), task_id="fails", rollout={"max_errors": 1})
    rows = api.finished("fails")
    states = [rows[name]["state"] for name in HOSTS]
    assert states == ["failed", "failed", "skipped", "skipped", "skipped"]
    assert starts(witness) == 2
    assert rows["web5"]["reason"] == "rollout stopped: 2 of 5 failed, at most 1 may"

    again = api.post("/tasks/fails/retry", {"states": ["failed", "skipped"], "hosts": ["web2", "web5"]})
    rows = api.finished(again["task"]["task_id"])
    assert sorted(rows) == ["web2", "web5"]
    assert api.get("/tasks/fails")["retries"] == [again["task"]["task_id"]]


def test_a_paused_task_is_sent_nothing_though_the_server_is_killed_and_goes_on_when_it_is_resumed(
    installation: Installation, witness: Path
) -> None:
    api = installation.api
    api.run({"group": "web"}, witnessed(witness), task_id="paused", rollout={"canary": ["web5"], "wait": 3600})
    wait_until(lambda: starts(witness) == 1, timeout_s=60, what="the canary runs")
    paused = api.post("/tasks/paused/pause", {"reason": "a look at it"})
    crash(installation)
    crash(installation)
    assert api.get("/tasks/paused", min_seq=paused["seq"])["state"] == "paused"
    resumed = api.post("/tasks/paused/resume")
    assert api.get("/tasks/paused", min_seq=resumed["seq"])["state"] == "running"

    api.post("/tasks/paused/cancel")
    rows = api.finished("paused")
    assert [rows[name]["state"] for name in HOSTS] == ["cancelled"] * 4 + ["succeeded"]
    assert starts(witness) == 1
