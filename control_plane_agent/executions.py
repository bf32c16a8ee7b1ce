"""The executions of this host: each is journalled, run at most once, and brought to an end that is told.

    accept ─▶ journal (fsync) ─▶ a free worker ─▶ executor ─▶ slot 1 in the journal ─▶ outbox

What is never to run, because it was refused, cancelled or has expired, comes to its end without a worker. What a start
finds in the journal goes the same way: `_next_step` looks how far an entry has come, and who comes back to it after a
crash of anything does no step a second time that may be done only once.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Final

from control_plane_agent.checks import admit, is_authentic
from control_plane_agent.disk_thread import DiskThread
from control_plane_agent.errors import JournalError
from control_plane_agent.executor import Executor
from control_plane_agent.identity import Identities
from control_plane_agent.journal import LIVE, Entry, Journal
from control_plane_agent.outbox import Outbox
from control_plane_agent.policy import Policy
from control_plane_agent.results import DISK_FULL, accepted_of, never_run
from control_plane_agent.slots import Finished, Started
from control_plane_wire.backoff import Backoff
from control_plane_wire.clock import Clock
from control_plane_wire.failpoints import Failpoints
from control_plane_wire.messages import CancelMessage, CommandMessage

WORKERS: Final = 5
MOST_WAITING: Final = 1000
ANNOUNCE_AFTER_S: Final = 0.5  # an execution that is over sooner says only its result
FIRST_RETRY_S: Final = 0.1  # after a supervisor that ended before it began
MOST_RETRY_S: Final = 5.0
EXPIRY_LOOK_S: Final = 1.0  # between looks whether something that waits for a worker has expired
PRUNE_S: Final = 600.0
DAMAGED: Final = "journal damaged"

log = logging.getLogger(__name__)


def _went_down(started: Started) -> str:
    reason = "its supervisor, or the machine, went down while it ran"
    return reason if started.cgroup else f"{reason}; without a cgroup, what is left was looked for by its environment"


class _Step(Enum):
    """What an entry needs next."""

    RUN = auto()
    WAIT = auto()
    NOTHING = auto()


class Executions:
    """The executions that are not told yet.

    Attributes:
        at_work: since when those that have a worker have it, by task_id, on the loop's clock.
        counters: what was found damaged, or came twice.
    """

    def __init__(
        self,
        journal: Journal,
        disk: DiskThread,
        executor: Executor,
        outbox: Outbox,
        identities: Identities,
        policy: Policy,
        clock: Clock,
        failpoints: Failpoints,
    ) -> None:
        self._journal = journal
        self._disk = disk
        self._executor = executor
        self._outbox = outbox
        self._identities = identities
        self._policy = policy
        self._clock = clock
        self._failpoints = failpoints
        self._tasks: asyncio.TaskGroup  # from `going_on` on
        self._open: set[asyncio.Task[None]] = set()
        self._has_stopped = False
        self._workers = asyncio.Semaphore(WORKERS)
        self._waiting: dict[str, asyncio.Timeout] = {}  # for a worker; whose limit is over is looked at again
        self._somebody_waits = asyncio.Event()
        self._damaged: set[str] = set()
        self.at_work: dict[str, float] = {}
        self._somebody_works = asyncio.Event()
        self.counters: Counter[str] = Counter()

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Inside this block executions are brought to their end, first what an earlier agent has left."""
        async with self._executor.running(), asyncio.TaskGroup() as self._tasks:
            for task_id in await self._disk.do(self._journal.live):
                self._start(task_id)
            if damaged := self._journal.damaged_refusals:
                self.counters["damaged_refusals"] += damaged
                log.error("reserve damaged", extra={"refusals": damaged})
            pruning = self._tasks.create_task(self._prune(), name="prune")
            watching = self._tasks.create_task(self._watch_expiry(), name="expiry")
            try:
                yield
            finally:
                self._has_stopped = True  # what is being journalled now is left to the next start
                for task in [pruning, watching, *self._open]:
                    task.cancel()  # commands go on without us, and are found again

    @property
    def running(self) -> int:
        """How many are being run now."""
        return len(self.at_work)

    async def until_at_work(self) -> None:
        """Return when one is being run."""
        while not self.at_work:
            self._somebody_works.clear()
            await self._somebody_works.wait()

    # --- from outside -------------------------------------------------------------------------------------------

    async def accept(self, command: CommandMessage, body: bytes, route: str) -> None:
        """Take a verified command that is not known yet; on return it is durable.

        Raises:
            JournalError: it could not be made durable.

        Cancellation: the caller stops waiting; what has been journalled is run all the same.
        """
        await self._wholly(self._accept(command, body, route))

    async def until_room(self) -> None:
        """Return when another command may be taken: until then the rest stays with the broker."""
        while len(self._open) >= MOST_WAITING:
            await asyncio.wait(self._open, return_when=asyncio.FIRST_COMPLETED)

    async def _wholly(self, step: Coroutine[None, None, None]) -> None:
        """Do a step to its end, also when the session that asked for it is lost meanwhile."""

        async def tried() -> JournalError | None:
            try:
                await step
            except JournalError as error:  # its asker's affair; raised in the group it would end all executions
                return error
            return None

        if failure := await asyncio.shield(self._tasks.create_task(tried())):
            raise failure

    async def _accept(self, command: CommandMessage, body: bytes, route: str) -> None:
        identity, policy, now_s = self._identities.current, self._policy, self._journal.now_s()
        # Not on the loop: where accounts come from a directory service, looking one up may take long.
        refused = await self._disk.do(admit, command, route=route, identity=identity, policy=policy, now_s=now_s)
        finished = None if refused is None else never_run(refused.outcome, refused.reason, self._clock.now_s())
        await self._disk.do(self._journal.accept, command.task_id, body, route, finished=finished)
        self._failpoints.hit("agent.journalled")
        if refused is None:
            self._start(command.task_id)
        else:
            log.warning("command refused", extra={"task_id": command.task_id, "reason": refused.reason})
            self._outbox.add_result(command.task_id)

    async def cancel(self, cancel: CancelMessage, body: bytes, route: str) -> None:
        """End an execution, or see to it that it never begins; its result is sent in any case.

        Raises:
            JournalError: the cancel of an unknown task could not be made durable.

        Cancellation: the caller stops waiting; the execution is ended all the same.
        """
        await self._wholly(self._cancel(cancel, body, route))

    async def _cancel(self, cancel: CancelMessage, body: bytes, route: str) -> None:
        task_id = cancel.task_id
        match self._journal.find(task_id):
            case None:
                finished = never_run("cancelled", "cancelled before it arrived", self._clock.now_s())
                await self._disk.do(self._journal.accept, task_id, body, route, finished=finished)
                self._outbox.add_result(task_id)
            case "journal":
                await self._disk.do(self._journal.request_cancel, task_id)
                self._failpoints.hit("agent.cancel_journalled")
                entry = await self._disk.do(self._journal.read, task_id)
                if entry.state.finished is not None:
                    self._outbox.add_result(task_id)
                elif entry.state.started is not None:
                    self._executor.wake(task_id, entry.state.started)
                else:
                    self._look_again(task_id)
            case "reserve":
                return  # it was refused, and said so
            case _:
                self._outbox.add_result(task_id)

    async def say_again(self, task_id: str) -> None:
        """Answer the copy of a known command with what is known of it."""
        self.counters["repeated_commands"] += 1
        if self._journal.find(task_id) == LIVE:
            entry = await self._disk.do(self._journal.read, task_id)
            if entry.state.finished is None:
                self._outbox.add_notice(accepted_of(entry, self._clock.now_s()))
                return
        self._outbox.add_result(task_id)

    # --- one execution ------------------------------------------------------------------------------------------

    def _start(self, task_id: str) -> None:
        if self._has_stopped:
            return
        task = self._tasks.create_task(self._bring_to_end(task_id), name=f"execution {task_id}")
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _bring_to_end(self, task_id: str) -> None:
        has_worker = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            announcing = group.create_task(self._announce(task_id, has_worker))
            if await self._got_worker(task_id):
                has_worker.set()
                self.at_work[task_id] = asyncio.get_running_loop().time()
                self._somebody_works.set()
                try:
                    await self._work(task_id)
                finally:
                    del self.at_work[task_id]
                    self._workers.release()
            announcing.cancel()
        self._outbox.add_result(task_id, is_damaged=task_id in self._damaged)

    async def _got_worker(self, task_id: str) -> bool:
        """Wait for a free worker; False where the entry has come to its end without one."""
        while self._workers.locked():
            try:
                async with asyncio.timeout(None) as self._waiting[task_id]:
                    self._somebody_waits.set()
                    if await self._step(task_id) is _Step.NOTHING:
                        return False
                    return await self._workers.acquire()
            except TimeoutError:
                continue
            finally:
                del self._waiting[task_id]
        return await self._workers.acquire()

    def _look_again(self, task_id: str) -> None:
        if (waiting := self._waiting.get(task_id)) is not None and not waiting.expired():
            waiting.reschedule(0)

    async def _watch_expiry(self) -> None:
        while True:
            await self._somebody_waits.wait()
            self._somebody_waits.clear()
            while self._waiting:
                await asyncio.sleep(EXPIRY_LOOK_S)  # and not until it is due: the clock may be set, the machine sleep
                for task_id in list(self._waiting):
                    if self._journal.start_within_s(task_id) < 0:
                        self._look_again(task_id)

    async def _work(self, task_id: str) -> None:
        """Return when slot 1 is written, by the execution's supervisor or by us."""
        backoff = Backoff(first_s=FIRST_RETRY_S, most_s=MOST_RETRY_S)
        has_tried = False
        while (step := await self._step(task_id)) is not _Step.NOTHING:
            if step is _Step.WAIT:
                await self._executor.wait(task_id)
                continue
            if has_tried:
                log.warning("not started, tried again", extra={"task_id": task_id})
                await asyncio.sleep(backoff.next_s())
            has_tried = True
            self._failpoints.hit("agent.before_start")
            await self._executor.run(task_id, start_within_s=self._journal.start_within_s(task_id))

    async def _step(self, task_id: str) -> _Step:
        """What an entry needs next; waits while the disk does not let us write its end down."""
        backoff = Backoff(first_s=FIRST_RETRY_S, most_s=MOST_RETRY_S)
        while True:
            try:
                return await self._disk.do(self._next_step, task_id)
            except (JournalError, OSError) as error:
                log.error("the journal fails", extra={"task_id": task_id, "reason": str(error)})  # noqa: TRY400
                await asyncio.sleep(backoff.next_s())

    def _next_step(self, task_id: str) -> _Step:
        """Look at an entry, and end it where it cannot run any more."""
        lock = self._journal.try_lock(task_id)
        if lock is None:
            return _Step.WAIT  # its supervisor lives, perhaps that of an earlier agent
        try:
            entry = self._journal.read(task_id)
            self._look_for_damage(entry)
            if entry.state.finished is not None:
                return _Step.NOTHING
            if (ended := self._why_it_cannot_run(entry)) is None:
                return _Step.RUN
            self._failpoints.hit("agent.before_finish")
            self._journal.finish(task_id, ended)
            self._failpoints.hit("agent.after_finish")
            return _Step.NOTHING
        finally:
            lock.release()

    def _why_it_cannot_run(self, entry: Entry) -> Finished | None:
        """Called with the entry's lock held, so no supervisor of it lives."""
        now_s, started = self._clock.now_s(), entry.state.started
        if started is not None:
            killed = self._executor.kill_left(started)
            reason = DAMAGED if entry.task_id in self._damaged else _went_down(started)
            return never_run("interrupted", reason, now_s)._replace(leftovers=killed or None)
        if entry.task_id in self._damaged:
            return never_run("interrupted", DAMAGED, now_s)
        if self._journal.is_reserved(entry.task_id):
            return never_run("rejected", DISK_FULL, now_s)  # as was answered when it came
        if entry.is_cancelled:
            return never_run("cancelled", "cancelled before it was started", now_s)
        if self._journal.start_within_s(entry.task_id) < 0:
            return never_run("expired", "expired before it could be started", now_s)
        return None

    def _look_for_damage(self, entry: Entry) -> None:
        """Whether it is what was written; where it is not it is reported, and then kept apart."""
        is_whole = is_authentic(entry.body, entry.route, self._identities.current) and not entry.state.is_damaged
        if not is_whole and entry.task_id not in self._damaged:
            self._damaged.add(entry.task_id)
            self.counters["damaged_entries"] += 1
            log.error("journal damaged", extra={"task_id": entry.task_id})

    async def _announce(self, task_id: str, has_worker: asyncio.Event) -> None:
        """Say that it is journalled, and when it runs that it does, unless it is over by then."""
        await asyncio.sleep(ANNOUNCE_AFTER_S)
        await self._notice(task_id)
        if not has_worker.is_set():
            await has_worker.wait()
            await asyncio.sleep(ANNOUNCE_AFTER_S)
            await self._notice(task_id)

    async def _notice(self, task_id: str) -> None:
        entry = await self._disk.do(self._journal.read, task_id)
        if entry.state.finished is None:
            self._outbox.add_notice(accepted_of(entry, self._clock.now_s()))

    async def _prune(self) -> None:
        while True:
            await self._disk.do(self._executor.sweep)
            try:
                await self._disk.do(self._journal.prune)
            except JournalError as error:
                log.warning("not pruned", extra={"reason": str(error)})
            await asyncio.sleep(PRUNE_S)
