"""Reading by scope: what is not of somebody's hosts does not exist for them, on no route and in no frame.

There are the hosts of two groups, and tasks on the one, on the other, and on both. Whoever may read about the first
asks for everything there is on every route; nothing that is only of the second may be in any answer.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx
import orjson
import pytest
import pytest_asyncio
from fastapi.routing import APIRoute

from control_plane.api.ui import FILES, PAGES
from control_plane.commands.access import CONSOLE, ROLES
from control_plane.commands.rules import READING, Rule
from control_plane.events.approvals import ApprovalRequested
from control_plane.events.checkpoints import Signed
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, StoredEvent
from control_plane_wire.checkpoints import Checkpoint, sign
from tests.integration.test_api_live_output import FakeLiveOutput
from tests.support.api import ApiUnderTest, an_api
from tests.support.events import a_task_accepted

pytestmark = pytest.mark.asyncio(loop_scope="module")

OURS: Final = ("alpha1", "alpha2")
THEIRS: Final = ("bravo1", "bravo2")
CANARIES: Final = ("bravo", "charlie")  # in every name and text that is of the second group; of the task on both
UNKNOWN: Final = "nothing"
CHANGING: Final = {"request_id", "preview_id", "expires_at"}

# Every route that reads, with what is asked there; `{…}` is filled with what is ours, with what is theirs, and with
# what there is not. Routes that show nothing of any host are named below.
SCOPED: Final[dict[str, list[dict[str, Any]]]] = {
    "/api/v1/hosts": [
        *({}, {"q": "bravo"}, {"q": "1"}, {"group": "bravo-group"}, {"state": "pending"}),
        *(
            {"limit": 1},
            {"state": "retired,revoked"},
            {"q": "-alpha"},
            {"q": "group:*"},
            {"q": "label:rack=*bravo* os:os*"},
        ),
    ],
    "/api/v1/hosts/{hostname}": [{}],
    "/api/v1/hosts/{hostname}/heartbeats": [{}],
    "/api/v1/groups": [{}],
    "/api/v1/groups/{group}/hosts/{hostname}": [{}],
    "/api/v1/approvals": [{}, {"state": "all"}],
    "/api/v1/tasks": [
        *({}, {"hostname": "bravo1"}, {"hostname": "alpha1"}, {"q": "bravo"}, {"q": "charlie"}, {"actor": "ada"}),
        *({"state": "running"}, {"outcome": "succeeded"}, {"limit": 1}),
    ],
    "/api/v1/tasks/{task_id}": [{}],
    "/api/v1/tasks/{task_id}/executions": [{}, {"state": "succeeded"}, {"limit": 1}],
    "/api/v1/tasks/{task_id}/executions/{hostname}": [{}],
    "/api/v1/tasks/{task_id}/executions/{hostname}/output": [{}, {"stream": "stderr"}],
    "/api/v1/tasks/{task_id}/outputs": [{}],
    "/api/v1/events": [
        *({"limit": 1000}, {"after": 0, "limit": 1000}, {"hostname": "bravo1"}, {"task_id": "task-bravo"}),
        *({"task_id": "task-charlie"}, {"actor": "ada"}, {"kind": "rule"}, {"kind": "access.denied"}),
    ],
    "/api/v1/events/export": [{}, {"format": "csv"}, {"task_id": "task-charlie"}, {"hostname": "bravo1"}],
    "/api/v1/events/{seq}": [{}],
    "/api/v1/audit/proof/{seq}": [{}, {"log": HEARTBEAT_EVENT}],
    "/api/v1/stream": [],  # in test_api_scope_stream.py
}
BY_ROLE: Final = {"/api/v1/events/export", "/api/v1/audit/proof/{seq}"}
OF_NO_HOST: Final = {
    *("/healthz", "/readyz", "/metrics", "/api/docs", "/api/openapi.json"),
    *("/api/v1/auth/me", "/api/v1/keys", "/api/v1/roles", "/api/v1/tokens"),
    *("/api/v1/audit/checkpoint", "/api/v1/audit/damage", "/api/v1/system", "/api/v1/system/packages"),
    *("/api/v1/users", "/api/v1/rules", "/api/v1/enrolment-tokens", "/api/v1/projections"),  # by role
    *("/api/v1/pending-hosts", "/api/v1/templates", "/api/v1/tasks/{task_id}/secrets/{name}"),  # by role
    *("/api/v1/auth/passkeys", "/api/v1/auth/providers", "/api/v1/auth/oidc/begin", "/api/v1/auth/oidc/callback"),
    "/api/v1/stop",
}
OF_ONE_S_OWN: Final = "/api/v1/approvals"  # and of what one may decide on: everybody may ask
OF_RULES: Final = "/api/v1/rules"  # which name groups, to whoever may read them by role


@dataclass
class Place:
    """Attributes: `asked`: how many answers were searched."""

    api: ApiUnderTest
    heads: dict[str, int] = field(default_factory=dict)
    asked: int = 0

    async def get(self, who: str, path: str, **query: Any) -> httpx.Response:
        self.asked += 1
        return await self.api.client(who).get(path, params=query)


READERS: Final = ("mia", "vic")
READS_ALL: Final = "auditor" if "auditor" in ROLES else "viewer"  # also in files and with proofs


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with an_api(tmp_path_factory.mktemp("api"), live_output=FakeLiveOutput()) as api:
        await api.register(*OURS, groups=["alpha-group"])
        await api.register(*THEIRS, groups=["bravo-group"])
        await people(api)
        for name in (*OURS, *THEIRS):
            await api.services.hosts.set_labels(CONSOLE, name, {"rack": f"rack of {name}"})
            await api.beat(name, 1, os=f"os of {name}")
        ada = api.client("ada")
        frozen = {"task-alpha": OURS, "task-bravo": THEIRS, "task-charlie": (*OURS, *THEIRS)}
        await ask(api, an_approval("of-named", OURS, {"hosts": [*OURS, "bravo1"]}))
        for task_id, target in (
            ("task-alpha", {"group": "alpha-group"}),
            ("task-bravo", {"group": "bravo-group"}),
            ("task-charlie", {"hosts": [*OURS, *THEIRS]}),
        ):
            await api.run(ada, target, task_id=task_id, command=f"command of {task_id}", reason=f"why {task_id}")
            await ada.post(f"/api/v1/tasks/{task_id}/cancel", json={"reason": f"no more {task_id}"})
            await ask(api, an_approval(f"of-{task_id}", frozen[task_id], target))
        for name in (*OURS, *THEIRS):
            for task_id in (f"task-{name[:5]}", "task-charlie"):
                await api.finish(task_id, name, stdout=f"printed by {name}\n")
        await api.services.access.deny("ada", "hosts.edit", "hosts/bravo1", address=None, code="not_allowed")
        made = Place(api)
        for log in (EVENT, HEARTBEAT_EVENT):
            made.heads[log] = await signed(api, log)
        await api.shown(made.heads[EVENT])
        yield made


def an_approval(name: str, hosts: tuple[str, ...], target: Any, *, task_id: str | None = None) -> ApprovalRequested:
    """What ada asks for, and nobody has decided on."""
    task = a_task_accepted(task_id or f"task-{name}", hosts, target=target)
    return ApprovalRequested(
        approval_id=name,
        task_id=task.task_id,
        request=task.request,
        request_sha256=task.request_sha256,
        hosts=task.hosts,
        hosts_sha256=task.hosts_sha256,
        requester="ada",
        requested_at=task.accepted_at,
        expires_at=4_000_000_000,
        rules=("r1",),
    )


async def ask(api: ApiUnderTest, event: ApprovalRequested) -> None:
    """Record it as the control plane does, signed."""
    await api.services.approvals._handling.record_new(event, actor=event.requester)


async def people(api: ApiUnderTest) -> None:
    """Two who may read about the first group: a member whom a rule allows it, a viewer whom one denies the rest."""
    for username, role, effect, group in (
        ("mia", "member", "allow", "alpha-group"),
        ("vic", READS_ALL, "deny", "bravo-group"),
    ):
        await api.services.access.create_user(CONSOLE, username, role=role, password="correct horse battery")
        token = await api.services.tokens.create(CONSOLE, username=username, name="test", days=1)
        api.tokens[username] = token.text
        await rule(api, effect, f"user:{username}", READING, group)
    await rule(api, "allow", "user:mia", {"tasks.run", "tasks.cancel", "hosts.edit", "hosts.revoke"}, "alpha-group")
    await rule(api, "allow", "user:vic", {"tasks.run", "tasks.cancel", "hosts.edit", "hosts.revoke"}, None)


async def rule(api: ApiUnderTest, effect: str, subject: str, actions: Any, group: str | None) -> str:
    groups = frozenset({group} if group else ())
    asked = Rule(
        rule_id="", effect=effect, subject=subject, actions=frozenset(actions), all_hosts=not groups, groups=groups
    )
    return (await api.services.rules.create(CONSOLE, asked))[0]


async def signed(api: ApiUnderTest, log: Any) -> int:
    """Sign a checkpoint over all that a log has; its size."""
    tree = (await api.log.head(log)).tree
    checkpoint = Checkpoint(api.services.checkpoints.origin(log), tree.size, tree.root())
    note = sign(checkpoint, api.services.keyring.active)
    await api.services.checkpoints.put(log, Signed(checkpoint, note, 1_700_000_000_000_000), [])
    return tree.size


def fillings(path: str) -> Iterator[tuple[str, dict[str, str]]]:
    """What a path is asked with: whose it is, and each of the ways to fill it."""
    for whose, hostnames, group, task_id in (
        ("ours", OURS, "alpha-group", "task-alpha"),
        ("theirs", THEIRS, "bravo-group", "task-bravo"),
        ("theirs", THEIRS, "bravo-group", "task-charlie"),
        ("nobody's", (UNKNOWN,), UNKNOWN, UNKNOWN),
    ):
        for hostname in hostnames:
            yield whose, {"hostname": hostname, "group": group, "task_id": task_id}


def is_by_role(who: str, path: str, answer: httpx.Response) -> bool:
    """Whether that is refused to a member, since besides what there is to see it takes a permission of a role."""
    return who == "mia" and path in BY_ROLE and answer.status_code == 403


def canaries_in(answer: httpx.Response) -> list[str]:
    """What of theirs is in an answer. A refusal names what was asked for; those are compared below."""
    is_refusal = answer.headers["content-type"] == "application/problem+json"
    text = "" if is_refusal else answer.text.replace("task-charlie", "")  # whose part on our hosts is ours
    return [name for name in CANARIES if name in text]


def without(answer: httpx.Response, *names: str) -> tuple[int, Any]:
    """An answer without its id and the names that it was asked for."""

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            for name in names:
                value = value.replace(name, "X")
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in CHANGING}
        return [plain(item) for item in value] if isinstance(value, list) else value

    return answer.status_code, plain(answer.json())


async def test_every_route_that_reads_is_in_the_table(place: Place) -> None:
    """A new one is either of hosts, tasks or events, and asked below, or shows nothing of them."""
    reading = {route.path for route in place.api.app.routes if isinstance(route, APIRoute) and "GET" in route.methods}
    assert reading - {FILES, *PAGES} == SCOPED.keys() | OF_NO_HOST


@pytest.mark.parametrize("who", READERS)
async def test_no_answer_on_any_route_has_anything_of_theirs(place: Place, who: str) -> None:
    for path, queries in SCOPED.items():
        for query in queries:
            for whose, names in fillings(path):
                if "{seq}" not in path:
                    answer = await place.get(who, path.format(**names), **query)
                    assert canaries_in(answer) == [], (path, query, names, answer.text)
                    if whose == "ours":
                        assert answer.status_code == 200 or is_by_role(who, path, answer), (path, query, answer.text)
    for path in OF_NO_HOST - {OF_RULES}:
        answer = await place.get(who, path)
        assert canaries_in(answer) == [], (path, answer.text)
    assert place.asked > 200


@pytest.mark.parametrize("who", READERS)
@pytest.mark.parametrize("at", [None, "head"])
async def test_what_is_theirs_is_answered_as_what_there_is_not(place: Place, who: str, at: str | None) -> None:
    query = {} if at is None else {"at": str(place.heads[EVENT])}
    compared = 0
    for path in SCOPED:
        if not {"{hostname}", "{task_id}"} & set(path.replace("/", " ").split()):
            continue
        expected = await place.get(who, path.format(hostname=UNKNOWN, group=UNKNOWN, task_id=UNKNOWN), **query)
        for whose, names in fillings(path):
            if whose == "theirs":
                answer = await place.get(who, path.format(**names), **query)
                is_of_ours = names["task_id"] == "task-charlie" and path.endswith(("/executions", "/outputs"))
                if not is_of_ours:  # what of it was on our hosts is there
                    assert without(answer, *names.values()) == without(expected, UNKNOWN), (path, names)
                    compared += 1
    assert compared >= 20


@pytest.mark.parametrize("who", READERS)
async def test_lists_count_and_page_over_what_is_readable(place: Place, who: str) -> None:
    hosts = (await place.get(who, "/api/v1/hosts")).json()
    first = (await place.get(who, "/api/v1/hosts", limit=1)).json()
    second = (await place.get(who, "/api/v1/hosts", limit=1, cursor=first["next_cursor"])).json()
    groups = (await place.get(who, "/api/v1/groups")).json()["items"]
    tasks = (await place.get(who, "/api/v1/tasks")).json()
    parts = (await place.get(who, "/api/v1/tasks/task-charlie/executions")).json()
    outputs = (await place.get(who, "/api/v1/tasks/task-charlie/outputs")).json()["groups"]

    assert ([host["hostname"] for host in hosts["items"]], hosts["total"]) == (list(OURS), 2)
    assert sum(hosts["counts"].values()) == 2
    assert [page["items"][0]["hostname"] for page in (first, second)] == list(OURS)
    assert (first["total"], second["next_cursor"]) == (2, None)
    assert [(group["group"], group["hosts"]) for group in groups] == [("alpha-group", 2)]
    assert ([task["task_id"] for task in tasks["items"]], tasks["total"]) == (["task-alpha"], 1)
    assert tasks["counts"] == {"finished": 1}
    assert [part["hostname"] for part in parts["items"]] == list(OURS)
    assert (parts["total"], parts["counts"]) == (2, {"succeeded": 2})
    assert sorted(name for group in outputs for name in group["hosts"]) == list(OURS)
    part = await place.get(who, "/api/v1/tasks/task-charlie/executions/alpha1/output")
    assert part.json()["data"] == "printed by alpha1\n"


@pytest.mark.parametrize("who", READERS)
async def test_what_was_is_shown_to_whoever_may_see_it_now(place: Place, who: str) -> None:
    searched = 0
    for at in range(1, place.heads[EVENT] + 1, 3):
        for path in ("/api/v1/hosts", "/api/v1/groups", "/api/v1/tasks", "/api/v1/events"):
            answer = await place.get(who, path, at=at)
            assert (answer.status_code, canaries_in(answer)) == (200, []), (path, at, answer.text)
            searched += 1
        for task_id in ("task-bravo", "task-charlie"):
            for rest in ("", "/executions", "/outputs", "/executions/alpha1", "/executions/bravo1/output"):
                answer = await place.get(who, f"/api/v1/tasks/{task_id}{rest}", at=at)
                assert canaries_in(answer) == [], (task_id, rest, at, answer.text)
                searched += 1
    hosts = (await place.get(who, "/api/v1/hosts", at=place.heads[EVENT])).json()
    assert ([host["hostname"] for host in hosts["items"]], hosts["total"]) == (list(OURS), 2)
    assert searched > 150


def is_ours(stored: StoredEvent) -> bool:
    """Whether an event is of a host of ours, or of a task that was on none but those."""
    if stored.hostname is not None:
        return stored.hostname in OURS
    return stored.task_id == "task-alpha"


@pytest.mark.parametrize("who", READERS)
async def test_of_the_log_there_are_the_events_of_what_is_ours_and_no_others(place: Place, who: str) -> None:
    head = place.heads[EVENT]
    events = await place.api.log.read(EVENT, after=0, limit=1000, upto=head)
    ours = {stored.seq for stored in events if is_ours(stored)}

    listed = (await place.get(who, "/api/v1/events", after=0, limit=1000)).json()["items"]
    newest = (await place.get(who, "/api/v1/events", limit=1000)).json()["items"]
    file = await place.get(who, "/api/v1/events/export")
    read = [await place.get(who, f"/api/v1/events/{seq}") for seq in range(1, head + 1)]
    proved = [await place.get(who, f"/api/v1/audit/proof/{seq}") for seq in range(1, head + 1)]

    told = [listed, newest]
    if not is_by_role(who, "/api/v1/events/export", file):
        told.append([orjson.loads(line) for line in file.text.splitlines()])
    for some in told:
        assert {event["seq"] for event in some if event["seq"] <= head} == ours
    assert {seq for seq, answer in enumerate(read, 1) if answer.status_code == 200} == ours
    if not is_by_role(who, "/api/v1/audit/proof/{seq}", proved[0]):
        assert {seq for seq, answer in enumerate(proved, 1) if answer.status_code == 200} == ours
    absent = [without(answer, str(seq)) for seq, answer in enumerate(read, 1) if answer.status_code != 200]
    unknown = without(await place.get(who, "/api/v1/events/99999999"), "99999999")
    assert all(answer == unknown for answer in absent)
    assert len(ours) >= 10
    assert len(absent) >= 25


@pytest.mark.parametrize("who", READERS)
async def test_of_the_heartbeats_those_of_our_hosts_are_proved(place: Place, who: str) -> None:
    size = place.heads[HEARTBEAT_EVENT]
    beats = await place.api.log.read(HEARTBEAT_EVENT, after=0, upto=size)

    found = {}
    for beat in beats:
        answer = await place.get(who, f"/api/v1/audit/proof/{beat.seq}", log=HEARTBEAT_EVENT)
        if not is_by_role(who, "/api/v1/audit/proof/{seq}", answer):
            found[beat.hostname] = answer.status_code

    assert not found or found == {**dict.fromkeys(OURS, 200), **dict.fromkeys(THEIRS, 404)}


async def test_whoever_may_read_everything_reads_everything(place: Place) -> None:
    hosts = (await place.get("eve", "/api/v1/hosts")).json()
    tasks = (await place.get("eve", "/api/v1/tasks")).json()
    head = place.heads[EVENT]
    events = (await place.get("root", "/api/v1/events", after=0, limit=1000)).json()["items"]

    assert {host["hostname"] for host in hosts["items"]} == {*OURS, *THEIRS}
    assert {task["task_id"] for task in tasks["items"]} >= {"task-alpha", "task-bravo", "task-charlie"}
    assert {event["seq"] for event in events} >= set(range(1, head + 1))


# --- acting on what one may not see -----------------------------------------------------------------------------------


@pytest.mark.parametrize("who", READERS)
async def test_what_is_theirs_cannot_be_acted_on_nor_told_from_what_there_is_not(place: Place, who: str) -> None:
    """Vic may by his rules run on all hosts and change them, which tells him nothing of those that he may not see."""
    client, before = place.api.client(who), (await place.api.log.head(EVENT)).seq
    bodies = {"retry": {"states": ["succeeded"]}, "lift-quarantine": {"reason": "so"}}

    async def said(method: str, path: str, name: str, body: Any) -> tuple[int, Any]:
        place.asked += 1
        return without(await client.request(method, path.format(name), json=body), name)

    tried = 0
    for act in ("cancel", "pause", "resume", "retry"):
        path, body = f"/api/v1/tasks/{{}}/{act}", bodies.get(act, {})
        nothing = await said("POST", path, UNKNOWN, body)
        assert nothing[0] == 404
        for task_id in ("task-bravo", "task-charlie"):
            assert await said("POST", path, task_id, body) == nothing, act
            tried += 1
    changes: list[tuple[str, str, Any]] = [
        ("PATCH", "/api/v1/hosts/{}", {"maintenance": True}),
        ("PATCH", "/api/v1/hosts/{}", {"groups": ["alpha-group"]}),
        ("POST", "/api/v1/hosts/{}/revoke", {}),
        ("POST", "/api/v1/hosts/{}/lift-quarantine", {"reason": "so"}),
        ("DELETE", "/api/v1/hosts/{}", None),
        ("PUT", "/api/v1/groups/alpha-group/hosts/{}", None),
        ("DELETE", "/api/v1/groups/bravo-group/hosts/{}", None),
    ]
    for method, path, body in changes:
        nothing = await said(method, path, UNKNOWN, body)
        assert nothing[0] == 404
        for name in THEIRS:
            assert await said(method, path, name, body) == nothing, path
            tried += 1

    assert tried == 22
    events = await place.api.log.read(EVENT, after=before)
    assert {event.kind for event in events} <= {"access.denied"}


def targets(name: str, group: str) -> list[dict[str, Any]]:
    return [{"host": name}, {"hosts": [name]}, {"hosts": ["alpha1", name]}, {"group": group}]


@pytest.mark.parametrize("who", READERS)
async def test_a_target_means_hosts_that_one_may_see(place: Place, who: str) -> None:
    client, ask = place.api.client(who), {"command": "id", "timeout": 5, "user": "deploy"}

    for path in ("/api/v1/targets/preview", "/api/v1/tasks"):
        nothing = [
            without(await client.post(path, json={**ask, "target": target}), UNKNOWN)
            for target in targets(UNKNOWN, UNKNOWN)
        ]
        for name in THEIRS:
            told = [
                without(await client.post(path, json={**ask, "target": target}), name, "bravo-group")
                for target in targets(name, "bravo-group")
            ]
            assert told == nothing, path
    everything = (await client.post("/api/v1/targets/preview", json={**ask, "target": {"all": True}})).json()
    assert (everything["hosts"], everything["excluded"], everything["count"]) == (list(OURS), [], 2)
    accepted = await place.api.run(client, {"all": True}, task_id=f"all-of-{who}", preview_id=everything["preview_id"])
    event = (await client.get(f"/api/v1/events/{accepted['seq']}")).json()
    assert event["body"]["hosts"] == list(OURS)


async def test_who_asks_for_what_is_not_theirs_is_recorded_and_so_often_only(place: Place) -> None:
    """As often for what there is not: so the time that it takes says nothing either."""
    await place.api.services.access.create_user(CONSOLE, "max", role="member", password="correct horse battery")
    made = await place.api.services.tokens.create(CONSOLE, username="max", name="test", days=1)
    place.api.tokens["max"] = made.text
    await rule(place.api, "allow", "user:max", READING, "alpha-group")
    before = (await place.api.log.head(EVENT)).seq

    for _ in range(10):
        for path in ("hosts/bravo1", "hosts/nothing", "tasks/task-bravo", "events/1"):
            assert (await place.get("max", f"/api/v1/{path}")).status_code == 404
    assert (await place.get("eve", "/api/v1/hosts/nothing")).status_code == 404, "who sees all learns nothing by it"

    events = await place.api.log.read(EVENT, after=before)
    assert {event.kind for event in events} == {"access.denied"}
    bodies = [orjson.loads(event.body) for event in events]
    assert len(bodies) == 10
    assert [(body["actor"], body["action"], body["resource"], body["code"]) for body in bodies[:4]] == [
        ("max", "hosts.read", "GET /api/v1/hosts/bravo1", "unknown_host"),
        ("max", "hosts.read", "GET /api/v1/hosts/nothing", "unknown_host"),
        ("max", "tasks.read", "GET /api/v1/tasks/task-bravo", "unknown_task"),
        ("max", "events.read", "GET /api/v1/events/1", "unknown_event"),
    ]


# --- one permission without another -----------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module")
async def one_of_them(place: Place) -> AsyncIterator[Any]:
    """Makes somebody who may do only these, on the first group."""
    made: list[str] = []

    async def make(*actions: str) -> str:
        username = f"one{len(place.api.tokens)}"
        await place.api.services.access.create_user(CONSOLE, username, role="member", password="correct horse battery")
        token = await place.api.services.tokens.create(CONSOLE, username=username, name="test", days=1)
        place.api.tokens[username] = token.text
        made.append(await rule(place.api, "allow", f"user:{username}", actions, "alpha-group"))
        return username

    yield make
    for rule_id in made:
        await place.api.services.rules.delete(CONSOLE, rule_id)


async def test_output_is_seen_by_whoever_may_see_output(place: Place, one_of_them: Any) -> None:
    who = await one_of_them("hosts.read", "tasks.read", "events.read")

    answers = [
        await place.get(who, path)
        for path in (
            *("/api/v1/tasks", "/api/v1/tasks/task-alpha", "/api/v1/tasks/task-alpha/executions"),
            *("/api/v1/tasks/task-alpha/executions/alpha1", "/api/v1/events", "/api/v1/events/export"),
            *(f"/api/v1/events/{seq}" for seq in range(1, place.heads[EVENT] + 1)),
            *(f"/api/v1/audit/proof/{seq}" for seq in range(1, place.heads[EVENT] + 1)),
        )
    ]

    assert not any("printed by" in answer.text for answer in answers)
    assert {answer.status_code for answer in answers} <= {200, 403, 404}
    finished = [event for event in answers[4].json()["items"] if event["kind"] == "execution.finished"]
    assert len(finished) == 4, "that it has ended is no output"
    for event in finished:
        whole = await place.get(who, f"/api/v1/events/{event['seq']}")
        assert whole.status_code == 404
    for path in ("/api/v1/tasks/task-alpha/outputs", "/api/v1/tasks/task-alpha/executions/alpha1/output"):
        assert (await place.get(who, path)).status_code == 403


async def seq_of(place: Place, kind: str, hostname: str) -> int:
    found = await place.get("root", "/api/v1/events", kind=kind, hostname=hostname)
    return int(found.json()["items"][0]["seq"])


@pytest.mark.parametrize("action", sorted(READING))
async def test_one_permission_opens_its_own_routes_and_no_others(place: Place, one_of_them: Any, action: str) -> None:
    who = await one_of_them(action)
    needs = {
        "hosts.read": ("/api/v1/hosts", "/api/v1/hosts/alpha1", "/api/v1/groups"),
        "tasks.read": ("/api/v1/tasks", "/api/v1/tasks/task-alpha", "/api/v1/tasks/task-alpha/executions"),
        "tasks.output": ("/api/v1/tasks/task-alpha/outputs", "/api/v1/tasks/task-alpha/executions/alpha1/output"),
        "events.read": ("/api/v1/events", f"/api/v1/events/{await seq_of(place, 'host.registered', 'alpha1')}"),
    }

    for needed, paths in needs.items():
        for path in paths:
            status = (await place.get(who, path)).status_code
            if needed != action:
                assert status == 403, path
            else:  # without tasks.read there is no task to have an output
                assert status == (404 if action == "tasks.output" else 200), path
    for path in ("/api/v1/projections", "/api/v1/system", "/api/v1/users", "/api/v1/rules", "/api/v1/enrolment-tokens"):
        assert (await place.get(who, path)).status_code == 403
    if action == "events.read":
        kinds = {event["kind"] for event in (await place.get(who, "/api/v1/events", limit=1000)).json()["items"]}
        assert kinds
        assert not {kind for kind in kinds if kind.startswith("task.")}, "those are for who may see the task"


async def test_a_member_without_a_rule_may_sign_in_and_see_himself(place: Place) -> None:
    await place.api.services.access.create_user(CONSOLE, "nob", role="member", password="correct horse battery")
    browser = await place.api.browser("nob")

    me = (await browser.get("/api/v1/auth/me")).json()

    assert (me["role"], me["permissions"]) == ("member", [])
    assert (await browser.get(OF_ONE_S_OWN)).json()["items"] == []
    for path in SCOPED.keys() - {OF_ONE_S_OWN}:
        filled = path.format(hostname="alpha1", group="alpha-group", task_id="task-alpha", seq=1)
        query = {"topics": "hosts"} if path.endswith("/stream") else {}
        assert (await browser.get(filled, params=query)).status_code == 403, path


async def test_a_host_that_a_task_names_and_does_not_go_to_is_not_named_to_others(place: Place) -> None:
    """A basic agent is left out of what it cannot do, and stands in what was asked for."""
    task = a_task_accepted("task-named", OURS, target={"hosts": ["alpha1", "alpha2", "bravo1"]})
    seq = await place.api.record(task)
    asked = an_approval("a-named", OURS, task.request["target"], task_id=task.task_id)
    seqs = (seq, await place.api.record(asked))
    await place.api.shown(seqs[-1])

    shown = (await place.get("mia", "/api/v1/tasks/task-named")).json()
    listed = (await place.get("mia", "/api/v1/tasks")).json()["items"]

    assert shown["target"] == {"hosts": list(OURS)}
    assert not any("bravo" in str(each) for each in listed)
    for seq in seqs:
        assert (await place.get("mia", f"/api/v1/events/{seq}")).status_code == 404
    assert "bravo" not in (await place.get("mia", "/api/v1/events/export", task_id="task-named")).text
    assert (await place.get("eve", "/api/v1/tasks/task-named")).json()["target"]["hosts"][-1] == "bravo1"


async def test_an_approval_is_not_shown_as_the_task_that_took_its_place(place: Place) -> None:
    """Refused for hosts on both sides; then a task of the same id was accepted for ours alone."""
    task = a_task_accepted("task-smaller", ("alpha1",), target={"host": "alpha1"})
    wider = await place.api.record(
        an_approval("a-wider", ("alpha1", "bravo1"), {"group": "all-of-them"}, task_id=task.task_id)
    )
    same = await place.api.record(an_approval("a-same", ("alpha1",), {"host": "alpha1"}, task_id=task.task_id))
    await place.api.shown(await place.api.record(task))

    for who in READERS:
        assert (await place.get(who, "/api/v1/tasks/task-smaller")).status_code == 200
        assert (await place.get(who, f"/api/v1/events/{wider}")).status_code == 404
        assert (await place.get(who, f"/api/v1/events/{same}")).status_code == 200
        answer = await place.get(who, "/api/v1/events/export", task_id=task.task_id)
        assert canaries_in(answer) == [], answer.text


@pytest.mark.parametrize("who", READERS)
async def test_approvals_are_shown_to_whoever_may_decide_on_them_and_see_all_their_hosts(
    place: Place, who: str
) -> None:
    made = await rule(place.api, "allow", f"user:{who}", {"tasks.approve"}, None)
    try:
        listed = await place.get(who, "/api/v1/approvals")
        assert {item["approval_id"] for item in listed.json()["items"]} >= {"of-task-alpha"}
        assert canaries_in(listed) == [], listed.text
        for verb in ("approve", "refuse"):
            answers = [
                await place.api.client(who).post(f"/api/v1/approvals/{name}/{verb}")
                for name in (UNKNOWN, "of-task-bravo", "of-task-charlie", "of-named")
            ]
            assert {answer.status_code for answer in answers} == {404}
            assert len({str(without(answer)) for answer in answers}) == 1
        everything = await place.get("root", "/api/v1/approvals")
        assert {"of-task-bravo", "of-named"} <= {item["approval_id"] for item in everything.json()["items"]}
    finally:
        await place.api.services.rules.delete(CONSOLE, made)


async def test_of_one_s_own_approval_the_hosts_that_one_may_not_see_any_more_are_left_out(
    place: Place, one_of_them: Any
) -> None:
    who = await one_of_them("hosts.read", "tasks.read", "tasks.run")
    event = an_approval("of-own", ("alpha1", "bravo1"), {"hosts": ["alpha1", "bravo1"]})
    await ask(place.api, replace(event, requester=who))

    [shown] = (await place.get(who, "/api/v1/approvals")).json()["items"]

    assert (shown["mine"], shown["hosts"], shown["request"]["target"]) == (True, ["alpha1"], {"hosts": ["alpha1"]})
    assert shown["host_count"] == 2


async def test_the_same_request_again_answers_what_was_accepted_where_it_may_not_be_seen(
    place: Place, one_of_them: Any
) -> None:
    who = await one_of_them("hosts.read", "tasks.run")
    await rule(place.api, "allow", f"user:{who}", {"tasks.read"}, "empty-group")
    asked = {"target": {"host": "alpha1"}, "command": "id", "timeout": 5, "user": "deploy", "task_id": "task-once"}

    first, again = [await place.api.client(who).post("/api/v1/tasks", json=asked) for _ in range(2)]

    assert (first.status_code, again.status_code) == (202, 200), first.text
    assert first.json() == again.json()
    assert (await place.get(who, "/api/v1/tasks/task-once")).status_code == 404
