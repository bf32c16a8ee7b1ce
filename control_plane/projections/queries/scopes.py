"""What somebody may be shown: of which hosts, and of which tasks. Who asks for everything asks as if there were none.

A task is shown to whoever may see all of its hosts, so that nothing of it has to be left out; its part on a host to
whoever may see that host. An event is shown as the host that it is of, or else as the task, to whoever may see any
events; what is of neither, such as users and rules, only to whoever may see the events of all hosts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import ColumnElement, FromClause, Table, and_, bindparam, false, not_, or_, select
from sqlalchemy.engine import Dialect

from control_plane.events import registry
from control_plane.events.approvals import ApprovalRequested
from control_plane.events.envelope import StoredEvent
from control_plane.events.tasks import ExecutionFinished, ExecutionLateResult, TaskAccepted, hosts_named
from control_plane.storage.tables import Identifier

Names: TypeAlias = frozenset[str] | None
"""Hostnames; None: every host that there is, now and later."""

WITH_OUTPUT: Final = frozenset({ExecutionFinished.KIND, ExecutionLateResult.KIND})
WITH_REQUEST: Final = frozenset({TaskAccepted.KIND, ApprovalRequested.KIND})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Of which hosts somebody may see what.

    Attributes:
        hosts: what they are, and how they are.
        tasks: what was asked of them, and what became of it.
        outputs: what was printed there.
        events: what the log has of them.
    """

    hosts: Names
    tasks: Names
    outputs: Names
    events: Names

    @property
    def is_everything(self) -> bool:
        return self.hosts is self.tasks is self.outputs is self.events is None

    @property
    def has_events(self) -> bool:
        """Whether events may be shown at all: those of a task to nobody who may read the events of no host."""
        return self.events is None or bool(self.events)

    def lacks(self, other: "Scope") -> bool:
        """Whether something that is in the other one is not in this."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__slots__)
        return any(mine is not None and mine is not its and (its is None or not its <= mine) for mine, its in pairs)

    def shows_output(self, hostname: str) -> bool:
        return is_in(hostname, self.tasks) and is_in(hostname, self.outputs)

    def shows_body(self, stored: StoredEvent) -> bool:
        """Whether the body of an event that may be shown may be, too: it may have an output, or name more hosts."""
        if stored.kind in WITH_OUTPUT:
            return is_in(stored.hostname or "", self.outputs)
        if stored.kind not in WITH_REQUEST or self.tasks is None:
            return True
        event = registry.decode(stored)
        return isinstance(event, TaskAccepted | ApprovalRequested) and self.tasks.issuperset(
            (*event.hosts, *hosts_named(event.request))  # an approval's need not be those of the task in the end
        )


EVERYTHING: Final = Scope(hosts=None, tasks=None, outputs=None, events=None)


def is_in(hostname: str, names: Names) -> bool:
    return names is None or hostname in names


def both(some: Names, others: Names) -> Names:
    if some is None or others is None:
        return others if some is None else some
    return some & others


class _Name(Identifier):
    """As part of the statement's text: of bound values SQLite takes 32,766, and there may be more hosts than that."""

    cache_ok = True

    def literal_processor(self, dialect: Dialect) -> Callable[[str], str]:
        return lambda name: f"x'{name.encode().hex()}'"


def _among(column: ColumnElement[Any], names: frozenset[str]) -> ColumnElement[bool]:
    return column.in_(bindparam(None, sorted(names), _Name(), expanding=True, literal_execute=True, unique=True))


def of_hosts(column: ColumnElement[Any], names: Names) -> Iterator[ColumnElement[bool]]:
    """The condition that a hostname is among these, where that is one."""
    if names is not None:
        yield _among(column, names)


def of_whole_tasks(task_id: ColumnElement[Any], execution: Table, names: Names) -> Iterator[ColumnElement[bool]]:
    """The condition that all hosts of a task are among these; a task without any is none of anybody's."""
    if names is not None:
        e, other = execution.alias(), execution.alias()
        yield select(e.c.task_id).where(e.c.task_id == task_id).exists()
        outside = select(other.c.task_id).where(other.c.task_id == task_id, not_(_among(other.c.hostname, names)))
        yield ~outside.exists()


def of_events(audit: FromClause, execution: Table, scope: Scope) -> Iterator[ColumnElement[bool]]:
    """The condition that an event may be shown."""
    if scope.events is None and scope.tasks is None:
        return
    if not scope.has_events:
        yield false()
        return
    hostname, task_id = audit.c.hostname, audit.c.task_id
    of_host = and_(hostname.is_not(None), *of_hosts(hostname, scope.events))
    of_task = and_(hostname.is_(None), task_id.is_not(None), *of_whole_tasks(task_id, execution, scope.tasks))
    of_neither = [and_(hostname.is_(None), task_id.is_(None))] if scope.events is None else []
    yield or_(of_host, of_task, *of_neither)
