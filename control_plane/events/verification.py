"""Whether a log is what it was: every event hashed anew, and the tree compared with what was signed.

gap        a number below the head that no event has
missing    an event without its idempotency key, or one that a key or a checkpoint knows and the log does not
hash       events whose tree is not the signed one: as narrow a range as checkpoints and tiles allow
signature  an event or a checkpoint that nobody has signed who may
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from sqlalchemy import func, select

from control_plane.errors import LogDamagedError
from control_plane.events.checkpoints import Checkpoints, Signed
from control_plane.events.envelope import LogName
from control_plane.events.log import EventLog
from control_plane.events.merkle import HASH_BYTES, CompactRange, consistency_spans, verify_consistency
from control_plane.events.pages import read_dropped
from control_plane.events.tiles import CHUNK, TILE, StoredTree, hashes_of_events
from control_plane.storage.engine import Database
from control_plane.storage.tables import KEY_TABLES

IN_FLIGHT: Final = 4  # chunks that the database works on while one is hashed
WINDOW: Final = 4096  # keys that are counted together
MOST_WINDOWS: Final = 16  # looked at one by one; each is a scan of all keys
MOST_CHECKPOINTS: Final = 4096  # compared on the way, evenly spread; the newest says all that the others do

Fault: TypeAlias = Literal["gap", "missing", "hash", "signature"]
Progress: TypeAlias = Callable[[int, int], None]
_NOBODY: Final = bytes(32)  # stands for an event that is gone, whose hash nobody knows


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong, with the first and last event that it is about."""

    fault: Fault
    first: int
    last: int
    detail: str


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found.

    Attributes:
        signed: the size of the newest checkpoint that counts.
        dropped: up to where the log's segments are dropped, so that nothing of them can be hashed again.
    """

    log: LogName
    first: int
    last: int
    signed: int = 0
    dropped: int = 0
    checkpoints: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, fault: Fault, first: int, last: int, detail: str) -> None:
        self.findings.append(Finding(fault, first, last, detail))


class Verification:
    """Of one log.

    Args:
        kept: the newest checkpoint outside the database, where there is one.
        first, last: the events in question; what is looked at reaches from one checkpoint to another.
    """

    def __init__(
        self, database: Database, log: EventLog, checkpoints: Checkpoints, name: LogName, kept: Signed | None
    ) -> None:
        self._database = database
        self._log = log
        self._checkpoints = checkpoints
        self._name: LogName = name
        self._kept = kept
        self._tree = StoredTree(database, name)

    async def run(self, *, first: int = 1, last: int | None = None, progress: Progress) -> Report:
        """Hash the events and count their keys.

        Raises:
            StorageUnavailableError: try again.
        """
        head = await self._log.head(self._name)
        last = min(last or head.seq, head.seq)
        report = Report(self._name, first, last)
        good, bad = await self._checkpoints.some(self._name, most=MOST_CHECKPOINTS)
        good = [*good, *([self._kept] if self._kept else [])]
        report.checkpoints, report.signed = len(good), max((signed.size for signed in good), default=0)
        for size in bad:
            report.add("signature", size, size, "a checkpoint of this size that we have not signed")
        if report.signed > head.seq:
            report.add("missing", head.seq + 1, report.signed, "they were signed, and the log ends before them")
        base = await self._dropped(report, good)
        report.dropped, report.first = base.size, max(first, base.size + 1)
        roots = {base.size: [base.root()]}
        roots.setdefault(head.seq, []).append(head.tree.root())
        for signed in good:
            if base.size <= signed.size <= head.seq:
                roots.setdefault(signed.size, []).insert(0, signed.root)
        if base.size and any(root != base.root() for root in roots[base.size]):
            report.add("hash", 1, base.size, "the tree of these dropped events is not the one that was signed")
        await self._hash(report, roots, base, progress)
        await self._count_keys(report)
        report.findings.sort()
        return report

    async def _dropped(self, report: Report, good: Sequence[Signed]) -> CompactRange:
        """The tree over what is dropped, compared with the tiles and with what was signed within it."""
        async with self._database.read() as connection:
            size = (await read_dropped(connection, self._name)).seq
        try:
            tree = await self._tree.dropped()
        except LogDamagedError as error:
            report.add("hash", 1, size, str(error))
            return CompactRange(size, (bytes(HASH_BYTES),) * size.bit_count())
        within = max((signed for signed in good if signed.size < size), key=lambda signed: signed.size, default=None)
        try:
            is_tiled = await self._tree.compact_range(size) == tree
            proof = await self._tree.proof(consistency_spans(within.size if within else 0, size))
        except LogDamagedError:  # no tiles of it are kept: what is signed later says all of it
            return tree
        if not is_tiled:
            report.add("hash", 1, size, "the tree that is kept of these dropped events is not that of the tiles")
        elif within and not verify_consistency(within.size, within.root, size, tree.root(), proof):
            detail = f"the tree of these dropped events has not grown from the checkpoint over {within.size}"
            report.add("hash", 1, size, detail)
        return tree

    async def _hash(
        self, report: Report, roots: dict[int, list[bytes]], base: CompactRange, progress: Progress
    ) -> None:
        sizes = sorted(roots)
        start = max(size for size in sizes if size < report.first)
        end = min((size for size in sizes if size >= report.last), default=report.last)
        tree = await self._from(start, roots)
        if tree is None:
            start, tree = base.size, base
        report.first, report.last = start + 1, end
        anchors = deque(size for size in sizes if start < size <= end)
        sound = start  # up to here the tree is the one that it has to be
        async with self._chunks(start, end) as chunks:
            async for after, upto, hashes in chunks:
                await self._fill_gaps(report, after, upto, hashes)
                while after < upto:
                    step = min(upto, anchors[0]) if anchors else upto
                    tree = tree.extended([hashes[seq] for seq in range(after + 1, step + 1)])
                    after = step
                    if not anchors or step != anchors[0]:
                        continue
                    anchors.popleft()
                    wanted = roots[step]
                    if all(root == tree.root() for root in wanted):
                        sound = step
                        continue
                    is_signed = wanted[0] != tree.root() and (step != sizes[-1] or len(wanted) > 1)
                    there = await self._from(step, roots)
                    await self._narrow(report, sound, end if there is None else step, is_signed=is_signed)
                    if there is None:  # from here on nothing fits by itself
                        anchors.clear()
                    else:
                        tree, sound = there, step
                progress(upto - start, end - start)

    async def _fill_gaps(self, report: Report, after: int, upto: int, hashes: dict[int, bytes]) -> None:
        """Tell what is not there, and put the hash that a tile has of it in its place, so that the rest is compared."""
        if len(hashes) == upto - after:
            return
        gone = [seq for seq in range(after + 1, upto + 1) if seq not in hashes]
        async with self._database.read() as connection:
            dropped = (await read_dropped(connection, self._name)).seq  # perhaps meanwhile
        for first, last in _runs([seq for seq in gone if seq > dropped]):
            report.add("gap", first, last, "there is no such event")
        tiles = {idx: await self._tree.leaves(idx) for idx in {(seq - 1) // TILE for seq in gone}}
        for seq in gone:
            leaves = tiles[(seq - 1) // TILE]
            hashes[seq] = _NOBODY if leaves is None else leaves[(seq - 1) % TILE]

    async def _from(self, size: int, roots: dict[int, list[bytes]]) -> CompactRange | None:
        """The tree up to there by the tiles, if that is the one that it has to be."""
        try:
            tree = await self._tree.compact_range(size)
        except (LogDamagedError, ValueError):
            return None
        return tree if tree.root() == roots[size][0] else None

    @asynccontextmanager
    async def _chunks(self, start: int, end: int) -> AsyncIterator[AsyncIterator[tuple[int, int, dict[int, bytes]]]]:
        """The leaf hashes of the events in between, chunk by chunk; the next ones are on their way meanwhile."""
        starts = iter(range(start, end, CHUNK))

        async def read(after: int) -> tuple[int, int, dict[int, bytes]]:
            upto = min(after + CHUNK, end)
            async with self._database.read() as connection:
                return after, upto, await hashes_of_events(connection, self._database, self._name, after, upto)

        async with asyncio.TaskGroup() as tasks:
            waiting = deque(tasks.create_task(read(after)) for _, after in zip(range(IN_FLIGHT), starts, strict=False))

            async def results() -> AsyncIterator[tuple[int, int, dict[int, bytes]]]:
                while waiting:
                    found = await waiting.popleft()
                    if (after := next(starts, None)) is not None:
                        waiting.append(tasks.create_task(read(after)))
                    await asyncio.sleep(0)  # lets them ask the database before this process hashes
                    yield found

            yield results()

    async def _narrow(self, report: Report, sound: int, size: int, *, is_signed: bool) -> None:
        """Add the events after one size and up to another whose hashes are not those of the tiles."""
        what = "the checkpoint" if is_signed else "the head"
        wrong: list[int] = []
        unknown = has_gap = False
        for idx in range(sound // TILE, (size - 1) // TILE + 1):
            leaves = await self._tree.leaves(idx)
            after, upto = max(sound, idx * TILE), min(size, (idx + 1) * TILE)
            async with self._database.read() as connection:
                hashes = await hashes_of_events(connection, self._database, self._name, after, upto)
            has_gap = has_gap or len(hashes) < upto - after
            if leaves is None:
                unknown = True
                continue
            wrong += [seq for seq, hash_ in hashes.items() if hash_ != leaves[(seq - 1) % TILE]]
        for first, last in _runs(wrong):
            report.add("hash", first, last, "changed since its hash was kept")
        if not wrong and not has_gap:  # a gap is told already, and explains it
            known = "" if unknown else "; the tiles were changed with them"
            report.add("hash", sound + 1, size, f"their tree is not that of {what} over {size} events{known}")

    async def _count_keys(self, report: Report) -> None:
        """Every event has one key, and every key an event."""
        seq = KEY_TABLES[self._name].c.seq
        window = (seq - 1) - (seq - 1) % WINDOW
        after, upto = (report.first - 1) // WINDOW * WINDOW, report.last
        counted = (
            select(window.label("start"), func.count(), func.count(seq.distinct()))
            .where(seq > after, seq <= upto)
            .group_by(window)
        )
        async with self._database.read() as connection:
            counts = {start: (count, distinct) for start, count, distinct in await connection.execute(counted)}
            beyond = list(await connection.scalars(select(seq).where(seq > upto).order_by(seq)))
            head = await self._log.head(self._name)
            for first, last in _runs([found for found in beyond if found > head.seq]):
                report.add("missing", first, last, "they have keys, and the log ends before them")
            off = [
                start
                for start in range(after, upto, WINDOW)
                if counts.get(start, (0, 0)) != (min(WINDOW, upto - start),) * 2
            ]
            for start in off[:MOST_WINDOWS]:
                end = min(start + WINDOW, upto)
                found = list(await connection.scalars(select(seq).where(seq > start, seq <= end)))
                since = max(report.first, (await read_dropped(connection, self._name)).seq + 1, start + 1)
                self._add_keys(report, since, end, found)
        if len(off) > MOST_WINDOWS:
            report.add("missing", off[MOST_WINDOWS] + 1, upto, "keys, in more places than are told one by one")

    def _add_keys(self, report: Report, since: int, end: int, found: Sequence[int]) -> None:
        lacking = sorted(set(range(since, end + 1)) - set(found))
        for first, last in _runs(lacking):
            report.add("missing", first, last, "no key: it could be recorded a second time")
        if len(found) != len(set(found)):
            report.add("missing", since, end, "some of these have two keys")


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as ranges without holes."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs
