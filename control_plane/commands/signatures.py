"""Whose signatures the events of a log carry, checked anew: the control plane's own, and those of hosts by their keys.

A host's event counts by a key that was registered when it was recorded. Two processes may disagree by a moment on when
that was, and a log of heartbeats is related to the log of events by the clock alone: hence some slack.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from control_plane.commands.authority import Keyring
from control_plane.commands.hosts import FleetState
from control_plane.commands.tasks import verify_authorisation
from control_plane.events import hosts, registry
from control_plane.events.envelope import StoredEvent
from control_plane.events.event import WireBorn
from control_plane.events.tasks import TaskAccepted
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.signing import CONTROL_PLANE, HEARTBEAT, RESULT, key_id, verify

SLACK_US: Final = 60_000_000

AUTHORITY: Final = frozenset(cls.KIND for cls in registry.CLASSES if cls.GIVES_AUTHORITY)
HOSTS: Final = frozenset(cls.KIND for cls in registry.CLASSES if issubclass(cls, WireBorn))
FLEET: Final = frozenset(
    cls.KIND for cls in registry.CLASSES if cls.GIVES_AUTHORITY and cls.__module__ == hosts.__name__
)


@dataclass(slots=True)
class Signatures:
    """What is known of the keys so far; `learn` before `wrong`, in the order of the event log."""

    keyring: Keyring
    _fleet: FleetState = field(default_factory=FleetState)
    _keys: dict[str, list[tuple[int, tuple[bytes, ...]]]] = field(default_factory=dict)

    def learn(self, events: Sequence[StoredEvent]) -> None:
        """Take in which keys the control plane has registered and revoked; events of other kinds are passed over."""
        for stored in events:
            if stored.kind not in FLEET or self._wrong(stored) is not None:
                continue
            event = registry.decode(stored)
            if event is not None and stored.hostname is not None and self._fleet.apply(event, stored.seq):
                keys = self._fleet.public_keys(stored.hostname)
                self._keys.setdefault(stored.hostname, []).append((stored.recorded_us, keys))

    def wrong(self, events: Sequence[StoredEvent]) -> list[tuple[int, str]]:
        """The seq of each event whose signature is missing or does not hold, and why. For a thread of its own."""
        return [(stored.seq, reason) for stored in events if (reason := self._wrong(stored)) is not None]

    def _wrong(self, stored: StoredEvent) -> str | None:
        try:
            if stored.kind == TaskAccepted.KIND:
                verify_authorisation(stored, self.keyring.keys_at(stored.seq))
            elif stored.kind in AUTHORITY:
                self.keyring.verify_event(stored)
            elif stored.kind in HOSTS:
                self._verify_host(stored)
        except (SignatureError, MalformedMessageError) as error:
            return f"{stored.kind}: {error.reason}"
        return None

    def _verify_host(self, stored: StoredEvent) -> None:
        if stored.hostname is None or stored.signature is None:
            raise SignatureError("not signed by its host")
        tag = HEARTBEAT if stored.kind == hosts.HeartbeatReceived.KIND else RESULT
        for public_key in self._registered(stored.hostname, stored.recorded_us):
            if key_id(public_key) == stored.key_id:
                verify(
                    public_key,
                    stored.signature,
                    tag,
                    sender=stored.hostname,
                    recipient=CONTROL_PLANE,
                    body=stored.body,
                )
                return
        raise SignatureError(f"no key of {stored.hostname} with the id {stored.key_id} was registered then")

    def _registered(self, hostname: str, at_us: int) -> list[bytes]:
        """The keys of a host that counted at some moment around a time."""
        versions = self._keys.get(hostname, [])
        ends = [since_us for since_us, _ in versions[1:]] + [at_us + SLACK_US]
        return [
            public_key
            for (since_us, keys), end_us in zip(versions, ends, strict=True)
            if since_us - SLACK_US <= at_us <= end_us + SLACK_US
            for public_key in keys
        ]
