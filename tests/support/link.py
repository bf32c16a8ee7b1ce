"""A network link that a test can break: cut, reset, frozen one or both ways, slow, or led elsewhere."""

import asyncio
import contextlib
import socket
import struct
import threading
import urllib.parse
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

Way = Literal["up", "down"]  # to the server, from it
BOTH: tuple[Way, ...] = ("up", "down")
AT_ONCE = 65536
OPENS_WITHIN_S = 10.0


@dataclass
class _Direction:
    """Attributes: `left`: bytes until all is cut, where that is wanted; `piece`: the most that is written at once."""

    passing: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0
    left: int | None = None
    piece: int = AT_ONCE
    passed: int = 0

    def __post_init__(self) -> None:
        self.passing.set()


class Link:
    """Forwards TCP from a port of its own to a server. `url` is the server's with that port in it.

    Args:
        host: the address that it listens on.
    """

    def __init__(self, url: str, *, host: str = "127.0.0.1") -> None:
        self._server_url = urllib.parse.urlsplit(url)
        self._host = host
        self._ways: dict[Way, _Direction] = {way: _Direction() for way in BOTH}
        self._writers: set[asyncio.StreamWriter] = set()
        self._refuses = False
        self._port = 0

    @property
    def url(self) -> str:
        account, _, _ = self._server_url.netloc.rpartition("@")
        return self._server_url._replace(netloc=f"{account}@{self._host}:{self._port}").geturl()

    def passed(self, way: Way) -> int:
        """Bytes that went this way so far."""
        return self._ways[way].passed

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Link"]:
        server = await asyncio.start_server(self._accept, self._host, 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.heal()
            self.cut()
            async with asyncio.timeout(5):
                while self._writers:  # or their tasks are cancelled with the loop, with a traceback each
                    await asyncio.sleep(0.01)

    # --- what may happen to it

    def cut(self) -> None:
        """End all connections now; new ones are accepted."""
        for writer in self._writers:
            writer.transport.abort()

    def reset(self) -> None:
        """End all connections by RST, so that neither side gets what is still on its way."""
        for writer in self._writers:
            with contextlib.suppress(OSError, AttributeError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def refuse(self) -> None:
        """Cut, and end each new connection at once, until it heals."""
        self._refuses = True
        self.cut()

    def lead_to(self, url: str, *, cuts: bool = True) -> None:
        """Lead new connections to another server, and cut the ones that there are, as a good load balancer does."""
        self._server_url = urllib.parse.urlsplit(url)
        if cuts:
            self.cut()

    def freeze(self, *ways: Way) -> None:
        """Let nothing through, one way or both, and tell nobody: a half-open connection, new ones too."""
        for way in ways or BOTH:
            self._ways[way].passing.clear()

    def thaw(self) -> None:
        for direction in self._ways.values():
            direction.passing.set()

    def slow(self, delay_s: float, *ways: Way, piece: int = AT_ONCE) -> None:
        """Hold up every piece for a while, and make pieces no larger than that."""
        for way in ways or BOTH:
            self._ways[way].delay_s, self._ways[way].piece = delay_s, piece

    def cut_after(self, number: int, way: Way) -> None:
        """Cut when so many more bytes have gone this way, in the middle of what they belong to."""
        self._ways[way].left = number

    def heal(self) -> None:
        """As it was; what was held up goes on."""
        self._refuses = False
        for direction in self._ways.values():
            direction.delay_s, direction.left, direction.piece = 0.0, None, AT_ONCE
            direction.passing.set()

    # --- what goes over it

    async def _accept(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        if self._refuses:
            near.transport.abort()
            return
        try:
            far_reader, far = await asyncio.open_connection(self._server_url.hostname, self._server_url.port)
        except OSError:  # nobody is there
            near.transport.abort()
            return
        self._writers |= {near, far}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(near_reader, far, self._ways["up"]))
                group.create_task(self._forward(far_reader, near, self._ways["down"]))
        finally:
            self._writers -= {near, far}
            near.transport.abort()
            far.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: _Direction) -> None:
        """Until either side ends; then the other one is ended too."""
        with contextlib.suppress(OSError):
            while data := await reader.read(direction.piece):
                if direction.delay_s:
                    await asyncio.sleep(direction.delay_s)
                await direction.passing.wait()
                if direction.left is not None:
                    data, direction.left = data[: direction.left], direction.left - len(data)
                writer.write(data)
                direction.passed += len(data)
                await writer.drain()
                if direction.left is not None and direction.left <= 0:
                    direction.left = None
                    self.cut()
        writer.close()


class LinkBeside:
    """A link in a thread of its own, for tests whose programs are processes. Its methods are those of `Link`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return self._link.url

    def do(self, change: Callable[[Link], object]) -> None:
        """Change the link in its own thread; on return it has happened."""
        done = threading.Event()

        def run() -> None:
            change(self._link)
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(OPENS_WITHIN_S), "the link's thread hangs"

    @contextlib.contextmanager
    def open(self) -> Iterator["LinkBeside"]:
        opened = threading.Event()
        ended: asyncio.Event

        async def serve() -> None:
            nonlocal ended
            self._loop, ended = asyncio.get_running_loop(), asyncio.Event()
            async with self._link.open():
                opened.set()
                await ended.wait()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        assert opened.wait(OPENS_WITHIN_S), "the link does not open"
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(ended.set)
            thread.join(timeout=OPENS_WITHIN_S)


@contextlib.contextmanager
def links_to(urls: Collection[str]) -> Iterator[list[LinkBeside]]:
    """A link to each of these, all open during the block."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(LinkBeside(Link(url)).open()) for url in urls]
