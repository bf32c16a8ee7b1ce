"""Signs messages and publishes them, and tells what became of each; and whether an agent is there to get one."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from control_plane.commands.authority import Keyring
from control_plane.processes.open_executions import Due
from control_plane.processes.ports import Publisher
from control_plane_wire.clock import Clock
from control_plane_wire.errors import PublishUnconfirmedError, TransportUnavailableError
from control_plane_wire.messages import CancelMessage, CommandMessage, ConfigureMessage, seal
from control_plane_wire.signing import COMMAND, CONTROL_PLANE, SigningKey
from control_plane_wire.topology import COMMAND_EXCHANGE, agent_queue
from control_plane_wire.transport.base import Confirmed, Message

INLINE: Final = 8  # messages that are signed sooner here than by a thread
LOOKS: Final = 32  # for queues, at once

# A queue has it; it came back; nobody knows; it was certainly not sent.
Fate: TypeAlias = Literal["confirmed", "returned", "unconfirmed", "unsent"]


@dataclass(frozen=True, slots=True)
class Send:
    """One message to publish: its key, and the executions that it is for.

    Attributes:
        skips: whoever is offline is to be left out.
        configures: the host, and the event for which it is told its groups.
        signer: where it is another key than the one that all hosts trust.
    """

    key: str
    message: CommandMessage | CancelMessage | ConfigureMessage
    dues: tuple[Due, ...] = ()
    expires_at: int | None = None
    skips: bool = False
    configures: tuple[str, int] | None = None
    signer: SigningKey | None = None

    def left_s(self, now_s: int) -> float | None:
        """How long it may still be delivered; None for ever."""
        return None if self.expires_at is None else float(max(1, self.expires_at - now_s))


class Post:
    """Args: `is_stopped`: no command to run is published then, whatever has been asked of this before."""

    def __init__(
        self, publisher: Publisher, keyring: Keyring, clock: Clock, *, is_stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._publisher = publisher
        self._is_stopped = is_stopped
        self._keyring = keyring
        self._clock = clock

    async def publish(self, sends: Sequence[Send]) -> list[Fate]:
        """Publish all of them at once, in their order; the fate of each."""
        bodies = await self._sealed(sends)
        return await asyncio.gather(*map(self._publish, sends, bodies))

    async def are_gone(self, hostnames: Sequence[str]) -> bool:
        """Whether each of these agents certainly has no queue, so that nothing can reach it."""
        try:
            for start in range(0, len(hostnames), LOOKS):
                queues = [agent_queue(hostname) for hostname in hostnames[start : start + LOOKS]]
                if any(await asyncio.gather(*map(self._publisher.queue_exists, queues))):
                    return False
        except TransportUnavailableError:
            return False
        return True

    async def _sealed(self, sends: Sequence[Send]) -> list[bytes]:
        """The bytes of each. A signature takes a tenth of a millisecond: many would hold up the loop."""
        if len(sends) <= INLINE:
            return self._seal_all(sends)
        return await asyncio.to_thread(self._seal_all, sends)

    def _seal_all(self, sends: Iterable[Send]) -> list[bytes]:
        key = self._keyring.messenger
        return [
            seal(send.message.to_json(), send.signer or key, COMMAND, sender=CONTROL_PLANE, recipient=send.key)
            for send in sends
        ]

    async def _publish(self, send: Send, body: bytes) -> Fate:
        if self._is_stopped() and isinstance(send.message, CommandMessage):
            return "unsent"
        message = Message(
            exchange=COMMAND_EXCHANGE,
            routing_key=send.key,
            body=body,
            expiration_s=send.left_s(self._clock.now_s()),
            correlation_id=send.message.task_id,
        )
        try:
            outcome = await self._publisher.publish(message)
        except TransportUnavailableError:
            return "unsent"
        except PublishUnconfirmedError:
            return "unconfirmed"
        return "confirmed" if isinstance(outcome, Confirmed) else "returned"
