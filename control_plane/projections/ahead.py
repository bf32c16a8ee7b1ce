"""What makes long work on many events quick: other work that goes on meanwhile, and little collecting of garbage."""

import asyncio
import gc
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

T = TypeVar("T")

SELDOM: Final = (100_000, 20, 100)


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """Look for garbage in circles a hundred times less often.

    Decoded events are none, and looking at all of them again and again takes as long as decoding them.
    """
    before = gc.get_threshold()
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Ahead(Generic[T]):
    """One piece of work at a time, begun now and asked for later.

    `async with` it: the end of the block cancels what nobody has asked for.
    """

    def __init__(self) -> None:
        self._task: asyncio.Future[T] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.exception()  # seen: whatever ended the block says more

    def start(self, work: Coroutine[Any, Any, T]) -> None:
        """Begin; what was begun before has been asked for."""
        self._task = asyncio.ensure_future(work)

    async def result(self) -> T | None:
        """What came of the work, when it is done; None where none was begun."""
        if self._task is None:
            return None
        task, self._task = self._task, None
        return await task
