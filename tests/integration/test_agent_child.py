"""What a command is when it runs, and how it is ended: its rights, its signals, its limits, its family."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from control_plane_agent import cgroups, containment
from control_plane_agent.child import SEARCH_PATH
from control_plane_agent.disk import RealDisk
from control_plane_agent.journal import Journal
from control_plane_agent.output import KEPT_BYTES
from control_plane_agent.session import Agent
from control_plane_agent.slots import Started
from control_plane_agent.supervisor import Order, boottime_ns
from control_plane_wire.clock import SystemClock
from control_plane_wire.messages import CancelMessage
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.integration.test_agent import ME, ROOT, alive, an_agent, polled
from tests.support.agent import START_S, ControlPlaneEnd, a_command, accept, control_plane_end, running
from tests.support.clock import ManualClock

PYTHON = shutil.which("python3", path=SEARCH_PATH)
FREEZER = pytest.mark.skipif(
    os.geteuid() != 0 or cgroups.v1_base("freezer") is None, reason="only root, where there is cgroup v1, makes groups"
)
MODES = ["auto", pytest.param("freezer", marks=FREEZER), "none"]


@asynccontextmanager
async def at_work(directory: Path, **settings: object) -> AsyncIterator[tuple[Agent, ControlPlaneEnd]]:
    broker = InProcessBroker()
    os.makedirs(directory, exist_ok=True)
    async with control_plane_end(broker) as end:
        agent = an_agent(directory / "state", broker, **settings)
        async with running(agent):
            await end.until(lambda: end.heartbeats)
            yield agent, end


def started_of(agent: Agent) -> Started:
    started = agent._journal.read("task-1").state.started
    assert started is not None
    return started


async def test_nothing_of_what_was_done_to_the_agents_signals_reaches_a_command(tmp_path: Path) -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGTTOU)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        async with at_work(tmp_path) as (_, end):
            result = await end.run("grep -E 'SigBlk|SigIgn' /proc/self/status", user=ME)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)

    assert str(result["stdout"]).split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


@pytest.mark.parametrize("forbids", [True, False])
async def test_where_policy_forbids_sudo_nothing_may_gain_rights(tmp_path: Path, forbids: bool) -> None:
    async with at_work(tmp_path, forbid_sudo=forbids) as (_, end):
        result = await end.run("grep NoNewPrivs /proc/self/status", user=ME)

    assert str(result["stdout"]).split() == ["NoNewPrivs:", "1" if forbids else "0"]


@ROOT
@pytest.mark.skipif(PYTHON is None, reason="the accounts here have no Python")
async def test_a_user_cannot_become_root_again_nor_get_its_groups(tmp_path: Path) -> None:
    tries = "os.setuid(0)", "os.setgid(0)", "os.setgroups([0])", "os.setresuid(-1, 0, -1)"
    script = "import os\n" + "\n".join(
        f"try:\n    {attempt}\n    print('did', {attempt!r})\nexcept PermissionError:\n    pass" for attempt in tries
    )
    async with at_work(tmp_path) as (_, end):
        result = await end.run("x", user="nobody", argv=(str(PYTHON), "-c", script))

    assert (result["exit_code"], result["stdout"]) == (0, "")


async def test_its_limits_are_set_and_no_core_is_written(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (_, end):
        result = await end.run("ulimit -c; ulimit -n", user=ME)

    core, files = str(result["stdout"]).split()
    assert core == "0"
    assert int(files) <= 65_536


@pytest.mark.parametrize("containment", MODES)
async def test_a_command_dies_with_its_supervisor_though_no_agent_is_there(tmp_path: Path, containment: str) -> None:
    marker = f"34.{os.getpid()}"
    async with at_work(tmp_path, containment=containment) as (agent, end):
        await end.send(a_command(command=f"exec sleep {marker}", user=ME, timestamp=SystemClock().now_s()))
        await polled(lambda: alive(marker), "the command runs")
        supervisor = started_of(agent).pid
    assert len(alive(marker)) == 1

    os.kill(supervisor, signal.SIGKILL)

    await polled(lambda: not alive(marker), "it is gone")


@pytest.mark.parametrize("containment", MODES)
@pytest.mark.parametrize("ends", ["by itself", "by a timeout", "with its supervisor"])
async def test_a_grandchild_that_left_its_session_dies_too(tmp_path: Path, containment: str, ends: str) -> None:
    marker = f"35.{os.getpid()}"
    escape = f"(setsid sh -c 'sleep {marker} & sleep {marker}' &)"
    goes_on = "echo done" if ends == "by itself" else "sleep 600"
    async with at_work(tmp_path, containment=containment) as (agent, end):
        ask = f"{escape}; until [ $(pgrep -fc 'sleep {marker}$') -ge 2 ]; do sleep 0.02; done; {goes_on}"
        await end.send(a_command(command=ask, user=ME, timeout=2, timestamp=SystemClock().now_s()))
        if ends == "with its supervisor":
            await polled(lambda: len(alive(marker)) >= 2, "it has escaped")
            os.kill(started_of(agent).pid, signal.SIGKILL)
        result = await end.result("task-1")

    outcome = {"by itself": "completed", "by a timeout": "timed_out", "with its supervisor": "interrupted"}[ends]
    assert result["outcome"] == outcome
    assert alive(marker) == []
    assert int(str(result["leftovers"])) >= 2
    if ends == "with its supervisor":
        assert ("looked for by its environment" in str(result["reason"])) == (started_of(agent).cgroup is None)


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ("trap '' TERM; until false; do sleep 0.05; done", 137),
        ("trap 'exit 7' TERM; until false; do sleep 0.05; done", 7),
    ],
)
async def test_a_timeout_is_term_then_a_grace_then_kill_and_stays_a_timeout(
    tmp_path: Path, command: str, exit_code: int
) -> None:
    async with at_work(tmp_path) as (agent, end):
        agent._executions._executor._grace_s = 1.0  # type: ignore[attr-defined]
        result = await end.run(command, user=ME, timeout=1)

    assert (result["outcome"], result["exit_code"]) == ("timed_out", exit_code)


async def test_a_cancel_after_the_end_sends_the_result_again(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (_, end):
        first = await end.run("echo done", user=ME)
        await end.send(CancelMessage(task_id="task-1", timestamp=SystemClock().now_s()))
        await end.until(lambda: len(end.said("task-1")) > 1)

    assert all(said == first for said in end.said("task-1"))


async def test_what_waits_beyond_a_thousand_stays_with_the_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane_agent.executions.MOST_WAITING", 2)
    monkeypatch.setattr("control_plane_agent.session.PREFETCH", 1)
    async with at_work(tmp_path) as (agent, end):
        for number in range(4):
            wait = f"until [ -e {tmp_path}/goes-on ]; do sleep 0.05; done"
            await end.send(a_command(f"task-{number}", command=wait, user=ME, timestamp=SystemClock().now_s()))
        await polled(lambda: len(agent._journal.live()) == 2, "two are journalled")
        heard = len(end.heartbeats)
        await end.until(lambda: len(end.heartbeats) > heard + 1)
        assert len(agent._journal.live()) == 2
        (tmp_path / "goes-on").touch()
        for number in range(4):
            assert (await end.result(f"task-{number}"))["outcome"] == "completed"


# A supervisor in a process of its own, which tells in which order it writes and syncs.
TRACED = """
import json, os, sys
names = {}
def told(what, work, path_of):
    def done(*given, **more):
        path = path_of(given)
        print(what, path, file=sys.stderr, flush=True)
        return work(*given, **more)
    return done
where = lambda given: os.path.basename(os.readlink(f"/proc/self/fd/{given[0]}"))
os.pwrite = told("write", os.pwrite, lambda given: f"{where(given)}@{given[2]}")
os.fdatasync = told("sync", os.fdatasync, where)
os.fsync = told("sync", os.fsync, where)
os.fork = told("fork", os.fork, lambda given: "")
from control_plane_agent.supervisor import Order, supervise
supervise(Order(**json.loads(sys.argv[1])))
"""


def test_a_supervisor_makes_each_step_durable_before_the_next(tmp_path: Path) -> None:
    accept(Journal(RealDisk(str(tmp_path)), ManualClock()), command="echo out; echo err >&2", user=ME)
    order = Order(str(tmp_path / "journal/task-1"), "boot", START_S * 1_000_000, boottime_ns(), 60.0, 1.0, "none")
    argv = [sys.executable, "-c", TRACED, json.dumps(order._asdict())]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)

    steps = [line for line in done.stderr.splitlines() if line.startswith(("write", "sync", "fork"))]
    assert steps[:3] == ["write state@0", "sync state", "fork "]
    outputs = {"write stdout.head@0", "write stderr.head@0"}
    assert set(steps[3:5]) == outputs
    assert set(steps[5:7]) == {"sync stdout.head", "sync stderr.head"}
    assert steps[7:] == ["sync task-1", "write state@4096", "sync state"]


async def test_a_long_output_that_was_damaged_before_it_was_sent_says_so(tmp_path: Path) -> None:
    lines = 400_000
    broker = InProcessBroker()
    async with control_plane_end(broker) as end:
        async with running(an_agent(tmp_path / "state", broker)):
            await end.until(lambda: end.heartbeats)
            wait = f"touch {tmp_path}/ready; until [ -e {tmp_path}/goes-on ]; do sleep 0.02; done"
            ask = a_command(command=f"seq 1 {lines}; {wait}", user=ME, timestamp=SystemClock().now_s())
            await end.send(ask)
            await polled((tmp_path / "ready").exists, "it has printed")
        (tmp_path / "goes-on").touch()
        entry = tmp_path / "state/journal/task-1"
        await polled(lambda: any((entry / "state").read_bytes()[4096:]), "it has ended")
        tail = entry / "stdout.tail"
        data = bytearray(tail.read_bytes())
        data[1000] ^= 1
        tail.write_bytes(data)
        async with running(an_agent(tmp_path / "state", broker)):
            result = await end.result("task-1")

    assert (result["outcome"], result["reason"]) == ("completed", "output lost: damaged on the disk")
    assert int(str(result["stdout_bytes"])) > KEPT_BYTES


@FREEZER
async def test_by_the_freezer_nothing_is_left_though_it_hides_and_forks_and_freezes_itself(tmp_path: Path) -> None:
    """In a group below its own that it has frozen; and as processes that fork as fast as they can."""
    marker = f"37.{os.getpid()}"
    below = f"{cgroups.v1_base('freezer')}/task-1.${containment.EXECUTION}/a"
    enters = f"echo $$ > {below}/cgroup.procs; touch {tmp_path}/in; exec sleep {marker}"
    hides = f"mkdir {below}; (setsid sh -c '{enters}' &); until [ -e {tmp_path}/in ]; do sleep 0.02; done"
    forks = f"(setsid sh -c 'while :; do (sleep {marker} &); done' &)"
    ask = f"{hides}; echo FROZEN > {below}/freezer.state; {forks}"
    async with at_work(tmp_path, containment="freezer") as (agent, end):
        result = await end.run(ask, user=ME)

    assert (result["outcome"], result["stderr"], alive(marker)) == ("completed", "", [])
    assert int(str(result["leftovers"])) >= 2
    base, _, leaf = str(started_of(agent).cgroup).rpartition("/")
    assert base == cgroups.v1_base("freezer")
    assert leaf not in os.listdir(base)


@pytest.mark.parametrize("containment", MODES)
@pytest.mark.parametrize("swept_by", ["the agent", "the next one"])
async def test_where_policy_lets_leftovers_stay_they_do_and_their_group_goes_when_they_end(
    tmp_path: Path, containment: str, swept_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = f"38.{os.getpid()}"
    if swept_by == "the agent":
        monkeypatch.setattr("control_plane_agent.executions.PRUNE_S", 0.05)
    async with at_work(tmp_path, containment=containment, keep_leftovers=True) as (agent, end):
        result = await end.run(f"(setsid sleep {marker} &); until pgrep -f 'sleep {marker}$'; do :; done", user=ME)
        base, _, leaf = (started_of(agent).cgroup or "").rpartition("/")
        assert (result["outcome"], result["leftovers"], len(alive(marker))) == ("completed", 1, 1)
        assert not base or leaf in os.listdir(base)
        alive(marker)[0].kill()
        if swept_by == "the agent":
            await polled(lambda: not base or leaf not in os.listdir(base), "the group is gone")
    if swept_by == "the next one":
        async with at_work(tmp_path):
            await polled(lambda: not base or leaf not in os.listdir(base), "the group is gone")


@pytest.mark.parametrize("ends", ["timed_out", "cancelled"])
async def test_though_policy_lets_leftovers_stay_a_timeout_or_a_cancel_ends_all(tmp_path: Path, ends: str) -> None:
    marker = f"39.{os.getpid()}"
    async with at_work(tmp_path, keep_leftovers=True) as (_, end):
        ask = f"(setsid sleep {marker} &); exec sleep {marker}"
        await end.send(a_command(command=ask, user=ME, timeout=2, timestamp=SystemClock().now_s()))
        await polled(lambda: len(alive(marker)) == 2, "both run")
        if ends == "cancelled":
            await end.send(CancelMessage(task_id="task-1", timestamp=SystemClock().now_s()))
        result = await end.result("task-1")

    assert (result["outcome"], alive(marker)) == (ends, [])


@pytest.mark.skipif(os.geteuid() != 0 or cgroups.v2_base() is None, reason="only root, where there is v2, makes groups")
def test_a_group_that_a_supervisor_is_about_to_use_is_not_swept() -> None:
    base, name = str(cgroups.v2_base()), f"held.{os.getpid()}"
    made = containment.contain(name, mode="auto", limits=cgroups.Limits(pids=9))
    cgroups.sweep()
    assert made.cgroup == f"{base}/{name}"
    assert name in os.listdir(base)

    os.makedirs(f"{base}/{name}/of root's/own")
    made.close()
    assert name not in os.listdir(base)


@ROOT
@pytest.mark.parametrize("kind", ["no v2", "no cgroups at all"])
def test_where_a_mode_cannot_be_used_the_next_one_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "own_cgroup", lambda: "/proc/no/cgroup")  # nobody makes a directory there
    if kind == "no cgroups at all":
        monkeypatch.setattr(cgroups, "v1_base", lambda _controller: "/proc/no/cgroup")
    made = containment.contain("next.0", mode="auto", limits=cgroups.Limits(pids=9))
    made.close()

    has_freezer = kind == "no v2" and cgroups.v1_base("freezer") is not None
    assert type(made) is (cgroups.Frozen if has_freezer else containment.Descendants)
    assert not Path(f"{cgroups.v1_base('freezer')}/next.0").exists()


@ROOT
@pytest.mark.skipif(not Path("/sys/fs/cgroup/pids").is_dir(), reason="the controllers here are not v1")
@pytest.mark.parametrize("mode", ["auto", pytest.param("freezer", marks=FREEZER)])
async def test_a_command_has_no_more_processes_than_policy_allows_though_it_is_root_s(
    tmp_path: Path, mode: str
) -> None:
    marker = f"36.{os.getpid()}"
    async with at_work(tmp_path, max_pids=20, containment=mode) as (_, end):
        result = await end.run(f"for n in $(seq 50); do sleep {marker} & done", user="root")

    assert alive(marker) == []
    groups = os.listdir(str(cgroups.v1_base("pids")))
    assert not any(name.startswith("task-1.") for name in groups), "no group is left"
    assert "fork" in str(result["stderr"])
    assert int(str(result.get("leftovers", 0))) < 20


@ROOT
@pytest.mark.skipif(not Path("/sys/fs/cgroup/memory").is_dir(), reason="the controllers here are not v1")
async def test_what_the_kernel_killed_for_its_memory_is_the_reason(tmp_path: Path) -> None:
    async with at_work(tmp_path, max_memory_mib=32) as (_, end):
        result = await end.run("head -c 200000000 /dev/zero | tail -n 1 | wc -c; echo went on", user=ME)

    assert (result["outcome"], str(result["stdout"]).splitlines()[-1]) == ("completed", "went on")
    assert result["reason"] == "the kernel killed some of it: out of memory"


@pytest.mark.parametrize(
    ("asked", "missing"), [({}, ["pids"]), ({"max_memory_mib": 32}, ["memory", "pids"]), ({"max_pids": 9}, ["pids"])]
)
async def test_a_limit_that_cannot_be_held_is_told_and_refuses_commands_where_it_was_asked_for(
    tmp_path: Path, asked: dict[str, int], missing: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with at_work(tmp_path, containment="none", **asked) as (_, end):
        result = await end.run(f"touch {tmp_path}/ran", user=ME)

    assert end.heartbeats[-1]["limits_missing"] == missing
    [said] = [vars(record) for record in caplog.records if record.message == "commands cannot be limited"]
    assert (said["limits"], said["all_are_refused"]) == (missing, bool(asked))
    assert (result["outcome"], "ran" in os.listdir(tmp_path)) == (("rejected", False) if asked else ("completed", True))
    if asked:
        assert str(result["reason"]).endswith(f"and cannot: {'memory' if 'max_memory_mib' in asked else 'pids'}")


@ROOT
@pytest.mark.skipif(not Path("/sys/fs/cgroup/pids").is_dir(), reason="the controllers here are not v1")
async def test_nothing_is_said_of_limits_where_they_can_be_held(tmp_path: Path) -> None:
    async with at_work(tmp_path, max_memory_mib=32) as (_, end):
        assert "limits_missing" not in end.heartbeats[-1]
    bases = [str(cgroups.v1_base(controller)) for controller in ("pids", "memory")]
    assert not any(name.startswith("trial.") for base in bases for name in os.listdir(base)), "no group is left"


async def test_the_size_of_files_and_the_processor_time_are_limited_by_policy_only(tmp_path: Path) -> None:
    ask = f"ulimit -f; ulimit -t; head -c 3000000 /dev/zero > {tmp_path}/large; echo $?"
    async with at_work(tmp_path / "without") as (_, end):
        free = await end.run(ask, user=ME)
    async with at_work(tmp_path / "with", max_file_mib=1, max_cpu_s=7) as (_, end):
        bound = await end.run(ask, user=ME)

    assert str(free["stdout"]).split() == ["unlimited", "unlimited", "0"]
    blocks, seconds, status = str(bound["stdout"]).split()
    assert (int(blocks) * 512, seconds) == (1 << 20, "7")
    assert int(status) != 0


async def test_a_late_copy_of_what_runs_is_answered_as_such_and_not_as_expired(tmp_path: Path) -> None:
    """Its expiry, the key that it comes by and the policy are looked at only where the task is not known yet."""
    now_s, wait = SystemClock().now_s(), f"until [ -e {tmp_path}/goes-on ]; do sleep 0.02; done"
    async with at_work(tmp_path) as (_, end):
        await end.send(a_command(command=wait, user=ME, timestamp=now_s))
        await end.until(lambda: end.said("task-1", "accepted"))
        for late in (a_command(expires_at=now_s - 9999, timestamp=now_s - 9999), a_command(user="no-such-user")):
            told = len(end.said("task-1", "accepted"))
            await end.send(late)
            await end.until(lambda told=told: len(end.said("task-1", "accepted")) > told)
        (tmp_path / "goes-on").touch()
        result = await end.result("task-1")

    assert result["outcome"] == "completed"
    assert {"started_at"} <= end.said("task-1", "accepted")[-1].keys()


@pytest.mark.parametrize(
    ("given", "exit_code", "said"),
    [
        ({"cwd": "/no/such/directory"}, 127, "its directory /no/such/directory cannot be entered: No such file or"),
        ({"cwd": "/etc/passwd"}, 126, "cannot start: its directory /etc/passwd cannot be entered: Not a directory"),
        ({"argv": ("/etc/passwd",)}, 126, "cannot start: "),
        ({"argv": ("no-such-program", "x")}, 127, "no-such-program: not found"),
    ],
)
async def test_what_cannot_be_run_ends_with_127_or_126_and_says_why(
    tmp_path: Path, given: dict[str, Any], exit_code: int, said: str
) -> None:
    async with at_work(tmp_path) as (_, end):
        result = await end.run("true", user=ME, **given)

    assert (result["outcome"], result["exit_code"]) == ("completed", exit_code)
    assert str(result["stderr"]).startswith(f"control-plane-agent: {said}")


async def test_heartbeats_tell_how_far_the_journal_has_come(tmp_path: Path) -> None:
    """So that a disk that goes back in time shows."""
    now_s = SystemClock().now_s()
    async with at_work(tmp_path) as (_, end):
        assert end.heartbeats[-1]["journal_head"] == 0
        await end.run("true", user=ME)
        await end.until(lambda: end.heartbeats[-1]["journal_head"])

    assert int(str(end.heartbeats[-1]["journal_head"])) >= now_s


def test_one_agent_works_on_a_state_directory(tmp_path: Path) -> None:
    agent = [sys.executable, "-m", "control_plane_agent.cli", "run"]
    environment = {**os.environ, "CONTROL_PLANE_AGENT_STATE_DIR": str(tmp_path)}
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(agent, env=environment, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 2
    assert f"another agent works on {tmp_path}; stop it first" in done.stderr
