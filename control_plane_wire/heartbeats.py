"""Heartbeats at a glance: whether one is right as it stands, without making a message of it."""

from collections.abc import Mapping
from typing import Final

from control_plane_wire.fields import LAST_SECOND
from control_plane_wire.messages import (
    BASIC_INTERVAL_S,
    DEFAULT_INTERVAL_S,
    MAX_CHECKPOINT_BYTES,
    MAX_GROUPS,
    parse_heartbeat,
)
from control_plane_wire.strict_json import MAX_INTEGER, Json, JsonObject
from control_plane_wire.topology import is_name


def said(message: JsonObject) -> JsonObject:
    """What a heartbeat says, as `parse_heartbeat` takes it; the message itself where that changes nothing.

    That is a fifth of the work, and what a fold of millions needs. Numbers are whole where they were sent so.

    Raises:
        MalformedMessageError: a field is wrong.
    """
    return message if _is_plain(message) else parse_heartbeat(message).to_json()


def interval_s(said: Mapping[str, Json]) -> int:
    """Seconds until the next one is due."""
    given = said.get("interval")
    if isinstance(given, int):
        return given
    return BASIC_INTERVAL_S if said.get("agent_version") is None else DEFAULT_INTERVAL_S


def _is_plain(message: JsonObject) -> bool:
    """Whether every known field is right, and has the type that is made of it; False where that takes a closer look.

    Without a loop or a call for each: this is the most of what a fold does with a heartbeat.
    """
    get = message.get
    if type(name := get("hostname")) is not str or not is_name(name) or get("status") not in _STATUS:
        return False
    if type(seconds := get("timestamp")) is not int or not 0 <= seconds <= LAST_SECOND:
        return False
    if (seconds := get("uptime")) is not None and (type(seconds) is not int or not 0 <= seconds <= LAST_SECOND):
        return False
    if type(part := get("cpu_usage")) not in _NUMBERS or not 0 <= part <= 1:  # type: ignore[operator]
        return False
    if type(part := get("memory_usage")) not in _NUMBERS or not 0 <= part <= 1:  # type: ignore[operator]
        return False
    if (part := get("disk_usage")) is not None and (type(part) not in _NUMBERS or not 0 <= part <= 1):  # type: ignore[operator]
        return False
    if (count := get("sequence")) is not None and (type(count) is not int or not 0 <= count <= MAX_INTEGER):
        return False
    if (count := get("running")) is not None and (type(count) is not int or not 0 <= count <= MAX_INTEGER):
        return False
    if (count := get("cpu_count")) is not None and (type(count) is not int or not 0 <= count <= MAX_INTEGER):
        return False
    if (count := get("memory_bytes")) is not None and (type(count) is not int or not 0 <= count <= MAX_INTEGER):
        return False
    if (count := get("journal_head")) is not None and (type(count) is not int or not 0 <= count <= MAX_INTEGER):
        return False
    if (count := get("interval")) is not None and (type(count) is not int or not 1 <= count <= 3600):
        return False
    texts = [get("agent_version"), get("boot_id"), get("os"), get("kernel")]
    if not _are_texts([text for text in texts if text is not None], 256):
        return False
    if (addresses := get("addresses")) is not None and not (
        type(addresses) is list and len(addresses) <= 64 and _are_texts(addresses, 64)
    ):
        return False
    if (note := get("checkpoint")) is not None and not _are_texts([note], MAX_CHECKPOINT_BYTES):
        return False
    return _are_names(get("groups")) and _are_loads(get("load"))


_NUMBERS: Final = frozenset({int, float})
_STATUS: Final[tuple[Json, ...]] = ("online", "offline")  # no set: what is no text may have no hash


def _are_texts(values: list[Json], most_bytes: int) -> bool:
    """Whether all are texts of at most so many bytes, without a NUL."""
    try:
        whole = "".join(values)  # type: ignore[arg-type] # a TypeError where one is no text
    except TypeError:
        return False
    if "\0" in whole:
        return False
    if whole.isascii():
        return len(whole) <= most_bytes or max(map(len, values)) <= most_bytes  # type: ignore[arg-type]
    return all(len(value.encode()) <= most_bytes for value in values)  # type: ignore[union-attr]


def _are_names(groups: Json) -> bool:
    if groups is None:
        return True
    if type(groups) is not list or len(groups) > MAX_GROUPS:
        return False
    return all(type(name) is str and is_name(name) for name in groups)


def _are_loads(load: Json) -> bool:
    if load is None:
        return True
    if type(load) is not list or len(load) > 3:
        return False
    return all(type(number) in _NUMBERS and 0 <= number <= 1e12 for number in load)  # type: ignore[operator]
