"""A proof as a text: whole by itself, and refused when anything in it is not as it was."""

import pytest

from control_plane.events.envelope import StoredEvent
from control_plane.events.merkle import EventRow, inclusion_spans, leaf_data, leaf_hash
from control_plane.events.proofs import Proof
from control_plane.events.tiles import EMPTY
from control_plane_wire.checkpoints import Checkpoint, sign
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.signing import SigningKey
from tests.unit.events.test_merkle import naive_root

KEY = SigningKey.from_bytes(b"\x11" * 32)
ROWS: list[EventRow] = [
    (seq, 1_700_000_000_000_000 + seq, b"task.accepted", 1, b"t1", None, b"ada", None, b'{"a":1}', bytes(64), b"id")
    for seq in range(1, 8)
]
LEAVES = [leaf_hash(row) for row in ROWS]


def a_proof(seq: int = 3, *, row: EventRow | None = None) -> Proof:
    hashes = [naive_root(LEAVES[span.start : span.end]) for span in inclusion_spans(seq - 1, len(LEAVES))]
    note = sign(Checkpoint("o/event", len(LEAVES), EMPTY.extended(LEAVES).root()), KEY)
    return Proof(seq=seq, data=leaf_data(row or ROWS[seq - 1]), hashes=hashes, note=note)


@pytest.mark.parametrize("seq", range(1, 8))
def test_a_proof_is_read_back_and_gives_its_event(seq: int) -> None:
    proof = Proof.parse(a_proof(seq).to_text())

    checkpoint, event = proof.check([KEY.public_key])

    assert (checkpoint.origin, checkpoint.size) == ("o/event", 7)
    assert event == StoredEvent(
        seq, 1_700_000_000_000_000 + seq, "task.accepted", 1, "t1", None, "ada", None, b'{"a":1}', bytes(64), "id"
    )


def test_its_text_is_the_one_of_c2sp() -> None:
    lines = a_proof(1).to_text().split("\n")

    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1].startswith("extra ")
    assert lines[2] == "index 0"
    assert lines[6:8] == ["", "o/event"]


def test_every_changed_character_is_refused() -> None:
    text = a_proof().to_text()

    for at, character in enumerate(text):
        changed = text[:at] + ("B" if character != "B" else "C") + text[at + 1 :]
        with pytest.raises((SignatureError, MalformedMessageError)):
            Proof.parse(changed).check([KEY.public_key])


def test_an_event_at_the_place_of_another_is_refused() -> None:
    moved = Proof.parse(a_proof(3, row=ROWS[3]).to_text())

    with pytest.raises(SignatureError, match="not in the tree"):
        moved.check([KEY.public_key])


def test_another_key_proves_nothing() -> None:
    with pytest.raises(SignatureError, match="not signed by a key that counts"):
        a_proof().check([SigningKey.from_bytes(b"\x12" * 32).public_key])


@pytest.mark.parametrize(
    "text", ["", "c2sp.org/tlog-proof@v1\nindex 1\n\nnote", "c2sp.org/tlog-proof@v1\nextra A\nx\n"]
)
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessageError, match="no proof"):
        Proof.parse(text)
