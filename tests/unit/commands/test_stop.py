"""While all is stopped nothing is accepted; races conflict, and no forged or old row lifts it."""

from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from control_plane.commands.access import CONSOLE
from control_plane.commands.retries import RetryTask
from control_plane.commands.rollouts import Rollout
from control_plane.commands.stop import StopState, decide_lift, decide_stop
from control_plane.commands.targets import All
from control_plane.errors import InvalidFieldError, NotAllowedError, RefusedError
from control_plane.events.stop import StopLifted, StopSet
from control_plane_wire.signing import SigningKey
from tests.support.fleet import ADMIN, OPERATOR, VIEWER, Desk, a_request

SOMEBODY: Final = SigningKey.from_bytes(b"\x66" * 32)


async def a_desk() -> Desk:
    """Two hosts, a task t1 that has failed, a paused one t2, and one, t3, that waits after its canary."""
    desk = Desk()
    for name in ("web1", "web2"):
        await desk.register(name, "web")
    await desk.tasks.create(OPERATOR, a_request("t1"))
    desk.executions.rows["t1"] = dict.fromkeys(("web1", "web2"), "failed")
    await desk.tasks.create(OPERATOR, a_request("t2"))
    await desk.rollouts.pause(OPERATOR, "t2", None)
    await desk.tasks.create(OPERATOR, a_request("t3", rollout=Rollout(canary=("web1",), wait=60)))
    desk.executions.rows["t3"] = {"web1": "succeeded", "web2": "queued"}
    return desk


ACTS: Final[dict[str, Callable[[Desk], Awaitable[object]]]] = {
    "create": lambda desk: desk.tasks.create(ADMIN, a_request("t9", All())),
    "retry": lambda desk: desk.tasks.retry(
        OPERATOR, RetryTask(task_id="t9", retry_of="t1", states=frozenset({"failed"}))
    ),
    "resume": lambda desk: desk.rollouts.resume(OPERATOR, "t2", None),
    "approve a canary": lambda desk: desk.rollouts.resume(OPERATOR, "t3", None),
    "on the command line": lambda desk: desk.tasks.create(CONSOLE, a_request("t9", All())),
}


@pytest.mark.parametrize("name", ACTS)
async def test_what_would_be_run_is_refused_with_who_stopped_it_when_and_why_and_goes_on_after_the_lift(
    name: str,
) -> None:
    desk = await a_desk()
    await desk.stop.set(OPERATOR, "a wrong command")
    before = len(desk.log.rows)

    with pytest.raises(RefusedError) as refused:
        await ACTS[name](desk)
    assert refused.value.code == "stopped"
    assert refused.value.detail.startswith("nothing is run: stopped by ada at 20")
    assert refused.value.detail.endswith("Z: a wrong command")
    assert len(desk.log.rows) == before

    await desk.stop.lift(ADMIN, None)
    await ACTS[name](desk)


async def test_cancels_pauses_and_repeats_of_what_was_accepted_are_as_ever() -> None:
    desk = await a_desk()
    await desk.stop.set(ADMIN, "x")

    await desk.tasks.cancel(OPERATOR, "t1", None)
    await desk.rollouts.pause(OPERATOR, "t3", None)
    again = await desk.tasks.create(OPERATOR, a_request("t1"))

    assert not again.created


async def test_who_may_stop_is_not_who_may_lift() -> None:
    desk = await a_desk()
    for act in (desk.stop.set(VIEWER, "x"), desk.stop.lift(VIEWER, None), desk.stop.lift(OPERATOR, None)):
        with pytest.raises(NotAllowedError):
            await act
    assert desk.kinds()[-3:] == ["access.denied"] * 3

    await desk.stop.set(OPERATOR, "x")
    assert desk.stop.state.standing is not None
    await desk.stop.lift(ADMIN, "looked")
    assert desk.stop.state.standing is None


async def test_stopping_and_lifting_once_more_change_nothing() -> None:
    desk = await a_desk()
    await desk.stop.lift(ADMIN, None)
    await desk.stop.set(OPERATOR, "the first reason")
    await desk.stop.set(ADMIN, "another")

    assert [kind for kind in desk.kinds() if kind.startswith("stop.")] == ["stop.set"]
    assert desk.stop.state.standing is not None
    assert desk.stop.state.standing.reason == "the first reason"


async def test_a_stop_that_another_replica_set_or_lifted_meanwhile_is_decided_anew() -> None:
    desk = await a_desk()
    beside = desk.beside()
    await desk.stop.set(OPERATOR, "one")
    await beside.stop.set(ADMIN, "two")
    await beside.stop.lift(ADMIN, None)
    await desk.stop.set(OPERATOR, "three")

    assert [kind for kind in desk.kinds() if kind.startswith("stop.")] == ["stop.set", "stop.lifted", "stop.set"]
    await beside.authority.refresh()
    assert beside.stop.state.in_words == desk.stop.state.in_words


@pytest.mark.parametrize("key", [None, SOMEBODY], ids=["unsigned", "signed by somebody"])
async def test_a_forged_row_neither_stops_nor_lifts(key: SigningKey | None) -> None:
    desk = await a_desk()
    desk.insert(StopSet(actor="root", based_on=0, stopped_at=1, reason="x"), key)
    await desk.authority.refresh()
    assert desk.stop.state.standing is None

    await desk.stop.set(OPERATOR, "x")
    desk.insert(StopLifted(actor="root", based_on=desk.stop.state.changed_seq), key)
    await desk.authority.refresh()
    assert desk.stop.state.standing is not None
    assert desk.authority.refused == 2


async def test_a_copy_of_an_old_lift_lifts_nothing() -> None:
    desk = await a_desk()
    await desk.stop.set(OPERATOR, "x")
    await desk.stop.lift(ADMIN, None)
    lifted = desk.log.rows[-1]
    await desk.stop.set(OPERATOR, "y")

    desk.log.rows.append(lifted._replace(seq=len(desk.log.rows) + 1))
    await desk.authority.refresh()

    assert desk.stop.state.standing is not None


def test_reasons_are_one_line() -> None:
    state = StopState()
    for reason in ("", "a\nb", "x" * 257, "a\u202eb"):
        with pytest.raises(InvalidFieldError):
            decide_stop(state, actor="ada", reason=reason, now_s=1)
        with pytest.raises(InvalidFieldError):
            decide_lift(state, actor="ada", reason=reason)
