"""Signed heartbeats from the broker into the read table: at a given rate with the lag, and as fast as they go."""

import asyncio
import time
from itertools import islice
from pathlib import Path
from uuid import uuid4

from control_plane.projections.positions import Positions
from control_plane_wire import messages, signing, topology
from control_plane_wire.signing import SigningKey, encode_base64
from control_plane_wire.transport.base import Message, Session
from control_plane_wire.transport.rabbitmq import RabbitTransport
from tests.support.programs import Api, Installation
from tests.support.servers import Broker, DatabaseServer

HOSTS = 200
RATE = 2000  # a second
SECONDS = 10
AT_ONCE = 100


def run(database: DatabaseServer, broker: Broker, directory: Path) -> None:
    with database.database() as database_url, broker.virtual_host() as amqp_url:
        installation = Installation(directory / uuid4().hex[:8], database_url, amqp_url)
        try:
            asyncio.run(measure(installation))
        finally:
            installation.close()


async def measure(installation: Installation) -> None:
    api = installation.initialise()
    keys = {f"beat{number:03}.example.com": SigningKey.generate() for number in range(HOSTS)}
    for hostname, key in keys.items():
        api.post("/hosts", {"hostname": hostname, "public_key": encode_base64(key.public_key)})
    count = RATE * SECONDS
    steady, burst = heartbeats(keys, 1, count), heartbeats(keys, 1 + count // HOSTS, count)
    async with RabbitTransport(installation.amqp_url).connect("heartbeats") as session:
        lags = await at_a_rate(session, api, steady)
        print(f"{RATE:,} heartbeats/s for {SECONDS} s: read table behind by at most {max(lags):,} heartbeats", end="")
        print(f" ({max(lags) / RATE:.2f} s), at the end {lags[-1]:,}")
        await until_shown(api, count)
        started = time.perf_counter()
        await publish_all(session, burst)
        published = time.perf_counter()
        await until_shown(api, 2 * count)
        rate = count / (time.perf_counter() - started)
        print(f"{count:,} at once: published in {published - started:.1f} s, all in the read table at {rate:,.0f}/s")


def heartbeats(keys: dict[str, SigningKey], first: int, count: int) -> list[Message]:
    """Signed beforehand: what is measured is the control plane."""
    return [_heartbeat(hostname, key, first + n) for n in range(count // len(keys)) for hostname, key in keys.items()]


def _heartbeat(hostname: str, key: SigningKey, sequence: int) -> Message:
    heartbeat = messages.HeartbeatMessage(
        hostname=hostname,
        status="online",
        timestamp=int(time.time()),
        cpu_usage=0.25,
        memory_usage=0.5,
        agent_version="1.0",
        sequence=sequence,
        boot_id="bench",
        interval=10,
        groups=(),
        running=0,
        load=(0.1, 0.2, 0.3),
        os="Debian GNU/Linux 12 (bookworm)",
        cpu_count=4,
        memory_bytes=8 * 2**30,
    )
    sender, recipient = hostname, signing.CONTROL_PLANE
    body = messages.seal(heartbeat.to_json(), key, signing.HEARTBEAT, sender=sender, recipient=recipient)
    return Message(exchange=topology.MONITOR_EXCHANGE, routing_key=topology.HEARTBEAT_KEY, body=body, persistent=False)


async def at_a_rate(session: Session, api: Api, beats: list[Message]) -> list[int]:
    """Publish `RATE` a second; how many the read table was behind, looked at twice a second."""
    started, rest, sent = time.perf_counter(), iter(beats), 0
    lags, look_at = [], started + 0.5
    while chunk := list(islice(rest, AT_ONCE)):
        await asyncio.sleep(max(0.0, started + sent / RATE - time.perf_counter()))
        await asyncio.gather(*(session.publish(beat) for beat in chunk))
        sent += len(chunk)
        if time.perf_counter() >= look_at:
            lags.append(sent - await asyncio.to_thread(shown, api))
            look_at += 0.5
    return lags


async def publish_all(session: Session, beats: list[Message]) -> None:
    rest = iter(beats)
    while chunk := list(islice(rest, 5 * AT_ONCE)):
        await asyncio.gather(*(session.publish(beat) for beat in chunk))


def shown(api: Api) -> int:
    """The heartbeat that the read table of hosts has come to."""
    [hosts] = [item for item in api.get("/projections")["items"] if item["name"] == "hosts"]
    return Positions.parse(hosts["position"]).heartbeat


async def until_shown(api: Api, count: int) -> None:
    while await asyncio.to_thread(shown, api) < count:
        await asyncio.sleep(0.05)
