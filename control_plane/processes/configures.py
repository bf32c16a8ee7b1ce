"""Which hosts are to be told their groups, the control plane's keys and the newest checkpoint, and when.

A host is told once of all that is in the log when its message is made: its coming online, its groups, our keys. The log
and the read table tell the same at different times; what both tell is one thing to say all the same. It is told again
- when something new of it, or of our keys, is in the log;
- a second after a publish that was not sent or whose outcome nobody knows, and at the next look (they are `DRIFT_S`
  apart) where the broker had no queue for it;
- at a look, while it goes on saying other groups, and was not told within the last `DRIFT_S`;
- when another process has taken over, or this one anew, since what was said before may have died in the middle.
So it is at least once, and a host that has it already takes no harm from it.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple

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


class _Behind(NamedTuple):
    """A host that trusts other keys of ours than it should, or has not heard which comes next.

    Attributes:
        said_at: the log position of when it said so.
        keys: those that it trusts.
    """

    said_at: int
    keys: Collection[str]


class _Told(NamedTuple):
    """What the broker has for a host.

    Attributes:
        as_of: all that was in the log by then is in it.
        at_s: when, in monotonic seconds.
        signer: the id of the key that signed it.
    """

    as_of: int
    at_s: float
    signer: str


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
        self._told: dict[str, _Told] = {}  # the newest, by this process
        self._behind: dict[str, _Behind] = {}
        self._keys_seq = 0  # the last event that changed our keys
        self._is_new = True  # not everybody was told of that
        self._not_before_s = 0.0  # by the monotonic clock, as is the next
        self._drift_s = 0.0  # when to look for it again

    async def restart(self, there: Iterable[str], seq: int) -> None:
        """Whoever did this before may have died with groups untold, so who has bound others is told again."""
        self._due = {host.hostname: seq for host in await self._host_queries.drifted()}
        self._told, self._behind, self._is_new = {}, {}, True
        await self._look_for_untold(seq)
        self._drift_s = self._clock.monotonic_s() + DRIFT_S
        self._rounds.restart(there, self._clock.monotonic_s())

    def changed(self, hostname: str, seq: int) -> None:
        """Its groups are others from this event on."""
        if not self._is_told_as_of(hostname, seq):
            self._due[hostname] = seq

    def keys_changed(self, seq: int) -> None:
        """Hosts have yet to be told: it is looked at once who they are."""
        self._keys_seq, self._is_new = seq, True
        self._drift_s = self._clock.monotonic_s()

    def came_online(self, event: hosts.HostWentOnline, seq: int) -> None:
        """A basic agent is told nothing, and is passed over when it is due."""
        hostname = event.hostname
        keys = event.heartbeat.get("keys")
        if isinstance(keys, list | tuple):
            self._said_keys(hostname, said_of(event.heartbeat), seq)
        if self._is_told_as_of(hostname, seq):
            return
        host = self._authority.fleet.hosts.get(hostname)
        assigned = set(host.groups) if host else set()
        bound = event.heartbeat.get("groups")
        if isinstance(bound, list | tuple) and set(map(str, bound)) != assigned:
            self._due[hostname] = seq
        self._rounds.online(hostname, self._clock.monotonic_s())

    def _said_keys(self, hostname: str, said: KeysSaid, seq: int) -> None:
        behind = self._behind.get(hostname)
        if behind is None or behind.said_at < seq:  # else the read table has told what it said later
            if self._knows(said):
                self._behind.pop(hostname, None)
                return
            behind = self._behind[hostname] = _Behind(seq, said.keys or ())
        if not self._has_heard(hostname, behind.keys, seq):
            self._due[hostname] = seq

    def _is_told_as_of(self, hostname: str, seq: int) -> bool:
        """Whether what it was sent says all that was in the log by then, and came after that."""
        return hostname in self._told and self._told[hostname].as_of >= seq

    def _has_heard(self, hostname: str, keys: Collection[str], seq: int) -> bool:
        """Whether that was also signed by a key for one who trusts these: it takes no other."""
        if not self._is_told_as_of(hostname, seq):
            return False
        signer = self._told[hostname].signer
        return signer in keys or signer == self._keyring.introducer(keys).key_id

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
                signer=self._keyring.introducer(self._behind[hostname].keys if hostname in self._behind else ()),
            )
            for hostname, seq in wanted.items()
            if self._authority.fleet.public_key(hostname) is not None and not self._is_basic(hostname)
        ]

    async def _look_for_drift(self) -> None:
        """Whoever goes on saying other groups is told again: what it was sent may have died with its agent's queue."""
        now_s = self._clock.monotonic_s()
        if now_s < self._drift_s:
            return
        self._drift_s = now_s + DRIFT_S
        for host in await self._host_queries.drifted():
            if host.hostname not in self._told or self._told[host.hostname].at_s + DRIFT_S <= now_s:
                self._due.setdefault(host.hostname, host.pos)
        await self._look_for_untold(self._authority.position)

    def _knows(self, said: KeysSaid) -> bool:
        return self._keyring.is_known_by(said.keys, said.next_key)

    async def _look_for_untold(self, seq: int) -> None:
        """Whoever is there and trusts other keys of ours than it should, or has not heard which comes next."""
        if (len(self._keyring.chain) == 1 and self._keyring.announced is None) or not (self._is_new or self._behind):
            return  # nobody can know anything else, or all did
        # Who came online before the keys changed may not be in the read table yet; who comes after is told then.
        # Once all were looked at, only those who were behind are: one old agent stays so for ever.
        behind = None if self._is_new else frozenset(self._behind)
        as_of, said = await self._host_queries.said_of_keys(
            ("online", "stale"), at_least=self._keys_seq, hostnames=behind
        )
        if as_of < self._keys_seq:
            self._drift_s = self._clock.monotonic_s()
            return
        newer = {hostname: known for hostname, known in self._behind.items() if known.said_at > as_of}
        for hostname, each in said.items():
            if hostname not in newer and not self._knows(each):
                newer[hostname] = _Behind(as_of, each.keys or ())
                if not self._has_heard(hostname, each.keys or (), self._keys_seq):  # else it does not take it
                    self._due.setdefault(hostname, seq)
        self._is_new, self._behind = False, newer

    def told(self, send: Send) -> None:
        """The broker has it; what was said while that took its time may be in it."""
        if send.configures is None or send.signer is None or not isinstance(send.message, ConfigureMessage):
            return
        hostname, as_of, now_s = send.configures[0], send.message.as_of, self._clock.monotonic_s()
        self._told[hostname] = _Told(as_of, now_s, send.signer.key_id)
        self._rounds.told(hostname, now_s)
        due, behind = self._due.get(hostname), self._behind.get(hostname)
        if due is not None and due <= as_of and (behind is None or self._has_heard(hostname, behind.keys, due)):
            del self._due[hostname]

    def failed(self, send: Send) -> None:
        """It was not sent, or nobody knows: it is due again, with all others a little later."""
        if send.configures is not None:
            self._due.setdefault(*send.configures)
            self._not_before_s = self._clock.monotonic_s() + RETRY_S
