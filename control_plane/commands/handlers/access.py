"""People: login and logout, users, API tokens; and who stands behind a cookie or a token."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from control_plane.commands import users as decisions
from control_plane.commands.access import (
    IDLE_S,
    RECENT_S,
    SESSION_S,
    AccessState,
    Identity,
    Principal,
    Session,
    User,
    check_session,
    new_secret,
)
from control_plane.commands.denials import UNKNOWN
from control_plane.commands.handling import Handling
from control_plane.commands.passkeys import PasskeyRequiredError, RelyingParty, new_challenge, request_options
from control_plane.commands.passwords import PasswordHasher, digest
from control_plane.commands.ports import Credentials
from control_plane.commands.throttle import LoginThrottle
from control_plane.commands.token_uses import TokenUses
from control_plane.errors import (
    ElsewhereError,
    NotAllowedError,
    NotSignedInError,
    RefusedError,
    StorageUnavailableError,
    TooManyError,
)
from control_plane.events import access, passkeys
from control_plane.events.envelope import Conflict
from control_plane.events.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedIn:
    """A new session: `secret` goes into the cookie and nowhere else; `expires_at` in Unix seconds."""

    principal: Principal
    secret: str
    expires_at: int


class AccessHandler:
    """What people come in by, and what is done about them.

    Args:
        uses: takes down when and from where tokens were used.
        login_token: what the login link of the embedded mode carries; good until the process ends.
        login_user: whom it signs in. There is no password to ask that one for.
        relying_party: what passkeys are bound to; None where browsers know none.

    Attributes:
        throttle: how often somebody may try to sign in.
    """

    def __init__(
        self,
        handling: Handling,
        credentials: Credentials,
        hasher: PasswordHasher | None = None,
        *,
        uses: TokenUses | None = None,
        login_token: str | None = None,
        login_user: str | None = None,
        relying_party: RelyingParty | None = None,
    ) -> None:
        self._handling = handling
        self._credentials = credentials
        self._hasher = hasher or PasswordHasher()
        self.uses = uses or TokenUses(None, handling.clock)
        self._login_token_sha256 = digest(login_token) if login_token else None
        self._login_user = login_user
        self.throttle = LoginThrottle()
        self.relying_party = relying_party
        self._started_s = handling.clock.now_s()
        self._last_seen_s: dict[str, int] = {}

    # --- who stands behind it -----------------------------------------------------------------------------------

    def by_session(self, secret: str, *, address: str | None = None, is_use: bool = True) -> Principal:
        """Whose session this is, from memory alone; not idle since, if that is a use. Raises NotSignedInError."""
        state, now_s = self._handling.authority.access, self._handling.clock.now_s()
        principal = state.by_session(secret, now_s)
        if principal is None or (sha := principal.session_sha256) is None:
            raise NotSignedInError
        if self._is_idle(sha, state.sessions[sha], now_s):
            raise NotSignedInError
        if is_use:
            self._last_seen_s[sha] = now_s
        return replace(principal, address=address)

    def _is_idle(self, sha: str, session: Session, now_s: int) -> bool:
        # Nobody knows what other replicas, or this one before its start, have seen of it.
        return now_s - self._last_seen_s.get(sha, max(session.opened_at, self._started_s)) > IDLE_S

    def by_token(self, text: str, *, address: str | None = None, is_use: bool = True) -> Principal:
        """Whose API token this is, from memory alone; noted as used if that is a use of it.

        Raises:
            NotSignedInError: nobody's.
            ElsewhereError: it does not count from this address.
        """
        state = self._handling.authority.access
        principal = state.by_token(text, self._handling.clock.now_s())
        if principal is None or (token_id := principal.token_id) is None:
            raise NotSignedInError
        if not state.tokens[token_id].counts_from(address):
            raise ElsewhereError(principal.username)
        if is_use:
            self.uses.note(token_id, address)
        return replace(principal, address=address)

    def still_valid(self, principal: Principal) -> bool:
        """Whether the session or token that a principal came by still stands, with the same role.

        Asking is no use of it: a stream that is merely open ends when its session has been idle for too long.
        """
        state = self._handling.authority.access
        user = state.users.get(principal.username)
        if user is None or not user.enabled or user.role != principal.role:
            return False
        now_s = self._handling.clock.now_s()
        if (sha := principal.session_sha256) is not None:
            session = state.sessions.get(sha)
            return session is not None and session.expires_at > now_s and not self._is_idle(sha, session, now_s)
        token = state.tokens.get(principal.token_id or "")
        return token is not None and token.expires_at > now_s

    async def check_recent(self, principal: Principal, resource: str) -> None:
        """Let pass who has signed in a moment ago, or comes by a token: its permissions say what it is for.

        Raises:
            NotAllowedError: `sign_in_again`, which is recorded.
            NotSignedInError: the session has ended by now.
        """
        if (sha := principal.session_sha256) is None or principal.username == self._login_user:
            return
        session = self._handling.authority.access.sessions.get(sha)
        if session is None:  # closed since the request came in
            raise NotSignedInError
        if self._handling.clock.now_s() - session.opened_at > RECENT_S:
            detail = f"this takes a sign-in of the last {RECENT_S // 60} minutes: sign in again, then ask again"
            async with self._handling.recording(principal, resource, "login"):
                raise NotAllowedError("sign_in_again", detail)

    async def check(self, principal: Principal, permission: str, resource: str) -> None:
        """Let pass who may. Raises NotAllowedError, and records it."""
        await self._handling.check(principal, permission, resource)

    async def deny(self, username: str | None, action: str, resource: str, *, address: str | None, code: str) -> None:
        """Record that somebody was not let in; None: it is not known who that was."""
        await self._handling.deny(username, action, resource, address=address, code=code)

    # --- sessions -----------------------------------------------------------------------------------------------

    async def login(self, username: str, password: str, *, address: str | None) -> LoggedIn:
        """Open a session.

        Raises:
            NotSignedInError: alike, and after the same work, for whatever was wrong.
            PasskeyRequiredError: the password was right; the user has passkeys, one of which has to be shown.
            TooManyError: by that address or for that account it was tried too often, or too many wait; no password was
                looked at.
        """
        user = await self._verified(username, password, address)
        await self._ask_for_passkey(user, address)
        self.throttle.succeeded(username, address)
        return await self.open_session(user, address)

    async def _verified(self, username: str, password: str, address: str | None, *, is_signed_in: bool = False) -> User:
        """The user of that name and password, as `login` says. It counts as a try until somebody says otherwise."""
        await self.check_rate(username, address)
        known = (username, None) if is_signed_in else self.throttle.known(username, address)
        try:
            await self._handling.authority.refresh()
            phc = await self._credentials.get(username)
        except StorageUnavailableError:
            self.throttle.take_back(username, address)
            raise
        user = self._handling.authority.access.users.get(username)
        # The hash lies in a table that a database's administrator can write; its digest is in a signed event.
        is_ours = user is not None and user.enabled and phc is not None and user.phc_sha256 == digest(phc)
        try:
            is_right = await self._hasher.verify(password, phc if is_ours else None, of=known)
        except TooManyError as error:
            self.throttle.take_back(username, address)
            await self.deny(None, "login", "password", address=address, code=error.code)
            raise
        if not is_right or user is None:
            await self.failed(user, address=address)
            raise NotSignedInError("login_failed", "user or password are wrong")
        return user

    async def change_password(self, principal: Principal, current: str, new: str) -> LoggedIn:
        """Change one's own password, which ends all of one's sessions; a new one in their place.

        Raises:
            NotAllowedError: `session_required`: it is asked with an API token.
            NotSignedInError, TooManyError: `current` is not the password: as a login with it.
            RefusedError: `weak_password`.
        """
        username = principal.username
        async with self._handling.recording(principal, f"users/{username}/password", "password"):
            check_session(principal)
        expires_at = self._handling.authority.access.sessions[principal.session_sha256 or ""].expires_at
        await self._verified(username, current, principal.address, is_signed_in=True)
        self.throttle.succeeded(username, principal.address)
        phc = await self._hasher.hash(new)
        await self._record(principal, lambda state: decisions.decide_password(state, username, phc=phc))
        await self._credentials.put(username, phc)
        # As old as that session: it was not shown anew who this is, where that takes more than a password.
        return await self.open_session(
            self._handling.authority.access.user(username), principal.address, expires_at=expires_at
        )

    async def _ask_for_passkey(self, user: User, address: str | None) -> None:
        """Where the user has passkeys, raise PasskeyRequiredError. The try counts until one of them was shown."""
        handling = self._handling
        if not (known := handling.authority.passkeys.of(user.username)):
            return
        code = "passkey_required"
        # Recorded: whoever comes no further than this had the right password.
        await self.deny(user.username, "login", "passkey", address=address, code=code)
        if self.relying_party is None:
            detail = "passkeys need the server's name and https: an administrator may set CONTROL_PLANE_PUBLIC_URL"
            raise NotSignedInError("passkeys_off", detail)
        challenge = new_challenge(handling.keyring.active, "sign in", user, handling.clock.now_s())
        raise PasskeyRequiredError(challenge, request_options(self.relying_party, challenge, known))

    async def failed(
        self, user: User | None, *, address: str | None, method: str | None = None, reason: str | None = None
    ) -> None:
        """Record that a sign-in failed. What is no user's name is not kept: people type passwords into that field."""
        event = access.LoginFailed(
            attempt_id=secrets.token_hex(16),
            username=UNKNOWN if user is None else user.username,
            address=address,
            method=method,
            reason=reason,
        )
        await self._handling.record(event, actor=None)

    async def check_rate(self, username: str, address: str | None) -> None:
        """Count a try to sign in. Raises TooManyError, and records it."""
        try:
            self.throttle.check(username, address, self._handling.clock.monotonic_s())
        except TooManyError as error:
            await self.deny(None, "login", "password", address=address, code=error.code)
            raise

    async def login_by_link(self, token: str, *, address: str | None) -> LoggedIn:
        """Open a session by the token of the embedded mode's login link. Raises NotSignedInError."""
        expected = self._login_token_sha256
        if expected is None or not secrets.compare_digest(expected, digest(token)):
            await self.deny(None, "login", "login link", address=address, code="login_failed")
            raise NotSignedInError("login_failed", "this login link has ended; start the program again for a new one")
        await self._handling.authority.refresh()
        return await self.open_session(self._handling.authority.access.user(self._login_user or ""), address)

    async def open_session(
        self,
        user: User,
        address: str | None,
        *,
        method: str | None = None,
        once: str | None = None,
        passkey_id: str | None = None,
        sign_count: int | None = None,
        expires_at: int | None = None,
    ) -> LoggedIn:
        """Open a session for who has proved to be that user; see `events.access.SessionOpened`.

        Args:
            expires_at: where it is as old as another one already; its age is counted from that.

        Raises:
            NotSignedInError: what may open one session only has opened another one, here or at another replica.
        """
        handling, secret = self._handling, new_secret()
        expires_at = expires_at or handling.clock.now_s() + SESSION_S
        event = access.SessionOpened(
            session_sha256=digest(secret),
            username=user.username,
            expires_at=expires_at,
            address=address,
            method=method,
            once=once,
            passkey_id=passkey_id,
            sign_count=sign_count,
        )
        outcome = await handling.record(event, actor=user.username)
        await handling.authority.refresh()
        if isinstance(outcome, Conflict):
            await self.failed(user, address=address, method=method, reason="it has opened a session already")
            raise NotSignedInError("login_failed", "this was used already; begin again")
        open_sessions = handling.authority.access.sessions
        self._last_seen_s = {sha: seen_s for sha, seen_s in self._last_seen_s.items() if sha in open_sessions}
        return LoggedIn(principal=self.by_session(secret, address=address), secret=secret, expires_at=expires_at)

    def stands(self, secret: str) -> bool:
        """Whether this is an open session's; asking is no use of it."""
        principal = self._handling.authority.access.by_session(secret, self._handling.clock.now_s())
        return principal is not None and self.still_valid(principal)

    async def close(self, secret: str | None) -> None:
        """End the session whose place a new one takes, if it still stands."""
        state, now_s = self._handling.authority.access, self._handling.clock.now_s()
        if secret is not None and (principal := state.by_session(secret, now_s)) is not None:
            await self.logout(principal)

    async def logout(self, principal: Principal) -> None:
        if principal.session_sha256 is not None:
            event = access.SessionClosed(session_sha256=principal.session_sha256, username=principal.username)
            await self._handling.record_new(event, actor=principal.username)

    # --- users --------------------------------------------------------------------------------------------------

    async def users(self, principal: Principal) -> list[User]:
        await self._handling.admit(principal, "users.read", "users")
        return sorted(self._handling.authority.access.users.values(), key=lambda user: user.username)

    async def create_user(self, principal: Principal, username: str, *, role: str, password: str) -> int:
        """Create a user. Raises RefusedError `user_exists`, `weak_password`, `invalid_request`."""
        await self._admit_to_users(principal, username, role=role)
        phc = await self._hasher.hash(password)
        seq = await self._record(principal, lambda state: decisions.decide_user(state, username, role=role, phc=phc))
        await self._credentials.put(username, phc)
        return seq

    async def set_password(self, principal: Principal, username: str, password: str) -> int:
        """Set a password, which ends all sessions of the user. Raises NotFoundError, RefusedError `weak_password`."""
        await self._admit_to_users(principal, username, of_oneself="password")
        phc = await self._hasher.hash(password)
        seq = await self._change(principal, username, lambda state: decisions.decide_password(state, username, phc=phc))
        # After the event: whoever loses a race for it must not leave a hash behind that no event vouches for. A crash
        # between the two locks the user out until the password is set again.
        await self._credentials.put(username, phc)
        return seq

    async def set_role(self, principal: Principal, username: str, role: str) -> int:
        """Change a role, which ends all sessions of the user.

        Raises:
            RefusedError: `last_administrator`, `rules_stand`, `invalid_request`.
        """
        await self._admit_to_users(principal, username, role=role, of_oneself="role")

        def decided(state: AccessState) -> Event | None:
            event = decisions.decide_role(state, username, role)
            if event is not None:
                decisions.check_no_rules(self._handling.authority.rules.rules.values(), username, role)
            return event

        seq = await self._change(principal, username, decided, role=role)
        self._check_done(username, seq, lambda user: user.role == role)
        return seq

    async def set_enabled(self, principal: Principal, username: str, enabled: bool) -> int:
        """Let a user in again, or no longer: disabling ends every session and token of the user."""
        await self._admit_to_users(principal, username)
        seq = await self._change(principal, username, lambda state: decisions.decide_enabled(state, username, enabled))
        self._check_done(username, seq, lambda user: user.enabled == enabled)
        return seq

    def _check_done(self, username: str, seq: int, is_done: Callable[[User], bool]) -> None:
        """Raises RefusedError `last_administrator` where an event was without effect, as of two at once."""
        user = self._handling.authority.access.user(username)
        if user.changed_seq == seq and not is_done(user):
            raise decisions.last_administrator(username)

    async def set_identity(self, principal: Principal, username: str, identity: Identity | None) -> int:
        """Say who a user is at the identity provider, which ends all sessions of the user.

        Raises:
            RefusedError: `identity_taken`, `invalid_request`.
        """
        await self._admit_to_users(principal, username, of_oneself="identity")
        seq = await self._change(
            principal, username, lambda state: decisions.decide_identity(state, username, identity)
        )
        if self._handling.authority.access.user(username).identity != identity:  # of two at once, the other one has it
            raise RefusedError("identity_taken", "another user was given it just now")
        return seq

    async def remove_passkeys(self, principal: Principal, username: str) -> int:
        """Remove all passkeys of a user who has lost them: from now on the password alone is enough."""
        await self._admit_to_users(principal, username, of_oneself="passkeys")
        authority = self._handling.authority
        authority.access.user(username)
        seq = authority.position
        for passkey in authority.passkeys.of(username):
            event = passkeys.PasskeyRemoved(passkey_id=passkey.passkey_id, username=username)
            seq = await self._handling.record_new(event, actor=principal.username)
        return seq

    async def _admit_to_users(
        self, principal: Principal, username: str, *, role: str | None = None, of_oneself: str = ""
    ) -> None:
        """Let pass who may change this user.

        Args:
            role: that the user is to have.
            of_oneself: what it is that nobody changes of himself, if it is such.
        """
        await self._handling.admit(principal, "users.write", f"users/{username}")
        async with self._handling.recording(principal, f"users/{username}", "users.write"):
            decisions.check_change(self._handling.authority.access, principal, username, role=role)
            if of_oneself:
                decisions.check_not_oneself(principal, username, of_oneself)

    async def _change(
        self,
        principal: Principal,
        username: str,
        decide: Callable[[AccessState], Event | None],
        *,
        role: str | None = None,
    ) -> int:
        """Record what is decided on a user that there is, who may have become an administrator in the meantime."""

        def decided(state: AccessState) -> Event | None:
            decisions.check_change(state, principal, username, role=role)
            return decide(state)

        async with self._handling.recording(principal, f"users/{username}", "users.write"):
            return await self._record(principal, decided)

    async def _record(self, principal: Principal, decide: Callable[[AccessState], Event | None]) -> int:
        state = self._handling.authority.access
        return await self._handling.decide_and_record(lambda: decide(state), actor=principal.username)
