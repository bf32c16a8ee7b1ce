"""How fast a log is verified: its hashes, and the signatures of its hosts on all cores."""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from control_plane import bootstrap
from control_plane.administration import Office, initialise, opened
from control_plane.commands.access import CONSOLE
from control_plane.commands.handlers.hosts import HostHandler
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, NewEvent
from control_plane.events.hosts import HeartbeatReceived
from control_plane.settings import Settings
from control_plane.storage.leases import Leases
from control_plane_wire.signing import CONTROL_PLANE, HEARTBEAT, SigningKey
from tests.benchmarks.append import BATCH, BODY, SIGNATURE
from tests.support.database import an_event

HOST = "web1.example.com"


async def run(url: str, *, events: int = 200_000, heartbeats: int = 40_000, rounds: int = 5) -> None:
    """Print verified hashes and signatures per second."""
    with tempfile.TemporaryDirectory(prefix="cp-bench-") as directory:
        settings = Settings(_env_file=None, database_url=url, state_dir=Path(directory))  # type: ignore[call-arg, arg-type]
        await initialise(settings, "root", "correct horse battery")
        async with opened(settings) as office:
            await _fill(office, events, heartbeats)
            for signer in bootstrap._signing(office.core, Leases(office.core.database, owner="b"), _nobody)._signers:
                started = time.perf_counter()
                assert await signer.look()
                size = (await office.core.log.head(signer.name)).seq
                print(f"{'followed and signed, ' + signer.name:<34} {size / (time.perf_counter() - started):>9,.0f}/s")
        rates, proofs = [], []
        for _ in range(rounds):
            async with opened(settings) as office:  # which remembers nothing of the log
                rates.append(await _verified(office, signatures=False))
                started = time.perf_counter()
                await office.core.checkpoints.prove(EVENT, events // 2)
                proofs.append(1000 * (time.perf_counter() - started))
        _print("hashes and keys verified", rates)
        print(f"{'one proof':<34} {statistics.median(proofs):>9.1f} ms")
        rates = []
        for _ in range(rounds):
            async with opened(settings) as office:
                rates.append(await _signatures(office))
        _print(f"signatures, {os.cpu_count()} cores", rates)


async def _fill(office: Office, events: int, heartbeats: int) -> None:
    print(office.core.database.dialect.name)
    key = SigningKey.generate()
    hosts = HostHandler(office.core.handling, office.core.access.check_recent)
    await hosts.register(CONSOLE, hostname=HOST, public_key=key.public_key, groups=[])
    for start in range(0, events, 40 * BATCH):
        async with asyncio.TaskGroup() as tasks:
            for at in range(start, min(events, start + 40 * BATCH), BATCH):
                some = [
                    an_event(f"task-{at + n:032}", kind="k", hostname=HOST, body=BODY, signature=SIGNATURE)
                    for n in range(BATCH)
                ]
                tasks.create_task(office.core.log.append(some))
    beats = [_beat(sequence, key) for sequence in range(heartbeats)]
    for start in range(0, heartbeats, BATCH):
        await office.core.log.append(beats[start : start + BATCH])


def _beat(sequence: int, key: SigningKey) -> NewEvent:
    message = {"hostname": HOST, "status": "online", "timestamp": 1, "sequence": sequence}
    beat = HeartbeatReceived(message={**message, "cpu_usage": 0.1, "memory_usage": 0.2, "os": "x" * 200})
    signature = key.sign(HEARTBEAT, sender=HOST, recipient=CONTROL_PLANE, body=beat.body())
    return beat.to_new_event(actor=HOST, signature=signature, key_id=key.key_id)


async def _verified(office: Office, *, signatures: bool) -> float:
    started = time.perf_counter()
    report = await office.verify(EVENT, first=1, last=None, signatures=signatures, progress=lambda *_: None)
    assert report.findings == [], report.findings[:3]
    return report.last / (time.perf_counter() - started)


async def _signatures(office: Office) -> float:
    """Of the heartbeats, whose hashes take a small part of the time."""
    started = time.perf_counter()
    report = await office.verify(HEARTBEAT_EVENT, first=1, last=None, signatures=True, progress=lambda *_: None)
    assert report.findings == [], report.findings[:3]
    return report.last / (time.perf_counter() - started)


def _print(what: str, rates: Sequence[float]) -> None:
    low, high = min(rates), max(rates)
    print(f"{what:<34} {statistics.median(rates):>9,.0f}/s   ({low:,.0f} to {high:,.0f}, n={len(rates)})")


def _nobody(_what: str, _number: int) -> None:
    return
