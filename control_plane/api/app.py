"""The application: every router, behind the one gate."""

from importlib.metadata import version
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from control_plane.api import (
    access,
    approvals,
    audit,
    docs,
    enrolment,
    executions,
    exports,
    groups,
    health,
    hosts,
    identity,
    keys,
    passkeys,
    pending_hosts,
    problems,
    projections,
    rollouts,
    rules,
    secrets,
    sessions,
    stop,
    stream,
    targets,
    tasks,
    templates,
    ui,
)
from control_plane.api.authentication import (
    DOCS_PATH,
    OPENAPI_PATH,
    PUBLIC,
    Authenticator,
    SessionCookie,
    TransactionCookie,
    public_routes,
)
from control_plane.api.edge import AllowedHosts, Edge
from control_plane.api.health import Checks
from control_plane.api.live import Live
from control_plane.api.routing import GuardedRoute
from control_plane.api.services import Services
from control_plane.api.ui import StaticUi
from control_plane.commands.throttle import RequestThrottle

ROUTERS: Final = (
    sessions.router,
    identity.router,
    identity.returns,
    passkeys.router,
    passkeys.users,
    hosts.router,
    groups.router,
    keys.router,
    enrolment.tokens,
    enrolment.router,
    pending_hosts.router,
    targets.router,
    tasks.router,
    rollouts.router,
    executions.router,
    executions.outputs,
    secrets.router,
    exports.router,  # before the route of one event, which would take it for a seq
    audit.router,
    audit.proofs,
    stream.router,
    projections.router,
    access.users,
    access.roles,
    access.tokens,
    rules.router,
    templates.router,
    approvals.router,
    approvals.retries,
    stop.router,
    health.router,
    ui.router,
)

_openapi = APIRouter(route_class=GuardedRoute, include_in_schema=False)


def create_app(services: Services, live: Live, dashboard: StaticUi) -> FastAPI:
    """The application of these services. Its streams need `live` to run beside it."""
    app = FastAPI(
        title="control plane",
        version=version("control-plane"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    cookie = SessionCookie(services.settings.url)
    app.state.services = services
    app.state.live = live
    app.state.ui = dashboard
    app.state.cookie = cookie
    settings = services.settings
    throttle = RequestThrottle(session_per_s=settings.session_rate, token_per_s=settings.token_rate)
    app.state.transaction_cookie = TransactionCookie(settings.url)
    app.state.authenticator = Authenticator(services.access, services.authority, cookie, throttle, services.clock)
    app.state.checks = Checks(services)
    app.state.public_routes = public_routes(services.settings) | {("GET", path) for path in (*ui.PAGES, ui.FILES)}
    for router in (*ROUTERS, _openapi):
        app.router.routes.extend(router.routes)
    _check_guarded(app)
    problems.install(app)
    # In place of the one of problems, which knows no pages.
    app.add_exception_handler(HTTPException, ui.page_or_problem)
    app.add_middleware(Edge, hosts=AllowedHosts(services.settings), metrics=services.metrics, clock=services.clock)
    return app


def _check_guarded(app: FastAPI) -> None:
    """A route of another kind would answer anybody."""
    for route in app.routes:
        if not isinstance(route, GuardedRoute):
            raise TypeError(f"{route} is no GuardedRoute")


@_openapi.get(OPENAPI_PATH)
async def openapi(request: Request) -> dict[str, Any]:
    return describe(request.app)


@_openapi.get(DOCS_PATH, response_class=HTMLResponse)
async def docs_page(request: Request) -> HTMLResponse:
    dashboard: StaticUi = request.app.state.ui
    return HTMLResponse(docs.page(describe(request.app), dashboard.digest))


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: what FastAPI knows, and what the gate does."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schema.setdefault("components", {})["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": app.state.cookie.name},
    }
    schema["security"] = [{"token": []}, {"session": []}]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if (method.upper(), path) in PUBLIC:
                operation["security"] = []
            operation["responses"].pop("422", None)
            content = {problems.CONTENT_TYPE: {"schema": problems.SCHEMA}}
            for status, answer in operation["responses"].items():
                if status.startswith("4"):
                    answer["content"] = content
            operation["responses"]["default"] = {"description": "A problem, with a stable `code`.", "content": content}
            _describe_body(operation)
    _close_maps(schema["components"]["schemas"])
    app.openapi_schema = schema
    return schema


def _describe_body(operation: dict[str, Any]) -> None:
    """A body that may be left out is no `null`, which the gate refuses like all that is no object."""
    for form in operation.get("requestBody", {}).get("content", {}).values():
        forms = [each for each in form["schema"].get("anyOf", ()) if each != {"type": "null"}]
        if len(forms) == 1:
            form["schema"] = forms[0]


def _close_maps(node: object) -> None:
    """A map whose names have a pattern has no others; JSON Schema lets those hold anything, unless it is told."""
    match node:
        case dict():
            if "patternProperties" in node:
                node["additionalProperties"] = False
            for each in node.values():
                _close_maps(each)
        case list():
            for each in node:
                _close_maps(each)
