"""Which of the control plane's keys an agent lets in: only the one that was announced, by the newest that it trusts."""

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from control_plane_agent.disk import RealDisk
from control_plane_agent.identity import Identity, create_key, load, save
from control_plane_agent.trust import TrustedKeys
from control_plane_wire.messages import MAX_KEYS, ConfigureMessage, KeyState
from control_plane_wire.signing import SigningKey

FIRST, SECOND, THIRD, THIEF = (SigningKey.from_bytes(bytes([n]) * 32) for n in (1, 2, 3, 0x66))


def sha256(key: SigningKey) -> str:
    return hashlib.sha256(key.public_key).hexdigest()


def trusting(*keys: SigningKey, announced: SigningKey | None = None) -> TrustedKeys:
    return TrustedKeys({key.key_id: key.public_key for key in keys}, {}, announced and sha256(announced))


def a_word(
    *active: SigningKey, retired: tuple[SigningKey, ...] = (), next_key: SigningKey | None = None
) -> ConfigureMessage:
    states = [KeyState(public_key=key.public_key, state="active") for key in active]
    states += [KeyState(public_key=key.public_key, state="retired") for key in retired]
    return ConfigureMessage(
        task_id="c", timestamp=1, as_of=1, groups={}, keys=tuple(states), next_key_sha256=next_key and sha256(next_key)
    )


def ids(keys: TrustedKeys) -> list[str]:
    return list(keys.keys)


def test_the_announced_key_is_let_in_then_alone_and_the_first_goes() -> None:
    told = trusting(FIRST).told(a_word(FIRST, next_key=SECOND), FIRST.public_key)
    both = told.told(a_word(FIRST, SECOND), FIRST.public_key)
    alone = both.told(a_word(SECOND, retired=(FIRST,), next_key=THIRD), SECOND.public_key)

    assert (ids(told), told.announced) == ([FIRST.key_id], sha256(SECOND))
    assert (ids(both), both.announced) == ([FIRST.key_id, SECOND.key_id], None)
    assert (ids(alone), list(alone.retired), alone.announced) == ([SECOND.key_id], [FIRST.key_id], sha256(THIRD))
    assert {each.objection for each in (told, both, alone)} == {None}


def test_who_was_away_takes_both_steps_at_once() -> None:
    late = trusting(FIRST, announced=SECOND).told(a_word(SECOND, retired=(FIRST,)), FIRST.public_key)

    assert (ids(late), list(late.retired)) == ([SECOND.key_id], [FIRST.key_id])


TRUSTING = {
    "first": trusting(FIRST),
    "told": trusting(FIRST, announced=SECOND),
    "both": trusting(FIRST, SECOND),
    "second": TrustedKeys({SECOND.key_id: SECOND.public_key}, {FIRST.key_id: FIRST.public_key}),
}
# What a thief of one of the keys says, or somebody by mistake; nothing of it is taken.
REFUSED = [
    ("first", a_word(FIRST, SECOND), FIRST),  # never announced
    ("first", a_word(THIEF), FIRST),
    ("first", a_word(FIRST, SECOND, next_key=SECOND), FIRST),  # announced and let in by one word
    ("first", a_word(FIRST, THIEF, next_key=THIEF), FIRST),
    ("told", a_word(FIRST, THIEF), FIRST),
    ("told", a_word(FIRST, next_key=THIEF), FIRST),  # another announcement
    ("told", a_word(THIEF, next_key=THIEF), FIRST),
    ("told", a_word(FIRST, SECOND, THIEF), FIRST),  # one more under its cover
    ("told", a_word(SECOND, THIEF, retired=(FIRST,)), FIRST),
    ("told", a_word(SECOND, FIRST), FIRST),  # the newest would not be the newest
    ("told", a_word(retired=(FIRST,)), FIRST),  # none at all
    ("both", a_word(FIRST, retired=(SECOND,)), FIRST),  # the first ends the second
    ("both", a_word(SECOND, retired=(FIRST,)), FIRST),
    ("both", a_word(FIRST, SECOND, THIEF), FIRST),
    ("both", a_word(THIEF), SECOND),
    ("both", a_word(SECOND, FIRST), SECOND),
    ("both", a_word(FIRST), SECOND),
    ("second", a_word(FIRST, SECOND), SECOND),  # back to a retired one
    ("second", a_word(SECOND, FIRST), SECOND),
    ("second", a_word(FIRST), SECOND),
]


@pytest.mark.parametrize(("state", "word", "signer"), REFUSED)
def test_what_was_not_announced_is_refused_as_a_whole(state: str, word: ConfigureMessage, signer: SigningKey) -> None:
    before = TRUSTING[state]

    after = before.told(word, signer.public_key)

    assert after.objection is not None
    assert replace(after, objection=None) == before


def test_an_earlier_key_announces_nothing_while_both_are_trusted() -> None:
    after = trusting(FIRST, SECOND).told(a_word(FIRST, SECOND, next_key=THIEF), FIRST.public_key)

    assert (after.announced, after.objection) == (None, None)


def test_a_word_without_keys_changes_none() -> None:
    before = TRUSTING["told"]

    assert before.told(replace(a_word(), keys=None, next_key_sha256=sha256(THIEF)), FIRST.public_key) is before


def test_it_is_on_the_disk_and_what_an_earlier_release_wrote_is_read(tmp_path: Path) -> None:
    identity = Identity(
        hostname="web1",
        key=create_key(tmp_path),
        keys=trusting(FIRST, SECOND).keys,
        groups={},
        enrolled_as_of=1,
        announced=sha256(THIRD),
    )
    save(RealDisk(str(tmp_path)), identity)

    kept = load(tmp_path)

    assert (list(kept.keys), kept.announced) == ([FIRST.key_id, SECOND.key_id], sha256(THIRD))
    path = tmp_path / "identity" / "identity.json"
    path.write_bytes(path.read_bytes().replace(f',"next_key_sha256":"{sha256(THIRD)}"'.encode(), b""))
    assert load(tmp_path).announced is None


def test_however_often_keys_change_what_is_remembered_can_be_read_again(tmp_path: Path) -> None:
    keys = [SigningKey.generate() for _ in range(MAX_KEYS + 3)]
    trusted = trusting(keys[0])
    for before, new in pairwise(keys):
        trusted = trusted.told(a_word(before, next_key=new), before.public_key)
        trusted = trusted.told(a_word(new, retired=(before,)), before.public_key)
    identity = Identity(
        hostname="web1",
        key=create_key(tmp_path),
        keys=trusted.keys,
        retired=trusted.retired,
        groups={},
        enrolled_as_of=1,
    )
    save(RealDisk(str(tmp_path)), identity)

    assert list(load(tmp_path).keys) == [keys[-1].key_id]
    assert list(load(tmp_path).retired) == [key.key_id for key in keys[2:-1]]
