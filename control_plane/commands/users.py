"""Decisions on people: who there is, in which role, with which password, and their API tokens."""

from collections.abc import Collection, Iterable
from typing import Final

from control_plane.commands.access import (
    ADMINISTRATOR,
    CONSOLE,
    OVERSEERS,
    ROLES,
    TOKEN_PREFIX,
    AccessState,
    Identity,
    Principal,
    User,
    new_token,
)
from control_plane.commands.grammar import checked_line, checked_login, checked_number, invalid
from control_plane.commands.networks import Network, checked_network
from control_plane.commands.passwords import digest
from control_plane.commands.rules import Rule
from control_plane.commands.targets import in_words
from control_plane.errors import NotAllowedError, NotSignedInError, RefusedError
from control_plane.events import access

MAX_TOKEN_DAYS: Final = 365
MAX_TOKENS: Final = 100  # of one user, which have not expired
MAX_ADDRESSES: Final = 64  # networks of one token
MAX_SUBJECT: Final = 255


def check_change(state: AccessState, principal: Principal, username: str, *, role: str | None = None) -> None:
    """Whether somebody who may change people may change this one: an administrator is an administrator's matter.

    Args:
        role: that the user is to have, where that is what changes.

    Raises:
        NotAllowedError: the user is an administrator, or is to be one, or an auditor or none any more, and the
            principal is no administrator.
    """
    user = state.users.get(username)
    roles = (role, user.role if user else None)
    if principal.is_administrator:
        return
    if "administrator" in roles:
        raise NotAllowedError("not_allowed", "only an administrator, with all that he may, makes or changes one")
    if role is not None and "auditor" in roles:  # else a rule about one could be made while he is none
        raise NotAllowedError("not_allowed", "only an administrator, with all that he may, makes somebody an auditor")


def check_no_rules(rules: Iterable[Rule], username: str, role: str) -> None:
    """Whoever comes to oversee others is bound by no rule that was made before, when others might make it.

    Raises:
        RefusedError: `rules_stand`: a rule about the user refuses something, or asks for an approval.
    """
    standing = [rule.rule_id for rule in rules if rule.subject == f"user:{username}" and rule.effect != "allow"]
    if f"role:{role}" in OVERSEERS and standing:
        detail = f"rule {in_words(standing)} is about {username}: end it first, and make it again after that"
        raise RefusedError("rules_stand", detail)


def check_not_oneself(principal: Principal, username: str, what: str) -> None:
    """Raises NotAllowedError where somebody would change that of himself."""
    if username == principal.username:
        raise NotAllowedError("not_allowed", f"nobody changes his own {what} here")


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
    state: AccessState,
    maker: Principal,
    *,
    username: str,
    name: str,
    days: int,
    now_s: int,
    permissions: Collection[str] | None = None,
    addresses: Collection[str] | None = None,
    bound: frozenset[str] | None = None,
) -> tuple[access.TokenCreated, str]:
    """A new API token: its event, and its text, which is shown once.

    One that is made with a token does not outlive it; a token that is not for everything makes none.

    Args:
        permissions, addresses: what it is for and where it counts from; None: as much as may be.
        bound: what it may be for at most; None: all that its owner may.

    Raises:
        NotFoundError: there is no such user.
        NotSignedInError: the token that it is made with has ended by now.
        RefusedError: `invalid_request` with the field, `too_many_tokens`.
        NotAllowedError: it would be for more than its maker may give.
    """
    state.user(username)
    checked_number("days", days, least=1, most=MAX_TOKEN_DAYS)
    by = state.tokens.get(maker.token_id or "")
    if maker.token_id is not None and by is None:  # revoked since the request came in
        raise NotSignedInError
    if by is not None and (by.permissions is not None or by.networks):
        raise NotAllowedError("not_allowed", "an API token that is not for everything from everywhere makes no others")
    _check_room(state, maker, username, now_s)
    token_id, text = new_token(TOKEN_PREFIX)
    expires_at = now_s + days * 86_400
    chosen = _permissions(permissions, bound)
    networks = _networks(addresses)
    event = access.TokenCreated(
        token_id=token_id,
        token_sha256=digest(text),
        username=username,
        name=checked_line("name", name),
        expires_at=min(expires_at, by.expires_at) if by else expires_at,
        permissions=None if chosen is None else tuple(sorted(chosen)),
        addresses=tuple(map(str, networks)) or None,
        made_with=maker.token_id,
    )
    return event, text


def _check_room(state: AccessState, maker: Principal, username: str, now_s: int) -> None:
    of_user = sum(token.username == username and token.expires_at > now_s for token in state.tokens.values())
    if of_user >= MAX_TOKENS and maker.username != CONSOLE.username:
        raise RefusedError("too_many_tokens", f"{username} has {MAX_TOKENS} API tokens already; revoke some first")


def _permissions(wanted: Collection[str] | None, bound: frozenset[str] | None) -> frozenset[str] | None:
    if wanted is None:
        return bound
    chosen = frozenset(wanted)
    if not chosen or not chosen <= ADMINISTRATOR:
        raise invalid("permissions", f"one or several of {', '.join(sorted(ADMINISTRATOR))}")
    if bound is not None and not chosen <= bound:
        raise NotAllowedError("not_allowed", f"you cannot give {', '.join(sorted(chosen - bound))} to a token")
    return chosen


def _networks(wanted: Collection[str] | None) -> tuple[Network, ...]:
    if wanted is None:
        return ()
    checked_number("addresses", len(wanted), least=1, most=MAX_ADDRESSES)
    return tuple(dict.fromkeys(checked_network("addresses", text) for text in wanted))


def _checked_role(role: str) -> str:
    if role not in ROLES:
        raise invalid("role", f"one of {', '.join(ROLES)}")
    return role


def _keep_one_administrator(state: AccessState, user: User) -> None:
    if state.is_last_administrator(user):
        raise last_administrator(user.username)


def last_administrator(username: str) -> RefusedError:
    return RefusedError("last_administrator", f"{username} is the last administrator")
