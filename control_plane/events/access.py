"""What happens to people, their sessions and tokens; all but the denials give or take authority and are signed."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.events.envelope import Key
from control_plane.events.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfUser(Event):
    """A change decided on what stood at the event `based_on`, 0 where there was no such user.

    All kinds of change share one key, so of two decisions on the same state the log takes one, whatever they change.

    Attributes:
        username: the login.
        based_on: seq of the event that last changed the user, 0 where there was none of that name.
    """

    username: str
    based_on: int

    def key(self) -> Key:
        return Key(self.username, "user.changed", "", str(self.based_on))


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCreated(_OfUser):
    """A person who may sign in.

    Attributes:
        role: one of those that there are, such as viewer.
        phc_sha256: hex SHA-256 of the password's hash in PHC form, which is kept apart.
    """

    KIND: ClassVar[str] = "user.created"
    GIVES_AUTHORITY: ClassVar[bool] = True

    role: str
    phc_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRoleChanged(_OfUser):
    """Ends every session of the user.

    Attributes:
        role: one of those that there are, from now on.
    """

    KIND: ClassVar[str] = "user.role_changed"
    GIVES_AUTHORITY: ClassVar[bool] = True

    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserDisabled(_OfUser):
    """Ends every session and token of the user."""

    KIND: ClassVar[str] = "user.disabled"
    GIVES_AUTHORITY: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class UserEnabled(_OfUser):
    """A disabled user may sign in again."""

    KIND: ClassVar[str] = "user.enabled"
    GIVES_AUTHORITY: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPasswordChanged(_OfUser):
    """The log is for ever, so the password's hash is kept apart, and only the hash's digest is here. Ends all sessions.

    Attributes:
        phc_sha256: hex SHA-256 of the password's hash in PHC form, which is kept apart.
    """

    KIND: ClassVar[str] = "user.password_changed"
    GIVES_AUTHORITY: ClassVar[bool] = True

    phc_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserIdentityChanged(_OfUser):
    """Who the user is at an identity provider. Ends all sessions.

    Attributes:
        issuer: the provider, as it names itself; None with `subject`: the user does not sign in by one any more.
        subject: what the provider calls the user, for ever and never another one.
    """

    KIND: ClassVar[str] = "user.identity_changed"
    GIVES_AUTHORITY: ClassVar[bool] = True

    issuer: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened(Event):
    """A sign-in with a cookie. Its key has the session's digest where there is no `once`.

    Attributes:
        session_sha256: hex SHA-256 of the cookie's secret.
        username: who signed in.
        expires_at: Unix seconds.
        address: where the request came from.
        method: passkey (after the password) or oidc; None: the password alone, or the embedded mode's link.
        once: of what may open one session only, its id: a passkey's challenge, a sign-in at the identity provider.
        passkey_id: the passkey that was shown.
        sign_count: what that one counts its signatures to, 0 where it does not count.
    """

    KIND: ClassVar[str] = "session.opened"
    GIVES_AUTHORITY: ClassVar[bool] = True

    session_sha256: str
    username: str
    expires_at: int
    address: str | None = None
    method: str | None = None
    once: str | None = None
    passkey_id: str | None = None
    sign_count: int | None = None

    def key(self) -> Key:
        return Key(self.session_sha256, self.KIND) if self.once is None else Key(self.once, self.KIND, "", "once")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosed(Event):
    """Its user has signed out.

    Attributes:
        session_sha256: hex SHA-256 of the cookie's secret.
        username: whose session it was.
    """

    KIND: ClassVar[str] = "session.closed"
    GIVES_AUTHORITY: ClassVar[bool] = True

    session_sha256: str
    username: str

    def key(self) -> Key:
        return Key(self.session_sha256, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCreated(Event):
    """An API token of a user, shown once. It never may more than its owner.

    Attributes:
        token_id: what it is called by.
        token_sha256: hex SHA-256 of the token.
        username: its owner.
        name: what it is for, in its owner's words.
        expires_at: Unix seconds.
        permissions: all that it may of what its owner may; null: everything.
        addresses: the networks that it counts from, as in 10.0.0.0/8; null: from anywhere.
        made_with: the token_id of the token that it was made with, whose end is its own; null: with none.
    """

    KIND: ClassVar[str] = "token.created"
    GIVES_AUTHORITY: ClassVar[bool] = True

    token_id: str
    token_sha256: str
    username: str
    name: str
    expires_at: int
    permissions: tuple[str, ...] | None = None
    addresses: tuple[str, ...] | None = None
    made_with: str | None = None

    def key(self) -> Key:
        return Key(self.token_id, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRevoked(Event):
    """It counts no more.

    Attributes:
        token_id: what it is called by.
        username: its owner.
    """

    KIND: ClassVar[str] = "token.revoked"
    GIVES_AUTHORITY: ClassVar[bool] = True

    token_id: str
    username: str

    def key(self) -> Key:
        return Key(self.token_id, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessDenied(Event):
    """Somebody wanted what they may not.

    Attributes:
        denial_id: tells one attempt from the next.
        actor: who wanted it.
        action: the permission that it takes.
        resource: what it was wanted on.
        address: where the request came from.
        code: what the answer said; None in events of before it was kept.
        count: so many more attempts of the same person or address within a minute, of which this was the last.
        rules: the rules that refused it, where some did.
    """

    KIND: ClassVar[str] = "access.denied"

    denial_id: str
    actor: str
    action: str
    resource: str
    address: str | None = None
    code: str | None = None
    count: int | None = None
    rules: tuple[str, ...] | None = None

    def key(self) -> Key:
        return Key(self.denial_id, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFailed(Event):
    """Name, password, passkey or what the identity provider said was wrong, or the user is disabled.

    Attributes:
        attempt_id: tells one attempt from the next.
        username: whose sign-in it would have been, where there is such a user.
        address: where the request came from.
        method: passkey or oidc; None: the password.
        reason: what was wrong with that, for people.
    """

    KIND: ClassVar[str] = "login.failed"

    attempt_id: str
    username: str
    address: str | None = None
    method: str | None = None
    reason: str | None = None

    def key(self) -> Key:
        return Key(self.attempt_id, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAdded(Event):
    """A signing key of the control plane. The first is signed by itself, each other one by the one before it.

    Attributes:
        key_id: the first 16 hex digits of the key's digest, as messages and events name it.
        public_key: base64 of 32 bytes.
        predecessors: base64 of the public keys before it, the first one first; None: it is the first.
        possession: base64 of its own signature over the three above; None: it is the first.
    """

    KIND: ClassVar[str] = "key.added"
    GIVES_AUTHORITY: ClassVar[bool] = True

    key_id: str
    public_key: str
    predecessors: tuple[str, ...] | None = None
    possession: str | None = None

    def key(self) -> Key:
        return Key(self.key_id, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAnnounced(Event):
    """Which key comes after the one that signs this. Said once for each: whoever steals a key cannot name another.

    Attributes:
        announced_by: the id of the key that signs this.
        public_key_sha256: hex SHA-256 of the next public key, whose private half may be kept offline until then.
    """

    KIND: ClassVar[str] = "key.announced"
    GIVES_AUTHORITY: ClassVar[bool] = True

    announced_by: str
    public_key_sha256: str

    def key(self) -> Key:
        return Key(self.announced_by, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRetired(Event):
    """An earlier key ends: what it signed before this stands, and nothing that it signs after.

    Attributes:
        key_id: of the key that ends.
        heartbeats: how many heartbeats there were: its checkpoints of that log count up to there.
        reason: why, for people.
    """

    KIND: ClassVar[str] = "key.retired"
    GIVES_AUTHORITY: ClassVar[bool] = True

    key_id: str
    heartbeats: int
    reason: str | None = None

    def key(self) -> Key:
        return Key(self.key_id, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLossAccepted(Event):
    """An administrator has said that a log which has lost its end stands as it is; signed, since proofs begin anew.

    Attributes:
        log: which of the two logs.
        size: how many events are left.
        root: hex Merkle root over them.
        lost_size: how many there were in the newest checkpoint outside the database, null where that does not say.
        lost_root: hex Merkle root over those, or null.
        reason: why, for people.
    """

    KIND: ClassVar[str] = "log.loss_accepted"
    GIVES_AUTHORITY: ClassVar[bool] = True

    log: str
    size: int
    root: str
    lost_size: int | None
    lost_root: str | None
    reason: str

    def key(self) -> Key:
        return Key(self.log, self.KIND, "", self.root)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRejected(Event):
    """A message whose signature was wrong: a security event. Recorded once for each text of a message.

    Attributes:
        message_sha256: hex SHA-256 of the message as it came.
        queue: where it came from.
        routing_key: what it was sent to.
        reason: what was wrong, for people.
        count: so many more of the same sender within a minute, of which this was the last; each is in the dead queue.
        count_id: tells one such number from the next, in the key in place of message_sha256.
    """

    KIND: ClassVar[str] = "message.rejected"

    message_sha256: str
    queue: str
    routing_key: str
    reason: str
    count: int | None = None
    count_id: str | None = None

    def key(self) -> Key:
        return Key(self.count_id or self.message_sha256, self.KIND)
