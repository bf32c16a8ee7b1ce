"""What the contracts of the processes share: a plane with three hosts on either side, and what agents say."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.events import hosts, tasks
from control_plane_wire.messages import ALLOWED_SKEW_S
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE, SigningKey
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.transport.base import Transport
from control_plane_wire.transport.inprocess import InProcessBroker
from control_plane_wire.transport.rabbitmq import RabbitTransport
from tests.support.database import sqlite_url
from tests.support.events import AT, a_task_accepted
from tests.support.fleet import ADMIN, CONTROL_PLANE_KEY, host_key
from tests.support.plane import Plane, a_plane, until

SOMEBODY = SigningKey.from_bytes(b"\x66" * 32)
SENT = tasks.ExecutionSent.KIND
RETURNED = tasks.ExecutionReturned.KIND
UNCONFIRMED = tasks.ExecutionUnconfirmed.KIND


def heard(task_id: str, hostname: str, **changes: Any) -> tasks.ExecutionAccepted:
    """What ingest records when the agent says that it has journalled a task."""
    message: JsonObject = {"kind": "accepted", "task_id": task_id, "timestamp": AT, **changes}
    return tasks.ExecutionAccepted(message=message, hostname=hostname)


def runs(task_id: str, hostname: str, *, started_at: int) -> tasks.ExecutionStarted:
    """What ingest records when the agent says that it has started it."""
    message: JsonObject = {"kind": "accepted", "task_id": task_id, "timestamp": AT, "started_at": started_at}
    return tasks.ExecutionStarted(message=message, hostname=hostname)


def returned(task_id: str, hostname: str, trigger_seq: int) -> tasks.ExecutionReturned:
    return tasks.ExecutionReturned(task_id=task_id, hostname=hostname, trigger_seq=trigger_seq)


def done(task_id: str, hostname: str) -> tasks.ExecutionFinished:
    message: JsonObject = {"task_id": task_id, "exit_code": 0, "stdout": "", "stderr": "", "timestamp": AT}
    return tasks.ExecutionFinished(message=message, hostname=hostname)


class ProcessContract:
    @pytest.fixture
    async def plane(self, url: str, transport: Transport) -> AsyncIterator[Plane]:
        async with a_plane(url, transport) as plane:
            await plane.register("web1", "web2", groups=["web"])
            await plane.register("db1")
            yield plane

    async def replace(self, plane: Plane, hostname: str) -> Plane:
        """Another process, which has given the name to another machine."""
        other = plane.beside()
        await other.authority.refresh()
        await other.hosts.retire(ADMIN, hostname, None)
        await other.hosts.register(ADMIN, hostname=hostname, public_key=host_key("another").public_key, groups=[])
        return other

    def authorised(self, task_id: str, *hostnames: str, **request: Any) -> Any:
        """A task that was authorised for these hosts, whatever has become of them since."""
        task = a_task_accepted(task_id, hostnames, **request)
        signature = CONTROL_PLANE_KEY.sign(
            AUTHORISATION, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=task.body()
        )
        return task.to_new_event(actor="ada", signature=signature, key_id=CONTROL_PLANE_KEY.key_id)

    @staticmethod
    async def failed(plane: Plane, attempts: int) -> None:
        """Wait until so many publishes have failed and the next one is planned: only then may the clock go on."""

        async def have() -> bool:
            return plane.passed.times["dispatch.after_publish"] >= attempts

        await until(have)

    @staticmethod
    def has_published(plane: Plane, number: int) -> Any:
        async def has() -> bool:
            return len(plane.tap.published) >= number

        return has

    async def barrier(self, plane: Plane, task_id: str, agent: Any) -> None:
        """Wait until dispatch has dealt with all that was there before: it takes events in their order."""
        await plane.run(task_id, agent.hostname)
        await until(self.has(agent, task_id))
        await plane.record(done(task_id, agent.hostname))

    @staticmethod
    def has(agent: Any, task_id: str) -> Any:
        async def has() -> bool:
            return task_id in agent.task_ids()

        return has

    @staticmethod
    async def never(name: str, event_seq: int, **_given: Any) -> bool:
        return False

    async def quarantined(self, plane: Plane, hostname: str) -> int:
        event = hosts.HostQuarantined(
            hostname=hostname,
            heartbeat_seq=1,
            key_id=host_key(hostname).key_id,
            reason="its journal went back in time",
            before="200",
            after="100",
        )
        outcome = await plane.handling.record(event, actor="presence")
        await plane.shown()
        return outcome.seq

    async def expires(self, plane: Plane) -> None:
        """What is open ends as expired, when no agent would start it any more."""
        plane.clock.advance(ALLOWED_SKEW_S + 1)
        assert await plane.deadlines().decide() == 1
        assert len(await plane.events(tasks.ExecutionExpired.KIND)) == 1

    async def beat(self, plane: Plane, hostname: str, sequence: int, **changes: Any) -> JsonObject:
        message: JsonObject = {
            "hostname": hostname,
            "status": "online",
            "timestamp": plane.clock.now_s(),
            "cpu_usage": 0.1,
            "memory_usage": 0.2,
            "agent_version": "1.0",
            "boot_id": "b1",
            "sequence": sequence,
            **changes,
        }
        await plane.record(hosts.HeartbeatReceived(message=message))
        return message

    async def journal(self, plane: Plane, sequence: int, head: int, **changes: Any) -> None:
        """A heartbeat as ingest records it, with the key that signed it."""
        message: JsonObject = {
            "hostname": "web1",
            "status": "online",
            "timestamp": plane.clock.now_s(),
            "cpu_usage": 0.1,
            "memory_usage": 0.2,
            "agent_version": "1.0",
            "boot_id": "b1",
            "sequence": sequence,
            "journal_head": head,
            **changes,
        }
        heartbeat = hosts.HeartbeatReceived(message=message)
        await plane.log.append([heartbeat.to_new_event(key_id=host_key("web1").key_id)])
        await plane.shown()
        plane.clock.advance(10)


class OnSqlite:
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)

    @pytest.fixture
    def transport(self) -> Transport:
        return InProcessBroker().transport()


class OnServers:
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url

    @pytest.fixture
    def transport(self, amqp_url: str) -> Transport:
        return RabbitTransport(amqp_url)
