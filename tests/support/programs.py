"""The product's programs as processes, as an operator runs them, and a client for what they serve."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.servers import START_TIMEOUT_S, free_port, wait_until

BIN = Path(sys.executable).parent
PASSWORD = "correct horse battery staple"
TERMINAL = frozenset(
    {"succeeded", "failed", "timed_out", "cancelled", "rejected", "expired", "interrupted", "lost", "skipped"}
)


class Program:
    """One of our programs: its output goes to a file, and it is ended by its own process id only."""

    def __init__(self, argv: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
        self.argv = [str(BIN / argv[0]), *argv[1:]]
        self.log = log
        self.environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(log.parent), **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **extra: str) -> "Program":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                env=self.environment | extra,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def stop(self, *, timeout_s: float = 20) -> int:
        """End it as an operator does; its exit status."""
        self.signal(signal.SIGTERM)
        assert self.process is not None
        try:
            return self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.argv[0]} did not stop:\n{self.text()[-3000:]}") from None

    def text(self) -> str:
        return self.log.read_text(errors="replace")


def run(
    argv: Sequence[str], *, environment: Mapping[str, str], stdin: str = "", cwd: Path, timeout_s: float = 60
) -> str:
    """Run one of our programs to its end; its standard output. AssertionError with its errors when it fails."""
    done = subprocess.run(
        [str(BIN / argv[0]), *argv[1:]],
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(cwd), **environment},
        cwd=cwd,
        input=stdin.encode(),
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"{argv}: exit {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
    return done.stdout.decode()


class Api:
    """The HTTP API with a bearer token: decoded JSON, or an AssertionError with the problem."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self.http = httpx.Client(base_url=f"{url}/api/v1", headers=headers, timeout=30)

    def get(self, path: str, **query: object) -> Any:
        return self._json(self.http.get(path, params={k: str(v) for k, v in query.items()}))

    def post(self, path: str, body: object = None) -> Any:
        return self._json(self.http.post(path, json=body if body is not None else {}))

    def put(self, path: str) -> Any:
        return self._json(self.http.put(path))

    @staticmethod
    def _json(answer: httpx.Response) -> Any:
        assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def run(self, target: Mapping[str, object], command: str, **more: object) -> str:
        """Send a command; the task's id."""
        body = {"target": dict(target), "command": command, "timeout": 30, "user": "root", **more}
        accepted = self.post("/tasks", body)
        task_id = str(accepted["task"]["task_id"])

        self.shown(task_id)
        return task_id

    def shown(self, task_id: str) -> None:
        """Wait until a task that was accepted is in the read table."""
        wait_until(
            lambda: self.http.get(f"/tasks/{task_id}").status_code == 200, timeout_s=20, what=f"{task_id} is shown"
        )

    def executions(self, task_id: str) -> dict[str, dict[str, Any]]:
        """The executions of a task by hostname."""
        return {row["hostname"]: row for row in self.every(f"/tasks/{task_id}/executions")}

    def every(self, path: str) -> list[dict[str, Any]]:
        """All rows of a list, page by page."""
        rows: list[dict[str, Any]] = []
        query: dict[str, object] = {"limit": 1000}
        while True:
            page = self.get(path, **query)
            rows += page["items"]
            if not page["next_cursor"]:
                return rows
            query["cursor"] = page["next_cursor"]

    def finished(self, task_id: str, *, timeout_s: float = 60) -> dict[str, dict[str, Any]]:
        """Wait until every execution of the task is terminal; the executions by hostname."""
        self.shown(task_id)
        wait_until(
            lambda: self.get(f"/tasks/{task_id}")["state"] == "finished",
            timeout_s=timeout_s,
            what=f"task {task_id} finished: {self.get(f'/tasks/{task_id}')}",
        )
        return self.executions(task_id)

    def online(self, hostnames: Sequence[str], *, timeout_s: float = 30) -> None:
        """Wait until all these hosts are online."""

        def all_online() -> bool:
            states = {row["hostname"]: row["state"] for row in self.every("/hosts")}
            return all(states.get(name) == "online" for name in hostnames)

        wait_until(all_online, timeout_s=timeout_s, what=f"{list(hostnames)} online")


@dataclass
class Installation:
    """A production installation in a directory: `control-plane serve` on a database and a broker, and its agents."""

    directory: Path
    database_url: str
    amqp_url: str
    port: int = field(default_factory=free_port)
    extra: dict[str, str] = field(default_factory=dict)
    agents: dict[str, Program] = field(default_factory=dict)
    api: "Api" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "CONTROL_PLANE_DATABASE_URL": self.database_url,
            "CONTROL_PLANE_AMQP_URL": self.amqp_url,
            "CONTROL_PLANE_LISTEN": f"127.0.0.1:{self.port}",
            "CONTROL_PLANE_STATE_DIR": str(self.directory / "state"),
            "CONTROL_PLANE_TOKEN_RATE": "0",  # what it takes is measured, and what it lets through is another test's
            **self.extra,
        }
        self.server = Program(
            ["control-plane", "serve"], log=self.directory / "server.log", environment=self.environment
        )

    def control_plane(self, *argv: str, stdin: str = "", timeout_s: float = 60) -> str:
        return run(
            ["control-plane", *argv], environment=self.environment, stdin=stdin, cwd=self.directory, timeout_s=timeout_s
        )

    def initialise(self) -> Api:
        """`init`, a token for its administrator, and the server running."""
        self.control_plane("init", "--username", "admin", "--password-stdin", stdin=PASSWORD + "\n")
        self.start()
        # Sooner than `tokens create`, which starts a program.
        with httpx.Client(base_url=f"{self.url}/api/v1", headers={"Origin": self.url}) as http:
            me = http.post("/auth/login", json={"username": "admin", "password": PASSWORD}).raise_for_status().json()
            http.headers["X-CSRF-Token"] = me["csrf_token"]
            self.token = http.post("/tokens", json={"name": "tests"}).raise_for_status().json()["token"]
        self.api = Api(self.url, self.token)
        return self.api

    def client(self) -> Api:
        """A client with a new token of the administrator."""
        self.token = self.control_plane("tokens", "create", "--user", "admin").strip()
        self.api = Api(self.url, self.token)
        return self.api

    def start(self, **extra: str) -> None:
        self.server.start(**extra)
        try:
            self.wait_ready()
        except AssertionError:
            self.server.kill()
            raise

    def wait_ready(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        def ready() -> bool:
            assert not self.server.has_ended(), self.server.text()[-4000:]
            try:
                return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
            except httpx.HTTPError:
                return False

        wait_until(ready, timeout_s=timeout_s, what=f"the server is ready\n{self.server.text()[-2000:]}")

    def add_agent(self, hostname: str, *groups: str, start: bool = True) -> Program:
        """Enrol an agent with a single-use token and start it as a process of its own."""
        made = self.api.post("/enrolment-tokens", {"hostname": hostname, "groups": list(groups)})
        agent = self.enrol(hostname, made["token"])
        return agent.start() if start else agent

    def enrol(self, hostname: str, token: str) -> Program:
        """Enrol an agent; it is not started."""
        directory = self.directory / hostname
        directory.mkdir(exist_ok=True)
        environment = {"CONTROL_PLANE_AGENT_STATE_DIR": str(directory / "state")}
        argv = ["control-plane-agent", "enrol", "--server", self.url, "--token", token, "--hostname", hostname]
        run(argv, environment=environment, cwd=directory)
        agent = Program(["control-plane-agent", "run"], log=directory / "agent.log", environment=environment)
        self.agents[hostname] = agent
        return agent

    def close(self) -> None:
        for program in [*self.agents.values(), self.server]:
            program.kill()
        if hasattr(self, "api"):
            self.api.http.close()


def follow_json_lines(path: Path, *, until: Callable[[dict[str, Any]], bool], timeout_s: float) -> list[dict[str, Any]]:
    """Read JSON lines as they are written until one satisfies the condition."""
    deadline = time.monotonic() + timeout_s
    while True:
        lines = list(json_lines(path))
        if any(until(line) for line in lines):
            return lines
        assert time.monotonic() < deadline, f"not in {path} within {timeout_s} s: {lines[-5:]}"
        time.sleep(0.05)


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        if line.startswith("{"):
            yield json.loads(line)
