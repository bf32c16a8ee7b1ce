"""The control plane's publishing side: one session, opened again whenever it is lost."""

import asyncio
import contextlib
from typing import Final

from control_plane_wire.backoff import Backoff
from control_plane_wire.errors import PublishUnconfirmedError, TransportUnavailableError
from control_plane_wire.lifecycle import wait_for_any
from control_plane_wire.topology import CONTROL_PLANE_TOPOLOGY, DEFAULT_EXCHANGE
from control_plane_wire.transport.base import Message, PublishOutcome, Session, Transport, keep_session

PROBE: Final = Message(exchange=DEFAULT_EXCHANGE, routing_key="control-plane.probe", body=b"", persistent=False)
PROBE_S: Final = 0.5
PATIENCE_S: Final = 86_400.0  # one is enough while none is answered; the end of the session ends it
BLOCKED_AFTER_S: Final = 2.0  # less than the two intervals after which silence means something


class Publisher:
    """Publishes while there is a session; as a service it keeps one open.

    A connection of its own, apart from the consumers': an alarm of the broker blocks sockets that publish, and
    acknowledgements must go on.
    """

    name = "publisher"

    def __init__(self, transport: Transport, *, connection_name: str = "control-plane publisher") -> None:
        self._transport = transport
        self._connection_name = connection_name
        self._session: Session | None = None
        self._taken_s = 0.0  # when the last probe that was answered was sent, by the loop's clock

    @property
    def is_connected(self) -> bool:
        return self._session is not None

    @property
    def untaken_s(self) -> float:
        """For how long nobody knows whether the broker takes publishes; 0 without a session: that is another matter."""
        return 0.0 if self._session is None else asyncio.get_running_loop().time() - self._taken_s

    @property
    def is_blocked(self) -> bool:
        """Whether the broker takes no publishes for now."""
        return self._session is not None and (self.untaken_s > BLOCKED_AFTER_S or self._session.is_blocked)

    async def run(self, stop: asyncio.Event) -> None:
        async def serve(session: Session) -> None:
            await session.declare(CONTROL_PLANE_TOPOLOGY)
            self._session, self._taken_s = session, asyncio.get_running_loop().time()
            try:
                await self._until_lost(session, stop)
            finally:
                self._session = None

        backoff = Backoff(first_s=0.2, most_s=5.0)
        await keep_session(self._transport, self._connection_name, serve, stop=stop, backoff=backoff)

    async def publish(self, message: Message) -> PublishOutcome:
        """Publish with `mandatory` and wait for the confirm.

        Raises:
            PublishUnconfirmedError: nothing is known; it may have been delivered.
            TransportUnavailableError: it was not sent.
        """
        return await self._current().publish(message)

    async def queue_exists(self, name: str) -> bool:
        """Whether there is a queue of this name, be it an agent's own. Raises TransportUnavailableError."""
        return await self._current().queue_exists(name)

    def _current(self) -> Session:
        if self._session is None:
            raise TransportUnavailableError("there is no session with the broker")
        return self._session

    async def _until_lost(self, session: Session, stop: asyncio.Event) -> None:
        """Return when `stop` is set; raise when the session is lost."""
        lost = asyncio.Event()

        async def watch() -> None:
            await session.wait_lost()
            lost.set()

        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(watch(), name="watch the publishing session"),
                group.create_task(self._keep_asking(session), name="ask whether the broker takes publishes"),
            ]
            while not stop.is_set() and not lost.is_set():
                await wait_for_any(stop, lost, timeout_s=60)
            for task in beside:
                task.cancel()
        if lost.is_set() and not stop.is_set():
            raise TransportUnavailableError("the publishing session is lost")

    async def _keep_asking(self, session: Session) -> None:
        """An alarm of the broker holds publishers up and tells nobody: ask, also while there is nothing to publish.

        The agents are held up then too, and their silence means nothing. The message is for no queue and comes back.
        """
        loop = asyncio.get_running_loop()
        while True:
            asked_s = loop.time()
            with contextlib.suppress(PublishUnconfirmedError, TransportUnavailableError):
                await session.publish(PROBE, timeout_s=PATIENCE_S)
                self._taken_s = asked_s
            await asyncio.sleep(PROBE_S)
