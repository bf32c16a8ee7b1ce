"""Hosts that ask without a token, and people who accept or refuse them by the fingerprints of their keys."""

import asyncio
from collections.abc import Collection

from control_plane.commands.access import Principal
from control_plane.commands.enrolment import PERMISSION, check_nonce, check_signed
from control_plane.commands.handlers.enrolment import Enrolled, EnrolmentHandler
from control_plane.commands.handling import Handling
from control_plane.commands.hosts import check_asking, check_new_key, decide_register
from control_plane.commands.pending_hosts import PendingHost, decide_place, found_by
from control_plane.commands.ports import PendingHosts
from control_plane.errors import InvalidFieldError, NotAllowedError, NotFoundError
from control_plane.events.hosts import HostRegistered, HostRequestRefused
from control_plane_wire.proofs import of_request


class PendingHostHandler:
    """Args: `most`: how many may wait at once; 0: nobody may ask. `most_of_address`: see `decide_place`."""

    def __init__(
        self,
        handling: Handling,
        enrolment: EnrolmentHandler,
        table: PendingHosts,
        *,
        most: int,
        most_of_address: int | None = None,
    ) -> None:
        self._handling = handling
        self._enrolment = enrolment
        self._table = table
        self._most = most
        self._most_of_address = most_of_address
        self._lock = asyncio.Lock()

    async def ask(
        self, *, hostname: str, public_key: bytes, nonce: str, proof: bytes, address: str | None = None
    ) -> Enrolled | PendingHost:
        """A host's request, again and again until it is accepted: then what an enrolled host is told.

        Anybody may ask, so a name that is registered waits like any other, and nobody learns here which are.

        Raises:
            NotAllowedError: `pending_hosts_off`; `request_refused`.
            RefusedError: nonce or proof are wrong; `weak_key`, `key_known`; `host_exists` to a revoked host's own
                key; `request_exists`.
            TooManyError: `pending_full`. All of these are recorded.
        """
        async with self._enrolment.recorded(hostname, address):
            handling = self._handling
            self._enrolment.count(address)
            if not self._most:
                raise NotAllowedError("pending_hosts_off", "this control plane lets no host in without a token")
            check_nonce(nonce, handling.keyring.trusted_public_keys, handling.clock.now_s())
            check_signed(proof, public_key, hostname, of_request(hostname, public_key, nonce))
            await handling.authority.refresh()
            fleet = handling.authority.fleet
            if public_key in fleet.public_keys(hostname):
                return await self._enrolment.welcome(fleet.hosts[hostname], public_key)
            check_asking(fleet, hostname, public_key)
            asked = PendingHost(
                hostname=hostname, public_key=public_key, address=address, asked_at=handling.clock.now_s()
            )
            async with self._lock:
                return await self._wait(asked)

    async def _wait(self, asked: PendingHost) -> PendingHost:
        there = await self._places()
        place = decide_place(there, asked, most=self._most, of_address=self._most_of_address)
        if place is None:
            return next(row for row in there.values() if row.public_key == asked.public_key)
        await self._table.put(place, asked, instead=there.get(place))
        return asked

    async def _places(self) -> dict[int, PendingHost]:
        return {place: PendingHost(*row) for place, row in (await self._table.places()).items()}

    async def waiting(self, principal: Principal) -> list[PendingHost]:
        """Those that may be accepted, the oldest first."""
        await self._handling.admit(principal, PERMISSION, "pending-hosts")
        now_s, fleet = self._handling.clock.now_s(), self._handling.authority.fleet
        rows = (await self._places()).values()
        found = [row for row in rows if row.waits(now_s) and row.public_key not in fleet.public_keys(row.hostname)]
        return sorted(found, key=lambda row: row.asked_at)

    def is_taken(self, row: PendingHost) -> bool:
        """Whether its name is another machine's, so that accepting it is refused until that one is retired."""
        host = self._handling.authority.fleet.hosts.get(row.hostname)
        return host is not None and host.status != "retired"

    async def accept(self, principal: Principal, fingerprint: str, *, hostname: str, groups: Collection[str]) -> int:
        """Register the host that asked with this key; the seq of that. Others that asked for its name go on waiting.

        Raises:
            NotFoundError: nobody who waits has this fingerprint.
            RefusedError: it asked for another name; `host_exists`; `key_known`.
            ForbiddenError: a rule names one of the groups, or one that an earlier host of that name had.
        """
        handling = self._handling
        row = await self._row(principal, fingerprint)
        if row.hostname != hostname:
            raise InvalidFieldError("hostname", f"is not the name that this host asked for, {row.hostname}")

        def decide() -> HostRegistered | None:
            rules, fleet = handling.authority.rules, handling.authority.fleet
            rules.check_groups(handling.authority.access, principal, PERMISSION, fleet, hostname, groups)
            check_new_key(fleet, row.public_key, hostname)
            return decide_register(
                fleet,
                hostname=hostname,
                public_key=row.public_key,
                groups=groups,
                by=principal.username,
                fingerprint=fingerprint,
            )

        async with handling.recording(principal, f"pending-hosts/{fingerprint}"):
            seq = await handling.decide_and_record(decide, actor=principal.username)
        await self._table.forget(fingerprint)  # of others for that name nothing changes that they could see
        return seq

    async def refuse(self, principal: Principal, fingerprint: str) -> None:
        """Say no to a key: its host is told, as long as the place is not needed. Raises NotFoundError."""
        row = await self._row(principal, fingerprint)
        event = HostRequestRefused(
            hostname=row.hostname, fingerprint=fingerprint, asked_at=row.asked_at, address=row.address
        )
        await self._handling.record(event, actor=principal.username)
        await self._table.refuse(fingerprint)

    async def _row(self, principal: Principal, fingerprint: str) -> PendingHost:
        await self._handling.admit(principal, PERMISSION, f"pending-hosts/{fingerprint}")
        row = found_by((await self._places()).values(), fingerprint, self._handling.clock.now_s())
        if row is None:
            raise NotFoundError("unknown_request", "no host with this fingerprint waits to be accepted")
        return row
