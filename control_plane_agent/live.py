"""What running commands print, while they run: read from the files that their supervisors write, published in pieces.

It is a preview, since the result carries the whole. So nothing waits for a piece, and none is kept: what a command
prints beyond its budget, or while the broker has not taken the pieces before, is left out, and the next begins later.
"""

import asyncio
import codecs
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

from control_plane_agent.disk_thread import DiskThread
from control_plane_agent.executions import Executions
from control_plane_agent.identity import Identities
from control_plane_agent.journal import Journal
from control_plane_wire import messages, signing, topology
from control_plane_wire.clock import Clock
from control_plane_wire.errors import PublishUnconfirmedError, TransportUnavailableError
from control_plane_wire.output import MAX_PIECE_BYTES, STREAMS, OutputMessage, StreamName
from control_plane_wire.transport.base import Message, Session

LOOK_S: Final = 0.1
AFTER_S: Final = 0.15  # an execution that is over sooner costs nothing
BYTES_PER_S: Final = 128 * 1024  # of a stream; as much may come at once after a pause
LEAST_BYTES: Final = 4096  # of budget or room, below which it is better to wait for more
IN_FLIGHT_BYTES: Final = 256 * 1024  # of all streams, not confirmed by the broker yet
IN_FLIGHT: Final = 32
EXPIRES_S: Final = 3.0  # in a queue; what is older is no preview
UNTIL_LOST_S: Final = 86_400.0  # not sooner: what is not confirmed may still be on its way, and counts
HALF_CHARACTER_BYTES: Final = 3


class Piece(NamedTuple):
    """Attributes: `offset`: how many bytes of the stream come before it."""

    stream: StreamName
    offset: int
    data: bytes


class _Budget:
    """Attributes: `left`: how many bytes may be sent now."""

    def __init__(self, now_s: float) -> None:
        self.left = BYTES_PER_S
        self._since_s = now_s

    def refill(self, now_s: float) -> None:
        self.left = min(BYTES_PER_S, self.left + int((now_s - self._since_s) * BYTES_PER_S))
        self._since_s = now_s


class Preview:
    """How far one execution has been shown.

    Args:
        recent: of a stream, what is behind a place in it, at most so many bytes; see `output.recent`.
        now_s: on a clock that only goes forward.
    """

    def __init__(self, recent: Callable[[str, int, int], tuple[int, bytes]], now_s: float) -> None:
        self._recent = recent
        self._places: dict[StreamName, int] = dict.fromkeys(STREAMS, 0)
        self._held: dict[StreamName, bytes] = dict.fromkeys(STREAMS, b"")  # half a character, in case the rest comes
        self._budgets = {stream: _Budget(now_s) for stream in STREAMS}

    def next(self, *, room: int, now_s: float) -> Iterator[Piece]:
        """What has come since, at most `room` bytes of it; raises OSError."""
        for stream, budget in self._budgets.items():
            budget.refill(now_s)
            most = min(room, budget.left)
            if most < LEAST_BYTES:
                continue
            for piece in self._next(stream, most):
                budget.left -= len(piece.data)
                room -= len(piece.data)
                yield piece

    def _next(self, stream: StreamName, most: int) -> Iterator[Piece]:
        after = self._places[stream]
        start, data = self._recent(stream, after, most)
        if start > after:
            half = _half_start(data)
            start, data = start + half, data[half:]
        whole = whole_characters(data)
        if not whole and data == self._held[stream]:
            whole = data
        self._held[stream] = data[len(whole) :]
        self._places[stream] = start + len(whole)
        while whole:
            part = whole_characters(whole[:MAX_PIECE_BYTES]) or whole[:MAX_PIECE_BYTES]
            yield Piece(stream, start, part)
            start, whole = start + len(part), whole[len(part) :]


def whole_characters(data: bytes) -> bytes:
    """The bytes without the part of a character that they end with; all of them where they are no UTF-8."""
    try:
        _, length = codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError:
        return data
    return data[:length]


def _half_start(data: bytes) -> int:
    """How many bytes of a character stand at the start, whose beginning is missing."""
    count = 0
    while count < min(HALF_CHARACTER_BYTES, len(data)) and data[count] & 0b1100_0000 == 0b1000_0000:
        count += 1
    return count


class LiveOutput:
    """Lives as long as the agent, over all its sessions."""

    def __init__(
        self, executions: Executions, journal: Journal, disk: DiskThread, identities: Identities, clock: Clock
    ) -> None:
        self._executions = executions
        self._journal = journal
        self._disk = disk
        self._identities = identities
        self._clock = clock
        self._previews: dict[str, Preview] = {}
        self._in_flight: dict[int, int] = {}  # bytes of each piece

    async def keep_telling(self, session: Session) -> None:
        """Publish what running commands print, until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as sending:
            while True:
                await self._executions.until_at_work()
                await asyncio.sleep(LOOK_S)
                now_s = loop.time()
                due = [task_id for task_id, since in self._executions.at_work.items() if now_s - since >= AFTER_S]
                if not due:  # most commands are over before: they cost the disk's thread nothing
                    self._previews.clear()
                    continue
                for message in await self._disk.do(self._look, due, self._room, now_s):
                    sending.create_task(self._send(session, message), name="live output")

    @property
    def _room(self) -> int:
        return 0 if len(self._in_flight) >= IN_FLIGHT else IN_FLIGHT_BYTES - sum(self._in_flight.values())

    def _look(self, due: list[str], room: int, now_s: float) -> list[Message]:
        """The pieces that there are to send."""
        self._previews = {
            task_id: self._previews.get(task_id) or Preview(partial(self._journal.recent_output, task_id), now_s)
            for task_id in due
        }
        found: list[Message] = []
        for task_id, preview in self._previews.items():
            with contextlib.suppress(OSError):  # what cannot be read, its result will tell
                for piece in preview.next(room=room, now_s=now_s):
                    found.append(self._sealed(task_id, piece))
                    room -= len(piece.data)
        return found

    def _sealed(self, task_id: str, piece: Piece) -> Message:
        identity = self._identities.current
        message = OutputMessage.of(
            piece.data,
            task_id=task_id,
            hostname=identity.hostname,
            stream=piece.stream,
            offset=piece.offset,
            timestamp=self._clock.now_s(),
        )
        body = messages.seal(
            message.to_json(),
            identity.key,
            signing.OUTPUT,
            sender=identity.hostname,
            recipient=signing.CONTROL_PLANE,
        )
        return Message(
            exchange=topology.MONITOR_EXCHANGE,
            routing_key=topology.output_key(identity.hostname),
            body=body,
            persistent=False,
            expiration_s=EXPIRES_S,
        )

    async def _send(self, session: Session, message: Message) -> None:
        """Publish a piece, once; whether anybody wants it, and whether it arrives, is not our affair."""
        number = id(message)
        self._in_flight[number] = len(message.body)
        try:
            with contextlib.suppress(PublishUnconfirmedError, TransportUnavailableError):
                await session.publish(message, timeout_s=UNTIL_LOST_S)
        finally:
            del self._in_flight[number]
