"""An agent's account at a real broker, made and kept by its management API; and all that it must not be able to do."""

import asyncio
import secrets
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import AMQPError

from control_plane.commands.hosts import Host
from control_plane.errors import BrokerApiError
from control_plane.messaging.broker_accounts import ManagedAccounts, account_of, virtual_host_of
from control_plane.processes.broker_accounts import BrokerAccounts
from control_plane_agent.assembly import simulated_agent
from control_plane_wire.clock import SystemClock
from control_plane_wire.messages import ConfigureMessage
from control_plane_wire.topology import CONTROL_PLANE_TOPOLOGY, agent_topology
from control_plane_wire.transport.base import Binding, Confirmed, Message
from control_plane_wire.transport.rabbitmq import RabbitTransport
from tests.support.agent import ControlPlaneEnd, an_identity, control_plane_end, running
from tests.support.fleet import ADMIN, Desk, host_key
from tests.support.servers import Broker

pytestmark = pytest.mark.rabbitmq


def a_host(hostname: str, *groups: str) -> Host:
    return Host(
        hostname=hostname,
        public_key=host_key(hostname).public_key,
        generation=1,
        registered_seq=1,
        changed_seq=1,
        groups=dict.fromkeys(groups, 1),
    )


WEB1, WEB2 = a_host("web1.example.com", "web"), a_host("web2", "web", "db")


@pytest.fixture
def accounts(broker: Broker, amqp_url: str) -> Iterator[ManagedAccounts]:
    """By a user of the management API with the rights that the documentation asks for."""
    if broker.api_url is None:
        pytest.skip("needs CONTROL_PLANE_TEST_BROKER_API_URL")
    user, password = f"accounts{secrets.token_hex(4)}", secrets.token_hex(8)
    virtual_host = urllib.parse.quote(virtual_host_of(amqp_url), safe="")
    broker.call("PUT", f"/api/users/{user}", {"password": password, "tags": "administrator"})
    narrow = {"configure": "^sys_", "write": "", "read": ""}
    broker.call("PUT", f"/api/permissions/{virtual_host}/{user}", narrow)
    api = urllib.parse.urlsplit(broker.api_url)
    yield ManagedAccounts(f"{api.scheme}://{user}:{password}@{api.hostname}:{api.port}", amqp_url, leaving_s=0)
    broker.call("DELETE", f"/api/users/{user}")


@pytest.fixture
async def plane(amqp_url: str) -> AsyncIterator[Any]:
    """The control plane's own session, with its exchanges and queues."""
    async with RabbitTransport(amqp_url).connect("control plane") as session:
        await session.declare(CONTROL_PLANE_TOPOLOGY)
        yield session


@pytest.fixture
async def urls(accounts: ManagedAccounts, plane: Any, broker: Broker) -> AsyncIterator[tuple[str, str]]:
    """The addresses of two hosts; their accounts are gone at the end."""
    yield await accounts.admit(WEB1), await accounts.admit(WEB2)
    await accounts.keep(nobody)


async def nobody() -> list[Host]:
    return []


def hosts(*given: Host) -> Callable[[], Awaitable[Sequence[Host]]]:
    async def asked() -> Sequence[Host]:
        return given

    return asked


def names(broker: Broker) -> set[str]:
    users = broker.call("GET", "/api/users")
    assert isinstance(users, list)
    return {user["name"] for user in users}


# --- what it may ------------------------------------------------------------------------------------------------------


async def test_an_agent_does_all_its_work_with_its_own_account(urls: tuple[str, str], plane: Any) -> None:
    async with RabbitTransport(urls[0]).connect("agent") as session:
        await session.declare(agent_topology(WEB1.hostname, WEB1.groups))
        for exchange, key in (
            ("sys_result_exchange", "result.node.web1.example.com"),
            ("sys_monitor_exchange", "heartbeat"),
            ("sys_monitor_exchange", "output.node.web1.example.com"),
        ):
            assert await session.publish(Message(exchange=exchange, routing_key=key, body=b"{}")) == Confirmed()
        for key in ("cmd.node.web1.example.com", "cmd.group.web", "cmd.all"):
            sent = Message(exchange="sys_cmd_exchange", routing_key=key, body=b"{}")
            assert await plane.publish(sent) == Confirmed()
        received = 0
        async with asyncio.timeout(10):
            async for batch in session.consume("cmd.node.web1.example.com", prefetch=10):
                received += len(batch)
                if received == 3:
                    break


# --- what it must not -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attack:
    """Attributes: `does`: on the channel of the host that was taken over; the broker has to refuse it."""

    name: str
    does: Callable[[AbstractChannel], Awaitable[object]]


async def _declare(channel: AbstractChannel, name: str, **given: Any) -> object:
    return await channel.declare_queue(name, **given)


async def _bind(channel: AbstractChannel, exchange: str, key: str) -> object:
    queue = await channel.declare_queue("cmd.node.web1.example.com", exclusive=True)
    return await queue.bind(exchange, key)


async def _publish(channel: AbstractChannel, exchange: str, key: str, **properties: Any) -> object:
    to = channel.default_exchange if not exchange else await channel.get_exchange(exchange, ensure=False)
    return await to.publish(aio_pika.Message(b"{}", **properties), key, mandatory=False, timeout=10)


async def _consume(channel: AbstractChannel, name: str) -> object:
    async def take(_: object) -> None:
        return

    return await (await channel.get_queue(name, ensure=False)).consume(take)


async def _purge(channel: AbstractChannel, name: str) -> object:
    return await (await channel.get_queue(name, ensure=False)).purge()


async def _dead_letters(channel: AbstractChannel, exchange: str) -> object:
    arguments = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "x"}
    return await channel.declare_queue("cmd.node.web1.example.com", exclusive=True, arguments=arguments)


ATTACKS = [
    *(
        Attack(f"declare {name}", lambda channel, name=name: _declare(channel, name, exclusive=True))  # type: ignore[misc]
        for name in ("cmd.node.web2", "cmd.node.web1xexample.com", "cmd.node.web1.example.com.x", "mine", "amq.mine")
    ),
    *(
        Attack(f"declare {name} anew", lambda channel, name=name: _declare(channel, name, durable=True))  # type: ignore[misc]
        for name in ("cmd.result", "monitor.heartbeat", "monitor.output", "cmd.result.dead")
    ),
    *(
        Attack(f"bind {key}", lambda channel, key=key: _bind(channel, "sys_cmd_exchange", key))  # type: ignore[misc]
        for key in ("cmd.node.web2", "cmd.group.db", "#", "cmd.#", "cmd.node.*", "cmd.group.*", "*.*.*")
    ),
    *(
        Attack(f"bind {exchange}", lambda channel, exchange=exchange: _bind(channel, exchange, "#"))  # type: ignore[misc]
        for exchange in ("sys_result_exchange", "sys_monitor_exchange", "amq.topic", "amq.rabbitmq.trace")
    ),
    *(
        Attack(f"publish {exchange or 'default'} {key}", lambda channel, e=exchange, k=key: _publish(channel, e, k))  # type: ignore[misc]
        for exchange, key in (
            ("sys_cmd_exchange", "cmd.node.web2"),
            ("sys_cmd_exchange", "cmd.all"),
            ("sys_cmd_exchange", "cmd.node.web1.example.com"),
            ("sys_result_exchange", "result.node.web2"),
            ("sys_result_exchange", "result.node.web1xexample.com"),
            ("sys_monitor_exchange", "output.node.web2"),
            ("sys_monitor_exchange", "output.node.#"),
            ("", "cmd.node.web2"),
            ("", "cmd.result"),
            ("", "monitor.heartbeat"),
            ("amq.topic", "x"),
        )
    ),
    Attack(
        "another's user_id",
        lambda channel: _publish(
            channel, "sys_result_exchange", "result.node.web1.example.com", user_id=account_of(WEB2)
        ),
    ),
    *(Attack(f"consume {name}", lambda channel, name=name: _consume(channel, name)) for name in ("cmd.result",)),  # type: ignore[misc]
    *(Attack(f"purge {name}", lambda channel, name=name: _purge(channel, name)) for name in ("cmd.result",)),  # type: ignore[misc]
    Attack("delete cmd.result", lambda channel: channel.queue_delete("cmd.result")),
    Attack("delete sys_cmd_exchange", lambda channel: channel.exchange_delete("sys_cmd_exchange")),
    Attack("declare an exchange", lambda channel: channel.declare_exchange("cmd.node.web1.example.org")),
    Attack("dead letters to commands", lambda channel: _dead_letters(channel, "sys_cmd_exchange")),
    Attack("dead letters to the default", lambda channel: _dead_letters(channel, "")),
]


@asynccontextmanager
async def channel_of(url: str) -> AsyncIterator[AbstractChannel]:
    connection: AbstractConnection = await aio_pika.connect(url, timeout=10)
    async with connection:
        yield await connection.channel(publisher_confirms=True)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_the_broker_refuses(attack: Attack, urls: tuple[str, str]) -> None:
    async with channel_of(urls[0]) as channel:
        with pytest.raises((AMQPError, aio_pika.exceptions.DeliveryError)) as refused:
            await attack.does(channel)
    assert "ACCESS_REFUSED" in str(refused.value) or "PRECONDITION_FAILED" in str(refused.value), refused.value


async def test_a_queue_that_its_agent_has_is_nobody_elses(urls: tuple[str, str]) -> None:
    async with RabbitTransport(urls[1]).connect("web2") as session, channel_of(urls[0]) as channel:
        await session.declare(agent_topology(WEB2.hostname, WEB2.groups))
        with pytest.raises(AMQPError, match="ACCESS_REFUSED"):
            await channel.declare_queue("cmd.node.web2", exclusive=True)


async def test_it_opens_no_third_connection(urls: tuple[str, str]) -> None:
    async with channel_of(urls[0]), channel_of(urls[0]):
        with pytest.raises(AMQPError):
            await aio_pika.connect(urls[0], timeout=10)


async def test_it_has_no_right_to_the_management_api_or_to_another_virtual_host(
    urls: tuple[str, str], broker: Broker
) -> None:
    parts = urllib.parse.urlsplit(urls[0])
    assert broker.api_url is not None
    api = urllib.parse.urlsplit(broker.api_url)
    theirs = ManagedAccounts(
        api._replace(netloc=f"{parts.username}:{parts.password}@{api.hostname}:{api.port}").geturl(), urls[0]
    )
    with pytest.raises(BrokerApiError, match=r"401.*needs the tag administrator"):
        await theirs.admit(WEB2)
    with pytest.raises(AMQPError):
        await aio_pika.connect(parts._replace(path="/").geturl(), timeout=10)


# --- how they are kept ------------------------------------------------------------------------------------------------


async def test_each_time_it_is_admitted_it_has_a_new_password(urls: tuple[str, str], accounts: ManagedAccounts) -> None:
    again = await accounts.admit(WEB1)

    assert urllib.parse.urlsplit(again).username == urllib.parse.urlsplit(urls[0]).username
    with pytest.raises(AMQPError):
        await aio_pika.connect(urls[0], timeout=10)
    async with channel_of(again):
        pass


async def test_another_group_is_another_right(urls: tuple[str, str], accounts: ManagedAccounts) -> None:
    moved = replace(WEB1, groups={"db": 2})

    assert await accounts.keep(hosts(moved, WEB2)) == 1
    assert await accounts.keep(hosts(moved, WEB2)) == 0
    async with RabbitTransport(urls[0]).connect("agent") as session:
        await session.declare(agent_topology(WEB1.hostname, ["db"]))
        binding = Binding(queue="cmd.node.web1.example.com", exchange="sys_cmd_exchange", routing_key="cmd.group.web")
        with pytest.raises(Exception, match="ACCESS_REFUSED"):
            await session.bind(binding)


@asynccontextmanager
async def agent_of_web1(url: str, amqp_url: str) -> AsyncIterator[ControlPlaneEnd]:
    """The other end of its wire, once it is bound to its group."""
    transport: Any = SimpleNamespace(transport=lambda: RabbitTransport(amqp_url))
    agent = simulated_agent(1, an_identity(groups={"web": 1}, enrolled_as_of=1), RabbitTransport(url))
    async with control_plane_end(transport) as end, running(agent):
        await end.until(lambda: end.heartbeats)
        assert end.heartbeats[0]["groups"] == ["web"]
        yield end


async def tell_no_groups(end: ControlPlaneEnd) -> None:
    now_s = SystemClock().now_s()
    await end.send(ConfigureMessage(task_id="configure-1", timestamp=now_s, as_of=2, groups={}))


async def test_a_group_that_a_host_is_taken_out_of_can_be_unbound_for_a_while(
    urls: tuple[str, str], accounts: ManagedAccounts, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = replace(WEB1, groups={})
    async with agent_of_web1(urls[0], amqp_url) as end:
        monkeypatch.setattr(accounts, "_leaving_s", 3600.0)
        assert await accounts.keep(hosts(out, WEB2)) == 0
        await tell_no_groups(end)
        await end.until(lambda: end.heartbeats[-1]["groups"] == [])

        assert end.heartbeats[-1]["session"] == end.heartbeats[0]["session"]
        monkeypatch.setattr(accounts, "_leaving_s", 0.0)
        assert await accounts.keep(hosts(out, WEB2)) == 1


async def test_where_the_right_has_gone_first_the_agent_works_on_and_starts_over_when_it_is_told_again(
    urls: tuple[str, str], accounts: ManagedAccounts, amqp_url: str
) -> None:
    async with agent_of_web1(urls[0], amqp_url) as end:
        assert await accounts.keep(hosts(replace(WEB1, groups={}), WEB2)) == 1
        await tell_no_groups(end)
        await end.until(lambda: len(end.heartbeats) > 1)
        assert end.heartbeats[-1]["groups"] == ["web"]
        assert (await end.run("true"))["outcome"] == "completed"
        assert end.heartbeats[-1]["session"] == end.heartbeats[0]["session"]

        await tell_no_groups(end)
        await end.until(lambda: end.heartbeats[-1]["groups"] == [])
        assert end.heartbeats[-1]["session"] != end.heartbeats[0]["session"]


async def test_who_is_not_in_the_fleet_any_more_is_out_at_once(
    urls: tuple[str, str], accounts: ManagedAccounts, broker: Broker
) -> None:
    async with RabbitTransport(urls[0]).connect("agent") as session:
        assert await accounts.keep(hosts(WEB2)) == 1
        async with asyncio.timeout(5):
            await session.wait_lost()
    assert account_of(WEB1) not in names(broker)
    assert account_of(WEB2) in names(broker)


async def test_a_host_that_enrols_anew_during_a_pass_keeps_its_new_account(
    urls: tuple[str, str], accounts: ManagedAccounts
) -> None:
    """With the same key: the pass has seen that it was retired, and not that it is back."""
    anew, came = replace(WEB1, generation=2, registered_seq=9), []

    async def just_before() -> Sequence[Host]:
        came.append(await accounts.admit(anew))
        return [WEB2]

    assert await accounts.keep(just_before) == 1
    async with channel_of(came[0]):
        pass
    with pytest.raises(AMQPError):
        await aio_pika.connect(urls[0], timeout=10)


async def test_accounts_of_others_stay_as_they_are(
    urls: tuple[str, str], accounts: ManagedAccounts, broker: Broker
) -> None:
    before = names(broker)
    await accounts.keep(nobody)
    assert before - names(broker) == {account_of(WEB1), account_of(WEB2)}


async def test_rights_that_somebody_has_widened_are_narrowed_again(
    urls: tuple[str, str], accounts: ManagedAccounts, broker: Broker
) -> None:
    user, place = account_of(WEB1), urllib.parse.quote(accounts.virtual_host, safe="")
    wide = {"configure": ".*", "write": ".*", "read": ".*"}
    broker.call("PUT", f"/api/permissions/{place}/{user}", wide)
    broker.call("DELETE", f"/api/topic-permissions/{place}/{account_of(WEB2)}")

    assert await accounts.keep(hosts(WEB1, WEB2)) == 2
    async with channel_of(urls[0]) as channel:
        with pytest.raises(AMQPError, match="ACCESS_REFUSED"):
            await channel.declare_queue("mine", exclusive=True)


async def test_the_management_api_is_away(amqp_url: str) -> None:
    away = ManagedAccounts("http://guest:guest@127.0.0.1:1", amqp_url)
    with pytest.raises(BrokerApiError, match="ConnectError"):
        await away.admit(WEB1)
    with pytest.raises(BrokerApiError, match="ConnectError"):
        await away.keep(nobody)


async def test_the_process_follows_the_fleet(
    accounts: ManagedAccounts, plane: Any, broker: Broker, amqp_url: str
) -> None:
    desk, stop, counted = Desk(), asyncio.Event(), []
    await desk.register("web1.example.com", "web")
    host = desk.authority.fleet.host("web1.example.com")
    await accounts.admit(host)
    user = account_of(host)
    process = BrokerAccounts(Held(), desk.authority, accounts, SystemClock(), count=lambda *what: counted.append(what))
    running = [asyncio.create_task(process.run(stop)), asyncio.create_task(desk.authority.run(stop))]
    try:
        await desk.hosts.set_groups(ADMIN, "web1.example.com", ["db"])
        await until(lambda: topic_right(broker, accounts, user).endswith(r"cmd\.group\.db)$"))
        await desk.hosts.revoke(ADMIN, "web1.example.com", "stolen")
        await until(lambda: user not in names(broker))
        assert await process.check() is None
        assert sum(number for what, number in counted if what == "broker_accounts_changed") == 2
    finally:
        stop.set()
        await asyncio.gather(*running)


class Held:
    """The lease is ours."""

    async def keep(self, name: str, work: Callable[[object], Awaitable[None]], *, stop: asyncio.Event) -> None:
        await work(None)


def topic_right(broker: Broker, accounts: ManagedAccounts, user: str) -> str:
    place = urllib.parse.quote(accounts.virtual_host, safe="")
    rows = broker.call("GET", f"/api/topic-permissions/{place}/{user}")
    assert isinstance(rows, list)
    return next(str(row["read"]) for row in rows if row["exchange"] == "sys_cmd_exchange")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)
