"""Who people are and what they may do: a pure fold over signed events, and the one function that says who may."""

import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from control_plane.commands.passwords import digest
from control_plane.errors import NotAllowedError, RefusedError
from control_plane.events import access
from control_plane.events.event import Event

VIEWER: Final = frozenset({"hosts.read", "tasks.read", "tasks.output", "events.read", "projections.read"})
OPERATOR: Final = VIEWER | {"tasks.run", "tasks.cancel"}
ADMINISTRATOR: Final = OPERATOR | {
    "hosts.enrol",
    "hosts.edit",
    "hosts.revoke",
    "users.read",
    "users.write",
    "tokens.others",
    "projections.rebuild",
}
ROLES: Final[Mapping[str, frozenset[str]]] = {"viewer": VIEWER, "operator": OPERATOR, "administrator": ADMINISTRATOR}

SESSION_S: Final = 12 * 3600
IDLE_S: Final = 30 * 60
MAX_TOKEN_DAYS: Final = 365


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whoever asks: a user, by a session or by a token.

    Attributes:
        session_sha256: of the session it came by, None for a token and for the server's own command line.
    """

    username: str
    role: str
    session_sha256: str | None = None
    token_id: str | None = None

    @property
    def permissions(self) -> frozenset[str]:
        return ROLES.get(self.role, frozenset())


# Root on the server's own command line can read the signing key, so it needs nobody's permission.
CONSOLE: Final = Principal(username="console", role="administrator")


def may(principal: Principal, permission: str) -> bool:
    return permission in principal.permissions


@dataclass(slots=True)
class User:
    username: str
    role: str
    enabled: bool
    changed_seq: int
    password_seq: int = 0
    phc_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    username: str
    expires_at: int
    seq: int


@dataclass(frozen=True, slots=True)
class Token:
    token_id: str
    username: str
    name: str
    token_sha256: str
    expires_at: int
    seq: int


@dataclass(slots=True)
class AccessState:
    """Everybody, as the signed events say. `apply` is the only way in."""

    users: dict[str, User] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    closed_sessions: set[str] = field(default_factory=set)
    tokens: dict[str, Token] = field(default_factory=dict)
    revoked_tokens: set[str] = field(default_factory=set)

    def apply(self, event: Event, seq: int) -> bool:
        """Take one event in; False where it does not follow from what stands (a copy of an old one, say)."""
        match event:
            case access.UserCreated():
                return self._create(event, seq)
            case access.UserRoleChanged() | access.UserDisabled() | access.UserEnabled() | access.UserPasswordChanged():
                return self._change(event, seq)
            case access.SessionOpened():
                if event.session_sha256 in self.closed_sessions or event.session_sha256 in self.sessions:
                    return False
                self.sessions[event.session_sha256] = Session(event.username, event.expires_at, seq)
            case access.SessionClosed():
                self.closed_sessions.add(event.session_sha256)
                self.sessions.pop(event.session_sha256, None)
            case access.TokenCreated():
                if event.token_id in self.revoked_tokens or event.token_id in self.tokens:
                    return False
                self.tokens[event.token_id] = Token(
                    event.token_id, event.username, event.name, event.token_sha256, event.expires_at, seq
                )
            case access.TokenRevoked():
                self.revoked_tokens.add(event.token_id)
                self.tokens.pop(event.token_id, None)
        return True

    def _create(self, event: access.UserCreated, seq: int) -> bool:
        if event.username in self.users or event.based_on != 0:
            return False
        self.users[event.username] = User(event.username, event.role, enabled=True, changed_seq=seq)
        return True

    def _change(
        self,
        event: access.UserRoleChanged | access.UserDisabled | access.UserEnabled | access.UserPasswordChanged,
        seq: int,
    ) -> bool:
        user = self.users.get(event.username)
        if user is None or event.based_on != user.changed_seq:
            return False
        user.changed_seq = seq
        match event:
            case access.UserRoleChanged(role=role):
                user.role = role
            case access.UserDisabled():
                user.enabled = False
                self._end_all_of(user.username)
            case access.UserEnabled():
                user.enabled = True
            case access.UserPasswordChanged(phc_sha256=phc_sha256):
                user.phc_sha256, user.password_seq = phc_sha256, seq
                self._end_sessions_of(user.username)
        return True

    def _end_sessions_of(self, username: str) -> None:
        ended = [sha for sha, session in self.sessions.items() if session.username == username]
        self.closed_sessions.update(ended)
        for sha in ended:
            del self.sessions[sha]

    def _end_all_of(self, username: str) -> None:
        self._end_sessions_of(username)
        ended = [token_id for token_id, token in self.tokens.items() if token.username == username]
        self.revoked_tokens.update(ended)
        for token_id in ended:
            del self.tokens[token_id]

    def by_session(self, secret: str, now_s: int) -> Principal | None:
        sha = digest(secret)
        session = self.sessions.get(sha)
        if session is None or session.expires_at <= now_s:
            return None
        return self._principal(session.username, session_sha256=sha)

    def by_token(self, text: str, now_s: int) -> Principal | None:
        token_id = _token_id(text)
        token = self.tokens.get(token_id) if token_id else None
        if token is None or token.expires_at <= now_s or not secrets.compare_digest(token.token_sha256, digest(text)):
            return None
        return self._principal(token.username, token_id=token.token_id)

    def _principal(
        self, username: str, *, session_sha256: str | None = None, token_id: str | None = None
    ) -> Principal | None:
        user = self.users.get(username)
        if user is None or not user.enabled:
            return None
        return Principal(username=username, role=user.role, session_sha256=session_sha256, token_id=token_id)

    def user(self, username: str) -> User:
        """Raises RefusedError where there is none."""
        user = self.users.get(username)
        if user is None:
            raise RefusedError("unknown_user", f"there is no user {username}")
        return user


def new_secret() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def new_token(prefix: str) -> tuple[str, str]:
    """A token's id and its text `<prefix>_<id>_<256 bits><checksum>`; the checksum lets scanners tell it from noise."""
    token_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    text = f"{prefix}_{token_id}_{secret}"
    return token_id, f"{text}{zlib.crc32(text.encode()):08x}"


def _token_id(text: str) -> str | None:
    """The id in a token's text, None where its form or its checksum is wrong."""
    parts = text.split("_")
    well_formed = len(parts) == 3 and len(parts[1]) == 16 and len(parts[2]) == 72 and text.isascii()
    if not well_formed or f"{zlib.crc32(text[:-8].encode()):08x}" != text[-8:]:
        return None
    return parts[1]


def token_id_of(text: str, prefix: str) -> str | None:
    return _token_id(text) if text.startswith(f"{prefix}_") else None


def check_may(principal: Principal, permission: str) -> None:
    """Raises NotAllowedError that names the permission."""
    if not may(principal, permission):
        raise NotAllowedError("not_allowed", f"the role {principal.role} does not have the permission {permission}")
