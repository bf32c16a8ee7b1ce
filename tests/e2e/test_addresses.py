"""Where the server listens, as whoever starts it learns it."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.programs import PASSWORD, Program, json_lines, run
from tests.support.servers import wait_until


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An initialised server on SQLite, which with the role `api` needs no broker."""
    made = {
        "CONTROL_PLANE_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'log.db'}",
        "CONTROL_PLANE_STATE_DIR": str(tmp_path / "server"),
    }
    argv = ["control-plane", "init", "--username", "admin", "--password-stdin"]
    run(argv, environment=made, stdin=PASSWORD + "\n", cwd=tmp_path)
    return made


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_taken_address_is_one_clear_line(tmp_path: Path, environment: dict[str, str], taken: str) -> None:
    dev = ["control-plane", "dev", "--state-dir", str(tmp_path / "state"), "--listen", taken]
    serve = ["control-plane", "serve", "--roles", "api"]

    for argv, given in ((dev, {}), (serve, {**environment, "CONTROL_PLANE_LISTEN": taken})):
        program = Program(argv, log=tmp_path / f"{argv[1]}.log", environment=given).start()
        wait_until(program.has_ended, timeout_s=30, what=f"{argv} ends")

        assert program.process is not None
        assert program.process.returncode == 2
        [line] = program.text().splitlines()
        assert line.startswith(f"control-plane: cannot listen on {taken}: Address already in use")


def test_port_0_is_a_free_port_that_is_told(tmp_path: Path, environment: dict[str, str]) -> None:
    state = tmp_path / "state"
    dev = Program(
        ["control-plane", "dev", "--state-dir", str(state), "--listen", "127.0.0.1:0"],
        log=tmp_path / "dev.log",
        environment={},
    ).start()
    serve = Program(
        ["control-plane", "serve", "--roles", "api"],
        log=tmp_path / "serve.log",
        environment={**environment, "CONTROL_PLANE_LISTEN": "127.0.0.1:0"},
    ).start()
    try:
        wait_until((state / "dev.json").exists, timeout_s=60, what=f"dev is up: {dev.text()}")
        of_dev = json.loads((state / "dev.json").read_text())["url"]
        assert re.search(rf"^control plane: {of_dev} ", dev.text(), re.MULTILINE)
        wait_until(lambda: "listening" in serve.text(), timeout_s=30, what=f"serve is up: {serve.text()}")
        [of_serve] = [line["url"] for line in json_lines(serve.log) if line["message"] == "listening"]

        for url in (of_dev, of_serve):
            assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        assert of_dev != of_serve
    finally:
        assert (dev.stop(), serve.stop()) == (0, 0)
