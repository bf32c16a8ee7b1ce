"""The application: every router, behind the one gate."""

from importlib.metadata import version
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
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
    system,
    targets,
    tasks,
    templates,
    ui,
)
from control_plane.api.authentication import (
    DOCS_PATH,
    OPENAPI_PATH,
    Authenticator,
    SessionCookie,
    TransactionCookie,
    public_routes,
)
from control_plane.api.edge import AllowedHosts, Edge
from control_plane.api.health import Checks
from control_plane.api.live import Live
from control_plane.api.openapi import describe
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
    system.router,
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
    settings = services.settings
    cookie = SessionCookie(settings.url)
    app = with_routes(cookie)
    app.state.services = services
    app.state.live = live
    app.state.ui = dashboard
    throttle = RequestThrottle(session_per_s=settings.session_rate, token_per_s=settings.token_rate)
    app.state.transaction_cookie = TransactionCookie(settings.url)
    app.state.authenticator = Authenticator(services.access, services.authority, cookie, throttle, services.clock)
    app.state.checks = Checks(services)
    app.state.public_routes = public_routes(services.settings) | {("GET", path) for path in (*ui.PAGES, ui.FILES)}
    problems.install(app)
    # In place of the one of problems, which knows no pages.
    app.add_exception_handler(HTTPException, ui.page_or_problem)
    app.add_middleware(Edge, hosts=AllowedHosts(services.settings), metrics=services.metrics, clock=services.clock)
    return app


def with_routes(cookie: SessionCookie) -> FastAPI:
    """Every route, without what answers: all that its OpenAPI document is made of."""
    app = FastAPI(
        title="control plane",
        version=version("control-plane"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.cookie = cookie
    for router in (*ROUTERS, _openapi):
        app.router.routes.extend(router.routes)
    _check_guarded(app)
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
