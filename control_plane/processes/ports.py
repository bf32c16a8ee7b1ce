"""What the processes need of the broker and of the database, declared where it is used."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from control_plane.commands.hosts import Host
from control_plane_wire.transport.base import Message, PublishOutcome


class Publisher(Protocol):
    """See `messaging.publisher` for the contract."""

    async def publish(self, message: Message) -> PublishOutcome: ...

    async def queue_exists(self, name: str) -> bool: ...


class Accounts(Protocol):
    """The agents' accounts at the broker; see `messaging.broker_accounts` for the contract."""

    async def keep(self, hosts: Callable[[], Awaitable[Collection[Host]]]) -> int: ...
    async def dismiss(self, hosts: Collection[Host]) -> int: ...


class Leases(Protocol):
    """Lets one of several processes work; see `storage.leases` for the contract."""

    async def keep(self, name: str, work: Callable[[object], Awaitable[None]], *, stop: asyncio.Event) -> None: ...
