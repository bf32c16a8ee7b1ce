"""What a retry comes to: which hosts, and what they are asked to do."""

import dataclasses
import time

import pytest

from control_plane.commands.ports import Presence
from control_plane.commands.retries import RetryTask, decide_retry
from control_plane.commands.rollouts import Rollout
from control_plane.commands.targets import MAX_HOSTS, Group, Hosts
from control_plane.commands.tasks import verify_authorisation
from control_plane.errors import KeyConflictError, NotAllowedError, NotFoundError, RefusedError
from control_plane.events.tasks import TaskAccepted
from tests.support.fleet import ADMIN, OPERATOR, VIEWER, Desk, a_request, host_key

STATES = {"web1": "succeeded", "web2": "failed", "web3": "lost", "web4": "running"}


async def a_desk() -> Desk:
    """One task, t1, for four hosts that are in different states by now."""
    desk = Desk()
    for name in STATES:
        await desk.register(name, "web")
    asked = {
        "argv": ("id", "-u"),
        "env": {"LANG": "C"},
        "cwd": "/tmp",
        "stdin": "x",
        "when_offline": "skip",
        "expires_in": 99,
        "reason": "because",
        "rollout": Rollout(max_concurrency=2, canary=1, wait="approve"),
    }
    desk.presences.rows = {name: Presence(state="online", basic=False) for name in STATES}
    await desk.tasks.create(OPERATOR, a_request("t1", Group("web"), **asked))
    desk.executions.rows["t1"] = dict(STATES)
    return desk


def a_retry(*states: str, **given: object) -> RetryTask:
    asked = {"task_id": "t2", "retry_of": "t1", "states": frozenset(states or ("failed", "lost")), **given}
    return RetryTask(**asked)  # type: ignore[arg-type]


def last(desk: Desk) -> TaskAccepted:
    return verify_authorisation(desk.log.rows[-1], desk.keyring.public_keys)


async def refusal(desk: Desk, request: RetryTask) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        await desk.tasks.retry(OPERATOR, request)
    assert desk.log.rows[-1].task_id != request.task_id
    return refused.value


async def test_it_does_the_same_on_the_hosts_that_are_in_the_chosen_states() -> None:
    desk = await a_desk()
    first = last(desk)

    accepted = await desk.tasks.retry(OPERATOR, a_retry(reason="once more"))

    task = last(desk)
    assert accepted.created
    assert (task.task_id, task.retry_of, task.hosts) == ("t2", "t1", ("web2", "web3"))
    assert task.request == {
        **first.request,
        "target": {"hosts": ["web2", "web3"]},
        "reason": "once more",
        "rollout": {"max_concurrency": 2, "max_errors": 0},
    }
    assert task.expires_at - task.accepted_at == 99


async def test_the_same_again_is_the_same_task_whatever_the_hosts_have_come_to() -> None:
    desk = await a_desk()
    first = await desk.tasks.retry(OPERATOR, a_retry())
    desk.executions.rows["t1"]["web4"] = "failed"

    again = await desk.tasks.retry(OPERATOR, a_retry())

    assert (again.seq, again.created) == (first.seq, False)


@pytest.mark.parametrize(
    "other",
    [a_retry("failed"), a_retry(hosts=("web2",)), a_retry(reason="x"), a_retry(retry_of="t0")],
    ids=["states", "hosts", "reason", "another task"],
)
async def test_another_retry_or_task_under_the_same_id_is_a_conflict(other: RetryTask) -> None:
    desk = await a_desk()
    await desk.tasks.retry(OPERATOR, a_retry())

    with pytest.raises(KeyConflictError):
        await desk.tasks.retry(OPERATOR, other)
    with pytest.raises(KeyConflictError):
        await desk.tasks.create(OPERATOR, a_request("t2"))


async def test_it_may_be_for_some_of_them_only() -> None:
    desk = await a_desk()
    await desk.tasks.retry(OPERATOR, a_retry(hosts=("web3",)))

    assert last(desk).hosts == ("web3",)


async def test_all_of_the_largest_task_may_be_named_and_nobody_waits_for_that() -> None:
    desk = await a_desk()
    first = dataclasses.replace(last(desk), hosts=tuple(f"web{number:05}" for number in range(MAX_HOSTS)))
    states = dict.fromkeys(first.hosts, "failed")
    started_s = time.process_time()

    task = decide_retry(a_retry(hosts=first.hosts), first, states, desk.authority.fleet)

    assert task.target == Hosts(first.hosts)
    assert time.process_time() - started_s < 1  # each host looked for among all of them would take several


async def test_a_host_that_is_not_to_be_retried_is_named() -> None:
    desk = await a_desk()
    refused = await refusal(desk, a_retry(hosts=("web1", "web2", "web4", "db1")))

    assert refused.code == "not_to_retry"
    assert refused.detail.endswith("db1 (no host of it), web1 (succeeded), web4 (running)")


async def test_a_lost_host_that_has_succeeded_after_all_is_retried_only_where_it_is_named() -> None:
    desk = await a_desk()
    desk.executions.late["t1"] = ["web3"]
    refused = await refusal(desk, a_retry("lost"))
    assert (refused.code, refused.detail) == (
        "nothing_to_retry",
        "succeeded after all, name it to run it again: web3",
    )

    await desk.tasks.retry(OPERATOR, a_retry())
    assert last(desk).hosts == ("web2",)
    await desk.tasks.retry(OPERATOR, a_retry("lost", hosts=("web3",), task_id="t3"))
    assert last(desk).hosts == ("web3",)


async def test_nothing_to_retry_is_refused() -> None:
    refused = await refusal(await a_desk(), a_retry("expired", "rejected"))

    assert (refused.code, refused.detail) == ("nothing_to_retry", "no host of t1 is expired or rejected")


@pytest.mark.parametrize("states", [("running",), ("failed", "queued"), ("done",)])
async def test_only_what_has_ended_is_retried(states: tuple[str, ...]) -> None:
    refused = await refusal(await a_desk(), a_retry(*states))

    assert refused.code == "invalid_request"
    assert refused.detail.startswith("states ")


async def test_a_host_that_has_been_retired_or_is_another_machine_by_now_is_named() -> None:
    desk = await a_desk()
    await desk.hosts.retire(ADMIN, "web2", None)
    refused = await refusal(desk, a_retry())
    assert (refused.code, "web2" in refused.detail) == ("host_not_active", True)

    await desk.hosts.register(ADMIN, hostname="web2", public_key=host_key("another").public_key, groups=[])
    refused = await refusal(desk, a_retry())
    assert (refused.code, refused.detail) == ("host_replaced", "another machine than then: web2")


async def test_who_may_not_run_may_not_retry_and_an_unknown_task_is_not_found() -> None:
    desk = await a_desk()
    with pytest.raises(NotAllowedError):
        await desk.tasks.retry(VIEWER, a_retry())
    with pytest.raises(NotFoundError):
        await desk.tasks.retry(OPERATOR, a_retry(retry_of="t0"))


@pytest.mark.parametrize("is_signed", [True, False], ids=["another body", "no signature"])
async def test_what_somebody_has_written_into_the_log_is_not_signed_anew(is_signed: bool) -> None:
    desk = await a_desk()
    place, stored = len(desk.log.rows) - 1, desk.log.rows[-1]
    forged = stored._replace(body=stored.body.replace(b"because", b"BECAUSE"))
    desk.log.rows[place] = forged if is_signed else stored._replace(signature=None, key_id=None)

    refused = await refusal(desk, a_retry())

    assert refused.code == "not_authorised"


async def test_it_is_guarded_like_any_task() -> None:
    desk = await a_desk()
    strict = Desk(
        clock=desk.clock,
        log=desk.log,
        keyring=desk.keyring,
        executions=desk.executions,
        presences=desk.presences,
        require_preview="always",
    )

    refused = await refusal(strict, a_retry())

    assert refused.code == "preview_required"
    shown = await strict.tasks.preview(OPERATOR, a_request(target=None).target, "id")
    refused = await refusal(strict, a_retry(preview_id=shown.preview_id))
    assert refused.code == "target_changed"
