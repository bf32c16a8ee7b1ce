"""The secrets of tasks, one at a time, for those who may read them."""

from typing import Annotated

from fastapi import Path

from control_plane.api.fields import Answer, Seq, TaskIdPath, wait_for_authority
from control_plane.api.routing import SENSITIVE, noun
from control_plane.api.services import Caller, Given

router = noun("/tasks/{task_id}/secrets", "tasks", permission="secrets.read")


class Secret(Answer):
    value: str


@router.get("/{name}", dependencies=SENSITIVE)
async def read_secret(
    services: Given,
    caller: Caller,
    task_id: TaskIdPath,
    name: Annotated[str, Path(max_length=128)],
    min_seq: Seq | None = None,
) -> Secret:
    """The value of a secret environment variable. Each reading is an event, recorded before this answers."""
    await wait_for_authority(services, min_seq)
    return Secret(value=await services.secrets.read(caller, task_id, name))
