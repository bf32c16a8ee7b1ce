"""The fleet as the signed events say: who is registered, with which key, in which groups; and decisions on it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from control_plane.commands.grammar import checked_line, checked_name
from control_plane.errors import NotFoundError, RefusedError
from control_plane.events.event import Event
from control_plane.events.hosts import (
    HostGroupsChanged,
    HostKeyRotated,
    HostKeySwitched,
    HostLabelsChanged,
    HostMaintenanceChanged,
    HostQuarantined,
    HostQuarantineLifted,
    HostRegistered,
    HostRetired,
    HostRevoked,
)
from control_plane_wire.errors import SignatureError
from control_plane_wire.signing import check_public_key, decode_public_key, encode_base64, key_id

MAX_GROUPS: Final = 64
MAX_LABELS: Final = 64

_Changed: TypeAlias = (
    HostGroupsChanged
    | HostLabelsChanged
    | HostMaintenanceChanged
    | HostRevoked
    | HostRetired
    | HostQuarantineLifted
    | HostKeyRotated
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host as one event left it.

    Attributes:
        registered_seq, changed_seq: the events of its registration, and of its last change.
        groups: each with the log position at which it was assigned.
        is_enrolled: it came by a token or asked by itself, so its agent speaks more than the required fields.
        status: registered, revoked or retired.
        quarantine: why no commands go to it; None where they do.
        new_key: another key of its own that counts as well, until it is the only one.
        rotated_seq, nonce_ends: the event that brought that; until when its nonce was good, in Unix seconds.
        old_keys: those that it has had since its registration.
    """

    hostname: str
    public_key: bytes
    generation: int
    registered_seq: int
    changed_seq: int
    groups: Mapping[str, int]
    is_enrolled: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    maintenance: bool = False
    status: str = "registered"
    quarantine: str | None = None
    new_key: bytes | None = None
    rotated_seq: int = 0
    nonce_ends: int = 0
    old_keys: frozenset[bytes] = frozenset()

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Its own."""
        return (self.public_key,) if self.new_key is None else (self.public_key, self.new_key)

    def by_each_key(self) -> "tuple[Host, ...]":
        """This host by each of its keys, as if it had that one alone."""
        return tuple(replace(self, public_key=key, new_key=None) for key in self.keys)

    @property
    def is_active(self) -> bool:
        return self.status == "registered"

    def is_basic(self, heard: bool | None) -> bool:
        """Whether its agent knows the required fields only.

        Args:
            heard: whether it does by what it said last; None where it has not been heard. Then who enrolled with a
                token has shown that it knows more, and another is taken for basic.
        """
        return not self.is_enrolled if heard is None else heard


@dataclass(slots=True)
class FleetState:
    """All hosts; `apply` is the only way in. Attributes: `changed_seq`: the last event that changed one."""

    hosts: dict[str, Host] = field(default_factory=dict)
    changed_seq: int = 0
    # What each was, for `at`; from before `_since` only the last.
    _versions: dict[str, list[Host]] = field(default_factory=dict)
    _since: int = 0

    def apply(self, event: Event, seq: int) -> bool:
        """Take one event in; False where it does not follow from what stands (a copy of an old one, say)."""
        match event:
            case HostRegistered():
                return self._stand(self._registered(event, seq))
            case HostQuarantined():
                return self._quarantine(event)
            case HostKeySwitched():
                return self._switch(event, seq)
            case (
                HostGroupsChanged()
                | HostLabelsChanged()
                | HostMaintenanceChanged()
                | HostRevoked()
                | HostRetired()
                | HostQuarantineLifted()
                | HostKeyRotated()
            ):
                return self._stand(self._changed(event, seq))
        return True

    def _stand(self, host: Host | None) -> bool:
        if host is None:
            return False
        self.hosts[host.hostname] = host
        self.changed_seq = host.changed_seq
        versions = self._versions.setdefault(host.hostname, [])
        versions.append(host)
        while len(versions) > 1 and versions[1].changed_seq <= self._since:
            del versions[0]
        return True

    def forget(self, before: int) -> None:
        """Nobody asks any more what stood before a log position."""
        self._since = max(self._since, before)

    def _registered(self, event: HostRegistered, seq: int) -> Host | None:
        before = self.hosts.get(event.hostname)
        if event.generation != (before.generation + 1 if before else 1) or (before and before.status != "retired"):
            return None
        return Host(
            hostname=event.hostname,
            public_key=decode_public_key(event.public_key),
            generation=event.generation,
            registered_seq=seq,
            changed_seq=seq,
            groups=dict.fromkeys(event.groups, seq),
            is_enrolled=event.enrolment_token_id is not None or event.fingerprint is not None,
        )

    def _quarantine(self, event: HostQuarantined) -> bool:
        """It is found, and not decided on what stood: so decisions that are being made go on from what they saw."""
        host = self.hosts.get(event.hostname)
        if host is None or host.status == "retired" or key_id(host.public_key) != event.key_id:
            return False
        self.hosts[event.hostname] = replace(host, quarantine=event.reason)
        return True

    def _switch(self, event: HostKeySwitched, seq: int) -> bool:
        """It is found, too; another rotation meanwhile makes it void."""
        host = self.hosts.get(event.hostname)
        if host is None or host.new_key is None or host.rotated_seq != event.rotated_seq:
            return False
        old = host.old_keys | {host.public_key}
        self.hosts[event.hostname] = replace(host, public_key=host.new_key, new_key=None, old_keys=old)
        self.changed_seq = seq
        return True

    def _changed(self, event: _Changed, seq: int) -> Host | None:
        host = self.hosts.get(event.hostname)
        if host is None or event.based_on != host.changed_seq:
            return None
        match event:
            case HostGroupsChanged(groups=groups):
                since = {group: host.groups.get(group, seq) for group in groups}
                return replace(host, changed_seq=seq, groups=since)
            case HostLabelsChanged(labels=labels):
                return replace(host, changed_seq=seq, labels=labels)
            case HostMaintenanceChanged(maintenance=maintenance):
                return replace(host, changed_seq=seq, maintenance=maintenance)
            case HostRevoked():
                return replace(host, changed_seq=seq, status="revoked")
            case HostRetired():
                return replace(host, changed_seq=seq, status="retired")
            case HostQuarantineLifted():
                return replace(host, changed_seq=seq, quarantine=None)
            case HostKeyRotated(public_key=public_key, nonce_ends=nonce_ends):
                new_key = decode_public_key(public_key)
                old = host.old_keys | (set(host.keys) - {host.public_key, new_key})
                rotated = replace(host, new_key=new_key, rotated_seq=seq, nonce_ends=nonce_ends, old_keys=old)
                return replace(rotated, changed_seq=seq)

    def at(self, seq: int) -> "FleetState | None":
        """The fleet as it stood at an earlier log position, None where that is forgotten; for looking at only."""
        if seq < self._since:
            return None
        then = (
            next((host for host in reversed(versions) if host.changed_seq <= seq), None)
            for versions in self._versions.values()
        )
        return FleetState({host.hostname: host for host in then if host is not None})

    def active(self) -> list[str]:
        """The hostnames that commands may go to, sorted."""
        return sorted(name for name, host in self.hosts.items() if host.is_active)

    def members(self, group: str) -> list[str]:
        """The active hosts of a group, sorted."""
        return sorted(name for name, host in self.hosts.items() if host.is_active and group in host.groups)

    def host(self, hostname: str) -> Host:
        """Raises NotFoundError where it was never registered, or is retired."""
        host = self.hosts.get(hostname)
        if host is None or host.status == "retired":
            raise NotFoundError("unknown_host", f"there is no host {hostname}")
        return host

    def is_replaced(self, hostname: str, as_of: int) -> bool:
        """Whether the name was registered again after a log position: what was for it then is not for this machine."""
        host = self.hosts.get(hostname)
        return host is not None and host.registered_seq > as_of

    def public_key(self, hostname: str) -> bytes | None:
        """The key whose signatures count for this host; None where it is unknown, revoked or retired."""
        host = self.hosts.get(hostname)
        return host.public_key if host is not None and host.is_active else None

    def public_keys(self, hostname: str) -> tuple[bytes, ...]:
        """The keys whose signatures count for this host: two while it rotates, none where it is not active."""
        host = self.hosts.get(hostname)
        return host.keys if host is not None and host.is_active else ()

    def is_quarantined(self, hostname: str) -> bool:
        """Whether no command is to reach it, for now."""
        host = self.hosts.get(hostname)
        return host is not None and host.quarantine is not None

    def quarantined(self) -> list[str]:
        """The hostnames of active hosts that no command is to reach, sorted."""
        return [name for name in self.active() if self.is_quarantined(name)]


def decide_register(
    fleet: FleetState,
    *,
    hostname: str,
    public_key: bytes,
    groups: Collection[str],
    by: str,
    enrolment_token_id: str | None = None,
    fingerprint: str | None = None,
) -> HostRegistered | None:
    """The registration, or None where the host is registered already with this very key.

    Raises:
        RefusedError: `host_exists`: the name belongs to another key; it is never taken over silently. `weak_key`:
            signatures under this key could be forged.
    """
    _check_strong(public_key)
    before = fleet.hosts.get(hostname)
    if before is not None and before.status != "retired":
        if before.is_active and public_key in before.keys:
            return None
        raise _exists(before)
    return HostRegistered(
        hostname=checked_name("hostname", hostname),
        generation=before.generation + 1 if before else 1,
        public_key=encode_base64(public_key),
        groups=checked_groups(groups),
        registered_by=by,
        enrolment_token_id=enrolment_token_id,
        fingerprint=fingerprint,
    )


def decide_rotate(fleet: FleetState, host: Host, public_key: bytes, nonce_ends: int) -> HostKeyRotated:
    """Another key for a host that has proved to have both. The same again, with a new nonce, is one more event.

    Raises:
        RefusedError: `weak_key`; `key_known`: it is, or was, this host's or another's; `nonce_expired`: it was used.
    """
    check_new_key(fleet, public_key, host.hostname)
    if public_key == host.public_key or public_key in host.old_keys:
        raise RefusedError("key_known", f"{host.hostname} has, or has had, this key: a new one is needed")
    if nonce_ends <= host.nonce_ends:
        raise RefusedError("nonce_expired", "a nonce as old as this was used already; begin again")
    return HostKeyRotated(
        hostname=host.hostname,
        based_on=host.changed_seq,
        public_key=encode_base64(public_key),
        nonce_ends=nonce_ends,
    )


def check_new_key(fleet: FleetState, public_key: bytes, hostname: str) -> None:
    """Raises RefusedError where signatures under a key could be forged, or where it is, or was, another host's."""
    _check_strong(public_key)
    for other in fleet.hosts.values():
        if other.hostname != hostname and (public_key in other.keys or public_key in other.old_keys):
            raise RefusedError("key_known", "another host has, or has had, this key: each makes its own")


def check_asking(fleet: FleetState, hostname: str, public_key: bytes) -> None:
    """What may be told to a stranger who has proved to have a key: what concerns that key alone.

    Raises:
        RefusedError: `weak_key`, `key_known`; `host_exists`: it is the key of that very host, which is revoked.
    """
    check_new_key(fleet, public_key, checked_name("hostname", hostname))
    host = fleet.hosts.get(hostname)
    if host is not None and host.status != "retired" and public_key in {*host.keys, *host.old_keys}:
        raise _exists(host)


def _exists(host: Host) -> RefusedError:
    detail = f"{host.hostname} is {host.status} with another key; retire it first to register the name again"
    return RefusedError("host_exists", detail)


def _check_strong(public_key: bytes) -> None:
    try:
        check_public_key(public_key)
    except SignatureError as error:
        raise RefusedError("weak_key", error.reason) from error


def decide_groups(fleet: FleetState, hostname: str, groups: Collection[str]) -> HostGroupsChanged | None:
    """All groups of a host from now on; None where they are so already."""
    host = fleet.host(hostname)
    wanted = checked_groups(groups)
    if wanted == tuple(sorted(host.groups)):
        return None
    return HostGroupsChanged(hostname=hostname, based_on=host.changed_seq, groups=wanted)


def decide_labels(fleet: FleetState, hostname: str, labels: Mapping[str, str]) -> HostLabelsChanged | None:
    host = fleet.host(hostname)
    if len(labels) > MAX_LABELS:
        raise RefusedError("too_many_labels", f"a host has at most {MAX_LABELS} labels")
    wanted = {checked_line("labels", name): checked_line(f"labels.{name}", text) for name, text in labels.items()}
    if wanted == host.labels:
        return None
    return HostLabelsChanged(hostname=hostname, based_on=host.changed_seq, labels=wanted)


def decide_maintenance(fleet: FleetState, hostname: str, maintenance: bool) -> HostMaintenanceChanged | None:
    host = fleet.host(hostname)
    if host.maintenance == maintenance:
        return None
    return HostMaintenanceChanged(hostname=hostname, based_on=host.changed_seq, maintenance=maintenance)


def decide_revoke(fleet: FleetState, hostname: str, reason: str | None) -> HostRevoked | None:
    host = fleet.host(hostname)
    if host.status == "revoked":
        return None
    return HostRevoked(hostname=hostname, based_on=host.changed_seq, reason=_checked_reason(reason))


def decide_retire(fleet: FleetState, hostname: str, reason: str | None) -> HostRetired:
    host = fleet.host(hostname)
    return HostRetired(hostname=hostname, based_on=host.changed_seq, reason=_checked_reason(reason))


def decide_lift_quarantine(fleet: FleetState, hostname: str, reason: str) -> HostQuarantineLifted | None:
    host = fleet.host(hostname)
    if host.quarantine is None:
        return None
    return HostQuarantineLifted(hostname=hostname, based_on=host.changed_seq, reason=checked_line("reason", reason))


def checked_groups(groups: Collection[str]) -> tuple[str, ...]:
    if len(set(groups)) > MAX_GROUPS:
        raise RefusedError("too_many_groups", f"a host is in at most {MAX_GROUPS} groups")
    return tuple(sorted(checked_name("groups", group) for group in set(groups)))


def _checked_reason(reason: str | None) -> str | None:
    return None if reason is None else checked_line("reason", reason)
