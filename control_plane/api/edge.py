"""What surrounds every request: its id, its size, its Host, and the headers of every answer."""

import ipaddress
import secrets
from typing import Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.api import problems
from control_plane.api.bodies import MAX_BODY_BYTES, LimitedBody, check_length
from control_plane.api.problems import ProblemError
from control_plane.observability import Metrics, bound
from control_plane.settings import LOOPBACK, Settings
from control_plane_wire.clock import Clock

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
HEADERS: Final = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class AllowedHosts:
    """The names by which this server may be asked: another one means a page that has rebound its own name to us."""

    def __init__(self, settings: Settings) -> None:
        named = {settings.listen_host, urlsplit(settings.url).hostname or ""}
        self._names = named | LOOPBACK if settings.listen_host in LOOPBACK else named
        # Where we listen to others, an address needs no name that could be rebound.
        self._any_address = settings.listen_host not in LOOPBACK

    def __contains__(self, header: str) -> bool:
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        return name in self._names or (self._any_address and (name == "localhost" or _is_address(name)))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Edge:
    """The outermost layer of the application, as plain ASGI: it costs microseconds and lets streams through."""

    def __init__(self, app: ASGIApp, *, hosts: AllowedHosts, metrics: Metrics, clock: Clock) -> None:
        self._app = app
        self._hosts = hosts
        self._clock = clock
        self._requests = metrics.counter(
            "control_plane_http_requests_total", "Requests answered.", "method", "route", "status"
        )
        self._seconds = metrics.histogram(
            "control_plane_http_request_seconds", "From a request's head to the first byte of its answer.", "route"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id, self._clock, is_api=scope["path"].startswith("/api/"))
        with bound(request_id=request_id):
            try:
                await self._handle(scope, receive, answer)
            finally:
                route = getattr(scope.get("route"), "path", "unknown")
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._requests.add(method=method, route=route, status=str(answer.status or 0))
                self._seconds.observe(answer.first_byte_s, route=route)

    async def _handle(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        request = Request(scope)
        try:
            self._check(request)
            await self._app(scope, LimitedBody(receive), answer)
        except Exception as error:
            if answer.status is not None:
                raise
            is_ours = isinstance(error, HTTPException)
            response = await (problems.http_problem if is_ours else problems.internal_error)(request, error)
        else:
            return
        await response(scope, receive, answer)

    def _check(self, request: Request) -> None:
        if request.headers.get("host", "") not in self._hosts:
            detail = "this server is not known by that Host; CONTROL_PLANE_PUBLIC_URL names the one it has"
            raise ProblemError(421, "host_refused", detail)
        check_length(request, MAX_BODY_BYTES)


class _Answer:
    """`send` with our headers on every answer; its status and how long it took, to be read afterwards."""

    def __init__(self, send: Send, request_id: str, clock: Clock, *, is_api: bool) -> None:
        self._send = send
        self._request_id = request_id
        self._clock = clock
        self._is_api = is_api
        self._asked_s = clock.monotonic_s()
        self.status: int | None = None
        self.first_byte_s = 0.0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.first_byte_s = self._clock.monotonic_s() - self._asked_s
            headers = [*message.get("headers", ()), *HEADERS, (b"x-request-id", self._request_id.encode())]
            if self._is_api and not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message["headers"] = headers
        await self._send(message)
