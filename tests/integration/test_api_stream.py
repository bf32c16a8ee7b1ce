"""The stream: rows as they change, from where a reader left off, until it has to end."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.api import live
from control_plane.api.problems import ProblemError
from control_plane.commands.access import CONSOLE, Principal
from tests.support.api import ApiUnderTest, StreamReader, a_stream, an_api
from tests.support.events import a_task_accepted


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiUnderTest]:
    monkeypatch.setattr(live, "USAGE_S", 0.05)
    monkeypatch.setattr(live, "PING_S", 0.05)
    async with an_api(tmp_path) as made:
        await made.register("web1", "web2", groups=["web"])
        yield made


async def rows(reader: StreamReader, table: str, *, until: Any = None) -> dict[str, dict[str, Any]]:
    """The rows of a table that come, by their name, until one of them satisfies `until`."""
    found: dict[str, dict[str, Any]] = {}
    while not found or (until is not None and not any(until(row) for row in found.values())):
        event = await reader.next(skip={"ping", "usage"})
        assert event is not None, "the stream has ended"
        name, data = event
        assert name == "rows"
        if data["table"] == table:
            for pos, row in data["rows"]:
                assert pos == row.get("pos", row.get("seq"))
                found[str(row.get("hostname", row.get("task_id", row.get("seq"))))] = row
    return found


async def test_a_ping_comes_at_once_and_says_where_the_log_is(api: ApiUnderTest) -> None:
    async with a_stream(api, "hosts") as reader:
        event = await reader.next(skip=())

    assert event is not None
    name, data = event
    assert (name, reader.status) == ("ping", 200)
    assert reader.headers["content-type"].startswith("text/event-stream")
    assert reader.headers["x-accel-buffering"] == "no"
    assert data["heads"]["event"] == (await api.log.head("event")).seq
    assert data["lag"].keys() == {"events", "seconds"}
    assert data["build"] == (await api.client().get("/api/v1/auth/me")).json()["build"]


async def test_a_change_comes_as_the_row_that_the_list_would_show(api: ApiUnderTest) -> None:
    async with a_stream(api, "hosts") as reader:
        await reader.next(skip=())
        await api.services.hosts.set_maintenance(CONSOLE, "web1", True)
        streamed = await rows(reader, "hosts")

    assert streamed == {"web1": (await api.client().get("/api/v1/hosts/web1")).json()}
    assert reader.last_id is not None


async def test_a_task_comes_with_its_executions_to_whoever_looks_at_it(api: ApiUnderTest) -> None:
    async with (
        a_stream(api, "task:mine,host:web2") as mine,
        a_stream(api, "tasks") as every,
        a_stream(api, "events") as trail,
    ):
        for reader in (mine, every, trail):
            await reader.next(skip=())
        await api.run(api.client("ada"), {"group": "web"}, task_id="mine")
        await api.finish("mine", "web2", stdout="hello\n")
        executions = await rows(mine, "executions", until=lambda row: row["state"] == "succeeded")
        tasks = await rows(every, "tasks", until=lambda row: row["counts"] == {"queued": 1, "succeeded": 1})
        events = await rows(trail, "events", until=lambda row: row["kind"] == "execution.finished")

    assert executions["web2"]["first_line"] == "hello"
    assert tasks["mine"] == (await api.client().get("/api/v1/tasks/mine")).json()
    assert {event["kind"] for event in events.values()} >= {"task.accepted", "execution.finished"}


async def test_who_watches_a_task_of_thousands_of_hosts_sees_all_of_them_at_once(api: ApiUnderTest) -> None:
    names = tuple(f"host-{number:05}.example.com" for number in range(4000))
    seen: set[str] = set()
    async with a_stream(api, "tasks,task:wide") as reader:
        await reader.next(skip=())
        await api.record(a_task_accepted("wide", names))
        while len(seen) < len(names):
            event = await reader.next()
            assert event is not None, "the stream has ended"
            seen |= {row["hostname"] for _, row in event[1]["rows"] if event[1]["table"] == "executions"}

    assert seen == set(names)


async def test_a_reader_gets_nothing_of_what_it_did_not_ask_for(api: ApiUnderTest) -> None:
    async with a_stream(api, "task:other,hosts") as reader:
        await reader.next(skip=())
        await api.run(api.client("ada"), {"host": "web1"}, task_id="mine")
        await api.services.hosts.set_maintenance(CONSOLE, "web1", True)
        name, data = await reader.next() or ("", {})

    assert (name, data["table"]) == ("rows", "hosts")


async def test_a_reader_resumes_from_where_its_page_was_read(api: ApiUnderTest) -> None:
    as_of = (await api.client().get("/api/v1/hosts")).json()["as_of"]
    await api.services.hosts.set_maintenance(CONSOLE, "web1", True)
    await api.register("web3")

    async with a_stream(api, "hosts", after=as_of) as reader:
        missed = await rows(reader, "hosts")
        again_from = reader.last_id
        await api.services.hosts.set_maintenance(CONSOLE, "web2", True)
        news = await rows(reader, "hosts", until=lambda row: row["hostname"] == "web2")
    async with a_stream(api, "hosts", after=again_from) as resumed:
        replayed = await rows(resumed, "hosts")

    assert set(missed) == {"web1", "web3"}
    assert (set(news), set(replayed)) == ({"web2"}, {"web2"})


async def test_a_replay_is_whole_though_one_event_changed_more_rows_than_a_page_holds(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.changes.PAGE", 4)
    names = [f"many{number}" for number in range(11)]
    await api.register(*names, groups=["many"])
    as_of = (await api.client().get("/api/v1/tasks")).json()["as_of"]
    await api.run(api.client("ada"), {"group": "many"}, task_id="wide")

    seen: dict[str, Any] = {}
    async with (
        a_stream(api, "task:wide,events,hosts", after="e0.h0") as reader,
        a_stream(api, "task:wide", after=as_of),
    ):
        while not set(names) <= seen.keys():
            _, data = await reader.next() or ("", {})
            seen |= {row["hostname"]: row for _, row in data["rows"] if data["table"] == "executions"}

    assert {row["state"] for row in seen.values()} == {"queued"}


@pytest.mark.parametrize("reason", ["a position beyond the log", "too much to replay"])
async def test_a_gap_that_cannot_be_replayed_is_a_reset(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    after = "e0.h0" if reason == "too much to replay" else "e999999.h0"
    monkeypatch.setattr(live, "MAX_REPLAY_ROWS", 1)
    monkeypatch.setattr("control_plane.api.changes.PAGE", 2)

    resets = set()
    async with a_stream(api, "hosts,tasks,events", after=after) as reader:
        while len(resets) < 3:
            name, data = await reader.next() or ("", {})
            if name == "reset":
                resets.add(data["topic"])

    assert resets == {"hosts", "tasks", "events"}


async def test_heartbeats_come_as_usage_and_as_the_row_of_a_host_that_is_watched(api: ApiUnderTest) -> None:
    async with a_stream(api, "usage") as all_hosts, a_stream(api, "host:web1") as one_host:
        for reader in (all_hosts, one_host):
            await reader.next(skip=())
        await api.beat("web1", 1, running=3)
        name, data = await all_hosts.next() or ("", [])
        watched = await rows(one_host, "hosts")

    assert name == "usage"
    [[pos, hostname, at, cpu, memory, running, seldom]] = data
    shown = (await api.client().get("/api/v1/hosts/web1")).json()
    told = (shown["usage_pos"], "web1", shown["last_heartbeat_at"], 0.25, 0.5, 3)
    assert (pos, hostname, at, cpu, memory, running) == told
    assert seldom.items() <= shown.items()
    assert watched["web1"] == shown
    assert shown["running"] == 3


async def test_what_few_heartbeats_change_is_told_when_one_does(api: ApiUnderTest) -> None:
    async with a_stream(api, "hosts,usage") as reader:
        await reader.next(skip=())
        told = []
        for sequence, version in enumerate(("1.0", "1.0", "1.1", "1.1"), start=1):
            await api.beat("web1", sequence, agent_version=version)
            name, data = "", []
            while name != "usage":
                name, data = await reader.next(skip={"ping", "rows"}) or ("", [])
            told.append([seldom["agent_version"] for _, _, _, _, _, _, *more in data for seldom in more])
    as_of = (await api.client().get("/api/v1/hosts", params={"limit": 1})).json()["as_of"]
    async with a_stream(api, "hosts,usage", after=re.sub(r"h\d+", "h0", as_of)) as reader:  # who comes back is told all
        name = ""
        while name != "usage":
            name, data = await reader.next(skip={"ping", "rows"}) or ("", [])

    assert told == [["1.0"], [], ["1.1"], []]
    assert [seldom["agent_version"] for _, hostname, *_, seldom in data if hostname == "web1"] == ["1.1"]


async def test_the_system_s_readers_see_the_projections(api: ApiUnderTest) -> None:
    async with a_stream(api, "system") as reader:
        name, data = await reader.next() or ("", {})

    assert (name, data["table"]) == ("rows", "projections")
    assert {row["name"] for _, row in data["rows"]} == {"hosts", "tasks", "audit"}


async def test_a_stream_ends_soon_after_its_token_is_revoked(api: ApiUnderTest) -> None:
    made = await api.services.tokens.create(CONSOLE, username="eve", name="test", days=1)
    async with a_stream(api, "hosts", token=made.text) as ended, a_stream(api, "hosts") as other:
        await ended.next(skip=())
        await api.services.tokens.revoke(CONSOLE, made.token_id)
        assert await ended.next() is None
        assert await other.next(skip=()) is not None


async def test_a_stream_ends_when_the_server_stops(api: ApiUnderTest) -> None:
    async with a_stream(api, "hosts") as reader:
        await reader.next(skip=())
        api.stop.set()
        assert await reader.next() is None


async def test_a_reader_who_leaves_is_forgotten(api: ApiUnderTest) -> None:
    async with a_stream(api, "hosts") as reader:
        await reader.next(skip=())
        assert "control_plane_streams_open 1" in api.services.metrics.render()

    assert "control_plane_streams_open 0" in api.services.metrics.render()


async def test_a_session_has_a_few_streams_and_no_more(api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_OF_TOKEN", 1)
    async with a_stream(api, "hosts") as first, a_stream(api, "hosts") as second:
        async with asyncio.timeout(5):
            while not (first.status and second.status):
                await asyncio.sleep(0)

    assert sorted((first.status, second.status)) == [200, 429]


async def test_so_has_a_user_however_many_sessions_and_tokens_that_is(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_OF_USER", 3)
    of = [Principal(username=name, role="viewer", token_id=f"t{n}") for n, name in enumerate(("eve", "eve", "eve"))]
    open_ = [api.live.subscribe(principal, frozenset({"hosts"})) for principal in of]
    with pytest.raises(ProblemError) as refused:
        api.live.subscribe(replace(of[0], token_id="t9"), frozenset({"hosts"}))
    assert refused.value.status_code == 429
    open_.append(api.live.subscribe(replace(of[0], username="ada"), frozenset({"hosts"})))
    for subscription in open_:
        api.live.leave(subscription)


@pytest.mark.parametrize(
    ("topics", "code"),
    [
        ("everything", "unknown_topic"),
        ("", "unknown_topic"),
        ("task:a.b", "unknown_topic"),
        ("host:*", "unknown_topic"),
        (",".join(f"task:{n}" for n in range(65)), "too_many_topics"),
    ],
)
async def test_a_topic_that_is_none_is_refused(api: ApiUnderTest, topics: str, code: str) -> None:
    answer = await api.client().get("/api/v1/stream", params={"topics": topics})

    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_what_shows_no_heartbeats_is_as_of_those_that_the_hosts_show(api: ApiUnderTest) -> None:
    await api.run(api.client("ada"), {"group": "web"}, task_id="mine")
    for hostname in ("web1", "web2"):
        await api.beat(hostname, 1)
    client = api.client()
    paths = ("/hosts", "/tasks", "/tasks/mine/executions", "/tasks/mine/outputs", "/events")
    as_of = {path: (await client.get(f"/api/v1{path}")).json()["as_of"].split(".h")[1] for path in paths}

    assert set(as_of.values()) == {as_of["/hosts"]} != {"0"}


@pytest.mark.parametrize(
    ("topics", "is_read"), [("tasks,events,hosts,task:mine", False), ("usage", True), ("host:web1", True)]
)
async def test_a_replay_reads_heartbeats_for_who_is_shown_them_alone(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch, topics: str, is_read: bool
) -> None:
    for hostname in ("web1", "web2"):
        await api.beat(hostname, 1)
    monkeypatch.setattr(api.live, "_tell_usage", nothing)
    asked: list[int] = []
    usage_changed = api.services.host_queries.usage_changed

    async def counted(after: int, **how: Any) -> Any:
        asked.append(after)
        return await usage_changed(after, **how)

    monkeypatch.setattr(api.services.host_queries, "usage_changed", counted)
    async with a_stream(api, topics, after="e0.h0") as reader:
        while reader.last_id is None:
            assert await reader.next() is not None

    assert bool(asked) == is_read
    assert reader.last_id.split(".h")[1] != "0"


async def nothing() -> None:
    pass
