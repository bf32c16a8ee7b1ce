"""An approval lets one person have one exact command on one exact list of hosts accepted, once, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest

from control_plane.commands.access import ADMINISTRATOR, CONSOLE, Principal
from control_plane.commands.approvals import (
    APPROVAL_S,
    KEPT_S,
    MAX_REQUEST_BYTES,
    MAX_WAITING,
    MAX_WAITING_OF_ONE,
    Approval,
    ApprovalState,
    decide_request,
)
from control_plane.commands.handlers import approvals
from control_plane.commands.handlers.approvals import MOST_SHOWN
from control_plane.commands.handlers.tasks import Accepted
from control_plane.commands.previews import PREVIEW_S
from control_plane.commands.retries import RetryTask
from control_plane.commands.rollouts import Rollout
from control_plane.commands.rules import ApprovalRequiredError, ForbiddenError
from control_plane.commands.targets import All, Group, Hosts, OneHost
from control_plane.commands.tasks import CreateTask, verify_authorisation
from control_plane.commands.templates import RunTemplate
from control_plane.errors import KeyConflictError, NotAllowedError, NotFoundError, RefusedError
from control_plane.events import registry
from control_plane.events.access import AccessDenied
from control_plane.events.approvals import ApprovalApproved, ApprovalRefused, ApprovalRequested
from control_plane.events.envelope import LogName, StoredEvent
from control_plane_wire.signing import SigningKey
from tests.support.events import AT, SHA, a_task_accepted
from tests.support.fleet import ADMIN, OPERATOR, PASSWORD, VIEWER, Desk, a_registration, a_request
from tests.support.memory_log import MemoryLog
from tests.unit.commands.test_rules import a_rule
from tests.unit.commands.test_templates import simple

SOMEBODY: Final = SigningKey.from_bytes(b"\x66" * 32)
BOB: Final = Principal(username="bob", role="viewer", address="127.0.0.1")
CAT: Final = Principal(username="cat", role="operator", address="127.0.0.1")
WEB: Final = Group("web")


async def a_desk(log: MemoryLog | None = None) -> Desk:
    """web1, web2, db1; the operators ada and cat need an approval to be root; bob approves on the web hosts."""
    desk = Desk(log=log or MemoryLog())
    for name, group in (("web1", "web"), ("web2", "web"), ("db1", "db")):
        await desk.handling.record(a_registration(name, group), actor="root")
    for name, role in (("ada", "operator"), ("cat", "operator"), ("bob", "viewer")):
        await desk.access.create_user(ADMIN, name, role=role, password=PASSWORD)
    await desk.rules.create(ADMIN, a_rule(effect="approve", subject="role:operator", accounts={"root"}))
    await desk.rules.create(ADMIN, a_rule(subject="user:bob", actions={"tasks.approve"}, groups={"web"}))
    return desk


def rule_id(desk: Desk) -> str:
    return next(rule.rule_id for rule in desk.authority.rules.rules.values() if rule.effect == "approve")


def asked(task_id: str = "t1", **given: Any) -> CreateTask:
    return a_request(task_id, **{"target": WEB, "user": "root", "env": {"A": "1"}, **given})


async def approved(desk: Desk, request: CreateTask | None = None) -> Approval:
    """Asked for by ada, approved by bob."""
    approval = await desk.approvals.request(OPERATOR, request or asked())
    await desk.approvals.decide(BOB, approval.approval_id, approve=True, reason="agreed")
    return approval


async def use(desk: Desk, approval: Approval, request: CreateTask | None = None, who: Principal = OPERATOR) -> Accepted:
    return await desk.tasks.create(who, request or asked(), approval_id=approval.approval_id)


async def refusal(act: Awaitable[object]) -> str:
    with pytest.raises(RefusedError) as refused:
        await act
    return refused.value.code


def last_denial(desk: Desk) -> AccessDenied:
    event = registry.decode(desk.log.rows[-1])
    assert isinstance(event, AccessDenied)
    return event


def tasks(desk: Desk) -> int:
    return desk.kinds().count("task.accepted")


# --- as it is meant


async def test_what_a_rule_asks_for_is_approved_by_a_second_person_and_then_accepted() -> None:
    desk = await a_desk()
    with pytest.raises(ApprovalRequiredError) as needed:
        await desk.tasks.create(OPERATOR, asked())
    assert (needed.value.rules, needed.value.hosts) == ((rule_id(desk),), ["web1", "web2"])
    denied = last_denial(desk)
    assert (denied.code, denied.rules, denied.action) == ("approval_required", (rule_id(desk),), "tasks.run")

    approval = await approved(desk)
    accepted = await use(desk, approval)

    task = verify_authorisation(desk.log.rows[accepted.seq - 1], desk.keyring.public_keys)
    assert (task.approval_id, task.hosts, task.actor) == (approval.approval_id, ("web1", "web2"), "ada")
    assert task.rules == ("role:operator",)
    assert desk.kinds()[-3:] == ["approval.requested", "approval.approved", "task.accepted"]


async def test_what_no_rule_asks_for_needs_no_approval_and_gets_none() -> None:
    desk = await a_desk()
    await desk.tasks.create(OPERATOR, asked(user="deploy"))
    assert await refusal(desk.approvals.request(OPERATOR, asked("t2", user="deploy"))) == "approval_not_needed"
    assert await refusal(desk.approvals.request(CONSOLE, asked("t3"))) == "approval_not_needed"
    await desk.tasks.create(CONSOLE, asked("t3"))


async def test_an_approval_is_no_way_around_a_deny_or_a_missing_allow() -> None:
    desk = await a_desk()
    approval = await approved(desk)
    deny, _ = await desk.rules.create(ADMIN, a_rule(effect="deny", subject="user:ada", hostnames={"web2"}))

    with pytest.raises(ForbiddenError) as refused:
        await use(desk, approval)
    assert (refused.value.code, refused.value.rules) == ("not_allowed", (deny,))
    with pytest.raises(ForbiddenError):
        await desk.approvals.request(OPERATOR, asked("t2"))
    with pytest.raises(NotAllowedError):
        await desk.approvals.request(VIEWER, asked("t2"))
    await desk.rules.delete(ADMIN, deny)
    await desk.access.set_role(ADMIN, "ada", "viewer")
    with pytest.raises(NotAllowedError):
        await use(desk, approval, who=replace(OPERATOR, role="viewer"))
    assert tasks(desk) == 0


async def test_a_token_that_is_not_for_tasks_is_told_nothing_of_what_its_owner_asks_for() -> None:
    desk = await a_desk()
    await desk.approvals.request(OPERATOR, asked("t1"))

    for permission in sorted(ADMINISTRATOR):
        token = replace(OPERATOR, token_permissions=frozenset({permission}))
        shown = await desk.approvals.approvals(token, waiting=False)
        assert len(shown) == (permission in {"tasks.read", "tasks.run"}), permission
        assert not any(view.may_decide for view in shown)
    assert len(await desk.approvals.approvals(OPERATOR, waiting=False)) == 1


async def test_who_asks_once_more_gets_the_approval_that_waits_already() -> None:
    desk = await a_desk()
    first = await desk.approvals.request(OPERATOR, asked())
    again = await desk.approvals.request(OPERATOR, asked())
    other = await desk.approvals.request(OPERATOR, asked(timeout=31))
    assert first.approval_id == again.approval_id != other.approval_id


async def test_a_task_that_is_there_needs_no_approval_any_more() -> None:
    desk = await a_desk()
    await use(desk, await approved(desk))
    with pytest.raises(KeyConflictError):
        await desk.approvals.request(OPERATOR, asked())


async def test_a_retry_needs_an_approval_of_its_own() -> None:
    desk = await a_desk()
    approval = await approved(desk)
    await use(desk, approval)
    desk.executions.rows["t1"] = dict.fromkeys(("web1", "web2"), "failed")
    retry = RetryTask(task_id="t2", retry_of="t1", states=frozenset({"failed"}))

    assert await refusal(desk.tasks.retry(OPERATOR, retry)) == "approval_required"
    assert await refusal(desk.tasks.retry(OPERATOR, retry, approval_id=approval.approval_id)) == "approval_changed"
    own = await desk.approvals.request(OPERATOR, retry)
    assert await refusal(desk.tasks.retry(OPERATOR, retry, approval_id=own.approval_id)) == "approval_waiting"
    await desk.approvals.decide(BOB, own.approval_id, approve=True, reason=None)
    await desk.tasks.retry(OPERATOR, retry, approval_id=own.approval_id)
    assert tasks(desk) == 2


async def test_a_preview_says_that_an_approval_is_needed() -> None:
    desk = await a_desk()
    shown = await desk.tasks.preview(OPERATOR, WEB, "id", asked={"user": "root", "timeout": 5})
    assert (shown.decision.allowed, shown.decision.asking_rules) == (True, (rule_id(desk),))
    assert "access.denied" not in desk.kinds()


async def test_an_approval_outlives_the_preview_that_it_was_asked_for_after() -> None:
    desk = await a_desk()
    desk.tasks._require_preview = "always"
    shown = await desk.tasks.preview(OPERATOR, WEB, "uptime", needs_full_agent="env")
    request = asked(preview_id=shown.preview_id)
    approval = await approved(desk, request)
    desk.clock.advance(PREVIEW_S + 1)

    await use(desk, approval, request)
    assert await refusal(desk.approvals.request(OPERATOR, replace(request, task_id="t2"))) == "preview_expired"
    assert await refusal(desk.approvals.request(OPERATOR, asked("t3"))) == "preview_required"


async def test_a_rule_made_later_stops_nothing_that_was_accepted() -> None:
    desk = await a_desk()
    await desk.tasks.create(CAT, asked("t1", user="deploy"))
    await desk.rollouts.pause(CAT, "t1", None)
    await desk.rules.create(ADMIN, a_rule(effect="approve", subject="role:operator"))

    task = verify_authorisation(desk.log.rows[-3], desk.keyring.public_keys)
    assert desk.authority.withdrawn(task, task.hosts) == {}
    await desk.rollouts.resume(CAT, "t1", None)
    assert await refusal(desk.tasks.create(CAT, asked("t2", user="deploy"))) == "approval_required"


async def test_what_was_approved_is_asked_about_again_like_anything_that_waits() -> None:
    """An approval adds to what is needed: who loses the right itself runs nothing more."""
    desk = await a_desk()
    accepted = await use(desk, await approved(desk))
    task = verify_authorisation(desk.log.rows[accepted.seq - 1], desk.keyring.public_keys)
    assert desk.authority.withdrawn(task, task.hosts) == {}
    await desk.access.set_enabled(ADMIN, "ada", False)
    assert set(desk.authority.withdrawn(task, task.hosts)) == {"web1", "web2"}


async def test_whoever_approved_is_judged_by_what_they_could_then() -> None:
    desk = await a_desk()
    approval = await approved(desk)
    await desk.access.set_enabled(ADMIN, "bob", False)
    await use(desk, approval)


# --- attacks: who decides


async def test_nobody_approves_their_own_request_by_session_token_or_as_administrator() -> None:
    desk = await a_desk()
    await desk.rules.create(ADMIN, a_rule(subject="user:ada", actions={"tasks.approve"}))
    await desk.rules.create(ADMIN, a_rule(effect="approve", subject="role:administrator"))
    session = (await desk.access.login("ada", PASSWORD, address=None)).principal
    made = await desk.tokens.create(session, username="ada", name="ci", days=1)
    token = desk.access.by_token(made.text)
    root = await desk.user("olga", "administrator")

    for requester, approvers in ((session, (session, token, OPERATOR)), (token, (session, token)), (root, (root,))):
        request = asked(f"t-{requester.username}-{requester.token_id}")
        approval = await desk.approvals.request(requester, request)
        for approver in approvers:
            act = desk.approvals.decide(approver, approval.approval_id, approve=True, reason=None)
            assert await refusal(act) == "own_request"
            assert (last_denial(desk).code, last_denial(desk).action) == ("own_request", "tasks.approve")
        assert await refusal(use(desk, approval, request, requester)) == "approval_waiting"


async def test_who_approves_needs_the_right_on_every_host() -> None:
    desk = await a_desk()
    approval = await desk.approvals.request(OPERATOR, asked(target=All()))

    with pytest.raises(ForbiddenError) as refused:
        await desk.approvals.decide(BOB, approval.approval_id, approve=True, reason=None)
    assert (refused.value.action, refused.value.hosts) == ("tasks.approve", ["db1"])
    assert last_denial(desk).action == "tasks.approve"
    for who in (CAT, VIEWER):
        with pytest.raises(NotAllowedError):
            await desk.approvals.decide(who, approval.approval_id, approve=True, reason=None)
    await desk.approvals.decide(ADMIN, approval.approval_id, approve=True, reason=None)


async def test_a_deny_on_approving_wins() -> None:
    desk = await a_desk()
    await desk.rules.create(
        ADMIN, a_rule(effect="deny", subject="role:administrator", actions={"tasks.approve"}, accounts={"root"})
    )
    approval = await desk.approvals.request(OPERATOR, asked())
    with pytest.raises(ForbiddenError):
        await desk.approvals.decide(ADMIN, approval.approval_id, approve=True, reason=None)


async def test_an_approval_that_is_not_there_is_not_found() -> None:
    desk = await a_desk()
    for approval_id in ("", "0" * 32, "../x", "x" * 10_000, "\0"):
        with pytest.raises(NotFoundError):
            await desk.approvals.decide(ADMIN, approval_id, approve=True, reason=None)
        with pytest.raises(NotFoundError):
            await desk.tasks.create(OPERATOR, asked(), approval_id=approval_id)


async def test_the_first_decision_stands() -> None:
    desk = await a_desk()
    approval = await desk.approvals.request(OPERATOR, asked())
    first = await desk.approvals.decide(BOB, approval.approval_id, approve=False, reason="no")

    assert await refusal(desk.approvals.decide(ADMIN, approval.approval_id, approve=True, reason=None)) == (
        "approval_decided"
    )
    assert await refusal(desk.approvals.decide(BOB, approval.approval_id, approve=True, reason=None)) == (
        "approval_decided"
    )
    assert await desk.approvals.decide(BOB, approval.approval_id, approve=False, reason="once more") == first
    assert await refusal(use(desk, approval)) == "approval_refused"


async def test_of_50_who_decide_at_once_one_counts() -> None:
    desk = await a_desk()
    for n in range(25):
        await desk.access.create_user(ADMIN, f"admin{n}", role="administrator", password=PASSWORD)
    approval = await desk.approvals.request(OPERATOR, asked())

    async def say(n: int) -> str:
        who = Principal(username=f"admin{n // 2}", role="administrator")
        replica = desk if n % 3 else desk.beside()
        try:
            await replica.approvals.decide(who, approval.approval_id, approve=n % 2 == 0, reason=None)
        except RefusedError as error:
            return error.code
        return "decided"

    said = await asyncio.gather(*map(say, range(50)))

    assert said.count("decided") == 1
    assert set(said) == {"decided", "approval_decided"}
    assert sum(kind in {"approval.approved", "approval.refused"} for kind in desk.kinds()) == 1


# --- attacks: when


async def test_nothing_is_approved_or_used_after_its_end() -> None:
    desk = await a_desk()
    waiting = await desk.approvals.request(OPERATOR, asked("t2"))
    approval = await approved(desk)

    desk.clock.advance(APPROVAL_S)

    assert await refusal(desk.approvals.decide(BOB, waiting.approval_id, approve=True, reason=None)) == (
        "approval_expired"
    )
    assert await refusal(use(desk, approval)) == "approval_expired"
    assert tasks(desk) == 0


async def test_it_counts_until_the_last_second() -> None:
    desk = await a_desk()
    approval = await approved(desk)
    desk.clock.advance(APPROVAL_S - 1)
    await use(desk, approval)


async def test_it_is_used_once_and_the_same_again_is_the_same_task() -> None:
    desk = await a_desk()
    approval = await approved(desk)
    first = await use(desk, approval)

    desk.clock.advance(APPROVAL_S)
    again = await use(desk, approval)
    assert (again.seq, again.created) == (first.seq, False)
    assert await refusal(use(desk, approval, asked("t2"))) == "approval_expired"


async def test_of_50_who_use_it_at_once_one_makes_a_task() -> None:
    desk = await a_desk()
    approval = await approved(desk)
    replicas = [desk, desk.beside(), desk.beside()]
    for replica in replicas:
        await replica.authority.refresh()

    made = await asyncio.gather(*(use(replicas[n % 3], approval) for n in range(50)))

    assert len({each.seq for each in made}) == 1
    assert sum(each.created for each in made) == 1
    assert tasks(desk) == 1


# --- attacks: for something else

CHANGES: Final[dict[str, dict[str, Any]]] = {
    "another task": {"task_id": "t2"},
    "one byte of the command": {"command": "uptimf"},
    "a space more": {"command": "uptime "},
    "another account": {"user": "root2"},
    "a second longer": {"timeout": 31},
    "a second shorter": {"timeout": 29},
    "another value of env": {"env": {"A": "2"}},
    "another name in env": {"env": {"B": "1"}},
    "more in env": {"env": {"A": "1", "B": "1"}},
    "no env": {"env": None},
    "a directory": {"cwd": "/tmp"},
    "an input": {"stdin": "y"},
    "an argv of the same line": {"argv": ("uptime",), "command": ""},
    "the same hosts by name": {"target": Hosts(("web1", "web2"))},
    "fewer hosts": {"target": OneHost("web1")},
    "all hosts": {"target": All()},
    "another group": {"target": Group("db")},
    "only who is there": {"when_offline": "skip"},
    "for longer": {"expires_in": 601},
    "with a rollout": {"rollout": Rollout()},
    "another reason": {"reason": "other"},
}


@pytest.mark.parametrize("change", CHANGES)
async def test_whatever_is_changed_is_not_what_was_approved(change: str) -> None:
    desk = await a_desk()
    await desk.rules.create(ADMIN, a_rule(effect="approve", subject="role:operator"))
    approval = await approved(desk)

    assert await refusal(use(desk, approval, replace(asked(), **CHANGES[change]))) == "approval_changed"
    assert tasks(desk) == 0
    await use(desk, approval)


async def test_a_host_that_joins_or_leaves_makes_it_another_list() -> None:
    desk = await a_desk()
    joined, left = await approved(desk), await approved(desk, asked("t2"))

    await desk.hosts.set_groups(ADMIN, "db1", ["web"])
    assert await refusal(use(desk, joined)) == "approval_changed"
    await desk.hosts.set_groups(ADMIN, "db1", [])
    await desk.hosts.revoke(ADMIN, "web2", None)
    assert await refusal(use(desk, left, asked("t2"))) == "approval_changed"


async def test_another_person_s_approval_is_of_no_use_and_that_is_recorded() -> None:
    desk = await a_desk()
    approval = await approved(desk)

    assert await refusal(use(desk, approval, who=CAT)) == "not_requester"
    denied = last_denial(desk)
    assert (denied.actor, denied.code, denied.action) == ("cat", "not_requester", "tasks.run")


async def test_a_task_id_taken_by_another_person_is_not_run_by_it() -> None:
    desk = await a_desk()
    approval = await approved(desk)
    await desk.tasks.create(CONSOLE, asked())
    with pytest.raises(KeyConflictError):
        await use(desk, approval)


async def test_a_template_that_was_changed_since_is_not_what_was_approved() -> None:
    desk = await a_desk()
    await desk.templates.create(ADMIN, simple(user="root"))
    run = RunTemplate(task_id="t1", target=WEB, template="up", parameters={}, expires_in=600)
    approval = await desk.approvals.request(OPERATOR, run)
    await desk.approvals.decide(BOB, approval.approval_id, approve=True, reason=None)
    await desk.templates.delete(ADMIN, "up")
    await desk.templates.create(ADMIN, simple(user="root"))

    act = desk.tasks.create(OPERATOR, run, approval_id=approval.approval_id)
    assert await refusal(act) == "approval_changed"


# --- attacks: by the database


def a_requested(approval_id: str = "f" * 32, **given: Any) -> ApprovalRequested:
    said: dict[str, Any] = {"requester": "ada", "requested_at": AT, "expires_at": AT + 10**6, "rules": (), **given}
    task = a_task_accepted("t1")
    return ApprovalRequested(
        approval_id=approval_id,
        task_id="t1",
        request=task.request,
        request_sha256=SHA,
        hosts=task.hosts,
        hosts_sha256=SHA,
        **said,
    )


@pytest.mark.parametrize("key", [None, SOMEBODY], ids=["unsigned", "signed by somebody"])
@pytest.mark.parametrize("kind", [ApprovalApproved, ApprovalRefused])
async def test_a_forged_decision_decides_nothing(kind: type[ApprovalApproved], key: SigningKey | None) -> None:
    desk = await a_desk()
    approval = await desk.approvals.request(OPERATOR, asked())
    desk.insert(kind(approval_id=approval.approval_id, task_id="t1", actor="root"), key)
    desk.insert(a_requested(), key)

    assert await refusal(use(desk, approval)) == "approval_waiting"
    assert set(desk.authority.approvals.approvals) == {approval.approval_id}
    assert desk.authority.refused == 2


async def test_a_genuine_yes_to_one_is_none_to_another() -> None:
    desk = await a_desk()
    first = await approved(desk)
    genuine = desk.log.rows[-1]
    other = await desk.approvals.request(OPERATOR, asked("t2"))
    edited = genuine.body.replace(b'"t1"', b'"t2"').replace(first.approval_id.encode(), other.approval_id.encode())
    for body in (genuine.body, edited):
        desk.log.rows.append(genuine._replace(seq=len(desk.log.rows) + 1, body=body))

    assert await refusal(use(desk, other, asked("t2"))) == "approval_waiting"
    assert desk.authority.refused == 2


async def test_a_yes_of_the_requester_counts_for_nothing_whoever_signed_it() -> None:
    state = ApprovalState()
    assert state.apply(a_requested(), 1)
    yes = ApprovalApproved(approval_id="f" * 32, task_id="t1", actor="ada")
    assert not state.apply(yes, 2)
    assert state.apply(replace(yes, actor="bob"), 3)
    assert not state.apply(ApprovalRefused(approval_id="f" * 32, task_id="t1", actor="bob"), 4)
    assert not state.apply(a_requested(), 5)
    assert state.approval("f" * 32).verdict == "approved"


async def test_nobody_decides_on_a_row_that_was_changed_since() -> None:
    desk = await a_desk()
    approval = await desk.approvals.request(OPERATOR, asked())
    at = approval.requested_seq - 1
    desk.log.rows[at] = desk.log.rows[at]._replace(body=desk.log.rows[at].body.replace(b"uptime", b"reboot"))

    assert (
        await refusal(desk.approvals.decide(BOB, approval.approval_id, approve=True, reason=None)) == "not_authorised"
    )


async def test_of_a_list_one_row_that_was_changed_is_missing_and_no_other() -> None:
    desk = await a_desk()
    for task_id in ("t1", "t2", "t3"):
        approval = await desk.approvals.request(OPERATOR, asked(task_id))
        if task_id == "t2":
            at = approval.requested_seq - 1
            desk.log.rows[at] = desk.log.rows[at]._replace(body=desk.log.rows[at].body.replace(b"uptime", b"reboot"))

    assert await shown_to(desk, OPERATOR) == await shown_to(desk, BOB) == ["t3", "t1"]


async def test_of_an_approval_whose_event_was_deleted_the_log_tells_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk = await a_desk()
    gone = await desk.approvals.request(OPERATOR, asked("t1"))
    await desk.approvals.request(OPERATOR, asked("t2"))
    read_these = desk.log.read_these

    def without_it(name: LogName, seqs: Sequence[int]) -> AsyncIterator[StoredEvent]:
        return read_these(name, [seq for seq in seqs if seq != gone.requested_seq])

    monkeypatch.setattr(desk.log, "read_these", without_it)

    assert await shown_to(desk, BOB) == await shown_to(desk, BOB) == ["t2"]
    told = [vars(each) for each in caplog.records if each.msg == "an approval is not as it was asked for"]
    assert [(each["approval_id"], each["seq"]) for each in told] == [(gone.approval_id, gone.requested_seq)]
    assert told[0]["reason"].endswith("its event is not in the log")


async def test_a_task_that_needed_no_approval_in_the_end_has_used_none() -> None:
    desk = await a_desk()
    approval = await approved(desk)
    [rule] = [each for each in desk.authority.rules.rules.values() if each.effect == "approve"]
    await desk.rules.delete(ADMIN, rule.rule_id)

    await desk.tasks.create(OPERATOR, asked())

    [view] = await desk.approvals.approvals(OPERATOR, waiting=False)
    assert (view.approval.approval_id, view.state) == (approval.approval_id, "approved")


# --- bounds


async def test_of_one_person_only_so_many_wait_and_others_are_not_held_up() -> None:
    desk = await a_desk()
    for n in range(MAX_WAITING_OF_ONE):
        approval = await desk.approvals.request(OPERATOR, asked(f"t{n}"))
    assert await refusal(desk.approvals.request(OPERATOR, asked("more"))) == "too_many_approvals"
    await desk.approvals.request(CAT, asked("cat"))
    await desk.approvals.decide(BOB, approval.approval_id, approve=False, reason=None)
    await desk.approvals.request(OPERATOR, asked("more"))


def test_in_all_only_so_many_wait() -> None:
    state = ApprovalState()
    for n in range(MAX_WAITING):
        assert state.apply(a_requested(f"{n:032}", requester=f"u{n}"), n + 1)
    with pytest.raises(RefusedError) as refused:
        decide_request(state, a_task_accepted("t"), ("r",), now_s=AT)
    assert refused.value.code == "too_many_approvals"


async def test_what_nobody_could_read_is_not_to_be_approved() -> None:
    desk = await a_desk()
    act = desk.approvals.request(OPERATOR, asked(stdin="x" * MAX_REQUEST_BYTES))
    assert await refusal(act) == "task_too_large"


async def test_what_ended_long_ago_is_forgotten_and_a_copy_of_it_is_one_that_has_ended() -> None:
    desk = await a_desk()
    approval = await approved(desk)
    rows = desk.log.rows[-2:]
    desk.clock.advance(APPROVAL_S + KEPT_S)
    await desk.approvals.request(OPERATOR, asked("t2"))

    assert approval.approval_id not in desk.authority.approvals.approvals
    for row in rows:
        desk.log.rows.append(row._replace(seq=len(desk.log.rows) + 1))
    assert await refusal(use(desk, approval)) in {"approval_expired", "unknown_approval"}


# --- who sees what


async def test_one_sees_what_one_has_asked_for_and_what_one_may_decide_on() -> None:
    desk = await a_desk()
    await desk.approvals.request(OPERATOR, asked("t1"))
    await desk.approvals.request(OPERATOR, asked("t2", target=All()))
    await approved(desk, asked("t3"))

    async def shown(who: Principal, *, waiting: bool = True) -> dict[str, tuple[str, bool, bool]]:
        views = await desk.approvals.approvals(who, waiting=waiting)
        return {view.approval.task_id: (view.state, view.mine, view.may_decide) for view in views}

    assert await shown(OPERATOR) == {"t2": ("waiting", True, False), "t1": ("waiting", True, False)}
    assert await shown(BOB) == {"t1": ("waiting", False, True)}
    assert await shown(ADMIN) == {"t2": ("waiting", False, True), "t1": ("waiting", False, True)}
    assert await shown(CAT) == await shown(VIEWER) == {}
    assert (await shown(BOB, waiting=False))["t3"] == ("approved", False, False)
    used = next(each for each in desk.authority.approvals.approvals.values() if each.task_id == "t3")
    await use(desk, used, asked("t3"))
    assert (await shown(BOB, waiting=False))["t3"] == ("used", False, False)
    desk.clock.advance(APPROVAL_S)
    assert await shown(ADMIN) == {}
    assert (await shown(ADMIN, waiting=False))["t1"] == ("expired", False, False)


async def a_member(desk: Desk, username: str, *given: tuple[set[str], str]) -> Principal:
    """Somebody who may do nothing but this on these groups."""
    await desk.access.create_user(ADMIN, username, role="member", password=PASSWORD)
    for actions, group in given:
        await desk.rules.create(ADMIN, a_rule(subject=f"user:{username}", actions=actions, groups={group}))
    return Principal(username=username, role="member", address="127.0.0.1")


async def shown_to(desk: Desk, who: Principal) -> list[str]:
    return [view.approval.task_id for view in await desk.approvals.approvals(who, waiting=True)]


async def test_who_may_decide_and_not_read_sees_nothing_and_is_answered_as_of_what_there_is_not() -> None:
    desk = await a_desk()
    await desk.approvals.request(OPERATOR, asked("web"))
    both = await desk.approvals.request(OPERATOR, asked("both", target=Hosts(("db1", "web1", "web2"))))
    approve = {"tasks.approve"}
    blind = await a_member(desk, "dan", (approve, "web"), (approve, "db"))
    half = await a_member(desk, "eli", ({"tasks.read"} | approve, "web"), (approve, "db"))
    whole = await a_member(desk, "fay", ({"tasks.read"} | approve, "web"), ({"tasks.read"} | approve, "db"))

    assert [await shown_to(desk, who) for who in (blind, half, whole)] == [[], ["web"], ["both", "web"]]
    for approve_it in (True, False):
        answers = []
        for who, approval_id in ((blind, both.approval_id), (half, both.approval_id), (whole, "0" * 32)):
            with pytest.raises(NotFoundError) as refused:
                await desk.approvals.decide(who, approval_id, approve=approve_it, reason=None)
            answers.append((refused.value.code, str(refused.value)))
        assert len(set(answers)) == 1
    assert desk.authority.approvals.approval(both.approval_id).verdict is None
    await desk.approvals.decide(whole, both.approval_id, approve=True, reason=None)


async def test_a_host_that_is_named_and_not_in_the_list_is_shown_to_no_other() -> None:
    desk = await a_desk()
    half = await a_member(desk, "eli", ({"tasks.read", "tasks.approve"}, "web"))
    task = a_task_accepted("t1", ("web1",), target={"hosts": ["db1", "web1"]})
    event = replace(a_requested(expires_at=AT + 10**9), request=task.request, hosts=task.hosts)
    await desk.handling.record_new(event, actor="ada")

    assert await shown_to(desk, half) == []
    assert await shown_to(desk, BOB) == ["t1"]
    with pytest.raises(NotFoundError):
        await desk.approvals.decide(half, event.approval_id, approve=True, reason=None)


async def test_one_s_own_is_shown_with_the_hosts_that_one_may_still_see() -> None:
    desk = await a_desk()
    await desk.approvals.request(OPERATOR, asked(target=Hosts(("db1", "web1"))))
    [view] = await desk.approvals.approvals(OPERATOR, waiting=True)
    assert view.names is None
    for action in ("hosts.read", "tasks.read"):
        await desk.rules.create(ADMIN, a_rule(effect="deny", subject="user:ada", actions={action}, groups={"db"}))

    [view] = await desk.approvals.approvals(OPERATOR, waiting=True)

    assert (view.mine, view.names) == (True, {"web1", "web2"})


async def test_what_is_shown_follows_the_rules_and_the_groups_at_once() -> None:
    desk = await a_desk()
    await desk.approvals.request(OPERATOR, asked())
    assert await shown_to(desk, BOB) == ["t1"]
    deny, _ = await desk.rules.create(ADMIN, a_rule(effect="deny", subject="user:bob", actions={"tasks.approve"}))
    assert await shown_to(desk, BOB) == []
    await desk.rules.delete(ADMIN, deny)
    assert await shown_to(desk, BOB) == ["t1"]
    await desk.hosts.set_groups(ADMIN, "web2", ["db"])
    assert await shown_to(desk, BOB) == []


class CountingLog(MemoryLog):
    """Counts the events that are read by their seq."""

    read_by_seq = 0

    async def read_one(self, log: LogName, seq: int) -> StoredEvent | None:
        self.read_by_seq += 1
        return await super().read_one(log, seq)


def reads(desk: Desk) -> int:
    """How many since this was asked last."""
    assert isinstance(desk.log, CountingLog)
    found, desk.log.read_by_seq = desk.log.read_by_seq, 0
    return found


async def a_full_desk(number: int) -> Desk:
    """Many wait, of many people, for the web hosts."""
    desk = await a_desk(CountingLog())
    for n in range(number):
        task = a_task_accepted(f"t{n:03}", ("web1", "web2"), target={"group": "web"})
        event = replace(a_requested(f"{n:032}", requester=f"u{n}", expires_at=AT + 10**9), task_id=task.task_id)
        await desk.handling.record_new(replace(event, request=task.request, hosts=task.hosts), actor=f"u{n}")
    return desk


async def test_of_many_the_newest_100_are_shown_and_each_is_read_once() -> None:
    desk = await a_full_desk(MOST_SHOWN + 5)
    reads(desk)

    first = await shown_to(desk, BOB)

    assert first == [f"t{n:03}" for n in reversed(range(5, MOST_SHOWN + 5))]
    assert reads(desk) == MOST_SHOWN
    assert await shown_to(desk, BOB) == await shown_to(desk, ADMIN) == first
    assert reads(desk) == 0


async def test_what_is_none_of_somebody_s_business_is_read_once_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "MOST_KEPT_BYTES", 0)
    desk = await a_full_desk(3)
    half = await a_member(desk, "eli", ({"tasks.approve"}, "web"))
    reads(desk)

    assert [await shown_to(desk, CAT), reads(desk)] == [[], 0]
    assert [await shown_to(desk, half), reads(desk)] == [[], 3]
    assert [await shown_to(desk, half), reads(desk)] == [[], 0]


async def test_of_what_was_read_the_newest_are_kept_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await a_full_desk(4)
    monkeypatch.setattr(approvals, "MOST_KEPT_BYTES", 2 * len(desk.log.rows[-1].body))
    for _ in range(2):
        reads(desk)
        assert await shown_to(desk, BOB) == ["t003", "t002", "t001", "t000"]
    assert reads(desk) == 2
