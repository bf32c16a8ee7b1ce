"""What right requests name, made by another administrator: so that they are about something that is there."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, TypeAlias

import httpx

from control_plane.commands.passwords import digest
from control_plane.events.envelope import EVENT
from control_plane.projections.queries.scopes import EVERYTHING
from control_plane_wire import strict_json
from control_plane_wire.proofs import of_request, of_rotation
from control_plane_wire.signing import CONTROL_PLANE, ENROL, SigningKey, encode_base64
from tests.support.api import PASSWORD
from tests.support.embedded import HOSTS, Embedded
from tests.support.fleet import host_key

ANSWERED_S: Final = 60.0  # on whatever machine
NOBODY: Final = "nobody"
AWAY: Final = "away"  # a host that no agent is of: what waits for it goes on waiting
SECRET: Final = "A"
FOR_TWO: Final = "for-two"  # a command that takes a second person
A_COMMAND: Final = {"target": {"hosts": list(HOSTS)}, "command": "uptime", "user": "root", "timeout": 60}

FULL: Final = frozenset({"too_many_approvals", "too_many_rules", "too_many_templates", "pending_full"})

Named: TypeAlias = Mapping[str, Any]


class _FullError(Exception):
    """There are as many as there may be."""


@dataclass
class There:
    """Attributes: `role`: of whoever asks, `may`: what of all operations; `accepted`: the tasks that were made here."""

    embedded: Embedded
    role: str
    may: frozenset[str]
    accepted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._numbers = count(1)
        self._http = httpx.Client(
            base_url=f"{self.embedded.url}/api/v1",
            headers={"authorization": f"Bearer {self.embedded.root}"},
            timeout=ANSWERED_S,
        )
        self.post("/hosts", {"hostname": AWAY, "public_key": encode_base64(host_key(AWAY).public_key)})
        self.finished = self._finished(secrets={SECRET: "x"})
        self.for_two = self._finished(command=FOR_TWO)
        for role in ("operator", "administrator"):
            about = {"subject": f"role:{role}", "actions": ["tasks.run"], "hosts": {"all": True}}
            self.post("/rules", {"effect": "approve", **about, "patterns": [FOR_TWO]})

    def close(self) -> None:
        self._http.close()

    def post(self, path: str, body: object = None) -> Named:
        answer = self._http.post(path, json=body)
        told: dict[str, Any] = answer.json() if answer.content else {}
        if str(told.get("code")) in FULL:
            raise _FullError
        assert answer.status_code < 300, (path, answer.text)
        if isinstance(seq := told.get("seq"), int):
            self.embedded.shown(seq)
        if "task" in told:
            self.accepted.add(told["task"]["task_id"])
        return told

    def delete(self, path: str) -> None:
        self._http.delete(path).raise_for_status()

    def name(self) -> str:
        return f"there-{next(self._numbers)}"

    def _finished(self, **more: Any) -> str:
        task_id = self.task(**more)
        asyncio.run_coroutine_threadsafe(self._over(task_id), self.embedded.loop).result()
        return task_id

    async def _over(self, task_id: str) -> None:
        core = self.embedded.core
        tasks = core.task_queries.seen_by(EVERYTHING)
        while (row := await tasks.one(task_id)) is None or row.state != "finished":
            head = await core.log.head(EVENT)
            await core.hub.wait_for("tasks", head.seq + 1, timeout_s=1)

    # --- what can be made -------------------------------------------------------------------------------------------

    def task(self, **more: Any) -> str:
        task_id: str = self.post("/tasks", {**A_COMMAND, **more})["task"]["task_id"]
        return task_id

    def waiting_task(self) -> Named:
        return {"task_id": self.task(target={"host": AWAY})}

    def paused_task(self) -> Named:
        named = self.waiting_task()
        self.post(f"/tasks/{named['task_id']}/pause")
        return named

    def a_host(self) -> Named:
        name = self.name()
        self.post("/hosts", {"hostname": name, "public_key": encode_base64(host_key(name).public_key)})
        return {"hostname": name}

    def a_member(self) -> Named:
        named = {"group": "web", **self.a_host()}
        self._http.put(f"/groups/web/hosts/{named['hostname']}").raise_for_status()
        return named

    def an_approval(self) -> Named:
        target = {"hosts": [HOSTS[next(self._numbers) % len(HOSTS)]]}
        asked = self.post("/approvals", {**A_COMMAND, "target": target, "command": FOR_TWO, "reason": self.name()})
        self.embedded.shown(asked["seq"])
        return {"approval_id": asked["approval_id"]}

    def refused(self, approval_id: str) -> None:
        """End what somebody has asked for: of one person only so many may wait."""
        self.post(f"/approvals/{approval_id}/refuse")

    def a_rule(self) -> Named:
        about = {"subject": "role:member", "actions": ["tasks.run"], "hosts": {"all": True}}
        return {"rule_id": self.post("/rules", {"effect": "allow", **about})["rule_id"]}

    def a_template(self) -> Named:
        name = self.name()
        self.post("/templates", {"name": name, "user": "root", "argv": ["/usr/bin/uptime"], "timeout": 60})
        return {"name": name}

    def a_token(self) -> Named:
        body = {"name": "there", "days": 1} | ({} if self.role == NOBODY else {"username": f"some-{self.role}"})
        return {"token_id": self.post("/tokens", body)["token_id"]}

    def an_enrolment_token(self) -> Named:
        return {"token_id": self.post("/enrolment-tokens", {})["token_id"]}

    def a_user(self) -> Named:
        name = self.name()
        self.post("/users", {"username": name, "role": "viewer", "password": PASSWORD})
        return {"username": name}

    def a_pending_host(self) -> Named:
        asked = self.asked_to_enrol()
        return {"fingerprint": self.post("/enrol/request", asked)["fingerprint"], "hostname": asked["hostname"]}

    def asked_to_enrol(self) -> Named:
        hostname = self.name()
        key, body = host_key(hostname), self._begun(hostname, host_key(hostname))
        proof = of_request(hostname, key.public_key, body["nonce"])
        return {**body, "proof": _proof(key, hostname, proof)}

    def enrolling(self) -> Named:
        hostname = self.name()
        token = self.post("/enrolment-tokens", {})["token"]
        key, body = host_key(hostname), self._begun(hostname, host_key(hostname), token=token)
        proof = strict_json.canonical({**body, "token_sha256": digest(token)})
        return {**body, "token": token, "proof": _proof(key, hostname, proof)}

    def rotating(self) -> Named:
        hostname = self.a_host()["hostname"]
        key, new = host_key(hostname), host_key(self.name())
        body = self._begun(hostname, new)
        proof = of_rotation(hostname, new.public_key, body["nonce"])
        return {**body, "proof": _proof(key, hostname, proof), "new_proof": _proof(new, hostname, proof)}

    def _begun(self, hostname: str, key: SigningKey, **more: str) -> dict[str, Any]:
        body = {"hostname": hostname, "public_key": encode_base64(key.public_key)}
        return {**body, "nonce": self.post("/enrol/begin", {**body, **more})["nonce"]}

    def stopped(self) -> Named:
        if self.embedded.core.authority.stop.standing is None:
            self.post("/stop", {"reason": "so"})
        return {}

    def going_on(self) -> None:
        """Lift the stop that somebody has set: it would hold back all that is asked for after it."""
        if self.embedded.core.authority.stop.standing is not None:
            self.delete("/stop")


def _proof(key: SigningKey, hostname: str, body: bytes) -> str:
    return encode_base64(key.sign(ENROL, sender=hostname, recipient=CONTROL_PLANE, body=body))


# What a right request names in its path, where that has to be made for it because the request uses it up …
PLACES: Final[Mapping[str, Callable[[There], Named]]] = {
    "POST /api/v1/tasks/{task_id}/cancel": There.waiting_task,
    "POST /api/v1/tasks/{task_id}/pause": There.waiting_task,
    "POST /api/v1/tasks/{task_id}/resume": There.paused_task,
    "POST /api/v1/tasks/{task_id}/retry/approval": lambda there: {"task_id": there.for_two},
    "PATCH /api/v1/hosts/{hostname}": There.a_host,
    "DELETE /api/v1/hosts/{hostname}": There.a_host,
    "POST /api/v1/hosts/{hostname}/revoke": There.a_host,
    "PUT /api/v1/groups/{group}/hosts/{hostname}": There.a_host,
    "DELETE /api/v1/groups/{group}/hosts/{hostname}": There.a_member,
    "POST /api/v1/approvals/{approval_id}/approve": There.an_approval,
    "POST /api/v1/approvals/{approval_id}/refuse": There.an_approval,
    "DELETE /api/v1/rules/{rule_id}": There.a_rule,
    "DELETE /api/v1/templates/{name}": There.a_template,
    "DELETE /api/v1/tokens/{token_id}": There.a_token,
    "DELETE /api/v1/enrolment-tokens/{token_id}": There.an_enrolment_token,
    "PATCH /api/v1/users/{username}": There.a_user,
    "DELETE /api/v1/users/{username}/passkeys": There.a_user,
    "POST /api/v1/pending-hosts/{fingerprint}/accept": There.a_pending_host,
    "POST /api/v1/pending-hosts/{fingerprint}/refuse": There.a_pending_host,
    "DELETE /api/v1/stop": There.stopped,
}


def named(there: There, operation: str) -> Named:
    """What is there for each place in the path of an operation; where the role may not, nothing is made for it."""
    fixed = {
        "hostname": HOSTS[0],
        "group": "web",
        "task_id": there.finished,
        "seq": 1,
        "name": SECRET if "/secrets/" in operation else "tasks",
    }
    return {**fixed, **(_made(there, PLACES.get(operation)) if operation in there.may else {})}


def body(there: There, operation: str) -> Named:
    """What is to be in the body of a right request."""
    return _made(there, BODIES.get(operation))


def _made(there: There, make: Callable[[There], Named] | None) -> Named:
    if make is None:
        return {}
    with contextlib.suppress(_FullError):
        return make(there)
    return {}


# … and in its body, beside what was made up: grammars, fields that need or exclude each other, and what there is. None
# leaves a field out.
_NO_MORE: Final = dict.fromkeys(
    ("argv", "template", "parameters", "approval_id", "preview_id", "rollout", "cwd", "env")
)
_RETRY: Final = {"states": ["succeeded"], "hosts": None, "approval_id": None, "preview_id": None}
BODIES: Final[Mapping[str, Callable[[There], Named]]] = {
    "POST /api/v1/approvals": lambda there: {**A_COMMAND, "command": FOR_TWO, **_NO_MORE, "secrets": None},
    "POST /api/v1/auth/login": lambda there: {"username": "root", "password": PASSWORD},
    "POST /api/v1/enrol/begin": lambda there: {
        "hostname": there.name(),
        "public_key": encode_base64(host_key(there.name()).public_key),
        "token": None,
    },
    "POST /api/v1/enrol/finish": There.enrolling,
    "POST /api/v1/enrol/request": There.asked_to_enrol,
    "POST /api/v1/enrol/rotate": There.rotating,
    "PATCH /api/v1/hosts/{hostname}": lambda there: {"maintenance": True},
    "PATCH /api/v1/users/{username}": lambda there: {
        **dict.fromkeys(("enabled", "password", "identity")),
        "role": "operator",
    },
    "POST /api/v1/hosts": lambda there: {
        "hostname": there.name(),
        "public_key": encode_base64(host_key(there.name()).public_key),
    },
    "POST /api/v1/rules": lambda there: {
        **dict.fromkeys(("patterns", "templates", "accounts")),
        "subject": "role:member",
        "hosts": {"all": True},
        "effect": "allow",
        "command": "shell",
    },
    "POST /api/v1/targets/preview": lambda there: {**A_COMMAND, **_NO_MORE},
    "POST /api/v1/tasks": lambda there: {**A_COMMAND, **_NO_MORE, "secrets": None},
    "POST /api/v1/tasks/{task_id}/retry": lambda there: _RETRY,
    "POST /api/v1/tasks/{task_id}/retry/approval": lambda there: {**_RETRY, "reason": there.name()},
    "POST /api/v1/templates": lambda there: {
        **dict.fromkeys(("parameters", "cwd", "env")),
        "name": there.name(),
        "user": "root",
        "argv": ["/usr/bin/uptime"],
    },
    "POST /api/v1/tokens": lambda there: dict.fromkeys(("username", "permissions", "addresses")),
    "POST /api/v1/users": lambda there: {"username": there.name(), "role": "viewer", "password": PASSWORD},
}
