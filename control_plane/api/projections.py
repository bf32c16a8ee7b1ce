"""How far each read table has come."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Path

from control_plane.api.fields import Answer, Items, Time, at
from control_plane.api.past import OfAll
from control_plane.api.routing import noun
from control_plane.api.services import Caller, Given
from control_plane.projections.queries.projections import ProjectionState
from control_plane.projections.rebuilder import Verified

router = noun("/projections", "system", permission="projections.read")


class Verification(Answer):
    """What a rebuild found, which folds all events anew and compares that with what was shown.

    Attributes:
        at: when it ended.
        rows: in the tables that were folded anew; `differed`: those that were not the same.
        failure: why it came to no end; then nothing was compared. Null where it did.
    """

    at: Time
    rows: int
    differed: Sequence[str]
    failure: str | None


class Projection(Answer):
    """How one read table stands.

    Attributes:
        position, head: opaque.
        state: missing, stopped, catching up, or live; replayed, with `at`.
        parked: events set aside.
        owner: the process that folds it.
        rebuilt_events: how many a rebuild has folded, which is under way or was stopped; null: there is none.
        has_old: whether the tables from before the last rebuild can be put back.
        verified: by the last rebuild that was asked of the process that answers; null: there was none since its start.
    """

    name: str
    version: int
    position: str
    head: str
    lag_events: int
    lag_seconds: float
    state: str
    parked: int
    owner: str | None
    rebuilt_events: int | None
    has_old: bool
    verified: Verification | None = None


class RebuildAnswer(Answer):
    name: str


def verification_of(found: Verified | None) -> Verification | None:
    if found is None:
        return None
    return Verification(at=at(found.at_us), rows=found.rows, differed=found.differed, failure=found.failure)


def projection_of(state: ProjectionState, verified: Verified | None) -> Projection:
    return Projection(
        name=state.name,
        version=state.version,
        position=str(state.position),
        head=str(state.head),
        lag_events=state.lag_events,
        lag_seconds=state.lag_us / 1_000_000,
        state=state.state,
        parked=state.parked,
        owner=state.owner,
        rebuilt_events=state.rebuilt_events,
        has_old=state.has_old,
        verified=verification_of(verified),
    )


@router.get("")
async def list_projections(services: Given, then: OfAll) -> Items[Projection]:
    """All of them; with `min_seq` once every one has come so far."""
    queries = services.projection_queries
    if then is not None:
        return Items(items=[projection_of(state, None) for state in await queries.states_at(then)])
    return Items(items=[projection_of(state, services.here.verified(state.name)) for state in await queries.states()])


@router.post("/{name}/rebuild", status_code=202)
async def rebuild_projection(
    services: Given, caller: Caller, name: Annotated[str, Path(min_length=1, max_length=64)]
) -> RebuildAnswer:
    """Fold it from zero beside the live tables, which go on, and put the new ones in place; the list tells how far."""
    await services.projections.rebuild(caller, name)
    return RebuildAnswer(name=name)
