"""Argon2id password hashes."""

import asyncio
import hashlib
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from control_plane.argon2 import phc_of, verifies
from control_plane.errors import RefusedError

T = TypeVar("T")

SHORTEST: Final = 12
LONGEST: Final = 128


class PasswordHasher:
    """Hashes in a thread, one at a time: each takes 64 MiB and a fifth of a second, by intent.

    Args:
        memory_kib, iterations, lanes: the cost; tests take a small one.
    """

    def __init__(self, *, memory_kib: int = 64 * 1024, iterations: int = 3, lanes: int = 4) -> None:
        self._memory_kib, self._iterations, self._lanes = memory_kib, iterations, lanes
        # Its own, so that the others never wait for passwords.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="argon2")
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
        return await self._in_thread(lambda: verifies(text, phc or self._decoy)) and phc is not None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _hash(self, text: str) -> str:
        return phc_of(
            text,
            salt=secrets.token_bytes(16),
            memory_kib=self._memory_kib,
            iterations=self._iterations,
            lanes=self._lanes,
        )


def digest(text: str) -> str:
    """Hex SHA-256 of a secret of 256 random bits, or of a PHC string."""
    return hashlib.sha256(text.encode()).hexdigest()
