"""The HTTP server as one service among others."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from control_plane.api.app import create_app
from control_plane.api.live import Live
from control_plane.api.services import Services
from control_plane.api.ui import StaticUi, ui_directory
from control_plane.commands.networks import Network, is_within
from control_plane.commands.pending_hosts import network_of
from control_plane.errors import ConfigurationError
from control_plane.settings import Settings

_logger = logging.getLogger(__name__)

GRACEFUL_S: Final = 5  # shorter than what a stop may take in all
MAX_CONNECTIONS: Final = 2000
MAX_HEAD_BYTES: Final = 64 * 1024
HEAD_S: Final = 10.0  # also for what is left of a body after the answer
LOOK_S: Final = 15.0
LEAST_BYTES: Final = 16 * 1024  # that a reader takes in that time of an answer which is ready
MAX_HANDSHAKES: Final = 500  # of TLS, under way


@contextlib.contextmanager
def bound(settings: Settings) -> Iterator[tuple[Settings, socket.socket]]:
    """The socket that the settings ask for, and the settings with the port that it has got; nobody answers on it yet.

    Raises:
        ConfigurationError: the address is taken, or none of this machine's; the certificate is of no use.
    """
    _check_certificate(settings)
    host, port = settings.listen_host, settings.listen_port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {settings.listen}: {error.strerror}; choose another address, or port 0 for any"
            ) from error
        listen = f"{settings.listen.rpartition(':')[0]}:{listener.getsockname()[1]}"
        yield settings.model_copy(update={"listen": listen}), listener


class HttpService:
    """The API, the dashboard and the stream, on one address."""

    name = "http"

    def __init__(self, services: Services, listener: socket.socket) -> None:
        dashboard = StaticUi.read(ui_directory())
        self.live = Live(services, dashboard.digest)
        self.app = create_app(services, self.live, dashboard)
        self._settings = services.settings
        self._listener = listener

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`; what is being answered is finished, streams end."""
        config = uvicorn.Config(
            self.app,
            http=_Protocol,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            timeout_graceful_shutdown=GRACEFUL_S,
            proxy_headers=bool(self._settings.proxies),
            forwarded_allow_ips=self._settings.trusted_proxies,
            ssl_certfile=self._settings.tls_certificate,
            ssl_keyfile=self._settings.tls_key,
        )
        config.load()
        config.loaded_app = PlainClient(config.loaded_app)
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        # Inherited by each connection. asyncio sets it only where a socket names its protocol, as accepted ones do not;
        # and without it, head and body of an answer in two packets cost 40 ms of delayed acknowledgement.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.live.run(stop), name=self.live.name)
            group.create_task(self.app.state.checks.watch(stop), name="checks")
            await _Server(config, stop, self._settings).serve(sockets=[self._listener])


class PlainClient:
    """Outside of all else: an IPv4 client that an IPv6 socket was asked from is that IPv4 client, for proxies, too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (client := scope.get("client")) is not None:
            scope["client"] = (client[0].removeprefix("::ffff:"), client[1])
        await self._app(scope, receive, send)


def _check_certificate(settings: Settings) -> None:
    """Raises ConfigurationError where certificate or key are of no use."""
    if settings.tls_certificate is None:
        return

    def pass_phrase() -> str:  # asked for where the key is encrypted; else the terminal would be
        raise ConfigurationError("CONTROL_PLANE_TLS_KEY: the key is encrypted: it has to be one without a pass phrase")

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, pass_phrase)
    except OSError as error:
        raise ConfigurationError(
            f"CONTROL_PLANE_TLS_CERTIFICATE, CONTROL_PLANE_TLS_KEY: {error.strerror or error}: they are PEM files that "
            "belong together, and that this account may read"
        ) from error


class _Protocol(H11Protocol):
    """Ends a connection that would use up a place and nothing more: no byte that comes gives it more time.

    Such is one on which a request's head, or after the answer the rest of its body, does not come in time, and one
    whose reader does not take the answer.

    Attributes:
        places: how many connections each address has.
    """

    places: "Places"
    _sender: str | None = None
    _giving_up: asyncio.TimerHandle | None = None
    _looking: asyncio.TimerHandle | None = None
    _left_bytes: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own type
        super().connection_made(transport)
        self._sender = self.places.take(self.client[0] if self.client else None)
        if self._sender is None:
            transport.abort()
            return
        self._watch()
        self._looking = self.loop.call_later(LOOK_S, self._look)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._sender is not None:
            self.places.leave(self._sender)
        for timer in (self._giving_up, self._looking):
            if timer is not None:
                timer.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _look(self) -> None:
        """Give up a reader who takes nothing: closing alone waits for ever until the answer is taken."""
        left_bytes = None
        if self.transport.is_closing() or self.flow.write_paused:
            left_bytes = self.transport.get_write_buffer_size()
            if self._left_bytes is not None and left_bytes > self._left_bytes - LEAST_BYTES:
                self.transport.abort()
                return
        self._left_bytes = left_bytes
        self._looking = self.loop.call_later(LOOK_S, self._look)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._left_bytes = None

    def _watch(self) -> None:
        is_answered = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        is_waiting = is_answered or self.conn.their_state is h11.IDLE
        if is_waiting and self._giving_up is None:
            self._giving_up = self.loop.call_later(HEAD_S, self.transport.close)
        elif not is_waiting and self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None


class Places:
    """How many connections each address has, as long as it has some; an IPv6 network is one.

    Args:
        most: 0 for any number.
        proxies: who may have any number: all others come through them.
    """

    def __init__(self, most: int, proxies: Collection[Network]) -> None:
        self._most = most
        self._proxies = proxies
        self._taken: Counter[str] = Counter()

    def take(self, address: str | None) -> str | None:
        """What is to be left again; None where there is no room."""
        sender = network_of((address or "").removeprefix("::ffff:")) or ""
        if self._most and self._taken[sender] >= self._most and not is_within(address, self._proxies):
            return None
        self._taken[sender] += 1
        return sender

    def leave(self, sender: str) -> None:
        self._taken[sender] -= 1
        if not self._taken[sender]:
            del self._taken[sender]


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stop: asyncio.Event, settings: Settings) -> None:
        super().__init__(config)
        self._stop = stop
        self._settings = settings
        self._arriving: set[asyncio.Task[object]] = set()  # each lasts as long as its handshake, however that ends
        self._places = Places(settings.connections_of_address, settings.proxies)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen by ourselves: uvicorn leaves a handshake a minute, and does not count it."""
        await super().startup([])
        loop, tls = asyncio.get_running_loop(), self.config.ssl
        for listener in sockets or ():
            within_s = None if tls is None else HEAD_S
            self.servers.append(
                await loop.create_server(
                    self._protocol,
                    sock=listener,
                    ssl=tls,
                    ssl_handshake_timeout=within_s,
                    backlog=self.config.backlog,
                )
            )
        _logger.info("listening", extra={"url": self._settings.url})
        if self._settings.is_exposed:
            _logger.warning(
                "passwords and tokens come in clear over the network: set CONTROL_PLANE_TLS_CERTIFICATE, or put a "
                "proxy in front and set CONTROL_PLANE_PUBLIC_URL to its https address"
            )

    def _protocol(self) -> _Protocol:
        """For a connection that was accepted. Raises ConnectionRefusedError, which has it closed."""
        if len(self._arriving) >= MAX_HANDSHAKES:
            raise ConnectionRefusedError
        # A handshake that fails is told to no protocol; but it is the loop's task for this connection that asks here.
        if (accepting := asyncio.current_task()) is not None:
            self._arriving.add(accepting)
            accepting.add_done_callback(self._arriving.discard)
        made = _Protocol(self.config, self.server_state, self.lifespan.state)
        made.places = self._places
        return made

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to whoever runs the services

    async def on_tick(self, counter: int) -> bool:
        return self._stop.is_set() or await super().on_tick(counter)
