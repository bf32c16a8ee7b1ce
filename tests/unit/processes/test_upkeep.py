"""The upkeep as a service: again and again, whatever it meets, until it is told to stop."""

import asyncio

import pytest

from control_plane.errors import LogDamagedError
from control_plane.processes.upkeep import Upkeep

BOUND_S = 10


async def test_it_is_done_again_and_again_though_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    stop = asyncio.Event()
    times = 0

    async def maintain() -> None:
        nonlocal times
        times += 1
        if times == 1:
            raise LogDamagedError("heartbeat_event", 7)
        if times == 2:
            raise PermissionError("the archive's directory is not ours")
        stop.set()

    async with asyncio.timeout(BOUND_S):
        await Upkeep(maintain, interval_s=0.001).run(stop)

    assert times == 3
    alarms = [record.__dict__["cause"] for record in caplog.records if record.levelname == "ERROR"]
    assert alarms == ["heartbeat_event 7 is missing below the head", "the archive's directory is not ours"]


async def test_a_stop_does_not_wait_for_a_long_one() -> None:
    stop, has_begun = asyncio.Event(), asyncio.Event()
    was_cancelled = False

    async def maintain() -> None:
        nonlocal was_cancelled
        has_begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled = True
            raise

    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(Upkeep(maintain).run(stop))
        await has_begun.wait()
        stop.set()
        await running

    assert was_cancelled


async def test_a_defect_ends_it() -> None:
    async def maintain() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as failure:
        await Upkeep(maintain).run(asyncio.Event())

    assert failure.value.subgroup(ZeroDivisionError)
