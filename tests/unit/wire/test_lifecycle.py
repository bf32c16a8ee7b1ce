import asyncio

import pytest

from control_plane_wire.lifecycle import ServiceEndedEarlyError, run_until_stopped, wait_for_any

WAIT_S = 5.0


class Worker:
    """A service that says what happened to it."""

    def __init__(self, name: str, *, ends: bool = False, fails: bool = False, never_drains: bool = False) -> None:
        self.name = name
        self.ending = ""
        self._ends = ends
        self._fails = fails
        self._never_drains = never_drains

    async def run(self, stop: asyncio.Event) -> None:
        try:
            if self._ends:
                return
            await asyncio.sleep(0)
            if self._fails:
                raise ValueError(self.name)
            await stop.wait()
            if self._never_drains:
                await asyncio.Event().wait()
            self.ending = "drained"
        except asyncio.CancelledError:
            self.ending = "cancelled"
            raise


async def test_services_drain_when_they_are_stopped() -> None:
    stop = asyncio.Event()
    workers = [Worker("one"), Worker("two")]
    asyncio.get_running_loop().call_soon(stop.set)

    async with asyncio.timeout(WAIT_S):
        await run_until_stopped(workers, stop=stop, drain_s=1)

    assert [worker.ending for worker in workers] == ["drained", "drained"]


async def test_a_failing_service_cancels_the_others_and_is_raised() -> None:
    other = Worker("other")

    with pytest.raises(ExceptionGroup) as raised:
        await run_until_stopped([other, Worker("broken", fails=True)], stop=asyncio.Event(), drain_s=1)

    assert raised.group_contains(ValueError, match="broken")
    assert other.ending == "cancelled"


async def test_a_service_that_ends_before_it_was_told_is_a_failure() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await run_until_stopped([Worker("other"), Worker("early", ends=True)], stop=asyncio.Event(), drain_s=1)

    assert raised.group_contains(ServiceEndedEarlyError, match="early")


async def test_draining_has_an_end() -> None:
    stop = asyncio.Event()
    stop.set()
    stuck = Worker("stuck", never_drains=True)

    with pytest.raises(TimeoutError):
        await run_until_stopped([stuck], stop=stop, drain_s=0.01)

    assert stuck.ending == "cancelled"


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("is_set_before", [True, False])
async def test_waiting_ends_with_the_first_of_its_events(which: int, is_set_before: bool) -> None:
    events = [asyncio.Event(), asyncio.Event()]
    if is_set_before:
        events[which].set()
    else:
        asyncio.get_running_loop().call_soon(events[which].set)

    async with asyncio.timeout(WAIT_S):
        await wait_for_any(*events, timeout_s=3600)


async def test_waiting_ends_after_its_time_and_leaves_no_waiter_behind() -> None:
    event = asyncio.Event()

    await wait_for_any(event, timeout_s=0.001)
    await asyncio.sleep(0)

    assert asyncio.all_tasks() == {asyncio.current_task()}
