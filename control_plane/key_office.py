"""The control plane's own keys, as the server's command line handles them: announce, rotate, retire."""

from dataclasses import dataclass, field
from typing import Final

from control_plane.commands.access import CONSOLE
from control_plane.commands.grammar import checked_line
from control_plane.commands.hosts import Host
from control_plane.commands.keyring import OwnKey, decide_announce, decide_retire, decide_rotate
from control_plane.commands.targets import in_words
from control_plane.core import Core
from control_plane.errors import RefusedError
from control_plane.events.envelope import HEARTBEAT_EVENT
from control_plane.projections.folding import create_tables
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.queries.hosts import KeysSaid
from control_plane_wire.signing import SigningKey

STATES: Final = ("online", "stale", "offline", "pending")


@dataclass(slots=True)
class Heard:
    """The active hosts by what they said last of the control plane's keys.

    Attributes:
        knowing: they trust just the keys that are to be trusted, and know which is announced.
        behind: they do not, as far as is known; by hostname the ids that they trust, None where they do not say.
        late: of those behind, the ones that do not trust the newest key.
        basic: their agents say nothing of it, and are given keys by hand.
    """

    knowing: list[str] = field(default_factory=list)
    behind: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    basic: list[str] = field(default_factory=list)


class KeyOffice:
    """All of it may be repeated, and goes on where a crash has cut it off.

    Its methods raise RefusedError where a rule says no, and ConfigurationError where a file cannot be used.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._keyring = core.keyring

    @property
    def chain(self) -> tuple[OwnKey, ...]:
        return self._keyring.chain

    @property
    def announced(self) -> str | None:
        """Hex SHA-256 of the next public key."""
        return self._keyring.announced

    def is_here(self, key_id: str) -> bool:
        return self._core.keys.find(key_id) is not None

    async def announce(self) -> str:
        """Make the next key, where none is announced, and say which it is; its id."""
        await self._core.authority.refresh()
        if (announced := self.announced) is not None:
            return announced[:16]
        key = self._prepared()
        if key is None:
            key = SigningKey.generate()
            self._core.keys.put(key)  # first: what is announced and lost could never be replaced
        event = decide_announce(self._keyring, key.public_key)
        await self._core.handling.record_new(event, actor=CONSOLE.username)
        if self._keyring.announced != event.public_key_sha256:
            raise RefusedError("key_announced", "somebody else has announced another key just now; look again")
        return key.key_id

    def _prepared(self) -> SigningKey | None:
        """One that an announcement which was cut off has left, or that the environment gives beside."""
        return next((key for key in self._core.keys.load() if key.key_id not in self._keyring.public_keys), None)

    async def rotate(self) -> str:
        """Make the announced key the one that signs; its id."""
        await self._core.authority.refresh()
        event = decide_rotate(self._keyring, self._core.keys.find)
        if event is not None:
            await self._core.handling.record_new(event, actor=CONSOLE.username)
            if self._keyring.head.key_id != event.key_id:
                raise RefusedError("changed_meanwhile", "somebody else has changed the keys just now; look again")
        return self._keyring.head.key_id

    async def retire(self, key_id: str, *, anyway: bool, forget: bool, reason: str | None) -> Heard:
        """End an earlier key, and delete its private half where no host waits for its word any more; who is behind.

        Args:
            anyway: though some hosts are behind. Its private half stays, to tell them of the new key when they come.
            forget: and delete it all the same: whoever is behind has to be enrolled again.

        Raises:
            RefusedError: `hosts_behind`: some active host with a full agent does not trust the newest key yet.
        """
        await self._core.authority.refresh()
        heartbeats = (await self._core.log.head(HEARTBEAT_EVENT)).seq
        if reason is not None:
            checked_line("reason", reason)
        event = decide_retire(self._keyring, key_id, heartbeats=heartbeats, reason=reason)
        heard = await self.heard()
        if heard.late and event is not None and not (anyway or forget):
            newest = self._keyring.head.key_id
            raise RefusedError("hosts_behind", f"these do not trust {newest} yet: {in_words(heard.late)}")
        if event is not None:
            await self._core.handling.record_new(event, actor=CONSOLE.username)
        if forget or not heard.late:
            self._core.keys.delete(key_id)
        return heard

    async def heard(self) -> Heard:
        core, found = self._core, Heard()
        await create_tables(core.database, HostsProjection())  # no server may have run yet
        _, said = await core.host_queries.said_of_keys(STATES)
        views = await core.host_queries.by_name(core.authority.fleet.active())
        for name in core.authority.fleet.active():
            host, view = core.authority.fleet.hosts[name], views.get(name)
            is_heard = view is not None and view.last_heartbeat_us is not None
            if host.is_basic(view.basic if view is not None and is_heard else None):
                found.basic.append(name)
            elif self._knows(host, said.get(name)):
                found.knowing.append(name)
            else:
                found.behind[name] = said[name].keys if name in said else None
                if not self._trusts_newest(host, said.get(name)):
                    found.late.append(name)
        return found

    def _knows(self, host: Host, said: KeysSaid | None) -> bool:
        ours = self._keyring
        if said is None:
            return ours.announced is None and self._trusts_newest(host, said)
        return ours.is_known_by(said.keys, said.next_key)

    def _trusts_newest(self, host: Host, said: KeysSaid | None) -> bool:
        """One that was never heard has those that there were when it was enrolled."""
        newest = self._keyring.head
        if said is None:
            return host.registered_seq > newest.since
        return newest.key_id in (said.keys or ())
