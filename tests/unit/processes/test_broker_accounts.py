"""When the agents' accounts are looked through, and how soon whoever is revoked is out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from control_plane.commands.hosts import Host, decide_rotate
from control_plane.errors import BrokerApiError
from control_plane.messaging.broker_accounts import account_of
from control_plane.messaging.senders import switches
from control_plane.processes.broker_accounts import CHECK_S, REST, BrokerAccounts
from tests.support.clock import ManualClock
from tests.support.fleet import ADMIN, Desk, host_key


class Held:
    """The lease is ours."""

    async def keep(self, name: str, work: Callable[[object], Awaitable[None]], *, stop: asyncio.Event) -> None:
        await work(None)


@dataclass
class SlowAccounts:
    """A pass takes `takes_s`, or until `goes_on` is set."""

    clock: ManualClock
    takes_s: float = 10.0
    goes_on: asyncio.Event | None = None
    refuses: bool = False
    passes: list[float] = field(default_factory=list)
    dismissed: list[str] = field(default_factory=list)
    dismissed_accounts: list[str] = field(default_factory=list)

    async def keep(self, hosts: Callable[[], Awaitable[Collection[Host]]]) -> int:
        self.passes.append(self.clock.monotonic_s())
        if self.goes_on is not None:
            await self.goes_on.wait()
        self.clock.advance(self.takes_s)
        return 0

    async def dismiss(self, hosts: Collection[Host]) -> int:
        self.dismissed += [host.hostname for host in hosts]
        self.dismissed_accounts += [account_of(host) for host in hosts]
        if self.refuses:
            raise BrokerApiError("refused")
        return len(hosts)


@asynccontextmanager
async def running(desk: Desk, accounts: SlowAccounts, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BrokerAccounts]:
    async def passed(stop: asyncio.Event, *, timeout_s: float) -> None:
        accounts.clock.advance(timeout_s)
        await asyncio.sleep(0)

    monkeypatch.setattr("control_plane.processes.broker_accounts.wait_for_any", passed)
    process = BrokerAccounts(Held(), desk.authority, accounts, accounts.clock, count=lambda what, number: None)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(process.run(stop))
        yield process
        stop.set()
        if accounts.goes_on is not None:
            accounts.goes_on.set()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_changes_wait_for_each_other_four_times_as_long_as_a_pass_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, accounts = Desk(), SlowAccounts(ManualClock())
    await desk.register("web1")
    async with running(desk, accounts, monkeypatch):
        for number in range(3):
            await until(lambda number=number: len(accounts.passes) > number)  # type: ignore[misc]
            await desk.hosts.set_groups(ADMIN, "web1", [f"group{number}"])
        changed = len(accounts.passes)
        await until(lambda: len(accounts.passes) > changed + 2)

    between = [later - earlier for earlier, later in zip(accounts.passes, accounts.passes[1:], strict=False)]
    assert all(gap >= (1 + REST) * accounts.takes_s for gap in between)
    assert between[-1] >= CHECK_S + accounts.takes_s, "nothing has changed any more"


@pytest.mark.parametrize("refuses", [False, True])
async def test_whoever_is_revoked_waits_for_no_pass(monkeypatch: pytest.MonkeyPatch, refuses: bool) -> None:
    desk, accounts = Desk(), SlowAccounts(ManualClock(), goes_on=asyncio.Event(), refuses=refuses)
    for hostname in ("web1", "web2", "web3"):
        await desk.register(hostname)
    await desk.hosts.revoke(ADMIN, "web3", "stolen")
    async with running(desk, accounts, monkeypatch):
        await until(lambda: accounts.passes)
        await desk.hosts.set_groups(ADMIN, "web2", ["db"])
        await desk.hosts.revoke(ADMIN, "web1", "stolen")
        await until(lambda: accounts.dismissed)
        assert accounts.dismissed == ["web1"]
        assert len(accounts.passes) == 1
        assert accounts.goes_on is not None
        accounts.goes_on.set()
        await until(lambda: len(accounts.passes) > 1)  # which finds what was refused


async def test_a_host_that_takes_a_new_key_has_two_accounts_until_then_and_both_go_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, accounts, new = Desk(), SlowAccounts(ManualClock()), host_key("web1-new")
    await desk.register("web1")
    async with running(desk, accounts, monkeypatch) as process:
        fleet = desk.authority.fleet
        await desk.handling.decide_and_record(
            lambda: decide_rotate(fleet, fleet.host("web1"), new.public_key, 1), actor="web1"
        )
        both = {account_of(host) for host in await process._hosts()}
        await desk.hosts.revoke(ADMIN, "web1", "stolen")
        await until(lambda: accounts.dismissed)

    assert both == {f"h-{host_key('web1').key_id}-1", f"h-{new.key_id}-1"}
    assert set(accounts.dismissed_accounts) == both


async def test_once_the_new_key_is_in_use_the_account_of_the_old_one_is_nobodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, accounts, new = Desk(), SlowAccounts(ManualClock()), host_key("web1-new")
    await desk.register("web1")
    async with running(desk, accounts, monkeypatch) as process:
        fleet = desk.authority.fleet
        await desk.handling.decide_and_record(
            lambda: decide_rotate(fleet, fleet.host("web1"), new.public_key, 1), actor="web1"
        )
        await until(lambda: len(accounts.passes) > 1)
        before = len(accounts.passes)
        [switched] = switches(fleet, [("web1", new.public_key)])
        await desk.handling.record_new(switched, actor="web1")
        await until(lambda: len(accounts.passes) > before)  # at once, and not because it is time to look

        assert [account_of(host) for host in await process._hosts()] == [f"h-{new.key_id}-1"]
