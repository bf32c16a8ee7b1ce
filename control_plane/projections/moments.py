"""A moment in the past: where both logs were then."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from control_plane.errors import RefusedError
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName
from control_plane.events.log import EventLog
from control_plane.events.pages import Dropped
from control_plane.projections.positions import Positions

MOST_DIGITS: Final = 18
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What was recorded by then, and no more.

    Attributes:
        event_us: up to when the event log is told, UTC microseconds; `heartbeat_us`: the heartbeat log.
        dropped: up to where heartbeats are dropped.
    """

    positions: Positions
    event_us: int
    heartbeat_us: int
    dropped: Dropped

    @property
    def has_heartbeats(self) -> bool:
        """Whether the last ones before this moment are kept."""
        return self.heartbeat_us >= self.dropped.recorded_us


def micros_of(text: str) -> int:
    """A time as RFC 3339 writes it, in UTC microseconds; ValueError says what is wrong."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError("has to be a time such as 2026-01-31T10:42:07Z") from error
    if moment.tzinfo is None:
        raise ValueError("needs its offset from UTC, such as Z")
    return (moment - _EPOCH) // timedelta(microseconds=1)


async def moment_of(log: EventLog, text: str, *, now_us: int) -> Moment:
    """The moment that a text names: a time, the seq of an event, or a position that a list or a stream gave.

    Raises:
        RefusedError: `bad_at`: it is none of these. `not_yet`: it lies in the future.
    """
    if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS:
        return await _at_event(log, int(text))
    if text.startswith("e"):
        try:
            return await _at(log, Positions.parse(text))
        except RefusedError as error:
            if error.code != "bad_position":
                raise
            raise RefusedError("bad_at", error.detail) from error
    try:
        time_us = micros_of(text)
    except (ValueError, OverflowError) as error:
        raise RefusedError("bad_at", f"{error}, the seq of an event, or a position that a list gave") from error
    if time_us > now_us:
        raise RefusedError("not_yet", "this moment lies in the future")
    return await _at_time(log, time_us)


async def _at_event(log: EventLog, seq: int) -> Moment:
    """Just after an event was recorded."""
    time_us = await _recorded_us(log, EVENT, seq)
    return await _made(log, Positions(seq, await log.position_at(HEARTBEAT_EVENT, time_us)), time_us, time_us)


async def _at_time(log: EventLog, time_us: int) -> Moment:
    event, heartbeat = [await log.position_at(name, time_us) for name in (EVENT, HEARTBEAT_EVENT)]
    return await _made(log, Positions(event, heartbeat), time_us, time_us)


async def _at(log: EventLog, positions: Positions) -> Moment:
    event_us = await _recorded_us(log, EVENT, positions.event)
    return await _made(log, positions, event_us, await _recorded_us(log, HEARTBEAT_EVENT, positions.heartbeat))


async def _made(log: EventLog, positions: Positions, event_us: int, heartbeat_us: int) -> Moment:
    dropped = await log.dropped(HEARTBEAT_EVENT)
    return Moment(positions=positions, event_us=event_us, heartbeat_us=heartbeat_us, dropped=dropped)


async def _recorded_us(log: EventLog, name: LogName, seq: int) -> int:
    """When an event was recorded; 0 for a heartbeat that is dropped, and for none."""
    if seq > (await log.head(name)).seq:
        raise RefusedError("not_yet", "the log has not come so far yet")
    stored = await log.read_one(name, seq)
    return 0 if stored is None else stored.recorded_us
