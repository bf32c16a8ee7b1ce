"""What running the services makes of the process itself."""

import asyncio
import gc
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from control_plane.bootstrap import YOUNG_OBJECTS, _accounts, run
from control_plane.settings import Settings


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


@pytest.mark.parametrize(("amqp_url", "number"), [(None, 0), (SecretStr("amqp://plane:x@broker/plane"), 1)])
def test_accounts_are_kept_only_at_a_broker_that_is_our_own(amqp_url: SecretStr | None, number: int) -> None:
    settings = Settings(
        amqp_url=amqp_url,
        agents_amqp_url=SecretStr("amqp://agents@broker/plane"),
        broker_api_url=SecretStr("http://root:x@broker:15672"),
    )
    core: Any = SimpleNamespace(settings=settings, authority=None, clock=None)

    assert len(_accounts(core, core, lambda what, number: None)) == number
