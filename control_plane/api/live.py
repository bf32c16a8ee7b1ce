"""One follower a process feeds all the readers of the stream: each changed row is read once and serialised once."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final

from control_plane.api.changes import Changes, Places, host_row, seldom_of, usage_of
from control_plane.api.fields import MIN_SEQ_WAIT_S, at
from control_plane.api.frames import HOST, OUTPUT, Row, batch, frame, frames_of, output_end_frame, output_frame, row
from control_plane.api.problems import ProblemError
from control_plane.api.projections import projection_of
from control_plane.api.seen import rows_within, usage_within
from control_plane.api.services import Services, scope_of
from control_plane.commands.access import Principal
from control_plane.errors import StorageUnavailableError
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.projections.positions import Positions
from control_plane.projections.queries.hosts import HostView
from control_plane.projections.queries.scopes import Scope
from control_plane_wire.output import OutputMessage

_logger = logging.getLogger(__name__)

GATHER_S: Final = 0.1  # changes within this time go as one; the first one after a pause goes at once
TASKS: Final = "tasks"
POLL_S: Final = 0.25  # for projectors that run in another process
USAGE_S: Final = 2.0
PING_S: Final = 5.0
RETRY_S: Final = 1.0
MAX_BEHIND_BYTES: Final = 1024 * 1024
MAX_UNREAD_OUTPUT_BYTES: Final = 512 * 1024  # beyond that pieces are let go, and the reader stays
MAX_REPLAY_ROWS: Final = 20_000  # more than that is fetched anew sooner than replayed
MAX_OF_SESSION: Final = 5
MAX_OF_TOKEN: Final = 50
MAX_OF_USER: Final = 100  # however many sessions and tokens that is


def _resets(topics: frozenset[str]) -> list[bytes]:
    """What tells a reader to ask anew for all that it is shown."""
    return [frame("reset", {"topic": topic}) for topic in sorted(topics) if not topic.startswith(OUTPUT)]


def _frames(rows: Sequence[Row], usage: bytes | None, topics: frozenset[str]) -> list[bytes]:
    return frames_of(rows, topics) + ([usage] if usage is not None and "usage" in topics else [])


def _topics_of(readers: Iterable["Subscription"]) -> frozenset[str]:
    return frozenset().union(*(reader.topics for reader in readers))


class Subscription:
    """One reader, and what it still has to be sent: one that leaves too much of it unread is closed, and resumes.

    Attributes:
        scope: what it might be shown when that was looked at last.
        executions: whose output it is shown as it comes, by task_id and hostname.
    """

    def __init__(
        self,
        principal: Principal,
        scope: Scope,
        topics: frozenset[str],
        executions: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.principal = principal
        self.scope = scope
        self.topics = topics
        self.executions = executions
        self.is_closed = False
        self._waiting: deque[tuple[bytes, bool]] = deque()  # with whether it is output
        self._bytes = self._output_bytes = 0
        self._changed = asyncio.Event()

    def offer(self, chunks: Sequence[bytes]) -> None:
        """Take what has happened at once, however much that is, unless what came before it waits unread."""
        size_bytes = sum(map(len, chunks))
        if self._bytes and self._bytes + size_bytes > MAX_BEHIND_BYTES:
            self.close()
        if not self.is_closed:
            self._waiting.extend((chunk, False) for chunk in chunks)
            self._bytes += size_bytes
            self._changed.set()

    def offer_output(self, chunk: bytes) -> bool:
        """Take a piece of output, unless too much of that waits unread; whether it is taken."""
        if self.is_closed or self._output_bytes + len(chunk) > MAX_UNREAD_OUTPUT_BYTES:
            return False
        self._waiting.append((chunk, True))
        self._output_bytes += len(chunk)
        self._changed.set()
        return True

    def close(self) -> None:
        self.is_closed = True
        self._waiting.clear()
        self._changed.set()

    async def get(self) -> bytes | None:
        """The next chunk, None when it is closed."""
        while not self._waiting:
            if self.is_closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        chunk, is_output = self._waiting.popleft()
        if is_output:
            self._output_bytes -= len(chunk)
        else:
            self._bytes -= len(chunk)
        return chunk


class Live:
    name = "live"

    def __init__(self, services: Services, build: str) -> None:
        self._services = services
        self._build = build
        self._changes = Changes(services)
        self._subscriptions: set[Subscription] = set()
        self._joined: set[Subscription] = set()  # those who are told of rows: what was before, a replay tells them
        self._places: Places | None = None  # up to where these have been told; None while there are none
        self._seldom: dict[str, dict[str, object]] = {}  # what was last told of each host that few heartbeats change
        self._round = asyncio.Lock()  # who joins comes before or after a round: one that is under way is not for them
        self._ends_at = -1  # how far the tasks had come when it was last asked which executions have ended
        self._is_stopping = False
        self._open = services.metrics.gauge("control_plane_streams_open", "Event streams with a reader.")
        self._count = services.metrics.happenings()
        if services.live_output is not None:
            services.live_output.listen(self._tell_output)

    # --- readers ----------------------------------------------------------------------------------------------------

    def subscribe(
        self, principal: Principal, topics: frozenset[str], executions: frozenset[tuple[str, str]] = frozenset()
    ) -> Subscription:
        """A place for a reader, who has to `leave` it. Raises ProblemError where it has too many already.

        Args:
            executions: whose output it may see and is shown, by task_id and hostname.
        """
        if self._is_stopping:
            raise ProblemError(503, "stopping", "this server is stopping", headers={"Retry-After": "1"})
        by = (principal.session_sha256, principal.token_id)
        count = sum((s.principal.session_sha256, s.principal.token_id) == by for s in self._subscriptions)
        if count >= (MAX_OF_SESSION if principal.session_sha256 else MAX_OF_TOKEN):
            detail = "close other streams of this session first"
            raise ProblemError(429, "too_many_streams", detail, headers={"Retry-After": "5"})
        if sum(s.principal.username == principal.username for s in self._subscriptions) >= MAX_OF_USER:
            detail = "close other streams of this user first"
            raise ProblemError(429, "too_many_streams", detail, headers={"Retry-After": "5"})
        subscription = Subscription(principal, scope_of(self._services, principal), topics, executions)
        if self._services.live_output is not None:
            for execution in sorted(executions):
                for piece in self._services.live_output.latest(execution):
                    subscription.offer_output(output_frame(piece))
        self._subscriptions.add(subscription)
        self._ends_at = -1
        self._readers_changed()
        return subscription

    def leave(self, subscription: Subscription) -> None:
        subscription.close()
        self._subscriptions.discard(subscription)
        self._joined.discard(subscription)
        self._readers_changed()

    def _readers_changed(self) -> None:
        self._open.set(len(self._subscriptions))
        if self._services.live_output is not None:
            self._services.live_output.watch(self._executions)

    @property
    def _executions(self) -> frozenset[tuple[str, str]]:
        return frozenset().union(*(subscription.executions for subscription in self._subscriptions))

    async def chunks(self, subscription: Subscription, after: Positions | None) -> AsyncIterator[bytes]:
        """What a reader is sent: a ping at once, what it has missed, and then what changes."""
        goal = await self._join(subscription)  # first: what happens from the ping on comes in any case
        for chunk in batch([await self._ping()], None):
            yield chunk
        if after is not None:
            async for chunk in self._replay(subscription, after, goal):
                yield chunk
        while (news := await subscription.get()) is not None:
            yield news

    async def _join(self, subscription: Subscription) -> Places:
        """Have the follower tell this reader of what comes after these places, up to where a replay has to go."""
        async with self._round:
            if self._places is None:
                self._places = await self._changes.now()
            self._joined.add(subscription)
            return self._places

    async def _replay(self, subscription: Subscription, after: Positions, goal: Places) -> AsyncIterator[bytes]:
        topics, places = subscription.topics, Places.all_at(after)
        sees_all = subscription.scope.is_everything
        if not sees_all and not await self._services.hub.wait_for(TASKS, goal.audit, timeout_s=MIN_SEQ_WAIT_S):
            subscription.close()  # who may see the events of a task is not known yet: come again
        wants_usage = any(topic == "usage" or topic.startswith(HOST) for topic in topics)
        if not wants_usage:  # every host that was heard has a row of it, and this reader is shown none
            places = replace(places, usage=max(places.usage, goal.usage))
        head = await self._services.log.head(EVENT)
        count = 0
        is_gone = after.event > head.seq  # of another database, or of one that was put back
        while not is_gone and not subscription.is_closed:
            rows, places = await self._changes.rows(places, topics, keeps_to_tasks=not sees_all)
            usage: Sequence[HostView] = ()
            if wants_usage:
                usage, places = await self._changes.usage(places)
            own = [host_row(view, only_its_own=True) for view in usage]
            if rows:  # as the follower does: nobody tells of these rows again once the scope has come to them
                await self._services.authority.refresh()
            scope = scope_of(self._services, subscription.principal)
            shown, said = await self._shown([*rows, *own], usage, scope, {view.hostname for view in usage})
            for chunk in batch(_frames(shown, said, topics), places.lowest):
                yield chunk
            count += len(rows) + len(usage)
            if places.has_reached(goal):
                return
            is_gone = count > MAX_REPLAY_ROWS
        if is_gone:
            for chunk in batch(_resets(topics), goal.lowest):
                yield chunk

    async def _shown(
        self, rows: Sequence[Row], usage: Sequence[HostView], scope: Scope, others: Collection[str]
    ) -> tuple[Sequence[Row], bytes | None]:
        """What of it somebody may be shown who may see so much. `others`: the hosts that are other than was told."""
        seen = usage_within(usage, scope)
        said = frame("usage", [usage_of(view, is_other=view.hostname in others) for view in seen]) if seen else None
        return await rows_within(self._services, rows, scope), said

    # --- the follower -----------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Tell the readers what changes until `stop`, and then end their streams."""
        loop = asyncio.get_running_loop()
        usage_at = ping_at = 0.0
        try:
            while not stop.is_set():
                moves = self._services.hub.moves
                try:
                    self._look_at_scopes()
                    await self._tell_rows()
                    await self._tell_ends()
                    if loop.time() >= usage_at:
                        usage_at = loop.time() + USAGE_S
                        await self._tell_usage()
                    if loop.time() >= ping_at:
                        ping_at = loop.time() + PING_S
                        await self._tell_ping()
                except StorageUnavailableError:
                    self._ends_at = -1
                    _logger.warning("the stream waits for the database", exc_info=True)
                    await asyncio.sleep(RETRY_S)
                await asyncio.sleep(GATHER_S)
                await self._services.hub.wait_moved(after=moves, timeout_s=POLL_S)
        finally:
            self._is_stopping = True
            for subscription in self._subscriptions:
                subscription.close()

    async def _tell_rows(self) -> None:
        async with self._round:
            readers = list(self._joined)
            if not readers:
                self._places = None
            if self._places is None:
                return
            some_see_less = any(not reader.scope.is_everything for reader in readers)
            rows, reached = await self._changes.rows(self._places, _topics_of(readers), keeps_to_tasks=some_see_less)
            if rows:  # what has taken a host out of a scope, or its reader's role, is not shown there itself
                await self._services.authority.refresh()
                self._look_at_scopes()
            await self._tell(readers, reached, rows)

    async def _tell_usage(self) -> None:
        async with self._round:
            readers = list(self._joined)
            if self._places is None:
                return
            views, reached = await self._changes.usage(self._places)
            seldom = {view.hostname: seldom_of(view) for view in views}
            others = {name for name, said in seldom.items() if self._seldom.get(name) != said}
            own = [host_row(view, only_its_own=True) for view in views]
            await self._tell(readers, reached, own, views, others)
            self._seldom |= seldom  # only now, as with the places
            if "system" in _topics_of(readers):
                now_us = self._services.clock.now_us()
                states = await self._services.projection_queries.states()
                verified = self._services.here.verified
                shown = [projection_of(state, verified(state.name)) for state in states]
                made = [row("projections", now_us, each, "system") for each in shown]
                await self._tell(readers, reached, made)

    async def _tell(
        self,
        readers: Sequence[Subscription],
        reached: Places,
        rows: Sequence[Row],
        usage: Sequence[HostView] = (),
        others: Collection[str] = (),
    ) -> None:
        """Give every reader what is its own; readers of the same topics who may see the same share the bytes.

        Args:
            readers: those for whose topics it was read, and no others: to them its id would pass over rows.
        """
        scopes = {reader.scope for reader in readers}
        shown = {scope: await self._shown(rows, usage, scope, others) for scope in scopes}
        self._places = reached  # only now: without the database all of it is read again
        made: dict[tuple[frozenset[str], Scope], list[bytes]] = {}
        for reader in readers:
            kind = (reader.topics, reader.scope)
            if kind not in made:
                made[kind] = batch(_frames(*shown[reader.scope], reader.topics), reached.lowest)
            if made[kind]:
                reader.offer(made[kind])

    def _look_at_scopes(self) -> None:
        """See what each reader may see by now. Who may see less than before is to forget it, and ask anew.

        Whose session or token has ended, or whose role is another, is told nothing more.
        """
        for subscription in self._subscriptions:
            if not self._services.access.still_valid(subscription.principal):
                subscription.close()
                continue
            scope, before = scope_of(self._services, subscription.principal), subscription.scope
            subscription.scope = scope
            if scope.lacks(before):
                shown = {each for each in subscription.executions if scope.shows_output(each[1])}
                subscription.executions &= shown
                subscription.offer(batch(_resets(subscription.topics), None))
                self._readers_changed()

    async def _tell_ends(self) -> None:
        """Say which of the executions whose output somebody sees have ended: by then their results can be read."""
        executions, places = self._executions, self._places
        if not executions or places is None or places.tasks == self._ends_at:
            return
        self._ends_at = places.tasks
        for view in await self._services.task_queries.ended(executions):
            execution = (view.task_id, view.hostname)
            for subscription in self._subscriptions:
                if execution in subscription.executions:
                    subscription.executions -= {execution}
                    subscription.offer([output_end_frame(view)])
        self._readers_changed()

    def _tell_output(self, piece: OutputMessage) -> None:
        """Hand a piece on at once; a reader who does not keep up goes without it."""
        chunk, execution = output_frame(piece), (piece.task_id, piece.hostname)
        readers = [
            subscription
            for subscription in self._subscriptions
            if execution in subscription.executions
            and scope_of(self._services, subscription.principal).shows_output(piece.hostname)
        ]
        taken = sum(subscription.offer_output(chunk) for subscription in readers)
        self._count("live_output_dropped", len(readers) - taken)

    async def _tell_ping(self) -> None:
        """Say that all is well, but to nobody whose session or token has ended meanwhile."""
        if not self._subscriptions:
            return
        ping = batch([await self._ping()], None)
        await self._services.authority.refresh()
        self._look_at_scopes()
        for subscription in self._subscriptions:
            subscription.offer(ping)

    async def _ping(self) -> bytes:
        states = await self._services.projection_queries.states()
        return frame(
            "ping",
            {
                "now": at(self._services.clock.now_us()),
                "heads": {
                    "event": (await self._services.log.head(EVENT)).seq,
                    "heartbeat": (await self._services.log.head(HEARTBEAT_EVENT)).seq,
                },
                "lag": {
                    "events": max(state.lag_events for state in states),
                    "seconds": max(state.lag_us for state in states) / 1_000_000,
                },
                "build": self._build,
            },
        )
