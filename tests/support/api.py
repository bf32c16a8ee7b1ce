"""The API over a real log, real read tables and SQLite, with people in every role, and clients that ask it."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
from fastapi import FastAPI

from control_plane.api.app import create_app
from control_plane.api.authentication import CSRF_HEADER
from control_plane.api.live import Live
from control_plane.api.services import Here, LiveOutput, Probe, Services
from control_plane.api.ui import StaticUi
from control_plane.bootstrap import TablePresences, provider_of
from control_plane.commands.access import CONSOLE
from control_plane.commands.authority import Authority, Keyring
from control_plane.commands.handlers.access import AccessHandler
from control_plane.commands.handlers.approvals import ApprovalHandler
from control_plane.commands.handlers.enrolment import EnrolmentHandler
from control_plane.commands.handlers.hosts import HostHandler
from control_plane.commands.handlers.identity import IdentityHandler
from control_plane.commands.handlers.passkeys import PasskeyHandler
from control_plane.commands.handlers.pending_hosts import PendingHostHandler
from control_plane.commands.handlers.projections import ProjectionHandler
from control_plane.commands.handlers.rollouts import RolloutHandler
from control_plane.commands.handlers.rotations import RotationHandler
from control_plane.commands.handlers.rules import RuleHandler
from control_plane.commands.handlers.secrets import SecretHandler
from control_plane.commands.handlers.stop import StopHandler
from control_plane.commands.handlers.tasks import TaskHandler
from control_plane.commands.handlers.templates import TemplateHandler
from control_plane.commands.handlers.tokens import TokenHandler
from control_plane.commands.handling import Handling
from control_plane.commands.passkeys import relying_party_of
from control_plane.commands.passwords import PasswordHasher
from control_plane.commands.ports import Presence
from control_plane.commands.secrets import Vault
from control_plane.commands.token_uses import TokenUses
from control_plane.events.checkpoints import Checkpoints
from control_plane.events.event import Event
from control_plane.events.hosts import HeartbeatReceived
from control_plane.events.log import EventLog
from control_plane.events.tasks import ExecutionFinished
from control_plane.messaging.broker_accounts import SharedAccount
from control_plane.observability import Metrics
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.hub import Hub
from control_plane.projections.projector import Projector
from control_plane.projections.queries.audit import AuditQueries
from control_plane.projections.queries.hosts import HostQueries
from control_plane.projections.queries.past import Past
from control_plane.projections.queries.projections import ProjectionQueries
from control_plane.projections.queries.tasks import TaskQueries
from control_plane.projections.rebuilder import Rebuilder
from control_plane.settings import Settings
from control_plane.storage.credentials import CredentialTable
from control_plane.storage.engine import Database
from control_plane.storage.leases import Leases
from control_plane.storage.pending_hosts import PendingHostTable
from control_plane.storage.token_uses import TokenUseRows
from control_plane_wire.clock import SystemClock
from control_plane_wire.messages import HeartbeatMessage
from control_plane_wire.signing import SigningKey, encode_base64
from control_plane_wire.strict_json import JsonObject
from tests.support.database import migrated, sqlite_url
from tests.support.fleet import SECRETS_KEY

URL = "http://127.0.0.1:8000"
PASSWORD = "correct horse battery"
LOGIN_TOKEN = "the-login-link-of-this-test"
PEOPLE = {"root": "administrator", "ada": "operator", "eve": "viewer", "aud": "auditor"}
NO_RATES = {"session_rate": 0, "token_rate": 0}
UI = {
    "index.html": b'<script type="module" src="/ui/@build/js/main.js"></script>',
    "js/main.js": b"export {}",
    "css/base.css": b"body {}",
}


class _Presences:
    """Every host is online; those that the test says have basic agents."""

    def __init__(self) -> None:
        self.basic: set[str] = set()

    async def presences(self, hostnames: Collection[str]) -> Mapping[str, Presence]:
        return {name: Presence(state="online", basic=name in self.basic) for name in hostnames}

    async def presences_at(self, hostnames: Collection[str], seq: int) -> None:
        return None


@dataclass
class ApiUnderTest:
    """Attributes: `tokens`: an API token of each of PEOPLE; `stop`: ends the streams and the projectors."""

    services: Services
    log: EventLog
    app: FastAPI
    live: Live
    presences: _Presences
    tokens: dict[str, str]
    stop: asyncio.Event
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def client(self, username: str | None = "root", *, address: str = "127.0.0.1", **headers: str) -> httpx.AsyncClient:
        """A client with that person's token; None: with no credentials at all."""
        if username is not None:
            headers = {"authorization": f"Bearer {self.tokens[username]}", **headers}
        made = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, client=(address, 1)), base_url=URL, headers=headers
        )
        self.clients.append(made)
        return made

    async def browser(self, username: str = "root", password: str = PASSWORD) -> httpx.AsyncClient:
        """A client that has logged in as a browser does: with a cookie, our Origin and the CSRF token."""
        client = self.client(None, origin=URL)
        answer = await client.post("/api/v1/auth/login", json={"username": username, "password": password})
        assert answer.status_code == 200, answer.text
        client.headers[CSRF_HEADER] = answer.json()["csrf_token"]
        return client

    async def register(self, *hostnames: str, groups: Collection[str] = ()) -> int:
        """Register hosts, and wait until they are shown; the seq of the last one."""
        seq = 0
        for hostname in hostnames:
            key = SigningKey.generate().public_key
            seq = await self.services.hosts.register(CONSOLE, hostname=hostname, public_key=key, groups=groups)
        await self.shown(seq)
        return seq

    async def run(self, client: httpx.AsyncClient, target: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Ask for a command; what the API answered."""
        body = {"target": target, "command": "uptime", "timeout": 30, "user": "root", **more}
        answer = await client.post("/api/v1/tasks", json=body)
        assert answer.status_code == 202, answer.text
        accepted: dict[str, Any] = answer.json()
        await self.shown(accepted["seq"])
        return accepted

    async def record(self, event: Event) -> int:
        """Append an event as a process would, and wait until it is shown; its seq."""
        [outcome] = await self.log.append([event.to_new_event()])
        if not isinstance(event, HeartbeatReceived):
            await self.shown(outcome.seq)
        return outcome.seq

    async def finish(self, task_id: str, hostname: str, stdout: str = "done\n", **fields: Any) -> int:
        """Record a host's result; its seq."""
        message: JsonObject = {"task_id": task_id, "exit_code": 0, "stdout": stdout, "stderr": "", "timestamp": 1}
        return await self.record(ExecutionFinished(message={**message, **fields}, hostname=hostname))

    async def beat(self, hostname: str, sequence: int, **fields: Any) -> None:
        """Record a heartbeat, and wait until it is shown."""
        now_s = self.services.clock.now_s()
        usages = {"cpu_usage": 0.25, "memory_usage": 0.5, "agent_version": "1.0", "boot_id": "b1", **fields}
        heartbeat = HeartbeatMessage(hostname=hostname, status="online", timestamp=now_s, sequence=sequence, **usages)
        await self.record(HeartbeatReceived(message=heartbeat.to_json()))
        async with asyncio.timeout(5):
            while (host := await self.services.host_queries.one(hostname)) is None or not host.usage_pos:
                await self.services.hub.wait_moved(timeout_s=0.05)

    async def shown(self, seq: int) -> None:
        """Wait until every read table has come to an event."""
        for projection in PROJECTIONS:
            assert await self.services.hub.wait_for(projection.name, seq, timeout_s=5), projection.name


@asynccontextmanager
async def an_api(
    tmp_path: Path,
    *,
    probes: tuple[Probe, ...] = (),
    live_output: LiveOutput | None = None,
    broker_url: str = "amqp://broker",
    is_patient: bool = False,
    as_heard: bool = False,
    url: str | None = None,
    **settings: Any,
) -> AsyncIterator[ApiUnderTest]:
    """A running API, with its projectors and its follower.

    Args:
        is_patient: one address may be wrong as often as it likes.
        as_heard: hosts are in the state that their events say, in place of all online.
        url: of the database, if it is not to be a new one of SQLite.
    """
    # Without limits of requests, but where a test gives some: what it sends at once is no attack.
    url = url or sqlite_url(tmp_path)
    given = {"database_url": url, "listen": "127.0.0.1:8000", **NO_RATES, **settings}
    async with migrated(url) as database, EventLog.open(database) as log:
        rebuilder = Rebuilder(database, log, SystemClock())
        presences = TablePresences(HostQueries(database), Past(database, log, SystemClock())) if as_heard else None
        made_of = (Settings(**given), database, log, rebuilder, probes, live_output, broker_url)
        services, simple = _services(*made_of, presences)
        tokens = await _people(services)
        dashboard = StaticUi(UI)
        live = Live(services, dashboard.digest)
        stop = asyncio.Event()
        leases = Leases(database, owner="test")
        app = create_app(services, live, dashboard)
        if is_patient:
            app.state.authenticator._throttle.wrong = lambda _address, _now_s: None
        made = ApiUnderTest(
            services=services,
            log=log,
            app=app,
            live=live,
            presences=simple,
            tokens=tokens,
            stop=stop,
        )
        async with asyncio.TaskGroup() as group:
            for projection in PROJECTIONS:
                group.create_task(Projector(projection(), database, log, leases, services.hub).run(stop))
            group.create_task(live.run(stop))
            group.create_task(services.access.uses.run(stop))
            group.create_task(rebuilder.run(stop))
            try:
                yield made
            finally:
                stop.set()
                for client in made.clients:
                    await client.aclose()


def _services(
    settings: Settings,
    database: Database,
    log: EventLog,
    rebuilder: Rebuilder,
    probes: tuple[Probe, ...],
    live_output: LiveOutput | None,
    broker_url: str,
    of_table: TablePresences | None,
) -> tuple[Services, _Presences]:
    clock, metrics = SystemClock(), Metrics()
    keyring = Keyring(SigningKey.generate())
    authority = Authority(log, keyring, clock)
    handling = Handling(log=log, authority=authority, keyring=keyring, clock=clock)
    presences = _Presences()
    hasher = PasswordHasher(memory_kib=64, iterations=1, lanes=1)
    access = AccessHandler(
        handling,
        CredentialTable(database),
        hasher,
        uses=TokenUses(TokenUseRows(database), clock),
        login_token=LOGIN_TOKEN,
        login_user="root",
        relying_party=relying_party_of(settings.url),
    )
    enrolment = EnrolmentHandler(handling, SharedAccount(broker_url))
    hub, task_queries, vault = Hub(database), TaskQueries(database), Vault(SECRETS_KEY)
    tasks = TaskHandler(
        handling,
        of_table or presences,
        task_queries,
        max_waiting=settings.max_waiting,
        count=metrics.happenings(),
        vault=vault,
    )
    services = Services(
        settings=settings,
        clock=clock,
        log=log,
        authority=authority,
        keyring=keyring,
        checkpoints=Checkpoints(database, installation=keyring.active.key_id, public_keys=keyring.public_keys),
        access=access,
        tokens=TokenHandler(handling),
        passkeys=PasskeyHandler(handling, access),
        identity=IdentityHandler(
            handling, access, provider_of(settings, clock, metrics.happenings()), settings.oidc_name
        ),
        enrolment=enrolment,
        pending=PendingHostHandler(handling, enrolment, PendingHostTable(database), most=settings.pending_hosts),
        rotations=RotationHandler(handling, enrolment),
        hosts=HostHandler(handling, access.check_recent),
        tasks=tasks,
        rollouts=RolloutHandler(handling, task_queries),
        rules=RuleHandler(handling),
        stop=StopHandler(handling),
        templates=TemplateHandler(handling),
        approvals=ApprovalHandler(handling, tasks),
        secrets=SecretHandler(handling, vault),
        projections=ProjectionHandler(handling, rebuilder),
        host_queries=HostQueries(database),
        task_queries=task_queries,
        audit_queries=AuditQueries(database),
        projection_queries=ProjectionQueries(database, log, hub, clock),
        past=Past(database, log, clock),
        hub=hub,
        here=Here(since_us=clock.now_us(), takes_messages=True, damages=log.holes, verified=rebuilder.verified),
        metrics=metrics,
        probes=probes,
        live_output=live_output,
    )
    return services, presences


async def _people(services: Services) -> dict[str, str]:
    tokens = {}
    for username, role in PEOPLE.items():
        await services.access.create_user(CONSOLE, username, role=role, password=PASSWORD)
        tokens[username] = (await services.tokens.create(CONSOLE, username=username, name="test", days=1)).text
    return tokens


def a_public_key() -> str:
    return encode_base64(SigningKey.generate().public_key)


class StreamReader:
    """Reads an event stream of the application as it comes, which httpx's transport for tests does not."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.last_id: str | None = None
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._left = asyncio.Event()
        self._text = b""

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            if message["body"]:
                self._chunks.put_nowait(message["body"])
            if not message.get("more_body"):
                self._chunks.put_nowait(None)

    async def receive(self) -> MutableMapping[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    def leave(self) -> None:
        self._left.set()

    async def next(self, *, skip: Collection[str] = ("ping",), timeout_s: float = 5) -> tuple[str, Any] | None:
        """The next event and its data, but for those to skip; None at the end of the stream."""
        async with asyncio.timeout(timeout_s):
            while True:
                while b"\n\n" not in self._text:
                    chunk = await self._chunks.get()
                    if chunk is None:
                        return None
                    self._text += chunk
                text, _, self._text = self._text.partition(b"\n\n")
                fields = dict(line.split(": ", 1) for line in text.decode().splitlines())
                self.last_id = fields.get("id", self.last_id)
                if fields["event"] not in skip:
                    return fields["event"], orjson.loads(fields["data"])


@asynccontextmanager
async def a_stream(
    api: ApiUnderTest, topics: str, *, after: str | None = None, token: str | None = None
) -> AsyncIterator[StreamReader]:
    """A reader of these topics, who leaves at the end of the block."""
    reader = StreamReader()
    query = f"topics={topics}" + (f"&after={after}" if after else "")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/api/v1/stream",
        "raw_path": b"/api/v1/stream",
        "root_path": "",
        "query_string": query.encode(),
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 1),
        "headers": [
            (b"host", b"127.0.0.1:8000"),
            (b"authorization", f"Bearer {token or api.tokens['root']}".encode()),
        ],
    }
    async with asyncio.TaskGroup() as group:
        group.create_task(api.app(scope, reader.receive, reader.send))
        try:
            yield reader
        finally:
            reader.leave()
