"""What somebody may be shown of whole events, and of the stream's rows, which are read for all of its readers."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from control_plane.api import executions, tasks
from control_plane.api.fields import wait_for_seq
from control_plane.api.frames import HOST, TASK, Row, row
from control_plane.api.services import Services
from control_plane.events.envelope import StoredEvent
from control_plane.projections.queries.audit import AuditRow
from control_plane.projections.queries.hosts import HostView
from control_plane.projections.queries.scopes import Scope, is_in
from control_plane.projections.queries.tasks import ExecutionView, TaskView


async def shows(services: Services, scope: Scope, stored: StoredEvent) -> bool:
    """Whether somebody may be shown a whole event. Raises ReadTableBehindError where its task is not known yet."""
    if stored.hostname is not None:
        return is_in(stored.hostname, scope.events) and scope.shows_body(stored)
    if stored.task_id is None:
        return scope.events is None
    if not scope.has_events:
        return False
    if scope.tasks is None:
        return True
    await wait_for_seq(services, tasks.PROJECTION, stored.seq)
    return bool(await services.task_queries.whole([stored.task_id], scope.tasks)) and scope.shows_body(stored)


def usage_within(views: Sequence[HostView], scope: Scope) -> Sequence[HostView]:
    return views if scope.hosts is None else [view for view in views if view.hostname in scope.hosts]


async def rows_within(services: Services, rows: Sequence[Row], scope: Scope) -> Sequence[Row]:
    """What of these rows somebody may be shown. The read table of tasks has come to all of their events."""
    if scope.is_everything:
        return rows
    whole = await services.task_queries.whole(set(_tasks_in(rows)), scope.tasks)
    return [found for each in rows if (found := _within(each, scope, whole)) is not None]


def _tasks_in(rows: Iterable[Row]) -> Iterable[str]:
    """The tasks that have to be seen whole for one of these rows to be shown."""
    for each in rows:
        match each.view:
            case TaskView(task_id=task_id):
                yield task_id
            case AuditRow(task_id=str(task_id), hostname=None):
                yield task_id


def _within(found: Row, scope: Scope, whole: set[str]) -> Row | None:
    match found.view:
        case HostView(hostname=hostname):
            return found if is_in(hostname, scope.hosts) else None
        case TaskView() as task:
            if task.task_id not in whole:
                return None
            return replace(found, data=row("tasks", task.pos, tasks.task_of(task, scope)).data)
        case ExecutionView() as part:
            if not is_in(part.hostname, scope.tasks):
                return None
            topics = (TASK + part.task_id, HOST + part.hostname)
            return row("executions", part.pos, executions.execution_of(part, scope), *topics)
        case AuditRow(hostname=None, task_id=None):
            return found if scope.events is None else None
        case AuditRow(hostname=None, task_id=task_id):
            return found if scope.has_events and task_id in whole else None
        case AuditRow(hostname=str(hostname)):
            return found if is_in(hostname, scope.events) else None
    return found
