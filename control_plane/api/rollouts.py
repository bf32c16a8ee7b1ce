"""How a task goes to its hosts: little by little where that was asked for, and not while it is paused."""

from typing import Annotated, Literal

from pydantic import Field, StrictInt, StrictStr

from control_plane.api.fields import Answer, Name, Request, TaskIdPath
from control_plane.api.hosts import Reason
from control_plane.api.routing import noun
from control_plane.api.services import Caller, Given
from control_plane.commands.rollouts import MAX_CANARIES, parse_rollout
from control_plane.commands.rollouts import Rollout as RolloutDecision
from control_plane.commands.targets import MAX_HOSTS
from control_plane_wire.messages import MAX_EXPIRY_S

Percent = Annotated[StrictStr, Field(pattern=r"\A([1-9][0-9]?|100)%\z")]

router = noun("/tasks/{task_id}", "tasks")


class Rollout(Request):
    """How a task goes to its hosts little by little.

    Attributes:
        max_concurrency: hosts that it may be on at once, or the percentage; it begins with one, and doubles.
        max_errors: hosts on which it may fail before it stops, or the percentage.
        canary: hosts that go first, all at once, or how many.
        wait: seconds after the canary has succeeded, or `approve`: it is paused then, and a resume is the approval.
    """

    max_concurrency: Annotated[StrictInt, Field(ge=1, le=MAX_HOSTS)] | Percent = "100%"
    max_errors: Annotated[StrictInt, Field(ge=0, le=MAX_HOSTS)] | Percent = 0
    canary: (
        Annotated[list[Name], Field(min_length=1, max_length=MAX_CANARIES)]
        | Annotated[StrictInt, Field(ge=1, le=MAX_HOSTS)]
        | None
    ) = None
    wait: Annotated[StrictInt, Field(ge=0, le=MAX_EXPIRY_S)] | Literal["approve"] | None = None

    def decided(self) -> RolloutDecision:
        return parse_rollout(self.model_dump(exclude_none=True))


class TaskChange(Answer):
    task_id: str
    seq: int


@router.post("/pause", status_code=202)
async def pause_task(services: Given, caller: Caller, task_id: TaskIdPath, body: Reason | None = None) -> TaskChange:
    """Send it to no further host until it is resumed. What runs already goes on."""
    seq = await services.rollouts.pause(caller, task_id, body.reason if body else None)
    return TaskChange(task_id=task_id, seq=seq)


@router.post("/resume", status_code=202)
async def resume_task(services: Given, caller: Caller, task_id: TaskIdPath, body: Reason | None = None) -> TaskChange:
    """Let it go on. Where its rollout waits for an approval after the canary, this is the approval."""
    seq = await services.rollouts.resume(caller, task_id, body.reason if body else None)
    return TaskChange(task_id=task_id, seq=seq)
