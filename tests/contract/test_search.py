"""Finding events in the log and writing them out, on every database, and by the command line."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from control_plane.cli import main
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.log import EventLog
from control_plane.events.search import Wanted, newest, search
from control_plane.storage.engine import Database
from tests.support.clock import START_US, ManualClock
from tests.support.database import an_event, migrated, sqlite_url

SECOND = 1_000_000
FILTERS: dict[str, tuple[Wanted, list[int]]] = {
    "all": (Wanted(), list(range(1, 41))),
    "a kind": (Wanted(kind="task.accepted"), [1, 5, 9, 13, 17, 21, 25, 29, 33, 37]),
    "a family": (Wanted(kind="host"), list(range(3, 41, 4))),
    "no family": (Wanted(kind="hos"), []),
    "a host": (Wanted(hostname="web1"), list(range(2, 41, 3))),
    "a task": (Wanted(task_id="t9"), [10]),
    "nobody": (Wanted(actor="user:bob"), []),
    "after": (Wanted(after=36), [37, 38, 39, 40]),
    "times": (Wanted(from_us=START_US + 10 * SECOND, to_us=START_US + 12 * SECOND), [11, 12, 13]),
    "several": (Wanted(kind="host", hostname="web1", after=20, to_us=START_US + 34 * SECOND), [23, 35]),
}


class SearchContract:
    @pytest.fixture
    async def database(self, url: str) -> AsyncIterator[Database]:
        async with migrated(url) as database:
            yield database

    @pytest.fixture
    async def log(self, database: Database) -> AsyncIterator[EventLog]:
        clock = ManualClock()
        async with EventLog.open(database, clock=clock) as log:
            await fill(log, clock)
        async with EventLog.open(database) as reader:
            yield reader

    @pytest.mark.parametrize("name", FILTERS)
    async def test_what_is_wanted_is_found_in_its_order(
        self, database: Database, log: EventLog, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("control_plane.events.search.WINDOW", 7)
        monkeypatch.setattr("control_plane.events.search.EVENTS_A_READ", 3)
        wanted, seqs = FILTERS[name]
        told: list[tuple[int, int]] = []

        def progress(done: int, total: int) -> None:
            told.append((done, total))

        pages = [page async for page in search(database, log, EVENT, wanted, progress=progress)]

        assert [event.seq for page in pages for event in page] == seqs
        assert all(len(page) <= 3 for page in pages)
        assert told == sorted(told)
        assert told[-1][0] == told[-1][1]
        everything = await log.read(EVENT, after=0)
        assert [event.seq for event in everything if wanted.matches(event)] == seqs
        assert [event.seq for event in await newest(database, log, EVENT, wanted, limit=3)] == seqs[-3:]

    async def test_large_bodies_come_one_by_one(
        self, database: Database, log: EventLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("control_plane.events.search.PAGE_BYTES", 10_000)
        sizes = [4000, 4000, 4000, 20_000, 10]
        await log.append([an_event(f"large{n}", body=bytes(size)) for n, size in enumerate(sizes)])

        pages = [page async for page in search(database, log, EVENT, Wanted(after=40))]

        assert [[len(event.body) for event in page] for page in pages] == [[4000, 4000], [4000], [20_000], [10]]

    async def test_heartbeats_are_found_too(self, database: Database, log: EventLog) -> None:
        await log.append([an_event("h", log=HEARTBEAT_EVENT, hostname="web1")])

        assert [len(page) async for page in search(database, log, HEARTBEAT_EVENT, Wanted(hostname="web1"))] == [1]

    def test_the_command_line_shows_and_exports(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        monkeypatch.setenv("CONTROL_PLANE_DATABASE_URL", url)

        async def prepare() -> None:
            clock = ManualClock()
            async with migrated(url) as database, EventLog.open(database, clock=clock) as log:
                await fill(log, clock)
                await log.append([an_event("h", log=HEARTBEAT_EVENT)])

        def run(*argv: str) -> bytes:
            assert main(["events", *argv]) == 0
            return capfdbinary.readouterr().out

        asyncio.run(prepare())
        capfdbinary.readouterr()

        lines = run("tail", "--kind", "host", "--lines", "2").decode().splitlines()
        assert [line.split()[0] for line in lines] == ["35", "39"]
        shown = json.loads(run("show", "10"))
        assert (shown["seq"], shown["task_id"], shown["body"]) == (10, "t9", {"n": 9})
        assert json.loads(run("show", "1", "--heartbeats"))["task_id"] == "h"
        exported = run("export", "--after", "37", "--from", "2023-11-14T22:13:20Z", "--to", "2033-11-14")
        assert [json.loads(line)["seq"] for line in exported.splitlines()] == [38, 39, 40]
        assert run("export", "--format", "csv", "--host", "web1", "--out", str(tmp_path / "out.csv")) == b""
        rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
        assert [row["seq"] for row in rows] == [str(seq) for seq in FILTERS["a host"][1]]
        assert [path.name for path in tmp_path.glob("*out*")] == ["out.csv"]
        assert main(["events", "show", "41"]) == 1
        assert main(["events", "export", "--out", str(tmp_path / "none/out.csv")]) == 2
        assert b"none/out.csv cannot be written: No such file or directory" in capfdbinary.readouterr().err
        with pytest.raises(SystemExit):
            main(["events", "tail", "--from", "yesterday"])
        for kind in ("nosuch", "host.nosuch", "hos", "host."):
            assert main(["events", "tail", "--kind", kind]) == 2, kind
        assert b"yesterday is no time such as 2026-01-31T12:00:00Z" in capfdbinary.readouterr().err


async def fill(log: EventLog, clock: ManualClock) -> None:
    """Forty events, one a second, of four kinds."""
    kinds: Mapping[int, str] = {0: "task.accepted", 1: "execution.sent", 2: "host.registered", 3: "key.added"}
    for n in range(40):
        hostname = "web1" if n % 3 == 1 else None
        await log.append([an_event(f"t{n}", kind=kinds[n % 4], hostname=hostname, body=b'{"n":%d}' % n)])
        clock.advance(1)


class TestSqliteSearch(SearchContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


@pytest.mark.mysql
class TestMysqlSearch(SearchContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url
