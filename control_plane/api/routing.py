"""The one kind of route there is: closed unless listed as public, and strict about what it is sent."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from fastapi import APIRouter, Depends, Request, params
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Receive

from control_plane.api.authentication import Authenticator
from control_plane.api.bodies import MAX_BODY_BYTES, MAX_PUBLIC_BODY_BYTES, LimitedBody, check_length
from control_plane.api.problems import ProblemError
from control_plane.api.services import Caller, Given, Services, scope_of
from control_plane.commands.access import Principal
from control_plane.errors import NotFoundError, StorageUnavailableError
from control_plane.observability import bound
from control_plane_wire import strict_json
from control_plane_wire.errors import MalformedMessageError

API: Final = "/api/v1"
INLINE_BYTES: Final = 64 * 1024  # what is larger is decoded in a thread: others do not wait for it
MAX_NAMES: Final = 1024  # in one object; each that is unknown would be told of
ANSWER_S: Final = 8.0  # then a client is told to come again; letting go of a connection that hangs takes time, too


class StrictRequest(Request):
    async def json(self) -> strict_json.JsonObject:
        """The body: one JSON object without duplicate keys, NaN and the like."""
        body = await self.body()
        try:
            if len(body) > INLINE_BYTES:
                return await asyncio.to_thread(_decoded, body)
            return _decoded(body)
        except MalformedMessageError as error:
            raise ProblemError(400, "malformed_json", f"the body is refused: {error}") from error


def _decoded(body: bytes) -> strict_json.JsonObject:
    found = strict_json.parse(body, max_bytes=MAX_BODY_BYTES)
    left: list[strict_json.Json] = [found]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if len(value) > MAX_NAMES:
                raise MalformedMessageError(f"more than {MAX_NAMES} names in one object")
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return found


class GuardedRoute(APIRoute):
    """A route that asks who is there before it looks at anything else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = _query_names(self.dependant)

        async def guarded(request: Request) -> Response:
            try:
                async with asyncio.timeout(ANSWER_S) as limit:
                    return await self._answer(request, handle, known, limit)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise StorageUnavailableError(f"no answer within {ANSWER_S:g} s") from error

        return guarded

    async def _answer(
        self,
        request: Request,
        handle: Callable[[Request], Coroutine[Any, Any, Response]],
        known: set[str],
        limit: asyncio.Timeout,
    ) -> Response:
        is_public = (request.method, self.path) in request.app.state.public_routes
        actor = "anonymous" if is_public else await _let_in(request)
        self.check_query(request, known)
        strict = StrictRequest(request.scope, _little_of(request) if is_public else request.receive)
        if self.body_field is not None:
            if not is_public:  # nobody has us read and judge a megabyte who may not do it anyway
                await self._check_permissions(request)
            _check_content_type(request)
            with _stopped(limit):  # the sender's time, which has a limit of its own
                await strict.body()
        with bound(actor=actor):
            try:
                return await handle(strict)
            except NotFoundError as error:
                await _record_absent(request, error)
                raise

    async def _check_permissions(self, request: Request) -> None:
        """Ask first for what the route takes, as its dependencies do once more when the body is there."""
        services: Services = request.app.state.services
        for dependency in self.dependencies:
            if isinstance(dependency.dependency, _Check):
                await dependency.dependency(request, services, request.state.principal)

    def check_query(self, request: Request, known: set[str]) -> None:
        """Refuse a parameter that would be ignored: its sender believes that it counts."""
        for name in request.query_params:
            if name == "at" and name not in known:
                raise ProblemError(422, "not_supported", "this is not kept as it was: there is only now", field="at")
            if name not in known:
                raise ProblemError(422, "invalid_request", "unknown parameter", field=name)


@contextmanager
def _stopped(limit: asyncio.Timeout) -> Iterator[None]:
    """Let a time limit stand still inside this block."""
    loop, ends_s = asyncio.get_running_loop(), limit.when() or 0.0
    left_s = ends_s - loop.time()
    limit.reschedule(None)
    yield
    limit.reschedule(loop.time() + left_s)


async def _let_in(request: Request) -> str:
    """Who asks, by name; whoever needs more than that finds the principal in the request's state."""
    authenticator: Authenticator = request.app.state.authenticator
    principal = await authenticator.principal(request)
    request.state.principal = principal
    return principal.username


async def _record_absent(request: Request, error: NotFoundError) -> None:
    """Record that somebody who may see some hosts only asked for what is not there; or not for them, which is alike."""
    services: Services = request.app.state.services
    principal: Principal | None = getattr(request.state, "principal", None)
    if principal is not None and not scope_of(services, principal).is_everything:
        action = getattr(request.state, "permission", "read")
        resource = f"{request.method} {request.url.path}"
        await services.access.deny(principal.username, action, resource, address=principal.address, code=error.code)


def _little_of(request: Request) -> Receive:
    """The body of a request that anybody may send."""
    check_length(request, MAX_PUBLIC_BODY_BYTES)
    return LimitedBody(request.receive, MAX_PUBLIC_BODY_BYTES)


class _Check:
    def __init__(self, permission: str) -> None:
        self._permission = permission

    async def __call__(self, request: Request, services: Given, caller: Caller) -> None:
        request.state.permission = self._permission
        await services.access.check(caller, self._permission, f"{request.method} {request.scope['route'].path}")


def noun(path: str, tag: str, *, permission: str | None = None) -> APIRouter:
    """A router for one noun, `permission` being what every one of its routes needs at least."""
    dependencies = needs(permission) if permission else []
    return APIRouter(prefix=API + path, tags=[tag], route_class=GuardedRoute, dependencies=dependencies)


def needs(permission: str) -> list[params.Depends]:
    """The `dependencies` of a route that takes this permission, beside what its noun takes."""
    return [Depends(_Check(permission))]


async def _signed_in_recently(request: Request, services: Given, caller: Caller) -> None:
    await services.access.check_recent(caller, f"{request.method} {request.scope['route'].path}")


# The `dependencies` of a route that changes who may do what: a session is asked for its password again.
SENSITIVE: Final = (Depends(_signed_in_recently),)


def _query_names(dependant: Dependant) -> set[str]:
    """Every query parameter that a route, or something that it depends on, looks at."""
    below = (_query_names(dependency) for dependency in dependant.dependencies)
    return {field.alias for field in dependant.query_params}.union(*below)


def _check_content_type(request: Request) -> None:
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if has_body and media_type != "application/json":
        raise ProblemError(415, "unsupported_media_type", "the body has to be application/json")
