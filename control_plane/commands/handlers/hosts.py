"""Hosts: register by hand, groups, labels, maintenance, revoke, retire."""

from collections.abc import Collection, Mapping

from control_plane.commands import hosts as decisions
from control_plane.commands.access import Principal
from control_plane.commands.handling import Handling
from control_plane.events.event import Event


class HostHandler:
    """Each method returns the seq of what it recorded, or the authority's position where nothing had to change."""

    def __init__(self, handling: Handling) -> None:
        self._handling = handling

    async def register(self, principal: Principal, *, hostname: str, public_key: bytes, groups: Collection[str]) -> int:
        """Register a host with its public key; the same again changes nothing.

        Raises:
            RefusedError: `host_exists` with another key.
        """
        position = await self._handling.admit(principal, "hosts.enrol", f"hosts/{hostname}")
        fleet = self._handling.authority.fleet
        event = decisions.decide_register(
            fleet, hostname=hostname, public_key=public_key, groups=groups, by=principal.username
        )
        return await self._record(event, principal, position)

    async def set_groups(self, principal: Principal, hostname: str, groups: Collection[str]) -> int:
        position = await self._edit(principal, hostname)
        event = decisions.decide_groups(self._handling.authority.fleet, hostname, groups)
        return await self._record(event, principal, position)

    async def assign(self, principal: Principal, hostname: str, group: str, *, member: bool) -> int:
        """Put a host into a group, or take it out."""
        position = await self._edit(principal, hostname)
        fleet = self._handling.authority.fleet
        groups = set(fleet.host(hostname).groups)
        wanted = groups | {group} if member else groups - {group}
        return await self._record(decisions.decide_groups(fleet, hostname, wanted), principal, position)

    async def set_labels(self, principal: Principal, hostname: str, labels: Mapping[str, str]) -> int:
        position = await self._edit(principal, hostname)
        event = decisions.decide_labels(self._handling.authority.fleet, hostname, labels)
        return await self._record(event, principal, position)

    async def set_maintenance(self, principal: Principal, hostname: str, maintenance: bool) -> int:
        position = await self._edit(principal, hostname)
        event = decisions.decide_maintenance(self._handling.authority.fleet, hostname, maintenance)
        return await self._record(event, principal, position)

    async def revoke(self, principal: Principal, hostname: str, reason: str | None) -> int:
        position = await self._handling.admit(principal, "hosts.revoke", f"hosts/{hostname}")
        event = decisions.decide_revoke(self._handling.authority.fleet, hostname, reason)
        return await self._record(event, principal, position)

    async def retire(self, principal: Principal, hostname: str, reason: str | None) -> int:
        position = await self._handling.admit(principal, "hosts.revoke", f"hosts/{hostname}")
        event = decisions.decide_retire(self._handling.authority.fleet, hostname, reason)
        return await self._record(event, principal, position)

    async def _edit(self, principal: Principal, hostname: str) -> int:
        return await self._handling.admit(principal, "hosts.edit", f"hosts/{hostname}")

    async def _record(self, event: Event | None, principal: Principal, position: int) -> int:
        if event is None:
            return position
        return await self._handling.record_decision(event, actor=principal.username)
