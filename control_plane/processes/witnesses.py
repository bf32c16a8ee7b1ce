"""Every agent is a witness: it keeps the newest checkpoint that it was told, and its heartbeats bring that back.

Whatever they bring back has to be of ours, and of the log as it is. A database that came back without its tail, or was
rewritten with all that is beside it, does not fit what the hosts remember.
"""

import heapq
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from control_plane.errors import LogDamagedError
from control_plane.events import registry
from control_plane.events.checkpoints import Checkpoints
from control_plane.events.envelope import EVENT, StoredEvent
from control_plane.events.hosts import CheckpointDisputed, HeartbeatReceived
from control_plane.events.log import EventLog
from control_plane.events.tiles import StoredTree
from control_plane.observability import Count
from control_plane_wire.checkpoints import parse
from control_plane_wire.errors import MalformedMessageError, WireError

FIELD: Final = b'"checkpoint":"'  # as canonical JSON has it; within a text its quotes would be escaped
REMEMBERED: Final = 1000
EVERY_S: Final = 3600
APART_S: Final = 0.1  # between two hosts, after a restart
NOTHING_YET_S: Final = 15.0  # until it is looked again whether there is a checkpoint to tell

_logger = logging.getLogger(__name__)


class Rounds:
    """When each host is to be told the newest checkpoint: as it comes online, and then once an hour.

    Args:
        checkpoint: the newest one, None where there is none yet; without it nobody is ever told.
    """

    def __init__(self, checkpoint: Callable[[], Awaitable[str | None]] | None = None) -> None:
        self._checkpoint = checkpoint
        self._next_s: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def restart(self, hostnames: Iterable[str], now_s: float) -> None:
        """Somebody else has told these, who knows when: they are due soon, but not all at once."""
        self._next_s, self._heap = {}, []
        names = sorted(hostnames)
        for place, hostname in enumerate(names):
            self._put(hostname, now_s + place * min(APART_S, EVERY_S / len(names)))

    def online(self, hostname: str, now_s: float) -> None:
        self._put(hostname, now_s)

    def told(self, hostname: str, now_s: float) -> None:
        self._put(hostname, now_s + EVERY_S)

    async def go(self, now_s: float, to_configure: dict[str, int], *, seq: int) -> str | None:
        """Count whoever is due among the hosts to configure, each with the event for which it is; the checkpoint.

        Nobody of them is due again until it was told, or has come online.
        """
        due = self._due(now_s)
        if self._checkpoint is None or not (due or to_configure):
            return None
        note = await self._checkpoint()
        for hostname in due:
            if note is None:
                self._put(hostname, now_s + NOTHING_YET_S)
            else:
                to_configure.setdefault(hostname, seq)
        return note

    def _put(self, hostname: str, at_s: float) -> None:
        self._next_s[hostname] = at_s
        heapq.heappush(self._heap, (at_s, hostname))

    def _due(self, now_s: float) -> list[str]:
        found = []
        while self._heap and self._heap[0][0] <= now_s:
            at_s, hostname = heapq.heappop(self._heap)
            if self._next_s.get(hostname) == at_s:  # else it was put at another time since
                del self._next_s[hostname]
                found.append(hostname)
        return found


class Witnesses:
    """Compares what heartbeats bring back with the log.

    Args:
        tree: of the event log, as the database has it.

    Attributes:
        kept: over how many events the newest checkpoint was that each host has brought back, of those that fit.
    """

    def __init__(self, log: EventLog, tree: StoredTree, checkpoints: Checkpoints, *, count: Count) -> None:
        self._log = log
        self._tree = tree
        self._checkpoints = checkpoints
        self._count = count
        self._fitting: OrderedDict[bytes, int] = OrderedDict()  # hosts bring back the same few, again and again
        self.kept: dict[str, int] = {}
        self._disputed: set[str] = set()  # one event a host: it may send another note each time

    async def hear(self, heartbeats: Sequence[StoredEvent]) -> None:
        """Record a dispute for each host whose checkpoint does not fit.

        Raises:
            StorageUnavailableError: the same again.
        """
        for stored in heartbeats:
            _, found, rest = stored.body.partition(FIELD)
            text = rest.partition(b'"')[0]
            if not found:
                continue
            if text not in self._fitting:
                await self._compare(stored, text)
            if (size := self._fitting.get(text)) is not None and stored.hostname is not None:
                self.kept[stored.hostname] = max(size, self.kept.get(stored.hostname, 0))

    async def _compare(self, stored: StoredEvent, text: bytes) -> None:
        try:
            event = registry.decode(stored)
        except MalformedMessageError:
            return
        note = event.message.get("checkpoint") if isinstance(event, HeartbeatReceived) else None
        if not isinstance(note, str) or not isinstance(event, HeartbeatReceived):
            return
        reason = await self._misfit(note)
        if reason is None:
            self._fitting[text] = parse(note).size
            while len(self._fitting) > REMEMBERED:
                self._fitting.popitem(last=False)
            return
        self._count("checkpoints_disputed", 1)
        if event.hostname not in self._disputed:
            disputed = CheckpointDisputed(hostname=event.hostname, checkpoint=note, reason=reason)
            await self._log.append([disputed.to_new_event(actor="checkpoints")])
            self._disputed.add(event.hostname)
            _logger.error("a host's checkpoint does not fit", extra={"hostname": event.hostname, "reason": reason})

    async def _misfit(self, note: str) -> str | None:
        """Why a checkpoint cannot be of this log, None where it is."""
        try:
            signed = self._checkpoints.opened(EVENT, note)
            head = await self._log.head(EVENT)
            if head.seq < signed.size:
                return f"it was signed over {signed.size} events, and the log has {head.seq}"
            tree = await self._tree.compact_range(signed.size)
        except (WireError, LogDamagedError) as error:
            return str(error)
        return None if tree.root() == signed.root else f"the tree over the first {signed.size} events is another one"
