"""Decisions on people: who there is, in which role, with which password, and their API tokens."""

from typing import Final

from control_plane.commands.access import ROLES, TOKEN_PREFIX, AccessState, Identity, User, new_token
from control_plane.commands.grammar import checked_line, checked_login, checked_number, invalid
from control_plane.commands.passwords import digest
from control_plane.errors import RefusedError
from control_plane.events import access

MAX_TOKEN_DAYS: Final = 365
MAX_SUBJECT: Final = 255


def decide_user(state: AccessState, username: str, *, role: str, phc: str) -> access.UserCreated:
    """A new user. Raises RefusedError `user_exists`, `invalid_request`."""
    if username in state.users:
        raise RefusedError("user_exists", f"there is a user {username} already")
    return access.UserCreated(
        username=checked_login(username), based_on=0, role=_checked_role(role), phc_sha256=digest(phc)
    )


def decide_password(state: AccessState, username: str, *, phc: str) -> access.UserPasswordChanged:
    user = state.user(username)
    return access.UserPasswordChanged(username=username, based_on=user.changed_seq, phc_sha256=digest(phc))


def decide_role(state: AccessState, username: str, role: str) -> access.UserRoleChanged | None:
    user = state.user(username)
    if user.role == _checked_role(role):
        return None
    _keep_one_administrator(state, user)
    return access.UserRoleChanged(username=username, based_on=user.changed_seq, role=role)


def decide_enabled(state: AccessState, username: str, enabled: bool) -> access.UserEnabled | access.UserDisabled | None:
    user = state.user(username)
    if user.enabled == enabled:
        return None
    if enabled:
        return access.UserEnabled(username=username, based_on=user.changed_seq)
    _keep_one_administrator(state, user)
    return access.UserDisabled(username=username, based_on=user.changed_seq)


def decide_identity(state: AccessState, username: str, identity: Identity | None) -> access.UserIdentityChanged | None:
    """Who the user is at the identity provider. Raises RefusedError `identity_taken`, `invalid_request`."""
    user = state.user(username)
    if user.identity == identity:
        return None
    if identity is None:
        return access.UserIdentityChanged(username=username, based_on=user.changed_seq)
    if not is_subject(identity.subject):
        raise invalid("identity.subject", f"1 to {MAX_SUBJECT} printable ASCII characters")
    if (other := state.by_identity(identity)) is not None:
        raise RefusedError("identity_taken", f"{other.username} is {identity.subject} there")
    return access.UserIdentityChanged(
        username=username, based_on=user.changed_seq, issuer=identity.issuer, subject=identity.subject
    )


def is_subject(text: object) -> bool:
    """Whether this can be what an identity provider calls somebody."""
    return isinstance(text, str) and 1 <= len(text) <= MAX_SUBJECT and text.isascii() and text.isprintable()


def decide_token(
    state: AccessState, *, username: str, name: str, days: int, now_s: int
) -> tuple[access.TokenCreated, str]:
    """A new API token: its event, and its text, which is shown once."""
    state.user(username)
    checked_number("days", days, least=1, most=MAX_TOKEN_DAYS)
    token_id, text = new_token(TOKEN_PREFIX)
    event = access.TokenCreated(
        token_id=token_id,
        token_sha256=digest(text),
        username=username,
        name=checked_line("name", name),
        expires_at=now_s + days * 86_400,
    )
    return event, text


def _checked_role(role: str) -> str:
    if role not in ROLES:
        raise invalid("role", f"one of {', '.join(ROLES)}")
    return role


def _keep_one_administrator(state: AccessState, user: User) -> None:
    others = (other for other in state.users.values() if other.username != user.username)
    if user.role == "administrator" and not any(other.enabled and other.role == "administrator" for other in others):
        raise RefusedError("last_administrator", f"{user.username} is the last administrator")
