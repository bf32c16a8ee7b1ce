"""Keeps the agents' accounts at the broker as the fleet is: rights as its groups are, none for who is revoked.

Deleting an account ends its connections, so whoever is revoked is out within a second.
"""

import asyncio
import logging
from collections.abc import Collection
from typing import Final

from control_plane.commands.authority import Authority
from control_plane.commands.hosts import Host
from control_plane.errors import BrokerApiError
from control_plane.observability import Count
from control_plane.processes.ports import Accounts, Leases
from control_plane_wire.backoff import Backoff
from control_plane_wire.lifecycle import wait_for_any

POLL_S: Final = 0.25
CHECK_S: Final = 60.0  # somebody may have changed an account at the broker

_logger = logging.getLogger(__name__)


class BrokerAccounts:
    """The process, as a service; of any number the one with the lease works."""

    name = "broker accounts"

    def __init__(
        self, leases: Leases, authority: Authority, accounts: Accounts, *, count: Count, check_s: float = CHECK_S
    ) -> None:
        self._leases = leases
        self._authority = authority
        self._accounts = accounts
        self._count = count
        self._check_s = check_s
        self._alarm: str | None = None

    async def check(self) -> str | None:
        """Why the accounts are not as they should be; None where they are, or where another process keeps them."""
        return self._alarm

    async def run(self, stop: asyncio.Event) -> None:
        try:
            await self._leases.keep("process:broker-accounts", lambda _lease: self._work(stop), stop=stop)
        finally:
            self._alarm = None

    async def _work(self, stop: asyncio.Event) -> None:
        loop, backoff = asyncio.get_running_loop(), Backoff(first_s=0.5, most_s=30.0)
        kept, check_s = -1, 0.0
        while not stop.is_set():
            seq, pause_s = self._authority.fleet.changed_seq, POLL_S
            if seq != kept or loop.time() >= check_s:
                try:
                    self._count("broker_accounts_changed", await self._accounts.keep(self._hosts))
                except BrokerApiError as error:
                    self._alarm, pause_s = str(error), backoff.next_s()
                    self._count("broker_accounts_failed", 1)
                    _logger.error("accounts at the broker not kept", extra={"reason": str(error)})  # noqa: TRY400
                else:
                    self._alarm, kept, check_s = None, seq, loop.time() + self._check_s
                    backoff.reset()
            await wait_for_any(stop, timeout_s=pause_s)

    async def _hosts(self) -> Collection[Host]:
        """Who is in the fleet now: whoever has an account by now was registered before."""
        await self._authority.refresh()
        return [host for host in self._authority.fleet.hosts.values() if host.is_active]
