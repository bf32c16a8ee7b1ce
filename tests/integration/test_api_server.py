"""The HTTP server as a service: it serves, ends its streams, and says when its address is taken."""

import asyncio
import socket
from pathlib import Path

import httpx
import pytest

from control_plane.api.server import HttpService
from control_plane_wire.lifecycle import run_until_stopped
from tests.support.api import an_api
from tests.support.servers import free_port


async def test_the_server_answers_streams_and_stops_with_a_stream_open(tmp_path: Path) -> None:
    port = free_port()
    async with an_api(tmp_path, listen=f"127.0.0.1:{port}") as api:
        service = HttpService(api.services, host="127.0.0.1", port=port)
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


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


async def test_half_a_request_is_not_waited_for_and_a_stream_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.api.server.HEAD_S", 0.2)
    port = free_port()
    async with an_api(tmp_path, listen=f"127.0.0.1:{port}") as api:
        service = HttpService(api.services, host="127.0.0.1", port=port)
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
                while not (await anext(lines)).startswith("event: ping"):  # five seconds later
                    pass
            stop.set()


async def test_a_taken_address_is_an_error_and_not_the_end_of_the_program(tmp_path: Path) -> None:
    async with an_api(tmp_path) as api:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            service = HttpService(api.services, host="127.0.0.1", port=taken.getsockname()[1])
            with pytest.raises(OSError, match="in use"):
                await service.run(asyncio.Event())
