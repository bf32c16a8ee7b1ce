"""The stream's topic `output:TASK_ID:HOSTNAME`: pieces of what a running command prints, for whoever may see them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from control_plane.api import live
from control_plane.commands import access
from control_plane_wire.output import OutputMessage
from tests.support.api import ApiUnderTest, StreamReader, a_stream, an_api


class FakeLiveOutput:
    """Says what it is told to watch, and tells what a test says."""

    def __init__(self) -> None:
        self.tell: Callable[[OutputMessage], None] = lambda _: None
        self.watched: frozenset[tuple[str, str]] = frozenset()
        self.expected: list[tuple[str, Sequence[str]]] = []
        self.kept: dict[tuple[str, str], list[OutputMessage]] = {}

    def listen(self, tell: Callable[[OutputMessage], None]) -> None:
        self.tell = tell

    def watch(self, executions: Collection[tuple[str, str]]) -> None:
        self.watched = frozenset(executions)

    def expect(self, task_id: str, hostnames: Sequence[str]) -> None:
        self.expected.append((task_id, hostnames))

    def latest(self, execution: tuple[str, str]) -> Sequence[OutputMessage]:
        return self.kept.get(execution, [])

    def prints(self, data: bytes, hostname: str = "web1", task_id: str = "t1", **changes: Any) -> None:
        self.tell(a_piece(data, hostname, task_id, **changes))


def a_piece(data: bytes, hostname: str = "web1", task_id: str = "t1", **changes: Any) -> OutputMessage:
    given = {"stream": "stdout", "offset": 0, "timestamp": 1, **changes}
    return OutputMessage.of(data, task_id=task_id, hostname=hostname, **given)


@pytest.fixture
def output() -> FakeLiveOutput:
    return FakeLiveOutput()


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: FakeLiveOutput) -> AsyncIterator[ApiUnderTest]:
    monkeypatch.setattr(live, "PING_S", 0.05)
    async with an_api(tmp_path, live_output=output) as made:
        await made.register("web1", "web2", groups=["web"])
        await made.run(await made.browser("ada"), {"group": "web"}, task_id="t1")
        yield made


async def status(api: ApiUnderTest, topics: str, *, username: str = "root") -> tuple[int, str]:
    answer = await api.client(username).get("/api/v1/stream", params={"topics": topics})
    return answer.status_code, answer.json()["code"]


async def said(reader: StreamReader) -> list[Any]:
    """What the next event of output says."""
    event = await reader.next()
    assert event is not None
    name, data = event
    assert name == "output"
    return [data["hostname"], data["stream"], data["offset"], data["data"], data["encoding"]]


async def test_a_reader_is_sent_what_the_command_prints_as_it_comes(api: ApiUnderTest, output: FakeLiveOutput) -> None:
    async with a_stream(api, "output:t1:web1,output:t1:web2") as reader:
        await reader.next(skip=())
        output.prints(b"one\n")
        output.prints(b"\xff", stream="stderr", offset=4711)
        output.prints(b"two\n", "web2", offset=4)
        found = [await said(reader) for _ in range(3)]

    assert found == [
        ["web1", "stdout", 0, "one\n", "utf-8"],
        ["web1", "stderr", 4711, "/w==", "base64"],
        ["web2", "stdout", 4, "two\n", "utf-8"],
    ]
    assert reader.last_id is None, "nobody resumes from a piece"


async def test_a_reader_is_sent_what_it_asked_for_and_others_theirs(api: ApiUnderTest, output: FakeLiveOutput) -> None:
    async with a_stream(api, "output:t1:web1") as one, a_stream(api, "output:t1:web2") as other:
        for reader in (one, other):
            await reader.next(skip=())
        output.prints(b"other task", task_id="t2")
        output.prints(b"for one")
        output.prints(b"for the other", "web2")

        assert ((await said(one))[3], (await said(other))[3]) == ("for one", "for the other")


async def test_what_somebody_reads_is_watched_until_the_last_one_leaves(
    api: ApiUnderTest, output: FakeLiveOutput
) -> None:
    async with a_stream(api, "hosts,output:t1:web1") as first:
        await first.next(skip=())
        async with a_stream(api, "output:t1:web1,output:t1:web2") as second:
            await second.next(skip=())
            both = output.watched
        left = output.watched
    after = output.watched

    assert (both, left, after) == ({("t1", "web1"), ("t1", "web2")}, {("t1", "web1")}, set())


async def test_what_has_finished_prints_nothing_more_and_its_reader_is_told_so_at_once(
    api: ApiUnderTest, output: FakeLiveOutput
) -> None:
    await api.finish("t1", "web1", exit_code=3)
    async with a_stream(api, "output:t1:web1,output:t1:web2") as reader:
        await reader.next(skip=())
        output.prints(b"late")
        output.prints(b"in time", "web2")
        ended = await reader.next()
        assert (await said(reader))[3] == "in time"
        assert output.watched == {("t1", "web2")}

    assert ended == ("output_end", {"task_id": "t1", "hostname": "web1", "state": "failed", "exit_code": 3})
    assert reader.last_id is None


async def test_a_reader_is_told_the_end_when_the_result_can_be_read(api: ApiUnderTest, output: FakeLiveOutput) -> None:
    async with a_stream(api, "output:t1:web1,output:t1:web2") as reader, a_stream(api, "output:t1:web2") as other:
        for one in (reader, other):
            await one.next(skip=())
        await api.finish("t1", "web1")
        assert await reader.next() == (
            "output_end",
            {"task_id": "t1", "hostname": "web1", "state": "succeeded", "exit_code": 0},
        )
        assert (await api.client().get("/api/v1/tasks/t1/executions/web1/output")).status_code == 200
        assert output.watched == {("t1", "web2")}
        await api.finish("t1", "web2")
        for one in (reader, other):
            event = await one.next()
            assert event is not None
            assert (event[0], event[1]["hostname"]) == ("output_end", "web2")


async def test_who_asks_a_moment_late_is_told_what_was_printed_just_before(
    api: ApiUnderTest, output: FakeLiveOutput
) -> None:
    assert output.expected == [("t1", ("web1", "web2"))]
    output.kept["t1", "web2"] = [a_piece(b"one\n", "web2"), a_piece(b"two\n", "web2", offset=4)]
    async with a_stream(api, "output:t1:web1,output:t1:web2") as reader:
        await reader.next(skip=())
        output.prints(b"three\n", "web2", offset=8)

        assert [(await said(reader))[2:4] for _ in range(3)] == [[0, "one\n"], [4, "two\n"], [8, "three\n"]]


async def test_what_was_accepted_before_is_expected_once(api: ApiUnderTest, output: FakeLiveOutput) -> None:
    ada, body = api.client("ada"), {"target": {"group": "web"}, "command": "uptime", "timeout": 30, "user": "root"}
    assert (await ada.post("/api/v1/tasks", json={**body, "task_id": "t1"})).status_code == 200

    assert len(output.expected) == 1


async def test_of_what_a_program_runs_nothing_is_heard_before_somebody_watches(
    api: ApiUnderTest, output: FakeLiveOutput
) -> None:
    await api.run(api.client("ada"), {"group": "web"}, task_id="t2")

    assert [task_id for task_id, _ in output.expected] == ["t1"]


async def test_a_hostname_in_capitals_is_the_same_host(api: ApiUnderTest, output: FakeLiveOutput) -> None:
    async with a_stream(api, "output:t1:WEB1,host:Web2") as reader:
        await reader.next(skip=())
        output.prints(b"one\n")
        assert (await said(reader))[0] == "web1"


async def test_who_reads_too_slowly_goes_without_and_the_stream_stays(
    api: ApiUnderTest, output: FakeLiveOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_UNREAD_OUTPUT_BYTES", 2000)
    async with a_stream(api, "output:t1:web1") as reader:
        await reader.next(skip=())
        for number in range(100):
            output.prints(b"x" * 500, offset=500 * number)  # and nobody can read meanwhile
        output_of_then = [await said(reader) for _ in range(3)]
        output.prints(b"after", offset=50_000)
        assert (await said(reader))[2:4] == [50_000, "after"]

    assert [found[2] for found in output_of_then] == [0, 500, 1000]
    dropped = 'control_plane_happened_total{what="live_output_dropped"} 97'
    assert dropped in api.services.metrics.render()


async def test_nothing_of_it_is_recorded(api: ApiUnderTest, output: FakeLiveOutput) -> None:
    before = (await api.log.head("event")).seq
    async with a_stream(api, "output:t1:web1,hosts") as reader:
        await reader.next(skip=())
        output.prints(b"one\n")
        await said(reader)

    assert (await api.log.head("event")).seq == before


@pytest.mark.parametrize("topic", ["output:nothing:web1", "output:t1:web9"])
async def test_an_execution_that_is_not_there_is_not_found(api: ApiUnderTest, topic: str) -> None:
    wanted = await api.client().get(f"/api/v1/tasks/{'/executions/'.join(topic.split(':')[1:])}/output")

    assert await status(api, topic) == (404, wanted.json()["code"])


async def test_who_may_not_see_output_is_not_shown_it_live(api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(access.ROLES, "viewer", access.VIEWER - {"tasks.output"})  # type: ignore[arg-type]

    assert await status(api, "hosts,output:t1:web1", username="eve") == (403, "not_allowed")


async def test_too_many_outputs_are_refused(api: ApiUnderTest) -> None:
    topics = ",".join(f"output:t1:web{number}" for number in range(21))

    assert await status(api, topics) == (422, "too_many_topics")


async def test_a_process_without_a_broker_says_so(tmp_path: Path) -> None:
    async with an_api(tmp_path) as made:
        await made.register("web1")
        await made.run(made.client("ada"), {"host": "web1"}, task_id="t1")

        assert await status(made, "output:t1:web1") == (422, "no_live_output")


async def test_a_token_that_is_revoked_sees_nothing_more(api: ApiUnderTest, output: FakeLiveOutput) -> None:
    made = await api.services.tokens.create(access.CONSOLE, username="eve", name="test", days=1)
    async with a_stream(api, "output:t1:web1", token=made.text) as reader:
        await reader.next(skip=())
        await api.services.tokens.revoke(access.CONSOLE, made.token_id)
        assert await reader.next() is None
    async with asyncio.timeout(5):
        while output.watched:
            await asyncio.sleep(0.01)
