"""Argon2id password hashes."""

import asyncio
import hashlib
import secrets
import unicodedata
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar, cast

from control_plane.argon2 import phc_of, verifies
from control_plane.errors import RefusedError, TooManyError

T = TypeVar("T")

SHORTEST: Final = 12
LONGEST: Final = 128
MAX_STRANGERS: Final = 10  # that wait: two seconds' work; one more is told so at once, and not after eight
MAX_KNOWN: Final = 40
MAX_OF_ONE: Final = 10
AGAIN_S: Final = 2.0


class _Waiting(NamedTuple):
    """Attributes: `of`: whose it is, None of a stranger."""

    work: Callable[[], object]
    answer: "asyncio.Future[object]"
    of: Hashable | None


class PasswordHasher:
    """Hashes in a thread, one at a time: each takes 64 MiB and a fifth of a second, by intent.

    So what waits is bounded, and stands in two lanes that take turns: of those whom we know, and of those who may be
    anybody. However many of these come, no more of them go before somebody known than known ones do, and one.

    Args:
        memory_kib, iterations, lanes: the cost; tests take a small one.
    """

    def __init__(self, *, memory_kib: int = 64 * 1024, iterations: int = 3, lanes: int = 4) -> None:
        self._memory_kib, self._iterations, self._lanes = memory_kib, iterations, lanes
        # Its own, so that the others never wait for passwords.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="argon2")
        self._lanes_of: dict[bool, deque[_Waiting]] = {True: deque(), False: deque()}  # by whether they are known
        self._was_known = False
        self._is_busy = False
        # A hash of no password, at the same cost.
        self._decoy = f"$argon2id$v=19$m={memory_kib},t={iterations},p={lanes}${'A' * 22}${'A' * 43}"

    async def hash(self, password: str) -> str:
        """The PHC string of a password that somebody known sets.

        Raises:
            RefusedError: it is too short or too long.
            TooManyError: too many wait.
        """
        text = unicodedata.normalize("NFC", password)
        if not SHORTEST <= len(text) <= LONGEST:
            raise RefusedError("weak_password", f"a password has {SHORTEST} to {LONGEST} characters")
        return await self._in_thread(lambda: self._hash(text), "hash")

    async def verify(self, password: str, phc: str | None, *, of: Hashable | None = None) -> bool:
        """Whether this is the password; where there is none the work is the same, so its absence does not show.

        Args:
            of: who asks, where that is somebody known.

        Raises:
            TooManyError: too many wait; nothing was looked at.
        """
        text = unicodedata.normalize("NFC", password[: 4 * LONGEST])[: LONGEST + 1]
        return await self._in_thread(lambda: verifies(text, phc or self._decoy), of) and phc is not None

    async def _in_thread(self, work: Callable[[], T], of: Hashable | None) -> T:
        lane, most = self._lanes_of[of is not None], MAX_STRANGERS if of is None else MAX_KNOWN
        waiting = _Waiting(work, asyncio.get_running_loop().create_future(), of)
        if len(lane) >= most or (of is not None and sum(each.of == of for each in lane) >= MAX_OF_ONE):
            raise TooManyError("too_many_logins", f"too many sign in just now: try again in {AGAIN_S:g} s", AGAIN_S)
        lane.append(waiting)
        try:
            self._go_on()
            return cast("T", await waiting.answer)
        finally:
            if waiting in lane:  # who asked has given up
                lane.remove(waiting)

    def _go_on(self) -> None:
        """Begin with the next one, of the lane whose turn it is if somebody waits there."""
        is_known = not self._was_known if self._lanes_of[not self._was_known] else self._was_known
        if self._is_busy or not (lane := self._lanes_of[is_known]):
            return
        self._is_busy, self._was_known = True, is_known
        waiting = lane.popleft()
        done = asyncio.get_running_loop().run_in_executor(self._thread, waiting.work)
        done.add_done_callback(lambda done: self._end(waiting, done))

    def _end(self, waiting: _Waiting, done: "asyncio.Future[object]") -> None:
        self._is_busy = False
        if done.cancelled():
            waiting.answer.cancel()
        elif (error := done.exception()) is not None and not waiting.answer.done():
            waiting.answer.set_exception(error)
        elif not waiting.answer.done():
            waiting.answer.set_result(done.result())
        self._go_on()

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
