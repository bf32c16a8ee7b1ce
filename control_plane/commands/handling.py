"""From a request to recorded events: bring the authority up to date, may they?, decide, sign, append."""

import secrets
from dataclasses import dataclass

from control_plane.commands.access import Principal, check_may
from control_plane.commands.authority import Authority, Keyring
from control_plane.commands.ports import Log
from control_plane.errors import NotAllowedError, RefusedError
from control_plane.events.access import AccessDenied
from control_plane.events.envelope import Conflict, Outcome
from control_plane.events.event import Event
from control_plane_wire.clock import Clock
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints


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
        try:
            check_may(principal, permission)
        except NotAllowedError:
            denied = AccessDenied(
                denial_id=secrets.token_hex(16), actor=principal.username, action=permission, resource=resource
            )
            await self.log.append([denied.to_new_event(actor=principal.username)])
            raise
        return position

    async def record(self, event: Event, *, actor: str) -> Outcome:
        """Append an event, signed where it gives authority."""
        signature = self.keyring.sign_event(event) if event.GIVES_AUTHORITY else None
        key_id = self.keyring.active.key_id if event.GIVES_AUTHORITY else None
        [outcome] = await self.log.append([event.to_new_event(actor=actor, signature=signature, key_id=key_id)])
        return outcome

    async def record_decision(self, event: Event, *, actor: str) -> int:
        """Append a decision; its seq.

        Raises:
            RefusedError: somebody decided on the same state at the same moment; look again, and try again.
        """
        outcome = await self.record(event, actor=actor)
        if isinstance(outcome, Conflict):
            raise RefusedError("changed_meanwhile", "somebody else has just changed this; look again and try again")
        await self.authority.refresh()
        return outcome.seq
