"""What the process that signs the logs promises, on every database: above all, what it never signs."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import insert

from control_plane.commands.authority import Keyring
from control_plane.errors import LogDamagedError
from control_plane.events import hosts
from control_plane.events.checkpoints import CheckpointFile, Checkpoints
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.log import EventLog
from control_plane.events.registry import decode
from control_plane.events.tiles import TILE, StoredTree
from control_plane.processes.checkpoints import CheckpointProcess, Signer
from control_plane.processes.witnesses import Witnesses
from control_plane.storage.engine import Database
from control_plane.storage.leases import Leases
from control_plane.storage.tables import event as event_table
from control_plane_wire.checkpoints import Checkpoint, sign
from control_plane_wire.signing import SigningKey
from tests.support.clock import ManualClock
from tests.support.database import an_event, migrated, sqlite_url
from tests.support.fleet import CONTROL_PLANE_KEY
from tests.support.plane import until
from tests.support.tampering import Administrator


class Signing:
    """A log with a signer, and whatever a test wants to know of it."""

    def __init__(self, database: Database, log: EventLog, clock: ManualClock, state_dir: Path) -> None:
        self.database = database
        self.log = log
        self.clock = clock
        self.state_dir = state_dir
        self.keyring = Keyring(CONTROL_PLANE_KEY)
        self.checkpoints = Checkpoints(database, installation="1", public_keys=self.keyring.public_keys)
        self.administrator = Administrator(database)
        self.counts: Counter[str] = Counter()
        self.told: list[str] = []
        self.appended = 0

    def count(self, what: str, number: int) -> None:
        self.counts[what] += number

    def signer(self, state_dir: Path | None = None, *, key: SigningKey = CONTROL_PLANE_KEY) -> Signer:
        """One that has just started: with the file of an earlier one, or on a machine of its own."""
        return Signer(
            EVENT,
            self.log,
            StoredTree(self.database, EVENT),
            self.checkpoints,
            self.file(state_dir),
            Keyring(key),
            self.clock,
            count=self.count,
            tell=self.told.append,
        )

    def file(self, state_dir: Path | None = None) -> CheckpointFile:
        return CheckpointFile(state_dir or self.state_dir, EVENT)

    @asynccontextmanager
    async def restarted(self) -> AsyncIterator[None]:
        """Everything is read from the database, nothing from what this process has appended."""
        before = self.log
        async with EventLog.open(self.database, clock=self.clock) as self.log:
            yield
        self.log = before

    async def append(self, number: int) -> None:
        events = [an_event(f"t{self.appended + n}") for n in range(1, number + 1)]
        self.appended += number
        for start in range(0, number, 500):
            await self.log.append(events[start : start + 500])

    async def checkpoint(self) -> Checkpoint:
        """That of the whole log as it is."""
        tree = (await self.log.head(EVENT)).tree
        return Checkpoint("control-plane-1/event", tree.size, tree.root())

    async def is_refused(self, signer: Signer, match: str) -> None:
        """It does not sign, now or after a restart, and its file stays as it is."""
        before = self.file().read()
        self.clock.advance(10)
        with pytest.raises(LogDamagedError, match=match):
            await signer.look()
        with pytest.raises(LogDamagedError):
            await self.signer().look()
        assert self.file().read() == before


class CheckpointContract:
    @pytest.fixture
    async def signing(self, url: str, tmp_path: Path) -> AsyncIterator[Signing]:
        clock = ManualClock()
        async with migrated(url) as database, EventLog.open(database, clock=clock) as log:
            yield Signing(database, log, clock, tmp_path)

    # --- when it signs, and where that goes

    async def test_what_it_signs_is_in_the_file_in_the_database_and_told(self, signing: Signing) -> None:
        await signing.append(3)

        assert await signing.signer().look()

        note = sign(await signing.checkpoint(), CONTROL_PLANE_KEY)
        assert signing.file().read() == note
        newest = await signing.checkpoints.newest(EVENT)
        assert newest is not None
        assert (newest.note, newest.recorded_us) == (note, signing.clock.now_us())
        assert signing.told == [note]

    async def test_it_signs_after_ten_seconds_or_a_thousand_events(self, signing: Signing) -> None:
        signer = signing.signer()
        assert not await signer.look()  # nothing to sign

        await signing.append(1)
        assert await signer.look()
        await signing.append(999)
        assert not await signer.look()
        signing.clock.advance(9.9)
        assert not await signer.look()
        signing.clock.advance(0.1)
        assert await signer.look()
        await signing.append(1000)
        assert await signer.look()
        signing.clock.advance(3600)
        assert not await signer.look()

        assert [signed.size for signed in (await signing.checkpoints.some(EVENT, most=100))[0]] == [1, 1000, 2000]

    async def test_tiles_are_written_as_they_become_complete_and_are_those_of_the_log(self, signing: Signing) -> None:
        signer, tree = signing.signer(), StoredTree(signing.database, EVENT)
        for number, tiles in ((TILE - 1, 0), (1, 1), (TILE, 2), (2 * TILE + 7, 4)):
            await signing.append(number)
            signing.clock.advance(10)
            assert await signer.look()
            assert await tree.tiles() == tiles
        assert await tree.compact_range(signing.appended) == (await signing.log.head(EVENT)).tree

    async def test_a_restart_goes_on_from_the_file_and_the_tiles(self, signing: Signing) -> None:
        await signing.append(3 * TILE + 5)
        assert await signing.signer().look()
        await signing.append(TILE)

        assert await signing.signer().look()

        assert await StoredTree(signing.database, EVENT).tiles() == 4
        assert signing.file().read() == sign(await signing.checkpoint(), CONTROL_PLANE_KEY)

    async def test_a_log_that_was_there_before_anybody_signed_is_signed_as_it_is(self, signing: Signing) -> None:
        await signing.append(5 * TILE)

        assert await signing.signer().look()

        assert await StoredTree(signing.database, EVENT).tiles() == 5

    async def test_what_was_signed_but_not_stored_is_stored_later(self, signing: Signing) -> None:
        """C1: a crash between the file and the database."""
        await signing.append(TILE)
        note = sign(await signing.checkpoint(), CONTROL_PLANE_KEY)
        signing.file().write(note)

        signer = signing.signer()
        await signer.look()
        newest = await signing.checkpoints.newest(EVENT)
        assert newest is not None
        assert newest.note == note
        await signing.append(1)
        assert await signer.look()
        assert await StoredTree(signing.database, EVENT).tiles() == 1

    # --- other replicas

    async def test_a_replica_without_the_file_goes_on_from_the_newest_row_that_verifies(
        self, signing: Signing, tmp_path: Path
    ) -> None:
        await signing.append(TILE + 1)
        await signing.signer().look()
        await signing.append(5)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()

        assert await signing.signer(elsewhere).look()

        assert signing.file(elsewhere).read() == sign(await signing.checkpoint(), CONTROL_PLANE_KEY)

    async def test_a_replica_with_an_old_file_checks_that_the_log_has_grown_from_it(
        self, signing: Signing, tmp_path: Path
    ) -> None:
        old = tmp_path / "old"
        old.mkdir()
        await signing.append(TILE + 1)
        await signing.signer(old).look()
        await signing.append(TILE)
        await signing.signer().look()
        await signing.append(1)

        assert await signing.signer(old).look()

    async def test_a_replica_does_not_believe_a_row_that_has_not_grown_from_its_file(
        self, signing: Signing, tmp_path: Path
    ) -> None:
        """Somebody has the key's signature on another history, and its file is the only one that knows."""
        old = tmp_path / "old"
        old.mkdir()
        await signing.append(TILE + 1)
        await signing.signer(old).look()
        await signing.administrator.disarm()
        await signing.administrator.edit(7, actor="mallory")
        await signing.administrator.rehash(tiles=True)
        await signing.administrator.forget_checkpoints()
        async with signing.restarted():
            assert await signing.signer().look()  # a machine without a file sees nothing wrong

            assert signing.file().read() == sign(await signing.checkpoint(), CONTROL_PLANE_KEY)
            with pytest.raises(LogDamagedError, match=r"has not grown from|another one now"):
                await signing.signer(old).look()
            await signing.append(1)
            assert await signing.signer().look()
            with pytest.raises(LogDamagedError, match="has not grown from"):
                await signing.signer(old).look()

    async def test_one_of_two_signs_and_whoever_found_damage_keeps_the_lease(self, signing: Signing) -> None:
        await signing.append(2)
        signing.file().path.parent.mkdir()
        signing.file().path.write_text("garbage")
        stop = asyncio.Event()
        first = CheckpointProcess(Leases(signing.database, owner="one"), [signing.signer()])
        second = CheckpointProcess(Leases(signing.database, owner="two"), [signing.signer(signing.state_dir / "x")])

        async def is_alarmed() -> bool:
            return bool(first.alarms)

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(first.run(stop))
            await until(is_alarmed)
            group.create_task(second.run(stop))
            await asyncio.sleep(0)
            stop.set()

        [alarm] = first.alarms
        assert "is of no use" in str(alarm)
        assert second.alarms == []
        assert signing.counts["log_damaged"] >= 1
        assert await signing.checkpoints.newest(EVENT) is None

    async def test_what_readers_have_met_is_told_once_beside_what_the_signer_has(self, signing: Signing) -> None:
        await signing.append(5)
        await signing.administrator.disarm()
        await signing.administrator.delete(3)

        async with signing.restarted():
            signer = signing.signer()
            process = CheckpointProcess(Leases(signing.database, owner="one"), [signer])
            before = await process.untold(signing.log)
            with pytest.raises(LogDamagedError):
                await signing.log.read(EVENT, after=2)
            met = await process.untold(signing.log), list(map(str, await process.damages(signing.log)))
            signer.alarm = LogDamagedError(EVENT, 3)
            alarmed = await process.untold(signing.log), list(map(str, await process.damages(signing.log)))

        words = "event 3 is missing below the head"
        assert (before, met, alarmed) == (None, (words, [words]), (None, [words]))

    # --- what it never signs

    @pytest.mark.parametrize(
        ("what", "match"),
        [
            ("edited", "tree is not that of the events"),
            ("swapped", "tree is not that of the events"),
            ("deleted", "missing below the head"),
            ("cut off", "is the last event"),
            ("cut off and the head with it, and grown again", "another one now|not that of the events"),
            ("all hashed again", "another one now|not that of the events"),
            ("head moved back", "is the last event"),
            ("head of garbage", "a head that cannot be"),
        ],
    )
    async def test_a_log_that_was_changed_is_not_signed(self, signing: Signing, what: str, match: str) -> None:
        signer, administrator = signing.signer(), signing.administrator
        await signing.append(TILE + 10)
        assert await signer.look()
        await signing.append(10)
        await administrator.disarm()

        match what:
            case "edited":
                await administrator.edit(TILE + 15, body=b'{"evil":true}')
            case "swapped":
                await administrator.swap(TILE + 15, TILE + 16)
            case "deleted":
                await administrator.delete(TILE + 15)
            case "cut off":
                await administrator.delete(*range(TILE + 5, TILE + 21), with_keys=True)
            case "cut off and the head with it, and grown again":
                await administrator.delete(*range(TILE + 5, TILE + 21), with_keys=True)
            case "all hashed again":
                await administrator.edit(3, body=b'{"evil":true}')
        if what in {"all hashed again", "cut off"} or "grown" in what:
            await administrator.rehash(tiles=True)
        if "grown" in what:
            for n in range(30):
                await administrator.forge(an_event(f"forged{n}"))
        if what.startswith("head of"):
            async with signing.database.write() as connection:
                await connection.exec_driver_sql("UPDATE log_head SET tree = x'78' WHERE seq > 1")
        if what.startswith("head moved"):
            async with signing.database.write() as connection:
                await connection.exec_driver_sql("UPDATE log_head SET seq = 0, tree = x'' WHERE seq > 1")

        async with signing.restarted():
            signer._log = signing.log
            await signing.is_refused(signing.signer() if what == "all hashed again" else signer, match)

    async def test_what_nobody_has_signed_yet_cannot_be_changed_behind_the_process_that_appended_it(
        self, signing: Signing
    ) -> None:
        signer = signing.signer()
        await signing.append(10)
        assert await signer.look()
        await signing.append(10)
        await signing.administrator.disarm()
        await signing.administrator.edit(15, body=b'{"evil":true}')
        await signing.administrator.rehash()

        signing.clock.advance(10)
        with pytest.raises(LogDamagedError, match="tree is not that of the events"):
            await signer.look()

    async def test_an_event_before_the_checkpoint_that_is_edited_alone_is_left_to_audit_verify(
        self, signing: Signing
    ) -> None:
        """The tree in the head commits to what it was; nothing that is signed is wrong."""
        await signing.append(2 * TILE)
        await signing.signer().look()
        await signing.administrator.disarm()
        await signing.administrator.edit(3, body=b'{"evil":true}')
        await signing.append(1)

        assert await signing.signer().look()

    async def test_a_checkpoint_of_another_installation_in_the_file_is_not_gone_on_from(self, signing: Signing) -> None:
        await signing.append(3)
        signing.file().write(sign(Checkpoint("control-plane-2/event", 1, bytes(32)), CONTROL_PLANE_KEY))

        await signing.is_refused(signing.signer(), "is of no use")

    async def test_a_log_that_is_mended_is_signed_again(self, signing: Signing) -> None:
        signer = signing.signer()
        await signing.append(5)
        await signer.look()
        await signing.append(2)
        await signing.administrator.disarm()
        row = await signing.administrator.row(6)
        await signing.administrator.delete(6)
        async with signing.restarted():
            signer._log = signing.log
            await signing.is_refused(signer, "missing below the head")
            signer._growing = None

            async with signing.database.write() as connection:
                await connection.execute(insert(event_table).values(**row._asdict()))
            assert await signer.look()

    # --- witnesses

    @pytest.fixture
    def witnesses(self, signing: Signing) -> Witnesses:
        tree = StoredTree(signing.database, EVENT)
        return Witnesses(signing.log, tree, signing.checkpoints, count=signing.count)

    async def beat(self, signing: Signing, witnesses: Witnesses, hostname: str, checkpoint: str, at: int = 1) -> None:
        """Hear a heartbeat that brings a checkpoint back."""
        after = (await signing.log.head(HEARTBEAT_EVENT)).seq
        message = {"hostname": hostname, "status": "online", "timestamp": at, "cpu_usage": 0, "memory_usage": 0}
        beat = hosts.HeartbeatReceived(message={**message, "checkpoint": checkpoint})
        await signing.log.append([beat.to_new_event()])
        await witnesses.hear(await signing.log.read(HEARTBEAT_EVENT, after=after))

    async def disputes(self, signing: Signing) -> list[hosts.CheckpointDisputed]:
        rows = await signing.log.read(EVENT, after=0, kinds={hosts.CheckpointDisputed.KIND}, limit=1000)
        return [event for row in rows if isinstance(event := decode(row), hosts.CheckpointDisputed)]

    async def test_a_checkpoint_that_fits_is_no_news(self, signing: Signing, witnesses: Witnesses) -> None:
        await signing.append(TILE + 9)
        checkpoint = await signing.checkpoint()
        await signing.signer().look()
        await signing.append(TILE)

        await self.beat(signing, witnesses, "web1", sign(checkpoint, CONTROL_PLANE_KEY))
        await self.beat(signing, witnesses, "web2", sign(checkpoint, CONTROL_PLANE_KEY))

        assert await self.disputes(signing) == []
        assert witnesses.kept == {"web1": checkpoint.size, "web2": checkpoint.size}

    @pytest.mark.parametrize(
        ("forge", "reason"),
        [
            (lambda c: sign(Checkpoint(c.origin, c.size, bytes(32)), CONTROL_PLANE_KEY), "is another one"),
            (lambda c: sign(Checkpoint(c.origin, c.size + 1000, c.root), CONTROL_PLANE_KEY), "and the log has"),
            (lambda c: sign(c, SigningKey.from_bytes(b"\x12" * 32)), "not signed by a key"),
            (lambda c: sign(Checkpoint("else/event", c.size, c.root), CONTROL_PLANE_KEY), "of else/event"),
            (lambda _: "tree", "no checkpoint"),
        ],
    )
    async def test_one_that_does_not_fit_is_a_security_event_once_for_each_host(
        self, signing: Signing, witnesses: Witnesses, forge: Callable[[Checkpoint], str], reason: str
    ) -> None:
        await signing.append(5)
        note = forge(await signing.checkpoint())

        for at, hostname in enumerate(("web1", "web2", "web1")):
            await self.beat(signing, witnesses, hostname, note, at)

        found = await self.disputes(signing)
        assert [event.hostname for event in found] == ["web1", "web2"]
        assert all(event.checkpoint == note and reason in event.reason for event in found)
        assert signing.counts["checkpoints_disputed"] == 3
        assert witnesses.kept == {}

    async def test_a_database_that_came_back_without_its_tail_is_found_by_the_hosts(self, signing: Signing) -> None:
        """L1, where the control plane's own file is lost as well."""
        await signing.append(9)
        note = sign(await signing.checkpoint(), CONTROL_PLANE_KEY)
        await signing.administrator.disarm()
        await signing.administrator.delete(7, 8, 9, with_keys=True)
        await signing.administrator.rehash()

        async with signing.restarted():  # nobody who has seen the tail is left, or the log would be closed
            tree = StoredTree(signing.database, EVENT)
            witnesses = Witnesses(signing.log, tree, signing.checkpoints, count=signing.count)
            await self.beat(signing, witnesses, "web1", note)
            disputes = await self.disputes(signing)

        assert [event.reason for event in disputes] == ["it was signed over 9 events, and the log has 6"]


class TestSqliteCheckpoints(CheckpointContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


@pytest.mark.mysql
class TestMysqlCheckpoints(CheckpointContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url
