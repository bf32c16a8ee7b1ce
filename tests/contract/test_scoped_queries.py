"""What is read with a scope, on every database: what is read without one, less what is out of it; as of then alike."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, StoredEvent
from control_plane.host_query import parse
from control_plane.projections.audit import AuditProjection
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.positions import Positions
from control_plane.projections.queries.audit import AuditFilter, AuditQueries
from control_plane.projections.queries.host_filters import HostFilter
from control_plane.projections.queries.hosts import HostQueries, HostReader
from control_plane.projections.queries.past import Past
from control_plane.projections.queries.scopes import EVERYTHING, Names, Scope, both, is_in
from control_plane.projections.queries.tasks import TaskFilter, TaskQueries, TaskReader
from control_plane.projections.tasks import TasksProjection
from control_plane_wire.clock import SystemClock
from tests.contract.test_past import HOSTS, NOW_US, TASKS, Life, all_of
from tests.contract.test_projections import Shop, a_shop
from tests.support.database import migrated, sqlite_url
from tests.support.events import a_task_accepted
from tests.support.fleet import a_registration

NOTHING: Final = frozenset[str]()
MANY: Final = frozenset(f"host{number:05}" for number in range(40_000))  # SQLite binds 32,766 values at most
ALL: Final = (HostsProjection, TasksProjection, AuditProjection)


def a_scope(names: Names, **others: Names) -> Scope:
    return Scope(**{**dict.fromkeys(("hosts", "tasks", "outputs", "events"), names), **others})


SCOPES: Final = (
    a_scope(NOTHING),
    a_scope(frozenset({"web1"})),
    a_scope(frozenset({"db1", "web1", "web2", "gone"})),
    a_scope(frozenset(HOSTS) - {"db2"}),
    a_scope(frozenset(HOSTS)),
    a_scope(None, outputs=frozenset({"web1", "db1"})),
    a_scope(None, events=frozenset({"web1", "db1"})),
    a_scope(None, tasks=frozenset(HOSTS) - {"db1"}),
    a_scope(frozenset(HOSTS) - {"db1"}, tasks=NOTHING),
)


class ScopedContract:
    @pytest.fixture
    async def shop(self, url: str) -> AsyncIterator[Shop]:
        async with migrated(url), a_shop(url, "one") as shop:
            yield shop

    async def lived(self, shop: Shop, seed: int) -> list[StoredEvent]:
        """A random history, folded; its events."""
        for event in Life(seed).events():
            await shop.append(event.to_new_event())
        await shop.project(*ALL)
        return await shop.log.read(EVENT, after=0, limit=1000)

    @pytest.mark.parametrize("seed", range(2))
    async def test_a_reader_has_what_is_in_its_scope_and_all_of_that(self, shop: Shop, seed: int) -> None:
        await self.lived(shop, seed)
        hosts, tasks = HostQueries(shop.database), TaskQueries(shop.database)
        every_host = (await hosts.page(HostFilter(state=ANY), cursor=None, limit=100)).items
        every_task = (await tasks.page(TaskFilter(), cursor=None, limit=100)).items
        parts = {
            task_id: (await tasks.executions(task_id, states=(), cursor=None, limit=100)).items for task_id in TASKS
        }

        for scope in SCOPES:
            seen_hosts, seen_tasks = hosts.seen_by(scope), tasks.seen_by(scope)
            page = await seen_hosts.page(HostFilter(state=ANY), cursor=None, limit=100)
            expected = [host for host in every_host if is_in(host.hostname, scope.hosts)]
            assert (page.items, page.counts) == (expected, Counter(host.state for host in expected))
            listed = await seen_tasks.page(TaskFilter(), cursor=None, limit=100)
            in_scope = {
                task_id for task_id in TASKS if all(is_in(part.hostname, scope.tasks) for part in parts[task_id])
            }
            whole = [task for task in every_task if task.task_id in in_scope]
            assert (listed.items, listed.counts) == (whole, Counter(task.state for task in whole))
            assert await tasks.whole(TASKS, scope.tasks) == in_scope
            for task_id in TASKS:
                shown = await seen_tasks.executions(task_id, states=(), cursor=None, limit=100)
                own = [part for part in parts[task_id] if is_in(part.hostname, scope.tasks)]
                assert (shown.items, shown.counts) == (own, Counter(part.state for part in own))
                printed = both(scope.tasks, scope.outputs)
                groups = await seen_tasks.outputs(task_id)
                assert {name for group in groups for name in group.hosts} == {
                    part.hostname for part in own if is_in(part.hostname, printed)
                }
                assert (await seen_tasks.one(task_id) is None) == (task_id not in in_scope)
                assert set(await seen_tasks.retries(task_id)) <= in_scope
            await self.has_nothing_of_others(seen_hosts, seen_tasks, scope)

    async def has_nothing_of_others(self, hosts: HostReader, tasks: TaskReader, scope: Scope) -> None:
        """By every question that there is."""
        for hostname in HOSTS:
            if not is_in(hostname, scope.hosts):
                assert await hosts.one(hostname) is None
                assert await hosts.usage(hostname, from_us=0, to_us=NOW_US, points=10) == []
            if not is_in(hostname, scope.tasks):
                assert [await tasks.execution(task_id, hostname) for task_id in TASKS] == [None] * len(TASKS)
        found = await hosts.page(HostFilter(state=ANY), cursor=None, limit=100)
        groups = Counter(group for host in found.items if host.state != "retired" for group in host.groups)
        assert {group.group: group.hosts for group in await hosts.groups()} == groups

    def test_every_question_is_asked_here(self) -> None:
        """One that comes to the readers has to come into `has_nothing_of_others` and the test above, too."""
        asked = {protocol: {name for name in vars(protocol) if name[0] != "_"} for protocol in (HostReader, TaskReader)}
        assert asked == {
            HostReader: {"page", "one", "groups", "usage"},
            TaskReader: {"page", "one", "retries", "executions", "execution", "outputs"},
        }
        assert {name for name in vars(AuditQueries) if name[0] != "_"} == {
            "seen_by",
            "newest",
            "after",
            "count",
            "as_of",
        }

    async def test_what_was_is_read_with_the_scope_as_what_is(self, shop: Shop) -> None:
        life, told = list(Life(3).events()), 0
        scopes = (SCOPES[2], SCOPES[5], SCOPES[7])
        for start in range(0, len(life), 100):
            for event in life[start : start + 100]:
                await shop.append(event.to_new_event())
            await shop.project(*ALL)
            at = Positions((await shop.log.head(EVENT)).seq, (await shop.log.head(HEARTBEAT_EVENT)).seq)
            shown = [
                await all_of(HostQueries(shop.database).seen_by(scope), TaskQueries(shop.database).seen_by(scope))
                for scope in scopes
            ]
            past = Past(shop.database, shop.log, SystemClock())
            await shop.append(a_registration(f"later{start}").to_new_event())
            await shop.project(*ALL)
            moment = await past.moment(str(at))
            for scope, answers in zip(scopes, shown, strict=True):
                then = await all_of(past.hosts(moment, scope), past.tasks(moment, scope))
                assert then == answers, (at, scope)
                told += 1
        assert told == 6

    async def test_of_the_trail_there_is_what_is_of_the_hosts_and_tasks_in_scope(self, shop: Shop) -> None:
        events = await self.lived(shop, 5)
        parts = {task_id: await TaskQueries(shop.database).states(task_id) for task_id in (*TASKS, "none of anybody's")}

        def is_shown(event: StoredEvent, scope: Scope) -> bool:
            if event.hostname is not None:
                return is_in(event.hostname, scope.events)
            if event.task_id is None:
                return scope.events is None
            hosts = parts.get(event.task_id, {})
            return scope.tasks is None or (bool(hosts) and all(is_in(name, scope.tasks) for name in hosts))

        trail = AuditQueries(shop.database)
        for scope in (EVERYTHING, *SCOPES):
            expected = [event.seq for event in events if is_shown(event, scope)]
            rows = await trail.seen_by(scope).after(AuditFilter(), 0, limit=1000)
            newest = await trail.seen_by(scope).newest(AuditFilter(kind="task"), before=None, limit=1000)
            assert [row.seq for row in rows] == expected
            assert await trail.seen_by(scope).count(AuditFilter(), most=1000) == len(expected)
            assert await trail.seen_by(scope).count(AuditFilter(), most=1) == min(1, len(expected))
            of_tasks = [event.seq for event in events if event.kind.startswith("task.") and event.seq in set(expected)]
            assert [row.seq for row in newest] == of_tasks[::-1]

    async def test_a_scope_may_have_more_hosts_than_a_statement_has_parameters(self, shop: Shop) -> None:
        for name in ("host00001", "other"):
            await shop.append(a_registration(name, "web").to_new_event())
        await shop.append(a_task_accepted("ours", ("host00001",)).to_new_event())
        await shop.append(a_task_accepted("both", ("host00001", "other")).to_new_event())
        await shop.project(*ALL)
        scope = a_scope(MANY)
        hosts, tasks = HostQueries(shop.database).seen_by(scope), TaskQueries(shop.database).seen_by(scope)

        async with asyncio.timeout(60):
            page = await hosts.page(HostFilter(group="web", q=parse("host")), cursor=None, limit=10)
            listed = await tasks.page(TaskFilter(hostname="host00001"), cursor=None, limit=10)
            parts = await tasks.executions("both", states=(), cursor=None, limit=10)
            trail = await AuditQueries(shop.database).seen_by(scope).after(AuditFilter(), 0, limit=10)

        assert [host.hostname for host in page.items] == ["host00001"]
        assert [task.task_id for task in listed.items] == ["ours"]
        assert [part.hostname for part in parts.items] == ["host00001"]
        assert [row.task_id or row.hostname for row in trail] == ["host00001", "ours"]
        assert [group.hosts for group in await hosts.groups()] == [1]

    async def test_a_name_is_text_whatever_is_in_it(self, shop: Shop) -> None:
        """No host can have such a name; nor would it come to be a part of the statement."""
        await shop.append(a_registration("web1").to_new_event())
        await shop.project(HostsProjection)
        for name in ("') or 1=1 --", "x' or '1'='1", "\\", "%", "%s", ":x", "x'00'", "\0", "\u00e9"):
            queries = HostQueries(shop.database).seen_by(replace(EVERYTHING, hosts=frozenset({name})))
            assert (await queries.page(HostFilter(), cursor=None, limit=10)).items == [], name
            assert await queries.groups() == []


ANY: Final[Sequence[Any]] = ("pending", "online", "stale", "offline", "revoked", "retired")


class TestSqliteScoped(ScopedContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


@pytest.mark.mysql
class TestMysqlScoped(ScopedContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url
