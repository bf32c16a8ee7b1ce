"""A proof that an event is in the log, as a text that anybody verifies with nothing but the control plane's key.

In the form of C2SP's tlog-proof: the extra data are all that the event is, so the text needs no database beside it.

    c2sp.org/tlog-proof@v1
    extra base64(leaf data)
    index seq - 1
    base64 of each hash of the inclusion proof, nearest first

    the checkpoint, with its signature
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from control_plane.events.batch import stored_event
from control_plane.events.envelope import StoredEvent
from control_plane.events.merkle import HASH_BYTES, row_of, verify_inclusion
from control_plane_wire.checkpoints import Checkpoint, verified
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.signing import decode_base64, encode_base64

HEADER: Final = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Attributes: `data`: the event's leaf data; `note`: the checkpoint that the hashes lead to."""

    seq: int
    data: bytes
    hashes: Sequence[bytes]
    note: str

    @property
    def leaf(self) -> bytes:
        return sha256(b"\x00" + self.data).digest()

    def to_text(self) -> str:
        lines = [HEADER, f"extra {encode_base64(self.data)}", f"index {self.seq - 1}", *map(encode_base64, self.hashes)]
        return "\n".join(lines) + "\n\n" + self.note

    @classmethod
    def parse(cls, text: str) -> "Proof":
        """Raises MalformedMessageError where the text is no proof with its event."""
        head, _, note = text.partition("\n\n")
        lines = head.split("\n")
        if len(lines) < 3 or lines[0] != HEADER:
            raise MalformedMessageError(f"no proof: it has to begin with {HEADER}")
        extra, index = lines[1].removeprefix("extra "), lines[2].removeprefix("index ")
        if extra == lines[1] or index == lines[2] or not (index.isascii() and index.isdigit() and len(index) < 20):
            raise MalformedMessageError("no proof: the event (extra) or its index is missing")
        try:
            hashes = [decode_base64(line) for line in lines[3:]]
            data = decode_base64(extra)
        except SignatureError as error:
            raise MalformedMessageError(f"no proof: {error.reason}") from error
        if any(len(hash_) != HASH_BYTES for hash_ in hashes):
            raise MalformedMessageError(f"no proof: a hash has {HASH_BYTES} bytes")
        return cls(seq=int(index) + 1, data=data, hashes=hashes, note=note)

    def check(self, public_keys: Iterable[bytes]) -> tuple[Checkpoint, StoredEvent]:
        """The signed checkpoint, and the event that is therefore in its log.

        Raises:
            MalformedMessageError: the checkpoint or the event is none.
            SignatureError: no such key signed the checkpoint, or the event is not in its tree.
        """
        checkpoint = verified(self.note, public_keys)
        if not verify_inclusion(self.leaf, self.seq - 1, checkpoint.size, self.hashes, checkpoint.root):
            raise SignatureError("the event is not in the tree that was signed")
        try:
            event = stored_event(row_of(self.data))
        except ValueError as error:
            raise MalformedMessageError(f"the proof's extra data are {error}") from error
        if event.seq != self.seq:
            raise SignatureError(f"the event says that it is {event.seq}, and stands at {self.seq}")
        return checkpoint, event
