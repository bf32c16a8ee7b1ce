"""Two servers on one database: when the one that folds and dispatches is killed, the other goes on within its lease."""

import itertools
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pymysql
import pytest
from sqlalchemy import make_url

from control_plane.storage.leases import LEASE_S
from tests.support.programs import Api, Installation
from tests.support.servers import wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq, pytest.mark.campaign]

KILLS = 4
LEASES = 3  # of the projectors
TASK = {"target": {"all": True}, "command": "true", "timeout": 30, "user": "root"}
SLACK_S = 6  # of a busy machine, in the bound of a wait; how long it takes is printed


@pytest.fixture
def servers(tmp_path: Path, mysql_url: str, amqp_url: str) -> Iterator[list[Installation]]:
    first = Installation(tmp_path / "one", mysql_url, amqp_url)
    second = Installation(tmp_path / "two", mysql_url, amqp_url)
    try:
        first.initialise()
        (second.directory / "state").mkdir(mode=0o700)
        shutil.copy(first.directory / "state/signing.key", second.directory / "state/signing.key")
        second.api = Api(second.url, first.token)
        second.start()
        yield [first, second]
    finally:
        first.close()
        second.close()


def lease_owners(mysql_url: str) -> dict[str, int]:
    """The process id of who holds each lease of a projector now."""
    url = make_url(mysql_url)
    connection = pymysql.connect(
        host=url.host, port=url.port or 3306, user=url.username, password=str(url.password), database=url.database
    )
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT CONVERT(name USING utf8mb4), CONVERT(owner USING utf8mb4) FROM lease "
            "WHERE name LIKE 'projection:%' AND until_us > UNIX_TIMESTAMP(NOW(6)) * 1000000"
        )
        return {name: int(owner.split(":")[1]) for name, owner in cursor.fetchall()}


class Sender(threading.Thread):
    """A client that sends one task after another to a server, and keeps the ids of those that were accepted."""

    def __init__(self, servers: list[Installation]) -> None:
        super().__init__(daemon=True)
        self.servers = servers
        self.accepted: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        for number in itertools.count():
            task_id = f"t{number}"
            while not self._send(task_id):
                if self.ended.is_set():
                    return
            self.accepted.append(task_id)
            if self.ended.wait(0.02):
                return

    def _send(self, task_id: str) -> bool:
        for server in self.servers:
            try:
                answer = server.api.http.post("/tasks", json={"task_id": task_id, **TASK})
            except httpx.HTTPError:
                continue
            if answer.is_success:
                return True
        return False


@contextmanager
def sending(servers: list[Installation]) -> Iterator[Sender]:
    sender = Sender(servers)
    sender.start()
    try:
        yield sender
    finally:
        sender.ended.set()
        sender.join()


def takes_over(dead: Installation, other: Installation, sender: Sender, mysql_url: str) -> float:
    """Kill a server that holds leases; seconds until the other has them and has folded what was accepted since."""
    dead.server.kill()
    since, before = time.monotonic(), len(sender.accepted)
    wait_until(lambda: len(sender.accepted) > before + 1, timeout_s=LEASE_S, what="tasks are accepted")
    newest = sender.accepted[-1]

    def has_taken_over() -> bool:
        is_shown = other.api.http.get(f"/tasks/{newest}").status_code == 200
        return is_shown and list(lease_owners(mysql_url).values()) == [other.server.pid] * LEASES

    wait_until(has_taken_over, timeout_s=LEASE_S + SLACK_S, what="the other one folds what came after the kill")
    return time.monotonic() - since


def test_the_other_server_takes_over_when_the_lease_ends_and_applies_no_event_twice(
    servers: list[Installation], mysql_url: str
) -> None:
    servers[0].add_agent("web1", start=False)
    took_s: list[float] = []

    with sending(servers) as sender:
        for _ in range(KILLS):
            wait_until(lambda: len(lease_owners(mysql_url)) == LEASES, timeout_s=30, what="all leases are held")
            pids = lease_owners(mysql_url).values()
            holder, other = sorted(servers, key=lambda server: server.server.pid not in pids)
            took_s.append(takes_over(holder, other, sender, mysql_url))
            holder.start()
    print("taken over after", ", ".join(f"{seconds:.2f}" for seconds in took_s), "s")

    for server in servers:
        server.api.shown(sender.accepted[-1])
    verified = servers[0].control_plane("projections", "verify")
    assert "differs" not in verified
    assert "equal" in verified
    recorded = servers[0].control_plane("events", "export", "--kind", "task.accepted").splitlines()
    assert sorted(json.loads(line)["task_id"] for line in recorded) == sorted(sender.accepted)
