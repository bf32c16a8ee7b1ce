"""What running the services makes of the process itself."""

import asyncio
import gc
import signal
from collections.abc import Iterator

import pytest

from control_plane.bootstrap import YOUNG_OBJECTS, run


@pytest.fixture
def _collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


class Ends:
    """A service that has the program end as soon as it runs."""

    name = "ends"

    async def run(self, stop: asyncio.Event) -> None:
        signal.raise_signal(signal.SIGTERM)
        await stop.wait()


@pytest.mark.usefixtures("_collector")
async def test_the_collector_leaves_the_loaded_program_alone() -> None:
    await run([Ends()], drain_s=1)

    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold()[0] == YOUNG_OBJECTS
