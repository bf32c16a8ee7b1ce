"""`cpctl` as an operator has it: a real `control-plane dev`, a terminal, pipes, and a server that goes away."""

import base64
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.fleet import host_key
from tests.support.programs import BIN, PASSWORD, Api, Program
from tests.support.servers import free_port, wait_until

SIMULATED = 14
GROUP_DB = "sim-[0001,0004,0007,0010,0013]"  # five of them


@dataclass
class Dev:
    """A running `control-plane dev`, in whose directory cpctl finds its dev.json."""

    directory: Path
    program: Program
    url: str
    api: Api
    hostname: str

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(self.directory), "TZ": "UTC"}

    def cpctl(
        self, *argv: str, status: int = 0, stdin: str = "", environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(BIN / "cpctl"), *argv],
            env={**self.environment, **(environment or {})},
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, f"{argv}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def task_of(self, done: subprocess.CompletedProcess[str]) -> str:
        found = re.search(r"^task (\S+) ·", done.stderr, re.MULTILINE)
        assert found, done.stderr
        return found[1]


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    directory = tmp_path_factory.mktemp("cpctl")
    argv = ["control-plane", "dev", "--agents", str(SIMULATED), "--listen", f"127.0.0.1:{free_port()}"]
    program = Program(argv, log=directory / "dev.log", environment={}).start()
    try:
        document = directory / ".control-plane" / "dev.json"
        wait_until(document.exists, timeout_s=60, what=f"dev is up: {program.text()}")
        told = json.loads(document.read_text())
        api = Api(told["url"], told["token"])
        names = [f"sim-{number:04}" for number in range(1, SIMULATED + 1)]
        api.online(names)
        [hostname] = [row["hostname"] for row in api.every("/hosts") if row["hostname"] not in names]
        api.online([hostname])
        yield Dev(directory, program, told["url"], api, hostname)
        api.http.close()
    finally:
        program.kill()


@dataclass
class Terminal:
    """cpctl on a terminal of its own; `seen` is all that it has shown there."""

    process: subprocess.Popen[bytes]
    master: int
    seen: str = ""
    stdout: bytes = field(default=b"")

    def wait_for(self, pattern: str, *, timeout_s: float = 60) -> "re.Match[str]":
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, f"no {pattern} in {self.seen!r}"
            self._read(0.2)
        return found

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self.master], [], [], timeout_s)[0]:
            return True
        try:
            part = os.read(self.master, 65_536)
        except OSError:  # its other end is closed
            return False
        self.seen += part.decode(errors="replace")
        return bool(part)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def ended(self) -> int:
        """Read until it ends; its exit status."""
        deadline = time.monotonic() + 60
        while self._read(0.2) and self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
        while select.select([self.master], [], [], 0)[0] and self._read(0):
            pass
        return self.process.wait(timeout=20)


StartTerminal = Callable[..., Terminal]


@pytest.fixture
def terminal(dev: Dev) -> Iterator[StartTerminal]:
    started: list[Terminal] = []

    def start(*argv: str) -> Terminal:
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [str(BIN / "cpctl"), *argv],
            env={**dev.environment, "TERM": "xterm", "COLUMNS": "200"},
            cwd=dev.directory,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        started.append(Terminal(process, master))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        os.close(each.master)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_hosts_are_listed_filtered_and_shown(dev: Dev) -> None:
    lines = dev.cpctl("hosts", "--group", "db").stdout.splitlines()
    assert lines[0].split() == ["HOST", "STATE", "GROUPS", "CPU", "MEMORY", "RUNNING", "HEARD", "OS"]
    assert [line.split()[:3] for line in lines[1:3]] == [["sim-0001", "online", "db"], ["sim-0004", "online", "db"]]
    rows = [json.loads(line) for line in dev.cpctl("hosts", "-o", "jsonl").stdout.splitlines()]
    assert len(rows) == SIMULATED + 1
    assert dev.cpctl("hosts", "show", "sim-0001").stdout.startswith("hostname             sim-0001\n")
    assert "unknown_host" in dev.cpctl("hosts", "show", "nobody", status=2).stderr


def test_a_query_finds_hosts_in_the_list_and_as_a_target(dev: Dev) -> None:
    listed = dev.cpctl("hosts", "-q", "sim group:db state:online", "-o", "jsonl").stdout
    assert [json.loads(line)["hostname"] for line in listed.splitlines()] == [
        f"sim-{number:04}" for number in (1, 4, 7, 10, 13)
    ]
    assert dev.cpctl("hosts", "-q=-sim -os:*nothing*").stdout.splitlines()[1].startswith(dev.hostname)
    empty = dev.cpctl("hosts", "-q", "nosuch").stdout
    assert empty.split() == ["HOST", "STATE", "GROUPS", "CPU", "MEMORY", "RUNNING", "HEARD", "OS"]

    done = dev.cpctl("run", "-t", "q:sim group:db", "--", "echo found")

    assert done.stdout == f"== {GROUP_DB} (5) · exit 0\nfound\n"
    assert dev.api.http.get(f"/tasks/{dev.task_of(done)}").json()["target"] == {"query": "sim group:db"}


def test_a_run_on_a_group_groups_equal_answers_and_keeps_stdout_for_data(dev: Dev) -> None:
    done = dev.cpctl("run", "-t", "group:db", "--", "echo", "it's", "a  b")

    assert done.stdout == f"== {GROUP_DB} (5) · exit 0\nit's a  b\n"
    assert done.stderr.startswith(f"5 hosts (5 online): {GROUP_DB}\ntask ")
    assert f"5 succeeded, 5 targets · task {dev.task_of(done)}\n" in done.stderr


def test_each_form_has_every_target(dev: Dev) -> None:
    lines = dev.cpctl("run", "-t", "group:db", "-o", "jsonl", "--", "exit 3", status=1).stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert [one["type"] for one in told] == ["execution"] * 5 + ["task"]
    assert {(one["state"], one["exit_code"], one["final"]) for one in told[:-1]} == {("failed", 3, True)}

    whole = json.loads(dev.cpctl("run", "-t", "sim-0001,sim-0002", "-o", "json", "--", "hostname").stdout)
    assert whole["task"]["counts"] == {"succeeded": 2}
    assert [row["first_line"] for row in whole["executions"]] == ["sim-0001", "sim-0002"]

    table = dev.cpctl("run", "-t", "sim-0001", "-o", "table", "--", "hostname").stdout.splitlines()
    assert table[1].split()[:3] == ["sim-0001", "succeeded", "0"]


def test_bytes_go_into_a_pipe_as_the_host_has_printed_them(dev: Dev) -> None:
    command = r"printf '\033[31mred\033]0;title\007\377'"
    task_id = dev.task_of(dev.cpctl("run", "-t", dev.hostname, "-o", "json", "--", command))

    done = subprocess.run(
        [str(BIN / "cpctl"), "tasks", "show", task_id, "--host", dev.hostname],
        env=dev.environment,
        cwd=dev.directory,
        capture_output=True,
        timeout=60,
        check=True,
    )

    assert done.stdout == b"\x1b[31mred\x1b]0;title\x07\xff"


def test_a_terminal_gets_colours_and_a_progress_and_nothing_that_acts_on_it(dev: Dev, terminal: StartTerminal) -> None:
    shown = terminal("run", "-t", dev.hostname, "--", r"sleep 0.5; printf '\033[31mred\033]0;title\007\n'")

    assert shown.ended() == 0
    assert re.search(r"\r\x1b\[K\[·{20}\]  0/1  1 waiting  0:00", shown.seen), shown.seen
    assert "\x1b[31mred\r\n\x1b[0m" in shown.seen
    assert "title" not in shown.seen


def test_who_is_offline_is_named_and_ctrl_c_detaches(dev: Dev, terminal: StartTerminal) -> None:
    seq = dev.api.post("/hosts", {"hostname": "away", "public_key": _public_key("away")})["seq"]
    dev.api.get("/hosts", min_seq=seq)
    try:
        shown = terminal("run", "-t", "away,sim-0001", "--", "true")
        shown.wait_for(r"1/2  1 ok  1 waiting  0:0\d  away offline, waiting until \d\d:\d\d · Ctrl-C detaches")
        shown.type("\x03")
        assert shown.ended() == 130
        told = re.search(r"detached, the task goes on: cpctl tasks watch (\S+) · cpctl tasks cancel", shown.seen)
        assert told, shown.seen

        lines = dev.cpctl("tasks", "watch", told[1], "--wait", "0.2", "-o", "jsonl", status=5).stdout.splitlines()
        rows = [json.loads(line) for line in lines]
        assert [(row.get("hostname"), row["final"]) for row in rows] == [
            ("sim-0001", True),
            ("away", False),
            (None, False),
        ]
        dev.cpctl("tasks", "cancel", told[1], "--reason", "nobody comes back")
        done = dev.cpctl("tasks", "watch", told[1], status=6)
        assert "1 succeeded, 1 cancelled, 2 targets" in done.stderr
    finally:
        dev.api.http.delete("/hosts/away").raise_for_status()


def _public_key(hostname: str) -> str:
    return base64.b64encode(host_key(hostname).public_key).decode()


def test_a_guard_asks_on_a_terminal_and_wants_flags_in_a_script(dev: Dev, terminal: StartTerminal) -> None:
    everybody = str(SIMULATED + 1)
    refused = dev.cpctl("run", "-t", "all", "--", "true", status=2)
    assert "this takes --expect N and --reason TEXT" in refused.stderr
    assert "nothing was started" in dev.cpctl("run", "-t", "all", "--expect", "3", "--", "true", status=2).stderr

    shown = terminal("run", "-t", "all", "--", "true")
    shown.wait_for("type the number of hosts to go on: ")
    shown.type("3\n")
    assert shown.ended() == 2

    shown = terminal("run", "-t", "all", "--", "true")
    shown.wait_for("type the number of hosts to go on: ")
    shown.type(f"{everybody}\n")
    shown.wait_for("reason: ")
    shown.type("monthly\n")
    assert shown.ended() == 0
    [newest] = json.loads(dev.cpctl("tasks", "--limit", "1", "-o", "json").stdout)
    assert (newest["reason"], newest["targets"]) == ("monthly", SIMULATED + 1)

    before = len(dev.api.every("/tasks"))
    shown = terminal("run", "-t", "all", "--", "true")
    shown.wait_for("type the number of hosts to go on: ")
    shown.type("\x03")
    assert shown.ended() == 130
    assert len(dev.api.every("/tasks")) == before


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["run", "-t", "group:nobody", "--", "true"], 3, "no host matches"),
        (["run", "-t", "nobody", "--", "true"], 3, "no host matches"),
        (["run", "-t", "color:blue", "--", "true"], 2, "one of group:NAME, q:QUERY, all, or hosts"),
        (["run", "-t", "q:state:revoked", "--", "true"], 3, "no host matches"),
        (["run", "-t", "q:web foo:bar", "--", "true"], 2, "is wrong in foo:bar: unknown field foo; there are name"),
        (["hosts", "-q", "web,,db"], 2, "q is wrong in web,,db: a value is missing"),
        (["run", "-t", "sim-0001"], 2, "what to run?"),
        (["run", "-t", "sim-0001", "--template", "none"], 2, "no template none"),
        (["run", "-t", "sim-0001", "--timeout", "0", "--", "true"], 2, "timeout"),
        (["tasks", "show", "no-such-task"], 2, "unknown_task"),
        (["tasks", "retry", "no-such-task", "--state", "failed"], 2, "unknown_task"),
        (["hosts", "--state", "sideways"], 2, "state"),
        (["audit", "--since", "yesterday"], 2, "from"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_status(dev: Dev, argv: list[str], status: int, said: str) -> None:
    done = dev.cpctl(*argv, status=status)

    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_is_7_and_a_wrong_token_4(dev: Dev) -> None:
    nowhere = {"CPCTL_URL": f"http://127.0.0.1:{free_port()}", "CPCTL_TOKEN": "x"}
    assert "does not answer" in dev.cpctl("hosts", status=7, environment=nowhere).stderr
    wrong = {"CPCTL_URL": dev.url, "CPCTL_TOKEN": "x"}
    assert "cpctl login" in dev.cpctl("hosts", status=4, environment=wrong).stderr


def test_only_those_that_failed_are_tried_again(dev: Dev) -> None:
    first = dev.task_of(dev.cpctl("run", "-t", "group:db", "--", "exit", "4", status=1))

    again = dev.cpctl("tasks", "retry", first, "--state", "failed,lost", status=1)

    assert f"5 hosts (5 online): {GROUP_DB}" in again.stderr
    row = dev.api.get(f"/tasks/{dev.task_of(again)}")
    assert (row["retry_of"], row["targets"]) == (first, 5)
    assert "no host of it is lost: 5 failed" in dev.cpctl("tasks", "retry", first, "--state", "lost", status=3).stderr


def test_what_the_dashboard_starts_is_followed_here_and_the_other_way_round(dev: Dev) -> None:
    task_id = dev.api.run({"group": "db"}, "hostname")
    assert dev.cpctl("tasks", "watch", task_id).stdout.count("· exit 0") == 5

    detached = dev.cpctl("run", "-t", "sim-0001", "--detach", "--", "hostname").stdout.strip()
    dev.api.finished(detached)
    shown = dev.cpctl("task", "show", detached)
    assert shown.stdout == "== sim-0001 · exit 0\nsim-0001\n"


def test_a_retry_is_on_the_very_hosts_that_were_confirmed(dev: Dev) -> None:
    first = dev.task_of(dev.cpctl("run", "-t", "sim-0001,sim-0002", "--", "false", status=1))

    refused = dev.cpctl("tasks", "retry", first, "--state", "failed", "--expect", "1", status=2)
    assert "--expect 1: it is 2 hosts now" in refused.stderr
    again = dev.task_of(dev.cpctl("tasks", "retry", first, "--state", "failed", "--expect", "2", status=1))
    events = dev.api.get("/events", task_id=again, kind="task.accepted")["items"]
    body = dev.api.get(f"/events/{events[0]['seq']}")["body"]
    assert body["hosts"] == ["sim-0001", "sim-0002"]


def test_whoever_has_read_enough_ends_it_in_silence(dev: Dev) -> None:
    process = subprocess.Popen(
        [str(BIN / "cpctl"), "run", "-t", "group:db", "-o", "jsonl", "--", "hostname"],
        env=dev.environment,
        cwd=dev.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)

    assert b"Traceback" not in err, err.decode()


def test_a_rollout_stops_after_its_failures(dev: Dev) -> None:
    done = dev.cpctl("run", "-t", "group:db", "--batch", "1", "--max-failures", "1", "--", "false", status=1)

    assert "2 failed, 3 cancelled" in done.stderr or "2 failed, 3 skipped" in done.stderr


def test_the_trail_is_listed_and_exported(dev: Dev) -> None:
    lines = dev.cpctl("audit", "--kind", "host.registered", "--limit", "2").stdout.splitlines()
    assert [line.split()[3] for line in lines[1:]] == ["host.registered", "host.registered"]
    assert "host.registered" in dev.cpctl("events", "show", lines[1].split()[0]).stdout
    exported = dev.cpctl("audit", "export", "--kind", "host.registered").stdout.splitlines()
    assert len([json.loads(line) for line in exported]) >= SIMULATED + 1


def test_a_host_is_changed_and_taken_off(dev: Dev, terminal: StartTerminal) -> None:
    seq = dev.api.post("/hosts", {"hostname": "spare", "public_key": _public_key("spare"), "groups": ["web"]})["seq"]
    dev.api.get("/hosts", min_seq=seq)

    dev.cpctl("hosts", "set", "spare", "--group", "db", "--group=-web", "--label", "rack=r1", "--maintenance", "on")
    wait_until(lambda: dev.api.get("/hosts/spare")["maintenance"], timeout_s=20, what="it is in maintenance")
    row = dev.api.get("/hosts/spare")
    assert (row["groups"], row["labels"]) == (["db"], {"rack": "r1"})
    assert "nothing to change" in dev.cpctl("hosts", "set", "spare", status=2).stderr
    assert "unknown_host" in dev.cpctl("hosts", "set", "nobody", "--maintenance", "on", status=2).stderr

    assert "--yes" in dev.cpctl("hosts", "revoke", "spare", status=2).stderr
    shown = terminal("hosts", "revoke", "spare", "--reason", "stolen")
    shown.wait_for("type the hostname to go on: ")
    shown.type("spare\n")
    assert shown.ended() == 0
    wait_until(lambda: dev.api.get("/hosts/spare")["state"] == "revoked", timeout_s=20, what="it is revoked")
    dev.cpctl("hosts", "retire", "spare", "--yes")
    wait_until(lambda: dev.api.get("/hosts/spare")["state"] == "retired", timeout_s=20, what="it is retired")


def test_login_makes_a_token_of_its_own_and_logout_ends_it(dev: Dev, terminal: StartTerminal) -> None:
    dev.api.post("/users", {"username": "ada", "role": "operator", "password": PASSWORD})
    kept = dev.directory / ".config" / "cpctl" / "credentials.json"
    try:
        shown = terminal("login", dev.url, "--username", "ada")
        shown.wait_for("password: ")
        shown.type("wrong\n")
        assert shown.ended() == 4
        assert "signs you in" not in shown.seen

        for key, status in (("\x03", 130), ("\x04", 2)):
            shown = terminal("login", dev.url, "--username", "ada")
            shown.wait_for("password: ")
            shown.type(key)
            assert (shown.ended(), "Traceback" in shown.seen) == (status, False)
        assert not kept.exists()

        shown = terminal("login", dev.url, "--username", "ada")
        shown.wait_for("password: ")
        shown.type(f"{PASSWORD}\n")
        assert shown.ended() == 0, shown.seen
        assert f"signed in to {dev.url} as ada (operator)" in shown.seen
        assert PASSWORD not in shown.seen + kept.read_text()
        token = json.loads(kept.read_text())["token"]
        mine = {"authorization": f"Bearer {token}"}
        assert httpx.get(f"{dev.url}/api/v1/auth/me", headers=mine).json()["username"] == "ada"

        shown = terminal("login", dev.url, "--username", "ada")
        shown.wait_for("password: ")
        shown.type(f"{PASSWORD}\n")
        assert shown.ended() == 0
        assert httpx.get(f"{dev.url}/api/v1/auth/me", headers=mine).status_code == 401
        token = json.loads(kept.read_text())["token"]

        dev.cpctl("logout")
        assert not kept.exists()
        with_ended = {"CPCTL_URL": dev.url, "CPCTL_TOKEN": token}
        dev.cpctl("hosts", status=4, environment=with_ended)
        dev.cpctl("login", dev.url, "--token-stdin", stdin=f"{dev.api.http.headers['authorization'].split()[1]}\n")
        assert "sim-0001" in dev.cpctl("hosts").stdout
    finally:
        kept.unlink(missing_ok=True)


def test_a_server_that_comes_back_is_followed_on(dev: Dev) -> None:
    """Last, since it restarts the server: what its token has made ends with it, so somebody else asks."""
    dev.api.post("/users", {"username": "bob", "role": "operator", "password": PASSWORD})
    with httpx.Client(base_url=f"{dev.url}/api/v1", headers={"origin": dev.url}) as http:
        me = http.post("/auth/login", json={"username": "bob", "password": PASSWORD}).raise_for_status().json()
        http.headers["x-csrf-token"] = me["csrf_token"]
        token = http.post("/tokens", json={"name": "stays"}).raise_for_status().json()["token"]
    process = subprocess.Popen(
        [str(BIN / "cpctl"), "run", "-t", dev.hostname, "--", "sleep 6; echo done"],
        env={**dev.environment, "CPCTL_URL": dev.url, "CPCTL_TOKEN": token},
        cwd=dev.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(
            lambda: any(row["state"] == "running" for row in dev.api.get("/tasks")["items"]),
            timeout_s=30,
            what="it runs",
        )
        dev.program.signal(signal.SIGTERM)
        assert dev.program.process is not None
        dev.program.process.wait(timeout=30)
        dev.program.start()
        out, err = process.communicate(timeout=90)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, f"== {dev.hostname} · exit 0\ndone\n"), err
