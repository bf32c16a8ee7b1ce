"""What read tables promise, on every database: they are the fold of the log, each event once, whatever fails."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from control_plane.cli import main
from control_plane.errors import FoldError, LeaseLostError, RefusedError, StorageUnavailableError
from control_plane.events import tasks
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT, LogName, NewEvent, StoredEvent
from control_plane.events.hosts import HeartbeatReceived
from control_plane.events.log import EventLog
from control_plane.projections.audit import AuditProjection
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.folding import UNFINISHED, create_tables
from control_plane.projections.hosts import HostsProjection
from control_plane.projections.hub import Hub
from control_plane.projections.projection import Projection
from control_plane.projections.projector import Projector
from control_plane.projections.queries.projections import ProjectionQueries
from control_plane.projections.rebuild import REBUILT, rebuild, retry_parked, roll_back
from control_plane.projections.tasks import TasksProjection
from control_plane.storage.engine import Database, open_database
from control_plane.storage.leases import Lease, Leases
from control_plane.storage.signing_key import KeyStore
from control_plane.storage.tables import follower, lease
from control_plane_wire.clock import SystemClock
from control_plane_wire.failpoints import NO_FAILPOINTS, Failpoints
from tests.support.database import an_event, migrated, sqlite_url
from tests.support.events import RESULT, a_task_accepted
from tests.support.history import HOSTS, Counting, a_poisoned_event, some_history

BOUND_S = 60


class Trap(Failpoints):
    """Does something at each hit of a failpoint, instead of ending the process."""

    def __init__(self, at: Mapping[str, Callable[[], None]]) -> None:
        super().__init__()
        self.at = at

    def hit(self, name: str) -> None:
        if name in self.at:
            self.at[name]()


class Gate(EventLog):
    """A log whose reader, once told to, stands still between what it has read and what it does with it."""

    is_shut = False

    def __init__(self, database: Database, **given: Any) -> None:
        super().__init__(database, **given)
        self.waits = asyncio.Event()
        self.opens = asyncio.Event()

    async def read(self, name: LogName, **given: Any) -> list[StoredEvent]:
        page = await super().read(name, **given)
        if self.is_shut and page:
            self.waits.set()
            await self.opens.wait()
        return page


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not await condition():
            await asyncio.sleep(0.01)


class Shop:
    """One process with one database: a log, a hub, leases of its own, and the projectors that a test starts in it."""

    def __init__(self, database: Database, log: EventLog, owner: str) -> None:
        self.database = database
        self.log = log
        self.hub = Hub(database)
        self.leases = Leases(database, owner=owner)

    @asynccontextmanager
    async def projecting(
        self, *projections: type[Projection], failpoints: Failpoints = NO_FAILPOINTS
    ) -> AsyncIterator[None]:
        """Run their projectors during the block."""
        stop = asyncio.Event()
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            for projection in projections:
                projector = Projector(
                    projection(), self.database, self.log, self.leases, self.hub, failpoints=failpoints
                )
                group.create_task(projector.run(stop))
            try:
                yield
            finally:
                stop.set()

    async def append(self, *events: NewEvent) -> int:
        return (await self.log.append(events))[-1].seq

    async def turns(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            for _, events in itertools.groupby(some_history(number), key=lambda event: event.log):
                await self.log.append(list(events))

    async def caught_up(self, *projections: type[Projection]) -> None:
        """Wait until all that is in the logs is folded, and what had to be written is committed."""
        for projection in projections:
            for name in projection.logs:
                head = (await self.log.head(name)).seq

                async def is_there(
                    projection: type[Projection] = projection, name: LogName = name, head: int = head
                ) -> bool:
                    position = await self.hub.position(projection.name)
                    return (position.event if name == EVENT else position.heartbeat) >= head

                await until(is_there)

    async def project(self, *projections: type[Projection]) -> None:
        """Fold all that is there, and end; as a new process would, which has been told nothing yet."""
        self.hub = Hub(self.database)
        async with self.projecting(*projections):
            await self.caught_up(*projections)

    async def rows(self, projection: Projection) -> dict[str, list[tuple[Any, ...]]]:
        async with self.database.read() as connection:
            return {
                table.name: [
                    tuple(row) for row in await connection.execute(select(table).order_by(*table.primary_key.columns))
                ]
                for table in projection.tables
            }

    async def follower(self, projection: type[Projection]) -> Any:
        async with self.database.read() as connection:
            return (await connection.execute(select(follower).where(follower.c.name == projection.name))).one_or_none()

    async def rebuilds_equal(self, *projections: type[Projection]) -> None:
        """Assert that a rebuild from zero gives what the live tables have."""
        for projection in projections:
            for compared in await rebuild(projection, self.database, self.log, then="drop"):
                assert compared.is_equal, compared
                assert compared.live.rows, f"{compared.name} is empty, so it proves nothing"

    async def steal_lease(self, projection: type[Projection]) -> None:
        """End a lease under its holder, as a clock would whose holder stands still for too long."""
        async with self.database.write() as connection:
            await connection.execute(
                update(lease).where(lease.c.name == f"projection:{projection.name}").values(until_us=0)
            )


@asynccontextmanager
async def a_shop(url: str, owner: str, log: type[EventLog] = EventLog) -> AsyncIterator[Shop]:
    async with open_database(url, pool_size=6) as database, log.open(database) as opened:
        yield Shop(database, opened, owner)


class ProjectionContract:
    @pytest.fixture
    async def shop(self, url: str) -> AsyncIterator[Shop]:
        async with migrated(url), a_shop(url, "one") as shop:
            yield shop

    # --- rows and position

    async def test_read_tables_are_the_fold_of_both_logs(self, shop: Shop) -> None:
        await shop.turns(0, 12)

        await shop.project(*PROJECTIONS)

        await shop.rebuilds_equal(*PROJECTIONS)

    async def test_a_failure_before_the_commit_leaves_neither_rows_nor_position(self, shop: Shop) -> None:
        await shop.turns(0, 0)
        await shop.project(HostsProjection)
        before = await shop.rows(HostsProjection()), await shop.follower(HostsProjection)
        await shop.turns(1, 3)

        with pytest.raises(ExceptionGroup):
            async with shop.projecting(HostsProjection, failpoints=Trap({"projector.before_commit": _fail})):
                await asyncio.Event().wait()

        rows, position = await shop.rows(HostsProjection()), await shop.follower(HostsProjection)
        assert rows == before[0]
        assert (position.event_seq, position.heartbeat_seq) == (before[1].event_seq, before[1].heartbeat_seq)
        await shop.project(HostsProjection)
        await shop.rebuilds_equal(HostsProjection)

    async def test_a_failure_after_the_commit_leaves_both_and_nothing_is_folded_twice(self, shop: Shop) -> None:
        await shop.turns(0, 3)

        with pytest.raises(ExceptionGroup):
            async with shop.projecting(Counting, failpoints=Trap({"projector.after_commit": _fail})):
                await asyncio.Event().wait()

        assert (await shop.follower(Counting)).event_seq == (await shop.log.head(EVENT)).seq
        assert len((await shop.rows(Counting()))["counted"]) == 3
        await shop.turns(4, 4)
        await shop.project(Counting)
        await shop.rebuilds_equal(Counting)

    async def test_a_lost_connection_at_any_step_folds_every_event_once(self, shop: Shop) -> None:
        failures = iter([True, False, True, True, False, False, True])

        def lose_sometimes() -> None:
            if next(failures, False):
                raise StorageUnavailableError("lost connection")

        trap = Trap(dict.fromkeys(("projector.before_commit", "projector.after_commit"), lose_sometimes))
        async with shop.projecting(Counting, failpoints=trap):
            for number in range(6):
                await shop.turns(number, number)
                await shop.caught_up(Counting)

        assert next(failures, None) is None
        await shop.rebuilds_equal(Counting)

    # --- two that would do the same

    async def test_who_lost_the_lease_between_reading_and_writing_writes_nothing(self, url: str, shop: Shop) -> None:
        await shop.turns(0, 2)
        async with a_shop(url, "slow", Gate) as slow:
            assert isinstance(slow.log, Gate)
            async with slow.projecting(Counting):
                await slow.caught_up(Counting)
                slow.log.is_shut = True
                await shop.turns(3, 4)
                await slow.log.waits.wait()
                await shop.steal_lease(Counting)
                await shop.project(Counting)
                taken = await shop.follower(Counting)
                slow.log.is_shut = False
                slow.log.opens.set()
                await shop.turns(5, 5)
                await slow.caught_up(Counting)

        await shop.rebuilds_equal(Counting)
        assert (await shop.follower(Counting)).epoch > taken.epoch, "it took over anew, and did not go on"

    async def test_projectors_that_steal_each_others_lease_fold_every_event_once(self, url: str, shop: Shop) -> None:
        everything = (*PROJECTIONS, Counting)
        await shop.turns(0, 0)
        async with (
            a_shop(url, "two") as other,
            shop.projecting(*everything),
            other.projecting(*everything),
        ):
            for number in range(1, 25):
                await shop.turns(number, number)
                await other.steal_lease(everything[number % len(everything)])
            await shop.caught_up(*everything)
            await other.caught_up(*everything)

        await shop.rebuilds_equal(*everything)

    # --- what a later release has written

    async def test_unknown_kinds_are_counted_and_skipped_but_for_the_audit_trail_which_shows_every_event(
        self, shop: Shop
    ) -> None:
        await shop.turns(0, 1)
        later = [
            await shop.append(an_event("t1", kind="task.blessed", hostname="web1")),
            await shop.append(replace(a_task_accepted("t7").to_new_event(), schema_v=99)),
        ]
        await shop.turns(2, 2)
        counts: Counter[str] = Counter()
        stop = asyncio.Event()

        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            for projection in PROJECTIONS:
                projector = Projector(
                    projection(),
                    shop.database,
                    shop.log,
                    shop.leases,
                    shop.hub,
                    count=lambda what, number: counts.update({what: number}),
                )
                group.create_task(projector.run(stop))
            await shop.caught_up(*PROJECTIONS)
            stop.set()

        # A new version of what it does not fold anyway is nothing to a projection.
        assert counts == {"unknown_kinds_skipped_by_hosts": 1, "unknown_kinds_skipped_by_tasks": 2}
        audit = {row[0]: row[2:] for row in (await shop.rows(AuditProjection()))["audit"]}
        assert audit[later[0]] == ("task.blessed", "user:ada", "t1", "web1", None)
        assert len(audit) == (await shop.log.head(EVENT)).seq
        assert [row[0] for row in (await shop.rows(TasksProjection()))["task"]] == ["t1", "t2"]
        await shop.rebuilds_equal(*PROJECTIONS)

    # --- poison

    async def test_a_poisoned_event_sets_aside_itself_and_the_later_ones_of_its_subject_and_the_rest_goes_on(
        self, shop: Shop
    ) -> None:
        await shop.turns(0, 1)
        poisoned = await shop.append(a_poisoned_event("bad"))
        beside = await shop.append(tasks.TaskCancelRequested(task_id="bad", actor="ada").to_new_event())
        projector = Projector(TasksProjection(), shop.database, shop.log, shop.leases, shop.hub)

        async with shop.projecting(TasksProjection):
            await shop.caught_up(TasksProjection)
            later = await shop.append(
                tasks.ExecutionSent(task_id="bad", hostname="web1", route="cmd.all").to_new_event()
            )
            await shop.turns(2, 2)
            await shop.caught_up(TasksProjection)

        [first, *others] = await self.parked(shop, projector)
        assert first == (poisoned, "bad", f"event {poisoned}: MalformedMessageError: task_id is missing")
        assert others == [(seq, "bad", "waits for an earlier event of the same subject") for seq in (beside, later)]
        assert [row[0] for row in (await shop.rows(TasksProjection()))["task"]] == ["t1", "t2"]
        assert (await shop.follower(TasksProjection)).event_seq == (await shop.log.head(EVENT)).seq

        after_restart = await shop.append(
            tasks.ExecutionFinished(hostname="web1", message={**RESULT, "task_id": "bad"}).to_new_event()
        )
        await shop.turns(3, 3)
        await shop.project(TasksProjection)

        assert [seq for seq, _, _ in await self.parked(shop, projector)] == [poisoned, beside, later, after_restart]
        assert [row[0] for row in (await shop.rows(TasksProjection()))["task"]] == ["t1", "t2", "t3"]

    async def test_an_event_of_which_not_even_the_row_can_be_told_is_set_aside_too(self, shop: Shop) -> None:
        await shop.turns(0, 1)
        bad = an_event("x", log=HEARTBEAT_EVENT, kind=HeartbeatReceived.KIND)  # its body names no host
        seq = await shop.append(bad)
        await shop.turns(2, 2)

        await shop.project(HostsProjection)

        projector = Projector(HostsProjection(), shop.database, shop.log, shop.leases, shop.hub)
        assert [row[:2] for row in await self.parked(shop, projector)] == [(seq, "x")]

    @staticmethod
    async def parked(shop: Shop, projector: Projector) -> list[tuple[Any, ...]]:
        table = projector.projection.parked
        async with shop.database.read() as connection:
            found = await connection.execute(select(table.c.seq, table.c.subject, table.c.reason).order_by(table.c.seq))
            return [tuple(row) for row in found]

    async def test_a_rebuild_sets_nothing_aside_and_stops(self, shop: Shop) -> None:
        await shop.turns(0, 1)
        poisoned = await shop.append(a_poisoned_event("bad"))
        await shop.project(TasksProjection)

        with pytest.raises(FoldError) as stopped:
            await rebuild(TasksProjection, shop.database, shop.log, then="switch")

        assert stopped.value.seq == poisoned
        assert len((await shop.rows(TasksProjection()))["task"]) == 1

    # --- rebuilds

    async def test_a_rebuild_equals_the_live_tables_while_events_go_on_arriving(self, shop: Shop) -> None:
        is_over = asyncio.Event()

        async def arrive() -> None:
            number = 2
            while not is_over.is_set():
                await shop.turns(number, number)
                number += 1

        await shop.turns(0, 1)
        async with shop.projecting(*PROJECTIONS), asyncio.TaskGroup() as group:
            await shop.caught_up(*PROJECTIONS)
            group.create_task(arrive())
            try:
                for _ in range(3):
                    await shop.rebuilds_equal(*PROJECTIONS)
            finally:
                is_over.set()

    async def test_a_row_that_somebody_changed_is_found_and_mended(self, shop: Shop) -> None:
        await shop.turns(0, 3)
        await shop.project(TasksProjection)
        good = await shop.rows(TasksProjection())
        await self.corrupt(shop)

        [task, execution, online] = await rebuild(TasksProjection, shop.database, shop.log, then="drop")
        assert (task.is_equal, execution.is_equal, online.is_equal) == (False, True, True)
        assert task.live.rows == task.rebuilt.rows == 3
        [difference] = task.differences
        assert (difference.key, dict(difference.columns)) == (("t2",), {"actor": ("mallory", "ada")})
        assert await shop.rows(TasksProjection()) != good, "to compare is not to mend"

        await rebuild(TasksProjection, shop.database, shop.log, then="switch")
        assert await shop.rows(TasksProjection()) == good
        await shop.rebuilds_equal(TasksProjection)

    async def test_a_row_that_differs_in_no_more_than_how_a_number_is_written_is_shown(self, shop: Shop) -> None:
        await shop.turns(0, 1)
        await shop.project(TasksProjection)
        table = TasksProjection().task
        async with shop.database.write() as connection:
            counts = await connection.scalar(select(table.c.counts))
            await connection.execute(update(table).values(counts={state: float(counts[state]) for state in counts}))

        task = (await rebuild(TasksProjection, shop.database, shop.log, then="drop"))[0]

        assert not task.is_equal
        assert [set(difference.columns) for difference in task.differences] == [{"counts"}]

    async def test_a_projector_that_is_running_does_not_write_back_what_a_rebuild_has_mended(self, shop: Shop) -> None:
        await shop.turns(0, 2)
        await shop.project(TasksProjection)
        await self.corrupt(shop)
        async with shop.projecting(TasksProjection):
            # A word of t2 makes the projector load the row as it stands, and remember it.
            await shop.append(tasks.ExecutionSent(task_id="t2", hostname=HOSTS[1], route="cmd.all").to_new_event())
            await shop.caught_up(TasksProjection)

            await rebuild(TasksProjection, shop.database, shop.log, then="switch")

            await shop.append(
                tasks.ExecutionFinished(hostname=HOSTS[1], message={**RESULT, "task_id": "t2"}).to_new_event()
            )
            await shop.caught_up(TasksProjection)
            await shop.rebuilds_equal(TasksProjection)

    @staticmethod
    async def corrupt(shop: Shop) -> None:
        table = TasksProjection().task
        async with shop.database.write() as connection:
            await connection.execute(update(table).where(table.c.task_id == "t2").values(actor="mallory"))

    async def test_rebuilds_that_switch_while_events_arrive_lose_none_and_fold_none_twice(self, shop: Shop) -> None:
        await shop.turns(0, 1)
        async with shop.projecting(Counting, HostsProjection):
            await shop.caught_up(Counting, HostsProjection)
            for number in range(2, 14):
                async with asyncio.TaskGroup() as group:
                    group.create_task(shop.turns(number, number))
                    group.create_task(rebuild(Counting, shop.database, shop.log, then="switch"))
                    group.create_task(rebuild(HostsProjection, shop.database, shop.log, then="switch"))
            await shop.caught_up(Counting, HostsProjection)

        await shop.rebuilds_equal(Counting, HostsProjection)

    async def test_after_a_rebuild_with_a_mended_fold_nothing_is_set_aside_any_more(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Counting, "cannot_fold", frozenset({tasks.ExecutionSent.KIND}))
        await shop.turns(0, 2)
        async with shop.projecting(Counting):
            await shop.caught_up(Counting)
            projector = Projector(Counting(), shop.database, shop.log, shop.leases, shop.hub)
            assert {subject for _, subject, _ in await self.parked(shop, projector)} == {"t1", "t2"}

            monkeypatch.setattr(Counting, "cannot_fold", frozenset())
            await rebuild(Counting, shop.database, shop.log, then="switch")
            cancel = tasks.TaskCancelRequested(task_id="t1", actor="ada")
            await shop.append(cancel.to_new_event())
            await shop.caught_up(Counting)

        assert await self.parked(shop, projector) == []
        await shop.rebuilds_equal(Counting)

    async def test_a_rebuild_beside_another_one_is_refused(self, shop: Shop) -> None:
        await shop.turns(0, 2)
        await shop.project(Counting)
        other = Leases(shop.database, owner="another rebuild")
        taken = await other.acquire(Counting(REBUILT).lease)
        assert taken is not None

        with pytest.raises(RefusedError) as refused:
            await rebuild(Counting, shop.database, shop.log, then="switch")
        assert refused.value.code == "rebuild_running"

        await other.release(taken)
        await shop.rebuilds_equal(Counting)
        await shop.rebuilds_equal(Counting)

    async def test_a_rebuild_whose_tables_another_one_has_taken_ends_and_changes_nothing(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await shop.turns(0, 2)
        await shop.project(Counting)
        before = await shop.rows(Counting())

        async def lost(_: Leases, lease: Lease) -> None:
            raise LeaseLostError(lease.name)

        with monkeypatch.context() as patched:
            patched.setattr("control_plane.storage.leases.RENEWAL_S", 0)
            patched.setattr(Leases, "renew", lost)
            with pytest.raises(LeaseLostError):
                await rebuild(Counting, shop.database, shop.log, then="switch")

        assert await shop.rows(Counting()) == before

    async def test_a_rebuild_that_was_stopped_is_gone_on_with_where_that_is_asked_for(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("control_plane.projections.folding.BULK_PAGE", 3)
        monkeypatch.setattr("control_plane.projections.folding.BULK_EVENTS", 3)
        await shop.turns(0, 4)
        await shop.project(Counting)
        told: list[int] = []
        with monkeypatch.context() as patched:
            patched.setattr(Counting, "cannot_fold", frozenset({tasks.ExecutionLost.KIND}))
            with pytest.raises(FoldError):
                await rebuild(
                    Counting, shop.database, shop.log, then="switch", progress=lambda done, _: told.append(done)
                )
        reached = told[-1]

        [compared] = await rebuild(
            Counting, shop.database, shop.log, then="switch", resume=True, progress=lambda done, _: told.append(done)
        )

        assert compared.is_equal
        assert told == sorted(told)
        assert told.count(reached) == 1
        await shop.rebuilds_equal(Counting)

    async def test_the_tables_from_before_a_switch_are_brought_up_to_date_and_put_back(self, shop: Shop) -> None:
        await shop.turns(0, 2)
        await shop.project(TasksProjection)
        with pytest.raises(RefusedError, match="nothing_to_roll_back"):
            await roll_back(TasksProjection, shop.database, shop.log)
        await self.corrupt(shop)
        async with shop.projecting(TasksProjection):
            await rebuild(TasksProjection, shop.database, shop.log, then="switch")
            await shop.turns(3, 3)
            await shop.caught_up(TasksProjection)

            for actor in ("mallory", "ada", "mallory"):
                await roll_back(TasksProjection, shop.database, shop.log)
                await shop.turns(4, 4)
                await shop.caught_up(TasksProjection)
                rows = (await shop.rows(TasksProjection()))["task"]
                assert [row[0] for row in rows] == ["t1", "t2", "t3", "t4"]
                assert actor in rows[1]

            await rebuild(TasksProjection, shop.database, shop.log, then="switch")
            await shop.caught_up(TasksProjection)
        await shop.rebuilds_equal(TasksProjection)

    async def test_what_was_set_aside_is_folded_when_it_is_tried_again_and_can_be(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Counting, "cannot_fold", frozenset({tasks.ExecutionSent.KIND}))
            await shop.turns(0, 2)
            bad = await shop.append(a_poisoned_event("bad"))
            await shop.project(Counting)
            projector = Projector(Counting(), shop.database, shop.log, shop.leases, shop.hub)
            aside = len(await self.parked(shop, projector))
            assert await retry_parked(Counting, shop.database, shop.log) == (0, aside)

        async with shop.projecting(Counting):
            assert await retry_parked(Counting, shop.database, shop.log) == (aside - 1, 1)
            await shop.turns(3, 3)
            await shop.caught_up(Counting)

        assert [seq for seq, _, _ in await self.parked(shop, projector)] == [bad]
        rows = (await shop.rows(Counting()))["counted"]
        assert [(task_id, events) for task_id, events, _ in rows] == [("t1", 6), ("t2", 6), ("t3", 6)]

    async def test_what_a_rebuild_that_was_killed_has_left_does_not_get_into_the_next_one(self, shop: Shop) -> None:
        await shop.turns(0, 2)
        await shop.project(Counting)
        left = Counting(REBUILT)
        await create_tables(shop.database, left)
        async with shop.database.write() as connection:
            await connection.execute(left.counted.insert().values(task_id="left", events=1, seqs=""))

        await shop.rebuilds_equal(Counting)

    async def test_the_progress_of_a_rebuild_counts_all_events_of_its_logs(self, shop: Shop) -> None:
        await shop.turns(0, 9)
        await shop.project(HostsProjection)
        told: list[tuple[int, int]] = []

        await rebuild(
            HostsProjection,
            shop.database,
            shop.log,
            then="drop",
            progress=lambda done, total: told.append((done, total)),
        )

        saved = await shop.follower(HostsProjection)
        total = saved.event_seq + saved.heartbeat_seq
        assert told[-1] == (total, total)
        assert [done for done, _ in told] == sorted(done for done, _ in told)

    async def test_a_new_version_is_made_from_zero(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        await shop.turns(0, 2)
        await shop.project(Counting)
        async with shop.database.write() as connection:
            await connection.execute(update(Counting().counted).values(events=1000))

        await shop.project(Counting)
        assert {row[1] for row in (await shop.rows(Counting()))["counted"]} == {1000}, "the same version goes on"

        monkeypatch.setattr(Counting, "version", 2)
        shop.hub = Hub(shop.database)  # the old one was told how far the old version has come

        async def is_new() -> bool:
            return bool((await shop.follower(Counting)).version == 2)

        shop.hub = Hub(shop.database)  # what the release before was told is nothing to the new one
        async with shop.projecting(Counting):
            await until(is_new)
            await shop.caught_up(Counting)
        await shop.rebuilds_equal(Counting)

    async def test_a_new_version_that_was_made_beforehand_is_taken_as_it_is_and_goes_on(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await shop.turns(0, 2)
        async with shop.projecting(Counting):
            await shop.caught_up(Counting)
            with monkeypatch.context() as patched:
                patched.setattr(Counting, "version", 2)
                with pytest.raises(RefusedError, match="other_version"):
                    await rebuild(Counting, shop.database, shop.log, then="switch")
                assert await rebuild(Counting, shop.database, shop.log, then="keep") == []
            await shop.turns(3, 3)  # the old release goes on
            await shop.caught_up(Counting)
        async with shop.database.write() as connection:  # what shows that it is not made from zero once more
            await connection.execute(update(Counting(REBUILT).counted).values(seqs="made beforehand"))

        monkeypatch.setattr(Counting, "version", 2)

        async def is_new() -> bool:
            return bool((await shop.follower(Counting)).version == 2)

        async with shop.projecting(Counting):
            await until(is_new)
            await shop.caught_up(Counting)
        rows = (await shop.rows(Counting()))["counted"]
        assert [row[0] for row in rows] == ["t1", "t2", "t3"]
        assert [row[2] for row in rows[:2]] == ["made beforehand"] * 2
        assert len((await shop.rows(Counting("_old")))["counted_old"]) == 3

    async def test_a_new_version_that_dies_while_it_makes_its_tables_shows_no_position_and_is_made_again(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await shop.turns(0, 2)
        await shop.project(Counting)
        monkeypatch.setattr(Counting, "version", 2)

        with monkeypatch.context() as patched:
            patched.setattr(shop.database.dialect, "create_read_table", _fail)
            with pytest.raises(ExceptionGroup):
                await shop.project(Counting)

        left = await shop.follower(Counting)
        assert (left.event_seq, left.version) == (0, UNFINISHED)
        await shop.project(Counting)
        await shop.rebuilds_equal(Counting)

    async def test_tables_without_a_position_are_emptied_and_made_from_zero(self, shop: Shop) -> None:
        await shop.turns(0, 2)
        await shop.project(Counting)
        async with shop.database.write() as connection:
            await connection.execute(follower.delete().where(follower.c.name == Counting.name))

        await shop.project(Counting)

        await shop.rebuilds_equal(Counting)

    def test_verify_on_the_command_line_says_what_differs_and_rebuild_mends_it(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("CONTROL_PLANE_DATABASE_URL", url)
        monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path / "state"))
        KeyStore(tmp_path / "state").create()

        async def prepare() -> None:
            async with migrated(url), a_shop(url, "one") as shop:
                await shop.turns(0, 3)
                await shop.project(*PROJECTIONS)
                await self.corrupt(shop)

        asyncio.run(prepare())

        assert main(["projections", "verify"]) == 1
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert {line[1] for line in lines if "differs" in line} == {"task"}
        assert {line[1] for line in lines if "equal" in line} == {
            "host",
            "host_history",
            "host_usage",
            "execution",
            "task_host",
            "audit",
        }
        assert main(["projections", "verify", "hosts"]) == 0
        assert main(["projections", "rebuild", "tasks"]) == 0
        assert main(["projections", "verify"]) == 0
        capsys.readouterr()
        assert main(["projections", "verify", "nothing"]) == 1
        assert "there are hosts, tasks, audit" in capsys.readouterr().err

    def test_before_anything_is_folded_verify_and_rebuild_say_so_in_one_line(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("CONTROL_PLANE_DATABASE_URL", url)
        monkeypatch.setenv("CONTROL_PLANE_STATE_DIR", str(tmp_path / "state"))
        KeyStore(tmp_path / "state").create()

        async def migrate() -> None:
            async with migrated(url):
                pass

        asyncio.run(migrate())

        for action in ("verify", "rebuild"):
            assert main(["projections", action]) == 1
            [line] = capsys.readouterr().err.splitlines()
            assert line.startswith("control-plane: not_folded: hosts has not been folded yet")

    # --- those who wait

    async def test_who_waits_for_an_event_reads_rows_that_have_it(self, url: str, shop: Shop) -> None:
        async with a_shop(url, "two") as other, shop.projecting(TasksProjection):
            for reader in (shop, other):  # in the projector's process, and in another
                number = 1 if reader is shop else 2
                await shop.turns(number, number)
                seq = (await shop.log.head(EVENT)).seq

                assert await reader.hub.wait_for(TasksProjection.name, seq, timeout_s=BOUND_S)

                rows = (await reader.rows(TasksProjection()))["task"]
                assert f"t{number}" in {row[0] for row in rows}

    async def test_who_waits_for_an_event_that_is_not_folded_is_told_so_in_the_end(self, shop: Shop) -> None:
        await shop.turns(0, 1)
        await shop.project(TasksProjection)
        head = (await shop.log.head(EVENT)).seq

        assert await shop.hub.wait_for(TasksProjection.name, head, timeout_s=0.01)
        assert not await shop.hub.wait_for(TasksProjection.name, head + 1, timeout_s=0.01)
        assert not await shop.hub.wait_for(TasksProjection.name, head, heartbeat_seq=1, timeout_s=0.01)
        assert not await Hub(shop.database).wait_for("no-such-projection", 1, timeout_s=0.01)

    async def test_the_state_of_a_projection_is_told(self, shop: Shop) -> None:
        queries = ProjectionQueries(shop.database, shop.log, shop.hub, SystemClock())
        assert {state.state for state in await queries.states()} == {"missing"}

        await shop.turns(0, 1)
        bad = await shop.append(a_poisoned_event("bad"))
        async with shop.projecting(*PROJECTIONS):
            await shop.caught_up(*PROJECTIONS)
            for state in await queries.states():
                parked = 0 if state.name == HostsProjection.name else 1  # it does not fold tasks' events
                assert (state.state, state.owner, state.parked) == ("live", "one", parked), state
                assert (state.lag_events, state.lag_us, state.head.event) == (0, 0, bad)

        await shop.turns(2, 2)
        for state in await queries.states():
            assert (state.state, state.owner) == ("stopped", None)
            assert state.lag_events > 0
            assert state.lag_us > 0


def _fail(*_: object) -> None:
    raise ZeroDivisionError


class TestSqliteProjections(ProjectionContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


@pytest.mark.mysql
class TestMysqlProjections(ProjectionContract):
    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url
