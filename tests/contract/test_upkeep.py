"""What the upkeep of the logs promises, on every database: old segments go, and nothing that follows from them does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from control_plane.cli import main
from control_plane.errors import FoldError, LogDamagedError, StorageUnavailableError
from control_plane.events import hosts
from control_plane.events.archive import check
from control_plane.events.batch import row_of_stored
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.log import EventLog
from control_plane.events.merkle import CompactRange, leaf_hash
from control_plane.events.segments import Rooms, plan_ahead, room
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.positions import Positions
from control_plane.projections.queries.host_filters import HostFilter
from control_plane.projections.queries.hosts import HostQueries, HostView
from control_plane.projections.queries.past import Past
from control_plane.projections.queries.scopes import EVERYTHING
from control_plane.projections.rebuild import rebuild, roll_back
from control_plane.projections.trimming import LONGER_US
from control_plane.projections.upkeep import Done, maintain
from control_plane.projections.usage import BLOCK_US
from control_plane.storage import tables
from control_plane.storage.leases import Leases
from control_plane.storage.tables import follower, heartbeat_event, heartbeat_kept, heartbeat_key, log_segment
from control_plane_wire import strict_json
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.database import an_event
from tests.support.plane import Plane, a_plane

DAY_S = 86_400


class UpkeepContract:
    @pytest.fixture
    async def plane(self, url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plane]:
        monkeypatch.setitem(tables.SEGMENT_ROWS, "heartbeat_event", 10)  # type: ignore[arg-type] # a dict all the same
        monkeypatch.setattr("control_plane.projections.trimming.ROWS_AT_ONCE", 1)
        monkeypatch.setattr("control_plane.events.segments.PAGE", 7)
        monkeypatch.setattr("control_plane.storage.sqlite.DELETED_ROWS", 4)
        async with a_plane(url, InProcessBroker().transport()) as plane:
            await self.make_small_segments(plane)
            yield plane

    async def make_small_segments(self, plane: Plane) -> None:
        """Where the database knows segments: the first ends at 10, and so on."""

    # --- what happens

    @staticmethod
    async def beat(plane: Plane, hostname: str, sequence: int, *, boot: str = "b1", **said: Any) -> int:
        message: JsonObject = {
            "hostname": hostname,
            "status": "online",
            "timestamp": plane.clock.now_s(),
            "cpu_usage": sequence / 100,
            "memory_usage": 0.5,
            "agent_version": "1.0",
            "boot_id": boot,
            "sequence": sequence,
            **said,
        }
        plane.clock.advance(1)
        [outcome] = await plane.log.append([hosts.HeartbeatReceived(message=message).to_new_event()])
        return outcome.seq

    async def a_week(self, plane: Plane) -> None:
        """26 heartbeats of three hosts within two hours, and after eight days 8 more; one host is not heard again."""
        await plane.register("gone", "web1", "web2")
        await self.beat(plane, "gone", 1)
        await self.beat(plane, "gone", 2, boot="b2")
        for sequence in range(1, 13):
            for hostname in ("web1", "web2"):
                await self.beat(plane, hostname, sequence, boot=f"b{sequence // 5}")
            plane.clock.advance(1800 if sequence <= 4 else 0)
        plane.clock.advance(8 * DAY_S)
        for sequence in range(13, 17):
            for hostname in ("web1", "web2"):
                await self.beat(plane, hostname, sequence, boot="b2")
        await plane.shown()

    @staticmethod
    async def upkeep(plane: Plane, directory: Path, **given: Any) -> Done:
        arguments: dict[str, Any] = {"heartbeat_days": 7, "archive_dir": directory, "clock": plane.clock, **given}
        done = await maintain(plane.database, **arguments)
        assert done is not None
        return done

    @staticmethod
    async def rebuilds_equal(plane: Plane) -> None:
        for projection in PROJECTIONS:
            for compared in await rebuild(projection, plane.database, plane.log, then="drop"):
                assert compared.is_equal, compared

    @staticmethod
    async def rows(plane: Plane, table: Any) -> list[tuple[Any, ...]]:
        async with plane.database.read() as connection:
            found = await connection.execute(select(table).order_by(*table.primary_key.columns))
            return [tuple(row) for row in found]

    # --- what is promised

    async def test_old_segments_go_and_the_rows_that_follow_from_them_stay(self, plane: Plane, tmp_path: Path) -> None:
        await self.a_week(plane)
        projection = HostsProjection()
        shown = await self.rows(plane, projection.host)
        blocks = await self.rows(plane, projection.usage)
        assert len(blocks) == 13

        done = await self.upkeep(plane, tmp_path)

        assert [(dropped.first_seq, dropped.last_seq) for dropped in done.dropped] == [(1, 10), (11, 20)]
        assert (done.waits, done.trimmed) == (None, 5)
        assert [row[0] for row in await self.rows(plane, heartbeat_event)] == list(range(21, 35))
        assert sorted(row[-1] for row in await self.rows(plane, heartbeat_key)) == list(range(21, 35))
        assert await self.rows(plane, projection.host) == shown
        floor_us = done.dropped[-1].last_us + 1
        kept = [block for block in blocks if block[1] + BLOCK_US + LONGER_US > floor_us]
        assert await self.rows(plane, projection.usage) == kept
        assert min(block[1] for block in kept) < floor_us - BLOCK_US, "the last hour before stays"
        await self.rebuilds_equal(plane)
        again = await self.upkeep(plane, tmp_path)
        assert (again.dropped, again.trimmed) == ([], 0)

    async def test_what_hosts_said_before_is_told_from_what_was_kept_and_from_when_on_it_is_exact(
        self, plane: Plane, tmp_path: Path
    ) -> None:
        shown: dict[str, dict[str, HostView]] = {}

        async def note() -> str:
            await plane.shown()
            heads = [(await plane.log.head(name)).seq for name in (EVENT, HEARTBEAT_EVENT)]
            position = str(Positions(*heads))
            page = await plane.host_queries.page(HostFilter(), cursor=None, limit=10)
            shown[position] = {host.hostname: host for host in page.items}
            return position

        await plane.register("gone", "never", "web1")
        await self.comes(plane, "gone", 1)
        first = await note()
        await self.comes(plane, "web1", 1)
        for sequence in range(2, 15):
            await self.beat(plane, "web1", sequence)
        before = await note()
        plane.clock.advance(8 * DAY_S)
        for sequence in range(15, 26):
            await self.beat(plane, "web1", sequence)
        later = await note()
        await self.beat(plane, "gone", 2)
        last = await note()

        done = await self.upkeep(plane, tmp_path)

        assert [dropped.last_seq for dropped in done.dropped] == [10]
        kept_from_us = done.dropped[0].last_us
        told = {position: await self.told(plane, position) for position in shown}
        for position in (before, later, last):
            assert told[position] == shown[position], position
        assert told[first] == {**shown[first], "gone": replace(shown[first]["gone"], exact_from_us=kept_from_us)}
        midst = await self.told(plane, f"{before.partition('.')[0]}.h7")
        assert midst["web1"].exact_from_us == kept_from_us
        assert (midst["web1"].heartbeat_seq, midst["web1"].state) == (2, "online"), "what it came online with"
        assert midst["never"] == shown[last]["never"]

    async def test_what_a_host_that_was_silent_for_long_said_last_is_told_from_what_was_kept(
        self, plane: Plane, tmp_path: Path
    ) -> None:
        await plane.register("web1", "web2")
        await self.comes(plane, "web1", 1)
        for sequence in range(2, 5):
            await self.beat(plane, "web1", sequence)
        plane.clock.advance(7200)
        for sequence in range(1, 8):
            await self.beat(plane, "web2", sequence)
        await plane.shown()
        shown = await plane.host_queries.one("web1")
        await self.beat(plane, "web1", 5)
        plane.clock.advance(8 * DAY_S)
        await self.beat(plane, "web2", 8)
        await plane.shown()

        done = await self.upkeep(plane, tmp_path)

        assert [dropped.last_seq for dropped in done.dropped] == [10]
        assert (await self.told(plane, f"{(await plane.log.head(EVENT)).seq}")).keys() == {"web1", "web2"}
        event_seq = (await plane.log.head(EVENT)).seq
        assert (await self.told(plane, f"e{event_seq}.h11"))["web1"] == shown

    async def test_a_change_of_presence_that_knew_no_heartbeat_is_told_without_one(
        self, plane: Plane, tmp_path: Path
    ) -> None:
        await plane.register("web1")
        stale = hosts.HostWentStale(hostname="web1", heartbeat_seq=0, heartbeat={}, cause="silent")
        [outcome] = await plane.log.append([stale.to_new_event()])
        for sequence in range(1, 11):
            await self.beat(plane, "web1", sequence)
        plane.clock.advance(8 * DAY_S)
        await self.beat(plane, "web1", 11)
        await plane.shown()
        done = await self.upkeep(plane, tmp_path)

        web1 = (await self.told(plane, str(outcome.seq)))["web1"]

        assert (web1.state, web1.last_heartbeat_us) == ("stale", None)
        assert web1.exact_from_us == done.dropped[-1].last_us

    async def test_a_position_of_which_only_the_heartbeats_are_dropped_tells_what_is_not_exact(
        self, plane: Plane, tmp_path: Path
    ) -> None:
        await plane.register("web1")
        for sequence in range(1, 11):
            await self.beat(plane, "web1", sequence)
        plane.clock.advance(8 * DAY_S)
        await self.comes(plane, "web1", 11)
        await plane.shown()
        done = await self.upkeep(plane, tmp_path)

        web1 = (await self.told(plane, f"e{(await plane.log.head(EVENT)).seq}.h5"))["web1"]

        assert (web1.state, web1.heartbeat_seq) == ("online", 11), "what it came online with"
        assert web1.exact_from_us == done.dropped[-1].last_us

    async def comes(self, plane: Plane, hostname: str, sequence: int) -> None:
        """A heartbeat, and that the host is online with it."""
        seq = await self.beat(plane, hostname, sequence)
        stored = await plane.log.read_one(HEARTBEAT_EVENT, seq)
        assert stored is not None
        said = strict_json.parse(stored.body, max_bytes=len(stored.body))
        event = hosts.HostWentOnline(hostname=hostname, heartbeat_seq=seq, heartbeat=said, cause="heartbeat")
        await plane.log.append([event.to_new_event()])

    @staticmethod
    async def told(plane: Plane, at: str) -> dict[str, HostView]:
        past = Past(plane.database, plane.log, plane.clock)
        page = await past.hosts(await past.moment(at), EVERYTHING).page(HostFilter(), cursor=None, limit=10)
        return {host.hostname: host for host in page.items}

    async def test_a_rebuild_that_switches_and_a_projector_from_zero_show_the_same_hosts(
        self, plane: Plane, tmp_path: Path
    ) -> None:
        await self.a_week(plane)
        shown = await self.rows(plane, HostsProjection().host)
        await self.upkeep(plane, tmp_path)

        await rebuild(HostsProjection, plane.database, plane.log, then="switch")
        assert await self.rows(plane, HostsProjection().host) == shown
        async with plane.database.write() as connection:
            is_hosts = follower.c.name == HostsProjection.name
            await connection.execute(update(follower).where(is_hosts).values(version=7, epoch=0))
        await self.beat(plane, "web1", 17, boot="b2")
        await plane.shown()

        await self.rebuilds_equal(plane)
        names = {host.hostname: host for host in await HostQueries(plane.database).registered()}
        assert (names["gone"].facts["boot_id"], names["gone"].heartbeat_seq) == ("b2", 2)

    async def test_tables_of_before_a_rebuild_hold_nothing_back_and_can_be_put_back(
        self, plane: Plane, tmp_path: Path
    ) -> None:
        await plane.register("gone", "web1", "web2")
        await self.beat(plane, "web1", 1, boot="b0")
        await plane.shown()
        await rebuild(HostsProjection, plane.database, plane.log, then="switch")
        await self.a_week(plane)
        shown = await self.rows(plane, HostsProjection().host)
        assert [dropped.last_seq for dropped in (await self.upkeep(plane, tmp_path)).dropped] == [10, 20]

        await roll_back(HostsProjection, plane.database, plane.log)

        assert await self.rows(plane, HostsProjection().host) == shown
        assert [row[1] for row in await self.rows(plane, HostsProjection().usage)] != []
        assert (await self.upkeep(plane, tmp_path)).trimmed == 0
        await self.rebuilds_equal(plane)

    async def test_who_reads_from_the_beginning_gets_the_kept_heartbeats_and_then_all_that_are_there(
        self, plane: Plane, tmp_path: Path
    ) -> None:
        await self.a_week(plane)
        await self.upkeep(plane, tmp_path)

        async with EventLog.open(plane.database) as other:
            seqs, at = [], 0
            while page := await other.read(HEARTBEAT_EVENT, after=at, limit=5):
                seqs += [event.seq for event in page]
                at = seqs[-1]
            kept = [seq for seq in seqs if seq <= 20]
            assert kept == [row[0] for row in await self.rows(plane, heartbeat_kept)] == [1, 2, 9, 10, 19, 20]
            assert seqs == [*kept, *range(21, 35)]
            assert await other.read(HEARTBEAT_EVENT, after=2, upto=8) == []
            assert [event.seq for event in await other.read(HEARTBEAT_EVENT, after=2, upto=9)] == [9]
            assert [event.seq for event in await other.read(HEARTBEAT_EVENT, after=20, upto=22)] == [21, 22]
            gone = await other.read_one(HEARTBEAT_EVENT, 2)
            assert gone is not None
            assert gone.hostname == "gone"
            assert await other.read_one(HEARTBEAT_EVENT, 3) is None
            assert await other.position_at(HEARTBEAT_EVENT, gone.recorded_us) == 20

    async def test_a_hole_behind_what_was_dropped_is_damage(self, plane: Plane, tmp_path: Path) -> None:
        await self.a_week(plane)
        await self.upkeep(plane, tmp_path)
        await self.lose(plane, 24)

        async with EventLog.open(plane.database) as other:
            assert [event.seq for event in await other.read(HEARTBEAT_EVENT, after=20)] == [21, 22, 23]
            with pytest.raises(LogDamagedError) as damage:
                await other.read(HEARTBEAT_EVENT, after=23)
        assert damage.value.seq == 24

    async def test_a_segment_with_a_hole_is_not_dropped(self, plane: Plane, tmp_path: Path) -> None:
        await self.a_week(plane)
        await self.lose(plane, 14)

        with pytest.raises(LogDamagedError):
            await self.upkeep(plane, tmp_path)

        assert [row[0] for row in await self.rows(plane, heartbeat_event)] == [*range(11, 14), *range(15, 35)]
        assert len(files(tmp_path)) == 1

    async def test_archives_and_what_is_left_have_the_tree_of_the_log(self, plane: Plane, tmp_path: Path) -> None:
        await self.a_week(plane)
        everything = await plane.log.read(HEARTBEAT_EVENT, after=0)
        leaves = [leaf_hash(row_of_stored(event)) for event in everything]

        await self.upkeep(plane, tmp_path)

        async with plane.database.read() as connection:
            segments = (await connection.execute(select(log_segment).order_by(log_segment.c.last_seq))).all()
        for segment in segments:
            archived = check(tmp_path / segment.archive)
            assert (archived.root, archived.tree.to_bytes()) == (segment.root, segment.tree)
            assert archived.sha256 == segment.archive_sha256
            assert archived.last_us == segment.last_us
            assert (
                archived.root == CompactRange(0, ()).extended(leaves[segment.first_seq - 1 : segment.last_seq]).root()
            )
        tree = CompactRange.from_bytes(20, segments[-1].tree).extended(leaves[20:])
        assert tree == (await plane.log.head(HEARTBEAT_EVENT)).tree

    async def test_heartbeats_that_are_not_old_stay(self, plane: Plane, tmp_path: Path) -> None:
        await self.a_week(plane)

        done = await self.upkeep(plane, tmp_path, heartbeat_days=9)

        assert done.dropped == []
        assert len(await self.rows(plane, heartbeat_event)) == 34
        assert files(tmp_path) == []

    async def test_nothing_is_dropped_that_a_reader_has_still_to_read(self, plane: Plane, tmp_path: Path) -> None:
        await self.a_week(plane)
        async with plane.database.write() as connection:
            row = {"name": "process:slow", "event_seq": 0, "heartbeat_seq": 15, "epoch": 1, "version": 1}
            await connection.execute(follower.insert().values(**row))

        done = await self.upkeep(plane, tmp_path)

        assert [dropped.last_seq for dropped in done.dropped] == [10]
        assert done.waits == "process:slow is at 15, and the segment ends at 20"

    async def test_a_heartbeat_that_nobody_can_read_keeps_its_segment(self, plane: Plane, tmp_path: Path) -> None:
        await plane.register("web1")
        await plane.log.append([an_event("x", log=HEARTBEAT_EVENT, kind="heartbeat.received", hostname="web1")])
        for sequence in range(1, 12):
            await self.beat(plane, "web1", sequence)
        plane.clock.advance(8 * DAY_S)
        await plane.shown()

        with pytest.raises(FoldError):
            await self.upkeep(plane, tmp_path)

        assert len(await self.rows(plane, heartbeat_event)) == 12
        assert files(tmp_path) == []

    @pytest.mark.parametrize("step", ["check", "_keep", "finish", "delete_keys", "drop_segment", "trim"])
    async def test_an_upkeep_that_dies_at_any_step_is_ended_by_the_next_one(
        self, plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        await self.a_week(plane)
        shown = await self.rows(plane, HostsProjection().host)
        dialect = type(plane.database.dialect)
        target = (
            f"{dialect.__module__}.{dialect.__name__}" if "_" in step.strip("_") else "control_plane.events.segments"
        )
        target = "control_plane.projections.upkeep" if step == "trim" else target
        with monkeypatch.context() as patched:
            patched.setattr(f"{target}.{step}", die)
            with pytest.raises(ZeroDivisionError):
                await self.upkeep(plane, tmp_path)
        await self.rebuilds_equal(plane)

        await self.upkeep(plane, tmp_path)

        assert [row[0] for row in await self.rows(plane, heartbeat_event)] == list(range(21, 35))
        assert sorted(row[-1] for row in await self.rows(plane, heartbeat_key)) == list(range(21, 35))
        assert await self.rows(plane, HostsProjection().host) == shown
        assert len(await self.rows(plane, HostsProjection().usage)) == 8
        assert len(files(tmp_path)) == 2
        await self.rebuilds_equal(plane)

    async def test_readers_in_the_way_are_waited_for(
        self, plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self.a_week(plane)
        drop_segment = plane.database.dialect.drop_segment
        refusals = iter([True, True])

        async def sometimes(*given: Any) -> bool:
            if next(refusals, False):
                raise StorageUnavailableError("a reader is in the way")
            return await drop_segment(*given)

        monkeypatch.setattr(plane.database.dialect, "drop_segment", sometimes)

        done = await self.upkeep(plane, tmp_path)

        assert [dropped.last_seq for dropped in done.dropped] == [10, 20]

    async def test_rebuilds_and_appends_go_on_while_segments_are_dropped(self, plane: Plane, tmp_path: Path) -> None:
        await self.a_week(plane)

        async def go_on() -> None:
            for sequence in range(20, 40):
                await self.beat(plane, "web1", sequence, boot="b2")

        async with asyncio.TaskGroup() as group:
            group.create_task(go_on())
            group.create_task(self.upkeep(plane, tmp_path))
            for _ in range(4):
                await self.rebuilds_equal(plane)

        await plane.shown()
        await self.rebuilds_equal(plane)

    async def test_one_process_at_a_time_does_it(self, plane: Plane, tmp_path: Path) -> None:
        other = Leases(plane.database, owner="another")
        held = await other.acquire("upkeep")
        assert held is not None
        given: dict[str, Any] = {"heartbeat_days": 7, "archive_dir": tmp_path, "clock": plane.clock}

        assert await maintain(plane.database, **given) is None

        await other.release(held)
        assert await maintain(plane.database, **given) is not None

    async def test_segments_are_planned_before_they_are_needed(self, plane: Plane) -> None:
        """Where they have to be: a segment that is a mere range needs no plan, and never fills."""
        await plane.register("web1")
        await plan_ahead(plane.database, HEARTBEAT_EVENT)
        for sequence in range(1, 48):
            await self.beat(plane, "web1", sequence)

        new = await plan_ahead(plane.database, HEARTBEAT_EVENT)

        assert new in ([], [50, 60, 70, 80, 90])
        assert await plan_ahead(plane.database, HEARTBEAT_EVENT) == []
        assert await room(plane.database, HEARTBEAT_EVENT) >= 40
        async with plane.database.read() as connection:
            assert await connection.scalar(select(func.count()).select_from(heartbeat_event)) == 47

    def test_it_is_done_and_its_archives_are_checked_on_the_command_line(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(tables.SEGMENT_ROWS, "heartbeat_event", 10)  # type: ignore[arg-type] # a dict all the same
        monkeypatch.setenv("CONTROL_PLANE_DATABASE_URL", url)
        monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path))

        async def prepare() -> None:
            async with a_plane(url, InProcessBroker().transport()) as plane:
                await self.make_small_segments(plane)
                await self.a_week(plane)

        asyncio.run(prepare())

        assert main(["log", "maintain"]) == 0

        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(", root")[0] for line in lines[2:]] == [
            f"heartbeat_event: dropped {first} to {first + 9}" for first in (1, 11, 21)
        ]
        root = lines[2].rpartition(" ")[2]
        file = str(tmp_path / "archive" / files(tmp_path / "archive")[0])
        assert main(["log", "archive-check", file]) == 0
        assert main(["log", "archive-check", file, "--root", root]) == 0
        assert root in capsys.readouterr().out
        assert main(["log", "archive-check", file, "--root", "00" * 32]) == 1
        Path(file).write_bytes(Path(file).read_bytes()[:-9])
        assert main(["log", "archive-check", file]) == 1
        assert "line 13" in capsys.readouterr().err
        assert main(["log", "archive-check", str(tmp_path / "none")]) == 1

    @staticmethod
    async def lose(plane: Plane, seq: int) -> None:
        """What only somebody with an administrator's rights can do."""
        async with plane.database.write() as connection:
            await connection.exec_driver_sql("DROP TRIGGER heartbeat_event_no_delete")
            await connection.execute(heartbeat_event.delete().where(heartbeat_event.c.seq == seq))


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def die(*_: object, **__: object) -> None:
    raise ZeroDivisionError


class TestSqliteUpkeep(UpkeepContract):
    @pytest.fixture
    def url(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        return f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('db') / 'test.db'}"


@pytest.mark.mysql
class TestMysqlUpkeep(UpkeepContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url

    async def make_small_segments(self, plane: Plane) -> None:
        small = ", ".join(f"PARTITION p{n} VALUES LESS THAN ({n * 10 + 1})" for n in range(1, 4))
        async with plane.database.write() as connection:
            await connection.exec_driver_sql(
                f"ALTER TABLE heartbeat_event REORGANIZE PARTITION p1, p2, p3, p4, pmax INTO ({small}, "
                "PARTITION pmax VALUES LESS THAN MAXVALUE)"
            )

    async def test_little_room_is_told_in_time(
        self, plane: Plane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        await plane.register("web1")
        rooms = Rooms(plane.database)
        assert await rooms.look() == {"event": 40_000_000 - 1, "heartbeat_event": 30}
        assert await rooms.check() is None
        for sequence in range(1, 23):
            await self.beat(plane, "web1", sequence)
        assert await rooms.check() is None, "it does not ask all the time"

        monkeypatch.setattr("control_plane.events.segments.LOOK_S", 0.0)

        told = "heartbeat_event has room for 8 events: does `control-plane log maintain` run?"
        assert await rooms.check() == told
        assert told in {record.__dict__.get("cause") for record in caplog.records}
        await plan_ahead(plane.database, HEARTBEAT_EVENT)
        assert await rooms.check() is None

    async def test_what_went_where_nothing_was_planned_finds_its_segment_afterwards(
        self, plane: Plane, tmp_path: Path
    ) -> None:
        await plane.register("web1")
        for sequence in range(1, 56):
            await self.beat(plane, "web1", sequence)
        await plane.shown()
        assert await room(plane.database, HEARTBEAT_EVENT) == 0
        plane.clock.advance(8 * DAY_S)

        done = await self.upkeep(plane, tmp_path)

        assert done.room[HEARTBEAT_EVENT] >= 40
        assert [dropped.last_seq for dropped in done.dropped] == [10, 20, 30, 40, 50]
        assert [row[0] for row in await self.rows(plane, heartbeat_event)] == list(range(51, 56))
        await self.rebuilds_equal(plane)
