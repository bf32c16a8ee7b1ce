"""What `control-plane dev` leaves to programs, and what it keeps from other people."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.support.programs import Program
from tests.support.servers import free_port, wait_until

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

        def seqs(kind: str) -> list[int]:
            listed = api.get("/events", params={"kind": kind, "after": 0}).raise_for_status().json()["items"]
            return [event["seq"] for event in listed]

        wait_until(lambda: len(seqs("token.created")) == 3, timeout_s=20, what="three tokens are in the trail")
        [first_made, second_made, third_made] = seqs("token.created")
        [first_ended, second_ended] = seqs("token.revoked")
    assert first_made < first_ended < second_made < second_ended < third_made
    third.stop()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_its_state_is_its_owner_s_alone_and_what_was_wider_is_narrowed(start: Start, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)

    for _ in range(2):
        program, api = start()
        api.close()
        files = [path for path in state.rglob("*") if path.is_file()]
        assert {path.name for path in files} >= {"control-plane.db", "control-plane.db-wal", "signing.key", "dev.json"}
        assert [path for path in files if mode(path) & 0o077 and path.parent == state] == []
        assert mode(state) == 0o700
        program.stop()
        state.chmod(0o755)
        (state / "control-plane.db").chmod(0o644)


def test_a_directory_that_is_somebody_else_s_is_left_as_it_is(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    (state / "thesis.txt").write_text("all there is")
    argv = ["control-plane", "dev", "--state-dir", str(state), "--listen", "127.0.0.1:0"]

    program = Program(argv, log=tmp_path / "dev.log", environment={}).start()
    wait_until(program.has_ended, timeout_s=30, what="it ends")

    assert program.process is not None
    assert program.process.returncode == 2
    [line] = program.text().splitlines()
    assert line.startswith(f"control-plane: {state} may be read by others and has other files in it")
    assert (mode(state), [path.name for path in state.iterdir()]) == (0o755, ["thesis.txt"])


def test_it_listens_where_the_settings_say_and_the_option_says_otherwise(tmp_path: Path) -> None:
    asked = f"127.0.0.1:{free_port()}"
    for number, (said, option) in enumerate(((asked, []), ("0.0.0.0:80", ["--listen", asked]))):
        document = tmp_path / str(number) / "dev.json"
        argv = ["control-plane", "dev", "--state-dir", str(document.parent), *option]
        program = Program(argv, log=tmp_path / "dev.log", environment={"CONTROL_PLANE_LISTEN": said}).start()
        try:
            wait_until(document.exists, timeout_s=60, what=f"dev is up: {program.text()}")
            assert json.loads(document.read_text())["url"] == f"http://{asked}"
        finally:
            program.stop()


@pytest.mark.parametrize(("said", "option"), [("0.0.0.0:8000", []), ("127.0.0.1:8000", ["--listen", "0.0.0.0:8000"])])
def test_it_listens_to_nobody_else_and_says_which_setting_asks_for_that(
    tmp_path: Path, said: str, option: list[str]
) -> None:
    argv = ["control-plane", "dev", "--state-dir", str(tmp_path / "state"), *option]
    program = Program(argv, log=tmp_path / "dev.log", environment={"CONTROL_PLANE_LISTEN": said}).start()
    wait_until(program.has_ended, timeout_s=30, what="it ends")

    assert program.process is not None
    assert program.process.returncode == 2
    [line] = program.text().splitlines()
    wrong = "--listen" if option else "CONTROL_PLANE_LISTEN"
    assert line.startswith(f"control-plane: {wrong}: 0.0.0.0:8000 is not on this machine alone")
