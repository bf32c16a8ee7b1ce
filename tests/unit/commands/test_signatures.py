"""Whose signatures a log carries: a host's by each key that it had, for as long as that counted."""

from control_plane.commands.authority import Keyring
from control_plane.commands.signatures import SLACK_US, Signatures
from control_plane.events.envelope import StoredEvent
from control_plane.events.hosts import HostKeyRotated, HostKeySwitched
from control_plane.events.tasks import ExecutionFinished
from control_plane_wire.signing import CONTROL_PLANE, RESULT, SigningKey, encode_base64
from tests.support.clock import START_US
from tests.support.events import AT, stored
from tests.support.fleet import CONTROL_PLANE_KEY, a_registration, host_key

OLD, NEW = host_key("web1"), host_key("web1-new")
ROTATED_US, SWITCHED_US = START_US + 10 * SLACK_US, START_US + 20 * SLACK_US


def a_result(key: SigningKey, at_us: int) -> StoredEvent:
    event = ExecutionFinished(
        hostname="web1", message={"task_id": "t1", "exit_code": 0, "stdout": "", "stderr": "", "timestamp": AT}
    )
    signature = key.sign(RESULT, sender="web1", recipient=CONTROL_PLANE, body=event.body())
    return stored(event.to_new_event(actor="web1", signature=signature, key_id=key.key_id), recorded_us=at_us)


def test_the_old_key_vouches_until_the_switch_and_the_new_one_from_the_rotation_on() -> None:
    keyring = Keyring(CONTROL_PLANE_KEY)
    told = (
        (a_registration("web1"), START_US),
        (
            HostKeyRotated(hostname="web1", based_on=1, public_key=encode_base64(NEW.public_key), nonce_ends=1),
            ROTATED_US,
        ),
        (HostKeySwitched(hostname="web1", rotated_seq=2, key_id=NEW.key_id), SWITCHED_US),
    )
    signatures = Signatures(keyring)
    signatures.learn(
        [
            stored(
                event.to_new_event(signature=keyring.sign_event(event), key_id=keyring.active.key_id),
                seq=seq,
                recorded_us=at_us,
            )
            for seq, (event, at_us) in enumerate(told, start=1)
        ]
    )

    good = [
        a_result(OLD, START_US),
        a_result(OLD, SWITCHED_US - 1),
        a_result(NEW, ROTATED_US),
        a_result(NEW, SWITCHED_US * 2),
    ]
    bad = [a_result(NEW, START_US), a_result(OLD, SWITCHED_US + 2 * SLACK_US), a_result(host_key("db1"), START_US)]

    assert signatures.wrong(good) == []
    assert len(signatures.wrong(bad)) == len(bad)
