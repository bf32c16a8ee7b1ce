"""A running `control-plane dev`, for what looks at it from outside: tests of the pages, benchmarks, pictures."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import Api, Program
from tests.support.servers import free_port, wait_until

# How much one session may ask for is another test's: those of the pages go from one to the next as fast as they can.
UNLIMITED = {"CONTROL_PLANE_SESSION_RATE": "0", "CONTROL_PLANE_TOKEN_RATE": "0"}
START_S = 60


@dataclass
class Dev:
    """A running `control-plane dev`."""

    url: str
    login_url: str
    api: Api
    hostname: str
    state: Path
    program: Program

    def start_again(self) -> None:
        """Start it on the same address and state, after it was stopped or killed."""
        document = self.state / "dev.json"
        document.unlink(missing_ok=True)
        self.program.start()
        wait_until(document.exists, timeout_s=START_S, what=f"dev is up again: {self.program.text()[-2000:]}")
        said = json.loads(document.read_text())
        self.login_url = said["login_url"]
        self.api.http.headers["Authorization"] = f"Bearer {said['token']}"


@contextmanager
def running(directory: Path, *, agents: int) -> Iterator[Dev]:
    """Start one with simulated hosts in a directory, all of them online, until the block ends."""
    directory.mkdir(exist_ok=True)
    state, listen = directory / "state", f"127.0.0.1:{free_port()}"
    argv = ["control-plane", "dev", "--agents", str(agents), "--state-dir", str(state), "--listen", listen]
    program = Program(argv, log=directory / "dev.log", environment=UNLIMITED).start()
    try:
        wait_until((state / "dev.json").exists, timeout_s=START_S, what=f"dev is up: {program.text()}")
        document = json.loads((state / "dev.json").read_text())
        api = Api(document["url"], document["token"])
        with api.http:
            wait_until(lambda: len(api.every("/hosts")) == agents + 1, timeout_s=20, what="all hosts are registered")
            hosts = {row["hostname"]: row["groups"] for row in api.every("/hosts")}
            api.online(list(hosts))
            [hostname] = [name for name, groups in hosts.items() if groups == ["local"]]
            yield Dev(document["url"], document["login_url"], api, hostname, state, program)
    finally:
        program.stop()
