"""What computes an HMAC, made to raise: nothing of ours may, nor any library on its way for us.

`hmac` itself stays: `secrets.compare_digest` comes from there. TLS inside OpenSSL is out of reach, and of scope.
"""

import hashlib
import hmac
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

FUNCTIONS = ((hmac, "new"), (hmac, "digest"), (hashlib, "pbkdf2_hmac"), (hashlib, "scrypt"))
CLASSES = (
    ("cryptography.hazmat.primitives.hmac", "HMAC"),
    ("cryptography.hazmat.primitives.kdf.hkdf", "HKDF"),
    ("cryptography.hazmat.primitives.kdf.hkdf", "HKDFExpand"),
    ("cryptography.hazmat.primitives.kdf.pbkdf2", "PBKDF2HMAC"),
    ("cryptography.hazmat.primitives.kdf.scrypt", "Scrypt"),
    ("cryptography.hazmat.primitives.kdf.concatkdf", "ConcatKDFHMAC"),
    ("cryptography.hazmat.primitives.kdf.kbkdf", "KBKDFHMAC"),
    ("cryptography.hazmat.primitives.twofactor.hotp", "HOTP"),
    ("cryptography.hazmat.primitives.twofactor.totp", "TOTP"),
    ("cryptography.fernet", "Fernet"),
    ("cryptography.fernet", "MultiFernet"),
)


class HmacError(BaseException):
    """Somebody computes an HMAC. No `except Exception` hides it."""


@contextmanager
def no_hmac() -> Iterator[None]:
    """Nothing in this process computes an HMAC during the block, whenever it was imported."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in FUNCTIONS:
            _replace(patch, getattr(module, name), _refusing(f"{module.__name__}.{name}"))
        patch.setattr(hmac.HMAC, "__init__", _refusing("hmac.HMAC"))
        for path, name in CLASSES:
            original = getattr(importlib.import_module(path), name)
            refused = type(name, (), {"__new__": _refusing(f"{path}.{name}"), "extract": _refusing(name)})
            _replace(patch, original, refused)
        yield


def _refusing(name: str) -> Any:
    def refuse(*_args: object, **_kwargs: object) -> NoReturn:
        raise HmacError(name)

    return refuse


def _replace(patch: pytest.MonkeyPatch, original: object, by: object) -> None:
    """In every module that has it by now, under whatever name."""
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()) if hasattr(module, "__dict__") else ():
            if value is original:
                patch.setattr(module, name, by)
