"""The stream by scope: no frame has anything of a host that its reader may not see, at that moment."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from control_plane.api import live
from control_plane.api.changes import Changes, Places
from control_plane.commands.access import CONSOLE
from control_plane.commands.rules import READING, Rule
from control_plane.errors import StorageUnavailableError
from control_plane.events.envelope import EVENT
from control_plane.events.hosts import HostGroupsChanged, HostMaintenanceChanged
from control_plane.projections.positions import Positions
from control_plane.projections.queries.tasks import TaskQueries
from tests.integration.test_api_live_output import FakeLiveOutput
from tests.support.api import ApiUnderTest, StreamReader, a_stream, an_api

ALL: Final = "hosts,usage,tasks,events,system"
NOSY: Final = f"{ALL},host:alpha1,host:bravo1,task:task-alpha,task:task-bravo,task:task-charlie"


@pytest.fixture
def output() -> FakeLiveOutput:
    return FakeLiveOutput()


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: FakeLiveOutput) -> AsyncIterator[ApiUnderTest]:
    monkeypatch.setattr(live, "USAGE_S", 0.05)
    monkeypatch.setattr(live, "PING_S", 0.05)
    monkeypatch.setattr(live, "RETRY_S", 0.01)
    async with an_api(tmp_path, live_output=output) as made:
        await made.register("alpha1", "alpha2", groups=["alpha-group"])
        await made.register("bravo1", "bravo2", groups=["bravo-group"])
        await made.services.access.create_user(CONSOLE, "mia", role="member", password="correct horse battery")
        token = await made.services.tokens.create(CONSOLE, username="mia", name="test", days=1)
        made.tokens["mia"] = token.text
        await allow(made, READING, "alpha-group")
        yield made


async def allow(api: ApiUnderTest, actions: Any, *groups: str) -> str:
    asked = Rule(rule_id="", effect="allow", subject="user:mia", actions=frozenset(actions), groups=frozenset(groups))
    return (await api.services.rules.create(CONSOLE, asked))[0]


def as_mia(api: ApiUnderTest, topics: str, after: str | None = None) -> Any:
    return a_stream(api, topics, after=after, token=api.tokens["mia"])


async def run_everywhere(api: ApiUnderTest) -> None:
    """A task on each group and one on both, which end everywhere; heartbeats, and a change of each host."""
    ada = api.client("ada")
    for task_id, names in (
        ("task-bravo", ["bravo1", "bravo2"]),
        ("task-charlie", ["bravo1", "alpha1"]),
        ("task-alpha", ["alpha1", "alpha2"]),
    ):
        await api.run(ada, {"hosts": names}, task_id=task_id, command=f"{task_id[5:]} command")
        for name in names:
            await api.finish(task_id, name, stdout=f"printed by {name}\n")
    for name in ("bravo1", "bravo2", "alpha1", "alpha2"):
        await api.beat(name, 1, os=f"os of {name}")
        await api.services.hosts.set_labels(CONSOLE, name, {"rack": f"rack of {name}"})
    await api.services.access.deny("ada", "hosts.edit", "hosts/bravo1", address=None, code="not_allowed")
    await api.services.hosts.set_maintenance(CONSOLE, "alpha2", True)


def is_maintained(event: tuple[str, Any]) -> bool:
    name, data = event
    return name == "rows" and data["table"] == "hosts" and any(row["maintenance"] for _, row in data["rows"])


async def frames_until(reader: StreamReader, is_last: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    while not found or not is_last(found[-1]):
        event = await reader.next(skip=())
        assert event is not None, "the stream has ended"
        found.append(event)
    return found


async def all_frames(reader: StreamReader) -> list[tuple[str, Any]]:
    """All until the last change of `run_everywhere`, in each of the tables."""
    seen = await frames_until(reader, is_maintained)
    while not any(row["kind"] == "host.maintenance_changed" for row in rows_of(seen, "events")):
        event = await reader.next(skip=())
        assert event is not None
        seen.append(event)
    return seen


def theirs_in(events: list[tuple[str, Any]]) -> list[str]:
    text = orjson.dumps(events).decode().replace("task-charlie", "")
    return [name for name in ("bravo", "charlie") if name in text]


def rows_of(events: list[tuple[str, Any]], table: str) -> list[dict[str, Any]]:
    return [row for name, data in events if name == "rows" and data["table"] == table for _, row in data["rows"]]


async def test_frames_have_what_is_ours_and_nothing_of_theirs(api: ApiUnderTest) -> None:
    async with as_mia(api, NOSY) as mias, a_stream(api, NOSY) as roots:
        for reader in (mias, roots):
            await reader.next(skip=())
        await run_everywhere(api)
        seen, all_of_it = [await all_frames(reader) for reader in (mias, roots)]

    assert theirs_in(seen) == []
    assert theirs_in(all_of_it) == ["bravo", "charlie"]
    assert {row["hostname"] for row in rows_of(seen, "hosts")} == {"alpha1", "alpha2"}
    assert {row["task_id"] for row in rows_of(seen, "tasks")} == {"task-alpha"}
    assert {(row["task_id"], row["hostname"]) for row in rows_of(seen, "executions")} == {
        ("task-alpha", "alpha1"),
        ("task-alpha", "alpha2"),
        ("task-charlie", "alpha1"),
    }
    assert {row["first_line"] for row in rows_of(seen, "executions")} >= {"printed by alpha1", "printed by alpha2"}
    assert {row["hostname"] for row in rows_of(seen, "events")} == {"alpha1", "alpha2", None}
    assert {row["task_id"] for row in rows_of(seen, "events") if row["hostname"] is None} == {"task-alpha"}
    assert rows_of(seen, "projections") == []
    assert len([row for table in ("hosts", "executions", "events") for row in rows_of(all_of_it, table)]) > 20


async def test_a_replay_has_the_same(api: ApiUnderTest) -> None:
    await run_everywhere(api)
    async with as_mia(api, NOSY, after="e0.h0") as reader:
        seen = await all_frames(reader)

    assert theirs_in(seen) == []
    listed = (await api.client("mia").get("/api/v1/events", params={"after": 0, "limit": 1000})).json()["items"]
    streamed = {row["seq"] for row in rows_of(seen, "events")}
    assert streamed == {event["seq"] for event in listed if event["seq"] <= max(streamed)}
    assert len(streamed) >= 9


async def test_what_a_host_is_moved_out_by_is_not_shown_and_nothing_after_it(api: ApiUnderTest) -> None:
    """The reader is told to forget what it was shown, and asks anew."""
    async with as_mia(api, "hosts,usage,events,host:alpha1") as reader, a_stream(api, "hosts") as roots:
        for each in (reader, roots):
            await each.next(skip=())
        await api.services.hosts.set_maintenance(CONSOLE, "alpha1", True)
        before = await frames_until(reader, is_maintained)
        moved = await api.services.hosts.set_groups(CONSOLE, "alpha1", ["bravo-group"])
        for number in range(1, 10):
            await api.services.hosts.set_labels(CONSOLE, "alpha1", {"canary": str(number)})
            await api.beat("alpha1", number, os="canary")
        await api.services.hosts.set_labels(CONSOLE, "alpha2", {"last": "one"})
        after = await frames_until(reader, lambda event: any(row["labels"] for row in rows_of([event], "hosts")))
        shown = await frames_until(roots, lambda event: '"last":"one"' in orjson.dumps(event).decode())

    assert "alpha1" in orjson.dumps(before).decode()
    assert "canary" in orjson.dumps(shown).decode(), "others are shown all of it"
    assert "canary" not in orjson.dumps(after).decode()
    assert not [row for row in rows_of(after, "events") if row["seq"] >= moved and row["hostname"] == "alpha1"]
    assert not [row for row in rows_of(after, "hosts") if row["hostname"] == "alpha1"]
    resets = {data["topic"] for name, data in after if name == "reset"}
    assert resets == {"hosts", "usage", "events", "host:alpha1"}


async def test_what_moves_in_is_shown_from_then_on(api: ApiUnderTest) -> None:
    async with as_mia(api, "hosts") as reader:
        await reader.next(skip=())
        await api.services.hosts.set_groups(CONSOLE, "bravo1", ["alpha-group"])
        event = await reader.next()

    assert event is not None
    assert [row["hostname"] for row in rows_of([event], "hosts")] == ["bravo1"]


async def test_a_rule_that_ends_ends_what_is_shown_by_it(api: ApiUnderTest) -> None:
    rule_id = await allow(api, READING, "bravo-group")
    async with as_mia(api, "hosts,tasks,events") as reader:
        await reader.next(skip=())
        await api.services.hosts.set_maintenance(CONSOLE, "bravo1", True)
        await frames_until(reader, is_maintained)
        await api.services.rules.delete(CONSOLE, rule_id)
        await api.services.hosts.set_labels(CONSOLE, "bravo1", {"canary": "1"})
        await api.run(api.client("ada"), {"host": "bravo1"}, task_id="task-bravo")
        await api.services.hosts.set_maintenance(CONSOLE, "alpha1", True)
        after = await frames_until(reader, is_maintained)

    reset = next(place for place, (name, _) in enumerate(after) if name == "reset")
    assert theirs_in(after[reset:]) == []
    assert {data["topic"] for name, data in after if name == "reset"} == {"hosts", "tasks", "events"}


async def test_however_often_a_host_goes_to_and_fro_nothing_comes_after_it_has_gone(api: ApiUnderTest) -> None:
    """Whatever comes first, the rows or the rights."""
    async with as_mia(api, "hosts,events") as reader:
        await reader.next(skip=())
        for number in range(10):
            await api.services.hosts.set_groups(CONSOLE, "alpha1", ["alpha-group"])
            await api.services.hosts.set_labels(CONSOLE, "alpha1", {"ours": str(number)})
            gone = await api.services.hosts.set_groups(CONSOLE, "alpha1", ["bravo-group"])
        await api.services.hosts.set_labels(CONSOLE, "alpha1", {"canary": "1"})
        await api.services.hosts.set_maintenance(CONSOLE, "alpha2", True)
        seen = await all_frames(reader)

    assert not [row for row in rows_of(seen, "hosts") if row["hostname"] == "alpha1" and row["pos"] >= gone]
    assert not [row for row in rows_of(seen, "events") if row["hostname"] == "alpha1" and row["seq"] >= gone]
    assert "canary" not in orjson.dumps(seen).decode()


async def test_whoever_may_read_the_events_of_no_host_is_shown_those_of_no_task(api: ApiUnderTest) -> None:
    for rule_id in list(api.services.authority.rules.rules):
        await api.services.rules.delete(CONSOLE, rule_id)
    await allow(api, {"hosts.read", "tasks.read"}, "alpha-group")
    events = await allow(api, {"events.read"}, "alpha-group")
    async with as_mia(api, "tasks,events") as reader:
        await reader.next(skip=())
        seq = (await api.run(api.client("ada"), {"host": "alpha1"}, task_id="task-shown"))["seq"]
        await frames_until(reader, lambda event: bool(rows_of([event], "events")))
        mia = api.client("mia")
        assert (await mia.get(f"/api/v1/events/{seq}")).status_code == 200
        await api.services.rules.delete(CONSOLE, events)
        # So that the route is open, and shows of no host anything: none is in that group.
        await allow(api, {"events.read"}, "no-group")
        await api.run(api.client("ada"), {"host": "alpha1"}, task_id="task-hidden")
        seen = await frames_until(reader, lambda event: "task-hidden" in orjson.dumps(event).decode())
        await api.run(api.client("ada"), {"host": "alpha1"}, task_id="task-last")
        seen += await frames_until(reader, lambda event: "task-last" in orjson.dumps(event).decode())

    assert {row["task_id"] for row in rows_of(seen, "tasks")} >= {"task-hidden", "task-last"}
    assert not [row for row in rows_of(seen, "events") if row["task_id"] in {"task-hidden", "task-last"}]
    assert (await mia.get("/api/v1/events")).json()["items"] == []
    assert (await mia.get(f"/api/v1/events/{seq}")).status_code == 404


@pytest.mark.parametrize("change", ["another role", "disabled"])
async def test_a_stream_ends_with_the_event_that_changed_who_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Not with the next ping: until then it would go on with what the reader might see before."""
    monkeypatch.setattr(live, "PING_S", 3600.0)
    async with an_api(tmp_path) as api:
        await api.register("alpha1")
        access = api.services.access
        await access.create_user(CONSOLE, "sta", role="viewer", password="correct horse battery")
        token = await api.services.tokens.create(CONSOLE, username="sta", name="test", days=1)
        async with a_stream(api, "hosts,tasks,events", token=token.text) as reader:
            await reader.next(skip=())
            if change == "disabled":
                await access.set_enabled(CONSOLE, "sta", False)
            else:
                await access.set_role(CONSOLE, "sta", "member")
            await api.services.hosts.set_labels(CONSOLE, "alpha1", {"canary": "1"})
            seen = []
            while (event := await reader.next(skip=())) is not None:
                seen.append(event)

    assert "canary" not in orjson.dumps(seen).decode()


# --- live output ------------------------------------------------------------------------------------------------------


async def test_live_output_is_for_whoever_may_see_that_of_the_host(api: ApiUnderTest, output: FakeLiveOutput) -> None:
    await api.run(api.client("ada"), {"hosts": ["alpha1", "bravo1"]}, task_id="t1")
    mia, said = api.client("mia"), []
    for topic in ("output:t1:bravo1", "output:t1:alpha1,output:t1:bravo1", "output:t9:alpha1", "output:t1:nothing"):
        answer = await mia.get("/api/v1/stream", params={"topics": topic})
        said.append((answer.status_code, answer.json()["code"]))
    assert said == [(404, "unknown_task")] * 4

    async with as_mia(api, "hosts,output:t1:alpha1") as reader:
        await reader.next(skip=())
        output.prints(b"theirs", "bravo1")
        output.prints(b"ours", "alpha1")
        event = await reader.next() or ("", {})
        assert (event[0], event[1]["data"]) == ("output", "ours")
        await api.services.hosts.set_groups(CONSOLE, "alpha1", ["bravo-group"])
        output.prints(b"theirs by now", "alpha1")
        await api.services.hosts.set_maintenance(CONSOLE, "alpha2", True)
        seen = await frames_until(reader, is_maintained)

    assert not [data for name, data in seen if name == "output"]
    assert output.watched == frozenset()


async def test_nothing_more_is_heard_of_what_nobody_may_see_any_more(api: ApiUnderTest, output: FakeLiveOutput) -> None:
    await api.run(api.client("ada"), {"host": "alpha1"}, task_id="t1")
    async with as_mia(api, "output:t1:alpha1") as reader:
        await reader.next(skip=())
        assert output.watched == {("t1", "alpha1")}
        await api.services.hosts.set_groups(CONSOLE, "alpha1", ["bravo-group"])
        async with asyncio.timeout(10):
            while output.watched:
                await asyncio.sleep(0.01)


# --- what fails on the way --------------------------------------------------------------------------------------------


async def test_a_database_that_fails_for_a_moment_costs_no_reader_a_row(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, failures = TaskQueries.whole, [2]

    async def failing(self: TaskQueries, *args: Any) -> set[str]:
        if failures[0]:
            failures[0] -= 1
            raise StorageUnavailableError("for a moment")
        return await whole(self, *args)

    async with as_mia(api, "tasks") as mias, a_stream(api, "tasks") as roots:
        for reader in (mias, roots):
            await reader.next(skip=())
        monkeypatch.setattr(TaskQueries, "whole", failing)
        await api.run(api.client("ada"), {"group": "alpha-group"}, task_id="task-alpha")
        told = [await reader.next() or ("", {}) for reader in (mias, roots)]

    assert failures == [0]
    assert [{row["task_id"] for row in rows_of([event], "tasks")} for event in told] == [{"task-alpha"}] * 2


async def test_an_event_of_a_task_waits_for_the_table_that_tells_who_may_see_it(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be taken for one of a task that nobody knows, and never be shown."""
    before = (await api.log.head(EVENT)).seq
    await api.run(api.client("ada"), {"group": "alpha-group"}, task_id="task-alpha")
    head, position = (await api.log.head(EVENT)).seq, api.services.hub.position
    changes, places = Changes(api.services), Places.all_at(Positions(before, 0))
    events = frozenset({"events"})

    async def behind(name: str) -> Positions:
        return Positions(before, 0) if name == "tasks" else await position(name)

    monkeypatch.setattr(api.services.hub, "position", behind)
    for_all, _ = await changes.rows(places, events)
    for_some, reached = await changes.rows(places, events, keeps_to_tasks=True)
    monkeypatch.setattr(api.services.hub, "position", position)
    afterwards, _ = await changes.rows(reached, events, keeps_to_tasks=True)

    assert [row.pos for row in for_all] == list(range(before + 1, head + 1))
    assert for_some == []
    assert [row.pos for row in afterwards] == [row.pos for row in for_all]


async def test_topics_show_what_the_permission_of_each_is_for(api: ApiUnderTest) -> None:
    for rule_id in list(api.services.authority.rules.rules):
        await api.services.rules.delete(CONSOLE, rule_id)
    await allow(api, {"hosts.read"}, "alpha-group")
    async with as_mia(api, "hosts,usage") as reader:
        await reader.next(skip=())
        await run_everywhere(api)
        seen = await frames_until(reader, is_maintained)
        for _ in range(3):
            seen.append(await reader.next(skip=()) or ("", {}))

    assert theirs_in(seen) == []
    assert {data["table"] for name, data in seen if name == "rows"} == {"hosts"}


async def test_what_another_replica_has_moved_out_is_not_shown_though_its_row_comes_first(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process's authority is behind until the stream looks: nothing else here brings it up to date."""

    async def no_ping() -> None:
        pass

    monkeypatch.setattr(api.live, "_tell_ping", no_ping)
    keyring, host = api.services.keyring, api.services.authority.fleet.host("alpha1")
    moved = HostGroupsChanged(hostname="alpha1", based_on=host.changed_seq, groups=("bravo-group",))
    last = HostMaintenanceChanged(
        hostname="alpha2", based_on=api.services.authority.fleet.host("alpha2").changed_seq, maintenance=True
    )
    async with as_mia(api, "hosts,events") as reader:
        await reader.next(skip=())
        for event in (moved, last):
            signature, key_id = keyring.sign_event(event), keyring.active.key_id
            await api.log.append([event.to_new_event(actor="root", signature=signature, key_id=key_id)])
        seen = await all_frames(reader)

    assert theirs_in(seen) == []
    assert {row["hostname"] for row in rows_of(seen, "hosts")} == {"alpha2"}
