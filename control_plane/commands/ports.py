"""What the decisions need of the world, declared where it is used."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from control_plane.commands.hosts import Host
from control_plane.commands.identity import Proved
from control_plane.events.envelope import Key, LogName, NewEvent, Outcome, StoredEvent

PendingRow: TypeAlias = tuple[str, bytes, str | None, int, bool]


class Head(Protocol):
    @property
    def seq(self) -> int: ...


class Log(Protocol):
    """The part of the event log that decisions use; see `events.log` for the contract."""

    async def append(self, events: Sequence[NewEvent]) -> list[Outcome]: ...

    async def head(self, log: LogName) -> Head: ...

    async def find(self, log: LogName, keys: Collection[Key]) -> dict[Key, int]: ...

    async def read_one(self, log: LogName, seq: int) -> StoredEvent | None: ...

    def read_these(self, log: LogName, seqs: Sequence[int]) -> AsyncIterator[StoredEvent]: ...

    async def read(
        self,
        log: LogName,
        *,
        after: int,
        limit: int = 1000,
        kinds: Collection[str] | None = None,
        upto: int | None = None,
    ) -> list[StoredEvent]: ...


class Credentials(Protocol):
    """Password hashes, kept apart from the log because the log is for ever."""

    async def get(self, username: str) -> str | None:
        """The PHC string, None where there is none."""
        ...

    async def put(self, username: str, phc: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """How a host is just now, as the read table has it: for show, for the form of its messages, and to be found by.

    What may be done it does not decide: that is decided on the hosts that are found.

    Attributes:
        state: `pending` where it has never been heard from; nothing is known of its agent then.
        basic: its agent knows only the required fields of the protocol.
        os, agent_version, groups_bound: as its last heartbeat has them, None where it does not.
    """

    state: str
    basic: bool
    os: str | None = None
    agent_version: str | None = None
    groups_bound: Sequence[str] | None = None


class BrokerAccounts(Protocol):
    """The agents' accounts at the broker."""

    async def admit(self, host: Host) -> str | None:
        """Give a host's agent an account with a new password; the broker's address with both.

        None where there is no broker, or no address for agents is set. Raises BrokerApiError.
        """
        ...

    async def dismiss(self, hosts: Collection[Host]) -> int:
        """Delete the accounts of hosts that are none any more; how many there were. Raises BrokerApiError."""
        ...


class PendingHosts(Protocol):
    """Requests of hosts, in numbered places: two at once cannot become more than there are places for.

    A row has the fields of `commands.pending_hosts.PendingHost`, in their order.
    """

    async def places(self) -> Mapping[int, PendingRow]: ...

    async def put(self, place: int, row: PendingRow, *, instead: PendingRow | None) -> None:
        """Put a request into a place that is empty, or has `instead`; StorageUnavailableError where it has another."""
        ...

    async def refuse(self, fingerprint: str) -> None: ...

    async def forget(self, fingerprint: str) -> None: ...


class IdentityProvider(Protocol):
    """Who says who somebody is. Both methods raise IdentityProviderError where it does not answer as it must."""

    @property
    def issuer(self) -> str:
        """What it calls itself."""
        ...

    async def address(self, *, state: str, nonce: str, code_challenge: str, again: bool) -> str:
        """Where to send a browser; `again`: somebody whom it knows already is asked once more who that is."""
        ...

    async def proved(self, code: str, *, verifier: str, nonce: str) -> Proved:
        """Whom it sent back with this code. Raises IdentityRefusedError where that is not proved."""
        ...


class Presences(Protocol):
    async def presences(self, hostnames: Collection[str]) -> Mapping[str, Presence]: ...

    async def presences_at(self, hostnames: Collection[str], seq: int) -> Mapping[str, Presence] | None:
        """The same as it was at an earlier position of the event log; None where that cannot be told."""
        ...


class Executions(Protocol):
    async def states(self, task_id: str) -> Mapping[str, str]:
        """The states of a task's executions by hostname: a terminal one is for good, another may be a moment old."""
        ...

    async def succeeded_late(self, task_id: str) -> Collection[str]:
        """The hosts of a task whose result says that it succeeded, and came after another outcome had been said."""
        ...

    async def waiting(self) -> tuple[int, int]:
        """A log position, and how many executions no host has answered then or since, and are not over."""
        ...
