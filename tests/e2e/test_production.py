"""The main job on real parts: RabbitMQ, MariaDB, a server and agents as processes of their own."""

import base64
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url

from tests.support.programs import PASSWORD, Installation, Program, follow_json_lines, json_lines, run
from tests.support.servers import DatabaseServer, wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq]


@pytest.fixture
def installation(tmp_path: Path, mysql_url: str, amqp_url: str) -> Iterator[Installation]:
    made = Installation(tmp_path / "cp", mysql_url, amqp_url)
    yield made
    made.close()


def test_three_agents_in_two_groups_run_commands_for_one_a_group_and_all(installation: Installation) -> None:
    api = installation.initialise()
    for hostname, groups in {"web1": ["web"], "web2": ["web", "canary"], "db1.example.com": ["db"]}.items():
        installation.add_agent(hostname, *groups)
    api.online(["web1", "web2", "db1.example.com"])

    one = api.finished(api.run({"host": "web1"}, "echo one; exit 3"))
    group = api.finished(api.run({"group": "web"}, "echo group"))
    everyone = api.finished(api.run({"all": True}, "echo all"))
    chosen = api.finished(api.run({"hosts": ["web2", "db1.example.com"]}, "echo chosen"))

    assert {name: (row["state"], row["exit_code"]) for name, row in one.items()} == {"web1": ("failed", 3)}
    assert {name: row["state"] for name, row in group.items()} == {"web1": "succeeded", "web2": "succeeded"}
    assert set(everyone) == {"web1", "web2", "db1.example.com"}
    assert set(chosen) == {"web2", "db1.example.com"}
    task_id = next(iter(everyone.values()))["task_id"]
    output = api.get(f"/tasks/{task_id}/executions/db1.example.com/output", stream="stdout")
    assert output["data"] == "all\n"


def test_a_killed_server_and_a_killed_agent_lose_nothing_and_run_nothing_twice(
    installation: Installation, tmp_path: Path
) -> None:
    api = installation.initialise()
    witness = tmp_path / "witness"
    witness.touch()
    for hostname in ("web1", "web2", "web3"):
        installation.add_agent(hostname, "web")
    api.online(["web1", "web2", "web3"])

    first = api.run({"group": "web"}, f"sleep 1; echo $CONTROL_PLANE_TASK_ID >> {witness}")
    wait_until(
        lambda: any(row["state"] in {"accepted", "running"} for row in api.executions(first).values()),
        timeout_s=20,
        what="an execution runs",
    )
    installation.server.kill()
    installation.agents["web2"].kill()
    installation.start()
    installation.agents["web2"].start()
    second = api.run({"all": True}, f"echo $CONTROL_PLANE_TASK_ID >> {witness}")

    for task_id in (first, second):
        states = {name: row["state"] for name, row in api.finished(task_id).items()}
        assert states == dict.fromkeys(("web1", "web2", "web3"), "succeeded")
        assert witness.read_text().split().count(task_id) == 3
    verified = installation.control_plane("projections", "verify")
    assert "differs" not in verified
    assert "equal" in verified


def test_a_server_whose_account_may_only_add_to_the_log_does_the_main_job(
    tmp_path: Path, mysql_url: str, amqp_url: str, database_server: DatabaseServer
) -> None:
    url = make_url(mysql_url)
    name = f"app{secrets.token_hex(5)}"
    with database_server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE USER {name}@'%' IDENTIFIED BY 'x'")
        limited = url.set(username=name, password="x").render_as_string(hide_password=False)
        installation = Installation(tmp_path / "cp", limited, amqp_url)
        try:
            given = installation.environment | {"CONTROL_PLANE_ADMIN_DATABASE_URL": mysql_url}
            argv = ["control-plane", "init", "--username", "admin", "--password-stdin"]
            run(argv, environment=given, stdin=PASSWORD + "\n", cwd=installation.directory)
            api = installation.initialise()  # once more, without the administrator
            installation.add_agent("web1", "web")
            api.online(["web1"])

            argv = ["control-plane", "events", "tail", "--follow", "--kind", "execution", "--host", "web1"]
            tail = Program(argv, log=tmp_path / "tail.log", environment=installation.environment).start()

            done = api.finished(api.run({"group": "web"}, "echo done"))

            assert {row["state"] for row in done.values()} == {"succeeded"}
            wait_until(lambda: "execution.finished" in tail.text(), timeout_s=20, what="the result is in the tail")
            tail.signal(signal.SIGINT)
            wait_until(tail.has_ended, timeout_s=20, what="the tail ends")
            assert "Traceback" not in tail.text()
            assert "differs" not in installation.control_plane("projections", "rebuild")
            ready = httpx.get(f"{installation.url}/readyz").json()
            assert {check["name"]: check["state"] for check in ready["checks"]}["room in the logs"] == "ok"
            assert "room for" in run(
                ["control-plane", "log", "maintain"], environment=given, cwd=installation.directory
            )
        finally:
            installation.close()
            cursor.execute(f"DROP USER {name}@'%'")


def test_an_offline_host_gets_its_command_when_it_returns(installation: Installation) -> None:
    api = installation.initialise()
    agent = installation.add_agent("web1")
    api.online(["web1"])
    agent.stop()
    task_id = api.run({"host": "web1"}, "echo back")
    assert api.executions(task_id)["web1"]["state"] == "queued"

    agent.start()

    assert api.finished(task_id)["web1"]["state"] == "succeeded"


def test_a_foreign_agent_that_knows_only_the_required_fields_does_the_whole_job(
    installation: Installation, tmp_path: Path
) -> None:
    api = installation.initialise()
    control_plane_key = next(key["public_key"] for key in api.get("/keys")["items"])
    private_key = secrets.token_bytes(32)
    seen = tmp_path / "seen.jsonl"
    program = Path(__file__).with_name("foreign_agent.py")
    argv = [sys.executable, str(program), installation.amqp_url, "other.example.com", "web"]
    with seen.open("wb") as log:
        foreign = subprocess.Popen([*argv, private_key.hex(), control_plane_key], stdout=log)
    try:
        follow_json_lines(seen, until=lambda line: line["saw"] == "key", timeout_s=20)
        public_key = next(json_lines(seen))["public_key"]
        api.post("/hosts", {"hostname": "other.example.com", "public_key": public_key, "groups": ["web"]})
        api.online(["other.example.com"])
        wait_until(
            lambda: {0, 1} <= {p["cpu_usage"] for p in api.get("/hosts/other.example.com/heartbeats")["items"]},
            timeout_s=20,
            what="heartbeats with usages of exactly 0 and 1",
        )

        tasks = {
            "cmd.node.other.example.com": api.run({"host": "other.example.com"}, "echo node"),
            "cmd.group.web": api.run({"group": "web"}, "echo group"),
            "cmd.all": api.run({"all": True}, "echo everyone"),
        }
        for task_id in tasks.values():
            assert api.finished(task_id)["other.example.com"]["state"] == "succeeded"
        api.post(f"/tasks/{api.run({'host': 'other.example.com'}, 'sleep 1')}/cancel")
        last = api.finished(api.run({"host": "other.example.com"}, "echo last"))
        assert last["other.example.com"]["state"] == "succeeded"
    finally:
        foreign.terminate()
        foreign.wait()

    received = {line["task_id"]: line["routing_key"] for line in json_lines(seen) if line["saw"] == "command"}
    assert {task_id: received[task_id] for task_id in tasks.values()} == {t: key for key, t in tasks.items()}
    assert [line for line in json_lines(seen) if line["saw"] in {"not understood", "forged"}] == []
    assert base64.b64decode(public_key) != private_key


def test_the_command_lines_say_what_is_wrong_in_one_line(installation: Installation, tmp_path: Path) -> None:
    broken = Program(
        ["control-plane", "serve"],
        log=tmp_path / "broken.log",
        environment=installation.environment
        | {"CONTROL_PLANE_LISTEN": "nowhere", "CONTROL_PLANE_AMQP_URL": "http://x"},
    ).start()
    wait_until(broken.has_ended, timeout_s=20, what="a server with wrong settings ends")

    assert broken.process is not None
    assert broken.process.returncode == 2
    assert "CONTROL_PLANE_LISTEN" in broken.text()
    assert "CONTROL_PLANE_AMQP_URL" in broken.text()
    assert "Traceback" not in broken.text()
    assert json.dumps("secret") not in broken.text()
