"""A canary in every secret of an installation on real parts: none sings in a dump, a log, a metric or an export."""

import base64
import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url

from tests.support.canaries import found
from tests.support.programs import PASSWORD, Installation
from tests.support.servers import Broker, DatabaseServer

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq]

DATABASE_PASSWORD = "c4n4ry-of-the-database"
BROKER_PASSWORD = "c4n4ry-of-the-broker"
VALUE, STDIN, ENVIRONMENT = "c4n4ry-secret-of-a-task", "c4n4ry-of-its-stdin", "c4n4ry-of-its-env"


@pytest.fixture
def installation(
    tmp_path: Path, mysql_url: str, amqp_url: str, broker: Broker, database_server: DatabaseServer
) -> Iterator[Installation]:
    """One whose accounts at the database and at the broker have canaries for passwords, and whose logs say all."""
    if broker.api_url is None:
        pytest.skip("needs CONTROL_PLANE_TEST_BROKER_API_URL")
    url, name = make_url(mysql_url), f"canary{secrets.token_hex(4)}"
    database = url.set(username=name, password=DATABASE_PASSWORD).render_as_string(hide_password=False)
    virtual_host = make_url(amqp_url).database
    broker.call("PUT", f"/api/users/{name}", {"password": BROKER_PASSWORD, "tags": "administrator"})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    broker.call("PUT", f"/api/permissions/{virtual_host}/{name}", everything)
    as_admin = f"{name}:{BROKER_PASSWORD}@"
    extra = {
        "CONTROL_PLANE_BROKER_API_URL": broker.api_url.replace("http://guest:guest@", f"http://{as_admin}"),
        "CONTROL_PLANE_LOG_LEVEL": "debug",
    }
    with database_server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE USER {name}@'%' IDENTIFIED BY '{DATABASE_PASSWORD}'")
        cursor.execute(f"GRANT ALL ON `{url.database}%`.* TO {name}@'%'")
        amqp = amqp_url.replace("guest:guest@", as_admin)
        assert BROKER_PASSWORD in amqp
        assert BROKER_PASSWORD in extra["CONTROL_PLANE_BROKER_API_URL"]
        made = Installation(tmp_path / "cp", database, amqp, extra=extra)
        try:
            yield made
        finally:
            made.close()
            cursor.execute(f"DROP USER {name}@'%'")
            broker.call("DELETE", f"/api/users/{name}")


def test_no_secret_of_an_installation_is_where_it_must_not_be(
    installation: Installation, database_server: DatabaseServer
) -> None:
    api = installation.initialise()
    token = api.post("/enrolment-tokens", {"hostname": "web1"})["token"]
    agent = installation.enrol("web1", token)
    agent.start(CONTROL_PLANE_AGENT_LOG_LEVEL="debug")
    api.online(["web1"])
    command = f"cat > /dev/null; test ${{#DB_PASSWORD}} = {len(VALUE)} && echo told"
    told = api.run({"host": "web1"}, command, secrets={"DB_PASSWORD": VALUE}, env={"OTHER": ENVIRONMENT}, stdin=STDIN)
    assert api.finished(told)["web1"]["state"] == "succeeded"
    assert api.get(f"/tasks/{told}/secrets/DB_PASSWORD") == {"value": VALUE}
    browser = httpx.Client(base_url=installation.url, headers={"origin": installation.url})
    browser.post("/api/v1/auth/login", json={"username": "admin", "password": PASSWORD}).raise_for_status()
    [session] = browser.cookies.values()
    browser.close()
    errors = [
        api.http.get("/hosts", params={"token": installation.token}),
        api.http.post("/tasks", json={"secrets": VALUE}),
        api.http.get("/hosts", headers={"authorization": f"Basic {installation.token[:-1]}"}),
    ]
    metrics = api.http.get("/../../metrics")
    export = api.http.get("/events/export")
    shown = installation.control_plane("events", "export")

    state, identity = installation.directory / "state", installation.directory / "web1/state/identity"
    planted: dict[str, str | bytes] = {
        "the administrator's password": PASSWORD,
        "an API token": installation.token,
        "an enrolment token": token,
        "a session": session,
        "the database's password": DATABASE_PASSWORD,
        "the broker's password": BROKER_PASSWORD,
        "the host's password at the broker": str(make_url(_identity(identity)["amqp_url"]).password),
        "the secret of a task": VALUE,
        **{path.name: base64.b64decode(path.read_bytes()) for path in state.glob("*.key")},
        **{f"the host's {path.name}": _key(path) for path in identity.glob("*key*")},
    }
    places = {
        "dump": _dump(database_server, installation),
        "the server's log": installation.server.log.read_bytes(),
        "the agent's log": agent.log.read_bytes(),
        "metrics": metrics.content,
        "export": export.content,
        "events export": shown.encode(),
        "errors": b"".join(answer.content for answer in errors),
    }
    assert {"signing.key", "secrets.key"} <= planted.keys()
    assert len(planted) >= 11, planted.keys()
    assert all(places.values()), {name: len(data) for name, data in places.items()}
    assert STDIN.encode() in export.content  # what is said to be kept is found, where something looks

    assert found(planted, places) == []
    logs = {name: data for name, data in places.items() if name.endswith("log")}
    assert found({"stdin": STDIN, "env": ENVIRONMENT, "output": "told\\n", "output itself": "told\n"}, logs) == []


def _identity(directory: Path) -> dict[str, str]:
    loaded: dict[str, str] = json.loads((directory / "identity.json").read_text())
    return loaded


def _key(path: Path) -> bytes:
    data = path.read_bytes().strip()
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        return data


def _dump(server: DatabaseServer, installation: Installation) -> bytes:
    """All that the database's own tool writes of both schemas, values as hex and as text; else every row by SELECT."""
    name = make_url(installation.database_url).database
    parts: list[bytes] = []
    with server.connect() as connection, connection.cursor() as cursor:
        for schema in (name, f"{name}_read"):
            cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (schema,))
            for (table,) in cursor.fetchall():
                cursor.execute(f"SELECT * FROM `{schema}`.`{table}`")  # noqa: S608 - names of tables
                parts += [v if isinstance(v, bytes) else str(v).encode() for row in cursor.fetchall() for v in row]
    if tool := shutil.which("mariadb-dump") or shutil.which("mysqldump"):
        argv = [tool, "--host", server.host, "--port", str(server.port), "--protocol=tcp", "--user", server.user]
        argv += ["--skip-lock-tables", "--databases", str(name), f"{name}_read"]
        done = subprocess.run(argv, env={"MYSQL_PWD": server.password}, capture_output=True, check=True)
        parts.append(done.stdout)
    return b"\n".join(parts)
