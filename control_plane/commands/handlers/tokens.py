"""API tokens: made, listed and ended, one's own and, with the permission, others'."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from control_plane.commands import users as decisions
from control_plane.commands.access import CONSOLE, Principal, Token, may
from control_plane.commands.handling import Handling
from control_plane.commands.throttle import Limit, refuse_if
from control_plane.errors import NotFoundError
from control_plane.events import access

TOKENS_OF_MAKER: Final = 60
MAKER_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A new API token: `text` is shown this once; `expires_at` in Unix seconds."""

    token_id: str
    text: str
    expires_at: int


class TokenHandler:
    def __init__(self, handling: Handling) -> None:
        self._handling = handling
        self._one = asyncio.Lock()  # many at once would each find room for the last one
        self._made = Limit(TOKENS_OF_MAKER, MAKER_S)

    async def tokens(self, principal: Principal) -> list[Token]:
        """The principal's tokens; everybody's for whoever may manage those. A token for some things sees itself."""
        await self._handling.authority.refresh()
        may_see_all = may(principal, "tokens.others")
        tokens = self._handling.authority.access.tokens.values()
        if may_see_all:
            return list(tokens)
        if principal.token_permissions is not None:
            return [token for token in tokens if token.token_id == principal.token_id]
        return [token for token in tokens if token.username == principal.username]

    async def create(
        self,
        principal: Principal,
        *,
        username: str,
        name: str,
        days: int,
        permissions: Collection[str] | None = None,
        addresses: Collection[str] | None = None,
    ) -> NewToken:
        """A token that may what its user may, for one's own user or, with the permission, for another.

        One for another user never may more than the role of who makes it, unless that is an administrator: what rules
        give, they give on some hosts, and a token has no hosts of its own. Raises as `decide_token`, and TooManyError:
        each is in the log for ever, also when it is ended at once.
        """
        resource, is_own = f"users/{username}/tokens", username == principal.username
        await self._admit(principal, username, is_own=is_own)
        async with self._one:
            await self._handling.authority.refresh()
            self._check_rate(principal)
            authority, now_s = self._handling.authority, self._handling.clock.now_s()
            is_free = is_own or principal.is_administrator
            async with self._handling.recording(principal, resource, "tokens.others"):
                if not is_own:
                    decisions.check_change(authority.access, principal, username)
                event, text = decisions.decide_token(
                    authority.access,
                    principal,
                    username=username,
                    name=name,
                    days=days,
                    now_s=now_s,
                    permissions=permissions,
                    addresses=addresses,
                    bound=None if is_free else principal.permissions,
                )
            self._made.count(principal.username, self._handling.clock.monotonic_s())
            await self._handling.record_new(event, actor=principal.username)
            return NewToken(token_id=event.token_id, text=text, expires_at=event.expires_at)

    def _check_rate(self, maker: Principal) -> None:
        if maker.username != CONSOLE.username:
            wait_s = self._made.wait_s(maker.username, self._handling.clock.monotonic_s())
            refuse_if("too_many_requests", "too many new API tokens", wait_s)

    async def revoke(self, principal: Principal, token_id: str) -> None:
        """End a token, one's own or, with the permission, another's. Raises NotFoundError.

        A token that is not for everything ends itself, and no other one without the permission.
        """
        await self._handling.authority.refresh()
        token = self._handling.authority.access.tokens.get(token_id)
        if token is None:
            raise NotFoundError("unknown_token", "there is no such token")
        is_own = token.username == principal.username and principal.token_permissions is None
        await self._admit(principal, token.username, is_own=is_own or token_id == principal.token_id)
        event = access.TokenRevoked(token_id=token_id, username=token.username)
        await self._handling.record_new(event, actor=principal.username)

    async def _admit(self, principal: Principal, username: str, *, is_own: bool) -> None:
        if is_own:
            await self._handling.authority.refresh()
        else:
            await self._handling.admit(principal, "tokens.others", f"users/{username}/tokens")
