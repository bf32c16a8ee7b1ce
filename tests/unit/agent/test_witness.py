"""What a host makes of a checkpoint that it is told, and what it goes on remembering."""

from dataclasses import replace

import pytest

from control_plane_agent.identity import Identity
from control_plane_agent.witness import objection
from control_plane_wire.checkpoints import Checkpoint, sign
from control_plane_wire.messages import ConfigureMessage, KeyState
from control_plane_wire.signing import SigningKey

KEY = SigningKey.from_bytes(b"\x11" * 32)
OTHER = SigningKey.from_bytes(b"\x12" * 32)
KEPT = Checkpoint("control-plane-1/event", 40, b"\x01" * 32)


def told(checkpoint: Checkpoint, kept: str | None = None, key: SigningKey = KEY) -> str | None:
    return objection(kept, sign(checkpoint, key), [KEY.public_key])


def test_a_first_one_a_larger_one_and_the_same_again_are_fine() -> None:
    kept = sign(KEPT, KEY)

    assert told(KEPT) is None
    assert told(KEPT, kept) is None
    assert told(replace(KEPT, size=41, root=bytes(32)), kept) is None
    assert told(KEPT, "what an earlier release has kept") is None


@pytest.mark.parametrize(
    ("checkpoint", "reason"),
    [
        (replace(KEPT, size=39), "a log of 39 events, after one of 40"),
        (replace(KEPT, root=bytes(32)), "another tree over the same 40 events"),
        (replace(KEPT, origin="control-plane-2/event", size=99), "a checkpoint of control-plane-2/event, after"),
    ],
)
def test_one_that_goes_back_is_objected_to(checkpoint: Checkpoint, reason: str) -> None:
    found = told(checkpoint, sign(KEPT, KEY))

    assert found is not None
    assert reason in found


def test_one_that_the_control_plane_has_not_signed_is_objected_to() -> None:
    assert told(KEPT, key=OTHER) == "the checkpoint is not signed by a key that counts"
    assert objection(None, "tree", [KEY.public_key]) is not None


def test_a_refused_one_is_not_kept_and_the_rest_of_the_message_is_taken() -> None:
    identity = Identity(
        hostname="web1",
        key=OTHER,
        keys={KEY.key_id: KEY.public_key},
        groups={},
        enrolled_as_of=1,
        checkpoint=sign(KEPT, KEY),
    )
    message = ConfigureMessage(
        task_id="configure-7",
        timestamp=1,
        as_of=7,
        groups={"web": 5},
        keys=(KeyState(public_key=KEY.public_key, state="active"),),
        checkpoint=sign(replace(KEPT, size=39), KEY),
    )

    keys = identity.own_keys.told(message, KEY.public_key)

    changed = identity.configured(message, keys)

    assert identity.objection(message, keys) is not None
    assert changed.checkpoint == sign(KEPT, KEY)
    assert changed.groups == {"web": 5}
    newer = replace(message, checkpoint=sign(replace(KEPT, size=41), KEY))
    assert identity.configured(newer, keys).checkpoint == newer.checkpoint
    assert identity.configured(replace(message, checkpoint=None), keys).checkpoint == identity.checkpoint
