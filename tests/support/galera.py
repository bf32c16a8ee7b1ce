"""A private MariaDB Galera cluster on loopback: three nodes that a test may kill, freeze, isolate and start again."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pymysql

from tests.support.servers import START_TIMEOUT_S, DatabaseServer, Place, free_port, stop, wait_until

PROVIDER = Path("/usr/lib/galera/libgalera_smm.so")
PROGRAMS = (PROVIDER, Path("/usr/sbin/mariadbd"), Path("/usr/bin/rsync"))
FOR_SURE = ("--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1")  # or a power cut on all nodes loses commits
# A third of Galera's own times until a silent node is left behind, so that the tests take less.
TIMEOUTS = "evs.keepalive_period=PT0.5S;evs.join_retrans_period=PT0.5S;evs.suspect_timeout=PT2S"
RECOVERED = re.compile(r"Recovered position: ?([0-9a-f-]+:-?\d+)")


class Node:
    """One server of the cluster. `server` is where it listens, of which a test makes URLs."""

    def __init__(self, number: int, account: DatabaseServer) -> None:
        self.number = number
        self.place = Place(f"galera{number}")
        self.server = replace(account, port=free_port())
        self.group_port, self._ist_port, self._sst_port = free_port(), free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        (self.place.host / "tmp").mkdir()
        (self.place.host / "data").mkdir()
        self._log.touch()
        if os.getuid() == 0:  # rsync's daemon would not write as root
            for path in (self.place.host, *self.place.host.iterdir()):
                shutil.chown(path, "mysql", "mysql")
        self._user = f"--user={'mysql' if os.getuid() == 0 else os.getlogin()}"

    @property
    def _log(self) -> Path:
        return self.place.host / "log"

    def text(self) -> str:
        """The end of the server's own log."""
        return f"node {self.number}:\n{self._log.read_text(errors='replace')[-3000:]}"

    def install(self) -> None:
        home, account = self.place.host, self.server
        extra = home / "extra.sql"
        extra.write_text(
            "FLUSH PRIVILEGES;\n"
            f"CREATE USER '{account.user}'@'%' IDENTIFIED BY '{account.password}';\n"
            f"GRANT ALL ON *.* TO '{account.user}'@'%' WITH GRANT OPTION;\n"
        )
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={home}/data",
                f"--extra-file={extra}",
                "--innodb-log-file-size=16M",
                "--skip-test-db",
                self._user,
            ],
            check=True,
            capture_output=True,
            timeout=START_TIMEOUT_S,
        )

    def _arguments(self, members: Sequence["Node"]) -> list[str]:
        home, here = self.place.host, f"127.0.0.1:{self.group_port}"
        addresses = ",".join(f"127.0.0.1:{node.group_port}" for node in members)
        return [
            "/usr/sbin/mariadbd",
            "--no-defaults",
            f"--datadir={home}/data",
            f"--socket={home}/sock",
            f"--tmpdir={home}/tmp",
            f"--pid-file={home}/pid",
            f"--port={self.server.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--max-connections=200",
            "--max-allowed-packet=64M",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=16M",
            self._user,
            *FOR_SURE,
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-on=ON",
            f"--wsrep-provider={PROVIDER}",
            "--wsrep-cluster-name=control-plane-test",
            f"--wsrep-cluster-address=gcomm://{addresses}",
            f"--wsrep-node-name=node{self.number}",
            f"--wsrep-node-address={here}",
            f"--wsrep-node-incoming-address=127.0.0.1:{self.server.port}",
            f"--wsrep-sst-receive-address=127.0.0.1:{self._sst_port}",
            "--wsrep-sst-method=rsync",
            f"--wsrep-provider-options=base_port={self.group_port};gmcast.listen_addr=tcp://{here};"
            f"ist.recv_addr=127.0.0.1:{self._ist_port};gcache.size=32M;{TIMEOUTS}",
        ]

    def start(self, members: Sequence["Node"], *extra: str) -> None:
        """Start the process; `wait_synced` waits for it."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._arguments(members), *extra], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def recover(self, members: Sequence["Node"]) -> str:
        """How far its own data goes after a crash, `uuid:number`, as an administrator and the systemd unit ask it."""
        done = subprocess.run(
            [*self._arguments(members), "--wsrep-recover"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        text = done.stdout.decode(errors="replace")
        found = RECOVERED.findall(text)
        assert done.returncode == 0, text[-3000:]
        assert found, text[-3000:]
        return str(found[-1])

    def make_bootstrap(self) -> None:
        """Say that nobody goes further than this one: the administrator's part when all were killed."""
        state = self.place.host / "data/grastate.dat"
        state.write_text(state.read_text().replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))

    def forget_view(self) -> None:
        """Lose the file by which the nodes of a cluster that went down together find each other."""
        (self.place.host / "data/gvwstate.dat").unlink(missing_ok=True)

    def status(self, *names: str) -> tuple[str, ...]:
        """Values of SHOW STATUS; empty ones while it does not answer."""
        found = dict.fromkeys(names, "")
        with contextlib.suppress(pymysql.Error), self._connected() as connection, connection.cursor() as cursor:
            for name in names:
                cursor.execute(f"SHOW STATUS LIKE '{name}'")
                row = cursor.fetchone()
                found[name] = str(row[1]) if row else ""
        return tuple(found.values())

    def run(self, *statements: str) -> None:
        with self._connected() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    @contextlib.contextmanager
    def _connected(self) -> Iterator["pymysql.Connection[pymysql.cursors.Cursor]"]:
        server = self.server
        with pymysql.connect(
            host=server.host,
            port=server.port,
            user=server.user,
            password=server.password,
            autocommit=True,
            connect_timeout=2,
            read_timeout=5,
        ) as connection:
            yield connection

    def is_synced(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise AssertionError(self.text())
        return self.status("wsrep_cluster_status", "wsrep_local_state_comment") == ("Primary", "Synced")

    def isolate(self, *, isolated: bool = True) -> None:
        """Cut it off from the other nodes, as a broken network does; its clients still reach it."""
        self.run(f"SET GLOBAL wsrep_provider_options = 'gmcast.isolate={int(isolated)}'")

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """It applies nothing of the others meanwhile, and holds nobody up."""
        with self._connected() as connection, connection.cursor() as cursor:
            cursor.execute("FLUSH TABLES WITH READ LOCK")
            yield

    def signal(self, number: int) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            stop(self.process)
        self.place.remove()


class Cluster:
    """Three nodes, all synced; `close` ends their processes."""

    def __init__(self) -> None:
        missing = [path for path in PROGRAMS if not path.exists()]
        if missing or os.environ.get("CONTROL_PLANE_TEST_CHROOT"):  # where MySQL is tried
            raise FileNotFoundError("galera-4, rsync")
        account = DatabaseServer(host="127.0.0.1", port=0, user="tester", password=uuid4().hex)
        self.nodes = [Node(number, account) for number in (1, 2, 3)]
        try:
            self.nodes[0].install()
            self.bootstrap(self.nodes[0])
            for node in self.nodes[1:]:
                node.start(self.nodes)
            self.wait_synced()
        except BaseException:
            self.close()
            raise

    def heal(self) -> None:
        """All three as they were at first, whatever a test has done to them."""
        for node in self.nodes:
            node.signal(signal.SIGCONT)
            if node.process is not None and node.process.poll() is not None:
                self.rejoin(node)
            elif node.status("wsrep_cluster_status") == ("non-Primary",):
                node.isolate(isolated=False)
        self.wait_synced()

    def bootstrap(self, node: Node) -> None:
        node.start(self.nodes, "--wsrep-new-cluster")
        self.wait_synced(node)

    def rejoin(self, node: Node) -> None:
        """Start a node again that was killed: from where its data ends it gets what it has missed."""
        node.start(self.nodes, f"--wsrep-start-position={node.recover(self.nodes)}")

    def wait_synced(self, *nodes: Node) -> None:
        some = nodes or self.nodes
        size = str(sum(node.process is not None and node.process.poll() is None for node in self.nodes))

        def synced() -> bool:
            return all(node.is_synced() and node.status("wsrep_cluster_size") == (size,) for node in some)

        try:
            wait_until(synced, timeout_s=START_TIMEOUT_S, what="the nodes are synced")
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *(node.text() for node in self.nodes)])) from error

    def close(self) -> None:
        for node in self.nodes:
            if node.process is not None:
                node.process.kill()  # nobody needs what is in it
        for node in self.nodes:
            node.close()
