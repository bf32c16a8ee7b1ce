"""The bytes of the stream, and what one reader may be behind."""

import asyncio

import orjson
import pytest

from control_plane.api.frames import CHUNK_BYTES, Row, batch, frame, frames_of, parse_topics
from control_plane.api.live import MAX_BEHIND_BYTES, Subscription
from control_plane.commands.access import Principal
from control_plane.errors import RefusedError
from control_plane.projections.positions import Positions

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


@pytest.mark.parametrize("text", ["", "hosts,", "Hosts", "host:", "host:a b", "task:", "task:a.b", "output:t1:web1"])
def test_what_is_no_topic_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        parse_topics(text)


async def test_a_reader_gets_its_chunks_in_order_and_then_the_end() -> None:
    subscription = Subscription(EVE, frozenset({"hosts"}))
    waiting = asyncio.ensure_future(subscription.get())
    await asyncio.sleep(0)

    subscription.offer([b"one"])
    subscription.offer([b"two"])

    assert [await waiting, await subscription.get()] == [b"one", b"two"]
    subscription.close()
    assert await subscription.get() is None


async def test_a_reader_too_far_behind_is_closed_so_that_it_resumes() -> None:
    subscription = Subscription(EVE, frozenset({"hosts"}))

    subscription.offer([b"x" * (MAX_BEHIND_BYTES - 1)])
    assert not subscription.is_closed
    subscription.offer([b"xx"])

    assert subscription.is_closed
    assert await subscription.get() is None


async def test_what_was_read_no_longer_counts_as_behind() -> None:
    subscription = Subscription(EVE, frozenset({"hosts"}))

    for _ in range(3):
        subscription.offer([b"x" * MAX_BEHIND_BYTES])
        assert await subscription.get() is not None

    assert not subscription.is_closed


async def test_a_reader_who_has_read_all_is_not_behind_however_much_comes_at_once() -> None:
    subscription = Subscription(EVE, frozenset({"task:t1"}))
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
