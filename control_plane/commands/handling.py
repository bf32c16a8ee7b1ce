"""From a request to recorded events: bring the authority up to date, may they?, decide, sign, append."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from control_plane.commands.access import Principal, check_may
from control_plane.commands.authority import Authority, Keyring
from control_plane.commands.ports import Log
from control_plane.errors import NotAllowedError, RefusedError
from control_plane.events.access import AccessDenied
from control_plane.events.envelope import Conflict, Outcome
from control_plane.events.event import Event
from control_plane_wire.clock import Clock
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints

ATTEMPTS: Final = 3  # at a decision, where others decide on the same thing at the same moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """What every handler works with.

    All their methods raise NotAllowedError where the principal may not, RefusedError where a rule says no, and
    StorageUnavailableError, after which nothing is known and the same call is right.
    """

    log: Log
    authority: Authority
    keyring: Keyring
    clock: Clock
    failpoints: Failpoints = NO_FAILPOINTS

    async def admit(self, principal: Principal, permission: str, resource: str) -> int:
        """Refresh the authority and let the principal pass, or record that it was denied.

        Returns:
            The log position that the authority stands at.
        """
        position = await self.authority.refresh()
        await self.check(principal, permission, resource)
        return position

    async def check(self, principal: Principal, permission: str, resource: str) -> None:
        """The same with the authority as it is, for what only reads."""
        try:
            check_may(principal, permission)
        except NotAllowedError:
            denied = AccessDenied(
                denial_id=secrets.token_hex(16),
                actor=principal.username,
                action=permission,
                resource=resource,
                address=principal.address,
            )
            await self.record(denied, actor=principal.username)
            raise

    async def record(self, event: Event, *, actor: str | None) -> Outcome:
        """Append an event, signed where it gives authority."""
        signature = self.keyring.sign_event(event) if event.GIVES_AUTHORITY else None
        key_id = self.keyring.active.key_id if event.GIVES_AUTHORITY else None
        [outcome] = await self.log.append([event.to_new_event(actor=actor, signature=signature, key_id=key_id)])
        return outcome

    async def decide_and_record(self, decide: Callable[[], Event | None], *, actor: str) -> int:
        """Record what is decided on the authority as it stands; decide again where that has changed meanwhile.

        Returns:
            The seq of the event, or the authority's position where nothing had to change.

        Raises:
            RefusedError: `changed_meanwhile`, each time.
        """
        for _ in range(ATTEMPTS):
            event = decide()
            if event is None:
                return self.authority.position
            outcome = await self.record(event, actor=actor)
            await self.authority.refresh()
            if not isinstance(outcome, Conflict):
                return outcome.seq
        raise RefusedError("changed_meanwhile", "somebody else is changing this just now; look again and try again")

    async def record_new(self, event: Event, *, actor: str) -> int:
        """Record what cannot conflict with anything, since its id is new or asking twice is asking once; its seq."""
        outcome = await self.record(event, actor=actor)
        await self.authority.refresh()
        return outcome.seq
