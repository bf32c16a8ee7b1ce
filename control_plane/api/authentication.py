"""Who asks: a session by its cookie, or an API token; and that a browser was not tricked into asking."""

import hashlib
import re
import secrets
from functools import partial
from ipaddress import ip_address
from typing import Final, Protocol

from fastapi import Request
from starlette.responses import Response

from control_plane.api.problems import ProblemError
from control_plane.commands.access import SESSION_S, Principal
from control_plane.commands.authority import Authority
from control_plane.commands.handlers.access import AccessHandler
from control_plane.commands.identity import TRANSACTION_S
from control_plane.commands.throttle import RequestThrottle
from control_plane.errors import ElsewhereError, NotSignedInError, TooManyError
from control_plane.settings import Settings
from control_plane_wire.clock import Clock

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER: Final = "x-csrf-token"
UNATTENDED_HEADER: Final = "x-unattended"  # our pages ask so while nobody touches them
_HOST: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")

# Everything that is not here needs credentials, whether anybody thought of it or not.
PUBLIC: Final = frozenset(
    {
        ("POST", "/api/v1/auth/login"),
        ("POST", "/api/v1/auth/passkey"),
        ("GET", "/api/v1/auth/providers"),
        ("GET", "/api/v1/auth/oidc/begin"),
        ("GET", "/api/v1/auth/oidc/callback"),
        ("POST", "/api/v1/enrol/begin"),
        ("POST", "/api/v1/enrol/finish"),
        ("POST", "/api/v1/enrol/request"),
        ("POST", "/api/v1/enrol/rotate"),
        ("GET", "/api/v1/keys"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
    }
)
METRICS_PATH: Final = "/metrics"
OPENAPI_PATH: Final = "/api/openapi.json"
DOCS_PATH: Final = "/api/docs"


def public_routes(settings: Settings) -> frozenset[tuple[str, str]]:
    """The routes that answer without credentials, as (method, path template); the pages of the UI come on top."""
    by_setting = {
        METRICS_PATH: settings.metrics_public,
        OPENAPI_PATH: settings.docs_public,
        DOCS_PATH: settings.docs_public,
    }
    return PUBLIC | {("GET", path) for path, is_public in by_setting.items() if is_public}


def csrf_token(secret: str) -> str:
    """What a page of ours knows of its session and another site's page does not."""
    return hashlib.sha256(b"csrf" + secret.encode()).hexdigest()


class SessionCookie:
    """The cookie that holds a session's secret. Plain HTTP is for loopback, where `Secure` would lose the cookie."""

    def __init__(self, url: str) -> None:
        self._secure = url.startswith("https://")
        self.scheme = "https" if self._secure else "http"
        self.name = "__Host-control_plane_session" if self._secure else "control_plane_session"

    def read(self, request: Request) -> str | None:
        return request.cookies.get(self.name)

    def write(self, response: Response, secret: str) -> None:
        response.set_cookie(
            self.name, secret, max_age=SESSION_S, path="/", secure=self._secure, httponly=True, samesite="strict"
        )

    def clear(self, response: Response) -> None:
        response.delete_cookie(self.name, path="/", secure=self._secure, httponly=True, samesite="strict")


class TransactionCookie:
    """The cookie of a sign-in at the identity provider, which comes back from there: so it cannot be `Strict`."""

    def __init__(self, url: str) -> None:
        self._secure = url.startswith("https://")
        self.name = "__Host-control_plane_sign_in" if self._secure else "control_plane_sign_in"

    def read(self, request: Request) -> str | None:
        return request.cookies.get(self.name)

    def write(self, response: Response, text: str) -> None:
        response.set_cookie(
            self.name, text, max_age=TRANSACTION_S, path="/", secure=self._secure, httponly=True, samesite="lax"
        )

    def clear(self, response: Response) -> None:
        response.delete_cookie(self.name, path="/", secure=self._secure, httponly=True, samesite="lax")


class Authenticator:
    """Judges by the authority's memory, which follows the log; so a request costs no read for this."""

    def __init__(
        self,
        access: AccessHandler,
        authority: Authority,
        cookie: SessionCookie,
        throttle: RequestThrottle,
        clock: Clock,
    ) -> None:
        self._access = access
        self._authority = authority
        self._cookie = cookie
        self._throttle = throttle
        self._clock = clock

    async def principal(self, request: Request) -> Principal:
        """Who asks. A request with `Authorization` is judged by that alone.

        A session that only looks, and says that nobody is there, is not used by it: a page that keeps itself up to
        date does not keep its session from ending. Of a token every request is a use, which is taken down.

        Raises:
            NotSignedInError: nobody that we know; recorded where something was shown to us.
            TooManyError: from there, or by that session or token, it was asked too often.
            ProblemError: 403, an unsafe request with a cookie that no page of ours has made; recorded.
        """
        if (header := request.headers.get("authorization")) is not None:
            scheme, _, text = header.partition(" ")
            return await self._find(self._access.by_token, text.strip() if scheme.lower() == "bearer" else "", request)
        secret = self._cookie.read(request)
        if secret is None:
            raise NotSignedInError
        is_safe = request.method in SAFE_METHODS
        is_use = not (is_safe and UNATTENDED_HEADER in request.headers)
        principal = await self._find(partial(self._access.by_session, is_use=is_use), secret, request)
        if not is_safe:
            await self.check_origin(request, username=principal.username, required=True)
            if not _has_csrf_token(request, secret):
                await self._deny(request, principal.username, "csrf_refused")
                detail = f"the header {CSRF_HEADER} is missing or not this session's"
                raise ProblemError(403, "csrf_refused", detail)
        return principal

    def known(self, request: Request) -> Principal | None:
        """Who asks where strangers are answered, too; None where this process does not know, and nothing is recorded.

        From memory alone: it is also asked while the database is away. It is no use of a session or token: a probe
        that asks again and again keeps none from being idle.
        """
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        address = address_of(request)
        try:
            if scheme:
                token = text.strip() if scheme.lower() == "bearer" else ""
                return self._access.by_token(token, address=address, is_use=False)
            secret = self._cookie.read(request)
            return None if secret is None else self._access.by_session(secret, address=address, is_use=False)
        except NotSignedInError:
            return None

    async def _find(self, find: "_Find", text: str, request: Request) -> Principal:
        address = address_of(request)
        try:
            principal = find(text, address=address)
        except NotSignedInError:
            principal = await self._find_anew(find, text, request)
        self._throttle.take(principal, self._clock.monotonic_s())
        return principal

    async def _find_anew(self, find: "_Find", text: str, request: Request) -> Principal:
        """Look once more: another replica may have opened it a moment ago."""
        address = address_of(request)
        try:
            self._throttle.wrong(address, self._clock.monotonic_s())
            await self._authority.refresh()
            principal = find(text, address=address)
        except (NotSignedInError, TooManyError) as error:
            of = error.username if isinstance(error, ElsewhereError) else None
            await self._deny(request, of, error.code if of is None else "wrong_address")
            raise
        self._throttle.right(address)
        return principal

    async def check_origin(self, request: Request, *, username: str | None = None, required: bool = False) -> None:
        """Raises ProblemError where another site's page has made this request; that is recorded."""
        origin = request.headers.get("origin")
        if origin is None and not required:
            return
        if origin is None or not self._is_ours(origin, request):
            await self._deny(request, username, "origin_refused")
            raise ProblemError(403, "origin_refused", "the Origin header does not name this server")

    def _is_ours(self, origin: str, request: Request) -> bool:
        """Whether it is, to the letter, the address that the browser has asked: by TLS where people come by that."""
        host = request.headers.get("host", "")
        schemes = {self._cookie.scheme, request.url.scheme}  # behind a proxy that is not trusted, it is the former
        return _HOST.fullmatch(host) is not None and origin in {f"{scheme}://{host}" for scheme in schemes}

    async def _deny(self, request: Request, username: str | None, code: str) -> None:
        """Record it under the route's template, since the address itself may be anything."""
        resource = f"{request.method} {request.scope['route'].path}"
        await self._access.deny(username, "request", resource, address=address_of(request), code=code)


class _Find(Protocol):
    def __call__(self, text: str, /, *, address: str | None) -> Principal: ...


def address_of(request: Request) -> str | None:
    """Where the request came from; None also where a proxy says what is no address."""
    try:
        return str(ip_address(request.client.host)) if request.client else None
    except ValueError:
        return None


def _has_csrf_token(request: Request, secret: str) -> bool:
    given = request.headers.get(CSRF_HEADER, "").encode()
    return secrets.compare_digest(given, csrf_token(secret).encode())
