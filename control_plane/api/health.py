"""Whether this process lives, whether it is ready, and what it counts."""

import asyncio
import logging
from typing import Annotated, Final, Literal, TypeAlias

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from control_plane.api.authentication import METRICS_PATH, Authenticator
from control_plane.api.fields import Answer, Time, at
from control_plane.api.routing import GuardedRoute
from control_plane.api.services import Given, Probe, Services
from control_plane.errors import StorageUnavailableError
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.observability import Metrics
from control_plane_wire.lifecycle import wait_for_any

log = logging.getLogger(__name__)

PERMISSION: Final = "projections.read"  # what the System page needs
PROBE_S: Final = 2.0
LOOK_S: Final = 5.0  # so much later at most a state is taken to have begun
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"

State: TypeAlias = Literal["ok", "warning", "failing"]  # a warning is for people: the process is ready

router = APIRouter(route_class=GuardedRoute, tags=["health"])


class Alive(Answer):
    status: Literal["ok"] = "ok"


class Check(Answer):
    """A part that is looked at.

    Attributes:
        since: since when it is in this state, as this process has seen.
        detail: what is wrong, for those who may see the System page; null for strangers.
    """

    name: str
    state: State
    since: Time
    detail: str | None


class Readiness(Answer):
    status: Literal["ready", "not_ready"]
    checks: list[Check] = Field(default_factory=list)


class Checks:
    """Runs the probes and remembers since when each has been in its state."""

    def __init__(self, services: Services) -> None:
        self._clock = services.clock
        self._probes = (Probe("database", self._database), *services.probes)
        self._services = services
        self._last: dict[str, Check] = {}

    async def _database(self) -> str | None:
        await self._services.log.head(EVENT)
        return None

    async def watch(self, stop: asyncio.Event) -> None:
        """Look by itself until `stop`, so that a state holds from when it began, and not from when somebody asked."""
        while not stop.is_set():
            await self.run()
            await wait_for_any(stop, timeout_s=LOOK_S)

    async def run(self) -> list[Check]:
        return list(await asyncio.gather(*(self._run(probe) for probe in self._probes)))

    async def _run(self, probe: Probe) -> Check:
        try:
            async with asyncio.timeout(PROBE_S):
                detail = await probe.check()
        except TimeoutError:
            detail = f"no answer within {PROBE_S:g} s"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is wrong
            detail = str(error) or type(error).__name__
        state: State = "ok" if detail is None else "warning" if probe.warns else "failing"
        last = self._last.get(probe.name)
        since = last.since if last is not None and last.state == state else at(self._clock.now_us())
        check = Check(name=probe.name, state=state, since=since, detail=detail)
        self._last[probe.name] = check
        if last is None or last.state != state:
            self._log(check, is_first=last is None)
        return check

    def _log(self, check: Check, *, is_first: bool) -> None:
        """A change, since who asks without credentials is not told what is wrong."""
        if check.state != "ok":
            log.warning("a check is not ok", extra={"check": check.name, "state": check.state, "reason": check.detail})
        elif not is_first:
            log.info("a check is ok again", extra={"check": check.name})


async def _checks(request: Request) -> Checks:
    checks: Checks = request.app.state.checks
    return checks


@router.get("/healthz")
async def healthz() -> Alive:
    """That the process answers, and nothing more."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(
    request: Request, services: Given, checks: Annotated[Checks, Depends(_checks)], response: Response
) -> Readiness:
    """Whether it can do its work just now: 503 where a check fails, with all of them by name.

    Anybody is told which part is in which state; what is wrong with it, who may see the read tables.
    """
    done = await checks.run()
    authenticator: Authenticator = request.app.state.authenticator
    principal = authenticator.known(request)
    if principal is None or PERMISSION not in services.authority.rules.permissions(principal):
        done = [check.model_copy(update={"detail": None}) for check in done]
    is_ready = all(check.state != "failing" for check in done)
    response.status_code = 200 if is_ready else 503
    return Readiness(status="ready" if is_ready else "not_ready", checks=done)


@router.get(METRICS_PATH, response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(services: Given) -> Response:
    """What this process has counted, and how the database was found just now or, while it is away, the last time."""
    up = services.metrics.gauge("control_plane_database_up", "1 where the database answers, else 0.")
    try:
        async with asyncio.timeout(PROBE_S):
            await _measure(services, services.metrics)
        up.set(1)
    except (StorageUnavailableError, TimeoutError):
        up.set(0)
    return Response(services.metrics.render(), media_type=PROMETHEUS)


async def _measure(services: Services, metrics: Metrics) -> None:
    """What is read from the database when somebody asks, since it belongs to no single process."""
    head = metrics.gauge("control_plane_log_head", "Seq of the last event.", "log")
    signed = metrics.gauge("control_plane_checkpoint_size", "Events that the newest checkpoint covers.", "log")
    for name in (EVENT, HEARTBEAT_EVENT):
        head.set((await services.log.head(name)).seq, log=name)
        newest = await services.checkpoints.newest(name)
        signed.set(newest.size if newest is not None else 0, log=name)
    room = metrics.gauge("control_plane_log_room_events", "Events until the last planned segment is full.", "log")
    for name, left in (await services.rooms()).items() if services.rooms else ():
        room.set(left, log=name)
    stopped = metrics.gauge("control_plane_stopped", "1 while nothing is sent to run, because somebody stopped it.")
    stopped.set(int(services.stop.state.standing is not None))
    quarantined = metrics.gauge("control_plane_hosts_quarantined", "Hosts that no commands go to.")
    quarantined.set(len(services.authority.fleet.quarantined()))
    lag = metrics.gauge("control_plane_projection_lag_seconds", "How far a read table is behind.", "projection")
    behind = metrics.gauge("control_plane_projection_lag_events", "Events that it has yet to fold.", "projection")
    parked = metrics.gauge("control_plane_projection_parked_events", "Events set aside as unreadable.", "projection")
    for state in await services.projection_queries.states():
        lag.set(state.lag_us / 1_000_000, projection=state.name)
        behind.set(state.lag_events, projection=state.name)
        parked.set(state.parked, projection=state.name)
