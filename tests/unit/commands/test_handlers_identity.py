"""Who a user is at the identity provider; the provider itself is tried in tests/integration/test_api_oidc.py."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.commands.access import CONSOLE, IDLE_S, RECENT_S, SESSION_S, Identity
from control_plane.commands.handlers.identity import IdentityHandler, Returned
from control_plane.commands.identity import AHEAD_S, TRANSACTION_S, Proved, Transaction
from control_plane.commands.throttle import ADDRESS_S, LOGINS_OF_ADDRESS
from control_plane.errors import IdentityRefusedError, NotAllowedError, RefusedError, TooManyError
from control_plane.events import access
from tests.support.events import AT
from tests.support.fleet import OPERATOR, PASSWORD, Desk

ISSUER = "https://sso.example.com"
ADAS = Identity(ISSUER, "of-ada")


class FakeProvider:
    """Says what the test says of whoever comes back."""

    issuer = ISSUER

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self.signed_in_at: int | None = None

    async def address(self, *, state: str, nonce: str, code_challenge: str, again: bool) -> str:
        return f"{ISSUER}/authorize?state={state}&nonce={nonce}&code_challenge={code_challenge}&again={again}"

    async def proved(self, code: str, *, verifier: str, nonce: str) -> Proved:
        return Proved(self._subject, self.signed_in_at)


async def a_desk() -> Desk:
    desk = Desk()
    for username in ("ada", "ben"):
        await desk.access.create_user(CONSOLE, username, role="operator", password=PASSWORD)
    await desk.access.set_identity(CONSOLE, "ada", ADAS)
    return desk


def returned(begun: Transaction) -> Returned:
    return Returned(transaction=begun.text, state=begun.state, code="c", error=None, issuer=None)


async def test_of_two_users_that_are_given_one_subject_at_the_same_moment_one_has_it_and_both_can_be_changed() -> None:
    desk = await a_desk()
    beside = desk.beside()
    await beside.authority.refresh()
    identity = Identity(ISSUER, "new")
    state = desk.authority.access
    for username in ("ada", "ben"):  # each decided while neither was recorded
        changed = access.UserIdentityChanged(
            username=username, based_on=state.users[username].changed_seq, issuer=ISSUER, subject="new"
        )
        await desk.handling.record(changed, actor="console")

    for at in (desk, beside, desk.beside()):
        await at.authority.refresh()
        users = at.authority.access.users
        assert (users["ada"].identity, users["ben"].identity) == (identity, None)
        assert at.authority.refused == 0
    await desk.access.set_role(CONSOLE, "ben", "viewer")
    assert desk.authority.access.users["ben"].role == "viewer"


async def test_two_who_ask_for_one_subject_at_once_do_not_both_get_it() -> None:
    desk = await a_desk()
    beside = desk.beside()
    await beside.authority.refresh()
    identity = Identity(ISSUER, "new")

    outcomes = await asyncio.gather(
        desk.access.set_identity(CONSOLE, "ada", identity),
        beside.access.set_identity(CONSOLE, "ben", identity),
        return_exceptions=True,
    )

    assert [isinstance(outcome, RefusedError) for outcome in outcomes].count(True) == 1
    await desk.authority.refresh()
    assert [user.identity for user in desk.authority.access.users.values()].count(identity) == 1


async def test_an_identity_is_of_one_issuer() -> None:
    desk = await a_desk()
    provider = FakeProvider("of-ada")
    provider.issuer = "https://another.example.com"
    handler = IdentityHandler(desk.handling, desk.access, provider, "SSO")
    _, begun = await handler.begin()

    with pytest.raises(IdentityRefusedError):
        await handler.finish(returned(begun), address="::1")


async def test_an_identity_that_was_given_up_is_free_for_another() -> None:
    desk = await a_desk()

    await desk.access.set_identity(CONSOLE, "ada", None)
    await desk.access.set_identity(CONSOLE, "ben", ADAS)

    user = desk.authority.access.by_identity(ADAS)
    assert user is not None
    assert user.username == "ben"


async def test_nothing_is_recorded_where_nothing_changes_and_nobody_else_may() -> None:
    desk = await a_desk()
    before = len(desk.log.rows)

    await desk.access.set_identity(CONSOLE, "ada", ADAS)

    assert len(desk.log.rows) == before
    with pytest.raises(NotAllowedError):
        await desk.access.set_identity(OPERATOR, "ben", Identity(ISSUER, "mine"))


async def test_a_forged_identity_lets_nobody_in() -> None:
    desk = await a_desk()
    forged = access.UserIdentityChanged(
        username="ben", based_on=desk.authority.access.users["ben"].changed_seq, issuer=ISSUER, subject="mallory"
    )
    await desk.log.append([forged.to_new_event()])
    await desk.authority.refresh()

    assert desk.authority.access.by_identity(Identity(ISSUER, "mallory")) is None


async def test_a_sign_in_that_came_back_opens_one_session_at_all_replicas_together() -> None:
    desk = await a_desk()
    handlers = [IdentityHandler(at.handling, at.access, FakeProvider("of-ada"), "SSO") for at in (desk, desk.beside())]
    _, begun = await handlers[0].begin()

    assert (await handlers[1].finish(returned(begun), address="::1")).principal.username == "ada"
    for handler in handlers:
        with pytest.raises(RefusedError):
            await handler.finish(returned(begun), address="::1")
    assert desk.kinds().count("session.opened") == 1


async def test_nobody_is_told_to_try_again_in_0_seconds() -> None:
    desk = await a_desk()
    handler = IdentityHandler(desk.handling, desk.access, FakeProvider("of-nobody"), "SSO")
    for _ in range(LOGINS_OF_ADDRESS):
        _, begun = await handler.begin()
        with pytest.raises(IdentityRefusedError):
            await handler.finish(returned(begun), address="203.0.113.1")

    _, begun = await handler.begin()
    desk.clock.advance(ADDRESS_S - 0.25)
    with pytest.raises(TooManyError, match="try again in 1 s") as refused:
        await handler.finish(returned(begun), address="203.0.113.1")
    assert refused.value.wait_s == pytest.approx(0.25)
    assert desk.kinds()[-1] == "access.denied"


@pytest.mark.parametrize(
    ("said", "age"),
    [(None, RECENT_S + 1), (-9 * 3600, RECENT_S + 1), (-RECENT_S, RECENT_S), (-7, 7), (0, 0), (AHEAD_S, 0)],
)
async def test_a_session_is_as_old_as_the_provider_s_own(said: int | None, age: int) -> None:
    desk = await a_desk()
    provider = FakeProvider("of-ada")
    provider.signed_in_at = None if said is None else desk.clock.now_s() + said
    handler = IdentityHandler(desk.handling, desk.access, provider, "SSO")
    _, begun = await handler.begin()

    opened = await handler.finish(returned(begun), address="::1")

    assert desk.clock.now_s() + SESSION_S - opened.expires_at == age
    if age > RECENT_S:
        with pytest.raises(NotAllowedError, match="sign_in_again"):
            await desk.access.check_recent(opened.principal, "x")
    else:
        await desk.access.check_recent(opened.principal, "x")


async def test_a_sign_in_of_later_than_now_is_none() -> None:
    desk = await a_desk()
    provider = FakeProvider("of-ada")
    provider.signed_in_at = desk.clock.now_s() + AHEAD_S + 1
    handler = IdentityHandler(desk.handling, desk.access, provider, "SSO")
    _, begun = await handler.begin()

    with pytest.raises(IdentityRefusedError, match="later than now"):
        await handler.finish(returned(begun), address="::1")


async def test_who_has_a_session_is_to_sign_in_again_and_nobody_else() -> None:
    desk = await a_desk()
    provider = FakeProvider("of-ada")
    provider.signed_in_at = desk.clock.now_s()
    handler = IdentityHandler(desk.handling, desk.access, provider, "SSO")
    _, begun = await handler.begin()
    opened = await handler.finish(returned(begun), address="::1")

    assert not begun.is_again
    for secret, expected in ((opened.secret, True), ("of nobody", False), (None, False)):
        address, begun = await handler.begin(secret)
        assert (begun.is_again, "again=True" in address) == (expected, expected)
    desk.clock.advance(IDLE_S + 1)
    assert not (await handler.begin(opened.secret))[1].is_again


@given(st.text(max_size=40))
def test_a_cookie_that_is_none_has_ended(text: str) -> None:
    assert Transaction(text).has_ended(AT) or AT <= int(text.partition(".")[0]) <= AT + TRANSACTION_S


def test_what_is_sent_away_tells_nothing_of_what_is_kept() -> None:
    begun = Transaction.begun(AT)

    assert len({begun.state, begun.nonce, begun.verifier, begun.code_challenge}) == 4
    assert 43 <= len(begun.verifier) <= 128  # as PKCE wants it
    assert not begun.has_ended(AT + TRANSACTION_S)
    assert begun.has_ended(AT + TRANSACTION_S + 1)
    assert begun != Transaction.begun(AT)
