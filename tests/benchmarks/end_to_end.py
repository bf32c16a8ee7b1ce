"""From a request to the result in the read table, on real parts: one host, 20 real agents, N simulated ones."""

import os
import signal
import statistics
import time
from pathlib import Path
from uuid import uuid4

import psutil

from tests.support.programs import Api, Installation, Program
from tests.support.servers import Broker, DatabaseServer

REAL_AGENTS = 20
POLL_S = 0.004
REASON = {"reason": "benchmark"}


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def dispatch_to_result(api: Api, target: dict[str, object], rounds: int) -> list[float]:
    """Seconds from `POST /tasks` to the task being finished in the read table, once a round."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        accepted = api.post("/tasks", {"target": target, "command": "true", "timeout": 60, "user": "root", **REASON})
        task_id, hosts = accepted["task"]["task_id"], accepted["task"]["targets"]
        # Each host gives two events, sent and finished; `min_seq` answers as soon as the read table has them.
        while True:
            answer = api.http.get(f"/tasks/{task_id}", params={"min_seq": accepted["seq"] + 2 * hosts})
            if answer.status_code == 200 and answer.json()["state"] == "finished":
                break
            time.sleep(POLL_S)
        times.append(time.perf_counter() - started)
        assert answer.json()["outcome"] == "succeeded", answer.text
    return times


def resident_mib(program: Program) -> float:
    """Resident memory of an agent with its launcher, in MiB."""
    process = psutil.Process(program.pid)
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)]) / 2**20


def cpu_share(program: Program, *, seconds: float) -> float:
    """The share of one core that an idle agent and its launcher use."""
    processes = [(p := psutil.Process(program.pid)), *p.children(recursive=True)]
    before = sum(sum(p.cpu_times()[:2]) for p in processes)
    time.sleep(seconds)
    return (sum(sum(p.cpu_times()[:2]) for p in processes) - before) / seconds


def line(what: str, times: list[float]) -> str:
    return (
        f"{what:<42} p50 {statistics.median(times) * 1000:7.1f} ms   p99 {percentile(times, 0.99) * 1000:7.1f} ms"
        f"   n={len(times)}"
    )


def run(database: DatabaseServer, broker: Broker, directory: Path, *, simulated: int, rounds: int) -> None:
    with database.database() as database_url, broker.virtual_host() as amqp_url:
        installation = Installation(directory / uuid4().hex[:8], database_url, amqp_url)
        try:
            measure(installation, simulated=simulated, rounds=rounds)
        finally:
            installation.close()


def measure(installation: Installation, *, simulated: int, rounds: int) -> None:
    api = installation.initialise()
    names = [f"real{n:02}" for n in range(1, REAL_AGENTS + 1)]
    for name in names:
        installation.add_agent(name, "real")
    api.online(names, timeout_s=60)
    dispatch_to_result(api, {"host": names[0]}, 10)
    print(line("one host, dispatch to result in read table", dispatch_to_result(api, {"host": names[0]}, rounds)))
    print(
        line(f"{REAL_AGENTS} real agents, to the last result", dispatch_to_result(api, {"group": "real"}, rounds // 5))
    )
    agent = installation.agents[names[0]]
    print(f"agent and launcher, resident                 {resident_mib(agent):.1f} MiB")
    print(f"agent and launcher, idle                     {cpu_share(agent, seconds=20) * 100:.2f} % of a core")
    for name in names:
        installation.agents[name].stop()

    fleet = Program(
        ["control-plane-agent", "simulate", str(simulated), "--group", "simulated", "--server", installation.url],
        log=installation.directory / "simulated.log",
        environment={
            "CONTROL_PLANE_AGENT_AMQP_URL": installation.amqp_url,
            "CONTROL_PLANE_AGENT_API_TOKEN": installation.token,
        },
    ).start()
    installation.agents["simulated"] = fleet
    api.online([f"sim-{n:04}" for n in range(1, simulated + 1)], timeout_s=180)
    print(line(f"{simulated} simulated agents, to the last result", dispatch_to_result(api, {"group": "simulated"}, 5)))
    if os.environ.get("BENCH_KEEP"):
        signal.pause()
