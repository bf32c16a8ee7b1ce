"""How far each read table has come."""

from control_plane.api.fields import Answer, Items, Seq, wait_for_seq
from control_plane.api.routing import noun
from control_plane.api.services import Given
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.queries.projections import ProjectionState

router = noun("/projections", "system", permission="projections.read")


class Projection(Answer):
    """Attributes: `position`, `head`: opaque; `parked`: events set aside; `owner`: the process that folds it."""

    name: str
    version: int
    position: str
    head: str
    lag_events: int
    lag_seconds: float
    state: str
    parked: int
    owner: str | None


def projection_of(state: ProjectionState) -> Projection:
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
    )


@router.get("")
async def list_projections(services: Given, min_seq: Seq | None = None) -> Items[Projection]:
    """All of them; with `min_seq` once every one has come so far."""
    for projection in PROJECTIONS:
        await wait_for_seq(services, projection.name, min_seq)
    return Items(items=[projection_of(state) for state in await services.projection_queries.states()])
