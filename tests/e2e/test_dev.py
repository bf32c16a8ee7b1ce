"""What `control-plane dev` leaves to programs, and what it keeps from other people."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.support.programs import Program
from tests.support.servers import wait_until

Start = Callable[[], tuple[Program, httpx.Client]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts it on one state directory; a client with the token of its `dev.json`."""
    document = tmp_path / "state" / "dev.json"
    argv = ["control-plane", "dev", "--state-dir", str(document.parent), "--listen", "127.0.0.1:0"]
    started: list[Program] = []

    def begin() -> tuple[Program, httpx.Client]:
        document.unlink(missing_ok=True)
        program = Program(argv, log=tmp_path / "dev.log", environment={}).start()
        started.append(program)
        wait_until(document.exists, timeout_s=60, what=f"dev is up: {program.text()}")
        told = json.loads(document.read_text())
        return program, httpx.Client(
            base_url=f"{told['url']}/api/v1", headers={"authorization": f"Bearer {told['token']}"}
        )

    yield begin
    for program in started:
        program.kill()


def test_the_token_for_programs_is_good_while_it_runs_and_new_at_each_start(start: Start, tmp_path: Path) -> None:
    first, api = start()
    with api:
        [token] = api.get("/tokens").raise_for_status().json()["items"]
        of_first = api.headers["authorization"]
    assert datetime.fromisoformat(token["expires_at"]) - datetime.now(UTC) > timedelta(days=300)
    first.kill()

    second, api = start()
    with api:
        assert api.get("/tokens", headers={"authorization": of_first}).status_code == 401
        [token] = api.get("/tokens").raise_for_status().json()["items"]
    assert second.stop() == 0
    assert not (tmp_path / "state" / "dev.json").exists()

    third, api = start()
    with api:
        ended = api.get("/events", params={"kind": "token.revoked", "after": 0}).raise_for_status().json()["items"]
        made = api.get("/events", params={"kind": "token.created", "after": 0}).raise_for_status().json()["items"]
    assert [event["actor"] for event in ended] == ["console"] * 2
    assert ended[0]["seq"] < made[1]["seq"] < ended[1]["seq"] < made[2]["seq"]
    third.stop()
