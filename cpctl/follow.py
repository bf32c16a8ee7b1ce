"""A task as it goes on: read once, then kept up by the stream; a cut connection is taken up where it ended."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from cpctl.client import Client, quoted
from cpctl.errors import UnreachableError

GIVE_UP_S: Final = 60.0  # of no word from the server
MOST_BACKOFF_S: Final = 5.0


class Task:
    """A task and its executions by hostname, as the newest word has them."""

    def __init__(self, client: Client, task_id: str) -> None:
        self.client = client
        self.task_id = task_id
        self.row: dict[str, Any] = {}
        self.executions: dict[str, dict[str, Any]] = {}
        self.changed: Callable[[Mapping[str, Any]], None] = lambda _execution: None
        self.trouble: str | None = None
        self._place = ""

    def is_finished(self) -> bool:
        return bool(self.row.get("state") == "finished")

    async def read(self, *, min_seq: int | None = None) -> None:
        """All of it as it is now. Raises ProblemError where there is no such task."""
        path = f"/tasks/{quoted(self.task_id)}"
        self._place = ""
        async for page in self.client.pages(f"{path}/executions", min_seq=min_seq):
            self._place = self._place or page["as_of"]  # of the first page: what changes after it comes once more
            for execution in page["items"]:
                self._put(execution)
        self._take(await self.client.get(path, min_seq=min_seq))

    async def follow(self) -> None:
        """Until it is finished.

        Raises:
            UnreachableError: the server has not answered for a minute.
        """
        loop = asyncio.get_running_loop()
        heard_s, failures = loop.time(), 0
        while not self.is_finished():
            try:
                async with self.client.stream(f"task:{self.task_id}", self._place) as frames:
                    async for _ in self._taken(frames):
                        heard_s, failures, self.trouble = loop.time(), 0, None
                        if self.is_finished():
                            return
            except UnreachableError as error:
                if loop.time() - heard_s > GIVE_UP_S:
                    raise
                self.trouble = str(error)
            failures += 1
            await asyncio.sleep(min(MOST_BACKOFF_S, 0.25 * 2**failures))

    async def _taken(self, frames: AsyncIterator[Any]) -> AsyncIterator[None]:
        async for frame in frames:
            if frame.event == "reset":
                await self.read()
            if frame.event == "rows":
                for _, row in frame.data["rows"]:
                    if frame.data["table"] == "executions":
                        self._put(row)
                    elif frame.data["table"] == "tasks":
                        self._take(row)
            self._place = frame.id or self._place
            yield

    def _put(self, execution: dict[str, Any]) -> None:
        known = self.executions.get(execution["hostname"])
        if execution["task_id"] == self.task_id and (known is None or execution["pos"] > known["pos"]):
            self.executions[execution["hostname"]] = execution
            self.changed(execution)

    def _take(self, row: dict[str, Any]) -> None:
        if row["task_id"] == self.task_id and row["pos"] >= self.row.get("pos", 0):
            self.row = row
