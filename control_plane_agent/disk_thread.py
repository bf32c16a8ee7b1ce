"""Where the agent works on its disk: one thread, so in order, and so that heartbeats go on while a device is slow."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DiskThread:
    """Args: `is_blocking`: of the disk; where it is not, work is done at once and there is no thread."""

    def __init__(self, *, is_blocking: bool) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="disk") if is_blocking else None

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._thread is None:
            return work(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))
