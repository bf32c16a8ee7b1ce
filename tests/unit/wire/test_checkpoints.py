"""Checkpoints as C2SP writes them: signed, read back, and refused when anything of them is not as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane_wire.checkpoints import Checkpoint, note_key_id, parse, sign, verified
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.signing import SigningKey, encode_base64

KEY = SigningKey.from_bytes(b"\x11" * 32)
OTHER = SigningKey.from_bytes(b"\x12" * 32)
CHECKPOINT = Checkpoint("control-plane-0123456789abcdef/event", 42, bytes(range(32)))


def test_a_note_never_changes() -> None:
    """Recorded bytes: what was signed once is verified for ever, by whatever knows C2SP's form."""
    assert sign(CHECKPOINT, KEY) == (
        "control-plane-0123456789abcdef/event\n"
        "42\n"
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
        "\n"
        "— control-plane-0123456789abcdef/event "
        "Sj/6g43OotoBHWkJ0dwTc5DCdCZcOokcrOuj1ydc224IRwc5sysQwQZ9h8ZGu9KloAkVmHMKMNGHQfq4JNnyoYqLQQw=\n"
    )


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_what_was_signed_is_verified(size: int, root: bytes) -> None:
    checkpoint = Checkpoint("o/event", size, root)

    assert verified(sign(checkpoint, KEY), [OTHER.public_key, KEY.public_key]) == checkpoint


def test_another_key_did_not_sign_it() -> None:
    with pytest.raises(SignatureError, match="not signed by a key that counts"):
        verified(sign(CHECKPOINT, KEY), [OTHER.public_key])


def test_every_changed_character_is_refused() -> None:
    note = sign(CHECKPOINT, KEY)

    for at, character in enumerate(note):
        changed = note[:at] + ("B" if character != "B" else "C") + note[at + 1 :]
        with pytest.raises((SignatureError, MalformedMessageError)):
            verified(changed, [KEY.public_key])


def test_signatures_of_others_beside_ours_are_ignored() -> None:
    note = sign(CHECKPOINT, KEY)
    by_witness = f"— witness.example {encode_base64(note_key_id('witness.example', OTHER.public_key) + bytes(64))}\n"

    assert verified(note + by_witness, [KEY.public_key]) == CHECKPOINT
    with pytest.raises(SignatureError):
        verified(CHECKPOINT.text + "\n" + by_witness, [KEY.public_key])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "tree",
        "o\n1\nAAAA\n\n— o AAAA\n",
        f"o\n1\n{encode_base64(bytes(33))}\n\n— o AAAA\n",
        f"\n1\n{encode_base64(bytes(32))}\n\n— o AAAA\n",
        f"o p\n1\n{encode_base64(bytes(32))}\n\n— o AAAA\n",
        f"o\n01\n{encode_base64(bytes(32))}\n\n— o AAAA\n",
        f"o\n-1\n{encode_base64(bytes(32))}\n\n— o AAAA\n",
        f"o\n{2**63}\n{encode_base64(bytes(32))}\n\n— o AAAA\n",
        f"o\n٣\n{encode_base64(bytes(32))}\n\n— o AAAA\n",
        f"o\n1\n{encode_base64(bytes(32))}\nmore\n\n— o AAAA\n",
        f"o\n1\n{encode_base64(bytes(32))}\n",
        f"o\n1\n{encode_base64(bytes(32))}\n\n— o AAAA",
    ],
)
def test_what_is_no_checkpoint_is_refused(note: str) -> None:
    with pytest.raises(MalformedMessageError):
        parse(note)


def test_a_note_cannot_stand_for_a_message() -> None:
    with pytest.raises(ValueError, match="begin like a message"):
        KEY.sign_note("CPSIG1\n1\n")
