"""A host's new key: both count until a message by the new one has come, and nobody else can make a host another's."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from control_plane.commands.enrolment import NONCE_S
from control_plane.errors import RefusedError
from control_plane.events.access import AccessDenied
from control_plane.events.hosts import HostKeySwitched
from control_plane_wire import proofs
from control_plane_wire.signing import CONTROL_PLANE, ENROL, SigningKey, encode_base64, key_id
from tests.support.fleet import ADMIN, Desk, host_key

NEW, NEWER = SigningKey.from_bytes(b"\x07" * 32), SigningKey.from_bytes(b"\x08" * 32)
OLD = host_key("web1")


@dataclass(kw_only=True)
class Asked:
    """What an agent sends; a test changes it."""

    hostname: str = "web1"
    old: SigningKey = OLD
    new: SigningKey = NEW
    nonce: str = ""
    signs: Callable[[str, bytes, str], bytes] = proofs.of_rotation
    public_key: bytes = field(default=b"")

    async def send(self, desk: Desk) -> None:
        public_key = self.public_key or self.new.public_key
        nonce = self.nonce or await a_nonce(desk, self.hostname)
        body = self.signs(self.hostname, public_key, nonce)
        proof, new_proof = (
            key.sign(ENROL, sender=self.hostname, recipient=CONTROL_PLANE, body=body) for key in (self.old, self.new)
        )
        await desk.rotations.rotate(
            hostname=self.hostname,
            public_key=public_key,
            nonce=nonce,
            proof=proof,
            new_proof=new_proof,
            address="192.0.2.1",
        )


async def a_nonce(desk: Desk, hostname: str = "web1") -> str:
    return await desk.enrolment.begin(token=None, hostname=hostname, public_key=NEW.public_key)


async def a_desk() -> Desk:
    desk = Desk()
    await desk.register("web1", "web")
    await desk.register("db1")
    return desk


async def switch(desk: Desk) -> None:
    """As ingest does, when a message by the new key has come."""
    host = desk.authority.fleet.host("web1")
    assert host.new_key is not None
    event = HostKeySwitched(hostname="web1", rotated_seq=host.rotated_seq, key_id=key_id(host.new_key))
    await desk.handling.record_new(event, actor="web1")


async def test_both_keys_count_until_the_first_message_by_the_new_one_and_then_that_alone() -> None:
    desk = await a_desk()

    await Asked().send(desk)
    during = desk.authority.fleet.public_keys("web1")
    await switch(desk)

    assert during == (OLD.public_key, NEW.public_key)
    assert desk.authority.fleet.public_keys("web1") == (NEW.public_key,)
    assert desk.kinds()[-2:] == ["host.key_rotated", "host.key_switched"]
    again = Desk(clock=desk.clock, log=desk.log)  # by the log alone
    await again.authority.refresh()
    assert again.authority.fleet.public_keys("web1") == (NEW.public_key,)
    assert again.authority.refused == 0
    assert dict(again.authority.fleet.host("web1").groups).keys() == {"web"}


async def test_the_same_again_after_a_lost_answer_is_good_at_any_replica() -> None:
    desk = await a_desk()
    await Asked().send(desk)
    desk.clock.advance(1)

    await Asked().send(desk.beside())

    await desk.authority.refresh()
    assert desk.authority.fleet.public_keys("web1") == (OLD.public_key, NEW.public_key)


async def test_a_host_that_lost_its_new_key_brings_another_and_the_lost_one_never_counts_again() -> None:
    desk = await a_desk()
    await Asked().send(desk)
    desk.clock.advance(1)
    await Asked(new=NEWER).send(desk)
    assert desk.authority.fleet.public_keys("web1") == (OLD.public_key, NEWER.public_key)
    desk.clock.advance(1)

    with pytest.raises(RefusedError, match="has, or has had, this key"):
        await Asked(new=NEW).send(desk)


async def test_who_rotates_again_before_any_message_signs_with_the_key_that_it_has_by_then() -> None:
    desk = await a_desk()
    await Asked().send(desk)
    desk.clock.advance(1)

    await Asked(old=NEW, new=NEWER).send(desk)

    assert desk.authority.fleet.public_keys("web1") == (NEW.public_key, NEWER.public_key)


async def refused(desk: Desk, asked: Asked, match: str) -> None:
    await desk.authority.refresh()
    keys, events = desk.authority.fleet.public_keys("web1"), desk.kinds().count("host.key_rotated")

    with pytest.raises(RefusedError, match=match):
        await asked.send(desk)

    await desk.authority.refresh()
    assert desk.authority.fleet.public_keys("web1") == keys
    assert desk.kinds().count("host.key_rotated") == events


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (Asked(new=OLD), "has, or has had, this key"),
        (Asked(new=host_key("db1")), "another host has"),
        (Asked(old=host_key("db1")), "no active host"),
        (Asked(old=NEW), "no active host"),
        (Asked(hostname="db1"), "no active host"),
        (Asked(hostname="nobody"), "no active host"),
        (Asked(public_key=NEWER.public_key), "proof"),
        (Asked(signs=proofs.of_request), "no active host"),
        (Asked(signs=lambda name, key, nonce: proofs.of_rotation("db1", key, nonce)), "no active host"),
        (Asked(signs=lambda name, key, nonce: proofs.of_rotation(name, NEWER.public_key, nonce)), "no active host"),
        (Asked(signs=lambda name, key, nonce: proofs.of_rotation(name, key, "1.x.y")), "no active host"),
        (Asked(nonce="1.2.3"), "nonce"),
    ],
)
async def test_nobody_rotates_a_key_without_both_proofs_to_one_that_is_known(asked: Asked, match: str) -> None:
    desk = await a_desk()

    await refused(desk, asked, match)

    assert desk.kinds()[-1] == AccessDenied.KIND


async def test_a_request_that_is_replayed_is_refused_before_the_switch_and_after_it() -> None:
    desk = await a_desk()
    older, captured = await a_nonce(desk), ""
    desk.clock.advance(1)
    captured = await a_nonce(desk)
    await Asked(nonce=captured).send(desk)

    await refused(desk, Asked(nonce=captured), "used already")
    await refused(desk, Asked(nonce=older), "used already")
    await switch(desk)
    await refused(desk, Asked(nonce=captured), "no active host")
    desk.clock.advance(NONCE_S + 1)
    await refused(desk, Asked(nonce=captured), "nonce has ended")


async def test_there_is_no_way_back_to_a_key_that_was_given_up() -> None:
    desk = await a_desk()
    await Asked().send(desk)
    await switch(desk)
    desk.clock.advance(1)

    await refused(desk, Asked(old=NEW, new=OLD), "has, or has had, this key")
    await refused(desk, Asked(old=OLD, new=NEWER), "no active host")
    with pytest.raises(RefusedError, match="another host has, or has had"):
        await Asked(hostname="db1", old=host_key("db1"), new=OLD).send(desk)


@pytest.mark.parametrize("is_under_way", [False, True])
async def test_revocation_ends_both_keys_and_no_proof_of_theirs_counts(is_under_way: bool) -> None:
    desk = await a_desk()
    if is_under_way:
        await Asked().send(desk)
        desk.clock.advance(1)
    await desk.hosts.revoke(ADMIN, "web1", "stolen")

    await refused(desk, Asked(), "no active host")
    await refused(desk, Asked(old=NEW, new=NEWER), "no active host")

    assert desk.authority.fleet.public_keys("web1") == ()
    assert {key_id(each.public_key) for each in desk.authority.fleet.host("web1").by_each_key()} == {
        OLD.key_id,
        *([NEW.key_id] if is_under_way else []),
    }


async def test_of_two_rotations_at_once_one_is_the_later_and_its_key_is_the_one() -> None:
    desk = await a_desk()
    other = desk.beside()
    await other.authority.refresh()
    first, second = await a_nonce(desk), await a_nonce(desk)
    desk.clock.advance(1)
    third = await a_nonce(desk)
    await Asked(nonce=first).send(desk)

    await refused(other, Asked(nonce=second, new=NEWER), "used already")
    await Asked(nonce=third, new=NEWER).send(other)

    await desk.authority.refresh()
    assert desk.authority.fleet.public_keys("web1") == (OLD.public_key, NEWER.public_key)


async def test_a_switch_that_somebody_wrote_or_that_is_of_another_rotation_has_no_effect() -> None:
    desk = await a_desk()
    await Asked().send(desk)
    seq = desk.authority.fleet.host("web1").rotated_seq
    desk.insert(HostKeySwitched(hostname="web1", rotated_seq=seq, key_id=NEW.key_id))
    desk.insert(HostKeySwitched(hostname="web1", rotated_seq=seq - 1, key_id=NEW.key_id), desk.keyring.active)
    desk.insert(HostKeySwitched(hostname="db1", rotated_seq=seq, key_id=NEW.key_id), desk.keyring.active)

    await desk.authority.refresh()

    assert desk.authority.fleet.public_keys("web1") == (OLD.public_key, NEW.public_key)
    assert desk.authority.refused == 3


async def test_another_machine_under_the_name_has_nothing_of_a_rotation_before() -> None:
    desk = await a_desk()
    await Asked().send(desk)
    await desk.hosts.retire(ADMIN, "web1", None)
    await desk.hosts.register(ADMIN, hostname="web1", public_key=NEWER.public_key, groups=())

    assert desk.authority.fleet.public_keys("web1") == (NEWER.public_key,)
    assert encode_base64(desk.authority.fleet.host("web1").public_key) == encode_base64(NEWER.public_key)
