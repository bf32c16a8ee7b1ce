"""Bugs of a control plane that other systems have had: each turns the checks red that are named.

Real log, real read tables and real processes, in one process; the hosts are ends of the wire that note what they get.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from control_plane.commands.targets import Group
from control_plane.errors import DuplicateKeyError, StorageUnavailableError
from control_plane.events import batch, registry, tasks
from control_plane.events.envelope import EVENT, Conflict, Duplicate, Key, NewEvent, Outcome
from control_plane.processes import authorised, dispatch
from control_plane.processes.open_executions import OpenExecutions
from control_plane.processes.routes import FanOut
from control_plane.projections import tasks as task_table
from control_plane.projections.folding import Folding, apply, create_tables
from control_plane.projections.projector import Projector
from control_plane.projections.rows import Rows
from control_plane.storage.sqlite import SqliteDialect
from control_plane_wire import topology
from control_plane_wire.failpoints import Failpoints
from control_plane_wire.messages import ALLOWED_SKEW_S
from control_plane_wire.transport.base import Confirmed, Message, Unroutable
from control_plane_wire.transport.inprocess import InProcessBroker
from control_plane_wire.transport.rabbitmq import RabbitTransport, _Session
from tests.support.events import a_task_accepted
from tests.support.failing import DiesAt
from tests.support.faults.checks import Evidence, Execution, red
from tests.support.faults.seen import Seen, a_seen_plane
from tests.support.history import Counting
from tests.support.plane import AgentEnd, a_result, of_host, until

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]


@pytest.fixture
async def seen(tmp_path: Path) -> AsyncIterator[Seen]:
    async with a_seen_plane(tmp_path) as made:
        yield made


# --- scenarios --------------------------------------------------------------------------------------------------------


async def a_result_comes_after_the_end_was_said(seen: Seen) -> None:
    plane = seen.plane
    seen.ran = {"web1": ["t1"]}
    async with plane.serving(plane.results()):
        await seen.asks("t1", "web1", expires_in=60)
        plane.clock.advance(100_000)
        await plane.shown()
        assert await plane.deadlines().decide() == 1
        await seen.answers("t1", "web1")
        await plane.recorded(tasks.ExecutionFinished.KIND, tasks.ExecutionLateResult.KIND)


async def a_dispatch_dies_with_what_it_has_published(seen: Seen) -> None:
    plane = seen.plane
    plane.passed = DiesAt("dispatch.after_publish", asyncio.CancelledError)  # type: ignore[assignment]
    async with plane.agent("web1") as web1, plane.dispatching():
        seen.agents.append(web1)
        await seen.asks("t1", "web1", expires_in=60)
        await web1.received()
    await plane.crash()
    await plane.shown()
    plane.clock.advance(60 + ALLOWED_SKEW_S + 1)
    await plane.deadlines().decide()
    plane.clock.advance(100_000)
    await plane.deadlines().decide()


async def an_agent_dies_before_it_has_read_its_queue(seen: Seen) -> None:
    plane = seen.plane
    async with plane.serving(plane.results()), plane.dispatching():
        async with plane.transport.connect("agent web1") as session:
            await session.declare(topology.agent_topology("web1", ()))
            await plane.comes_online("web1")
            await seen.asks("t1", "web1")
            await plane.recorded(tasks.ExecutionSent.KIND)
        async with plane.agent("web1") as web1:
            seen.agents.append(web1)
            await plane.comes_online("web1", 2, boot_id="b2")
            await seen.asks("t2", "web1")
            await until(lambda: _has(web1, "t2"))
            for task_id in web1.task_ids():
                await seen.answers(task_id, "web1")
            await plane.recorded(tasks.ExecutionFinished.KIND, number=len(web1.task_ids()))


async def _has(agent: AgentEnd, task_id: str) -> bool:
    return task_id in agent.task_ids()


async def somebody_has_bound_a_group_that_is_not_in_it(seen: Seen) -> None:
    plane = seen.plane
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(plane.serving(plane.results()))
        for hostname in ("web1", "web2", "db1"):
            seen.agents.append(await stack.enter_async_context(plane.agent(hostname, "web")))
        await stack.enter_async_context(plane.dispatching())
        for agent in seen.agents:
            await plane.comes_online(agent.hostname, groups=["web"])
        await seen.asks("t1", target=Group("web"))
        for agent in seen.agents[:2]:
            await until(partial(_has, agent, "t1"))
            await seen.answers("t1", agent.hostname)
        await plane.recorded(tasks.ExecutionFinished.KIND, number=2)


async def one_host_of_two_is_never_reached(seen: Seen) -> None:
    plane = seen.plane
    seen.ran = {"web1": ["t1"]}
    async with plane.serving(plane.results()):
        await seen.asks("t1", "web1", "web2", expires_in=60)
        await seen.answers("t1", "web1")
        await plane.recorded(tasks.ExecutionFinished.KIND)
    await plane.shown()
    plane.clock.advance(100_000)
    assert await plane.deadlines().decide() == 1


async def somebody_writes_a_task_into_the_database(seen: Seen) -> None:
    plane = seen.plane
    async with plane.serving(plane.results()), plane.agent("web1") as web1, plane.dispatching():
        seen.agents.append(web1)
        await plane.log.append([a_task_accepted("forged", ("web1",), command="rm -rf /").to_new_event(actor="ada")])
        await seen.asks("t1", "web1")
        await until(lambda: _has(web1, "t1"))
        await seen.answers("t1", "web1")
        await plane.recorded(tasks.ExecutionFinished.KIND)


async def the_end_of_an_execution_is_said_twice(seen: Seen) -> None:
    """Deadlines die after their append, and the next ones decide on a table that has not seen it."""
    plane = seen.plane
    await seen.asks("t1", "web1", expires_in=60)
    await plane.shown()
    plane.clock.advance(100_000)
    overdue = await plane.task_queries.overdue(plane.clock.now_s(), limit=10)
    outcomes: list[Outcome] = []
    append = plane.log.append

    async def noted(events: Any) -> list[Outcome]:
        outcomes.extend(await append(events))
        return outcomes[-len(events) :]

    async def as_before(*_: Any, **__: Any) -> Any:
        return overdue

    plane.log.append = noted  # type: ignore[method-assign]
    plane.task_queries.overdue = as_before  # type: ignore[method-assign]
    for _ in range(2):
        await plane.deadlines().decide()
        plane.clock.advance(5)
    seen.conflicts = sum(isinstance(outcome, Conflict) for outcome in outcomes)


async def the_same_name_is_asked_for_twice(seen: Seen) -> None:
    """Two requests by one task_id, of which the second is another one, and two task_ids that differ in case."""
    plane = seen.plane
    await _accepts(seen, "t1", a_task_accepted("t1", ("web1",)).to_new_event())
    await _accepts(seen, "t1", a_task_accepted("t1", ("web1",)).to_new_event(), digest=b"\1" * 32)
    await _accepts(seen, "T1", a_task_accepted("T1", ("web1",)).to_new_event())
    for task_id in ("t1", "T1"):
        await plane.record(tasks.ExecutionSkipped(task_id=task_id, hostname="web1", reason="a test"))


async def _accepts(seen: Seen, task_id: str, new: NewEvent, **changes: Any) -> None:
    """What the API makes of the log's answer: an acknowledgement, or 409."""
    [outcome] = await seen.plane.log.append([replace(new, **changes)])
    is_repeat = task_id in seen.book.acknowledged
    status = 409 if isinstance(outcome, Conflict) else 200 if isinstance(outcome, Duplicate) else 202
    if is_repeat:
        seen.book.repeats.setdefault(task_id, []).append(("body", status))
    elif status != 409:
        seen.book.attempts[task_id] = ""
        seen.book.acknowledged.add(task_id)


async def a_projector_loses_the_database_for_a_moment(seen: Seen) -> None:
    """Between the rows and the end of their transaction, and it starts over."""
    plane = seen.plane
    seen.projections.append(Counting)
    failures = iter([True])

    class Loses(Failpoints):
        def hit(self, name: str) -> None:
            if name == "projector.before_commit" and next(failures, False):
                raise StorageUnavailableError("lost connection")

    await create_tables(plane.database, Counting())
    await seen.asks("t1", "web1")
    await plane.record(tasks.ExecutionSkipped(task_id="t1", hostname="web1", reason="a test"))
    head = (await plane.log.head(EVENT)).seq

    async def has_caught_up() -> bool:
        return (await plane.hub.position(Counting.name)).event >= head

    projector = Projector(Counting(), plane.database, plane.log, plane.leases, plane.hub, failpoints=Loses())
    async with plane.serving(projector):
        await until(has_caught_up)


# --- bugs -------------------------------------------------------------------------------------------------------------


def lost_has_a_key_of_its_own(patch: Patch) -> None:
    patch.setattr(tasks.ExecutionLost, "key", lambda event: Key(event.task_id, event.KIND, event.hostname))


def silence_is_taken_for_a_return(patch: Patch) -> None:
    """`expired` after a takeover, without a record of what came back."""
    patch.setattr(tasks.Delivery, "certainly_not", property(lambda delivery: not delivery.may_have_arrived))
    patch.setattr(task_table, "_deadline_s", lambda row, task: tasks.last_start_s(task["expires_at"]))


def sent_is_taken_for_delivered(patch: Patch) -> None:
    note = OpenExecutions.note

    def closes(opened: OpenExecutions, event: Any) -> None:
        note(opened, event)
        if isinstance(event, tasks.ExecutionSent) and (due := opened.due.get((event.task_id, event.hostname))):
            due.answered = True

    patch.setattr(OpenExecutions, "note", closes)


def one_message_for_whoever_has_bound_the_group(patch: Patch) -> None:
    patch.setattr(dispatch, "members_of", lambda *_, **__: ["web1", "web2"])
    patch.setattr(dispatch, "fan_out", lambda *_: FanOut(topology.group_key("web")))


def authorisations_are_not_verified(patch: Patch) -> None:
    patch.setattr(authorised, "verify_authorisation", lambda stored, _keys: registry.decode(stored))


def the_time_is_in_what_a_process_says(patch: Patch) -> None:
    times = iter(range(100))
    make = tasks.ExecutionLost.to_new_event

    def made(event: tasks.ExecutionLost, **given: Any) -> NewEvent:
        return make(replace(event, reason=f"{event.reason}, said at {next(times)}"), **given)

    patch.setattr(tasks.ExecutionLost, "to_new_event", made)


def insert_ignore(patch: Patch) -> None:
    """A key that is there already is passed over, and the event is written all the same."""
    insert = SqliteDialect.bulk_insert

    async def ignores(dialect: SqliteDialect, connection: Any, table: Any, rows: Any) -> None:
        if table.name == "event_key":
            for row in rows:
                with contextlib.suppress(DuplicateKeyError):
                    await insert(dialect, connection, table, [row])
            return
        await insert(dialect, connection, table, rows)

    async def nobody(*_: Any) -> list[Any]:
        return []

    patch.setattr(SqliteDialect, "bulk_insert", ignores)
    patch.setattr(SqliteDialect, "find_keys", nobody)


def keys_that_ignore_case(patch: Patch) -> None:
    exact = batch.key_bytes

    def folded(key: Key) -> Any:
        return tuple(part.lower() for part in exact(key))

    patch.setattr(batch, "key_bytes", folded)


def one_success_is_success(patch: Patch) -> None:
    """The SSM agent's command of which some targets were never delivered to."""
    patch.setattr(task_table, "_outcome", lambda row: "succeeded" if "succeeded" in row["counts"] else "failed")


def a_position_apart_from_its_rows(patch: Patch) -> None:
    """prooph: the rows are committed, and then where they stand."""

    async def fold(folding: Folding, found: Any, _poison: Any) -> None:
        rows = Rows(folding._connection, folding._database.dialect, folding._remembered)
        async with folding._database.write(folding._connection):
            await rows.load(folding._projection.touched(found.events))
            apply(folding._projection, rows, found.events)
            await rows.flush()
        folding._failpoints.hit("projector.before_commit")
        async with folding._database.write(folding._connection) as connection:
            await folding._move(connection, found.upto)
        folding._saved = folding.position = found.upto

    patch.setattr(Folding, "_fold", fold)


SEEDED: tuple[tuple[Bug, Callable[[Seen], Any], set[str]], ...] = (
    (lost_has_a_key_of_its_own, a_result_comes_after_the_end_was_said, {"I2"}),
    (silence_is_taken_for_a_return, a_dispatch_dies_with_what_it_has_published, {"I3"}),
    (sent_is_taken_for_delivered, an_agent_dies_before_it_has_read_its_queue, {"I9"}),
    (one_message_for_whoever_has_bound_the_group, somebody_has_bound_a_group_that_is_not_in_it, {"I8"}),
    (authorisations_are_not_verified, somebody_writes_a_task_into_the_database, {"I8"}),
    (the_time_is_in_what_a_process_says, the_end_of_an_execution_is_said_twice, {"I13"}),
    (insert_ignore, the_same_name_is_asked_for_twice, {"I1", "I12"}),
    (keys_that_ignore_case, the_same_name_is_asked_for_twice, {"I1"}),
    (one_success_is_success, one_host_of_two_is_never_reached, {"I2"}),
    (a_position_apart_from_its_rows, a_projector_loses_the_database_for_a_moment, {"I6"}),
)


@pytest.mark.parametrize(("bug", "scenario", "checks"), SEEDED, ids=lambda item: getattr(item, "__name__", ""))
@pytest.mark.parametrize("is_there", [False, True], ids=["as it is", "with the bug"])
async def test_a_bug_of_the_control_plane_turns_its_checks_red(
    seen: Seen, bug: Bug, scenario: Callable[[Seen], Any], checks: set[str], is_there: bool, monkeypatch: Patch
) -> None:
    if is_there:
        bug(monkeypatch)
    await scenario(seen)

    assert red(await seen.evidence()) & checks == (checks if is_there else set())


# --- the wire ---------------------------------------------------------------------------------------------------------


def told_by(states: Mapping[str, str]) -> Evidence:
    """Executions on hosts that are not there, as a control plane that believes the broker's answers has them."""
    return Evidence(executions={(task_id, "gone1"): Execution(state) for task_id, state in states.items()})


@pytest.mark.rabbitmq
@pytest.mark.parametrize("is_there", [False, True], ids=["as it is", "one message_id for all"])
async def test_publishes_that_share_a_message_id(amqp_url: str, is_there: bool, monkeypatch: Patch) -> None:
    """What came back is taken for what was delivered, and then nobody publishes it again."""
    if is_there:
        make = _Session._properties

        def same(session: Any, message: Message, number: int) -> Any:
            properties = make(session, message, number)
            properties.message_id = "the same"
            return properties

        monkeypatch.setattr(_Session, "_properties", same)
    async with RabbitTransport(amqp_url).connect("somebody") as session:
        await session.declare(topology.CONTROL_PLANE_TOPOLOGY)
        keys = [topology.RESULT_QUEUE, "nobody has this queue"] * 50
        told = await asyncio.gather(
            *(session.publish(Message(exchange="", routing_key=key, body=b"x")) for key in keys)
        )

    states = {f"t{at}": "expired" if told[at] == Unroutable() else "sent" for at in range(1, len(keys), 2)}
    assert red(told_by(states)) == ({"I9"} if is_there else set())


@pytest.mark.parametrize("key", ["result.#", "result.node.*"])
async def test_a_binding_that_has_no_place_for_a_dot_in_a_hostname(key: str) -> None:
    declared = replace(
        topology.CONTROL_PLANE_TOPOLOGY,
        bindings=(topology.Binding(queue=topology.RESULT_QUEUE, exchange=topology.RESULT_EXCHANGE, routing_key=key),),
    )
    async with InProcessBroker().transport().connect("somebody") as session:
        await session.declare(declared)
        outcome = await session.publish(of_host("web1.example.com", a_result("t1", "web1.example.com")))

    assert red(told_by({"t1": "succeeded" if outcome == Confirmed() else "sent"})) == (
        {"I9"} if key == "result.node.*" else set()
    )
