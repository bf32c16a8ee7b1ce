"""One installation under load and faults, seen from outside: its ledger, its witness, what it shows, what it leaves."""

import contextlib
import json
import re
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from control_plane.commands.denials import SINGLY
from control_plane_agent.containment import EXECUTION
from control_plane_agent.slots import decode_state
from control_plane_wire.errors import WireError
from control_plane_wire.messages import seal
from control_plane_wire.signing import CONTROL_PLANE, RESULT, SigningKey
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.topology import (
    HEARTBEAT_DEAD_QUEUE,
    RESULT_DEAD_QUEUE,
    RESULT_EXCHANGE,
    RESULT_QUEUE,
    agent_queue,
    result_key,
)
from control_plane_wire.transport.base import Confirmed, Message
from tests.support.faults import queues, witness
from tests.support.faults.checks import (
    Event,
    Evidence,
    Execution,
    Key,
    Poll,
    Things,
    assert_holds,
)
from tests.support.faults.ledger import Answer, Client, Ledger
from tests.support.faults.report import SESSION
from tests.support.programs import PASSWORD, Api, Installation, Program
from tests.support.servers import wait_until

HEALS_WITHIN_S = 60.0
POLL_TIMEOUT_S = 5.0
VISITOR = "visitor"
DEAD = (RESULT_DEAD_QUEUE, HEARTBEAT_DEAD_QUEUE)
COUNTED = re.compile(r'^control_plane_happened_total\{what="(\w+)"\} (\d+)', re.MULTILINE)


class Trial:
    """An installation with its observers.

    Args:
        directory: for ledger and witness, outside the installation's.
        admin_amqp_url: of the broker for the observers, where the installation's goes over a link.

    Attributes:
        poison: digests of messages that the trial has sent and that nobody can take.
        forged: of those the ones that the broker has taken and whose signature is wrong.
        sent: the body of each task that was asked for.
    """

    def __init__(self, directory: Path, installation: Installation, *, admin_amqp_url: str | None = None) -> None:
        self.installation = installation
        self.api = installation.api
        self.amqp_url = admin_amqp_url or installation.amqp_url
        self.witness = directory / "witness"
        self.witness.mkdir(parents=True)
        self.ledger = Ledger(directory / "ledger")
        self._other = self._user("somebody", "operator")
        self._visitor = self._user(VISITOR, "viewer")
        self._eyes = Api(installation.url, installation.token)
        self._eyes.http.timeout = httpx.Timeout(POLL_TIMEOUT_S)
        self.client = Client(self.api, self.ledger, self._other)
        self.poison: set[str] = set()
        self.forged: set[str] = set()
        self._denied = [0, 0]  # answered, tried
        self.sent: dict[str, Mapping[str, Any]] = {}
        self.absorbed = self.injected = 0
        self._duplicates: dict[int, int] = {}  # that each server, by its process id, has counted
        self.polls: list[Poll] = []
        self.before: Things | None = None
        self.revived_s = 0.0
        self._dies_at: list[str] = []
        self._seen: dict[str, Mapping[str, str]] = {}
        self._over: set[str] = set()

    def _user(self, name: str, role: str) -> Api:
        argv = ["users", "create", name, "--role", role, "--password-stdin"]
        self.installation.control_plane(*argv, stdin=PASSWORD + "\n")
        token = self.installation.control_plane("tokens", "create", "--user", name).strip()
        return Api(self.installation.url, token)

    def close(self) -> None:
        self.ledger.close()
        self._other.http.close()
        self._visitor.http.close()
        self._eyes.http.close()

    # --- load

    def body(self, target: Mapping[str, object], *, seconds: float = 0.0, **more: object) -> dict[str, Any]:
        """A request whose command is the witness."""
        line = witness.command(self.witness, seconds=seconds)
        return {"target": dict(target), "command": line, "timeout": 60, "user": "root", **more}

    def submit(self, task_id: str, target: Mapping[str, object], **more: Any) -> Answer:
        """Ask for a task until it is answered; the server is started again where it has died."""
        self.sent[task_id] = self.body(target, **more)
        return self.client.submit(task_id, self.sent[task_id], meanwhile=self.revive)

    def ask_for_what_is_denied(self) -> None:
        """By somebody who may only look; no more often than each is an event, since a number dies with its server."""
        if self._denied[1] == SINGLY:
            return
        self._denied[1] += 1
        answer = Client(self._visitor, self.ledger).ask(f"denied-{self._denied[1]}", self.body({"all": True}))
        assert answer != "ok"
        self._denied[0] += answer == "fail"

    def forge(self, hostname: str) -> None:
        """Have the broker take a result of a host's that somebody else has signed."""
        task_id = f"forged-{len(self.poison)}"
        said: JsonObject = {
            "task_id": task_id,
            "exit_code": 0,
            "stdout": "",
            "stderr": "",
            "timestamp": int(time.time()),
        }
        body = seal(said, SigningKey.generate(), RESULT, sender=hostname, recipient=CONTROL_PLANE)
        self.poison.add(queues.digest_of(body))
        message = Message(exchange=RESULT_EXCHANGE, routing_key=result_key(hostname), body=body)
        with contextlib.suppress(OSError, WireError):
            if queues.publish(self.amqp_url, [message]) == [Confirmed()]:
                self.forged.add(queues.digest_of(body))

    def revive(self) -> None:
        """Start the server again if it was killed, for the next point where it is to be killed, if there is one."""
        if not self.installation.server.has_ended():
            return
        process = self.installation.server.process
        assert process is None or process.returncode == -signal.SIGKILL, self.installation.server.text()[-4000:]
        self.revived_s = time.monotonic()
        if self._dies_at:
            SESSION.killed.add(self._dies_at.pop(0))
        if self._dies_at:
            self.installation.server.start(CONTROL_PLANE_FAILPOINT=self._dies_at[0])
        else:
            self.installation.start()

    # --- faults

    def server_dies_at(self, *points: str) -> None:
        """Have the server run until it comes to the first of these failpoints, and when it is revived to the next."""
        self.installation.server.kill()
        self._dies_at = list(points)
        self.installation.server.start(CONTROL_PLANE_FAILPOINT=points[0])

    def until_dead(self) -> None:
        """Wait until the server was killed at each of its points, and is well again; which it is since `revived_s`."""

        def has_died() -> bool:
            self.revive()
            return not self._dies_at

        wait_until(has_died, timeout_s=60, what=f"{self._dies_at} were hit")

    def agent_dies_at(self, hostname: str, point: str, hits: Path) -> Program:
        """The same of an agent, its launcher and its supervisors; `hits` gets the name of each that is passed."""
        agent = self.installation.agents[hostname]
        if not agent.has_ended():
            self.until_connected(hostname)  # or it has nobody to say to that it goes
            agent.stop()
            self._until_shown_offline(hostname)  # what is sent meanwhile is lost with its queue, and comes 30 s later
        hits.touch()
        return agent.start(CONTROL_PLANE_AGENT_FAILPOINT=point, CONTROL_PLANE_AGENT_FAILPOINT_LOG=str(hits))

    def until_connected(self, hostname: str) -> None:
        queue = agent_queue(hostname)
        wait_until(lambda: queues.exists(self.amqp_url, queue), timeout_s=60, what=f"{hostname} has its queue")

    def _until_shown_offline(self, hostname: str) -> None:
        def is_offline() -> bool:
            return bool(self.api.get(f"/hosts/{hostname}")["state"] == "offline")

        wait_until(is_offline, timeout_s=90, what=f"{hostname} is offline")

    def renew_agent(self, hostname: str) -> None:
        """Kill an agent, and start it as it should be."""
        agent = self.installation.agents[hostname]
        agent.kill()
        agent.start()

    def supervisor_of(self, task_id: str, hostname: str) -> int:
        """Wait until a task has been started on a host; the process id of its supervisor."""
        state = self.installation.directory / hostname / "state/journal" / task_id / "state"

        def started() -> bool:
            with contextlib.suppress(OSError):
                return decode_state(state.read_bytes()).started is not None
            return False

        wait_until(started, timeout_s=60, what=f"{task_id} is started on {hostname}")
        slot = decode_state(state.read_bytes()).started
        assert slot is not None
        return slot.pid

    # --- what is seen

    def poll(self) -> None:
        """Look at every acknowledged task that is not over; what the server cannot answer now is left out."""
        for task_id in sorted(self.sent.keys() - self._over):
            with contextlib.suppress(httpx.HTTPError, AssertionError):
                task = self._eyes.get(f"/tasks/{task_id}")
                states = {host: row["state"] for host, row in self._eyes.executions(task_id).items()}
                self._note(Poll(task_id, task["targets"], task["counts"], states))
                if task["state"] == "finished":
                    self._over.add(task_id)
        with contextlib.suppress(httpx.HTTPError):
            self._duplicates[self.installation.server.pid] = self.counted().get("duplicates", 0)

    def _note(self, poll: Poll) -> None:
        if self._seen.get(poll.task_id) != poll.states or sum(poll.counts.values()) != poll.targets:
            self._seen[poll.task_id] = poll.states
            self.polls.append(poll)

    def settle(self, *, within_s: float = HEALS_WITHIN_S) -> float:
        """Wait until every acknowledged task is over, no result waits, and the server answers; how long that took.

        AssertionError with the open ones when it takes longer.
        """
        began = time.monotonic()

        def is_settled() -> bool:
            self.poll()
            is_over = self._is_over() and queues.depths(self.amqp_url, [RESULT_QUEUE])[RESULT_QUEUE] == 0
            return is_over and self._is_answering()

        try:
            wait_until(is_settled, timeout_s=within_s, what="all is over")
        except AssertionError:
            raise AssertionError(f"not over within {within_s} s: {self._open()}") from None
        return time.monotonic() - began

    def _is_answering(self) -> bool:
        """Where all was over before the last fault, nothing else tells that the server is there again."""
        with contextlib.suppress(httpx.HTTPError, AssertionError):
            self._eyes.get("/hosts")
            return True
        return False

    def _is_over(self) -> bool:
        return not self._open()

    def _open(self) -> dict[str, Mapping[str, str]]:
        """Those that were acknowledged, or are shown although they were not, and are not over yet."""
        there = (self.ledger.read().acknowledged & self.sent.keys()) | self._seen.keys()
        return {task_id: self._seen.get(task_id, {}) for task_id in there - self._over}

    def healed(self, since: float) -> float:
        """Wait until all is over and remember how long that took since a moment, by the monotonic clock."""
        self.settle(within_s=max(1.0, HEALS_WITHIN_S - (time.monotonic() - since)))
        took_s = time.monotonic() - since
        SESSION.heal_s.append(took_s)
        return took_s

    def counted(self) -> Mapping[str, int]:
        """What the server has counted since its start."""
        answer = self._eyes.http.get(f"{self.installation.url}/metrics")
        return {what: int(number) for what, number in COUNTED.findall(answer.text)}

    def evidence(self, **more: Any) -> Evidence:
        """Everything that was observed, now that it is over."""
        self.settle()
        dead: list[str] = []

        def are_set_aside() -> bool:
            dead[:] = [digest for queue in DEAD for digest in queues.digests_in(self.amqp_url, queue)]
            return self.forged <= set(dead)

        with contextlib.suppress(AssertionError):  # what the log then says of them is checked
            wait_until(are_set_aside, timeout_s=20, what="the forged messages are looked at")
        events = list(self._events())
        accepted = {e.task_id: e.hosts for e in events if e.kind == "task.accepted" and e.task_id}
        return Evidence(
            book=self.ledger.read(),
            events=events,
            polls=self.polls,
            executions=dict(self._executions(accepted)),
            witness=witness.read(self.witness),
            witnessed=frozenset(self.sent),
            verified=self._verified(),
            differing=self._differing(),
            depths={
                **queues.depths(self.amqp_url, [RESULT_QUEUE]),
                "dead letters": sum(digest not in self.poison for digest in dead),
            },
            absorbed=self.absorbed if self.injected else sum(self._duplicates.values()),
            injected=self.injected,
            conflicts=sum(event.kind == "execution.conflict" for event in events),
            before=self.before,
            after=None if self.before is None else self.things(),
            denied={VISITOR: (self._denied[0], self._denied[1])},
            forged=frozenset(self.forged),
            **more,
        )

    def assert_sound(self, **more: Any) -> Evidence:
        """Check every guarantee, and add the run to the session's figures."""
        evidence = self.evidence(**more)
        SESSION.add(evidence)
        assert_holds(evidence)
        return evidence

    def _events(self) -> Iterator[Event]:
        with self.api.http.stream("GET", "/events/export", timeout=60) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                event = json.loads(line)
                body = event["body"]
                yield Event(
                    event["seq"],
                    event["recorded_at"],
                    event["kind"],
                    event["task_id"],
                    event["hostname"],
                    tuple(body["hosts"]) if event["kind"] == "task.accepted" else (),
                    body.get("actor"),
                    body.get("count") or 1,
                    body.get("message_sha256"),
                )

    def _executions(self, accepted: Collection[str]) -> Iterator[tuple[Key, Execution]]:
        for task_id in accepted:
            for hostname, row in self.api.executions(task_id).items():
                yield (
                    (task_id, hostname),
                    Execution(
                        row["state"],
                        row["exit_code"],
                        stdout_sha256=row["stdout_sha256"],
                        started=row["started_at"] is not None,
                    ),
                )

    def _verified(self) -> Sequence[str]:
        try:
            self.installation.control_plane("audit", "verify", timeout_s=120)
        except AssertionError as found:
            return str(found).splitlines()
        return ()

    def _differing(self) -> Sequence[str]:
        try:
            said = self.installation.control_plane("projections", "verify", timeout_s=120)
        except AssertionError as found:
            return str(found).splitlines()
        return [line for line in said.splitlines() if "differs" in line]

    # --- what is left

    def things(self) -> Things:
        """The programs of this installation with all that they have started, and what lies about in the journals."""
        home = str(self.installation.directory)
        ours, left = 0, set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.cwd().startswith(home):
                    ours += 1
                    left |= {name for name in _execution_of(process.pid) if name}
        for state in self.installation.directory.glob("*/state/journal"):
            left |= {str(path.relative_to(home)) for path in state.iterdir()}
        return Things(processes=ours, names=frozenset(left))


def _execution_of(pid: int) -> Iterator[str]:
    """The execution that a process belongs to, if it was started by a command."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        for variable in file.read().split(b"\0"):
            if variable.startswith(EXECUTION.encode() + b"="):
                yield f"pid {pid} of {variable.decode()}"
