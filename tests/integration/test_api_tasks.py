"""Tasks over the API: asked for once, listed, read with what they printed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api import ApiUnderTest, an_api


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiUnderTest]:
    async with an_api(tmp_path) as made:
        yield made


async def test_a_task_is_accepted_with_its_row_and_its_seq(api: ApiUnderTest) -> None:
    await api.register("web1", "web2", groups=["web"])

    accepted = await api.run(api.client("ada"), {"group": "web"}, task_id="t1", reason="why not")

    task = accepted["task"]
    assert (task["task_id"], task["state"], task["counts"], task["targets"]) == ("t1", "running", {"queued": 2}, 2)
    assert (task["actor"], task["target"], task["reason"]) == ("ada", {"group": "web"}, "why not")
    assert task["seq"] == accepted["seq"]
    shown = (await api.client("eve").get("/api/v1/tasks/t1", params={"min_seq": accepted["seq"]})).json()
    assert shown == task
