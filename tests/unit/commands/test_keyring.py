"""The control plane's own keys: what an earlier, a later or a stolen one can still say."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

import control_plane
from control_plane.commands.enrolment import check_nonce, new_nonce
from control_plane.commands.keyring import Keyring, decide_announce, decide_retire, decide_rotate, first_key
from control_plane.commands.tasks import verify_authorisation
from control_plane.errors import KeyMissingError, RefusedError
from control_plane.events.access import KeyAdded, KeyAnnounced, KeyRetired
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.event import Event
from control_plane.events.tasks import TaskAccepted
from control_plane_wire.errors import SignatureError
from control_plane_wire.signing import AUTHORISATION, CONTROL_PLANE, SigningKey, encode_base64
from tests.support.events import AT
from tests.support.fleet import ADMIN, CONTROL_PLANE_KEY, PASSWORD, Desk, a_request
from tests.unit.commands.test_authority import FORGED

FIRST = CONTROL_PLANE_KEY
SECOND, THIRD, THIEF = (SigningKey.from_bytes(bytes([n]) * 32) for n in (2, 3, 0x66))


def sha256(key: SigningKey) -> str:
    return hashlib.sha256(key.public_key).hexdigest()


def an_addition(new: SigningKey, *before: SigningKey, by: SigningKey | None = None) -> KeyAdded:
    """What says that `new` comes after those; `by`: whose signature stands for its possession."""
    keyring = Keyring(new, first=before[0].public_key)
    keyring._put(tuple(Keyring(key).chain[0] for key in before))
    keyring.announced = sha256(new)
    keyring.chain = tuple(replace(key, until=1) for key in keyring.chain[:-1]) + keyring.chain[-1:]
    added = decide_rotate(keyring, lambda _: new)
    assert added is not None
    return added if by is None else replace(added, possession=an_addition(by, *before).possession)


async def a_desk(*, retired: bool = True) -> Desk:
    """Ada, a viewer, and web9 by the first key; then the second one signs, and the first is retired."""
    desk = Desk()
    await desk.access.create_user(ADMIN, "ada", role="viewer", password=PASSWORD)
    await desk.register("web9")
    await desk.rotate_to(SECOND)
    if retired:
        await desk.retire_first()
    return desk


def chain(desk: Desk) -> list[tuple[str, str]]:
    return [(key.key_id, key.state) for key in desk.keyring.chain]


async def test_what_the_first_key_signed_stands_and_the_second_signs_on() -> None:
    desk = await a_desk()
    await desk.register("web1")

    assert chain(desk) == [(FIRST.key_id, "retired"), (SECOND.key_id, "active")]
    assert desk.authority.access.users["ada"].role == "viewer"
    assert desk.log.rows[-1].key_id == SECOND.key_id
    again = desk.beside(Keyring(SECOND, first=FIRST.public_key))
    await again.authority.refresh()
    assert chain(again) == chain(desk)
    assert again.authority.fleet == desk.authority.fleet
    assert again.authority.refused == 0


@pytest.mark.parametrize("event", FORGED, ids=lambda event: event.KIND)
async def test_a_retired_key_writes_nothing_more(event: Event) -> None:
    desk = await a_desk()
    before = (dict(desk.authority.access.users), dict(desk.authority.fleet.hosts))

    desk.insert(event, FIRST)

    for replica in (desk, desk.beside(Keyring(SECOND, first=FIRST.public_key))):
        await replica.authority.refresh()
        state = replica.authority
        assert (state.access.users, state.fleet.hosts) == before
        assert (state.access.tokens, state.access.sessions) == ({}, {})
        assert (state.enrolment.tokens, state.rules.rules) == ({}, {})
        assert state.refused == 1


async def test_a_task_that_a_retired_key_authorised_before_may_run_and_one_after_may_not() -> None:
    desk = Desk()
    await desk.register("web9")
    seq = (await desk.tasks.create(ADMIN, a_request("t1"))).seq
    await desk.rotate_to(SECOND)
    await desk.retire_first()
    genuine = desk.log.rows[seq - 1]
    copy = genuine._replace(seq=len(desk.log.rows) + 1)

    assert verify_authorisation(genuine, desk.keyring.keys_at(seq)).task_id == "t1"
    with pytest.raises(SignatureError):
        verify_authorisation(copy, desk.keyring.keys_at(copy.seq))
    task = TaskAccepted.from_stored(genuine, {**json.loads(genuine.body), "task_id": "t2"})
    signature = FIRST.sign(AUTHORISATION, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=task.body())
    forged = desk.log.insert(task.to_new_event(signature=signature, key_id=FIRST.key_id))
    with pytest.raises(SignatureError):
        verify_authorisation(desk.log.rows[forged.seq - 1], desk.keyring.keys_at(forged.seq))


Attack: TypeAlias = tuple[Callable[[], Event], SigningKey]  # what is written, and by which key

AFTER_ROTATION: dict[str, Attack] = {
    "somebody's own key": (lambda: an_addition(THIEF, FIRST, SECOND), THIEF),
    "the first adds one that was not announced": (lambda: an_addition(THIEF, FIRST, SECOND), FIRST),
    "the second adds one that was not announced": (lambda: an_addition(THIEF, FIRST, SECOND), SECOND),
    "the first ends the second": (lambda: KeyRetired(key_id=SECOND.key_id, heartbeats=0), FIRST),
    "the second ends itself": (lambda: KeyRetired(key_id=SECOND.key_id, heartbeats=0), SECOND),
    "the first announces once more": (
        lambda: KeyAnnounced(announced_by=FIRST.key_id, public_key_sha256=sha256(THIEF)),
        FIRST,
    ),
    "the first announces for the second": (
        lambda: KeyAnnounced(announced_by=SECOND.key_id, public_key_sha256=sha256(THIEF)),
        FIRST,
    ),
    "the first adds itself again": (lambda: an_addition(FIRST, FIRST, SECOND), FIRST),
    "the second adds the first again": (lambda: an_addition(FIRST, FIRST, SECOND), SECOND),
    "somebody ends the first": (lambda: KeyRetired(key_id=FIRST.key_id, heartbeats=0), THIEF),
    "a key that is not ours ends": (lambda: KeyRetired(key_id=THIEF.key_id, heartbeats=0), SECOND),
    "another first one": (lambda: KeyAdded(key_id=THIEF.key_id, public_key=encode_base64(THIEF.public_key)), THIEF),
    "another first one, by ours": (
        lambda: KeyAdded(key_id=THIEF.key_id, public_key=encode_base64(THIEF.public_key)),
        SECOND,
    ),
}


@pytest.mark.parametrize("attack", AFTER_ROTATION, ids=str)
async def test_who_holds_a_key_changes_the_chain_only_as_it_was_announced(attack: str) -> None:
    event, signer = AFTER_ROTATION[attack]
    desk = await a_desk(retired=False)
    before = chain(desk)

    desk.insert(event(), signer)
    await desk.authority.refresh()

    assert (chain(desk), desk.keyring.announced, desk.authority.refused) == (before, None, 1)
    assert desk.keyring.active.key_id == SECOND.key_id


BEFORE_ROTATION: dict[str, Attack] = {
    "a second announcement": (lambda: KeyAnnounced(announced_by=FIRST.key_id, public_key_sha256=sha256(THIEF)), FIRST),
    "another key": (lambda: an_addition(THIEF, FIRST), FIRST),
    "the announced one, signed by itself": (lambda: an_addition(SECOND, FIRST), SECOND),
    "the announced one, without its private half": (lambda: an_addition(SECOND, FIRST, by=THIEF), FIRST),
    "the announced one, with another past": (lambda: an_addition(SECOND, THIEF), FIRST),
    "the announced one, with no past": (
        lambda: KeyAdded(key_id=SECOND.key_id, public_key=encode_base64(SECOND.public_key)),
        FIRST,
    ),
    "the announced one, under another id": (lambda: replace(an_addition(SECOND, FIRST), key_id=THIEF.key_id), FIRST),
    "a user, by the next key": (lambda: FORGED[0], SECOND),
}


@pytest.mark.parametrize("attack", BEFORE_ROTATION, ids=str)
async def test_an_announcement_is_for_one_key_and_for_whoever_has_it(attack: str) -> None:
    event, signer = BEFORE_ROTATION[attack]
    desk = Desk()
    await desk.announce(SECOND)

    desk.insert(event(), signer)
    await desk.authority.refresh()

    assert (chain(desk), desk.keyring.announced) == ([(FIRST.key_id, "active")], sha256(SECOND))
    assert (desk.authority.access.users, desk.authority.refused) == ({}, 1)


async def test_a_key_counts_from_its_event_on_and_copies_of_rows_bring_nothing_back() -> None:
    desk = await a_desk()
    rows = [row for row in desk.log.rows if row.kind.startswith("key.")]
    for row in rows:
        desk.log.rows.append(row._replace(seq=len(desk.log.rows) + 1))

    again = desk.beside(Keyring(SECOND, first=FIRST.public_key))
    await again.authority.refresh()

    assert (chain(again), again.authority.refused) == (chain(desk), len(rows))


async def test_a_third_key_follows_and_says_all_that_were_before_it() -> None:
    desk = await a_desk()
    await desk.rotate_to(THIRD)
    await desk.handling.record_new(KeyRetired(key_id=SECOND.key_id, heartbeats=0), actor="console")

    assert [state for _, state in chain(desk)] == ["retired", "retired", "active"]
    assert [key.state for key in desk.keyring.states()] == ["active", "retired", "retired"]
    added = [row for row in desk.log.rows if row.kind == KeyAdded.KIND]
    assert first_key(added, [THIRD]) == FIRST.public_key
    again = desk.beside(Keyring(THIRD, first=FIRST.public_key))
    await again.authority.refresh()
    assert chain(again) == chain(desk)


async def test_the_first_key_is_the_one_that_our_own_names_whatever_the_log_says_beside() -> None:
    desk = Desk()
    root = KeyAdded(key_id=FIRST.key_id, public_key=encode_base64(FIRST.public_key))
    await desk.handling.record_new(root, actor="console")
    await desk.rotate_to(SECOND)
    await desk.retire_first()
    genuine = [row for row in desk.log.rows if row.kind == KeyAdded.KIND]
    # Whoever has stolen the first key lets it name a key before it; and tries the same in the name of the second.
    claims = [(an_addition(FIRST, THIEF), THIEF), (an_addition(SECOND, THIEF, by=THIEF), THIEF)]
    forged = [desk.log.rows[desk.insert(event, signer) - 1] for event, signer in claims]

    for held in ([SECOND], [FIRST, SECOND], [FIRST]):
        assert first_key([*genuine, *forged], held) == FIRST.public_key
    assert first_key([forged[1], *genuine], [SECOND]) == FIRST.public_key
    assert first_key([], [SECOND, THIRD]) == SECOND.public_key


async def test_before_the_first_is_retired_both_write_since_a_server_may_lack_the_second() -> None:
    desk = await a_desk(retired=False)
    lacking = desk.beside(Keyring(FIRST))
    await lacking.register("web1")

    await desk.authority.refresh()

    assert "web1" in desk.authority.fleet.hosts
    assert lacking.keyring.missing == (SECOND.key_id,)
    assert lacking.keyring.messenger.key_id == desk.keyring.messenger.key_id == FIRST.key_id
    await desk.retire_first()
    with pytest.raises(KeyMissingError, match=SECOND.key_id):
        await lacking.register("web2")
    assert [row.kind for row in desk.log.rows].count("host.registered") == 2


async def test_a_key_that_is_missing_is_taken_as_soon_as_it_is_there() -> None:
    desk = await a_desk(retired=False)
    places: dict[str, SigningKey] = {}
    lacking = desk.beside(Keyring(FIRST))
    lacking.authority._find = places.get
    await lacking.authority.refresh()
    assert lacking.keyring.active.key_id == FIRST.key_id

    places[SECOND.key_id] = SECOND
    await lacking.authority.refresh()
    assert lacking.keyring.active.key_id == FIRST.key_id  # it does not look at each request
    desk.clock.advance(10)
    await lacking.authority.refresh()

    assert (lacking.keyring.active.key_id, lacking.keyring.missing) == (SECOND.key_id, ())


async def test_a_checkpoint_of_a_retired_key_counts_up_to_where_the_log_was() -> None:
    desk = Desk()
    await desk.rotate_to(SECOND)
    ended = decide_retire(desk.keyring, FIRST.key_id, heartbeats=7, reason=None)
    assert ended is not None
    seq = await desk.handling.record_new(ended, actor="console")

    both, newest = [FIRST.public_key, SECOND.public_key], [SECOND.public_key]
    assert (desk.keyring.keys_for(EVENT, seq), desk.keyring.keys_for(EVENT, seq + 1)) == (both, newest)
    assert (desk.keyring.keys_for(HEARTBEAT_EVENT, 7), desk.keyring.keys_for(HEARTBEAT_EVENT, 8)) == (both, newest)


async def test_what_introduces_a_new_key_is_the_newest_that_a_host_knows() -> None:
    desk = await a_desk()

    assert desk.keyring.introducer([FIRST.key_id]).key_id == FIRST.key_id
    assert desk.keyring.introducer([FIRST.key_id, SECOND.key_id]).key_id == SECOND.key_id
    assert desk.keyring.introducer([THIEF.key_id]).key_id == SECOND.key_id
    assert desk.keyring.introducer([]).key_id == SECOND.key_id


async def test_what_is_asked_for_in_the_wrong_order_is_refused_with_what_to_do() -> None:
    desk = Desk()

    def code(decide: Callable[[], object]) -> str:
        with pytest.raises(RefusedError) as refused:
            decide()
        return refused.value.code

    keyring = desk.keyring
    assert code(lambda: decide_rotate(keyring, lambda _: SECOND)) == "nothing_announced"
    assert code(lambda: decide_retire(keyring, FIRST.key_id, heartbeats=0, reason=None)) == "key_in_use"
    assert code(lambda: decide_retire(keyring, THIEF.key_id, heartbeats=0, reason=None)) == "unknown_key"
    await desk.announce(SECOND)
    assert code(lambda: decide_announce(keyring, THIRD.public_key)) == "key_announced"
    assert code(lambda: decide_rotate(keyring, lambda _: None)) == "key_not_here"
    assert code(lambda: decide_rotate(keyring, lambda _: THIEF)) == "key_not_here"
    added = decide_rotate(keyring, lambda _: SECOND)
    assert added is not None
    await desk.handling.record_new(added, actor="console")
    assert decide_rotate(keyring, lambda _: None) is None
    assert code(lambda: decide_retire(keyring, FIRST.key_id, heartbeats=0, reason=None)) == "key_not_here"
    assert code(lambda: decide_announce(keyring, THIRD.public_key)) == "key_not_here"
    keyring.hold(SECOND)
    await desk.announce(THIRD)
    assert code(lambda: decide_rotate(keyring, lambda _: THIRD)) == "key_not_retired"
    await desk.retire_first()
    assert decide_retire(keyring, FIRST.key_id, heartbeats=0, reason=None) is None


async def test_a_nonce_is_good_whichever_of_the_keys_that_sign_has_signed_it() -> None:
    desk = Desk()
    nonces = [new_nonce(key, AT) for key in (FIRST, SECOND, THIEF)]
    good = [0, 0, 0]
    for step in range(3):
        if step == 1:
            await desk.rotate_to(SECOND)
        if step == 2:
            await desk.retire_first()
        for nonce in nonces:
            try:
                check_nonce(nonce, desk.keyring.trusted_public_keys, AT)
            except RefusedError:
                continue
            good[step] += 1
    assert good == [1, 2, 1]


def test_nobody_verifies_a_task_by_a_key_whatever_its_place() -> None:
    """`public_keys` has the retired ones, too; what they sign counts by its place in the log."""
    package = Path(control_plane.__file__).parent
    calls = [
        (path.name, call)
        for path in package.rglob("*.py")
        for call in re.findall(r"verify_authorisation\((.*)\)", path.read_text())
    ]

    assert len(calls) > 3
    assert [call for call in calls if "public_keys)" in f"{call[1]})" and "Mapping" not in call[1]] == []


async def test_a_host_knows_the_keys_when_it_trusts_just_these_and_has_heard_of_the_next() -> None:
    first, second = FIRST.key_id, SECOND.key_id
    new = Desk()
    assert [new.keyring.is_known_by(keys, None) for keys in ((first,), (), None)] == [True, False, False]
    await new.announce(SECOND)
    assert [new.keyring.is_known_by((first,), said) for said in (second, first, None)] == [True, False, False]

    desk = await a_desk(retired=False)
    told = ((first, second), (second, first), (first,))
    assert [desk.keyring.is_known_by(keys, None) for keys in told] == [True, False, False]
    await desk.retire_first()
    assert [desk.keyring.is_known_by(keys, None) for keys in ((second,), *told)] == [True, False, False, False]
