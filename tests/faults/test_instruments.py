"""What observes and what breaks: the ledger, the witness, and the link that can be cut, frozen and slowed down."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.faults.ledger import Client, Ledger, read
from tests.support.faults.witness import command, expected
from tests.support.faults.witness import read as read_witness
from tests.support.link import Link, links_to
from tests.support.programs import Api

BODY = {"target": {"all": True}, "command": "true", "timeout": 30, "user": "root"}
BOUND_S = 10

# --- the ledger -------------------------------------------------------------------------------------------------------


def answering(*answers: int | Exception) -> Api:
    """An API that gives these answers in turn."""
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        return httpx.Response(given)

    api = Api("http://test", "token")
    api.http.close()
    api.http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://test")
    return api


def test_what_nobody_knows_is_asked_again_until_it_is_known(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    client = Client(answering(httpx.ReadTimeout("late"), 503, 202, 409, httpx.ConnectError("gone")), ledger)

    assert client.submit("t1", BODY) == "ok"
    assert client.submit("t2", BODY) == "fail"
    assert client.ask("t3", BODY) == "info"

    book = ledger.read()
    assert (book.acknowledged, book.refused, book.unanswered) == ({"t1"}, {"t2"}, {"t3"})
    assert len(set(book.attempts.values())) == 1, "the same body, whatever its task is called"


def test_a_repeat_is_written_down_with_its_answer(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    Client(answering(200, 409), ledger, answering(403)).repeat("t1", BODY)

    assert ledger.read().repeats == {"t1": [("same", 200), ("body", 409), ("actor", 403)]}


def test_half_a_line_at_the_end_was_never_written(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text('{"what": "ok", "task_id": "t1"}\n{"what": "ok", "ta')

    assert read(tmp_path / "ledger").acknowledged == {"t1"}


# --- the witness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task_id", [f"task-{number}" for number in range(6)])
def test_the_command_leaves_a_line_and_says_what_is_expected(tmp_path: Path, task_id: str) -> None:
    host, witness = tmp_path / "web1", tmp_path / "witness"
    for directory in (host, witness):
        directory.mkdir()
    supervisor = f'cd {host}; /bin/sh -c "$LINE"; exit $?'

    done = subprocess.run(
        ["/bin/sh", "-c", supervisor],
        env={"PATH": "/usr/bin:/bin", "CONTROL_PLANE_TASK_ID": task_id, "LINE": command(witness)},
        capture_output=True,
        check=False,
    )

    wanted = expected(task_id)
    assert (done.stdout.decode(), done.returncode) == (wanted.stdout, wanted.exit_code), done.stderr
    assert read_witness(witness) == {"web1": [task_id]}


# --- the link ---------------------------------------------------------------------------------------------------------


class Line:
    """A connection through a link to a server that sends everything back, two bytes for each."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hears(self, number: int) -> bytes:
        async with asyncio.timeout(BOUND_S):
            return await self.reader.readexactly(number)


@asynccontextmanager
async def doubling() -> AsyncIterator[tuple[Link, bytearray]]:
    """A link to such a server, and what has reached that."""
    heard = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100):
                heard.extend(data)
                writer.write(data + data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Link(f"tcp://127.0.0.1:{port}").open() as link:
        yield link, heard
    server.close()


@asynccontextmanager
async def through(link: Link) -> AsyncIterator[Line]:
    host, _, port = link.url.removeprefix("tcp://@").removeprefix("tcp://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


async def until_heard(heard: bytearray, data: bytes) -> None:
    async with asyncio.timeout(BOUND_S):
        while bytes(heard) != data:
            await asyncio.sleep(0.01)


async def test_a_link_forwards_both_ways_and_counts() -> None:
    async with doubling() as (link, _), through(link) as line:
        await line.say(b"ab")
        assert await line.hears(4) == b"abab"

        assert (link.passed("up"), link.passed("down")) == (2, 4)


async def test_one_that_is_frozen_on_the_way_back_delivers_and_says_nothing_until_it_is_thawed() -> None:
    async with doubling() as (link, heard), through(link) as line:
        link.freeze("down")
        await line.say(b"a")
        await until_heard(heard, b"a")
        assert link.passed("down") == 0
        link.thaw()

        assert await line.hears(2) == b"aa"


async def test_one_that_is_frozen_on_the_way_there_delivers_nothing_and_keeps_it() -> None:
    async with doubling() as (link, heard), through(link) as line:
        link.freeze("up")
        await line.say(b"a")
        async with through(link) as other:  # new ones hang as well
            await other.say(b"b")
        assert not heard
        link.heal()

        assert await line.hears(2) == b"aa"


async def test_a_reset_is_told_as_one() -> None:
    async with doubling() as (link, _), through(link) as line:
        await line.say(b"a")
        await line.hears(2)
        link.reset()

        with pytest.raises(ConnectionResetError):
            await line.hears(1)


async def test_one_that_refuses_ends_what_comes_until_it_is_healed() -> None:
    async with doubling() as (link, _):
        link.refuse()
        async with through(link) as line:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await line.hears(1)
        link.heal()
        async with through(link) as line:
            await line.say(b"a")
            assert await line.hears(2) == b"aa"


async def test_a_cut_comes_in_the_middle_of_what_is_sent() -> None:
    async with doubling() as (link, heard), through(link) as line:
        link.cut_after(3, "up")
        await line.say(b"abcdef")

        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await line.hears(12)
        assert bytes(heard) in {b"", b"abc"}
        assert link.passed("up") == 3


async def test_a_slow_one_delivers_piece_by_piece() -> None:
    async with doubling() as (link, heard), through(link) as line:
        link.slow(0.001, piece=1)
        await line.say(b"abc")

        async with asyncio.timeout(BOUND_S):
            while len(heard) < 3:
                await asyncio.sleep(0.001)
        assert len(await line.hears(6)) == 6


def test_links_of_a_thread_of_their_own_are_changed_from_outside() -> None:
    with links_to(["tcp://127.0.0.1:1"]) as [link]:
        link.do(lambda there: there.freeze("up"))
        link.do(Link.heal)

        assert link.url.endswith(tuple("0123456789"))
