"""The global stop: set, lifted, and seen by everybody who is signed in."""

from pydantic import StrictBool, StrictInt, StrictStr

from control_plane.api.fields import Answer, Line, Request, Seq, Time, at_s, wait_for_authority
from control_plane.api.hosts import Reason
from control_plane.api.routing import SENSITIVE, noun
from control_plane.api.services import Caller, Given

router = noun("/stop", "stop")


class SetStop(Request):
    reason: Line


class Stop(Answer):
    """Whether all is stopped.

    Attributes:
        by, reason, since: null where nothing is.
        seq: the event that last changed it, 0 where none has.
    """

    stopped: StrictBool
    by: StrictStr | None
    reason: StrictStr | None
    since: Time | None
    seq: StrictInt


class StopChange(Answer):
    """A change that is in the log as event `seq`; read with `min_seq` to see it."""

    seq: int


@router.get("")
async def get_stop(services: Given, _caller: Caller, min_seq: Seq | None = None) -> Stop:
    """Whether all is stopped, and by whom, since when and why."""
    await wait_for_authority(services, min_seq)
    state = services.stop.state
    stands = state.standing
    return Stop(
        stopped=stands is not None,
        by=None if stands is None else stands.actor,
        reason=None if stands is None else stands.reason,
        since=None if stands is None else at_s(stands.stopped_at),
        seq=state.changed_seq,
    )


@router.post("")
async def set_stop(services: Given, caller: Caller, body: SetStop) -> StopChange:
    """Accept no command, and send none of those that wait, until it is lifted. Cancels are sent; what runs goes on."""
    return StopChange(seq=await services.stop.set(caller, body.reason))


@router.delete("", dependencies=SENSITIVE)
async def lift_stop(services: Given, caller: Caller, body: Reason | None = None) -> StopChange:
    """Let all go on: what was held back is sent, unless it has expired."""
    return StopChange(seq=await services.stop.lift(caller, body.reason if body else None))
