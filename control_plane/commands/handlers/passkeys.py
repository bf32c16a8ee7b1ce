"""Passkeys: shown after the password, and kept by their owners."""

from control_plane.commands.access import Principal, User, check_session
from control_plane.commands.handlers.access import AccessHandler, LoggedIn
from control_plane.commands.handling import Handling
from control_plane.commands.passkeys import (
    MAX_PASSKEYS,
    Challenge,
    Passkey,
    PasskeyRefusedError,
    RelyingParty,
    check_challenge,
    check_shown,
    creation_options,
    decide_added,
    new_challenge,
)
from control_plane.errors import (
    NotFoundError,
    NotSignedInError,
    RefusedError,
    StorageUnavailableError,
)
from control_plane.events.envelope import Conflict
from control_plane.events.passkeys import PasskeyRemoved

METHOD = "passkey"


class PasskeyHandler:
    def __init__(self, handling: Handling, access: AccessHandler) -> None:
        self._handling = handling
        self._access = access

    @property
    def is_on(self) -> bool:
        return self._access.relying_party is not None

    async def sign_in(self, challenge: str, credential: str, *, address: str | None) -> LoggedIn:
        """The second half of a sign-in; both count as tries until this one succeeds.

        Args:
            challenge: what the right password was answered with.
            credential: what the browser made of it, as JSON.

        Raises:
            NotSignedInError: `challenge_expired`, or alike for whatever was wrong.
            TooManyError: as for passwords.
        """
        handling, throttle = self._handling, self._access.throttle
        asked = await self._checked(challenge, address)
        await self._access.check_rate(asked.username, address)
        try:
            await handling.authority.refresh()
        except StorageUnavailableError:
            throttle.take_back(asked.username, address)
            raise
        user = handling.authority.access.users.get(asked.username)
        try:
            passkey, sign_count = self._shown(asked, user, challenge, credential)
        except PasskeyRefusedError as error:
            await self._access.failed(user, address=address, method=METHOD, reason=error.detail)
            raise NotSignedInError("login_failed", "the passkey is not right; sign in again") from error
        opened = await self._access.open_session(
            handling.authority.access.user(asked.username),
            address,
            method=METHOD,
            once=asked.once,
            passkey_id=passkey.passkey_id,
            sign_count=sign_count,
        )
        throttle.succeeded(asked.username, address, tries=2)  # the password's, too
        return opened

    def _shown(self, asked: Challenge, user: User | None, challenge: str, credential: str) -> tuple[Passkey, int]:
        if user is None or not user.enabled or user.changed_seq != asked.changed_seq:
            raise PasskeyRefusedError("the user was changed since the password was given")
        return check_shown(self._party(), challenge, credential, self._handling.authority.passkeys.of(user.username))

    async def _checked(self, challenge: str, address: str | None) -> Challenge:
        """Raises NotSignedInError, and records it."""
        try:
            return check_challenge(
                challenge, self._handling.keyring.trusted_public_keys, "sign in", self._handling.clock.now_s()
            )
        except NotSignedInError as error:
            await self._handling.deny(None, "login", "passkey", address=address, code=error.code)
            raise

    # --- one's own ----------------------------------------------------------------------------------------------

    def own(self, principal: Principal) -> list[Passkey]:
        return self._handling.authority.passkeys.of(principal.username)

    async def begin(self, principal: Principal) -> tuple[str, str]:
        """A challenge, and as JSON what `navigator.credentials.create` wants.

        Raises:
            NotAllowedError: by an API token; a passkey is for whoever sits at a browser.
            RefusedError: `passkeys_off`, `too_many_passkeys`.
        """
        user = await self._at_browser(principal)
        known = self.own(principal)
        _check_room(known)
        challenge = new_challenge(self._handling.keyring.active, "add", user, self._handling.clock.now_s())
        return challenge, creation_options(self._party(), challenge, user.username, known)

    async def add(self, principal: Principal, challenge: str, credential: str, *, name: str) -> tuple[str, int]:
        """Its id and its event's seq.

        Raises:
            NotAllowedError: by an API token.
            RefusedError: `challenge_expired`, `passkey_refused`, `passkey_exists`, `too_many_passkeys`, `passkeys_off`.
        """
        user, handling = await self._at_browser(principal), self._handling
        try:
            asked = check_challenge(challenge, handling.keyring.trusted_public_keys, "add", handling.clock.now_s())
        except NotSignedInError as error:  # this caller is signed in: it is the challenge that has to be a new one
            raise RefusedError(error.code, error.detail) from error
        if (asked.username, asked.changed_seq) != (user.username, user.changed_seq):
            raise RefusedError("challenge_expired", "this is no challenge of yours, or it has ended; begin again")
        _check_room(self.own(principal))
        event = decide_added(
            self._party(), challenge, credential, username=user.username, name=name, now_s=handling.clock.now_s()
        )
        outcome = await handling.record(event, actor=user.username)
        await handling.authority.refresh()
        if isinstance(outcome, Conflict):
            raise RefusedError("passkey_exists", "this passkey is, or was, known already")
        if event.passkey_id not in handling.authority.passkeys.by_id:
            raise _too_many()  # of several at the same moment
        return event.passkey_id, outcome.seq

    async def remove(self, principal: Principal, passkey_id: str) -> int:
        """Remove one of one's own; the seq of its event. Raises NotAllowedError by an API token, NotFoundError."""
        user = await self._at_browser(principal)
        if passkey_id not in {passkey.passkey_id for passkey in self.own(principal)}:
            raise NotFoundError("unknown_passkey", "you have no such passkey")
        event = PasskeyRemoved(passkey_id=passkey_id, username=user.username)
        return await self._handling.record_new(event, actor=user.username)

    async def _at_browser(self, principal: Principal) -> User:
        """The user, if this is a session. Raises NotAllowedError, and records it."""
        await self._handling.authority.refresh()
        async with self._handling.recording(principal, "passkeys", "login"):
            check_session(principal)
        return self._handling.authority.access.user(principal.username)

    def _party(self) -> RelyingParty:
        if self._access.relying_party is None:
            detail = "passkeys need CONTROL_PLANE_PUBLIC_URL to be https and a name, or http://localhost"
            raise RefusedError("passkeys_off", detail)
        return self._access.relying_party


def _check_room(known: list[Passkey]) -> None:
    if len(known) >= MAX_PASSKEYS:
        raise _too_many()


def _too_many() -> RefusedError:
    return RefusedError("too_many_passkeys", f"you have {MAX_PASSKEYS} passkeys already; remove one first")
