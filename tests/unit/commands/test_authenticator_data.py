import struct
from typing import Any

import cbor2
import pytest

from control_plane.commands.authenticator_data import MAX_BYTES, check_assertion, check_registration, parse
from tests.support.authenticator import ATTESTED, EXTENDED, PRESENT, VERIFIED, Device, a_bomb

HEAD = bytes(32)
COUNT = bytes(4)


def attested(*, flags: int = PRESENT | VERIFIED | ATTESTED, key: bytes | None = None, length: int = 16) -> bytes:
    data = HEAD + bytes([flags]) + COUNT + bytes(16) + struct.pack(">H", length) + bytes(16)
    return data + (Device("http://localhost").cose() if key is None else key)


def an_object(**changed: Any) -> bytes:
    return cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": attested(), **changed})


@pytest.mark.parametrize(
    "value",
    [
        0,
        23,
        24,
        -1,
        -(2**64),
        2**64 - 1,
        b"",
        b"x" * 300,
        "",
        "é",
        [],
        [1, [b"x"]],
        {},
        {1: 2, 3: -7, -1: 1, "fmt": "none"},
        {"a": {"b": ["c"]}},
    ],
)
def test_what_authenticators_write_is_read_as_the_general_reader_reads_it(value: object) -> None:
    data = cbor2.dumps(value)

    assert parse(data) == cbor2.loads(data) == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too early"),
        (b"\x18", "too early"),
        (b"\x44abc", "too early"),
        (b"\x82\x00", "too early"),
        (b"\x9b" + b"\xff" * 8, "too early"),
        (b"\xbb" + b"\xff" * 8, "too early"),
        (b"\x5b" + b"\xff" * 8, "too early"),
        (b"\x00\x00", "left over"),
        (b"\x5f\x41a\xff", "not said"),
        (b"\x9f\xff", "not said"),
        (b"\xbf\xff", "not said"),
        (b"\x1c", "not said"),
        (b"\xc0\x00", "tag"),
        (b"\xd8\x1c\x80", "tag"),
        (b"\xd8\x1d\x00", "tag"),
        (b"\xf6", "simple"),
        (b"\xf9\x00\x00", "float"),
        (b"\xa1\x41a\x00", "key"),
        (b"\xa1\x80\x00", "key"),
        (b"\xa1\x81\x00\x00", "levels"),
        (b"\xa2\x01\x00\x01\x00", "twice"),
        (b"\xa2\x01\x00\x18\x01\x00", "twice"),
        (b"\x81" * 4 + b"\x00", "levels"),
        (b"\x81" * 5000, "levels"),
        (b"\x61\xff", "utf-8"),
        (bytes(MAX_BYTES + 1), "bytes"),
        (a_bomb(3), "tag|levels|key"),
        (a_bomb(1000), "tag|levels|key"),
    ],
)
def test_what_none_of_them_writes_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(data)


def test_a_registration_has_one_public_key_and_no_extension() -> None:
    check_registration(an_object())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        cbor2.dumps([]),
        cbor2.dumps({"fmt": "none"}),
        an_object(authData="text"),
        an_object(authData=b""),
        an_object(authData=attested()[:54]),
        an_object(authData=attested(flags=PRESENT | VERIFIED)),
        an_object(authData=attested(flags=PRESENT | VERIFIED | ATTESTED | EXTENDED)),
        an_object(authData=attested(length=0xFFFF)),
        an_object(authData=attested(key=cbor2.dumps([1]))),
        an_object(authData=attested(key=b"\x04" + bytes(64))),
        an_object(authData=attested(key=a_bomb(4))),
        an_object(authData=attested() + a_bomb(4)),
        an_object(attStmt=cbor2.CBORTag(28, {})),
    ],
)
def test_a_registration_of_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_registration(data)


def test_an_assertion_has_no_public_key_and_no_extension() -> None:
    check_assertion(HEAD + bytes([PRESENT | VERIFIED]) + COUNT)


@pytest.mark.parametrize("flag", [ATTESTED, EXTENDED])
@pytest.mark.parametrize("more", [b"", a_bomb(4)])
def test_an_assertion_with_anything_more_is_refused(flag: int, more: bytes) -> None:
    with pytest.raises(ValueError, match="more in it"):
        check_assertion(HEAD + bytes([PRESENT | VERIFIED | flag]) + COUNT + more)


@pytest.mark.parametrize("data", [b"", HEAD, HEAD + bytes(6)])
def test_an_assertion_of_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="more in it"):
        check_assertion(data)
