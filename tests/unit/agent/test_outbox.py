"""Every result is sent until the broker has it, and never in two forms."""

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from control_plane_agent.disk_thread import DiskThread
from control_plane_agent.identity import Identities
from control_plane_agent.journal import TOMBSTONE_S, Journal
from control_plane_agent.memory_disk import MemoryDisk
from control_plane_agent.outbox import Outbox
from control_plane_agent.slots import FINISHED_AT, Finished, encode
from control_plane_wire.errors import TransportUnavailableError
from control_plane_wire.failpoints import NO_FAILPOINTS
from control_plane_wire.messages import ResultMessage, parse_result
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


def has_run(sender: Sender) -> None:
    """The journal has an execution that printed "xx"."""
    finished = Finished("completed", START_S, exit_code=0, stdout_bytes=2, stderr_bytes=0)
    accept(sender.journal)
    sender.disk.create("journal/task-1/stdout.head", b"xx")
    sender.disk.write_at("journal/task-1/state", 0, encode(started()))
    sender.disk.write_at("journal/task-1/state", FINISHED_AT, encode(finished))


@contextmanager
def broken_outputs(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def fails(work: Callable[[str], object]) -> Callable[[str], object]:
        def tried(path: str) -> object:
            if path.endswith(".head"):
                raise OSError(errno.EIO, "Input/output error")
            return work(path)

        return tried

    with monkeypatch.context() as broken:
        for name in ("read", "size"):
            broken.setattr(sender.disk, name, fails(getattr(sender.disk, name)))
        yield


async def test_a_result_whose_output_is_pruned_is_not_sent_again_without_it(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane_agent.journal.MAX_DONE_OUTPUT_BYTES", 1)
    has_run(sender)
    await sender.send("task-1")
    await sender.send("task-1")
    sender.journal.prune()

    await sender.send("task-1")

    assert len(sender.taken) == 2
    assert len(set(sender.taken)) == 1


async def test_an_output_that_cannot_be_read_is_said_to_be_lost_and_that_is_the_last_word(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_run(sender)
    with broken_outputs(sender, monkeypatch):
        await sender.send("task-1")
    await sender.send("task-1")

    [result] = map(json.loads, sender.taken)
    assert (result["outcome"], result["exit_code"], result["stdout"]) == ("completed", 0, "")
    assert (result["reason"], result["truncated"]) == ("output lost: Input/output error", True)
    assert isinstance(parse_result(result), ResultMessage)


async def test_a_result_whose_output_cannot_be_read_any_more_is_not_sent_again(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_run(sender)
    await sender.send("task-1")
    with broken_outputs(sender, monkeypatch):
        await sender.send("task-1")

    assert len(sender.taken) == 1


async def test_who_asks_for_a_result_while_it_is_sent_is_sent_one_more(sender: Sender) -> None:
    accept(sender.journal, finished=REJECTED)
    publish = sender.publish

    async def meanwhile(message: Message) -> Confirmed:
        sender.outbox.add_result("task-1")
        return await publish(message)

    sender.publish = meanwhile  # type: ignore[method-assign]
    await sender.send("task-1")
    sender.publish = publish  # type: ignore[method-assign]
    await sender.outbox.send_all(sender)  # type: ignore[arg-type]
    await sender.outbox.send_all(sender)  # type: ignore[arg-type]

    assert sender.task_ids == ["task-1", "task-1"]


async def test_a_result_that_could_not_be_sent_is_sent_by_the_next_session(sender: Sender) -> None:
    accept(sender.journal, finished=REJECTED)
    publish = sender.publish

    async def lost(_message: Message) -> Confirmed:
        raise TransportUnavailableError("gone")

    sender.publish = lost  # type: ignore[method-assign]
    with pytest.raises(TransportUnavailableError):
        await sender.send("task-1")
    sender.publish = publish  # type: ignore[method-assign]
    await sender.outbox.send_all(sender)  # type: ignore[arg-type]

    assert sender.task_ids == ["task-1"]
