"""All projections."""

from typing import Final

from control_plane.errors import NotFoundError
from control_plane.projections.audit import AuditProjection
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.projection import Projection
from control_plane.projections.tasks import TasksProjection

PROJECTIONS: Final[tuple[type[Projection], ...]] = (HostsProjection, TasksProjection, AuditProjection)


def projection_named(name: str) -> type[Projection]:
    """Raises NotFoundError `unknown_projection`, which names those that there are."""
    for projection in PROJECTIONS:
        if projection.name == name:
            return projection
    names = ", ".join(projection.name for projection in PROJECTIONS)
    raise NotFoundError("unknown_projection", f"there is no projection {name}; there are {names}")
