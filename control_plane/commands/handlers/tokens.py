"""API tokens: made, listed and ended, one's own and, with the permission, others'."""

from collections.abc import Collection
from dataclasses import dataclass

from control_plane.commands import users as decisions
from control_plane.commands.access import Principal, Token, may
from control_plane.commands.handling import Handling
from control_plane.errors import NotFoundError
from control_plane.events import access


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A new API token: `text` is shown this once; `expires_at` in Unix seconds."""

    token_id: str
    text: str
    expires_at: int


class TokenHandler:
    def __init__(self, handling: Handling) -> None:
        self._handling = handling

    async def tokens(self, principal: Principal) -> list[Token]:
        """The principal's tokens; everybody's for whoever may manage those."""
        await self._handling.authority.refresh()
        may_see_all = may(principal, "tokens.others")
        tokens = self._handling.authority.access.tokens.values()
        return [token for token in tokens if may_see_all or token.username == principal.username]

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
        give, they give on some hosts, and a token has no hosts of its own. Raises as `decide_token`.
        """
        resource, is_own = f"users/{username}/tokens", username == principal.username
        await self._admit(principal, username, is_own=is_own)
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
        await self._handling.record_new(event, actor=principal.username)
        return NewToken(token_id=event.token_id, text=text, expires_at=event.expires_at)

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
