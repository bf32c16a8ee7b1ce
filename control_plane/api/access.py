"""People, their roles and their API tokens."""

from typing import Annotated, Self

from fastapi import Path
from pydantic import Field, StrictBool, StrictInt, StrictStr, model_validator

from control_plane.api.fields import Answer, Items, Line, Request, Seq, Time, Username, at, at_s, wait_for_authority
from control_plane.api.routing import SENSITIVE, noun
from control_plane.api.services import Caller, Given
from control_plane.commands import access
from control_plane.commands.access import ADMINISTRATOR, ROLES
from control_plane.commands.access import Token as ApiToken
from control_plane.commands.token_uses import TokenUse
from control_plane.commands.users import MAX_ADDRESSES, MAX_SUBJECT, MAX_TOKEN_DAYS

DEFAULT_TOKEN_DAYS = 90

Permission = Annotated[StrictStr, Field(max_length=64, json_schema_extra={"enum": sorted(ADMINISTRATOR)})]
Address = Annotated[StrictStr, Field(max_length=64)]

users = noun("/users", "access")
roles = noun("/roles", "access")
tokens = noun("/tokens", "access")


class Identity(Answer):
    """Who a user is at an identity provider."""

    issuer: str
    subject: str


class User(Answer):
    """Attributes: `passkeys`: how many the user has."""

    username: str
    role: str
    enabled: bool
    identity: Identity | None
    passkeys: int


class CreateUser(Request):
    username: Username
    role: StrictStr = Field(max_length=64)
    password: StrictStr = Field(max_length=512)


class Subject(Request):
    """What the identity provider calls a user."""

    subject: StrictStr = Field(max_length=MAX_SUBJECT)


class ChangeUser(Request):
    """Attributes: `identity`: null takes it away."""

    role: StrictStr | None = Field(None, max_length=64)
    enabled: StrictBool | None = None
    password: StrictStr | None = Field(None, max_length=512)
    identity: Subject | None = None

    @model_validator(mode="after")
    def _changes_one_thing(self) -> Self:
        """Each is an event of its own, so two at once could be half done."""
        given = sum(value is not None for value in (self.role, self.enabled, self.password))
        if given + self.changes_identity != 1:
            raise ValueError("exactly one of role, enabled, password and identity is needed")
        return self

    @property
    def changes_identity(self) -> bool:
        return "identity" in self.model_fields_set


class UserChange(Answer):
    username: str
    seq: int


class Role(Answer):
    role: str
    permissions: list[str]


class Token(Answer):
    """An API token.

    Attributes:
        permissions: all that it is for, of what its owner may; null: everything.
        addresses: the networks that it counts from; null: from anywhere.
        last_used_at, last_used_from: up to a minute old; null where it was never used, or by a path without an address.
    """

    token_id: str
    username: str
    name: str
    expires_at: Time
    permissions: list[str] | None
    addresses: list[str] | None
    last_used_at: Time | None
    last_used_from: str | None


class CreateToken(Request):
    """A new API token.

    Attributes:
        username: another user's, which takes a permission; one's own by default.
        permissions: all that it is for, of what its owner may when it is used; everything by default.
        addresses: the networks that it counts from, as 10.0.0.0/8 or a single address; any by default.
    """

    name: Line
    days: StrictInt = Field(DEFAULT_TOKEN_DAYS, ge=1, le=MAX_TOKEN_DAYS)
    username: Username | None = None
    permissions: Annotated[list[Permission], Field(min_length=1, max_length=len(ADMINISTRATOR))] | None = None
    addresses: Annotated[list[Address], Field(min_length=1, max_length=MAX_ADDRESSES)] | None = None


class NewToken(Answer):
    """Attributes: `token`: shown this once."""

    token_id: str
    token: str
    expires_at: Time


@users.get("")
async def list_users(services: Given, caller: Caller, min_seq: Seq | None = None) -> Items[User]:
    """Everybody, by name, those who may not sign in included."""
    await wait_for_authority(services, min_seq)
    found = await services.access.users(caller)
    passkeys = services.authority.passkeys.numbers()
    return Items(
        items=[
            User(
                username=user.username,
                role=user.role,
                enabled=user.enabled,
                identity=_identity(user.identity),
                passkeys=passkeys[user.username],
            )
            for user in found
        ]
    )


def _identity(found: access.Identity | None) -> Identity | None:
    return None if found is None else Identity(issuer=found.issuer, subject=found.subject)


@users.post("", status_code=201, dependencies=SENSITIVE)
async def create_user(services: Given, caller: Caller, body: CreateUser) -> UserChange:
    """Make a user, who signs in with this password."""
    seq = await services.access.create_user(caller, body.username, role=body.role, password=body.password)
    return UserChange(username=body.username, seq=seq)


@users.patch("/{username}", dependencies=SENSITIVE)
async def change_user(
    services: Given, caller: Caller, username: Annotated[Username, Path()], body: ChangeUser
) -> UserChange:
    """Change one thing about a user. All but letting them in again ends their sessions."""
    if body.role is not None:
        seq = await services.access.set_role(caller, username, body.role)
    elif body.password is not None:
        seq = await services.access.set_password(caller, username, body.password)
    elif body.changes_identity:
        identity = None if body.identity is None else services.identity.identity(body.identity.subject)
        seq = await services.access.set_identity(caller, username, identity)
    else:
        seq = await services.access.set_enabled(caller, username, bool(body.enabled))
    return UserChange(username=username, seq=seq)


@roles.get("")
async def list_roles(services: Given, _caller: Caller, min_seq: Seq | None = None) -> Items[Role]:
    """The roles that there are, and what each may."""
    await wait_for_authority(services, min_seq)
    return Items(items=[Role(role=role, permissions=sorted(permissions)) for role, permissions in ROLES.items()])


@tokens.get("")
async def list_tokens(services: Given, caller: Caller, min_seq: Seq | None = None) -> Items[Token]:
    """One's own; everybody's for an administrator."""
    await wait_for_authority(services, min_seq)
    uses = await services.access.uses.all()
    return Items(items=[_token_of(token, uses.get(token.token_id)) for token in await services.tokens.tokens(caller)])


def _token_of(token: ApiToken, use: TokenUse | None) -> Token:
    return Token(
        token_id=token.token_id,
        username=token.username,
        name=token.name,
        expires_at=at_s(token.expires_at),
        permissions=None if token.permissions is None else sorted(token.permissions),
        addresses=[str(network) for network in token.networks] or None,
        last_used_at=None if use is None else at(use.used_us),
        last_used_from=None if use is None else use.address,
    )


@tokens.post("", status_code=201, dependencies=SENSITIVE)
async def create_token(services: Given, caller: Caller, body: CreateToken) -> NewToken:
    """Make a token. Its text is shown this once; it never may more than its owner may when it is used."""
    made = await services.tokens.create(
        caller,
        username=body.username or caller.username,
        name=body.name,
        days=body.days,
        permissions=body.permissions,
        addresses=body.addresses,
    )
    return NewToken(token_id=made.token_id, token=made.text, expires_at=at_s(made.expires_at))


@tokens.delete("/{token_id}", status_code=204)
async def revoke_token(services: Given, caller: Caller, token_id: Annotated[str, Path(max_length=64)]) -> None:
    """End a token, and all that were made with it."""
    await services.tokens.revoke(caller, token_id)
