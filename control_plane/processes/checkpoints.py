"""Signs where the logs stand: follows each with a tree of its own, and signs what extends the last checkpoint outside.

The last one is in a file that nobody reaches through the database. Whatever does not fit it (a tree that is not the
head's, a log that ends below it, another replica's checkpoint that has not grown from it) is never signed: an alarm,
until somebody has mended the log. One that ends below it is closed, too: nothing is appended.

    events ─▶ our tree = the head's tree? ─▶ sign ─▶ file (fsync) ─▶ database, with the tiles ─▶ syslog
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from control_plane.commands.authority import Keyring
from control_plane.errors import LogDamagedError, StorageUnavailableError
from control_plane.events.batch import row_of_stored
from control_plane.events.checkpoints import CheckpointFile, Checkpoints, Signed
from control_plane.events.envelope import LogName, StoredEvent
from control_plane.events.log import EventLog
from control_plane.events.merkle import CompactRange, consistency_spans, leaf_hash, verify_consistency
from control_plane.events.tiles import TILE, GrowingTree, StoredTree, Tile
from control_plane.observability import Count
from control_plane.processes.ports import Leases
from control_plane_wire.checkpoints import Checkpoint, sign
from control_plane_wire.clock import Clock
from control_plane_wire.errors import WireError
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.lifecycle import wait_for_any

EVERY_S: Final = 10.0
EVERY_EVENTS: Final = 1000
LOOK_S: Final = 1.0
HALTED_S: Final = 30.0  # until it looks again whether a damaged log has been mended
PAGE: Final = 1000
MOST_TILES: Final = 1024  # kept in memory until the tree is seen to be the head's; a longer way is written on the way

_logger = logging.getLogger(__name__)


class Signer:
    """Follows one log and signs it. Attributes: `alarm`: what does not fit, None where all does.

    Args:
        tree: of that log, as the database has it.
        heard: is given every page of events that is followed.
        tell: is given every note, for whoever else keeps them.
    """

    def __init__(
        self,
        name: LogName,
        log: EventLog,
        tree: StoredTree,
        checkpoints: Checkpoints,
        file: CheckpointFile,
        keyring: Keyring,
        clock: Clock,
        *,
        count: Count,
        heard: Callable[[Sequence[StoredEvent]], Awaitable[None]] | None = None,
        tell: Callable[[str], None] | None = None,
        failpoints: Failpoints = NO_FAILPOINTS,
    ) -> None:
        self.name: LogName = name
        self._log = log
        self._tree = tree
        self._checkpoints = checkpoints
        self._file = file
        self._keyring = keyring
        self._clock = clock
        self._count = count
        self._heard = heard
        self._tell = tell
        self._failpoints = failpoints
        self._growing: GrowingTree | None = None
        self._tiles: list[Tile] = []
        self._stored_tiles = 0
        self._size = 0  # of the last checkpoint
        self._signed_s = 0.0
        self.alarm: LogDamagedError | None = None

    async def work(self, stop: asyncio.Event) -> None:
        """Sign until `stop`. A new start, since another replica may have signed meanwhile."""
        self._growing = None
        while not stop.is_set():
            try:
                await self.look()
            except LogDamagedError as error:
                self._growing = None
                self.alarm = error
                self._count("log_damaged", 1)
                _logger.error(  # noqa: TRY400 - what it was is in the fields
                    "not signed: the log is not the one that was signed",
                    extra={"log": self.name, "cause": str(error), "fix": "control-plane audit verify"},
                )
                await wait_for_any(stop, timeout_s=HALTED_S)
            else:
                self.alarm = None
                await wait_for_any(stop, timeout_s=LOOK_S)

    async def look(self) -> bool:
        """Sign where the log stands if that is due; whether it was.

        Raises:
            LogDamagedError: it is not the log that was signed, or not the one that its head says.
            StorageUnavailableError: try again.
        """
        if self._growing is None:
            self._growing = await self._resumed()
            self._signed_s = self._clock.monotonic_s() - EVERY_S
        head = await self._log.head(self.name)
        if head.seq < max(self._size, self._growing.size):
            await self._log.close(self.name, max(self._size, self._growing.size))
            raise LogDamagedError(self.name, head.seq, f"is the last event, and there were {self._growing.size}")
        waited_s = self._clock.monotonic_s() - self._signed_s
        if head.seq - self._size < (1 if waited_s >= EVERY_S else EVERY_EVENTS):
            return False
        await self._follow(self._growing, head.seq)
        if self._growing.tree() != head.tree:
            raise LogDamagedError(
                self.name, head.seq, f"has a head whose tree is not that of the events after {self._size}"
            )
        root = head.tree.root()
        await self._keyring.catch_up(self._log)  # a key that is retired by then must not sign it
        await self._sign(Checkpoint(self._checkpoints.origin(self.name), head.seq, root))
        return True

    async def _resumed(self) -> GrowingTree:
        """The tree up to the last checkpoint, seen to be the one that was signed."""
        self._tiles = []
        last = await self._last()
        self._size = last.size if last is not None else 0
        head = await self._log.head(self.name)
        if head.seq < self._size:
            await self._log.close(self.name, self._size)
            raise LogDamagedError(self.name, head.seq, f"is the last event, and a tree of {self._size} was signed")
        self._stored_tiles = await self._tree.tiles()
        start = min(self._stored_tiles, self._size // TILE) * TILE
        dropped = await self._tree.dropped()
        growing = GrowingTree(dropped if dropped.size > start else await self._tree.compact_range(start))
        await self._follow(growing, self._size)
        if last is not None and not await self._has_grown(last, growing.tree()):
            raise LogDamagedError(self.name, self._size, "is as far as was signed, and the tree is another one now")
        return growing

    async def _has_grown(self, last: Signed, tree: CompactRange) -> bool:
        """Whether a tree is the one that was signed, or goes beyond it since the events in between are dropped."""
        proof = await self._tree.proof(consistency_spans(last.size, tree.size))
        return verify_consistency(last.size, last.root, tree.size, tree.root(), proof)

    async def _last(self) -> Signed | None:
        """The newest checkpoint: the one in the file, or a later one of another replica that has grown from it."""
        kept = await self._kept()
        stored = await self._checkpoints.newest(self.name)
        if stored is None or (kept is not None and stored.size < kept.size):
            # It was signed, and then something came between. One that the log does not reach is not put beside it.
            if kept is not None and kept.size <= (await self._log.head(self.name)).seq:
                await self._checkpoints.put(self.name, kept, [])
            return kept
        if kept is not None:
            proof = await self._tree.proof(consistency_spans(kept.size, stored.size))
            if not verify_consistency(kept.size, kept.root, stored.size, stored.root, proof):
                raise LogDamagedError(
                    self.name,
                    stored.size,
                    f"is as far as was signed, and that has not grown from the first {kept.size}",
                )
        return stored

    async def _kept(self) -> Signed | None:
        try:
            note = await asyncio.to_thread(self._file.read)
            return None if note is None else self._checkpoints.opened(self.name, note)
        except (OSError, WireError) as error:
            raise LogDamagedError(self.name, 0, f"cannot be signed: {self._file.path} is of no use: {error}") from error

    async def _follow(self, growing: GrowingTree, upto: int) -> None:
        while growing.size < upto:
            page = await self._log.read(self.name, after=growing.size, limit=PAGE, upto=upto)
            if not page or page[-1].seq != growing.size + len(page):
                if (await self._tree.dropped()).size > growing.size:
                    raise StorageUnavailableError(f"{self.name}: what was to be signed is dropped")
                raise LogDamagedError(self.name, growing.size + 1)
            if self._heard is not None:
                await self._heard(page)
            complete = growing.extend([leaf_hash(row_of_stored(event)) for event in page])
            self._tiles += [tile for tile in complete if tile.idx >= self._stored_tiles]
            if len(self._tiles) > MOST_TILES:
                await self._put(None)

    async def _sign(self, checkpoint: Checkpoint) -> None:
        """File first: what is signed and then lost is signed again, the same."""
        note = sign(checkpoint, self._keyring.active)
        self._failpoints.hit("checkpoints.before_file")
        try:
            await asyncio.to_thread(self._file.write, note)
        except OSError as error:
            raise LogDamagedError(
                self.name, checkpoint.size, f"cannot be signed: {self._file.path}: {error.strerror}"
            ) from error
        self._failpoints.hit("checkpoints.after_file")
        self._size = checkpoint.size
        self._signed_s = self._clock.monotonic_s()
        await self._put(Signed(checkpoint, note, self._clock.now_us()))
        self._failpoints.hit("checkpoints.after_commit")
        self._count("checkpoints", 1)
        if self._tell is not None:
            await asyncio.to_thread(self._tell, note)

    async def _put(self, signed: Signed | None) -> None:
        """Store a checkpoint with the tiles; where that fails, the tree is read anew, and its tiles with it."""
        try:
            await self._checkpoints.put(self.name, signed, self._tiles)
        except BaseException:
            self._growing = None
            raise
        if self._tiles:
            self._stored_tiles = self._tiles[-1].idx + 1
        self._tiles = []


class CheckpointProcess:
    """Both logs' signers, as a service; any number may run, and the one with the lease signs.

    One that has found a log damaged keeps the lease, so that no replica that knows less signs in its place.

    Attributes:
        kept: over how many events the newest checkpoint was that each host has brought back.
    """

    name = "checkpoints"

    def __init__(
        self, leases: Leases, signers: Sequence[Signer], *, kept: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        self._leases = leases
        self._signers = signers
        self.kept = kept

    @property
    def alarms(self) -> Sequence[LogDamagedError]:
        """What does not fit, one for each log at most."""
        return [signer.alarm for signer in self._signers if signer.alarm is not None]

    async def damages(self, log: EventLog) -> Sequence[LogDamagedError]:
        """The alarms, and what else readers of this process have met."""
        alarms = self.alarms
        told = [str(alarm) for alarm in alarms]
        return [*alarms, *(hole for hole in await log.holes() if str(hole) not in told)]

    async def untold(self, log: EventLog) -> str | None:
        """What else they have met, in one line: what is whole is served all the same."""
        alarms = self.alarms
        return "; ".join([str(hole) for hole in await self.damages(log) if hole not in alarms]) or None

    async def run(self, stop: asyncio.Event) -> None:
        await self._leases.keep("process:checkpoints", lambda _lease: self._work(stop), stop=stop)

    async def _work(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            for signer in self._signers:
                tasks.create_task(signer.work(stop), name=f"sign {signer.name}")
