"""The ways to sign in beside user and password, and the one by an identity provider (OpenID Connect)."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response
from fastapi import Request as HttpRequest
from fastapi.responses import RedirectResponse

from control_plane.api.authentication import SessionCookie, TransactionCookie, address_of
from control_plane.api.fields import Answer
from control_plane.api.routing import API, GuardedRoute, noun
from control_plane.api.services import Given
from control_plane.api.sessions import welcome
from control_plane.commands.handlers.identity import Returned
from control_plane.errors import IdentityProviderError, IdentityRefusedError, NotSignedInError, TooManyError

CALLBACK_PATH: Final = f"{API}/auth/oidc/callback"
PAGE: Final = "/"
FAILED_PAGE: Final = "/login?error="

router = noun("/auth", "auth")


class _ReturnRoute(GuardedRoute):
    def check_query(self, request: HttpRequest, known: set[str]) -> None:
        """Providers add what they like to the address that they send a browser back to."""


returns = APIRouter(route_class=_ReturnRoute, tags=["auth"])


class Provider(Answer):
    """Attributes: `name`: what people call it."""

    name: str


class Providers(Answer):
    """The ways to sign in beside user and password.

    Attributes:
        oidc: null where there is no identity provider.
        passkeys: whether this server has a name that they can be bound to.
    """

    oidc: Provider | None
    passkeys: bool


@router.get("/providers")
async def providers(services: Given) -> Providers:
    """What somebody may sign in with beside the password."""
    name = services.identity.name
    return Providers(oidc=None if name is None else Provider(name=name), passkeys=services.passkeys.is_on)


@router.get("/oidc/begin", response_class=RedirectResponse, status_code=302)
async def begin(request: HttpRequest, services: Given) -> Response:
    """Send the browser to the identity provider, to come back to the callback.

    Who has a session signs in again: the provider is told to ask, though it may know this browser.
    """
    session: SessionCookie = request.app.state.cookie
    try:
        address, begun = await services.identity.begin(session.read(request))
    except IdentityProviderError:
        return _to(FAILED_PAGE + "oidc_unavailable")
    response = _to(address)
    _cookie(request).write(response, begun.text)
    return response


@returns.get(CALLBACK_PATH, response_class=RedirectResponse, status_code=302)
async def callback(
    request: HttpRequest,
    services: Given,
    code: Annotated[str | None, Query()] = None,
    state: Annotated[str, Query()] = "",
    error: Annotated[str | None, Query()] = None,
    iss: Annotated[str | None, Query()] = None,
) -> Response:
    """The browser comes back. The page it goes on to needs no cookie: a Strict one is not sent on the way from afar."""
    returned = Returned(transaction=_cookie(request).read(request), state=state, code=code, error=error, issuer=iss)
    try:
        opened = await services.identity.finish(returned, address=address_of(request))
    except (IdentityRefusedError, NotSignedInError):  # all alike; the event has the reason
        response = _to(FAILED_PAGE + "oidc_failed")
    except IdentityProviderError:
        response = _to(FAILED_PAGE + "oidc_unavailable")
    except TooManyError as refused:
        response = _to(FAILED_PAGE + refused.code)
    else:
        response = _to(PAGE)
        await welcome(request, response, services, opened)
    _cookie(request).clear(response)
    return response


def _to(address: str) -> Response:
    return RedirectResponse(address, 302)


def _cookie(request: HttpRequest) -> TransactionCookie:
    cookie: TransactionCookie = request.app.state.transaction_cookie
    return cookie
