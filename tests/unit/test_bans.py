"""That nothing computes an HMAC in the whole session of tests, and that one which did would be heard."""

import hashlib
import hmac
import importlib
import secrets
from collections.abc import Callable

import pytest

from tests.support import bans
from tests.support.bans import CLASSES, HmacError

# As code does that was imported before the ban.
from hmac import digest as imported_digest  # isort: skip
from cryptography.hazmat.primitives.hashes import SHA256  # isort: skip

COMPUTES: dict[str, Callable[[], object]] = {
    "hmac.new": lambda: hmac.new(b"key", b"text", "sha256"),
    "hmac.digest": lambda: hmac.digest(b"key", b"text", "sha256"),
    "imported hmac.digest": lambda: imported_digest(b"key", b"text", "sha256"),
    "hmac.HMAC": lambda: hmac.HMAC(b"key", b"text", "sha256"),
    "hashlib.pbkdf2_hmac": lambda: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 1),
    "hashlib.scrypt": lambda: hashlib.scrypt(b"password", salt=b"salt", n=2, r=1, p=1),
    **{
        f"{path}.{name}": lambda path=path, name=name: getattr(importlib.import_module(path), name)(  # type: ignore[misc]
            b"key", SHA256()
        )
        for path, name in CLASSES
    },
}


@pytest.mark.parametrize("name", COMPUTES)
def test_in_this_session_whoever_computes_an_hmac_is_stopped(name: str) -> None:
    with pytest.raises(HmacError):
        COMPUTES[name]()


def test_comparing_is_allowed() -> None:
    assert secrets.compare_digest(b"same", b"same")


def test_the_ban_ends_with_its_block() -> None:
    before = hmac.new

    with bans.no_hmac():
        assert hmac.new is not before

    assert hmac.new is before
