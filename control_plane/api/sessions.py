"""Signing in and out, and who one is."""

from typing import Final, Self

from fastapi import Request as HttpRequest
from fastapi import Response
from pydantic import Field, StrictStr, model_validator

from control_plane.api.authentication import Authenticator, SessionCookie, address_of, csrf_token
from control_plane.api.fields import Answer, Request, Seq, wait_for_authority
from control_plane.api.routing import noun
from control_plane.api.services import Caller, Given, Services
from control_plane.api.ui import StaticUi
from control_plane.commands.access import Principal
from control_plane.commands.handlers.access import LoggedIn

MAX_TEXT: Final = 512

router = noun("/auth", "auth")


class Login(Request):
    """Either user and password, or the token of the login link that the embedded mode prints."""

    username: StrictStr | None = Field(None, max_length=MAX_TEXT)
    password: StrictStr | None = Field(None, max_length=MAX_TEXT)
    login_token: StrictStr | None = Field(None, max_length=MAX_TEXT)

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        by_password = self.username is not None and self.password is not None
        has_either = self.username is not None or self.password is not None
        if by_password == (self.login_token is not None) or (has_either and not by_password):
            raise ValueError("username and password are needed, or login_token")
        return self


class ChangePassword(Request):
    current: StrictStr = Field(max_length=MAX_TEXT)
    new: StrictStr = Field(max_length=MAX_TEXT)


class Me(Answer):
    """Who one is.

    Attributes:
        permissions: what the role gives, and what rules allow on some hosts at least.
        csrf_token: for X-CSRF-Token, null for an API token.
        build: changes with the UI's files.
    """

    username: str
    role: str
    permissions: list[str]
    csrf_token: str | None
    build: str
    dev: bool


@router.post("/login")
async def login(request: HttpRequest, response: Response, services: Given, body: Login) -> Me:
    """Open a session, by name and password or by the link of `control-plane dev`; its cookie comes along."""
    authenticator: Authenticator = request.app.state.authenticator
    await authenticator.check_origin(request)
    address = address_of(request)
    if body.login_token is not None:
        opened = await services.access.login_by_link(body.login_token, address=address)
    else:
        opened = await services.access.login(body.username or "", body.password or "", address=address)
    return await welcome(request, response, services, opened)


@router.post("/password")
async def change_password(
    request: HttpRequest, response: Response, services: Given, caller: Caller, body: ChangePassword
) -> Me:
    """Change one's own password. It ends all of one's sessions; the answer has a new one, as that of a login."""
    opened = await services.access.change_password(caller, body.current, body.new)
    return await welcome(request, response, services, opened)


@router.post("/logout", status_code=204)
async def logout(request: HttpRequest, response: Response, services: Given, caller: Caller) -> None:
    """End the session that asks; a token goes on."""
    await services.access.logout(caller)
    _cookie(request).clear(response)


@router.get("/me")
async def me(request: HttpRequest, services: Given, caller: Caller, min_seq: Seq | None = None) -> Me:
    """Who asks, what they may, and what a page has to know."""
    await wait_for_authority(services, min_seq)
    secret = _cookie(request).read(request) if caller.session_sha256 else None
    return _me(request, services, caller, secret)


async def welcome(request: HttpRequest, response: Response, services: Services, opened: LoggedIn) -> Me:
    """Hand a new session over. The one that the browser had ends: it is lost with its cookie, and nobody misses it."""
    await services.access.close(_cookie(request).read(request))
    _cookie(request).write(response, opened.secret)
    return _me(request, services, opened.principal, opened.secret)


def _cookie(request: HttpRequest) -> SessionCookie:
    cookie: SessionCookie = request.app.state.cookie
    return cookie


def _me(request: HttpRequest, services: Services, principal: Principal, secret: str | None) -> Me:
    ui: StaticUi = request.app.state.ui
    return Me(
        username=principal.username,
        role=principal.role,
        permissions=sorted(services.authority.rules.permissions(principal)),
        csrf_token=None if secret is None else csrf_token(secret),
        build=ui.digest,
        dev=services.dev,
    )
