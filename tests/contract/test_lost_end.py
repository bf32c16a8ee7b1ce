"""A log that has lost its end takes nothing until an administrator has decided, on every database."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import delete

from control_plane import bootstrap
from control_plane.administration import Office, initialise, opened
from control_plane.cli import main
from control_plane.core import prepare
from control_plane.errors import LogClosedError, LogDamagedError, RefusedError
from control_plane.events import registry
from control_plane.events.access import LogLossAccepted
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName, Recorded
from control_plane.events.log import EventLog
from control_plane.processes.checkpoints import Signer
from control_plane.settings import Settings
from control_plane.storage.leases import Leases
from control_plane.storage.tables import checkpoint
from tests.support.database import an_event, migrated, sqlite_url
from tests.support.tampering import Administrator


def count(what: str, number: int) -> None:
    """Nobody wants to know."""


class LostEndContract:
    @pytest.fixture
    def settings(self, url: str, tmp_path: Path) -> Settings:
        return Settings(_env_file=None, database_url=url, state_dir=tmp_path)  # type: ignore[call-arg, arg-type]

    @pytest.fixture
    async def office(self, settings: Settings) -> AsyncIterator[Office]:
        """Both logs have 20 events more than at first, and are signed."""
        await initialise(settings, "root", "correct horse battery")
        async with opened(settings) as office:
            for name in (EVENT, HEARTBEAT_EVENT):
                await office.core.log.append([an_event(f"t{n}", log=name, kind="k") for n in range(20)])
                assert await self.signer(office, name).look()
            yield office

    @staticmethod
    def signer(office: Office, name: LogName = EVENT) -> Signer:
        signing = bootstrap._signing(office.core, Leases(office.core.database, owner="test"), count)
        return next(signer for signer in signing._signers if signer.name == name)

    @staticmethod
    async def lose(office: Office, number: int, name: LogName = EVENT) -> int:
        """What a backup of a while ago, or a cluster that fell over, has left: the seq of the last event."""
        head = (await office.core.log.head(name)).seq
        administrator = Administrator(office.core.database, name)
        await administrator.disarm()
        await administrator.delete(*range(head - number + 1, head + 1), with_keys=True)
        await administrator.rehash(tiles=True)
        async with office.core.database.write() as connection:
            beyond = (checkpoint.c.log == name, checkpoint.c.size > head - number)
            await connection.execute(delete(checkpoint).where(*beyond))
        return head - number

    async def test_a_process_that_has_seen_more_than_there_is_closes_the_log_for_all(self, office: Office) -> None:
        left = await self.lose(office, 5)

        with pytest.raises(LogClosedError, match=rf"^event ends at {left}, and there were {left + 5} events: .*"):
            await office.core.log.append([an_event("after")])

        async with EventLog.open(office.core.database) as other:
            with pytest.raises(LogClosedError, match="control-plane log accept-loss"):
                await other.append([an_event("after")])
            assert (await other.head(EVENT)).seq == left
            assert await other.closed(HEARTBEAT_EVENT) is None
            assert isinstance((await other.append([an_event("after", log=HEARTBEAT_EVENT)]))[0], Recorded)

    @pytest.mark.parametrize("name", [EVENT, HEARTBEAT_EVENT])
    async def test_a_process_that_starts_closes_a_log_that_ends_before_what_was_signed(
        self, office: Office, settings: Settings, name: LogName
    ) -> None:
        await self.lose(office, 1, name)

        async with opened(settings) as anew:
            await prepare(anew.core)
            with pytest.raises(LogClosedError):
                await anew.core.log.append([an_event("after", log=name)])

    async def test_who_signs_closes_a_log_that_ends_before_what_it_has_signed(self, office: Office) -> None:
        signer = self.signer(office)
        assert not await signer.look()
        await self.lose(office, 1)

        with pytest.raises(LogDamagedError):
            await signer.look()

        assert "there were" in str(await office.core.log.closed(EVENT))

    @pytest.mark.parametrize("name", [EVENT, HEARTBEAT_EVENT])
    async def test_a_loss_that_is_accepted_is_recorded_and_signing_goes_on_from_there(
        self, office: Office, settings: Settings, name: LogName, tmp_path: Path
    ) -> None:
        before = await office.newest_checkpoint(name)
        assert before is not None
        left = await self.lose(office, 3, name)
        async with opened(settings) as anew:
            with pytest.raises(LogDamagedError):
                await self.signer(anew, name).look()

        async with opened(settings, opens_closed=True) as anew:
            accepted = await anew.accept_loss("two disks died")
            assert [(event.log, event.size, event.lost_size) for event in accepted] == [(name, left, left + 3)]

        async with opened(settings) as anew:
            log = anew.core.log
            await prepare(anew.core)
            await log.append([an_event(f"after{n}", log=name, kind="k") for n in range(9)])
            assert await self.signer(anew, name).look()
            newest = await anew.newest_checkpoint(name)
            assert newest is not None
            assert newest.size == (await log.head(name)).seq
            assert (tmp_path / f"checkpoints/{name}.lost-{left + 3}").read_text() == before.note
            [stored] = await log.read(EVENT, after=0, kinds={LogLossAccepted.KIND})
            assert (stored.actor, stored.key_id) == ("console", anew.core.keyring.active.key_id)
            assert registry.decode(stored) == accepted[0]
            assert accepted[0].lost_root == before.root.hex()
            report = await anew.verify(name, first=1, last=None, signatures=False, progress=lambda *_: None)
            assert report.findings == []

    async def test_a_loss_that_only_a_process_has_seen_is_accepted_too(
        self, office: Office, settings: Settings
    ) -> None:
        await office.core.log.append([an_event("unsigned")])
        left = await self.lose(office, 1)
        with pytest.raises(LogClosedError):
            await office.core.log.append([an_event("after")])

        async with opened(settings, opens_closed=True) as anew:
            [accepted] = await anew.accept_loss("a test")
            assert (accepted.size, accepted.lost_size) == (left, None)
            assert await self.signer(anew).look()

    async def test_nothing_is_accepted_where_nothing_is_lost(self, office: Office) -> None:
        with pytest.raises(RefusedError) as refused:
            await office.accept_loss("a mistake")

        assert refused.value.code == "nothing_lost"
        assert await office.core.log.read(EVENT, after=0, kinds={LogLossAccepted.KIND}) == []


class TestSqliteLostEnd(LostEndContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)

    async def test_an_administrator_says_so_on_the_command_line(
        self,
        office: Office,
        settings: Settings,
        url: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        left = await self.lose(office, 3)
        monkeypatch.setenv("CONTROL_PLANE_DATABASE_URL", url)
        monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(settings.state_dir))

        assert await asyncio.to_thread(main, ["log", "accept-loss", "--reason", "a test"]) == 0
        assert f"3 events after {left} are given up" in capsys.readouterr().out
        assert await asyncio.to_thread(main, ["log", "accept-loss", "--reason", "a test"]) == 1
        assert "nothing_lost" in capsys.readouterr().err


@pytest.mark.mysql
class TestMysqlLostEnd(LostEndContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url


async def test_a_log_that_was_migrated_is_open(tmp_path: Path) -> None:
    async with migrated(sqlite_url(tmp_path)) as database, EventLog.open(database) as log:
        assert (await log.closed(EVENT), await log.closed(HEARTBEAT_EVENT)) == (None, None)
