"""All projections."""

from typing import Final

from control_plane.projections.audit import AuditProjection
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.projection import Projection
from control_plane.projections.tasks import TasksProjection

PROJECTIONS: Final[tuple[type[Projection], ...]] = (HostsProjection, TasksProjection, AuditProjection)
