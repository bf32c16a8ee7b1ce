import pytest

from control_plane.commands.rollouts import Rollout
from control_plane.commands.targets import Hosts
from control_plane.errors import NotAllowedError, NotFoundError, RefusedError
from control_plane.events.rollouts import ExecutionReleased, TaskApproved, TaskPaused, TaskResumed
from control_plane.events.tasks import ExecutionAccepted, ExecutionCancelled, ExecutionSent, ExecutionSkipped
from control_plane_wire.messages import DEFAULT_EXPIRY_S
from tests.support.fleet import OPERATOR, VIEWER, Desk, a_request


async def a_desk() -> Desk:
    """One task, t1, for web1 and web2."""
    desk = Desk()
    await desk.register("web1", "web")
    await desk.register("web2", "web")
    await desk.tasks.create(OPERATOR, a_request("t1", Hosts(("web1", "web2"))))
    return desk


async def test_each_pause_and_resume_is_based_on_the_one_before_and_signed() -> None:
    desk = await a_desk()
    seq = len(desk.log.rows)
    for _ in range(2):
        await desk.rollouts.pause(OPERATOR, "t1", "a look at it")
        await desk.rollouts.resume(OPERATOR, "t1", None)

    rows = desk.log.rows[-4:]
    assert [row.kind for row in rows] == [TaskPaused.KIND, TaskResumed.KIND] * 2
    assert [row.body.decode().count(f'"based_on":{seq + place},') for place, row in enumerate(rows)] == [1] * 4
    for row in rows:
        desk.keyring.verify_event(row)


async def test_a_viewer_may_neither_pause_nor_resume() -> None:
    desk = await a_desk()
    with pytest.raises(NotAllowedError):
        await desk.rollouts.pause(VIEWER, "t1", None)
    with pytest.raises(NotAllowedError):
        await desk.rollouts.resume(VIEWER, "t1", None)


async def test_what_is_not_there_or_not_paused_is_refused() -> None:
    desk = await a_desk()
    with pytest.raises(NotFoundError):
        await desk.rollouts.pause(OPERATOR, "t2", None)
    with pytest.raises(NotFoundError):
        await desk.rollouts.resume(OPERATOR, "t2", None)
    with pytest.raises(RefusedError) as refused:
        await desk.rollouts.resume(OPERATOR, "t1", None)
    assert refused.value.code == "not_paused"


async def test_what_is_being_cancelled_or_has_finished_is_neither_paused_nor_resumed() -> None:
    desk = await a_desk()
    await desk.rollouts.pause(OPERATOR, "t1", None)
    await desk.tasks.cancel(OPERATOR, "t1", None)
    for turn in (desk.rollouts.pause, desk.rollouts.resume):
        with pytest.raises(RefusedError) as refused:
            await turn(OPERATOR, "t1", None)
        assert refused.value.code == "task_cancelled"

    gone = [ExecutionCancelled(task_id="t1", hostname=name, reason="x") for name in ("web1", "web2")]
    await desk.log.append([event.to_new_event() for event in gone])
    for turn in (desk.rollouts.pause, desk.rollouts.resume):
        with pytest.raises(RefusedError) as refused:
            await turn(OPERATOR, "t1", None)
        assert refused.value.code == "task_finished"


async def test_what_has_expired_is_neither_paused_nor_resumed_since_nothing_is_sent_any_more() -> None:
    desk = await a_desk()
    await desk.rollouts.pause(OPERATOR, "t1", None)
    desk.clock.advance(DEFAULT_EXPIRY_S)
    before = len(desk.log.rows)

    for turn in (desk.rollouts.pause, desk.rollouts.resume):
        with pytest.raises(RefusedError) as refused:
            await turn(OPERATOR, "t1", None)
        assert refused.value.code == "task_expired"
    assert len(desk.log.rows) == before


async def test_the_wait_after_a_canary_is_ended_only_where_all_of_it_has_succeeded_and_nothing_else_was_released() -> (
    None
):
    desk = await a_desk()
    for name in ("web3", "web4"):
        await desk.register(name, "web")
    hosts, rollout = ("web1", "web2", "web3", "web4"), Rollout(canary=("web2", "web4"), wait=60, max_errors=1)
    await desk.tasks.create(OPERATOR, a_request("t2", Hosts(hosts), rollout=rollout))
    states = desk.executions.rows["t2"] = {"web1": "queued", "web2": "succeeded", "web3": "queued", "web4": "failed"}
    with pytest.raises(RefusedError, match="not_paused"):
        await desk.rollouts.resume(OPERATOR, "t2", None)

    states["web4"] = "succeeded"
    await desk.rollouts.resume(OPERATOR, "t2", "it looks well")
    row = desk.log.rows[-1]
    assert (row.kind, row.actor) == (TaskApproved.KIND, OPERATOR.username)
    desk.keyring.verify_event(row)

    released = ExecutionReleased(task_id="t2", hostname="web1")
    desk.insert(released)
    desk.log.keys[released.key()] = (released.digest(), len(desk.log.rows))
    with pytest.raises(RefusedError, match="not_paused"):
        await desk.rollouts.resume(OPERATOR, "t2", None)


@pytest.mark.parametrize("rollout", [Rollout(), Rollout(canary=1), Rollout(canary=1, wait="approve")])
async def test_a_rollout_that_does_not_wait_for_a_time_has_no_wait_to_end(rollout: Rollout) -> None:
    desk = await a_desk()
    await desk.tasks.create(OPERATOR, a_request("t2", Hosts(("web1", "web2")), rollout=rollout))
    desk.executions.rows["t2"] = {"web1": "succeeded", "web2": "queued"}

    with pytest.raises(RefusedError, match="not_paused"):
        await desk.rollouts.resume(OPERATOR, "t2", None)


async def test_what_every_host_has_already_is_not_paused_and_what_was_only_sent_is() -> None:
    desk = await a_desk()
    accepted = {"kind": "accepted", "task_id": "t1", "timestamp": 1}
    skipped = ExecutionSkipped(task_id="t1", hostname="web2", reason="x")
    sent = ExecutionSent(task_id="t1", hostname="web1", route="cmd.node.web1")
    await desk.log.append([skipped.to_new_event(), sent.to_new_event()])
    await desk.rollouts.pause(OPERATOR, "t1", None)
    await desk.rollouts.resume(OPERATOR, "t1", None)
    await desk.log.append([ExecutionAccepted(hostname="web1", message=accepted).to_new_event()])

    with pytest.raises(RefusedError) as refused:
        await desk.rollouts.pause(OPERATOR, "t1", None)
    assert refused.value.code == "nothing_to_pause"


async def test_a_reason_is_one_line() -> None:
    desk = await a_desk()
    with pytest.raises(RefusedError, match="reason"):
        await desk.rollouts.pause(OPERATOR, "t1", "one\ntwo")


async def test_a_rollout_is_a_part_of_the_request_that_is_authorised() -> None:
    desk = await a_desk()
    plain = a_request("t2", Hosts(("web1", "web2")))
    slow = a_request("t2", Hosts(("web1", "web2")), rollout=Rollout(max_concurrency=1))

    assert plain.sha256 != slow.sha256
    assert slow.to_json()["rollout"] == {"max_concurrency": 1, "max_errors": 0}
    with pytest.raises(RefusedError, match="web9"):
        await desk.tasks.create(OPERATOR, a_request("t2", Hosts(("web1",)), rollout=Rollout(canary=("web9",))))
    assert desk.kinds().count("task.accepted") == 1
