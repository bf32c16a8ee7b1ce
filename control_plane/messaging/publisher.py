"""The control plane's publishing side: one session, opened again whenever it is lost."""

import asyncio

from control_plane_wire.backoff import Backoff
from control_plane_wire.errors import TransportUnavailableError
from control_plane_wire.lifecycle import wait_for_any
from control_plane_wire.topology import CONTROL_PLANE_TOPOLOGY
from control_plane_wire.transport.base import Message, PublishOutcome, Session, Transport, keep_session


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

    @property
    def is_connected(self) -> bool:
        return self._session is not None

    @property
    def is_blocked(self) -> bool:
        """Whether the broker takes no publishes for now."""
        return self._session is not None and self._session.is_blocked

    async def run(self, stop: asyncio.Event) -> None:
        async def serve(session: Session) -> None:
            await session.declare(CONTROL_PLANE_TOPOLOGY)
            self._session = session
            try:
                await _until_lost(session, stop)
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


async def _until_lost(session: Session, stop: asyncio.Event) -> None:
    """Return when `stop` is set; raise when the session is lost."""
    lost = asyncio.Event()

    async def watch() -> None:
        await session.wait_lost()
        lost.set()

    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(watch(), name="watch the publishing session")
        while not stop.is_set() and not lost.is_set():
            await wait_for_any(stop, lost, timeout_s=60)
        watcher.cancel()
    if lost.is_set() and not stop.is_set():
        raise TransportUnavailableError("the publishing session is lost")
