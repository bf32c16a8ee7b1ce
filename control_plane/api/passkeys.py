"""Passkeys: shown after the password, and one's own."""

from typing import Annotated, Any, Final

import orjson
from fastapi import Path, Response
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from control_plane.api.access import UserChange
from control_plane.api.authentication import Authenticator, address_of
from control_plane.api.fields import Answer, Items, Line, Request, Seq, Time, Username, at_s, wait_for_authority
from control_plane.api.routing import SENSITIVE, noun
from control_plane.api.services import Caller, Given
from control_plane.api.sessions import Me, welcome
from control_plane.commands.passkeys import MAX_CHALLENGE

MAX_ID: Final = 2048  # characters of base64url
MAX_SIGNED: Final = 8192

router = noun("/auth", "auth")
users = noun("/users", "access")


class _FromBrowser(BaseModel):
    """A part of what `PublicKeyCredential.toJSON()` gives, whose further fields nobody needs."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class Assertion(_FromBrowser):
    client_data: StrictStr = Field(alias="clientDataJSON", max_length=MAX_SIGNED)
    authenticator_data: StrictStr = Field(alias="authenticatorData", max_length=MAX_SIGNED)
    signature: StrictStr = Field(max_length=MAX_SIGNED)


class Attestation(_FromBrowser):
    client_data: StrictStr = Field(alias="clientDataJSON", max_length=MAX_SIGNED)
    attestation: StrictStr = Field(alias="attestationObject", max_length=MAX_SIGNED)


class _Credential(_FromBrowser):
    id: StrictStr = Field(max_length=MAX_ID)
    raw_id: StrictStr = Field(alias="rawId", max_length=MAX_ID)
    type: StrictStr = Field(max_length=64)

    def text(self) -> str:
        """As JSON, as it came."""
        return self.model_dump_json(by_alias=True)


class Shown(_Credential):
    """What `navigator.credentials.get` gave; binary values are base64url."""

    response: Assertion


class Made(_Credential):
    """What `navigator.credentials.create` gave; binary values are base64url."""

    response: Attestation


class ShowPasskey(Request):
    challenge: StrictStr = Field(max_length=MAX_CHALLENGE)
    credential: Shown


class AddPasskey(Request):
    """Attributes: `name`: which one it is, for its owner."""

    challenge: StrictStr = Field(max_length=MAX_CHALLENGE)
    credential: Made
    name: Line


class Begun(Answer):
    """Attributes: `options`: for `navigator.credentials.create`; binary values are base64url."""

    challenge: str
    options: dict[str, Any]


class Passkey(Answer):
    passkey_id: str
    name: str
    created_at: Time


class PasskeyChange(Answer):
    passkey_id: str
    seq: int


@router.post("/passkey")
async def show_passkey(request: HttpRequest, response: Response, services: Given, body: ShowPasskey) -> Me:
    """The second half of a sign-in, after the right password was answered with 401 `passkey_required`."""
    authenticator: Authenticator = request.app.state.authenticator
    await authenticator.check_origin(request)
    credential = body.credential.text()
    opened = await services.passkeys.sign_in(body.challenge, credential, address=address_of(request))
    return await welcome(request, response, services, opened)


@router.get("/passkeys")
async def list_passkeys(services: Given, caller: Caller, min_seq: Seq | None = None) -> Items[Passkey]:
    """One's own."""
    await wait_for_authority(services, min_seq)
    return Items(
        items=[
            Passkey(passkey_id=passkey.passkey_id, name=passkey.name, created_at=at_s(passkey.added_at))
            for passkey in services.passkeys.own(caller)
        ]
    )


@router.post("/passkeys/begin", dependencies=SENSITIVE)
async def begin_passkey(services: Given, caller: Caller) -> Begun:
    """A challenge for a new one: what the browser makes of it is sent to `/auth/passkeys`, within two minutes."""
    challenge, options = await services.passkeys.begin(caller)
    return Begun(challenge=challenge, options=orjson.loads(options))


@router.post("/passkeys", status_code=201, dependencies=SENSITIVE)
async def add_passkey(services: Given, caller: Caller, body: AddPasskey) -> PasskeyChange:
    """Keep a new one of one's own; from then on it is asked for after the password."""
    credential = body.credential.text()
    passkey_id, seq = await services.passkeys.add(caller, body.challenge, credential, name=body.name)
    return PasskeyChange(passkey_id=passkey_id, seq=seq)


@router.delete("/passkeys/{passkey_id}", dependencies=SENSITIVE)
async def remove_passkey(
    services: Given, caller: Caller, passkey_id: Annotated[str, Path(max_length=64)]
) -> PasskeyChange:
    """Remove one of one's own."""
    return PasskeyChange(passkey_id=passkey_id, seq=await services.passkeys.remove(caller, passkey_id))


@users.delete("/{username}/passkeys", dependencies=SENSITIVE)
async def remove_passkeys(services: Given, caller: Caller, username: Annotated[Username, Path()]) -> UserChange:
    """All of a user who has lost them."""
    return UserChange(username=username, seq=await services.access.remove_passkeys(caller, username))
