"""An agent's host, and what the control plane would send it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from control_plane_agent.identity import Identity
from control_plane_agent.journal import Journal
from control_plane_agent.slots import FINISHED_AT, Finished, Started, encode
from control_plane_agent.supervisor import STATE
from control_plane_wire.messages import CancelMessage, CommandMessage, ConfigureMessage, seal
from control_plane_wire.signing import COMMAND, CONTROL_PLANE, SigningKey, key_id
from control_plane_wire.topology import command_key
from tests.support.clock import START_US
from tests.support.fleet import CONTROL_PLANE_KEY, host_key

HOSTNAME = "web1.example.com"
ROUTE = command_key(HOSTNAME)
START_S = START_US // 1_000_000
BOOT = "00000000-0000-0000-0000-000000000001"


def an_identity(**changes: object) -> Identity:
    given = {
        "hostname": HOSTNAME,
        "key": host_key(HOSTNAME),
        "keys": {key_id(CONTROL_PLANE_KEY.public_key): CONTROL_PLANE_KEY.public_key},
        "groups": {"web": 10},
        "enrolled_as_of": 5,
        **changes,
    }
    return Identity(**given)  # type: ignore[arg-type]


def a_command(task_id: str = "task-1", **changes: object) -> CommandMessage:
    given = {"task_id": task_id, "command": "true", "timeout": 30, "user": "root", "timestamp": START_S, **changes}
    return CommandMessage(**given)  # type: ignore[arg-type]


def sealed(
    message: CommandMessage | CancelMessage | ConfigureMessage,
    *,
    route: str = ROUTE,
    key: SigningKey = CONTROL_PLANE_KEY,
) -> bytes:
    """The message as it is on the wire, for that routing key."""
    return seal(message.to_json(), key, COMMAND, sender=CONTROL_PLANE, recipient=route)


def accept(journal: Journal, task_id: str = "task-1", finished: Finished | None = None, **changes: object) -> None:
    journal.accept(task_id, sealed(a_command(task_id, **changes)), ROUTE, finished=finished)


def started(nonce: str = "nonce", boot_id: str = BOOT) -> Started:
    return Started(boot_id, nonce, 0, START_S, 4_000_000, 4_000_000, None)


class FakeExecutor:
    """Writes the slots that a test asks for; counts what it ran, woke and killed."""

    def __init__(
        self, journal: Journal, *, outcome: str | None = "completed", after: asyncio.Event | None = None
    ) -> None:
        self._journal = journal
        self._outcome = outcome
        self._after = after
        self.ran: list[str] = []
        self.woken: list[str] = []
        self.killed: list[Started] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    async def run(self, task_id: str, *, start_within_s: float) -> None:
        self.ran.append(task_id)
        disk = self._journal._disk
        disk.write_at(f"journal/{task_id}/{STATE}", 0, encode(started()))
        if self._after is not None:
            await self._after.wait()
        if self._outcome is not None:
            finished = Finished(self._outcome, START_S, exit_code=0, stdout_bytes=0, stderr_bytes=0)
            disk.write_at(f"journal/{task_id}/{STATE}", FINISHED_AT, encode(finished))

    async def wait(self, task_id: str) -> None:
        await asyncio.sleep(0)

    def wake(self, task_id: str, slot: Started) -> None:
        self.woken.append(task_id)

    def kill_left(self, slot: Started) -> int:
        self.killed.append(slot)
        return 2
