"""The live stream: server-sent events with rows that have changed, for `fetch` and for `EventSource`."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import Header, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from control_plane.api.executions import find_execution
from control_plane.api.fields import MAX_LINE
from control_plane.api.frames import executions_in, output_end_frame, parse_topics, permissions_for
from control_plane.api.live import Live, Subscription
from control_plane.api.routing import noun
from control_plane.api.services import Caller, Given, Services, scope_of
from control_plane.api.tasks import no_task
from control_plane.commands.access import Principal
from control_plane.errors import RefusedError, StorageUnavailableError
from control_plane.projections.positions import Positions
from control_plane.projections.queries.tasks import ExecutionView

_logger = logging.getLogger(__name__)

SEND_S: Final = 30.0  # a reader that takes nothing for so long is gone

router = noun("/stream", "stream", permission="hosts.read")


class EventStream(Response):
    """Lasts until the reader leaves, falls behind, loses its session, or the server stops."""

    media_type = "text/event-stream"

    def __init__(self, live: Live, subscription: Subscription, after: Positions | None) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._live = live
        self._subscription = subscription
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(self._watch(receive), name="wait for the reader to leave")
                await self._send_all(send)
                watcher.cancel()
        finally:
            self._live.leave(self._subscription)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._subscription.close()

    async def _send_all(self, send: Send) -> None:
        try:
            async for chunk in self._live.chunks(self._subscription, self._after):
                async with asyncio.timeout(SEND_S):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except StorageUnavailableError:
            _logger.warning("a stream ends because the database does not answer")  # and its reader resumes
        except TimeoutError:
            _logger.info("a stream ends because its reader takes nothing")
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.get("", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
async def stream(
    request: Request,
    services: Given,
    caller: Caller,
    topics: Annotated[str, Query(max_length=16_384, description="with commas between them")],
    after: Annotated[str | None, Query(max_length=MAX_LINE, description="`as_of` of what is shown already")] = None,
    last_event_id: Annotated[str | None, Header(max_length=MAX_LINE)] = None,
) -> Response:
    """Rows changed after a position: `rows`, `usage`, `ping` and `reset`; resumes with Last-Event-ID.

    `output` is what a running command prints, for the topic `output:TASK_ID:HOSTNAME`: a preview, of which pieces may
    be missing. The result has the whole. `output_end` is the last event of such a topic, once the result can be read.
    """
    place = last_event_id or after
    positions = Positions.parse(place) if place else None
    wanted = parse_topics(topics)
    if "projections.read" not in services.authority.rules.permissions(caller):
        wanted -= {"system"}  # as of all other topics, there comes what the caller may see
    for permission in permissions_for(wanted):
        await services.access.check(caller, permission, "GET /api/v1/stream")
    shown = await _shown(services, caller, executions_in(wanted))
    live: Live = request.app.state.live
    running = frozenset((row.task_id, row.hostname) for row in shown if row.finished_us is None)
    subscription = live.subscribe(caller, wanted, running)
    subscription.offer([output_end_frame(row) for row in shown if row.finished_us is not None])
    return EventStream(live, subscription, positions)


async def _shown(
    services: Services, caller: Principal, executions: Sequence[tuple[str, str]]
) -> Sequence[ExecutionView]:
    """The rows of these executions.

    Raises:
        NotFoundError: as asking for the output does.
        RefusedError: this process cannot show any.
    """
    if not executions:
        return ()
    if services.live_output is None:
        raise RefusedError("no_live_output", "this server has no broker to hear running commands by")
    scope = scope_of(services, caller)
    if hidden := [task_id for task_id, hostname in executions if not scope.shows_output(hostname)]:
        raise no_task(hidden[0], None)
    tasks = services.task_queries.seen_by(scope)
    return [await find_execution(services, scope, tasks, None, *execution) for execution in executions]
