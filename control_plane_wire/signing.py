"""Ed25519 signatures bound to what they say, to whom, and by whom.

    input = "CPSIG1" ‖ for x in (type, sender, recipient, key_id, body): u32 big-endian length of x ‖ x

Sender and recipient are never read from the message: the verifier takes them from what it already knows.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from control_plane_wire.errors import SignatureError

PREFIX: Final = b"CPSIG1"
COMMAND: Final = "command"
RESULT: Final = "result"
HEARTBEAT: Final = "heartbeat"
OUTPUT: Final = "output"
ENROL: Final = "enrol"
PASSKEY: Final = "passkey"
AUTHORISATION: Final = "authorisation"
EVENT: Final = "event"
CHECKPOINT: Final = "checkpoint"
KEY: Final = "key"

CONTROL_PLANE: Final = "control-plane"

_KEY_ID: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_P: Final = 2**255 - 19
_Y: Final = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
# Points of small order with their non-canonical twins: the library accepts them, and signatures can be forged.
_WEAK: Final = frozenset({0, 1, _P - 1, _P, _P + 1, _Y, _P - _Y})


def key_id(public_key: bytes) -> str:
    """The first 16 hex digits of SHA-256 of the public key."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def is_key_id(text: str) -> bool:
    return _KEY_ID.fullmatch(text) is not None


def check_public_key(public_key: bytes) -> None:
    """Refuse a public key under which signatures could be forged, or that has a second spelling.

    Raises:
        SignatureError: not 32 bytes, of small order, or y is not below p.
    """
    if len(public_key) != 32:
        raise SignatureError("a public key has 32 bytes")
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    if y in _WEAK:
        raise SignatureError("a public key of small order")
    if y >= _P:
        raise SignatureError("a public key that is not canonically encoded")


def signing_input(tag: str, sender: str, recipient: str, key: str, body: bytes) -> bytes:
    parts = (tag.encode(), sender.encode(), recipient.encode(), key.encode(), body)
    return PREFIX + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class SigningKey:
    """A private key; it signs, and shows only its public half."""

    __slots__ = ("_private", "key_id", "public_key")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_key = private.public_key().public_bytes_raw()
        self.key_id = key_id(self.public_key)

    @classmethod
    def generate(cls) -> "SigningKey":
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, seed: bytes) -> "SigningKey":
        """From the 32 bytes that `to_bytes` gave."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def to_bytes(self) -> bytes:
        return self._private.private_bytes_raw()

    def sign(self, tag: str, *, sender: str, recipient: str, body: bytes) -> bytes:
        """64 bytes, the same ones for the same input."""
        return self._private.sign(signing_input(tag, sender, recipient, self.key_id, body))

    def sign_note(self, text: str) -> bytes:
        """64 bytes over a text as it is, so that tools of others can verify them.

        Raises:
            ValueError: the text begins as the input of every other signature does, and could stand for one.
        """
        if text.startswith(PREFIX.decode()):
            raise ValueError("a note cannot begin like a message")
        return self._private.sign(text.encode())


def verify(public_key: bytes, signature: bytes, tag: str, *, sender: str, recipient: str, body: bytes) -> None:
    """Return if the signature holds.

    The key must have passed `check_public_key` when it was registered.

    Raises:
        SignatureError: it does not hold.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(signature, signing_input(tag, sender, recipient, key_id(public_key), body))
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(f"wrong signature of {sender}") from error


def verify_by_any(
    public_keys: Iterable[bytes], signature: bytes, tag: str, *, sender: str, recipient: str, body: bytes
) -> None:
    """The same by one of several keys: while the control plane's is changed, each process may sign with another one."""
    for public_key in public_keys:
        with suppress(SignatureError):
            verify(public_key, signature, tag, sender=sender, recipient=recipient, body=body)
            return
    raise SignatureError(f"wrong signature of {sender}")


def verify_note(public_key: bytes, signature: bytes, text: str) -> None:
    """Return if `SigningKey.sign_note` of this key gave the signature; raises SignatureError."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, text.encode())
    except (InvalidSignature, ValueError) as error:
        raise SignatureError("wrong signature of a note") from error


def encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decode_base64(text: str) -> bytes:
    """Strict base64: sixteen texts decode to the same bytes, and only one of them is accepted.

    Raises:
        SignatureError: it is another one, or none at all.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise SignatureError("not base64") from error
    if encode_base64(data) != text:
        raise SignatureError("not canonical base64")
    return data


def decode_signature(text: str) -> bytes:
    return _decode(text, 64, "a signature")


def decode_public_key(text: str) -> bytes:
    """The 32 bytes of a public key that may be trusted to verify with."""
    public_key = _decode(text, 32, "a public key")
    check_public_key(public_key)
    return public_key


def _decode(text: str, length: int, what: str) -> bytes:
    data = decode_base64(text)
    if len(data) != length:
        raise SignatureError(f"{what} has {length} bytes, not {len(data)}")
    return data
