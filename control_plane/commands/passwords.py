"""Argon2id password hashes."""

import asyncio
import hashlib
import secrets
import unicodedata
from typing import Final

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from control_plane.errors import RefusedError

SHORTEST: Final = 12
LONGEST: Final = 128
MAX_AT_ONCE: Final = 4


class PasswordHasher:
    """Hashes in threads, a few at a time: each takes 64 MiB and a fifth of a second, by intent.

    Args:
        memory_kib, iterations, lanes: the cost; tests take a small one.
    """

    def __init__(self, *, memory_kib: int = 64 * 1024, iterations: int = 3, lanes: int = 4) -> None:
        self._memory_kib, self._iterations, self._lanes = memory_kib, iterations, lanes
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._decoy: str | None = None

    async def hash(self, password: str) -> str:
        """The PHC string of a password.

        Raises:
            RefusedError: it is too short or too long.
        """
        text = unicodedata.normalize("NFC", password)
        if not SHORTEST <= len(text) <= LONGEST:
            raise RefusedError("weak_password", f"a password has {SHORTEST} to {LONGEST} characters")
        async with self._slots:
            return await asyncio.to_thread(self._hash, text)

    async def verify(self, password: str, phc: str | None) -> bool:
        """Whether this is the password; where there is none the work is the same, so its absence does not show."""
        text = unicodedata.normalize("NFC", password)[: LONGEST + 1]
        async with self._slots:
            return await asyncio.to_thread(self._verify, text, phc)

    def _hash(self, text: str) -> str:
        argon2 = Argon2id(
            salt=secrets.token_bytes(16),
            length=32,
            iterations=self._iterations,
            lanes=self._lanes,
            memory_cost=self._memory_kib,
        )
        return argon2.derive_phc_encoded(text.encode())

    def _verify(self, text: str, phc: str | None) -> bool:
        if self._decoy is None:
            self._decoy = self._hash(secrets.token_hex(16))
        try:
            Argon2id.verify_phc_encoded(text.encode(), phc or self._decoy)
        except (InvalidKey, ValueError):
            return False
        return phc is not None


def digest(text: str) -> str:
    """Hex SHA-256 of a secret of 256 random bits, or of a PHC string."""
    return hashlib.sha256(text.encode()).hexdigest()
