"""The agents' accounts at the broker, kept by RabbitMQ's management API: each may do what its own agent does.

They are the second line: signatures hold without them. What they add is that an agent which was taken over cannot take
another's queue, nor see what is sent to others.
"""

import asyncio
import json
import secrets
import shlex
import ssl
import time
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

import httpx
import orjson

from control_plane.commands.hosts import Host
from control_plane.errors import BrokerApiError
from control_plane_wire.signing import is_key_id, key_id
from control_plane_wire.topology import (
    COMMAND_EXCHANGE,
    CONTROL_PLANE_TOPOLOGY,
    HEARTBEAT_KEY,
    MONITOR_EXCHANGE,
    RESULT_EXCHANGE,
    agent_queue,
    group_key,
    is_name,
    output_key,
    result_key,
)

PREFIX: Final = "h-"
TIMEOUT_S: Final = 5.0
ADMIT_S: Final = 10.0  # for all of it: an agent that gets no answer asks again after twice that
AT_ONCE: Final = 8  # requests
LEAVING_S: Final = 60.0  # so long a group that was taken from a host keeps its right: unbinding it needs that, too
LIMITS: Final[Mapping[str, int]] = {"max-connections": 2, "max-channels": 16}
NOTHING: Final = "^$"


def account_of(host: Host) -> str:
    """The account of a host as it was registered.

    By the key and not by the name: a dot in an account's name would be a wildcard in the broker's patterns, and another
    machine under the same name is another account. And by the registration, which never comes back once it has ended:
    so whoever finds an account that is of no host may delete it at any time later, whatever has been registered since.
    """
    return f"{PREFIX}{key_id(host.public_key)}-{host.registered_seq}"


def is_account(user: str) -> bool:
    """Whether this is the name of a host's account."""
    key, _, seq = user.removeprefix(PREFIX).partition("-")
    return user.startswith(PREFIX) and is_key_id(key) and seq.isascii() and seq.isdigit()


def is_account_of(user: str, public_key: bytes) -> bool:
    """Whether this is the name of an account that is, or was, for a host with this key."""
    return is_account(user) and user.startswith(f"{PREFIX}{key_id(public_key)}-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Regular expressions, as the broker wants them: of names of queues and exchanges, and of routing keys.

    Attributes:
        topics: by exchange, what may be published and what may be bound. All exchanges are named: one without would be
            open.
    """

    configure: str
    write: str
    read: str
    topics: Mapping[str, tuple[str, str]]


def rights_of(hostname: str, groups: Collection[str]) -> Rights:
    """What the agent of a host with these groups does; anchored, since the broker looks for the pattern anywhere."""
    queue = agent_queue(hostname)
    keys = (queue, "cmd.all", *(group_key(group) for group in sorted(groups)))
    return Rights(
        configure=_any_of(queue),
        write=_any_of(queue, RESULT_EXCHANGE, MONITOR_EXCHANGE),  # who binds a queue writes to it
        read=_any_of(queue, COMMAND_EXCHANGE),
        topics={
            COMMAND_EXCHANGE: (NOTHING, _any_of(*keys)),
            RESULT_EXCHANGE: (_any_of(result_key(hostname)), NOTHING),
            MONITOR_EXCHANGE: (_any_of(HEARTBEAT_KEY, output_key(hostname)), NOTHING),
        },
    )


def _any_of(*names: str) -> str:
    """Names have dots, and of what means something in a pattern nothing else."""
    return "^(" + "|".join(name.replace(".", r"\.") for name in names) + ")$"


def groups_of(rights: Rights, hostname: str) -> frozenset[str]:
    """The groups by which a host has these rights; none where it has other ones than groups give."""
    _, keys = rights.topics.get(COMMAND_EXCHANGE, ("", ""))
    names = keys.removeprefix("^(").removesuffix(")$").replace(r"\.", ".").split("|")
    prefix = group_key("x").removesuffix("x")
    groups = frozenset(group for name in names if is_name(group := name.removeprefix(prefix)) and group != name)
    return groups if rights_of(hostname, groups) == rights else frozenset()


def commands_for(host: Host, virtual_host: str) -> Iterator[str]:
    """What to type where the control plane may not use the management API; the password is for whoever types it.

    It may be typed again, when the host's groups have changed, say.
    """
    user, rights = account_of(host), rights_of(host.hostname, host.groups)
    yield f"rabbitmqctl -q list_users | cut -f 1 | grep -qx {user} || rabbitmqctl add_user {user}"
    plain = (rights.configure, rights.write, rights.read)
    yield shlex.join(["rabbitmqctl", "set_permissions", "-p", virtual_host, user, *plain])
    for exchange, patterns in rights.topics.items():
        yield shlex.join(["rabbitmqctl", "set_topic_permissions", "-p", virtual_host, user, exchange, *patterns])
    yield shlex.join(["rabbitmqctl", "set_user_limits", user, json.dumps(LIMITS)])


class SharedAccount:
    """All agents use one account, which somebody has made: where the management API is not given."""

    def __init__(self, url: str | None) -> None:
        self._url = url

    async def admit(self, host: Host) -> str | None:
        """See `commands.ports.BrokerAccounts`."""
        return self._url

    async def dismiss(self, hosts: Collection[Host]) -> int:
        """Nobody else could use it any more either."""
        return 0


class ManagedAccounts:
    """An account for each host.

    All methods may be repeated, and raise BrokerApiError where the management API refuses or does not answer.

    Args:
        api_url: http(s)://user:password@host:port of the management API; the user needs the tag `administrator`.
        agents_url: the broker's address for agents; their accounts are put in, and are for its virtual host.
        leaving_s: how long an account keeps the right to a group that its host was taken out of.
    """

    def __init__(self, api_url: str, agents_url: str, *, leaving_s: float = LEAVING_S) -> None:
        parts = urllib.parse.urlsplit(api_url)
        self._auth = urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or "")
        self._base = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
        self._verify: ssl.SSLContext | bool = ssl.create_default_context() if parts.scheme == "https" else False
        self._agents_url = urllib.parse.urlsplit(agents_url)
        self.virtual_host = virtual_host_of(agents_url)
        self._has_exchanges = False
        self._admitting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._leaving_s = leaving_s
        self._left_s: dict[tuple[str, str], float] = {}  # when an account was first seen with a group too many

    async def admit(self, host: Host) -> str:
        """Make the host's account, or give it a new password; the broker's address with both."""
        user, password = account_of(host), secrets.token_urlsafe(32)
        turn = self._admitting.setdefault(user, asyncio.Lock())  # the password that is told last is the one that holds
        try:
            async with asyncio.timeout(ADMIT_S), turn, self._client() as client:
                await self._make(client, user, password, rights_of(host.hostname, host.groups))
        except TimeoutError:
            raise BrokerApiError(f"{user}: no account within {ADMIT_S:g} s") from None
        except BrokerApiError:
            self._has_exchanges = False  # who knows: the virtual host may be a new one
            raise
        netloc = f"{user}:{password}@{self._agents_url.netloc.rpartition('@')[2]}"
        return self._agents_url._replace(netloc=netloc).geturl()

    async def _make(self, client: httpx.AsyncClient, user: str, password: str, rights: Rights) -> None:
        if not self._has_exchanges:  # rights on one that is not there are refused
            for exchange in CONTROL_PLANE_TOPOLOGY.exchanges:
                body = {"type": "topic", "durable": True}
                await _call(client, "PUT", f"/api/exchanges/{_quoted(self.virtual_host)}/{exchange}", body)
            self._has_exchanges = True
        await _call(client, "PUT", f"/api/users/{user}", {"password": password, "tags": ""})
        # At once: it is by its right to the virtual host that a pass finds an account. Nobody knows the password yet.
        await self._permit_plain(client, user, rights)
        for limit, most in LIMITS.items():
            await _call(client, "PUT", f"/api/user-limits/{user}/{limit}", {"value": most})
        await self._permit_topics(client, user, rights)

    async def keep(self, hosts: Callable[[], Awaitable[Collection[Host]]]) -> int:
        """Let every account have the rights that its host is to have, and no host that is not here have one.

        The right to a group that a host was taken out of goes `leaving_s` after it was first seen to be too many.

        It makes none: whoever has no account uses another, or is not enrolled yet. The virtual host belongs to this
        control plane, so an account there that is named like a host's is one.

        What is refused for one account holds up no other; BrokerApiError tells of it at the end.

        Args:
            hosts: those in the fleet; asked once the accounts are known, so that a host that has come meanwhile is one.

        Returns:
            How many accounts were changed or deleted.
        """
        async with self._client() as client:
            found = await self._found(client)
            gone, stale = await asyncio.to_thread(self._compared, found, await hosts())
            # Before rights, of which there may be many to set: nobody who is out waits for them.
            outcomes = await _each(gone, lambda user: self._delete(client, user))
            outcomes += await _each(stale, lambda user: self._permit(client, user, stale[user]))
        return _number(outcomes)

    async def dismiss(self, hosts: Collection[Host]) -> int:
        """Delete the accounts of hosts whose registration has ended; how many there were."""
        async with self._client() as client:
            users = {account_of(host) for host in hosts}
            return _number(await _each(users, lambda user: self._delete(client, user)))

    def _compared(
        self, found: Mapping[str, Rights], hosts: Collection[Host]
    ) -> tuple[Collection[str], dict[str, Rights]]:
        """The accounts of nobody; and those that are to have other rights than they have, each with these."""
        fleet = {account_of(host): host for host in hosts}
        now_s, before, stale = time.monotonic(), self._left_s, {}
        self._left_s = {}
        for user in found.keys() & fleet.keys():
            host = fleet[user]
            if found[user] == rights_of(host.hostname, host.groups):
                continue
            left = groups_of(found[user], host.hostname) - host.groups.keys()
            self._left_s |= {(user, group): before.get((user, group), now_s) for group in left}
            leaving = {group for group in left if now_s - self._left_s[user, group] < self._leaving_s}
            wanted = rights_of(host.hostname, host.groups.keys() | leaving)
            if found[user] != wanted:
                stale[user] = wanted
        return found.keys() - fleet.keys(), stale

    async def _found(self, client: httpx.AsyncClient) -> dict[str, Rights]:
        """The hosts' accounts that there are."""
        place = f"/api/vhosts/{_quoted(self.virtual_host)}"
        plain = await _call(client, "GET", f"{place}/permissions")
        topics = await _call(client, "GET", f"{place}/topic-permissions")
        # Eight megabytes for ten thousand hosts.
        return await asyncio.to_thread(_accounts_in, plain or b"", topics or b"")

    async def _delete(self, client: httpx.AsyncClient, user: str) -> bool:
        """Whether it was there."""
        return await _call(client, "DELETE", f"/api/users/{user}", missing_ok=True) is not None

    async def _permit(self, client: httpx.AsyncClient, user: str, rights: Rights) -> bool:
        await self._permit_topics(client, user, rights)
        # Last, since an exchange without rights of its own is open to whoever may use it.
        await self._permit_plain(client, user, rights)
        return True

    async def _permit_topics(self, client: httpx.AsyncClient, user: str, rights: Rights) -> None:
        for exchange, (write, read) in rights.topics.items():
            body = {"exchange": exchange, "write": write, "read": read}
            await _call(client, "PUT", f"/api/topic-permissions/{_quoted(self.virtual_host)}/{user}", body)

    async def _permit_plain(self, client: httpx.AsyncClient, user: str, rights: Rights) -> None:
        body = {"configure": rights.configure, "write": rights.write, "read": rights.read}
        await _call(client, "PUT", f"/api/permissions/{_quoted(self.virtual_host)}/{user}", body)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        """No proxy of the environment: the password goes to the broker and nowhere else."""
        async with httpx.AsyncClient(
            base_url=self._base, auth=self._auth, timeout=TIMEOUT_S, verify=self._verify, trust_env=False
        ) as client:
            yield client


def virtual_host_of(amqp_url: str) -> str:
    """The virtual host that the address of a broker names: `/` where it names none."""
    path = urllib.parse.urlsplit(amqp_url).path
    return urllib.parse.unquote(path[1:]) or "/"


def _accounts_in(plain: bytes, topics: bytes) -> dict[str, Rights]:
    """The hosts' accounts among the permissions and topic permissions of a virtual host. Raises BrokerApiError."""
    by_user: dict[str, dict[str, tuple[str, str]]] = {}
    try:
        for row in orjson.loads(topics):
            by_user.setdefault(row["user"], {})[row["exchange"]] = str(row["write"]), str(row["read"])
        return {
            user: Rights(configure=row["configure"], write=row["write"], read=row["read"], topics=by_user.get(user, {}))
            for row in orjson.loads(plain)
            if is_account(user := row["user"])
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokerApiError(f"permissions are not what they should be: {type(error).__name__} {error}") from None


class _UnansweredError(BrokerApiError):
    """The management API is away, and would be for the next request."""


async def _each(users: Collection[str], work: Callable[[str], Awaitable[bool]]) -> list[bool | BrokerApiError]:
    """Do it for each of them, some at once; what came of it. It ends early where there is no answer any more."""
    outcomes: list[bool | BrokerApiError] = []

    async def done(user: str) -> None:
        try:
            outcomes.append(await work(user))
        except BrokerApiError as error:
            outcomes.append(error)

    ordered = sorted(users)
    for start in range(0, len(ordered), AT_ONCE):
        async with asyncio.TaskGroup() as tasks:
            for user in ordered[start : start + AT_ONCE]:
                tasks.create_task(done(user))
        if any(isinstance(outcome, _UnansweredError) for outcome in outcomes[-AT_ONCE:]):
            break
    return outcomes


def _number(outcomes: Collection[bool | BrokerApiError]) -> int:
    """How many were changed. Raises BrokerApiError where any was refused."""
    refused = [outcome for outcome in outcomes if isinstance(outcome, BrokerApiError)]
    if refused:
        others = f", and {len(refused) - 1} more" if refused[1:] else ""
        raise BrokerApiError(f"{refused[0]}{others}")
    return sum(map(bool, outcomes))


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


async def _call(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    body: Mapping[str, object] | None = None,
    *,
    missing_ok: bool = False,
) -> bytes | None:
    """The answer; None where what it is about is not there.

    Raises:
        BrokerApiError: refused, or not answered.
    """
    try:
        answer = await client.request(method, path, json=body)
        if missing_ok and answer.status_code == httpx.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        raise BrokerApiError(f"{method} {path}: {_said(error.response)}") from None
    except httpx.HTTPError as error:
        raise _UnansweredError(f"{method} {path}: {type(error).__name__} {error}".rstrip()) from None
    return answer.content


def _said(answer: httpx.Response) -> str:
    """Why it was refused; most of the time for the user's tags."""
    hint = ": the user of CONTROL_PLANE_BROKER_API_URL needs the tag administrator" if answer.status_code == 401 else ""
    return f"{answer.status_code} {answer.reason_phrase}{hint}"
