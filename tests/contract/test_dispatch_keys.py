"""What dispatch does while the control plane's key changes: which key signs what, and what of a stolen one is sent."""

from collections.abc import Collection

import pytest

from control_plane.commands.keyring import Keyring, decide_announce, decide_retire, decide_rotate
from control_plane.events.access import KeyAdded, KeyAnnounced, KeyRetired
from control_plane.processes import configures
from control_plane.projections.queries.hosts import KeysSaid
from control_plane.projections.queries.scopes import Names
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE, SigningKey
from tests.support.events import a_task_accepted
from tests.support.fleet import CONTROL_PLANE_KEY
from tests.support.plane import AgentEnd, Plane, until
from tests.support.process_contract import RETURNED, SENT, OnServers, OnSqlite, ProcessContract

FIRST, SECOND = CONTROL_PLANE_KEY, SigningKey.from_bytes(b"\x02" * 32)


async def announce(plane: Plane) -> None:
    await plane.handling.record_new(decide_announce(plane.keyring, SECOND.public_key), actor="console")
    await looked(plane)


async def rotate(plane: Plane) -> None:
    added = decide_rotate(plane.keyring, lambda _: SECOND)
    assert added is not None
    await plane.handling.record_new(added, actor="console")
    plane.keyring.hold(SECOND)
    await looked(plane)


async def retire(plane: Plane) -> None:
    ended = decide_retire(plane.keyring, FIRST.key_id, heartbeats=0, reason=None)
    assert ended is not None
    await plane.handling.record_new(ended, actor="console")
    await looked(plane)


async def looked(plane: Plane) -> None:
    """Who is to be told is in a read table, for which dispatch waits a moment."""
    await plane.shown()
    plane.clock.advance(1)


def told(end: AgentEnd) -> list[tuple[str, list[str], str | None]]:
    """Of each `configure`: who signed it, the keys to trust, and which one it announces."""
    return [
        (
            signer,
            [key["state"] for key in message["keys"]],  # type: ignore[index,union-attr]
            message.get("next_key_sha256"),
        )
        for signer, message in zip(end.signers, end.messages, strict=True)
        if message.get("kind") == "configure"
    ]


class DispatchKeysContract(ProcessContract):
    async def test_hosts_are_told_at_once_and_each_by_the_newest_key_that_it_trusts(self, plane: Plane) -> None:
        await plane.comes_online("web1", keys=[FIRST.key_id])
        async with plane.agent("web1") as web1, plane.dispatching():
            web1.trusted = (FIRST, SECOND)
            await announce(plane)
            await web1.received(1)
            assert told(web1) == [(FIRST.key_id, ["active"], plane.keyring.announced)]
            await plane.comes_online("web1", 2, keys=[FIRST.key_id], next_key=SECOND.key_id)
            await rotate(plane)
            await web1.received(2)
            await plane.comes_online("web1", 3, keys=[FIRST.key_id, SECOND.key_id])
            await plane.run("t1", "web1")
            await web1.received(3)
            await retire(plane)
            await web1.received(4)
            await plane.comes_online("web1", 4, keys=[SECOND.key_id])
            await plane.run("t2", "web1")
            await web1.received(5)

        assert told(web1)[1:] == [
            (FIRST.key_id, ["active", "active"], None),
            (SECOND.key_id, ["active", "retired"], None),
        ]
        assert web1.task_ids()[2] == "t1"
        assert web1.signers[2] == FIRST.key_id  # as long as every host trusts it
        assert (web1.task_ids()[-1], web1.signers[-1]) == ("t2", SECOND.key_id)

    async def test_who_was_away_is_told_by_the_key_it_knows_and_then_sent_its_first_command(self, plane: Plane) -> None:
        await plane.comes_online("web2", keys=[FIRST.key_id])
        async with plane.dispatching():
            await announce(plane)
            await rotate(plane)
            await retire(plane)
            await plane.run("t1", "web1")
            await plane.recorded(RETURNED)
            async with plane.agent("web1") as web1:
                web1.trusted = (FIRST, SECOND)
                await plane.comes_online("web1", keys=[FIRST.key_id], next_key=SECOND.key_id)
                await until(lambda: _is("t1" in web1.task_ids()))

        at = web1.task_ids().index("t1")
        assert at >= 1, "it has heard of the key before"
        # It may be told twice: once for coming online, once for being found behind.
        assert len(told(web1)) <= 2
        assert all(each == (FIRST.key_id, ["active", "retired"], None) for each in told(web1))
        assert web1.signers[:at] == [FIRST.key_id] * at
        assert web1.signers[at] == SECOND.key_id

    async def test_who_does_not_take_the_new_key_is_not_told_again_and_again(
        self, plane: Plane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(configures, "DRIFT_S", 0.0)
        await plane.comes_online("web1", keys=[FIRST.key_id])
        async with plane.agent("web1") as web1, plane.dispatching():
            web1.trusted = (FIRST, SECOND)
            await announce(plane)
            await rotate(plane)
            await until(lambda: _is(told(web1) and told(web1)[-1][1] == ["active", "active"]))
            for number in range(15):
                await plane.run(f"t{number}", "web1")
                await until(lambda number=number: _is(f"t{number}" in web1.task_ids()))  # type: ignore[misc]

        assert 1 <= len(told(web1)) <= 5

    async def test_once_all_were_looked_at_none_but_those_behind_are(
        self, plane: Plane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An agent that is too old to say its keys is behind for ever."""
        monkeypatch.setattr(configures, "DRIFT_S", 0.0)
        looked_at: list[tuple[Names, set[str]]] = []
        ask = plane.host_queries.said_of_keys

        async def said_of_keys(
            states: Collection[str], *, at_least: int = 0, hostnames: Names = None
        ) -> tuple[int, dict[str, KeysSaid]]:
            as_of, said = await ask(states, at_least=at_least, hostnames=hostnames)
            looked_at.append((hostnames, set(said)))
            return as_of, said

        monkeypatch.setattr(plane.host_queries, "said_of_keys", said_of_keys)
        await announce(plane)
        await plane.comes_online("web1")
        await plane.comes_online("web2", keys=[FIRST.key_id], next_key=SECOND.key_id)
        async with plane.dispatching():
            await until(lambda: _is(len(looked_at) >= 4))

        whole = [said for hostnames, said in looked_at if hostnames is None and said]
        assert whole == [{"web1", "web2"}]
        assert looked_at[-1] == ({"web1"}, {"web1"})

    async def test_what_a_retired_key_authorises_is_never_sent_by_whoever_reads_it(self, plane: Plane) -> None:
        await announce(plane)
        await rotate(plane)
        await retire(plane)
        forged = a_task_accepted("forged", ("web1",), command="rm -rf /")
        stolen = FIRST.sign(AUTHORISATION, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=forged.body())
        await plane.log.append([forged.to_new_event(actor="ada", signature=stolen, key_id=FIRST.key_id)])
        await plane.run("honest", "web1")
        await plane.shown()

        async with plane.agent("web1") as web1, plane.dispatching():
            web1.trusted = (FIRST, SECOND)
            await plane.recorded(SENT)
            await until(lambda: _is("honest" in web1.task_ids()))
        assert "forged" not in web1.task_ids()

    async def test_a_dispatch_that_reads_ahead_of_its_authority_knows_the_keys_all_the_same(self, plane: Plane) -> None:
        """They are in the log before what they sign, and after what they no longer sign."""
        other = plane.beside()
        other.keyring.hold(SECOND)
        async with other.agent("web1") as web1, other.dispatching():
            web1.trusted = (FIRST, SECOND)
            await announce(plane)
            await rotate(plane)
            await plane.run("t1", "web1")
            await retire(plane)
            forged = a_task_accepted("forged", ("web1",))
            stolen = FIRST.sign(AUTHORISATION, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=forged.body())
            await plane.log.append([forged.to_new_event(actor="ada", signature=stolen, key_id=FIRST.key_id)])
            await plane.run("t2", "web1")
            await until(lambda: _is("t2" in web1.task_ids()))

        assert [task_id for task_id in web1.task_ids() if not task_id.startswith("configure")] == ["t1", "t2"]
        assert other.counts["events_refused"] == 1

    async def test_one_that_lacks_the_key_sends_nothing_and_another_goes_on(self, plane: Plane) -> None:
        lacking = plane.beside("lacking")
        async with plane.agent("web1") as web1:
            web1.trusted = (FIRST, SECOND)
            async with lacking.dispatching():
                await announce(plane)
                await rotate(plane)
                await retire(plane)
                await plane.run("t1", "web1")
                async with plane.dispatching():  # whose lease is free, since who cannot sign lets it go
                    await until(lambda: _is("t1" in web1.task_ids()))

        assert not lacking.tap.published
        assert set(web1.signers) == {SECOND.key_id}

    async def test_the_fold_of_a_key_event_is_the_same_however_often_it_is_read(self, plane: Plane) -> None:
        await announce(plane)
        await rotate(plane)
        await retire(plane)
        rows = await plane.rows(KeyAdded.KIND, KeyAnnounced.KIND, KeyRetired.KIND)
        other = Keyring(SECOND, first=FIRST.public_key)
        assert [other.take_in(row) for row in [*rows, *rows]] == [True] * 6
        await other.catch_up(plane.log)

        assert other.chain == plane.keyring.chain


async def _is(condition: object) -> object:
    return condition


class TestSqliteInProcess(OnSqlite, DispatchKeysContract):
    pass


@pytest.mark.mysql
@pytest.mark.rabbitmq
class TestMysqlRabbitMQ(OnServers, DispatchKeysContract):
    pass
