"""What dispatch does while the control plane's key changes: which key signs what, and what of a stolen one is sent."""

from collections.abc import Collection
from typing import Any

import pytest

from control_plane.commands.keyring import Keyring, decide_announce, decide_retire, decide_rotate
from control_plane.events.access import KeyAdded, KeyAnnounced, KeyRetired
from control_plane.events.hosts import HostGroupsChanged, HostWentOnline
from control_plane.processes import configures
from control_plane.processes.post import Send
from control_plane.processes.witnesses import Rounds
from control_plane.projections.queries.hosts import KeysSaid
from control_plane.projections.queries.scopes import Names
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE, SigningKey
from tests.support.events import a_task_accepted
from tests.support.fleet import ADMIN, CONTROL_PLANE_KEY
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


def a_configures(plane: Plane) -> configures.Configures:
    """To be driven by hand: what comes when is for the test to say."""
    return configures.Configures(
        plane.authority,
        plane.keyring,
        plane.host_queries,
        plane.clock,
        Rounds(plane.newest_note),
        is_basic=lambda _: False,
    )


async def came_online(plane: Plane, hostname: str, number: int = 1, **said: Any) -> tuple[HostWentOnline, int]:
    """The event, and where in the log it is."""
    seq = await plane.comes_online(hostname, number, **said)
    event = (await plane.events(HostWentOnline.KIND))[-1]
    assert isinstance(event, HostWentOnline)
    return event, seq


async def nothing_yet(*_: object, **__: object) -> tuple[int, dict[str, KeysSaid]]:
    return 0, {}


def what(send: Send) -> tuple[str, str, list[str]]:
    """To whom, signed by which key, and the keys to trust."""
    assert send.configures is not None
    assert send.signer is not None
    keys: Any = send.message.to_json()["keys"]
    return send.configures[0], send.signer.key_id, [key["state"] for key in keys]


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

        assert told(web1) == [(FIRST.key_id, ["active", "retired"], None)]
        assert web1.task_ids()[1:] == ["t1"]
        assert web1.signers == [FIRST.key_id, SECOND.key_id]

    async def test_who_does_not_take_the_new_key_is_not_told_again_and_again(
        self, plane: Plane, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(configures, "DRIFT_S", 0.0)
        await plane.comes_online("web1", keys=[FIRST.key_id])
        async with plane.agent("web1") as web1, plane.dispatching():
            web1.trusted = (FIRST, SECOND)
            await announce(plane)
            await web1.received(1)
            announced = plane.keyring.announced
            await rotate(plane)
            await web1.received(2)
            for number in range(15):  # and as many looks at who is behind
                await self.barrier(plane, f"t{number}", web1)

        assert told(web1) == [
            (FIRST.key_id, ["active"], announced),
            (FIRST.key_id, ["active", "active"], None),
        ]

    @pytest.mark.parametrize("heard", ["before the look", "before a look that is late", "in between", "after"])
    async def test_what_both_the_log_and_the_read_table_tell_is_told_once(
        self, plane: Plane, monkeypatch: pytest.MonkeyPatch, heard: str
    ) -> None:
        """Whichever of them comes first to whoever tells it."""
        by_hand = a_configures(plane)
        await by_hand.restart([], 0)
        await announce(plane)
        await rotate(plane)
        await retire(plane)
        by_hand.keys_changed((await plane.rows(KeyRetired.KIND))[-1].seq)
        online = await came_online(plane, "web1", keys=[FIRST.key_id], next_key=SECOND.key_id)

        if heard.startswith("before"):
            by_hand.came_online(*online)
        with monkeypatch.context() as late:
            if heard == "before a look that is late":
                late.setattr(plane.host_queries, "said_of_keys", nothing_yet)
            [send] = await by_hand.sends()
        if heard == "in between":
            by_hand.came_online(*online)
        by_hand.told(send)
        if heard == "after":
            by_hand.came_online(*online)
        plane.clock.advance(configures.DRIFT_S)

        assert await by_hand.sends() == []
        assert what(send) == ("web1", FIRST.key_id, ["active", "retired"])

    async def test_who_comes_online_once_more_is_told_once_more(self, plane: Plane) -> None:
        """What it was sent may have died with the queue of its agent before."""
        by_hand = a_configures(plane)
        await announce(plane)
        await by_hand.restart([], 0)
        said: list[Send] = []
        for number in (1, 2):
            by_hand.came_online(*await came_online(plane, "web1", number, keys=[FIRST.key_id]))
            said += (sends := await by_hand.sends())
            for send in sends:
                by_hand.told(send)
        assert len(said) == 2

    async def test_a_key_that_was_told_before_its_event_was_read_is_not_told_again(self, plane: Plane) -> None:
        await came_online(plane, "web1", keys=[FIRST.key_id])
        by_hand = a_configures(plane)
        await by_hand.restart([], 0)
        await announce(plane)
        by_hand.changed("web1", 1)
        [send] = await by_hand.sends()
        by_hand.told(send)
        by_hand.keys_changed((await plane.rows(KeyAnnounced.KIND))[-1].seq)

        assert await by_hand.sends() == []
        assert send.message.to_json()["next_key_sha256"] == plane.keyring.announced

    async def test_what_a_host_cannot_verify_has_told_it_nothing(self, plane: Plane) -> None:
        """It was made before anybody had read which keys the host trusts."""
        by_hand = a_configures(plane)
        await by_hand.restart([], 0)
        await announce(plane)
        await rotate(plane)
        await retire(plane)
        online = await came_online(plane, "web1", keys=[FIRST.key_id], next_key=SECOND.key_id)
        by_hand.changed("web1", 1)
        [useless] = await by_hand.sends()
        by_hand.told(useless)
        by_hand.came_online(*online)
        [send] = await by_hand.sends()
        by_hand.told(send)

        assert [what(each)[1] for each in (useless, send)] == [SECOND.key_id, FIRST.key_id]
        assert await by_hand.sends() == []

    async def test_what_came_back_is_told_again_at_the_next_look(self, plane: Plane) -> None:
        await came_online(plane, "web1", keys=[FIRST.key_id])
        await announce(plane)
        by_hand = a_configures(plane)
        await by_hand.restart([], 0)
        assert len(await by_hand.sends()) == 1  # to no queue
        plane.clock.advance(configures.DRIFT_S - 1)
        assert await by_hand.sends() == []
        plane.clock.advance(1)
        [send] = await by_hand.sends()
        by_hand.told(send)
        plane.clock.advance(configures.DRIFT_S)
        assert await by_hand.sends() == []

    async def test_groups_that_were_just_told_are_not_told_again_for_an_answer_that_is_on_its_way(
        self, plane: Plane
    ) -> None:
        await came_online(plane, "web1", groups=["web"])
        by_hand = a_configures(plane)
        await by_hand.restart([], 0)
        plane.clock.advance(configures.DRIFT_S - 1)
        await plane.hosts.set_groups(ADMIN, "web1", ["db"])
        await plane.shown()
        seq = (await plane.rows(HostGroupsChanged.KIND))[-1].seq
        by_hand.changed("web1", seq)
        [send] = await by_hand.sends()
        by_hand.told(send)
        by_hand.changed("web1", seq)  # however often it is read
        plane.clock.advance(1)
        assert await by_hand.sends() == []
        plane.clock.advance(configures.DRIFT_S)
        assert len(await by_hand.sends()) == 1

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
