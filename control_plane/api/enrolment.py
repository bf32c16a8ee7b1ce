"""Enrolment: the tokens that an administrator makes, and the two steps of the agent that holds one."""

from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import Path, Response
from fastapi import Request as HttpRequest
from pydantic import Field, StrictInt, StrictStr

from control_plane.api.authentication import address_of
from control_plane.api.fields import (
    Answer,
    Items,
    Name,
    Request,
    Seq,
    Time,
    at_s,
    decoded,
    public_key_of,
    wait_for_authority,
)
from control_plane.api.keys import PublicKey, public_key_of_state
from control_plane.api.routing import SENSITIVE, noun
from control_plane.api.services import Caller, Given
from control_plane.commands.enrolment import MAX_TOKEN_S
from control_plane.commands.handlers import enrolment as handlers
from control_plane.commands.pending_hosts import PendingHost
from control_plane_wire.signing import decode_signature

MAX_TEXT: Final = 512

tokens = noun("/enrolment-tokens", "enrolment")
router = noun("/enrol", "enrolment")


class CreateEnrolmentToken(Request):
    hostname: Name | None = None
    groups: list[Name] = Field(default=[], max_length=64)
    expires_in: StrictInt = Field(MAX_TOKEN_S, ge=1, le=MAX_TOKEN_S, description="seconds")


class NewEnrolmentToken(Answer):
    """Attributes: `token`: shown this once; `command`: what to type on the new host."""

    token_id: str
    token: str
    expires_at: Time
    command: str


class EnrolmentToken(Answer):
    token_id: str
    hostname: str | None
    groups: list[str]
    expires_at: Time
    created_by: str


class KeyOfHost(Request):
    hostname: Name
    public_key: StrictStr = Field(max_length=64)


class BeginEnrolment(KeyOfHost):
    """Attributes: `token`: left out where the nonce is for a request, or for a new key."""

    token: StrictStr | None = Field(None, max_length=MAX_TEXT)


class AskToEnrol(KeyOfHost):
    """Attributes: `proof`: the host's signature over what it wants, with its private key."""

    nonce: StrictStr = Field(max_length=MAX_TEXT)
    proof: StrictStr = Field(max_length=128)


class FinishEnrolment(AskToEnrol):
    token: StrictStr = Field(max_length=MAX_TEXT)


class RotateKey(AskToEnrol):
    """Attributes: `public_key`: the new one; `proof`: by the key that the host has; `new_proof`: by the new one."""

    new_proof: StrictStr = Field(max_length=128)


class Nonce(Answer):
    nonce: str


class Enrolled(Answer):
    """What an agent keeps.

    Attributes:
        groups: with the log position of each assignment.
        amqp_url: where the broker is.
        next_key_sha256: hex SHA-256 of the public key that may come after `keys`, where it is announced.
    """

    hostname: str
    as_of: int
    groups: Mapping[str, int]
    keys: list[PublicKey]
    amqp_url: str | None
    next_key_sha256: str | None = None


class Waiting(Answer):
    """Nobody has decided yet: the same is asked again. Attributes: `fingerprint`: what the administrator is shown."""

    fingerprint: str
    expires_at: Time


@tokens.get("")
async def list_enrolment_tokens(services: Given, caller: Caller, min_seq: Seq | None = None) -> Items[EnrolmentToken]:
    """Those that may still be used."""
    await wait_for_authority(services, min_seq)
    return Items(
        items=[
            EnrolmentToken(
                token_id=token.token_id,
                hostname=token.hostname,
                groups=list(token.groups),
                expires_at=at_s(token.expires_at),
                created_by=token.created_by,
            )
            for token in await services.enrolment.open_tokens(caller)
        ]
    )


@tokens.post("", status_code=201, dependencies=SENSITIVE)
async def create_enrolment_token(services: Given, caller: Caller, body: CreateEnrolmentToken) -> NewEnrolmentToken:
    """Make a token that lets one host in, once."""
    made = await services.enrolment.create_token(
        caller, hostname=body.hostname, groups=tuple(body.groups), expires_in=body.expires_in
    )
    hostname = f" --hostname {body.hostname}" if body.hostname else ""
    return NewEnrolmentToken(
        token_id=made.token_id,
        token=made.text,
        expires_at=at_s(made.expires_at),
        command=f"control-plane-agent enrol --server {services.settings.url} --token {made.text}{hostname}",
    )


@tokens.delete("/{token_id}", status_code=204)
async def revoke_enrolment_token(
    services: Given, caller: Caller, token_id: Annotated[str, Path(max_length=64)]
) -> None:
    """End a token that nobody has used."""
    await services.enrolment.revoke_token(caller, token_id)


@router.post("/begin")
async def begin_enrolment(request: HttpRequest, services: Given, body: BeginEnrolment) -> Nonce:
    """The first step of an agent: a nonce to sign, with a token, or without one for a request or a new key."""
    nonce = await services.enrolment.begin(
        token=body.token,
        hostname=body.hostname,
        public_key=public_key_of(body.public_key),
        address=address_of(request),
    )
    return Nonce(nonce=nonce)


@router.post("/finish")
async def finish_enrolment(request: HttpRequest, services: Given, body: FinishEnrolment) -> Enrolled:
    """The second step, with a token: the host is registered. The same again, after a lost answer, is answered alike."""
    enrolled = await services.enrolment.finish(
        token=body.token,
        hostname=body.hostname,
        public_key=public_key_of(body.public_key),
        nonce=body.nonce,
        proof=decoded("proof", body.proof, decode_signature),
        address=address_of(request),
    )
    return enrolled_of(enrolled)


@router.post("/request", responses={202: {"model": Waiting}})
async def ask_to_enrol(
    request: HttpRequest, response: Response, services: Given, body: AskToEnrol
) -> Enrolled | Waiting:
    """Ask to be let in without a token: 202 until somebody has accepted the host by its fingerprint."""
    answer = await services.pending.ask(
        hostname=body.hostname,
        public_key=public_key_of(body.public_key),
        nonce=body.nonce,
        proof=decoded("proof", body.proof, decode_signature),
        address=address_of(request),
    )
    if isinstance(answer, PendingHost):
        response.status_code = 202
        return Waiting(fingerprint=answer.fingerprint, expires_at=at_s(answer.expires_at))
    return enrolled_of(answer)


@router.post("/rotate")
async def rotate_key(request: HttpRequest, services: Given, body: RotateKey) -> Enrolled:
    """Bring another key: both count until the first message that is signed with the new one."""
    enrolled = await services.rotations.rotate(
        hostname=body.hostname,
        public_key=public_key_of(body.public_key),
        nonce=body.nonce,
        proof=decoded("proof", body.proof, decode_signature),
        new_proof=decoded("new_proof", body.new_proof, decode_signature),
        address=address_of(request),
    )
    return enrolled_of(enrolled)


def enrolled_of(enrolled: handlers.Enrolled) -> Enrolled:
    return Enrolled(
        hostname=enrolled.hostname,
        as_of=enrolled.as_of,
        groups=enrolled.groups,
        keys=[public_key_of_state(key) for key in enrolled.keys],
        amqp_url=enrolled.amqp_url,
        next_key_sha256=enrolled.next_key_sha256,
    )
