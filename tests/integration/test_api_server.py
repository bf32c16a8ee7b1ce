"""The HTTP server as a service: it serves, ends its streams, and says when its address is taken."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from control_plane.api import health
from control_plane.api.fields import at
from control_plane.api.server import HttpService, Places, PlainClient, _Protocol, bound
from control_plane.api.services import Probe
from control_plane.errors import ConfigurationError
from control_plane.settings import Settings
from control_plane_wire.lifecycle import run_until_stopped
from tests.support.api import an_api


@pytest.fixture
def free() -> Iterator[tuple[Settings, socket.socket]]:
    """A socket on a free port, and the settings that name it."""
    with bound(Settings(listen="127.0.0.1:0")) as made:
        yield made


async def test_the_server_answers_streams_and_stops_with_a_stream_open(
    tmp_path: Path, free: tuple[Settings, socket.socket]
) -> None:
    settings, listener = free
    port = settings.listen_port
    async with an_api(tmp_path, listen=settings.listen) as api:
        service = HttpService(api.services, listener)
        stop = asyncio.Event()
        headers = {"authorization": f"Bearer {api.tokens['eve']}"}
        async with asyncio.TaskGroup() as group:
            running = group.create_task(run_until_stopped([service], stop=stop, drain_s=10))
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
                async with asyncio.timeout(10):
                    while not await _answers(client):
                        await asyncio.sleep(0)
                assert "server" not in (await client.get("/healthz")).headers
                url = "/api/v1/stream?topics=hosts"
                async with client.stream("GET", url, timeout=20) as answer:
                    lines = answer.aiter_lines()
                    assert await anext(lines) == "event: ping"
                    stop.set()
                    async for _ in lines:
                        pass
            await running


async def test_a_check_is_looked_at_before_anybody_asks_and_its_state_holds_since_then(
    tmp_path: Path, free: tuple[Settings, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LOOK_S", 0.01)
    settings, listener = free
    looks: asyncio.Queue[str] = asyncio.Queue()

    async def probe() -> str:
        looks.put_nowait(at(api.services.clock.now_us()))
        return "somebody has stopped it"

    async with an_api(tmp_path, listen=settings.listen, probes=(Probe("stop", probe, warns=True),)) as api:
        stop = asyncio.Event()
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(run_until_stopped([HttpService(api.services, listener)], stop=stop, drain_s=10))
            first, later = await looks.get(), [await looks.get() for _ in range(3)][-1]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.listen_port}") as client:
                while not await _answers(client):
                    await asyncio.sleep(0)
                [since] = [each["since"] for each in (await client.get("/readyz")).json()["checks"][1:]]
            stop.set()

    assert first <= since <= later


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


async def test_half_a_request_is_not_waited_for_and_a_stream_is(
    tmp_path: Path, free: tuple[Settings, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.server.HEAD_S", 0.2)
    monkeypatch.setattr("control_plane.api.live.PING_S", 0.5)
    settings, listener = free
    port = settings.listen_port
    async with an_api(tmp_path, listen=settings.listen) as api:
        service = HttpService(api.services, listener)
        stop = asyncio.Event()
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(run_until_stopped([service], stop=stop, drain_s=10))
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                while not await _answers(client):
                    await asyncio.sleep(0)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.write(b"GET /healthz HTTP/1.1\r\nHost:")
            await reader.read()  # its end
            writer.close()
            headers = {"authorization": f"Bearer {api.tokens['eve']}"}
            async with (
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=20) as client,
                client.stream("GET", "/api/v1/stream?topics=hosts") as answer,
            ):
                lines = answer.aiter_lines()
                while not (await anext(lines)).startswith("event: ping"):
                    pass
                while not (await anext(lines)).startswith("event: ping"):  # later than half a request would end
                    pass
            stop.set()


@asynccontextmanager
async def a_server(tmp_path: Path, free: tuple[Settings, socket.socket], **given: Any) -> AsyncIterator[int]:
    """A server that answers; its port."""
    settings, listener = free
    stop = asyncio.Event()
    async with (
        an_api(tmp_path, listen=settings.listen, **given) as api,
        asyncio.timeout(20),
        asyncio.TaskGroup() as group,
    ):
        service = HttpService(api.services, listener)
        group.create_task(run_until_stopped([service], stop=stop, drain_s=10))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.listen_port}") as client:
            while not await _answers(client):
                await asyncio.sleep(0)
        yield settings.listen_port
        stop.set()


async def test_what_is_left_of_a_body_after_the_answer_is_not_waited_for_however_it_drips(
    tmp_path: Path, free: tuple[Settings, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.server.HEAD_S", 0.2)
    async with a_server(tmp_path, free) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 16000\r\n\r\n" % port)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"x")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1000), 0.02)
        writer.close()


async def test_who_takes_nothing_of_an_answer_is_let_go(
    tmp_path: Path, free: tuple[Settings, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.server.LOOK_S", 0.2)
    ended, ours = asyncio.Event(), list[int]()
    lost = _Protocol.connection_lost

    def connection_lost(self: _Protocol, exc: Exception | None) -> None:
        lost(self, exc)
        if self.client is not None and self.client[1] in ours:
            ended.set()

    async with a_server(tmp_path, free) as port:
        monkeypatch.setattr(_Protocol, "connection_lost", connection_lost)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
            ours.append(client.getsockname()[1])
            asked = b"GET /api/v1/keys HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port
            sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(client, asked * 20_000))
            await ended.wait()
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sending


async def test_an_address_has_so_many_connections_and_those_that_end_make_room(
    tmp_path: Path, free: tuple[Settings, socket.socket]
) -> None:
    async with a_server(tmp_path, free, connections_of_address=2) as port:
        asked = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port

        async def answer() -> tuple[bytes, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            line = b""
            with contextlib.suppress(ConnectionError):
                writer.write(asked)
                line = (await reader.readline())[:12]
            if not line:
                await closed(writer)
            return line, writer

        async def closed(writer: asyncio.StreamWriter) -> None:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        kept: list[asyncio.StreamWriter] = []
        while len(kept) < 2:  # the one that has asked whether it answers is gone a moment later
            line, writer = await answer()
            if line:
                kept.append(writer)
        assert (await answer())[0] == b""
        await closed(kept.pop())
        line = b""
        while not line:
            line, writer = await answer()
        kept.append(writer)
        for writer in kept:
            await closed(writer)


def test_a_proxy_has_any_number_and_a_network_of_ipv6_is_one_address() -> None:
    places = Places(1, Settings(trusted_proxies="10.0.0.1, 192.168.0.0/16").proxies)
    assert [places.take("10.0.0.1") for _ in range(3)] == ["10.0.0.1"] * 3
    assert (places.take("10.0.0.2"), places.take("::ffff:10.0.0.2")) == ("10.0.0.2", None)
    assert (places.take("2001:db8::1"), places.take("2001:db8::2")) == ("2001:db8::/64", None)
    places.leave("10.0.0.2")
    assert places.take("10.0.0.2") == "10.0.0.2"
    assert [Places(0, []).take("10.0.0.2") for _ in range(2)] == ["10.0.0.2"] * 2


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_port_0_becomes_the_port_that_was_free(host: str) -> None:
    with bound(Settings(listen=f"{host}:0")) as (settings, listener):
        assert settings.listen == f"{host}:{listener.getsockname()[1]}"
        assert settings.url == f"http://{settings.listen}"
        assert settings.listen_port > 0


def test_an_address_that_is_not_ours_cannot_be_listened_on() -> None:
    with pytest.raises(ConfigurationError, match="cannot listen on"), bound(Settings(listen="192.0.2.1:0")):
        pass


def test_a_taken_address_cannot_be_listened_on(free: tuple[Settings, socket.socket]) -> None:
    settings, taken = free
    taken.listen()

    with pytest.raises(ConfigurationError, match=f"{settings.listen}: Address already in use"), bound(settings):
        pass


async def test_an_ipv4_client_of_an_ipv6_socket_is_that_ipv4_client() -> None:
    seen: list[object] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope.get("client"))

    async def nothing(*_: object) -> Any:
        raise AssertionError

    for client in (("::ffff:192.0.2.1", 7), ("2001:db8::1", 7), ("192.0.2.1", 7), None):
        await PlainClient(app)({"type": "http", "client": client}, nothing, nothing)

    assert seen == [("192.0.2.1", 7), ("2001:db8::1", 7), ("192.0.2.1", 7), None]
