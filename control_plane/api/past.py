"""`?at=`: an answer as of a moment, by whichever reader has it."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final

from fastapi import Depends, Query

from control_plane.api.fields import MIN_SEQ_WAIT_S, Seq, wait_for_seq
from control_plane.api.problems import ProblemError, ReadTableBehindError
from control_plane.api.services import Given, Seen, Services
from control_plane.errors import RefusedError
from control_plane.events.envelope import HEARTBEAT_EVENT
from control_plane.projections.every import PROJECTIONS, projection_named
from control_plane.projections.moments import Moment
from control_plane.projections.queries.hosts import HostReader
from control_plane.projections.queries.tasks import TaskReader

MAX_AT: Final = 64

At = Annotated[
    str | None,
    Query(
        max_length=MAX_AT,
        description="as of then: a time (RFC 3339), the seq of an event, or a position that a list gave as `as_of`",
    ),
]


def _then(*names: str) -> Callable[..., Coroutine[Any, Any, Moment | None]]:
    async def then(services: Given, at: At = None, min_seq: Seq | None = None) -> Moment | None:
        for name in names:
            await wait_for_seq(services, name, min_seq)
        if at is None:
            return None
        moment = await _moment(services, at)
        for name in names:
            await _wait_for(services, name, moment)
        return moment

    return then


async def _moment(services: Services, at: str) -> Moment:
    """The moment that is asked for. Raises ProblemError where it is none, or in the future."""
    try:
        return await services.past.moment(at)
    except RefusedError as error:
        raise ProblemError(400 if error.code == "bad_at" else 422, error.code, error.detail, field="at") from error


async def _wait_for(services: Services, name: str, moment: Moment) -> None:
    """Until a read table has come to a moment. Raises ReadTableBehindError after 2 s."""
    event_seq = moment.positions.event
    heartbeat_seq = moment.positions.heartbeat if HEARTBEAT_EVENT in projection_named(name).logs else 0
    if not await services.hub.wait_for(name, event_seq, heartbeat_seq=heartbeat_seq, timeout_s=MIN_SEQ_WAIT_S):
        raise ReadTableBehindError


OfHosts = Annotated[Moment | None, Depends(_then("hosts"))]
OfTasks = Annotated[Moment | None, Depends(_then("tasks"))]
OfAudit = Annotated[Moment | None, Depends(_then("audit"))]
OfAll = Annotated[Moment | None, Depends(_then(*(projection.name for projection in PROJECTIONS)))]
"""The moment of a read, None for now; its read table has come to it, and to `min_seq`."""


async def _hosts(services: Given, scope: Seen, then: OfHosts) -> HostReader:
    return services.host_queries.seen_by(scope) if then is None else services.past.hosts(then, scope)


async def _tasks(services: Given, scope: Seen, then: OfTasks) -> TaskReader:
    return services.task_queries.seen_by(scope) if then is None else services.past.tasks(then, scope)


Hosts = Annotated[HostReader, Depends(_hosts)]
Tasks = Annotated[TaskReader, Depends(_tasks)]
"""Who answers as of that moment, about what the caller may see now."""
