"""What happens to hosts: their registration and groups, which give authority, and their coming and going."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from control_plane.events.envelope import HEARTBEAT_EVENT, Key, LogName, StoredEvent
from control_plane.events.event import Event, WireBorn
from control_plane_wire import messages
from control_plane_wire.strict_json import Json, JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRegistered(Event):
    """A host with its key. `generation` counts the registrations of this name, so two at once cannot both stand.

    Attributes:
        hostname: the host's name.
        generation: 1, and one more each time that the name is registered again.
        public_key: base64 of 32 bytes.
        groups: all that it is in, sorted.
        registered_by: the user who did it, or made the enrolment token.
        enrolment_token_id: the token that it came by, if it came by one.
        fingerprint: hex SHA-256 of its key, if it asked without a token and was accepted by that.
    """

    KIND: ClassVar[str] = "host.registered"
    GIVES_AUTHORITY: ClassVar[bool] = True

    hostname: str
    generation: int
    public_key: str
    groups: tuple[str, ...]
    registered_by: str
    enrolment_token_id: str | None = None
    fingerprint: str | None = None

    def key(self) -> Key:
        return Key(self.hostname, self.KIND, self.hostname, str(self.generation))


@dataclass(frozen=True, slots=True, kw_only=True)
class _HostChanged(Event):
    """A change decided on what stood at the event `based_on`.

    All kinds of change share one key, so of two decisions on the same state the log takes one, whatever they change.

    Attributes:
        hostname: the host's name.
        based_on: seq of the event that last changed the host.
    """

    hostname: str
    based_on: int

    def key(self) -> Key:
        return Key(self.hostname, "host.changed", self.hostname, str(self.based_on))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostGroupsChanged(_HostChanged):
    """All groups of the host from now on.

    Attributes:
        groups: sorted; none where it is empty.
    """

    KIND: ClassVar[str] = "host.groups_changed"
    GIVES_AUTHORITY: ClassVar[bool] = True

    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLabelsChanged(_HostChanged):
    """All labels of the host from now on.

    Attributes:
        labels: names and values.
    """

    KIND: ClassVar[str] = "host.labels_changed"
    GIVES_AUTHORITY: ClassVar[bool] = True

    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMaintenanceChanged(_HostChanged):
    """Whether the host is in maintenance, from now on.

    Attributes:
        maintenance: whether it is.
    """

    KIND: ClassVar[str] = "host.maintenance_changed"
    GIVES_AUTHORITY: ClassVar[bool] = True

    maintenance: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRevoked(_HostChanged):
    """Its key is not trusted any more: results are refused, commands are not sent.

    Attributes:
        reason: for people.
    """

    KIND: ClassVar[str] = "host.revoked"
    GIVES_AUTHORITY: ClassVar[bool] = True

    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRetired(_HostChanged):
    """It is gone for good; its history stays, and its name may be registered again.

    Attributes:
        reason: for people.
    """

    KIND: ClassVar[str] = "host.retired"
    GIVES_AUTHORITY: ClassVar[bool] = True

    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeyRotated(_HostChanged):
    """The host has brought a new key, by proofs of both: either counts until a message signed with the new one comes.

    Attributes:
        public_key: the new one, base64 of 32 bytes.
        nonce_ends: of the nonce that was signed, in Unix seconds: an older one is not taken any more.
    """

    KIND: ClassVar[str] = "host.key_rotated"
    GIVES_AUTHORITY: ClassVar[bool] = True

    public_key: str
    nonce_ends: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKeySwitched(Event):
    """A message signed with the new key has come: the one before it counts no more.

    Attributes:
        hostname: the host's name.
        rotated_seq: the event that brought the new key.
        key_id: of the new key.
    """

    KIND: ClassVar[str] = "host.key_switched"
    GIVES_AUTHORITY: ClassVar[bool] = True

    hostname: str
    rotated_seq: int
    key_id: str

    def key(self) -> Key:
        return Key(self.hostname, self.KIND, self.hostname, str(self.rotated_seq))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRequestRefused(Event):
    """A host that asked to be let in without a token is not.

    Attributes:
        hostname: the name that it asked for.
        fingerprint: hex SHA-256 of its key.
        asked_at: Unix seconds.
        address: where it asked from.
    """

    KIND: ClassVar[str] = "host.request_refused"

    hostname: str
    fingerprint: str
    asked_at: int
    address: str | None = None

    def key(self) -> Key:
        return Key(self.fingerprint, self.KIND, self.hostname, str(self.asked_at))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostQuarantined(Event):
    """Its disk went back in time, or two machines have its identity: no commands go to it. A security event.

    Attributes:
        hostname: the host's name.
        heartbeat_seq: the heartbeat that showed it, in the heartbeat log.
        key_id: of the host's key, which has signed that; a host that was registered with another one is not meant.
        reason: what was found; one line.
        before: what was known: how far its journal had been, as Unix time, or the later boot.
        after: what it said then: how far its journal is, or the earlier boot, which goes on.
    """

    KIND: ClassVar[str] = "host.quarantined"
    GIVES_AUTHORITY: ClassVar[bool] = True

    hostname: str
    heartbeat_seq: int
    key_id: str
    reason: str
    before: str
    after: str

    def key(self) -> Key:
        return Key(self.hostname, self.KIND, self.hostname, str(self.heartbeat_seq))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostQuarantineLifted(_HostChanged):
    """An administrator trusts the machine again, as it is now: commands go to it.

    Attributes:
        reason: why, for people.
    """

    KIND: ClassVar[str] = "host.quarantine_lifted"
    GIVES_AUTHORITY: ClassVar[bool] = True

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceChanged(Event):
    """A change of presence by the control plane's clock.

    Attributes:
        hostname: the host's name.
        heartbeat_seq: the last heartbeat that counted, in the heartbeat log; the one that it came online with, where a
            command that came back tells that it is gone.
        heartbeat: its message, so that a host's last state outlives the heartbeat log's retention.
        cause: one line for people.
    """

    hostname: str
    heartbeat_seq: int
    heartbeat: Mapping[str, Json]
    cause: str

    def key(self) -> Key:
        return Key(self.hostname, self.KIND, self.hostname, str(self.heartbeat_seq))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWentOnline(PresenceChanged):
    """It is heard again, or its agent has started anew: whatever waits for it is due."""

    KIND: ClassVar[str] = "host.went_online"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWentStale(PresenceChanged):
    """It has missed two heartbeats."""

    KIND: ClassVar[str] = "host.went_stale"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWentOffline(PresenceChanged):
    """It has missed three heartbeats, or said goodbye, or is not where a command was sent."""

    KIND: ClassVar[str] = "host.went_offline"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDisputed(Event):
    """A host has brought back a checkpoint that does not fit the log: a security event, once for each such checkpoint.

    Attributes:
        hostname: the host's name.
        checkpoint: the note, as the host has it.
        reason: what does not fit; one line.
    """

    KIND: ClassVar[str] = "checkpoint.disputed"

    hostname: str
    checkpoint: str
    reason: str

    def key(self) -> Key:
        return Key(self.hostname, self.KIND, self.hostname, hashlib.sha256(self.checkpoint.encode()).hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReceived(WireBorn):
    """A host's heartbeat. Every one is recorded; which of them count is for `events.presence` to say."""

    KIND: ClassVar[str] = "heartbeat.received"
    LOG: ClassVar[LogName] = HEARTBEAT_EVENT

    @property
    def hostname(self) -> str:
        return str(self.message["hostname"])

    @property
    def heartbeat(self) -> messages.HeartbeatMessage:
        return messages.parse_heartbeat(self.message)

    @classmethod
    def from_stored(cls, stored: StoredEvent, body: JsonObject) -> "HeartbeatReceived":
        return cls(message=body, canonical=stored.body)

    def key(self) -> Key:
        return Key(self.hostname, "heartbeat", self.hostname, self.digest().hex())
