"""Enrolment tokens: how a host that is not known yet comes to be registered."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from control_plane.events.envelope import Key
from control_plane.events.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentTokenCreated(Event):
    """A single-use secret that lets one host in.

    Attributes:
        token_id: what it is called by.
        token_sha256: hex SHA-256 of the token.
        groups: the host will be in, sorted.
        expires_at: Unix seconds.
        created_by: the user who made it.
        hostname: the only one it is for; any where it is left out.
        made_with: the token_id of the API token that it was made with, whose end is its own; null: with none.
    """

    KIND: ClassVar[str] = "enrolment_token.created"
    GIVES_AUTHORITY: ClassVar[bool] = True

    token_id: str
    token_sha256: str
    groups: tuple[str, ...]
    expires_at: int
    created_by: str
    hostname: str | None = None
    made_with: str | None = None

    def key(self) -> Key:
        return Key(self.token_id, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentTokenUsed(Event):
    """By this host with this key. The token's key in the log makes it count once.

    Attributes:
        token_id: what it is called by.
        hostname: the host that it let in.
        public_key: the host's, base64 of 32 bytes.
    """

    KIND: ClassVar[str] = "enrolment_token.used"
    GIVES_AUTHORITY: ClassVar[bool] = True

    token_id: str
    hostname: str
    public_key: str

    def key(self) -> Key:
        return Key(self.token_id, self.KIND)

    def digest(self) -> bytes:
        return hashlib.sha256(f"{self.hostname}\n{self.public_key}".encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentTokenRevoked(Event):
    """It lets nobody in any more.

    Attributes:
        token_id: what it is called by.
    """

    KIND: ClassVar[str] = "enrolment_token.revoked"
    GIVES_AUTHORITY: ClassVar[bool] = True

    token_id: str

    def key(self) -> Key:
        return Key(self.token_id, self.KIND)
