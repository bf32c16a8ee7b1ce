"""The live read tables, made once: SQLAlchemy finds what it has compiled again by the tables it was compiled for."""

from typing import Final

from control_plane.projections.audit import AuditProjection
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.tasks import TasksProjection

HOSTS: Final = HostsProjection()
TASKS: Final = TasksProjection()
AUDIT: Final = AuditProjection()
