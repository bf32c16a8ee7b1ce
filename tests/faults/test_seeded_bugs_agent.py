"""Bugs of an agent that other systems have had, put in by each test: the check that is named has to turn red.

Each scenario is first run on the agent as it is, where that check is green; so it is the bug that is seen, not the
scenario. None of this is in the product.
"""

import errno
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from control_plane_agent import executions as agent_executions
from control_plane_agent import outbox, session, supervisor
from control_plane_agent.errors import JournalError
from control_plane_agent.executions import Executions
from control_plane_agent.journal import LIVE, Journal
from control_plane_agent.results import result_of
from control_plane_agent.session import Agent
from control_plane_agent.slots import EMPTY, Finished, Started, encode
from control_plane_agent.supervisor import STATE
from control_plane_wire.messages import ALLOWED_SKEW_S, CommandMessage, ResultMessage
from tests.support.agent import START_S
from tests.support.crash_disk import CrashDisk
from tests.support.failing import DiesAt
from tests.support.faults.checks import Evidence, red
from tests.support.faults.one_host import OneHost

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]


# --- scenarios --------------------------------------------------------------------------------------------------------


async def a_disk_fails_once(host: OneHost, patch: Patch) -> None:
    fails = iter([True])
    create = CrashDisk.create

    def create_or_fail(disk: CrashDisk, path: str, data: bytes) -> None:
        if ".new-" in path and next(fails, False):
            raise OSError(errno.EIO, "Input/output error")
        create(disk, path, data)

    patch.setattr(CrashDisk, "create", create_or_fail)
    patch.setattr(session, "DISK_FULL_RETRY_S", 0)
    async with host.up():
        await host.send("t1")
        await host.send("t2")
        await host.answered("t2")


async def a_copy_comes_when_it_is_over(host: OneHost, patch: Patch) -> None:
    async with host.up():
        await host.send("t1")
        await host.answered("t1")
        await host.send("t1")
        await host.send("t2")
        await host.answered("t2")


async def a_copy_comes_after_a_restart(host: OneHost, patch: Patch) -> None:
    async with host.up():
        await host.send("t1")
        await host.answered("t1")
    host.disk = host.disk.after_crash()
    async with host.up():
        await host.send("t1")
        await host.send("t2")
        await host.answered("t2")


async def the_machine_dies_after_the_ack(host: OneHost, patch: Patch) -> None:
    await host.until_it_dies("t1", at=DiesAt("agent.acked"))
    async with host.up():
        await host.send("t2")
        await host.answered("t2")


async def the_machine_dies_while_it_runs(host: OneHost, patch: Patch) -> None:
    host.dies_in_run = True
    await host.until_it_dies("t1")
    host.dies_in_run = False
    async with host.up():
        await host.answered("t1")


async def the_machine_dies_when_the_result_is_out(host: OneHost, patch: Patch) -> None:
    await host.until_it_dies("t1", at=DiesAt("agent.confirmed"))
    host.clock.advance(5)
    async with host.up():
        await host.answered("t1", 2)


async def the_machine_dies_before_the_result_is_out(host: OneHost, patch: Patch) -> None:
    await host.until_it_dies("t1", at=DiesAt("agent.before_publish"))
    async with host.up():
        await host.answered("t1")


class Nobody:
    def refusal(self, command: CommandMessage) -> str | None:
        return "no account of that name"


async def a_copy_comes_of_what_was_refused(host: OneHost, patch: Patch) -> None:
    async with host.up(Nobody()):
        await host.send("t1")
        await host.answered("t1")
    async with host.up():
        await host.send("t1")
        await host.send("t2")
        await host.answered("t2")


async def a_late_copy_comes_while_it_runs(host: OneHost, patch: Patch) -> None:
    host.goes_on.clear()
    async with host.up():
        await host.send("t1", expires_at=START_S + 60)
        await host.end.until(lambda: host.ran)
        host.clock.advance(60 + ALLOWED_SKEW_S + 1)
        await host.send("t1", expires_at=START_S + 60)
        await host.end.until(lambda: host.end.said("t1", "accepted") or host.end.said("t1"))
        host.goes_on.set()
        await host.end.until(lambda: any(r["outcome"] == "completed" for r in host.end.said("t1")))


# --- bugs -------------------------------------------------------------------------------------------------------------


def ack_though_it_could_not_be_journalled(patch: Patch) -> None:
    """StackStorm's `finally: ack`."""
    take = Agent._command

    async def acks(agent: Agent, command: CommandMessage, body: bytes, route: str, to: Any) -> None:
        if agent._journal.find(command.task_id) is not None:
            await take(agent, command, body, route, to)
            return
        try:
            await agent._executions.accept(command, body, route)
        except JournalError:
            return

    patch.setattr(Agent, "_command", acks)


def no_look_at_what_is_known(patch: Patch) -> None:
    find = Journal.find
    patch.setattr(
        Journal, "find", lambda journal, task_id: where if (where := find(journal, task_id)) == LIVE else None
    )


def what_is_done_is_forgotten(patch: Patch) -> None:
    """The SSM agent after 30 minutes, Salt after 100 more."""
    retire = Journal.retire

    def forgets(journal: Journal, task_id: str, **given: Any) -> None:
        retire(journal, task_id, **given)
        if (place := journal._places.pop(task_id, None)) is not None:
            journal._disk.remove(f"{place}/{task_id}")

    patch.setattr(Journal, "retire", forgets)


def a_journal_in_memory(patch: Patch) -> None:
    patch.setattr(CrashDisk, "after_crash", lambda _disk, _choose=None: CrashDisk())


def no_fsync_of_an_entry(patch: Patch) -> None:
    """Choria, and the SSM agent."""
    patch.setattr(CrashDisk, "sync_dir", lambda _disk, _path: None)


def no_fsync_of_slot_0(patch: Patch) -> None:
    _without_fsync(patch, Started)


def no_fsync_of_slot_1(patch: Patch) -> None:
    _without_fsync(patch, Finished)


def _without_fsync(patch: Patch, kind: type) -> None:
    write = supervisor._write

    def writes(disk: Any, offset: int, slot: Started | Finished) -> None:
        if isinstance(slot, kind):
            disk.write_at(STATE, offset, encode(slot))
        else:
            write(disk, offset, slot)

    patch.setattr(supervisor, "_write", writes)


def run_again_until_the_result_is_delivered(patch: Patch) -> None:
    """Fleet's orbit, which keeps no record of what it ran."""
    load = Journal._load

    def loads(journal: Journal) -> None:
        load(journal)
        for task_id in journal.live():
            journal._disk.write_at(f"{LIVE}/{task_id}/{STATE}", 0, EMPTY)

    patch.setattr(Journal, "_load", loads)


def a_result_with_the_time_of_its_sending(patch: Patch) -> None:
    def rebuilt(journal: Journal, task_id: str) -> ResultMessage | None:
        result = result_of(journal, task_id)
        return None if result is None else replace(result, timestamp=journal._clock.now_s())

    patch.setattr(outbox, "result_of", rebuilt)


def a_refusal_that_is_not_journalled(patch: Patch) -> None:
    retire = Journal.retire

    def forgets(journal: Journal, task_id: str, **given: Any) -> None:
        finished = journal.read(task_id).state.finished
        retire(journal, task_id, **given)
        if finished is not None and finished.outcome == "rejected":
            journal._disk.remove(f"{journal._places.pop(task_id)}/{task_id}")

    patch.setattr(Journal, "retire", forgets)


def expiry_before_the_journal(patch: Patch) -> None:
    take = Agent._command

    async def looks_at_the_clock_first(agent: Agent, command: CommandMessage, body: bytes, route: str, to: Any) -> None:
        now_s = agent._clock.now_s()
        if command.expires_at is not None and now_s > command.expires_at + ALLOWED_SKEW_S:
            late = ResultMessage(
                task_id=command.task_id, exit_code=None, stdout="", stderr="", timestamp=now_s, outcome="expired"
            )
            await agent._outbox.send(to, late)
            return
        await take(agent, command, body, route, to)

    patch.setattr(Agent, "_command", looks_at_the_clock_first)


def slots_are_not_looked_at(patch: Patch) -> None:
    """Whatever has no result is run, as if a supervisor that died had never begun."""

    def runs(executions: Executions, entry: Any) -> None:
        return None

    patch.setattr(agent_executions.Executions, "_why_it_cannot_run", runs)


SEEDED: tuple[tuple[Bug, Callable[[OneHost, Patch], Any], set[str]], ...] = (
    (ack_though_it_could_not_be_journalled, a_disk_fails_once, {"I2", "I9"}),
    (no_look_at_what_is_known, a_copy_comes_when_it_is_over, {"I3"}),
    (what_is_done_is_forgotten, a_copy_comes_when_it_is_over, {"I3"}),
    (a_journal_in_memory, a_copy_comes_after_a_restart, {"I3"}),
    (no_fsync_of_an_entry, the_machine_dies_after_the_ack, {"I2", "I9"}),
    (no_fsync_of_slot_0, the_machine_dies_while_it_runs, {"I3"}),
    (no_fsync_of_slot_1, the_machine_dies_when_the_result_is_out, {"I10", "I13"}),
    (slots_are_not_looked_at, the_machine_dies_while_it_runs, {"I3"}),
    (run_again_until_the_result_is_delivered, the_machine_dies_before_the_result_is_out, {"I3"}),
    (a_result_with_the_time_of_its_sending, the_machine_dies_when_the_result_is_out, {"I13"}),
    (a_refusal_that_is_not_journalled, a_copy_comes_of_what_was_refused, {"I3"}),
    (expiry_before_the_journal, a_late_copy_comes_while_it_runs, {"I3", "I10", "I13"}),
)
SCENARIOS = tuple(dict.fromkeys(scenario for _, scenario, _ in SEEDED))


async def seen_of(scenario: Callable[[OneHost, Patch], Any], patch: Patch) -> Evidence:
    async with OneHost().seen() as host:
        await scenario(host, patch)
        return host.evidence()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_the_agent_as_it_is_breaks_nothing(scenario: Callable[[OneHost, Patch], Any], monkeypatch: Patch) -> None:
    assert red(await seen_of(scenario, monkeypatch)) == set()


@pytest.mark.parametrize(("bug", "scenario", "checks"), SEEDED, ids=lambda item: getattr(item, "__name__", ""))
async def test_a_bug_of_the_agent_turns_its_checks_red(
    bug: Bug, scenario: Callable[[OneHost, Patch], Any], checks: set[str], monkeypatch: Patch
) -> None:
    bug(monkeypatch)

    assert checks <= red(await seen_of(scenario, monkeypatch))
