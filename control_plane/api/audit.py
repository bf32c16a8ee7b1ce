"""The audit trail: lists from its read table, the body of one event from the log."""

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import Depends, Path, Query

from control_plane.api.fields import (
    MAX_SEQ,
    Answer,
    Cursor,
    FromTime,
    Items,
    Limit,
    Listing,
    Name,
    Seq,
    TaskId,
    Time,
    ToTime,
    Word,
    at,
    time_of,
    wait_for_seq,
)
from control_plane.api.past import OfAudit
from control_plane.api.routing import needs, noun
from control_plane.api.seen import shows
from control_plane.api.services import Given, Seen, Services
from control_plane.commands.secrets import masked_event
from control_plane.errors import NotFoundError
from control_plane.events.envelope import EVENT, LogName, StoredEvent
from control_plane.projections.moments import micros_of
from control_plane.projections.queries.audit import AuditFilter, AuditQueries, AuditRow
from control_plane.projections.queries.pages import cursor_of, parse_cursor
from control_plane.projections.queries.scopes import Scope
from control_plane_wire import strict_json
from control_plane_wire.errors import MalformedMessageError
from control_plane_wire.signing import encode_base64

PROJECTION: Final = "audit"
TASKS: Final = "tasks"
KIND: Final = r"^[a-z_]{1,32}(\.[a-z_]{1,32})?$"

router = noun("/events", "audit", permission="events.read")
proofs = noun("/audit", "audit", permission="events.read")

Log = Annotated[LogName, Query(description="which of the two logs")]


class AuditEvent(Answer):
    """Attributes: `outcome`: the terminal state that it says of an execution, if it says one."""

    seq: int
    recorded_at: Time
    kind: str
    actor: str | None
    task_id: str | None
    hostname: str | None
    outcome: str | None


class WholeEvent(AuditEvent):
    """An event as it is stored.

    Attributes:
        occurred_at: by the sender's clock.
        body: decoded, null where it is no JSON; of the secrets of a task it has the names.
        body_base64: the exact bytes, which the signature covers; null where sealed secrets are among them. The event's
            proof and the export have those.
        signature: base64 of whoever vouches for it, by the key `key_id`.
    """

    occurred_at: Time | None
    schema_v: int
    body: dict[str, Any] | None
    body_base64: str | None
    signature: str | None
    key_id: str | None


class Witnesses(Answer):
    """Hosts that have brought a checkpoint back to the process that answers, since its start.

    A host is told the newest one as it comes online and once an hour, so few have the very newest.

    Attributes:
        hosts: how many have brought one back that fits the log; `newest`: how many this newest one.
        size: how many events the largest covers that one of them has brought back.
    """

    hosts: int
    newest: int
    size: int


class SignedCheckpoint(Answer):
    """The newest checkpoint of a log.

    Attributes:
        root: base64 of the tree's root over the first `size` events.
        note: the signed text, as C2SP's tlog-checkpoint.
        consistency: base64 of the hashes that prove that it has grown from the tree over `since` events.
        witnesses: null where the process that answers has heard of none: only the one that signs hears them. Hosts keep
            the checkpoint of the log of events alone.
    """

    origin: str
    size: int
    root: str
    recorded_at: Time
    note: str
    consistency: list[str] | None = None
    witnesses: Witnesses | None = None


class Damage(Answer):
    """A place where a log is not what was recorded or signed.

    Attributes:
        seq: the event that is missing, or where else it was found not to fit.
        detail: what is wrong there.
    """

    log: str
    seq: int
    detail: str


class EventProof(Answer):
    """That an event is in the tree of a checkpoint.

    Attributes:
        leaf: base64 of the event's leaf hash; `hashes`: of the inclusion proof, nearest first.
        note: the checkpoint that they lead to.
        proof: all of it with the whole event, as C2SP's tlog-proof: what `control-plane audit check` verifies.
    """

    seq: int
    leaf: str
    hashes: list[str]
    note: str
    proof: str


def event_of(row: AuditRow) -> AuditEvent:
    return AuditEvent(
        seq=row.seq,
        recorded_at=at(row.recorded_us),
        kind=row.kind,
        actor=row.actor,
        task_id=row.task_id,
        hostname=row.hostname,
        outcome=row.outcome,
    )


def whole_event_of(stored: StoredEvent, outcome: str | None, *, exact: bool = False) -> WholeEvent:
    """The event with its secrets masked; `exact`: with what the log has of them, as a signature is checked on."""
    decoded = _decoded(stored.body)
    shown = decoded if decoded is None or exact else masked_event(decoded)
    return WholeEvent(
        seq=stored.seq,
        recorded_at=at(stored.recorded_us),
        kind=stored.kind,
        actor=stored.actor,
        task_id=stored.task_id,
        hostname=stored.hostname,
        outcome=outcome,
        occurred_at=time_of(stored.occurred_us),
        schema_v=stored.schema_v,
        body=shown,
        body_base64=base64.b64encode(stored.body).decode() if shown is decoded else None,
        signature=None if stored.signature is None else encode_base64(stored.signature),
        key_id=stored.key_id,
    )


def _decoded(body: bytes) -> dict[str, Any] | None:
    try:
        return strict_json.parse(body, max_bytes=len(body))
    except MalformedMessageError:
        return None


async def _wanted(
    kind: Annotated[str | None, Query(pattern=KIND, description="task.accepted, or a family such as task")] = None,
    task_id: Annotated[TaskId | None, Query()] = None,
    hostname: Annotated[Name | None, Query()] = None,
    actor: Word = None,
    from_: FromTime = None,
    to: ToTime = None,
) -> AuditFilter:
    return AuditFilter(
        kind=kind,
        task_id=task_id,
        hostname=hostname,
        actor=actor,
        from_us=micros_of(from_) if from_ else None,
        to_us=micros_of(to) if to else None,
    )


Wanted = Annotated[AuditFilter, Depends(_wanted)]
After = Annotated[int, Query(ge=0, le=MAX_SEQ, description="oldest first, from after this seq")]


@router.get("")
async def list_events(
    services: Given,
    scope: Seen,
    then: OfAudit,
    wanted: Wanted,
    after: After | None = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Listing[AuditEvent]:
    """Newest first, or with `after` oldest first; those that the caller may see."""
    as_of = await services.audit_queries.as_of() if then is None else then.positions
    if then is not None:
        wanted = replace(wanted, upto=then.positions.event)
    place = None if cursor is None else parse_cursor(cursor, int)
    trail = await trail_of(services, scope, as_of.event)
    if after is None:
        rows = await trail.newest(wanted, before=place, limit=limit + 1)
    else:
        rows = await trail.after(wanted, after if place is None else place, limit=limit + 1)
    return Listing(
        items=[event_of(row) for row in rows[:limit]],
        next_cursor=cursor_of(rows[limit - 1].seq) if len(rows) > limit else None,
        as_of=str(as_of),
    )


async def trail_of(services: Services, scope: Scope, seq: int) -> AuditQueries:
    """The trail as somebody may see it, which up to an event depends on the tasks that were accepted until then."""
    if scope.tasks is not None:
        await wait_for_seq(services, TASKS, seq)
    return services.audit_queries.seen_by(scope)


@router.get("/{seq}")
async def get_event(
    services: Given, scope: Seen, seq: Annotated[int, Path(ge=1, le=MAX_SEQ)], min_seq: Seq | None = None
) -> WholeEvent:
    """One event with the exact bytes that the log has."""
    await wait_for_seq(services, PROJECTION, min_seq)
    stored = await services.log.read_one(EVENT, seq)
    if stored is None or not await shows(services, scope, stored):
        raise NotFoundError("unknown_event", f"there is no event {seq}")
    rows = await services.audit_queries.after(AuditFilter(), seq - 1, limit=1)
    outcome = rows[0].outcome if rows and rows[0].seq == seq else None
    return whole_event_of(stored, outcome)


@proofs.get("/checkpoint")
async def get_checkpoint(
    services: Given,
    then: OfAudit,
    log: Log = EVENT,
    since: Annotated[int | None, Query(ge=0, le=MAX_SEQ, description="prove that it has grown from this size")] = None,
) -> SignedCheckpoint:
    """The newest signed checkpoint; whoever keeps an older one can see that nothing before it has changed.

    With `at` the newest one that covers nothing later than that moment.
    """
    if then is None:
        signed = await services.checkpoints.newest(log)
    else:
        upto = then.positions.event if log == EVENT else then.positions.heartbeat
        signed = await services.checkpoints.newest(log, upto=upto)
    if signed is None:
        raise NotFoundError("no_checkpoint", "nothing is signed yet")
    hashes = None if since is None else await services.checkpoints.consistency(log, since, signed)
    return SignedCheckpoint(
        origin=signed.checkpoint.origin,
        size=signed.size,
        root=encode_base64(signed.root),
        recorded_at=at(signed.recorded_us),
        note=signed.note,
        consistency=None if hashes is None else [encode_base64(hash_) for hash_ in hashes],
        witnesses=_witnesses(services.here.witnesses, signed.size) if log == EVENT and then is None else None,
    )


def _witnesses(kept: Mapping[str, int], newest: int) -> Witnesses | None:
    sizes = list(kept.values())
    if not sizes:
        return None
    return Witnesses(hosts=len(sizes), newest=sum(size >= newest for size in sizes), size=max(sizes))


@proofs.get("/damage")
async def list_damage(services: Given, min_seq: Seq | None = None) -> Items[Damage]:
    """Where the process that answers has found the logs damaged, by what it has read and signed; gone once mended.

    It looks for none: `control-plane audit verify` does.
    """
    await wait_for_seq(services, PROJECTION, min_seq)
    found = await services.here.damages()
    return Items(items=[Damage(log=error.log, seq=error.seq, detail=str(error)) for error in found])


@proofs.get("/proof/{seq}", dependencies=needs("audit.prove"))
async def get_proof(
    services: Given,
    scope: Seen,
    seq: Annotated[int, Path(ge=1, le=MAX_SEQ)],
    log: Log = EVENT,
    min_seq: Seq | None = None,
) -> EventProof:
    """That one event is in the log, and has been since its checkpoint was signed. It has the whole event."""
    await wait_for_seq(services, PROJECTION, min_seq)
    if not scope.is_everything:
        stored = await services.log.read_one(log, seq)
        if stored is None or not await shows(services, scope, stored):
            raise NotFoundError("unknown_event", f"there is no event {seq}")
    proof = await services.checkpoints.prove(log, seq)
    return EventProof(
        seq=seq,
        leaf=encode_base64(proof.leaf),
        hashes=[encode_base64(hash_) for hash_ in proof.hashes],
        note=proof.note,
        proof=proof.to_text(),
    )
