"""Enrolment tokens: how a host that is not known yet comes to be registered."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from control_plane.events.envelope import Key
from control_plane.events.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentTokenCreated(Event):
    """Single use; `hostname`, where given, is the only one it is for.

    Attributes:
        token_sha256: hex SHA-256 of the token.
        expires_at: Unix seconds.
    """

    KIND: ClassVar[str] = "enrolment_token.created"
    GIVES_AUTHORITY: ClassVar[bool] = True

    token_id: str
    token_sha256: str
    groups: tuple[str, ...]
    expires_at: int
    created_by: str
    hostname: str | None = None

    def key(self) -> Key:
        return Key(self.token_id, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentTokenUsed(Event):
    """By this host with this key. The token's key in the log makes it count once."""

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
    KIND: ClassVar[str] = "enrolment_token.revoked"
    GIVES_AUTHORITY: ClassVar[bool] = True

    token_id: str

    def key(self) -> Key:
        return Key(self.token_id, self.KIND)
