"""A real agent with its launcher and supervisors, and the other end of the wire in this process."""

import asyncio
import hashlib
import json
import os
import pwd
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from control_plane_agent.assembly import real_agent
from control_plane_agent.cgroups import LEAVES, own_cgroup
from control_plane_agent.containment import EXECUTION
from control_plane_agent.output import HEAD_BYTES, KEPT_BYTES
from control_plane_agent.session import Agent
from control_plane_agent.settings import Settings
from control_plane_wire.clock import SystemClock
from control_plane_wire.messages import CancelMessage, ConfigureMessage, seal
from control_plane_wire.signing import COMMAND, CONTROL_PLANE, SigningKey
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.transport.base import Unroutable
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.agent import (
    HOSTNAME,
    ROUTE,
    ControlPlaneEnd,
    a_command,
    an_identity,
    control_plane_end,
    running,
    sealed,
)
from tests.support.fleet import CONTROL_PLANE_KEY

ME = pwd.getpwuid(os.geteuid()).pw_name
CGROUPS = pytest.mark.skipif(
    os.geteuid() != 0 or own_cgroup() is None, reason="only root, where there is cgroup v2, makes cgroups"
)
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def broker() -> InProcessBroker:
    return InProcessBroker()


@pytest.fixture
async def end(broker: InProcessBroker) -> AsyncIterator[ControlPlaneEnd]:
    async with control_plane_end(broker) as made:
        yield made


def an_agent(directory: Path, broker: InProcessBroker, **settings: object) -> Agent:
    directory.mkdir(exist_ok=True, mode=0o700)
    given = Settings(state_dir=directory, interval_s=1, **settings)  # type: ignore[arg-type]
    return real_agent(given, an_identity(), broker.transport())


@pytest.fixture
async def agent(tmp_path: Path, broker: InProcessBroker, end: ControlPlaneEnd) -> AsyncIterator[Agent]:
    made = an_agent(tmp_path / "state", broker)
    async with running(made):
        await end.until(lambda: end.heartbeats)
        yield made


async def polled(condition: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)
    assert condition(), what


def alive(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if marker in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


async def test_a_command_is_run_and_answered_with_what_it_said(agent: Agent, end: ControlPlaneEnd) -> None:
    result = await end.run("printf 'out'; printf 'err' >&2; exit 3", user=ME)

    assert (result["stdout"], result["stderr"], result["exit_code"]) == ("out", "err", 3)
    assert result["outcome"] == "completed"
    assert result["stdout_sha256"] == hashlib.sha256(b"out").hexdigest()
    assert end.heartbeats[0]["hostname"] == HOSTNAME
    assert end.heartbeats[0]["groups"] == ["web"]


@ROOT
async def test_it_runs_as_the_asked_for_user_with_nothing_of_the_agent_s(
    agent: Agent, end: ControlPlaneEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    ask = "id -u; id -g; id -G; pwd; umask; tr '\\0' '\\n' < /proc/self/environ; ls /proc/self/fd | wc -l"
    result = await end.run(ask, user="nobody", env={"EXTRA": "yes"})

    nobody = pwd.getpwnam("nobody")
    uid, gid, groups, cwd, umask, *environment = str(result["stdout"]).splitlines()
    assert (int(uid), int(gid), [int(g) for g in groups.split()]) == (nobody.pw_uid, nobody.pw_gid, [nobody.pw_gid])
    assert (cwd, umask) == ("/", "0027")
    names = {line.partition("=")[0] for line in environment if "=" in line}
    assert names >= {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "CONTROL_PLANE_TASK_ID", "EXTRA"}
    assert not any("SECRET" in name or "PYTHON" in name for name in names)
    assert int(environment[-1]) <= 4, "no descriptor of the agent's but the three and that of the list itself"


async def test_argv_standard_input_and_directory_are_as_asked(
    agent: Agent, end: ControlPlaneEnd, tmp_path: Path
) -> None:
    argv = ("/bin/sh", "-c", 'echo "$0"; pwd; cat', "a b")

    result = await end.run("shown only", user=ME, argv=argv, cwd=str(tmp_path), stdin="said\n")

    assert result["stdout"] == f"a b\n{tmp_path}\nsaid\n"


async def test_a_field_that_is_null_is_as_if_it_were_not_there(agent: Agent, end: ControlPlaneEnd) -> None:
    command = a_command(command="pwd; cat", user=ME, timestamp=SystemClock().now_s()).to_json()
    nulls: JsonObject = dict.fromkeys(("as_of", "expires_at", "argv", "env", "cwd", "stdin"))

    await end.send_bytes(seal({**command, **nulls}, CONTROL_PLANE_KEY, COMMAND, sender=CONTROL_PLANE, recipient=ROUTE))
    result = await end.result("task-1")

    assert (result["stdout"], result["exit_code"]) == (f"{pwd.getpwnam(ME).pw_dir}\n", 0)


async def test_what_cannot_be_started_says_so(agent: Agent, end: ControlPlaneEnd) -> None:
    result = await end.run("x", user=ME, argv=("/no/such/program",))
    assert (result["exit_code"], result["outcome"]) == (127, "completed")
    assert "/no/such/program: not found" in str(result["stderr"])

    refused = await end.run("true", task_id="task-2", user="no-such-user")
    assert (refused["outcome"], refused["exit_code"]) == ("rejected", None)
    assert refused["reason"] == "there is no account no-such-user on this host"


async def test_a_signal_that_ends_it_is_its_exit_code(agent: Agent, end: ControlPlaneEnd) -> None:
    assert (await end.run("kill -SEGV $$", user=ME))["exit_code"] == 128 + signal.SIGSEGV


async def test_the_timeout_ends_everything_that_it_started(agent: Agent, end: ControlPlaneEnd) -> None:
    marker = f"30.{os.getpid()}1"
    escape = f"(setsid sleep {marker} &) ; trap '' TERM; sleep {marker} & wait"
    result = await end.run(f"trap 'exit 7' TERM; ({escape}) & wait", user=ME, timeout=1)

    assert result["outcome"] == "timed_out"
    assert result["reason"] == "it ran longer than 1 s"
    assert alive(marker) == []


async def test_leftovers_of_a_normal_end_are_killed_and_counted(agent: Agent, end: ControlPlaneEnd) -> None:
    marker = f"31.{os.getpid()}2"
    result = await end.run(f"(setsid sleep {marker} > /dev/null 2>&1 &); echo done", user=ME)

    assert (result["outcome"], result["stdout"], result["leftovers"]) == ("completed", "done\n", 1)
    assert alive(marker) == []


@CGROUPS
@pytest.mark.parametrize("outcome", ["completed", "timed_out"])
@pytest.mark.parametrize("where", ["below its own", "elsewhere"])
async def test_a_command_that_puts_itself_into_another_cgroup_leaves_nothing(
    agent: Agent, end: ControlPlaneEnd, where: str, outcome: str
) -> None:
    marker = f"33.{os.getpid()}4"
    own = f"{own_cgroup()}/{LEAVES}/task-1.${EXECUTION}"
    other = f"{own}/a/b" if where == "below its own" else str(own_cgroup())
    moves = f"mkdir -p {own}/a/b && echo $$ > {other}/cgroup.procs && echo {own}; (setsid sleep {marker} &)"
    goes_on = f"exec sleep {marker}" if outcome == "timed_out" else "exit"

    result = await end.run(f"{moves}; {goes_on}", user=ME, timeout=1)

    leaf = str(result["stdout"]).strip().rpartition("/")[2]
    assert leaf.startswith("task-1."), "it could move"
    assert (result["outcome"], result["leftovers"], alive(marker)) == (outcome, 1, [])
    assert leaf not in os.listdir(f"{own_cgroup()}/{LEAVES}")


async def test_orphans_that_have_ended_leave_nothing_behind_while_the_command_goes_on(
    agent: Agent, end: ControlPlaneEnd
) -> None:
    orphans = "for n in $(seq 200); do (true &); done"
    below = "$(wc -w < /proc/$PPID/task/$PPID/children)"
    polled_10_s = f"for n in $(seq 500); do left={below}; [ $left = 1 ] && break; sleep 0.02; done"

    result = await end.run(f"{orphans}; {polled_10_s}; echo $left", user=ME)

    assert result["stdout"] == "1\n", "of all that the supervisor has as children only the command itself is left"
    assert (result["outcome"], result.get("leftovers")) == ("completed", None)


async def test_of_a_long_output_head_and_tail_are_kept_with_the_digest_of_all(
    agent: Agent, end: ControlPlaneEnd
) -> None:
    lines = 400_000
    result = await end.run(f"seq 1 {lines}", user=ME)

    whole = "".join(f"{number}\n" for number in range(1, lines + 1)).encode()
    assert (result["stdout_bytes"], result["truncated"]) == (len(whole), True)
    assert result["stdout_sha256"] == hashlib.sha256(whole).hexdigest()
    kept = str(result["stdout"]).encode()
    assert kept == whole[:HEAD_BYTES] + whole[-(KEPT_BYTES - HEAD_BYTES) :]


async def test_a_long_one_says_that_it_runs_and_a_cancel_ends_it(agent: Agent, end: ControlPlaneEnd) -> None:
    await end.send(a_command(command="sleep 60", user=ME, timestamp=SystemClock().now_s()))
    await end.until(lambda: end.said("task-1", "accepted"))
    assert "started_at" in end.said("task-1", "accepted")[0]

    await end.send(CancelMessage(task_id="task-1", timestamp=SystemClock().now_s()))
    result = await end.result("task-1")

    assert (result["outcome"], result["reason"]) == ("cancelled", "cancelled while it ran")
    assert result["exit_code"] == 128 + signal.SIGTERM


async def test_a_cancel_that_overtakes_its_command_keeps_it_from_running(
    agent: Agent, end: ControlPlaneEnd, tmp_path: Path
) -> None:
    await end.send(CancelMessage(task_id="task-1", timestamp=SystemClock().now_s()))
    assert (await end.result("task-1"))["outcome"] == "cancelled"

    again = await end.run(f"touch {tmp_path}/ran", user=ME)
    assert again["outcome"] == "cancelled"
    assert not (tmp_path / "ran").exists()


async def test_a_copy_is_answered_with_the_same_bytes_and_not_run(
    agent: Agent, end: ControlPlaneEnd, tmp_path: Path
) -> None:
    command = a_command(command=f"echo x >> {tmp_path}/ran", user=ME, timestamp=SystemClock().now_s())
    for _ in range(3):
        await end.send(command)
    await end.result("task-1")
    await end.send(command)
    await end.until(lambda: len(end.said("task-1")) >= 2)

    assert len({json.dumps(result, sort_keys=True) for result in end.said("task-1")}) == 1
    assert (tmp_path / "ran").read_text() == "x\n"


async def test_what_the_control_plane_has_not_signed_for_this_host_is_only_counted(
    agent: Agent, end: ControlPlaneEnd, tmp_path: Path
) -> None:
    now_s = SystemClock().now_s()
    evil = a_command("evil", command=f"touch {tmp_path}/ran", user=ME, timestamp=now_s)
    for body in (
        b"not json",
        b"{}",
        sealed(evil, key=SigningKey.generate()),
        sealed(evil, route="cmd.node.db1"),
        sealed(evil).replace(b"touch", b"TOUCH"),
        b"[" * 1000,
        b" " * (2**20 + 1),
    ):
        await end.send_bytes(body)

    assert (await end.run("echo fine", user=ME))["stdout"] == "fine\n"
    assert end.said("evil") == []
    assert not (tmp_path / "ran").exists()
    assert agent.counters.total() == 7


async def test_groups_are_bound_and_unbound_as_the_control_plane_says_and_an_older_word_is_ignored(
    agent: Agent, end: ControlPlaneEnd
) -> None:
    now_s = SystemClock().now_s()
    assert isinstance(await end.send(a_command("early", user=ME, timestamp=now_s), route="cmd.group.db"), Unroutable)

    await end.send(ConfigureMessage(task_id="configure-1", timestamp=now_s, as_of=50, groups={"db": 50}))
    await end.until(lambda: end.heartbeats[-1]["groups"] == ["db"])
    await end.send(ConfigureMessage(task_id="configure-2", timestamp=now_s, as_of=49, groups={}))
    await end.send(a_command("in-db", user=ME, timestamp=now_s, as_of=50), route="cmd.group.db")
    await end.send(a_command("too-old", user=ME, timestamp=now_s, as_of=49), route="cmd.group.db")

    assert (await end.result("in-db"))["outcome"] == "completed"
    assert (await end.result("too-old"))["outcome"] == "rejected"
    assert isinstance(await end.send(a_command("late", user=ME, timestamp=now_s), route="cmd.group.web"), Unroutable)


async def test_a_command_goes_on_while_its_agent_restarts(tmp_path: Path, broker: InProcessBroker) -> None:
    async with control_plane_end(broker) as end:
        async with running(an_agent(tmp_path / "state", broker)):
            await end.until(lambda: end.heartbeats)
            ask = a_command(command=f"echo on >> {tmp_path}/ran; sleep 2; echo done", user=ME, timeout=30)
            await end.send(a_command(**{**vars_of(ask), "timestamp": SystemClock().now_s()}))
            await polled((tmp_path / "ran").exists, "the command runs")
        assert end.heartbeats[-1]["status"] == "offline"
        assert end.said("task-1") == []
        async with running(an_agent(tmp_path / "state", broker)):
            result = await end.result("task-1")

    assert (result["outcome"], result["stdout"]) == ("completed", "done\n")
    assert (tmp_path / "ran").read_text() == "on\n"


def vars_of(message: object) -> dict[str, object]:
    return {name: getattr(message, name) for name in message.__slots__}  # type: ignore[attr-defined]


async def test_a_supervisor_that_is_killed_leaves_an_honest_answer_and_no_process(
    agent: Agent, end: ControlPlaneEnd, tmp_path: Path
) -> None:
    marker = f"32.{os.getpid()}3"
    await end.send(a_command(command=f"sleep {marker}", user=ME, timestamp=SystemClock().now_s()))
    await polled(lambda: alive(marker), "the command runs")
    started = agent._journal.read("task-1").state.started
    assert started is not None
    os.kill(started.pid, signal.SIGKILL)

    result: JsonObject = await end.result("task-1")

    assert result["outcome"] == "interrupted"
    assert alive(marker) == []


async def test_a_launcher_that_is_killed_is_replaced(agent: Agent, end: ControlPlaneEnd) -> None:
    executor = agent._executions._executor
    first = executor.launcher_pid  # type: ignore[attr-defined]
    os.kill(first, signal.SIGKILL)

    assert (await end.run("echo still", user=ME))["stdout"] == "still\n"
    assert executor.launcher_pid != first  # type: ignore[attr-defined]
