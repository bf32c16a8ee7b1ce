"""A piece of output on the wire: what it says, and that its bytes survive."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane_wire import messages
from control_plane_wire.errors import MalformedMessageError
from control_plane_wire.output import MAX_PIECE_BYTES, OutputMessage, parse_output
from control_plane_wire.signing import CONTROL_PLANE, OUTPUT, SigningKey
from control_plane_wire.topology import host_of_output_key, output_key

KEY = SigningKey.from_bytes(b"\x02" * 32)
HOST = "web1.example.com"
OUTPUT_JSON: dict[str, Any] = {
    "task_id": "t-1_A",
    "hostname": HOST,
    "stream": "stdout",
    "offset": 0,
    "data": "one\n",
    "timestamp": 1_694_582_400,
}


def a_piece(data: bytes, **changes: Any) -> OutputMessage:
    given_fields = {"task_id": "t1", "hostname": HOST, "stream": "stderr", "offset": 7, "timestamp": 1, **changes}
    return OutputMessage.of(data, **given_fields)


def sealed(piece: OutputMessage) -> bytes:
    return messages.seal(piece.to_json(), KEY, OUTPUT, sender=HOST, recipient=CONTROL_PLANE)


@given(st.one_of(st.binary(min_size=1), st.text(min_size=1).map(str.encode)), st.integers(0, 2**53 - 1))
def test_any_bytes_survive_their_way_over_the_wire(data: bytes, offset: int) -> None:
    piece = a_piece(data, offset=offset)

    signed = messages.decode(sealed(piece), max_bytes=messages.MAX_OUTPUT_BYTES, tag=OUTPUT)
    signed.verify(KEY.public_key, OUTPUT, sender=HOST, recipient=CONTROL_PLANE)

    assert parse_output(signed.message) == piece
    assert piece.raw == data


@pytest.mark.parametrize("data", [b"\0", b"\x1b", b'"', b"\\", b"\xff", "é".encode(), "\u2028".encode(), b"x"])
def test_the_largest_piece_fits_into_a_message_whatever_is_in_it(data: bytes) -> None:
    piece = a_piece((data * MAX_PIECE_BYTES)[:MAX_PIECE_BYTES], offset=2**53 - 1, task_id="t" * 64)

    assert len(sealed(piece)) <= messages.MAX_OUTPUT_BYTES


@pytest.mark.parametrize(
    ("data", "encoding"), [(b"one\n", None), ("é".encode(), None), (b"\xff", "base64"), (b"\0" * 10, "base64")]
)
def test_text_is_text_where_that_is_no_longer_than_base64(data: bytes, encoding: str | None) -> None:
    assert a_piece(data).encoding == encoding


def test_what_a_later_version_adds_is_ignored() -> None:
    assert parse_output({**OUTPUT_JSON, "beta": [None]}) == parse_output(OUTPUT_JSON)


def each(field: str, *wrong: Any) -> list[dict[str, Any]]:
    return [{**OUTPUT_JSON, field: value} for value in wrong]


@pytest.mark.parametrize(
    "message",
    [
        *({name: value for name, value in OUTPUT_JSON.items() if name != left_out} for left_out in OUTPUT_JSON),
        *each("task_id", None, "", 1, "a" * 65, "a b", "../x"),
        *each("hostname", None, "", "Web1", "a b", "x" * 201, 1),
        *each("stream", None, "", "stdin", 1, ["stdout"]),
        *each("offset", None, -1, 1.5, "0", True, 2**53),
        *each("data", None, "", 1, [], "x" * (messages.MAX_OUTPUT_BYTES + 1)),
        *each("timestamp", None, "1", True, -1),
        *each("encoding", "", "utf-16", 1, True),
        *({**OUTPUT_JSON, "encoding": "base64", "data": data} for data in ("one\n", "AB==", "A", "____", "")),
    ],
)
def test_what_is_no_piece_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessageError):
        parse_output(message)


def test_its_routing_key_names_its_host() -> None:
    assert output_key(HOST) == f"output.node.{HOST}"
    assert host_of_output_key(f"output.node.{HOST}") == HOST
    for wrong in ("output.node.", "output.node.Web1", f"result.node.{HOST}", "output.node.#", HOST):
        with pytest.raises(MalformedMessageError):
            host_of_output_key(wrong)
