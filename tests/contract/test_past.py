"""What is shown as of a moment, on every database: it is what was shown at that moment."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.api.fields import at
from control_plane.errors import RefusedError
from control_plane.events import hosts, rollouts, tasks
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.event import Event
from control_plane.host_query import parse
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.moments import micros_of, moment_of
from control_plane.projections.positions import Positions
from control_plane.projections.queries.host_filters import HostFilter
from control_plane.projections.queries.hosts import HostQueries, HostReader
from control_plane.projections.queries.past import Past
from control_plane.projections.queries.scopes import EVERYTHING
from control_plane.projections.queries.tasks import TaskFilter, TaskQueries, TaskReader
from control_plane.projections.tasks import TasksProjection
from control_plane_wire.clock import SystemClock
from tests.contract.test_projections import Shop, a_shop
from tests.support.database import migrated, sqlite_url
from tests.support.events import ACCEPTED, AT, HEARTBEAT, RESULT, a_task_accepted
from tests.support.fleet import a_registration
from tests.support.history import a_poisoned_event

HOSTS = ("db1", "db2", "web1", "web2", "web3")
TASKS = tuple(f"t{number}" for number in range(1, 7))
ROLLOUTS = {"t2", "t3", "t5"}
NOW_US = 2**62
GROUPS = ("db", "web", "x")


class Life:
    """A random history in which everything happens that can, also what should not: late, twice, and to strangers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.beats = dict.fromkeys(HOSTS, 0)
        self.boots = dict.fromkeys(HOSTS, 1)
        self.generations = dict.fromkeys(HOSTS, 0)
        self.number = 0

    def events(self) -> Iterator[Event]:
        for hostname in HOSTS[:4]:
            yield self._registered(hostname)
        for task_id in TASKS[:3]:
            yield self._accepted(task_id)
        for place in range(150):
            if place == 60:
                yield from (self._accepted(task_id) for task_id in TASKS[3:5])
                yield self._registered(HOSTS[4])
            yield self.random.choice((self._heartbeat, self._of_host, self._of_execution, self._of_execution))()
        yield self._accepted(TASKS[5])

    def _registered(self, hostname: str) -> Event:
        self.generations[hostname] += 1
        return a_registration(hostname, self.random.choice(GROUPS), generation=self.generations[hostname])

    def _accepted(self, task_id: str) -> Event:
        chosen = tuple(sorted(self.random.sample(HOSTS, self.random.randint(1, 5))))
        retry_of = {"t4": "t1", "t5": "t1"}.get(task_id)
        rollout: dict[str, Any] = {"rollout": {"max_concurrency": 1, "max_errors": 0}} if task_id in ROLLOUTS else {}
        task = a_task_accepted(task_id, chosen, **rollout)
        return replace(task, actor=self.random.choice(("ada", "bob")), retry_of=retry_of)

    def _heartbeat(self) -> Event:
        hostname = self.random.choice(HOSTS)
        what = self.random.random()
        if what < 0.1:
            self.boots[hostname] += 1
            self.beats[hostname] = 0
        self.beats[hostname] += -1 if 0.1 < what < 0.2 else 1
        said = {
            "hostname": hostname,
            "boot_id": f"b{self.boots[hostname]}",
            "sequence": max(1, self.beats[hostname]),
            "timestamp": AT + self.number,
            "cpu_usage": self.random.random(),
            "groups": [self.random.choice(GROUPS)],
        }
        self.number += 1
        basic = ("hostname", "status", "timestamp", "cpu_usage", "memory_usage")
        message = {**HEARTBEAT, **said}
        return hosts.HeartbeatReceived(message={name: message[name] for name in basic} if what > 0.9 else message)

    def _of_host(self) -> Event:
        hostname, self.number = self.random.choice(HOSTS), self.number + 1
        changed = {"hostname": hostname, "based_on": self.number}
        presence = {
            "hostname": hostname,
            "heartbeat_seq": self.number,
            "heartbeat": {**HEARTBEAT, "hostname": hostname},
            "cause": f"cause {self.number}",
        }
        return self.random.choice(
            (
                lambda: hosts.HostGroupsChanged(**changed, groups=tuple(self.random.sample(GROUPS, 2))),
                lambda: hosts.HostLabelsChanged(**changed, labels={"n": str(self.number)}),
                lambda: hosts.HostMaintenanceChanged(**changed, maintenance=self.random.random() < 0.5),
                lambda: hosts.HostWentOnline(**presence),
                lambda: hosts.HostWentOnline(**presence),
                lambda: hosts.HostWentStale(**presence),
                lambda: hosts.HostWentOffline(**presence),
                lambda: self._retired_or_not(changed),
            )
        )()

    def _retired_or_not(self, changed: dict[str, Any]) -> Event:
        what = self.random.random()
        if what < 0.3:
            return hosts.HostRevoked(**changed, reason="stolen")
        return hosts.HostRetired(**changed) if what < 0.6 else self._registered(changed["hostname"])

    def _of_execution(self) -> Event:
        task_id, hostname, self.number = self.random.choice(TASKS), self.random.choice(HOSTS), self.number + 1
        one = {"task_id": task_id, "hostname": hostname}
        message = {**RESULT, "task_id": task_id, "exit_code": self.random.randint(0, 1)}
        accepted = {**ACCEPTED, "task_id": task_id}
        return self.random.choice(
            (
                lambda: tasks.ExecutionSent(**one, route="cmd.all"),
                lambda: tasks.ExecutionReturned(**one, trigger_seq=self.number),
                lambda: tasks.ExecutionUnconfirmed(**one),
                lambda: tasks.ExecutionAccepted(hostname=hostname, message=accepted),
                lambda: tasks.ExecutionStarted(hostname=hostname, message={**accepted, "started_at": AT}),
                lambda: tasks.ExecutionFinished(hostname=hostname, message=message),
                lambda: tasks.ExecutionLateResult(hostname=hostname, message=message),
                lambda: tasks.ExecutionLost(**one, reason="no word"),
                lambda: tasks.ExecutionCancelled(**one, reason="not sent"),
                lambda: self._turn(task_id),
                lambda: rollouts.ExecutionReleased(**one),
                lambda: rollouts.ExecutionReleased(**one),
            )
        )()

    def _turn(self, task_id: str) -> Event:
        turn = {"task_id": task_id, "actor": "ada", "based_on": self.number}
        return self.random.choice(
            (
                lambda: tasks.TaskCancelRequested(task_id=task_id, actor="ada"),
                lambda: rollouts.TaskPaused(**turn),
                lambda: rollouts.TaskPaused(**turn, awaits="approval"),
                lambda: rollouts.TaskResumed(**turn),
                lambda: rollouts.TaskResumed(**turn),
                lambda: rollouts.TaskApproved(task_id=task_id, actor="ada"),
                lambda: rollouts.TaskRolloutStopped(task_id=task_id, failed=1, targets=5, max_errors=0),
            )
        )()


HOST_FILTERS = (
    HostFilter(),
    HostFilter(state=("online",)),
    HostFilter(state=("retired", "revoked")),
    HostFilter(group="web"),
    HostFilter(q=parse("db"), state=("pending", "online")),
    *(
        HostFilter(q=parse(text))
        for text in ("-web", "w*2,db* state:online,stale,retired", "-group:d*", "label:*", "is:drift")
    ),
    *(HostFilter(q=parse(text)) for text in ("-os:*", "agent:1", "is:basic,quarantined", "-is:maintenance group:web")),
)
TASK_FILTERS = (
    TaskFilter(),
    TaskFilter(state=("running",)),
    TaskFilter(state=("finished", "cancelling")),
    TaskFilter(state=("paused",)),
    TaskFilter(outcome="failed"),
    TaskFilter(actor="ada"),
    TaskFilter(hostname="web2", state=("running",)),
    TaskFilter(q="uptime"),
)


async def all_of(hosts_: HostReader, tasks_: TaskReader) -> dict[str, Any]:
    """Everything that can be asked; without where each page is as of, which a reader of now tells only roughly."""
    answers: dict[str, Any] = {"groups": await hosts_.groups()}
    for number, of_hosts in enumerate(HOST_FILTERS):
        page = await hosts_.page(of_hosts, cursor=None, limit=2)
        answers[f"hosts {number}"] = replace(page, as_of=Positions(0, 0))
        if page.next_cursor is not None:
            page = await hosts_.page(of_hosts, cursor=page.next_cursor, limit=100)
            answers[f"hosts {number}, the rest"] = replace(page, as_of=Positions(0, 0))
    for hostname in HOSTS:
        answers[hostname] = await hosts_.one(hostname)
        answers[f"usage {hostname}"] = await hosts_.usage(hostname, from_us=0, to_us=NOW_US, points=1000)
    for number, of_tasks in enumerate(TASK_FILTERS):
        some = await tasks_.page(of_tasks, cursor=None, limit=2)
        answers[f"tasks {number}"] = replace(some, as_of=Positions(0, 0))
        if some.next_cursor is not None:
            some = await tasks_.page(of_tasks, cursor=some.next_cursor, limit=100)
            answers[f"tasks {number}, the rest"] = replace(some, as_of=Positions(0, 0))
    for task_id in TASKS:
        answers[task_id] = (await tasks_.one(task_id), await tasks_.retries(task_id), await tasks_.outputs(task_id))
        for states, limit in (((), 2), (("queued", "succeeded"), 100)):
            executions = await tasks_.executions(task_id, states=states, cursor=None, limit=limit)
            answers[f"{task_id} {states}"] = replace(executions, as_of=Positions(0, 0))
            if executions.next_cursor is not None:
                executions = await tasks_.executions(task_id, states=states, cursor=executions.next_cursor, limit=limit)
                answers[f"{task_id} {states}, the rest"] = replace(executions, as_of=Positions(0, 0))
        for hostname in HOSTS[:3]:
            answers[f"{task_id} {hostname}"] = await tasks_.execution(task_id, hostname)
    return answers


class PastContract:
    @pytest.fixture
    async def shop(self, url: str) -> AsyncIterator[Shop]:
        async with migrated(url), a_shop(url, "one") as shop:
            yield shop

    @asynccontextmanager
    async def projecting(self, shop: Shop) -> AsyncIterator[None]:
        async with shop.projecting(HostsProjection, TasksProjection):
            yield

    async def live(self, shop: Shop, *events: Event) -> tuple[str, dict[str, Any]]:
        """The position after these events, and what is shown there."""
        for event in events:
            await shop.append(event.to_new_event())
        await shop.caught_up(HostsProjection, TasksProjection)
        heads = [(await shop.log.head(name)).seq for name in (EVENT, HEARTBEAT_EVENT)]
        return str(Positions(*heads)), await all_of(HostQueries(shop.database), TaskQueries(shop.database))

    async def moment(self, shop: Shop, at: str, *, now_us: int = NOW_US) -> tuple[str, int]:
        moment = await moment_of(shop.log, at, now_us=now_us)
        return str(moment.positions), moment.event_us

    async def then(self, shop: Shop, at: str) -> dict[str, Any]:
        past = Past(shop.database, shop.log, SystemClock())
        moment = await past.moment(at)
        return await all_of(past.hosts(moment, EVERYTHING), past.tasks(moment, EVERYTHING))

    @pytest.mark.parametrize("seed", range(2))
    async def test_what_is_told_of_a_moment_is_what_was_shown_then(self, shop: Shop, seed: int) -> None:
        life = list(Life(seed).events())
        shown: dict[str, dict[str, Any]] = {}
        async with self.projecting(shop):
            for start in range(0, len(life), 30):
                position, answers = await self.live(shop, *life[start : start + 30])
                shown[position] = answers
            for position, answers in shown.items():
                told = await self.then(shop, position)
                for question, answer in answers.items():
                    assert told[question] == answer, (position, question)

    async def test_a_moment_is_a_time_an_event_or_a_position(self, shop: Shop) -> None:
        for number in range(1, 4):
            await shop.append(a_registration(f"web{number}").to_new_event())
            await shop.append(hosts.HeartbeatReceived(message={**HEARTBEAT, "sequence": number}).to_new_event())
        events = await shop.log.read(EVENT, after=0)
        beats = await shop.log.read(HEARTBEAT_EVENT, after=0)
        second_us = events[1].recorded_us

        assert await self.moment(shop, "2") == ("e2.h1", second_us)
        assert await self.moment(shop, "e2.h3") == ("e2.h3", second_us)
        assert await self.moment(shop, "0") == await self.moment(shop, "e0.h0") == ("e0.h0", 0)
        assert await self.moment(shop, at(second_us)) == ("e2.h1", second_us)
        assert await self.moment(shop, at(second_us - 1)) == ("e1.h1", second_us - 1)
        last_us = beats[-1].recorded_us
        assert await self.moment(shop, at(last_us), now_us=last_us) == ("e3.h3", last_us)
        assert await self.moment(shop, "1971-01-01T00:00:00+01:00") == ("e0.h0", 365 * 86_400_000_000 - 3_600_000_000)

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("", "bad_at"),
            ("yesterday", "bad_at"),
            ("2026-01-31T10:42:07", "bad_at"),
            ("2026-02-31T10:42:07Z", "bad_at"),
            ("-1", "bad_at"),
            ("1" * 19, "bad_at"),
            ("e1", "bad_at"),
            ("e1.h1.x", "bad_at"),
            ("\u0661", "bad_at"),
            ("2", "not_yet"),
            ("e1.h1", "not_yet"),
            ("e2.h0", "not_yet"),
            ("9" * 18, "not_yet"),
            ("2026-01-31T10:42:07.000001Z", "not_yet"),
            ("9999-12-31T23:59:59-23:59", "not_yet"),
        ],
    )
    async def test_what_is_no_moment_is_told_apart_from_what_is_not_yet(self, shop: Shop, text: str, code: str) -> None:
        await shop.append(a_registration("web1").to_new_event())

        with pytest.raises(RefusedError) as refused:
            await moment_of(shop.log, text, now_us=micros_of("2026-01-31T10:42:07Z"))

        assert refused.value.code == code

    async def test_a_task_of_which_an_event_was_set_aside_is_told_as_it_was_shown(self, shop: Shop) -> None:
        async with self.projecting(shop):
            await self.live(shop, *(a_registration(hostname) for hostname in HOSTS))
            await shop.append(a_poisoned_event("t2"))
            broken = tasks.ExecutionStarted(hostname="db1", message={**ACCEPTED, "task_id": "t1"})
            sent = tasks.ExecutionSent(task_id="t1", hostname="web1", route="cmd.all")
            position, shown = await self.live(shop, a_task_accepted("t1", HOSTS), broken, sent)
            assert shown["t1"][0].counts == {"queued": 5}, "the second one waits for the first"

            assert await self.then(shop, position) == shown


class TestSqlitePast(PastContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


@pytest.mark.mysql
class TestMysqlPast(PastContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url
