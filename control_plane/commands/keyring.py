"""The control plane's own keys: which one signs, and what each may still vouch for; folded from the log.

    key.added (the first, by itself) ─▶ key.announced ─▶ key.added (by the one before) ─▶ key.retired (by the new one)

A key counts from the event that adds it to the one that retires it, by their places in the log. So whoever steals a key
that is retired writes nothing more with it; and whoever steals the one that signs can name no other than the announced.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from control_plane.commands.ports import Log
from control_plane.errors import KeyMissingError, RefusedError
from control_plane.events import registry
from control_plane.events.access import KeyAdded, KeyAnnounced, KeyRetired
from control_plane.events.envelope import EVENT, LogName, StoredEvent
from control_plane.events.event import Event
from control_plane_wire import strict_json
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.messages import MAX_KEYS, KeyState
from control_plane_wire.signing import (
    CONTROL_PLANE,
    KEY,
    SigningKey,
    decode_public_key,
    decode_signature,
    encode_base64,
    key_id,
    verify,
)
from control_plane_wire.signing import EVENT as EVENT_TAG

KINDS: Final = frozenset({KeyAdded.KIND, KeyAnnounced.KIND, KeyRetired.KIND})
PAGE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnKey:
    """A key of ours. Attributes: `since`, `until`: the events that add and retire it; `heartbeats`: see KeyRetired."""

    public_key: bytes
    since: int = 0
    until: int | None = None
    heartbeats: int = 0

    @property
    def key_id(self) -> str:
        return key_id(self.public_key)

    def counts_at(self, seq: int) -> bool:
        return self.since <= seq and (self.until is None or seq < self.until)

    @property
    def state(self) -> str:
        return "active" if self.until is None else "retired"


class Keyring:
    """All of them, oldest first, and the private halves that this process holds.

    Args:
        held: private halves; without `first` the first of them is the first key that there ever was.
        first: the public key that the chain begins with; see `first_key`.
    """

    def __init__(self, *held: SigningKey, first: bytes | None = None) -> None:
        self._held = {key.key_id: key for key in held}
        self.chain: tuple[OwnKey, ...] = ()
        self._by_id: dict[str, OwnKey] = {}
        self._public_keys: dict[str, bytes] = {}
        self.announced: str | None = None
        self.position = 0
        self.version = 0
        self._refused: set[int] = set()
        self._put((OwnKey(public_key=first or held[0].public_key),))

    def _put(self, chain: tuple[OwnKey, ...]) -> None:
        self.chain = chain
        self._by_id.update({key.key_id: key for key in chain})
        self._public_keys.update({key.key_id: key.public_key for key in chain})
        self.version += 1

    # --- who signs ----------------------------------------------------------------------------------------------

    @property
    def head(self) -> OwnKey:
        """The newest, whether or not we hold it."""
        return self.chain[-1]

    @property
    def trusted(self) -> tuple[OwnKey, ...]:
        """Those that hosts are to trust, oldest first."""
        return tuple(key for key in self.chain if key.until is None)

    def is_known_by(self, keys: Sequence[str] | None, next_key: str | None) -> bool:
        """Whether a host knows all of it: it trusts just these, oldest first, and has heard which one comes next."""
        is_told = self.announced is None or next_key == self.announced[:16]
        return is_told and keys == tuple(key.key_id for key in self.trusted)

    @property
    def trusted_public_keys(self) -> list[bytes]:
        return [key.public_key for key in self.trusted]

    @property
    def active(self) -> SigningKey:
        """What signs events: the newest that is held and not retired. Raises KeyMissingError."""
        found = next((self._held[key.key_id] for key in reversed(self.trusted) if key.key_id in self._held), None)
        if found is None:
            raise KeyMissingError(f"the signing key {self.head.key_id} is not here")
        return found

    @property
    def messenger(self) -> SigningKey:
        """What signs commands: the oldest that is not retired, since every host trusts it. Raises KeyMissingError."""
        oldest = self.trusted[0]
        if oldest.key_id not in self._held:
            raise KeyMissingError(f"the signing key {oldest.key_id} is not here, and hosts may know no other yet")
        return self._held[oldest.key_id]

    def introducer(self, known: Iterable[str]) -> SigningKey:
        """What signs the word of new keys to a host: the newest that it trusts and we hold, even a retired one."""
        trusts = set(known)
        ours = [key.key_id for key in reversed(self.chain) if key.key_id in trusts and key.key_id in self._held]
        return self._held[ours[0]] if ours else self.messenger

    @property
    def missing(self) -> tuple[str, ...]:
        """The ids of the keys that are to sign, and are not held."""
        return tuple(key.key_id for key in self.trusted if key.key_id not in self._held)

    def hold(self, *keys: SigningKey) -> None:
        self._held |= {key.key_id: key for key in keys}

    def held(self, key_id: str) -> SigningKey | None:
        return self._held.get(key_id)

    def states(self) -> tuple[KeyState, ...]:
        """As agents and the API are told: those to trust, oldest first, then the retired ones; the newest of many."""
        told = sorted(self.chain[-MAX_KEYS:], key=lambda key: key.until is not None)
        return tuple(KeyState(public_key=key.public_key, state=key.state) for key in told)

    def sign_event(self, event: Event) -> bytes:
        return self.active.sign(EVENT_TAG, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=event.body())

    # --- what counts --------------------------------------------------------------------------------------------

    @property
    def public_keys(self) -> Mapping[str, bytes]:
        """All that there ever were by key_id, as it changes: to look at what is bound to its time in another way."""
        return MappingProxyType(self._public_keys)

    def keys_at(self, seq: int) -> Mapping[str, bytes]:
        """By key_id those whose signatures count on the event `seq`."""
        return {key.key_id: key.public_key for key in self.chain if key.counts_at(seq)}

    def keys_for(self, log: LogName, size: int) -> list[bytes]:
        """Those whose checkpoints of a log count that are over so many events."""
        return [
            key.public_key
            for key in self.chain
            if key.until is None or size <= (key.until if log == EVENT else key.heartbeats)
        ]

    def verify_event(self, stored: StoredEvent) -> None:
        """Raises SignatureError unless a key that counted there signed this body for this kind."""
        own = self._by_id.get(stored.key_id or "")
        if own is None or stored.signature is None or not own.counts_at(stored.seq):
            raise SignatureError("not signed by a key of this control plane that counts there")
        verify(
            own.public_key,
            stored.signature,
            EVENT_TAG,
            sender=CONTROL_PLANE,
            recipient=CONTROL_PLANE,
            body=stored.body,
        )

    # --- the fold -----------------------------------------------------------------------------------------------

    def take_in(self, stored: StoredEvent) -> bool:
        """Fold an event of KINDS, in the log's order; whether it follows. Once more changes nothing."""
        if stored.seq <= self.position:
            return stored.seq not in self._refused
        self.position = stored.seq
        try:
            self.verify_event(stored)
            follows = self._apply(registry.decode(stored), stored)
        except (SignatureError, MalformedMessageError):
            follows = False
        if not follows:
            self._refused.add(stored.seq)
        return follows

    async def catch_up(self, log: Log) -> None:
        """Fold what there is up to the log's head as it is now. Whoever reads on from there meets the rest."""
        head = await log.head(EVENT)
        while self.position < head.seq:
            page = await log.read(EVENT, after=self.position, limit=PAGE, kinds=KINDS, upto=head.seq)
            for stored in page:
                self.take_in(stored)
            if len(page) < PAGE:
                self.position = max(self.position, head.seq)

    def _apply(self, event: Event | None, stored: StoredEvent) -> bool:
        match event:
            case KeyAdded():
                return self._add(event, stored)
            case KeyAnnounced() if stored.key_id == self.head.key_id and self.announced is None:
                self.announced = event.public_key_sha256
                self.version += 1
                return True
            case KeyRetired() if stored.key_id == self.head.key_id and event.key_id != stored.key_id:
                return self._retire(event, stored.seq)
        return False

    def _add(self, event: KeyAdded, stored: StoredEvent) -> bool:
        public_key = decode_public_key(event.public_key)
        if event.predecessors is None:
            return self.chain[0].public_key == public_key and stored.key_id == event.key_id == self.chain[0].key_id
        is_next = (
            stored.key_id == self.head.key_id
            and event.key_id == key_id(public_key)
            and event.key_id not in self._by_id
            and self.announced == hashlib.sha256(public_key).hexdigest()
            and event.predecessors == tuple(encode_base64(key.public_key) for key in self.chain)
        )
        if not is_next:
            return False
        check_possession(event)
        self.announced = None
        self._put((*self.chain, OwnKey(public_key=public_key, since=stored.seq)))
        return True

    def _retire(self, event: KeyRetired, seq: int) -> bool:
        own = self._by_id.get(event.key_id)
        if own is None or own.until is not None:
            return False
        ended = replace(own, until=seq, heartbeats=event.heartbeats)
        self._put(tuple(ended if key.key_id == own.key_id else key for key in self.chain))
        return True


def first_key(added: Sequence[StoredEvent], held: Sequence[SigningKey]) -> bytes:
    """The public key that the chain begins with, as a key that we hold says itself; the log alone is asked for nothing.

    Args:
        added: the log's `key.added` events in their order; of those for one key the first genuine one counts.
    """
    before: dict[str, tuple[str, ...]] = {}
    for stored in added:
        try:
            event = registry.decode(stored)
            if not isinstance(event, KeyAdded) or event.key_id in before:
                continue
            if event.predecessors:
                check_possession(event)
                decode_public_key(event.predecessors[0])
            else:
                Keyring(first=decode_public_key(event.public_key)).verify_event(stored)
        except (SignatureError, MalformedMessageError):
            continue
        before[event.key_id] = event.predecessors or ()
    newest = max(held, key=lambda key: len(before.get(key.key_id, ())))
    predecessors = before.get(newest.key_id)
    return decode_public_key(predecessors[0]) if predecessors else newest.public_key


def check_possession(event: KeyAdded) -> None:
    """Raises SignatureError unless the added key itself has signed which ones come before it."""
    public_key = decode_public_key(event.public_key)
    signature = decode_signature(event.possession or "")
    verify(public_key, signature, KEY, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=_vouched(event))


def _vouched(event: KeyAdded) -> bytes:
    return strict_json.canonical(
        {"key_id": event.key_id, "predecessors": list(event.predecessors or ()), "public_key": event.public_key}
    )


# --- decisions --------------------------------------------------------------------------------------------------


def decide_announce(keyring: Keyring, public_key: bytes) -> KeyAnnounced:
    """Raises RefusedError: `key_announced`: another one is already; `key_not_here`: the newest, which has to say it."""
    if keyring.held(keyring.head.key_id) is None:
        raise RefusedError("key_not_here", f"the private half of {keyring.head.key_id} is not here: bring it back")
    if keyring.announced is not None:
        raise RefusedError(
            "key_announced", f"{keyring.announced[:16]} is announced, and hosts take no other: rotate to that one"
        )
    digest = hashlib.sha256(public_key).hexdigest()
    return KeyAnnounced(announced_by=keyring.head.key_id, public_key_sha256=digest)


def decide_rotate(keyring: Keyring, find: Callable[[str], SigningKey | None]) -> KeyAdded | None:
    """The announced key becomes the one that signs; None where that is done already, and nothing is announced since.

    Args:
        find: the private half of a key by its id.

    Raises:
        RefusedError: `nothing_announced`, `key_not_here`, or `key_not_retired`: an earlier rotation is not done.
    """
    if len(keyring.trusted) > 1 and keyring.announced is None:
        return None
    if keyring.announced is None:
        raise RefusedError("nothing_announced", "no key is announced: control-plane keys announce, and give it time")
    if len(keyring.trusted) > 1:
        raise RefusedError(
            "key_not_retired", f"{keyring.trusted[0].key_id} is not retired: first control-plane keys retire it"
        )
    new = find(keyring.announced[:16])
    if new is None or hashlib.sha256(new.public_key).hexdigest() != keyring.announced:
        raise RefusedError("key_not_here", f"the private half of {keyring.announced[:16]} is not here: bring it back")
    predecessors = tuple(encode_base64(key.public_key) for key in keyring.chain)
    event = KeyAdded(key_id=new.key_id, public_key=encode_base64(new.public_key), predecessors=predecessors)
    signature = new.sign(KEY, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=_vouched(event))
    return replace(event, possession=encode_base64(signature))


def decide_retire(keyring: Keyring, wanted: str, *, heartbeats: int, reason: str | None) -> KeyRetired | None:
    """None where it is retired already.

    Raises:
        RefusedError: `unknown_key`, or `key_in_use`: it is the newest; `key_not_here`: that one is not.
    """
    own = next((key for key in keyring.chain if key.key_id == wanted), None)
    if own is None:
        raise RefusedError("unknown_key", f"{wanted} is no key of this control plane")
    if own.until is not None:
        return None
    if own == keyring.head:
        raise RefusedError("key_in_use", f"{wanted} is the key that signs: first control-plane keys rotate to another")
    if keyring.held(keyring.head.key_id) is None:
        raise RefusedError("key_not_here", f"the private half of {keyring.head.key_id} is not here: bring it back")
    return KeyRetired(key_id=wanted, heartbeats=heartbeats, reason=reason)
