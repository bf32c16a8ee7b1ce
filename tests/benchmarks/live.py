"""From the moment that a command prints a line to the event in the stream of who watches it, on real parts."""

import asyncio
import base64
import contextlib
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from control_plane_wire import messages, signing, topology
from control_plane_wire.output import OutputMessage
from control_plane_wire.signing import SigningKey
from control_plane_wire.transport.base import Message
from control_plane_wire.transport.rabbitmq import RabbitTransport
from tests.benchmarks.end_to_end import percentile
from tests.support.programs import Api, Installation
from tests.support.servers import Broker, DatabaseServer, wait_until

HOST = "live1"
HOSTILE = "hostile1"
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


def latencies(api: Api, directory: Path, lines: int, *beside: str) -> list[float]:
    """Seconds from each line's print to its event, for a reader who has the topics `beside` too."""
    go = directory / f"go-{uuid4().hex}"
    script = PRINTS.format(go=str(go), lines=lines)
    body = {"command": "print", "argv": ["/usr/bin/env", "python3", "-c", script], "timeout": 600, "user": "root"}
    accepted = api.post("/tasks", {"target": {"host": HOST}, **body})
    task_id = str(accepted["task"]["task_id"])
    api.shown(task_id)
    found: list[float] = []
    rest = b""
    for name, data, at_ns in events(api, ",".join((f"output:{task_id}:{HOST}", f"task:{task_id}", *beside))):
        if name == "ping" and not go.exists():
            go.touch()
        if name == "output" and data["hostname"] == HOST:
            *whole, rest = (rest + printed(data)).split(b"\n")
            found += [(at_ns - int(line)) / 1e9 for line in whole]
        if name == "rows" and any(row.get("exit_code") is not None for _, row in data["rows"]):
            break
    assert len(found) >= lines / 2, f"{len(found)} of {lines} lines were shown"
    return found


@contextlib.contextmanager
def hostile(installation: Installation, key: SigningKey, task_id: str) -> Iterator[None]:
    """A host that sends pieces of a task as fast as it can, and says how many it could."""
    is_over = threading.Event()
    piece = OutputMessage.of(
        b"x" * 1000, task_id=task_id, hostname=HOSTILE, stream="stdout", offset=0, timestamp=int(time.monotonic())
    )
    body = messages.seal(piece.to_json(), key, signing.OUTPUT, sender=HOSTILE, recipient=signing.CONTROL_PLANE)
    message = Message(
        exchange=topology.MONITOR_EXCHANGE, routing_key=topology.output_key(HOSTILE), body=body, persistent=False
    )

    async def flood() -> None:
        started, count = time.perf_counter(), 0
        async with RabbitTransport(installation.amqp_url).connect("hostile") as session:
            while not is_over.is_set():
                await asyncio.gather(*(session.publish(message) for _ in range(100)))
                count += 100
        print(f"the hostile host sent {count:,} pieces, {count / (time.perf_counter() - started):,.0f} a second")

    thread = threading.Thread(target=lambda: asyncio.run(flood()))
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


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
    key = SigningKey.generate()
    api.post("/hosts", {"hostname": HOSTILE, "public_key": signing.encode_base64(key.public_key)})
    watched = api.run({"host": HOSTILE}, "never run")
    with hostile(installation, key, watched):
        beside = f"output:{watched}:{HOSTILE}"
        print(line("the same beside a hostile host", latencies(api, installation.directory, lines, beside)))
    stop = installation.directory / "stop"
    flood = api.run({"host": HOST}, FLOOD.format(stop=stop), timeout=600)
    try:
        wait_until(lambda: api.executions(flood)[HOST]["started_at"] is not None, timeout_s=20, what="a flood")
        print(line("the same beside 50 MB/s", latencies(api, installation.directory, lines)))
    finally:
        stop.touch()
    print(f"the other command printed {api.finished(flood)[HOST]['stdout_bytes'] / 1e6:.0f} MB")
