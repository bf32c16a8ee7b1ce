"""Private servers for the tests: a MariaDB (or MySQL) and a RabbitMQ, on free loopback ports, in their own directories.

Each is a plain child process and ends with the test run. With CONTROL_PLANE_TEST_CHROOT they run inside that directory
(`scripts/test modern` puts MySQL 9 and RabbitMQ 4 there); otherwise Debian's packages are used.
"""

import base64
import contextlib
import glob
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pymysql

from tests.support.certificates import Certificate

START_TIMEOUT_S = 90


def free_port() -> int:
    """A port that nobody has, and that no other process of the same test run is told before it is taken."""
    beside = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port // 2 % beside == mine % beside:  # the kernel gives every other port only
            return port


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Poll until the condition holds; AssertionError with `what` when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.05)


class Place:
    """A new directory for one server, which may lie inside a chroot: `host` is its path here, `inside` the server's."""

    def __init__(self, name: str) -> None:
        self.root = os.environ.get("CONTROL_PLANE_TEST_CHROOT", "").rstrip("/")
        self.host = Path(tempfile.mkdtemp(prefix=f"cp-{name}-", dir=f"{self.root}/var/tmp" if self.root else None))
        self.inside = Path(str(self.host).removeprefix(self.root))

    def command(self, *argv: str) -> list[str]:
        return ["chroot", self.root, *argv] if self.root else list(argv)

    def find(self, *patterns: str) -> str | None:
        """The first program that matches, as the server sees it."""
        for pattern in patterns:
            for path in sorted(glob.glob(self.root + pattern)):
                return path.removeprefix(self.root)
        return None

    def remove(self) -> None:
        shutil.rmtree(self.host, ignore_errors=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- MariaDB / MySQL ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseServer:
    host: str
    port: int
    user: str
    password: str

    @contextlib.contextmanager
    def connect(self) -> Iterator["pymysql.Connection[pymysql.cursors.Cursor]"]:
        connection = pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            autocommit=True,
            ssl_disabled=True,  # else the machine's certificates are read for each connection, twice for each test
        )
        with connection:
            yield connection

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """A fresh empty database with an account that owns it and its `_read` neighbour; its SQLAlchemy URL."""
        name = f"cp_{uuid4().hex[:12]}"
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        password = urllib.parse.quote(self.password)
        try:
            yield f"mysql+aiomysql://{self.user}:{password}@{self.host}:{self.port}/{name}"
        finally:
            with self.connect() as connection, connection.cursor() as cursor:
                cursor.execute(f"DROP DATABASE {name}")
                cursor.execute(f"DROP DATABASE IF EXISTS {name}_read")


def given_database() -> DatabaseServer | None:
    url = os.environ.get("CONTROL_PLANE_TEST_DATABASE_URL")
    if not url:
        return None
    parts = urllib.parse.urlsplit(url)
    return DatabaseServer(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=urllib.parse.unquote(parts.username or "root"),
        password=urllib.parse.unquote(parts.password or ""),
    )


class PrivateDatabase:
    """A MariaDB or MySQL of its own, which a test may kill, freeze and start again on the same data."""

    def __init__(self, tls: Certificate | None = None) -> None:
        self._tls = tls
        self.place = Place("db")
        program = self.place.find("/usr/sbin/mariadbd", "/usr/sbin/mysqld")
        if program is None:
            self.place.remove()
            raise FileNotFoundError("mariadbd")
        self.program = program
        self.is_mysql = program.endswith("mysqld")
        self.server = DatabaseServer(host="127.0.0.1", port=free_port(), user="tester", password=uuid4().hex)
        self._initialise()
        self.process = self.start()

    def _arguments(self) -> list[str]:
        inside = self.place.inside
        shared = [
            "--no-defaults",
            f"--datadir={inside}/data",
            f"--socket={inside}/sock",
            f"--tmpdir={inside}/tmp",  # a server that starts empties the one it shares
            f"--pid-file={inside}/pid",
            f"--port={self.server.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--max-connections=300",
            "--max-allowed-packet=64M",
            "--innodb-buffer-pool-size=256M",
            "--user=mysql" if self.is_mysql else f"--user={'root' if os.getuid() == 0 else os.getlogin()}",
        ]
        if self._tls is not None:
            shared += [f"--ssl-cert={self._tls.certificate}", f"--ssl-key={self._tls.key}"]
        return shared + (["--mysqlx=OFF", "--secure-file-priv=NULL"] if self.is_mysql else [])

    def _initialise(self) -> None:
        inside, data = self.place.inside, self.place.host / "data"
        account = f"'{self.server.user}'@'%' IDENTIFIED BY '{self.server.password}'"
        init = self.place.host / "init.sql"
        init.write_text(
            f"CREATE USER IF NOT EXISTS {account};\nGRANT ALL ON *.* TO '{self.server.user}'@'%' WITH GRANT OPTION;\n"
        )
        init.chmod(0o644)
        (self.place.host / "tmp").mkdir()
        if self.is_mysql:
            subprocess.run(
                self.place.command("chown", "-R", "mysql", str(inside)), check=True, capture_output=True, timeout=60
            )
            command = self.place.command(self.program, *self._arguments(), "--initialize-insecure")
        else:
            data.mkdir()
            user = next(a for a in self._arguments() if a.startswith("--user="))
            command = self.place.command(
                "mariadb-install-db", "--no-defaults", f"--datadir={inside}/data", user, "--skip-test-db"
            )
        subprocess.run(command, check=True, capture_output=True, timeout=START_TIMEOUT_S)

    def start(self) -> subprocess.Popen[bytes]:
        arguments = [*self._arguments(), f"--init-file={self.place.inside}/init.sql"]
        with (self.place.host / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.place.command(self.program, *arguments), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        wait_until(self._answers, timeout_s=START_TIMEOUT_S, what=f"{self.program} answers")
        return self.process

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError((self.place.host / "log").read_text()[-2000:])
        try:
            with self.server.connect():
                return True
        except pymysql.Error:
            return False

    def close(self) -> None:
        stop(self.process)
        self.place.remove()


# --- RabbitMQ -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A RabbitMQ by its addresses; with `api_url`, a virtual host can be made for each test."""

    amqp_url: str
    api_url: str | None

    @contextlib.contextmanager
    def virtual_host(self) -> Iterator[str]:
        """A fresh virtual host; its AMQP URL. Without a management API the given one is used as it is."""
        if self.api_url is None:
            yield self.amqp_url
            return
        name = f"t{uuid4().hex[:12]}"
        user = urllib.parse.urlsplit(self.amqp_url).username or "guest"
        self.call("PUT", f"/api/vhosts/{name}")
        self.call("PUT", f"/api/permissions/{name}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
        try:
            yield urllib.parse.urlsplit(self.amqp_url)._replace(path=f"/{name}").geturl()
        finally:
            self.call("DELETE", f"/api/vhosts/{name}")

    def call(self, method: str, path: str, body: object = None) -> object:
        """One request to the management API; the decoded answer, None where there is none."""
        assert self.api_url is not None
        parts = urllib.parse.urlsplit(self.api_url)
        request = urllib.request.Request(
            f"{parts.scheme}://{parts.hostname}:{parts.port}{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else b"",
        )
        credentials = f"{parts.username or 'guest'}:{parts.password or 'guest'}"
        request.add_header("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=20) as answer:
            text = answer.read()
        return json.loads(text) if text else None


def given_broker() -> Broker | None:
    url = os.environ.get("CONTROL_PLANE_TEST_AMQP_URL")
    return Broker(amqp_url=url, api_url=os.environ.get("CONTROL_PLANE_TEST_BROKER_API_URL")) if url else None


def _is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class PrivateBroker:
    """A RabbitMQ of its own with its own Erlang port mapper, which a test may kill and start again."""

    def __init__(self, tls: Certificate | None = None) -> None:
        self.place = Place("mq")
        program = self.place.find("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server")
        if program is None:
            self.place.remove()
            raise FileNotFoundError("rabbitmq-server")
        self.program = program
        port, api_port = free_port(), free_port()
        self.broker = Broker(
            amqp_url=f"amqp://guest:guest@127.0.0.1:{port}/", api_url=f"http://guest:guest@127.0.0.1:{api_port}"
        )
        inside = self.place.inside
        (self.place.host / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {api_port}\n"
            "disk_free_limit.absolute = 50MB\nvm_memory_high_watermark.absolute = 2GB\nlog.console = false\n"
        )
        self._tls = tls
        if tls is not None:
            files = f"certfile = {tls.certificate}", f"keyfile = {tls.key}", f"cacertfile = {tls.authority}"
            self.tls_port, self.tls_api_port = free_port(), free_port()
            lines = [f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}", *(f"ssl_options.{line}" for line in files)]
            lines += ["management.ssl.ip = 127.0.0.1", f"management.ssl.port = {self.tls_api_port}"]
            lines += [f"management.ssl.{line}" for line in files]
            with (self.place.host / "rabbitmq.conf").open("a") as conf:
                conf.write("\n".join(lines) + "\n")
        (self.place.host / "plugins").write_text("[rabbitmq_management].\n")
        self.environment = {
            "HOME": str(inside),
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"t{port}@localhost",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": f"{inside}/data",
            "RABBITMQ_LOG_BASE": f"{inside}/log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{inside}/plugins",
            "RABBITMQ_CONFIG_FILE": f"{inside}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{inside}/none",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{inside}/config",
            "RABBITMQ_PID_FILE": f"{inside}/pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +S 2:2",
        }
        self.port_mapper = subprocess.Popen(
            self.place.command("epmd", "-port", self.environment["ERL_EPMD_PORT"], "-address", "127.0.0.1"),
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with (self.place.host / "output").open("ab") as output:
            self.process = subprocess.Popen(
                self.place.command(self.program),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_until(self._answers, timeout_s=START_TIMEOUT_S, what="RabbitMQ answers")
        return self.process

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError((self.place.host / "output").read_text()[-2000:])
        try:
            self.broker.call("GET", "/api/overview")
        except (OSError, urllib.error.URLError):
            return False
        plain = urllib.parse.urlsplit(self.broker.amqp_url).port or 0
        tls = [] if self._tls is None else [self.tls_port, self.tls_api_port]
        return all(_is_open(port) for port in (plain, *tls))

    def control(self, *argv: str) -> None:
        """Run `rabbitmqctl` for this node."""
        program = self.program.removesuffix("-server") + "ctl"
        done = subprocess.run(
            self.place.command(program, *argv), env=self.environment, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def kill(self) -> None:
        """End the whole node as a crash would: SIGKILL to its process group."""
        os.killpg(self.process.pid, 9)
        self.process.wait()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 15)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
        stop(self.port_mapper)
        self.place.remove()
