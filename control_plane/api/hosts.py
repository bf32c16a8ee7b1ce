"""Hosts: what they are, how they are, and what an administrator changes about them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Self

from fastapi import Query
from pydantic import Field, StrictBool, StrictStr, model_validator

from control_plane.api.fields import (
    Answer,
    Cursor,
    FromTime,
    Hostname,
    HostTerms,
    Items,
    Limit,
    Line,
    Listing,
    Name,
    Request,
    Time,
    ToTime,
    at,
    one_of,
    public_key_of,
    time_of,
)
from control_plane.api.past import Hosts, OfHosts
from control_plane.api.routing import SENSITIVE, noun
from control_plane.api.services import Caller, Given
from control_plane.errors import NotFoundError
from control_plane.host_query import STATES, parse
from control_plane.projections.moments import micros_of
from control_plane.projections.queries.host_filters import HostFilter
from control_plane.projections.queries.hosts import HostView

PROJECTION: Final = "hosts"
DEFAULT_HISTORY_US: Final = 3600 * 1_000_000
Q: Final = """\
which hosts: terms that must all hold, as in `web state:offline,stale -group:db`. A term is a part of the hostname, or \
one of `name:`, `state:`, `group:`, `label:NAME`, `label:NAME=VALUE`, `os:`, `agent:` (what its version begins with) \
and `is:` (maintenance, drift, quarantined, basic). A comma is "or", a `-` in front is "not"; with `*` for any text in \
it, a value is the whole of what it is about"""

router = noun("/hosts", "hosts", permission="hosts.read")


class Quarantine(Answer):
    """Since when and why no commands go to a host: its disk went back in time, or two machines have its identity."""

    since: Time
    reason: str


class Host(Answer):
    """A host. `pos` and `usage_pos` say how new the row is; what was never heard is null.

    Attributes:
        groups, groups_bound: as assigned; as its last heartbeat has it. `drift`: where the two differ.
        basic: its agent knows only the required fields of the protocol.
        cpu_usage, memory_usage, disk_usage: fractions of 1.
        uptime: seconds.
        clock_ahead_s: by how many seconds its clock is ahead of the control plane's; negative where it is behind.
        exact_from: only with `at`, where the last heartbeat before that moment is not kept any more: what heartbeats
            say here is of the last change of presence, and from this time on it is exact.
    """

    hostname: str
    state: str
    state_since_at: Time
    state_cause: str | None
    last_heartbeat_at: Time | None
    cpu_usage: float | None
    memory_usage: float | None
    disk_usage: float | None
    load: Sequence[float] | None
    uptime: int | None
    running: int | None
    clock_ahead_s: int | None
    groups: Sequence[str]
    groups_bound: Sequence[str] | None
    drift: bool
    basic: bool
    labels: Mapping[str, str]
    maintenance: bool
    quarantine: Quarantine | None
    agent_version: str | None
    os: str | None
    kernel: str | None
    cpu_count: int | None
    memory_bytes: int | None
    addresses: Sequence[str] | None
    boot_id: str | None
    runs_as: str | None
    limits_missing: Sequence[str] | None
    key_id: str | None
    registered_at: Time
    pos: int
    usage_pos: int
    exact_from: Time | None = None


def quarantine_of(row: HostView) -> Quarantine | None:
    if row.quarantined_us is None:
        return None
    return Quarantine(since=at(row.quarantined_us), reason=row.quarantine_reason or "")


def host_of(row: HostView) -> Host:
    facts = row.facts
    return Host(
        hostname=row.hostname,
        state=row.state,
        state_since_at=at(row.state_since_us),
        state_cause=row.state_cause,
        last_heartbeat_at=time_of(row.last_heartbeat_us),
        cpu_usage=row.cpu_usage,
        memory_usage=row.memory_usage,
        disk_usage=facts.get("disk_usage"),
        load=facts.get("load"),
        uptime=facts.get("uptime"),
        running=facts.get("running"),
        clock_ahead_s=row.clock_ahead_s,
        groups=row.groups,
        groups_bound=row.groups_bound,
        drift=row.drift,
        basic=row.basic,
        labels=row.labels,
        maintenance=row.maintenance,
        quarantine=quarantine_of(row),
        agent_version=facts.get("agent_version"),
        os=facts.get("os"),
        kernel=facts.get("kernel"),
        cpu_count=facts.get("cpu_count"),
        memory_bytes=facts.get("memory_bytes"),
        addresses=facts.get("addresses"),
        boot_id=facts.get("boot_id"),
        runs_as=facts.get("runs_as"),
        limits_missing=facts.get("limits_missing"),
        key_id=row.key_id,
        registered_at=at(row.registered_us),
        pos=row.pos,
        usage_pos=row.usage_pos,
        exact_from=time_of(row.exact_from_us),
    )


class HostChange(Answer):
    """A change that is in the log as event `seq`; read with `min_seq` to see it."""

    hostname: str
    seq: int


class RegisterHost(Request):
    hostname: Name
    public_key: StrictStr = Field(max_length=64, description="base64 of the 32 raw bytes of an Ed25519 key")
    groups: list[Name] = Field(default=[], max_length=64)


class ChangeHost(Request):
    groups: Annotated[list[Name], Field(max_length=64)] | None = None
    labels: dict[Line, Line] | None = None
    maintenance: StrictBool | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.groups is None and self.labels is None and self.maintenance is None:
            raise ValueError("one of groups, labels and maintenance is needed")
        return self


class Reason(Request):
    reason: Line | None = None


class LiftQuarantine(Request):
    reason: Line


class UsagePoint(Answer):
    at: Time
    cpu_usage: float
    memory_usage: float


@router.get("")
async def list_hosts(
    hosts: Hosts,
    q: Annotated[HostTerms, Query(description=Q)] = "",
    state: Annotated[str | None, one_of(STATES), Query(description="one or several, with commas between them")] = None,
    group: Annotated[Name | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Listing[Host]:
    """By hostname; those that the caller may see.

    `counts` are by state, of all that match `q` and `group`. Retired ones are listed where `state` or `q` names that
    state.
    """
    wanted = HostFilter(q=parse(q), state=state.split(",") if state else (), group=group)
    page = await hosts.page(wanted, cursor=cursor, limit=limit)
    return Listing(
        items=[host_of(row) for row in page.items],
        next_cursor=page.next_cursor,
        total=page.total,
        counts=page.counts,
        as_of=str(page.as_of),
    )


@router.post("", status_code=201, dependencies=SENSITIVE)
async def register_host(services: Given, caller: Caller, body: RegisterHost) -> HostChange:
    """Register a host by the public key that its agent holds, without an enrolment."""
    key = public_key_of(body.public_key)
    seq = await services.hosts.register(caller, hostname=body.hostname, public_key=key, groups=body.groups)
    return HostChange(hostname=body.hostname, seq=seq)


@router.get("/{hostname}")
async def get_host(hosts: Hosts, then: OfHosts, hostname: Hostname) -> Host:
    """One host, with what it last said of itself."""
    row = await hosts.one(hostname)
    if row is None:
        detail = f"there is no host {hostname}" if then is None else f"there was no host {hostname} at that moment"
        raise NotFoundError("unknown_host", detail)
    return host_of(row)


@router.patch("/{hostname}")
async def change_host(services: Given, caller: Caller, hostname: Hostname, body: ChangeHost) -> HostChange:
    """Change what is given of it. Groups and labels are replaced as a whole."""
    seq = await services.hosts.change(
        caller, hostname, groups=body.groups, labels=body.labels, maintenance=body.maintenance
    )
    return HostChange(hostname=hostname, seq=seq)


@router.post("/{hostname}/revoke")
async def revoke_host(services: Given, caller: Caller, hostname: Hostname, body: Reason | None = None) -> HostChange:
    """Trust its key no more: no command goes to it, and none of its results count. It stays to be seen."""
    seq = await services.hosts.revoke(caller, hostname, body.reason if body else None)
    return HostChange(hostname=hostname, seq=seq)


@router.post("/{hostname}/lift-quarantine", dependencies=SENSITIVE)
async def lift_quarantine(services: Given, caller: Caller, hostname: Hostname, body: LiftQuarantine) -> HostChange:
    """Trust the machine again as it is now: what waits for it is sent."""
    seq = await services.hosts.lift_quarantine(caller, hostname, body.reason)
    return HostChange(hostname=hostname, seq=seq)


@router.delete("/{hostname}")
async def retire_host(services: Given, caller: Caller, hostname: Hostname) -> HostChange:
    """Take a host off the fleet; its history stays."""
    return HostChange(hostname=hostname, seq=await services.hosts.retire(caller, hostname, None))


@router.get("/{hostname}/heartbeats")
async def list_heartbeats(
    services: Given,
    hosts: Hosts,
    then: OfHosts,
    hostname: Hostname,
    from_: FromTime = None,
    to: ToTime = None,
    points: Annotated[int, Query(ge=1, le=2000)] = 300,
) -> Items[UsagePoint]:
    """The usages over time, oldest first, thinned; the last hour where no time is given."""
    now_us = services.clock.now_us() if then is None else max(then.event_us, then.heartbeat_us)
    to_us = micros_of(to) if to else now_us
    from_us = micros_of(from_) if from_ else to_us - DEFAULT_HISTORY_US
    found = await hosts.usage(hostname, from_us=from_us, to_us=to_us, points=points)
    return Items(
        items=[
            UsagePoint(at=at(usage.recorded_us), cpu_usage=usage.cpu_usage, memory_usage=usage.memory_usage)
            for usage in found
        ]
    )
