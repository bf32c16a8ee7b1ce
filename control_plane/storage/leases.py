"""Leases: who of several processes does what only one should do, by rows with the database's clock and a fencing epoch.

A lease only saves work. What protects is the epoch: whoever moves a position does so where the epoch is still its own.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Update, and_, bindparam, insert, or_, select, update

from control_plane.errors import KeyMissingError, LeaseLostError, LogDamagedError, StorageUnavailableError
from control_plane.storage.engine import Database
from control_plane.storage.tables import lease as table
from control_plane_wire.backoff import Backoff
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints

LEASE_S: Final = 4.0
RENEWAL_S: Final = 1.0
HALTED_S: Final = 30.0  # until it looks again whether a damaged log has been mended
KEYLESS_S: Final = 10.0  # longer than others wait for a lease
LONGEST: Final = 2  # leases; one that seems to last longer was given before the database's clock was set back

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """What one owner holds; `epoch` grows with each takeover and never repeats."""

    name: str
    epoch: int


class Leases:
    """The leases of one process.

    Args:
        owner: unlike any other process's, also after a restart: a new process must not take itself for its predecessor.
    """

    def __init__(self, database: Database, *, owner: str, failpoints: Failpoints = NO_FAILPOINTS) -> None:
        self._database = database
        self._owner = owner
        self._failpoints = failpoints
        now_us = database.dialect.clock_us()
        lease_us = int(LEASE_S * 1_000_000)
        until_us, longest_us = now_us + lease_us, now_us + LONGEST * lease_us
        is_named = table.c.name == bindparam("lease")
        is_mine = and_(is_named, table.c.owner == owner, table.c.epoch == bindparam("held"))
        self._read_epoch = select(table.c.epoch).where(is_named, table.c.owner == owner)
        self._take = (
            update(table)
            .where(is_named, or_(table.c.owner == owner, ~table.c.until_us.between(now_us, longest_us)))
            .values(owner=owner, epoch=table.c.epoch + 1, until_us=until_us)
        )
        self._steal = update(table).where(is_named).values(owner=owner, epoch=table.c.epoch + 1, until_us=until_us)
        self._create = insert(table).values(name=bindparam("lease"), owner=owner, epoch=1, until_us=until_us)
        self._ends = select(table.c.until_us, now_us).where(is_named)
        self._held = select(table.c.epoch).where(is_named, table.c.until_us.between(now_us, longest_us))
        self._renew = update(table).where(is_mine).values(until_us=until_us)
        self._end = update(table).where(is_mine).values(until_us=0)
        self._end_all = update(table).where(table.c.owner == bindparam("dead")).values(until_us=0)

    async def acquire(self, name: str) -> Lease | None:
        """The lease with a new epoch, or None while another process holds it.

        Raises:
            StorageUnavailableError: try again.
        """
        acquired = await self._acquire(name, self._take)
        return acquired if isinstance(acquired, Lease) else None

    async def take(self, name: str) -> Lease:
        """The lease, though another process holds it, which finds out at its next renewal: for an administrator.

        Its epoch fences the other one off at once wherever it moves a position.
        """
        lease = await self._acquire(name, self._steal)
        assert isinstance(lease, Lease)  # noqa: S101 - nobody can refuse it
        return lease

    async def _acquire(self, name: str, statement: Update) -> Lease | float:
        """The lease, or in how many seconds it ends where its holder renews it no more."""
        async with self._database.write() as connection:
            taken = await connection.execute(statement, {"lease": name})
            if not taken.rowcount:
                if (held := (await connection.execute(self._ends, {"lease": name})).one_or_none()) is not None:
                    left_s: float = (held[0] - held[1]) / 1_000_000
                    return max(0.0, left_s)
                await connection.execute(self._create, {"lease": name})
            epoch = await connection.scalar(self._read_epoch, {"lease": name})
        return RENEWAL_S if epoch is None else Lease(name, epoch)

    async def held(self, name: str) -> int | None:
        """The epoch under which somebody holds the lease now; None while nobody does.

        Raises:
            StorageUnavailableError: try again.
        """
        async with self._database.read() as connection:
            return await connection.scalar(self._held, {"lease": name})

    async def renew(self, lease: Lease) -> None:
        """Hold on for another four seconds.

        Raises:
            LeaseLostError: another one has taken it.
            StorageUnavailableError: try again, as long as the four seconds last.
        """
        async with self._database.write() as connection:
            renewed = await connection.execute(self._renew, {"lease": lease.name, "held": lease.epoch})
        if not renewed.rowcount:
            raise LeaseLostError(lease.name)

    async def release(self, lease: Lease) -> None:
        """Let another process take it at once; does nothing where it is lost already."""
        async with self._database.write() as connection:
            await connection.execute(self._end, {"lease": lease.name, "held": lease.epoch})

    async def succeed(self, owner: str) -> None:
        """End the leases of a process that is certainly dead, so that nobody waits for them."""
        async with self._database.write() as connection:
            await connection.execute(self._end_all, {"dead": owner})

    async def hold(self, name: str, until: asyncio.Event) -> None:
        """Hold the lease, whenever no other process does, until the event is set."""

        async def work(_lease: Lease) -> None:
            await until.wait()

        await self.keep(name, work, stop=until)

    async def keep(self, name: str, work: Callable[[Lease], Awaitable[None]], *, stop: asyncio.Event) -> None:
        """Do `work` whenever the lease is ours, again and again, until `stop` is set.

        `work` gets the lease, returns once `stop` is set, and is cancelled when the lease is lost. When it raises
        LeaseLostError or StorageUnavailableError it starts over, after a while and under a new epoch. A damaged log
        halts it alone, with an alarm at each look, until somebody has mended the log: the rest of the program goes on.
        """
        backoff = Backoff(first_s=0.1, most_s=5.0)
        while not stop.is_set():
            try:
                lease = await self._acquire(name, self._take)
                if not isinstance(lease, Lease):
                    await _wait(stop, min(lease, RENEWAL_S))  # it may end before the next look
                    continue
                backoff.reset()
                self._failpoints.hit("lease.taken")
                async with self.renewing(lease):
                    await work(lease)
            except* LeaseLostError:  # another process was quicker, or a rebuild has taken it
                _logger.info("lease is another's now", extra={"lease": name})
                await _wait(stop, backoff.next_s())
            except* KeyMissingError as errors:
                _logger.error(  # noqa: TRY400 - what it was is in the fields
                    "halted: a signing key is missing", extra={"lease": name, "cause": str(errors.exceptions[0])}
                )
                await _wait(stop, KEYLESS_S)  # whoever has it may take over meanwhile
            except* StorageUnavailableError as errors:
                _logger.warning("lease lost", extra={"lease": name, "cause": str(errors.exceptions[0])})
                await _wait(stop, backoff.next_s())
            except* LogDamagedError as errors:
                _logger.error(  # noqa: TRY400 - what it was is in the fields
                    "halted: the log is damaged; restore it", extra={"lease": name, "cause": str(errors.exceptions[0])}
                )
                await _wait(stop, HALTED_S)

    async def once(self, name: str, work: Callable[[], Awaitable[None]]) -> bool:
        """Do `work` one time under the lease; False, and nothing is done, while another process holds it.

        Raises:
            LeaseLostError: `work` was cancelled, since another one has taken the lease. And whatever `work` raises.
        """
        lease = await self.acquire(name)
        if lease is None:
            return False
        async with self.renewing(lease):
            await work()
        return True

    @asynccontextmanager
    async def renewing(self, lease: Lease) -> AsyncIterator[None]:
        """Renew the lease as long as the block lasts, and release it after; a block that loses it is cancelled.

        Raises:
            LeaseLostError: the lease is lost.
        """
        failure: BaseException | None = None  # of the block; raised outside the group, which would wrap it
        try:
            async with asyncio.TaskGroup() as tasks:
                renewals = tasks.create_task(self._keep_renewing(lease), name=f"renew {lease.name}")
                try:
                    yield
                except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised again outside
                    failure = error
                renewals.cancel()
        except BaseExceptionGroup as lost:
            raise LeaseLostError(lease.name) from lost
        if isinstance(failure, KeyMissingError) or not isinstance(
            failure, StorageUnavailableError | asyncio.CancelledError
        ):
            with suppress(StorageUnavailableError):  # it ends by itself in four seconds
                await self.release(lease)
        if failure is not None:
            raise failure

    async def _keep_renewing(self, lease: Lease) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + LEASE_S
        while True:
            await asyncio.sleep(RENEWAL_S)
            asked = loop.time()
            try:
                async with asyncio.timeout_at(ends):
                    await self.renew(lease)
            except (StorageUnavailableError, TimeoutError) as error:
                if loop.time() + RENEWAL_S > ends:
                    raise LeaseLostError(lease.name) from error
            else:
                ends = asked + LEASE_S


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
