"""Who begins to follow while the follower is at work: nothing falls between what is replayed and what is told."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from control_plane.api import live
from control_plane.api.changes import Changes, Places
from control_plane.commands.access import CONSOLE
from control_plane.events.tasks import ExecutionFinished
from control_plane.projections.positions import Positions
from tests.support.api import ApiUnderTest, StreamReader, a_stream, an_api
from tests.support.events import a_task_accepted

HOSTS: Final = ("web1", "web2", "web3")
TASKS: Final = tuple(f"t{number}" for number in range(10))
READERS: Final = 4
JOINS: Final = 10  # of each reader
HELD_S: Final = 0.5  # a reader who comes while a round is held may have to wait for its end

Pos = dict[tuple[str, str], int]  # the position of each row that is shown, by its table and its key


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.mysql)])
async def api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[ApiUnderTest]:
    monkeypatch.setattr(live, "USAGE_S", 0.05)
    url = request.getfixturevalue("mysql_url") if request.param == "mysql" else None
    async with an_api(tmp_path, url=url) as made:
        await made.register(*HOSTS, groups=["web"])
        yield made


class Held:
    """Holds the follower's next round that reads for these topics, before it looks how far the tables have come.

    Attributes:
        replayed: set once somebody who reads for other topics has been told all that it had missed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, topics: frozenset[str]) -> None:
        self.began, self.end, self.replayed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        of_product = Changes.rows

        async def rows(changes: Changes, after: Places, wanted: frozenset[str], **more: bool) -> Any:
            if wanted == topics and not self.began.is_set():
                self.began.set()
                await self.end.wait()
            found = await of_product(changes, after, wanted, **more)
            if wanted != topics:
                self.replayed.set()
            return found

        monkeypatch.setattr(Changes, "rows", rows)


async def test_who_comes_during_a_round_for_other_topics_is_told_of_its_own(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.run(api.client("ada"), {"host": "web1"}, task_id="mine")
    as_of = (await api.client().get("/api/v1/tasks/mine/executions")).json()["as_of"]
    async with a_stream(api, "tasks") as other:
        await other.next(skip=())
        held = Held(monkeypatch, frozenset({"tasks"}))
        await held.began.wait()
        async with a_stream(api, "tasks,task:mine", after=as_of) as reader:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(held.replayed.wait(), HELD_S)
            await api.finish("mine", "web1")
            held.end.set()
            told: dict[str, str] = {}
            while told.keys() != {"tasks", "executions"}:
                _, data = await reader.next() or ("", {})
                told[data["table"]] = data["rows"][-1][1]["state"]

    assert told == {"tasks": "finished", "executions": "succeeded"}


async def shown(api: ApiUnderTest, topics: frozenset[str]) -> tuple[Pos, str]:
    """What pages of these topics show, and the position from which on a stream misses nothing of it."""
    client = api.client()
    found: Pos = {}
    places: list[str] = []

    async def ask(path: str) -> Any:
        async with asyncio.timeout(30):
            while (answer := await client.get(f"/api/v1/{path}", params={"limit": 200})).status_code == 503:
                pass  # SQLite has one writer at a time, whom others wait for, but not for ever
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def read(table: str, path: str, key: str, topic: str) -> None:
        answer = await ask(path)
        places.append(answer["as_of"])
        for row in answer["items"]:
            its = {topic, f"host:{row.get('hostname')}", f"task:{row.get('task_id')}"}
            if topics & (its if table != "events" else {topic}):
                name = f"{row['task_id']}/{row['hostname']}" if table == "executions" else str(row[key])
                found[table, name] = row["pos"] if "pos" in row else row["seq"]

    if any(topic.startswith(("task:", "host:")) for topic in topics):
        for task in (tasks := await ask("tasks"))["items"]:
            await read("executions", f"tasks/{task['task_id']}/executions", "hostname", "none")
        places.append(tasks["as_of"])
    await read("tasks", "tasks", "task_id", "tasks")
    await read("hosts", "hosts", "hostname", "hosts")
    await read("events", "events", "seq", "events")
    await client.aclose()
    return found, lowest(*places)


def lowest(*places: str) -> str:
    """As the dashboard does for its parts, which were read at different moments."""
    parsed = [Positions.parse(place) for place in places]
    return str(Positions(min(each.event for each in parsed), min(each.heartbeat for each in parsed)))


def put(store: Pos, event: tuple[str, Any]) -> None:
    """Take what a stream tells as the dashboard does: a row never replaces a newer one."""
    name, data = event
    assert name != "reset", "nothing has happened to the log"
    if name == "rows" and data["table"] != "projections":
        for pos, row in data["rows"]:
            key = {"hosts": "hostname", "tasks": "task_id", "events": "seq"}.get(data["table"])
            name = str(row[key]) if key else f"{row['task_id']}/{row['hostname']}"
            store[data["table"], name] = max(pos, store.get((data["table"], name), 0))


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@asynccontextmanager
async def taking(reader: StreamReader, store: Pos) -> AsyncIterator[None]:
    """Put into the store what comes, until the end of the block."""

    async def take() -> None:
        while (event := await reader.next(timeout_s=60)) is not None:
            put(store, event)

    task = asyncio.create_task(take())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_comes_at_whatever_moment_is_shown_in_the_end_what_a_page_read_then_shows(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)

    def a_page() -> frozenset[str]:
        """What others look at hides what one has missed: there are few who follow hosts or executions."""
        one = dice.choice([f"host:{name}" for name in HOSTS] + [f"task:{task_id}" for task_id in TASKS])
        pages = ("system", "system", "tasks", "hosts,usage", "events", f"tasks,{one}", one)
        return frozenset(dice.choice(pages).split(","))

    of_product = Changes.rows

    async def late(changes: Changes, after: Places, wanted: frozenset[str], **more: bool) -> Any:
        await turns(dice.choice((0, 0, 5000)))
        return await of_product(changes, after, wanted, **more)

    monkeypatch.setattr(Changes, "rows", late)
    is_over = asyncio.Event()

    async def write() -> None:
        for task_id in TASKS:
            await api.log.append([a_task_accepted(task_id, HOSTS).to_new_event()])
            await turns(dice.randrange(800))
        for task_id in dice.sample(TASKS, len(TASKS)):
            for hostname in dice.sample(HOSTS, len(HOSTS)):
                message = {"task_id": task_id, "exit_code": 0, "stdout": "", "stderr": "", "timestamp": 1}
                await api.log.append([ExecutionFinished(message=message, hostname=hostname).to_new_event()])
                await api.services.hosts.set_maintenance(CONSOLE, hostname, dice.random() < 0.5)
                await turns(dice.randrange(800))
        is_over.set()

    async def follow() -> None:
        topics = a_page()
        store, after = await shown(api, topics)
        for count in range(JOINS):
            async with a_stream(api, ",".join(sorted(topics)), after=after) as reader, taking(reader, store):
                await turns(dice.randrange(3000))
                if count == JOINS - 1:
                    await is_over.wait()
                fresh, _ = await shown(api, topics)
                await has_come_to(fresh, store, topics)
            if count == JOINS - 1:
                assert store.keys() == fresh.keys()
            after = reader.last_id or after
            if dice.random() < 0.7:  # another page; else the same one, whose connection was lost
                topics = a_page()
                store, after = await shown(api, topics)

    async def has_come_to(fresh: Pos, store: Pos, topics: frozenset[str]) -> None:
        try:
            async with asyncio.timeout(10):
                while any(store.get(key, 0) < pos for key, pos in fresh.items()):
                    await api.services.hub.wait_moved(timeout_s=0.05)
        except TimeoutError:
            missed = {key: (store.get(key), pos) for key, pos in fresh.items() if store.get(key, 0) < pos}
            pytest.fail(f"seed {seed}, topics {sorted(topics)}: missed, with what is shown and what is: {missed}")

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for _ in range(READERS):
            group.create_task(follow())
