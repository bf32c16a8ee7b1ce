"""The control plane's own keys, as facts of the log: which key signed from when on."""

from control_plane.commands.handling import Handling
from control_plane.events.access import KeyAdded
from control_plane_wire.signing import encode_base64


class KeyHandler:
    def __init__(self, handling: Handling) -> None:
        self._handling = handling

    async def introduce(self) -> int:
        """Record the key that signs now, vouched for by itself; the same key again is no new event. Its seq."""
        key = self._handling.keyring.active
        event = KeyAdded(key_id=key.key_id, public_key=encode_base64(key.public_key))
        return await self._handling.record_new(event, actor="control-plane")
