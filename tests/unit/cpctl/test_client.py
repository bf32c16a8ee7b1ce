"""What the client makes of a server's answers, of its silence, and of what is no control plane at all."""

import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from cpctl import client as module
from cpctl.client import TRIES, Client, frames, quoted
from cpctl.errors import NOT_ALLOWED, UNREACHABLE, USAGE, CpctlError, ProblemError
from cpctl.follow import Task

URL = "http://127.0.0.1:8000"


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": "so it is", "errors": []}, headers=headers)


class Server:
    """Answers the requests in turn, and again and again with the last answer."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def client_of(server: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client(URL, "token", transport=httpx.MockTransport(server))


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Nobody waits; what the server has asked for is kept."""
    asked: list[str | None] = []

    async def pause(_failures: int, retry_after: str | None) -> None:
        asked.append(retry_after)

    monkeypatch.setattr(module, "_pause", pause)
    return asked


async def test_a_server_that_is_busy_is_asked_again_as_late_as_it_says(pauses: list[str | None]) -> None:
    server = Server(problem(503, "storage_unavailable", **{"retry-after": "1"}), httpx.Response(200, json={"a": 1}))
    async with client_of(server) as client:
        assert await client.post("/tasks", {"task_id": "t1"}) == {"a": 1}

    assert [request.content for request in server.asked] == [b'{"task_id":"t1"}'] * 2
    assert pauses == ["1"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("silent"),
        problem(503, "storage_unavailable"),
        problem(500, "internal_error"),
        httpx.Response(200, text="<html>a proxy</html>"),
        httpx.Response(404, json=["not", "ours"]),
    ],
)
async def test_what_is_no_answer_of_a_control_plane_is_7(answer: httpx.Response | Exception) -> None:
    server = Server(answer)
    async with client_of(server) as client:
        with pytest.raises(CpctlError) as failed:
            await client.get("/hosts")

    assert failed.value.status == UNREACHABLE
    assert len(server.asked) <= TRIES


@pytest.mark.parametrize(
    ("status", "exit_status"), [(401, NOT_ALLOWED), (403, NOT_ALLOWED), (404, USAGE), (422, USAGE)]
)
async def test_a_refusal_is_told_at_once_with_its_code(status: int, exit_status: int) -> None:
    server = Server(problem(status, "some_code"))
    async with client_of(server) as client:
        with pytest.raises(ProblemError, match="so it is") as refused:
            await client.get("/hosts")

    assert (refused.value.status, refused.value.code, len(server.asked)) == (exit_status, "some_code", 1)


async def test_a_list_is_read_page_by_page_to_as_many_as_are_wanted() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        start, limit = int(request.url.params.get("cursor", 0)), int(request.url.params["limit"])
        items = [{"n": number} for number in range(start, start + min(limit, 2))]
        return httpx.Response(200, json={"items": items, "next_cursor": str(start + len(items))})

    async with client_of(answer) as client:
        assert [item["n"] async for item in client.items("/tasks", most=5)] == [0, 1, 2, 3, 4]


async def test_the_stream_is_read_as_the_standard_says() -> None:
    async def lines() -> AsyncIterator[str]:
        for line in (
            ": hello",
            "event: rows",
            "data: {",
            'data: "a": 1}',
            "id: e1.h0",
            "",
            "data: 2",
            "",
            "event: cut off",
        ):
            yield line

    found = [(frame.event, frame.data, frame.id) async for frame in frames(lines())]

    assert found == [("rows", {"a": 1}, "e1.h0"), ("message", 2, None)]


def row(state: str, pos: int) -> dict[str, object]:
    return {"task_id": "t1", "hostname": "web1", "state": state, "pos": pos}


def rows(table: str, changed: dict[str, object], place: str) -> str:
    data = json.dumps({"table": table, "rows": [[changed["pos"], changed]]})
    return f"event: rows\ndata: {data}\nid: {place}\n\n"


async def test_a_task_is_followed_over_a_cut_a_reset_and_what_comes_twice() -> None:
    told: list[str] = []
    places: list[str | None] = []
    finished = {"task_id": "t1", "state": "finished", "pos": 10}
    streams = [
        rows("executions", row("sent", 5), "e5.h0"),
        'event: reset\ndata: {"topic": "task:t1"}\n\n',
        rows("executions", row("queued", 4), "e9.h0") + rows("tasks", finished, "e10.h0"),
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/stream"):
            places.append(request.url.params["after"])
            return httpx.Response(200, text=streams.pop(0), headers={"content-type": "text/event-stream"})
        if request.url.path.endswith("/executions"):
            return httpx.Response(200, json={"items": [row("queued", 1)], "next_cursor": None, "as_of": "e1.h0"})
        return httpx.Response(200, json={"task_id": "t1", "state": "running", "pos": 1})

    async with client_of(answer) as client:
        task = Task(client, "t1")
        task.changed = lambda execution: told.append(execution["state"])
        await task.read()
        await task.follow()

    assert task.is_finished()
    assert told == ["queued", "sent"]
    assert places == ["e1.h0", "e5.h0", "e1.h0"]


async def test_text_of_hosts_ends_no_line_of_the_stream() -> None:
    said = "one\u2028two\u0085three\x0bfour"
    data = "event: rows\r\ndata: " + json.dumps({"said": said}, ensure_ascii=False) + "\r\n\r\n"
    server = Server(httpx.Response(200, content=data.encode(), headers={"content-type": "text/event-stream"}))
    async with client_of(server) as client, client.stream("tasks", "e1.h0") as found:
        assert [frame.data async for frame in found] == [{"said": said}]


async def test_a_stream_that_is_none_is_an_end_like_another() -> None:
    server = Server(httpx.Response(200, text="data: <html>\n\n"))
    async with client_of(server) as client:
        with pytest.raises(CpctlError) as failed:
            async with client.stream("tasks", "e1.h0") as found:
                [frame async for frame in found]

    assert failed.value.status == UNREACHABLE


async def test_a_request_that_must_not_be_made_twice_is_sent_once() -> None:
    server = Server(httpx.ReadTimeout("silent"))
    async with client_of(server) as client:
        with pytest.raises(CpctlError):
            await client.send("POST", "/tokens", body={}, tries=1)

    assert len(server.asked) == 1


async def test_a_token_that_goes_in_the_clear_goes_to_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async with Client(URL, "token") as client:
        assert not any(client._http._mounts.values())


def test_what_is_quoted_stays_one_part_of_a_path() -> None:
    assert quoted("../web1?x#y/z") == "..%2Fweb1%3Fx%23y%2Fz"
