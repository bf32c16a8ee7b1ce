"""Events as a file of any length: read, encoded and sent a few at a time."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Final, Literal

from fastapi import Header, Query
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Send

from control_plane.api.audit import After, Wanted, WholeEvent, trail_of, whole_event_of
from control_plane.api.past import OfAudit
from control_plane.api.routing import needs, noun
from control_plane.api.services import Caller, Given, Services, scope_of
from control_plane.commands.access import Principal
from control_plane.errors import LogDamagedError, NotSignedInError
from control_plane.events.envelope import EVENT, StoredEvent
from control_plane.projections.queries.audit import AuditFilter, AuditRow

PAGE: Final = 500  # lines of the trail that are looked up at once
RUN: Final = 64  # whole events, each of which may have the output of a command
SEND_S: Final = 30.0  # a reader that takes nothing for so long is gone
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run

Format = Literal["ndjson", "csv"]
MEDIA_TYPES: Final = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
Whole = tuple[StoredEvent, str | None]  # with the outcome that the trail has of it

router = noun("/events", "audit", permission="events.export")


class Export(StreamingResponse):
    """A file. Where the database fails on the way, or its reader is let in no more, it breaks off.

    So nobody takes the beginning for all of it.
    """

    def __init__(
        self, services: Services, caller: Principal, wanted: AuditFilter, *, after: int, upto: int, format_: Format
    ) -> None:
        super().__init__(
            _encoded(_events(services, caller, wanted, after, upto), format_),
            headers={"content-disposition": f'attachment; filename="events.{format_}"'},
            media_type=MEDIA_TYPES[format_],
        )

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(SEND_S):
                await send(message)

        await super().stream_response(send_in_time)


@router.get(
    "/export",
    response_class=Response,
    responses={200: {"content": {"application/x-ndjson": {}, "text/csv": {}}}},
    dependencies=needs("events.read"),
)
async def export_events(
    services: Given,
    caller: Caller,
    then: OfAudit,
    wanted: Wanted,
    after: After = 0,
    format_: Annotated[Format | None, Query(alias="format", description="else by Accept, else ndjson")] = None,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """All that match up to now, or up to the moment `at`, and that the caller may see, whole and oldest first.

    In CSV a cell that a spreadsheet would run begins with '.
    """
    positions = await services.audit_queries.as_of() if then is None else then.positions
    upto = positions.event
    await trail_of(services, scope_of(services, caller), upto)
    by_accept: Format = "csv" if "text/csv" in accept else "ndjson"
    return Export(services, caller, wanted, after=after, upto=upto, format_=format_ or by_accept)


async def _events(
    services: Services, caller: Principal, wanted: AuditFilter, after: int, upto: int
) -> AsyncIterator[list[Whole]]:
    """The events that are wanted, oldest first, as the log has them."""
    while after < upto:
        _check_still_valid(services, caller)
        scope = scope_of(services, caller)  # it may take long, and who may see what changes meanwhile
        rows = await services.audit_queries.seen_by(scope).after(wanted, after, limit=PAGE)
        for run in _runs([row for row in rows if row.seq <= upto]):
            left = run
            while left:
                _check_still_valid(services, caller)
                stored = await services.log.read(EVENT, after=left[0].seq - 1, limit=len(left), upto=left[-1].seq)
                if not stored:
                    raise LogDamagedError(EVENT, left[0].seq)
                whole = zip(stored, left, strict=False)
                yield [(event, row.outcome) for event, row in whole if scope.shows_body(event)]
                left = left[len(stored) :]
        after = rows[-1].seq if len(rows) == PAGE else upto


def _check_still_valid(services: Services, caller: Principal) -> None:
    """An export may take long. Raises NotSignedInError where its reader is let in no more; then it breaks off."""
    if not services.access.still_valid(caller):
        raise NotSignedInError


def _runs(rows: Sequence[AuditRow]) -> Iterator[Sequence[AuditRow]]:
    """Rows that follow each other in the log, since those can be read from there together."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end].seq != rows[end - 1].seq + 1 or end - start == RUN:
            yield rows[start:end]
            start = end


async def _encoded(events: AsyncIterator[list[Whole]], format_: Format) -> AsyncIterator[bytes]:
    if format_ == "csv":
        yield _csv([list(WholeEvent.model_fields)])
    async for some in events:
        yield await asyncio.to_thread(_rows if format_ == "csv" else _lines, some)


def _lines(events: Sequence[Whole]) -> bytes:
    return b"".join(whole_event_of(*event, exact=True).model_dump_json().encode() + b"\n" for event in events)


def _rows(events: Sequence[Whole]) -> bytes:
    rows = []
    for stored, outcome in events:
        whole = whole_event_of(stored, outcome, exact=True)
        body = None if whole.body is None else stored.body.decode()
        rows.append([_cell(value) for value in {**dict(whole), "body": body}.values()])
    return _csv(rows)


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
