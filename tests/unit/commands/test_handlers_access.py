import re
from pathlib import Path

import pytest
from starlette.requests import Request

from control_plane.api.authentication import Authenticator, SessionCookie
from control_plane.commands.access import CONSOLE, IDLE_S, ROLES, SESSION_S, Principal, may
from control_plane.commands.handlers.access import UNKNOWN
from control_plane.commands.passwords import digest
from control_plane.commands.throttle import RequestThrottle
from control_plane.errors import NotAllowedError, NotFoundError, NotSignedInError, RefusedError
from tests.support.fleet import ADMIN, PASSWORD, VIEWER, Desk


async def a_desk() -> Desk:
    """With ada, an operator, and root, the administrator."""
    desk = Desk()
    await desk.access.create_user(CONSOLE, "root", role="administrator", password=PASSWORD)
    await desk.access.create_user(CONSOLE, "ada", role="operator", password=PASSWORD)
    return desk


async def login(desk: Desk, username: str = "ada", password: str = PASSWORD) -> str:
    return (await desk.access.login(username, password, address="::1")).secret


# --- roles


def test_an_administrator_may_all_and_a_viewer_nothing_but_look() -> None:
    viewer, administrator = ROLES["viewer"], ROLES["administrator"]

    assert all(its <= administrator for its in ROLES.values())
    assert all(permission.endswith((".read", ".output")) for permission in viewer)
    assert not any(may(VIEWER, permission) for permission in administrator - viewer)


@pytest.mark.parametrize("role", ["auditor", "host-admin", "security-admin", "approver"])
def test_who_looks_after_others_runs_nothing(role: str) -> None:
    assert not ROLES[role] & {"tasks.run", "tasks.cancel"}


def test_nobody_but_an_administrator_may_ask_approve_and_manage() -> None:
    apart = [{"tasks.run"}, {"tasks.approve"}, {"users.write", "rules.write", "tokens.others"}, {"hosts.enrol"}]

    for role, its in ROLES.items():
        assert role == "administrator" or sum(bool(its & some) for some in apart) <= 1


def test_the_documentation_has_what_each_role_may() -> None:
    text = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    [table] = re.findall(r"^\| Permission \|.*?\n\n", text, re.MULTILINE | re.DOTALL)
    head, _, *rows = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.strip().splitlines())

    told = {role: {row[0] for row in rows if row[at] == "x"} for at, role in enumerate(head) if role in ROLES}
    assert told == ROLES


# --- sessions


async def test_a_session_is_its_users_and_every_replica_knows_it() -> None:
    desk = await a_desk()
    secret = await login(desk)
    beside = desk.beside()
    await beside.authority.refresh()

    for at in (desk, beside):
        principal = at.access.by_session(secret, address="10.0.0.1")
        assert (principal.username, principal.role, principal.address) == ("ada", "operator", "10.0.0.1")
        assert at.access.still_valid(principal)


async def test_the_log_has_the_digest_of_a_session_and_never_its_secret() -> None:
    desk = await a_desk()
    secret = await login(desk)

    assert digest(secret).encode() in desk.log.rows[-1].body
    assert not any(secret.encode() in row.body for row in desk.log.rows)
    assert not any(PASSWORD.encode() in row.body for row in desk.log.rows)


@pytest.mark.parametrize(("username", "password"), [("ada", "wrong password"), ("nobody", PASSWORD), ("ada", "")])
async def test_whatever_is_wrong_with_a_login_the_answer_is_the_same_and_it_is_recorded(
    username: str, password: str
) -> None:
    desk = await a_desk()

    with pytest.raises(NotSignedInError) as refused:
        await login(desk, username, password)

    assert (refused.value.code, refused.value.detail) == ("login_failed", "user or password are wrong")
    assert desk.kinds()[-1] == "login.failed"


async def test_what_is_typed_as_a_name_and_is_none_is_not_kept() -> None:
    desk = await a_desk()

    with pytest.raises(NotSignedInError):
        await login(desk, PASSWORD, "ada")

    assert PASSWORD.encode() not in desk.log.rows[-1].body
    assert UNKNOWN.encode() in desk.log.rows[-1].body


async def test_a_hash_that_somebody_wrote_into_the_table_logs_nobody_in() -> None:
    desk, other = await a_desk(), Desk()
    await other.access.create_user(CONSOLE, "ada", role="administrator", password="chosen by mallory")
    desk.credentials.rows["ada"] = other.credentials.rows["ada"]

    with pytest.raises(NotSignedInError):
        await login(desk, "ada", "chosen by mallory")


async def test_a_session_ends_when_it_is_idle_and_not_while_it_is_used() -> None:
    desk = await a_desk()
    secret = await login(desk)

    for _ in range(3):
        desk.clock.advance(IDLE_S)
        desk.access.by_session(secret)
    desk.clock.advance(IDLE_S + 1)

    with pytest.raises(NotSignedInError):
        desk.access.by_session(secret)


async def test_to_look_whether_a_session_is_valid_is_no_use_of_it() -> None:
    desk = await a_desk()
    principal = desk.access.by_session(await login(desk))

    for _ in range(2):
        desk.clock.advance(IDLE_S / 2)
        assert desk.access.still_valid(principal)
    desk.clock.advance(1)

    assert not desk.access.still_valid(principal)


async def test_to_look_who_asks_where_strangers_are_answered_is_no_use_of_a_session_or_token() -> None:
    desk = await a_desk()
    secret = await login(desk)
    session = (await desk.access.login("ada", PASSWORD, address="::1")).principal
    token = await desk.tokens.create(session, username="ada", name="probe", days=1)
    cookie = SessionCookie("http://localhost")
    authenticator = Authenticator(
        desk.access, desk.authority, cookie, RequestThrottle(session_per_s=1, token_per_s=1), desk.clock
    )

    def asked(name: str, value: str) -> Request:
        return Request({"type": "http", "headers": [(name.encode(), value.encode())], "client": ("::1", 1)})

    for _ in range(2):
        desk.clock.advance(IDLE_S / 2)
        for request in (asked("cookie", f"{cookie.name}={secret}"), asked("authorization", f"Bearer {token.text}")):
            principal = authenticator.known(request)
            assert principal is not None
            assert principal.username == "ada"
    desk.clock.advance(1)

    assert authenticator.known(asked("cookie", f"{cookie.name}={secret}")) is None
    assert await desk.access.uses.all() == {}


async def test_a_session_ends_after_twelve_hours_though_it_is_used() -> None:
    desk = await a_desk()
    secret = await login(desk)
    for _ in range(SESSION_S // IDLE_S - 1):
        desk.clock.advance(IDLE_S)
        principal = desk.access.by_session(secret)
    desk.clock.advance(IDLE_S)

    with pytest.raises(NotSignedInError):
        desk.access.by_session(secret)
    assert not desk.access.still_valid(principal)


async def test_a_restart_does_not_end_a_session_nor_bring_an_idle_one_back() -> None:
    desk = await a_desk()
    secret = await login(desk)
    desk.clock.advance(2 * IDLE_S)
    restarted = desk.beside()
    await restarted.authority.refresh()

    assert restarted.access.by_session(secret)
    desk.clock.advance(IDLE_S + 1)
    with pytest.raises(NotSignedInError):
        restarted.access.by_session(secret)


async def test_after_logout_the_cookie_is_worth_nothing_on_any_replica() -> None:
    desk = await a_desk()
    beside = desk.beside()
    secret = await login(desk)
    principal = desk.access.by_session(secret)

    await desk.access.logout(principal)
    await beside.authority.refresh()

    for at in (desk, beside):
        with pytest.raises(NotSignedInError):
            at.access.by_session(secret)
        assert not at.access.still_valid(principal)


async def test_the_login_link_is_good_for_its_token_alone() -> None:
    desk = await a_desk()

    assert (await desk.access.login_by_link("link", address=None)).principal.username == "root"
    with pytest.raises(NotSignedInError):
        await desk.access.login_by_link("other", address=None)


@pytest.mark.parametrize("secret", ["", "x", "ü", "cp_0_0"])
async def test_anything_else_is_no_session_and_no_token(secret: str) -> None:
    desk = await a_desk()

    for enter in (desk.access.by_session, desk.access.by_token):
        with pytest.raises(NotSignedInError):
            enter(secret)


# --- users


async def test_a_change_of_rights_or_password_ends_the_sessions() -> None:
    desk = await a_desk()
    by_role, by_password = await login(desk), None

    await desk.access.set_role(ADMIN, "ada", "viewer")
    with pytest.raises(NotSignedInError):
        desk.access.by_session(by_role)

    by_password = await login(desk)
    await desk.access.set_password(ADMIN, "ada", "another long one")
    with pytest.raises(NotSignedInError):
        desk.access.by_session(by_password)
    with pytest.raises(NotSignedInError):
        await login(desk)
    assert await login(desk, password="another long one")


async def test_disabling_ends_sessions_and_tokens_for_good() -> None:
    desk = await a_desk()
    principal = desk.access.by_session(await login(desk))
    token = await desk.tokens.create(principal, username="ada", name="ci", days=1)

    await desk.access.set_enabled(ADMIN, "ada", False)
    assert not desk.access.still_valid(principal)
    with pytest.raises(NotSignedInError):
        await login(desk)

    await desk.access.set_enabled(ADMIN, "ada", True)
    with pytest.raises(NotSignedInError):
        desk.access.by_token(token.text)
    assert await login(desk)


async def test_the_last_administrator_stays() -> None:
    desk = await a_desk()

    for ask in (desk.access.set_role(CONSOLE, "root", "viewer"), desk.access.set_enabled(ADMIN, "root", False)):
        with pytest.raises(RefusedError) as refused:
            await ask
        assert refused.value.code == "last_administrator"

    await desk.access.set_role(ADMIN, "ada", "administrator")
    await desk.access.set_enabled(ADMIN, "root", False)
    assert not desk.authority.access.users["root"].enabled


@pytest.mark.parametrize(
    ("username", "role", "password", "code"),
    [
        ("ada", "viewer", PASSWORD, "user_exists"),
        ("console", "viewer", PASSWORD, "invalid_request"),
        ("Bob", "viewer", PASSWORD, "invalid_request"),
        ("bob", "wizard", PASSWORD, "invalid_request"),
        ("bob", "viewer", "short", "weak_password"),
        ("bob", "viewer", "x" * 129, "weak_password"),
    ],
)
async def test_a_user_that_breaks_a_rule_is_not_made(username: str, role: str, password: str, code: str) -> None:
    desk = await a_desk()
    before = dict(desk.credentials.rows)

    with pytest.raises(RefusedError) as refused:
        await desk.access.create_user(ADMIN, username, role=role, password=password)

    assert refused.value.code == code
    assert desk.credentials.rows == before


async def test_a_password_is_the_same_in_every_way_of_typing_it() -> None:
    desk = await a_desk()
    await desk.access.set_password(ADMIN, "ada", "Zu\u0308rich am See")

    assert await login(desk, password="Z\u00fcrich am See")


async def test_only_an_administrator_manages_users_and_each_attempt_is_recorded() -> None:
    desk = await a_desk()
    ada = desk.access.by_session(await login(desk))

    for ask in (
        desk.access.users(ada),
        desk.access.create_user(ada, "bob", role="viewer", password=PASSWORD),
        desk.access.set_role(ada, "ada", "administrator"),
        desk.access.set_password(ada, "root", PASSWORD),
        desk.access.set_enabled(ada, "root", False),
    ):
        with pytest.raises(NotAllowedError):
            await ask

    assert desk.kinds()[-5:] == ["access.denied"] * 5
    assert [user.username for user in await desk.access.users(ADMIN)] == ["ada", "root"]


# --- tokens


async def test_a_token_may_what_its_owner_may_at_its_use() -> None:
    desk = await a_desk()
    token = await desk.tokens.create(CONSOLE, username="ada", name="ci", days=1)
    assert may(desk.access.by_token(token.text), "tasks.run")

    await desk.access.set_role(ADMIN, "ada", "viewer")

    principal = desk.access.by_token(token.text)
    assert not may(principal, "tasks.run")
    assert desk.access.still_valid(principal)


async def test_a_token_ends_at_its_time_or_when_it_is_revoked() -> None:
    desk = await a_desk()
    ada = Principal(username="ada", role="operator")
    short = await desk.tokens.create(ada, username="ada", name="short", days=1)
    long = await desk.tokens.create(ada, username="ada", name="long", days=2)

    desk.clock.advance(86_400)
    with pytest.raises(NotSignedInError):
        desk.access.by_token(short.text)
    principal = desk.access.by_token(long.text)
    await desk.tokens.revoke(ada, long.token_id)

    with pytest.raises(NotSignedInError):
        desk.access.by_token(long.text)
    assert not desk.access.still_valid(principal)


async def test_a_token_with_one_character_changed_is_none() -> None:
    desk = await a_desk()
    text = (await desk.tokens.create(CONSOLE, username="ada", name="ci", days=1)).text

    assert text.startswith("cp_")
    for at in range(len(text)):
        changed = text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]
        with pytest.raises(NotSignedInError):
            desk.access.by_token(changed)
    assert not any(text[20:80].encode() in row.body for row in desk.log.rows)


async def test_people_see_and_end_their_own_tokens_and_an_administrator_everybodys() -> None:
    desk = await a_desk()
    ada, root = Principal(username="ada", role="operator"), Principal(username="root", role="administrator")
    of_root = await desk.tokens.create(root, username="root", name="mine", days=1)
    of_ada = await desk.tokens.create(root, username="ada", name="for ada", days=1)

    assert [token.token_id for token in await desk.tokens.tokens(ada)] == [of_ada.token_id]
    assert len(await desk.tokens.tokens(root)) == 2
    for ask in (
        desk.tokens.revoke(ada, of_root.token_id),
        desk.tokens.create(ada, username="root", name="x", days=1),
    ):
        with pytest.raises(NotAllowedError):
            await ask
    assert desk.kinds()[-2:] == ["access.denied"] * 2
    await desk.tokens.revoke(root, of_ada.token_id)
    with pytest.raises(NotFoundError):
        await desk.tokens.revoke(root, of_ada.token_id)


@pytest.mark.parametrize(("name", "days"), [("ci", 0), ("ci", 366), ("", 1), ("a\nb", 1)])
async def test_a_token_that_breaks_a_rule_is_not_made(name: str, days: int) -> None:
    desk = await a_desk()

    with pytest.raises(RefusedError, match=r"name|days"):
        await desk.tokens.create(CONSOLE, username="ada", name=name, days=days)
