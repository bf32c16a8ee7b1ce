"""Checkpoints: signed tree heads, in the form of C2SP's tlog-checkpoint and signed-note, which other tools verify too.

    origin                                         one for each log of an installation
    size                                           decimal: how many events the tree is over
    root                                           base64 of 32 bytes
                                                   an empty line, and then for each signature:
    — name base64(key id ‖ Ed25519 signature)      over the three lines; our name is the origin

The key id is the first 4 bytes of SHA-256(name ‖ newline ‖ 0x01 ‖ public key): another one than `signing.key_id`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.signing import SigningKey, decode_base64, encode_base64, verify_note

ED25519: Final = b"\x01"
ROOT_BYTES: Final = 32
KEY_ID_BYTES: Final = 4
MAX_SIZE: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How large a log is, and the root of its tree."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"


def note_key_id(name: str, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:KEY_ID_BYTES]


def sign(checkpoint: Checkpoint, key: SigningKey) -> str:
    """The note: the same one for the same checkpoint and key."""
    signature = note_key_id(checkpoint.origin, key.public_key) + key.sign_note(checkpoint.text)
    return f"{checkpoint.text}\n— {checkpoint.origin} {encode_base64(signature)}\n"


def parse(note: str) -> Checkpoint:
    """What a note says, whoever signed it.

    Raises:
        MalformedMessageError: it is no checkpoint.
    """
    text, _, signatures = note.partition("\n\n")
    lines = text.split("\n")
    if len(lines) != 3 or not signatures.endswith("\n"):
        raise MalformedMessageError("no checkpoint: it has to be origin, size, root, and signatures")
    origin, size, root = lines
    if not origin or any(c.isspace() or c == "+" for c in origin):
        raise MalformedMessageError("the checkpoint's origin is none")
    if not (size.isascii() and size.isdigit()) or len(size) > 19 or str(int(size)) != size or int(size) > MAX_SIZE:
        raise MalformedMessageError("the checkpoint's size is no number")
    try:
        checkpoint = Checkpoint(origin, int(size), decode_base64(root))
    except SignatureError as error:
        raise MalformedMessageError(f"the checkpoint's root is {error.reason}") from error
    if len(checkpoint.root) != ROOT_BYTES:
        raise MalformedMessageError(f"the checkpoint's root has {len(checkpoint.root)} bytes")
    return checkpoint


def verified(note: str, public_keys: Iterable[bytes]) -> Checkpoint:
    """The checkpoint of a note that one of these keys signed in its origin's name; signatures of others are ignored.

    Raises:
        MalformedMessageError: it is no checkpoint.
        SignatureError: none of them did.
    """
    checkpoint = parse(note)
    by_id = {note_key_id(checkpoint.origin, public_key): public_key for public_key in public_keys}
    for key_id, signature in _signatures(note, checkpoint.origin):
        if key_id in by_id:
            verify_note(by_id[key_id], signature, checkpoint.text)
            return checkpoint
    raise SignatureError("the checkpoint is not signed by a key that counts")


def _signatures(note: str, name: str) -> Iterator[tuple[bytes, bytes]]:
    """The (key id, signature) of each line in that name."""
    for line in note.partition("\n\n")[2].splitlines():
        dash, _, rest = line.partition(" ")
        signer, _, text = rest.rpartition(" ")
        if dash == "—" and signer == name:
            data = decode_base64(text)
            yield data[:KEY_ID_BYTES], data[KEY_ID_BYTES:]
