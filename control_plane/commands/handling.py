"""From a request to recorded events: bring the authority up to date, may they?, decide, sign, append."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from control_plane.commands.access import Principal, check_may
from control_plane.commands.authority import Authority, Keyring
from control_plane.commands.denials import UNKNOWN, Denials
from control_plane.commands.ports import Log
from control_plane.commands.rules import ForbiddenError
from control_plane.errors import NotAllowedError, RefusedError, StorageUnavailableError
from control_plane.events.access import AccessDenied
from control_plane.events.envelope import Conflict, Outcome
from control_plane.events.event import Event
from control_plane_wire.clock import Clock
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from control_plane_wire.lifecycle import wait_for_any

DENIALS_S: Final = 5.0  # how late a number of denials may be recorded
ATTEMPTS: Final = 3  # at a decision, where others decide on the same thing at the same moment


_logger = logging.getLogger(__name__)


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
    denials: Denials = field(default_factory=Denials)

    async def admit(self, principal: Principal, permission: str, resource: str) -> int:
        """Refresh the authority and let the principal pass, or record that it was denied.

        Returns:
            The log position that the authority stands at.
        """
        position = await self.authority.refresh()
        await self.check(principal, permission, resource)
        return position

    async def check(self, principal: Principal, permission: str, resource: str) -> None:
        """The same with the authority as it is, for what only reads.

        Whom a rule permits it on some hosts may pass; on which they may is for whoever knows the hosts to check.
        """
        async with self.recording(principal, resource, permission):
            if permission not in self.authority.rules.permissions(principal):
                check_may(principal, permission)

    @asynccontextmanager
    async def recording(self, principal: Principal, resource: str, action: str = "") -> AsyncIterator[None]:
        """Record what is not allowed in this block: what the rules refuse by its own action."""
        try:
            yield
        except NotAllowedError as error:
            by_rules = error if isinstance(error, ForbiddenError) else None
            await self.deny(
                principal.username,
                by_rules.action if by_rules else action,
                resource,
                address=principal.address,
                code=error.code,
                rules=by_rules.rules if by_rules else (),
            )
            raise

    async def deny(
        self,
        actor: str | None,
        action: str,
        resource: str,
        *,
        address: str | None,
        code: str,
        rules: tuple[str, ...] = (),
    ) -> None:
        """Record that somebody, or None whom nobody knows, was denied something; or count it where there is much."""
        denied = AccessDenied(
            denial_id=secrets.token_hex(16),
            actor=actor or UNKNOWN,
            action=action,
            resource=resource,
            address=address,
            code=code,
            rules=rules or None,
        )
        await self.record_denials(self.denials.take(denied, self.clock.now_s()))

    async def record_denials(self, denials: Sequence[AccessDenied]) -> None:
        """Append what was denied. Where that fails it is due again later."""
        try:
            for denied in denials:
                await self.record(denied, actor=None if denied.actor == UNKNOWN else denied.actor)
        except (StorageUnavailableError, asyncio.CancelledError):
            self.denials.put_back(denials)
            raise
        self.denials.recorded(denials)

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


class DenialRecorder:
    """As a service it records the denials that were only counted: each minute's, and at the end what is left."""

    name = "denials"

    def __init__(self, handling: Handling) -> None:
        self._handling = handling

    async def run(self, stop: asyncio.Event) -> None:
        denials = self._handling.denials
        while not stop.is_set():
            await wait_for_any(stop, timeout_s=DENIALS_S)
            due = denials.rest() if stop.is_set() else denials.due(self._handling.clock.now_s())
            try:
                await self._handling.record_denials(due)
            except StorageUnavailableError:
                _logger.warning("denials cannot be recorded", extra={"number": len(due)})
