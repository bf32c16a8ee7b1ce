"""What this host has accepted, started and finished: the reason why nothing runs twice and no outcome is lost.

    journal/<task_id>/    a live execution (a task_id has no dot, so no name meets .new-*)
        command.json, route        the exact signed bytes; the routing key that they came by
        state                      slot 0 STARTED, slot 1 FINISHED; the supervisor holds its lock
        cancel                     there when it is to be ended
        stdout.head .tail  stderr.head .tail
    done/<task_id>/       the same directory once the broker has the result: tombstone, and what is sent again if asked
    told/<task_id>/       such a tombstone without its output; never sent again, for that would be another result
    quarantine/<task_id>/ an entry that did not verify, after it was reported; people may delete it
    head                  how far the journal was when such an entry left it

An entry is made under another name and renamed, so half of one can only be `.new-*`, and a second one of the same
task_id cannot be made. Entries whose result is not confirmed are the spool; there is no second store.
Not safe for threads: the agent calls it from one at a time.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from control_plane_agent.disk import Disk, Lock
from control_plane_agent.errors import JournalError
from control_plane_agent.kept_head import KeptHead
from control_plane_agent.output import STREAMS, Output, read_output, recent
from control_plane_agent.reserve import Reserve
from control_plane_agent.slots import EMPTY, FINISHED_AT, Finished, State, decode_state, encode
from control_plane_agent.supervisor import CANCEL, COMMAND, STATE
from control_plane_wire.clock import Clock
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.messages import ALLOWED_SKEW_S, DEFAULT_EXPIRY_S, MAX_EXPIRY_S

LIVE: Final = "journal"
DONE: Final = "done"
TOLD: Final = "told"
DAMAGED: Final = "quarantine"
ROUTE: Final = "route"
NEW: Final = ".new-"  # begins the names of what is no entry yet, or no more
TOMBSTONE_S: Final = 86_400  # after expires_at
LEAST_TOMBSTONE_S: Final = 2 * ALLOWED_SKEW_S  # any sooner, and a clock that was set back could let a copy run
MAX_DONE_OUTPUT_BYTES: Final = 256 * 1024 * 1024

Place: TypeAlias = Literal["journal", "done", "told", "quarantine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One execution as it was accepted, and how far it has come.

    Attributes:
        body: the exact signed bytes; empty where they cannot be read any more.
        route: the routing key that they came by, which is part of what was signed.
        is_cancelled: whether it was asked to end.
    """

    task_id: str
    body: bytes
    route: str
    state: State
    is_cancelled: bool


@dataclass(frozen=True, slots=True)
class _Times:
    timestamp: int
    last_start_s: int


class Journal:
    """The journal below a disk's root. Opening it removes what was never acknowledged.

    Args:
        tombstone_s: how long after expires_at an entry is kept, at least LEAST_TOMBSTONE_S.

    Attributes:
        head_s: the highest timestamp of a verified message. Its entry is never pruned, and where people may delete it,
            this is kept.
    """

    def __init__(
        self, disk: Disk, clock: Clock, *, tombstone_s: int = TOMBSTONE_S, failpoints: Failpoints = NO_FAILPOINTS
    ) -> None:
        self._disk = disk
        self._clock = clock
        self._tombstone_s = tombstone_s
        self._failpoints = failpoints
        self._places: dict[str, Place] = {}
        self._times: dict[str, _Times] = {}
        self._done_output: dict[str, int] = {}  # bytes of kept output, the oldest first
        self._left: set[str] = set()  # paths of what could neither be made durable nor removed
        self._unreadable: set[str] = set()  # whose output could not be read when it was asked for
        for name in (LIVE, DONE, TOLD, DAMAGED):
            if name not in disk.names("."):
                disk.make_dir(name)
        disk.sync_dir(".")
        self._reserve = Reserve(disk)
        self._load()
        self._kept_head = KeptHead(disk)
        self.head_s = max((times.timestamp for times in self._times.values()), default=0)
        self.head_s = max(self.head_s, self._kept_head.at_s)
        if DAMAGED in self._places.values():
            with contextlib.suppress(OSError):  # it was kept when they came there, but by older releases
                self._kept_head.keep(self.head_s)

    def _load(self) -> None:
        for name in self._disk.names(LIVE):
            if name.startswith(NEW):
                with contextlib.suppress(OSError):  # it stays half, and nobody takes it for an entry
                    self._disk.remove(f"{LIVE}/{name}")
        places: tuple[Place, ...] = (DAMAGED, TOLD, DONE, LIVE)
        for place in places:
            for task_id in self._disk.names(place):
                if not task_id.startswith(NEW):
                    self._places[task_id] = place
                    self._times[task_id] = _times(self._read(task_id, COMMAND))
        over = self._disk.names(DONE) + self._disk.names(TOLD)  # there too, where a crash came between
        for task_id in sorted(over, key=lambda task_id: self._times[task_id].timestamp):
            self._note_output(task_id)

    # --- what is known ------------------------------------------------------------------------------------------

    def now_s(self) -> int:
        """What time it is for expiry: a clock that was set back reopens nothing."""
        return max(self._clock.now_s(), self.head_s - ALLOWED_SKEW_S)

    def live(self) -> list[str]:
        """The task_ids without a confirmed result, the oldest command first."""
        found = [task_id for task_id, place in self._places.items() if place == LIVE]
        return sorted(found, key=lambda task_id: self._times[task_id].timestamp)

    def find(self, task_id: str) -> Place | Literal["reserve"] | None:
        """Where a task is known, if it is."""
        return self._places.get(task_id) or ("reserve" if task_id in self._reserve else None)

    @property
    def damaged_refusals(self) -> int:
        """How many refusals on a full disk are remembered by a slot that does not verify any more."""
        return len(self._reserve.damaged)

    def is_reserved(self, task_id: str) -> bool:
        """Whether it was refused because the disk was full."""
        return task_id in self._reserve

    def timestamp(self, task_id: str) -> int:
        """When the message was made, by its own word."""
        return self._times[task_id].timestamp

    def read(self, task_id: str) -> Entry:
        try:
            names = self._disk.names(self._path(task_id))
        except OSError:
            names = []
        return Entry(
            task_id=task_id,
            body=self._read(task_id, COMMAND),
            route=self._read(task_id, ROUTE).decode(errors="replace"),
            state=decode_state(self._read(task_id, STATE)),
            is_cancelled=CANCEL in names,
        )

    def output(self, task_id: str, stream: str) -> Output:
        """What was kept of a stream, with the size and digest that the supervisor wrote down."""
        finished = self.read(task_id).state.finished
        size, sha256, kept = (
            None if finished is None else getattr(finished, f"{stream}_{what}") for what in ("bytes", "sha256", "kept")
        )
        output = read_output(self._disk, self._path(task_id), stream, size, sha256, kept)
        if output.error is not None:
            self._unreadable.add(task_id)
        return output

    def recent_output(self, task_id: str, stream: str, after: int, most: int) -> tuple[int, bytes]:
        """What a running command has printed behind a place, the newest of it; see `output.recent`. Raises OSError."""
        return recent(self._disk, self._path(task_id), stream, after, most)

    def start_within_s(self, task_id: str) -> int:
        """Seconds until it must not be started any more; negative when that is past."""
        return self._times[task_id].last_start_s + ALLOWED_SKEW_S - self.now_s()

    @property
    def _forget_before_s(self) -> int:
        """What was not to be started after this may be forgotten: `now_s` has a copy of it refused as expired.

        It follows the highest verified timestamp and never the clock, which may be ahead for a while and is then set
        back. The journal stays bounded all the same: it grows by verified messages alone, which move this on.
        """
        return self.head_s - self._tombstone_s

    def _path(self, task_id: str) -> str:
        return f"{self._places[task_id]}/{task_id}"

    def _read(self, task_id: str, name: str) -> bytes:
        with contextlib.suppress(OSError):  # damaged: it is then reported as such, and must not stop the others
            return self._disk.read(f"{self._path(task_id)}/{name}")
        return b""

    # --- what is written ----------------------------------------------------------------------------------------

    def accept(self, task_id: str, body: bytes, route: str, *, finished: Finished | None = None) -> None:
        """Make the entry of a verified message durable; with `finished`, one that never runs.

        Raises:
            JournalError: it could not be made durable.
        """
        new, entry = _new_name(), f"{LIVE}/{task_id}"
        made = new
        with _journal_errors(f"{task_id} cannot be journalled"):
            if entry in self._left:
                self._disk.remove(entry)
                self._left.remove(entry)
            try:
                state = EMPTY if finished is None else EMPTY[:FINISHED_AT] + encode(finished)
                self._write_entry(new, body, route, state)
                self._failpoints.hit("journal.written")
                self._disk.rename(new, entry)
                made = entry
                self._failpoints.hit("journal.named")
                self._disk.sync_dir(LIVE)
            except OSError:
                self._undo(made)
                raise
        self._places[task_id] = LIVE
        self._times[task_id] = _times(body)
        self.head_s = max(self.head_s, self._times[task_id].timestamp)

    def _undo(self, path: str) -> None:
        """Remove what was begun, also once it has its name: what was not answered for must not be found."""
        try:
            self._disk.remove(path)
        except OSError:
            self._left.add(path)  # or its name would stand in the way of every copy

    def _write_entry(self, path: str, body: bytes, route: str, state: bytes) -> None:
        self._disk.make_dir(path)
        self._failpoints.hit("journal.begun")
        files = {COMMAND: body, ROUTE: route.encode(), STATE: state}
        for name, data in files.items():
            self._disk.create(f"{path}/{name}", data)
        for name in files:  # only now: the file system commits all three with the first one
            self._disk.sync(f"{path}/{name}")
        self._disk.sync_dir(path)

    def reserve(self, task_id: str, body: bytes) -> bool:
        """Remember a refused task where no entry can be made; False where there is no room for that either."""
        with _journal_errors(f"{task_id} cannot be reserved"):
            return self._reserve.add(task_id, _times(body).last_start_s, forget_before_s=self._forget_before_s)

    def try_lock(self, task_id: str) -> Lock | None:
        """The lock of an entry's state, or None while a supervisor has it."""
        path = f"{self._path(task_id)}/{STATE}"
        try:
            return self._disk.try_lock(path)
        except FileNotFoundError:  # a state that is lost is a damaged one, never a new one
            self._disk.create(path, b"lost")
            return self._disk.try_lock(path)

    def finish(self, task_id: str, finished: Finished) -> None:
        """Write slot 1; only for who holds the entry's lock. Raises JournalError."""
        path = f"{self._path(task_id)}/{STATE}"
        with _journal_errors(f"{task_id} cannot be finished"):
            self._disk.write_at(path, FINISHED_AT, encode(finished))
            self._disk.sync(path)

    def request_cancel(self, task_id: str) -> None:
        """Make it durable that the entry is to be ended; whoever runs it, or is about to, looks for that.

        Raises:
            JournalError: it could not be made durable.
        """
        with _journal_errors(f"{task_id} cannot be cancelled"):
            with contextlib.suppress(FileExistsError):
                self._disk.create(f"{self._path(task_id)}/{CANCEL}", b"")
            self._disk.sync_dir(self._path(task_id))

    def retire(self, task_id: str, *, is_damaged: bool = False) -> None:
        """The broker has the result. A crash before this is on the disk only sends the same bytes again.

        Raises:
            JournalError: it stays where it is, and its result is sent again.
        """
        if self._places.get(task_id) != LIVE:  # a repeat, whose tombstone may be gone by now
            return
        place: Place = DAMAGED if is_damaged else TOLD if task_id in self._unreadable else DONE
        with _journal_errors(f"{task_id} cannot be retired"):
            if place == DAMAGED:
                self._kept_head.keep(self.head_s)
            self._move(task_id, place)
        self._note_output(task_id)

    def _move(self, task_id: str, place: Place) -> None:
        self._disk.rename(self._path(task_id), f"{place}/{task_id}")
        self._places[task_id] = place

    # --- what is removed ----------------------------------------------------------------------------------------

    def prune(self) -> None:
        """Remove tombstones that no copy needs any more, and the oldest outputs where there are too many.

        Raises:
            JournalError: something could not be removed; try again later.
        """
        with _journal_errors("nothing can be pruned"):
            self._prune_tombstones()
            self._prune_outputs()

    def _prune_tombstones(self) -> None:
        """Each loses its name before anything in it goes: half of one could never be pruned, nor be sent as it was."""
        removed = []
        for task_id, times in list(self._times.items()):
            is_over = self._places[task_id] in {DONE, TOLD} and times.last_start_s < self._forget_before_s
            # One that cannot be read any more has no times, so nobody can tell when a copy of it would be late.
            if is_over and 0 < times.timestamp < self.head_s:
                removed.append(_new_name())  # which the next start removes, where we do not come to it
                self._disk.rename(self._path(task_id), removed[-1])
                del self._places[task_id], self._times[task_id]
                self._done_output.pop(task_id, None)
                self._unreadable.discard(task_id)
        for place in (LIVE, DONE, TOLD) if removed else ():
            self._disk.sync_dir(place)
        for path in removed:
            self._disk.remove(path)

    def _prune_outputs(self) -> None:
        total = sum(self._done_output.values())
        # Else a crash could leave an entry where it was before both moves, and where the second one has put it.
        for place in (LIVE, DONE) if total > MAX_DONE_OUTPUT_BYTES else ():
            self._disk.sync_dir(place)
        while total > MAX_DONE_OUTPUT_BYTES:
            task_id = next(iter(self._done_output))
            if self._places[task_id] != TOLD:  # first: what is left of a result must not be sent as if it were all
                self._move(task_id, TOLD)
            for name in _output_names():
                self._disk.remove(f"{self._path(task_id)}/{name}")
            total -= self._done_output.pop(task_id)

    def _note_output(self, task_id: str) -> None:
        size = 0
        for name in _output_names():
            with contextlib.suppress(OSError):
                size += self._disk.size(f"{self._path(task_id)}/{name}")
        if size:
            self._done_output[task_id] = size


@contextlib.contextmanager
def _journal_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        raise JournalError(f"{what}: {error.strerror}", is_full=is_full) from error


def _new_name() -> str:
    return f"{LIVE}/{NEW}{os.urandom(8).hex()}"


def _output_names() -> list[str]:
    return [f"{stream}.{part}" for stream in STREAMS for part in ("head", "tail")]


def _times(body: bytes) -> _Times:
    """When the message was made, and until when it may start something; zeros where it cannot be read."""
    try:
        message = json.loads(body)
        timestamp = int(message["timestamp"])
        if message.get("kind") == "cancel":  # it says nothing of how long its command may come: as long as any may
            return _Times(timestamp, timestamp + MAX_EXPIRY_S)
        return _Times(timestamp, int(message.get("expires_at") or timestamp + DEFAULT_EXPIRY_S))
    except (ValueError, KeyError, TypeError, AttributeError):
        return _Times(0, 0)
