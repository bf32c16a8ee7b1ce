"""Enrolment: single-use tokens, and the two steps by which a host is registered with a key that it has made itself."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from control_plane.commands import enrolment as decisions
from control_plane.commands.access import CONSOLE, Principal
from control_plane.commands.handling import Handling
from control_plane.commands.hosts import Host, decide_register
from control_plane.commands.ports import BrokerAccounts
from control_plane.commands.rules import ForbiddenError
from control_plane.commands.throttle import EnrolmentThrottle
from control_plane.errors import NotFoundError, NotSignedInError, RefusedError
from control_plane.events.enrolment import EnrolmentTokenRevoked, EnrolmentTokenUsed
from control_plane.events.envelope import Conflict
from control_plane.events.hosts import HostRegistered
from control_plane_wire.messages import KeyState
from control_plane_wire.signing import encode_base64


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEnrolmentToken:
    """Attributes: `text`: shown this once; `expires_at`: Unix seconds."""

    token_id: str
    text: str
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What an agent is told: its groups with the log position of each assignment, and the control plane's keys.

    Attributes:
        amqp_url: where the broker is, with the agent's account; None where there is none.
        next_key_sha256: hex SHA-256 of the control plane's next public key, where that is announced.
    """

    hostname: str
    as_of: int
    groups: Mapping[str, int]
    keys: Sequence[KeyState]
    amqp_url: str | None
    next_key_sha256: str | None = None


class EnrolmentHandler:
    def __init__(self, handling: Handling, accounts: BrokerAccounts) -> None:
        self._handling = handling
        self._accounts = accounts
        self._throttle = EnrolmentThrottle()

    async def create_token(
        self, principal: Principal, *, hostname: str | None, groups: tuple[str, ...], expires_in: int
    ) -> NewEnrolmentToken:
        await self._handling.admit(principal, decisions.PERMISSION, "enrolment-tokens")
        event, text = decisions.decide_token(
            hostname=hostname,
            groups=groups,
            expires_in=expires_in,
            by=principal.username,
            made_with=principal.token_id,
            now_s=self._handling.clock.now_s(),
        )
        async with self._handling.recording(principal, "enrolment-tokens"):
            authority, name = self._handling.authority, hostname or "a new host"
            authority.rules.check_groups(
                authority.access, principal, decisions.PERMISSION, authority.fleet, name, event.groups
            )
        await self._handling.record_new(event, actor=principal.username)
        return NewEnrolmentToken(token_id=event.token_id, text=text, expires_at=event.expires_at)

    async def open_tokens(self, principal: Principal) -> list[decisions.EnrolmentToken]:
        """The tokens that may still be used."""
        await self._handling.admit(principal, decisions.PERMISSION, "enrolment-tokens")
        now_s = self._handling.clock.now_s()
        tokens = self._handling.authority.enrolment.tokens.values()
        return [t for t in tokens if not self._has_ended(t) and t.used_by is None and t.expires_at > now_s]

    async def revoke_token(self, principal: Principal, token_id: str) -> None:
        await self._handling.admit(principal, decisions.PERMISSION, f"enrolment-tokens/{token_id}")
        if token_id not in self._handling.authority.enrolment.tokens:
            raise NotFoundError("unknown_token", "there is no such enrolment token")
        await self._handling.record_new(EnrolmentTokenRevoked(token_id=token_id), actor=principal.username)

    async def begin(self, *, token: str | None, hostname: str, public_key: bytes, address: str | None = None) -> str:
        """A nonce to sign: for a token that is good for this host, or, without one, for a request or a new key.

        Raises:
            NotSignedInError: the token is not good for it; that is recorded.
            TooManyError: without a token, too many of that address; recorded, too.
        """
        async with self.recorded(hostname, address):
            if token is None:
                self.count(address)
            else:
                await self._check_token(token, hostname, public_key, address)
        return decisions.new_nonce(self._handling.keyring.active, self._handling.clock.now_s())

    async def finish(
        self, *, token: str, hostname: str, public_key: bytes, nonce: str, proof: bytes, address: str | None = None
    ) -> Enrolled:
        """Register the host, once for each token; the same call again, after a lost answer, gets the same answer.

        Raises:
            NotSignedInError: the token is not good for it, or was used by another host or key at the same moment.
            RefusedError: nonce or proof are wrong, or the name belongs to another key; that is recorded, too.
            BrokerApiError: it is registered, and has no account at the broker yet: the same call again makes it.
        """
        async with self.recorded(hostname, address):
            return await self._finish(token, hostname, public_key, nonce, proof, address)

    def count(self, address: str | None) -> None:
        """Count what somebody asks without a token, or with a wrong one. Raises TooManyError."""
        self._throttle.check(address, self._handling.clock.monotonic_s())

    @asynccontextmanager
    async def recorded(self, hostname: str, address: str | None) -> AsyncIterator[None]:
        """Record what is refused."""
        try:
            yield
        except RefusedError as refused:
            resource = f"hosts/{hostname}"
            await self._handling.deny(None, decisions.PERMISSION, resource, address=address, code=refused.code)
            raise

    async def _finish(
        self, token: str, hostname: str, public_key: bytes, nonce: str, proof: bytes, address: str | None
    ) -> Enrolled:
        handling = self._handling
        found = await self._check_token(token, hostname, public_key, address)
        decisions.check_nonce(nonce, handling.keyring.trusted_public_keys, handling.clock.now_s())
        decisions.check_proof(proof, token=token, hostname=hostname, public_key=public_key, nonce=nonce)

        def decide() -> HostRegistered | None:
            event = decide_register(
                handling.authority.fleet,
                hostname=hostname,
                public_key=public_key,
                groups=found.groups,
                by=found.created_by,
                enrolment_token_id=found.token_id,
            )
            if event is not None:
                self._check_groups(found, event)
            return event

        decide()  # a name that is taken must not use up the token
        # Using it up comes first: its key in the log is what makes it count once. A crash between the two is healed by
        # the agent's repeat, which finds the token used by itself.
        used = EnrolmentTokenUsed(token_id=found.token_id, hostname=hostname, public_key=encode_base64(public_key))
        if isinstance(await handling.record(used, actor=found.created_by), Conflict):
            raise NotSignedInError("enrolment_refused", "the enrolment token was used by another host or key")
        handling.failpoints.hit("enrolment.token_used")
        await handling.decide_and_record(decide, actor=found.created_by)
        handling.failpoints.hit("enrolment.registered")
        return await self.welcome(handling.authority.fleet.host(hostname), public_key)

    async def welcome(self, host: Host, public_key: bytes) -> Enrolled:
        """What a host is told that has proved to have this key, which is its own; it gets an account for that.

        Raises:
            RefusedError: `host_revoked` meanwhile.
            BrokerApiError: there is no account: the same again makes it.
        """
        authority, mine = self._handling.authority, replace(host, public_key=public_key)
        amqp_url = await self._accounts.admit(mine)
        await authority.refresh()
        now = authority.fleet.hosts[host.hostname]
        # Its account may be younger than whatever has happened meanwhile.
        if now.registered_seq != host.registered_seq or public_key not in authority.fleet.public_keys(host.hostname):
            await self._accounts.dismiss([mine])
            raise RefusedError("host_revoked", f"{host.hostname} was {now.status} while it enrolled")
        return Enrolled(
            hostname=host.hostname,
            as_of=host.registered_seq,
            groups=dict(host.groups),
            keys=self._handling.keyring.states(),
            amqp_url=amqp_url,
            next_key_sha256=self._handling.keyring.announced,
        )

    def _check_groups(self, token: decisions.EnrolmentToken, event: HostRegistered) -> None:
        """Whoever made the token might let this host into its groups now: a rule may be younger than the token.

        Raises NotSignedInError.
        """
        authority, maker = self._handling.authority, self._maker(token)
        try:
            authority.rules.check_groups(
                authority.access, maker, decisions.PERMISSION, authority.fleet, event.hostname, event.groups
            )
        except ForbiddenError as error:
            detail = "a rule names a group that this would change: ask somebody who may write rules"
            raise NotSignedInError("enrolment_refused", detail) from error

    def _maker(self, token: decisions.EnrolmentToken) -> Principal:
        """As whom it lets a host in: its maker as he is now, by an API token no more than that is for."""
        access = self._handling.authority.access
        user = access.users.get(token.created_by)
        if user is None:  # the server's own command line, which is no user
            return CONSOLE
        if token.made_with is None:
            return Principal(username=user.username, role=user.role)
        made_with = access.tokens.get(token.made_with)
        permissions = frozenset[str]() if made_with is None else made_with.permissions
        return Principal(username=user.username, role=user.role, token_permissions=permissions)

    def _has_ended(self, token: decisions.EnrolmentToken) -> bool:
        return token.revoked or self._handling.authority.access.is_revoked(token.made_with)

    async def _check_token(
        self, token: str, hostname: str, public_key: bytes, address: str | None
    ) -> decisions.EnrolmentToken:
        try:
            self._good(token, hostname, public_key)
        except NotSignedInError:
            self.count(address)  # before the log is asked whether another replica has made it just now
        await self._handling.authority.refresh()
        return self._good(token, hostname, public_key)

    def _good(self, token: str, hostname: str, public_key: bytes) -> decisions.EnrolmentToken:
        return decisions.check_token(
            self._handling.authority.enrolment,
            token,
            hostname=hostname,
            public_key=public_key,
            now_s=self._handling.clock.now_s(),
            has_ended=self._has_ended,
        )
