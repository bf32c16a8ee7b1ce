"""The bytes of the stream, and what one reader may be behind."""

import asyncio

import orjson
import pytest

from control_plane.api.frames import (
    CHUNK_BYTES,
    MAX_OUTPUTS,
    Row,
    batch,
    executions_in,
    frame,
    frames_of,
    output_frame,
    parse_topics,
)
from control_plane.api.live import MAX_BEHIND_BYTES, MAX_UNREAD_OUTPUT_BYTES, Subscription
from control_plane.commands.access import Principal
from control_plane.errors import RefusedError
from control_plane.projections.positions import Positions
from control_plane.projections.queries.scopes import EVERYTHING
from control_plane_wire.output import OutputMessage

EVE = Principal(username="eve", role="viewer", token_id="1")


def a_row(pos: int, *topics: str) -> Row:
    return Row("hosts", pos, b'{"hostname":"web1"}', topics)


def test_a_batch_has_its_id_on_its_last_frame_only() -> None:
    [chunk] = batch([frame("rows", {"a": 1}), frame("usage", [])], Positions(7, 3))

    assert chunk == b'event: rows\ndata: {"a":1}\n\nevent: usage\ndata: []\nid: e7.h3\n\n'
    assert batch([frame("ping", {})], None) == [b"event: ping\ndata: {}\n\n"]


def test_hostile_text_stays_on_the_one_line_of_its_data() -> None:
    text = frame("rows", {"first_line": "a\n\nevent: reset\ndata: {}\r\u2028"})

    assert text.count(b"\n") == 2
    assert b"\r" not in text


def test_a_reader_gets_the_rows_of_its_topics_as_one_frame_a_table() -> None:
    rows = [a_row(1, "hosts", "host:web1"), a_row(2, "host:web2"), a_row(3, "hosts")]

    [only] = frames_of(rows, frozenset({"hosts"}))

    assert orjson.loads(only.partition(b"data: ")[2]) == {
        "table": "hosts",
        "rows": [[1, {"hostname": "web1"}], [3, {"hostname": "web1"}]],
    }
    assert frames_of(rows, frozenset({"tasks"})) == []


@pytest.mark.parametrize("text", ["", "hosts,", "Hosts", "host:", "host:a b", "task:", "task:a.b"])
def test_what_is_no_topic_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        parse_topics(text)


@pytest.mark.parametrize(
    "text", ["output:", "output:t1", "output:t1:", "output::web1", "output:t.1:web1", "output:t1:a b", "output:t1:w:x"]
)
def test_an_output_s_topic_names_a_task_and_a_host(text: str) -> None:
    with pytest.raises(RefusedError):
        parse_topics(text)

    assert executions_in(parse_topics("hosts,output:t1:web1.example.com")) == [("t1", "web1.example.com")]


def test_hostnames_in_topics_may_be_in_capitals_and_task_ids_are_as_they_are() -> None:
    assert parse_topics("host:WEB1,output:T1:Web2.Example.COM") == {"host:web1", "output:T1:web2.example.com"}


def test_a_stream_shows_the_output_of_twenty_executions_and_no_more() -> None:
    topics = [f"output:t1:web{number}" for number in range(MAX_OUTPUTS + 1)]

    assert len(parse_topics(",".join(topics[1:]))) == MAX_OUTPUTS
    with pytest.raises(RefusedError, match="20"):
        parse_topics(",".join(topics))


def test_a_piece_of_output_is_one_event_without_an_id_whatever_is_in_it() -> None:
    hostile = "a\n\nevent: reset\ndata: {}\r\u2028\0"
    given = {"task_id": "t1", "hostname": "web1", "stream": "stderr", "offset": 7, "timestamp": 1}
    text = output_frame(OutputMessage(data=hostile, **given))
    binary = output_frame(OutputMessage(data="/w==", encoding="base64", **given))

    assert text.startswith(b"event: output\ndata: {")
    assert text.endswith(b"}\n\n")
    assert text.count(b"\n") == 3
    told = orjson.loads(text.splitlines()[1].removeprefix(b"data: "))
    assert told.pop("timestamp", None) is None
    assert told == {"task_id": "t1", "hostname": "web1", "stream": "stderr", "offset": 7} | {
        "data": hostile,
        "encoding": "utf-8",
    }
    assert orjson.loads(binary.splitlines()[1].removeprefix(b"data: "))["encoding"] == "base64"


async def test_a_reader_who_leaves_output_unread_goes_without_more_of_it_and_stays() -> None:
    subscription = Subscription(EVE, EVERYTHING, frozenset({"hosts"}))
    piece = b"x" * (MAX_UNREAD_OUTPUT_BYTES // 2)

    assert [subscription.offer_output(piece) for _ in range(3)] == [True, True, False]
    subscription.offer([b"row" * 1000] * 100)
    assert not subscription.is_closed
    assert [await subscription.get() for _ in range(2)] == [piece, piece]
    assert await subscription.get() == b"row" * 1000
    assert subscription.offer_output(piece)


async def test_unread_output_does_not_count_as_rows_unread() -> None:
    subscription = Subscription(EVE, EVERYTHING, frozenset({"hosts"}))

    subscription.offer_output(b"x" * MAX_UNREAD_OUTPUT_BYTES)
    subscription.offer([b"x" * MAX_BEHIND_BYTES * 2])

    assert not subscription.is_closed
    subscription.close()
    assert not subscription.offer_output(b"x")


async def test_a_reader_gets_its_chunks_in_order_and_then_the_end() -> None:
    subscription = Subscription(EVE, EVERYTHING, frozenset({"hosts"}))
    waiting = asyncio.ensure_future(subscription.get())
    await asyncio.sleep(0)

    subscription.offer([b"one"])
    subscription.offer([b"two"])

    assert [await waiting, await subscription.get()] == [b"one", b"two"]
    subscription.close()
    assert await subscription.get() is None


async def test_a_reader_too_far_behind_is_closed_so_that_it_resumes() -> None:
    subscription = Subscription(EVE, EVERYTHING, frozenset({"hosts"}))

    subscription.offer([b"x" * (MAX_BEHIND_BYTES - 1)])
    assert not subscription.is_closed
    subscription.offer([b"xx"])

    assert subscription.is_closed
    assert await subscription.get() is None


async def test_what_was_read_no_longer_counts_as_behind() -> None:
    subscription = Subscription(EVE, EVERYTHING, frozenset({"hosts"}))

    for _ in range(3):
        subscription.offer([b"x" * MAX_BEHIND_BYTES])
        assert await subscription.get() is not None

    assert not subscription.is_closed


async def test_a_reader_who_has_read_all_is_not_behind_however_much_comes_at_once() -> None:
    subscription = Subscription(EVE, EVERYTHING, frozenset({"task:t1"}))
    chunks = [b"x" * CHUNK_BYTES] * 40

    subscription.offer(chunks)

    assert not subscription.is_closed
    assert [await subscription.get() for _ in chunks] == chunks


def test_what_one_event_has_changed_comes_in_pieces_and_its_id_with_the_last_one() -> None:
    rows = [Row("executions", 7, b'"%d%s"' % (n, b"x" * 1000), ("task:t1",)) for n in range(1500)]

    chunks = batch(frames_of(rows, frozenset({"task:t1"})), Positions(7, 0))

    assert max(map(len, chunks)) < CHUNK_BYTES + 2000
    assert [b"id: " in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    frames = b"".join(chunks).decode().strip().split("\n\n")
    told = [orjson.loads(frame.splitlines()[1].removeprefix("data: ")) for frame in frames]
    assert [row for frame in told for row in frame["rows"]] == [[7, orjson.loads(row.data)] for row in rows]
    assert {frame["table"] for frame in told} == {"executions"}
