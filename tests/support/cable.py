"""A network cable for programs that are processes: a link in a thread of its own, which can be frozen one way only."""

import asyncio
import contextlib
import threading
import urllib.parse
from collections.abc import Iterator

OPENS_WITHIN_S = 10.0


class Cable:
    """Forwards TCP from a loopback port of its own to a server. `url` is the server's with that port in it."""

    def __init__(self, url: str) -> None:
        self._server = urllib.parse.urlsplit(url)
        self._up, self._down = threading.Event(), threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop
        self._port = 0
        self.plug_in()

    @property
    def url(self) -> str:
        account, _, _ = self._server.netloc.rpartition("@")
        return self._server._replace(netloc=f"{account}@127.0.0.1:{self._port}").geturl()

    def pull(self, *, up: bool = True, down: bool = True) -> None:
        """Let nothing through any more, to the server, from it, or both ways; nobody is told."""
        for way, is_pulled in ((self._up, up), (self._down, down)):
            if is_pulled:
                way.clear()

    def plug_in(self) -> None:
        """Let everything through again, first what was held up."""
        self._up.set()
        self._down.set()

    def cut(self) -> None:
        """End all connections."""

        def abort() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(abort)

    @contextlib.contextmanager
    def open(self) -> Iterator["Cable"]:
        opened, ended = threading.Event(), threading.Event()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self._port = server.sockets[0].getsockname()[1]
            opened.set()
            while not ended.is_set():
                await asyncio.sleep(0.02)
            server.close()
            for writer in self._writers:
                writer.transport.abort()
            while self._writers:
                await asyncio.sleep(0.01)

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        assert opened.wait(OPENS_WITHIN_S), "the cable does not open"
        try:
            yield self
        finally:
            self.plug_in()
            ended.set()
            thread.join(timeout=OPENS_WITHIN_S)

    async def _accept(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        try:
            far_reader, far = await asyncio.open_connection(self._server.hostname, self._server.port)
        except OSError:  # nobody is there
            near.transport.abort()
            return
        self._writers |= {near, far}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(near_reader, far, self._up))
                group.create_task(self._forward(far_reader, near, self._down))
        finally:
            self._writers -= {near, far}
            near.transport.abort()
            far.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: threading.Event) -> None:
        """Until either side ends; then the other one is ended too."""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                while not way.is_set():
                    await asyncio.sleep(0.02)
                writer.write(data)
                await writer.drain()
        writer.close()
