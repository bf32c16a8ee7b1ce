"""The tasks that dispatch works for, each as it was authorised, and no other."""

import logging
from collections import OrderedDict
from typing import Final

from control_plane.commands.authority import Keyring
from control_plane.commands.tasks import verify_authorisation
from control_plane.events.envelope import EVENT, Key, StoredEvent
from control_plane.events.log import EventLog
from control_plane.events.tasks import TaskAccepted
from control_plane_wire.errors import MalformedMessageError, SignatureError

CACHED_TASKS: Final = 2000

_logger = logging.getLogger(__name__)


class AuthorisedTasks:
    def __init__(self, log: EventLog, keyring: Keyring) -> None:
        self._log = log
        self._keyring = keyring
        self._tasks: OrderedDict[str, TaskAccepted] = OrderedDict()

    def clear(self) -> None:
        self._tasks.clear()

    def verified(self, stored: StoredEvent) -> TaskAccepted:
        """The task of an event. Raises SignatureError, MalformedMessageError: nothing of it may be published."""
        task = verify_authorisation(stored, self._keyring.keys_at(stored.seq))
        self._tasks[task.task_id] = task
        while len(self._tasks) > CACHED_TASKS:
            self._tasks.popitem(last=False)
        return task

    async def find(self, task_id: str) -> TaskAccepted | None:
        """The authorised task, from memory or from the log; None where there is none, and nothing is published."""
        if task_id in self._tasks:
            return self._tasks[task_id]
        key = Key(task_id, TaskAccepted.KIND)
        seq = (await self._log.find(EVENT, [key])).get(key)
        stored = None if seq is None else await self._log.read_one(EVENT, seq)
        try:
            return None if stored is None else self.verified(stored)
        except (SignatureError, MalformedMessageError) as error:
            _logger.error("task refused", extra={"task_id": task_id, "reason": str(error)})  # noqa: TRY400
            return None
