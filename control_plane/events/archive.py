"""A segment of a log as a file: gzip of one JSON object a line, which anybody can check without the database.

The first line names the log, the segment and the Merkle tree before it, the last one the root over the segment's leaves
and the tree behind it. Every line between them is an event with all its columns, its bytes in base64.
"""

import base64
import contextlib
import gzip
import hashlib
import os
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

import orjson

from control_plane.errors import ArchiveDamagedError
from control_plane.events.batch import row_of_stored, stored_event
from control_plane.events.envelope import StoredEvent
from control_plane.events.merkle import CompactRange, EventRow, leaf_hash

FORMAT: Final = "control-plane-archive-1"
COLUMNS: Final = StoredEvent._fields
BYTES: Final = frozenset({"body", "signature"})
LEVEL: Final = 6
LINE_BYTES: Final = 64 * 1024 * 1024  # more than the largest event needs


@dataclass(frozen=True, slots=True)
class Archived:
    """What an archive says, and what was found to be so.

    Attributes:
        root: over the leaves of the segment alone; `tree`: of the whole log, at the segment's end.
        sha256: of the file.
    """

    log: str
    first_seq: int
    last_seq: int
    last_us: int
    root: bytes
    tree: CompactRange
    sha256: bytes


class Archive:
    """A file on its way: `add` the events of the segment in their order, then `finish`. Blocking: use a thread.

    Args:
        before: the tree of the log at the end of the segment before.

    Attributes:
        tree: of the log, as far as events were added.
    """

    def __init__(self, path: Path, log: str, last_seq: int, before: CompactRange) -> None:
        self._path = path
        self._unfinished = path.with_name(f".{path.name}.unfinished")
        self._log, self._first_seq, self._last_seq = log, before.size + 1, last_seq
        self.tree = before
        self._own = CompactRange(0, ())
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self._unfinished.open("wb")
        os.fchmod(self._file.fileno(), 0o600)
        self._gzip = gzip.GzipFile("", "wb", LEVEL, self._file, mtime=0)
        before_text = base64.b64encode(before.to_bytes()).decode()
        self._write(
            {"format": FORMAT, "log": log, "first_seq": self._first_seq, "last_seq": last_seq, "before": before_text}
        )

    def add(self, events: Iterable[StoredEvent]) -> None:
        rows = [row_of_stored(stored) for stored in events]
        leaves = [leaf_hash(row) for row in rows]
        self.tree, self._own = self.tree.extended(leaves), self._own.extended(leaves)
        for row in rows:
            self._write(_line_of(row))

    def finish(self) -> None:
        """All of it is on the disk, under its name."""
        if self.tree.size != self._last_seq:
            raise ValueError(f"{self.tree.size} is not the end of the segment")
        tree = base64.b64encode(self.tree.to_bytes()).decode()
        self._write({"root": self._own.root().hex(), "tree": tree})
        self._gzip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._unfinished.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def abandon(self) -> None:
        """Leave nothing, where it is not finished."""
        with contextlib.suppress(OSError):
            self._gzip.close()
        self._file.close()
        self._unfinished.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, object]) -> None:
        self._gzip.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def check(path: Path) -> Archived:
    """Read all of an archive, and see that its events have the root that it states. Blocking: use a thread.

    What it states is its own word: compare the root with what `log_segment`, or a checkpoint, says of it.

    Raises:
        ArchiveDamagedError: it is not whole, or not as it was written; the text says where.
    """
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").digest()
    with contextlib.closing(_lines(path)) as lines:
        head = _object(next(lines, b""), 1)
        try:
            log, first, last = str(head["log"]), int(str(head["first_seq"])), int(str(head["last_seq"]))
            tree = CompactRange.from_bytes(first - 1, base64.b64decode(str(head["before"]), validate=True))
        except (KeyError, ValueError) as error:
            raise ArchiveDamagedError(1, "this is no archive of a segment") from error
        if head.get("format") != FORMAT or not 0 < first <= last:
            raise ArchiveDamagedError(1, "this is no archive of a segment")
        own = CompactRange(0, ())
        last_us = 0
        for seq in range(first, last + 1):
            number = seq - first + 2
            row = _row_of(_object(next(lines, b""), number), number)
            if row[0] != seq or row[1] <= last_us:
                raise ArchiveDamagedError(number, f"event {seq} is not here")
            last_us = row[1]
            leaf = leaf_hash(row)
            tree, own = tree.extended((leaf,)), own.extended((leaf,))
        number = last - first + 3
        stated = _object(next(lines, b""), number)
        if stated != {"root": own.root().hex(), "tree": base64.b64encode(tree.to_bytes()).decode()}:
            raise ArchiveDamagedError(number, "the events do not have the root that is stated")
        if next(lines, None) is not None:
            raise ArchiveDamagedError(number + 1, "there is more than the segment")
    return Archived(log, first, last, last_us, own.root(), tree, sha256)


def events_of(path: Path) -> Iterator[StoredEvent]:
    """The events of an archive, one by one; `check` it first. Blocking."""
    with contextlib.closing(_lines(path)) as lines:
        next(lines)
        for number, line in enumerate(lines, start=2):
            found = _object(line, number)
            if "root" not in found:
                yield stored_event(_row_of(found, number))


def _lines(path: Path) -> Generator[bytes, None, None]:
    number = 0
    try:
        with gzip.open(path, "rb") as file:
            while line := cast("IO[bytes]", file).readline(LINE_BYTES):
                number += 1
                yield line
    except (OSError, EOFError, ValueError, zlib.error) as error:  # a wrong checksum, an end before the end
        raise ArchiveDamagedError(number + 1, str(error)) from error


def _object(line: bytes, number: int) -> Mapping[str, object]:
    try:
        found: object = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ArchiveDamagedError(number, "no JSON, or an end before the end") from error
    if not isinstance(found, dict):
        raise ArchiveDamagedError(number, "no object")
    return found


def _line_of(row: EventRow) -> Mapping[str, object]:
    return {name: _said(name, value) for name, value in zip(COLUMNS, row, strict=True)}


def _said(name: str, value: bytes | int | None) -> object:
    if not isinstance(value, bytes):
        return value
    return base64.b64encode(value).decode() if name in BYTES else value.decode()


def _row_of(line: Mapping[str, object], number: int) -> EventRow:
    try:
        values: Sequence[object] = [_meant(name, line[name]) for name in COLUMNS]
        row = cast("EventRow", tuple(values))
        leaf_hash(row)
    except Exception as error:
        raise ArchiveDamagedError(number, "no event") from error
    if len(line) != len(COLUMNS):
        raise ArchiveDamagedError(number, "no event")
    return row


def _meant(name: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    return base64.b64decode(value, validate=True) if name in BYTES else value.encode()
