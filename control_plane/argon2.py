"""Argon2id, one at a time in this process.

OpenSSL computes the lanes in threads that the whole process shares, and two that are computed at once can wait for each
other's for ever (OpenSSL 4.0 with cryptography 50: four at once always did). So nobody uses it but through here.
"""

import threading
from typing import Final

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

_ONE: Final = threading.Lock()


def phc_of(text: str, *, salt: bytes, memory_kib: int, iterations: int, lanes: int) -> str:
    """The PHC string of a password."""
    argon2 = Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory_kib)
    with _ONE:
        return argon2.derive_phc_encoded(text.encode())


def verifies(text: str, phc: str) -> bool:
    """Whether that is the password of a PHC string; False for what is no such string, too."""
    try:
        with _ONE:
            Argon2id.verify_phc_encoded(text.encode(), phc)
    except (InvalidKey, ValueError):
        return False
    return True


def key_of(passphrase: str, *, salt: bytes, memory_kib: int, iterations: int, lanes: int) -> bytes:
    """32 bytes. Raises ValueError where a cost is none."""
    argon2 = Argon2id(salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory_kib)
    with _ONE:
        return argon2.derive(passphrase.encode())
