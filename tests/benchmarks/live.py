"""From the moment that a command prints a line to the event in the stream of who watches it, on real parts."""

import base64
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.benchmarks.end_to_end import percentile
from tests.support.programs import Api, Installation
from tests.support.servers import Broker, DatabaseServer, wait_until

HOST = "live1"
# Irregular, so that lines come at every moment between two looks of the agent. CLOCK_MONOTONIC is the machine's.
PRINTS = (
    "import os, random, time\n"
    "while not os.path.exists({go!r}): time.sleep(0.01)\n"
    "for _ in range({lines}):\n"
    "    print(time.monotonic_ns(), flush=True)\n"
    "    time.sleep(random.uniform(0.02, 0.12))\n"
)
FLOOD = "while [ ! -e {stop} ]; do head -c 5000000 /dev/zero; sleep 0.1; done"


def events(api: Api, topic: str) -> Iterator[tuple[str, dict[str, Any], int]]:
    """The events of a stream: name, data, and when it came, by CLOCK_MONOTONIC in ns."""
    with api.http.stream("GET", "/stream", params={"topics": topic}) as answer:
        assert answer.status_code == 200, answer.read()
        name = ""
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value), time.monotonic_ns()


def printed(data: dict[str, Any]) -> bytes:
    text = str(data["data"])
    return base64.b64decode(text) if data["encoding"] == "base64" else text.encode()


def latencies(api: Api, directory: Path, lines: int) -> list[float]:
    """Seconds from each line's print to its event."""
    go = directory / f"go-{uuid4().hex}"
    script = PRINTS.format(go=str(go), lines=lines)
    body = {"command": "print", "argv": ["/usr/bin/env", "python3", "-c", script], "timeout": 600, "user": "root"}
    accepted = api.post("/tasks", {"target": {"host": HOST}, **body})
    task_id = str(accepted["task"]["task_id"])
    api.shown(task_id)
    found: list[float] = []
    rest = b""
    for name, data, at_ns in events(api, f"output:{task_id}:{HOST},task:{task_id}"):
        if name == "ping" and not go.exists():
            go.touch()
        if name == "output":
            *whole, rest = (rest + printed(data)).split(b"\n")
            found += [(at_ns - int(line)) / 1e9 for line in whole]
        if name == "rows" and any(row.get("exit_code") is not None for _, row in data["rows"]):
            break
    assert len(found) >= lines / 2, f"{len(found)} of {lines} lines were shown"
    return found


def line(what: str, times: list[float]) -> str:
    return (
        f"{what:<34} p50 {statistics.median(times) * 1000:6.1f} ms   p99 {percentile(times, 0.99) * 1000:6.1f} ms"
        f"   most {max(times) * 1000:6.1f} ms   n={len(times)}   load {os.getloadavg()[0]:.1f}"
    )


def run(database: DatabaseServer, broker: Broker, directory: Path, *, lines: int = 200) -> None:
    with database.database() as database_url, broker.virtual_host() as amqp_url:
        installation = Installation(directory / uuid4().hex[:8], database_url, amqp_url)
        try:
            measure(installation, lines=lines)
        finally:
            installation.close()


def measure(installation: Installation, *, lines: int) -> None:
    api = installation.initialise()
    installation.add_agent(HOST)
    api.online([HOST], timeout_s=60)
    print(line("print to event of the stream", latencies(api, installation.directory, lines)))
    stop = installation.directory / "stop"
    flood = api.run({"host": HOST}, FLOOD.format(stop=stop), timeout=600)
    try:
        wait_until(lambda: api.executions(flood)[HOST]["started_at"] is not None, timeout_s=20, what="a flood")
        print(line("the same beside 50 MB/s", latencies(api, installation.directory, lines)))
    finally:
        stop.touch()
    print(f"the other command printed {api.finished(flood)[HOST]['stdout_bytes'] / 1e6:.0f} MB")
