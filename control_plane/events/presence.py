"""Which heartbeats count: a copy, a late one, or one of an earlier boot does not make a host alive."""

from typing import Final, NamedTuple, Protocol

from control_plane_wire.messages import ALLOWED_SKEW_S

REMEMBERED_BOOTS: Final = 8


class Beat(Protocol):
    """What of a heartbeat says whether it counts."""

    @property
    def boot_id(self) -> str | None: ...

    @property
    def sequence(self) -> int | None: ...

    @property
    def timestamp(self) -> int: ...


class LastHeartbeat(NamedTuple):
    """The last heartbeat of a host that counted; `superseded` are the boots before its own, newest last."""

    boot_id: str | None
    sequence: int | None
    timestamp: int
    superseded: tuple[str, ...] = ()


def counted(last: LastHeartbeat | None, heartbeat: Beat, recorded_us: int) -> LastHeartbeat | None:
    """The new last heartbeat if this one counts, else None.

    (`boot_id`, `sequence`) must grow, and a superseded boot never returns. A basic agent has neither: its timestamp
    must grow, or be within 120 s of the control plane's clock.
    """
    if heartbeat.boot_id is None or heartbeat.sequence is None:
        is_newer = last is None or heartbeat.timestamp > last.timestamp
        if not (is_newer or is_near(heartbeat, recorded_us)):
            return None
        # What is known of boots stays: else an old copy would count once a basic heartbeat has come between.
        return last._replace(timestamp=heartbeat.timestamp) if last is not None else _next(heartbeat, ())
    if last is None or last.boot_id is None:
        return _next(heartbeat, ())
    if heartbeat.boot_id == last.boot_id:
        is_next = follows(last.boot_id, last.sequence, heartbeat)
        return _next(heartbeat, last.superseded) if is_next else None
    if heartbeat.boot_id in last.superseded:
        return None
    return _next(heartbeat, (*last.superseded, last.boot_id)[-REMEMBERED_BOOTS:])


def follows(boot_id: str | None, sequence: int | None, heartbeat: Beat) -> bool:
    """Whether it is a later one of the same boot: then it counts, whatever was before that boot."""
    return (
        boot_id is not None
        and heartbeat.boot_id == boot_id
        and heartbeat.sequence is not None
        and heartbeat.sequence > (sequence or 0)
    )


def is_near(heartbeat: Beat, recorded_us: int) -> bool:
    """Whether the sender's clock says what ours does, more or less."""
    return abs(recorded_us // 1_000_000 - heartbeat.timestamp) <= ALLOWED_SKEW_S


def _next(heartbeat: Beat, superseded: tuple[str, ...]) -> LastHeartbeat:
    return LastHeartbeat(heartbeat.boot_id, heartbeat.sequence, heartbeat.timestamp, superseded)
