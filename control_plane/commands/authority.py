"""Who is who, folded from signed events of the log alone.

Nothing in the database grants anything by itself: an event that is not signed by a key of this control plane, or that
does not follow from what stands, is counted and has no effect. No read table is asked.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from control_plane.commands.access import AccessState
from control_plane.commands.enrolment import EnrolmentState
from control_plane.commands.hosts import FleetState
from control_plane.commands.ports import Log
from control_plane.events import registry
from control_plane.events.envelope import EVENT, StoredEvent
from control_plane.events.event import Event
from control_plane.events.tasks import TaskAccepted, TaskCancelRequested
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.messages import KeyState
from control_plane_wire.signing import CONTROL_PLANE, SigningKey, verify
from control_plane_wire.signing import EVENT as EVENT_TAG

# Tasks carry authority too, but each for itself: dispatch verifies them one by one.
KINDS: Final = frozenset(
    cls.KIND for cls in registry.CLASSES if cls.GIVES_AUTHORITY and cls not in {TaskAccepted, TaskCancelRequested}
)
PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Keyring:
    """The control plane's keys: one signs, and those before it verify what they signed.

    Attributes:
        retired: their public keys by key_id.
    """

    active: SigningKey
    retired: Mapping[str, bytes] = field(default_factory=dict)

    def public_key(self, wanted: str | None) -> bytes | None:
        """The public key of that key_id, None where it never was ours."""
        if wanted == self.active.key_id:
            return self.active.public_key
        return self.retired.get(wanted or "")

    def states(self) -> tuple[KeyState, ...]:
        """All of them, as agents and the API are told."""
        retired = (KeyState(public_key=public_key, state="retired") for public_key in self.retired.values())
        return (KeyState(public_key=self.active.public_key, state="active"), *retired)

    def sign_event(self, event: Event) -> bytes:
        return self.active.sign(EVENT_TAG, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=event.body())

    def verify_event(self, stored: StoredEvent) -> None:
        """Raises SignatureError unless one of our keys signed this body for this kind."""
        public_key = self.public_key(stored.key_id)
        if public_key is None or stored.signature is None:
            raise SignatureError("not signed by a key of this control plane")
        verify(public_key, stored.signature, EVENT_TAG, sender=CONTROL_PLANE, recipient=CONTROL_PLANE, body=stored.body)


class Authority:
    """The fold, and how far it has come."""

    def __init__(self, log: Log, keyring: Keyring) -> None:
        self._log = log
        self._keyring = keyring
        self._lock = asyncio.Lock()
        self.position = 0
        self.refused = 0
        self.access = AccessState()
        self.fleet = FleetState()
        self.enrolment = EnrolmentState()

    async def refresh(self) -> int:
        """Take in everything up to the log's head as it is now; the position that was reached."""
        async with self._lock:
            head = await self._log.head(EVENT)
            while self.position < head.seq:
                page = await self._log.read(EVENT, after=self.position, limit=PAGE, kinds=KINDS, upto=head.seq)
                for stored in page:
                    self.apply(stored)
                self.position = page[-1].seq if len(page) == PAGE else head.seq
            return self.position

    def apply(self, stored: StoredEvent) -> None:
        """Take one event in, if it counts."""
        try:
            self._keyring.verify_event(stored)
            event = registry.decode(stored)
            counts = event is not None and _names_its_kind(stored) and self._take_in(event, stored.seq)
        except (SignatureError, MalformedMessageError, TypeError, KeyError):
            counts = False
        self.refused += not counts

    def _take_in(self, event: Event, seq: int) -> bool:
        return self.access.apply(event, seq) and self.fleet.apply(event, seq) and self.enrolment.apply(event)


def _names_its_kind(stored: StoredEvent) -> bool:
    """Whether the signed body is of the kind that the row says; else a signature was moved from one kind to another."""
    return f'"kind":"{stored.kind}"'.encode() in stored.body
