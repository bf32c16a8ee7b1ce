"""Nothing reads for a caller past the scope: what the API asks of the queries and of the log is listed here.

A caller's readers of hosts, tasks and events are made with a scope in one place each. What is read for all, and then
filtered or decided on, stands below with the reason; anything else that appears in `api/` is not allowed for.
"""

import ast
from pathlib import Path
from typing import Final

from control_plane.projections.queries.past import Past
from control_plane.projections.queries.past_hosts import PastHosts
from control_plane.projections.queries.past_tasks import PastTasks
from control_plane.projections.queries.scopes import Scope

API: Final = Path(__file__).parents[2] / "control_plane" / "api"
NONE: Final = Scope(hosts=frozenset(), tasks=frozenset(), outputs=frozenset(), events=frozenset())

# By file: which method of which source it calls.
WITH_A_SCOPE: Final = {
    ("past.py", "host_queries.seen_by"),
    ("past.py", "task_queries.seen_by"),
    ("past.py", "past.hosts"),
    ("past.py", "past.tasks"),
    ("audit.py", "audit_queries.seen_by"),
    ("exports.py", "audit_queries.seen_by"),
    ("stream.py", "task_queries.seen_by"),
    ("tasks.py", "task_queries.seen_by"),
    ("seen.py", "task_queries.whole"),
}
FOR_ALL: Final = {
    # for all readers of the stream, each of whom is given what `seen.rows_within` lets pass
    ("changes.py", "host_queries.changed"),
    ("changes.py", "host_queries.usage_changed"),
    ("changes.py", "task_queries.changed"),
    ("changes.py", "task_queries.executions_changed"),
    ("changes.py", "audit_queries.after"),
    # whose output somebody was let see who asked for it
    ("live.py", "task_queries.ended"),
    # the hosts of a preview, which is made of those that the caller may read about
    ("targets.py", "host_queries.by_name"),
    # an event of which `seen.shows` has been asked, or will be
    ("audit.py", "log.read_one"),
    # how long the log is, to wait for the read tables
    ("approvals.py", "log.head"),
    ("audit.py", "audit_queries.after"),
    ("exports.py", "log.read"),
    # the output of an execution that was found with a scope
    ("executions.py", "log.read_one"),
    # a task that the caller has just sent; whether there is a task, which is told only to whoever sees all
    ("tasks.py", "log.read_one"),
    ("tasks.py", "log.find"),
    # positions and moments, which are of no host
    ("audit.py", "audit_queries.as_of"),
    ("exports.py", "audit_queries.as_of"),
    ("executions.py", "task_queries.as_of"),
    ("system.py", "audit_queries.as_of"),
    ("past.py", "past.moment"),
    ("health.py", "log.head"),
    ("live.py", "log.head"),
    ("tasks.py", "log.head"),
}
SOURCES: Final = ("host_queries", "task_queries", "audit_queries", "past", "log")


def calls(path: Path) -> set[tuple[str, str]]:
    """What a file asks of a source, also under another name that it gives it."""
    tree = ast.parse(path.read_text())
    named = {
        ast.unparse(node.targets[0]): node.value.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr in SOURCES
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            source = named.get(owner, owner.rpartition(".")[2])
            if source in SOURCES and (owner in named or "services" in owner):
                found.add((path.name, f"{source}.{node.attr}"))
    return found


def test_the_api_reads_nothing_but_what_is_allowed_for() -> None:
    found = set().union(*(calls(path) for path in API.glob("*.py")))

    assert found == WITH_A_SCOPE | FOR_ALL


def test_the_check_finds_a_query_that_forgets_the_scope(tmp_path: Path) -> None:
    planted = tmp_path / "hosts.py"
    planted.write_text(
        "async def one(services):\n"
        "    queries = services.task_queries\n"
        "    await services.host_queries.one('web1')\n"
        "    return await queries.one('t1')\n"
    )

    assert calls(planted) == {("hosts.py", "host_queries.one"), ("hosts.py", "task_queries.one")}


def test_the_past_is_not_read_without_a_scope() -> None:
    for reading in (Past.hosts, Past.tasks, PastHosts.__init__, PastTasks.__init__):
        names = reading.__code__.co_varnames[: reading.__code__.co_argcount]
        assert {"scope", "names"} & set(names)
        assert not reading.__defaults__
