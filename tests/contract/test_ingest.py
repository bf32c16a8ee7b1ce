"""What the consumers promise, on every database and broker: verified, in the log, and only then acknowledged."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from control_plane.commands.hosts import decide_rotate
from control_plane.events import access, hosts, tasks
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.event import Event
from control_plane.messaging.publisher import Publisher
from control_plane.messaging.rubbish import SINGLY
from control_plane.processes.presence import HEARING
from control_plane_wire.errors import TransportUnavailableError
from control_plane_wire.messages import MAX_HEARTBEAT_BYTES, MAX_RESULT_BYTES, seal
from control_plane_wire.signing import CONTROL_PLANE, HEARTBEAT, RESULT, encode_base64, verify
from control_plane_wire.topology import (
    CONTROL_PLANE_TOPOLOGY,
    HEARTBEAT_DEAD_QUEUE,
    HEARTBEAT_KEY,
    HEARTBEAT_QUEUE,
    MONITOR_EXCHANGE,
    RESULT_DEAD_QUEUE,
    RESULT_EXCHANGE,
    RESULT_QUEUE,
    agent_queue,
    command_key,
)
from control_plane_wire.transport.base import Confirmed, Message, Session, Transport, Unroutable
from control_plane_wire.transport.inprocess import InProcessBroker
from control_plane_wire.transport.rabbitmq import RabbitTransport
from tests.support.database import sqlite_url
from tests.support.events import AT, a_task_accepted
from tests.support.fleet import ADMIN, a_registration, host_key
from tests.support.link import Link
from tests.support.plane import Plane, WeakLog, a_plane, a_result, of_host, until

FINISHED = tasks.ExecutionFinished.KIND
REJECTED = access.MessageRejected.KIND
SOMEBODY = host_key("somebody")


def a_heartbeat(hostname: str = "web1", *, by: str | None = None, **changes: Any) -> Message:
    message = {
        "hostname": hostname,
        "status": "online",
        "timestamp": AT,
        "cpu_usage": 0.1,
        "memory_usage": 1,
        "sequence": 1,
        "boot_id": "b1",
        **changes,
    }
    body = seal(message, host_key(by or hostname), HEARTBEAT, sender=hostname, recipient=CONTROL_PLANE)
    return Message(exchange=MONITOR_EXCHANGE, routing_key=HEARTBEAT_KEY, body=body)


def numbered(event: Event) -> int | None:
    """How many a piece of rubbish stands for beside itself; None where it is one."""
    assert isinstance(event, tasks.ExecutionUnexpected | access.MessageRejected)
    return event.count


SPOILT = {
    "not JSON": (b"\xff not json", False),
    "JSON, but no object": (b"[]", False),
    "no signature": (b'{"task_id":"t1"}', False),
    "a field is wrong": (
        seal({"task_id": "t1"}, host_key("web1"), RESULT, sender="web1", recipient=CONTROL_PLANE),
        False,
    ),
    "a task id with a wildcard in it": (a_result("t1.#", "web1"), False),
    "oversize": (b'"' + b"x" * MAX_RESULT_BYTES + b'"', False),
    "signed by somebody": (a_result("t1", "web1", key=SOMEBODY), True),
    "signed by another host": (a_result("t1", "web1", key=host_key("web2")), True),
    "signed in another host's name": (a_result("t1", "web2", key=host_key("web1")), True),
    "edited": (a_result("t1", "web1").replace(b"done", b"gone"), True),
    "signed as a heartbeat": (
        seal(
            {"task_id": "t1", "exit_code": 0, "stdout": "", "stderr": "", "timestamp": AT},
            host_key("web1"),
            HEARTBEAT,
            sender="web1",
            recipient=CONTROL_PLANE,
        ),
        True,
    ),
    "signed for somebody else": (
        seal(
            {"task_id": "t1", "exit_code": 0, "stdout": "", "stderr": "", "timestamp": AT},
            host_key("web1"),
            RESULT,
            sender="web1",
            recipient="web2",
        ),
        True,
    ),
}


class IngestContract:
    @pytest.fixture
    async def plane(self, url: str, transport: Transport) -> AsyncIterator[Plane]:
        """Two hosts, and the task t1 for web1 alone."""
        async with a_plane(url, transport) as plane:
            await plane.register("web1", "web2")
            await plane.run("t1", "web1")
            yield plane

    @pytest.fixture
    async def somebody(self, plane: Plane) -> AsyncIterator[Session]:
        async with plane.session() as session:
            yield session

    async def send(self, session: Session, *messages: Message) -> None:
        for message in messages:
            assert await session.publish(message) == Confirmed()

    # --- results

    async def test_a_result_is_recorded_as_it_was_signed_and_then_acknowledged(
        self, plane: Plane, somebody: Session
    ) -> None:
        async with plane.serving(plane.results()):
            await self.send(somebody, of_host("web1", a_result("t1", "web1", stdout="Grüße\n", extra={"n": 0.1})))
            [event] = await plane.recorded(FINISHED)
            await plane.counted("results_received")

        [row] = await plane.rows(FINISHED)
        assert isinstance(event, tasks.ExecutionFinished)
        assert (event.result.stdout, event.message["extra"]) == ("Grüße\n", {"n": 0.1})
        assert (row.task_id, row.hostname, row.actor, row.occurred_us) == ("t1", "web1", "web1", AT * 1_000_000)
        assert (row.signature is not None, row.key_id) == (True, host_key("web1").key_id)
        verify(
            host_key("web1").public_key,
            row.signature or b"",
            RESULT,
            sender="web1",
            recipient=CONTROL_PLANE,
            body=row.body,
        )
        assert await plane.left_in(RESULT_QUEUE) == []
        assert await plane.left_in(RESULT_DEAD_QUEUE) == []

    async def test_what_an_agent_says_before_its_result_is_recorded_too(self, plane: Plane, somebody: Session) -> None:
        def said(**changes: Any) -> Message:
            message = {"kind": "accepted", "task_id": "t1", "timestamp": AT, **changes}
            body = seal(message, host_key("web1"), RESULT, sender="web1", recipient=CONTROL_PLANE)
            return of_host("web1", body)

        async with plane.serving(plane.results()):
            await self.send(somebody, said(), said(started_at=AT), of_host("web1", a_result("t1", "web1")))
            await plane.recorded(FINISHED)

        kinds = [row.kind for row in await plane.log.read(EVENT, after=3)]
        assert kinds == [tasks.ExecutionAccepted.KIND, tasks.ExecutionStarted.KIND, FINISHED]

    async def test_the_same_result_again_changes_nothing(self, plane: Plane, somebody: Session) -> None:
        result = of_host("web1", a_result("t1", "web1"))
        async with plane.serving(plane.results()):
            await self.send(somebody, result, result)
            await plane.counted("results_received", 2)
            await self.send(somebody, result)
            await plane.counted("results_received", 3)

        assert (await plane.log.head(EVENT)).seq == 4
        assert plane.counts["duplicates"] == 2
        assert plane.counts["results_dead"] == plane.counts["conflicts"] == 0
        assert await plane.left_in(RESULT_QUEUE) == []

    async def test_a_second_different_result_is_a_conflict_and_the_first_stands(
        self, plane: Plane, somebody: Session
    ) -> None:
        second = a_result("t1", "web1", exit_code=1)
        async with plane.serving(plane.results()):
            await self.send(somebody, of_host("web1", a_result("t1", "web1")))
            await plane.recorded(FINISHED)
            await self.send(somebody, of_host("web1", second), of_host("web1", second))
            await plane.counted("results_received", 3)
            [conflict] = await plane.recorded(tasks.ExecutionConflict.KIND)

        [finished] = await plane.events(FINISHED)
        assert isinstance(finished, tasks.ExecutionFinished)
        assert isinstance(conflict, tasks.ExecutionConflict)
        assert finished.result.exit_code == 0
        assert (conflict.task_id, conflict.hostname, conflict.first_seq) == ("t1", "web1", 4)
        assert plane.counts["conflicts"] == 2
        assert (await plane.log.head(EVENT)).seq == 5

    async def test_a_host_that_signs_many_different_results_fills_the_log_with_one_conflict(
        self, plane: Plane, somebody: Session
    ) -> None:
        async with plane.serving(plane.results()):
            await self.send(somebody, *(of_host("web1", a_result("t1", "web1", exit_code=code)) for code in range(60)))
            await plane.counted("results_received", 60)
            await self.send(somebody, *(of_host("web1", a_result("t1", "web1", exit_code=code)) for code in range(99)))
            await plane.counted("results_received", 159)

        assert len(await plane.events(FINISHED)) == 1
        assert len(await plane.events(tasks.ExecutionConflict.KIND)) == 1
        assert (await plane.log.head(EVENT)).seq == 5
        assert plane.counts["conflicts"] == 59 + 98

    @pytest.mark.parametrize(
        "outcome",
        [tasks.ExecutionLost, tasks.ExecutionExpired, tasks.ExecutionSkipped, tasks.ExecutionCancelled],
        ids=lambda outcome: outcome.KIND,
    )
    async def test_a_result_after_our_own_outcome_is_kept_beside_as_late_evidence(
        self, plane: Plane, somebody: Session, outcome: Any
    ) -> None:
        first = outcome(task_id="t1", hostname="web1", reason="no word")
        result = of_host("web1", a_result("t1", "web1"))
        async with plane.serving(plane.results()):
            await plane.record(first)
            await self.send(somebody, result)
            [late] = await plane.recorded(tasks.ExecutionLateResult.KIND)
            await self.send(somebody, result)
            await plane.counted("results_received", 2)

        [row] = await plane.rows(tasks.ExecutionLateResult.KIND)
        assert isinstance(late, tasks.ExecutionLateResult)
        assert late.result.stdout == "done\n"
        assert (row.hostname, row.actor, row.key_id) == ("web1", "web1", host_key("web1").key_id)
        assert row.signature is not None
        assert await plane.events(FINISHED, tasks.ExecutionConflict.KIND) == []
        assert await plane.events(outcome.KIND) == [first]

    async def test_a_second_different_result_is_a_conflict_also_where_both_come_late(
        self, plane: Plane, somebody: Session
    ) -> None:
        await plane.record(tasks.ExecutionLost(task_id="t1", hostname="web1", reason="no word"))
        second = a_result("t1", "web1", exit_code=1)
        async with plane.serving(plane.results()):
            await self.send(somebody, of_host("web1", a_result("t1", "web1")))
            [late] = await plane.recorded(tasks.ExecutionLateResult.KIND)
            await self.send(somebody, of_host("web1", second))
            [conflict] = await plane.recorded(tasks.ExecutionConflict.KIND)

        [row] = await plane.rows(tasks.ExecutionLateResult.KIND)
        assert isinstance(late, tasks.ExecutionLateResult)
        assert isinstance(conflict, tasks.ExecutionConflict)
        assert late.result.exit_code == 0
        assert (conflict.hostname, conflict.first_seq) == ("web1", row.seq)

    async def test_two_different_results_in_one_batch_are_one_outcome_and_one_conflict(
        self, plane: Plane, somebody: Session
    ) -> None:
        await self.send(somebody, *(of_host("web1", a_result("t1", "web1", exit_code=code)) for code in (0, 1, 0)))
        async with plane.serving(plane.results()):
            await plane.counted("results_received", 3)

        [finished] = await plane.events(FINISHED)
        assert isinstance(finished, tasks.ExecutionFinished)
        assert finished.result.exit_code == 0
        assert len(await plane.events(tasks.ExecutionConflict.KIND)) == 1

    @pytest.mark.parametrize(
        ("task_id", "hostname", "reason"),
        [("t1", "web2", "not a target of this task"), ("t9", "web1", "unknown task")],
        ids=["no target", "no task"],
    )
    async def test_a_signed_result_that_nobody_asked_for_is_recorded_as_unexpected_and_changes_nothing(
        self, plane: Plane, somebody: Session, task_id: str, hostname: str, reason: str
    ) -> None:
        async with plane.serving(plane.results()):
            await self.send(somebody, of_host(hostname, a_result(task_id, hostname)))
            await self.send(somebody, of_host("web1", a_result("t1", "web1")))
            await plane.recorded(FINISHED)
            [event] = await plane.recorded(tasks.ExecutionUnexpected.KIND)

        assert isinstance(event, tasks.ExecutionUnexpected)
        assert (event.task_id, event.hostname, event.reason) == (task_id, hostname, reason)
        assert plane.counts["unexpected_results"] == 1
        assert [row.hostname for row in await plane.rows(FINISHED)] == ["web1"]

    async def test_a_host_does_not_fill_the_log_with_what_nobody_asked_for(
        self, plane: Plane, somebody: Session
    ) -> None:
        unasked = [of_host("web1", a_result(f"no-task-{each}", "web1")) for each in range(SINGLY + 5)]
        forged = [of_host("web2", a_result(f"t{each}", "web2", key=SOMEBODY)) for each in range(SINGLY + 3)]
        async with plane.serving(plane.results()):
            await self.send(somebody, *unasked, *forged, of_host("web1", a_result("t1", "web1")))
            await plane.recorded(FINISHED)
            await plane.counted("results_received", 2 * SINGLY + 9)

        for kind, more in ((tasks.ExecutionUnexpected.KIND, 5), (REJECTED, 3)):
            events = await plane.events(kind)
            assert len(events) == SINGLY + 1
            assert [numbered(event) for event in events] == [None] * SINGLY + [more]
        left = [body for body, _ in await plane.left_in(RESULT_DEAD_QUEUE)]
        assert sorted(left) == sorted(message.body for message in (*unasked[SINGLY:], *forged))
        assert len(await plane.events(FINISHED)) == 1

    async def test_what_was_not_recorded_is_not_counted_either(self, plane: Plane, somebody: Session) -> None:
        log = plane.log
        assert isinstance(log, WeakLog)
        log.is_away = True
        async with plane.serving(plane.results()):
            await self.send(somebody, *(of_host("web1", a_result(f"no-{n}", "web1")) for n in range(SINGLY + 5)))

            async def was_refused() -> bool:
                return log.refusals >= 2

            await until(was_refused)
            log.is_away = False
            await plane.counted("results_received", SINGLY + 5)
        counts = [numbered(event) for event in await plane.events(tasks.ExecutionUnexpected.KIND)]
        assert counts == [None] * SINGLY + [5]

    async def test_another_machine_of_that_name_answers_nothing_that_the_first_was_asked(
        self, plane: Plane, somebody: Session
    ) -> None:
        await plane.hosts.retire(ADMIN, "web1", None)
        await plane.hosts.register(ADMIN, hostname="web1", public_key=SOMEBODY.public_key, groups=[])
        await plane.run("t2", "web1")

        async with plane.serving(plane.results()):
            answers = [of_host("web1", a_result(task_id, "web1", key=SOMEBODY)) for task_id in ("t1", "t2")]
            await self.send(somebody, *answers)
            [finished] = await plane.recorded(FINISHED)
            [event] = await plane.recorded(tasks.ExecutionUnexpected.KIND)

        assert isinstance(event, tasks.ExecutionUnexpected)
        assert (event.task_id, event.reason) == ("t1", "this task was for another machine of that name")
        assert isinstance(finished, tasks.ExecutionFinished)
        assert finished.task_id == "t2"
        assert plane.counts["unexpected_results"] == 1

    async def test_a_result_of_a_task_whose_row_nobody_can_read_is_unexpected_and_stops_nobody(
        self, plane: Plane, somebody: Session
    ) -> None:
        broken = a_task_accepted("broken", ("web1",)).to_new_event()
        await plane.log.append([replace(broken, body=b'{"kind":"task.accepted"}')])
        async with plane.serving(plane.results()):
            await self.send(
                somebody, of_host("web1", a_result("broken", "web1")), of_host("web1", a_result("t1", "web1"))
            )
            await plane.recorded(FINISHED)
            [event] = await plane.recorded(tasks.ExecutionUnexpected.KIND)

        assert isinstance(event, tasks.ExecutionUnexpected)
        assert (event.task_id, event.reason) == ("broken", "unknown task")

    # --- what is no result

    @pytest.mark.parametrize("spoilt", SPOILT)
    async def test_what_is_no_result_of_this_host_is_set_aside_counted_and_in_nobodys_way(
        self, plane: Plane, somebody: Session, spoilt: str
    ) -> None:
        body, is_forged = SPOILT[spoilt]
        await self.send(somebody, of_host("web1", body), of_host("web1", a_result("t1", "web1")))
        async with plane.serving(plane.results()):
            await plane.recorded(FINISHED)
            await plane.counted("results_received", 2)

        assert plane.counts["results_dead"] == 1
        [(dead, headers)] = await plane.left_in(RESULT_DEAD_QUEUE)
        assert dead == body
        assert headers["routing-key"] == "result.node.web1"
        assert headers["reason"]
        rejected = await plane.events(REJECTED)
        assert len(rejected) == is_forged
        for event in rejected:
            assert isinstance(event, access.MessageRejected)
            assert event.message_sha256 == hashlib.sha256(body).hexdigest()
            assert (event.queue, event.routing_key) == (RESULT_QUEUE, "result.node.web1")
        assert len(await plane.events(FINISHED)) == 1
        assert await plane.left_in(RESULT_QUEUE) == []

    @pytest.mark.parametrize(
        ("routing_key", "is_forged"),
        [
            ("result.node.web2", True),
            ("result.node.web9", False),
            ("result.node.WEB1", False),
            ("result.node.*", False),
            ("result.node.", False),
            ("result", False),
            ("result.web1", False),
        ],
    )
    async def test_a_genuine_result_under_another_routing_key_is_nobodys(
        self, plane: Plane, somebody: Session, routing_key: str, is_forged: bool
    ) -> None:
        body = a_result("t1", "web1")
        stray = Message(exchange=RESULT_EXCHANGE, routing_key=routing_key, body=body)
        async with plane.serving(plane.results()):
            await self.send(somebody, stray)
            await plane.counted("results_dead")
            assert await plane.events(FINISHED) == []
            await self.send(somebody, of_host("web1", body))
            await plane.recorded(FINISHED)

        assert len(await plane.events(REJECTED)) == is_forged
        [(_, headers)] = await plane.left_in(RESULT_DEAD_QUEUE)
        assert headers["routing-key"] == routing_key

    async def test_a_revoked_host_speaks_no_more(self, plane: Plane, somebody: Session) -> None:
        await plane.hosts.revoke(ADMIN, "web1", None)
        async with plane.serving(plane.results()):
            await self.send(somebody, of_host("web1", a_result("t1", "web1")))
            await plane.counted("results_dead")

        assert await plane.events(FINISHED) == []
        [(_, headers)] = await plane.left_in(RESULT_DEAD_QUEUE)
        assert headers["reason"] == "web1 is revoked: its results do not count"
        assert len(await plane.events(REJECTED)) == 1  # what it said is evidence

    async def test_of_two_keys_the_old_one_counts_until_the_first_message_signed_with_the_new_one(
        self, plane: Plane, somebody: Session
    ) -> None:
        new, switched = host_key("web1-new"), hosts.HostKeySwitched.KIND
        fleet = plane.authority.fleet
        await plane.handling.decide_and_record(
            lambda: decide_rotate(fleet, fleet.host("web1"), new.public_key, AT), actor="web1"
        )
        async with plane.serving(plane.results(), plane.heartbeats()):
            await self.send(somebody, a_heartbeat("web1", sequence=1))
            await plane.counted("heartbeats_received")
            assert await plane.rows(switched) == []

            await self.send(somebody, of_host("web1", a_result("t1", "web1", key=new)))
            await plane.recorded(FINISHED)
            await self.send(somebody, a_heartbeat("web1", sequence=2))  # captured, and kept back until now
            await self.send(somebody, of_host("web1", a_result("t1", "web1", stdout="forged", timestamp=AT + 1)))
            await plane.recorded(REJECTED, number=2)
            await self.send(somebody, of_host("web1", a_result("t1", "web1", key=new)))
            await plane.counted("duplicates")

        [row] = await plane.rows(FINISHED)
        [at_once] = await plane.rows(switched)
        assert row.key_id == new.key_id
        assert at_once.seq < row.seq
        assert len(await plane.rows(hosts.HeartbeatReceived.KIND, log=HEARTBEAT_EVENT)) == 1
        assert fleet.public_keys("web1") == (new.public_key,)

    async def test_a_result_by_the_old_key_that_is_taken_after_the_switch_counts_when_it_is_signed_anew(
        self, plane: Plane, somebody: Session
    ) -> None:
        new, fleet = host_key("web1-new"), plane.authority.fleet
        await plane.handling.decide_and_record(
            lambda: decide_rotate(fleet, fleet.host("web1"), new.public_key, AT), actor="web1"
        )
        await self.send(somebody, of_host("web1", a_result("t1", "web1")))  # it waits in its queue
        async with plane.serving(plane.heartbeats()):
            await self.send(somebody, a_heartbeat("web1", by="web1-new"))
            await plane.recorded(hosts.HostKeySwitched.KIND)
        async with plane.serving(plane.results()):
            await plane.recorded(REJECTED)
            await self.send(somebody, *[of_host("web1", a_result("t1", "web1", key=new))] * 2)
            await plane.counted("duplicates")

        assert len(await plane.rows(FINISHED)) == 1

    async def test_what_was_dead_lettered_into_this_routing_key_is_not_believed(
        self, plane: Plane, somebody: Session
    ) -> None:
        genuine = of_host("web1", a_result("t1", "web1"))
        stray = Message(
            exchange=genuine.exchange,
            routing_key=genuine.routing_key,
            body=genuine.body,
            headers={"x-death": "x"},
        )
        async with plane.serving(plane.results()):
            await self.send(somebody, stray)
            await plane.counted("results_dead")
            [event] = await plane.recorded(REJECTED)

        assert isinstance(event, access.MessageRejected)
        assert event.reason == "it was dead-lettered into this routing key"
        assert await plane.events(FINISHED) == []

    async def test_the_same_forgery_many_times_is_one_security_event(self, plane: Plane, somebody: Session) -> None:
        forgery = of_host("web1", a_result("t1", "web1", key=SOMEBODY))
        async with plane.serving(plane.results()):
            await self.send(somebody, *[forgery] * 20)
            await plane.counted("results_dead", 20)

        assert len(await plane.events(REJECTED)) == 1
        assert len(await plane.left_in(RESULT_DEAD_QUEUE)) == 20

    async def test_a_crowd_of_messages_is_verified_one_by_one(self, plane: Plane, somebody: Session) -> None:
        """More than are verified in place: the threads must find the same."""
        for number in range(200):
            await plane.run(f"crowd-{number}", "web1")
        forged = {n for n in range(200) if n % 7 == 0}
        for number in range(200):
            key = SOMEBODY if number in forged else host_key("web1")
            await self.send(somebody, of_host("web1", a_result(f"crowd-{number}", "web1", key=key)))
        async with plane.serving(plane.results()):
            await plane.counted("results_received", 200)

        finished = {row.task_id for row in await plane.rows(FINISHED)}
        assert finished == {f"crowd-{n}" for n in range(200) if n not in forged}
        assert plane.counts["results_dead"] == len(forged)
        assert sum(numbered(event) or 1 for event in await plane.events(REJECTED)) == len(forged)

    async def test_the_dead_letters_reason_is_short(self, plane: Plane, somebody: Session) -> None:
        name = ".".join(["a" * 60] * 3)
        async with plane.serving(plane.results()):
            await self.send(somebody, of_host(name, a_result("t1", name)))
            await plane.counted("results_dead")

        [(_, headers)] = await plane.left_in(RESULT_DEAD_QUEUE)
        assert len(str(headers["reason"])) == 200

    # --- who is who may have changed a moment ago, in another process

    async def test_a_host_that_another_process_has_just_registered_is_heard(
        self, plane: Plane, somebody: Session
    ) -> None:
        async with plane.serving(plane.heartbeats()):
            await plane.register_quietly("new1")
            await self.send(somebody, a_heartbeat("new1"))
            await plane.recorded(hosts.HeartbeatReceived.KIND, log=HEARTBEAT_EVENT)

        assert plane.counts["heartbeats_dead"] == 0

    async def test_a_host_that_another_process_has_just_registered_anew_is_heard_with_its_new_key(
        self, plane: Plane, somebody: Session
    ) -> None:
        other = plane.beside()
        await other.authority.refresh()
        async with plane.serving(plane.heartbeats()):
            await other.hosts.retire(ADMIN, "web1", None)
            again = a_registration("web1", generation=2)
            again = replace(again, public_key=encode_base64(SOMEBODY.public_key))
            await other.handling.record(again, actor="root")

            await self.send(somebody, a_heartbeat("web1", by="somebody"))
            await plane.recorded(hosts.HeartbeatReceived.KIND, log=HEARTBEAT_EVENT)
            await self.send(somebody, a_heartbeat("web1", sequence=2))
            await plane.counted("heartbeats_dead")

        assert await plane.events(REJECTED) != []
        assert len(await plane.left_in(HEARTBEAT_DEAD_QUEUE)) == 1

    # --- heartbeats

    async def test_heartbeats_are_recorded_in_their_own_log_each_once(self, plane: Plane, somebody: Session) -> None:
        beats = [a_heartbeat(sequence=n) for n in range(1, 31)]
        await self.send(somebody, *beats, *beats)
        async with plane.serving(plane.heartbeats()):
            await plane.counted("heartbeats_received", 60)

        rows = await plane.rows(hosts.HeartbeatReceived.KIND, log=HEARTBEAT_EVENT)
        events = await plane.events(hosts.HeartbeatReceived.KIND, log=HEARTBEAT_EVENT)
        assert [e.heartbeat.sequence for e in events if isinstance(e, hosts.HeartbeatReceived)] == list(range(1, 31))
        assert {row.hostname for row in rows} == {"web1"}
        assert all(row.signature and row.key_id == host_key("web1").key_id for row in rows)
        assert plane.counts["duplicates"] == 30
        assert (await plane.log.head(EVENT)).seq == 3
        assert await plane.left_in(HEARTBEAT_QUEUE) == []

    async def test_many_heartbeats_are_appended_together(self, plane: Plane, somebody: Session) -> None:
        await self.send(somebody, *(a_heartbeat(sequence=n) for n in range(1, 101)))
        append, sizes = plane.log.append, []

        async def counting(events: Any) -> Any:
            sizes.append(len(events))
            return await append(events)

        plane.log.append = counting  # type: ignore[method-assign]
        async with plane.serving(plane.heartbeats()):
            await plane.counted("heartbeats_received", 100)

        assert sum(sizes) == 100
        assert len(sizes) < 50

    async def test_a_heartbeat_in_another_hosts_name_is_a_forgery_and_in_nobodys_way(
        self, plane: Plane, somebody: Session
    ) -> None:
        await self.send(
            somebody,
            a_heartbeat("web2", by="web1"),
            a_heartbeat("web9"),
            Message(exchange=MONITOR_EXCHANGE, routing_key=HEARTBEAT_KEY, body=b"{"),
            Message(exchange=MONITOR_EXCHANGE, routing_key=HEARTBEAT_KEY, body=b" " * (MAX_HEARTBEAT_BYTES + 1)),
            a_heartbeat("web1", cpu_usage=1.5),
            a_heartbeat("web1"),
        )
        async with plane.serving(plane.heartbeats()):
            await plane.counted("heartbeats_received", 6)

        [row] = await plane.rows(hosts.HeartbeatReceived.KIND, log=HEARTBEAT_EVENT)
        assert row.hostname == "web1"
        assert plane.counts["heartbeats_dead"] == 5 == len(await plane.left_in(HEARTBEAT_DEAD_QUEUE))
        [event] = await plane.events(REJECTED)
        assert isinstance(event, access.MessageRejected)
        assert event.queue == HEARTBEAT_QUEUE

    # --- what goes wrong around it

    async def test_while_the_database_is_away_nothing_is_acknowledged(self, plane: Plane, somebody: Session) -> None:
        _goes_away(plane)
        async with plane.serving(plane.results()):
            await self.send(somebody, of_host("web1", a_result("t1", "web1")))
            await until(self.is_refused(plane, 2))
            assert plane.counts["results_received"] == 0

            _comes_back(plane)
            await plane.recorded(FINISHED)
            await plane.counted("results_received")

        assert await plane.left_in(RESULT_QUEUE) == []

    @staticmethod
    def is_refused(plane: Plane, times: int) -> Any:
        async def is_refused() -> bool:
            return isinstance(plane.log, WeakLog) and plane.log.refusals >= times

        return is_refused

    async def test_a_consumer_that_dies_while_the_database_is_away_leaves_its_messages_to_the_next(
        self, plane: Plane, somebody: Session
    ) -> None:
        _goes_away(plane)
        dying = asyncio.create_task(plane.results().run(asyncio.Event()))
        await self.send(somebody, of_host("web1", a_result("t1", "web1")))
        await until(self.is_refused(plane, 1))
        dying.cancel()
        await asyncio.wait([dying])

        _comes_back(plane)
        async with plane.serving(plane.results()):
            await plane.recorded(FINISHED)
            await plane.counted("results_received")

    async def test_a_consumer_that_is_stopped_while_the_database_is_away_ends_and_keeps_nothing_back(
        self, plane: Plane, somebody: Session
    ) -> None:
        _goes_away(plane)
        stop = asyncio.Event()
        stopping = asyncio.create_task(plane.results().run(stop))
        await self.send(somebody, of_host("web1", a_result("t1", "web1")))
        await until(self.is_refused(plane, 1))

        stop.set()
        async with asyncio.timeout(10):
            await stopping

        assert len(await plane.left_in(RESULT_QUEUE)) == 1

    async def test_a_dead_letter_that_no_queue_has_taken_is_not_acknowledged(
        self, plane: Plane, somebody: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody has deleted the queue; the next session makes it again."""
        publish, was_returned = type(somebody).publish, asyncio.Event()

        async def publish_once_more(session: Any, message: Message, **given: Any) -> Any:
            if message.routing_key == RESULT_DEAD_QUEUE and not was_returned.is_set():
                was_returned.set()
                return Unroutable()
            return await publish(session, message, **given)

        monkeypatch.setattr(type(somebody), "publish", publish_once_more)
        async with plane.serving(plane.results()):
            await self.send(somebody, of_host("web1", b"{"))
            await was_returned.wait()
            await plane.counted("results_dead")

        assert [body for body, _ in await plane.left_in(RESULT_DEAD_QUEUE)] == [b"{"]

    async def test_one_that_dies_between_the_commit_and_the_acknowledgement_changes_nothing(
        self, plane: Plane, somebody: Session
    ) -> None:
        consumer = plane.results()
        consumer._failpoints = _Raises("ingest.after_commit")  # type: ignore[assignment]
        await self.send(somebody, of_host("web1", a_result("t1", "web1")))
        with pytest.raises(ExceptionGroup):
            async with plane.serving(consumer):
                await asyncio.Event().wait()
        assert len(await plane.events(FINISHED)) == 1

        async with plane.serving(plane.results()):
            await plane.counted("results_received")

        assert len(await plane.events(FINISHED)) == 1
        assert await plane.left_in(RESULT_QUEUE) == []

    async def test_two_consumers_share_the_work_and_record_it_once(self, plane: Plane, somebody: Session) -> None:
        other = plane.beside()
        await other.authority.refresh()
        async with plane.serving(plane.heartbeats(), other.heartbeats()):
            for number in range(1, 101):
                await self.send(somebody, a_heartbeat(sequence=number))
            await plane.recorded(hosts.HeartbeatReceived.KIND, number=100, log=HEARTBEAT_EVENT)

        assert (await plane.log.head(HEARTBEAT_EVENT)).seq == 100

    async def test_whoever_takes_heartbeats_in_holds_a_lease_for_as_long(self, plane: Plane) -> None:
        held = partial(plane.leases.held, HEARING)
        async with plane.serving(plane.results()):
            async with plane.serving(plane.heartbeats()):
                assert await until(held) == 1
            assert await held() is None

    async def test_nobody_holds_that_lease_while_heartbeats_are_recorded_late(
        self, plane: Plane, somebody: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else whoever is heard late would be taken for silent."""
        monkeypatch.setattr("control_plane.messaging.ingest.LATE_S", 0.1)

        async def is_free() -> bool:
            return await plane.leases.held(HEARING) is None

        async with plane.serving(plane.heartbeats()):
            assert await until(partial(plane.leases.held, HEARING)) == 1
            _goes_away(plane)
            await self.send(somebody, a_heartbeat())
            await until(is_free)

            _comes_back(plane)
            await plane.recorded(hosts.HeartbeatReceived.KIND, log=HEARTBEAT_EVENT)
            assert await until(partial(plane.leases.held, HEARING)) == 2

    async def test_whoever_has_as_many_as_it_takes_at_once_is_late_until_it_has_them_all(
        self, plane: Plane, somebody: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        consumer = plane.heartbeats()
        batches: list[tuple[int, bool]] = []
        end = consumer._end

        def note(batch: Any) -> None:
            end(batch)
            batches.append((len(batch), consumer._busy_since_s is None))

        monkeypatch.setattr("control_plane.messaging.ingest.MAX_BATCH", 3)
        monkeypatch.setattr(consumer, "_end", note)
        async with plane.session() as session:
            await session.declare(CONTROL_PLANE_TOPOLOGY)
        for number in range(20):
            await self.send(somebody, a_heartbeat(sequence=number + 1))
        async with plane.serving(consumer):
            await plane.recorded(hosts.HeartbeatReceived.KIND, number=20, log=HEARTBEAT_EVENT)
            await plane.counted("heartbeats_received", 20)

        assert all(is_through == (size < 3) for size, is_through in batches)

    # --- publishing

    async def test_the_publisher_tells_what_became_of_a_message(self, plane: Plane) -> None:
        async with plane.agent("web1") as web1, plane.serving(plane.publisher):
            await until(self.is_connected(plane.publisher))
            message = Message(exchange="sys_cmd_exchange", routing_key=command_key("nobody"), body=b"{}")

            assert await plane.publisher.publish(message) == Unroutable()
            assert web1.messages == []
            assert await plane.publisher.queue_exists(agent_queue("web1"))
            assert not await plane.publisher.queue_exists(agent_queue("nobody"))
            assert not plane.publisher.is_blocked

    @staticmethod
    def is_connected(publisher: Publisher) -> Any:
        async def is_connected() -> bool:
            return publisher.is_connected

        return is_connected

    async def test_without_a_session_nothing_is_sent(self, plane: Plane) -> None:
        message = Message(exchange="sys_cmd_exchange", routing_key=command_key("web1"), body=b"{}")
        assert not plane.publisher.is_connected
        with pytest.raises(TransportUnavailableError):
            await plane.publisher.publish(message)
        with pytest.raises(TransportUnavailableError):
            await plane.publisher.queue_exists(agent_queue("web1"))

        async with plane.serving(plane.publisher):
            await until(self.is_connected(plane.publisher))

        assert not plane.publisher.is_connected
        with pytest.raises(TransportUnavailableError):
            await plane.publisher.publish(message)


def _goes_away(plane: Plane) -> None:
    assert isinstance(plane.log, WeakLog)
    plane.log.is_away = True


def _comes_back(plane: Plane) -> None:
    assert isinstance(plane.log, WeakLog)
    plane.log.is_away = False


class _Raises:
    """A failpoint that raises instead of ending the process."""

    def __init__(self, name: str) -> None:
        self._name = name

    def hit(self, name: str) -> None:
        if name == self._name:
            raise RuntimeError(name)


class TestSqliteInProcess(IngestContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)

    @pytest.fixture
    def broker_in_process(self) -> InProcessBroker:
        return InProcessBroker()

    @pytest.fixture
    def transport(self, broker_in_process: InProcessBroker) -> Transport:
        return broker_in_process.transport()

    async def test_a_lost_session_is_opened_again_and_what_was_not_acknowledged_comes_again(
        self, plane: Plane, somebody: Session, broker_in_process: InProcessBroker
    ) -> None:
        consumer = plane.results()
        _goes_away(plane)
        async with plane.serving(consumer):
            await self.send(somebody, of_host("web1", a_result("t1", "web1")))
            await until(self.is_refused(plane, 1))
            broker_in_process.cut(f"control-plane {consumer.name}")
            _comes_back(plane)
            await plane.counted("results_received", 2)

        assert len(await plane.events(FINISHED)) == 1
        assert plane.counts["duplicates"] == 1

    async def test_another_session_that_takes_heartbeats_in_has_another_lease(
        self, plane: Plane, broker_in_process: InProcessBroker
    ) -> None:
        """So presence knows that between the two nobody was heard."""
        consumer = plane.heartbeats()
        async with plane.serving(consumer):
            await until(partial(plane.leases.held, HEARING))
            broker_in_process.cut(f"control-plane {consumer.name}")

            async def is_another() -> bool:
                return await plane.leases.held(HEARING) == 2

            await until(is_another)

    async def test_the_publisher_opens_another_session_when_it_has_lost_its_own(
        self, plane: Plane, broker_in_process: InProcessBroker
    ) -> None:
        async with plane.serving(plane.publisher):
            await until(self.is_connected(plane.publisher))
            first = plane.publisher._session
            broker_in_process.cut("control-plane publisher")

            async def is_another() -> bool:
                return plane.publisher.is_connected and plane.publisher._session is not first

            await until(is_another)


@pytest.mark.mysql
@pytest.mark.rabbitmq
class TestMysqlRabbitMQ(IngestContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url

    @pytest.fixture
    def transport(self, amqp_url: str) -> Transport:
        return RabbitTransport(amqp_url)

    async def test_a_broker_that_takes_nothing_is_noticed_though_there_is_nothing_to_publish(
        self, amqp_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody is told of an alarm but by the silence; and silence is what agents are judged by."""
        monkeypatch.setattr("control_plane.messaging.publisher.BLOCKED_AFTER_S", 0.2)
        monkeypatch.setattr("control_plane.messaging.publisher.PROBE_S", 0.05)
        stop = asyncio.Event()

        async def is_blocked() -> bool:
            return publisher.is_blocked

        async def is_not_blocked() -> bool:
            return publisher.is_connected and not publisher.is_blocked

        async with Link(amqp_url).open() as link, asyncio.TaskGroup() as group:
            publisher = Publisher(RabbitTransport(link.url))
            group.create_task(publisher.run(stop))
            await until(is_not_blocked)
            for _ in range(2):
                link.freeze()
                await until(is_blocked)
                link.thaw()
                await until(is_not_blocked)
            stop.set()
