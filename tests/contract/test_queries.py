"""What is asked about the read tables, on every database: the answer is the same."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import insert

from control_plane.host_query import STATES, parse
from control_plane.projections.folding import create_tables
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.queries import host_filters
from control_plane.projections.queries.host_filters import HostFilter
from control_plane.projections.queries.hosts import HostQueries
from control_plane.projections.queries.tasks import TaskQueries
from control_plane.projections.tasks import TasksProjection
from control_plane.projections.usage import Usage, block_of, packed
from control_plane.storage.engine import Database
from tests.support.database import migrated, sqlite_url

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "query.json").read_text())
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US


def usages(number: int, *, every_s: int) -> list[Usage]:
    return [
        Usage(recorded_us=(1 + n) * every_s * SECOND_US, seq=n, cpu_usage=n % 7 / 8, memory_usage=n % 5 / 8)
        for n in range(number)
    ]


def a_row(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a fold would have made of the log of such a host."""
    is_heard = said["basic"] or said["agent_version"] is not None
    facts = {name: said[name] for name in ("os", "agent_version") if said[name] is not None}
    return {
        "hostname": said["hostname"],
        "state": said["state"],
        "groups": said["groups"],
        "labels": said["labels"],
        "maintenance": int(said["maintenance"]),
        "quarantined_us": None if said["quarantine"] is None else 1,
        "quarantine_reason": None if said["quarantine"] is None else said["quarantine"]["reason"],
        "groups_bound": ["another"] if said["drift"] else None,
        "heartbeat": orjson.dumps(facts) if is_heard else None,
        "last_heartbeat_us": 1 if is_heard else None,
        **dict.fromkeys(("state_since_us", "registered_us", "lifted_us", "heartbeat_seq", "usage_pos"), 0),
        "superseded": [],
        "pos": 1,
    }


class QueryContract:
    @pytest.fixture
    async def database(self, url: str) -> AsyncIterator[Database]:
        async with migrated(url) as database:
            await create_tables(database, HostsProjection())
            yield database

    async def keep(self, database: Database, hostname: str, kept: Sequence[Usage]) -> None:
        blocks: dict[int, bytes] = {}
        for usage in kept:
            since_us = block_of(usage.recorded_us)
            blocks[since_us] = blocks.get(since_us, b"") + packed(*usage)
        rows = [[hostname.encode(), since_us, data] for since_us, data in blocks.items()]
        async with database.write() as connection:
            await database.dialect.bulk_insert(connection, HostsProjection().usage, rows)

    async def test_a_long_history_is_thinned_over_all_of_its_time(self, database: Database) -> None:
        kept = usages(30_000, every_s=10)
        await self.keep(database, "web1", kept)
        times = {"from_us": 0, "to_us": 2 * kept[-1].recorded_us}

        thinned = await HostQueries(database).usage("web1", **times, points=300)

        part_us = (kept[-1].recorded_us - kept[0].recorded_us) // 300 + 1
        newest = {(usage.recorded_us - kept[0].recorded_us) // part_us: usage for usage in kept}
        assert thinned == list(newest.values())
        assert (len(thinned), thinned[-1]) == (300, kept[-1])

    async def test_a_history_that_needs_no_thinning_is_whole(self, database: Database) -> None:
        kept = usages(40, every_s=1)
        await self.keep(database, "web1", kept)
        await self.keep(database, "web2", usages(50, every_s=1))
        times = {"from_us": kept[5].recorded_us, "to_us": 3600 * SECOND_US}
        queries = HostQueries(database)

        assert await queries.usage("web1", **times, points=35) == kept[5:]
        assert await queries.usage("web1", **times, points=7) == kept[9::5]
        assert await queries.usage("web1", **times, points=1) == kept[-1:]
        assert await queries.usage("web1", from_us=2 * SECOND_US, to_us=SECOND_US, points=1) == []
        assert await queries.usage("web3", **times, points=1) == []

    async def test_a_part_of_a_history_ends_at_its_last_microsecond(self, database: Database) -> None:
        at_us = (1, DAY_US, DAY_US + 1, 2 * DAY_US)
        kept = [Usage(recorded_us=us, seq=1, cpu_usage=0.5, memory_usage=0.5) for us in at_us]
        await self.keep(database, "web1", kept)

        assert await HostQueries(database).usage("web1", from_us=0, to_us=at_us[-1], points=2) == kept[1::2]

    async def put(self, database: Database, *rows: Mapping[str, Any]) -> None:
        """Hosts as `GET /hosts` gives them, as rows of the read table."""
        table = HostsProjection().host
        async with database.write() as connection:
            await connection.execute(insert(table), [a_row(row) for row in rows])

    async def found(self, queries: HostQueries, wanted: HostFilter) -> list[str]:
        """Page by page; each page has the same numbers, which are of all that match."""
        names: list[str] = []
        told, cursor = set(), None
        while cursor is not None or not told:
            page = await queries.page(wanted, cursor=cursor, limit=3)
            assert len(page.items) == 3 or page.next_cursor is None
            names += [host.hostname for host in page.items]
            told.add((page.total, tuple(sorted(page.counts.items()))))
            cursor = page.next_cursor
        [(total, counts)] = told
        assert total == len(names)
        assert sum(number for state, number in counts if state in wanted.states) == total
        return names

    async def test_a_query_finds_what_the_vectors_say(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host_filters, "BLOCK", 4)
        await self.put(database, *VECTORS["hosts"])
        queries = HostQueries(database)
        for vector in VECTORS["queries"]:
            if "error" in vector:
                continue
            query = parse(vector["q"])

            every = await self.found(queries, HostFilter(q=query, state=STATES))
            shown = await self.found(queries, HostFilter(q=query))
            of_web = await self.found(queries, HostFilter(q=query, state=("online", "revoked"), group="web"))

            assert every == vector["matches"], vector["q"]
            assert shown == [name for name in every if name != "old1" or "state:retired" in vector["q"]]
            assert of_web == [name for name in every if name in {"gone1", "web1", "web2"}]

    async def test_a_query_finds_nobody_who_is_out_of_the_readers_sight(self, database: Database) -> None:
        await self.put(database, *VECTORS["hosts"])
        queries = HostQueries(database, frozenset({"web1", "db1.eu"}))

        for text in ("", "state:online", "label:env=prod", "-os:*nothing*"):
            assert await self.found(queries, HostFilter(q=parse(text))) == ["db1.eu", "web1"], text

    async def test_any_number_of_executions_may_be_asked_for_their_end(self, database: Database) -> None:
        await create_tables(database, TasksProjection())
        assert await TaskQueries(database).ended([(f"t{number}", "web1") for number in range(3000)]) == []
        assert await TaskQueries(database).ended([]) == []


class TestSqliteQueries(QueryContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


@pytest.mark.mysql
class TestMysqlQueries(QueryContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url
