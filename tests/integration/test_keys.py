"""The control plane's key is changed while all goes on: servers, agents and the command line, as they are."""

import asyncio
import base64
import logging
import shutil
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from control_plane.administration import Office, initialise, opened
from control_plane.api.server import bound
from control_plane.api.services import Services
from control_plane.bootstrap import ROLES, services_of, services_of_api
from control_plane.commands.access import CONSOLE
from control_plane.commands.handlers.access import AccessHandler
from control_plane.commands.keyring import Keyring
from control_plane.commands.targets import Hosts
from control_plane.commands.tasks import CreateTask
from control_plane.core import Core, open_core, open_leases, prepare
from control_plane.errors import ConfigurationError, RefusedError, StorageUnavailableError
from control_plane.events.access import TokenCreated, UserCreated, UserRoleChanged
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.event import Event
from control_plane.events.hosts import HostRegistered
from control_plane.events.tasks import ExecutionFinished, TaskAccepted
from control_plane.observability import Metrics
from control_plane.projections.rebuilder import Rebuilder
from control_plane.settings import Settings
from control_plane.storage import signing_key
from control_plane.storage.signing_key import KeyStore
from control_plane_agent.assembly import simulated_agent
from control_plane_agent.identity import Identity
from control_plane_agent.session import Agent
from control_plane_wire.lifecycle import run_until_stopped
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE, SigningKey, encode_base64
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.agent import running
from tests.support.database import sqlite_url
from tests.support.events import AT, SHA
from tests.support.fleet import PASSWORD, host_key
from tests.support.plane import until
from tests.unit.commands.test_rules import a_rule

PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_key, "KIB", 64)
    monkeypatch.setattr("control_plane.commands.authority.FIND_S", 0.1)
    monkeypatch.setattr("control_plane.processes.checkpoints.EVERY_S", 0.3)
    monkeypatch.setattr("control_plane.processes.checkpoints.LOOK_S", 0.1)


@dataclass
class Server:
    core: Core
    services: Services
    url: str

    async def get(self, path: str, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(headers=headers) as client:
            return await client.get(f"{self.url}{path}")


@dataclass
class Site:
    """Servers on one database and one broker, each with a state directory of its own.

    Attributes: `ran`: how often each host was told by its agent to start each task.
    """

    directory: Path
    broker: InProcessBroker = field(default_factory=InProcessBroker)
    ran: Counter[tuple[str, str]] = field(default_factory=Counter)

    def settings(self, name: str, **given: Any) -> Settings:
        state_dir = self.directory / name
        state_dir.mkdir(mode=0o700, exist_ok=True)
        more = {"listen": "127.0.0.1:0", "metrics_public": True, "key_passphrase": PASSPHRASE, **given}
        return Settings(database_url=sqlite_url(self.directory), state_dir=state_dir, **more)

    @asynccontextmanager
    async def office(self, name: str = "one") -> AsyncIterator[Office]:
        """What the command line opens, on the state of that server."""
        async with opened(self.settings(name)) as office:
            yield office

    @asynccontextmanager
    async def server(self, name: str = "one") -> AsyncIterator[Server]:
        stop = asyncio.Event()
        with bound(self.settings(name)) as (settings, listener):
            async with open_core(settings) as core, open_leases(core) as leases, asyncio.TaskGroup() as group:
                await prepare(core)
                services = services_of(core, self.broker.transport(), leases, roles=ROLES, listener=listener)
                group.create_task(run_until_stopped(services, stop=stop, drain_s=10))
                api = services_of_api(core, Metrics(), Rebuilder(core.database, core.log, core.clock))
                try:
                    yield Server(core, api, settings.url)
                finally:
                    stop.set()

    async def agent(self, core: Core, hostname: str, number: int) -> Agent:
        """That host's agent, enrolled with the keys of now."""
        async with self.office() as office:
            event = HostRegistered(
                hostname=hostname,
                generation=1,
                public_key=encode_base64(host_key(hostname).public_key),
                groups=("web",),
                registered_by="root",
                enrolment_token_id="0123456789abcdef",
            )
            await office.core.handling.record_new(event, actor="root")
        await core.authority.refresh()
        host = core.authority.fleet.host(hostname)
        who = Identity(
            hostname=hostname,
            key=host_key(hostname),
            keys={key.key_id: key.public_key for key in core.keyring.trusted},
            announced=core.keyring.announced,
            groups=dict(host.groups),
            enrolled_as_of=host.registered_seq,
        )
        return self.started(who, number)

    def started(self, who: Identity, number: int) -> Agent:
        """A new process of that host's agent, with what it has on its disk of its identity."""
        hostname = who.hostname
        agent = simulated_agent(number, who, self.broker.transport(), interval_s=1)
        run = agent._executions._executor.run

        async def counted(task_id: str, **given: Any) -> None:
            self.ran[hostname, task_id] += 1
            await run(task_id, **given)

        agent._executions._executor.run = counted  # type: ignore[method-assign]
        return agent


async def run(server: Server, task_id: str, *hostnames: str) -> int:
    """Accept a task; as a client does, the same again where the database was busy."""
    request = CreateTask(task_id=task_id, target=Hosts(hostnames), command="true", timeout=30, user="root")
    async with asyncio.timeout(30):
        while True:
            try:
                return (await server.services.tasks.create(CONSOLE, request)).seq
            except StorageUnavailableError:
                await asyncio.sleep(0.01)


async def finished(core: Core) -> Counter[tuple[str, str]]:
    rows = await core.log.read(EVENT, after=0, kinds={ExecutionFinished.KIND}, limit=100_000)
    return Counter((row.hostname or "", row.task_id or "") for row in rows)


def trusts(agent: Agent) -> list[str]:
    return list(agent._identities.current.keys)


def soon(condition: Callable[[], object]) -> Awaitable[Any]:
    async def holds() -> object:
        return condition()

    return until(holds)


def forged(key: SigningKey) -> list[Event]:
    return [
        UserCreated(username="mallory", based_on=0, role="administrator", phc_sha256=SHA),
        UserRoleChanged(username="ada", based_on=2, role="administrator"),
        TokenCreated(token_id="a" * 16, token_sha256=SHA, username="root", name="x", expires_at=AT * 2),
        HostRegistered(
            hostname="evil",
            generation=1,
            public_key=encode_base64(key.public_key),
            groups=("web",),
            registered_by="root",
            enrolment_token_id=None,
        ),
        a_rule("forged", subject="user:ada", actions={"tasks.run"}).to_event(),
    ]


async def test_the_key_is_changed_under_load_and_nothing_is_lost_or_run_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("control_plane", "control_plane_agent"):
        caplog.set_level(logging.DEBUG, logger=name)
    site = Site(tmp_path)
    await initialise(site.settings("one"), "root", PASSWORD)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    async with site.server("one") as one, site.server("two") as two:
        first = one.core.keyring.active
        agents = [await site.agent(one.core, f"web{n}", n) for n in (1, 2, 3)]
        web1, web2, web3 = agents
        accepted: list[str] = []
        is_over = asyncio.Event()

        async def load() -> None:
            while not is_over.is_set():
                for server in (one, two):
                    task_id = f"t{len(accepted)}"
                    accepted.append(task_id)
                    await run(server, task_id, "web1", "web2")
                await asyncio.sleep(0.02)

        async with running(web1), running(web2), asyncio.TaskGroup() as group:
            async with running(web3):
                async with site.office() as office:
                    second_id = await office.keys.announce()
                    assert await office.keys.announce() == second_id
                await soon(lambda: all(agent._identities.current.announced for agent in agents))
            await run(one, "late", "web3")
            group.create_task(load())
            await soon(lambda: len(accepted) > 20)

            async with site.office() as office:
                assert await office.keys.rotate() == await office.keys.rotate() == second_id
            await soon(lambda: one.core.keyring.active.key_id == second_id)
            await soon(lambda: two.core.keyring.missing)
            token = await two.core.tokens.create(CONSOLE, username="root", name="a test", days=1)
            answer = await two.get("/readyz", authorization=f"Bearer {token.text}")
            await two.core.tokens.revoke(CONSOLE, token.token_id)
            [lacks] = [check for check in answer.json()["checks"] if check["state"] != "ok"]
            assert (answer.status_code, lacks["name"], lacks["state"]) == (200, "all signing keys", "warning")
            assert second_id in lacks["detail"], "which one is no secret"
            assert str(tmp_path) not in answer.text, "where it belongs is"
            shutil.copytree(tmp_path / "one" / "keys", tmp_path / "two" / "keys")
            await soon(lambda: two.core.keyring.active.key_id == second_id)
            await soon(lambda: trusts(web1) == trusts(web2) == [first.key_id, second_id])

            async with site.office() as office:
                with pytest.raises(RefusedError, match=r"hosts_behind: these do not trust \w+ yet: web3$"):
                    await until(lambda: _retired(office, first.key_id))
                heard = await office.keys.retire(first.key_id, anyway=True, forget=False, reason="a test")
                assert heard.late == ["web3"]
                assert office.keys.is_here(first.key_id)
            await soon(lambda: trusts(web1) == trusts(web2) == [second_id])
            at = len(accepted)
            await soon(lambda: len(accepted) > at + 10)
            web3 = site.started(web3._identities.current, 3)
            async with running(web3):  # its first command comes after the word of the new key, signed by the old one
                await soon(lambda: site.ran["web3", "late"])
                assert trusts(web3) == [second_id]

                async def deleted() -> bool:
                    async with site.office() as office:
                        heard = await office.keys.retire(first.key_id, anyway=False, forget=False, reason=None)
                        return not heard.late and not office.keys.is_here(first.key_id)

                await until(deleted)
            is_over.set()
            wanted = {(name, task_id) for task_id in accepted for name in ("web1", "web2")} | {("web3", "late")}

            async def all_finished() -> bool:
                return (await finished(one.core)).keys() >= wanted

            await until(all_finished)
            assert set(site.ran.values()) == set((await finished(one.core)).values()) == {1}
            assert [agent.counters for agent in (web1, web2, web3)] == [{}, {}, {}]  # nothing was ever refused

            await _attack(one, site, first)
        answer = await one.get("/api/v1/keys")
        assert [(key["key_id"], key["state"]) for key in answer.json()["items"]] == [
            (second_id, "active"),
            (first.key_id, "retired"),
        ]
        seen = answer.text + (await one.get("/metrics")).text + (await one.get("/readyz")).text + caplog.text
        second = KeyStore(tmp_path / "one", PASSPHRASE).load()[0]
        for secret in (PASSPHRASE, *(_seed(key) for key in (first, second))):
            assert secret not in seen
    assert not (tmp_path / "one" / "signing.key").exists()
    async with site.server("one"), site.office() as office:  # and it starts again with the second key alone
        for log, most in ((EVENT, 6), (HEARTBEAT_EVENT, 0)):
            report = await office.verify(log, first=1, last=None, signatures=True, progress=lambda *_: None)
            assert len(report.findings) == most, report.findings  # what was forged
        newest = await office.core.checkpoints.newest(EVENT)
        assert newest is not None
        for seq in (1, newest.size):
            proof = await office.core.checkpoints.prove(EVENT, seq)
            assert proof.check([second.public_key])[1].seq == seq


async def _retired(office: Office, key_id: str) -> bool:
    try:
        return bool(await office.keys.retire(key_id, anyway=False, forget=False, reason=None))
    except RefusedError as error:
        if "web1" not in str(error) and "web2" not in str(error):
            raise
        return False


def _seed(key: SigningKey) -> str:
    return base64.b64encode(key.to_bytes()).decode()


async def _attack(server: Server, site: Site, stolen: SigningKey) -> None:
    """Whoever has stolen the retired key, and may write to the database, writes what gives authority: nothing does."""
    core = server.core
    await core.authority.refresh()
    refused, before = core.authority.refused, dict(core.authority.access.users)
    for event in forged(stolen):
        signed = event.to_new_event(signature=Keyring(stolen).sign_event(event), key_id=stolen.key_id)
        await core.log.append([signed])
    task = TaskAccepted(**_task("forged", as_of=core.authority.position, accepted_at=core.clock.now_s()))
    signature = stolen.sign(AUTHORISATION, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=task.body())
    await core.log.append([task.to_new_event(actor="root", signature=signature, key_id=stolen.key_id)])
    await run(server, "after", "web1")

    await soon(lambda: site.ran["web1", "after"])
    await core.authority.refresh()

    assert site.ran["web1", "forged"] == 0
    assert (core.authority.access.users, core.authority.access.tokens) == (before, {})
    assert "evil" not in core.authority.fleet.hosts
    assert not core.authority.rules.rules
    assert core.authority.refused == refused + len(forged(stolen))


def _task(task_id: str, *, as_of: int = 1, accepted_at: int = AT) -> dict[str, Any]:
    request = {"command": "true", "timeout": 30, "user": "root", "target": {"hosts": ["web1"]}}
    return {
        "task_id": task_id,
        "request": request,
        "request_sha256": SHA,
        "hosts": ("web1",),
        "hosts_sha256": SHA,
        "as_of": as_of,
        "actor": "root",
        "accepted_at": accepted_at,
        "expires_at": accepted_at + 600,
        "basic": (),
        "guard": {"level": 1, "rules": []},
    }


STEPS = ("file of the next key", "announced", "added", "retired", "deleted")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_step_is_healed_by_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    site = Site(tmp_path)
    await initialise(site.settings("one"), "root", PASSWORD)
    dies = iter([True])

    class KilledError(Exception):
        pass

    def killing(call: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*given: Any, **more: Any) -> Any:
            if when == "before" and next(dies, False):
                raise KilledError
            done = call(*given, **more)
            if when == "after" and next(dies, False):
                raise KilledError
            return done

        return dying

    def killing_append(append: Callable[..., Awaitable[Any]], kind: str) -> Callable[..., Awaitable[Any]]:
        async def dying(events: Any) -> Any:
            is_it = events[0].kind == kind
            if is_it and when == "before" and next(dies, False):
                raise KilledError
            done = await append(events)
            if is_it and when == "after" and next(dies, False):
                raise KilledError
            return done

        return dying

    async def attempt(do: Callable[[Office], Awaitable[Any]]) -> Any:
        for _ in range(2):
            async with site.office() as office:
                if step in {"announced", "added", "retired"}:
                    log = office.core.log
                    monkeypatch.setattr(log, "append", killing_append(log.append, f"key.{step}"))
                try:
                    return await do(office)
                except KilledError:
                    continue
        raise AssertionError

    if step == "file of the next key":
        monkeypatch.setattr(KeyStore, "put", killing(KeyStore.put))
    if step == "deleted":
        monkeypatch.setattr(KeyStore, "delete", killing(KeyStore.delete))
    async with site.office() as office:
        first = office.core.keyring.active
    second_id = await attempt(lambda office: office.keys.announce())
    assert await attempt(lambda office: office.keys.rotate()) == second_id
    await attempt(lambda office: office.keys.retire(first.key_id, anyway=False, forget=False, reason=None))

    assert next(dies, None) is None
    async with site.office() as office:
        states = [(key.key_id, key.state) for key in office.keys.chain]
        assert states == [(first.key_id, "retired"), (second_id, "active")]
        kinds = [row.kind for row in await office.core.log.read(EVENT, after=0)]
        assert Counter(kinds)["key.added"] == 2
        assert Counter(kinds)["key.announced"] == Counter(kinds)["key.retired"] == 1
        await office.create_user("ada", "viewer", PASSWORD)
        assert isinstance(office.core.access, AccessHandler)
    names = [path.name for path in KeyStore(tmp_path / "one", PASSPHRASE).files()]
    assert names == [f"{second_id}.key"]


async def test_the_next_key_may_be_away_until_it_is_needed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await initialise(site.settings("one"), "root", PASSWORD)
    async with site.office() as office:
        second_id = await office.keys.announce()
        path = office.core.keys.path(second_id)
        path.rename(tmp_path / "offline")
    async with site.office() as office:
        assert not office.keys.is_here(second_id)
        with pytest.raises(RefusedError, match="key_not_here"):
            await office.keys.rotate()
        assert await office.keys.announce() == second_id
    (tmp_path / "offline").rename(path)
    async with site.office() as office:
        assert await office.keys.rotate() == second_id
        assert office.core.keyring.active.key_id == second_id


async def test_to_initialise_once_more_leaves_the_announced_key_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    await initialise(site.settings("one"), "root", PASSWORD)
    async with site.office() as office:
        first_id = office.core.keyring.active.key_id
        await office.keys.announce()
        await office.keys.rotate()
        await office.keys.retire(first_id, anyway=False, forget=False, reason=None)
        third_id = await office.keys.announce()
    files = KeyStore.files
    monkeypatch.setattr(  # in whatever order the ids happen to sort
        KeyStore, "files", lambda self: sorted(files(self), key=lambda path: path.stem != third_id)
    )

    await initialise(site.settings("one"), "root", PASSWORD)

    async with site.office() as office:
        assert await office.keys.rotate() == third_id


async def test_who_asks_waits_for_no_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path)
    await initialise(site.settings("one"), "root", PASSWORD)
    looking, go_on, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def find(_: KeyStore, __: str) -> None:
        loop.call_soon_threadsafe(looking.set)
        go_on.wait(30)

    monkeypatch.setattr(KeyStore, "find", find)
    async with site.office() as office:
        monkeypatch.setattr(Keyring, "missing", ("0" * 16,))
        first = asyncio.create_task(office.core.authority.refresh())
        try:
            async with asyncio.timeout(10):
                await looking.wait()
                await office.core.authority.refresh()
            assert not first.done()
        finally:
            go_on.set()
            await first


async def test_it_may_all_be_done_with_keys_of_the_environment(tmp_path: Path) -> None:
    site, first = Site(tmp_path), SigningKey.generate()
    given = site.settings("one", signing_key=_seed(first))
    await initialise(given, "root", PASSWORD)
    assert not (tmp_path / "one" / "signing.key").exists()
    async with opened(given) as office:
        second_id = await office.keys.announce()
        assert await office.keys.rotate() == second_id
        await office.keys.retire(first.key_id, anyway=False, forget=False, reason=None)
        assert office.keys.is_here(first.key_id)  # what is given by the environment is not ours to delete
    with pytest.raises(ConfigurationError, match="the passphrase is another one"):
        async with opened(site.settings("one", key_passphrase="another passphrase")):
            raise AssertionError
    async with opened(site.settings("one")) as office:
        assert office.core.keyring.active.key_id == second_id
        assert office.core.checkpoints.origin(EVENT) == f"control-plane-{first.key_id}/event"
