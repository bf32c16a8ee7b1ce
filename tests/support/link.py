"""A network link that a test can cut, lead elsewhere, or freeze: then nothing gets through and nobody is told."""

import asyncio
import contextlib
import urllib.parse
from collections.abc import AsyncIterator


class Link:
    """Forwards TCP from a loopback port of its own to a server. `url` is the server's with that port in it."""

    def __init__(self, url: str) -> None:
        self._server_url = urllib.parse.urlsplit(url)
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0

    @property
    def url(self) -> str:
        account, _, _ = self._server_url.netloc.rpartition("@")
        return self._server_url._replace(netloc=f"{account}@127.0.0.1:{self._port}").geturl()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Link"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.thaw()
            self.cut()
            async with asyncio.timeout(5):
                while self._writers:  # or their tasks are cancelled with the loop, with a traceback each
                    await asyncio.sleep(0.01)

    def cut(self) -> None:
        """End all connections now, as a reset does; new ones are accepted."""
        for writer in self._writers:
            writer.transport.abort()

    def lead_to(self, url: str, *, cuts: bool = True) -> None:
        """Lead new connections to another server, and cut the ones that there are, as a good load balancer does."""
        self._server_url = urllib.parse.urlsplit(url)
        if cuts:
            self.cut()

    def freeze(self) -> None:
        self._passing.clear()

    def thaw(self) -> None:
        self._passing.set()

    async def _accept(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        try:
            far_reader, far = await asyncio.open_connection(self._server_url.hostname, self._server_url.port)
        except OSError:  # nobody is there
            near.transport.abort()
            return
        self._writers |= {near, far}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(near_reader, far))
                group.create_task(self._forward(far_reader, near))
        finally:
            self._writers -= {near, far}
            near.transport.abort()
            far.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either side ends; then the other one is ended too."""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
