"""People: login and logout, users, API tokens; and who stands behind a cookie or a token."""

import secrets
from dataclasses import dataclass

from control_plane.commands import access as decisions
from control_plane.commands.access import Principal, User
from control_plane.commands.handling import Handling
from control_plane.commands.passwords import PasswordHasher, digest
from control_plane.commands.ports import Credentials
from control_plane.errors import NotAllowedError, NotFoundError, NotSignedInError, RefusedError
from control_plane.events import access


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedIn:
    """A new session: `secret` goes into the cookie and nowhere else; `expires_at` in Unix seconds."""

    principal: Principal
    secret: str
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A new API token: `text` is shown this once; `expires_at` in Unix seconds."""

    token_id: str
    text: str
    expires_at: int


class AccessHandler:
    """Args: `login_token`: what the login link of the embedded mode carries; good until the process ends."""

    def __init__(
        self,
        handling: Handling,
        credentials: Credentials,
        hasher: PasswordHasher | None = None,
        *,
        login_token: str | None = None,
        login_user: str | None = None,
    ) -> None:
        self._handling = handling
        self._credentials = credentials
        self._hasher = hasher or PasswordHasher()
        self._login_token_sha256 = digest(login_token) if login_token else None
        self._login_user = login_user
        self._last_seen_s: dict[str, int] = {}

    # --- who stands behind it -----------------------------------------------------------------------------------

    def by_session(self, secret: str) -> Principal:
        """Whose session this is, from memory alone. Raises NotSignedInError."""
        now_s = self._handling.clock.now_s()
        principal = self._handling.authority.access.by_session(secret, now_s)
        sha = principal.session_sha256 if principal else None
        if principal is None or sha is None or now_s - self._last_seen_s.get(sha, now_s) > decisions.IDLE_S:
            raise NotSignedInError
        self._last_seen_s[sha] = now_s
        return principal

    def by_token(self, text: str) -> Principal:
        """Whose API token this is, from memory alone. Raises NotSignedInError."""
        principal = self._handling.authority.access.by_token(text, self._handling.clock.now_s())
        if principal is None:
            raise NotSignedInError
        return principal

    def still_valid(self, principal: Principal) -> bool:
        """Whether the session or token that a principal came by still stands, with the same role."""
        state = self._handling.authority.access
        user = state.users.get(principal.username)
        if user is None or not user.enabled or user.role != principal.role:
            return False
        now_s = self._handling.clock.now_s()
        if principal.session_sha256 is not None:
            session = state.sessions.get(principal.session_sha256)
            return session is not None and session.expires_at > now_s
        token = state.tokens.get(principal.token_id or "")
        return token is not None and token.expires_at > now_s

    # --- sessions -----------------------------------------------------------------------------------------------

    async def login(self, username: str, password: str, *, address: str | None) -> LoggedIn:
        """Open a session. Raises NotSignedInError, alike for a wrong password and an unknown user."""
        await self._handling.authority.refresh()
        user = self._handling.authority.access.users.get(username)
        phc = await self._credentials.get(username) if user else None
        # The hash lies in a table that a database's administrator can write; its digest is in a signed event.
        if user is None or phc is None or user.phc_sha256 != digest(phc):
            phc = None
        if not await self._hasher.verify(password, phc) or user is None or not user.enabled:
            failed = access.LoginFailed(attempt_id=secrets.token_hex(16), username=username[:64], address=address)
            await self._handling.log.append([failed.to_new_event()])
            raise NotSignedInError("login_failed", "user or password are wrong")
        return await self._open_session(user, address)

    async def login_by_link(self, token: str, *, address: str | None) -> LoggedIn:
        """Open a session by the token of the embedded mode's login link. Raises NotSignedInError."""
        expected = self._login_token_sha256
        if expected is None or not secrets.compare_digest(expected, digest(token)):
            raise NotSignedInError("login_failed", "this login link has ended; start the program again for a new one")
        await self._handling.authority.refresh()
        return await self._open_session(self._handling.authority.access.user(self._login_user or ""), address)

    async def _open_session(self, user: User, address: str | None) -> LoggedIn:
        secret = decisions.new_secret()
        expires_at = self._handling.clock.now_s() + decisions.SESSION_S
        event = access.SessionOpened(
            session_sha256=digest(secret), username=user.username, expires_at=expires_at, address=address
        )
        await self._handling.record_decision(event, actor=user.username)
        return LoggedIn(principal=self.by_session(secret), secret=secret, expires_at=expires_at)

    async def logout(self, principal: Principal) -> None:
        if principal.session_sha256 is not None:
            event = access.SessionClosed(session_sha256=principal.session_sha256, username=principal.username)
            await self._handling.record_decision(event, actor=principal.username)

    # --- users --------------------------------------------------------------------------------------------------

    async def users(self, principal: Principal) -> list[User]:
        await self._handling.admit(principal, "users.read", "users")
        return sorted(self._handling.authority.access.users.values(), key=lambda user: user.username)

    async def create_user(self, principal: Principal, username: str, *, role: str, password: str) -> None:
        """Create a user. Raises RefusedError `user_exists`, or `weak_password`."""
        await self._handling.admit(principal, "users.write", f"users/{username}")
        if username in self._handling.authority.access.users:
            raise RefusedError("user_exists", f"there is a user {username} already")
        phc = await self._hasher.hash(password)
        created = access.UserCreated(username=username, based_on=0, role=role)
        await self._handling.record_decision(created, actor=principal.username)
        await self._set_phc(principal, username, phc)

    async def set_password(self, principal: Principal, username: str, password: str) -> None:
        """Set a password, which ends all sessions of the user. Raises RefusedError `unknown_user`, `weak_password`."""
        await self._handling.admit(principal, "users.write", f"users/{username}")
        self._handling.authority.access.user(username)
        await self._set_phc(principal, username, await self._hasher.hash(password))

    async def _set_phc(self, principal: Principal, username: str, phc: str) -> None:
        """The hash goes into its table first: a crash before the event leaves a hash that no event vouches for."""
        await self._credentials.put(username, phc)
        based_on = self._handling.authority.access.user(username).changed_seq
        changed = access.UserPasswordChanged(username=username, based_on=based_on, phc_sha256=digest(phc))
        await self._handling.record_decision(changed, actor=principal.username)

    async def set_role(self, principal: Principal, username: str, role: str) -> None:
        await self._handling.admit(principal, "users.write", f"users/{username}")
        user = self._handling.authority.access.user(username)
        if user.role != role:
            self._keep_one_administrator(user)
            event = access.UserRoleChanged(username=username, based_on=user.changed_seq, role=role)
            await self._handling.record_decision(event, actor=principal.username)

    async def set_enabled(self, principal: Principal, username: str, enabled: bool) -> None:
        """Let a user in again, or nobody by that name: disabling ends every session and token of the user."""
        await self._handling.admit(principal, "users.write", f"users/{username}")
        user = self._handling.authority.access.user(username)
        if user.enabled == enabled:
            return
        if enabled:
            await self._handling.record_decision(
                access.UserEnabled(username=username, based_on=user.changed_seq), actor=principal.username
            )
            return
        self._keep_one_administrator(user)
        await self._handling.record_decision(
            access.UserDisabled(username=username, based_on=user.changed_seq), actor=principal.username
        )

    def _keep_one_administrator(self, user: User) -> None:
        others = (u for u in self._handling.authority.access.users.values() if u is not user)
        if user.role == "administrator" and not any(u.enabled and u.role == "administrator" for u in others):
            raise RefusedError("last_administrator", f"{user.username} is the last administrator")

    # --- API tokens ---------------------------------------------------------------------------------------------

    async def tokens(self, principal: Principal) -> list[decisions.Token]:
        """The principal's tokens; everybody's for whoever may manage those."""
        await self._handling.authority.refresh()
        may_see_all = decisions.may(principal, "tokens.others")
        tokens = self._handling.authority.access.tokens.values()
        return [token for token in tokens if may_see_all or token.username == principal.username]

    async def create_token(self, principal: Principal, *, username: str, name: str, days: int) -> NewToken:
        """A token that may what its user may, for one's own user or, with the permission, for another."""
        await self._handling.authority.refresh()
        self._check_own(principal, username)
        self._handling.authority.access.user(username)
        token_id, text = decisions.new_token("cp")
        expires_at = self._handling.clock.now_s() + days * 86_400
        event = access.TokenCreated(
            token_id=token_id, token_sha256=digest(text), username=username, name=name, expires_at=expires_at
        )
        await self._handling.record_decision(event, actor=principal.username)
        return NewToken(token_id=token_id, text=text, expires_at=expires_at)

    async def revoke_token(self, principal: Principal, token_id: str) -> None:
        await self._handling.authority.refresh()
        token = self._handling.authority.access.tokens.get(token_id)
        if token is None:
            raise NotFoundError("unknown_token", "there is no such token")
        self._check_own(principal, token.username)
        event = access.TokenRevoked(token_id=token_id, username=token.username)
        await self._handling.record_decision(event, actor=principal.username)

    @staticmethod
    def _check_own(principal: Principal, username: str) -> None:
        if username != principal.username and not decisions.may(principal, "tokens.others"):
            raise NotAllowedError("not_allowed", "only an administrator may manage other people's tokens")
