"""A task's part on each host, and what it printed: output is read from the log, by `result_seq`, in ranges."""

import asyncio
import base64
from typing import Annotated, Final, Literal

from fastapi import Query

from control_plane.api.fields import (
    Answer,
    Cursor,
    Hostname,
    Limit,
    Listing,
    TaskIdPath,
    Time,
    one_of,
    time_of,
)
from control_plane.api.past import OfTasks, Tasks
from control_plane.api.routing import noun
from control_plane.api.services import Given, Seen, Services
from control_plane.api.tasks import no_task, wait_for_task
from control_plane.errors import LogDamagedError, NotFoundError
from control_plane.events import registry
from control_plane.events.envelope import EVENT, StoredEvent
from control_plane.events.tasks import STATES, ExecutionFinished
from control_plane.projections.moments import Moment
from control_plane.projections.queries.scopes import Scope
from control_plane.projections.queries.tasks import ExecutionView, OutputGroup, TaskReader
from control_plane_wire.messages import ResultMessage

DEFAULT_RANGE_BYTES: Final = 256 * 1024
MAX_RANGE_BYTES: Final = 1024 * 1024
GROUP_BYTES: Final = 64 * 1024  # of each stream in the grouped outputs
GROUPS_WITH_TEXT: Final = 50  # the smallest ones and the largest; the others are fetched one by one
DECODE_IN_THREAD_BYTES: Final = 256 * 1024  # a larger result takes too long for the loop

Stream = Literal["stdout", "stderr"]
Encoding = Literal["utf-8", "base64"]

router = noun("/tasks/{task_id}", "tasks", permission="tasks.read")
outputs = noun("/tasks/{task_id}", "tasks", permission="tasks.output")


class Late(Answer):
    """A result that came after the control plane had said the outcome: evidence, which changes no state."""

    seq: int
    outcome: str
    exit_code: int | None


class Execution(Answer):
    """One command on one host.

    Attributes:
        started_at: by the host's clock, in whole seconds; the other times are when the control plane recorded it, so
            `finished_at` may be long after the end where the result could not be sent.
        result_seq: the event that has the output; `…_bytes`, `…_sha256`: of the whole streams.
        leftovers: how many processes outlived the command; they were ended unless the host's policy keeps them.
    """

    task_id: str
    hostname: str
    state: str
    exit_code: int | None
    reason: str | None
    queued_at: Time
    sent_at: Time | None
    accepted_at: Time | None
    started_at: Time | None
    finished_at: Time | None
    result_seq: int | None
    stdout_bytes: int | None
    stderr_bytes: int | None
    stdout_sha256: str | None
    stderr_sha256: str | None
    truncated: bool
    leftovers: int | None
    first_line: str | None
    late: Late | None
    pos: int


def execution_of(row: ExecutionView, scope: Scope) -> Execution:
    """With nothing of what it printed where that may not be seen."""
    shows_output = scope.shows_output(row.hostname)
    return Execution(
        task_id=row.task_id,
        hostname=row.hostname,
        state=row.state,
        exit_code=row.exit_code,
        reason=row.reason,
        queued_at=time_of(row.queued_us) or "",
        sent_at=time_of(row.sent_us),
        accepted_at=time_of(row.accepted_us),
        started_at=time_of(row.started_us),
        finished_at=time_of(row.finished_us),
        result_seq=row.result_seq,
        stdout_bytes=row.stdout_bytes,
        stderr_bytes=row.stderr_bytes,
        stdout_sha256=row.stdout_sha256 if shows_output else None,
        stderr_sha256=row.stderr_sha256 if shows_output else None,
        truncated=bool(row.truncated),
        leftovers=row.leftovers,
        first_line=row.first_line.decode("utf-8", "replace") if row.first_line is not None and shows_output else None,
        late=None if row.late is None else Late(**row.late),
        pos=row.pos,
    )


class Output(Answer):
    """A range of one stream.

    Attributes:
        offset: where `data` begins among the bytes that are kept; at the start of a character.
        size_bytes, sha256: of the whole stream, also where not all of it is kept.
        head_bytes: where `truncated`, so many of the kept bytes are its start, and the others its end.
        data: text, or base64 where the stream is not UTF-8.
        next_offset: where to go on, null at the end.
    """

    stream: Stream
    offset: int
    size_bytes: int
    kept_bytes: int
    head_bytes: int
    truncated: bool
    sha256: str | None
    encoding: Encoding
    data: str
    next_offset: int | None


class OutputGroupAnswer(Answer):
    """Hosts whose state, exit code and output are the same.

    Attributes:
        stdout, stderr: null where there is no result, and where there are too many groups to read them all.
        truncated: a stream goes on.
    """

    state: str
    exit_code: int | None
    stdout_sha256: str | None
    stderr_sha256: str | None
    count: int
    hosts: list[str]
    stdout: str | None
    stderr: str | None
    encoding: Encoding
    truncated: bool


class Outputs(Answer):
    groups: list[OutputGroupAnswer]
    as_of: str


@router.get("/executions")
async def list_executions(
    services: Given,
    scope: Seen,
    tasks: Tasks,
    then: OfTasks,
    task_id: TaskIdPath,
    state: Annotated[str | None, one_of(STATES), Query(description="one or several, with commas between them")] = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Listing[Execution]:
    """By hostname; of those hosts on which the caller may see it."""
    states = state.split(",") if state else ()
    page = await tasks.executions(task_id, states=states, cursor=cursor, limit=limit)
    if not page.counts:
        await wait_for_task(services, then, task_id)
        page = await tasks.executions(task_id, states=states, cursor=cursor, limit=limit)
        if not page.counts and scope.tasks is not None:
            raise no_task(task_id, then)
    return Listing(
        items=[execution_of(row, scope) for row in page.items],
        next_cursor=page.next_cursor,
        total=page.total,
        counts=page.counts,
        as_of=str(page.as_of),
    )


@router.get("/executions/{hostname}")
async def get_execution(
    services: Given, scope: Seen, tasks: Tasks, then: OfTasks, task_id: TaskIdPath, hostname: Hostname
) -> Execution:
    """A task's part on one host, without what it printed."""
    return execution_of(await find_execution(services, scope, tasks, then, task_id, hostname), scope)


async def find_execution(
    services: Services, scope: Scope, tasks: TaskReader, then: Moment | None, task_id: str, hostname: str
) -> ExecutionView:
    """The row of a task's part on a host. Raises NotFoundError where there is none that the caller may see."""
    row = await tasks.execution(task_id, hostname)
    if row is None:
        await wait_for_task(services, then, task_id)
        row = await tasks.execution(task_id, hostname)
    if row is None and scope.tasks is not None:  # nor is it told whether there is the task
        raise no_task(task_id, then)
    if row is None:
        raise NotFoundError("unknown_execution", f"there is no execution of {task_id} on {hostname}")
    return row


@outputs.get("/executions/{hostname}/output")
async def get_output(
    services: Given,
    scope: Seen,
    tasks: Tasks,
    then: OfTasks,
    task_id: TaskIdPath,
    hostname: Hostname,
    stream: Stream = "stdout",
    offset: Annotated[int, Query(ge=0, le=2**40)] = 0,
    limit: Annotated[int, Query(ge=1, le=2**40, description="bytes")] = DEFAULT_RANGE_BYTES,
) -> Output:
    """What it printed, as far as it is kept, a range at a time: of at most 1 MiB, whatever is asked for."""
    row = await find_execution(services, scope, tasks, then, task_id, hostname)
    if not scope.shows_output(hostname):
        raise no_task(task_id, then)
    if row.result_seq is None:
        raise NotFoundError("no_output", f"no result of {hostname} has come")
    kept = (await _kept(services, row.result_seq))[stream]
    start, end = kept.range(offset, min(limit, MAX_RANGE_BYTES))
    return Output(
        stream=stream,
        offset=start,
        size_bytes=kept.size_bytes,
        kept_bytes=len(kept.data),
        head_bytes=kept.head_bytes,
        truncated=kept.truncated,
        sha256=row.stdout_sha256 if stream == "stdout" else row.stderr_sha256,
        encoding=kept.encoding,
        data=kept.text(start, end),
        next_offset=end if end < len(kept.data) else None,
    )


@outputs.get("/outputs")
async def group_outputs(services: Given, scope: Seen, tasks: Tasks, then: OfTasks, task_id: TaskIdPath) -> Outputs:
    """Identical outputs, the rarest first; of those hosts whose output the caller may see."""
    as_of = await services.task_queries.as_of() if then is None else then.positions
    groups = await tasks.outputs(task_id)
    if not groups:
        await wait_for_task(services, then, task_id)
        groups = await tasks.outputs(task_id)
    if not groups and not scope.is_everything:
        raise no_task(task_id, then)
    with_text = {*range(GROUPS_WITH_TEXT - 1), len(groups) - 1}
    answers = [await _group(services, group, with_text=place in with_text) for place, group in enumerate(groups)]
    return Outputs(groups=answers, as_of=str(as_of))


async def _group(services: Services, group: OutputGroup, *, with_text: bool) -> OutputGroupAnswer:
    texts: dict[str, str | None] = {"stdout": None, "stderr": None}
    encoding: Encoding = "utf-8"
    truncated = False
    if with_text and group.result_seq is not None:
        for stream, kept in (await _kept(services, group.result_seq)).items():
            start, end = kept.range(0, GROUP_BYTES)
            texts[stream] = kept.text(start, end)
            encoding = kept.encoding
            truncated |= kept.truncated or end < len(kept.data)
    return OutputGroupAnswer(
        state=group.state,
        exit_code=group.exit_code,
        stdout_sha256=group.stdout_sha256,
        stderr_sha256=group.stderr_sha256,
        count=len(group.hosts),
        hosts=list(group.hosts),
        stdout=texts["stdout"],
        stderr=texts["stderr"],
        encoding=encoding,
        truncated=truncated,
    )


async def _kept(services: Services, seq: int) -> "dict[Stream, Kept]":
    stored = await services.log.read_one(EVENT, seq)
    if stored is None:
        raise LogDamagedError(EVENT, seq)
    if len(stored.body) > DECODE_IN_THREAD_BYTES:
        return await asyncio.to_thread(_decode, stored)
    return _decode(stored)


def _decode(stored: StoredEvent) -> "dict[Stream, Kept]":
    event = registry.decode(stored)
    if not isinstance(event, ExecutionFinished):
        raise LogDamagedError(EVENT, stored.seq)
    return {"stdout": Kept(event.result, "stdout"), "stderr": Kept(event.result, "stderr")}


class Kept:
    """The bytes of one stream that a result has kept."""

    def __init__(self, result: ResultMessage, stream: Stream) -> None:
        text = result.stdout if stream == "stdout" else result.stderr
        self.encoding: Encoding = "base64" if result.encoding == "base64" else "utf-8"
        self.data = base64.b64decode(text) if self.encoding == "base64" else text.encode()
        size, head = (
            (result.stdout_bytes, result.stdout_head_bytes)
            if stream == "stdout"
            else (result.stderr_bytes, result.stderr_head_bytes)
        )
        self.size_bytes = len(self.data) if size is None else size
        self.truncated = self.size_bytes > len(self.data)
        self.head_bytes = min(head, len(self.data)) if self.truncated and head is not None else len(self.data)

    def range(self, offset: int, limit: int) -> tuple[int, int]:
        """From where to where, cutting no character in two, and at least one character long."""
        start = self._boundary(min(offset, len(self.data)))
        end = self._boundary(min(start + limit, len(self.data)))
        while start == end < len(self.data):
            limit += 1
            end = self._boundary(min(start + limit, len(self.data)))
        return start, end

    def _boundary(self, place: int) -> int:
        """The start of the character that this place is in."""
        while self.encoding == "utf-8" and 0 < place < len(self.data) and self.data[place] & 0xC0 == 0x80:
            place -= 1
        return place

    def text(self, start: int, end: int) -> str:
        data = self.data[start:end]
        return base64.b64encode(data).decode() if self.encoding == "base64" else data.decode()
