"""What the stream sends, as bytes: frames of server-sent events, and which rows belong to which topic."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import orjson
from pydantic import BaseModel

from control_plane.errors import RefusedError
from control_plane.projections.positions import Positions
from control_plane.projections.queries.tasks import ExecutionView
from control_plane_wire.output import OutputMessage
from control_plane_wire.topology import is_name, is_task_id

Table = Literal["hosts", "tasks", "executions", "events", "projections"]

HOST: Final = "host:"
TASK: Final = "task:"
OUTPUT: Final = "output:"
PLAIN_TOPICS: Final = frozenset({"system", "hosts", "usage", "tasks", "events"})
PLAIN_NEEDS: Final = {"tasks": "tasks.read", "events": "events.read"}
MAX_TOPICS: Final = 64
MAX_OUTPUTS: Final = 20  # of them, whose pieces cost more than rows
CHUNK_BYTES: Final = 64 * 1024  # about as much goes out at once


def parse_topics(text: str) -> frozenset[str]:
    """The topics of a `topics=` parameter. Raises RefusedError `unknown_topic`."""
    topics = frozenset(map(_normal, text.split(",")))
    if len(topics) > MAX_TOPICS:
        raise RefusedError("too_many_topics", f"a stream has at most {MAX_TOPICS} topics")
    for topic in topics:
        if not _is_topic(topic):
            raise RefusedError("unknown_topic", f"there is no topic {topic[:80]!r}")
    if len(executions_in(topics)) > MAX_OUTPUTS:
        raise RefusedError("too_many_topics", f"a stream shows the output of at most {MAX_OUTPUTS} executions")
    return topics


def _normal(topic: str) -> str:
    """The topic as it is told: a hostname may be written in capitals, as everywhere."""
    if topic.startswith(HOST):
        return topic.lower()
    if topic.startswith(OUTPUT):
        rest, colon, hostname = topic.rpartition(":")
        return rest + colon + hostname.lower()
    return topic


def executions_in(topics: Iterable[str]) -> list[tuple[str, str]]:
    """The task_id and hostname of each execution whose output is asked for."""
    parts = [topic.split(":") for topic in topics if topic.startswith(OUTPUT)]
    return [(task_id, hostname) for _, task_id, hostname in parts]


def permissions_for(topics: Iterable[str]) -> list[str]:
    """What it takes to be shown these, beside seeing hosts: as much as asking for the same rows does."""
    needed = {PLAIN_NEEDS.get(topic) for topic in topics}
    # A host's topic has what runs there, too.
    needed |= {"tasks.read" for topic in topics if topic.startswith((TASK, HOST))}
    needed |= {"tasks.output" for topic in topics if topic.startswith(OUTPUT)}
    return sorted(filter(None, needed))


def _is_topic(topic: str) -> bool:
    if topic.startswith(HOST):
        return is_name(topic.removeprefix(HOST))
    if topic.startswith(OUTPUT):
        task_id, _, hostname = topic.removeprefix(OUTPUT).partition(":")
        return is_task_id(task_id) and is_name(hostname)
    return topic in PLAIN_TOPICS or (topic.startswith(TASK) and is_task_id(topic.removeprefix(TASK)))


@dataclass(frozen=True, slots=True)
class Row:
    """A row as every reader gets it, serialised once.

    Attributes:
        topics: all that it belongs to.
        view: what it was made of, to tell who may be shown it.
    """

    table: Table
    pos: int
    data: bytes
    topics: tuple[str, ...]
    view: object = None


def row(table: Table, pos: int, model: BaseModel, *topics: str, view: object = None) -> Row:
    return Row(table, pos, model.model_dump_json().encode(), topics, view)


def rows_frame(table: Table, rows: Iterable[Row]) -> bytes:
    pairs = [[found.pos, orjson.Fragment(found.data)] for found in rows]
    return frame("rows", {"table": table, "rows": pairs})


def frame(event: str, data: object) -> bytes:
    """One event without the empty line that ends it, so that an id may follow."""
    return b"event: %s\ndata: %s\n" % (event.encode(), orjson.dumps(data))


def output_frame(piece: OutputMessage) -> bytes:
    """A piece of output as a whole event: without an id, since nobody has to have it."""
    data = {
        "task_id": piece.task_id,
        "hostname": piece.hostname,
        "stream": piece.stream,
        "offset": piece.offset,
        "data": piece.data,
        "encoding": piece.encoding or "utf-8",
    }
    return frame("output", data) + b"\n"


def output_end_frame(view: ExecutionView) -> bytes:
    """The last event of an execution's output. Like the pieces it has no id: whoever asks again is told again."""
    data = {
        "task_id": view.task_id,
        "hostname": view.hostname,
        "state": view.state,
        "exit_code": view.exit_code,
    }
    return frame("output_end", data) + b"\n"


def batch(frames: Sequence[bytes], positions: Positions | None) -> list[bytes]:
    """Frames that belong together, in chunks.

    Only the last one has the id: a reader that loses a part of them must read all again.
    """
    if not frames:
        return []
    last = b"\n" if positions is None else b"id: %s\n\n" % str(positions).encode()
    chunks = [b""]
    for text, end in zip(frames, [b"\n"] * (len(frames) - 1) + [last], strict=True):
        if len(chunks[-1]) >= CHUNK_BYTES:
            chunks.append(b"")
        chunks[-1] += text + end
    return chunks


def frames_of(rows: Iterable[Row], topics: frozenset[str]) -> list[bytes]:
    """The frames of the rows that a reader of these topics gets, by table, in the order of their positions."""
    by_table: dict[Table, list[Row]] = {}
    for found in rows:
        if not topics.isdisjoint(found.topics):
            by_table.setdefault(found.table, []).append(found)
    return [rows_frame(table, some) for table, found in by_table.items() for some in _parts(found)]


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """One event may change thousands of rows, which are too much for one frame."""
    start = size = 0
    for place, found in enumerate(rows):
        if size >= CHUNK_BYTES:
            yield rows[start:place]
            start, size = place, 0
        size += len(found.data)
    yield rows[start:]
