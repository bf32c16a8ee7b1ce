"""Agent, launcher and supervisor stopped, killed and frozen while a command runs: it runs once, and its end is told."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from control_plane_agent.cgroups import LEAVES, own_cgroup
from tests.support.programs import Installation, Program
from tests.support.servers import Broker, DatabaseServer, wait_until

pytestmark = [pytest.mark.mysql, pytest.mark.rabbitmq]

WHO = {
    "agent": {"agent"},
    "launcher": {"launcher"},
    "supervisor": {"supervisor"},
    "agent and launcher": {"agent", "launcher"},
    "agent and supervisor": {"agent", "supervisor"},
    "all": {"agent", "launcher", "supervisor"},
}


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, database_server: DatabaseServer, broker: Broker
) -> Iterator[Installation]:
    with database_server.database() as url, broker.virtual_host() as amqp_url:
        made = Installation(tmp_path_factory.mktemp("killed") / "cp", url, amqp_url)
        made.initialise()
        made.add_agent("web1")
        made.api.online(["web1"])
        yield made
        made.close()


@pytest.fixture
def agent(installation: Installation) -> Program:
    agent = installation.agents["web1"]
    if agent.has_ended():
        agent.start()
    return agent


class Running:
    """A command that runs until it is let go, and its processes."""

    def __init__(self, installation: Installation, directory: Path, host: str = "web1") -> None:
        self.witness, self.goes_on = directory / "witness", directory / "goes-on"
        wait = f"until [ -e {self.goes_on} ]; do sleep 0.05; done"
        ask = f"echo $CONTROL_PLANE_TASK_ID $$ >> {self.witness}; (setsid sleep 3600 &) ; {wait}; echo done"
        self.task_id = installation.api.run({"host": host}, ask, timeout=120)
        wait_until(lambda: self.witness.exists() and self.witness.read_text() != "", timeout_s=30, what="it runs")
        self.process = psutil.Process(int(self.witness.read_text().split()[1]))
        self.supervisor = self.process.parent()
        self.left = [self.process, *self.process.children(recursive=True), *self._escaped()]

    def _escaped(self) -> list[psutil.Process]:
        assert self.supervisor is not None
        found = []
        for child in self.supervisor.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # the shell that has left it behind ends meanwhile
                found += [child] if "3600" in child.cmdline() else []
        return found

    def processes_of(self, agent: Program) -> dict[str, psutil.Process]:
        assert self.supervisor is not None
        [launcher] = psutil.Process(agent.pid).children()
        return {"agent": psutil.Process(agent.pid), "launcher": launcher, "supervisor": self.supervisor}

    @property
    def runs(self) -> int:
        return len(self.witness.read_text().splitlines())

    def assert_nothing_is_left(self) -> None:
        def none() -> bool:
            return not any(is_alive(process) for process in self.left)

        wait_until(none, timeout_s=20, what=f"none of {self.left} is left")


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("whom", WHO.values(), ids=WHO)
def test_whoever_is_killed_it_ran_once_and_what_came_of_it_is_told(
    installation: Installation, agent: Program, tmp_path: Path, whom: set[str]
) -> None:
    running = Running(installation, tmp_path)
    processes = running.processes_of(agent)
    for who in whom:
        processes[who].kill()
    if "agent" in whom:
        wait_until(agent.has_ended, timeout_s=10, what="the agent is dead")
        wait_until(lambda: not is_alive(processes["launcher"]), timeout_s=10, what="its launcher ends with it")
        agent.start()
    running.goes_on.touch()

    row = installation.api.finished(running.task_id, timeout_s=90)["web1"]

    assert row["state"] == ("interrupted" if "supervisor" in whom else "succeeded"), row
    assert running.runs == 1
    running.assert_nothing_is_left()


def test_an_upgrade_of_the_agent_ends_no_command(installation: Installation, agent: Program, tmp_path: Path) -> None:
    running = Running(installation, tmp_path)
    assert agent.stop() == 0
    assert is_alive(running.process)
    agent.start()
    running.goes_on.touch()

    row = installation.api.finished(running.task_id)["web1"]

    assert (row["state"], row["exit_code"]) == ("succeeded", 0)
    assert running.runs == 1
    running.assert_nothing_is_left()


def test_an_agent_stops_though_its_launcher_is_frozen(
    installation: Installation, agent: Program, tmp_path: Path
) -> None:
    running = Running(installation, tmp_path)
    launcher = running.processes_of(agent)["launcher"]
    launcher.suspend()

    assert agent.stop() == 0
    wait_until(lambda: not is_alive(launcher), timeout_s=10, what="its launcher is dead")
    agent.start()
    running.goes_on.touch()
    assert installation.api.finished(running.task_id)["web1"]["state"] == "succeeded"


@pytest.fixture
def reboot(installation: Installation, tmp_path: Path) -> Iterator[Callable[[], Program]]:
    """Starts the agent of another host on a machine that seems to be its own; again after a reboot."""
    unshare = shutil.which("unshare")
    probe = [str(unshare), "-pfm", "--kill-child", "--mount-proc", "true"]
    if unshare is None or subprocess.run(probe, capture_output=True, check=False, timeout=30).returncode != 0:
        pytest.skip("a pid namespace cannot be made here")
    agent = installation.add_agent("machine", start=False)
    boot_id, boots = tmp_path / "boot_id", 0
    entered = f"mount --bind {boot_id} /proc/sys/kernel/random/boot_id && exec {agent.argv[0]} run"
    agent.argv = [*probe[:-1], "sh", "-c", entered]

    def boot() -> Program:
        nonlocal boots
        boots += 1
        agent.kill()
        boot_id.write_text(f"00000000-0000-0000-0000-{boots:012}\n")
        return agent.start()

    yield boot
    agent.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes pid namespaces")
def test_what_goes_down_with_the_machine_is_interrupted_and_never_run_again(
    installation: Installation, reboot: Callable[[], Program], tmp_path: Path
) -> None:
    api = installation.api
    reboot()
    api.online(["machine"])
    witness = tmp_path / "witness"
    asked = [
        api.run({"host": "machine"}, f"echo $CONTROL_PLANE_TASK_ID >> {witness}; sleep 600", timeout=900)
        for _ in range(7)  # two of which wait for a worker
    ]
    wait_until(
        lambda: witness.exists() and len(witness.read_text().split()) == 5, timeout_s=30, what="five of them run"
    )
    wait_until(
        lambda: all(api.executions(task_id)["machine"]["state"] in {"accepted", "running"} for task_id in asked),
        timeout_s=30,
        what="all are journalled",
    )
    began = set(witness.read_text().split())

    reboot()
    wait_until(
        lambda: {api.executions(task_id)["machine"]["state"] for task_id in began} == {"interrupted"},
        timeout_s=60,
        what="what had begun is interrupted",
    )
    for task_id in set(asked) - began:
        wait_until(lambda: task_id in witness.read_text().split(), timeout_s=30, what="what had not begun runs")  # noqa: B023
        api.post(f"/tasks/{task_id}/cancel")
        assert api.finished(task_id)["machine"]["state"] == "cancelled"

    for leaf in Path(f"{own_cgroup()}/{LEAVES}").glob("*.*"):  # a machine that really reboots has none any more
        if leaf.name.partition(".")[0] in began:
            leaf.rmdir()

    lines = witness.read_text().split()
    assert sorted(lines) == sorted(asked), "each ran once"
    reasons = {api.executions(task_id)["machine"]["reason"] for task_id in began}
    assert len(reasons) == 1
    assert reasons.pop().startswith("its supervisor, or the machine, went down while it ran")


@pytest.mark.campaign
def test_an_agent_frozen_for_long_loses_nothing(installation: Installation, agent: Program, tmp_path: Path) -> None:
    """Longer than its connection to the broker lives; a command runs on meanwhile, and another one waits."""
    running = Running(installation, tmp_path)
    agent.signal(signal.SIGSTOP)
    api, seen = installation.api, set[str]()

    def is_offline() -> bool:
        seen.add(api.get("/hosts/web1")["state"])
        return "offline" in seen

    wait_until(is_offline, timeout_s=90, what="it is offline")
    waits = api.run({"host": "web1"}, f"echo second >> {running.witness}")
    running.goes_on.touch()
    running.assert_nothing_is_left()
    agent.signal(signal.SIGCONT)

    assert api.finished(running.task_id)["web1"]["state"] == "succeeded"
    assert api.finished(waits)["web1"]["state"] == "succeeded"
    assert seen >= {"online", "stale", "offline"}
    assert running.runs == 2
