"""What happens to passkeys, the second factor of a user; each gives or takes authority and is signed."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.events.envelope import Key
from control_plane.events.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class PasskeyAdded(Event):
    """From now on the user signs in with this one, or another of the user's, beside the password.

    Attributes:
        passkey_id: hex SHA-256 of the credential's id; what it is called by.
        username: whose it is.
        name: which one it is, in its owner's words.
        credential_id: base64url, as the authenticator calls it.
        public_key: base64 of the public key as COSE has it.
        sign_count: what it counted its signatures to, 0 where it does not count.
        added_at: Unix seconds.
    """

    KIND: ClassVar[str] = "passkey.added"
    GIVES_AUTHORITY: ClassVar[bool] = True

    passkey_id: str
    username: str
    name: str
    credential_id: str
    public_key: str
    sign_count: int
    added_at: int

    def key(self) -> Key:
        return Key(self.passkey_id, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class PasskeyRemoved(Event):
    """It counts no more, and never again; where it was the last one, the password alone is enough.

    Attributes:
        passkey_id: what it is called by.
        username: whose it was.
    """

    KIND: ClassVar[str] = "passkey.removed"
    GIVES_AUTHORITY: ClassVar[bool] = True

    passkey_id: str
    username: str

    def key(self) -> Key:
        return Key(self.passkey_id, self.KIND)
