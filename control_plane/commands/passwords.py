"""Argon2id password hashes."""

import asyncio
import hashlib
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from control_plane.errors import RefusedError

T = TypeVar("T")

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
        # Its own threads, so that the bound holds even where callers are cancelled, which ends no thread.
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="argon2")
        # A hash of no password, at the same cost.
        self._decoy = f"$argon2id$v=19$m={memory_kib},t={iterations},p={lanes}${'A' * 22}${'A' * 43}"

    async def hash(self, password: str) -> str:
        """The PHC string of a password.

        Raises:
            RefusedError: it is too short or too long.
        """
        text = unicodedata.normalize("NFC", password)
        if not SHORTEST <= len(text) <= LONGEST:
            raise RefusedError("weak_password", f"a password has {SHORTEST} to {LONGEST} characters")
        return await self._in_thread(lambda: self._hash(text))

    async def verify(self, password: str, phc: str | None) -> bool:
        """Whether this is the password; where there is none the work is the same, so its absence does not show."""
        text = unicodedata.normalize("NFC", password[: 4 * LONGEST])[: LONGEST + 1]
        return await self._in_thread(lambda: _verify(text, phc or self._decoy)) and phc is not None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _hash(self, text: str) -> str:
        argon2 = Argon2id(
            salt=secrets.token_bytes(16),
            length=32,
            iterations=self._iterations,
            lanes=self._lanes,
            memory_cost=self._memory_kib,
        )
        return argon2.derive_phc_encoded(text.encode())


def _verify(text: str, phc: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(text.encode(), phc)
    except (InvalidKey, ValueError):
        return False
    return True


def digest(text: str) -> str:
    """Hex SHA-256 of a secret of 256 random bits, or of a PHC string."""
    return hashlib.sha256(text.encode()).hexdigest()
