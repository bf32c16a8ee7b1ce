"""What is shown of a running command: true bytes at true places, in bounded pieces, and nobody waits for them."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane_agent import live, output
from control_plane_agent.disk import RealDisk
from control_plane_agent.disk_thread import DiskThread
from control_plane_agent.identity import Identities
from control_plane_agent.journal import Journal
from control_plane_agent.live import LiveOutput, Piece, Preview, whole_characters
from control_plane_agent.memory_disk import MemoryDisk
from control_plane_agent.output import Capture, recent
from control_plane_wire import messages
from control_plane_wire.errors import TransportUnavailableError
from control_plane_wire.output import OutputMessage, parse_output
from control_plane_wire.signing import CONTROL_PLANE, OUTPUT
from control_plane_wire.transport.base import Confirmed, Message
from tests.support.agent import HOSTNAME, accept, an_identity
from tests.support.clock import ManualClock
from tests.support.fleet import host_key

HEAD, RING, READ, RATE, PIECE = 64, 256, 16, 100, 32


@contextlib.contextmanager
def small() -> Iterator[None]:
    """The same rules with sizes that a test can fill."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "HEAD_BYTES", HEAD)
        patch.setattr(output, "TAIL_BYTES", RING)
        patch.setattr(output, "KEPT_BYTES", HEAD + RING)
        patch.setattr(output, "READ_BYTES", READ)
        patch.setattr(live, "BYTES_PER_S", RATE)
        patch.setattr(live, "LEAST_BYTES", 8)
        patch.setattr(live, "MAX_PIECE_BYTES", PIECE)
        yield


class RacingDisk(RealDisk):
    """Lets the supervisor write on between two looks at a file."""

    meanwhile: Callable[[], None] | None = None

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        if self.meanwhile is not None:
            self.meanwhile()
        return super().read_at(path, offset, length)


class Untold(Capture):
    """A supervisor that is between writing into the ring and saying how far it has come."""

    is_told = True

    def _write(self, part: str, offset: int, data: bytes) -> None:
        if self.is_told or (part, offset) != ("tail", RING):
            super()._write(part, offset, data)


class Printing:
    """A stream that is being captured, and all that was fed."""

    def __init__(self, directory: str) -> None:
        self.disk = RacingDisk(directory)
        self.disk.make_dir("entry")
        self._directory = os.open(f"{directory}/entry", os.O_RDONLY | os.O_DIRECTORY)
        self.capture = Untold(self._directory, "stdout")
        self.fed = b""

    def feed(self, data: bytes, *, is_told: bool = True) -> None:
        self.capture.is_told = is_told
        for start in range(0, len(data), READ):
            self.capture.feed(data[start : start + READ])
        self.fed += data

    def close(self) -> None:
        self.disk.close()
        os.close(self._directory)
        for file in self.capture._files.values():
            os.close(file)


@contextlib.contextmanager
def printing() -> Iterator[Printing]:
    with tempfile.TemporaryDirectory() as directory, small():
        made = Printing(directory)
        yield made
        made.close()


CHUNKS = st.one_of(st.binary(max_size=3 * READ), st.text(max_size=READ).map(str.encode))


@settings(max_examples=200)
@given(st.lists(st.tuples(CHUNKS, CHUNKS, st.floats(0, 2), st.integers(0, 200)), max_size=40))
def test_every_piece_is_what_was_printed_at_its_place(steps: list[tuple[bytes, bytes, float, int]]) -> None:
    with printing() as stream:
        preview = Preview(partial(recent, stream.disk, "entry"), 0.0)
        now_s, place, sent = 0.0, 0, 0
        for before, during, pause_s, room in steps:
            stream.feed(before)
            stream.disk.meanwhile = partial(stream.feed, during)
            now_s += pause_s
            for piece in preview.next(room=room, now_s=now_s):
                assert piece.offset >= place
                assert stream.fed[piece.offset : piece.offset + len(piece.data)] == piece.data
                assert len(piece.data) <= min(PIECE, room)
                place = piece.offset + len(piece.data)
                sent += len(piece.data)
            stream.disk.meanwhile = None
        assert sent <= RATE * (1 + now_s)


@settings(max_examples=100)
@given(st.binary(max_size=READ), st.integers(0, 3 * RING), st.integers(1, RING - 2 * READ))
def test_what_is_being_overwritten_is_left_out(news: bytes, fed: int, most: int) -> None:
    with printing() as stream:
        stream.feed(bytes(n % 251 for n in range(fed)))
        stream.disk.meanwhile = partial(stream.feed, news, is_told=False)  # it has no more than one read under way
        size = len(stream.fed)
        start, data = recent(stream.disk, "entry", "stdout", max(0, size - 5), most)

    assert stream.fed[start : start + len(data)] == data


@settings(max_examples=100)
@given(st.lists(st.text(min_size=1, max_size=10), max_size=60))
def test_what_is_within_the_budget_is_shown_whole_and_as_text(texts: list[str]) -> None:
    with printing() as stream:
        preview = Preview(partial(recent, stream.disk, "entry"), 0.0)
        shown = b""
        for number, text in enumerate(texts):
            data = text.encode()
            for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                stream.feed(half)
                for piece in preview.next(room=10_000, now_s=float(number)):
                    assert piece.offset == len(shown)
                    assert piece.data.decode()
                    shown += piece.data

    assert shown == "".join(texts).encode()


def pieces(read: Callable[[str, int, int], tuple[int, bytes]], looks: int = 1) -> list[Piece]:
    preview = Preview(read, 0.0)
    return [piece for look in range(looks) for piece in preview.next(room=10**9, now_s=float(look))]


def test_who_prints_too_much_is_shown_the_newest_of_it() -> None:
    with printing() as stream:
        stream.feed(bytes(n % 251 for n in range(10_000)))
        [*_, last] = found = pieces(partial(recent, stream.disk, "entry"))

    assert (found[0].offset, last.offset + len(last.data)) == (10_000 - RATE, 10_000)


@pytest.mark.parametrize("size", [b"\xff" * 8, bytes(8), (2**53).to_bytes(8, "big")])
def test_a_size_that_is_damaged_on_the_disk_shows_nothing_until_it_is_written_anew(size: bytes) -> None:
    """Shown as a piece it would end the agent: no message can name a place so far on."""
    with printing() as stream:
        stream.feed(bytes(n % 251 for n in range(10_000)))
        stream.disk.write_at("entry/stdout.tail", RING, size)
        preview = Preview(partial(recent, stream.disk, "entry"), 0.0)
        assert list(preview.next(room=10**9, now_s=0.0)) == []

        stream.feed(b"more")
        assert next(preview.next(room=10**9, now_s=0.0)).offset == 10_004 - RATE


def test_half_a_character_waits_for_its_other_half_and_no_longer_than_a_look() -> None:
    with printing() as stream:
        stream.feed("a€".encode()[:2])
        [first, second] = pieces(partial(recent, stream.disk, "entry"), looks=3)

    assert (first.data, second) == (b"a", Piece("stdout", 1, "€".encode()[:1]))


def test_a_character_whose_start_was_left_out_is_left_out() -> None:
    def read(stream: str, after: int, most: int) -> tuple[int, bytes]:
        return (100, "€x".encode()[1:]) if stream == "stderr" and not after else (after, b"")

    assert pieces(read) == [Piece("stderr", 102, b"x")]


def test_a_flood_on_one_stream_leaves_the_other_its_own() -> None:
    def read(stream: str, after: int, most: int) -> tuple[int, bytes]:
        return after, b"x" * (most if stream == "stdout" else 1)

    found = pieces(read, looks=5)

    assert sum(piece.stream == "stderr" for piece in found) == 5


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"", b""),
        (b"abc", b"abc"),
        ("é€".encode(), "é€".encode()),
        ("é€".encode()[:-1], "é".encode()),
        (b"\xff", b"\xff"),
        (b"a\xff", b"a\xff"),
        (b"\xc3\xff", b"\xc3\xff"),
        (b"\x80", b"\x80"),
    ],
)
def test_only_what_may_still_become_a_character_is_held_back(data: bytes, whole: bytes) -> None:
    assert whole_characters(data) == whole


# --- on its way


@dataclass
class Working:
    """Executions of which one is at work."""

    at_work: dict[str, float] = field(default_factory=lambda: {"task-1": -1.0})

    async def until_at_work(self) -> None:
        while not self.at_work:
            await asyncio.sleep(0)


@dataclass
class Broker:
    """A session that confirms when it is let."""

    confirms: asyncio.Event = field(default_factory=asyncio.Event)
    taken: list[Message] = field(default_factory=list)
    is_lost: bool = False

    async def publish(self, message: Message, *, timeout_s: float) -> Confirmed:
        if self.is_lost:
            raise TransportUnavailableError("lost")
        self.taken.append(message)
        await self.confirms.wait()
        return Confirmed()

    @property
    def pieces(self) -> list[OutputMessage]:
        found = []
        for message in self.taken:
            signed = messages.decode(message.body, max_bytes=messages.MAX_OUTPUT_BYTES, tag=OUTPUT)
            signed.verify(host_key(HOSTNAME).public_key, OUTPUT, sender=HOSTNAME, recipient=CONTROL_PLANE)
            found.append(parse_output(signed.message))
        return found


class Host:
    """A host one of whose commands prints whatever is put into its file."""

    def __init__(self) -> None:
        self.disk, self.working, self.broker = MemoryDisk(), Working(), Broker()
        journal = Journal(self.disk, ManualClock())
        accept(journal)
        self.live = LiveOutput(
            self.working,  # type: ignore[arg-type]
            journal,
            DiskThread(is_blocking=False),
            Identities(self.disk, an_identity()),
            ManualClock(),
        )

    def prints(self, data: bytes) -> None:
        with contextlib.suppress(FileExistsError):
            self.disk.create("journal/task-1/stdout.head", b"")
        self.disk.write_at("journal/task-1/stdout.head", self.disk.size("journal/task-1/stdout.head"), data)

    @contextlib.asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self.live.keep_telling(self.broker))  # type: ignore[arg-type]
            yield
            telling.cancel()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(live, "LOOK_S", 0.0)
    return Host()


async def test_a_piece_is_signed_transient_and_gone_soon(host: Host) -> None:
    host.prints(b"one\n\xff")
    async with host.telling():
        await host.until(lambda: host.broker.taken)

    [message], [piece] = host.broker.taken, host.broker.pieces
    assert (message.exchange, message.routing_key) == ("sys_monitor_exchange", f"output.node.{HOSTNAME}")
    assert (message.persistent, message.expiration_s) == (False, live.EXPIRES_S)
    assert (piece.task_id, piece.hostname, piece.stream, piece.offset) == ("task-1", HOSTNAME, "stdout", 0)
    assert piece.raw == b"one\n\xff"


async def test_while_the_broker_takes_nothing_pieces_are_left_out_and_none_is_kept(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "IN_FLIGHT", 3)
    async with host.telling():
        for number in range(10):
            host.prints(b"%d" % number * 1000)
            await host.until(lambda number=number: len(host.broker.taken) >= min(number + 1, 3))
            for _ in range(20):
                await asyncio.sleep(0)
        assert len(host.broker.taken) == 3
        host.broker.confirms.set()
        await host.until(lambda: len(host.broker.taken) > 3)

    assert [piece.offset for piece in host.broker.pieces] == [0, 1000, 2000, 3000]
    assert host.broker.pieces[-1].raw.endswith(b"9")


async def test_a_command_that_is_over_soon_costs_the_disk_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def look(*_: object) -> list[Message]:
        nonlocal looks
        looks += 1
        return []

    monkeypatch.setattr(host.live, "_look", look)
    host.working.at_work = {"task-1": asyncio.get_running_loop().time() + 3600}
    async with host.telling():
        for _ in range(50):
            await asyncio.sleep(0)
        assert not looks
        host.working.at_work = {"task-1": -1.0}
        await host.until(lambda: looks)


async def test_a_lost_session_is_others_to_tell_and_the_next_one_goes_on(host: Host) -> None:
    host.broker.is_lost = True
    host.prints(b"lost")
    async with host.telling():
        await host.until(lambda: host.live._previews and not host.live._in_flight)
        for _ in range(20):
            await asyncio.sleep(0)
    host.broker.is_lost = False
    host.prints(b"heard")
    async with host.telling():
        await host.until(lambda: host.broker.taken)

    assert [(piece.offset, piece.raw) for piece in host.broker.pieces] == [(4, b"heard")]


async def test_a_command_that_is_over_at_once_costs_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "AFTER_S", 3600.0)
    host.working.at_work["task-1"] = asyncio.get_running_loop().time()
    looked = []
    monkeypatch.setattr(Journal, "recent_output", lambda *_: looked.append(1) or (0, b""))
    host.prints(b"quick")
    async with host.telling():
        for _ in range(100):
            await asyncio.sleep(0)
        assert not looked
        host.working.at_work["task-1"] -= 3600
        await host.until(lambda: looked)

    assert host.broker.taken == []


async def test_what_cannot_be_read_is_no_reason_to_end(host: Host) -> None:
    host.disk.remove("journal/task-1")
    async with host.telling():
        await host.until(lambda: host.live._previews)
        for _ in range(20):
            await asyncio.sleep(0)

    assert host.broker.taken == []
