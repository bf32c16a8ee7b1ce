"""An agent in a network of its own, whose cable is pulled and plugged in again: nobody is told, and all comes back."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults.report import SESSION
from tests.support.faults.trial import Trial
from tests.support.link import Link, LinkBeside
from tests.support.programs import Installation
from tests.support.servers import wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq, pytest.mark.campaign]

OFFLINE_WITHIN_S = 60.0


def ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True, timeout=20)


class Namespace:
    """A network of its own, with a cable to this one. `near` and `far` are the addresses of its ends."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        self.name, self.cable = f"cp{os.getpid()}", f"cp{os.getpid()}"[:12] + "a"
        self.near, self.far = f"10.231.{number}.1", f"10.231.{number}.2"

    @contextlib.contextmanager
    def open(self) -> Iterator["Namespace"]:
        inner = f"{self.cable[:-1]}b"
        try:
            ip("netns", "add", self.name)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        try:
            ip("link", "add", self.cable, "type", "veth", "peer", "name", inner, "netns", self.name)
            ip("addr", "add", f"{self.near}/24", "dev", self.cable)
            ip("link", "set", self.cable, "up")
            ip("-n", self.name, "addr", "add", f"{self.far}/24", "dev", inner)
            ip("-n", self.name, "link", "set", inner, "up")
            ip("-n", self.name, "link", "set", "lo", "up")
            yield self
        finally:
            ip("netns", "del", self.name)

    def pull(self) -> None:
        ip("link", "set", self.cable, "down")

    def plug_in(self) -> None:
        ip("link", "set", self.cable, "up")


@pytest.fixture
def network() -> Iterator[Namespace]:
    with Namespace().open() as made:
        yield made


def test_an_agent_whose_cable_is_pulled_is_offline_and_gets_what_waited_for_it(
    network: Namespace, tmp_path: Path, mysql_url: str, amqp_url: str
) -> None:
    with LinkBeside(Link(amqp_url, host=network.near)).open() as link:
        installation = Installation(tmp_path / "cp", mysql_url, amqp_url)
        try:
            api = installation.initialise()
            agent = installation.add_agent("web1", start=False)
            agent.argv = ["ip", "netns", "exec", network.name, *agent.argv]
            agent.environment["CONTROL_PLANE_AGENT_AMQP_URL"] = link.url
            agent.start()
            api.online(["web1"])
            trial = Trial(tmp_path / "observed", installation)
            trial.submit("before", {"hosts": ["web1"]})
            trial.settle()

            trial.submit("runs", {"hosts": ["web1"]}, seconds=5)
            trial.supervisor_of("runs", "web1")
            network.pull()
            trial.submit("waits", {"hosts": ["web1"]})
            wait_until(
                lambda: api.get("/hosts/web1")["state"] == "offline", timeout_s=OFFLINE_WITHIN_S, what="web1 is offline"
            )
            network.plug_in()
            since = time.monotonic()
            SESSION.faults["pull the cable"] += 1
            print(f"healed after {trial.healed(since):.1f} s")

            trial.assert_sound()
            trial.close()
        finally:
            installation.close()
