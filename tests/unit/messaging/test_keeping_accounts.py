"""How accounts are kept at a management API that is slow, refuses or answers what it should not."""

import asyncio
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from control_plane.commands.hosts import Host
from control_plane.errors import BrokerApiError
from control_plane.messaging.broker_accounts import AT_ONCE, LEAVING_S, ManagedAccounts, Rights, account_of, rights_of
from tests.support.fleet import a_fleet

HOSTS = list(a_fleet({f"web{number:02}": ("web",) for number in range(20)}).hosts.values())


@dataclass
class ManagementApi:
    """What it has; `refuses`: of a request; `asked`: all that changed something, in order; `instead`: answered."""

    accounts: dict[str, Rights] = field(default_factory=dict)
    refuses: Callable[[str, str], int | None] = lambda method, path: None
    asked: list[tuple[str, str]] = field(default_factory=list)
    instead: object = None
    under_way: int = 0
    most_under_way: int = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        method, path = request.method, request.url.path
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if (status := self.refuses(method, path)) is not None:
            if not status:
                raise httpx.ConnectError("nobody is there")
            return httpx.Response(status, request=request)
        if method == "GET":
            rows = self._rows(path) if self.instead is None else self.instead
            return httpx.Response(200, content=json.dumps(rows), request=request)
        self.asked.append((method, path))
        return httpx.Response(204, request=request)

    def _rows(self, path: str) -> list[Mapping[str, str]]:
        if path.endswith("/topic-permissions"):
            return [
                {"user": user, "exchange": exchange, "write": write, "read": read}
                for user, rights in self.accounts.items()
                for exchange, (write, read) in rights.topics.items()
            ]
        return [
            {"user": user, "configure": rights.configure, "write": rights.write, "read": rights.read}
            for user, rights in self.accounts.items()
        ]

    def users(self, method: str) -> list[str]:
        return [path.rsplit("/", 1)[1] for asked, path in self.asked if asked == method]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> ManagementApi:
    made, client = ManagementApi(), httpx.AsyncClient
    transport = httpx.MockTransport(made.answer)

    def with_it(**given: Any) -> httpx.AsyncClient:
        return client(**given, transport=transport)

    monkeypatch.setattr(httpx, "AsyncClient", with_it)
    return made


@pytest.fixture
def accounts(api: ManagementApi) -> ManagedAccounts:
    return ManagedAccounts("http://root:x@broker:15672", "amqp://agents@broker/plane")


async def keep(accounts: ManagedAccounts, hosts: Collection[Host]) -> int:
    async def asked() -> Collection[Host]:
        return hosts

    return await accounts.keep(asked)


async def test_who_is_out_waits_for_nobodys_rights(api: ManagementApi, accounts: ManagedAccounts) -> None:
    gone, stale = HOSTS[-1], HOSTS[:-1]
    api.accounts = {account_of(host): rights_of(host.hostname, ()) for host in HOSTS}

    assert await keep(accounts, stale) == len(HOSTS)
    assert api.asked[0] == ("DELETE", f"/api/users/{account_of(gone)}")
    assert set(api.users("PUT")) == {account_of(host) for host in stale}
    assert api.most_under_way == AT_ONCE


async def test_what_is_refused_for_one_holds_up_no_other(api: ManagementApi, accounts: ManagedAccounts) -> None:
    gone, stale = HOSTS[:10], HOSTS[10:]
    api.accounts = {account_of(host): rights_of(host.hostname, ()) for host in HOSTS}
    refused = {account_of(HOSTS[0]), account_of(HOSTS[10])}
    api.refuses = lambda method, path: 400 if method != "GET" and path.rsplit("/", 1)[1] in refused else None

    with pytest.raises(BrokerApiError, match=r"DELETE .*400 Bad Request, and 1 more"):
        await keep(accounts, stale)
    assert set(api.users("DELETE")) == {account_of(host) for host in gone} - refused
    assert set(api.users("PUT")) == {account_of(host) for host in stale} - refused


async def test_where_nobody_answers_it_does_not_ask_for_every_account(
    api: ManagementApi, accounts: ManagedAccounts
) -> None:
    api.accounts = {account_of(host): rights_of(host.hostname, ()) for host in HOSTS}
    tried = []

    def away(method: str, path: str) -> int | None:
        if method == "GET":
            return None
        tried.append(path)
        return 0

    api.refuses = away
    with pytest.raises(BrokerApiError, match=f"ConnectError nobody is there, and {AT_ONCE - 1} more"):
        await keep(accounts, HOSTS)
    assert len(tried) == AT_ONCE


async def test_a_group_that_was_left_keeps_its_right_for_a_while_and_what_somebody_widened_does_not(
    api: ManagementApi, accounts: ManagedAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    left, moved, widened = HOSTS[0], replace(HOSTS[1], groups={"db": 30}), HOSTS[2]
    both = rights_of(left.hostname, ("db", "web"))
    api.accounts = {
        account_of(left): both,
        account_of(moved): rights_of(moved.hostname, ("web",)),
        account_of(widened): replace(rights_of(widened.hostname, ("web",)), read=".*"),
    }

    assert await keep(accounts, [left, moved, widened]) == 2  # the new group of one, and what is too wide of another
    api.accounts[account_of(moved)] = rights_of(moved.hostname, ("db", "web"))
    api.accounts[account_of(widened)] = rights_of(widened.hostname, ("web",))
    now_s += LEAVING_S - 1
    assert await keep(accounts, [left, moved, widened]) == 0
    now_s += 1
    assert await keep(accounts, [left, moved, widened]) == 2


@pytest.mark.parametrize(
    "instead",
    [{"items": []}, {"error": "x"}, 7, ["x"], [{"user": "x"}], [{"user": 1, "exchange": "x", "write": "", "read": ""}]],
)
async def test_an_answer_of_another_shape_is_told_and_changes_nothing(
    api: ManagementApi, accounts: ManagedAccounts, instead: object
) -> None:
    api.instead = instead
    with pytest.raises(BrokerApiError, match="permissions are not what they should be"):
        await keep(accounts, HOSTS)
    assert not api.asked


async def test_an_account_is_found_by_a_pass_whatever_its_making_ends_at(
    api: ManagementApi, accounts: ManagedAccounts
) -> None:
    await accounts.admit(HOSTS[0])
    first = [path.split("/")[2] for method, path in api.asked]
    assert first == [*["exchanges"] * 3, "users", "permissions", *["user-limits"] * 2, *["topic-permissions"] * 3]

    api.asked.clear()
    await accounts.admit(HOSTS[1])
    assert [path.split("/")[2] for method, path in api.asked] == first[3:]


async def test_exchanges_are_looked_for_again_after_a_refusal(api: ManagementApi, accounts: ManagedAccounts) -> None:
    await accounts.admit(HOSTS[0])
    api.refuses = lambda method, path: 400 if "topic-permissions" in path else None
    with pytest.raises(BrokerApiError, match="400"):
        await accounts.admit(HOSTS[1])
    api.refuses = lambda method, path: None
    api.asked.clear()
    await accounts.admit(HOSTS[1])
    assert "exchanges" in api.asked[0][1]


async def test_two_enrolments_of_a_host_take_turns(api: ManagementApi, accounts: ManagedAccounts) -> None:
    urls = await asyncio.gather(accounts.admit(HOSTS[0]), accounts.admit(HOSTS[0]))

    assert api.most_under_way == 1
    assert urls[0] != urls[1]


async def test_an_api_that_is_slow_all_the_way_gets_no_longer_than_an_agent_waits(
    api: ManagementApi, accounts: ManagedAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.messaging.broker_accounts.ADMIT_S", 0.05)
    asked = []

    async def never(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(httpx.MockTransport, "handle_async_request", lambda _, request: never(request))
    with pytest.raises(BrokerApiError, match=r"no account within 0.05 s"):
        await accounts.admit(HOSTS[0])
    assert len(asked) == 1
