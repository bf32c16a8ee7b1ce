"""What `audit verify` finds of what a malicious administrator of the database has done, on every database."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane import bootstrap, cli
from control_plane.administration import Office, initialise, opened
from control_plane.commands.access import CONSOLE
from control_plane.commands.handlers.hosts import HostHandler
from control_plane.commands.handlers.tasks import TaskHandler
from control_plane.commands.targets import Hosts
from control_plane.core import prepare
from control_plane.errors import RefusedError
from control_plane.events import verification
from control_plane.events.access import UserCreated
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName, NewEvent, StoredEvent
from control_plane.events.hosts import HeartbeatReceived
from control_plane.events.proofs import Proof
from control_plane.events.tasks import ExecutionFinished
from control_plane.events.tiles import TILE
from control_plane.events.verification import Report
from control_plane.processes.checkpoints import Signer
from control_plane.projections.queries.past import Past
from control_plane.settings import Settings, load
from control_plane.storage.leases import Leases
from control_plane_wire.checkpoints import Checkpoint
from control_plane_wire.signing import CONTROL_PLANE, HEARTBEAT, RESULT, SigningKey, encode_base64
from control_plane_wire.strict_json import JsonObject
from tests.support.database import an_event, sqlite_url
from tests.support.events import AT, a_task_accepted
from tests.support.fleet import a_request, host_key
from tests.support.tampering import Administrator

OTHER = SigningKey.from_bytes(b"\x77" * 32)
EVENTS = 2 * TILE + 50  # of the log as the fixture leaves it


def vouched(event: ExecutionFinished | HeartbeatReceived, tag: str, hostname: str, key: SigningKey) -> NewEvent:
    signature = key.sign(tag, sender=hostname, recipient=CONTROL_PLANE, body=event.body())
    return event.to_new_event(actor=hostname, signature=signature, key_id=key.key_id)


def a_result(task_id: str, hostname: str = "web1", *, key: SigningKey | None = None) -> NewEvent:
    message: JsonObject = {"task_id": task_id, "exit_code": 0, "stdout": "", "stderr": "", "timestamp": AT}
    return vouched(ExecutionFinished(message=message, hostname=hostname), RESULT, hostname, key or host_key(hostname))


def a_beat(sequence: int, hostname: str = "web1", *, key: SigningKey | None = None) -> NewEvent:
    message: JsonObject = {"hostname": hostname, "status": "online", "timestamp": AT, "sequence": sequence}
    message |= {"cpu_usage": 0, "memory_usage": 0}
    return vouched(HeartbeatReceived(message=message), HEARTBEAT, hostname, key or host_key(hostname))


class Audited:
    """An installation with hosts, tasks, results and heartbeats, all of it signed."""

    def __init__(self, settings: Settings, office: Office) -> None:
        self.settings = settings
        self.office = office
        self.core = office.core
        self.administrator = Administrator(self.core.database)
        self.signers: dict[LogName, Signer] = {
            signer.name: signer for signer in bootstrap._signing(self.core, self.leases(), self.count)._signers
        }

    def leases(self) -> Leases:
        return Leases(self.core.database, owner="test")

    def count(self, what: str, number: int) -> None:
        return

    async def sign(self, log: LogName = EVENT) -> None:
        self.signers[log]._signed_s = -60.0
        self.signers[log]._growing = None
        assert await self.signers[log].look()

    async def fill(self, upto: int) -> None:
        while (at := (await self.core.log.head(EVENT)).seq) < upto:
            await self.core.log.append([an_event(f"f{at + n}", kind="k") for n in range(1, min(200, upto - at) + 1)])

    @asynccontextmanager
    async def reopened(self) -> AsyncIterator["Audited"]:
        """Another process, which remembers nothing."""
        async with opened(self.settings) as office:
            yield Audited(self.settings, office)

    async def verify(
        self, log: LogName = EVENT, *, first: int = 1, last: int | None = None, signatures: bool = True
    ) -> Report:
        async with opened(self.settings) as office:
            return await office.verify(log, first=first, last=last, signatures=signatures, progress=lambda *_: None)

    async def found(self, log: LogName = EVENT) -> list[tuple[str, int, int]]:
        return [(f.fault, f.first, f.last) for f in (await self.verify(log)).findings]


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    return Settings(_env_file=None, database_url=url, state_dir=tmp_path)  # type: ignore[call-arg, arg-type]


class AuditContract:
    @pytest.fixture
    async def audited(self, settings: Settings) -> AsyncIterator[Audited]:
        await initialise(settings, "root", "correct horse battery")
        async with opened(settings) as office:
            audited = Audited(settings, office)
            core = office.core
            hosts = HostHandler(core.handling, core.access.check_recent)
            for hostname in ("web1", "db1"):
                key = host_key(hostname).public_key
                await hosts.register(CONSOLE, hostname=hostname, public_key=key, groups=["all"])
            for number in range(5):
                past = Past(core.database, core.log, core.clock)
                tasks = TaskHandler(core.handling, bootstrap.TablePresences(core.host_queries, past), core.task_queries)
                await prepare(core)
                await tasks.create(CONSOLE, a_request(f"t{number}", Hosts(["web1"])))
                await core.log.append([a_result(f"t{number}")])
            await core.log.append([a_beat(n) for n in range(1, 21)])
            await audited.fill(EVENTS - 20)
            await audited.sign()
            await audited.fill(EVENTS - 10)
            await audited.sign()
            await audited.sign(HEARTBEAT_EVENT)
            await audited.fill(EVENTS)
            await audited.administrator.disarm()
            yield audited

    # --- nothing is wrong

    async def test_a_log_that_nobody_has_touched_is_whole(self, audited: Audited) -> None:
        report = await audited.verify()

        assert report == Report(EVENT, 1, EVENTS, signed=EVENTS - 10, checkpoints=3, findings=[])
        assert (await audited.verify(HEARTBEAT_EVENT)).findings == []

    async def test_it_is_read_in_many_chunks(self, audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verification, "CHUNK", 7)
        assert (await audited.verify()).findings == []
        await audited.administrator.delete(100, with_keys=True)

        assert await audited.found() == [("gap", 100, 100), ("missing", 100, 100)]

    @pytest.mark.parametrize(("first", "last"), [(1, 1), (300, 310), (EVENTS - 15, EVENTS - 12), (EVENTS, None)])
    async def test_a_part_reaches_from_one_checkpoint_to_another(
        self, audited: Audited, first: int, last: int | None
    ) -> None:
        report = await audited.verify(first=first, last=last)

        assert report.findings == []
        assert report.first <= first
        assert (last or EVENTS) <= report.last

    async def test_what_comes_while_it_runs_is_no_fault(self, audited: Audited) -> None:
        before = await audited.core.log.head(EVENT)
        await audited.fill(EVENTS + 500)

        assert before.seq == EVENTS
        assert (await audited.verify()).findings == []

    # --- the malicious administrator

    @pytest.mark.parametrize("seq", [9, TILE, 2 * TILE + 5, EVENTS - 12, EVENTS - 3])
    async def test_an_edited_event_is_found(self, audited: Audited, seq: int) -> None:
        """In a tile the very event is; beyond them the range between two checkpoints, or to the head."""
        await audited.administrator.edit(seq, occurred_us=7)

        [(fault, first, last)] = await audited.found()

        assert fault == "hash"
        assert first <= seq <= last
        if seq != 2 * TILE + 5:  # before the first checkpoint, and in no tile: everything is suspected
            assert last - first < (1 if seq <= 2 * TILE else 20)

    @pytest.mark.parametrize(
        "columns", [{"kind": "x"}, {"recorded_us": 1}, {"actor": None}, {"body": b"{ }"}, {"hostname": "db1"}]
    )
    async def test_no_column_can_be_edited(self, audited: Audited, columns: dict[str, object]) -> None:
        await audited.administrator.edit(100, **columns)
        await audited.administrator.edit(101, **columns)

        assert ("hash", 100, 101) in await audited.found()

    async def test_two_that_were_swapped_are_found(self, audited: Audited) -> None:
        await audited.administrator.swap(100, 200)

        assert await audited.found() == [("hash", 100, 100), ("hash", 200, 200)]

    async def test_a_deleted_event_is_a_gap_and_its_neighbours_are_not_suspected(self, audited: Audited) -> None:
        await audited.administrator.delete(100, 101)
        await audited.administrator.edit(300, actor="mallory")
        await audited.administrator.delete(EVENTS - 12, with_keys=True)

        assert await audited.found() == [
            ("gap", 100, 101),
            ("gap", EVENTS - 12, EVENTS - 12),
            ("hash", 300, 300),
            ("missing", EVENTS - 12, EVENTS - 12),
        ]

    async def test_the_newest_that_were_deleted_are_missing(self, audited: Audited) -> None:
        """The head goes with them, so nothing in the database says so; the checkpoint outside does."""
        cut = range(EVENTS - 14, EVENTS + 1)
        await audited.administrator.delete(*cut, with_keys=True)
        await audited.administrator.rehash()
        await audited.administrator.forget_checkpoints()

        assert await audited.found() == [("missing", EVENTS - 14, EVENTS - 10)]

    async def test_keys_that_outlive_their_events_tell_of_them(self, audited: Audited) -> None:
        await audited.administrator.delete(EVENTS - 1, EVENTS)
        await audited.administrator.rehash()

        assert await audited.found() == [("missing", EVENTS - 1, EVENTS)]

    @pytest.mark.parametrize("tiles", [False, True])
    async def test_a_log_that_was_hashed_again_with_its_head_does_not_fit_what_was_signed(
        self, audited: Audited, tiles: bool
    ) -> None:
        await audited.administrator.edit(100, actor="mallory")
        await audited.administrator.rehash(tiles=tiles)
        await audited.administrator.forget_checkpoints()

        in_the_head = ("hash", EVENTS - 9, EVENTS)
        assert await audited.found() == ([("hash", 1, EVENTS)] if tiles else [("hash", 100, 100), in_the_head])

    async def test_checkpoints_that_we_have_not_signed_are_found(self, audited: Audited) -> None:
        await audited.administrator.forget_checkpoints()
        async with audited.core.database.write() as connection:
            sql = "INSERT INTO checkpoint (log, size, recorded_us, note) VALUES (x'6576656e74', 12, 1, x'00ff')"
            await connection.exec_driver_sql(sql)

        assert await audited.found() == [("signature", 12, 12)]

    async def test_a_file_outside_that_is_of_no_use_is_told(self, audited: Audited) -> None:
        audited.signers[EVENT]._file.path.write_text("x")

        assert await audited.found() == [("signature", 0, 0)]

    async def test_a_forged_task_event_is_found_before_anybody_signs_it(self, audited: Audited) -> None:
        forged = a_task_accepted("evil", ("web1",), command="rm -rf /")
        by_other = OTHER.sign("authorisation", sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=forged.body())
        key_id = audited.core.keyring.active.key_id
        seqs = [
            await audited.administrator.forge(forged.to_new_event(actor="root")),
            await audited.administrator.forge(
                replace(forged, task_id="evil2").to_new_event(actor="root", signature=by_other, key_id=key_id)
            ),
            await audited.administrator.forge(
                UserCreated(username="mallory", based_on=0, role="administrator", phc_sha256="0" * 64).to_new_event(
                    actor="root"
                )
            ),
        ]

        assert await audited.found() == [("signature", seq, seq) for seq in seqs]

    async def test_results_and_heartbeats_need_the_key_that_was_registered_then(self, audited: Audited) -> None:
        audited.administrator = Administrator(audited.core.database)
        unsigned = replace(a_result("t91"), signature=None, key_id=None)
        seqs = [
            await audited.administrator.forge(event)
            for event in (a_result("t90", key=OTHER), unsigned, a_result("t92", "db1", key=host_key("web1")))
        ]
        beats = Administrator(audited.core.database, HEARTBEAT_EVENT)
        beat = await beats.forge(a_beat(99, key=OTHER))

        assert await audited.found() == [("signature", seq, seq) for seq in seqs]
        assert await audited.found(HEARTBEAT_EVENT) == [("signature", beat, beat)]

    async def test_a_key_counts_for_what_was_recorded_while_it_was_registered(self, audited: Audited) -> None:
        hosts = HostHandler(audited.core.handling, audited.core.access.check_recent)
        await hosts.retire(CONSOLE, "web1", "replaced")
        await hosts.register(CONSOLE, hostname="web1", public_key=OTHER.public_key, groups=[])
        await audited.core.log.append([a_result("t80", key=OTHER)])

        assert await audited.found() == []
        assert await audited.found(HEARTBEAT_EVENT) == []

    # --- proofs

    async def test_a_proof_of_an_edited_event_is_not_made(self, audited: Audited) -> None:
        assert (await audited.core.checkpoints.prove(EVENT, 9)).seq == 9
        await audited.administrator.edit(9, actor="mallory")

        with pytest.raises(RefusedError, match="not_provable"):
            await audited.core.checkpoints.prove(EVENT, 9, is_patient=True)


class TestSqliteAudit(AuditContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


@pytest.mark.mysql
class TestMysqlAudit(AuditContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url


# --- the command line


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation whose log has one signed tree, as the command line finds it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTROL_PLANE_DATABASE_URL", sqlite_url(tmp_path))
    monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path))

    async def make() -> None:
        settings = load()
        await initialise(settings, "root", "correct horse battery")
        async with opened(settings) as office:
            assert await Audited(settings, office).signers[EVENT].look()

    asyncio.run(make())
    return tmp_path


def public_key(state_dir: Path) -> str:
    seed = base64.b64decode((state_dir / "signing.key").read_text())
    return encode_base64(SigningKey.from_bytes(seed).public_key)


def test_verify_says_each_fault_apart_and_fails_where_there_is_one(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["audit", "verify"]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]] == ["0", "0", "0", "0"]

    async def tamper() -> None:
        async with opened(load()) as office:
            administrator = Administrator(office.core.database)
            await administrator.disarm()
            await administrator.edit(2, body=b"{}")

    asyncio.run(tamper())
    assert cli.main(["audit", "verify", "--from", "1", "--to", "2"]) == 1
    out = capsys.readouterr().out
    assert "invalid hashes" in out
    assert "2: user.created: wrong signature of control-plane" in out


_CHECK = Proof.check


def _hostile(proof: Proof, keys: Sequence[bytes]) -> tuple[Checkpoint, StoredEvent]:
    """A proof of an event whose texts a terminal would obey."""
    checkpoint, event = _CHECK(proof, keys)
    hostile = "\u009b31m\u202e\u007f\x1b[2J"
    return checkpoint, event._replace(actor=hostile, task_id=hostile, body=f'{{"command":"{hostile}"}}'.encode())


def test_a_proof_is_checked_with_nothing_but_the_key(
    installed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["audit", "prove", "2", "--out", "event.tlog-proof"]) == 0
    assert cli.main(["audit", "checkpoint"]) == 0
    note = capsys.readouterr().out
    assert note == (installed / "checkpoints" / "event").read_text()
    assert (installed / "event.tlog-proof").read_text().endswith("\n\n" + note)
    key = public_key(installed)
    (installed / "key").write_text(key + "\n")
    monkeypatch.setenv("CONTROL_PLANE_DATABASE_URL", "nonsense")
    (installed / "test.db").unlink()

    for given in (key, "key"):
        assert cli.main(["audit", "check", "event.tlog-proof", "--key", given]) == 0
        out = capsys.readouterr().out
        assert out.startswith("proved: event 2 is in control-plane-")
        assert '"username":"root"' in out

    monkeypatch.setattr(Proof, "check", _hostile)
    assert cli.main(["audit", "check", "event.tlog-proof", "--key", key]) == 0
    assert [c for c in capsys.readouterr().out if not c.isprintable() and c != "\n"] == []
    monkeypatch.setattr(Proof, "check", _CHECK)

    other = encode_base64(OTHER.public_key)
    assert cli.main(["audit", "check", "event.tlog-proof", "--key", other]) == 1
    assert capsys.readouterr().out == "not proved: the checkpoint is not signed by a key that counts\n"
    assert cli.main(["audit", "check", "event.tlog-proof", "--key", "x"]) == 2
    assert cli.main(["audit", "check", "none", "--key", key]) == 2


def test_what_is_not_there_yet_is_not_proved(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "prove", "99"]) == 1
    assert cli.main(["audit", "prove", "1", "--out", "none/proof"]) == 2
    assert cli.main(["audit", "verify", "--from", "99"]) == 0
    assert "event: events none so far;" in capsys.readouterr().out
    assert cli.main(["audit", "checkpoint", "--log", "heartbeat_event"]) == 1
    assert "nothing is signed yet" in capsys.readouterr().err
