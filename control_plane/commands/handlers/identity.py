"""Sign-in at an identity provider (OpenID Connect), for users whom an administrator has linked to its subjects."""

from collections import OrderedDict
from dataclasses import dataclass

from control_plane.commands.access import SESSION_S, Identity, User
from control_plane.commands.grammar import shown
from control_plane.commands.handlers.access import AccessHandler, LoggedIn
from control_plane.commands.handling import Handling
from control_plane.commands.identity import Transaction, check_returned, signed_in_at
from control_plane.commands.pending_hosts import network_of
from control_plane.commands.ports import IdentityProvider
from control_plane.commands.throttle import ADDRESS_S, LOGINS_OF_ADDRESS, MAX_KEYS, Limit, refuse_login_if
from control_plane.errors import (
    IdentityProviderError,
    IdentityRefusedError,
    NotFoundError,
    RefusedError,
    TooManyError,
)

METHOD = "oidc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """What a browser brings back from the provider.

    Attributes:
        transaction: of the sign-in that was begun in it, where it still has it.
        code, error, issuer: the provider's; None where the address has none.
    """

    transaction: str | None
    state: str
    code: str | None
    error: str | None
    issuer: str | None


class IdentityHandler:
    """Args: `provider`: None where there is none; `name`: what people call it."""

    def __init__(
        self,
        handling: Handling,
        access: AccessHandler,
        provider: IdentityProvider | None = None,
        name: str | None = None,
    ) -> None:
        self._handling = handling
        self._access = access
        self._provider = provider
        self.name = name if provider is not None else None
        self._tries = Limit(LOGINS_OF_ADDRESS, ADDRESS_S)
        self._strangers = Limit(LOGINS_OF_ADDRESS, ADDRESS_S)  # who come back from where this browser was not sent
        self._redeemed: OrderedDict[str, None] = OrderedDict()  # transactions that a code was asked about

    def identity(self, subject: str) -> Identity:
        """Somebody at the provider. Raises RefusedError `oidc_off` where there is none."""
        if self._provider is None:
            raise RefusedError("oidc_off", "CONTROL_PLANE_OIDC_ISSUER is not set")
        return Identity(self._provider.issuer, subject)

    async def begin(self, session: str | None = None) -> tuple[str, Transaction]:
        """Where to send the browser, and what it keeps meanwhile.

        Args:
            session: the secret that it has; while that session stands, somebody is to sign in again.

        Raises:
            NotFoundError: there is no provider.
            IdentityProviderError: it does not answer.
        """
        again = session is not None and self._access.stands(session)
        provider, begun = self._known(), Transaction.begun(self._handling.clock.now_s(), again=again)
        address = await provider.address(
            state=begun.state, nonce=begun.nonce, code_challenge=begun.code_challenge, again=again
        )
        return address, begun

    async def finish(self, returned: Returned, *, address: str | None) -> LoggedIn:
        """Open a session for who comes back. Whatever fails is recorded with its reason; its caller tells nothing.

        No passkey is asked for: a second factor is the provider's matter, which knows its own.

        Raises:
            NotFoundError: there is no provider.
            IdentityRefusedError, NotSignedInError: it proves nothing, or is nobody who may sign in.
            IdentityProviderError: the provider does not answer.
            TooManyError: there were too many such tries from that address; nobody was asked.
        """
        provider = self._known()
        try:
            transaction, code = self._checked(provider, returned)
        except IdentityRefusedError as error:  # another site's page can send a browser here: that costs no sign-in
            await self._check_rate(self._strangers, address)
            await self._access.failed(None, address=address, method=METHOD, reason=shown(error.detail))
            raise
        await self._check_rate(self._tries, address)
        user: User | None = None
        try:
            proved = await provider.proved(code, verifier=transaction.verifier, nonce=transaction.nonce)
            await self._handling.authority.refresh()
            user = self._handling.authority.access.by_identity(Identity(provider.issuer, proved.subject))
            allowed = _allowed(user, proved.subject)
            since = signed_in_at(transaction, proved, self._handling.clock.now_s())
        except (IdentityRefusedError, IdentityProviderError) as error:
            reason = error.detail if isinstance(error, IdentityRefusedError) else str(error)
            if isinstance(error, IdentityProviderError):
                self._tries.take_back(network_of(address))
            await self._access.failed(user, address=address, method=METHOD, reason=shown(reason))
            raise
        opened = await self._access.open_session(
            allowed, address, method=METHOD, once=transaction.state, expires_at=since + SESSION_S
        )
        self._tries.take_back(network_of(address))
        return opened

    def _checked(self, provider: IdentityProvider, returned: Returned) -> tuple[Transaction, str]:
        """What this browser was sent away with, and the code that it brings, which is asked about once."""
        transaction, code = check_returned(
            Transaction(returned.transaction) if returned.transaction else None,
            state=returned.state,
            code=returned.code,
            error=returned.error,
            issuer=returned.issuer,
            ours=provider.issuer,
            now_s=self._handling.clock.now_s(),
        )
        if transaction.state in self._redeemed:
            raise IdentityRefusedError("this sign-in was finished already")
        self._redeemed[transaction.state] = None
        while len(self._redeemed) > MAX_KEYS:
            self._redeemed.popitem(last=False)
        return transaction, code

    def _known(self) -> IdentityProvider:
        if self._provider is None:
            raise NotFoundError("oidc_off", "there is no identity provider here")
        return self._provider

    async def _check_rate(self, limit: Limit, address: str | None) -> None:
        now_s, sender = self._handling.clock.monotonic_s(), network_of(address)
        try:
            refuse_login_if(limit.wait_s(sender, now_s))
        except TooManyError as error:
            await self._handling.deny(None, "login", METHOD, address=address, code=error.code)
            raise
        limit.count(sender, now_s)


def _allowed(user: User | None, subject: str) -> User:
    """The user, if there is one who may sign in; nobody is made, and no name or address of theirs is compared."""
    if user is None:
        raise IdentityRefusedError(f"no user is linked to the subject {subject}")
    if not user.enabled:
        raise IdentityRefusedError("the user is disabled")
    return user
