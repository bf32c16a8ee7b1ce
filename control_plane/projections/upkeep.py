"""What has to be done to the logs from time to time: one function, for a timer and for a service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from sqlalchemy import select

from control_plane.events.archive import Archived
from control_plane.events.checkpoints import signed_upto
from control_plane.events.envelope import HEARTBEAT_EVENT, LogName
from control_plane.events.segments import LOGS, Progress, drop, finish, oldest, plan_ahead, room
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.folding import OLD, REBUILT
from control_plane.projections.trimming import trim
from control_plane.storage.engine import Database
from control_plane.storage.leases import Leases
from control_plane.storage.tables import follower
from control_plane_wire.clock import Clock

DAY_US = 86_400_000_000


@dataclass(slots=True)
class Done:
    """What an upkeep has done.

    Attributes:
        planned: the last seqs of the segments that were planned.
        room: how many events fit into what is planned now.
        trimmed: rows of read tables that passed away with their events.
        waits: why what is old was not dropped; None where nothing waits.
    """

    planned: dict[LogName, Sequence[int]] = field(default_factory=dict)
    room: dict[LogName, int] = field(default_factory=dict)
    dropped: list[Archived] = field(default_factory=list)
    trimmed: int = 0
    waits: str | None = None


async def maintain(
    database: Database,
    *,
    heartbeat_days: float,
    archive_dir: Path,
    clock: Clock,
    progress: Progress = lambda _what, _done, _total: None,
) -> Done | None:
    """Plan segments ahead; archive and drop heartbeats that are old and that every reader has passed.

    Args:
        database: by an account that may change and drop parts of the logs' tables.

    Returns:
        What was done, or None while another process does it.

    Raises:
        LogDamagedError, FoldError, ArchiveDamagedError: a segment cannot be dropped like this; it stays as it is.
        StorageUnavailableError: try again; it goes on where it stopped.
        OSError: the archive cannot be written.

    Cancelling stops it between two steps; the next one goes on.
    """
    done = Done()

    async def work() -> None:
        for log in LOGS:  # first: for want of room everything else can wait
            done.planned[log] = await plan_ahead(database, log)
            done.room[log] = await room(database, log)
        await finish(database, HEARTBEAT_EVENT, progress=progress)
        before_us = clock.now_us() - int(heartbeat_days * DAY_US)
        while (segment := await oldest(database, HEARTBEAT_EVENT)) is not None and segment.last_us < before_us:
            name, passed = await _last_reader(database)
            if passed < segment.last_seq:
                done.waits = f"{name} is at {passed}, and the segment ends at {segment.last_seq}"
                break
            now_us = clock.now_us()
            done.dropped.append(
                await drop(database, segment, archive_dir=archive_dir, now_us=now_us, progress=progress)
            )
        for projection in PROJECTIONS:
            done.trimmed += await trim(database, projection())

    is_ours = await Leases(database, owner=f"upkeep {uuid4()}").once("upkeep", work)
    return done if is_ours else None


async def _last_reader(database: Database) -> tuple[str, int]:
    """Who is the least far in the heartbeats, and how far: every projection of them, who signs them, and who has begun.

    A copy of a projection does not count: it goes on behind what was dropped, from what is kept of it.
    """
    copies = {cls(suffix).key for cls in PROJECTIONS for suffix in (OLD, REBUILT)}
    async with database.read() as connection:
        rows = await connection.execute(select(follower.c.name, follower.c.heartbeat_seq))
        begun: Mapping[str, int] = {name: seq for name, seq in rows if seq > 0 and name not in copies}
    of_projections = {cls.name: 0 for cls in PROJECTIONS if HEARTBEAT_EVENT in cls.logs}
    signed = await signed_upto(database, HEARTBEAT_EVENT)
    of_signer = {} if signed is None else {"checkpoints": signed}
    return min((of_projections | dict(begun) | of_signer).items(), key=lambda reader: reader[1])
