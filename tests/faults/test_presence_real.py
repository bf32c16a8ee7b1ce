"""Who is shown to be there, with real agents, a real broker and what befalls them."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.link import Link, LinkBeside, Way
from tests.support.programs import Api, Installation, Program
from tests.support.servers import DatabaseServer, PrivateBroker, wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq, pytest.mark.campaign]

INTERVAL_S = 2
ONLINE, STALE, OFFLINE = "host.went_online", "host.went_stale", "host.went_offline"
ALARM, NO_ALARM = "0.0000001", "0.6"

# The agent with a clock that is off: not that of the machine, by which timeouts are measured.
OFF = """
import sys
from control_plane_wire.clock import SystemClock
from control_plane_agent.cli import main
real, off_s = SystemClock.now_us, int(sys.argv.pop(1))
SystemClock.now_us = lambda clock: real(clock) + off_s * 1_000_000
SystemClock.now_s = lambda clock: clock.now_us() // 1_000_000
sys.exit(main(["run"]))
"""


@pytest.fixture(scope="module")
def own_broker() -> Iterator[PrivateBroker]:
    try:
        made = PrivateBroker()
    except FileNotFoundError:
        pytest.skip("RabbitMQ is not installed")
    yield made
    made.close()


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, database_server: DatabaseServer, own_broker: PrivateBroker
) -> Iterator[Installation]:
    with database_server.database() as url:
        made = Installation(tmp_path_factory.mktemp("presence") / "cp", url, own_broker.broker.amqp_url)
        api = made.initialise()
        with a_host(made, "first") as agent:  # nobody is judged until three intervals were heard
            agent.kill()
            shown(api, "first", "offline")
        yield made
        made.close()


@contextlib.contextmanager
def a_host(installation: Installation, name: str, **environment: str) -> Iterator[Program]:
    """A host with an agent at work, which is gone after the block."""
    agent = installation.add_agent(name, start=False)
    agent.environment["CONTROL_PLANE_AGENT_INTERVAL_S"] = str(INTERVAL_S)
    agent.start(**environment)
    try:
        installation.api.online([name])
        yield agent
    finally:
        agent.signal(signal.SIGCONT)
        agent.kill()
        installation.api.http.delete(f"/hosts/{name}").raise_for_status()


def shown(api: Api, name: str, state: str, *, timeout_s: float = 60) -> None:
    wait_until(lambda: api.get(f"/hosts/{name}")["state"] == state, timeout_s=timeout_s, what=f"{name} is {state}")


def said(api: Api, name: str) -> list[tuple[str, str]]:
    """What was said of its presence and why, the oldest first."""
    rows = api.get("/events", hostname=name, kind="host", limit=100)["items"]
    seqs = [row["seq"] for row in reversed(rows) if row["kind"] in {ONLINE, STALE, OFFLINE}]
    events = [api.get(f"/events/{seq}") for seq in seqs]
    return [(event["kind"], event["body"]["cause"]) for event in events]


def is_ready(installation: Installation) -> bool:
    return httpx.get(f"{installation.url}/readyz", timeout=5).status_code == 200


SILENT = [
    (STALE, f"no heartbeat for 2 intervals of {INTERVAL_S} s"),
    (OFFLINE, f"no heartbeat for 3 intervals of {INTERVAL_S} s"),
]


def test_a_host_whose_agent_is_stopped_is_offline_at_once_and_never_stale(installation: Installation) -> None:
    api = installation.api
    with a_host(installation, "stopped") as agent:
        assert agent.stop() == 0
        shown(api, "stopped", "offline")

        assert said(api, "stopped")[1:] == [(OFFLINE, "the agent was stopped")]


def test_a_host_whose_agent_is_killed_is_stale_then_offline(installation: Installation) -> None:
    api = installation.api
    with a_host(installation, "killed") as agent:
        agent.kill()
        shown(api, "killed", "offline")

        assert said(api, "killed")[1:] == SILENT


def test_a_host_whose_agent_is_frozen_is_stale_then_offline_and_gets_its_work_when_it_goes_on(
    installation: Installation, tmp_path: Path
) -> None:
    api = installation.api
    with a_host(installation, "frozen") as agent:
        agent.signal(signal.SIGSTOP)
        shown(api, "frozen", "offline")
        task_id = api.run({"host": "frozen"}, f"echo ran >> {tmp_path}/witness")
        agent.signal(signal.SIGCONT)

        assert api.finished(task_id)["frozen"]["state"] == "succeeded"
        shown(api, "frozen", "online")
        assert said(api, "frozen")[1:3] == SILENT
    assert (tmp_path / "witness").read_text() == "ran\n"


@pytest.mark.campaign
def test_an_agent_that_is_frozen_longer_than_its_connection_lives_is_back_by_itself(
    installation: Installation, own_broker: PrivateBroker, tmp_path: Path
) -> None:
    api = installation.api
    with a_host(installation, "long-frozen") as agent:
        agent.signal(signal.SIGSTOP)
        wait_until(
            lambda: "cmd.node.long-frozen" not in queues(own_broker), timeout_s=90, what="the broker gives it up"
        )
        task_id = api.run({"host": "long-frozen"}, f"echo ran >> {tmp_path}/witness")
        agent.signal(signal.SIGCONT)

        assert api.finished(task_id)["long-frozen"]["state"] == "succeeded"
    assert (tmp_path / "witness").read_text() == "ran\n"


def queues(broker: PrivateBroker) -> set[str]:
    found = broker.broker.call("GET", "/api/queues")
    assert isinstance(found, list)
    return {queue["name"] for queue in found}


@pytest.mark.parametrize("ways", [("up", "down"), ("up",), ("down",)])
def test_a_host_whose_cable_is_pulled_is_offline_and_heals_by_itself(
    installation: Installation, own_broker: PrivateBroker, tmp_path: Path, ways: tuple[Way, ...]
) -> None:
    api, name = installation.api, "cable-" + "-".join(ways)
    with (
        LinkBeside(Link(own_broker.broker.amqp_url)).open() as cable,
        a_host(installation, name, CONTROL_PLANE_AGENT_AMQP_URL=cable.url),
    ):
        cable.do(lambda link: link.freeze(*ways))
        shown(api, name, "offline")
        assert said(api, name)[1:] == SILENT
        task_id = api.run({"host": name}, f"echo ran >> {tmp_path}/witness")
        cable.do(Link.thaw)

        assert api.finished(task_id, timeout_s=90)[name]["state"] == "succeeded"
        shown(api, name, "online")
    assert (tmp_path / "witness").read_text() == "ran\n"


def test_nobody_goes_offline_for_an_alarm_of_the_broker(
    installation: Installation, own_broker: PrivateBroker, tmp_path: Path
) -> None:
    api = installation.api
    with a_host(installation, "alarmed"), a_host(installation, "killed-in-it") as killed:
        wait_until(lambda: is_ready(installation), timeout_s=30, what="all is well")
        own_broker.control("set_vm_memory_high_watermark", ALARM)
        try:
            wait_until(lambda: not is_ready(installation), timeout_s=30, what="the alarm is noticed")
            task_id = api.run({"host": "alarmed"}, f"echo ran >> {tmp_path}/witness")
            killed.kill()
            with pytest.raises(AssertionError, match="not within"):
                wait_until(
                    lambda: len(said(api, "alarmed") + said(api, "killed-in-it")) > 2,
                    timeout_s=6 * INTERVAL_S,
                    what="somebody goes",
                )
        finally:
            own_broker.control("set_vm_memory_high_watermark", NO_ALARM)

        assert api.finished(task_id, timeout_s=90)["alarmed"]["state"] == "succeeded"
        shown(api, "killed-in-it", "offline")
        assert [kind for kind, _ in said(api, "alarmed")] == [ONLINE]
    assert (tmp_path / "witness").read_text() == "ran\n"


@pytest.mark.parametrize("off_s", [3600, -3600])
def test_a_host_whose_clock_is_an_hour_off_is_there_and_only_what_expires_is_judged_by_it(
    installation: Installation, off_s: int
) -> None:
    api, name = installation.api, f"clock-{off_s}".replace("--", "-minus-")
    agent = installation.add_agent(name, start=False)
    agent.environment["CONTROL_PLANE_AGENT_INTERVAL_S"] = str(INTERVAL_S)
    agent.argv = [agent.argv[0].replace("control-plane-agent", "python"), "-c", OFF, str(off_s)]
    agent.start()
    try:
        api.online([name])
        assert abs(api.get(f"/hosts/{name}")["clock_ahead_s"] - off_s) < 60

        lasting = api.finished(api.run({"host": name}, "sleep 3; echo done", timeout=20, expires_in=7200))[name]
        brief = api.finished(api.run({"host": name}, "echo done", expires_in=60))[name]

        assert (lasting["state"], lasting["exit_code"]) == ("succeeded", 0)
        if off_s > 0:
            assert brief["state"] == "expired"
            assert brief["reason"].startswith("expired 3"), brief["reason"]
        else:
            assert brief["state"] == "succeeded"
        assert [kind for kind, _ in said(api, name)] == [ONLINE]
    finally:
        agent.kill()
