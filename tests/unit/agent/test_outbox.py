"""Every result is sent until the broker has it, and never in two forms."""

import json
from dataclasses import dataclass, field

import pytest

from control_plane_agent.disk_thread import DiskThread
from control_plane_agent.identity import Identities
from control_plane_agent.journal import TOMBSTONE_S, Journal
from control_plane_agent.memory_disk import MemoryDisk
from control_plane_agent.outbox import Outbox
from control_plane_agent.slots import FINISHED_AT, Finished, encode
from control_plane_wire.failpoints import NO_FAILPOINTS
from control_plane_wire.transport.base import Confirmed, Message
from tests.support.agent import START_S, accept, an_identity, started
from tests.support.clock import ManualClock

REJECTED = Finished("rejected", START_S, reason="no")


@dataclass
class Sender:
    """An outbox over a journal in memory, and the session that takes what it sends."""

    disk: MemoryDisk = field(default_factory=MemoryDisk)
    taken: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal = Journal(self.disk, ManualClock())
        identities = Identities(self.disk, an_identity())
        self.outbox = Outbox(self.journal, DiskThread(is_blocking=False), identities, NO_FAILPOINTS)

    async def publish(self, message: Message) -> Confirmed:
        self.taken.append(message.body)
        return Confirmed()

    async def send(self, *task_ids: str) -> None:
        for task_id in task_ids:
            self.outbox.add_result(task_id)
        await self.outbox.send_all(self)  # type: ignore[arg-type]

    @property
    def task_ids(self) -> list[str]:
        return [json.loads(body)["task_id"] for body in self.taken]


@pytest.fixture
def sender() -> Sender:
    return Sender()


async def test_a_repeat_whose_tombstone_is_pruned_while_it_waits_is_not_sent_and_keeps_nothing_up(
    sender: Sender,
) -> None:
    accept(sender.journal, "old", finished=REJECTED)
    await sender.send("old")
    sender.outbox.add_result("old")
    accept(sender.journal, "new", timestamp=START_S + 7 * TOMBSTONE_S, finished=REJECTED)
    sender.journal.prune()

    await sender.send("new")

    assert sender.task_ids == ["old", "new"]


async def test_a_tombstone_that_is_pruned_while_its_repeat_is_sent_is_no_failure(sender: Sender) -> None:
    accept(sender.journal, "old", finished=REJECTED)
    await sender.send("old")
    accept(sender.journal, "new", timestamp=START_S + 7 * TOMBSTONE_S, finished=REJECTED)
    publish = sender.publish

    async def meanwhile(message: Message) -> Confirmed:
        sender.journal.prune()
        return await publish(message)

    sender.publish = meanwhile  # type: ignore[method-assign]
    await sender.send("old", "new")

    assert sender.task_ids == ["old", "old", "new"]


async def test_a_result_that_cannot_be_read_any_more_is_not_sent_again(sender: Sender) -> None:
    accept(sender.journal, finished=REJECTED)
    await sender.send("task-1")
    sender.disk.write_at("done/task-1/state", FINISHED_AT, b"CPSLOT1\nrubbish")

    await sender.send("task-1")

    assert sender.task_ids == ["task-1"]


async def test_a_result_whose_output_is_pruned_is_not_sent_again_without_it(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane_agent.journal.MAX_DONE_OUTPUT_BYTES", 1)
    accept(sender.journal)
    sender.disk.create("journal/task-1/stdout.head", b"xx")
    sender.disk.write_at("journal/task-1/state", 0, encode(started()))
    sender.disk.write_at(
        "journal/task-1/state", FINISHED_AT, encode(Finished("completed", START_S, exit_code=0, stdout_bytes=2))
    )
    await sender.send("task-1")
    await sender.send("task-1")
    sender.journal.prune()

    await sender.send("task-1")

    assert len(sender.taken) == 2
    assert len(set(sender.taken)) == 1
