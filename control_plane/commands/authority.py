"""Who is who, folded from signed events of the log alone.

Nothing in the database grants anything by itself: an event that is not signed by a key of this control plane, or that
does not follow from what stands, is counted and has no effect. No read table is asked.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from control_plane.commands.access import AccessState, Principal
from control_plane.commands.approvals import ApprovalState
from control_plane.commands.enrolment import EnrolmentState
from control_plane.commands.hosts import FleetState
from control_plane.commands.keyring import KINDS as OF_KEYS
from control_plane.commands.keyring import Keyring
from control_plane.commands.passkeys import PasskeyState
from control_plane.commands.ports import Log
from control_plane.commands.previews import PREVIEW_S
from control_plane.commands.reading import Names, Readable
from control_plane.commands.rules import RuleState, withdrawn
from control_plane.commands.stop import StopState
from control_plane.commands.templates import TemplateState
from control_plane.errors import ConfigurationError, StorageUnavailableError
from control_plane.events import registry
from control_plane.events.access import TokenCreated
from control_plane.events.approvals import ApprovalRequested
from control_plane.events.enrolment import EnrolmentTokenCreated
from control_plane.events.envelope import EVENT, NewEvent, StoredEvent
from control_plane.events.event import Event
from control_plane.events.tasks import TaskAccepted
from control_plane_wire.clock import Clock, SystemClock
from control_plane_wire.errors import MalformedMessageError, SignatureError
from control_plane_wire.lifecycle import wait_for_any
from control_plane_wire.signing import SigningKey

__all__ = ["FLEET_US", "KINDS", "MARK_US", "PAGE", "POLL_S", "RETRY_S", "Authority", "Keyring"]

# Tasks carry authority too, but each for itself: dispatch verifies them one by one.
KINDS: Final = frozenset(
    cls.KIND for cls in registry.CLASSES if cls.GIVES_AUTHORITY and not cls.KIND.startswith(("task.", "execution."))
)
FLEET_US: Final = 2 * PREVIEW_S * 1_000_000  # for so long it is known what the fleet was, twice what a preview holds
MARK_US: Final = 60 * 1_000_000
PAGE: Final = 1000
POLL_S: Final = 0.25  # how late another replica's decision may be seen here
RETRY_S: Final = 1.0
FIND_S: Final = 5.0  # between two looks for a key that is missing here

log = logging.getLogger(__name__)


class Authority:
    """The fold, and how far it has come. As a service it follows the log, so that what other replicas record counts.

    Args:
        clock: tells what is over and need not be remembered.
        find: the private half of a key by its id, where this process has one; it may take a second.
    """

    name = "authority"

    def __init__(
        self,
        log: Log,
        keyring: Keyring,
        clock: Clock | None = None,
        *,
        find: Callable[[str], SigningKey | None] | None = None,
    ) -> None:
        self._log = log
        self._find = find
        self._looked_s, self._looked_version = 0.0, -1  # for a missing key, by the monotonic clock
        self._keyring = keyring
        self._clock = clock or SystemClock()
        self._lock = asyncio.Lock()
        self.position = 0
        self.refused = 0
        self.access = AccessState()
        self.fleet = FleetState()
        self.enrolment = EnrolmentState()
        self.rules = RuleState()
        self.passkeys = PasskeyState()
        self.stop = StopState()
        self.templates = TemplateState()
        self.approvals = ApprovalState()
        self._readable = Readable()
        self._marks: deque[tuple[int, int]] = deque()  # when and where the log was, about once a minute

    async def run(self, stop: asyncio.Event) -> None:
        """Keep up with the log until `stop`; while the log cannot be read, what was read last counts."""
        while not stop.is_set():
            pause_s = POLL_S
            try:
                await self.refresh()
            except StorageUnavailableError:
                pause_s = RETRY_S
                log.warning("the authority cannot read the log", exc_info=True)
            await wait_for_any(stop, timeout_s=pause_s)

    def signed(self, event: Event, *, actor: str) -> NewEvent:
        """An event that gives authority, as it is recorded."""
        signature, key_id = self._keyring.sign_event(event), self._keyring.active.key_id
        return event.to_new_event(actor=actor, signature=signature, key_id=key_id)

    def withdrawn(self, task: TaskAccepted, hostnames: Sequence[str]) -> Mapping[str, str]:
        """On which of these hosts of an accepted task, and why, who asked for it may not run it any more."""
        return withdrawn(self.access, self.rules, self.fleet, task, hostnames)

    def readable(self, principal: Principal, action: str) -> Names:
        """The hosts on which somebody may do one of `rules.READING`, as everything stands now."""
        return self._readable.names(principal, action, self.rules, self.fleet)

    async def refresh(self) -> int:
        """Take in everything up to the log's head as it is now; the position that was reached."""
        async with self._lock:
            head = await self._log.head(EVENT)
            while self.position < head.seq:
                page = await self._log.read(EVENT, after=self.position, limit=PAGE, kinds=KINDS, upto=head.seq)
                keys = [stored for stored in page if stored.kind in OF_KEYS]
                for stored in keys:  # first, since a key may have signed what comes after it
                    self._keyring.take_in(stored)
                # A start reads them all; a thousand signatures take about 0.1 s, too long for the loop.
                for stored, event in await asyncio.to_thread(self._authentic, page) if page else ():
                    self._pass(stored)
                    self.refused += event is None or not self._take_in(event, stored.seq)
                self.position = page[-1].seq if len(page) == PAGE else head.seq
                self._keyring.position = max(self._keyring.position, self.position)
            position = self.position
        await self._look_for_keys()  # which may take a passphrase's time, and nobody has to wait for it
        return position

    async def _look_for_keys(self) -> None:
        """Take what is to sign from its file as soon as it is there, so that nothing need be restarted."""
        if self._find is None or not self._keyring.missing:
            return
        now_s = self._clock.monotonic_s()
        if now_s < self._looked_s + FIND_S and self._keyring.version == self._looked_version:
            return
        self._looked_s, self._looked_version = now_s, self._keyring.version
        for key_id in self._keyring.missing:
            try:
                found = await asyncio.to_thread(self._find, key_id)
            except ConfigurationError as error:
                log.error("a signing key cannot be read", extra={"key_id": key_id, "reason": str(error)})  # noqa: TRY400
                continue
            if found is not None:
                self._keyring.hold(found)
                log.info("a signing key was taken", extra={"key_id": key_id})

    def _pass(self, stored: StoredEvent) -> None:
        """Forget what the fleet was before any preview that still holds."""
        now_us = stored.recorded_us
        if not self._marks or self._marks[-1][0] + MARK_US <= now_us:
            self._marks.append((now_us, stored.seq))
        while self._marks[0][0] + FLEET_US < now_us:
            self.fleet.forget(self._marks.popleft()[1])

    def _authentic(self, page: Sequence[StoredEvent]) -> list[tuple[StoredEvent, Event | None]]:
        """Each with its event, None where it is not ours or not what it says."""
        return [(stored, self._authenticated(stored)) for stored in page]

    def _authenticated(self, stored: StoredEvent) -> Event | None:
        if stored.kind in OF_KEYS and not self._keyring.take_in(stored):
            return None
        try:
            self._keyring.verify_event(stored)
            return registry.decode(stored)
        except (SignatureError, MalformedMessageError):
            return None

    def _take_in(self, event: Event, seq: int) -> bool:
        """Whether it follows from what stands; each state lets pass what is not about it."""
        if isinstance(event, EnrolmentTokenCreated):
            self.enrolment.forget(self._clock.now_s())
        elif isinstance(event, TokenCreated):
            self.access.forget(self._clock.now_s())
        elif isinstance(event, ApprovalRequested):
            self.approvals.forget(self._clock.now_s())
        try:
            states = (self.access, self.fleet, self.rules, self.stop, self.templates, self.approvals)
            applied = all(state.apply(event, seq) for state in states)
            return applied and self.enrolment.apply(event) and self.passkeys.apply(event)
        except SignatureError:  # a public key that is none
            return False
