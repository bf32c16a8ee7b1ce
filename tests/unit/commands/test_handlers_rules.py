"""Every action asks the rules with the hosts that it comes to, and what they refuse is in the log with their ids."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, cast

import pytest

from control_plane.commands.access import CONSOLE, ROLES, Principal
from control_plane.commands.retries import RetryTask
from control_plane.commands.rules import ForbiddenError
from control_plane.commands.targets import All, Group, OneHost
from control_plane.commands.tasks import verify_authorisation
from control_plane.errors import InvalidFieldError, NotAllowedError, NotFoundError, NotSignedInError
from control_plane.events import registry
from control_plane.events.access import AccessDenied
from control_plane.events.event import Event
from control_plane.events.hosts import HostQuarantined
from control_plane_wire import proofs
from control_plane_wire.signing import key_id
from tests.support.fleet import ADMIN, OPERATOR, PASSWORD, VIEWER, Desk, a_request, host_key
from tests.unit.commands.test_handlers_enrolment import a_proof
from tests.unit.commands.test_rules import a_rule

ANN: Final = Principal(username="ann", role="viewer", address="127.0.0.1")
ALL: Final = {"tasks.run", "tasks.cancel", "hosts.edit", "hosts.revoke"}


async def a_desk() -> Desk:
    """web1, web2 and db1; the viewer ann, and a task t1 of the operator's for all of them."""
    desk = Desk()
    for name in ("web1", "web2"):
        await desk.register(name, "web")
    await desk.register("db1", "db")
    await desk.access.create_user(ADMIN, "ann", role="viewer", password=PASSWORD)
    await desk.tasks.create(OPERATOR, a_request("t1"))
    desk.executions.rows["t1"] = dict.fromkeys(("db1", "web1", "web2"), "failed")
    return desk


async def allow(desk: Desk, **given: Any) -> str:
    rule_id, _ = await desk.rules.create(ADMIN, a_rule(**given))
    return rule_id


def last(desk: Desk) -> Event:
    event = registry.decode(desk.log.rows[-1])
    assert event is not None
    return event


Act = Callable[[Desk, Principal], Awaitable[object]]


async def quarantine(desk: Desk) -> None:
    key = key_id(host_key("db1").public_key)
    await desk.handling.record(
        HostQuarantined(hostname="db1", key_id=key, reason="rewound", heartbeat_seq=1, before="{}", after="{}"),
        actor="presence",
    )


async def paused(desk: Desk) -> None:
    await desk.rollouts.pause(OPERATOR, "t1", None)


async def nothing(_desk: Desk) -> None:
    pass


ACTS: Final[dict[str, tuple[str, Callable[[Desk], Awaitable[None]], Act]]] = {
    "create": ("tasks.run", nothing, lambda desk, who: desk.tasks.create(who, a_request("t2", All()))),
    "retry": (
        "tasks.run",
        nothing,
        lambda desk, who: desk.tasks.retry(who, RetryTask(task_id="t2", retry_of="t1", states=frozenset({"failed"}))),
    ),
    "cancel": ("tasks.cancel", nothing, lambda desk, who: desk.tasks.cancel(who, "t1", None)),
    "pause": ("tasks.cancel", nothing, lambda desk, who: desk.rollouts.pause(who, "t1", None)),
    "resume": ("tasks.run", paused, lambda desk, who: desk.rollouts.resume(who, "t1", None)),
    "groups": ("hosts.edit", nothing, lambda desk, who: desk.hosts.set_groups(who, "db1", ["db", "new"])),
    "labels": ("hosts.edit", nothing, lambda desk, who: desk.hosts.set_labels(who, "db1", {"a": "b"})),
    "maintenance": ("hosts.edit", nothing, lambda desk, who: desk.hosts.set_maintenance(who, "db1", True)),
    "revoke": ("hosts.revoke", nothing, lambda desk, who: desk.hosts.revoke(who, "db1", None)),
    "retire": ("hosts.revoke", nothing, lambda desk, who: desk.hosts.retire(who, "db1", None)),
    "lift": ("hosts.revoke", quarantine, lambda desk, who: desk.hosts.lift_quarantine(who, "db1", "looked")),
}


@pytest.mark.parametrize("name", ACTS)
async def test_what_a_rule_allows_on_every_host_is_done(name: str) -> None:
    action, prepare, act = ACTS[name]
    desk = await a_desk()
    await prepare(desk)
    await allow(desk, actions={action})
    before = len(desk.log.rows)

    await act(desk, ANN)

    assert desk.kinds()[before:]
    assert "access.denied" not in desk.kinds()


@pytest.mark.parametrize("name", ACTS)
async def test_what_one_host_is_not_allowed_for_is_refused_as_a_whole(name: str) -> None:
    action, prepare, act = ACTS[name]
    desk = await a_desk()
    await prepare(desk)
    await allow(desk, actions={action}, groups={"web"})
    before = len(desk.log.rows)

    with pytest.raises(ForbiddenError) as refused:
        await act(desk, ANN)

    assert (refused.value.code, refused.value.action, refused.value.hosts) == ("not_allowed", action, ["db1"])
    assert desk.kinds()[before:] == ["access.denied"]


@pytest.mark.parametrize("name", ACTS)
async def test_what_a_rule_denies_an_administrator_leaves_a_denial_with_the_rule(name: str) -> None:
    action, prepare, act = ACTS[name]
    desk = await a_desk()
    await prepare(desk)
    rule_id = await allow(desk, effect="deny", subject="role:administrator", actions={action}, hostnames={"db1"})
    before = len(desk.log.rows)

    with pytest.raises(ForbiddenError):
        await act(desk, ADMIN)
    denied = last(desk)

    assert desk.kinds()[before:] == ["access.denied"]
    assert isinstance(denied, AccessDenied)
    assert (denied.actor, denied.action, denied.code, denied.rules) == ("root", action, "not_allowed", (rule_id,))
    await desk.rules.delete(ADMIN, rule_id)
    await act(desk, ADMIN)


@pytest.mark.parametrize("name", ACTS)
async def test_whom_nothing_allows_it_anywhere_is_refused_before_anything_is_looked_up(name: str) -> None:
    action, _, act = ACTS[name]
    desk = await a_desk()
    await allow(desk, actions=ALL - {action})

    with pytest.raises(NotAllowedError, match=f"viewer does not have the permission {action}"):
        await act(desk, ANN)


async def test_the_command_line_of_the_server_is_above_the_rules() -> None:
    desk = await a_desk()
    await allow(desk, effect="deny", subject="role:administrator", actions=ALL)
    await desk.hosts.set_maintenance(CONSOLE, "db1", True)
    await desk.tasks.create(CONSOLE, a_request("t2"))


async def test_an_accepted_task_says_which_rules_allowed_it_as_of_when() -> None:
    desk = await a_desk()
    rule_id, seq = await desk.rules.create(ADMIN, a_rule(groups={"web"}))

    tasks = []
    for who, task_id in ((ANN, "t2"), (OPERATOR, "t3")):
        accepted = await desk.tasks.create(who, a_request(task_id, Group("web")))
        assert accepted.seq == len(desk.log.rows)
        tasks.append(verify_authorisation(desk.log.rows[-1], desk.keyring.public_keys))

    assert [(task.rules, task.policy_seq) for task in tasks] == [((rule_id,), seq), (("role:operator",), seq)]


async def test_a_preview_tells_whether_it_would_be_allowed_and_why_not() -> None:
    desk = await a_desk()
    rule_id = await allow(desk, groups={"web"}, accounts={"deploy"}, longest_timeout=60, command="argv")
    asked: dict[str, Any] = {"user": "deploy", "timeout": 60, "argv": ["/bin/true"]}

    shown = await desk.tasks.preview(ANN, Group("web"), "true", asked=asked)
    assert (shown.decision.allowed, shown.decision.rules) == (True, (rule_id,))
    for target, given in ((All(), asked), *((Group("web"), {**asked, name: None}) for name in asked)):
        shown = await desk.tasks.preview(ANN, target, "true", asked=given)
        assert not shown.decision.allowed
        assert "no rule allows it" in (shown.decision.refusal or "")
    assert "access.denied" not in desk.kinds()


async def test_what_was_accepted_is_the_same_task_when_it_is_asked_for_again_though_the_rule_is_gone() -> None:
    desk = await a_desk()
    keep = await allow(desk, groups={"web"})
    request = a_request("t2", OneHost("web1"))
    first = await desk.tasks.create(ANN, request)
    await allow(desk, groups={"db"})
    await desk.rules.delete(ADMIN, keep)

    assert (await desk.tasks.create(ANN, request)).seq == first.seq


# --- groups


async def test_a_group_that_a_rule_names_is_moved_only_by_whoever_may_write_rules() -> None:
    desk = await a_desk()
    await allow(desk, actions={"hosts.edit"})
    naming = await allow(desk, groups={"db"}, accounts={"root"})

    for move in (
        desk.hosts.set_groups(ANN, "web1", ["web", "db"]),
        desk.hosts.assign(ANN, "db1", "db", member=False),
    ):
        with pytest.raises(ForbiddenError) as refused:
            await move
        assert refused.value.rules == (naming,)
        denied = last(desk)
        assert isinstance(denied, AccessDenied)
        assert denied.rules == (naming,)

    await desk.hosts.set_groups(ANN, "web1", ["shop"])
    await desk.hosts.set_groups(ADMIN, "web1", ["db"])
    assert set(desk.authority.fleet.host("web1").groups) == {"db"}


async def test_nobody_but_an_administrator_moves_hosts_under_a_rule_about_himself() -> None:
    desk = await a_desk()
    sid = await desk.user("sid", "security-admin")
    await allow(desk, subject="user:sid", actions={"hosts.edit"}, all_hosts=True)
    own = await allow(desk, subject="user:sid", groups={"lab"})
    await allow(desk, groups={"shop"})

    for groups in (["web", "lab"], ["shop", "lab"]):
        with pytest.raises(ForbiddenError) as refused:
            await desk.hosts.set_groups(sid, "web1", groups)
        assert refused.value.rules == (own,)
        assert isinstance(last(desk), AccessDenied)
    await desk.hosts.set_groups(sid, "web1", ["shop"])

    await desk.user("aud", "auditor")
    for subject, group in (("role:auditor", "pay"), ("user:aud", "hr")):
        hides = await allow(desk, effect="deny", subject=subject, actions={"events.read"}, groups={group})
        with pytest.raises(ForbiddenError) as refused:
            await desk.hosts.assign(sid, "web1", group, member=True)
        assert refused.value.rules == (hides,)

    of_admins = await allow(desk, subject="role:administrator", groups={"lab"})
    token = replace(ADMIN, token_permissions=frozenset({"hosts.enrol", "hosts.edit", "rules.write"}))
    key = host_key("new1").public_key
    for attempt in (
        desk.hosts.set_groups(token, "web1", ["lab"]),
        desk.hosts.register(token, hostname="new1", public_key=key, groups=["lab"]),
        desk.enrolment.create_token(token, hostname=None, groups=("lab",), expires_in=60),
    ):
        with pytest.raises(ForbiddenError) as refused:
            await attempt
        assert refused.value.rules == (of_admins,)
    await desk.hosts.set_groups(ADMIN, "web1", ["lab"])


async def test_a_new_host_comes_into_such_a_group_by_nobody_else_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast("dict[str, frozenset[str]]", ROLES), "host-admin", ROLES["viewer"] | {"hosts.enrol"})
    desk, somebody = await a_desk(), Principal(username="hanna", role="host-admin")
    naming = await allow(desk, groups={"db"}, accounts={"root"})
    key = host_key("new1")
    desk.requests.rows[1] = ("new1", key.public_key, None, desk.clock.now_s(), False)
    print_of_it = proofs.fingerprint(key.public_key)

    for groups, is_refused in ((("db", "web"), True), (("web",), False)):
        for attempt in (
            desk.enrolment.create_token(somebody, hostname=None, groups=groups, expires_in=60),
            desk.hosts.register(somebody, hostname="new0", public_key=host_key("new0").public_key, groups=groups),
            desk.pending.accept(somebody, print_of_it, hostname="new1", groups=groups),
        ):
            if not is_refused:
                await attempt
                continue
            with pytest.raises(ForbiddenError) as refused:
                await attempt
            assert refused.value.rules == (naming,)
            assert isinstance(last(desk), AccessDenied)


async def test_a_name_that_is_registered_again_leaves_no_such_group_either() -> None:
    """Or else whoever retires hosts and lets them in takes one out of a rule."""
    desk = await a_desk()
    hanna = await desk.user("hanna", "host-admin")
    naming = await allow(desk, groups={"db"}, accounts={"root"})
    key = host_key("db1")
    await desk.hosts.retire(hanna, "db1", None)
    desk.requests.rows[1] = ("db1", key.public_key, None, desk.clock.now_s(), False)
    print_of_it = proofs.fingerprint(key.public_key)

    for attempt in (
        desk.enrolment.create_token(hanna, hostname="db1", groups=(), expires_in=60),
        desk.hosts.register(hanna, hostname="db1", public_key=key.public_key, groups=["web"]),
        desk.pending.accept(hanna, print_of_it, hostname="db1", groups=[]),
    ):
        with pytest.raises(ForbiddenError) as refused:
            await attempt
        assert refused.value.rules == (naming,)
        assert isinstance(last(desk), AccessDenied)

    await desk.hosts.register(hanna, hostname="db1", public_key=key.public_key, groups=["db", "web"])
    await desk.hosts.retire(hanna, "db1", None)
    await desk.hosts.register(ADMIN, hostname="db1", public_key=key.public_key, groups=[])
    assert set(desk.authority.fleet.host("db1").groups) == set()


async def test_a_token_for_a_host_without_a_name_lets_in_what_its_maker_s_api_token_may_and_ends_with_that() -> None:
    desk, key = await a_desk(), host_key("db1")
    await desk.user("boss", "administrator")
    naming = await allow(desk, groups={"db"}, accounts={"root"})
    await desk.hosts.retire(ADMIN, "db1", None)
    made = await desk.tokens.create(CONSOLE, username="boss", name="ci", days=1, permissions=["hosts.enrol"])
    limited = desk.access.by_token(made.text)
    boss = Principal(username="boss", role="administrator")

    async def enrol(who: Principal, hostname: str, *, ends: bool = False) -> None:
        token = await desk.enrolment.create_token(who, hostname=None, groups=(), expires_in=60)
        if ends:
            await desk.tokens.revoke(CONSOLE, made.token_id)
            assert token.token_id not in {each.token_id for each in await desk.enrolment.open_tokens(ADMIN)}
        nonce = await desk.enrolment.begin(token=token.text, hostname=hostname, public_key=key.public_key)
        proof = a_proof(token.text, hostname, key, nonce)
        await desk.enrolment.finish(
            token=token.text, hostname=hostname, public_key=key.public_key, nonce=nonce, proof=proof
        )

    with pytest.raises(NotSignedInError, match="a rule names a group"):
        await enrol(limited, "db1")  # which would leave the group of its last registration
    with pytest.raises(NotSignedInError, match="has ended"):
        await enrol(limited, "new1", ends=True)
    await enrol(boss, "db1")

    assert naming in desk.authority.rules.rules
    assert set(desk.authority.fleet.host("db1").groups) == set()


# --- making and deleting


async def test_rules_are_for_administrators() -> None:
    desk = await a_desk()
    rule_id = await allow(desk, actions=ALL)

    for who in (VIEWER, OPERATOR, ANN):
        for act in (
            desk.rules.rules(who),
            desk.rules.create(who, a_rule(subject="role:viewer")),
            desk.rules.delete(who, rule_id),
        ):
            with pytest.raises(NotAllowedError):
                await act
    *built_in, made = [rule.rule_id for rule in await desk.rules.rules(ADMIN)]
    assert (built_in, made) == ([f"role:{role}" for role, its in ROLES.items() if its], rule_id)


async def test_the_same_rule_twice_is_two_and_what_is_not_there_is_not_deleted() -> None:
    desk = await a_desk()
    first, second = [await allow(desk, actions=ALL) for _ in range(2)]
    assert first != second

    await desk.rules.delete(ADMIN, first)

    for gone in (first, "0" * 16, "role:operator"):
        with pytest.raises(NotFoundError) as refused:
            await desk.rules.delete(ADMIN, gone)
        assert refused.value.code == "unknown_rule"
    assert set(desk.authority.rules.rules) == {second}


async def test_a_rule_for_nobody_is_refused() -> None:
    desk = await a_desk()
    with pytest.raises(InvalidFieldError) as refused:
        await allow(desk, subject="user:nobody")
    assert refused.value.field == "subject"


async def test_no_rule_locks_an_administrator_out_of_people_and_rules() -> None:
    desk = await a_desk()
    root = await desk.user("root", "administrator")
    for subject in ("user:root", "role:administrator"):
        await desk.rules.create(root, a_rule(effect="deny", subject=subject, actions=ALL))

    await desk.access.create_user(root, "bob", role="viewer", password=PASSWORD)
    await desk.tokens.create(root, username="bob", name="ci", days=1)
    for rule_id in list(desk.authority.rules.rules):
        await desk.rules.delete(root, rule_id)


async def test_a_token_may_what_its_owner_may() -> None:
    desk = await a_desk()
    ann = (await desk.access.login("ann", PASSWORD, address=None)).principal
    made = await desk.tokens.create(ann, username="ann", name="ci", days=1)
    await allow(desk, hostnames={"web1"})
    by_token = desk.access.by_token(made.text)

    await desk.tasks.create(by_token, a_request("t2", OneHost("web1")))
    with pytest.raises(ForbiddenError):
        await desk.tasks.create(by_token, a_request("t3", OneHost("web2")))
