"""Services run until they are told to stop; resources are what they still need while they drain."""

import asyncio
from collections.abc import Iterable
from typing import Protocol


class Service(Protocol):
    @property
    def name(self) -> str: ...

    async def run(self, stop: asyncio.Event) -> None:
        """Take in work until `stop` is set, finish what is held, and return. Being cancelled means now."""
        ...


class ServiceEndedEarlyError(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"service {name} ended before it was told to stop")
        self.name = name


async def run_until_stopped(services: Iterable[Service], *, stop: asyncio.Event, drain_s: float) -> None:
    """Run the services until `stop` is set and all of them have drained.

    Raises:
        ExceptionGroup: a service failed or ended early; the others were cancelled.
        TimeoutError: draining took longer than `drain_s`.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as drain, asyncio.TaskGroup() as group:
        for service in services:
            group.create_task(_run(service, stop), name=service.name)
        await stop.wait()
        drain.reschedule(loop.time() + drain_s)


async def _run(service: Service, stop: asyncio.Event) -> None:
    await service.run(stop)
    if not stop.is_set():
        raise ServiceEndedEarlyError(service.name)


async def wait_for_any(*events: asyncio.Event, timeout_s: float) -> None:
    """Return when one of the events is set, or after `timeout_s`: "woken, stopped, or it is time to look"."""
    if any(event.is_set() for event in events):
        return
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
