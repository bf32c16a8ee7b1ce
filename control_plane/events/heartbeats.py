"""Heartbeats at a glance: a stored one read and checked in a single pass, without making a message of it.

It is the most of what a fold of millions does. What does not pass takes a closer look, which says what is wrong.
"""

from typing import Annotated, ClassVar, Final, Literal

from msgspec import DecodeError, Meta, Struct
from msgspec.json import Decoder

from control_plane.events import registry
from control_plane.events.envelope import HEARTBEAT_EVENT, LogName, StoredEvent
from control_plane.events.event import Event
from control_plane.events.hosts import HeartbeatReceived
from control_plane_wire.fields import LAST_SECOND
from control_plane_wire.messages import (
    BASIC_INTERVAL_S,
    DEFAULT_INTERVAL_S,
    MAX_CHECKPOINT_BYTES,
    MAX_GROUPS,
    MAX_KEYS,
    HeartbeatMessage,
)
from control_plane_wire.strict_json import MAX_INTEGER
from control_plane_wire.topology import MAX_NAME, looks_like_name

Whole = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Seconds = Annotated[int, Meta(ge=0, le=LAST_SECOND)]
Part = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(max_length=MAX_NAME)]
Short = Annotated[str, Meta(max_length=256)]
Address = Annotated[str, Meta(max_length=64)]
Resource = Annotated[str, Meta(max_length=64)]
OwnKeyId = Annotated[str, Meta(max_length=64)]
Load = Annotated[float, Meta(ge=0, le=1e12)]

_NUL: Final = b"\\u0000"


class Heartbeat(Struct, Event, gc=False):
    """What `HeartbeatReceived` is, in the fields that a fold looks at; the others are checked as well."""

    KIND: ClassVar[str] = HeartbeatReceived.KIND
    LOG: ClassVar[LogName] = HEARTBEAT_EVENT

    hostname: Name
    status: Literal["online", "offline"]
    timestamp: Seconds
    cpu_usage: Part
    memory_usage: Part
    agent_version: Short | None = None
    sequence: Whole | None = None
    boot_id: Short | None = None
    interval: Annotated[int, Meta(ge=1, le=3600)] | None = None
    groups: Annotated[list[Name], Meta(max_length=MAX_GROUPS)] | None = None
    running: Whole | None = None
    load: Annotated[list[Load], Meta(max_length=3)] | None = None
    disk_usage: Part | None = None
    uptime: Seconds | None = None
    os: Short | None = None
    kernel: Short | None = None
    cpu_count: Whole | None = None
    memory_bytes: Whole | None = None
    addresses: Annotated[list[Address], Meta(max_length=64)] | None = None
    checkpoint: Annotated[str, Meta(max_length=MAX_CHECKPOINT_BYTES)] | None = None
    journal_head: Whole | None = None
    session: Whole | None = None
    runs_as: Short | None = None
    limits_missing: Annotated[list[Resource], Meta(max_length=16)] | None = None
    keys: Annotated[list[OwnKeyId], Meta(max_length=MAX_KEYS)] | None = None
    next_key: OwnKeyId | None = None

    @property
    def interval_s(self) -> int:
        """Seconds until the next one is due."""
        return self.interval or (BASIC_INTERVAL_S if self.agent_version is None else DEFAULT_INTERVAL_S)


_DECODER: Final = Decoder(Heartbeat)


def glance(stored: StoredEvent) -> Heartbeat | None:
    """A stored heartbeat that is plainly right; None for one that takes a closer look, and for any other event."""
    body = stored.body
    if stored.kind != Heartbeat.KIND or stored.schema_v != HeartbeatReceived.VERSION:
        return None
    if b"\\" in body and _NUL in body:  # the first look takes a tenth of the second one's time
        return None
    try:
        beat = _DECODER.decode(body)
    except DecodeError:
        return None
    groups = beat.groups
    if not looks_like_name(beat.hostname) or (groups is not None and not all(map(looks_like_name, groups))):
        return None
    return beat if body.isascii() or _is_short(beat) else None


def _is_short(beat: Heartbeat) -> bool:
    """Whether its texts are, in bytes: what the decoder has counted are characters."""
    shorts = (beat.agent_version, beat.boot_id, beat.os, beat.kernel, beat.runs_as)
    shorter = (*(beat.addresses or ()), *(beat.limits_missing or ()), *(beat.keys or ()), beat.next_key)
    limits = [*((text, 256) for text in shorts), *((text, 64) for text in shorter)]
    limits.append((beat.checkpoint, MAX_CHECKPOINT_BYTES))
    return all(len(text.encode()) <= most_bytes for text, most_bytes in limits if text is not None)


def read(stored: StoredEvent) -> Heartbeat | HeartbeatMessage | None:
    """What a stored heartbeat says; None for any other event.

    Raises:
        MalformedMessageError: its body is no heartbeat.
    """
    if (beat := glance(stored)) is not None:
        return beat
    event = registry.decode(stored)
    return event.heartbeat if isinstance(event, HeartbeatReceived) else None
