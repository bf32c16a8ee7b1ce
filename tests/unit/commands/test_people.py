"""Who may manage whom: nobody gets more than he has by managing people, tokens or rules."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from control_plane.commands import passwords
from control_plane.commands.access import ADMINISTRATOR, CONSOLE, RECENT_S, ROLES, Identity, Principal
from control_plane.commands.handlers.tasks import known_task
from control_plane.commands.handlers.tokens import MAKER_S, TOKENS_OF_MAKER
from control_plane.commands.users import MAX_TOKENS
from control_plane.errors import NotAllowedError, NotSignedInError, RefusedError, TooManyError
from control_plane.events import access, registry
from control_plane_wire.messages import MAX_EXPIRY_S
from tests.support.fleet import PASSWORD, Desk, a_request
from tests.unit.commands.test_rules import a_rule

MANAGERS: Final = {"security-admin", "administrator"}
CHANGES: Final[dict[str, Callable[[Desk, Principal, str], Awaitable[Any]]]] = {
    "role": lambda desk, by, name: desk.access.set_role(by, name, "approver"),
    "promote": lambda desk, by, name: desk.access.set_role(by, name, "administrator"),
    "password": lambda desk, by, name: desk.access.set_password(by, name, "another long one"),
    "disable": lambda desk, by, name: desk.access.set_enabled(by, name, False),
    "token": lambda desk, by, name: desk.tokens.create(by, username=name, name="x", days=1),
}


async def a_desk() -> Desk:
    """With one user in each role, called for it with `some-` before, and a second administrator."""
    desk = Desk()
    for role in ROLES:
        await desk.access.create_user(CONSOLE, f"some-{role}", role=role, password=PASSWORD)
    await desk.access.create_user(CONSOLE, "root", role="administrator", password=PASSWORD)
    return desk


async def is_let(ask: Awaitable[Any]) -> bool:
    try:
        await ask
    except NotAllowedError:
        return False
    return True


@pytest.mark.parametrize("change", CHANGES)
async def test_an_administrator_is_changed_by_administrators_alone_and_others_by_who_may_write_people(
    change: str,
) -> None:
    desk = await a_desk()
    outcomes = {}
    for by, target in itertools.product(ROLES, ROLES):
        principal = Principal(username=f"by-{by}", role=by)
        # Each on a user of its own: what one does must not be in the next one's way.
        name = f"{by[:3]}-{target}"
        await desk.access.create_user(CONSOLE, name, role=target, password=PASSWORD)
        outcomes[by, target] = await is_let(CHANGES[change](desk, principal, name))

    needs_administrator = {
        "promote": set(ROLES),
        "role": {"administrator", "auditor"},
    }.get(change, {"administrator"})
    assert outcomes == {
        (by, target): by == "administrator" or (by in MANAGERS and target not in needs_administrator)
        for by, target in outcomes
    }


async def test_every_role_is_given_by_who_may_write_people_and_that_of_an_administrator_by_one() -> None:
    desk = await a_desk()
    for by, role in itertools.product(ROLES, ROLES):
        principal = Principal(username="x", role=by)
        made = await is_let(desk.access.create_user(principal, f"{by[:3]}-{role}", role=role, password=PASSWORD))
        assert made == (by == "administrator" or (by in MANAGERS and role not in {"administrator", "auditor"}))


@pytest.mark.parametrize("role", sorted(MANAGERS))
async def test_nobody_changes_his_own_role_nor_sets_his_own_password_but_the_console(role: str) -> None:
    desk = await a_desk()
    oneself = Principal(username=f"some-{role}", role=role)

    for to in ROLES:
        assert not await is_let(desk.access.set_role(oneself, oneself.username, to))
    assert not await is_let(desk.access.set_password(oneself, oneself.username, "another long one"))
    assert await is_let(desk.access.set_role(CONSOLE, oneself.username, "viewer"))


@pytest.mark.parametrize("role", sorted(MANAGERS))
async def test_nobody_says_of_himself_how_he_signs_in_where_others_are_managed(role: str) -> None:
    desk = await a_desk()
    name, identity = f"some-{role}", Identity("https://id.example", "mine")
    token = await a_token(desk, name, permissions=["users.write"])

    for by in (Principal(username=name, role=role, session_sha256="0" * 64), await a_token(desk, name), token):
        for change in (
            desk.access.set_identity(by, name, identity),
            desk.access.set_identity(by, name, None),
            desk.access.remove_passkeys(by, name),
        ):
            assert not await is_let(change)
            assert desk.kinds()[-1] == "access.denied"

    for by in (CONSOLE, Principal(username="root", role="administrator")):
        assert await is_let(desk.access.set_identity(by, name, identity))
        assert await is_let(desk.access.remove_passkeys(by, name))


async def test_who_becomes_an_administrator_meanwhile_is_one() -> None:
    """Another replica promotes the user between the look at who it is and the record of the change."""
    desk = await a_desk()
    beside, manager = desk.beside(), Principal(username="some-security-admin", role="security-admin")
    await beside.authority.refresh()
    append, promoted = desk.log.append, []

    async def append_late(events: Any) -> Any:
        if not promoted:
            promoted.append(True)
            await beside.access.set_role(CONSOLE, "some-operator", "administrator")
        return await append(events)

    desk.log.append = append_late  # type: ignore[method-assign]
    with pytest.raises(NotAllowedError):
        await desk.access.set_password(manager, "some-operator", "another long one")

    assert desk.kinds().count("user.password_changed") == 0
    assert desk.kinds()[-1] == "access.denied"
    assert await desk.access.login("some-operator", PASSWORD, address=None)


async def test_who_becomes_an_auditor_meanwhile_stays_one() -> None:
    desk = await a_desk()
    beside, manager = desk.beside(), Principal(username="some-security-admin", role="security-admin")
    await beside.authority.refresh()
    meanwhile(desk, lambda: beside.access.set_role(CONSOLE, "some-operator", "auditor"))

    with pytest.raises(NotAllowedError):
        await desk.access.set_role(manager, "some-operator", "viewer")

    assert desk.authority.access.user("some-operator").role == "auditor"


@pytest.mark.parametrize("role", ["auditor", "administrator"])
async def test_who_comes_to_oversee_others_is_bound_by_no_rule_that_was_made_before(role: str) -> None:
    desk = await a_desk()
    manager, root = (Principal(username=f"some-{who}", role=who) for who in ("security-admin", "administrator"))
    given = a_rule(effect="deny", subject="user:some-viewer", actions={"events.read"}, all_hosts=True)
    rule_id, _ = await desk.rules.create(manager, given)
    allowing, _ = await desk.rules.create(manager, a_rule(subject="user:some-viewer", all_hosts=True))

    for by in (root, CONSOLE):
        with pytest.raises(RefusedError, match="rules_stand") as refused:
            await desk.access.set_role(by, "some-viewer", role)
        assert rule_id in refused.value.detail
        assert allowing not in refused.value.detail
    assert await is_let(desk.access.set_role(root, "some-viewer", "operator"))

    await desk.rules.delete(manager, rule_id)
    await desk.access.set_role(root, "some-viewer", role)
    assert desk.authority.access.user("some-viewer").role == role
    await desk.rules.create(root, given)
    assert not await is_let(desk.rules.create(manager, given))


Ask = Callable[[Desk, Principal, str], Awaitable[int]]
TAKE_AWAY: Final[tuple[Ask, ...]] = (
    lambda desk, by, name: desk.access.set_role(by, name, "viewer"),
    lambda desk, by, name: desk.access.set_enabled(by, name, False),
)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(TAKE_AWAY, TAKE_AWAY)))
async def test_of_two_administrators_who_take_it_from_each_other_at_once_one_stays(first: Ask, second: Ask) -> None:
    desk = await a_desk()
    await desk.access.set_enabled(CONSOLE, "root", False)
    await desk.access.create_user(CONSOLE, "second", role="administrator", password=PASSWORD)
    one, other = (Principal(username=name, role="administrator") for name in ("some-administrator", "second"))
    beside = desk.beside()
    await beside.authority.refresh()
    meanwhile(desk, lambda: first(beside, one, "second"))

    with pytest.raises(RefusedError, match="last_administrator"):
        await second(desk, other, "some-administrator")

    for replica in (desk, beside, desk.beside()):  # the last one reads it all anew
        await replica.authority.refresh()
        state = replica.authority.access
        assert [user.username for user in state.users.values() if user.enabled and user.role == "administrator"] == [
            "some-administrator"
        ]
        assert replica.authority.refused == 0
    await desk.access.set_role(CONSOLE, "some-viewer", "administrator")
    assert await second(desk, CONSOLE, "some-administrator")  # who can be changed all the same
    user = desk.authority.access.user("some-administrator")
    assert (user.role, user.enabled) != ("administrator", True)


def meanwhile(desk: Desk, change: Callable[[], Awaitable[Any]]) -> None:
    """Another replica makes this change just before the next event of this one."""
    append, made = desk.log.append, []

    async def append_late(events: Any) -> Any:
        if not made:
            made.append(True)
            await change()
        return await append(events)

    desk.log.append = append_late  # type: ignore[method-assign]


async def test_each_refusal_is_in_the_log() -> None:
    desk = await a_desk()
    manager = Principal(username="some-security-admin", role="security-admin")

    for change in CHANGES.values():
        assert not await is_let(change(desk, manager, "root"))

    assert desk.kinds()[-len(CHANGES) :] == ["access.denied"] * len(CHANGES)


@pytest.mark.parametrize("subject", ["user:some-security-admin", "role:security-admin"])
async def test_who_may_write_rules_writes_none_about_himself(subject: str) -> None:
    desk = await a_desk()
    manager = Principal(username="some-security-admin", role="security-admin")
    denial, _ = await desk.rules.create(CONSOLE, a_rule(effect="deny", subject=subject, all_hosts=True))

    assert not await is_let(desk.rules.create(manager, a_rule(subject=subject, all_hosts=True)))
    assert not await is_let(desk.rules.delete(manager, denial))
    assert await is_let(desk.rules.create(manager, a_rule(subject="role:operator", all_hosts=True)))
    assert await is_let(desk.rules.delete(Principal(username="root", role="administrator"), denial))


@pytest.mark.parametrize(
    "subject", ["role:administrator", "role:auditor", "user:some-administrator", "user:some-auditor"]
)
async def test_a_rule_about_who_could_see_and_undo_it_is_an_administrator_s(subject: str) -> None:
    desk = await a_desk()
    denial, _ = await desk.rules.create(CONSOLE, a_rule(effect="deny", subject=subject, all_hosts=True))
    manager = Principal(username="some-security-admin", role="security-admin")
    token = await a_token(desk, "root", permissions=["rules.read", "rules.write"])

    for by in (manager, token):
        assert not await is_let(desk.rules.create(by, a_rule(effect="deny", subject=subject, all_hosts=True)))
        assert not await is_let(desk.rules.delete(by, denial))
        assert desk.kinds()[-2:] == ["access.denied"] * 2

    root = Principal(username="root", role="administrator")
    assert await is_let(desk.rules.delete(root, denial))
    assert await is_let(desk.rules.create(root, a_rule(effect="deny", subject=subject, all_hosts=True)))


# --- tokens


async def a_token(desk: Desk, username: str, by: Principal | None = None, **given: Any) -> Principal:
    """Who comes by a new token of that user."""
    made = await desk.tokens.create(by or CONSOLE, username=username, name="x", **{"days": 1, **given})
    return desk.access.by_token(made.text, address="10.1.2.3")


@pytest.mark.parametrize("role", ROLES)
async def test_a_token_may_what_it_is_for_and_its_owner_may(role: str) -> None:
    desk = await a_desk()

    for permission in sorted(ADMINISTRATOR):
        token = await a_token(desk, f"some-{role}", permissions=[permission])
        assert token.permissions == {permission} & ROLES[role]
        for asked in sorted(ADMINISTRATOR):
            let = await is_let(desk.handling.check(token, asked, "x"))
            assert let == (asked == permission and asked in ROLES[role])


async def test_a_token_s_permissions_are_those_of_its_owner_when_it_is_used() -> None:
    desk = await a_desk()
    token = await desk.tokens.create(
        CONSOLE, username="some-operator", name="x", days=1, permissions=["tasks.run", "hosts.edit"]
    )
    assert desk.access.by_token(token.text).permissions == {"tasks.run"}

    await desk.access.set_role(CONSOLE, "some-operator", "host-admin")

    assert desk.access.by_token(token.text).permissions == {"hosts.edit"}


async def test_a_rule_gives_nothing_to_a_token_that_is_not_for_it() -> None:
    desk = await a_desk()
    await desk.register("web1")
    await desk.rules.create(CONSOLE, a_rule(subject="user:some-viewer", all_hosts=True))
    reads, runs = [
        await a_token(desk, "some-viewer", permissions=[permission]) for permission in ("hosts.read", "tasks.run")
    ]
    facts = desk.authority.rules

    assert facts.permissions(reads) == {"hosts.read"}
    assert facts.permissions(runs) == {"tasks.run"}
    assert not await is_let(desk.tasks.create(reads, a_request("t1")))
    assert await is_let(desk.tasks.create(runs, a_request("t2")))
    assert not await is_let(desk.tasks.cancel(runs, "t2", None))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"permissions": []}, "permissions"),
        ({"permissions": ["hosts.reed"]}, "permissions"),
        ({"permissions": ["hosts.read", "*"]}, "permissions"),
        ({"addresses": []}, "addresses"),
        ({"addresses": ["10.0.0.0/33"]}, "addresses"),
        ({"addresses": ["10.0.0.1/8"]}, "addresses"),
        ({"addresses": ["web1"]}, "addresses"),
        ({"addresses": [""]}, "addresses"),
        ({"addresses": ["1" * 10_000]}, "addresses"),
        ({"addresses": ["::1/129"]}, "addresses"),
        ({"addresses": ["10.0.0.0/8"] * 65}, "addresses"),
        ({"days": 366}, "days"),
        ({"days": 0}, "days"),
    ],
)
async def test_a_token_that_is_for_nothing_or_from_nowhere_is_not_made(given: dict[str, Any], field: str) -> None:
    desk = await a_desk()

    with pytest.raises(RefusedError, match=field) as refused:
        await a_token(desk, "some-operator", **given)

    assert refused.value.code == "invalid_request"


ADDRESSES: Final = [
    (["10.0.0.0/8"], "10.1.2.3", True),
    (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
    (["10.0.0.0/8"], "11.1.2.3", False),
    (["10.0.0.0/8"], "::ffff:11.1.2.3", False),
    (["10.0.0.0/8"], "::a01:203", False),
    (["10.1.2.3"], "10.1.2.3", True),
    (["10.1.2.3"], "10.1.2.4", False),
    (["2001:db8::/32"], "2001:db8::1", True),
    (["2001:db8::/32"], "2001:db9::1", False),
    (["2001:db8::/32"], "10.1.2.3", False),
    (["192.0.2.0/24", "10.0.0.0/8"], "10.1.2.3", True),
    (["0.0.0.0/0"], "::1", False),
    (["10.0.0.0/8"], None, False),
    (["10.0.0.0/8"], "testclient", False),
    (["10.0.0.0/8"], "010.1.2.3", False),
]


@pytest.mark.parametrize(("networks", "address", "counts"), ADDRESSES)
async def test_a_token_counts_from_its_networks_and_from_nowhere_else(
    networks: list[str], address: str | None, counts: bool
) -> None:
    desk = await a_desk()
    token = await desk.tokens.create(CONSOLE, username="some-viewer", name="x", days=1, addresses=networks)

    if counts:
        assert desk.access.by_token(token.text, address=address)
        return
    with pytest.raises(NotSignedInError) as refused:
        desk.access.by_token(token.text, address=address)
    assert (refused.value.code, refused.value.detail) == (NotSignedInError().code, NotSignedInError().detail)


@pytest.mark.parametrize("given", [{"permissions": sorted(ADMINISTRATOR)}, {"addresses": ["10.0.0.0/8"]}])
async def test_a_token_that_is_not_for_everything_makes_none(given: dict[str, Any]) -> None:
    desk = await a_desk()
    token = await a_token(desk, "root", **given)

    for username, asked in (("root", {}), ("root", given), ("some-viewer", {"permissions": ["hosts.read"]})):
        assert not await is_let(a_token(desk, username, token, **asked))
        assert desk.kinds()[-1] == "access.denied"

    assert list(desk.authority.access.tokens) == [token.token_id]


async def test_a_token_outlives_none_that_it_was_made_with_nor_does_what_waits_of_it() -> None:
    desk = await a_desk()
    first, other = [await a_token(desk, "some-operator", days=2) for _ in range(2)]
    second = await a_token(desk, "some-operator", first, days=365)
    third = await a_token(desk, "some-operator", second, permissions=["hosts.read"])
    tokens = desk.authority.access.tokens
    assert tokens[second.token_id or ""].expires_at == tokens[first.token_id or ""].expires_at

    await desk.tokens.revoke(CONSOLE, first.token_id or "")

    beside = desk.beside()
    await beside.authority.refresh()
    for replica in (desk, beside):
        state = replica.authority.access
        assert list(state.tokens) == [other.token_id]
        assert all(state.is_revoked(each.token_id) for each in (first, second, third))


async def test_what_a_token_makes_while_it_is_revoked_is_revoked_with_it() -> None:
    desk = await a_desk()
    first = await a_token(desk, "some-operator")
    second = await a_token(desk, "some-operator", first)
    third = await a_token(desk, "some-operator", second)
    revoked = access.TokenRevoked(token_id=first.token_id or "", username="some-operator")
    late = Desk()
    for event in (*(registry.decode(row) for row in desk.log.rows if row.kind != "token.created"), revoked):
        assert event is not None
        late.authority.access.apply(event, 1)

    for row in desk.log.rows:
        if row.kind == "token.created":
            assert (made := registry.decode(row)) is not None
            assert not late.authority.access.apply(made, row.seq)
    assert late.authority.access.tokens == {}
    assert late.authority.access.is_revoked(third.token_id)


async def test_of_many_who_ask_for_the_last_token_at_once_one_gets_it() -> None:
    desk = await a_desk()
    for _ in range(MAX_TOKENS - 1):
        await a_token(desk, "some-operator")
    operator = Principal(username="some-operator", role="operator")
    append = desk.log.append

    async def append_late(events: Any) -> Any:
        await asyncio.sleep(0)  # as a database lets the others come to this, too
        return await append(events)

    desk.log.append = append_late  # type: ignore[method-assign]
    made = await asyncio.gather(*(a_token(desk, "some-operator", operator) for _ in range(9)), return_exceptions=True)

    assert sorted(type(each) is RefusedError for each in made) == [False] + 8 * [True]
    assert len(desk.authority.access.tokens) == MAX_TOKENS


async def test_nobody_makes_and_ends_tokens_without_end_but_the_console() -> None:
    desk = await a_desk()
    member = Principal(username="some-member", role="member")
    by = await a_token(desk, "some-member")
    for who in itertools.islice(itertools.cycle([member, by]), TOKENS_OF_MAKER):
        token = await a_token(desk, "some-member", who)
        await desk.tokens.revoke(member, token.token_id or "")
    before = len(desk.log.rows)

    for who in (member, by):
        with pytest.raises(TooManyError, match="too_many_requests") as refused:
            await a_token(desk, "some-member", who)
        assert refused.value.wait_s == MAKER_S
    assert len(desk.log.rows) == before
    assert await a_token(desk, "some-member")  # by root on the server
    assert await a_token(desk, "some-viewer", Principal(username="some-viewer", role="viewer"))
    desk.clock.advance(MAKER_S)
    assert await a_token(desk, "some-member", member)


async def test_an_ended_token_is_remembered_until_no_task_of_it_can_wait() -> None:
    desk = await a_desk()
    ended = await a_token(desk, "some-operator")
    state = desk.authority.access
    until = state.tokens[ended.token_id or ""].expires_at + MAX_EXPIRY_S - desk.clock.now_s()
    await desk.tokens.revoke(CONSOLE, ended.token_id or "")

    desk.clock.advance(until - 1)
    await a_token(desk, "some-operator")
    assert state.is_revoked(ended.token_id)
    desk.clock.advance(1)
    await a_token(desk, "some-operator")
    assert not state.is_revoked(ended.token_id)

    row = next(row for row in desk.log.rows if row.kind == "token.created")
    copy = registry.decode(row)
    assert copy is not None
    state.apply(copy, len(desk.log.rows) + 1)  # what an attacker writes into the database once more has expired
    assert state.tokens[ended.token_id or ""].expires_at < desk.clock.now_s()


async def test_a_token_for_some_things_sees_itself_among_its_owner_s() -> None:
    desk = await a_desk()
    limited = await a_token(desk, "some-security-admin", permissions=["hosts.read"])
    whole = await a_token(desk, "some-security-admin")
    for_others = await a_token(desk, "some-security-admin", permissions=["tokens.others"])
    operators = await a_token(desk, "some-operator", permissions=["tokens.others"])  # which its owner may not

    assert [token.token_id for token in await desk.tokens.tokens(limited)] == [limited.token_id]
    assert [token.token_id for token in await desk.tokens.tokens(operators)] == [operators.token_id]
    for who in (whole, for_others):
        assert len(await desk.tokens.tokens(who)) == 4


async def test_a_user_has_so_many_tokens_and_no_more_until_some_expire_or_are_revoked() -> None:
    desk = await a_desk()
    operator = Principal(username="some-operator", role="operator")
    made = []
    for _ in range(MAX_TOKENS):
        made.append(await a_token(desk, "some-operator", operator))
        desk.clock.advance(MAKER_S / TOKENS_OF_MAKER)

    for by in (operator, made[0], Principal(username="root", role="administrator")):
        with pytest.raises(RefusedError, match="too_many_tokens"):
            await a_token(desk, "some-operator", by)
    assert await a_token(desk, "some-viewer", Principal(username="some-viewer", role="viewer"))
    assert await a_token(desk, "some-operator")  # by root on the server

    for token in made[:2]:
        await desk.tokens.revoke(operator, token.token_id or "")
    assert await a_token(desk, "some-operator", operator)
    desk.clock.advance(86_400)
    assert await a_token(desk, "some-operator", operator)


async def test_a_token_that_was_revoked_a_moment_ago_makes_none() -> None:
    desk = await a_desk()
    token = await a_token(desk, "some-operator")
    await desk.tokens.revoke(CONSOLE, token.token_id or "")

    with pytest.raises(NotSignedInError):
        await a_token(desk, "some-operator", token)


async def test_a_token_for_somebody_else_may_no_more_than_who_made_it_whatever_its_owner_becomes() -> None:
    desk = await a_desk()
    manager = Principal(username="some-security-admin", role="security-admin")

    token = await desk.tokens.create(manager, username="some-operator", name="x", days=1)
    assert not await is_let(a_token(desk, "some-operator", manager, permissions=["tasks.run"]))
    assert desk.access.by_token(token.text).permissions == ROLES["operator"] & ROLES["security-admin"]

    await desk.access.set_role(CONSOLE, "some-operator", "administrator")
    assert desk.access.by_token(token.text).permissions == ROLES["security-admin"]
    assert not await is_let(desk.access.set_role(desk.access.by_token(token.text), "some-viewer", "administrator"))


async def test_a_token_for_somebody_else_has_nothing_of_what_rules_give_its_maker_on_some_hosts() -> None:
    desk = await a_desk()
    manager = Principal(username="some-security-admin", role="security-admin")
    await desk.rules.create(CONSOLE, a_rule(subject=f"user:{manager.username}", hostnames={"web1"}))

    assert not await is_let(a_token(desk, "some-operator", manager, permissions=["tasks.run"]))
    token = await a_token(desk, "some-operator", manager)

    assert token.permissions == ROLES["operator"] & ROLES["security-admin"]


@pytest.mark.parametrize("permission", ["users.write", "tokens.others", "rules.write"])
async def test_an_administrator_s_token_for_one_thing_is_no_administrator(permission: str) -> None:
    desk = await a_desk()
    token = await a_token(desk, "root", permissions=[permission])

    for change in CHANGES.values():
        assert not await is_let(change(desk, token, "some-administrator"))
    assert not await is_let(desk.access.create_user(token, "mallory", role="administrator", password=PASSWORD))
    for subject in ("user:root", "role:administrator"):
        assert not await is_let(desk.rules.create(token, a_rule(subject=subject, all_hosts=True)))
    assert not await is_let(a_token(desk, "root", token, permissions=["tasks.run"]))


async def test_a_token_that_is_not_for_everything_ends_itself_and_no_other() -> None:
    desk = await a_desk()
    token, other = [await a_token(desk, "some-viewer", permissions=["hosts.read"]) for _ in range(2)]

    assert not await is_let(desk.tokens.revoke(token, other.token_id or ""))
    assert await is_let(desk.tokens.revoke(token, token.token_id or ""))


async def test_what_waits_of_a_token_that_was_revoked_is_not_sent() -> None:
    desk = await a_desk()
    await desk.register("web1")
    revoked, expires = [await a_token(desk, "some-operator", permissions=["tasks.run"]) for _ in range(2)]
    tasks = {}
    for task_id, by in (("t1", revoked), ("t2", expires)):
        await desk.tasks.create(by, a_request(task_id))
        _, tasks[task_id] = await known_task(desk.log, task_id)

    await desk.tokens.revoke(CONSOLE, revoked.token_id or "")
    desk.clock.advance(2 * 86_400)

    said = {task_id: desk.authority.withdrawn(task, ["web1"]) for task_id, task in tasks.items()}
    assert said == {
        "t1": {"web1": "some-operator may not run this any more: the API token that it was asked for with is revoked"},
        "t2": {},
    }


# --- one's own password


async def test_a_new_password_ends_every_other_session_and_opens_one() -> None:
    desk = await a_desk()
    other = await desk.access.login("some-viewer", PASSWORD, address="::1")
    mine = await desk.access.login("some-viewer", PASSWORD, address="::1")
    desk.clock.advance(600)

    opened = await desk.access.change_password(mine.principal, PASSWORD, "another long one")

    for ended in (mine, other):
        with pytest.raises(NotSignedInError):
            desk.access.by_session(ended.secret)
    assert desk.access.by_session(opened.secret).username == "some-viewer"
    assert opened.expires_at == mine.expires_at
    with pytest.raises(NotAllowedError, match="sign_in_again"):  # nothing but a password was shown
        await desk.access.check_recent(opened.principal, "x")
    with pytest.raises(NotSignedInError):
        await desk.access.login("some-viewer", PASSWORD, address="::1")
    assert await desk.access.login("some-viewer", "another long one", address="::1")


async def test_a_wrong_current_password_counts_and_is_recorded_as_a_login_with_it() -> None:
    desk = await a_desk()
    mine = await desk.access.login("some-viewer", PASSWORD, address="::1")

    for number in range(5):
        with pytest.raises(NotSignedInError, match="login_failed"):
            await desk.access.change_password(mine.principal, f"wrong {number}", "another long one")
    for password in (PASSWORD, "wrong"):
        with pytest.raises(TooManyError):
            await desk.access.change_password(mine.principal, password, "another long one")

    assert desk.kinds().count("login.failed") == 5
    assert desk.kinds().count("user.password_changed") == 0
    assert desk.access.by_session(mine.secret)


@pytest.mark.parametrize("new", ["short", "", "x" * 129])
async def test_a_new_password_that_is_none_changes_nothing(new: str) -> None:
    desk = await a_desk()
    mine = await desk.access.login("some-viewer", PASSWORD, address="::1")

    with pytest.raises(RefusedError, match="weak_password"):
        await desk.access.change_password(mine.principal, PASSWORD, new)

    assert desk.access.by_session(mine.secret)
    assert await desk.access.login("some-viewer", PASSWORD, address="::1")


async def test_a_token_changes_no_password() -> None:
    desk = await a_desk()
    token = await a_token(desk, "root")

    assert not await is_let(desk.access.change_password(token, PASSWORD, "another long one"))

    assert desk.kinds()[-1] == "access.denied"


# --- a sign-in of a moment ago


async def test_a_session_is_recent_for_five_minutes_and_a_token_always() -> None:
    desk = await a_desk()
    session = (await desk.access.login("some-administrator", PASSWORD, address=None)).principal
    token = await a_token(desk, "some-administrator")

    desk.clock.advance(RECENT_S)
    await desk.access.check_recent(session, "x")
    desk.clock.advance(1)
    beside = desk.beside()
    await beside.authority.refresh()
    for replica in (desk, beside):
        with pytest.raises(NotAllowedError, match="sign_in_again"):
            await replica.access.check_recent(session, "x")
        denied = registry.decode(desk.log.rows[-1])
        assert isinstance(denied, access.AccessDenied)
        assert (denied.actor, denied.action, denied.resource) == ("some-administrator", "login", "x")
        assert denied.code == "sign_in_again"
    again = await desk.access.login("some-administrator", PASSWORD, address=None)
    for principal in (token, again.principal):
        await desk.access.check_recent(principal, "x")


async def test_a_session_that_has_just_ended_is_not_recent() -> None:
    desk = await a_desk()
    session = (await desk.access.login("some-administrator", PASSWORD, address=None)).principal
    await desk.access.logout(session)

    with pytest.raises(NotSignedInError):
        await desk.access.check_recent(session, "x")


async def test_who_signs_in_by_the_link_has_no_password_to_be_asked_for() -> None:
    desk = await a_desk()
    session = (await desk.access.login_by_link("link", address=None)).principal

    desk.clock.advance(RECENT_S + 1)

    await desk.access.check_recent(session, "x")


# --- who there is


@pytest.mark.parametrize("who", ["unknown", "disabled", "without a password", "with another's hash", "known"])
async def test_whoever_it_is_one_password_is_evaluated_and_the_answer_is_the_same(
    who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = await a_desk()
    name = "nobody" if who == "unknown" else "some-viewer"
    if who == "disabled":
        await desk.access.set_enabled(CONSOLE, name, False)
    elif who == "without a password":
        del desk.credentials.rows[name]
    elif who == "with another's hash":
        desk.credentials.rows[name] = desk.credentials.rows["root"]
    verify, evaluated = passwords.verifies, []

    def counted(text: str, phc: str) -> bool:
        evaluated.append(phc.split("$")[1:4])
        return verify(text, phc)

    monkeypatch.setattr(passwords, "verifies", counted)
    with pytest.raises(NotSignedInError) as refused:
        await desk.access.login(name, PASSWORD if who != "known" else "wrong password", address=None)

    assert evaluated == [["argon2id", "v=19", "m=64,t=1,p=1"]]
    assert (refused.value.code, refused.value.detail) == ("login_failed", "user or password are wrong")
    assert desk.kinds()[-1] == "login.failed"


async def test_who_may_not_manage_people_does_not_learn_who_there_is() -> None:
    desk = await a_desk()
    viewer = Principal(username="some-viewer", role="viewer")
    told = []
    for name in ("root", "nobody"):
        for change in CHANGES.values():
            with pytest.raises(NotAllowedError) as refused:
                await change(desk, viewer, name)
            told.append((refused.value.code, refused.value.detail))

    assert told[: len(CHANGES)] == told[len(CHANGES) :]


def test_a_principal_without_a_token_may_all_that_its_role_may() -> None:
    assert replace(CONSOLE, token_permissions=None).is_administrator
    assert not replace(CONSOLE, token_permissions=frozenset({"hosts.read"})).is_administrator
