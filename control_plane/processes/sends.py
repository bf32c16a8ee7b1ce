"""One message on its way to the broker, and its signed bytes."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.commands.authority import Keyring
from control_plane.processes.open_executions import Due
from control_plane_wire.messages import CancelMessage, CommandMessage, ConfigureMessage, seal
from control_plane_wire.signing import COMMAND, CONTROL_PLANE

INLINE: Final = 8  # messages that are signed sooner here than by a thread


@dataclass(frozen=True, slots=True)
class Send:
    """One message to publish: its key, and the executions that it is for.

    Attributes:
        skips: whoever is offline is to be left out.
        configures: the host, and the event for which it is told its groups.
    """

    key: str
    message: CommandMessage | CancelMessage | ConfigureMessage
    dues: tuple[Due, ...] = ()
    expires_at: int | None = None
    skips: bool = False
    configures: tuple[str, int] | None = None

    def left_s(self, now_s: int) -> float | None:
        """How long what is sent now may be delivered; None for ever."""
        return None if self.expires_at is None else float(max(1, self.expires_at - now_s))


async def sealed(sends: Sequence[Send], keyring: Keyring) -> list[bytes]:
    """The bytes of each. A signature takes a tenth of a millisecond: many would hold up the loop."""
    if len(sends) <= INLINE:
        return _seal_all(sends, keyring)
    return await asyncio.to_thread(_seal_all, sends, keyring)


def _seal_all(sends: Iterable[Send], keyring: Keyring) -> list[bytes]:
    key = keyring.active
    return [seal(send.message.to_json(), key, COMMAND, sender=CONTROL_PLANE, recipient=send.key) for send in sends]
