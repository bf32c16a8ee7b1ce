"""Nothing that a database, a log file, a metric, an export or an answer has lets anybody in, or signs anything."""

import base64
import json
import logging
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import select, text, update

from control_plane.commands.access import UserChange, new_token
from control_plane.commands.passwords import PasswordHasher, digest
from control_plane.commands.rules import Rule
from control_plane.events import access, enrolment, hosts, rules
from control_plane.events.envelope import EVENT, Key
from control_plane.events.event import Event
from control_plane.events.tasks import TaskAccepted
from control_plane.storage.engine import Database
from control_plane.storage.tables import EVENT_TABLES, credential
from control_plane_wire.signing import CONTROL_PLANE, SigningKey, encode_base64
from control_plane_wire.signing import EVENT as EVENT_TAG
from tests.support.api import LOGIN_TOKEN, PASSWORD, ApiUnderTest, a_public_key, an_api
from tests.support.canaries import dump, forms, found
from tests.support.fleet import SECRETS_KEY
from tests.support.tampering import Administrator

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHOWN = ("users", "tokens", "enrolment-tokens", "tasks", "hosts", "keys", "rules", "projections", "auth/me")
BROKER_PASSWORD = "c4n4ry-of-the-broker"
TYPED = {
    "a wrong password": "c4n4ry-typed-by-mistake",
    "a password as a user's name": "C4n4ry-In-The-Wrong-Field",
    "a wrong token": "c4n4ry-no-token-at-all",
    "a wrong cookie": "c4n4ry-no-session-at-all",
    "a secret in a query": "c4n4ry-in-the-address",
    "a secret in a wrong field": "c4n4ry-in-a-wrong-field",
    "a secret in broken JSON": "c4n4ry-in-broken-json",
    "a new password that is too short": "c4n4ry",
}


class Everything:
    """An API in which something secret was put wherever something secret goes, and what was seen of it."""

    def __init__(self, api: ApiUnderTest, database: Database) -> None:
        self.api = api
        self.database = database
        self.planted: dict[str, str | bytes] = {}
        self.places: dict[str, bytes] = {}
        self.session = ""

    async def look(self) -> dict[str, bytes]:
        """All places where a canary must not be, as they are now."""
        tables = await self._tables()
        self.places["dump"] = await dump(self.database, tables)
        root = self.api.client()
        for path in ("metrics", "api/v1/events/export", "api/v1/events/export?format=csv", "readyz"):
            self.places[path] = (await root.get(f"/{path}")).content
        events = (await root.get("/api/v1/events", params={"after": 0, "limit": 1000})).json()["items"]
        pages = [(await root.get(f"/api/v1/events/{event['seq']}")).content for event in events]
        self.places["events"] = b"\n".join(pages)
        for path in SHOWN:
            self.places[path] = (await root.get(f"/api/v1/{path}")).content
        return self.places

    async def _tables(self) -> list[str]:
        async with self.database.read() as connection:
            rows = await connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))
            return [name for (name,) in rows]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def everything(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Everything]:
    lines: list[bytes] = []

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            more = {name: str(value) for name, value in vars(record).items()}
            lines.append(f"{record.getMessage()} {more} {self.format(record)}".encode())

    # Those of libraries that `configure_logging` keeps to warnings are kept so here, too.
    handler, ours = Heard(), [logging.getLogger(name) for name in ("control_plane", "control_plane_agent", "uvicorn")]
    directory: Path = tmp_path_factory.mktemp("api")
    for logger in ours:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        async with an_api(directory, broker_url=f"amqp://agents:{BROKER_PASSWORD}@broker/", is_patient=True) as api:
            made = Everything(api, api.services.hub._database)
            errors = await _plant(made)
            await api.shown((await api.log.head(EVENT)).seq)
            made.places["errors"] = b"\n".join(errors)
            await made.look()
            made.places["files"] = _files(directory)
            made.places["logs"] = b"\n".join(lines)
            yield made
    finally:
        for logger in ours:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)


def _files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def _plant(made: Everything) -> list[bytes]:
    """Put the canaries where secrets go, and others where people put them by mistake; the answers to those."""
    api, planted = made.api, made.planted
    root = api.client()
    planted["a password"] = PASSWORD
    planted["a login link"] = LOGIN_TOKEN
    planted["the signing key"] = api.services.keyring.active.to_bytes()
    planted["the key of the secrets"] = SECRETS_KEY
    planted["the broker's password"] = BROKER_PASSWORD
    planted.update({f"the API token of {name}": token for name, token in api.tokens.items()})
    browser = await api.browser("root")
    [made.session] = browser.cookies.values()
    planted["a session"] = made.session
    planted["a session's CSRF token"] = browser.headers["x-csrf-token"]
    by_link = api.client(None, origin="http://127.0.0.1:8000")
    assert (await by_link.post("/api/v1/auth/login", json={"login_token": LOGIN_TOKEN})).status_code == 200
    [planted["a session by the link"]] = by_link.cookies.values()
    fresh = await root.post("/api/v1/tokens", json={"name": "ci", "days": 1})
    planted["a token made over the API"] = fresh.json()["token"]
    planted["the half of a token that is secret"] = fresh.json()["token"].rpartition("_")[2]
    enrolling = await root.post("/api/v1/enrolment-tokens", json={"hostname": "web9", "groups": []})
    planted["an enrolment token"] = enrolling.json()["token"]
    host_key = SigningKey.generate()
    planted["a host's key"] = host_key.to_bytes()
    begin = {"token": planted["an enrolment token"], "hostname": "web9"}
    begin["public_key"] = encode_base64(host_key.public_key)
    nonce = (await api.client(None).post("/api/v1/enrol/begin", json=begin)).json()["nonce"]
    planted["an enrolment's nonce"] = nonce

    await api.register("web1")
    values = {"DB_PASSWORD": "c4n4ry-of-a-task", "SHORT": "c4n4"}
    await api.run(api.client("ada"), {"host": "web1"}, task_id="t1", secrets=values)
    await api.finish("t1", "web1")
    await api.client("ada").post("/api/v1/tasks/t1/retry", json={"states": ["succeeded"], "task_id": "t2"})
    shown = await root.get("/api/v1/tasks/t1/secrets/DB_PASSWORD")
    assert shown.json() == {"value": values["DB_PASSWORD"]}
    planted.update({f"the secret {name} of a task": value for name, value in values.items() if len(value) > 8})

    planted.update(TYPED)
    return [answer.content for answer in [*await _mistakes(api), *await _failures(api)]]


async def _failures(api: ApiUnderTest) -> list[httpx.Response]:
    """What the log has of requests that nobody foresaw."""
    root, field = api.client(), TYPED["a secret in a wrong field"]

    async def fails(*given: object, **_more: object) -> None:
        raise RuntimeError("not foreseen")

    task = {"target": {"host": "web1"}, "command": "id", "timeout": 5, "user": "root", "secrets": {"A": field}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api.services.tasks, "create", fails)
        patch.setattr(api.services.access, "login", fails)
        patch.setattr(api.services.secrets, "read", fails)
        return [
            await root.post("/api/v1/tasks", json=task),
            await root.post("/api/v1/auth/login", json={"username": "x", "password": field}),
            await root.get("/api/v1/tasks/t1/secrets/A"),
        ]


async def _mistakes(api: ApiUnderTest) -> list[httpx.Response]:
    """What people type into the wrong place."""
    nobody, root = api.client(None), api.client()
    task = {"target": {"host": "web1"}, "command": "id", "timeout": 5, "user": "root"}
    field = TYPED["a secret in a wrong field"]
    json_type = {"content-type": "application/json"}
    return [
        await nobody.post("/api/v1/auth/login", json={"username": "root", "password": TYPED["a wrong password"]}),
        await nobody.post("/api/v1/auth/login", json={"username": "root", "password": [TYPED["a wrong password"]]}),
        await nobody.post("/api/v1/auth/login", json={"login_token": TYPED["a wrong password"]}),
        await nobody.get("/api/v1/hosts", headers={"authorization": f"Bearer {TYPED['a wrong token']}"}),
        await nobody.get("/api/v1/hosts", headers={"authorization": f"Basic {TYPED['a wrong token']}"}),
        await nobody.get("/api/v1/hosts", headers={"cookie": f"control-plane={TYPED['a wrong cookie']}"}),
        await root.get("/api/v1/hosts", params={"token": TYPED["a secret in a query"]}),
        await root.get("/api/v1/hosts", params={"cursor": TYPED["a secret in a query"]}),
        await root.get("/api/v1/hosts", params={"at": TYPED["a secret in a query"]}),
        await root.post("/api/v1/tasks", json={**task, "timeout": field}),
        await root.post("/api/v1/tasks", json={**task, "secrets": field}),
        await root.post("/api/v1/tasks", json={**task, "secrets": {"A": [field]}}),
        await root.post("/api/v1/tasks", json={**task, "secrets": {"A": field + "\0"}}),
        await root.post("/api/v1/tasks", json={**task, "env": {"A": field}, "secrets": {"A": field}}),
        await root.post(
            "/api/v1/tasks",
            content=b'{"secrets": {"A": "%s"}, ' % TYPED["a secret in broken JSON"].encode(),
            headers=json_type,
        ),
        await root.post(
            "/api/v1/users",
            json={"username": "bob", "role": "viewer", "password": TYPED["a new password that is too short"]},
        ),
        await root.post("/api/v1/enrolment-tokens", json={"hostname": [field]}),
        await nobody.post(
            "/api/v1/enrol/begin",
            json={"token": TYPED["a wrong token"], "hostname": "web1", "public_key": a_public_key()},
        ),
    ]


async def test_a_canary_that_is_somewhere_is_found() -> None:
    secret = "c4n4ry/with+signs and\nmore"

    for form in forms(secret):
        assert found({"it": secret}, {"there": b"x" + form + b"y"}) == ["it in there"]
    assert found({"it": secret}, {"there": secret[1:].encode()}) == []


async def test_no_secret_is_in_a_dump_a_log_a_metric_an_export_an_error_or_an_event(everything: Everything) -> None:
    assert len(everything.planted) > 20
    assert [name for name, data in everything.places.items() if len(data) < 50] == []
    assert b"task.accepted" in everything.places["dump"]
    assert b"request failed" in everything.places["logs"]

    assert found(everything.planted, everything.places) == []


# --- a dump in somebody else's hands


async def test_what_a_dump_has_is_no_credential(everything: Everything) -> None:
    """Each text and each digest of the whole database, as a token, as a session and as a password."""
    api = everything.api
    stolen = await _stolen(everything.database)
    assert len(stolen) > 30

    cookie = api.app.state.cookie.name
    for text_ in sorted(stolen):
        nobody = api.client(None)
        as_token = await nobody.get("/api/v1/auth/me", headers={"authorization": f"Bearer {text_}"})
        as_cookie = await nobody.get("/api/v1/auth/me", headers={"cookie": f"{cookie}={text_}"})
        assert (as_token.status_code, as_cookie.status_code) == (401, 401), text_
        await nobody.aclose()
        for find in (api.services.access.by_token, api.services.access.by_session):
            with pytest.raises(Exception, match="not_signed_in"):
                find(text_, address=None)


async def test_a_stolen_hash_is_no_password(everything: Everything) -> None:
    hasher = PasswordHasher(memory_kib=64, iterations=1, lanes=1)
    for phc in await _hashes(everything.database):
        for guess in (phc, digest(phc), phc.rpartition("$")[2]):
            assert not await hasher.verify(guess, phc)


async def _stolen(database: Database) -> set[str]:
    """What in the database could be taken for a credential: hashes, digests, ids, sealed values, signatures."""
    stolen = set(await _hashes(database))
    async with database.read() as connection:
        rows = list(await connection.execute(select(EVENT_TABLES[EVENT])))
    for row in rows:
        body = json.loads(row.body)
        stolen |= {value for name, value in body.items() if isinstance(value, str) and (len(value) >= 16)}
        if row.signature is not None and row.kind in {"session.opened", "token.created"}:
            stolen |= {base64.b64encode(row.signature).decode(), row.signature.hex()}
        if row.kind == "token.created":
            stolen.add(f"cp_{body['token_id']}_{body['token_sha256']}")
            stolen.add(f"cp_{body['token_id']}_{body['token_sha256']}{'0' * 8}")
            stolen.add(_with_checksum(f"cp_{body['token_id']}_{body['token_sha256']}"))
    return {value for value in stolen if value.isascii() and value.isprintable()}


def _with_checksum(text_: str) -> str:
    return f"{text_}{zlib.crc32(text_.encode()):08x}"


async def _hashes(database: Database) -> list[str]:
    async with database.read() as connection:
        return list(await connection.scalars(select(credential.c.phc)))


# --- rows that somebody writes who has the database


def _forgeries() -> dict[str, Event]:
    sha, key = digest("c4n4ry-of-a-forger"), a_public_key()
    token_id, text_ = new_token("cp")
    FORGED_TOKEN.append(text_)
    return {
        "a session of an administrator": access.SessionOpened(
            session_sha256=sha, username="root", expires_at=4_000_000_000, address=None
        ),
        "a token of an administrator": access.TokenCreated(
            token_id=token_id, token_sha256=digest(text_), username="root", name="x", expires_at=4_000_000_000
        ),
        "an administrator": access.UserCreated(
            username="mallory", based_on=0, role="administrator", phc_sha256=digest("phc")
        ),
        "a role": access.UserRoleChanged(username="eve", based_on=0, role="administrator"),
        "another password": access.UserPasswordChanged(username="root", based_on=0, phc_sha256=digest("phc")),
        "a user enabled": access.UserEnabled(username="eve", based_on=0),
        "a rule": Rule(
            rule_id="forged", effect="allow", subject="user:eve", actions=frozenset({"tasks.run"}), all_hosts=True
        ).to_event(),
        "a rule deleted": rules.RuleDeleted(rule_id="forged"),
        "an enrolment token": enrolment.EnrolmentTokenCreated(
            token_id="0123456789abcdef",
            token_sha256=sha,
            groups=(),
            expires_at=4_000_000_000,
            created_by="root",
            hostname=None,
        ),
        "a host": hosts.HostRegistered(
            hostname="evil", generation=1, public_key=key, groups=(), registered_by="root", enrolment_token_id=None
        ),
        "another key of a host": hosts.HostRegistered(
            hostname="web1", generation=2, public_key=key, groups=(), registered_by="root", enrolment_token_id=None
        ),
        "a group": hosts.HostGroupsChanged(hostname="web1", based_on=0, groups=("prod",)),
        "a signing key": access.KeyAdded(key_id="34750f98bd59fcfc", public_key=key),
    }


FORGED_TOKEN: list[str] = []
SIGNED_BY = ("nobody", "somebody else's key", "our name and another key", "a signature of another event")


@pytest.mark.parametrize("signed", SIGNED_BY)
@pytest.mark.parametrize("what", _forgeries())
async def test_a_row_that_somebody_writes_grants_nothing(everything: Everything, what: str, signed: str) -> None:
    api, thief = everything.api, Administrator(everything.database)
    event = _forgeries()[what]
    users = api.services.authority.access.users
    if isinstance(event, UserChange) and event.username in users:
        event = replace(event, based_on=users[event.username].changed_seq)
    before, refused = _granted(api), api.services.authority.refused

    await thief.disarm()
    new = event.to_new_event(actor="root", **await _signature(api, event, signed))
    await thief.forge(replace(new, key=Key(digest(f"{what} {signed}"), new.kind)))  # no key is in a thief's way
    await api.services.authority.refresh()

    assert api.services.authority.refused > refused
    assert _granted(api) == before
    assert await _refuses(api, FORGED_TOKEN[-1], "c4n4ry-of-a-forger")


async def _signature(api: ApiUnderTest, event: Event, signed: str) -> dict[str, Any]:
    other = SigningKey.generate()
    signature = other.sign(EVENT_TAG, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=event.body())
    match signed:
        case "nobody":
            return {}
        case "somebody else's key":
            return {"signature": signature, "key_id": other.key_id}
        case "our name and another key":
            return {"signature": signature, "key_id": api.services.keyring.active.key_id}
    stored = await api.log.read_one(EVENT, 1)
    assert stored is not None
    return {"signature": stored.signature, "key_id": stored.key_id}


def _granted(api: ApiUnderTest) -> str:
    authority = api.services.authority
    people, keys = authority.access, api.services.keyring.public_keys
    granted = [people.users, people.sessions, people.tokens, authority.rules.rules, authority.fleet.hosts]
    return repr([*granted, authority.enrolment, keys])


async def _refuses(api: ApiUnderTest, token: str, session: str) -> bool:
    nobody, cookie = api.client(None), api.app.state.cookie.name
    answers = [
        await nobody.get("/api/v1/auth/me", headers={"authorization": f"Bearer {token}"}),
        await nobody.get("/api/v1/auth/me", headers={"cookie": f"{cookie}={session}"}),
    ]
    return [answer.status_code for answer in answers] == [401, 401]


async def test_a_hash_that_somebody_puts_in_the_place_of_another_lets_nobody_in(everything: Everything) -> None:
    api, mine = everything.api, "a password of the thief"
    phc = await PasswordHasher(memory_kib=64, iterations=1, lanes=1).hash(mine)
    async with everything.database.write() as connection:
        await connection.execute(update(credential).where(credential.c.username == "root").values(phc=phc))

    login = await api.client(None).post("/api/v1/auth/login", json={"username": "root", "password": mine})

    assert (login.status_code, login.json()["code"]) == (401, "login_failed"), login.text


async def test_a_task_that_somebody_writes_is_not_authorised_and_repeats_nothing(everything: Everything) -> None:
    api, thief = everything.api, Administrator(everything.database)
    stored = await api.log.read_one(EVENT, next(iter((await _tasks(everything)).values())))
    assert stored is not None
    body = json.loads(stored.body)
    forged = TaskAccepted.from_stored(stored, {**body, "task_id": "forged", "hosts": ["web1"]})
    await thief.forge(forged.to_new_event(actor="ada", signature=stored.signature, key_id=stored.key_id))
    await api.shown((await api.log.head(EVENT)).seq)
    await api.finish("forged", "web1")

    again = await api.client("ada").post("/api/v1/tasks/forged/retry", json={"states": ["succeeded"]})

    assert (again.status_code, again.json()["code"]) == (409, "not_authorised")


async def _tasks(everything: Everything) -> dict[str, int]:
    table = EVENT_TABLES[EVENT]
    async with everything.database.read() as connection:
        rows = await connection.execute(select(table.c.task_id, table.c.seq).where(table.c.kind == TaskAccepted.KIND))
        return {row.task_id: row.seq for row in rows}
