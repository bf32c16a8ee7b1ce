"""An archive gives back what was put in, and whatever is changed in it is found."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import ArchiveDamagedError
from control_plane.events.archive import Archive, check, events_of
from control_plane.events.batch import row_of_stored
from control_plane.events.envelope import StoredEvent
from control_plane.events.merkle import CompactRange, leaf_hash
from tests.support.clock import START_US

FIRST, LAST = 12, 31


def an_event(seq: int) -> StoredEvent:
    signature, key_id = (bytes(range(64)), "0123456789abcdef") if seq % 2 else (None, None)
    task_id = None if seq % 3 else "tâche"
    return StoredEvent(
        seq, START_US + seq, "heartbeat.received", 1, task_id, "web1", None, -seq, b'{"n":%d}' % seq, signature, key_id
    )


EVENTS = [an_event(seq) for seq in range(1, LAST + 1)]
LEAVES = [leaf_hash(row_of_stored(event)) for event in EVENTS]
BEFORE = CompactRange(0, ()).extended(LEAVES[: FIRST - 1])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "archive" / "segment.ndjson.gz"
    archive = Archive(path, "heartbeat_event", LAST, BEFORE)
    archive.add(EVENTS[FIRST - 1 : 20])
    archive.add(EVENTS[20:LAST])
    archive.finish()
    return path


def rewritten(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> Path:
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    change(lines)
    path.write_bytes(gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))
    return path


def test_an_archive_has_every_event_and_the_roots_of_its_segment_and_of_the_log(path: Path) -> None:
    found = check(path)

    assert (found.log, found.first_seq, found.last_seq, found.last_us) == (
        "heartbeat_event",
        FIRST,
        LAST,
        START_US + LAST,
    )
    assert found.root == CompactRange(0, ()).extended(LEAVES[FIRST - 1 :]).root()
    assert found.tree == CompactRange(0, ()).extended(LEAVES)
    assert list(events_of(path)) == EVENTS[FIRST - 1 :]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_same_segment_is_the_same_file(path: Path, tmp_path: Path) -> None:
    again = Archive(tmp_path / "again.gz", "heartbeat_event", LAST, BEFORE)
    again.add(EVENTS[FIRST - 1 :])
    again.finish()

    assert (tmp_path / "again.gz").read_bytes() == path.read_bytes()


def test_a_segment_that_is_not_whole_is_not_finished_and_leaves_nothing(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "a.gz", "heartbeat_event", LAST, BEFORE)
    archive.add(EVENTS[FIRST - 1 : 20])

    with pytest.raises(ValueError, match="not the end"):
        archive.finish()
    archive.abandon()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: lines[3].update(body="e30="), 22),
        (lambda lines: lines[3].update(recorded_us=START_US + 14 + 10), 5),
        (lambda lines: lines[3].update(key_id="f" * 16), 22),
        (lambda lines: lines[3].update(more=1), 4),
        (lambda lines: lines[3].pop("actor"), 4),
        (lambda lines: lines[3].update(seq="15"), 4),
        (lambda lines: lines[3].update(signature="no base64"), 4),
        (lambda lines: lines.pop(3), 4),
        (lambda lines: lines.insert(3, lines[3]), 5),
        (lambda lines: lines.__setitem__(slice(3, 5), [lines[4], lines[3]]), 4),
        (lambda lines: lines.append(lines[3]), 23),
        (lambda lines: lines.pop(), 22),
        (lambda lines: lines[-1].update(root="0" * 64), 22),
        (lambda lines: lines[0].update(before="AAAA"), 1),
        (lambda lines: lines[0].update(first_seq=13), 1),
        (lambda lines: lines[0].update(last_seq=30), 21),
        (lambda lines: lines[0].update(format="another"), 1),
        (lambda lines: lines.clear(), 1),
    ],
)
def test_a_change_is_found_and_its_line_is_told(
    path: Path, change: Callable[[list[dict[str, Any]]], object], line: int
) -> None:
    with pytest.raises(ArchiveDamagedError) as damage:
        check(rewritten(path, change))
    assert damage.value.line == line


@pytest.mark.parametrize("data", [b"", b"no gzip", None])
def test_what_is_no_whole_file_is_damage(path: Path, data: bytes | None) -> None:
    path.write_bytes(path.read_bytes()[:-20] if data is None else data)

    with pytest.raises(ArchiveDamagedError):
        check(path)
