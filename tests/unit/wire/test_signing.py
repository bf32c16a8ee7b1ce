import base64
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from control_plane_wire import signing
from control_plane_wire.errors import SignatureError
from control_plane_wire.signing import SigningKey

KEY = SigningKey.from_bytes(b"\x01" * 32)
P = 2**255 - 19
WEAK = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]


@pytest.mark.parametrize("key", WEAK)
def test_the_fourteen_keys_of_small_order_are_refused_though_the_library_takes_them(key: str) -> None:
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))

    with pytest.raises(SignatureError):
        signing.check_public_key(bytes.fromhex(key))


@pytest.mark.parametrize("y", range(P, 2**255))
def test_a_key_that_is_not_canonically_encoded_is_refused(y: int) -> None:
    with pytest.raises(SignatureError):
        signing.check_public_key(y.to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(SignatureError):
        signing.check_public_key(b"\x07" * length)


@given(st.binary(max_size=64), st.text(max_size=8), st.text(max_size=8))
def test_a_signature_holds_for_exactly_what_was_signed(body: bytes, sender: str, recipient: str) -> None:
    signature = KEY.sign(signing.RESULT, sender=sender, recipient=recipient, body=body)

    signing.verify(KEY.public_key, signature, signing.RESULT, sender=sender, recipient=recipient, body=body)
    for changed in (
        {"body": body + b"x"},
        {"sender": sender + "x"},
        {"recipient": recipient + "x"},
        # moving a character between neighbours must not give the same input
        {"sender": sender + recipient, "recipient": ""} if recipient else {"body": body + b"y"},
    ):
        reading = {"sender": sender, "recipient": recipient, "body": body, **changed}
        with pytest.raises(SignatureError):
            signing.verify(KEY.public_key, signature, signing.RESULT, **reading)
    with pytest.raises(SignatureError):
        signing.verify(KEY.public_key, signature, signing.COMMAND, sender=sender, recipient=recipient, body=body)


def test_another_key_does_not_verify() -> None:
    signature = KEY.sign(signing.RESULT, sender="a", recipient="b", body=b"x")

    with pytest.raises(SignatureError):
        signing.verify(SigningKey.generate().public_key, signature, "result", sender="a", recipient="b", body=b"x")


def test_a_signature_has_no_second_spelling() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    signature = KEY.sign(signing.RESULT, sender="a", recipient="b", body=b"x")
    scalar = int.from_bytes(signature[32:], "little")
    twin = signature[:32] + (scalar + order).to_bytes(32, "little")

    with pytest.raises(SignatureError):
        signing.verify(KEY.public_key, twin, signing.RESULT, sender="a", recipient="b", body=b"x")


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\xff" * 64, b"x" * 63, b"x" * 65])
@pytest.mark.parametrize("public_key", [KEY.public_key, b"", b"\xff" * 32, b"x" * 31])
def test_whatever_is_wrong_with_key_or_signature_is_a_signature_error(public_key: bytes, signature: bytes) -> None:
    with pytest.raises(SignatureError):
        signing.verify(public_key, signature, signing.RESULT, sender="a", recipient="b", body=b"x")


def test_a_sender_that_is_no_text_is_a_signature_error() -> None:
    with pytest.raises(SignatureError):
        signing.verify(KEY.public_key, b"x" * 64, signing.RESULT, sender="\ud800", recipient="b", body=b"x")


def test_the_signing_input_is_the_protocols() -> None:
    made = signing.signing_input("command", "control-plane", "cmd.node.é", "0123456789abcdef", b"{}")

    parts = [b"command", b"control-plane", "cmd.node.é".encode(), b"0123456789abcdef", b"{}"]
    assert made == b"CPSIG1" + b"".join(struct.pack(">I", len(part)) + part for part in parts)


def test_the_key_shows_nothing_of_its_seed() -> None:
    assert "01" * 8 not in repr(KEY) + str(KEY)
    assert not hasattr(KEY, "__dict__")


def test_signing_is_deterministic_and_the_key_survives_its_bytes() -> None:
    again = SigningKey.from_bytes(KEY.to_bytes())

    assert again.sign("event", sender="a", recipient="b", body=b"x") == KEY.sign(
        "event", sender="a", recipient="b", body=b"x"
    )
    assert again.key_id == signing.key_id(KEY.public_key)


def test_only_one_text_of_sixteen_is_the_signature() -> None:
    text = signing.encode_base64(b"\x05" * 64)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twins = [t for c in alphabet if base64.b64decode(t := text[:-3] + c + "==") == b"\x05" * 64]
    assert len(twins) == 16

    accepted = [twin for twin in twins if decodes(twin)]

    assert accepted == [text]


def decodes(text: str) -> bool:
    try:
        signing.decode_signature(text)
    except SignatureError:
        return False
    return True


@pytest.mark.parametrize("bad", ["", "AAAA", "é" * 88, "A" * 87, " " + "A" * 86 + "==", "A" * 86 + "==\n", "-" * 88])
def test_what_is_not_strict_base64_of_64_bytes_is_refused(bad: str) -> None:
    assert not decodes(bad)
