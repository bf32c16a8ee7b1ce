"""Which hosts are to be told their groups, the control plane's keys and the newest checkpoint, and when."""

from collections.abc import Callable, Collection, Iterable
from typing import Final

from control_plane.commands.authority import Authority, Keyring
from control_plane.events import hosts
from control_plane.processes.post import Send
from control_plane.processes.witnesses import Rounds
from control_plane.projections.queries.hosts import HostQueries, KeysSaid, said_of
from control_plane_wire.clock import Clock
from control_plane_wire.messages import ConfigureMessage
from control_plane_wire.topology import command_key

DRIFT_S: Final = 30.0  # an agent that was told its groups says at once that it has bound them
RETRY_S: Final = 1.0  # after a publish that was not sent, or whose outcome nobody knows


class Configures:
    """Those that are due, each with the event for which it is.

    Args:
        is_basic: whether a host's agent knows nothing of this.
    """

    def __init__(
        self,
        authority: Authority,
        keyring: Keyring,
        host_queries: HostQueries,
        clock: Clock,
        rounds: Rounds,
        *,
        is_basic: Callable[[str], bool],
    ) -> None:
        self._authority = authority
        self._keyring = keyring
        self._host_queries = host_queries
        self._clock = clock
        self._rounds = rounds
        self._is_basic = is_basic
        self._due: dict[str, int] = {}
        # Which keys of ours a host trusts that is to be told of others, and the log position of when it said so.
        self._known: dict[str, tuple[int, Collection[str]]] = {}
        self._keys_seq = 0  # the last event that changed our keys
        self._is_new = True  # not everybody was told of that
        self._not_before_s = 0.0  # by the monotonic clock, as is the next
        self._drift_s = 0.0  # when to look for it again

    async def restart(self, there: Iterable[str], seq: int) -> None:
        """Whoever did this before may have died with groups untold, so who has bound others is told again."""
        self._due = {host.hostname: seq for host in await self._host_queries.drifted()}
        self._is_new = True
        await self._look_for_untold(seq)
        self._drift_s = self._clock.monotonic_s() + DRIFT_S
        self._rounds.restart(there, self._clock.monotonic_s())

    def changed(self, hostname: str, seq: int) -> None:
        """Its groups are others from this event on."""
        self._due[hostname] = seq

    def keys_changed(self, seq: int) -> None:
        """Hosts have yet to be told: it is looked at once who they are."""
        self._keys_seq, self._is_new = seq, True
        self._drift_s = self._clock.monotonic_s()

    def came_online(self, event: hosts.HostWentOnline, seq: int) -> None:
        """A basic agent is told nothing, and is passed over when it is due."""
        host = self._authority.fleet.hosts.get(event.hostname)
        assigned = set(host.groups) if host else set()
        bound = event.heartbeat.get("groups")
        if isinstance(bound, list | tuple) and set(map(str, bound)) != assigned:
            self._due[event.hostname] = seq
        keys = event.heartbeat.get("keys")
        if isinstance(keys, list | tuple) and not self._is_told(told := said_of(event.heartbeat)):
            self._known[event.hostname] = (seq, told.keys or ())
            self._due[event.hostname] = seq
        self._rounds.online(event.hostname, self._clock.monotonic_s())

    async def sends(self) -> list[Send]:
        """What is to be sent now."""
        await self._look_for_drift()
        now_s = self._clock.monotonic_s()
        note = await self._rounds.go(now_s, self._due, seq=self._authority.position)
        if not self._due or now_s < self._not_before_s:
            return []
        wanted, self._due = self._due, {}
        as_of = await self._authority.refresh()
        return [
            Send(
                command_key(hostname),
                ConfigureMessage(
                    task_id=f"configure-{seq}",
                    timestamp=self._clock.now_s(),
                    as_of=as_of,
                    groups=dict(self._authority.fleet.hosts[hostname].groups),
                    keys=self._keyring.states(),
                    checkpoint=note,
                    next_key_sha256=self._keyring.announced,
                ),
                configures=(hostname, seq),
                signer=self._keyring.introducer(self._known.get(hostname, (0, ()))[1]),
            )
            for hostname, seq in wanted.items()
            if self._authority.fleet.public_key(hostname) is not None and not self._is_basic(hostname)
        ]

    async def _look_for_drift(self) -> None:
        """Whoever goes on saying other groups is told again: what it was sent may have died with its agent's queue."""
        if self._clock.monotonic_s() < self._drift_s:
            return
        self._drift_s = self._clock.monotonic_s() + DRIFT_S
        for host in await self._host_queries.drifted():
            self._due.setdefault(host.hostname, host.pos)
        await self._look_for_untold(self._authority.position)

    def _is_told(self, said: KeysSaid) -> bool:
        return self._keyring.is_known_by(said.keys, said.next_key)

    async def _look_for_untold(self, seq: int) -> None:
        """Whoever is there and trusts other keys of ours than it should, or has not heard which comes next."""
        if (len(self._keyring.chain) == 1 and self._keyring.announced is None) or not (self._is_new or self._known):
            return  # nobody can know anything else, or all did
        # Who came online before the keys changed may not be in the read table yet; who comes after is told then.
        # Once all were looked at, only those who were behind are: one old agent stays so for ever.
        behind = None if self._is_new else frozenset(self._known)
        as_of, said = await self._host_queries.said_of_keys(
            ("online", "stale"), at_least=self._keys_seq, hostnames=behind
        )
        if as_of < self._keys_seq:
            self._drift_s = self._clock.monotonic_s()
            return
        newer = {hostname: known for hostname, known in self._known.items() if known[0] > as_of}
        untold = {name: keys.keys or () for name, keys in said.items() if name not in newer and not self._is_told(keys)}
        for hostname, keys in untold.items():
            if self._is_new or self._known.get(hostname, (0, None))[1] != keys:  # else it does not take it
                self._due.setdefault(hostname, seq)
        self._is_new = False
        self._known = {**{hostname: (as_of, keys) for hostname, keys in untold.items()}, **newer}

    def told(self, send: Send) -> None:
        """The broker has it."""
        if send.configures is not None:
            self._rounds.told(send.configures[0], self._clock.monotonic_s())

    def failed(self, send: Send) -> None:
        """It was not sent, or nobody knows: it is due again, with all others a little later."""
        if send.configures is not None:
            self._due.setdefault(*send.configures)
            self._not_before_s = self._clock.monotonic_s() + RETRY_S
