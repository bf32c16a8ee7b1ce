"""Who people are and what they may do: a pure fold over signed events, and the one function that says who may."""

import secrets
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from control_plane.commands.networks import Network, is_within, network_of
from control_plane.commands.passwords import digest
from control_plane.errors import NotAllowedError, NotFoundError
from control_plane.events import access
from control_plane.events.event import Event
from control_plane_wire.messages import MAX_EXPIRY_S

VIEWER: Final = frozenset({"hosts.read", "tasks.read", "tasks.output", "events.read", "projections.read"})
OPERATOR: Final = VIEWER | {"tasks.run", "tasks.cancel", "stop.set"}
APPROVER: Final = VIEWER | {"tasks.approve"}
AUDITOR: Final = VIEWER | {"events.export", "audit.prove", "users.read", "rules.read"}
HOST_ADMIN: Final = VIEWER | {"hosts.enrol", "hosts.edit", "hosts.revoke"}
SECURITY_ADMIN: Final = VIEWER | {
    "users.read",
    "users.write",
    "tokens.others",
    "rules.read",
    "rules.write",
    "stop.set",
}
ADMINISTRATOR: Final = (OPERATOR | APPROVER | AUDITOR | HOST_ADMIN | SECURITY_ADMIN) | {
    "projections.rebuild",
    "templates.write",
    "stop.lift",
    "secrets.read",
}
MEMBER: Final[frozenset[str]] = frozenset()  # signs in, and may what rules allow him
ROLES: Final[Mapping[str, frozenset[str]]] = {
    "member": MEMBER,
    "viewer": VIEWER,
    "operator": OPERATOR,
    "approver": APPROVER,
    "auditor": AUDITOR,
    "host-admin": HOST_ADMIN,
    "security-admin": SECURITY_ADMIN,
    "administrator": ADMINISTRATOR,
}
OVERSEERS: Final = ("role:administrator", "role:auditor")  # about whom rules are administrators' alone

SESSION_S: Final = 12 * 3600
IDLE_S: Final = 30 * 60
NEVER: Final = 2**53
RECENT_S: Final = 5 * 60  # so old at most is a sign-in for what gives others rights
TOKEN_PREFIX: Final = "cp"  # noqa: S105 - what tokens begin with, so that scanners find them


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whoever asks: a user, by a session or by a token.

    Attributes:
        session_sha256, token_id: of what it came by; neither for the server's own command line.
        address: where the request came from, for the record.
        token_permissions: all that its token is for, whatever role and rules give to the user; None: everything.
    """

    username: str
    role: str
    session_sha256: str | None = None
    token_id: str | None = None
    address: str | None = None
    token_permissions: frozenset[str] | None = None

    @property
    def permissions(self) -> frozenset[str]:
        its = ROLES.get(self.role, frozenset())
        return its if self.token_permissions is None else its & self.token_permissions

    @property
    def is_administrator(self) -> bool:
        """With all that an administrator may: one whose token is for less is none."""
        return self.permissions >= ADMINISTRATOR

    def is_for(self, permission: str) -> bool:
        return self.token_permissions is None or permission in self.token_permissions


# Root on the server's own command line can read the signing key, so it needs nobody's permission.
CONSOLE: Final = Principal(username="console", role="administrator")


def may(principal: Principal, permission: str) -> bool:
    return permission in principal.permissions


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is elsewhere: at the identity provider `issuer`, which calls nobody else `subject`."""

    issuer: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user as one event left it. Attributes: `changed_seq`: that event."""

    username: str
    role: str
    changed_seq: int
    phc_sha256: str | None = None
    enabled: bool = True
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """Attributes: `opened_at`, `expires_at`: Unix seconds."""

    username: str
    opened_at: int
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An API token; `created_seq` is its event, `expires_at` Unix seconds.

    Attributes:
        permissions: all that it may of what its owner may; None: everything.
        networks: those that it counts from; none: from anywhere.
        made_with: the id of the token that it was made with, and ends with.
    """

    token_id: str
    username: str
    name: str
    token_sha256: str
    expires_at: int
    created_seq: int
    permissions: frozenset[str] | None = None
    networks: tuple[Network, ...] = ()
    made_with: str | None = None

    def counts_from(self, address: str | None) -> bool:
        return not self.networks or is_within(address, self.networks)


UserChange: TypeAlias = (
    access.UserCreated
    | access.UserRoleChanged
    | access.UserDisabled
    | access.UserEnabled
    | access.UserPasswordChanged
    | access.UserIdentityChanged
)
# What changes who somebody is or what they may: nobody goes on with what was opened before it.
ENDS_SESSIONS: Final = (
    access.UserRoleChanged,
    access.UserDisabled,
    access.UserPasswordChanged,
    access.UserIdentityChanged,
)


@dataclass(slots=True)
class AccessState:
    """Everybody, as the signed events say. `apply` is the only way in."""

    users: dict[str, User] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    # What has ended, so that a copy of the event that began it begins nothing: each until it would have expired anyway,
    # tokens until the tasks that were asked for with them have.
    _ended_sessions: dict[str, int] = field(default_factory=dict)
    _ended_tokens: dict[str, int] = field(default_factory=dict)

    def apply(self, event: Event, seq: int) -> bool:
        """Take one event in; False where it does not follow from what stands (a copy of an old one, say)."""
        match event:
            case (
                access.UserCreated()
                | access.UserRoleChanged()
                | access.UserDisabled()
                | access.UserEnabled()
                | access.UserPasswordChanged()
                | access.UserIdentityChanged()
            ):
                return self._change(event, seq)
            case access.SessionOpened():
                return self._open(event)
            case access.SessionClosed():
                self._end_sessions([event.session_sha256])
            case access.TokenCreated():
                return self._create_token(event, seq)
            case access.TokenRevoked():
                self._end_tokens([event.token_id])
        return True

    def _change(self, event: UserChange, seq: int) -> bool:
        user = self.users.get(event.username)
        if event.based_on != (user.changed_seq if user else 0):
            return False
        changed = _changed(user, event, seq)
        if changed is None:
            return False
        other = self.by_identity(changed.identity) if changed.identity else None
        if other is not None and other.username != event.username and user is not None:
            # Two were given it at the same moment: the first has it. The second is changed by this event all the same,
            # since the next change has to be based on it.
            changed = replace(changed, identity=user.identity)
        if user is not None and not _is_administrator(changed) and self.is_last_administrator(user):
            # Two took it from each other at the same moment: the second one does not, and is passed as above.
            self.users[event.username] = replace(user, changed_seq=seq)
            return True
        self.users[event.username] = changed
        if isinstance(event, ENDS_SESSIONS):
            self._end_sessions([sha for sha, session in self.sessions.items() if session.username == event.username])
        if isinstance(event, access.UserDisabled):
            self._end_tokens([token.token_id for token in self.tokens.values() if token.username == event.username])
        return True

    def _open(self, event: access.SessionOpened) -> bool:
        sha = event.session_sha256
        if sha in self.sessions or sha in self._ended_sessions:
            return False
        opened_at = event.expires_at - SESSION_S
        self._ended_sessions = {old: until for old, until in self._ended_sessions.items() if until > opened_at}
        self.sessions = {old: session for old, session in self.sessions.items() if session.expires_at > opened_at}
        self.sessions[sha] = Session(event.username, opened_at, event.expires_at)
        return True

    def _create_token(self, event: access.TokenCreated, seq: int) -> bool:
        if event.token_id in self.tokens or event.token_id in self._ended_tokens:
            return False
        try:
            networks = tuple(map(network_of, event.addresses or ()))
        except ValueError:
            return False
        if event.made_with in self._ended_tokens:  # at the same moment
            self._ended_tokens[event.token_id] = event.expires_at
            return False
        self.tokens[event.token_id] = Token(
            token_id=event.token_id,
            username=event.username,
            name=event.name,
            token_sha256=event.token_sha256,
            expires_at=event.expires_at,
            created_seq=seq,
            permissions=None if event.permissions is None else frozenset(event.permissions),
            networks=networks,
            made_with=event.made_with,
        )
        return True

    def _end_sessions(self, ended: Collection[str]) -> None:
        for sha in ended:
            if (session := self.sessions.pop(sha, None)) is not None:
                self._ended_sessions[sha] = session.expires_at

    def _end_tokens(self, ended: Collection[str]) -> None:
        """End these, and what was made with them, and so on."""
        while ended:
            for token_id in ended:
                token = self.tokens.pop(token_id, None)
                self._ended_tokens.setdefault(token_id, NEVER if token is None else token.expires_at)
            ended = {token.token_id for token in self.tokens.values() if token.made_with in ended}

    def forget(self, now_s: int) -> None:
        """Drop the ended tokens that would not count any more, and whose tasks have expired as well."""
        ended = self._ended_tokens
        self._ended_tokens = {token_id: until for token_id, until in ended.items() if until + MAX_EXPIRY_S > now_s}

    def is_revoked(self, token_id: str | None) -> bool:
        """Whether a token was ended, by somebody or with its user; at its time is no such end."""
        return token_id in self._ended_tokens

    def by_session(self, secret: str, now_s: int) -> Principal | None:
        sha = digest(secret)
        session = self.sessions.get(sha)
        if session is None or session.expires_at <= now_s:
            return None
        return self._principal(session.username, session_sha256=sha)

    def by_token(self, text: str, now_s: int) -> Principal | None:
        token_id = token_id_of(text, TOKEN_PREFIX)
        token = self.tokens.get(token_id) if token_id else None
        if token is None or token.expires_at <= now_s or not secrets.compare_digest(token.token_sha256, digest(text)):
            return None
        return self._principal(token.username, token_id=token.token_id, token_permissions=token.permissions)

    def _principal(
        self,
        username: str,
        *,
        session_sha256: str | None = None,
        token_id: str | None = None,
        token_permissions: frozenset[str] | None = None,
    ) -> Principal | None:
        user = self.users.get(username)
        if user is None or not user.enabled:
            return None
        return Principal(
            username=username,
            role=user.role,
            session_sha256=session_sha256,
            token_id=token_id,
            token_permissions=token_permissions,
        )

    def is_last_administrator(self, user: User) -> bool:
        """Whether there would be none that is enabled without this user."""
        others = (other for other in self.users.values() if other.username != user.username)
        return _is_administrator(user) and not any(map(_is_administrator, others))

    def by_identity(self, identity: Identity) -> User | None:
        return next((user for user in self.users.values() if user.identity == identity), None)

    def is_overseer(self, subject: str) -> bool:
        """Whether the subject of a rule is somebody who could see and undo what others do."""
        user = self.users.get(subject.removeprefix("user:"))
        return subject in OVERSEERS or (user is not None and f"role:{user.role}" in OVERSEERS)

    def user(self, username: str) -> User:
        """Raises NotFoundError where there is none."""
        user = self.users.get(username)
        if user is None:
            raise NotFoundError("unknown_user", f"there is no user {username}")
        return user


def _is_administrator(user: User) -> bool:
    return user.enabled and user.role == "administrator"


def _changed(user: User | None, event: UserChange, seq: int) -> User | None:
    """The user after the event; None where the event does not fit."""
    if user is None:
        if not isinstance(event, access.UserCreated):
            return None
        return User(username=event.username, role=event.role, changed_seq=seq, phc_sha256=event.phc_sha256)
    match event:
        case access.UserCreated():
            return None
        case access.UserRoleChanged(role=role):
            return replace(user, changed_seq=seq, role=role)
        case access.UserDisabled():
            return replace(user, changed_seq=seq, enabled=False)
        case access.UserEnabled():
            return replace(user, changed_seq=seq, enabled=True)
        case access.UserPasswordChanged(phc_sha256=phc_sha256):
            return replace(user, changed_seq=seq, phc_sha256=phc_sha256)
        case access.UserIdentityChanged(issuer=issuer, subject=subject):
            identity = None if issuer is None or subject is None else Identity(issuer, subject)
            return replace(user, changed_seq=seq, identity=identity)


def new_secret() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def new_token(prefix: str) -> tuple[str, str]:
    """A token's id and its text `<prefix>_<id>_<256 bits><CRC-32>`; the checksum lets scanners tell it from noise."""
    token_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    text = f"{prefix}_{token_id}_{secret}"
    return token_id, f"{text}{zlib.crc32(text.encode()):08x}"


def token_id_of(text: str, prefix: str) -> str | None:
    """The id in a token's text; None where its form or its checksum is wrong, which saves looking it up."""
    parts = text.split("_")
    if not text.isascii() or len(parts) != 3 or parts[0] != prefix or len(parts[2]) != 72:
        return None
    return parts[1] if f"{zlib.crc32(text[:-8].encode()):08x}" == text[-8:] else None


def check_session(principal: Principal) -> None:
    """What concerns how somebody signs in is for whoever sits at a browser: a token that leaks must not say it.

    Raises NotAllowedError `session_required`.
    """
    if principal.session_sha256 is None:
        raise NotAllowedError("session_required", "only somebody who has signed in at a browser may do this")


def check_may(principal: Principal, permission: str) -> None:
    """Raises NotAllowedError that names the permission."""
    if not principal.is_for(permission):
        raise NotAllowedError("not_allowed", f"this API token is not for {permission}")
    if not may(principal, permission):
        raise NotAllowedError("not_allowed", f"the role {principal.role} does not have the permission {permission}")
