"""What becomes of the proof of a log whose old segments are dropped, on every database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from control_plane.commands.authority import Keyring
from control_plane.errors import LogDamagedError, NotFoundError
from control_plane.events import hosts
from control_plane.events.checkpoints import CheckpointFile, Checkpoints
from control_plane.events.envelope import HEARTBEAT_EVENT
from control_plane.events.log import EventLog
from control_plane.events.tiles import StoredTree
from control_plane.events.verification import Report, Verification
from control_plane.processes.checkpoints import Signer
from control_plane.projections.upkeep import Done, maintain
from control_plane.storage import tables
from control_plane.storage.tables import heartbeat_event, log_segment, log_tile
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.transport.inprocess import InProcessBroker
from tests.support.fleet import CONTROL_PLANE_KEY
from tests.support.plane import Plane, a_plane

DAY_S = 86_400


class ProofContract:
    @pytest.fixture
    async def plane(self, url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plane]:
        monkeypatch.setitem(tables.SEGMENT_ROWS, "heartbeat_event", 100)  # type: ignore[arg-type] # a dict all the same
        async with a_plane(url, InProcessBroker().transport()) as plane:
            await self.make_small_segments(plane)
            await plane.register("web1")
            yield plane

    async def make_small_segments(self, plane: Plane) -> None:
        """Where the database knows segments: the first ends at 100, and so on."""

    @staticmethod
    async def beats(plane: Plane, first: int, last: int) -> None:
        def beat(sequence: int) -> hosts.HeartbeatReceived:
            message: JsonObject = {"hostname": "web1", "status": "online", "timestamp": plane.clock.now_s()}
            message |= {"cpu_usage": 0.5, "memory_usage": 0.5, "boot_id": "b1", "sequence": sequence}
            return hosts.HeartbeatReceived(message=message)

        await plane.log.append([beat(sequence).to_new_event() for sequence in range(first, last + 1)])
        await plane.shown()

    @staticmethod
    def checkpoints(plane: Plane) -> Checkpoints:
        return Checkpoints(plane.database, installation="1", public_keys=Keyring(CONTROL_PLANE_KEY).public_keys)

    async def sign(self, plane: Plane, directory: Path) -> None:
        """As a process does that has just started: all is read from the database."""
        async with EventLog.open(plane.database, clock=plane.clock) as log:
            signer = Signer(
                HEARTBEAT_EVENT,
                log,
                StoredTree(plane.database, HEARTBEAT_EVENT),
                self.checkpoints(plane),
                CheckpointFile(directory, HEARTBEAT_EVENT),
                Keyring(CONTROL_PLANE_KEY),
                plane.clock,
                count=lambda _what, _number: None,
            )
            assert await signer.look()

    async def verify(self, plane: Plane) -> Report:
        verification = Verification(plane.database, plane.log, self.checkpoints(plane), HEARTBEAT_EVENT, None)
        return await verification.run(progress=lambda _done, _total: None)

    @staticmethod
    async def upkeep(plane: Plane, directory: Path) -> Done:
        plane.clock.advance(8 * DAY_S)
        done = await maintain(plane.database, heartbeat_days=7, archive_dir=directory / "archive", clock=plane.clock)
        assert done is not None
        return done

    async def test_no_more_is_dropped_than_is_signed_and_in_tiles(self, plane: Plane, tmp_path: Path) -> None:
        await self.beats(plane, 1, 350)
        await self.sign(plane, tmp_path)

        done = await self.upkeep(plane, tmp_path)

        assert [dropped.last_seq for dropped in done.dropped] == [100, 200]
        assert done.waits == "checkpoints is at 256, and the segment ends at 300"

    async def test_what_was_signed_before_it_was_dropped_is_verified_proved_and_signed_on(
        self, plane: Plane, tmp_path: Path
    ) -> None:
        await self.beats(plane, 1, 150)
        await self.sign(plane, tmp_path)
        await self.beats(plane, 151, 350)
        plane.clock.advance(10)
        await self.sign(plane, tmp_path)
        await self.upkeep(plane, tmp_path)
        await self.beats(plane, 351, 600)
        await self.sign(plane, tmp_path)

        report = await self.verify(plane)

        assert (report.first, report.last, report.dropped, report.findings) == (201, 600, 200, [])
        checkpoints = self.checkpoints(plane)
        for seq in (200, 201, 600):  # the first one is kept
            checkpoint, event = (await checkpoints.prove(HEARTBEAT_EVENT, seq)).check([CONTROL_PLANE_KEY.public_key])
            assert (checkpoint.size, event.seq) == (600, seq)
        with pytest.raises(NotFoundError, match="dropped with its segment"):
            await checkpoints.prove(HEARTBEAT_EVENT, 7)

    async def test_who_begins_to_sign_after_a_drop_starts_behind_it(self, plane: Plane, tmp_path: Path) -> None:
        await self.beats(plane, 1, 300)
        assert len((await self.upkeep(plane, tmp_path)).dropped) == 3
        assert (await self.verify(plane)).findings == []
        await self.beats(plane, 301, 320)
        await self.sign(plane, tmp_path)
        assert (await self.verify(plane)).findings == []
        await self.beats(plane, 321, 800)
        plane.clock.advance(10)
        await self.sign(plane, tmp_path)
        await self.beats(plane, 801, 820)
        plane.clock.advance(10)

        await self.sign(plane, tmp_path)

        report = await self.verify(plane)
        assert (report.first, report.signed, report.findings) == (301, 820, [])
        async with plane.database.read() as connection:
            known = select(log_tile.c.idx, func.length(log_tile.c.leaves) > 0).order_by(log_tile.c.idx)
            assert [tuple(row) for row in await connection.execute(known)] == [(1, 0), (2, 1)]

    async def test_a_hole_behind_what_was_dropped_is_found(self, plane: Plane, tmp_path: Path) -> None:
        await self.beats(plane, 1, 350)
        await self.sign(plane, tmp_path)
        await self.upkeep(plane, tmp_path)
        async with plane.database.write() as connection:
            await connection.exec_driver_sql("DROP TRIGGER heartbeat_event_no_delete")
            await connection.execute(heartbeat_event.delete().where(heartbeat_event.c.seq == 234))

        assert [(found.fault, found.first, found.last) for found in (await self.verify(plane)).findings] == [
            ("gap", 234, 234)
        ]

    @pytest.mark.parametrize("tree", [bytes(128), b"short"])
    async def test_another_tree_of_what_was_dropped_is_found_and_never_signed(
        self, plane: Plane, tmp_path: Path, tree: bytes
    ) -> None:
        await self.beats(plane, 1, 350)
        await self.upkeep(plane, tmp_path)
        await self.beats(plane, 351, 360)
        await self.sign(plane, tmp_path)
        async with plane.database.write() as connection:
            is_last = log_segment.c.last_seq == 300
            await connection.execute(log_segment.update().where(is_last).values(tree=tree))

        assert {found.fault for found in (await self.verify(plane)).findings} == {"hash"}
        await self.beats(plane, 361, 370)
        plane.clock.advance(10)
        with pytest.raises(LogDamagedError):
            await self.sign(plane, tmp_path)


class TestSqliteProof(ProofContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"


@pytest.mark.mysql
class TestMysqlProof(ProofContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url

    async def make_small_segments(self, plane: Plane) -> None:
        small = ", ".join(f"PARTITION p{n} VALUES LESS THAN ({n * 100 + 1})" for n in range(1, 10))
        async with plane.database.write() as connection:
            await connection.exec_driver_sql(
                f"ALTER TABLE heartbeat_event REORGANIZE PARTITION p1, p2, p3, p4, pmax INTO ({small}, "
                "PARTITION pmax VALUES LESS THAN MAXVALUE)"
            )
