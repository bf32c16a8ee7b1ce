"""Hosts: register by hand, groups, labels, maintenance, revoke, retire, trust again."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import TypeAlias

from control_plane.commands import hosts as decisions
from control_plane.commands.access import Principal
from control_plane.commands.handling import Handling
from control_plane.commands.hosts import FleetState
from control_plane.commands.reading import owner, within
from control_plane.commands.rules import ACTIONS, host_facts
from control_plane.errors import NotFoundError
from control_plane.events.event import Event
from control_plane.events.hosts import HostGroupsChanged, HostRegistered

Decide: TypeAlias = Callable[[FleetState], Event | None]


class HostHandler:
    """Each method returns the seq of what it recorded, or the authority's position where nothing had to change.

    Args:
        check_recent: raises NotAllowedError for a session whose sign-in is too old to give rights.
    """

    def __init__(self, handling: Handling, check_recent: Callable[[Principal, str], Awaitable[None]]) -> None:
        self._handling = handling
        self._check_recent = check_recent

    async def register(self, principal: Principal, *, hostname: str, public_key: bytes, groups: Collection[str]) -> int:
        """Register a host with its public key; the same again changes nothing.

        Raises:
            RefusedError: `host_exists` with another key; `weak_key`.
        """

        def decide(fleet: FleetState) -> Event | None:
            return decisions.decide_register(
                fleet, hostname=hostname, public_key=public_key, groups=groups, by=principal.username
            )

        return await self._change(principal, "hosts.enrol", hostname, decide)

    async def change(
        self,
        principal: Principal,
        hostname: str,
        *,
        groups: Collection[str] | None = None,
        labels: Mapping[str, str] | None = None,
        maintenance: bool | None = None,
    ) -> int:
        """Change what is given, and nothing at all where a rule refuses any of it.

        Each is an event of its own. Whoever learns that the outcome is not known, or that others have changed the host
        each time, asks for the same again: what is so already stays.
        """
        decides: list[Decide] = []
        if groups is not None:
            decides.append(lambda fleet: decisions.decide_groups(fleet, hostname, groups))
        if labels is not None:
            decides.append(lambda fleet: decisions.decide_labels(fleet, hostname, labels))
        if maintenance is not None:
            decides.append(lambda fleet: decisions.decide_maintenance(fleet, hostname, maintenance))
        return await self._change(principal, "hosts.edit", hostname, *decides)

    async def set_groups(self, principal: Principal, hostname: str, groups: Collection[str]) -> int:
        return await self.change(principal, hostname, groups=groups)

    async def assign(self, principal: Principal, hostname: str, group: str, *, member: bool) -> int:
        """Put a host into a group, or take it out."""

        def decide(fleet: FleetState) -> Event | None:
            groups = set(fleet.host(hostname).groups)
            return decisions.decide_groups(fleet, hostname, groups | {group} if member else groups - {group})

        return await self._change(principal, "hosts.edit", hostname, decide)

    async def set_labels(self, principal: Principal, hostname: str, labels: Mapping[str, str]) -> int:
        return await self.change(principal, hostname, labels=labels)

    async def set_maintenance(self, principal: Principal, hostname: str, maintenance: bool) -> int:
        return await self.change(principal, hostname, maintenance=maintenance)

    async def revoke(self, principal: Principal, hostname: str, reason: str | None) -> int:
        """Trust its key no more; it stays to be seen."""
        return await self._change(
            principal, "hosts.revoke", hostname, lambda fleet: decisions.decide_revoke(fleet, hostname, reason)
        )

    async def retire(self, principal: Principal, hostname: str, reason: str | None) -> int:
        """Take it off the fleet for good; its history stays, and its name may be registered again."""
        return await self._change(
            principal, "hosts.revoke", hostname, lambda fleet: decisions.decide_retire(fleet, hostname, reason)
        )

    async def lift_quarantine(self, principal: Principal, hostname: str, reason: str) -> int:
        """Trust the machine again as it is now; where it is not in quarantine, nothing has to change."""
        return await self._change(
            principal,
            "hosts.revoke",
            hostname,
            lambda fleet: decisions.decide_lift_quarantine(fleet, hostname, reason),
        )

    async def _change(self, principal: Principal, permission: str, hostname: str, *decides: Decide) -> int:
        handling, resource = self._handling, f"hosts/{hostname}"
        seq = await handling.admit(principal, permission, resource)
        seen = handling.authority.readable(owner(principal), "hosts.read")
        if permission in ACTIONS and not within(seen, [hostname]):
            raise NotFoundError("unknown_host", f"there is no host {hostname}")
        allowed = [partial(self._allowed, principal, permission, hostname, decide) for decide in decides]
        async with handling.recording(principal, resource):
            events = [decide() for decide in allowed]  # a refusal of the last must come before the first is recorded
        if any(self._gives_rights(event) for event in events):
            await self._check_recent(principal, f"hosts/{hostname}")
        async with handling.recording(principal, resource):
            for decide in allowed:
                seq = await handling.decide_and_record(decide, actor=principal.username)
        return seq

    def _allowed(self, principal: Principal, permission: str, hostname: str, decide: Decide) -> Event | None:
        """What is decided, if the rules let the principal do that to this host as it stands. Raises ForbiddenError."""
        authority = self._handling.authority
        rules, fleet = authority.rules, authority.fleet
        if permission in ACTIONS:
            rules.check(principal, permission, host_facts(fleet, hostname))
        event = decide(fleet)
        if isinstance(event, HostGroupsChanged | HostRegistered):
            rules.check_groups(authority.access, principal, permission, fleet, hostname, event.groups)
        return event

    def _gives_rights(self, event: Event | None) -> bool:
        """Whether it moves a host so that a rule covers it, or does no more."""
        if not isinstance(event, HostGroupsChanged | HostRegistered):
            return False
        authority = self._handling.authority
        return bool(authority.rules.naming(authority.fleet, event.hostname, event.groups))
