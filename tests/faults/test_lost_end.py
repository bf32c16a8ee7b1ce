"""The database comes back from a backup of a while ago: nothing is taken until an administrator has decided."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.programs import Api, Installation
from tests.support.servers import PrivateDatabase, stop, wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq, pytest.mark.campaign]

TASK = {"target": {"all": True}, "command": "true", "timeout": 30, "user": "root"}


@pytest.fixture
def database() -> Iterator[PrivateDatabase]:
    try:
        database = PrivateDatabase()
    except FileNotFoundError:
        pytest.skip("MariaDB is not installed: run scripts/test as root on Debian")
    yield database
    database.close()


def signed(installation: Installation, log: str) -> int:
    """How many events of a log the checkpoint outside the database is over."""
    return int((installation.directory / "state/checkpoints" / log).read_text().splitlines()[1])


def recorded(database: PrivateDatabase, url: str) -> dict[str, int]:
    """How many events there are, by log."""
    with database.server.connect() as connection, connection.cursor() as cursor:
        connection.select_db(url.rpartition("/")[2])
        cursor.execute("SELECT log, seq FROM log_head")
        return {bytes(log).decode(): int(seq) for log, seq in cursor.fetchall()}


def test_a_database_from_a_backup_takes_nothing_until_somebody_says_that_it_stands(
    database: PrivateDatabase, tmp_path: Path, amqp_url: str
) -> None:
    data, backup = database.place.host / "data", database.place.host / "backup"
    with database.server.database() as url:
        installation = Installation(tmp_path / "cp", url, amqp_url)
        try:
            api = installation.initialise()
            installation.add_agent("web1")
            api.online(["web1"])
            kept = api.run({"all": True}, "true")
            api.finished(kept)
            installation.server.stop()
            stop(database.process)
            subprocess.run(["cp", "-a", str(data), str(backup)], check=True)
            database.start()
            kept_sizes = recorded(database, url)
            installation.start()
            lost = api.run({"all": True}, "true")
            sizes = {**kept_sizes, "event": len(api.every("/events"))}
            wait_until(
                lambda: all(signed(installation, log) > size - (log == "event") for log, size in sizes.items()),
                timeout_s=60,
                what="the task that is lost, and a heartbeat after the backup, are signed",
            )
            installation.server.stop()
            stop(database.process)
            subprocess.run(["rm", "-r", str(data)], check=True)
            backup.rename(data)
            database.start()

            installation.server.start()
            wait_until(lambda: "event ends at" in readiness(api), timeout_s=30, what="the log is closed")
            refused = api.http.post("/tasks", json=TASK)
            assert (refused.status_code, refused.json()["code"]) == (503, "log_closed")
            assert "control-plane log accept-loss" in refused.json()["detail"]
            assert api.get(f"/tasks/{kept}")["state"] == "finished"

            installation.server.stop()
            said = installation.control_plane("log", "accept-loss", "--reason", "the disk died")
            assert said.count("it takes events again") == 2  # of either log
            installation.start()
            api.online(["web1"])
            api.finished(api.run({"all": True}, "true"))
            assert api.http.get(f"/tasks/{lost}").status_code == 404
            assert "differs" not in installation.control_plane("projections", "verify")
        finally:
            installation.close()


def readiness(api: Api) -> str:
    try:
        answer = api.http.get("/../../readyz", timeout=5)
    except httpx.HTTPError:
        return ""
    return answer.text if answer.status_code == 503 else ""
