"""A machine whose disk is put back to an earlier state: it has forgotten what it ran, and is sent nothing."""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import Api, Installation
from tests.support.servers import Broker, DatabaseServer, wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq]

HOST = "web1"

# The agent on a machine that says another boot id.
BOOTED = """
import sys
from pathlib import Path
from control_plane_agent import assembly
from control_plane_agent.cli import main
assembly.BOOT_ID = Path(sys.argv.pop(1))
sys.exit(main(["run"]))
"""


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, database_server: DatabaseServer, broker: Broker
) -> Iterator[Installation]:
    with database_server.database() as url, broker.virtual_host() as amqp_url:
        made = Installation(tmp_path_factory.mktemp("restored") / "cp", url, amqp_url)
        made.initialise()
        yield made
        made.close()


def hear(api: Api, number: int) -> None:
    """Wait until so many heartbeats more are heard than have been."""
    for _ in range(number):
        before = api.get(f"/hosts/{HOST}")["last_heartbeat_at"]
        wait_until(
            lambda: api.get(f"/hosts/{HOST}")["last_heartbeat_at"] != before,  # noqa: B023 - it ends before the next
            timeout_s=20,
            what="it is heard",
        )


def test_a_restored_machine_is_sent_nothing_until_an_administrator_trusts_it_and_runs_nothing_twice(
    installation: Installation, tmp_path: Path
) -> None:
    api, witness, boot_id = installation.api, tmp_path / "witness", tmp_path / "boot_id"
    agent = installation.add_agent(HOST, start=False)
    agent.argv = [sys.executable, "-c", BOOTED, str(boot_id)]
    agent.environment["CONTROL_PLANE_AGENT_INTERVAL_S"] = "1"
    state, saved = installation.directory / HOST / "state", tmp_path / "saved"

    def boots(number: int) -> None:
        boot_id.write_text(f"00000000-0000-0000-0000-{number:012}\n")
        agent.start()

    def runs(expected: str = "succeeded") -> str:
        task_id = api.run({"host": HOST}, f"echo $CONTROL_PLANE_TASK_ID >> {witness}")
        assert api.finished(task_id)[HOST]["state"] == expected
        return task_id

    def quarantine() -> dict[str, str] | None:
        found: dict[str, str] | None = api.get(f"/hosts/{HOST}")["quarantine"]
        return found

    boots(1)
    api.online([HOST])
    before = runs()
    agent.stop()
    shutil.copytree(state, saved)
    saved_s = int(time.time())
    boots(1)
    api.online([HOST])
    wait_until(lambda: time.time() >= saved_s + 1, timeout_s=5, what="the journal is further by a second")
    forgotten = runs()
    hear(api, 2)
    agent.kill()
    killed_s = int(time.time())
    shutil.rmtree(state)
    shutil.copytree(saved, state)
    wait_until(lambda: time.time() >= killed_s + 2, timeout_s=5, what="as long as no machine boots in")
    boots(2)
    wait_until(lambda: quarantine() is not None, timeout_s=20, what="it is in quarantine")

    found = quarantine()
    assert found is not None
    assert found["reason"] == "its journal went back in time"
    api.online([HOST])
    waiting = api.run({"host": HOST}, f"echo $CONTROL_PLANE_TASK_ID >> {witness}")
    wait_until(
        lambda: api.get("/events", task_id=waiting, kind="execution.returned")["items"],
        timeout_s=20,
        what="dispatch has said that it sends nothing",
    )
    assert api.executions(waiting)[HOST]["state"] == "queued"
    assert witness.read_text().split() == [before, forgotten]

    api.post(f"/hosts/{HOST}/lift-quarantine", {"reason": "restored on purpose"})
    assert api.finished(waiting)[HOST]["state"] == "succeeded"
    hear(api, 3)

    assert quarantine() is None
    assert witness.read_text().split() == [before, forgotten, waiting], "each has run once"
    assert api.executions(forgotten)[HOST]["state"] == "succeeded"
    kinds = [row["kind"] for row in api.get("/events", hostname=HOST, kind="host", limit=100)["items"]]
    assert [kind for kind in kinds if "quarantine" in kind] == ["host.quarantine_lifted", "host.quarantined"]
    assert kinds.index("host.quarantined") > kinds.index("host.went_online"), "first, so nothing goes to it meanwhile"
