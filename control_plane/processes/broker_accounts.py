"""Keeps the agents' accounts at the broker as the fleet is: rights as its groups are, none for who is revoked.

Deleting an account ends its connections. Whoever is revoked is out within a second where the broker answers at once,
whatever else there is to do; and in the next pass over all accounts where it did not.
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
from control_plane_wire.clock import Clock
from control_plane_wire.lifecycle import wait_for_any

POLL_S: Final = 0.25
CHECK_S: Final = 60.0  # somebody may have changed an account at the broker
REST: Final = 4.0  # times what a pass has taken, until the fleet's changes are a reason for another

_logger = logging.getLogger(__name__)


class BrokerAccounts:
    """The process, as a service; of any number the one with the lease works."""

    name = "broker accounts"

    def __init__(self, leases: Leases, authority: Authority, accounts: Accounts, clock: Clock, *, count: Count) -> None:
        self._leases = leases
        self._authority = authority
        self._accounts = accounts
        self._clock = clock
        self._count = count
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
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep(stop), name="keep")
            tasks.create_task(self._dismiss(stop), name="dismiss")

    async def _dismiss(self, stop: asyncio.Event) -> None:
        """Put out whoever is revoked or retired, beside the passes, which may take long; they find what this misses."""
        seen = self._authority.fleet.changed_seq
        while not stop.is_set():
            fleet, before = self._authority.fleet, seen
            seen = fleet.changed_seq
            gone = [host for host in fleet.hosts.values() if host.changed_seq > before and not host.is_active]
            out = [each for host in gone for each in host.by_each_key()]
            if seen != before and out:
                try:
                    self._count("broker_accounts_changed", await self._accounts.dismiss(out))
                except BrokerApiError as error:
                    _logger.warning("account at the broker not deleted yet", extra={"reason": str(error)})
            await wait_for_any(stop, timeout_s=POLL_S)

    async def _keep(self, stop: asyncio.Event) -> None:
        backoff = Backoff(first_s=0.5, most_s=30.0)
        kept, rested_s, check_s = -1, 0.0, 0.0
        while not stop.is_set():
            seq, pause_s, began_s = self._authority.fleet.changed_seq, POLL_S, self._clock.monotonic_s()
            if (seq != kept and began_s >= rested_s) or began_s >= check_s:
                try:
                    self._count("broker_accounts_changed", await self._accounts.keep(self._hosts))
                except BrokerApiError as error:
                    self._alarm, pause_s = str(error), backoff.next_s()
                    self._count("broker_accounts_failed", 1)
                    _logger.error("accounts at the broker not kept", extra={"reason": str(error)})  # noqa: TRY400
                else:
                    self._alarm, kept, ended_s = None, seq, self._clock.monotonic_s()
                    rested_s, check_s = ended_s + REST * (ended_s - began_s), ended_s + CHECK_S
                    backoff.reset()
            await wait_for_any(stop, timeout_s=pause_s)

    async def _hosts(self) -> Collection[Host]:
        """Who is in the fleet now, by each key: whoever has an account by now was registered before."""
        await self._authority.refresh()
        return [each for host in self._authority.fleet.hosts.values() if host.is_active for each in host.by_each_key()]
