"""Which keys of the control plane this host trusts, and which one it lets in after them: only one that was announced.

The newest is the only one whose word on keys counts. So whoever steals an earlier one, while both are trusted, ends or
names no key; and whoever steals the newest lets no key in but the announced one, whose private half is elsewhere.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from control_plane_wire.messages import MAX_KEYS, ConfigureMessage
from control_plane_wire.signing import key_id


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """By key_id, the oldest first.

    Attributes:
        keys: those that may sign commands.
        retired: those that still verify what is in the journal.
        announced: hex SHA-256 of the one that may come next.
        objection: why the last word on them was not taken.
    """

    keys: Mapping[str, bytes]
    retired: Mapping[str, bytes]
    announced: str | None = None
    objection: str | None = None

    def told(self, message: ConfigureMessage, signer: bytes) -> "TrustedKeys":
        """What a `configure` that this key has signed makes of them: all that it says, or nothing and an objection."""
        if message.keys is None:
            return self
        keys = {key_id(key.public_key): key.public_key for key in message.keys if key.state == "active"}
        new = [public_key for name, public_key in keys.items() if name not in self.keys]
        newest = list(self.keys.values())[-1]
        is_same = not new and keys.keys() == self.keys.keys()
        if signer != newest:
            return self if is_same else self._objecting("it is not signed by the newest key")
        if new and (len(new) > 1 or hashlib.sha256(new[0]).hexdigest() != self.announced):
            return self._objecting(f"the key {key_id(new[0])} was not announced")
        if not keys or list(keys.values())[-1] != (new[0] if new else newest):
            return self._objecting("the newest key would not be the newest any more")
        if new:
            return TrustedKeys(keys, self._ended(keys))
        said = message.next_key_sha256
        if said is not None and self.announced not in {None, said}:
            return self._objecting(f"another key, {said[:16]}, is announced")
        return TrustedKeys(keys, self._ended(keys), self.announced or said)

    def _ended(self, keys: Mapping[str, bytes]) -> dict[str, bytes]:
        """The last that are not trusted any more: the journal may hold what they signed."""
        ended = {name: key for name, key in {**self.retired, **self.keys}.items() if name not in keys}
        return dict(list(ended.items())[-MAX_KEYS:])

    def _objecting(self, reason: str) -> "TrustedKeys":
        return replace(self, objection=reason)
