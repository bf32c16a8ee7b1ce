"""What the control plane is to hear of executions: each message is published until the broker has confirmed it."""

import asyncio
import logging
from collections import deque
from typing import Final

from control_plane_agent.checks import is_authentic
from control_plane_agent.disk_thread import DiskThread
from control_plane_agent.errors import JournalError
from control_plane_agent.identity import Identities
from control_plane_agent.journal import DONE, Journal
from control_plane_agent.results import result_of
from control_plane_wire import messages, signing, topology
from control_plane_wire.backoff import Backoff
from control_plane_wire.errors import PublishUnconfirmedError
from control_plane_wire.failpoints import Failpoints
from control_plane_wire.strict_json import JsonObject
from control_plane_wire.transport.base import Confirmed, Message, Session

FIRST_RETRY_S: Final = 0.5
MOST_RETRY_S: Final = 10.0

log = logging.getLogger(__name__)


class Outbox:
    """Lives as long as the agent, over all its sessions. Results are read from the journal when they are sent."""

    def __init__(self, journal: Journal, disk: DiskThread, identities: Identities, failpoints: Failpoints) -> None:
        self._journal = journal
        self._disk = disk
        self._identities = identities
        self._failpoints = failpoints
        self._results: dict[str, bool] = {}  # by task_id in their order: whether the entry is damaged
        self._notices: deque[messages.AcceptedMessage] = deque()
        self._has_news = asyncio.Event()

    def add_result(self, task_id: str, *, is_damaged: bool = False) -> None:
        self._results[task_id] = is_damaged or self._results.get(task_id, False)
        self._has_news.set()

    def add_notice(self, notice: messages.AcceptedMessage) -> None:
        self._notices.append(notice)
        self._has_news.set()

    async def keep_sending(self, session: Session) -> None:
        """Send what is there and what comes, until cancelled or the session is lost."""
        self._has_news.set()
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            await self.send_all(session)

    async def send_all(self, session: Session) -> None:
        while self._notices:
            await self.send(session, self._notices[0])
            self._notices.popleft()
        for task_id in list(self._results):
            is_damaged = self._results.pop(task_id)  # first: whoever asks for it meanwhile asks for one more
            try:
                message = await self._disk.do(self._sealed_result, task_id)
                if message is not None:
                    await self._send_result(session, message, task_id, is_damaged=is_damaged)
            except BaseException:
                self.add_result(task_id, is_damaged=is_damaged)
                raise

    async def _send_result(self, session: Session, message: Message, task_id: str, *, is_damaged: bool) -> None:
        self._failpoints.hit("agent.before_publish")
        await publish(session, message)
        self._failpoints.hit("agent.confirmed")
        try:
            await self._disk.do(self._journal.retire, task_id, is_damaged=is_damaged)
        except JournalError as error:  # the next start sends it once more, and nobody minds
            log.warning("not retired", extra={"task_id": task_id, "reason": str(error)})
        self._failpoints.hit("agent.done")

    async def send(self, session: Session, message: messages.FromAgent) -> None:
        """Sign and publish one message, and wait for the broker's confirm."""
        await publish(session, self._sealed(message.to_json()))

    def _sealed_result(self, task_id: str) -> Message | None:
        if self._journal.find(task_id) == DONE:  # what was damaged since would be another result than the one sent
            entry = self._journal.read(task_id)
            if not is_authentic(entry.body, entry.route, self._identities.current):
                return None
        result = result_of(self._journal, task_id)
        return None if result is None else self._sealed(result.to_json())

    def _sealed(self, message: JsonObject) -> Message:
        identity = self._identities.current
        sender = identity.hostname
        body = messages.seal(message, identity.key, signing.RESULT, sender=sender, recipient=signing.CONTROL_PLANE)
        return Message(exchange=topology.RESULT_EXCHANGE, routing_key=topology.result_key(sender), body=body)


async def publish(session: Session, message: Message) -> None:
    """Publish until the broker has confirmed it; the same bytes each time.

    Raises:
        TransportUnavailableError: the session is lost.
    """
    backoff = Backoff(first_s=FIRST_RETRY_S, most_s=MOST_RETRY_S)
    while True:
        try:
            if isinstance(await session.publish(message), Confirmed):
                return
            log.warning("nobody takes it: is the control plane set up?", extra={"routing_key": message.routing_key})
        except PublishUnconfirmedError as error:
            log.warning("not confirmed", extra={"routing_key": message.routing_key, "reason": str(error)})
        await asyncio.sleep(backoff.next_s())
