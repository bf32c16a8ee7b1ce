"""How a task goes to its hosts: little by little where that was asked for, and not while it is paused."""

from typing import Annotated, Any, Final

from pydantic import WithJsonSchema

from control_plane.api.fields import Answer, Request, TaskIdPath
from control_plane.api.hosts import Reason
from control_plane.api.routing import noun
from control_plane.api.services import Caller, Given
from control_plane.commands.rollouts import MAX_CANARIES, parse_rollout
from control_plane.commands.rollouts import Rollout as RolloutDecision
from control_plane.commands.targets import MAX_HOSTS
from control_plane_wire.messages import MAX_EXPIRY_S


def one_of(*schemas: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": list(schemas)})


# What they may be is said here, and checked by `parse_rollout`, whose errors name no branches of a union.
_PERCENT: Final = {"type": "string", "pattern": "^([1-9][0-9]?|100)%$"}
_NAMES: Final = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_CANARIES}
Concurrency = Annotated[Any, one_of({"type": "integer", "minimum": 1, "maximum": MAX_HOSTS}, _PERCENT)]
Errors = Annotated[Any, one_of({"type": "integer", "minimum": 0, "maximum": MAX_HOSTS}, _PERCENT)]
Canary = Annotated[Any, one_of(_NAMES, {"type": "integer", "minimum": 1, "maximum": MAX_HOSTS}, {"type": "null"})]
Wait = Annotated[
    Any, one_of({"type": "integer", "minimum": 0, "maximum": MAX_EXPIRY_S}, {"const": "approve"}, {"type": "null"})
]

router = noun("/tasks/{task_id}", "tasks")


class Rollout(Request):
    """How a task goes to its hosts little by little.

    Attributes:
        max_concurrency: hosts that it may be on at once, or the percentage; it begins with one, and doubles.
        max_errors: hosts on which it may fail before it stops, or the percentage.
        canary: hosts that go first, all at once, or how many.
        wait: seconds after the canary has succeeded, which a resume ends early; or `approve`: it is paused then, and a
            resume is the approval.
    """

    max_concurrency: Concurrency = "100%"
    max_errors: Errors = 0
    canary: Canary = None
    wait: Wait = None

    def decided(self) -> RolloutDecision:
        return parse_rollout(self.model_dump(exclude_none=True))


class TaskChange(Answer):
    task_id: str
    seq: int


@router.post("/pause", status_code=202)
async def pause_task(services: Given, caller: Caller, task_id: TaskIdPath, body: Reason | None = None) -> TaskChange:
    """Send it to no further host until it is resumed. What runs already goes on.

    Where every host has it already there is nothing to hold, and the answer is 409 `nothing_to_pause`.
    """
    seq = await services.rollouts.pause(caller, task_id, body.reason if body else None)
    return TaskChange(task_id=task_id, seq=seq)


@router.post("/resume", status_code=202)
async def resume_task(services: Given, caller: Caller, task_id: TaskIdPath, body: Reason | None = None) -> TaskChange:
    """Let it go on. Where its rollout waits after the canary, for an approval or for a time, this is the approval."""
    seq = await services.rollouts.resume(caller, task_id, body.reason if body else None)
    return TaskChange(task_id=task_id, seq=seq)
