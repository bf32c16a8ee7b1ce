"""What is kept for proofs, on every database: tiles, checkpoints, and the proofs that are made of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.errors import LogDamagedError, NotFoundError, RefusedError
from control_plane.events.checkpoints import Checkpoints, Signed
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.log import EventLog
from control_plane.events.merkle import consistency_spans, inclusion_spans, verify_consistency, verify_inclusion
from control_plane.events.pages import LARGE_BYTES
from control_plane.events.tiles import EMPTY, TILE, GrowingTree, StoredTree, Tile, hashes_of_events
from control_plane.storage.engine import Database
from control_plane_wire.checkpoints import Checkpoint, sign
from control_plane_wire.signing import SigningKey
from tests.support.clock import START_US
from tests.support.database import an_event, migrated, sqlite_url

KEY = SigningKey.from_bytes(b"\x11" * 32)
OTHER = SigningKey.from_bytes(b"\x12" * 32)
EVENTS = 3 * TILE + 40
LARGE = (5, TILE + 9, EVENTS)


class ProofContract:
    @pytest.fixture
    async def database(self, url: str) -> AsyncIterator[Database]:
        async with migrated(url) as database:
            yield database

    @pytest.fixture
    async def log(self, database: Database) -> AsyncIterator[EventLog]:
        """A log of some tiles and a rest, with a few bodies that are read by themselves."""
        async with EventLog.open(database) as log:
            events = [
                an_event(f"t{seq}", hostname="web1", body=b"x" * (LARGE_BYTES if seq in LARGE else seq))
                for seq in range(1, EVENTS + 1)
            ]
            for start in range(0, EVENTS, 500):
                await log.append(events[start : start + 500])
            yield log

    @pytest.fixture
    async def leaves(self, database: Database, log: EventLog) -> list[bytes]:
        async with database.read() as connection:
            hashes = await hashes_of_events(connection, database, EVENT, 0, EVENTS)
        leaves = [hashes[seq] for seq in range(1, EVENTS + 1)]
        assert EMPTY.extended(leaves) == (await log.head(EVENT)).tree
        return leaves

    @pytest.fixture
    def checkpoints(self, database: Database) -> Checkpoints:
        return Checkpoints(database, installation="1", public_keys={KEY.key_id: KEY.public_key})

    def signed(self, leaves: list[bytes], size: int, *, key: SigningKey = KEY) -> Signed:
        checkpoint = Checkpoint("control-plane-1/event", size, EMPTY.extended(leaves[:size]).root())
        return Signed(checkpoint, sign(checkpoint, key), START_US)

    @pytest.mark.parametrize("tiled", [0, 2, 3])
    async def test_proofs_and_trees_of_every_size_come_from_the_tiles_and_the_events_beyond_them(
        self, database: Database, checkpoints: Checkpoints, leaves: list[bytes], tiled: int
    ) -> None:
        await checkpoints.put(EVENT, None, GrowingTree(EMPTY).extend(leaves)[:tiled])
        tree = StoredTree(database, EVENT)

        assert await tree.tiles() == tiled
        for size in (1, 255, TILE, TILE + 1, 2 * TILE + 3, EVENTS):
            root = EMPTY.extended(leaves[:size]).root()
            assert (await tree.compact_range(size)) == EMPTY.extended(leaves[:size])
            for index in {0, size // 2, size - 1}:
                proof = await tree.proof(inclusion_spans(index, size))
                assert verify_inclusion(leaves[index], index, size, proof, root)
            for old in {0, size // 3, size - 1, size}:
                proof = await tree.proof(consistency_spans(old, size))
                assert verify_consistency(old, EMPTY.extended(leaves[:old]).root(), size, root, proof)

    async def test_the_other_log_has_a_tree_of_its_own(
        self, database: Database, checkpoints: Checkpoints, leaves: list[bytes]
    ) -> None:
        await checkpoints.put(EVENT, self.signed(leaves, 9), GrowingTree(EMPTY).extend(leaves))

        assert await StoredTree(database, HEARTBEAT_EVENT).tiles() == 0
        assert await checkpoints.newest(HEARTBEAT_EVENT) is None

    async def test_an_event_that_is_gone_is_named(self, database: Database, log: EventLog) -> None:
        with pytest.raises(LogDamagedError) as found:
            await StoredTree(database, EVENT).compact_range(EVENTS + 1)

        assert found.value.seq == EVENTS + 1

    async def test_the_newest_checkpoint_is_the_largest_that_we_signed_of_this_log(
        self, database: Database, checkpoints: Checkpoints, leaves: list[bytes]
    ) -> None:
        for size in (10, 300, 301):
            await checkpoints.put(EVENT, self.signed(leaves, size), [])
        forged = self.signed(leaves, 400, key=OTHER)
        moved = Signed(Checkpoint("x", 500, b""), self.signed(leaves, 300).note)
        garbage = Signed(Checkpoint("x", 600, b""), "garbage")
        of_another = Checkpoint("control-plane-1/heartbeat_event", 700, bytes(32))
        for row in (forged, moved, garbage, Signed(of_another, sign(of_another, KEY))):
            await checkpoints.put(EVENT, row, [])

        assert await checkpoints.newest(EVENT) == self.signed(leaves, 301)
        good, bad = await checkpoints.some(EVENT, most=100)
        assert [signed.size for signed in good] == [10, 300, 301]
        assert bad == [400, 500, 600, 700]

    async def test_the_same_size_again_changes_nothing(self, checkpoints: Checkpoints, leaves: list[bytes]) -> None:
        await checkpoints.put(EVENT, self.signed(leaves, 10), [])
        await checkpoints.put(EVENT, self.signed(leaves, 10, key=OTHER), [])

        assert await checkpoints.newest(EVENT) == self.signed(leaves, 10)

    async def test_an_event_is_proved_with_all_that_it_is(
        self, database: Database, checkpoints: Checkpoints, log: EventLog, leaves: list[bytes]
    ) -> None:
        await checkpoints.put(EVENT, self.signed(leaves, EVENTS - 1), GrowingTree(EMPTY).extend(leaves))

        for seq in (1, 5, TILE, EVENTS - 1):
            proof = await checkpoints.prove(EVENT, seq)
            checkpoint, event = type(proof).parse(proof.to_text()).check([KEY.public_key])
            assert checkpoint == self.signed(leaves, EVENTS - 1).checkpoint
            assert event == await log.read_one(EVENT, seq)
        with pytest.raises(RefusedError, match="not_covered"):
            await checkpoints.prove(EVENT, EVENTS)
        with pytest.raises(NotFoundError):
            await checkpoints.prove(EVENT, EVENTS + 1)

    async def test_a_tile_that_does_not_fit_spoils_no_proof_for_whoever_has_patience(
        self, database: Database, checkpoints: Checkpoints, leaves: list[bytes]
    ) -> None:
        first, *others = GrowingTree(EMPTY).extend(leaves)
        wrong = Tile(first.idx, first.leaves[:-1] + b"?", bytes(32))
        await checkpoints.put(EVENT, self.signed(leaves, EVENTS), [wrong, *others])

        with pytest.raises(RefusedError, match="not_provable"):
            await checkpoints.prove(EVENT, 300)
        proof = await checkpoints.prove(EVENT, 300, is_patient=True)
        assert proof.check([KEY.public_key])[1].seq == 300


class TestSqliteProofs(ProofContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


@pytest.mark.mysql
class TestMysqlProofs(ProofContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url
